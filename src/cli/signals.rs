//! Ctrl-C and its like as something that is asked for instead of something that happens.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that are held back from doing to the process what they usually do.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Holds back the signals that ask us to leave, as [`Signals::hold_with`].
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn hold() -> Result<Signals, Errno> {
        Signals::hold_with(&[])
    }

    /// Holds back the signals that ask us to leave and `more`, in this thread and in threads that
    /// it starts afterwards: call it before the first of them.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn hold_with(more: &[Signal]) -> Result<Signals, Errno> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].iter().chain(more) {
            signals.add(*signal);
        }
        signals.thread_block()?;
        SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Signals)
    }

    /// The signal that has come, if one has.
    pub fn pending(&self) -> Option<Signal> {
        let info = self.0.read_signal().ok()??;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }

    /// The exit code of a program that ended by the signal that has come, if one has.
    pub fn pending_exit_code(&self) -> Option<u8> {
        self.pending().map(exit_code)
    }

    /// Waits for a signal and gives the exit code of a program that ended by it.
    pub fn wait_exit_code(&self) -> u8 {
        loop {
            if let Some(code) = self.pending_exit_code() {
                return code;
            }
            // A wait that fails looks again at once.
            let _ = poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The exit code of a program that ended by `signal`.
pub fn exit_code(signal: Signal) -> u8 {
    u8::try_from(signal as i32).map_or(u8::MAX, |number| number.saturating_add(128))
}
