//! Accepts a VPS and gets it going: which login counts, which image, and where its port is. Between
//! these the start takes the steps of every task.

use std::sync::Arc;

use super::Told;
use super::container::{SSH_PORT, login_of};
use crate::docker::Container;
use crate::lanes::Next;
use crate::limits::{VPS_PENDING_MAX, VPS_PORT_PAUSE, VPS_PORT_TRIES};
use crate::machine::random::hex_128;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::placement::Placement;
use crate::model::task::{ImageSource, Outcome, Pull, Report, TaskRecord, TaskSpec, Work};
use crate::model::time::Stamp;
use crate::model::vps::{Door, Login, Vps};
use crate::ops::task::execute::{begin, check_room, image_step, post_start};
use crate::ops::task::finish::settle;
use crate::ops::task::outcome::failed;
use crate::ops::task::{note_refusal, when_the_disk_is_back, when_the_engine_is_back};
use crate::ops::{Node, OpError, snapshots};
use crate::store::StoreError;
use crate::threads::lock;

/// A create that waits for a stop of the same id.
pub struct Pending {
    spec: TaskSpec,
    told: Told<u16>,
}

/// Accepts a VPS; `told` hears the port (0 for none) once the container runs, or why it does not. A
/// create of an id that is being stopped waits for that.
///
/// # Errors
/// [`OpError::InUse`] for an id that is live; nothing was accepted then, or for any other error.
pub fn accept(node: &Arc<Node>, spec: TaskSpec, told: Told<u16>) -> Result<(), OpError> {
    check_room(node)?;
    let id = spec.id;
    let live = node.tasks.get(id);
    if live.is_some_and(|record| record.wanted == Wanted::Stopped && record.phase != Phase::Ended) {
        return wait_for_the_stop(node, spec, told);
    }
    let (spec, is_again) = with_the_login_of_before(node, spec);
    let reports = node.host.iter().map(|_| Report::Pending).collect();
    let secret = hex_128().map_err(OpError::NoRandomness)?;
    let numa_node = spec.placement.node();
    let record = TaskRecord::accepted(spec, Stamp::now(), None, secret, reports);
    // Before the record: its start may be over sooner than we are here again.
    node.vps.creates.add(id, told);
    let inserted = if is_again { node.tasks.reopen(record) } else { node.tasks.insert(record) };
    if let Err(error) = inserted {
        // Unless another create of this id is under way, whose callers these are.
        if node.tasks.get(id).is_none() {
            node.vps.creates.forget(id);
        }
        return Err(error.into());
    }
    node.events.note(id, "accepted");
    node.outbox.notify(id);
    post_start(node, id, numa_node);
    Ok(())
}

fn wait_for_the_stop(node: &Arc<Node>, spec: TaskSpec, told: Told<u16>) -> Result<(), OpError> {
    let id = spec.id;
    {
        let mut pending = lock(&node.vps.pending);
        if pending.contains_key(&id) {
            return Err(OpError::InUse(id));
        }
        if pending.len() >= VPS_PENDING_MAX {
            return Err(OpError::Busy { what: "VPS that wait for a stop", max: VPS_PENDING_MAX });
        }
        pending.insert(id, Pending { spec, told });
    }
    // It may have ended in between.
    if !node.tasks.is_live(id) {
        go_on(node, id);
    }
    Ok(())
}

/// A stop of this id has ended: a create that waited for it goes on.
pub fn go_on(node: &Arc<Node>, id: TaskId) {
    let Some(Pending { spec, told }) = lock(&node.vps.pending).remove(&id) else { return };
    if let Err(error) = accept(node, spec, Box::new(|_| {})) {
        return told(Err(error));
    }
    node.vps.creates.add(id, told);
}

/// A create that makes no sense has ended before it began: the host is told why.
pub fn reject(node: &Arc<Node>, id: TaskId, why: &str) {
    if node.host.is_none() || node.tasks.find(id).is_ok() {
        return;
    }
    let spec = TaskSpec {
        id,
        work: Work::Vps { vps: Vps { login: Login::Disabled, is_remembered: false } },
        cores: None,
        memory_bytes: None,
        gpus: Vec::new(),
        placement: Placement::Anywhere,
        cpuset: None,
        image: ImageSource::Registry("(never asked for)".to_owned(), Pull::Never),
        reserved_ip: None,
    };
    let mut record = TaskRecord::accepted(spec, Stamp::now(), None, String::new(), Vec::new());
    record.end(failed(why.to_owned()), None, Stamp::now(), true);
    if let Err(error) = node.tasks.insert(record) {
        log::warn!("VPS {id}: refused ({why}), and the host is not told: {error}");
        return;
    }
    node.outbox.notify(id);
    node.lanes.raise(id);
}

/// A restart by the host says `none` whatever the VPS was: what the first create said counts.
fn with_the_login_of_before(node: &Node, mut spec: TaskSpec) -> (TaskSpec, bool) {
    let Ok(before) = node.tasks.find(spec.id) else { return (spec, false) };
    let Some(before) = before.spec.vps().cloned() else { return (spec, false) };
    if let Work::Vps { vps } = &mut spec.work
        && vps.login == Login::Open
    {
        *vps = Vps { login: before.login, is_remembered: true };
    }
    (spec, true)
}

/// The image: the newest snapshot of this id, or what was asked for.
pub fn choose_image(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let id = record.spec.id;
    if !node.settings.auto_restore_on_create || record.vps.restored_from.is_some() {
        return image_step(node, record);
    }
    let latest = match snapshots::latest(node, id) {
        Ok(latest) => latest,
        Err(error) => {
            note_refusal(id, "its snapshots", &error);
            return when_the_engine_is_back(node, id, begin);
        }
    };
    let Some(snapshot) = latest else { return image_step(node, record) };
    let restored = node.tasks.update(id, |record| {
        record.spec.image = ImageSource::Registry(snapshot.tag.clone(), Pull::Never);
        record.vps.restored_from = Some(snapshot.tag.clone());
        if let Work::Vps { vps } = &mut record.spec.work
            && vps.login == Login::Open
            && !vps.is_remembered
        {
            // Nobody here remembers the VPS, but it was one: passwordless only if it was that.
            let login = login_of(&snapshot.labels).unwrap_or(Login::Kept);
            *vps = Vps { login, is_remembered: true };
        }
        record.clone()
    });
    match restored {
        Ok(record) => image_step(node, &record),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, begin),
    }
}

/// The container was started: finds its port, and says that it runs.
pub fn run(node: &Arc<Node>, id: TaskId, at: Stamp) -> Next {
    look_for_the_port(node, id, at, 1)
}

fn look_for_the_port(node: &Arc<Node>, id: TaskId, at: Stamp, nth: u32) -> Next {
    let Some(record) = node.tasks.get(id) else { return Next::Done };
    if record.wanted != Wanted::Run {
        return settle(node, id);
    }
    let Some(vps) = record.spec.vps() else { return Next::Done };
    let port = match node.engine.inspect_container(&record.spec.container_name()) {
        Ok(container) => {
            let port = ssh_port(&container);
            if port.is_none() && vps.login.has_port() && container.running && nth < VPS_PORT_TRIES {
                let owner = Arc::clone(node);
                let again = Box::new(move || look_for_the_port(&owner, id, at, nth + 1));
                return Next::After(VPS_PORT_PAUSE, again);
            }
            port.unwrap_or(0)
        }
        // Its end is told by others.
        Err(error) if error.is_missing() => 0,
        Err(error) => {
            note_refusal(id, "its port", &error);
            return when_the_engine_is_back(node, id, begin);
        }
    };
    let has_host = node.host.is_some();
    let marked = node.tasks.update(id, |record| {
        if !matches!(record.phase, Phase::Creating | Phase::Starting) {
            return false;
        }
        record.phase = Phase::Running;
        record.times.started.get_or_insert(at);
        record.vps.ssh_port = port;
        record.vps.door = if port == 0 { Door::None } else { Door::Preparing(at) };
        if has_host {
            record.reports.push(Report::Running);
        }
        true
    });
    match marked {
        Ok(true) => {
            node.events.note(id, "started");
            node.outbox.notify(id);
            node.vps.want_doors();
            node.vps.creates.tell(id, || Ok(port));
            log::info!("VPS {id} runs, SSH port {port}");
            Next::Done
        }
        Ok(false) | Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, begin),
    }
}

/// Where this machine listens for the container's port 22.
pub fn ssh_port(container: &Container) -> Option<u16> {
    let bindings = container.ports.get(SSH_PORT)?;
    bindings.iter().find_map(|binding| binding.host_port.parse().ok().filter(|port| *port != 0))
}

/// The VPS has ended before it ran: its callers hear why.
pub fn refused(node: &Node, id: TaskId, outcome: &Outcome) {
    let message = || outcome.message.clone().unwrap_or_default();
    node.vps.creates.tell(id, || Err(OpError::VpsFailed { id, why: message() }));
}
