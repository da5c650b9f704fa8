//! Copies a snapshot of many layers into one of a single layer, under the same name: each restore adds
//! a layer, and the Engine has a limit. The file system goes through export and import, the image's
//! configuration as it is through a commit of a container that never ran.
//!
//! ```text
//! snapshot ─▶ container "from" ─export─▶ import ─▶ nameless image ─▶ container "into" ─commit─▶ snapshot
//! ```
//!
//! The name moves at the very end and at once, so that it means a whole image at any time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Value, json};

use super::make::Making;
use super::{LABEL_SNAPSHOT, MadeOf, repository, timestamp_in};
use crate::docker::{Commit, DockerError, Engine, ImageBuild, Removal, Volumes};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::ops::Node;
use crate::wire::docker::{CreateContainer, HostConfig};

/// What is left if we die in between: `NODE_ID RUN`.
const LABEL_PASSING: &str = "river-runner.flatten";
/// The containers' names begin so, and go on as no task's does.
const NAME_PASSING: &str = "river-runner-flatten";

/// Makes one layer of a snapshot that has more than `snapshot_layers_max`.
///
/// # Errors
/// The Engine's; the snapshot is as it was then.
pub fn flatten(node: &Node, id: TaskId, tag: &str, making: &Making) -> Result<(), DockerError> {
    let Some(timestamp) = timestamp_in(id, tag) else { return Ok(()) };
    let deep = node.engine.inspect_image_build(tag)?;
    let layers = deep.root_fs.layers.len();
    if layers <= usize::try_from(node.settings.snapshot_layers_max).unwrap_or(usize::MAX) {
        return Ok(());
    }
    let began = Instant::now();
    log::info!("VPS {id}: snapshot {tag} has {layers} layers; copying it into one");
    let from = format!("{NAME_PASSING}-{id}-from");
    let into = format!("{NAME_PASSING}-{id}-into");
    let copied = copy(node, id, timestamp, &deep, (&from, &into), making);
    for name in [&from, &into] {
        let removed = remove_passing(&node.engine, name);
        removed.unwrap_or_else(|error| log::warn!("VPS {id}: container {name} stays: {error}"));
    }
    copied?;
    metrics::SNAPSHOTS_FLATTENED.up();
    log::info!("VPS {id}: snapshot {tag} is of one layer, in {:?}", began.elapsed());
    // It has lost its name, and nothing is built on it yet.
    match node.engine.remove_image(&deep.id) {
        Ok(()) => {}
        Err(error) if error.is_missing() => {}
        Err(error) => log::warn!("VPS {id}: the many layers of {tag} stay: {error}"),
    }
    Ok(())
}

fn copy(
    node: &Node,
    id: TaskId,
    timestamp: u64,
    deep: &ImageBuild,
    (from, into): (&str, &str),
    making: &Making,
) -> Result<(), DockerError> {
    let engine = &node.engine;
    let passing = format!("{} {}", node.settings.node_id, node.vps.run);
    let (deadline, stop) = (making.deadline(), making.stop());
    create_passing(engine, from, &deep.id, &passing)?;
    let flat = engine.flatten_container(from, (LABEL_PASSING, &passing), deadline, stop)?;
    let moved = create_passing(engine, into, &flat, &passing).and_then(|()| {
        let made =
            MadeOf { timestamp, base_bytes: Some(0), node_id: node.settings.node_id.clone() };
        let config = config_of(&deep.config, &made);
        let commit = Commit {
            repository: &repository(id),
            tag: &timestamp.to_string(),
            message: "into one layer",
            config: &config,
        };
        engine.commit_container(into, commit, deadline, stop)
    });
    if let Err(error) = moved {
        // Before its container it can't go.
        let gone = remove_passing(engine, into).and_then(|()| engine.remove_image(&flat));
        gone.unwrap_or_else(|error| log::warn!("VPS {id}: image {flat} stays: {error}"));
        return Err(error);
    }
    Ok(())
}

/// The snapshot's own, and its labels without a trace of the way.
fn config_of(deep: &Value, made: &MadeOf) -> Value {
    let mut config = deep.clone();
    if !config["Labels"].is_object() {
        config["Labels"] = json!({});
    }
    config["Labels"][LABEL_SNAPSHOT] = made.to_label().into();
    // Inherited else, and then it would take the restored VPS for a leftover.
    config["Labels"][LABEL_PASSING] = "".into();
    config
}

/// A container that never runs.
fn create_passing(
    engine: &Engine,
    name: &str,
    image: &str,
    passing: &str,
) -> Result<(), DockerError> {
    // One that an earlier try could not remove.
    remove_passing(engine, name)?;
    let body = CreateContainer {
        image: image.to_owned(),
        cmd: vec!["-".to_owned()],
        labels: [(LABEL_PASSING.to_owned(), passing.to_owned())].into(),
        host_config: HostConfig { network_mode: "none".to_owned(), ..HostConfig::default() },
        ..CreateContainer::default()
    };
    engine.create_container(name, &body).map(drop)
}

fn remove_passing(engine: &Engine, name: &str) -> Result<(), DockerError> {
    match engine.remove_container(name, Removal::Ended, Volumes::Remove) {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

/// Removes what an earlier run of ours left half-way, once.
pub fn sweep_soon(node: &Arc<Node>) {
    if node.vps.is_swept.load(Ordering::Relaxed) {
        return;
    }
    super::off_lane(node, |node| match sweep(node) {
        Ok(()) => node.vps.is_swept.store(true, Ordering::Relaxed),
        // Looked at again with the next reconciliation.
        Err(error) => log::debug!("what unfinished copies of snapshots left: {error}"),
    });
}

fn sweep(node: &Node) -> Result<(), DockerError> {
    let engine = &node.engine;
    for container in engine.list_containers(LABEL_PASSING)? {
        let is_named = |name: &String| name.trim_start_matches('/').starts_with(NAME_PASSING);
        let is_ours = container.labels.get(LABEL_PASSING).is_some_and(|label| is_left(node, label));
        if is_ours && container.names.iter().any(is_named) {
            report(engine.remove_container(&container.id, Removal::Ended, Volumes::Remove));
        }
    }
    // A copy that was never finished, and one whose original had lost its name already.
    for image in engine.list_nameless_images(LABEL_PASSING)? {
        if image.labels.get(LABEL_PASSING).is_some_and(|label| is_left(node, label)) {
            report(engine.remove_image(&image.id));
        }
    }
    for image in engine.list_nameless_images(LABEL_SNAPSHOT)? {
        let made = image.labels.get(LABEL_SNAPSHOT).and_then(|label| MadeOf::parse(label));
        if made.is_some_and(|made| made.node_id == node.settings.node_id) {
            report(engine.remove_image(&image.id));
        }
    }
    Ok(())
}

fn is_left(node: &Node, label: &str) -> bool {
    label
        .split_once(' ')
        .is_some_and(|(owner, run)| owner == node.settings.node_id && run != node.vps.run)
}

fn report(removed: Result<(), DockerError>) {
    match removed {
        Ok(()) => log::info!("removed what an unfinished copy of a snapshot had left"),
        Err(error) => log::warn!("a leftover of a snapshot's copy stays: {error}"),
    }
}
