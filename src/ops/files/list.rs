//! What is in a directory, a page at a time, in the order of the names' bytes.

use std::collections::BinaryHeap;
use std::os::fd::AsRawFd;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};

use super::{FileFault, Guest, Kind};
use crate::limits::LIST_ENTRIES_MAX;
use crate::model::guest_path::GuestPath;

/// One name.
#[derive(Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: Kind,
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub changed: i64,
    pub mode: u32,
}

/// The first names behind `cursor`, and whether there are more. Only a page of names is kept.
///
/// # Errors
/// No directory, or none that may be read.
pub fn list(
    guest: &Guest<'_>,
    path: &GuestPath,
    show_hidden: bool,
    cursor: &[u8],
) -> Result<(Vec<Entry>, bool), FileFault> {
    let found = guest.directory(path)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::openat(&found, ".", flags, Mode::empty())?;
    let mut first: BinaryHeap<Vec<u8>> = BinaryHeap::new();
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let is_hidden = name.starts_with(b".") && !show_hidden;
        if name == b"." || name == b".." || is_hidden || name <= cursor {
            continue;
        }
        if first.len() <= LIST_ENTRIES_MAX {
            first.push(name.to_vec());
        } else if first.peek().is_some_and(|last| name < last.as_slice()) {
            first.pop();
            first.push(name.to_vec());
        }
    }
    let has_more = first.len() > LIST_ENTRIES_MAX;
    let mut names = first.into_sorted_vec();
    names.truncate(LIST_ENTRIES_MAX);
    debug_assert!(found.as_raw_fd() >= 0);
    // A name that has gone meanwhile is left out.
    let entries = names.into_iter().filter_map(|name| {
        let stat = fstatat(&found, name.as_slice(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            _ => Kind::Other,
        };
        let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Some(Entry { name, kind, size_bytes, changed: stat.st_mtime, mode: stat.st_mode })
    });
    Ok((entries.collect(), has_more))
}
