//! A command task's life. `execute` accepts and starts it, with `adopt` where a start was cut short;
//! `kill` and `freeze` are the verbs on it, `finish` ends it as `outcome` says, `recover` finds it
//! again after a restart or a lost event stream, and `lost` ends it if its record is no more.

mod adopt;
pub mod container;
mod engine_stop;
pub mod execute;
pub mod finish;
pub mod freeze;
pub mod kept;
pub mod kill;
pub mod logs;
pub mod lost;
pub mod outcome;
pub mod recover;

use std::sync::Arc;
use std::time::Duration;

use log::Level;

use super::Node;
use crate::docker::DockerError;
use crate::lanes::{Job, Next, Place};
use crate::limits::{ENGINE_RETRY_PAUSE, STORE_RETRY_PAUSE};
use crate::model::ids::TaskId;

/// A step of a lane's order: what to do for a task, and what comes next.
pub(super) type Step = fn(&Arc<Node>, TaskId) -> Next;

/// `step` as a job.
pub(super) fn job(node: &Arc<Node>, id: TaskId, step: Step) -> Job {
    let node = Arc::clone(node);
    Box::new(move || step(&node, id))
}

/// Goes on with `step` on a lane's worker.
pub(super) fn then(node: &Arc<Node>, id: TaskId, step: Step) -> Next {
    Next::Then(Place::Worker, job(node, id, step))
}

/// The Engine is away: what was accepted waits for it (design law 1). A raised flag ends the pause.
pub(super) fn when_the_engine_is_back(node: &Arc<Node>, id: TaskId, step: Step) -> Next {
    after(node, id, ENGINE_RETRY_PAUSE, step)
}

/// Says that the Engine did not do something for a task and is asked again. An Engine that is away
/// shows in `/health`; every task saying so every second would fill the log.
pub(super) fn note_refusal(id: TaskId, doing: &str, error: &DockerError) {
    let level = if error.is_engine_trouble() { Level::Debug } else { Level::Warn };
    log::log!(level, "task {id}: {doing}: {error}");
}

/// The state directory refused a write: nothing goes on before it is on disk.
pub(super) fn when_the_disk_is_back(node: &Arc<Node>, id: TaskId, step: Step) -> Next {
    after(node, id, STORE_RETRY_PAUSE, step)
}

pub(super) fn after(node: &Arc<Node>, id: TaskId, pause: Duration, step: Step) -> Next {
    Next::After(pause, job(node, id, step))
}
