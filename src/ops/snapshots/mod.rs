//! Snapshots of VPS: images `kohakuriver-snapshot/vps-{id}:{unix seconds}` (contract 5.9). The Engine is
//! the only one who knows them; nothing is remembered here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::task::container::owner_labels;
use super::{Node, OpError};
use crate::docker::DockerError;
use crate::limits::SNAPSHOT_DEADLINE;
use crate::model::ids::TaskId;
use crate::model::time::Stamp;

/// One snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Repository and tag.
    pub tag: String,
    /// Unix seconds: the number in its tag.
    pub timestamp: u64,
    pub size_bytes: u64,
    pub labels: BTreeMap<String, String>,
}

fn repository(id: TaskId) -> String {
    format!("kohakuriver-snapshot/vps-{id}")
}

/// All of them, newest first.
///
/// # Errors
/// The Engine's.
pub fn list(node: &Node, id: TaskId) -> Result<Vec<Snapshot>, DockerError> {
    let repository = repository(id);
    let mut snapshots = Vec::new();
    for image in node.engine.list_images_of(&repository)? {
        for tag in &image.repo_tags {
            let number = tag.strip_prefix(&repository).and_then(|rest| rest.strip_prefix(':'));
            let Some(timestamp) = number.and_then(|number| number.parse().ok()) else { continue };
            snapshots.push(Snapshot {
                tag: tag.clone(),
                timestamp,
                size_bytes: u64::try_from(image.size).unwrap_or(0),
                labels: image.labels.clone(),
            });
        }
    }
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.timestamp));
    Ok(snapshots)
}

/// The newest.
///
/// # Errors
/// The Engine's.
pub fn latest(node: &Node, id: TaskId) -> Result<Option<Snapshot>, DockerError> {
    Ok(list(node, id)?.into_iter().next())
}

/// Makes one of the VPS's container, and gives its name. For patient threads.
///
/// # Errors
/// There is no container, or the Engine could not.
pub fn make(node: &Arc<Node>, id: TaskId, message: &str) -> Result<String, OpError> {
    let _ = owner_labels(&node.settings);
    let record = node.tasks.find(id)?;
    let repository = repository(id);
    // Two in one second would be one.
    let newest = latest(node, id)?.map_or(0, |snapshot| snapshot.timestamp);
    let now = u64::try_from(Stamp::now().micros() / 1_000_000).unwrap_or(0);
    let timestamp = now.max(newest + 1).to_string();
    let container = record.spec.container_name();
    node.engine.commit_container(
        &container,
        &repository,
        &timestamp,
        message,
        SNAPSHOT_DEADLINE,
    )?;
    Ok(format!("{repository}:{timestamp}"))
}
