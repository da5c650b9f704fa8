//! Named threads with small stacks. Every thread of the runner is started here, so that it has a
//! name an operator can read in `ps -T`, a counted panic and a stack size out of `limits`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use crate::metrics;

/// Starts a thread called `name` (the kernel shows the first 15 bytes) with `stack_bytes` of stack.
///
/// A panic in `body` ends that thread only; it is logged and counted, and `join` returns `None`.
///
/// # Errors
/// The operating system refused the thread (limits on processes or memory).
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    stack_bytes: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<Option<T>>> {
    let name = name.into();
    Builder::new().name(name.clone()).stack_size(stack_bytes).spawn(move || {
        metrics::THREADS_LIVE.up();
        let ended = catch_unwind(AssertUnwindSafe(body));
        metrics::THREADS_LIVE.down();
        if ended.is_err() {
            metrics::THREAD_PANICS.up();
            log::error!("thread {name} panicked");
        }
        ended.ok()
    })
}
