//! Accepts a VPS and gets it going: which login counts, which image, and where its port is. Between
//! these the start takes the steps of every task.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::container::{SSH_PORT, login_of};
use super::{Told, leave, pending, watch};
use crate::docker::{Container, ContainerState, DockerError};
use crate::lanes::Next;
use crate::limits::{VPS_PORT_PAUSE, VPS_PORT_TRIES};
use crate::machine::random::hex_128;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::placement::Placement;
use crate::model::task::{ImageSource, Outcome, Pull, Report, TaskRecord, TaskSpec, Work};
use crate::model::time::Stamp;
use crate::model::vps::{Door, Login, Vps};
use crate::model::vps_script::SETUP_FAILED_EXIT_CODE;
use crate::ops::node::Exit;
use crate::ops::snapshots::Snapshot;
use crate::ops::task::execute::{begin, check_room, image_step, post_start};
use crate::ops::task::finish::settle;
use crate::ops::task::outcome::failed;
use crate::ops::task::{note_refusal, when_the_disk_is_back, when_the_engine_is_back};
use crate::ops::{Node, OpError, snapshots};
use crate::store::StoreError;

/// Accepts a VPS; `told` hears the port (0 for none) once the container runs, or why it does not, or why
/// nothing was accepted. A create of an id that is not free yet waits for that.
pub fn accept(node: &Arc<Node>, spec: TaskSpec, told: Told<u16>) {
    let id = spec.id;
    if node.stop.is_raised() {
        return told(Err(OpError::Stopping));
    }
    if let Some(patience) = pending::patience(node, id) {
        return pending::wait(node, spec, told, patience);
    }
    let numa_node = spec.placement.node();
    if let Err(error) = record(node, spec) {
        return told(Err(error));
    }
    if let Err(told) = node.vps.creates.add(id, told) {
        return told(leave::withdraw_late(node, id));
    }
    // Since the record is there, it may have been killed, before its caller could hear of it.
    if let Ok(TaskRecord { outcome: Some(outcome), .. }) = node.tasks.find(id) {
        refused(node, id, &outcome);
    }
    node.events.note(id, "accepted");
    node.outbox.notify(id);
    post_start(node, id, numa_node);
}

/// Puts the VPS on disk.
fn record(node: &Node, spec: TaskSpec) -> Result<(), OpError> {
    check_room(node)?;
    let (spec, is_again) = with_the_login_of_before(node, spec)?;
    let reports = node.host.iter().map(|_| Report::Pending).collect();
    let secret = hex_128().map_err(OpError::NoRandomness)?;
    let record = TaskRecord::accepted(spec, Stamp::now(), None, secret, reports);
    if is_again {
        node.tasks.reopen(record)?
    } else {
        node.tasks.insert(record)?
    }
    Ok(())
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
/// A record that can't be read now is no reason to forget it.
fn with_the_login_of_before(
    node: &Node,
    mut spec: TaskSpec,
) -> Result<(TaskSpec, bool), StoreError> {
    let before = match node.tasks.find(spec.id) {
        Ok(before) => before,
        Err(StoreError::Missing(_)) => return Ok((spec, false)),
        Err(error) => return Err(error),
    };
    let Some(before) = before.spec.vps().cloned() else { return Ok((spec, false)) };
    if let Work::Vps { vps } = &mut spec.work
        && vps.login == Login::Open
    {
        *vps = Vps { login: before.login, is_remembered: true };
    }
    Ok((spec, true))
}

/// The image: the snapshot of this id that was asked for, its newest, or any other image.
pub fn choose_image(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let id = record.spec.id;
    let Some(vps) = record.spec.vps() else { return image_step(node, record) };
    let named = match &record.spec.image {
        ImageSource::Registry(tag, _) if snapshots::is_of(id, tag) => Some(tag.as_str()),
        ImageSource::Registry(..) | ImageSource::Environment(_) => None,
    };
    // One that was asked for by its name restores as well.
    let is_wished = node.settings.auto_restore_on_create || named.is_some();
    let restores = is_wished && record.vps.restored_from.is_none();
    let is_doubtful = vps.login == Login::Open && !vps.is_remembered;
    if !restores && !is_doubtful {
        return image_step(node, record);
    }
    let chosen = match named {
        Some(tag) => snapshots::list(node, id)
            .map(|all| all.into_iter().find(|snapshot| snapshot.tag == tag)),
        None => snapshots::latest(node, id),
    };
    let found = chosen.and_then(|chosen| {
        let Some(snapshot) = chosen else { return Ok(None) };
        let login = login_in(node, &snapshot)?;
        Ok(Some((snapshot, login)))
    });
    let (snapshot, login) = match found {
        Ok(Some(found)) => found,
        Ok(None) => return image_step(node, record),
        // Deleted between the two looks, or no answer: look again.
        Err(error) => {
            note_refusal(id, "its snapshots", &error);
            return when_the_engine_is_back(node, id, begin);
        }
    };
    let restored = node.tasks.update(id, |record| {
        if restores {
            record.spec.image = ImageSource::Registry(snapshot.tag.clone(), Pull::Never);
            record.vps.restored_from = Some(snapshot.tag.clone());
        }
        if let Work::Vps { vps } = &mut record.spec.work
            && is_doubtful
        {
            // Nobody here remembers the VPS, but it was one: passwordless only if it was that.
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

/// The login of the VPS that the snapshot was made of. Where no label tells, a port that was never
/// published is none now.
fn login_in(node: &Node, snapshot: &Snapshot) -> Result<Login, DockerError> {
    if let Some(login) = login_of(&snapshot.labels) {
        return Ok(login);
    }
    let image = node.engine.inspect_image(&snapshot.tag)?;
    let had_port = image.exposed_ports.iter().any(|port| port == SSH_PORT);
    Ok(if had_port { Login::Kept } else { Login::Disabled })
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
    let (at_port, run) = match node.engine.inspect_container(&record.spec.container_name()) {
        Ok(container) => {
            let found = ssh_port(&container);
            if found.is_none() && vps.login.has_port() && container.running && nth < VPS_PORT_TRIES
            {
                let owner = Arc::clone(node);
                let again = Box::new(move || look_for_the_port(&owner, id, at, nth + 1));
                return Next::After(VPS_PORT_PAUSE, again);
            }
            if container.state != ContainerState::Running
                && container.exit_code == SETUP_FAILED_EXIT_CODE
            {
                return watch::ended(node, &record, Exit::Found);
            }
            (found, container.started_at.map(Stamp::from))
        }
        // Its end is told by others.
        Err(error) if error.is_missing() => (None, None),
        Err(error) => {
            note_refusal(id, "its port", &error);
            return when_the_engine_is_back(node, id, begin);
        }
    };
    let (address, port) = at_port.unwrap_or((None, 0));
    let is_open = vps.login == Login::Open;
    let has_host = node.host.is_some();
    let marked = node.tasks.update(id, |record| {
        if !matches!(record.phase, Phase::Creating | Phase::Starting) {
            return false;
        }
        record.phase = Phase::Running;
        record.times.started.get_or_insert(at);
        record.vps.running_since = run;
        (record.vps.ssh_address, record.vps.ssh_port) = (address, port);
        record.vps.told_port = Some(port);
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
            if is_open {
                let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                log::warn!(
                    "VPS {id}: whoever reaches {address}:{port} is root in it, as asked for"
                );
            }
            Next::Done
        }
        Ok(false) | Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, begin),
    }
}

/// Where this machine listens for the container's port 22; no address is all of them. One of IPv4, if
/// there is one: the host has no other (contract rule 16).
pub fn ssh_port(container: &Container) -> Option<(Option<IpAddr>, u16)> {
    let bindings = container.ports.get(SSH_PORT)?.iter();
    let all = bindings.filter_map(|binding| {
        let port = binding.host_port.parse().ok().filter(|port| *port != 0)?;
        let address = binding.host_ip.parse::<IpAddr>().ok();
        Some((address, port))
    });
    let (address, port) = all.min_by_key(|(address, _)| address.is_some_and(|ip| ip.is_ipv6()))?;
    Some((address.filter(|ip| !ip.is_unspecified()), port))
}

/// The VPS has ended before it ran: its callers hear why.
pub fn refused(node: &Node, id: TaskId, outcome: &Outcome) {
    let message = || outcome.message.clone().unwrap_or_else(|| "stopped by request".to_owned());
    node.vps.creates.tell(id, || Err(OpError::VpsFailed { id, why: message() }));
}
