//! Our stdout, which may be slower than the shell: what it does not take yet waits here, up to a
//! bound, so that signals and the connection are looked after meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use crate::limits;

/// Stdout and what waits for it.
#[derive(Debug)]
pub struct Screen {
    stdout: File,
    waiting: Vec<u8>,
    /// Bytes of `waiting` that are written already.
    written: usize,
}

impl Screen {
    /// # Errors
    /// Stdout is closed, or the process may open no more files.
    pub fn of_stdout() -> io::Result<Screen> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let kind = stdout.metadata()?.file_type();
        // Opened anew it can be non-blocking for us alone: the descriptor that we were given is
        // shared with the program that started us. Where that is not allowed (another user's
        // terminal) a write that poll announced as possible has to do.
        let anew = if kind.is_char_device() || kind.is_fifo() {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/1").ok()
        } else {
            None
        };
        Ok(Screen { stdout: anew.unwrap_or(stdout), waiting: Vec::new(), written: 0 })
    }

    pub fn show(&mut self, text: &str) {
        // Here, not after each write: what waits moves once for many of them.
        self.waiting.drain(..std::mem::take(&mut self.written));
        self.waiting.extend_from_slice(text.as_bytes());
    }

    /// Whether there is something that `write` could write.
    pub fn is_waiting(&self) -> bool {
        self.written < self.waiting.len()
    }

    /// Whether nothing more should come for now.
    pub fn is_full(&self) -> bool {
        self.waiting.len() - self.written >= limits::CLI_SCREEN_BYTES_MAX
    }

    /// Writes a piece, once poll says that there is room.
    ///
    /// # Errors
    /// Nobody reads stdout any more, or it is full.
    pub fn write(&mut self) -> io::Result<()> {
        let waiting = &self.waiting[self.written..];
        let piece = waiting.len().min(limits::CLI_SCREEN_WRITE_BYTES);
        match self.stdout.write(&waiting[..piece]) {
            Ok(count) => {
                self.written += count;
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Screen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}
