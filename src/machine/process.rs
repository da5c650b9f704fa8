//! A container's first process, held so that its number can't come to mean another: a pidfd, taken
//! and then compared with the container that the process must belong to. Nothing here waits.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// A process that is still the one it was when it was pinned, or has ended.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

/// Why a process was not pinned.
#[derive(Debug)]
pub enum PinFault {
    /// It has ended.
    Gone,
    /// The process of this number belongs to no such container here: the Engine is on another
    /// machine, or the number has passed on.
    Foreign,
    System(io::Error),
}

impl Process {
    /// Holds process `pid`, which the Engine names for the container of this id (64 digits).
    ///
    /// # Errors
    /// It has ended, or is none of that container's.
    pub fn pin(pid: i32, container_id: &str) -> Result<Process, PinFault> {
        // SAFETY: the call takes two integers and makes a file descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let Ok(fd @ 0..) = i32::try_from(fd) else {
            return Err(PinFault::from(io::Error::last_os_error()));
        };
        // SAFETY: the kernel has just made it for us, close-on-exec; nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let process = Process { pid, fd };
        // The group is read of whoever has the number; it was ours if ours is alive afterwards.
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(PinFault::from)?;
        if !process.is_alive() {
            return Err(PinFault::Gone);
        }
        if container_id.is_empty() || !groups.contains(container_id) {
            return Err(PinFault::Foreign);
        }
        Ok(process)
    }

    /// Its number on this machine; means this process only while [`Process::is_alive`].
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended, or the kernel refused.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let (fd, signal) = (self.fd.as_raw_fd(), signal as libc::c_int);
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is ours and open; without a siginfo the kernel fills its own.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Process {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<io::Error> for PinFault {
    fn from(error: io::Error) -> PinFault {
        match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => PinFault::Gone,
            _ => PinFault::System(error),
        }
    }
}

impl fmt::Display for PinFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PinFault::Gone => f.write_str("its process has ended"),
            PinFault::Foreign => f.write_str(
                "its process is not found on this machine: the Engine must run where the runner does",
            ),
            PinFault::System(error) => write!(f, "its process can't be held: {error}"),
        }
    }
}

impl std::error::Error for PinFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PinFault::System(error) => Some(error),
            PinFault::Gone | PinFault::Foreign => None,
        }
    }
}

#[cfg(test)]
mod test {
    use std::process::Command;

    use super::*;

    #[test]
    fn process_of_no_such_container_is_not_pinned() {
        let own = i32::try_from(std::process::id()).unwrap();
        let id = "f".repeat(64);
        assert!(matches!(Process::pin(own, &id), Err(PinFault::Foreign)));
        assert!(matches!(Process::pin(own, ""), Err(PinFault::Foreign)));
        assert!(matches!(Process::pin(i32::MAX, &id), Err(PinFault::Gone)));
    }

    #[test]
    fn ended_process_is_known_to_have_ended_and_takes_no_signal() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Any text of the group's path will do: here every process is in some group.
        let process = Process::pin(pid, ":/").unwrap();
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert!(process.signal(Signal::SIGKILL).is_err());
    }
}
