//! The window of a terminal that a process of a container has, sized from outside: one system call,
//! where asking the Engine takes a place among its calls and may wait for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::process::Process;

/// Major numbers of the terminals that programs make (Linux `devices.txt`).
const TERMINAL_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// A terminal, named but not opened: whoever has it open keeps its other end from seeing the end.
#[derive(Debug)]
pub struct Window(OwnedFd);

impl Window {
    /// The terminal that is the process's stdin.
    ///
    /// # Errors
    /// It has ended, or its stdin is no terminal.
    pub fn of(process: &Process) -> io::Result<Window> {
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let path = format!("/proc/{}/fd/0", process.pid());
        let stdin = File::options().read(true).custom_flags(flags).open(path)?;
        let stat = nix::sys::stat::fstat(&stdin)?;
        let is_device = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
        if !is_device || !TERMINAL_MAJORS.contains(&libc::major(stat.st_rdev)) {
            return Err(io::Error::from_raw_os_error(libc::ENOTTY));
        }
        // Somebody else's number may have been opened after its end.
        if !process.is_alive() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(Window(stdin.into()))
    }

    /// Sets its size; the programs on it are told by the kernel.
    ///
    /// # Errors
    /// The terminal is no more.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let terminal = File::options().read(true).write(true).custom_flags(flags).open(path)?;
        let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open until the end of this function, and TIOCSWINSZ reads one
        // `winsize`, which `size` is.
        let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
