//! The way into a task's running container: its first process held, and whose rights its user has
//! there (design D7). Files, watches and terminals come through here, and nobody else knows that it
//! is a container. Asks the Engine and reads the container's files: for session and files threads.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};

use super::task::container::is_ours;
use super::{Node, OpError};
use crate::limits::PASSWD_BYTES_MAX;
use crate::machine::disk;
use crate::machine::identity::{IdMap, Identity};
use crate::machine::process::{PinFault, Process};
use crate::machine::root::{Root, reopen};
use crate::model::account::Account;
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::threads::lock;

/// The ways that are known, each until its container ends.
pub type Insides = Mutex<HashMap<TaskId, Arc<Inside>>>;

/// A running container, as one of its processes sees it.
#[derive(Debug)]
pub struct Inside {
    pub process: Process,
    /// The Engine's id of it.
    pub container: String,
    /// Its default user, with this machine's numbers.
    pub user: Identity,
    /// How it counts users.
    pub users: IdMap,
}

impl Inside {
    /// Its root directory.
    ///
    /// # Errors
    /// It has ended.
    pub fn root(&self) -> io::Result<Root> {
        Root::of(&self.process)
    }

    /// Whether it has ended, or is so far gone that its mounts may be.
    pub fn has_ended(&self) -> bool {
        let gone = [Some(libc::ESRCH), Some(libc::ENOENT)];
        self.root().is_err_and(|error| gone.contains(&error.raw_os_error()))
    }
}

/// The way into the task's container, paused ones included.
///
/// # Errors
/// The task is not known or does not run, or the Engine or this machine does not let us in.
pub fn enter(node: &Node, id: TaskId) -> Result<Arc<Inside>, OpError> {
    let record = node.tasks.find(id)?;
    if !matches!(record.phase, Phase::Running | Phase::Paused) {
        return Err(OpError::NotRunning(id));
    }
    let known = lock(&node.insides).get(&id).cloned();
    if let Some(inside) = known.filter(|inside| inside.process.is_alive()) {
        return Ok(inside);
    }
    let container = match node.engine.inspect_container(&record.spec.container_name()) {
        Ok(container) => container,
        Err(error) if error.is_missing() => return Err(OpError::NotRunning(id)),
        Err(error) => return Err(error.into()),
    };
    let pid = container.pid.filter(|_| is_ours(&node.settings, &container.labels));
    let pid = pid.ok_or(OpError::NotRunning(id))?;
    let fault = |fault: PinFault| match fault {
        PinFault::Gone => OpError::NotRunning(id),
        fault @ (PinFault::Foreign | PinFault::System(_)) => OpError::NoWayIn { id, fault },
    };
    let process = Process::pin(pid, &container.id).map_err(fault)?;
    let user = user_of(&process, &container.user);
    let (user, users) = user.map_err(|error| fault(PinFault::from(error)))?;
    let inside = Arc::new(Inside { process, container: container.id, user, users });
    let mut insides = lock(&node.insides);
    insides.retain(|_, inside| inside.process.is_alive());
    insides.insert(id, Arc::clone(&inside));
    Ok(inside)
}

/// Forgets the way into a container that has ended.
pub fn forget(node: &Node, id: TaskId) {
    lock(&node.insides).remove(&id);
}

/// Who `docker exec` would be; of a name that the container does not know, nobody with any rights.
fn user_of(process: &Process, user: &str) -> io::Result<(Identity, IdMap)> {
    let root = Root::of(process)?;
    let passwd = small_text(&root, "/etc/passwd");
    let group = small_text(&root, "/etc/group");
    let account = Account::find(user, &passwd, &group);
    let account = account.unwrap_or(Account { uid: NOBODY, gid: NOBODY, groups: Vec::new() });
    let (users, groups) = (IdMap::of_users(process)?, IdMap::of_groups(process)?);
    let identity = Identity {
        uid: users.outside(account.uid).unwrap_or(NOBODY),
        gid: groups.outside(account.gid).unwrap_or(NOBODY),
        groups: account.groups.iter().filter_map(|&group| groups.outside(group)).collect(),
    };
    Ok((identity, users))
}

/// The kernel's number for users that have none (`overflowuid`).
const NOBODY: u32 = 65_534;

/// A file of the container's `/etc`; empty if it is not there, is too large or no file.
pub fn small_text(root: &Root, path: &str) -> String {
    let read = || -> io::Result<String> {
        // Held first, for a link may lead anywhere: some devices act when they are only opened.
        let held = root.open(Path::new(path), OFlag::O_PATH, Mode::empty())?;
        let is_file = fstat(&held)?.st_mode & libc::S_IFMT == libc::S_IFREG;
        if !is_file || disk::kind_of(&held)? == disk::Kind::Kernel {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = reopen(&held, libc::O_RDONLY)?;
        let mut bytes = Vec::new();
        file.take(PASSWD_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}
