//! The public key by which root gets into a new VPS.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::fault::VpsFault;
use crate::cli::failure::Failure;
use crate::limits::SSH_KEY_BYTES_MAX;
use crate::model::vps::PublicKey;

/// In `~/.ssh`, in the order in which one is taken.
const NAMES: [&str; 5] =
    ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub", "id_ed25519_sk.pub", "id_ecdsa_sk.pub"];

/// A key and the file that it is from.
#[derive(Debug)]
pub struct FoundKey {
    pub key: PublicKey,
    pub path: PathBuf,
}

/// The key in this file.
///
/// # Errors
/// It can't be read or holds something else.
pub fn read(path: &Path) -> Result<FoundKey, Failure> {
    let mut text = String::new();
    // One byte more than a key may have tells one that is too long.
    File::open(path)
        .and_then(|file| file.take(SSH_KEY_BYTES_MAX as u64 + 1).read_to_string(&mut text))
        .map_err(|source| Failure::Unreadable { path: path.into(), source })?;
    match PublicKey::parse(&text) {
        Ok(key) => Ok(FoundKey { key, path: path.into() }),
        Err(fault) => Err(VpsFault::BadKey { path: path.into(), fault }.into()),
    }
}

/// The user's own.
///
/// # Errors
/// There is none, or the first is not usable.
pub fn own(home: Option<&Path>) -> Result<FoundKey, Failure> {
    let files: Vec<PathBuf> =
        home.iter().flat_map(|home| NAMES.map(|name| home.join(".ssh").join(name))).collect();
    for file in &files {
        match read(file) {
            Err(Failure::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            }
            found => return found,
        }
    }
    Err(VpsFault::NoKey(files).into())
}

#[cfg(test)]
mod test {
    use std::fs;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKrDTWAmNWDHwoCTMEcmZxWjkh1jtN3TlCqGTFhnTA";

    #[test]
    fn newest_kind_of_ones_own_keys_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let none = own(Some(home.path())).unwrap_err().to_string();
        assert!(none.contains("/.ssh/id_ed25519.pub, "), "{none}");
        assert!(none.contains("--ssh-key") && none.contains("--no-ssh"), "{none}");
        fs::create_dir(home.path().join(".ssh")).unwrap();
        for (name, comment) in [("id_rsa.pub", "second"), ("id_ecdsa.pub", "first")] {
            fs::write(home.path().join(".ssh").join(name), format!("{KEY} {comment}\n")).unwrap();
        }
        assert!(own(Some(home.path())).unwrap().key.as_str().ends_with(" first"));
    }

    #[test]
    fn private_key_is_refused_by_its_name() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("id_ed25519");
        fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
        let said = read(&file).unwrap_err().to_string();
        assert!(said.contains("id_ed25519: is no public key"), "{said}");
    }

    #[test]
    fn file_without_an_end_is_no_key() {
        let said = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(said.contains("/dev/zero: is no public key"), "{said}");
    }
}
