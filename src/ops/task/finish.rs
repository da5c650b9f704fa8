//! Ends a task: exit code, record, report, clean-up. Runs on the task's lane whenever its flag is
//! up: the Engine told an end, a kill is wanted, or the host has acknowledged the final. Never talks
//! to a client: the host learns through the outbox.

use std::sync::Arc;

use super::container::is_ours;
use super::engine_stop::{is_by_the_engine, is_success_invented};
use super::kept::Keeping;
use super::outcome::{Ending, killed, outcome_of, withdrawn};
use super::{after, note_refusal, when_the_disk_is_back, when_the_engine_is_back};
use crate::docker::{DockerError, Removal, Volumes};
use crate::lanes::Next;
use crate::limits::{LOG_TAIL_BYTES_MAX, REMOVE_RETRY_PAUSE, STORE_RETRY_PAUSE};
use crate::machine::kernel_log;
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::{ContainerTrace, Outcome, TaskRecord};
use crate::model::time::Stamp;
use crate::ops::node::Exit;
use crate::ops::{Node, inside, vps};
use crate::store::StoreError;
use crate::threads::lock;

/// Does whatever the task's state asks for; nothing if it asks for nothing.
pub fn settle(node: &Arc<Node>, id: TaskId) -> Next {
    let Some(record) = node.tasks.get(id) else {
        lock(&node.exits).remove(&id);
        return Next::Done;
    };
    if record.phase == Phase::Ended {
        lock(&node.exits).remove(&id);
        return over(node, &record);
    }
    let exit = lock(&node.exits).get(&id).copied();
    if record.spec.vps().is_some() {
        return vps::settle(node, &record, exit);
    }
    match (exit, record.wanted) {
        (Some(exit), _) => conclude(node, &record, exit),
        (None, Wanted::Run) => Next::Done,
        (None, Wanted::Killed | Wanted::Withdrawn | Wanted::Stopped) => {
            kill_container(node, &record)
        }
    }
}

/// The task could not be started: unless it is to end anyway, `refused` is its outcome.
pub fn refuse(node: &Arc<Node>, id: TaskId, refused: Outcome) -> Next {
    let Some(record) = node.tasks.get(id) else { return Next::Done };
    let outcome = match record.wanted {
        Wanted::Run => refused,
        Wanted::Killed | Wanted::Stopped => killed(None),
        Wanted::Withdrawn => withdrawn(),
    };
    match end(node, id, &outcome, None) {
        Ok(record) => over(node, &record),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => {
            let owner = Arc::clone(node);
            Next::After(STORE_RETRY_PAUSE, Box::new(move || refuse(&owner, id, outcome)))
        }
    }
}

fn kill_container(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let id = record.spec.id;
    let sent = match container_of(node, record) {
        Ok(Some(container)) => node.engine.kill_container(&container, "SIGKILL"),
        Ok(None) => return conclude(node, record, Exit::Found),
        Err(error) => Err(error),
    };
    match sent {
        // Its end arrives as an event, like any other.
        Ok(()) => Next::Done,
        // Not running: it never ran, its end is on its way or was lost, or it is gone.
        Err(error) if error.is_conflict() || error.is_missing() => {
            conclude(node, record, Exit::Found)
        }
        Err(error) => {
            note_refusal(id, "its kill", &error);
            when_the_engine_is_back(node, id, settle)
        }
    }
}

fn conclude(node: &Arc<Node>, record: &TaskRecord, exit: Exit) -> Next {
    let id = record.spec.id;
    let ending = match ending_of(node, record, exit) {
        Ok(Some(ending)) => ending,
        // It runs: somebody told an end that was none.
        Ok(None) => {
            lock(&node.exits).remove(&id);
            return Next::Done;
        }
        Err(error) => {
            note_refusal(id, "how it ended", &error);
            return when_the_engine_is_back(node, id, settle);
        }
    };
    let outcome = match record.wanted {
        Wanted::Run => outcome_of(&ending),
        Wanted::Killed | Wanted::Stopped => killed(ending.code),
        Wanted::Withdrawn => withdrawn(),
    };
    match end(node, id, &outcome, ending.at) {
        Ok(record) => clean_up(node, &record),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, settle),
    }
}

/// `None` when the container runs. A clean end needs no call: asking right after `die` blocks behind
/// the Engine's own clean-up (design D4).
fn ending_of(node: &Node, record: &TaskRecord, exit: Exit) -> Result<Option<Ending>, DockerError> {
    let told = match exit {
        Exit::Told { code: 0, at } => {
            return Ok(Some(Ending { code: Some(0), at: Some(at), ..Ending::default() }));
        }
        Exit::Told { code, at } => Some((code, at)),
        Exit::Found => None,
    };
    let as_told = Ending {
        code: told.map(|(code, _)| code),
        at: told.map(|(_, at)| at),
        ..Ending::default()
    };
    let Some(name) = container_of(node, record)? else { return Ok(Some(as_told)) };
    let container = match node.engine.inspect_container(&name) {
        Ok(container) => container,
        Err(error) if error.is_missing() => {
            let engine_stopped = is_by_the_engine(node, record, as_told.code, &name)?;
            return Ok(Some(Ending { engine_stopped, ..as_told }));
        }
        Err(error) => return Err(error),
    };
    if container.running && told.is_none() {
        return Ok(None);
    }
    if told.is_none() && container.exit_code == 0 && is_success_invented(node, &container)? {
        let at = container.finished_at.map(Stamp::from);
        return Ok(Some(Ending { at, engine_stopped: true, ..Ending::default() }));
    }
    let code = as_told.code.unwrap_or(container.exit_code);
    let said = match code {
        0 => String::new(),
        _ => node
            .engine
            .container_log_tail(&name, LOG_TAIL_BYTES_MAX)
            .map(|tail| String::from_utf8_lossy(&tail.stderr).trim().to_owned())
            .unwrap_or_default(),
    };
    let engine_stopped = is_by_the_engine(node, record, Some(code), &container.id)?;
    Ok(Some(Ending {
        code: container.started_at.or(container.finished_at).is_some().then_some(code),
        at: as_told.at.or(container.finished_at.map(Stamp::from)),
        oom_killed: container.oom_killed
            || (code != 0 && is_oom_killed_by_the_log(record, &container.id)),
        said,
        engine_error: container.error,
        engine_stopped,
    }))
}

/// The Engine's flag can be missing; the kernel's log can't be wrong.
fn is_oom_killed_by_the_log(record: &TaskRecord, container: &str) -> bool {
    record.spec.memory_bytes.is_some()
        && kernel_log::has_oom_kill(container).unwrap_or_else(|error| {
            log::debug!("kernel log: {error}");
            false
        })
}

/// Records the outcome, with the final report in the same write. The first outcome stands: a kill may
/// have ended the task meanwhile.
pub fn end(
    node: &Arc<Node>,
    id: TaskId,
    outcome: &Outcome,
    exited: Option<Stamp>,
) -> Result<TaskRecord, StoreError> {
    let has_host = node.host.is_some();
    let (record, is_first) = node.tasks.update(id, |record| {
        let is_first = record.phase != Phase::Ended;
        if is_first {
            record.end(outcome.clone(), exited, Stamp::now(), has_host);
        }
        (record.clone(), is_first)
    })?;
    lock(&node.exits).remove(&id);
    if record.spec.vps().is_some() {
        vps::create::refused(node, id, record.outcome.as_ref().unwrap_or(outcome));
    }
    if !is_first {
        return Ok(record);
    }
    metrics::TASKS_ENDED.up();
    node.events.note(id, outcome.status.word());
    node.outbox.notify(id);
    let code = outcome.exit_code.map_or("none".to_owned(), |code| code.to_string());
    log::info!("task {id}: {}, exit code {code}", outcome.status.word());
    Ok(record)
}

/// Cleans up after a task that has ended, and tells who waited for the end of a VPS.
pub fn over(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let next = clean_up(node, record);
    if record.spec.vps().is_some() {
        vps::stop::over(node, record.spec.id);
    }
    next
}

/// Removes the container of a task that has ended, as soon as that loses nothing (design law 2), and
/// puts the record away when nothing is left to do.
pub fn clean_up(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let id = record.spec.id;
    if record.container != ContainerTrace::Removed {
        if !record.reports.is_empty() && is_kept(node, record) {
            return Next::Done;
        }
        let removed = match container_of(node, record) {
            Ok(Some(container)) => {
                node.engine.remove_container(&container, Removal::Forced, Volumes::Remove)
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => {
                note_refusal(id, "its container stays for now", &error);
                return after(node, id, REMOVE_RETRY_PAUSE, settle);
            }
        }
        // In memory: after a crash the Engine says 404 to the same call.
        node.tasks.note(id, |record| record.container = ContainerTrace::Removed);
    }
    lock(&node.kept).forget(record.times.recorded, id);
    // Not sooner: what the task wrote just before its end is told a moment after.
    if let Some(first_writes) = &node.first_writes {
        first_writes.forget(id);
    }
    inside::forget(node, id);
    match node.tasks.retire(id) {
        Ok(()) => {
            vps::pending::go_on(node, id);
            Next::Done
        }
        // The table has said it.
        Err(_) => when_the_disk_is_back(node, id, settle),
    }
}

/// Whether the container stays for the host's sake. The one that falls out instead is told to go.
fn is_kept(node: &Node, record: &TaskRecord) -> bool {
    let keeping = lock(&node.kept).ask(record.times.recorded, record.spec.id);
    if let Keeping::Stays { fallen: Some(fallen) } = keeping {
        node.lanes.raise(fallen);
    }
    keeping != Keeping::Goes
}

/// The Engine's handle of the task's own container; `None` if there is none, or only a stranger's.
pub fn container_of(node: &Node, record: &TaskRecord) -> Result<Option<String>, DockerError> {
    match &record.container {
        ContainerTrace::None | ContainerTrace::Removed => Ok(None),
        ContainerTrace::Known(container) => Ok(Some(container.clone())),
        ContainerTrace::Possible => {
            match node.engine.inspect_container(&record.spec.container_name()) {
                Ok(found) => Ok(is_ours(&node.settings, &found.labels).then_some(found.id)),
                Err(error) if error.is_missing() => Ok(None),
                Err(error) => Err(error),
            }
        }
    }
}
