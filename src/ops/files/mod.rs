//! Files of a running container (contract 8): found and opened here, from outside, as the container's
//! user and within its root (design D7). Each verb has a file of its own. For files threads; nothing
//! is run in the container.

pub mod directory;
pub mod list;
mod mounts;
pub mod read;
pub mod remove;
pub mod rename;
pub mod stat;
mod tree;
pub mod write;

use std::cell::Cell;
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::OpError;
use super::inside::Inside;
use crate::limits::FILES_DEADLINE;
use crate::machine::disk;
use crate::machine::root::{Root, by_descriptor, reopen};
use crate::model::guest_path::{GuestPath, PathFault};

/// Why an operation on a file was not done.
#[derive(Debug)]
pub enum FileFault {
    Path(PathFault),
    Missing,
    Denied,
    Exists,
    NotADirectory,
    IsADirectory,
    /// A FIFO, a socket or a device.
    NotAFile,
    /// A directory that is to be removed with what is in it, without being told so.
    NotRecursive,
    /// Too many links, or one of the kernel's.
    LinksTooFar,
    NotBase64,
    NameTooLong,
    TooLarge,
    /// The directory it should be made in is not there.
    NoParent,
    /// What is to be written is a directory.
    OverDirectory,
    /// A mount stays where it is, and so does what holds one.
    Mount,
    /// It goes deeper than the runner follows.
    TooDeep,
    /// It did not end in time: what was done stays done.
    TooLong,
    System(io::Error),
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> FileFault {
        match error.raw_os_error() {
            Some(libc::ENOENT) => FileFault::Missing,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => FileFault::Denied,
            Some(libc::EEXIST | libc::ENOTEMPTY) => FileFault::Exists,
            Some(libc::ENOTDIR) => FileFault::NotADirectory,
            Some(libc::EISDIR) => FileFault::IsADirectory,
            Some(libc::ELOOP) => FileFault::LinksTooFar,
            Some(libc::ENAMETOOLONG) => FileFault::NameTooLong,
            Some(libc::EBUSY) => FileFault::Mount,
            _ => FileFault::System(error),
        }
    }
}

impl From<nix::Error> for FileFault {
    fn from(error: nix::Error) -> FileFault {
        io::Error::from(error).into()
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileFault::Path(fault) => return fault.fmt(f),
            FileFault::System(error) => return error.fmt(f),
            FileFault::Missing => "no such file or directory",
            FileFault::Denied => "permission denied",
            FileFault::Exists => "there is such a name already",
            FileFault::NotADirectory => "not a directory",
            FileFault::IsADirectory | FileFault::OverDirectory => "is a directory",
            FileFault::NotAFile => "not a regular file",
            FileFault::NotRecursive => "is a directory: pass recursive=true to remove it",
            FileFault::LinksTooFar => "its links lead too far",
            FileFault::NotBase64 => "the content is no base64",
            FileFault::NameTooLong => "the path, or a name in it, is too long",
            FileFault::TooLarge => "more than 50 MiB can't be written at once",
            FileFault::NoParent => "its directory does not exist",
            FileFault::Mount => "is a mount, or holds one",
            FileFault::TooDeep => "too many directories in each other",
            FileFault::TooLong => "not done in time; what was done stays",
        })
    }
}

impl std::error::Error for FileFault {}

/// Runs `work` in the container's root with its user's rights, unless it is after `until` already: the
/// caller has been told so, and may have asked for something else since.
///
/// # Errors
/// The fault, with the path it is about.
pub fn within<T>(
    inside: &Inside,
    path: &GuestPath,
    until: Instant,
    work: impl FnOnce(&Place<'_>) -> Result<T, FileFault>,
) -> Result<T, OpError> {
    let done = || {
        // Before our rights are given up: the way to another's root needs them.
        let place = Place::of(inside, until)?;
        place.check_time()?;
        let _assumed = inside.user.assume()?;
        work(&place)
    };
    done().map_err(|fault| OpError::File { path: path.as_str().to_owned(), fault })
}

/// A container's files while this thread has its user's rights.
#[derive(Debug)]
pub struct Place<'a> {
    inside: &'a Inside,
    root: Root,
    /// Devices of `/dev` and of `/dev/shm`, where they are mounts.
    devices: Vec<libc::dev_t>,
    /// When a long operation gives up.
    until: Cell<Instant>,
}

impl<'a> Place<'a> {
    fn of(inside: &'a Inside, until: Instant) -> io::Result<Place<'a>> {
        let root = inside.root()?;
        let own = fstat(&root)?.st_dev;
        let device = |path: &&str| {
            let mount = root.open(Path::new(path), OFlag::O_PATH, Mode::empty()).ok()?;
            Some(fstat(mount).ok()?.st_dev)
        };
        let devices = ["/dev", "/dev/shm"].iter().filter_map(device);
        let devices = devices.filter(|device| *device != own).collect();
        Ok(Place { inside, root, devices, until: Cell::new(until) })
    }

    /// Holds what is at `path`, whatever it is: nothing is opened, so nothing blocks and no device
    /// wakes.
    fn hold(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, FileFault> {
        let held = match self.root.open(path, OFlag::O_PATH | flags, Mode::empty()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let path = self.by_bytes(path).ok_or(error)?;
                self.root.open(&path, OFlag::O_PATH | flags, Mode::empty())?
            }
            held => held?,
        };
        self.allow(&held)?;
        Ok(held)
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd, FileFault> {
        self.hold(path, OFlag::O_DIRECTORY)
    }

    /// The directory that `path` is in, and its name there.
    ///
    /// # Errors
    /// The root is in none.
    fn parent(&self, path: &Path) -> Result<(OwnedFd, PathBuf), FileFault> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(FileFault::IsADirectory);
        };
        let parent = self.directory(parent)?;
        let name = Path::new(name);
        let name = match self.stat(&parent, name) {
            Err(FileFault::Missing) => same_name(&parent, name).unwrap_or_else(|| name.into()),
            _ => name.into(),
        };
        Ok((parent, name))
    }

    /// What is told of `name` in `parent`, which may be a link.
    fn stat(&self, parent: &impl AsFd, name: &Path) -> Result<FileStat, FileFault> {
        Ok(fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Refuses what stands for the kernel or for devices, however it was reached (design D7).
    fn allow(&self, held: &OwnedFd) -> Result<(), FileFault> {
        if disk::kind_of(held)? == disk::Kind::Kernel || self.devices.contains(&fstat(held)?.st_dev)
        {
            return Err(FileFault::Path(PathFault::Forbidden));
        }
        Ok(())
    }

    fn check_time(&self) -> Result<(), FileFault> {
        if Instant::now() < self.until.get() { Ok(()) } else { Err(FileFault::TooLong) }
    }

    /// Time for clearing up, also where the work has used up its own.
    fn take_more_time(&self) {
        self.until.set(Instant::now() + FILES_DEADLINE);
    }

    /// The path of which `path` is what JSON could carry: names that are no UTF-8 are shown with
    /// U+FFFD, and found again by that where only one is meant.
    fn by_bytes(&self, path: &Path) -> Option<PathBuf> {
        let text = path.to_str().filter(|text| text.contains(char::REPLACEMENT_CHARACTER))?;
        let mut real = PathBuf::from("/");
        for name in text.split('/').filter(|name| !name.is_empty()) {
            let directory = self.root.open(&real, OFlag::O_PATH, Mode::empty()).ok()?;
            let name = Path::new(name);
            real.push(same_name(&directory, name).unwrap_or_else(|| name.into()));
        }
        Some(real)
    }
}

/// The only name in `directory` that is shown as `shown`.
fn same_name(directory: &OwnedFd, shown: &Path) -> Option<PathBuf> {
    let shown = shown.to_str().filter(|text| text.contains(char::REPLACEMENT_CHARACTER))?;
    let mut open = nix::dir::Dir::from_fd(reopen(directory, libc::O_RDONLY).ok()?.into()).ok()?;
    let mut found = None;
    for entry in open.iter() {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        if String::from_utf8_lossy(name) == shown && found.replace(name.to_vec()).is_some() {
            return None;
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(found?)))
}

/// What `mode` says it is.
fn kind(mode: libc::mode_t) -> SFlag {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT
}

/// A name of a directory's entry as a path, whatever its bytes.
fn as_path(name: &CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
