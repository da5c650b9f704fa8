//! Content put into a file: whole or not at all where a new file can take the old one's place with all
//! that belongs to it, and else into the old one, as a shell's redirection does.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{
    AT_FDCWD, AtFlags, FallocateFlags, OFlag, fallocate, openat, readlinkat, renameat,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::{FileFault, Place, directory, kind, mounts, reopen};
use crate::limits::FILE_LINKS_MAX;
use crate::machine::random::hex_128;
use crate::machine::root::by_descriptor;
use crate::model::guest_path::GuestPath;

/// What a shell's redirection gives a new file.
const NEW_FILE_MODE: u32 = 0o644;

/// Makes `content` the content of the file at `path`, through links.
///
/// # Errors
/// It is no regular file, or may not be written.
pub fn write(
    place: &Place<'_>,
    path: &GuestPath,
    content: &[u8],
    create_parents: bool,
) -> Result<(), FileFault> {
    let Some(parent) = path.parent() else { return Err(FileFault::OverDirectory) };
    if create_parents {
        directory::make_all(place, &parent)?;
    }
    let (parent, name) = target(place, path.as_path())?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let held = match openat(&parent, &name, flags, Mode::empty()) {
        Ok(held) => held,
        Err(nix::Error::ENOENT) => {
            let mut fresh = Fresh::make(&parent)?;
            fresh.file.write_all(content)?;
            fresh.file.set_permissions(Permissions::from_mode(NEW_FILE_MODE))?;
            return fresh.become_file(&name);
        }
        Err(error) => return Err(error.into()),
    };
    place.allow(&held)?;
    let stat = fstat(&held)?;
    match kind(stat.st_mode) {
        SFlag::S_IFREG => {}
        SFlag::S_IFDIR => return Err(FileFault::OverDirectory),
        _ => return Err(FileFault::NotAFile),
    }
    // Also where it is replaced: the user must be allowed to write it.
    let file = match reopen(&held, libc::O_WRONLY) {
        // Allowed, but it is a program that runs: only another file can take its place.
        Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => Err(error),
        file => Ok(file?),
    };
    let has_attributes = file.as_ref().is_ok_and(has_attributes);
    let is_mounted = mounts::allow_change(&parent, &name).is_err();
    if !has_attributes
        && !is_mounted
        && let Some(mut fresh) = successor(&parent, &stat)
    {
        // A full disk is met here, with the old content still there.
        fresh.file.write_all(content)?;
        // A write by anybody but root takes set-id bits away; one into the old file would, too.
        let kept = if place.inside.user.uid == 0 { 0o7777 } else { 0o1777 };
        fresh.file.set_permissions(Permissions::from_mode(stat.st_mode & kept))?;
        return fresh.become_file(&name);
    }
    let mut file = file?;
    reserve(&file, content.len())?;
    file.write_all(content)?;
    Ok(file.set_len(content.len() as u64)?)
}

/// Room for what is to come, where the file system can promise it: a full disk is met here, with the
/// old content still there.
fn reserve(file: &File, bytes: usize) -> Result<(), FileFault> {
    let length = libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
        Err(error @ (nix::Error::ENOSPC | nix::Error::EDQUOT)) => {
            // Some of it may have been set aside.
            file.set_len(file.metadata()?.len())?;
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// A new file for all that belongs to the old one; `None` where there can't be one.
fn successor<'a>(parent: &'a OwnedFd, old: &FileStat) -> Option<Fresh<'a>> {
    if old.st_nlink != 1 {
        return None;
    }
    let fresh = Fresh::make(parent).ok()?;
    fchown(&fresh.file, Some(old.st_uid), Some(old.st_gid)).ok()?;
    Some(fresh)
}

/// Whether it has extended attributes (access lists, capabilities) that a new file would not have.
/// Labels of SELinux come to a new file by themselves.
fn has_attributes(file: &File) -> bool {
    let mut names = [0_u8; 64];
    // SAFETY: the buffer is ours, and its length is told.
    let length =
        unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    match usize::try_from(length) {
        Ok(length) => !matches!(&names[..length], b"" | b"security.selinux\0"),
        Err(_) => std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOTSUP),
    }
}

/// A new file, nobody else's to read; without [`Fresh::become_file`] it goes again. As long as it has no
/// name the kernel sees to that, should the runner be killed; where the file system knows no such
/// files it has a passing one.
pub(super) struct Fresh<'a> {
    directory: &'a OwnedFd,
    name: String,
    has_name: bool,
    pub(super) file: File,
}

impl Fresh<'_> {
    pub(super) fn make(directory: &OwnedFd) -> Result<Fresh<'_>, FileFault> {
        let name = passing_name()?;
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        let (file, has_name) = match openat(directory, ".", flags | OFlag::O_TMPFILE, mode) {
            Ok(file) => (file, false),
            // What else hinders it hinders the other, too.
            Err(_) => {
                let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL;
                (openat(directory, name.as_str(), flags, mode)?, true)
            }
        };
        Ok(Fresh { directory, name, has_name, file: file.into() })
    }

    /// Takes the place of what has this name.
    pub(super) fn become_file(mut self, name: &Path) -> Result<(), FileFault> {
        mounts::allow_change(self.directory, name)?;
        let (directory, passing) = (self.directory, self.name.as_str());
        // A link replaces nothing: that is for the rename.
        if !self.has_name {
            let file = by_descriptor(self.file.as_fd());
            linkat(AT_FDCWD, &file, directory, passing, AtFlags::AT_SYMLINK_FOLLOW)?;
            self.has_name = true;
        }
        Ok(renameat(directory, passing, directory, name)?)
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if self.has_name {
            // After a rename nothing is there.
            let _ = unlinkat(self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Recognisable, should a kill of the runner leave it behind.
pub(super) fn passing_name() -> Result<String, FileFault> {
    Ok(format!(".river-runner-{}.unfinished", hex_128()?))
}

/// The directory and the name that writing to `path` means, its last links followed.
fn target(place: &Place<'_>, path: &Path) -> Result<(OwnedFd, PathBuf), FileFault> {
    let mut path = path.to_owned();
    for _ in 0..FILE_LINKS_MAX {
        let (parent, name) = place.parent(&path).map_err(|fault| match fault {
            FileFault::Missing => FileFault::NoParent,
            FileFault::IsADirectory => FileFault::OverDirectory,
            other => other,
        })?;
        match place.stat(&parent, &name) {
            Ok(stat) if kind(stat.st_mode) == SFlag::S_IFLNK => {
                let link = readlinkat(&parent, name.as_path())?;
                path.pop();
                // An absolute one replaces the whole.
                path.push(&link);
            }
            Ok(_) | Err(FileFault::Missing) => return Ok((parent, name)),
            Err(fault) => return Err(fault),
        }
    }
    Err(FileFault::LinksTooFar)
}
