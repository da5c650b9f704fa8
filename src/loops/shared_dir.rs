//! Looks at SHARED_DIR by the clock, for `/health`. Nothing waits for this thread: it hangs as long as
//! the share does.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::limits::{PANIC_REST, SHARED_DIR_LOOK_EVERY, STACK_BYTES};
use crate::ops::{Node, shared_dir};
use crate::threads;

/// Starts the `shared-dir` thread.
///
/// # Errors
/// The thread could not be started.
pub fn start(node: &Arc<Node>) -> io::Result<JoinHandle<Option<()>>> {
    let node = Arc::clone(node);
    let stop = node.stop.clone();
    let rest = move || stop.wait(PANIC_REST);
    threads::spawn_kept("shared-dir", STACK_BYTES, rest, move || {
        while !node.stop.is_raised() {
            shared_dir::look(&node);
            if node.stop.wait(SHARED_DIR_LOOK_EVERY) {
                return;
            }
        }
    })
}
