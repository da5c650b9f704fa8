//! Ctrl-C and its like as something that is asked for instead of something that happens.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask us to leave, held back from killing the process.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Holds the signals back in this thread and in threads that it starts afterwards: call it
    /// before the first of them.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn hold() -> Result<Signals, Errno> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block()?;
        SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Signals)
    }

    /// The exit code of a program that ended by the signal that has come, if one has.
    pub fn pending_exit_code(&self) -> Option<u8> {
        let info = self.0.read_signal().ok()??;
        u8::try_from(info.ssi_signo).ok()?.checked_add(128)
    }
}
