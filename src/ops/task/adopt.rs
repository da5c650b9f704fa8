//! Takes up what an earlier start of a task has left at the Engine, ours or one before us: a container
//! that runs, one that has ended, one that never ran, or none. Part of `execute`'s order.

use std::sync::Arc;

use super::container::is_ours;
use super::execute::{begin, own_and_start, started, user_shift};
use super::finish::{refuse, settle};
use super::logs::{self, Owner};
use super::outcome::{failed, lost, refused_by_engine};
use super::{note_refusal, then, when_the_disk_is_back, when_the_engine_is_back};
use crate::docker::{Container, DockerError, Removal, Volumes};
use crate::lanes::{Next, Place};
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::model::task::ContainerTrace;
use crate::model::time::Stamp;
use crate::ops::node::Exit;
use crate::ops::{Node, vps};
use crate::store::StoreError;
use crate::threads::lock;

/// A container of the task's name exists, or may: take it over if it is ours, and go on.
pub fn adopt(node: &Arc<Node>, id: TaskId) -> Next {
    let Some(record) = node.tasks.get(id) else { return Next::Done };
    let container = match node.engine.inspect_container(&record.spec.container_name()) {
        Ok(container) => container,
        Err(error) if error.is_missing() => return create_again(node, id),
        // It may run: no answer to a question ends a task.
        Err(error) => {
            note_refusal(id, "its container", &error);
            return when_the_engine_is_back(node, id, begin);
        }
    };
    if !is_ours(&node.settings, &container.labels) {
        let disowned = node.tasks.update(id, |record| record.container = ContainerTrace::Removed);
        if disowned.is_err() {
            return when_the_disk_is_back(node, id, begin);
        }
        let name = record.spec.container_name();
        let message = format!("a container {name} that is not ours is in the way: remove it");
        return refuse(node, id, failed(message));
    }
    if vps::stale::is_of_an_earlier_one(&record, &container) {
        return vps::stale::clear(node, id, container);
    }
    take_over(node, id, &container)
}

fn take_over(node: &Arc<Node>, id: TaskId, container: &Container) -> Next {
    let marked = node
        .tasks
        .update(id, |record| record.container = ContainerTrace::Known(container.id.clone()));
    if marked.is_err() {
        return when_the_disk_is_back(node, id, begin);
    }
    // One that ended before its start was noted has an end all the same, and is not to run again.
    match container.started_at.or(container.finished_at).map(Stamp::from) {
        None => start_unless_it_ran(node, id, container),
        Some(at) if container.running => started(node, id, at),
        Some(at) => {
            lock(&node.exits).entry(id).or_insert(Exit::Found);
            match started(node, id, at) {
                Next::Done => settle(node, id),
                later => later,
            }
        }
    }
}

/// The Engine knows of no start. One that ended while it started the container has forgotten it (seen
/// with 20.10 on SIGTERM), and it must not run twice: the task's own output file is the witness.
fn start_unless_it_ran(node: &Arc<Node>, id: TaskId, container: &Container) -> Next {
    let Some(record) = node.tasks.get(id) else { return Next::Done };
    let owner = Owner::of_image(&container.user, user_shift(node));
    let (node, container) = (Arc::clone(node), container.id.clone());
    let logs = record.spec.command().map(|command| command.logs.clone());
    let made = record.output_made.filter(|_| record.phase == Phase::Starting);
    let (Some(made), Some(files)) = (made, logs) else {
        return own_and_start(&node, id, container, owner);
    };
    Next::Then(
        Place::Files,
        Box::new(move || {
            let ran = logs::is_touched(&files, made);
            Next::Then(
                Place::Worker,
                Box::new(move || match ran {
                    false => own_and_start(&node, id, container, owner),
                    true => refuse(&node, id, lost()),
                }),
            )
        }),
    )
}

/// The create of an earlier run never happened: go back to where the image is known.
fn create_again(node: &Arc<Node>, id: TaskId) -> Next {
    let back = node.tasks.update(id, |record| {
        if record.phase == Phase::Creating {
            record.phase = Phase::Accepted;
            record.container = ContainerTrace::None;
        }
        record.phase
    });
    match back {
        Ok(Phase::Accepted) => then(node, id, begin),
        Ok(_) => {
            lock(&node.exits).insert(id, Exit::Found);
            settle(node, id)
        }
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, begin),
    }
}

/// Replaces a container that never ran. Not forced: one that runs after all is a conflict, and taken
/// over.
pub fn make_anew(node: &Arc<Node>, id: TaskId, container: &str, why: &DockerError) -> Next {
    log::warn!("task {id}: {why}; its container is made anew");
    match node.engine.remove_container(container, Removal::Ended, Volumes::Remove) {
        Ok(()) => {}
        Err(error) if error.is_missing() => {}
        Err(error) if error.is_conflict() || error.is_unclear() => {
            return when_the_engine_is_back(node, id, begin);
        }
        // It neither starts nor goes, and may stay so until the machine restarts.
        Err(_) => return refuse(node, id, refused_by_engine(why)),
    }
    let back = node.tasks.update(id, |record| {
        if record.phase == Phase::Starting {
            record.phase = Phase::Accepted;
            record.container = ContainerTrace::None;
        }
    });
    match back {
        Ok(()) => then(node, id, begin),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, begin),
    }
}
