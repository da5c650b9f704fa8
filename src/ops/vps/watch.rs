//! Looks after a VPS that runs: ends of its container that nobody asked for, and what the Engine makes
//! of them. The Engine restarts it (`unless-stopped`); after an end of its own it does not, and we do.

use std::sync::Arc;

use super::create::ssh_port;
use crate::docker::{Container, DockerError, Removal, Volumes};
use crate::lanes::Next;
use crate::limits::{VPS_LOOK_AGAIN, VPS_RESTART_PAUSE_MAX, VPS_RESTART_PAUSE_MIN};
use crate::metrics;
use crate::model::phase::Phase;
use crate::model::task::{FinalStatus, Outcome, Report, TaskRecord};
use crate::model::time::Stamp;
use crate::model::vps::{Door, LastEnd};
use crate::model::vps_script::{SAYS, SETUP_FAILED_EXIT_CODE};
use crate::ops::Node;
use crate::ops::node::Exit;
use crate::ops::task::finish::{clean_up, end, settle};
use crate::ops::task::outcome::failed;
use crate::ops::task::{after, note_refusal, when_the_disk_is_back, when_the_engine_is_back};
use crate::store::StoreError;
use crate::threads::lock;
use crate::wire::docker::ContainerState;

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
    if let Some(why) = set_up_failed(node, record, &container, exit) {
        return match node.engine.remove_container(&container.id, Removal::Forced, Volumes::Remove) {
            Err(error) if !error.is_missing() => {
                note_refusal(id, "its container", &error);
                when_the_engine_is_back(node, id, settle)
            }
            _ => over(node, record, &why),
        };
    }
    match container.state {
        ContainerState::Running | ContainerState::Paused => {
            runs_again(node, record, &container, exit)
        }
        // The Engine has taken it in hand.
        ContainerState::Restarting | ContainerState::Removing => {
            after(node, id, VPS_LOOK_AGAIN, settle)
        }
        _ => start_again(node, record, &container),
    }
}

/// The set-up's own words, if it is what has ended.
fn set_up_failed(
    node: &Node,
    record: &TaskRecord,
    container: &Container,
    exit: Exit,
) -> Option<Outcome> {
    let code = match exit {
        Exit::Told { code, .. } => code,
        Exit::Found => container.exit_code,
    };
    if code != SETUP_FAILED_EXIT_CODE || matches!(record.vps.door, Door::Open) {
        return None;
    }
    let tail = node.engine.container_log_tail(&container.id, crate::limits::LOG_TAIL_BYTES_MAX);
    let said = tail.map(|tail| String::from_utf8_lossy(&tail.stderr).into_owned());
    let said = said.unwrap_or_default();
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let why = lines.iter().rev().find_map(|line| line.strip_prefix(SAYS));
    let before = lines.iter().rev().find(|line| !line.starts_with(SAYS));
    let why = why.unwrap_or("it ended without a word");
    let message = match before {
        Some(before) => format!("SSH could not be set up: {why} ({before})"),
        None => format!("SSH could not be set up: {why}"),
    };
    Some(Outcome { exit_code: Some(code), ..failed(message) })
}

/// It has ended and runs again: its port may be another now.
fn runs_again(node: &Arc<Node>, record: &TaskRecord, container: &Container, exit: Exit) -> Next {
    let id = record.spec.id;
    lock(&node.exits).remove(&id);
    let at = container.finished_at.map_or_else(Stamp::now, Stamp::from);
    let code = match exit {
        Exit::Told { code, .. } => Some(code),
        Exit::Found => None,
    };
    match look_at_the_port(node, record, container, |record| {
        let is_new = record.vps.last_end.as_ref().is_none_or(|last| last.at < at);
        if let (Some(exit_code), true) = (code, is_new) {
            record.vps.restarts += 1;
            let oom_killed = container.oom_killed;
            record.vps.last_end = Some(LastEnd { exit_code, oom_killed, at });
        }
        is_new && code.is_some()
    }) {
        Ok(true) => {
            metrics::VPS_RESTARTS.up();
            node.events.note(id, "restarted");
            log::warn!("VPS {id}: its container ended (exit code {code:?}) and runs again");
            Next::Done
        }
        Ok(false) | Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, settle),
    }
}

/// Notes the port of a container that runs, and tells the host of a new one.
///
/// # Errors
/// The disk refused, or the record is gone.
pub fn look_at_the_port(
    node: &Arc<Node>,
    record: &TaskRecord,
    container: &Container,
    besides: impl FnOnce(&mut TaskRecord) -> bool,
) -> Result<bool, StoreError> {
    let id = record.spec.id;
    let (port, has_host) = (ssh_port(container).unwrap_or(0), node.host.is_some());
    let result = node.tasks.update(id, |record| {
        if !matches!(record.phase, Phase::Running | Phase::Paused) {
            return false;
        }
        let was_new = besides(record);
        let is_moved = record.vps.ssh_port != port;
        record.vps.ssh_port = port;
        if port == 0 {
            record.vps.door = Door::None;
        } else if was_new || is_moved {
            record.vps.door = Door::Preparing(Stamp::now());
        }
        if has_host && is_moved && !record.reports.contains(&Report::Running) {
            record.reports.push(Report::Running);
        }
        was_new
    })?;
    node.outbox.notify(id);
    node.vps.want_doors();
    Ok(result)
}

/// It should run, and the Engine leaves it as it is.
fn start_again(node: &Arc<Node>, record: &TaskRecord, container: &Container) -> Next {
    let id = record.spec.id;
    let ended = container.finished_at.map_or_else(Stamp::now, Stamp::from);
    let last =
        LastEnd { exit_code: container.exit_code, oom_killed: container.oom_killed, at: ended };
    let noted = node.tasks.update(id, |record| {
        if record.vps.last_end.as_ref() != Some(&last) {
            record.vps.restarts += 1;
            record.vps.last_end = Some(last.clone());
        }
        record.vps.restarts
    });
    let restarts = match noted {
        Ok(restarts) => restarts,
        Err(StoreError::Missing(_)) => return Next::Done,
        Err(_) => return when_the_disk_is_back(node, id, settle),
    };
    let pause = VPS_RESTART_PAUSE_MIN * 2_u32.saturating_pow(restarts.saturating_sub(1).min(16));
    let pause = pause.min(VPS_RESTART_PAUSE_MAX);
    let rest = pause.saturating_sub(Stamp::now().since(ended));
    if !rest.is_zero() {
        return after(node, id, rest, settle);
    }
    log::warn!("VPS {id}: its container had ended (exit code {}); starting it", last.exit_code);
    match node.engine.start_container(&container.id) {
        Ok(()) => after(node, id, VPS_LOOK_AGAIN, settle),
        Err(error) if error.is_unclear() => when_the_engine_is_back(node, id, settle),
        Err(error) => {
            refused(node, record, &error);
            after(node, id, pause, settle)
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
        Ok(record) => clean_up(node, &record),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, settle),
    }
}
