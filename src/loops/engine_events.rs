//! Ends of containers, as the Engine tells them (design D4). The thread is the Engine room's; this
//! hands its events to `ops`, which asks for a reconciliation each time the stream stands anew.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use crate::docker::watch_ends;
use crate::ops::Node;
use crate::ops::task::container::LABEL_NODE;
use crate::ops::task::recover::engine_event;

/// Starts the `engine-events` thread.
///
/// # Errors
/// The thread could not be started.
pub fn start(node: &Arc<Node>) -> io::Result<JoinHandle<Option<()>>> {
    let label = format!("{LABEL_NODE}={}", node.settings.node_id);
    let owner = Arc::downgrade(node);
    watch_ends(&node.engine, &label, &node.stop, move |event| {
        if let Some(node) = Weak::upgrade(&owner) {
            engine_event(&node, event);
        }
    })
}
