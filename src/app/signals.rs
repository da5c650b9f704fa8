//! The signals meant for the runner as a whole, taken by the main thread alone: SIGTERM and SIGINT
//! ask it to leave, SIGHUP to open its log file anew.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals, held back in this thread and in all that it starts; and a bell for those threads.
#[derive(Debug)]
pub struct Signals {
    signals: SignalFd,
    bell: EventFd,
}

/// Why the main thread woke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// SIGTERM or SIGINT.
    Leave(Signal),
    Reopen,
    /// Somebody rang, or nothing was the matter.
    Rung,
    Late,
}

impl Signals {
    /// Call it before any thread is started.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn hold() -> io::Result<Signals> {
        let held = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        held.thread_block()?;
        let signals = SignalFd::with_flags(&held, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Signals { signals, bell })
    }

    /// Wakes the main thread.
    pub fn ring(&self) {
        // It fails when the bell has been rung 2^64 times unheard.
        let _ = self.bell.write(1);
    }

    /// Sleeps until something is the matter, or until `until`.
    pub fn wait(&self, until: Option<Instant>) -> Woken {
        loop {
            if let Ok(Some(signal)) = self.signals.read_signal() {
                return match Signal::try_from(signal.ssi_signo.cast_signed()) {
                    Ok(Signal::SIGHUP) => Woken::Reopen,
                    Ok(signal) => Woken::Leave(signal),
                    Err(_) => continue,
                };
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Woken::Late;
            }
            // Rounded up, so that it does not spin through the last millisecond.
            let millis = left.map(|left| i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX));
            let timeout = millis.map(PollTimeout::try_from).and_then(Result::ok);
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout.unwrap_or(PollTimeout::NONE)) {
                Ok(_) | Err(Errno::EINTR) => {}
                // Not possible for open descriptors; leaving is the safe answer.
                Err(_) => return Woken::Leave(Signal::SIGTERM),
            }
            if self.bell.read().is_ok() {
                return Woken::Rung;
            }
        }
    }
}
