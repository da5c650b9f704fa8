//! Randomness for secrets, from the kernel.

use std::fs::File;
use std::io::{self, Read};

/// 128 random bits as 32 hexadecimal digits.
///
/// # Errors
/// `/dev/urandom` can't be read: the machine is broken, and a guessable secret is worse than none.
pub fn hex_128() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn two_secrets_differ_and_are_full_length() {
        let (one, two) = (hex_128().unwrap(), hex_128().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
