//! Looks at the SSH ports of VPS that are being set up, until a server answers. Asleep while there are
//! none.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;

use crate::limits::{PANIC_REST, STACK_BYTES, VPS_DOOR_EVERY};
use crate::ops::Node;
use crate::ops::vps::door;
use crate::threads;

/// Starts the `doors` thread; `wanted` says that there is something to look at.
///
/// # Errors
/// The thread could not be started.
pub fn start(node: &Arc<Node>, wanted: Receiver<()>) -> io::Result<JoinHandle<Option<()>>> {
    let node = Arc::clone(node);
    let stop = node.stop.clone();
    let rest = move || stop.wait(PANIC_REST);
    threads::spawn_kept("doors", STACK_BYTES, rest, move || run(&node, &wanted))
}

fn run(node: &Arc<Node>, wanted: &Receiver<()>) {
    while wanted.recv().is_ok() && !node.stop.is_raised() {
        while door::look(node) && !node.stop.wait(VPS_DOOR_EVERY) {}
    }
}
