//! What is mounted in a container. From outside of its mount namespace the kernel lets a name be
//! renamed or removed although something is mounted on it, and takes the mount away with it: here it
//! is asked beforehand, as the kernel asks on the inside.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::{FileFault, Place, by_descriptor};

/// Refuses `name` in `parent` if something is mounted on it.
pub(super) fn allow_change(parent: &impl AsFd, name: &Path) -> Result<(), FileFault> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    match openat2(parent, name, how) {
        Err(nix::Error::EXDEV) => Err(FileFault::Mount),
        Err(nix::Error::ENOENT) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a directory with something mounted below it, before any of it is touched.
pub(super) fn allow_removal(place: &Place<'_>, directory: &OwnedFd) -> Result<(), FileFault> {
    // The kernel names a held file by its path in the mount namespace it is held in.
    let held = fs::read_link(by_descriptor(directory.as_fd()))?;
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", place.inside.process.pid()))?;
    let is_below = |point: PathBuf| point != held && point.starts_with(&held);
    if mount_points(&text).any(is_below) { Err(FileFault::Mount) } else { Ok(()) }
}

/// Field 5 of `proc(5)`'s mountinfo, its octal escapes undone.
fn mount_points(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| Some(unescape(line.split(' ').nth(4)?)))
}

fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_spaces() {
        let text = "28 1 0:25 / / rw - overlay overlay rw\n\
            30 28 8:1 /x /a\\040b\\134c\\0 rw,noatime - ext4 /dev/vda rw\nbroken\n";
        let points: Vec<_> = mount_points(text).collect();
        assert_eq!(points, [Path::new("/"), Path::new("/a b\\c\\0")]);
    }
}
