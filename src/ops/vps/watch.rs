//! Looks after a VPS that runs: ends of its container that nobody asked for, and what the Engine makes
//! of them. The Engine restarts it (`unless-stopped`); after an end of its own it does not, and we do.

use std::sync::Arc;

use super::create::ssh_port;
use crate::docker::{Container, ContainerState, ContainerSummary, DockerError, Removal, Volumes};
use crate::lanes::Next;
use crate::limits::{
    LOG_TAIL_BYTES_MAX, VPS_LOOK_AGAIN, VPS_RESTART_PAUSE_MAX, VPS_RESTART_PAUSE_MIN,
    VPS_RUN_IS_SHORT,
};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::{FinalStatus, Outcome, Report, TaskRecord};
use crate::model::time::Stamp;
use crate::model::vps::{Door, LastEnd};
use crate::model::vps_script::{SAYS, SAYS_WHY, SETUP_FAILED_EXIT_CODE};
use crate::ops::Node;
use crate::ops::node::Exit;
use crate::ops::task::finish::{self, end, settle};
use crate::ops::task::outcome::failed;
use crate::ops::task::{after, note_refusal, when_the_disk_is_back, when_the_engine_is_back};
use crate::store::StoreError;
use crate::threads::lock;

/// The container has ended, or may have: `exit` is what is known. On the lane.
pub fn ended(node: &Arc<Node>, record: &TaskRecord, exit: Exit) -> Next {
    let id = record.spec.id;
    let container = match node.engine.inspect_container(&record.spec.container_name()) {
        Ok(container) => container,
        Err(error) if error.is_missing() => {
            let message = "its container was removed, not by the runner".to_owned();
            let status = FinalStatus::Stopped;
            let outcome = Outcome { status, exit_code: Some(-1), message: Some(message) };
            return over(node, record, &outcome);
        }
        Err(error) => {
            note_refusal(id, "how it is", &error);
            return when_the_engine_is_back(node, id, settle);
        }
    };
    if set_up_failed(record, &container, exit) {
        let why = match said_why(node, &container) {
            Some(why) => why,
            // The Engine tells an end a moment before it has read the last line.
            None if Stamp::now().since(record.times.started.unwrap_or(record.times.accepted))
                < VPS_RUN_IS_SHORT =>
            {
                return after(node, id, VPS_LOOK_AGAIN, settle);
            }
            None => "it ended without a word".to_owned(),
        };
        let message = format!("SSH could not be set up: {why}");
        let outcome = Outcome { exit_code: Some(SETUP_FAILED_EXIT_CODE), ..failed(message) };
        return match node.engine.remove_container(&container.id, Removal::Forced, Volumes::Remove) {
            Err(error) if !error.is_missing() => {
                note_refusal(id, "its container", &error);
                when_the_engine_is_back(node, id, settle)
            }
            _ => over(node, record, &outcome),
        };
    }
    match container.state {
        ContainerState::Running | ContainerState::Paused => runs(node, record, &container, exit),
        // The Engine has taken it in hand.
        ContainerState::Restarting | ContainerState::Removing => {
            match note_end(node, id, &container, exit) {
                Ok(_) => after(node, id, VPS_LOOK_AGAIN, settle),
                Err(StoreError::Missing(_)) => Next::Done,
                Err(_) => when_the_disk_is_back(node, id, settle),
            }
        }
        _ => start_again(node, record, &container, exit),
    }
}

/// The kernel killed a process of it for memory.
pub fn out_of_memory(node: &Node, id: TaskId) {
    // In memory: the next write carries it.
    let noted = node.tasks.note(id, |record| {
        let is_vps = record.spec.vps().is_some();
        record.vps.oom_kills += u32::from(is_vps);
        is_vps
    });
    if noted == Some(true) {
        metrics::VPS_OOM_KILLS.up();
        node.events.note(id, "oom_kill");
        log::warn!("VPS {id}: the kernel killed a process of it for memory");
    }
}

/// Whether a list shows the container as its record has it.
pub fn is_as_recorded(phase: Phase, port: u16, container: &ContainerSummary) -> bool {
    let is_so = match container.state {
        ContainerState::Running => phase == Phase::Running,
        ContainerState::Paused => phase == Phase::Paused,
        _ => false,
    };
    let mut published = container.ports.iter().filter(|found| found.private_port == 22);
    let is_there = match port {
        0 => published.all(|found| found.public_port == 0),
        port => published.any(|found| found.public_port == port),
    };
    is_so && is_there
}

/// Whether it is the set-up that has ended. Only ever of the first run, and while nobody could get in:
/// later the container holds somebody's work, and stays whatever becomes of its sshd.
fn set_up_failed(record: &TaskRecord, container: &Container, exit: Exit) -> bool {
    let code = match exit {
        Exit::Told { code, .. } => code,
        Exit::Found => container.exit_code,
    };
    let has_worked = record.vps.opened.is_some() || record.vps.restarts > 0;
    code == SETUP_FAILED_EXIT_CODE && !has_worked && record.vps.door != Door::Silent
}

/// The set-up's own words, and the last ones of what it ran. The container may run again already, and
/// say more.
fn said_why(node: &Node, container: &Container) -> Option<String> {
    let tail = node.engine.container_log_tail(&container.id, LOG_TAIL_BYTES_MAX).ok()?;
    let said = String::from_utf8_lossy(&tail.stderr).into_owned();
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty()).rev();
    let why = lines.find_map(|line| line.strip_prefix(SAYS_WHY))?;
    Some(match lines.next().filter(|line| !line.starts_with(SAYS)) {
        Some(before) => format!("{why} ({before})"),
        None => why.to_owned(),
    })
}

/// Writes the end of a run down, once for each. The run is the one that the container shows, or, if it
/// runs again already, the one before.
fn note_end(
    node: &Node,
    id: TaskId,
    container: &Container,
    exit: Exit,
) -> Result<bool, StoreError> {
    // The Engine calls one that it is about to restart running, too.
    let runs_now = matches!(container.state, ContainerState::Running | ContainerState::Paused);
    let (told, at) = match exit {
        Exit::Told { code, at } => (Some(code), Some(at)),
        Exit::Found => (None, None),
    };
    let is_new = node.tasks.update(id, |record| {
        let vps = &mut record.vps;
        let of_run = match runs_now {
            true => vps.running_since,
            false => container.started_at.map(Stamp::from),
        };
        if vps.last_end.as_ref().is_some_and(|last| last.of_run == of_run) {
            return false;
        }
        let at = at.or(container.finished_at.map(Stamp::from)).unwrap_or_else(Stamp::now);
        let was_short = of_run.is_some_and(|begun| at.since(begun) < VPS_RUN_IS_SHORT);
        vps.quick_ends = if was_short { vps.quick_ends.saturating_add(1) } else { 0 };
        vps.restarts = vps.restarts.saturating_add(1);
        let exit_code = told.or((!runs_now).then_some(container.exit_code));
        vps.last_end = Some(LastEnd { of_run, exit_code, oom_killed: container.oom_killed, at });
        vps.door = Door::None;
        true
    })?;
    if is_new {
        metrics::VPS_RESTARTS.up();
        node.events.note(id, "ended_by_itself");
        log::warn!("VPS {id}: its container has ended, exit code {told:?}; it is to run again");
    }
    Ok(is_new)
}

/// It runs. If that is another run than the last known one, its port may be another, too.
fn runs(node: &Arc<Node>, record: &TaskRecord, container: &Container, exit: Exit) -> Next {
    let id = record.spec.id;
    let run = container.started_at.map(Stamp::from);
    let known = record.vps.running_since;
    let is_new_run = known.is_some() && known != run;
    if let Exit::Told { at, .. } = exit
        && !is_new_run
        && run.is_some_and(|run| run < at)
    {
        // The Engine tells an end a moment before it shows it.
        return after(node, id, VPS_LOOK_AGAIN, settle);
    }
    if is_new_run {
        match note_end(node, id, container, exit) {
            Ok(_) => {}
            Err(StoreError::Missing(_)) => return Next::Done,
            Err(_) => return when_the_disk_is_back(node, id, settle),
        }
        if record.phase == Phase::Paused && !container.paused {
            // Nobody has resumed it: it stays as it was over its end.
            match node.engine.pause_container(&container.id) {
                Ok(()) => {}
                Err(error) => {
                    note_refusal(id, "to be paused again", &error);
                    return after(node, id, VPS_LOOK_AGAIN, settle);
                }
            }
        }
    }
    match look_at_the_port(node, record, container, is_new_run) {
        Ok(()) => {
            let mut exits = lock(&node.exits);
            // One that was told meanwhile is still to be looked at.
            if exits.get(&id) == Some(&exit) {
                exits.remove(&id);
            }
            Next::Done
        }
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, settle),
    }
}

/// Notes how a container runs, and tells the host of a new port.
fn look_at_the_port(
    node: &Arc<Node>,
    record: &TaskRecord,
    container: &Container,
    is_new_run: bool,
) -> Result<(), StoreError> {
    let id = record.spec.id;
    let (address, port) = ssh_port(container).unwrap_or((None, 0));
    let has_host = node.host.is_some();
    let is_being_saved = node.vps.is_being_saved(id);
    node.tasks.update(id, |record| {
        record.phase = match record.phase {
            // Somebody used the Engine behind our back; it is right (design law 3).
            // But a snapshot freezes it, and thaws it again.
            Phase::Running if container.paused && !is_being_saved => Phase::Paused,
            Phase::Paused if !container.paused && !is_new_run => Phase::Running,
            Phase::Running | Phase::Paused => record.phase,
            _ => return,
        };
        let is_moved = record.vps.ssh_port != port;
        (record.vps.ssh_address, record.vps.ssh_port) = (address, port);
        record.vps.running_since = container.started_at.map(Stamp::from);
        if port == 0 {
            record.vps.door = Door::None;
        } else if is_new_run || is_moved || record.vps.door == Door::None {
            record.vps.door = Door::Preparing(Stamp::now());
        }
        // A paused one is told when it is resumed: the host would show it running.
        if has_host && record.phase == Phase::Running && record.vps.told_port != Some(port) {
            record.vps.told_port = Some(port);
            if !record.reports.contains(&Report::Running) {
                record.reports.push(Report::Running);
            }
        }
    })?;
    node.outbox.notify(id);
    node.vps.want_doors();
    Ok(())
}

/// It should run, and the Engine leaves it as it is.
fn start_again(node: &Arc<Node>, record: &TaskRecord, container: &Container, exit: Exit) -> Next {
    let id = record.spec.id;
    let noted = note_end(node, id, container, exit);
    let quick_ends = match noted {
        Ok(_) => node.tasks.get(id).map_or(0, |record| record.vps.quick_ends),
        Err(StoreError::Missing(_)) => return Next::Done,
        Err(_) => return when_the_disk_is_back(node, id, settle),
    };
    let pause = VPS_RESTART_PAUSE_MIN * 2_u32.saturating_pow(quick_ends.saturating_sub(1).min(16));
    after(node, id, pause.min(VPS_RESTART_PAUSE_MAX), start_now)
}

/// The pause is over, or somebody has looked at all containers.
fn start_now(node: &Arc<Node>, id: TaskId) -> Next {
    let Some(record) = node.tasks.get(id) else { return Next::Done };
    if record.wanted != Wanted::Run || !matches!(record.phase, Phase::Running | Phase::Paused) {
        return settle(node, id);
    }
    log::warn!("VPS {id}: its container does not run; starting it");
    match node.engine.start_container(&record.spec.container_name()) {
        Ok(()) => settle(node, id),
        Err(error) if error.is_unclear() => when_the_engine_is_back(node, id, settle),
        Err(error) => {
            refused(node, &record, &error);
            after(node, id, VPS_RESTART_PAUSE_MAX, settle)
        }
    }
}

fn refused(node: &Node, record: &TaskRecord, error: &DockerError) {
    let note = format!("its container does not start again: {error}");
    log::error!("VPS {}: {note}", record.spec.id);
    node.tasks.note(record.spec.id, |record| {
        record.notes.retain(|known| *known != note);
        record.notes.push(note);
    });
}

fn over(node: &Arc<Node>, record: &TaskRecord, outcome: &Outcome) -> Next {
    let id = record.spec.id;
    match end(node, id, outcome, Some(Stamp::now())) {
        Ok(record) => finish::over(node, &record),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, settle),
    }
}
