//! SIGTERM and SIGINT, taken by the main thread alone.

use nix::sys::signal::{SigSet, Signal};

/// Blocks both in this thread and in all it starts, so that only [`wait`] sees them. Call it before
/// any thread is started.
pub fn keep_for_main() -> nix::Result<()> {
    ours().thread_block()
}

/// Blocks until one of them comes.
pub fn wait() -> Signal {
    loop {
        match ours().wait() {
            Ok(signal) => return signal,
            Err(nix::errno::Errno::EINTR) => {}
            // No other error is possible for a set of valid signals; leaving is the safe answer.
            Err(_) => return Signal::SIGTERM,
        }
    }
}

fn ours() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}
