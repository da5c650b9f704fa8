//! Work on shared storage for callers that belong to no lane: it runs on a `files-N` thread, so that
//! a directory that hangs holds none of ours (design law 5).

use std::sync::{Arc, Mutex};

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::{Node, OpError};
use crate::lanes::Pool;
use crate::limits::{POOL_WAITING_MAX, SHARED_STORAGE_DEADLINE};
use crate::threads::lock;

/// Has `work` done on a files thread and `done` told its result there, waiting for nothing. When all
/// of them are stuck and their queue is full, `done` is told so at once. A storage that hangs tells
/// nothing: a caller that has a deadline keeps it itself.
pub fn hand_to_files_thread<T>(
    node: &Node,
    work: impl FnOnce() -> T + Send + 'static,
    done: impl FnOnce(Result<T, OpError>) + Send + 'static,
) {
    // Work that is refused is dropped; whoever is to be told must outlive it.
    let done = Arc::new(Mutex::new(Some(done)));
    let told = Arc::clone(&done);
    let job = Box::new(move || {
        let result = work();
        if let Some(done) = lock(&told).take() {
            done(Ok(result));
        }
    });
    if node.lanes.submit(Pool::Files, job).is_err()
        && let Some(done) = lock(&done).take()
    {
        done(Err(busy()));
    }
}

/// That shared storage has not answered in [`SHARED_STORAGE_DEADLINE`].
pub fn shared_storage_hangs() -> OpError {
    OpError::TimedOut { what: "shared storage", after: SHARED_STORAGE_DEADLINE }
}

fn busy() -> OpError {
    OpError::Busy { what: "operations on shared storage", max: POOL_WAITING_MAX }
}

/// Runs `work` on a files thread and waits for its result: for threads that serve one caller only.
///
/// # Errors
/// [`OpError::Busy`] when all files threads are stuck and their queue is full;
/// [`OpError::TimedOut`] when the storage does not answer (the work goes on, unheeded).
pub fn on_files_thread<T: Send + 'static>(
    node: &Node,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OpError> {
    let (done, result) = bounded(1);
    let job = Box::new(move || {
        // Nobody waits any more when the deadline has passed.
        let _ = done.send(work());
    });
    node.lanes.submit(Pool::Files, job).map_err(|_| busy())?;
    result.recv_timeout(SHARED_STORAGE_DEADLINE).map_err(|error| match error {
        RecvTimeoutError::Timeout => shared_storage_hangs(),
        RecvTimeoutError::Disconnected => OpError::Stopping,
    })
}
