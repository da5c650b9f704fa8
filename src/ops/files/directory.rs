//! Directories made.

use std::fs::Permissions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat, mkdirat};

use super::{FileFault, Place, by_descriptor};
use crate::model::guest_path::GuestPath;

/// What `mkdir` gives under the usual umask, whatever the runner's own is.
const NEW_DIRECTORY_MODE: u32 = 0o755;

/// Makes the directory `path`; with `parents` those above it too, and one that is there is as good.
///
/// # Errors
/// Something is there, a directory above is not, or it may not be made.
pub fn make(place: &Place<'_>, path: &GuestPath, parents: bool) -> Result<(), FileFault> {
    if parents {
        return make_all(place, path);
    }
    let (parent, name) = place.parent(path.as_path()).map_err(|fault| match fault {
        FileFault::Missing => FileFault::NoParent,
        FileFault::IsADirectory => FileFault::Exists,
        other => other,
    })?;
    make_one(place, &parent, &name).map(drop)
}

/// As `mkdir -p`.
pub(super) fn make_all(place: &Place<'_>, path: &GuestPath) -> Result<(), FileFault> {
    // From the deepest that is there: those above it are not looked at one by one.
    let mut missing = Vec::new();
    let mut there = path.as_path();
    let mut directory = loop {
        match place.directory(there) {
            Ok(directory) => break directory,
            Err(FileFault::Missing) => {}
            Err(FileFault::NotADirectory) => return Err(FileFault::Exists),
            Err(fault) => return Err(fault),
        }
        let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else {
            return Err(FileFault::Missing);
        };
        missing.push(Path::new(name));
        there = parent;
    };
    while let Some(name) = missing.pop() {
        directory = match make_one(place, &directory, name) {
            // Another made it meanwhile, or a link that leads nowhere is in the way.
            Err(FileFault::Exists) => enter(&directory, name).map_err(|_| FileFault::Exists)?,
            made => made?,
        };
    }
    Ok(())
}

fn make_one(place: &Place<'_>, parent: &OwnedFd, name: &Path) -> Result<OwnedFd, FileFault> {
    place.allow(parent)?;
    mkdirat(parent, name, Mode::from_bits_truncate(NEW_DIRECTORY_MODE))?;
    let made = enter(parent, name)?;
    // The group's bit is the parent's to give.
    let mode = fstat(&made)?.st_mode & 0o7777;
    let wanted = (mode & 0o7000) | NEW_DIRECTORY_MODE;
    if mode != wanted {
        std::fs::set_permissions(by_descriptor(made.as_fd()), Permissions::from_mode(wanted))?;
    }
    Ok(made)
}

fn enter(parent: &OwnedFd, name: &Path) -> Result<OwnedFd, FileFault> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}
