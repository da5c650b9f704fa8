//! A container of an earlier VPS of the same id in the way of a new one: its stop could not remove it,
//! or the record of it was lost. It gives way; what it holds is saved first.

use std::sync::Arc;

use super::container::login_of;
use crate::docker::{Container, Removal, Volumes};
use crate::lanes::{Next, Place};
use crate::limits::REMOVE_RETRY_PAUSE;
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::model::task::{ContainerTrace, TaskRecord, Work};
use crate::model::time::Stamp;
use crate::model::vps::{Login, Vps};
use crate::ops::task::container::Essentials;
use crate::ops::task::execute::begin;
use crate::ops::task::finish::refuse;
use crate::ops::task::outcome::failed;
use crate::ops::task::{after, note_refusal, then, when_the_disk_is_back};
use crate::ops::{Node, OpError, snapshots};
use crate::store::StoreError;

/// Whether the container was made for another create of this id. Its own labels come before those that
/// a snapshot hands down.
pub fn is_of_an_earlier_one(record: &TaskRecord, container: &Container) -> bool {
    record.spec.vps().is_some()
        && Essentials::from_labels(&container.labels)
            .is_some_and(|made_for| made_for.accepted != record.times.accepted)
}

/// Saves the container, removes it, and begins again, with the new snapshot.
pub fn clear(node: &Arc<Node>, id: TaskId, container: Container) -> Next {
    log::warn!("VPS {id}: a container of an earlier VPS of this id is in the way; it gives way");
    let node = Arc::clone(node);
    Next::Then(
        Place::Patient,
        Box::new(move || {
            match save(&node, id, &container) {
                Ok(()) => {}
                // Our own end: the next run begins with it.
                Err(_) if node.stop.is_raised() => return then(&node, id, begin),
                Err(error) => return left_alone(&node, id, &error),
            }
            match node.engine.remove_container(&container.id, Removal::Forced, Volumes::Keep) {
                Err(error) if !error.is_missing() => {
                    note_refusal(id, "an earlier container of it", &error);
                    after(&node, id, REMOVE_RETRY_PAUSE, begin)
                }
                _ => begin_again(&node, id, &container),
            }
        }),
    )
}

/// Unless its stop has, or nothing ever ran in it.
fn save(node: &Arc<Node>, id: TaskId, container: &Container) -> Result<(), OpError> {
    if !node.settings.auto_snapshot_on_stop || container.started_at.is_none() {
        return Ok(());
    }
    let ended = container.finished_at.filter(|_| !container.running).map(Stamp::from);
    let saved = snapshots::latest(node, id)?;
    let saved = saved.and_then(|snapshot| i64::try_from(snapshot.timestamp).ok());
    let is_saved = ended.zip(saved).is_some_and(|(ended, at)| Stamp::from_seconds(at) > ended);
    if !is_saved {
        snapshots::make(node, id, &container.id, "before a new create")?;
    }
    Ok(())
}

/// It could not be saved: it stays, and the new VPS fails.
fn left_alone(node: &Arc<Node>, id: TaskId, error: &OpError) -> Next {
    let disowned = node.tasks.update(id, |record| record.container = ContainerTrace::Removed);
    if disowned.is_err() {
        return when_the_disk_is_back(node, id, begin);
    }
    let why = format!("a container of an earlier VPS of this id could not be saved: {error}");
    refuse(node, id, failed(why))
}

fn begin_again(node: &Arc<Node>, id: TaskId, container: &Container) -> Next {
    let back = node.tasks.update(id, |record| {
        if let Work::Vps { vps } = &mut record.spec.work
            && vps.login == Login::Open
            && !vps.is_remembered
        {
            let login = login_of(&container.labels).unwrap_or(Login::Kept);
            *vps = Vps { login, is_remembered: true };
        }
        if matches!(record.phase, Phase::Creating | Phase::Starting) {
            record.phase = Phase::Accepted;
            record.container = ContainerTrace::None;
            record.vps.restored_from = None;
        }
    });
    match back {
        Ok(()) => then(node, id, begin),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, begin),
    }
}
