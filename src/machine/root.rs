//! A container's root directory as its own processes see it, entered from outside (design D7): every
//! path, and every link in it, is resolved by the kernel inside of it, and magic links lead nowhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::process::Process;
use crate::limits::LOOKUPS_MAX;

/// The root of a pinned process.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens it. It holds the container's mounts until it is dropped.
    ///
    /// # Errors
    /// The process has ended, or may not be looked into.
    pub fn of(process: &Process) -> io::Result<Root> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let path = format!("/proc/{}/root", process.pid());
        let root = File::options().read(true).custom_flags(flags).open(path)?;
        // Somebody else's number may have been opened after its end.
        if !process.is_alive() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(Root(root.into()))
    }

    /// Opens `path` inside; a leading slash is this root. `mode` is for what the call makes.
    ///
    /// # Errors
    /// The kernel's, as for the container's own processes.
    pub fn open(&self, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut lookups = 0;
        loop {
            lookups += 1;
            match openat2(&self.0, path, how) {
                // Something was renamed or mounted on this machine while a link's `..` was followed:
                // the kernel can't be sure that it stayed inside, and asks to be asked again.
                Err(nix::Error::EAGAIN) if lookups < LOOKUPS_MAX => {}
                opened => return Ok(opened?),
            }
        }
    }
}

/// Opens what is held with `O_PATH`, once it is known to be harmless.
///
/// # Errors
/// The kernel's.
pub fn reopen(held: &OwnedFd, flags: i32) -> io::Result<File> {
    let write = flags & libc::O_ACCMODE == libc::O_WRONLY;
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    File::options().read(!write).write(write).custom_flags(flags).open(by_descriptor(held.as_fd()))
}

/// A path by which this process, and no other, reaches what is held.
pub fn by_descriptor(held: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
