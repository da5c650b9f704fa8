//! Snapshots of VPS: images `kohakuriver-snapshot/vps-{id}:{unix seconds}` (contract 5.9). The Engine is
//! the only one who knows them; nothing is remembered here. `make` commits and prunes on the VPS's
//! lane, `flatten` copies those of too many layers into one.

mod flatten;
mod make;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use flatten::sweep_soon;
pub use make::{Making, create, make, prune_soon, save_before_stop, tidy};

use super::{Node, OpError};
use crate::docker::{DockerError, ImageSummary};
use crate::lanes::Pool;
use crate::limits::POOL_WAITING_MAX;
use crate::model::ids::TaskId;
use crate::model::time::Stamp;

/// `TIMESTAMP BASE_BYTES NODE_ID`: when it was made, how large the image was that its container came
/// from (empty: unknown), and by whom. Inherited by containers and by what others make of them, so
/// that it counts only beside a tag of the same timestamp.
const LABEL_SNAPSHOT: &str = "river-runner.snapshot";

/// One snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Repository and tag.
    pub tag: String,
    /// Unix seconds: the number in its tag.
    pub timestamp: u64,
    pub created: Stamp,
    pub size_bytes: u64,
    /// What it added to the disk; unknown of those that others made.
    pub unique_bytes: Option<u64>,
    pub labels: BTreeMap<String, String>,
}

fn repository(id: TaskId) -> String {
    format!("kohakuriver-snapshot/vps-{id}")
}

fn tag_of(id: TaskId, timestamp: u64) -> String {
    format!("{}:{timestamp}", repository(id))
}

/// `None` for a name that is no snapshot's of this VPS.
fn timestamp_in(id: TaskId, tag: &str) -> Option<u64> {
    tag.strip_prefix(&repository(id))?.strip_prefix(':')?.parse().ok()
}

/// Whether an image of this name is a snapshot of this VPS.
pub fn is_of(id: TaskId, tag: &str) -> bool {
    timestamp_in(id, tag).is_some()
}

/// All of them, newest first, by one call.
///
/// # Errors
/// The Engine's.
pub fn list(node: &Node, id: TaskId) -> Result<Vec<Snapshot>, DockerError> {
    let mut snapshots = Vec::new();
    for image in node.engine.list_images_of(&repository(id))? {
        for tag in &image.repo_tags {
            let Some(timestamp) = timestamp_in(id, tag) else { continue };
            snapshots.push(snapshot(tag, timestamp, &image));
        }
    }
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.timestamp));
    Ok(snapshots)
}

fn snapshot(tag: &str, timestamp: u64, image: &ImageSummary) -> Snapshot {
    let size_bytes = u64::try_from(image.size).unwrap_or(0);
    let made = image.labels.get(LABEL_SNAPSHOT).and_then(|label| MadeOf::parse(label));
    let base = made.filter(|made| made.timestamp == timestamp).and_then(|made| made.base_bytes);
    Snapshot {
        tag: tag.to_owned(),
        timestamp,
        created: Stamp::from_seconds(image.created),
        size_bytes,
        unique_bytes: base.map(|base| size_bytes.saturating_sub(base)),
        labels: image.labels.clone(),
    }
}

/// The newest.
///
/// # Errors
/// The Engine's.
pub fn latest(node: &Node, id: TaskId) -> Result<Option<Snapshot>, DockerError> {
    Ok(list(node, id)?.into_iter().next())
}

/// Takes one away. Not forced: what a container was made from stays.
///
/// # Errors
/// There is none of that time, or it is in use.
pub fn remove(node: &Node, id: TaskId, timestamp: u64) -> Result<(), DockerError> {
    node.engine.remove_image(&tag_of(id, timestamp))
}

/// Takes away all that are not in use, and says how many those were.
///
/// # Errors
/// The Engine does not tell which there are.
pub fn remove_all(node: &Node, id: TaskId) -> Result<usize, DockerError> {
    let mut removed = 0;
    for Snapshot { tag, .. } in list(node, id)? {
        match node.engine.remove_image(&tag) {
            Ok(()) => removed += 1,
            Err(error) => log::warn!("VPS {id}: snapshot {tag} stays: {error}"),
        }
    }
    Ok(removed)
}

/// Runs `job` on a thread that may wait for the Engine. Lists and removals are no orders of a lane:
/// what is in the making has no name yet. One refused takes its callers with it, who are told.
pub fn off_lane(node: &Arc<Node>, job: impl FnOnce(&Arc<Node>) + Send + 'static) {
    let owner = Arc::clone(node);
    if node.lanes.submit(Pool::Patient, Box::new(move || job(&owner))).is_err() {
        log::warn!("snapshots: {POOL_WAITING_MAX} jobs wait for a patient thread already");
    }
}

/// [`LABEL_SNAPSHOT`], read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MadeOf {
    timestamp: u64,
    base_bytes: Option<u64>,
    node_id: String,
}

impl MadeOf {
    fn parse(label: &str) -> Option<MadeOf> {
        let mut words = label.split(' ');
        let timestamp = words.next()?.parse().ok()?;
        let base_bytes = words.next()?.parse().ok();
        Some(MadeOf { timestamp, base_bytes, node_id: words.next()?.to_owned() })
    }

    fn to_label(&self) -> String {
        let base = self.base_bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        format!("{} {base} {}", self.timestamp, self.node_id)
    }
}

fn no_snapshot(id: TaskId, why: impl Into<String>) -> OpError {
    OpError::SnapshotFailed { id, why: why.into() }
}

#[cfg(test)]
mod test {
    use super::*;

    fn image(label: &str) -> ImageSummary {
        serde_json::from_value(serde_json::json!({
            "Id": "sha256:0", "Created": 1, "Size": 100, "Labels": { LABEL_SNAPSHOT: label }
        }))
        .unwrap()
    }

    #[test]
    fn label_of_a_snapshot_reads_back() {
        for base_bytes in [Some(7), None] {
            let made = MadeOf { timestamp: 5, base_bytes, node_id: "a:8001".into() };
            assert_eq!(MadeOf::parse(&made.to_label()), Some(made));
        }
        assert_eq!(MadeOf::parse(""), None);
    }

    #[test]
    fn unique_size_is_told_only_by_a_label_of_the_snapshot_itself() {
        assert_eq!(snapshot("r:5", 5, &image("5 60 n")).unique_bytes, Some(40));
        // Inherited from the snapshot that its container was made from.
        assert_eq!(snapshot("r:6", 6, &image("5 60 n")).unique_bytes, None);
        assert_eq!(snapshot("r:5", 5, &image("5  n")).unique_bytes, None);
        assert_eq!(snapshot("r:5", 5, &image("5 200 n")).unique_bytes, Some(0));
    }
}
