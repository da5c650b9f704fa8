//! Errors to answers: the only status numbers of the API.

use serde_json::json;

use crate::model::ids::{NotATaskId, TaskId};
use crate::ops::OpError;
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
        match fault {
            // The list shape of contract 1.0.
            Fault::Invalid(Invalid(faults)) => Reply::json(422, &json!({ "detail": faults })),
            Fault::Op(error) => {
                let status = status(&error);
                if status >= 500 {
                    log::warn!("answered {status}: {error}");
                }
                Reply::detail(status, &error.to_string())
            }
        }
    }
}

fn status(error: &OpError) -> u16 {
    match error {
        OpError::NotKnown(_) => 404,
        OpError::InUse(_) | OpError::Denied { .. } => 409,
        OpError::Busy { .. } | OpError::TimedOut { .. } | OpError::Stopping => 503,
        OpError::LocalTempMissing(_)
        | OpError::Docker(_)
        | OpError::Image(_)
        | OpError::Unreadable { .. }
        | OpError::NoRandomness(_)
        | OpError::Store(_) => 500,
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
