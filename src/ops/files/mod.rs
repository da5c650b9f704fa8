//! Files inside a task's container, with its user's rights, from outside (design D7). Called by
//! `api::files`; the work is a files thread's. Nothing is run in the container.

pub mod change;
pub mod list;
pub mod read;
mod remove;
pub mod write;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::inside::{self, Inside};
use super::{Node, OpError};
use crate::machine::disk;
use crate::machine::root::Root;
use crate::model::guest_path::{GuestPath, PathFault};
use crate::model::ids::TaskId;

/// Why a file was not given or changed.
#[derive(Debug)]
pub enum FileFault {
    Path(PathFault),
    Missing,
    Denied,
    Exists,
    NotADirectory,
    IsADirectory,
    /// A pipe, socket or device.
    NotAFile,
    /// A directory that is to be removed with what is in it, without being told so.
    NotRecursive,
    TooLarge,
    NotBase64,
    System(io::Error),
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> FileFault {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ELOOP) => FileFault::Missing,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => FileFault::Denied,
            Some(libc::EEXIST) => FileFault::Exists,
            Some(libc::ENOTDIR) => FileFault::NotADirectory,
            Some(libc::EISDIR) => FileFault::IsADirectory,
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
            FileFault::IsADirectory => "is a directory",
            FileFault::NotAFile => "neither a file nor a directory",
            FileFault::NotRecursive => "is a directory: pass recursive=true to remove it",
            FileFault::TooLarge => "more than 50 MiB can't be written at once",
            FileFault::NotBase64 => "the content is no base64",
        })
    }
}

impl std::error::Error for FileFault {}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

impl Kind {
    fn of(kind: std::fs::FileType) -> Kind {
        if kind.is_file() {
            Kind::File
        } else if kind.is_dir() {
            Kind::Directory
        } else if kind.is_symlink() {
            Kind::Symlink
        } else {
            debug_assert!(
                kind.is_fifo()
                    || kind.is_socket()
                    || kind.is_char_device()
                    || kind.is_block_device()
            );
            Kind::Other
        }
    }
}

/// A container's files, while this thread has its user's rights.
#[derive(Debug)]
pub struct Guest<'a> {
    inside: &'a Inside,
    root: &'a Root,
}

/// Does `work` at the container's files as its user. For files threads.
///
/// # Errors
/// There is no way in, or the work failed.
pub fn within<T>(
    node: &Node,
    id: TaskId,
    path: &GuestPath,
    work: impl FnOnce(&Guest<'_>) -> Result<T, FileFault>,
) -> Result<T, OpError> {
    let inside: Arc<Inside> = inside::enter(node, id)?;
    // Looking into another's process takes our own rights.
    let root = inside.root().map_err(|_| OpError::NotRunning(id))?;
    let fault = |fault| OpError::File { path: path.as_str().to_owned(), fault };
    let _as_user = inside.user.assume().map_err(|error| fault(FileFault::System(error)))?;
    work(&Guest { inside: &inside, root: &root }).map_err(fault)
}

impl Guest<'_> {
    /// Where `path` leads, not opened: nothing waits for a pipe's other end or wakes a device.
    fn find(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, FileFault> {
        let found = self.root.open(path, OFlag::O_PATH | flags, Mode::empty())?;
        self.allow(&found)?;
        Ok(found)
    }

    /// The directory at `path`.
    fn directory(&self, path: &GuestPath) -> Result<OwnedFd, FileFault> {
        self.find(path.as_path(), OFlag::O_DIRECTORY)
    }

    /// The directory that `path` is in; the root is in none.
    fn parent(&self, path: &GuestPath) -> Result<OwnedFd, FileFault> {
        match path.parent() {
            Some(parent) => self.directory(&parent),
            None => Err(FileFault::IsADirectory),
        }
    }

    /// Refuses what stands for the kernel or for devices, however it was reached (design D7).
    fn allow(&self, found: &OwnedFd) -> Result<(), FileFault> {
        let is_forbidden =
            disk::kind_of(found)? == disk::Kind::Kernel || self.is_of_devices(found)?;
        if is_forbidden { Err(FileFault::Path(PathFault::Forbidden)) } else { Ok(()) }
    }

    /// Whether it is on the mount at `/dev`, or on the one for shared memory below.
    fn is_of_devices(&self, found: &OwnedFd) -> Result<bool, FileFault> {
        let device = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map(|stat| stat.st_dev);
        let (own, found) = (nix::sys::stat::fstat(self.root)?.st_dev, device(found)?);
        Ok(["/dev", "/dev/shm"].iter().any(|path| {
            let mount = self.root.open(Path::new(path), OFlag::O_PATH, Mode::empty());
            mount.is_ok_and(|mount| {
                device(&mount).is_ok_and(|device| device != own && device == found)
            })
        }))
    }
}

/// Opens what was found; of a regular file or directory only, so that it never waits.
fn reopen(found: &OwnedFd, options: &mut std::fs::OpenOptions) -> io::Result<File> {
    options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

fn metadata(found: &OwnedFd) -> io::Result<std::fs::Metadata> {
    // An O_PATH descriptor can be asked like any other.
    File::from(found.try_clone()?).metadata()
}

/// Requires a regular file.
fn regular(found: &OwnedFd) -> Result<std::fs::Metadata, FileFault> {
    let metadata = metadata(found)?;
    match Kind::of(metadata.file_type()) {
        Kind::File => Ok(metadata),
        Kind::Directory => Err(FileFault::IsADirectory),
        Kind::Symlink | Kind::Other => Err(FileFault::NotAFile),
    }
}

/// What is told of a name.
#[derive(Debug)]
pub struct About {
    pub kind: Kind,
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub changed: i64,
    pub mode: u32,
    pub owner: Option<String>,
}

/// Tells of a name itself, not of what a link leads to.
///
/// # Errors
/// It is not there, or may not be looked at.
pub fn stat(guest: &Guest<'_>, path: &GuestPath) -> Result<About, FileFault> {
    let found = guest.find(path.as_path(), OFlag::O_NOFOLLOW)?;
    let metadata = metadata(&found)?;
    let passwd = inside::small_text(guest.root, "/etc/passwd");
    let uid = guest.inside.users.inside(metadata.uid());
    let owner = uid.and_then(|uid| crate::model::account::Account::name_of(uid, &passwd));
    Ok(About {
        kind: Kind::of(metadata.file_type()),
        size_bytes: metadata.len(),
        changed: metadata.mtime(),
        mode: metadata.mode(),
        owner: owner.map(str::to_owned),
    })
}
