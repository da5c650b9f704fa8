//! Makes a snapshot, one at a time per VPS: as an order on its lane, so that a stop waits for it; or as
//! a part of that stop. A kill ends it in the middle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::flatten::flatten;
use super::{LABEL_SNAPSHOT, MadeOf, Snapshot, latest, list, no_snapshot, repository, tag_of};
use crate::docker::{Commit, DockerError};
use crate::lanes::{Next, Place};
use crate::limits::{SNAPSHOT_ENGINE_LOOK, SNAPSHOT_ENGINE_PATIENCE, SNAPSHOT_TRIES};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::TaskRecord;
use crate::model::time::Stamp;
use crate::ops::task::container::{LABEL_NODE, LABEL_RECORD};
use crate::ops::task::finish::container_of;
use crate::ops::vps::Told;
use crate::ops::{Node, OpError};
use crate::stop::{Hooked, Stop};
use crate::threads::lock;

/// A snapshot under way: a kill finds it here, and so does our own end.
pub struct Making {
    node: Arc<Node>,
    id: TaskId,
    cut: Stop,
    _hooked: Hooked,
}

impl Making {
    /// On the VPS's lane: there is no other one.
    pub fn begin(node: &Arc<Node>, id: TaskId) -> Making {
        let cut = Stop::new();
        let ours = cut.clone();
        let hooked = node.stop.while_held(move || ours.raise());
        lock(&node.vps.makings).insert(id, cut.clone());
        // A kill that was wanted before it could find us.
        if node.tasks.get(id).is_none_or(|record| record.wanted == Wanted::Killed) {
            cut.raise();
        }
        Making { node: Arc::clone(node), id, cut, _hooked: hooked }
    }

    /// Whether the VPS is killed, or the runner ends.
    pub fn is_cut(&self) -> bool {
        self.cut.is_raised()
    }

    pub(super) fn stop(&self) -> &Stop {
        &self.cut
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs(self.node.settings.snapshot_timeout)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.node.vps.makings).remove(&self.id);
    }
}

/// Makes a snapshot of a live VPS; `told` hears its tag, or why there is none.
pub fn create(node: &Arc<Node>, id: TaskId, message: Option<String>, told: Told<String>) {
    let record = node.tasks.get(id).filter(|record| record.spec.vps().is_some());
    let Some(record) = record.filter(|record| record.phase != Phase::Ended) else {
        return told(Err(OpError::NotKnown(id)));
    };
    let owner = Arc::clone(node);
    let job = move || {
        let message = message.unwrap_or_else(|| format!("snapshot of VPS {id}"));
        told(container(&owner, id).and_then(|found| make(&owner, id, &found, &message)));
        Next::Done
    };
    let order = Box::new(move || Next::Then(Place::Patient, Box::new(job)));
    // An order that is refused takes `told` with it, and its caller is told that nothing came.
    let posted = node.lanes.post(id, record.spec.placement.node(), "snapshot", order);
    if let Err(refused) = posted {
        log::warn!("VPS {id}: a snapshot of it: {refused}");
    }
}

fn container(node: &Node, id: TaskId) -> Result<String, OpError> {
    let record = node.tasks.get(id).filter(|record| record.phase != Phase::Ended);
    let container = container_of(node, &record.ok_or(OpError::NotKnown(id))?)?;
    container.ok_or_else(|| no_snapshot(id, "it has no container"))
}

/// Makes one of this container, and gives its tag. On the VPS's lane, on a patient thread.
///
/// # Errors
/// The Engine could not, or a kill came.
pub fn make(
    node: &Arc<Node>,
    id: TaskId,
    container: &str,
    message: &str,
) -> Result<String, OpError> {
    let making = Making::begin(node, id);
    let tag = commit(node, id, container, message, &making, false)?;
    tidy(node, id, &tag, &making);
    Ok(tag)
}

/// The snapshot of a stop, after which the container is removed: of an Engine that breaks it off it is
/// wanted again. One that can't be made does not prevent the stop (contract 5.9).
pub fn save_before_stop(node: &Node, id: TaskId, container: &str, making: &Making) {
    let mut tries = 0;
    while !making.is_cut() {
        if is_saved(node, id) {
            return;
        }
        tries += 1;
        let error = match commit(node, id, container, "before its stop", making, true) {
            Ok(tag) => return saved(node, id, tag),
            Err(error) => error,
        };
        let is_broken = matches!(&error, OpError::Docker(error)
            if error.is_engine_trouble() && !error.is_timeout());
        if making.is_cut() {
            return;
        }
        if !is_broken || tries >= SNAPSHOT_TRIES || !engine_comes_back(node, making) {
            log::error!("VPS {id}: no snapshot before its stop: {error}");
            return;
        }
        log::warn!("VPS {id}: its snapshot is tried again: {error}");
    }
}

/// One that was begun for this stop may have got its name all the same, after we had left.
fn is_saved(node: &Node, id: TaskId) -> bool {
    let Some(record) = node.tasks.get(id) else { return true };
    let Some(tag) = record.vps.saving_as else { return false };
    let there = list(node, id).is_ok_and(|all| all.iter().any(|snapshot| snapshot.tag == tag));
    if there {
        saved(node, id, tag);
    }
    there
}

fn saved(node: &Node, id: TaskId, tag: String) {
    let noted = node.tasks.update(id, |record| record.vps.saved_as = Some(tag));
    if let Err(error) = noted {
        log::error!("VPS {id}: {error}");
    }
}

fn engine_comes_back(node: &Node, making: &Making) -> bool {
    let until = Instant::now() + SNAPSHOT_ENGINE_PATIENCE;
    while Instant::now() < until && !making.cut.wait(SNAPSHOT_ENGINE_LOOK) {
        if node.engine.probe().is_ok() {
            return true;
        }
    }
    false
}

/// Commits the container, and gives the new image's name.
fn commit(
    node: &Node,
    id: TaskId,
    container: &str,
    message: &str,
    making: &Making,
    is_of_stop: bool,
) -> Result<String, OpError> {
    let record = node.tasks.get(id).ok_or(OpError::NotKnown(id))?;
    let base_bytes = base_bytes(node, container)?;
    let timestamp = timestamp(node, &record)?;
    let tag = tag_of(id, timestamp);
    let begun = node.tasks.update(id, |record| {
        record.vps.last_snapshot = timestamp;
        if is_of_stop {
            record.vps.saving_as = Some(tag.clone());
        }
    });
    if let Err(error) = begun {
        log::error!("VPS {id}: {error}");
    }
    let made = MadeOf { timestamp, base_bytes, node_id: node.settings.node_id.clone() };
    // Whatever is made of it must not pass for ours: owner and record are the container's alone.
    let labels = json!({ LABEL_SNAPSHOT: made.to_label(), LABEL_NODE: "", LABEL_RECORD: "" });
    let commit = Commit {
        repository: &repository(id),
        tag: &timestamp.to_string(),
        message,
        config: &json!({ "Labels": labels }),
    };
    let began = Instant::now();
    let (deadline, stop) = (making.deadline(), making.stop());
    node.engine.commit_container(container, commit, deadline, stop).map_err(|error| {
        let is_killed = node.tasks.get(id).is_none_or(|record| record.wanted == Wanted::Killed);
        match error {
            DockerError::Stopped { .. } if is_killed => no_snapshot(id, "it was killed meanwhile"),
            error => OpError::Docker(error),
        }
    })?;
    metrics::SNAPSHOTS_MADE.up();
    node.events.note(id, "snapshot");
    log::info!("VPS {id}: snapshot {tag} in {} ms", began.elapsed().as_millis());
    Ok(tag)
}

/// How large the image is that the container was made from; `None` where that is gone.
fn base_bytes(node: &Node, container: &str) -> Result<Option<u64>, DockerError> {
    let image = node.engine.inspect_container(container)?.image_id;
    match node.engine.inspect_image_build(&image) {
        Ok(image) => Ok(u64::try_from(image.size).ok()),
        Err(error) if error.is_engine_trouble() => Err(error),
        Err(_) => Ok(None),
    }
}

/// The second, or the next that no snapshot of this id has or may still get: two in one second would be
/// one.
fn timestamp(node: &Node, record: &TaskRecord) -> Result<u64, DockerError> {
    let newest = latest(node, record.spec.id)?.map_or(0, |snapshot| snapshot.timestamp);
    let now = u64::try_from(Stamp::now().micros() / 1_000_000).unwrap_or(0);
    Ok(now.max(newest.max(record.vps.last_snapshot).saturating_add(1)))
}

/// What follows a snapshot: into one layer if it has too many, and the oldest away. Failures are only
/// logged: the snapshot is good.
pub fn tidy(node: &Node, id: TaskId, tag: &str, making: &Making) {
    if let Err(error) = flatten(node, id, tag, making) {
        log::error!("VPS {id}: {tag} keeps its layers, the next snapshot is tried again: {error}");
    }
    prune(node, id);
}

/// Removes the oldest beyond `max_snapshots_per_vps`. What a container was made from stays as long as
/// that is there; at its end they are counted again, so that the limit holds then.
fn prune(node: &Node, id: TaskId) {
    let kept = match node.settings.max_snapshots_per_vps {
        0 => return,
        kept => usize::try_from(kept).unwrap_or(usize::MAX),
    };
    let snapshots = match list(node, id) {
        Ok(snapshots) => snapshots,
        Err(error) => return log::warn!("VPS {id}: old snapshots stay for now: {error}"),
    };
    for Snapshot { tag, .. } in snapshots.iter().skip(kept) {
        match node.engine.remove_image(tag) {
            Ok(()) => log::info!("VPS {id}: removed the old snapshot {tag}"),
            Err(error) if error.is_missing() => {}
            Err(error) if error.is_conflict() => {
                log::info!("VPS {id}: the old snapshot {tag} is in use and stays for now");
            }
            Err(error) => log::warn!("VPS {id}: the old snapshot {tag} stays for now: {error}"),
        }
    }
}

/// The container is gone: the snapshot that it was made from may be one too many.
pub fn prune_soon(node: &Arc<Node>, id: TaskId) {
    super::off_lane(node, move |node| prune(node, id));
}
