//! Pauses and resumes a task: the Engine's freezer, on the task's lane. The host changes its own
//! records; nothing is reported (contract 1.1).

use std::sync::Arc;

use super::finish::container_of;
use crate::docker::DockerError;
use crate::lanes::Next;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Verb, Verdict, decide};
use crate::model::task::TaskRecord;
use crate::ops::node::Exit;
use crate::ops::{Node, OpError};
use crate::threads::lock;

/// Told once, from whatever thread, when the verb is done or can't be.
pub type Done = Box<dyn FnOnce(Result<(), OpError>) + Send>;

/// Freezes a running task. A second pause is no error.
pub fn pause(node: &Arc<Node>, id: TaskId, done: Done) {
    post(node, id, Verb::Pause, done);
}

/// Thaws a paused task. A second resume is no error.
pub fn resume(node: &Arc<Node>, id: TaskId, done: Done) {
    post(node, id, Verb::Resume, done);
}

fn post(node: &Arc<Node>, id: TaskId, verb: Verb, done: Done) {
    // What can't be is said at once: a lane may be long at an image.
    let numa_node = match may(node, id, verb) {
        Ok(record) => record.spec.placement.node(),
        Err(error) => return done(Err(error)),
    };
    let owner = Arc::clone(node);
    let job = Box::new(move || {
        done(change(&owner, id, verb));
        Next::Done
    });
    // A job that is refused takes `done` with it, and its caller is told that nothing came.
    if let Err(refused) = node.lanes.post(id, numa_node, "freeze", job) {
        log::warn!("task {id}: {verb:?}: {refused}");
    }
}

fn change(node: &Arc<Node>, id: TaskId, verb: Verb) -> Result<(), OpError> {
    let record = may(node, id, verb)?;
    let container = container_of(node, &record)?.ok_or(OpError::NotKnown(id))?;
    let (asked, phase, event) = match verb {
        Verb::Pause => (node.engine.pause_container(&container), Phase::Paused, "paused"),
        Verb::Resume | Verb::Kill => {
            (node.engine.unpause_container(&container), Phase::Running, "resumed")
        }
    };
    match asked {
        Ok(()) => {}
        Err(error) => already(node, &container, phase, error)?,
    }
    let changed = node.tasks.update(id, |record| {
        let changes = matches!(record.phase, Phase::Running | Phase::Paused);
        changes && std::mem::replace(&mut record.phase, phase) != phase
    })?;
    if changed {
        node.events.note(id, event);
        if phase == Phase::Running && record.spec.vps().is_some() {
            // Its port may have moved meanwhile.
            lock(&node.exits).entry(id).or_insert(Exit::Found);
            node.lanes.raise(id);
        }
    }
    Ok(())
}

/// The Engine refused. If the container is in the wanted state all the same, somebody else, or an
/// earlier call whose answer was lost, did it.
fn already(
    node: &Node,
    container: &str,
    wanted: Phase,
    error: DockerError,
) -> Result<(), DockerError> {
    let container = node.engine.inspect_container(container)?;
    let is_so = container.running && container.paused == (wanted == Phase::Paused);
    if is_so { Ok(()) } else { Err(error) }
}

/// The task's record, if `verb` makes sense for it. One that seems done already goes on to the Engine
/// all the same: somebody else may have paused or resumed the container there (design law 3).
fn may(node: &Node, id: TaskId, verb: Verb) -> Result<TaskRecord, OpError> {
    let record = node.tasks.get(id).ok_or(OpError::NotKnown(id))?;
    match decide(record.phase, record.wanted, verb) {
        Ok(Verdict::Go | Verdict::AlreadySo | Verdict::EndHere) => Ok(record),
        // To the host it is not known any more, whether its record is put away already or not.
        Err(_) if record.phase == Phase::Ended => Err(OpError::NotKnown(id)),
        Err(why) => Err(OpError::Denied { id, verb, why }),
    }
}
