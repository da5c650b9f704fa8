//! Work on shared storage for callers that belong to no lane: it runs on a `files-N` thread, so that
//! a directory that hangs holds none of ours (design law 5).

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::{Node, OpError};
use crate::lanes::Pool;
use crate::limits::{POOL_WAITING_MAX, SHARED_STORAGE_DEADLINE};

/// Has `work` done on a files thread and waits for nothing. When all of them are stuck and their queue
/// is full, `work` is dropped, and whoever it was to answer is told that nothing came.
pub fn post_to_files_thread(node: &Node, work: impl FnOnce() + Send + 'static) {
    if node.lanes.submit(Pool::Files, Box::new(work)).is_err() {
        log::warn!("shared storage: {POOL_WAITING_MAX} operations wait already");
    }
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
    node.lanes.submit(Pool::Files, job).map_err(|_| OpError::Busy {
        what: "operations on shared storage",
        max: POOL_WAITING_MAX,
    })?;
    result.recv_timeout(SHARED_STORAGE_DEADLINE).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            OpError::TimedOut { what: "shared storage", after: SHARED_STORAGE_DEADLINE }
        }
        RecvTimeoutError::Disconnected => OpError::Stopping,
    })
}
