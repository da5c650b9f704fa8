//! Directories made, names moved and taken away.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::stat::{Mode, mkdirat};

use super::remove::remove;
use super::{FileFault, Guest};
use crate::model::guest_path::GuestPath;

/// Makes a directory; with `parents` those above it too, and one that is there is as good.
///
/// # Errors
/// Something else is there, or it may not be made.
pub fn make_directory(guest: &Guest<'_>, path: &GuestPath, parents: bool) -> Result<(), FileFault> {
    if parents {
        return make_directories(guest, path);
    }
    if path.parent().is_none() {
        return Err(FileFault::Exists);
    }
    Ok(mkdirat(guest.parent(path)?, path.name(), NEW_DIRECTORY_MODE)?)
}

/// What `mkdir` gives under the usual umask.
const NEW_DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// As `mkdir -p`.
pub(super) fn make_directories(guest: &Guest<'_>, path: &GuestPath) -> Result<(), FileFault> {
    match guest.directory(path) {
        Ok(_) => return Ok(()),
        Err(FileFault::Missing) => {}
        Err(FileFault::NotADirectory) => return Err(FileFault::Exists),
        Err(fault) => return Err(fault),
    }
    if let Some(parent) = path.parent() {
        make_directories(guest, &parent)?;
    }
    match mkdirat(guest.parent(path)?, path.name(), NEW_DIRECTORY_MODE) {
        // Somebody else was faster.
        Err(nix::Error::EEXIST) => guest.directory(path).map(drop),
        made => Ok(made?),
    }
}

/// Gives `source` the name `destination`, or a place in it where that is a directory.
///
/// # Errors
/// The source is not there, the destination is and `overwrite` is not, or it may not be done.
pub fn rename(
    guest: &Guest<'_>,
    source: &GuestPath,
    destination: &GuestPath,
    overwrite: bool,
) -> Result<(), FileFault> {
    let from = guest.parent(source)?;
    // It is the source that is missing, before anything of the destination is looked at.
    guest.find(source.as_path(), OFlag::O_NOFOLLOW)?;
    let (into, name) = match guest.directory(destination) {
        Ok(directory) => (directory, source.name()),
        Err(FileFault::Missing | FileFault::NotADirectory) => {
            (guest.parent(destination)?, destination.name())
        }
        Err(fault) => return Err(fault),
    };
    move_name(&from, source.name(), &into, name, overwrite)
}

fn move_name(
    from: &OwnedFd,
    old: &str,
    into: &OwnedFd,
    new: &str,
    overwrite: bool,
) -> Result<(), FileFault> {
    let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
    Ok(renameat2(from, old, into, new, flags)?)
}

/// Takes a name away; one that is not there is taken away already.
///
/// # Errors
/// A directory without `recursive`, a mount, or no right to.
pub fn delete(guest: &Guest<'_>, path: &GuestPath, recursive: bool) -> Result<(), FileFault> {
    let parent = match guest.parent(path) {
        Err(FileFault::Missing | FileFault::NotADirectory) => return Ok(()),
        parent => parent?,
    };
    let name = CString::new(path.name()).map_err(|_| FileFault::Missing)?;
    match guest.find(path.as_path(), OFlag::O_NOFOLLOW) {
        Err(FileFault::Missing) => return Ok(()),
        found => drop(found?),
    }
    remove(&parent, &name, recursive, 0)
}
