//! `mv`: with `overwrite`, a directory as destination means into it; to another mount, or where the
//! file system can't move a directory of its lower layer, a copy is made and the old one goes.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::{FileStat, SFlag};

use super::{FileFault, Place, kind, mounts, tree, write};
use crate::model::guest_path::GuestPath;

/// Moves `source` to `destination`.
///
/// # Errors
/// The source or the destination's directory is missing, the destination is there (without
/// `overwrite`, or it can't be replaced), one of them is a mount, or the kernel refuses.
pub fn rename(
    place: &Place<'_>,
    source: &GuestPath,
    destination: &GuestPath,
    overwrite: bool,
) -> Result<(), FileFault> {
    let root_is_a_mount = |fault| match fault {
        FileFault::IsADirectory => FileFault::Mount,
        other => other,
    };
    let (from, name) = place.parent(source.as_path()).map_err(root_is_a_mount)?;
    place.stat(&from, &name)?;
    mounts::allow_change(&from, &name)?;
    if overwrite {
        match place.directory(destination.as_path()) {
            Ok(into) => return moved(place, (&from, &name), (&into, &name), true),
            Err(FileFault::Missing | FileFault::NotADirectory) => {}
            Err(fault) => return Err(fault),
        }
    }
    let (into, new) = place.parent(destination.as_path()).map_err(|fault| match fault {
        FileFault::IsADirectory => FileFault::Exists,
        other => other,
    })?;
    moved(place, (&from, &name), (&into, &new), overwrite)
}

fn moved(
    place: &Place<'_>,
    (from, name): (&OwnedFd, &Path),
    (into, new): (&OwnedFd, &Path),
    overwrite: bool,
) -> Result<(), FileFault> {
    mounts::allow_change(into, new)?;
    match put(from, name, into, new, overwrite) {
        Err(nix::Error::EXDEV) => {}
        put => return put.map_err(in_the_way),
    }
    let old = place.stat(from, name)?;
    let is_directory = kind(old.st_mode) == SFlag::S_IFDIR;
    if let Ok(there) = place.stat(into, new)
        // Two mounts can show the same file: its copy would take its place, and be removed as the old.
        && (!overwrite
            || is_same(&old, &there)
            || is_directory != (kind(there.st_mode) == SFlag::S_IFDIR))
    {
        return Err(FileFault::Exists);
    }
    if is_directory {
        mounts::allow_removal(place, &tree::enter(from, name)?)?;
    }
    let passing = write::passing_name()?;
    let passing = Path::new(&passing);
    let copied = tree::copy(place, (from, name), (into, passing))
        .and_then(|()| put(into, passing, into, new, overwrite).map_err(in_the_way));
    place.take_more_time();
    if let Err(fault) = copied {
        // Of what can't be removed either, the fault that is told is the first.
        let _ = tree::remove(place, into, passing);
        return Err(fault);
    }
    match place.stat(from, name) {
        Ok(there) if is_same(&old, &there) => tree::remove(place, from, name),
        // Another has taken the name, or it has gone.
        Ok(_) | Err(FileFault::Missing) => Ok(()),
        Err(fault) => Err(fault),
    }
}

fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// A file in the place of a directory, or the other way round.
fn in_the_way(error: nix::Error) -> FileFault {
    match error {
        nix::Error::EISDIR | nix::Error::ENOTDIR => FileFault::Exists,
        other => other.into(),
    }
}

fn put(
    from: &OwnedFd,
    name: &Path,
    into: &OwnedFd,
    new: &Path,
    overwrite: bool,
) -> nix::Result<()> {
    let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
    match renameat2(from, name, into, new, flags) {
        // A file system that can't refuse in the same step; or a directory moved into itself.
        Err(nix::Error::EINVAL) if !overwrite => {
            let stat = nix::sys::stat::fstatat(into, new, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
            if stat.is_ok() {
                return Err(nix::Error::EEXIST);
            }
            renameat2(from, name, into, new, RenameFlags::empty())
        }
        done => done,
    }
}
