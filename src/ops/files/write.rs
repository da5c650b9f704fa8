//! Puts content into a file: whole or not at all where a new file can take the old one's place, and
//! else into the old one.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::change::make_directories;
use super::{FileFault, Guest, regular, reopen};
use crate::model::guest_path::GuestPath;

/// What a shell's redirection gives a new file.
const NEW_FILE_MODE: u32 = 0o644;

/// Makes `content` the file's content.
///
/// # Errors
/// No regular file, no directory for it, or no right to write.
pub fn write(
    guest: &Guest<'_>,
    path: &GuestPath,
    content: &[u8],
    create_parents: bool,
) -> Result<(), FileFault> {
    if let (true, Some(parent)) = (create_parents, path.parent()) {
        make_directories(guest, &parent)?;
    }
    let parent = guest.parent(path)?;
    let itself = guest.find(path.as_path(), OFlag::O_NOFOLLOW);
    let old = match itself {
        Err(FileFault::Missing) => None,
        found => Some(found?),
    };
    let can_replace = match &old {
        None => None,
        Some(old) => Some(super::metadata(old)?),
    };
    // A link keeps leading where it does: what it leads to is written.
    if can_replace.as_ref().is_some_and(|metadata| metadata.is_symlink()) {
        return write_through(guest, path, content);
    }
    if let Some(old) = &old {
        let metadata = regular(old)?;
        // The right to write is the file's own, not its directory's.
        let file = reopen(old, OpenOptions::new().write(true))?;
        let has_one_owner = metadata.nlink() == 1 && metadata.uid() == guest.inside.user.uid;
        if !has_one_owner || replace(&parent, path.name(), content, Some(&metadata)).is_err() {
            write_in_place(file, content)?;
        }
        return Ok(());
    }
    Ok(replace(&parent, path.name(), content, None)?)
}

fn write_through(guest: &Guest<'_>, path: &GuestPath, content: &[u8]) -> Result<(), FileFault> {
    let found = match guest.find(path.as_path(), OFlag::empty()) {
        Err(FileFault::Missing) => {
            // A link to nothing yet.
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            let mode = Mode::from_bits_truncate(NEW_FILE_MODE);
            guest.root.open(path.as_path(), flags, mode)?;
            guest.find(path.as_path(), OFlag::empty())?
        }
        found => found?,
    };
    regular(&found)?;
    Ok(write_in_place(reopen(&found, OpenOptions::new().write(true))?, content)?)
}

fn write_in_place(mut file: File, content: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(content)
}

/// A new file takes the place of the name's old one, with its mode and owner.
fn replace(
    parent: &OwnedFd,
    name: &str,
    content: &[u8],
    old: Option<&std::fs::Metadata>,
) -> io::Result<()> {
    let unfinished = unfinished_name();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    let mut file = File::from(openat(parent, unfinished.as_str(), flags, mode)?);
    let mut fill = || -> io::Result<()> {
        file.write_all(content)?;
        if let Some(old) = old {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        let mode = old.map_or(NEW_FILE_MODE, |old| old.mode() & 0o7777);
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(renameat(parent, unfinished.as_str(), parent, name)?)
    };
    fill().inspect_err(|_| {
        let _ = unlinkat(parent, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
    })
}

/// Recognisable, should a kill of the runner leave one behind.
pub(super) fn unfinished_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = crate::model::time::Stamp::now();
    format!(".river-runner-{}-{number}-{now}.unfinished", std::process::id())
}
