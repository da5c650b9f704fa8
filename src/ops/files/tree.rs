//! Trees removed and copied one held directory at a time: a link that is swapped in on the way leads
//! nowhere.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::write::Fresh;
use super::{FileFault, Place, as_path, by_descriptor, kind, mounts, reopen};
use crate::limits::{TREE_DEPTH_MAX, TREE_NAMES_MAX};

/// Removes `name` in `parent`, whatever it is. What has gone already is removed.
pub(super) fn remove(
    place: &Place<'_>,
    parent: &OwnedFd,
    name: &Path,
    depth: usize,
) -> Result<(), FileFault> {
    place.check_time()?;
    mounts::allow_change(parent, name)?;
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => return Ok(()),
        Err(nix::Error::EISDIR) => {}
        // What POSIX says of a directory, and some file systems with it.
        Err(nix::Error::EPERM) if enter(parent, name).is_ok() => {}
        Err(error) => return Err(error.into()),
    }
    if depth == TREE_DEPTH_MAX {
        return Err(FileFault::TooDeep);
    }
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => return Ok(()),
        Err(nix::Error::ENOTEMPTY | nix::Error::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = enter(parent, name)?;
    loop {
        let names = names(&directory)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            remove(place, &directory, as_path(&name), depth + 1)?;
        }
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

/// Copies `name` in `from` to `new` in `into`, where nothing is: content, kind, mode and owner, as
/// `cp -a` does where the rights allow it. What was made before a fault stays: the caller removes it.
pub(super) fn copy(
    place: &Place<'_>,
    (from, name): (&OwnedFd, &Path),
    (into, new): (&OwnedFd, &Path),
    depth: usize,
) -> Result<(), FileFault> {
    place.check_time()?;
    let stat = place.stat(from, name)?;
    match kind(stat.st_mode) {
        SFlag::S_IFREG => {
            let held = open(from, name, OFlag::O_PATH)?;
            place.allow(&held)?;
            // Another file may have taken the name since.
            let stat = fstat(&held)?;
            if kind(stat.st_mode) != SFlag::S_IFREG {
                return Err(FileFault::NotAFile);
            }
            let mut source = reopen(&held, libc::O_RDONLY)?;
            let mut fresh = Fresh::make(into)?;
            io::copy(&mut source, &mut fresh.file)?;
            own(fresh.file.as_fd(), &stat)?;
            fresh.become_file(new)
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name)?;
            symlinkat(target.as_os_str(), into, new)?;
            // A link's owner says who may remove it from a sticky directory, and little else.
            let _ = nix::unistd::fchownat(
                into,
                new,
                Some(stat.st_uid.into()),
                Some(stat.st_gid.into()),
                nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
            );
            Ok(())
        }
        SFlag::S_IFDIR => {
            if depth == TREE_DEPTH_MAX {
                return Err(FileFault::TooDeep);
            }
            let source = enter(from, name)?;
            mkdirat(into, new, Mode::from_bits_truncate(0o700))?;
            let made = enter(into, new)?;
            let mut directory = Dir::from_fd(enter(&source, Path::new("."))?)?;
            for entry in directory.iter() {
                let entry = entry?;
                if ![c".", c".."].contains(&entry.file_name()) {
                    let name = as_path(entry.file_name());
                    copy(place, (&source, name), (&made, name), depth + 1)?;
                }
            }
            own(made.as_fd(), &stat)
        }
        SFlag::S_IFIFO => {
            let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
            Ok(mknodat(into, new, SFlag::S_IFIFO, mode, 0)?)
        }
        _ => Err(FileFault::NotAFile),
    }
}

/// Gives what was made the mode of `old`, and its owner where the rights allow it.
fn own(made: std::os::fd::BorrowedFd<'_>, old: &FileStat) -> Result<(), FileFault> {
    let is_same = std::os::unix::fs::fchown(made, Some(old.st_uid), Some(old.st_gid)).is_ok();
    // Whoever can't give a file away must not make a set-id file of it.
    let kept = if is_same { 0o7777 } else { 0o777 };
    let mode = std::os::unix::fs::PermissionsExt::from_mode(old.st_mode & kept);
    Ok(std::fs::set_permissions(by_descriptor(made), mode)?)
}

/// Opens a directory of the same mount, no link.
pub(super) fn enter(parent: &impl AsFd, name: &Path) -> Result<OwnedFd, FileFault> {
    open(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

fn open(parent: &impl AsFd, name: &Path, flags: OFlag) -> Result<OwnedFd, FileFault> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    openat2(parent, name, how).map_err(|error| match error {
        nix::Error::EXDEV => FileFault::Mount,
        other => other.into(),
    })
}

/// Some of the names in a directory; none if it is empty.
fn names(directory: &OwnedFd) -> Result<Vec<CString>, FileFault> {
    let mut open = Dir::from_fd(enter(directory, Path::new("."))?)?;
    let mut names = Vec::new();
    for entry in open.iter() {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == TREE_NAMES_MAX {
            break;
        }
    }
    Ok(names)
}
