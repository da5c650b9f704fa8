//! Watches directories inside a task's container for one peer. Reading them is a files thread's
//! work, as the user they are read as; called by `api::watch`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::files_thread::on_files_thread;
use super::inside::{self, Inside};
use super::{Node, OpError};
use crate::lanes::Pool;
use crate::limits::WATCH_PATHS_MAX;
use crate::machine::identity::Identity;
use crate::machine::tree_watch::RunJob;
pub use crate::machine::tree_watch::{
    Change, ChangeKind, Note, RemoteTrouble, TreeSession, Unwatched, Why,
};
use crate::model::ids::TaskId;

/// What is watched when the peer names nothing.
const PATHS_DEFAULT: [&str; 2] = ["/shared", "/local_temp"];

/// The paths of a comma list, trimmed, without empty ones.
pub fn wanted(list: &str) -> Vec<String> {
    let named: Vec<String> =
        list.split(',').map(str::trim).filter(|path| !path.is_empty()).map(String::from).collect();
    if named.is_empty() { PATHS_DEFAULT.map(String::from).to_vec() } else { named }
}

/// A watch of directories in a container.
#[derive(Debug)]
pub struct Watch {
    /// Those of the wanted paths that are directories, in the peer's order.
    pub paths: Vec<String>,
    pub session: TreeSession,
    /// The container; its process is the end of the watch too.
    pub inside: Arc<Inside>,
}

/// Begins to watch the directories of a comma list in the task's container. For session threads.
///
/// # Errors
/// There is no way into the container, none of the paths is a directory that its user may open, or
/// the system has no room for one more watch.
pub fn open(node: &Arc<Node>, id: TaskId, list: &str) -> Result<Watch, OpError> {
    let inside = inside::enter(node, id)?;
    let paths = wanted(list);
    if paths.len() > WATCH_PATHS_MAX {
        return Err(OpError::TooManyPaths(paths.len()));
    }
    let there = Arc::clone(&inside);
    let found = on_files_thread(node, move || -> io::Result<Vec<(String, OwnedFd)>> {
        let root = there.root()?;
        let _as_user = there.user.assume()?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let open = |path: String| {
            let absolute = Path::new("/").join(&path);
            Some((path, root.open(&absolute, flags, Mode::empty()).ok()?))
        };
        Ok(paths.into_iter().filter_map(open).collect())
    })?;
    let found = found.map_err(|_| OpError::NotRunning(id))?;
    if found.is_empty() {
        return Err(OpError::NothingToWatch);
    }
    let (paths, directories) =
        found.into_iter().map(|(path, open)| (path.clone(), (PathBuf::from(path), open))).unzip();
    let user = inside.user.clone();
    let session = start(node, directories, user).map_err(OpError::NoWatch)?;
    Ok(Watch { paths, session, inside })
}

/// Begins to watch the open `directories`, each under the path its peer knows. The
/// rights of `user` decide what may be read.
///
/// # Errors
/// No inotify instance, thread or file descriptor was to be had.
pub fn start(
    node: &Arc<Node>,
    directories: Vec<(PathBuf, OwnedFd)>,
    user: Identity,
) -> io::Result<TreeSession> {
    // The node owns all sessions: one of them must not own the node.
    let node_then = Arc::downgrade(node);
    let run: RunJob = Arc::new(move |job| {
        let Some(node) = node_then.upgrade() else { return false };
        node.lanes.submit(Pool::Files, job).is_ok()
    });
    node.tree_watches.open(directories, user, run)
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
