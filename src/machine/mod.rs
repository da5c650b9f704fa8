//! This machine as the kernel shows it: what it is made of, how busy it is, where it is reached.
//! `app` reads it at start, the heartbeat while running. Reads small kernel files and asks system
//! calls that answer at once (but see [`disk`]); changes nothing but the calling thread's CPUs.

pub mod addresses;
pub mod disk;
pub mod first_writes;
pub mod identity;
pub mod kernel_log;
pub mod pin;
pub mod process;
pub mod process_session;
pub mod random;
pub mod root;
pub mod topology;
pub mod tree_watch;
pub mod usage;
pub mod window;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::limits::KERNEL_FILE_BYTES_MAX;

/// The name the kernel has for this machine; bytes outside UTF-8 are replaced.
///
/// # Errors
/// The kernel refused (it has no reason to).
pub fn hostname() -> io::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}

/// A small file of sysfs or procfs; one without valid UTF-8 or beyond the bound is an error.
fn kernel_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(KERNEL_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > KERNEL_FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// The numbers N of the entries `<prefix>N<suffix>` in `dir`, ascending; none if it can't be read.
fn numbered(dir: &Path, prefix: &str, suffix: &str) -> Vec<u16> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let number = |name: &str| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
    let mut numbers: Vec<u16> =
        entries.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn hostname_of_this_machine_is_the_kernels() {
        let kernels = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(hostname().unwrap(), kernels.trim_end());
    }

    #[test]
    fn kernel_file_beyond_the_bound_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![b'0'; KERNEL_FILE_BYTES_MAX as usize]).unwrap();
        assert!(kernel_text(&path).is_ok());
        fs::write(&path, vec![b'0'; KERNEL_FILE_BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(kernel_text(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn numbered_entries_come_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["node10", "node2", "node", "nodes", "has_cpu", "node7x"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(numbered(dir.path(), "node", ""), [2, 10]);
        assert!(numbered(&dir.path().join("absent"), "node", "").is_empty());
    }
}
