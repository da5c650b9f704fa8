//! Takes a tree away, one held directory at a time, so that a link swapped in leads nowhere.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::FileFault;
use crate::limits::TREE_DEPTH_MAX;

/// Removes `name` in `parent`, with all that is below if `recursive`. What has gone already is
/// removed; a mount inside is not.
pub(super) fn remove(
    parent: impl AsFd,
    name: &CStr,
    recursive: bool,
    depth: usize,
) -> Result<(), FileFault> {
    match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => return Ok(()),
        // Some file systems say EPERM of a directory.
        Err(nix::Error::EISDIR) => {}
        Err(nix::Error::EPERM) if is_directory(&parent, name) => {}
        Err(error) => return Err(error.into()),
    }
    if !recursive {
        return Err(FileFault::NotRecursive);
    }
    if depth > TREE_DEPTH_MAX {
        return Err(nix::Error::ENAMETOOLONG.into());
    }
    let directory = open(&parent, name)?;
    for inner in names(&directory)? {
        remove(&directory, &inner, true, depth + 1)?;
    }
    match unlinkat(&parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_directory(parent: impl AsFd, name: &CStr) -> bool {
    open(parent, name).is_ok()
}

fn open(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, FileFault> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    Ok(openat2(parent, name, how)?)
}

fn names(directory: &OwnedFd) -> Result<Vec<CString>, FileFault> {
    let mut directory = Dir::from_fd(directory.try_clone()?)?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    Ok(names)
}
