//! Makes a fault of a schedule strike: the runner, its host, its Engine, its disks, its containers.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fault::{Action, EngineFault, Kind};
use crate::kit::{Behaviour, Moment, task_container, wait_until};
use crate::schedule::Timed;
use crate::world::{Foreign, Span, World, locked};

/// How long a fault that needs a container waits for one.
const CONTAINER_PATIENCE: Duration = Duration::from_secs(3);
/// The Engine's words when it is made to answer 500.
pub const REFUSAL: &str = "refused by the campaign";
/// A call that is made slow takes no longer than this: a runner waits for it.
const SLOW_CALL_MAX: Duration = Duration::from_millis(1500);
/// How long a fault of an Engine call waits for that call; as long as tasks come.
const CALL_PATIENCE: Duration = Duration::from_secs(8);

/// Returns whether it really happened; what strikes later, by a hook, counts itself.
pub fn strike(world: &World<'_>, timed: &Timed) -> bool {
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
            for (id, note) in &world.notes().vps {
                if !note.creates.is_empty()
                    && world.host.status_of(*id).as_deref() == Some("running")
                {
                    world.host.set_status(*id, "lost");
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
            world.state_disk.fill();
            rest(ms);
            world.state_disk.make_room();
            true
        }
        Action::FillLogDir { ms } => {
            let begin = Instant::now();
            world.share_disk.fill();
            rest(ms);
            world.share_disk.make_room();
            world.notes().logs_full.push(Span::since(begin));
            true
        }
        Action::KillContainer { signal } => on_container(
            world,
            |signalled, _| *signalled = true,
            |name| {
                let path = format!("/containers/{name}/kill?signal={signal}");
                world.client.try_api("POST", &path, None).is_ok_and(|done| done.status == 204)
            },
        ),
        Action::RemoveContainer => on_container(
            world,
            |_, removed| *removed = true,
            |name| {
                let path = format!("/containers/{name}?force=1");
                world.client.try_api("DELETE", &path, None).is_ok_and(|done| done.status == 204)
            },
        ),
        Action::MakeForeign => on_container(world, |_, _| {}, |name| make_foreign(world, name)),
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
            if let Some(note) = notes.vps.get_mut(&id) {
                note.user_ended = true;
            }
        }
    };
    world.host.on_nth(nth, "POST /api/update", Moment::Before, end);
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
    let slow = Duration::from_millis(ms).min(SLOW_CALL_MAX);
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
    // A fault that meets nothing is disarmed with all others at the end.
    let struck = wait_until(CALL_PATIENCE, || world.proxy.calls(&call) >= before + nth);
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
    mark: impl Fn(&mut bool, &mut bool),
    act: impl Fn(&str) -> bool,
) -> bool {
    let running = || {
        let tasks = world.schedule.tasks.iter();
        let tasks = tasks.map(|task| (task.id, task_container(task.id)));
        let vps = world.schedule.vps.iter().map(|vps| (vps.id, vps.container()));
        // Whichever comes first in the seed's order: one of each kind has its turn.
        let (mut first, mut second) = (tasks.collect::<Vec<_>>(), vps.collect::<Vec<_>>());
        if world.schedule.seed % 2 == 1 {
            std::mem::swap(&mut first, &mut second);
        }
        let mut names = first.into_iter().chain(second);
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
    let mut notes = world.notes();
    if let Some(note) = notes.tasks.get_mut(&id) {
        mark(&mut note.signalled, &mut note.removed);
    }
    if let Some(note) = notes.vps.get_mut(&id) {
        mark(&mut note.signalled, &mut note.removed);
    }
    drop(notes);
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
