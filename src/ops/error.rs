//! Why a verb failed: closed, with facts. `api::fault` gives each its status.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::files::FileFault;
use super::images::ImageFault;
use crate::docker::DockerError;
use crate::limits::WATCH_PATHS_MAX;
use crate::machine::process::PinFault;
use crate::model::ids::TaskId;
use crate::model::phase::{Denied, Verb};
use crate::store::StoreError;

/// A verb that was not done.
#[derive(Debug)]
pub enum OpError {
    /// No task of this id is known.
    NotKnown(TaskId),
    /// The id belongs to a task already.
    InUse(TaskId),
    /// The verb makes no sense in the task's phase.
    Denied {
        id: TaskId,
        verb: Verb,
        why: Denied,
    },
    /// What happens inside of it needs a running container.
    NotRunning(TaskId),
    /// A VPS ended before it ran.
    VpsFailed {
        id: TaskId,
        why: String,
    },
    /// A VPS has no snapshot more than before.
    SnapshotFailed {
        id: TaskId,
        why: String,
    },
    /// Neither bash nor sh is in the image.
    NoShell(TaskId),
    /// None of the paths is a directory that may be watched.
    NothingToWatch,
    TooManyPaths(usize),
    /// The system has no room for one more watch.
    NoWatch(io::Error),
    /// The system has no descriptor for one more session.
    NoSession(io::Error),
    /// A file inside a container.
    File {
        path: String,
        fault: FileFault,
    },
    /// This machine does not let us into the container.
    NoWayIn {
        id: TaskId,
        fault: PinFault,
    },
    /// `LOCAL_TEMP_DIR` is no directory.
    LocalTempMissing(PathBuf),
    /// A bound was reached; nothing was done.
    Busy {
        what: &'static str,
        max: usize,
    },
    /// Shared storage or the Engine did not answer in time.
    TimedOut {
        what: &'static str,
        after: Duration,
    },
    /// A file on shared storage is there and can't be read.
    Unreadable {
        path: PathBuf,
        source: io::Error,
    },
    /// The kernel gives no random bytes.
    NoRandomness(io::Error),
    /// The runner is on its way out.
    Stopping,
    Docker(DockerError),
    Image(Arc<ImageFault>),
    Store(StoreError),
}

impl From<DockerError> for OpError {
    fn from(error: DockerError) -> OpError {
        OpError::Docker(error)
    }
}

impl From<StoreError> for OpError {
    fn from(error: StoreError) -> OpError {
        match error {
            StoreError::Exists(id) => OpError::InUse(id),
            StoreError::Missing(id) => OpError::NotKnown(id),
            error @ (StoreError::InUse { .. }
            | StoreError::Io { .. }
            | StoreError::Blocked { .. }
            | StoreError::Unwritable { .. }) => OpError::Store(error),
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpError::NotKnown(id) => write!(f, "task {id} is not known to this runner"),
            OpError::InUse(id) => write!(f, "task {id} is known to this runner already"),
            OpError::Denied { id, verb, why } => {
                let verb = match verb {
                    Verb::Kill => "killed",
                    Verb::Pause => "paused",
                    Verb::Resume => "resumed",
                };
                write!(f, "task {id} can't be {verb}: {why}")
            }
            OpError::File { path, fault } => write!(f, "{path}: {fault}"),
            OpError::VpsFailed { id, why } => write!(f, "VPS {id} failed: {why}"),
            OpError::SnapshotFailed { id, why } => write!(f, "no snapshot of VPS {id}: {why}"),
            OpError::NotRunning(id) => write!(f, "task {id} is not running"),
            OpError::NoShell(id) => {
                write!(f, "the image of task {id} has no shell: neither /bin/bash nor /bin/sh")
            }
            OpError::NothingToWatch => {
                f.write_str("none of the paths is a directory in the container")
            }
            OpError::TooManyPaths(named) => {
                write!(f, "{named} paths are too many: at most {WATCH_PATHS_MAX} are watched")
            }
            OpError::NoWatch(source) => write!(f, "no watch is to be had: {source}"),
            OpError::NoSession(source) => write!(f, "no session is to be had: {source}"),
            OpError::NoWayIn { id, fault } => write!(f, "no way into task {id}: {fault}"),
            OpError::LocalTempMissing(path) => {
                write!(
                    f,
                    "LOCAL_TEMP_DIR {} is no directory: make it, or set LOCAL_TEMP_DIR",
                    path.display()
                )
            }
            OpError::Busy { what, max } => write!(f, "too many {what} at once (at most {max})"),
            OpError::TimedOut { what, after } => {
                write!(f, "{what} did not answer within {} s", after.as_secs())
            }
            OpError::Unreadable { path, source } => {
                write!(f, "can't read {}: {source}", path.display())
            }
            OpError::NoRandomness(source) => write!(f, "/dev/urandom: {source}"),
            OpError::Stopping => f.write_str("the runner is stopping"),
            OpError::Docker(error) => write!(f, "Docker Engine: {error}"),
            OpError::Image(fault) => fault.fmt(f),
            OpError::Store(error) => write!(f, "state directory: {error}"),
        }
    }
}

impl std::error::Error for OpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpError::Docker(error) => Some(error),
            OpError::Store(error) => Some(error),
            OpError::Unreadable { source, .. }
            | OpError::NoRandomness(source)
            | OpError::NoWatch(source)
            | OpError::NoSession(source) => Some(source),
            OpError::Image(fault) => Some(&**fault),
            OpError::NoWayIn { fault, .. } => Some(fault),
            OpError::File { fault, .. } => Some(fault),
            OpError::NotKnown(_)
            | OpError::InUse(_)
            | OpError::NotRunning(_)
            | OpError::VpsFailed { .. }
            | OpError::SnapshotFailed { .. }
            | OpError::NothingToWatch
            | OpError::TooManyPaths(_)
            | OpError::NoShell(_)
            | OpError::Denied { .. }
            | OpError::LocalTempMissing(_)
            | OpError::Busy { .. }
            | OpError::TimedOut { .. }
            | OpError::Stopping => None,
        }
    }
}
