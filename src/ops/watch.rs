//! Watches directories inside a task's container for one peer. Reading them is a files thread's
//! work, as the user they are read as; called by `api::watch`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::Node;
use crate::lanes::Pool;
pub use crate::machine::tree_watch::{Change, ChangeKind, Note, TreeSession, Unwatched, Why};
use crate::machine::tree_watch::{Job, RunJob};

/// What is watched when the peer names nothing.
const PATHS_DEFAULT: [&str; 2] = ["/shared", "/local_temp"];

/// The paths of a comma list, trimmed, without empty ones.
pub fn wanted(list: &str) -> Vec<String> {
    let named: Vec<String> =
        list.split(',').map(str::trim).filter(|path| !path.is_empty()).map(String::from).collect();
    if named.is_empty() { PATHS_DEFAULT.map(String::from).to_vec() } else { named }
}

/// Begins to watch the open `directories`, each under the path its peer knows. `run_as` runs a job
/// as the user whose rights decide what may be read.
///
/// # Errors
/// No inotify instance, thread or file descriptor was to be had.
pub fn start(
    node: &Arc<Node>,
    directories: Vec<(PathBuf, OwnedFd)>,
    run_as: impl Fn(Job) + Clone + Send + Sync + 'static,
) -> io::Result<TreeSession> {
    // The node owns all sessions: one of them must not own the node.
    let node_then = Arc::downgrade(node);
    let run: RunJob = Arc::new(move |job| {
        let Some(node) = node_then.upgrade() else { return false };
        let run_as = run_as.clone();
        node.lanes.submit(Pool::Files, Box::new(move || run_as(job))).is_ok()
    });
    node.tree_watches.open(directories, run)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn paths_are_trimmed_and_nothing_named_is_the_default() {
        assert_eq!(wanted(" /a ,,/b c, "), ["/a", "/b c"]);
        assert_eq!(wanted(" , "), PATHS_DEFAULT);
    }
}
