//! Stops a VPS: a snapshot of it if that is wished, then its container goes (contract 1.2, 5.10). The
//! wish is on disk before anything is done; a kill of ours in between goes on where it was.

use std::sync::Arc;

use super::{Told, pending, stale};
use crate::docker::{Removal, Volumes};
use crate::lanes::{Next, Place};
use crate::limits::{REMOVE_RETRY_PAUSE, VPS_STOP_GRACE};
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::{ContainerTrace, FinalStatus, Outcome, TaskRecord};
use crate::model::time::Stamp;
use crate::ops::snapshots::Making;
use crate::ops::task::finish::{clean_up, container_of, end, settle};
use crate::ops::task::outcome::withdrawn;
use crate::ops::task::{after, note_refusal, then, when_the_disk_is_back, when_the_engine_is_back};
use crate::ops::{Node, OpError, snapshots};
use crate::store::StoreError;

/// Whether there is something to stop.
///
/// # Errors
/// [`OpError::NotKnown`] for an id that is no live VPS.
pub fn can_stop(node: &Node, id: TaskId) -> Result<(), OpError> {
    let record = node.tasks.get(id).filter(|record| record.spec.vps().is_some());
    let is_there =
        record.is_some_and(|record| record.phase != Phase::Ended) || pending::holds(node, id);
    if is_there { Ok(()) } else { Err(OpError::NotKnown(id)) }
}

/// From now on the VPS is to stop; `told` hears when it has, or that the runner stops and the next one
/// goes on with it.
pub fn stop(node: &Arc<Node>, id: TaskId, told: Told<()>) {
    pending::end(node, id, "stopped by request");
    let late = node.vps.stops.add(id, told).err();
    let marked = node.tasks.update(id, |record| {
        if record.wanted == Wanted::Run {
            record.wanted = Wanted::Stopped;
            // The host has said `stopped` itself (contract 3.4).
            record.reports.clear();
        }
        record.phase
    });
    match marked {
        Ok(phase) if phase != Phase::Ended => {
            node.events.note(id, "stop_wanted");
            node.lanes.raise(id);
            late.into_iter().for_each(|told| told(Err(OpError::Stopping)));
        }
        Ok(_) | Err(StoreError::Missing(_)) => {
            node.vps.stops.tell(id, || Ok(()));
            late.into_iter().for_each(|told| told(Ok(())));
        }
        Err(error) => {
            log::error!("VPS {id}: its stop: {error}");
            let failed = || {
                let why = format!("its stop could not be recorded: {error}");
                Err(OpError::VpsFailed { id, why })
            };
            node.vps.stops.tell(id, failed);
            late.into_iter().for_each(|told| told(failed()));
        }
    }
}

/// Ends the VPS at once and leaves nothing of its container.
pub fn kill(node: &Arc<Node>, record: &TaskRecord, outcome: Outcome) -> Next {
    let id = record.spec.id;
    let removed = match container_of(node, record) {
        Ok(Some(container)) => {
            node.engine.remove_container(&container, Removal::Forced, Volumes::Remove)
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if !error.is_missing() => {
            note_refusal(id, "its kill", &error);
            when_the_engine_is_back(node, id, settle)
        }
        _ => finished(node, id, &outcome),
    }
}

/// The VPS is not to run: what was made for it goes. What an earlier VPS of the id has left is not that:
/// somebody's work may be in it.
pub fn withdraw(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let id = record.spec.id;
    if record.container == ContainerTrace::Possible {
        match node.engine.inspect_container(&record.spec.container_name()) {
            Ok(container) if stale::is_of_an_earlier_one(record, &container) => {
                let disowned =
                    node.tasks.update(id, |record| record.container = ContainerTrace::Removed);
                return match disowned {
                    Ok(()) => then(node, id, settle),
                    Err(StoreError::Missing(_)) => Next::Done,
                    Err(_) => when_the_disk_is_back(node, id, settle),
                };
            }
            Ok(_) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => {
                note_refusal(id, "its withdrawal", &error);
                return when_the_engine_is_back(node, id, settle);
            }
        }
    }
    kill(node, record, withdrawn())
}

/// Takes the container down, on the lane.
pub fn take_down(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let id = record.spec.id;
    let container = match container_of(node, record) {
        Ok(Some(container)) => container,
        // Already gone counts as stopped.
        Ok(None) => return stopped(node, id),
        Err(error) => {
            note_refusal(id, "its stop", &error);
            return when_the_engine_is_back(node, id, settle);
        }
    };
    let wants = node.settings.auto_snapshot_on_stop && record.vps.saved_as.is_none();
    let has_run = record.times.started.is_some() || record.vps.opened.is_some();
    let node = Arc::clone(node);
    Next::Then(
        Place::Patient,
        Box::new(move || {
            let making = Making::begin(&node, id);
            if wants && has_run {
                snapshots::save_before_stop(&node, id, &container, &making);
            }
            // Killed meanwhile; or our own end, and the next run goes on with what was saved.
            if making.is_cut() {
                return then(&node, id, settle);
            }
            let gone = node.engine.stop_container(&container, VPS_STOP_GRACE).and_then(|()| {
                node.engine.remove_container(&container, Removal::Forced, Volumes::Keep)
            });
            match gone {
                Ok(()) => {}
                Err(error) if error.is_missing() => {}
                Err(error) => {
                    note_refusal(id, "its stop", &error);
                    return after(&node, id, REMOVE_RETRY_PAUSE, settle);
                }
            }
            // Now that no container needs the old ones.
            if let Some(saved) = node.tasks.get(id).and_then(|record| record.vps.saved_as) {
                snapshots::tidy(&node, id, &saved, &making);
            }
            drop(making);
            then(&node, id, is_down)
        }),
    )
}

/// A kill may have come while its container went.
fn is_down(node: &Arc<Node>, id: TaskId) -> Next {
    match node.tasks.get(id) {
        Some(record) if record.wanted == Wanted::Killed => settle(node, id),
        _ => stopped(node, id),
    }
}

fn stopped(node: &Arc<Node>, id: TaskId) -> Next {
    let is_withdrawn = node.tasks.get(id).is_some_and(|record| record.wanted == Wanted::Withdrawn);
    let outcome = match is_withdrawn {
        true => withdrawn(),
        false => Outcome { status: FinalStatus::Stopped, exit_code: None, message: None },
    };
    finished(node, id, &outcome)
}

/// It is over, by whatever way: stops have what they want.
pub fn over(node: &Node, id: TaskId) {
    node.vps.stops.tell(id, || Ok(()));
}

fn finished(node: &Arc<Node>, id: TaskId, outcome: &Outcome) -> Next {
    match end(node, id, outcome, Some(Stamp::now())) {
        Ok(record) => {
            let next = clean_up(node, &record);
            if outcome.status == FinalStatus::Killed {
                snapshots::prune_soon(node, id);
            }
            over(node, id);
            next
        }
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, settle),
    }
}
