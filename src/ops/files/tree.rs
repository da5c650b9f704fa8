//! Trees removed and copied one held directory at a time: a link that is swapped in on the way leads
//! nowhere.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, OwningIter};
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fstat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, Whence, fchownat, lseek, symlinkat, unlinkat};

use super::write::Fresh;
use super::{FileFault, Place, as_path, by_descriptor, kind, mounts, reopen};
use crate::limits::{COPY_BYTES, TREE_DEPTH_MAX, TREE_NAMES_MAX};

/// A directory on the way down. The way is kept here and not on a thread's small stack.
struct Emptied {
    directory: OwnedFd,
    name: PathBuf,
    /// Some of what is in it.
    names: Vec<CString>,
}

/// Removes `name` in `parent`, whatever it is. What has gone already is removed.
pub(super) fn remove(place: &Place<'_>, parent: &OwnedFd, name: &Path) -> Result<(), FileFault> {
    let mut way: Vec<Emptied> = remove_one(place, parent, name)?.into_iter().collect();
    while let Some(deepest) = way.last_mut() {
        if deepest.names.is_empty() {
            deepest.names = names(&deepest.directory)?;
        }
        if let Some(name) = deepest.names.pop() {
            if let Some(below) = remove_one(place, &deepest.directory, as_path(&name))? {
                if way.len() == TREE_DEPTH_MAX {
                    return Err(FileFault::TooDeep);
                }
                way.push(below);
            }
        } else if let Some(empty) = way.pop() {
            let parent = way.last().map_or(parent, |above| &above.directory);
            match unlinkat(parent, &empty.name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(nix::Error::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Removes what is no directory, or an empty one; another is to be emptied first.
fn remove_one(
    place: &Place<'_>,
    parent: &OwnedFd,
    name: &Path,
) -> Result<Option<Emptied>, FileFault> {
    place.check_time()?;
    mounts::allow_change(parent, name)?;
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => return Ok(None),
        Err(nix::Error::EISDIR) => {}
        // What POSIX says of a directory, and some file systems with it.
        Err(nix::Error::EPERM) if enter(parent, name).is_ok() => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => return Ok(None),
        Err(nix::Error::ENOTEMPTY | nix::Error::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = enter(parent, name)?;
    Ok(Some(Emptied { directory, name: name.to_owned(), names: Vec::new() }))
}

/// A directory on the way down.
struct Copied {
    source: OwnedFd,
    made: OwnedFd,
    stat: FileStat,
    entries: OwningIter,
}

/// Copies `name` in `from` to `new` in `into`, where nothing is: content, kind, mode, owner and times,
/// as `cp -a` does where the rights allow it. What was made before a fault stays: the caller removes it.
pub(super) fn copy(
    place: &Place<'_>,
    from: (&OwnedFd, &Path),
    into: (&OwnedFd, &Path),
) -> Result<(), FileFault> {
    let mut way: Vec<Copied> = copy_one(place, from, into)?.into_iter().collect();
    while let Some(deepest) = way.last_mut() {
        match deepest.entries.next() {
            Some(entry) => {
                let entry = entry?;
                if [c".", c".."].contains(&entry.file_name()) {
                    continue;
                }
                let name = as_path(entry.file_name());
                let (from, into) = ((&deepest.source, name), (&deepest.made, name));
                if let Some(below) = copy_one(place, from, into)? {
                    if way.len() == TREE_DEPTH_MAX {
                        return Err(FileFault::TooDeep);
                    }
                    way.push(below);
                }
            }
            None => {
                own(deepest.made.as_fd(), &deepest.stat)?;
                way.pop();
            }
        }
    }
    Ok(())
}

/// Copies what is no directory; of another an empty one is made.
fn copy_one(
    place: &Place<'_>,
    (from, name): (&OwnedFd, &Path),
    (into, new): (&OwnedFd, &Path),
) -> Result<Option<Copied>, FileFault> {
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
            let source = reopen(&held, libc::O_RDONLY)?;
            let fresh = Fresh::make(into)?;
            copy_content(place, &source, &fresh.file)?;
            own(fresh.file.as_fd(), &stat)?;
            fresh.become_file(new)?;
        }
        SFlag::S_IFDIR => {
            let source = enter(from, name)?;
            mkdirat(into, new, Mode::from_bits_truncate(0o700))?;
            let made = enter(into, new)?;
            let entries = Dir::from_fd(enter(&source, Path::new("."))?)?.into_iter();
            return Ok(Some(Copied { source, made, stat, entries }));
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name)?;
            symlinkat(target.as_os_str(), into, new)?;
            own_name(into, new, &stat);
        }
        // As `mv` does: nobody listens at the copy of a socket.
        kind @ (SFlag::S_IFIFO | SFlag::S_IFSOCK) => {
            let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
            mknodat(into, new, kind, mode, 0)?;
            own_name(into, new, &stat);
        }
        _ => return Err(FileFault::NotAFile),
    }
    Ok(None)
}

/// Copies what a file holds; its holes stay holes, or a small file of a great size would fill the disk.
fn copy_content(place: &Place<'_>, source: &File, into: &File) -> Result<(), FileFault> {
    let (mut source, mut into) = (source, into);
    let mut done = 0;
    loop {
        place.check_time()?;
        let seek = |from: u64, whence| {
            let from = libc::off_t::try_from(from).map_err(|_| nix::Error::EOVERFLOW)?;
            lseek(source, from, whence).map(libc::off_t::unsigned_abs)
        };
        let start = match seek(done, Whence::SeekData) {
            Err(nix::Error::ENXIO) => source.metadata()?.len().max(done),
            start => start.unwrap_or(done),
        };
        let end = seek(start, Whence::SeekHole).ok().filter(|end| *end > start).unwrap_or(u64::MAX);
        source.seek(SeekFrom::Start(start))?;
        into.seek(SeekFrom::Start(start))?;
        let piece = (end - start).min(COPY_BYTES);
        match io::copy(&mut source.take(piece), &mut into)? {
            0 => return Ok(into.set_len(start)?),
            copied => done = start + copied,
        }
    }
}

/// When `old` was read last, and changed.
fn times(old: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(old.st_atime, old.st_atime_nsec), TimeSpec::new(old.st_mtime, old.st_mtime_nsec))
}

/// Gives what was made the times and the mode of `old`, and its owner where the rights allow it.
fn own(made: std::os::fd::BorrowedFd<'_>, old: &FileStat) -> Result<(), FileFault> {
    let is_same = std::os::unix::fs::fchown(made, Some(old.st_uid), Some(old.st_gid)).is_ok();
    // Whoever can't give a file away must not make a set-id file of it.
    let kept = if is_same { 0o7777 } else { 0o777 };
    let (read, changed) = times(old);
    let _ = futimens(made, &read, &changed);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(old.st_mode & kept);
    Ok(std::fs::set_permissions(by_descriptor(made), mode)?)
}

/// The same for what is not opened: its owner says who may remove it from a sticky directory, and
/// little else.
fn own_name(directory: &OwnedFd, name: &Path, old: &FileStat) {
    let (uid, gid) = (Some(old.st_uid.into()), Some(old.st_gid.into()));
    let _ = fchownat(directory, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW);
    let (read, changed) = times(old);
    let _ = utimensat(directory, name, &read, &changed, UtimensatFlags::NoFollowSymlink);
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
