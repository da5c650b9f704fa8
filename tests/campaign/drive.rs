//! Makes a schedule happen: one thread for each task and each fault, each waiting for its time,
//! and one that starts the runner again when it has died, as a service manager would.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fault::Kind;
use crate::kit::{Response, StateCalls, call, task_container, wait_until};
use crate::runner::End;
use crate::strike::strike;
use crate::tasks::{Task, Verb};
use crate::world::{Answer, World, locked};

/// Between two tries of a host that insists.
const TRY_AGAIN: Duration = Duration::from_millis(400);
const TRIES_MAX: usize = 12;
/// A user tries that long to pause a task whose container does not run yet.
const PAUSE_PATIENCE: Duration = Duration::from_secs(6);
/// Design law 10, and what a loaded machine adds.
const STOP_MAX: Duration = Duration::from_millis(2500);
const SIGKILL: i32 = 9;

/// Returns when all that is timed has happened, and every fault with an end has ended.
pub fn run(world: &World<'_>) {
    std::thread::scope(|scope| {
        for vps in &world.schedule.vps {
            scope.spawn(move || crate::vps::drive::run(world, vps));
        }
        for task in &world.schedule.tasks {
            scope.spawn(move || submit(world, task));
            for &(after_ms, verb) in &task.verbs {
                scope.spawn(move || control(world, task, task.at_ms + after_ms, verb));
            }
        }
        for timed in &world.schedule.actions {
            scope.spawn(move || {
                world.wait_for(timed.at_ms);
                if strike(world, timed) {
                    world.injected(timed.kind);
                }
            });
        }
    });
}

/// Keeps the runner alive until the schedule is over, and notes ends that nobody caused.
pub fn supervise(world: &World<'_>) {
    let mut struck = false;
    while !world.runner.is_over() {
        let ended = world.runner.reap(&mut locked(&world.daemon));
        let Some(End { killed, terminated, code, signal }) = ended else {
            sleep(Duration::from_millis(10));
            continue;
        };
        let mut is_explained = killed && signal == Some(SIGKILL);
        if let Some(took) = terminated {
            is_explained |= code == Some(0);
            if code == Some(0) && took > STOP_MAX {
                world.breach(format!("the runner took {took:?} to stop"));
            }
        }
        let at_state_call = world.state_calls.as_ref().is_some_and(StateCalls::has_struck);
        if !is_explained && signal == Some(SIGKILL) && at_state_call && !struck {
            world.injected(Kind::RunnerKilledAtStateCall);
            (struck, is_explained) = (true, true);
        }
        if !is_explained {
            world.breach(format!("the runner ended by itself: code {code:?}, signal {signal:?}"));
        }
        sleep(Duration::from_millis(world.schedule.rest_ms));
        let mut daemon = locked(&world.daemon);
        if world.runner.is_over() {
            return;
        }
        world.runner.launch(&mut daemon);
    }
}

// ── tasks ────────────────────────────────────────────────────────────────────────────────────

fn submit(world: &World<'_>, task: &Task) {
    world.wait_for(task.at_ms);
    let body = task.body(&world.logs);
    let key = format!("key-{}", task.id);
    let headers = [("Idempotency-Key", key.as_str())];
    let tries_max = if task.insists { TRIES_MAX } else { 1 };
    for _ in 0..tries_max {
        // Before it is sent: what comes of it comes after this.
        world.note_task(task.id, |note| {
            note.submitted.get_or_insert_with(Instant::now);
        });
        let answer = call(&world.address, "POST", "/api/execute", &headers, Some(&body));
        let answer = match answer {
            Ok(Response { status: 200, .. }) => Answer::Accepted,
            Ok(Response { status, .. }) => Answer::Refused(status),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Answer::NotSent,
            Err(_) => Answer::Broken,
        };
        world.note_task(task.id, |note| {
            // A later refusal does not undo what an unanswered try may have done.
            let is_unsure = note.answer == Answer::Broken && answer != Answer::Accepted;
            if !is_unsure {
                note.answer = answer;
            }
            note.refusals += usize::from(matches!(answer, Answer::Refused(_)));
        });
        match answer {
            Answer::Accepted => return,
            Answer::Refused(status @ (400..=499)) => {
                return world.breach(format!("task {} was answered {status}", task.id));
            }
            _ => sleep(TRY_AGAIN),
        }
    }
}

fn control(world: &World<'_>, task: &Task, at_ms: u64, verb: Verb) {
    world.wait_for(at_ms);
    let mut status = send_verb(world, task.id, verb);
    // A pause before the container runs is refused; its user tries again.
    let _ = wait_until(PAUSE_PATIENCE, || {
        let is_early = verb == Verb::Pause && status == Some(409);
        if is_early {
            sleep(TRY_AGAIN);
            status = send_verb(world, task.id, verb);
        }
        !is_early
    });
    let kind = if verb == Verb::Kill { Kind::ApiKill } else { Kind::ApiPause };
    if status == Some(200) && verb != Verb::Resume {
        world.injected(kind);
    }
}

/// The status of the answer, if one came.
pub fn send_verb(world: &World<'_>, id: u64, verb: Verb) -> Option<u16> {
    let path = format!("/api/{}", verb.word());
    let body = json!({ "task_id": id, "container_name": task_container(id) });
    let answer = call(&world.address, "POST", &path, &[], Some(&body));
    let status = answer.as_ref().ok().map(|response| response.status);
    if verb == Verb::Kill {
        let refused_to_connect =
            answer.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
        let now = Instant::now();
        world.note_task(id, |note| match status {
            Some(200) => note.killed = Some(now),
            Some(404) => {}
            Some(_) => note.kill_unsure = true,
            None => note.kill_unsure |= !refused_to_connect,
        });
    }
    status
}
