//! Ends a task: exit code, record, report, clean-up. Runs on the task's lane whenever its flag is
//! up: the Engine told an end, a kill is wanted, or the host has acknowledged the final. Never talks
//! to a client: the host learns through the outbox.

use std::sync::Arc;

use super::container::is_ours;
use super::{after, when_the_disk_is_back, when_the_engine_is_back};
use crate::docker::{DockerError, Removal, Volumes};
use crate::lanes::Next;
use crate::limits::{
    ENDED_KEPT_MAX, LOG_TAIL_BYTES_MAX, MESSAGE_QUOTE_CHARS_MAX, REMOVE_RETRY_PAUSE,
};
use crate::machine::kernel_log;
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::{ContainerTrace, FinalStatus, Outcome, TaskRecord};
use crate::model::time::Stamp;
use crate::ops::Node;
use crate::ops::node::{Exit, lock};
use crate::ops::reports::withdrawn;
use crate::store::StoreError;

/// 128 + SIGKILL: by us, by the kernel's OOM killer, or by somebody on the machine.
const KILLED_EXIT_CODE: i64 = 137;
/// 128 + SIGTERM.
const TERMINATED_EXIT_CODE: i64 = 143;

/// Does whatever the task's state asks for; nothing if it asks for nothing.
pub fn settle(node: &Arc<Node>, id: TaskId) -> Next {
    let Some(record) = node.tasks.get(id) else {
        lock(&node.exits).remove(&id);
        return Next::Done;
    };
    if record.phase == Phase::Ended {
        lock(&node.exits).remove(&id);
        return clean_up(node, &record);
    }
    let exit = lock(&node.exits).get(&id).copied();
    match (exit, record.wanted) {
        (Some(exit), _) => conclude(node, &record, exit),
        (None, Wanted::Run) => Next::Done,
        (None, Wanted::Killed | Wanted::Withdrawn) => kill_container(node, &record),
    }
}

/// The task could not be started: its outcome is `failed` with a message for the user.
pub fn refuse(node: &Arc<Node>, id: TaskId, exit_code: Option<i64>, message: String) -> Next {
    let refused = Outcome { status: FinalStatus::Failed, exit_code, message: Some(message) };
    let Some(record) = node.tasks.get(id) else { return Next::Done };
    let outcome = match record.wanted {
        Wanted::Run => refused,
        Wanted::Killed => killed(None),
        Wanted::Withdrawn => withdrawn(),
    };
    match end(node, id, &outcome, None) {
        Ok(record) => clean_up(node, &record),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => {
            let owner = Arc::clone(node);
            let again =
                move || refuse(&owner, id, outcome.exit_code, outcome.message.unwrap_or_default());
            Next::After(crate::limits::STORE_RETRY_PAUSE, Box::new(again))
        }
    }
}

/// The outcome of a task killed through the API.
pub fn killed(exit_code: Option<i64>) -> Outcome {
    Outcome {
        status: FinalStatus::Killed,
        exit_code,
        message: Some("killed by request".to_owned()),
    }
}

fn kill_container(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let id = record.spec.id;
    let sent = match container_of(node, record) {
        Ok(Some(container)) => node.engine.kill_container(&container, "SIGKILL"),
        Ok(None) => return conclude(node, record, Exit::Gone),
        Err(error) => Err(error),
    };
    match sent {
        // Its end arrives as an event, like any other.
        Ok(()) => Next::Done,
        // Not running: it never ran, or its end is on its way or was lost.
        Err(error) if error.is_conflict() => conclude(node, record, Exit::Found),
        Err(error) if error.is_missing() => conclude(node, record, Exit::Gone),
        Err(error) => {
            log::warn!("task {id}: kill: {error}");
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
            log::warn!("task {id}: how it ended: {error}");
            return when_the_engine_is_back(node, id, settle);
        }
    };
    let outcome = match record.wanted {
        Wanted::Run => outcome_of(&ending),
        Wanted::Killed => killed(ending.code),
        Wanted::Withdrawn => withdrawn(),
    };
    match end(node, id, &outcome, ending.at) {
        Ok(record) => clean_up(node, &record),
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, settle),
    }
}

/// How a container ended, with what is needed to name the outcome.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ending {
    /// `None`: the container is gone, and its code with it.
    code: Option<i64>,
    at: Option<Stamp>,
    oom_killed: bool,
    /// What the Engine's log holds: what was said before the output was redirected.
    said: String,
    /// The Engine's own word on a container that it could not run.
    engine_error: String,
}

/// `None` when the container runs. A clean end needs no call: asking right after `die` blocks behind
/// the Engine's own clean-up (design D4).
fn ending_of(node: &Node, record: &TaskRecord, exit: Exit) -> Result<Option<Ending>, DockerError> {
    let told = match exit {
        Exit::Gone => return Ok(Some(Ending::default())),
        Exit::Told { code: 0, at } => {
            return Ok(Some(Ending { code: Some(0), at: Some(at), ..Ending::default() }));
        }
        Exit::Told { code, at } => Some((code, at)),
        Exit::Found => None,
    };
    let by_event = |told: Option<(i64, Stamp)>| Ending {
        code: told.map(|(code, _)| code),
        at: told.map(|(_, at)| at),
        ..Ending::default()
    };
    let Some(name) = container_of(node, record)? else { return Ok(Some(by_event(told))) };
    let container = match node.engine.inspect_container(&name) {
        Ok(container) => container,
        Err(error) if error.is_missing() => return Ok(Some(by_event(told))),
        Err(error) => return Err(error),
    };
    let state = container;
    if state.running && told.is_none() {
        return Ok(None);
    }
    let code = told.map_or(state.exit_code, |(code, _)| code);
    let said = match code {
        0 => String::new(),
        _ => node
            .engine
            .container_log_tail(&name, LOG_TAIL_BYTES_MAX)
            .map(|tail| String::from_utf8_lossy(&tail.stderr).trim().to_owned())
            .unwrap_or_default(),
    };
    Ok(Some(Ending {
        code: state.started_at.is_some().then_some(code),
        at: told.map(|(_, at)| at).or(state.finished_at.map(Stamp::from)),
        oom_killed: state.oom_killed || (code != 0 && is_oom_killed_by_the_log(record, &state.id)),
        said,
        engine_error: state.error,
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

/// Exit code to status and message (contract 5.3 and its better rules).
fn outcome_of(ending: &Ending) -> Outcome {
    let Some(code) = ending.code else {
        let message =
            "its container was removed, not by the runner, before its exit code was known";
        return Outcome {
            status: FinalStatus::Failed,
            exit_code: None,
            message: Some(message.into()),
        };
    };
    let status = match (code, ending.oom_killed) {
        (0, _) => FinalStatus::Completed,
        (KILLED_EXIT_CODE, true) => FinalStatus::KilledOom,
        _ => FinalStatus::Failed,
    };
    let mut message = match (code, ending.oom_killed) {
        (0, _) => return Outcome { status, exit_code: Some(0), message: None },
        (KILLED_EXIT_CODE, true) => "exit code 137: out of memory, it reached its limit".to_owned(),
        (KILLED_EXIT_CODE, false) => {
            "exit code 137: killed (SIGKILL), not by the runner and not for memory".to_owned()
        }
        (TERMINATED_EXIT_CODE, _) => "exit code 143: terminated (SIGTERM)".to_owned(),
        (code, true) => format!("exit code {code}; a process of it was killed for memory"),
        (code, false) => format!("exit code {code}"),
    };
    for more in [&ending.engine_error, &ending.said] {
        if !more.is_empty() {
            message.push_str(": ");
            message.extend(more.chars().take(MESSAGE_QUOTE_CHARS_MAX));
        }
    }
    Outcome { status, exit_code: Some(code), message: Some(message) }
}

/// Records the outcome, with the final report in the same write. The first outcome stands: a kill may
/// have ended the task meanwhile.
fn end(
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

/// Removes the container of a task that has ended, as soon as that loses nothing (design law 2), and
/// puts the record away when nothing is left to do.
fn clean_up(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let id = record.spec.id;
    if record.container != ContainerTrace::Removed {
        if !record.reports.is_empty() && is_kept(node, id) {
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
                log::warn!("task {id}: its container stays for now: {error}");
                return after(node, id, REMOVE_RETRY_PAUSE, settle);
            }
        }
        // In memory: after a crash the Engine says 404 to the same call.
        node.tasks.note(id, |record| record.container = ContainerTrace::Removed);
    }
    // Not sooner: what the task wrote just before its end is told a moment after.
    if let Some(first_writes) = &node.first_writes {
        first_writes.forget(id);
    }
    match node.tasks.retire(id) {
        Ok(()) => Next::Done,
        Err(error) => {
            log::error!("task {id}: {error}");
            when_the_disk_is_back(node, id, settle)
        }
    }
}

/// Whether the container is among the newest that wait for the host, which are kept so that a lost
/// state directory can be rebuilt. The one that falls out is told to go.
fn is_kept(node: &Node, id: TaskId) -> bool {
    let mut waiting = node.tasks.live(|record| {
        let waits = record.phase == Phase::Ended
            && !record.reports.is_empty()
            && record.container != ContainerTrace::Removed;
        waits.then_some((record.times.recorded, record.spec.id))
    });
    waiting.sort_unstable_by(|a, b| b.cmp(a));
    for (_, fallen) in waiting.iter().skip(ENDED_KEPT_MAX).filter(|(_, fallen)| *fallen != id) {
        node.lanes.raise(*fallen);
    }
    waiting.iter().take(ENDED_KEPT_MAX).any(|(_, kept)| *kept == id)
}

/// The Engine's handle of the task's own container; `None` if there is none, or only a stranger's.
pub fn container_of(node: &Node, record: &TaskRecord) -> Result<Option<String>, DockerError> {
    match &record.container {
        ContainerTrace::None | ContainerTrace::Removed => Ok(None),
        ContainerTrace::Known(container) => Ok(Some(container.clone())),
        ContainerTrace::Possible => {
            match node.engine.inspect_container(&record.spec.id.task_container()) {
                Ok(found) => Ok(is_ours(&node.settings, &found.labels).then_some(found.id)),
                Err(error) if error.is_missing() => Ok(None),
                Err(error) => Err(error),
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn outcome(code: i64, oom_killed: bool) -> Outcome {
        outcome_of(&Ending { code: Some(code), oom_killed, ..Ending::default() })
    }

    #[test]
    fn success_has_no_message() {
        assert_eq!(outcome(0, false).message, None);
        assert_eq!(outcome(0, true).status, FinalStatus::Completed);
    }

    #[test]
    fn killed_oom_is_137_with_the_engines_word_and_nothing_else() {
        assert_eq!(outcome(137, true).status, FinalStatus::KilledOom);
        assert_eq!(outcome(137, false).status, FinalStatus::Failed);
        assert_eq!(outcome(1, true).status, FinalStatus::Failed);
        assert!(outcome(1, true).message.unwrap().contains("memory"));
    }

    #[test]
    fn failure_quotes_what_the_engines_log_holds_and_no_more_than_500_characters() {
        let ending = Ending { code: Some(2), said: "ö".repeat(2000), ..Ending::default() };
        let message = outcome_of(&ending).message.unwrap();
        assert_eq!(message.chars().filter(|c| *c == 'ö').count(), MESSAGE_QUOTE_CHARS_MAX);
    }

    #[test]
    fn container_that_is_gone_fails_without_a_code() {
        let outcome = outcome_of(&Ending::default());
        assert_eq!((outcome.status, outcome.exit_code), (FinalStatus::Failed, None));
    }
}
