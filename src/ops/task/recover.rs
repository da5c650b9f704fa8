//! Finds every task again: after a restart from the records, after a lost event stream from the
//! Engine. Level-triggered: it only looks at what is and raises flags, so it may run at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::Level;

use super::container::{EssentialWork, Essentials, LABEL_NODE, is_ours};
use super::execute::post_start;
use super::lost;
use crate::docker::{ContainerState, ContainerSummary, DockerError, EngineEvent, Removal, Volumes};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::placement::Placement;
use crate::model::task::{Command, ContainerTrace, Report, TaskRecord, TaskSpec, Times, Work};
use crate::model::time::Stamp;
use crate::model::vps::VpsState;
use crate::ops::node::Exit;
use crate::ops::{Node, network, snapshots, vps};
use crate::threads::lock;

/// Sets every live record going again after a start of ours. Needs no Engine: what needs one waits
/// on its lane.
pub fn resume_all(node: &Arc<Node>) {
    for stand in node.tasks.active(|record| Some(Stand::of(record))) {
        nudge(node, &stand);
    }
    remind(node);
}

/// Where a task stands, as far as a look at all of them needs it: records are large, and many.
#[derive(Clone, Copy)]
pub struct Stand {
    id: TaskId,
    phase: Phase,
    wanted: Wanted,
    has_reports: bool,
    numa_node: Option<u16>,
    /// Of a VPS, the port at which it should be.
    ssh_port: Option<u16>,
    /// Of a VPS, the start of the run that was looked at last.
    running_since: Option<Stamp>,
}

impl Stand {
    pub fn of(record: &TaskRecord) -> Stand {
        Stand {
            id: record.spec.id,
            phase: record.phase,
            wanted: record.wanted,
            has_reports: !record.reports.is_empty(),
            numa_node: record.spec.placement.node(),
            ssh_port: record.spec.vps().map(|_| record.vps.ssh_port),
            running_since: record.vps.running_since,
        }
    }
}

/// What only waits for the host is told, oldest first; of what it knows the file is put away.
fn remind(node: &Node) {
    if node.host.is_some() {
        node.outbox.remind(&node.tasks.untold());
    }
    // The table has said it.
    let _ = node.tasks.put_away_told();
}

/// An event of the Engine: sets flags only, the lanes do the rest.
pub fn engine_event(node: &Node, event: EngineEvent) {
    match event {
        // A full queue: one is asked for already.
        EngineEvent::Connected => drop(node.reconcile_wanted.try_send(())),
        EngineEvent::Lost { .. } => {}
        EngineEvent::OutOfMemory { name, labels } => {
            let id = TaskId::from_container(&name);
            if let Some(id) = id.filter(|_| is_ours(&node.settings, &labels)) {
                vps::watch::out_of_memory(node, id);
            }
        }
        EngineEvent::Ended { name, exit_code, at, labels, .. } => {
            let id = TaskId::from_container(&name);
            let Some(id) = id.filter(|_| is_ours(&node.settings, &labels)) else { return };
            let told = node.tasks.note(id, |record| record.end_is_told).unwrap_or(false);
            let exit = match exit_code.filter(|_| told) {
                Some(code) => Exit::Told { code, at: at.into() },
                None => Exit::Found,
            };
            lock(&node.exits).insert(id, exit);
            node.lanes.raise(id);
        }
    }
}

/// Compares the records with what the Engine has, and raises the flag of every task that is not as
/// recorded. Unknown containers are left alone; what is ours is known by label *and* name.
///
/// # Errors
/// The Engine is away; nothing was concluded from that.
pub fn reconcile(node: &Arc<Node>) -> Result<(), DockerError> {
    // Tasks that need the network will say so; all are looked at all the same.
    if let Err(error) = network::ensure(node) {
        let level = if error.is_engine_trouble() { Level::Debug } else { Level::Warn };
        log::log!(level, "network {}: {error}", node.settings.docker_network_name);
    }
    if lock(&node.engine_facts).is_none() {
        let facts = node.engine.about()?;
        log::info!("Docker Engine {} (API {}), {}", facts.version, facts.api, facts.storage_driver);
        *lock(&node.engine_facts) = Some(facts);
    }
    // Records first: a container made between the two looks is then no contradiction.
    let stands = node.tasks.active(|record| Some(Stand::of(record)));
    let label = format!("{LABEL_NODE}={}", node.settings.node_id);
    let mut found: BTreeMap<TaskId, ContainerSummary> = BTreeMap::new();
    for container in node.engine.list_containers(&label)? {
        let id = container.names.iter().find_map(|name| TaskId::from_container(name));
        match id.filter(|_| is_ours(&node.settings, &container.labels)) {
            Some(id) => {
                found.insert(id, container);
            }
            None => log::debug!("{:?} carries our label but not our name", container.names),
        }
    }
    let engine_started = node.engine.started().map(Stamp::from);
    for stand in &stands {
        compare(node, stand, found.remove(&stand.id).as_ref(), engine_started);
    }
    remind(node);
    snapshots::sweep_soon(node);
    // None of those with a container: they are rebuilt from it.
    let lost = node.tasks.lost().into_iter().filter(|id| !found.contains_key(id));
    lost.for_each(|id| lost::end(node, id));
    for (id, container) in found {
        take_in(node, id, &container);
    }
    Ok(())
}

fn compare(
    node: &Arc<Node>,
    stand: &Stand,
    container: Option<&ContainerSummary>,
    engine_started: Option<Stamp>,
) {
    let id = stand.id;
    match (stand.phase, container.map(|container| container.state)) {
        // By a commit, which thaws it again.
        (Phase::Running, Some(ContainerState::Paused)) if node.vps.is_being_saved(id) => {}
        // A VPS may have ended and run again meanwhile.
        (Phase::Running | Phase::Paused, _) if stand.ssh_port.is_some() => {
            let is_so = container.is_some_and(|found| {
                vps::watch::is_as_recorded(stand.phase, stand.ssh_port.unwrap_or(0), found)
            });
            // An Engine that was started since has perhaps started it again, at the same port.
            let is_of_this_engine = stand
                .running_since
                .is_some_and(|since| engine_started.is_none_or(|started| since >= started));
            if !is_so || !is_of_this_engine {
                lock(&node.exits).entry(id).or_insert(Exit::Found);
                node.lanes.raise(id);
            }
        }
        (Phase::Running, Some(ContainerState::Paused)) => {
            set_frozen(node, id, Phase::Running, Phase::Paused)
        }
        (Phase::Paused, Some(ContainerState::Running)) => {
            set_frozen(node, id, Phase::Paused, Phase::Running)
        }
        (
            Phase::Running | Phase::Paused,
            Some(ContainerState::Running | ContainerState::Paused | ContainerState::Restarting),
        ) => {}
        (Phase::Running | Phase::Paused, _) => {
            lock(&node.exits).entry(id).or_insert(Exit::Found);
            node.lanes.raise(id);
        }
        (Phase::Accepted | Phase::Creating | Phase::Starting | Phase::Ended, _) => {}
    }
    nudge(node, stand);
}

/// Somebody used the Engine behind our back; it is right (design law 3).
fn set_frozen(node: &Node, id: TaskId, from: Phase, to: Phase) {
    let changed = node.tasks.update(id, |record| {
        if record.phase == from {
            record.phase = to;
        }
    });
    if let Err(error) = changed {
        log::error!("task {id}: {error}");
    }
}

/// Gives a task that nobody works on its next order or flag.
pub fn nudge(node: &Arc<Node>, stand: &Stand) {
    let id = stand.id;
    if stand.has_reports {
        node.outbox.notify(id);
    }
    match (stand.phase, stand.wanted) {
        (Phase::Ended, _) | (_, Wanted::Killed | Wanted::Stopped | Wanted::Withdrawn) => {
            node.lanes.raise(id)
        }
        (Phase::Accepted | Phase::Creating | Phase::Starting, Wanted::Run) => {
            if node.lanes.holds(id) {
                // It may pause until the Engine is back, which it is.
                node.lanes.raise(id);
            } else {
                post_start(node, id, stand.numa_node);
            }
        }
        (Phase::Running | Phase::Paused, Wanted::Run) => {}
    }
}

/// A container of ours without a live record.
fn take_in(node: &Arc<Node>, id: TaskId, container: &ContainerSummary) {
    if node.tasks.is_live(id) {
        return; // accepted while we looked
    }
    if node.tasks.is_over(id) {
        if is_of_another_create(node, id, container) {
            log::debug!("VPS {id}: is over; the container of another create of it is left alone");
            return;
        }
        log::info!("task {id}: is over; removing the container it left");
        if let Err(error) =
            node.engine.remove_container(&container.id, Removal::Forced, Volumes::Remove)
        {
            log::warn!("task {id}: {error}");
        }
        return;
    }
    let Some(essentials) = Essentials::from_labels(&container.labels) else {
        log::warn!(
            "container {:?} is ours but tells nothing about its task; left alone",
            container.names
        );
        return;
    };
    let record = TaskRecord {
        container: ContainerTrace::Known(container.id.clone()),
        // Of a VPS once its port is known.
        reports: match &essentials.work {
            EssentialWork::Vps { .. } => Vec::new(),
            EssentialWork::Command { .. } => node.host.iter().map(|_| Report::Running).collect(),
        },
        notes: vec!["rebuilt from its container: the state directory was lost".to_owned()],
        ..rebuilt(id, essentials)
    };
    let stand = Stand::of(&record);
    match node.tasks.restore(record) {
        Ok(()) => {}
        // Looked at again each minute, until somebody has removed what is in the way.
        Err(error) => {
            log::debug!("task {id}: not rebuilt from its container: {error}");
            return;
        }
    }
    log::warn!("task {id}: not in the state directory; rebuilt from its container");
    metrics::RECORDS_REBUILT.up();
    node.outbox.notify(id);
    compare(node, &stand, Some(container), None);
}

/// Whether the record that is over is not that of this container: an id of a VPS is created again, and
/// the state directory may be an old one. Such a container is somebody's desk.
fn is_of_another_create(node: &Node, id: TaskId, container: &ContainerSummary) -> bool {
    let Some(essentials) = Essentials::from_labels(&container.labels) else { return false };
    matches!(essentials.work, EssentialWork::Vps { .. })
        && node.tasks.find(id).map_or(true, |over| over.times.accepted != essentials.accepted)
}

/// The record of a task whose state directory is gone. It runs, or has run, so it can only be
/// watched and reported.
pub fn rebuilt(id: TaskId, essentials: Essentials) -> TaskRecord {
    let Essentials { accepted, image, work } = essentials;
    let vps = match &work {
        // Nobody here knows: so somebody may have been in it, and his work is not thrown away.
        EssentialWork::Vps { .. } => VpsState { opened: Some(accepted), ..VpsState::default() },
        EssentialWork::Command { .. } => VpsState::default(),
    };
    TaskRecord {
        spec: TaskSpec {
            id,
            work: match work {
                EssentialWork::Vps { vps } => Work::Vps { vps },
                EssentialWork::Command { logs } => Work::Command(Command {
                    command: "(lost with the state directory)".to_owned(),
                    arguments: Vec::new(),
                    env: Vec::new(),
                    working_dir: String::new(),
                    logs,
                }),
            },
            cores: None,
            memory_bytes: None,
            gpus: Vec::new(),
            placement: Placement::Anywhere,
            cpuset: None,
            image,
            reserved_ip: None,
        },
        phase: Phase::Running,
        wanted: Wanted::Run,
        times: Times::accepted(accepted),
        accepted_by_us: None,
        idempotency_key: None,
        tunnel_secret: String::new(),
        end_is_told: false,
        output_made: None,
        container: ContainerTrace::None,
        vps,
        outcome: None,
        reports: Vec::new(),
        notes: Vec::new(),
    }
}
