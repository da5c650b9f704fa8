//! Makes a schedule happen: one thread for each task and each fault, each waiting for its time,
//! and one that starts the runner again when it has died, as a service manager would.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::{Behaviour, Response, StateCalls, call, task_container, wait_until};
use crate::schedule::{Action, EngineFault, Kind, Timed};
use crate::tasks::{Task, Verb};
use crate::world::{Answer, Foreign, Span, TaskNote, World, fill, locked};

/// How long a fault that needs a container waits for one.
const CONTAINER_PATIENCE: Duration = Duration::from_secs(3);
/// The Engine's words when it is made to answer 500.
pub const REFUSAL: &str = "refused by the campaign";
/// Between two tries of a host that insists.
const TRY_AGAIN: Duration = Duration::from_millis(400);
const PAUSE_PATIENCE: Duration = Duration::from_secs(6);
const TRIES_MAX: usize = 12;
/// Design law 10, and what a loaded machine adds.
const STOP_MAX: Duration = Duration::from_millis(2500);
/// A call that takes longer than this is given up by the host.
const SLOW_CALL: Duration = Duration::from_millis(1500);

/// Returns when all that is timed has happened, and every fault with an end has ended.
pub fn run(world: &World<'_>) {
    std::thread::scope(|scope| {
        for task in &world.schedule.tasks {
            scope.spawn(move || submit(world, task));
            for &(after_ms, verb) in &task.verbs {
                scope.spawn(move || control(world, task, task.at_ms + after_ms, verb));
            }
        }
        for timed in &world.schedule.actions {
            scope.spawn(move || {
                wait_for(world, timed.at_ms);
                if act(world, timed) {
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
        let Some((end, code, signal)) = ended else {
            sleep(Duration::from_millis(10));
            continue;
        };
        let mut is_explained = end.killed && signal == Some(9);
        if let Some(took) = end.terminated {
            is_explained |= code == Some(0);
            if code == Some(0) && took > STOP_MAX {
                world.breach(format!("the runner took {took:?} to stop"));
            }
        }
        let at_state_call = world.state_calls.as_ref().is_some_and(StateCalls::has_struck);
        if !is_explained && signal == Some(9) && at_state_call && !struck {
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

fn wait_for(world: &World<'_>, at_ms: u64) {
    let at = world.begin + Duration::from_millis(at_ms);
    sleep(at.saturating_duration_since(Instant::now()));
}

// ── tasks ────────────────────────────────────────────────────────────────────────────────────

fn submit(world: &World<'_>, task: &Task) {
    wait_for(world, task.at_ms);
    let body = task.body(&world.logs);
    let key = format!("key-{}", task.id);
    let headers = [("Idempotency-Key", key.as_str())];
    for _ in 0..if task.insists { TRIES_MAX } else { 1 } {
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
    wait_for(world, at_ms);
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

// ── faults ───────────────────────────────────────────────────────────────────────────────────

/// Returns whether it really happened; what strikes later, by a hook, counts itself.
fn act(world: &World<'_>, timed: &Timed) -> bool {
    let rest = |ms: u64| sleep(Duration::from_millis(ms));
    match timed.action {
        Action::KillRunner => world.runner.kill(),
        Action::TerminateRunner => world.runner.terminate(),
        Action::HostDown { ms } => {
            world.host.down();
            rest(ms);
            world.host.up();
            true
        }
        Action::HostFails { fault, ms } => {
            let before = world.host.struck();
            if timed.kind == Kind::HostForgets {
                world.host.forget_nodes();
            }
            world.host.fail(fault);
            rest(ms);
            world.host.lift(fault);
            world.host.struck() > before
        }
        Action::HostMarksLost { ms } => {
            world.host.down();
            rest(ms);
            for task in &world.schedule.tasks {
                let status = world.host.status_of(task.id);
                let is_over = matches!(status.as_deref(), Some("completed" | "failed"));
                if !is_over && world.notes().tasks[&task.id].submitted.is_some() {
                    world.host.set_status(task.id, "lost");
                }
            }
            world.host.up();
            true
        }
        Action::UserEnds { nth } => arm_user(world, nth),
        Action::KillAtHostCall { call, nth, moment } => {
            let (runner, notes, kind) = (world.runner.clone(), world.notes.clone(), timed.kind);
            world.host.on_nth(nth, call, moment, move |_| {
                if runner.kill() {
                    locked(&notes).injected(kind);
                }
            });
            false
        }
        Action::HangEngine { ms } => {
            let engine = locked(&world.engine);
            engine.hang();
            rest(ms);
            engine.go_on();
            true
        }
        Action::RestartEngine => outage(world, |world| {
            let mut engine = locked(&world.engine);
            engine.stop();
            engine.start_again();
        }),
        Action::KillEngine { ms } => outage(world, |world| {
            let mut engine = locked(&world.engine);
            engine.kill9();
            rest(ms);
            engine.start_again();
        }),
        Action::CutPower { ms } => outage(world, |world| {
            let mut engine = locked(&world.engine);
            // The runner is on the same machine.
            world.runner.kill();
            engine.power_cut();
            rest(ms);
            engine.start_again();
        }),
        Action::EngineAway { ms } => {
            world.proxy.down();
            rest(ms);
            world.proxy.up();
            true
        }
        Action::EngineCall { method, path, nth, how, ms } => {
            arm_engine_call(world, timed.kind, (method, path), nth, how, ms)
        }
        Action::FillStateDir { ms } => {
            let filler = fill(&world.state_root);
            rest(ms);
            std::fs::remove_file(filler).is_ok()
        }
        Action::FillLogDir { ms } => {
            let begin = Instant::now();
            let filler = fill(&world.share_root);
            rest(ms);
            let freed = std::fs::remove_file(filler).is_ok();
            world.notes().logs_full.push(Span::since(begin));
            freed
        }
        Action::KillContainer { signal } => on_container(
            world,
            |note| note.signalled = true,
            |name| {
                let path = format!("/containers/{name}/kill?signal={signal}");
                world.client.try_api("POST", &path, None).is_ok_and(|done| done.status == 204)
            },
        ),
        Action::RemoveContainer => on_container(
            world,
            |note| note.removed = true,
            |name| {
                let path = format!("/containers/{name}?force=1");
                world.client.try_api("DELETE", &path, None).is_ok_and(|done| done.status == 204)
            },
        ),
        Action::MakeForeign => on_container(world, |_| {}, |name| make_foreign(world, name)),
        Action::JumpClock { seconds } => {
            world.set_clock(seconds * 1_000_000_000);
            true
        }
    }
}

fn outage(world: &World<'_>, act: impl FnOnce(&World<'_>)) -> bool {
    let begin = Instant::now();
    act(world);
    world.notes().engine_outages.push(Span::since(begin));
    true
}

/// A user ends a task at the host just before its report comes: the report is refused.
fn arm_user(world: &World<'_>, nth: usize) -> bool {
    let (host, notes) = (Arc::downgrade(&world.host), world.notes.clone());
    let end = move |report: &serde_json::Value| {
        let (Some(host), Some(id)) = (host.upgrade(), report["task_id"].as_u64()) else { return };
        if matches!(report["status"].as_str(), Some("pending" | "running")) {
            host.set_status(id, "killed");
            let mut notes = locked(&notes);
            notes.injected(Kind::UserEnds);
            if let Some(note) = notes.tasks.get_mut(&id) {
                note.user_ended = true;
            }
        }
    };
    world.host.on_nth(nth, "POST /api/update", crate::kit::Moment::Before, end);
    false
}

/// Waits for a call that comes, lets it meet the fault, and counts only what met it.
fn arm_engine_call(
    world: &World<'_>,
    kind: Kind,
    (method, path): (&str, &str),
    nth: usize,
    how: EngineFault,
    ms: u64,
) -> bool {
    let (runner, notes) = (world.runner.clone(), world.notes.clone());
    let kill = Arc::new(move || {
        if runner.kill() {
            locked(&notes).injected(kind);
        }
    });
    let slow = Duration::from_millis(ms).min(SLOW_CALL);
    let behaviour = match how {
        EngineFault::KillRunnerBefore => Behaviour::Before(kill),
        EngineFault::KillRunnerAfter => Behaviour::After(kill),
        EngineFault::Hang => Behaviour::Hang,
        EngineFault::HangReply => Behaviour::HangReply,
        EngineFault::LoseReply => Behaviour::LoseReply,
        EngineFault::CutReply => Behaviour::DieMidReply,
        EngineFault::Die => Behaviour::Die,
        EngineFault::Garbage => Behaviour::Garbage,
        EngineFault::Slow => Behaviour::Slow(slow),
        EngineFault::Refuse => Behaviour::Reply(500, json!({ "message": REFUSAL })),
    };
    let call = format!("{method} {path}");
    let before = world.proxy.calls(&call);
    world.proxy.on_nth(nth, method, path, behaviour);
    // As long as tasks come; a fault that meets nothing is disarmed with all others at the end.
    let patience = Duration::from_secs(8);
    let struck = wait_until(patience, || world.proxy.calls(&call) >= before + nth);
    if struck && matches!(how, EngineFault::Refuse) {
        world.notes().engine_refused = true;
    }
    if struck && matches!(how, EngineFault::Hang | EngineFault::HangReply) {
        sleep(Duration::from_millis(ms));
        world.proxy.release();
    }
    let counts_itself = matches!(how, EngineFault::KillRunnerBefore | EngineFault::KillRunnerAfter);
    struck && !counts_itself
}

/// Does `act` to the first container that runs. `mark` is noted before: its end may be told at once.
fn on_container(
    world: &World<'_>,
    mark: impl Fn(&mut TaskNote),
    act: impl Fn(&str) -> bool,
) -> bool {
    let running = || {
        let tasks = world.schedule.tasks.iter();
        let mut names = tasks.map(|task| (task.id, task_container(task.id)));
        names.find(|(_, name)| {
            let path = format!("/containers/{name}/json");
            let found = world.client.try_api("GET", &path, None);
            found.is_ok_and(|found| found.json["State"]["Running"] == true)
        })
    };
    let mut found = None;
    let _ = wait_until(CONTAINER_PATIENCE, || {
        found = running();
        found.is_some()
    });
    let Some((id, name)) = found else { return false };
    world.note_task(id, mark);
    act(&name)
}

/// What `docker commit` makes of a task carries the task's labels, and so does what runs from it.
fn make_foreign(world: &World<'_>, from: &str) -> bool {
    let name = format!("foreign-{}", world.schedule.seed);
    let image = format!("{name}:latest");
    let committed = world.client.try_api(
        "POST",
        &format!("/commit?container={from}&repo={name}&tag=latest"),
        None,
    );
    if !committed.is_ok_and(|answer| answer.status == 201) {
        return false;
    }
    let body = json!({
        "Image": image, "Cmd": ["sleep", "600"], "HostConfig": { "NetworkMode": "none" },
    });
    let path = format!("/containers/create?name={name}");
    let created = world.client.try_api("POST", &path, Some(&body));
    let id = created.ok().and_then(|created| created.json["Id"].as_str().map(str::to_owned));
    locked(&world.foreign).push(Foreign { name: name.clone(), image, id: id.unwrap_or_default() });
    let started = world.client.try_api("POST", &format!("/containers/{name}/start"), None);
    started.is_ok_and(|started| started.status == 204)
}
