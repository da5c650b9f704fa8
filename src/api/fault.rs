//! Errors to answers: the only status numbers of the API.

use serde_json::json;

use crate::model::ids::{NotATaskId, TaskId};
use crate::ops::OpError;
use crate::ops::files::FileFault;
use crate::serve::Reply;
use crate::wire::api::fields::Invalid;

/// Why a call gets no good answer.
#[derive(Debug)]
pub enum Fault {
    Invalid(Invalid),
    Op(OpError),
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Fault {
        Fault::Invalid(invalid)
    }
}

impl From<OpError> for Fault {
    fn from(error: OpError) -> Fault {
        Fault::Op(error)
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Reply {
        if let Fault::Op(error) = &fault
            && status(error) >= 500
        {
            log::warn!("answered {}: {error}", status(error));
        }
        fault.in_reserve()
    }
}

impl Fault {
    /// The answer, and no line in the log: for one that may never be sent.
    pub fn in_reserve(self) -> Reply {
        match self {
            // The list shape of contract 1.0.
            Fault::Invalid(Invalid(faults)) => Reply::json(422, &json!({ "detail": faults })),
            Fault::Op(error) => Reply::detail(status(&error), &error.to_string()),
        }
    }
}

fn status(error: &OpError) -> u16 {
    match error {
        // Contract 8.2.
        OpError::NotRunning(_)
        | OpError::NothingToWatch
        | OpError::TooManyPaths(_)
        | OpError::NoShell(_) => 400,
        OpError::File { fault, .. } => file_status(fault),
        OpError::NotKnown(_) => 404,
        OpError::InUse(_) | OpError::Denied { .. } => 409,
        OpError::Busy { .. } | OpError::TimedOut { .. } | OpError::Stopping => 503,
        // Passes as soon as somebody makes room; nothing was done, so it may be tried elsewhere.
        OpError::Store(error) if error.is_for_want_of_room() => 503,
        OpError::LocalTempMissing(_)
        | OpError::NoWatch(_)
        | OpError::NoSession(_)
        | OpError::VpsFailed { .. }
        | OpError::SnapshotFailed { .. }
        | OpError::NoWayIn { .. }
        | OpError::Docker(_)
        | OpError::Image(_)
        | OpError::Unreadable { .. }
        | OpError::NoRandomness(_)
        | OpError::Store(_) => 500,
    }
}

/// Contract 8.3.
fn file_status(fault: &FileFault) -> u16 {
    match fault {
        FileFault::Path(_)
        | FileFault::NotADirectory
        | FileFault::IsADirectory
        | FileFault::NotAFile
        | FileFault::NotRecursive
        | FileFault::LinksTooFar
        | FileFault::NameTooLong
        | FileFault::NotBase64 => 400,
        FileFault::Denied => 403,
        FileFault::Missing => 404,
        FileFault::Exists => 409,
        FileFault::TooLarge => 413,
        FileFault::TooLong => 503,
        FileFault::NoParent
        | FileFault::OverDirectory
        | FileFault::Mount
        | FileFault::TooDeep
        | FileFault::System(_) => 500,
    }
}

/// The id in a path.
///
/// # Errors
/// 422 naming the path parameter.
pub fn task_id_in_path(text: &str) -> Result<TaskId, Fault> {
    text.parse().map_err(|error: NotATaskId| {
        Invalid::value("path", "task_id", error.to_string(), text.into()).into()
    })
}
