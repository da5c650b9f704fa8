//! Mends everything that a schedule broke and waits until nothing is left to do.

use std::time::{Duration, Instant};

use crate::drive::send_verb;
use crate::kit::{Daemon, Report, Verdict, call, task_container, wait_until};
use crate::tasks::Verb;
use crate::world::{Answer, Idle, TaskNote, World, locked};

/// The slowest ways back: a call that hung (60 s), the outbox's longest pause, a removal's pause.
const SETTLE_MAX: Duration = Duration::from_secs(90);
/// Threads of pools end after 2 s without work.
const IDLE_MAX: Duration = Duration::from_secs(8);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Connections that may stay open for the next call: to the Engine (8 at most) and to the host.
const KEPT_CONNECTIONS: usize = 10;
/// Far above what a runner needs with a handful of tasks (design section 6: 6 MB idle).
const PSS_KB_MAX: u64 = 16 * 1024;

/// Every fault ends, also those whose call never came.
pub fn heal(world: &World<'_>) {
    world.host.heal();
    world.host.up();
    world.proxy.clear();
    world.proxy.release();
    world.proxy.resume_all();
    world.proxy.up();
    world.set_clock(0);
}

/// Waits until every task is over, told and cleaned up. A breach when that takes too long.
pub fn settle(world: &World<'_>) {
    let begin = Instant::now();
    let mut left = String::new();
    while begin.elapsed() < SETTLE_MAX {
        left = what_is_left(world);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    world.breach(format!("not settled after {SETTLE_MAX:?}: {left}"));
}

fn what_is_left(world: &World<'_>) -> String {
    let Ok(listed) = call(&world.address, "GET", "/api/tasks", &[], None) else {
        return "the runner does not answer".to_owned();
    };
    let mut left: Vec<String> = Vec::new();
    for task in listed.json["tasks"].as_array().map(Vec::as_slice).unwrap_or_default() {
        left.push(format!("live: {}, {}", task["task_id"], task["status"]));
        if let (true, Some(id)) = (task["status"] == "paused", task["task_id"].as_u64()) {
            send_verb(world, id, Verb::Resume);
            // Frozen by a pause that the runner has not seen: the Engine knows.
            let path = format!("/containers/{}/unpause", task_container(id));
            let _ = world.client.try_api("POST", &path, None);
        }
    }
    for task in &world.schedule.tasks {
        let note = world.notes().tasks[&task.id].clone();
        if needs_final(&note) && !world.host.reports_of(task.id).iter().any(is_heard_final) {
            left.push(format!("task {} has no final", task.id));
        }
    }
    let beat = world.host.beats().pop();
    if beat.is_none_or(|beat| beat.status != 200 || !beat.running_tasks.is_empty()) {
        left.push("no heartbeat without tasks".to_owned());
    }
    let containers = world.containers();
    if !containers.is_empty() {
        left.push(format!("containers {containers:?}"));
    }
    left.join("; ")
}

pub fn is_heard_final(report: &Report) -> bool {
    report.is_final() && report.verdict == Verdict::Accepted
}

/// Whether this task must have an outcome at the host: accepted, and nobody ended it.
pub fn needs_final(note: &TaskNote) -> bool {
    note.answer == Answer::Accepted
        && note.killed.is_none()
        && !note.kill_unsure
        && !note.user_ended
}

/// What an idle runner has: as soon as it is no more than `wanted`, or when its pools have ended.
pub fn idle(daemon: &Daemon, wanted: Option<Idle>) -> Idle {
    let look = || Idle { threads: daemon.threads(), fds: daemon.fds() };
    match wanted {
        Some(wanted) => {
            let is_idle = || look().threads <= wanted.threads && look().fds <= wanted.fds;
            let _ = wait_until(IDLE_MAX, is_idle);
        }
        None => std::thread::sleep(IDLE_MAX / 2),
    }
    look()
}

/// What the idle runner has too much of: threads, descriptors, memory.
pub fn leaks(world: &World<'_>, wanted: Idle) -> Vec<String> {
    let mut leaks = Vec::new();
    let mut daemon = locked(&world.daemon);
    if daemon.has_exited() {
        return vec!["the runner is not there at the end".to_owned()];
    }
    let allowed = Idle { fds: wanted.fds + KEPT_CONNECTIONS, ..wanted };
    let idle = idle(&daemon, Some(allowed));
    if idle.threads > allowed.threads {
        let names = daemon.thread_names();
        leaks.push(format!("{} threads, {} when fresh: {names:?}", idle.threads, wanted.threads));
    }
    if idle.fds > allowed.fds {
        leaks.push(format!("{} descriptors, {} when fresh", idle.fds, wanted.fds));
    }
    let pss_kb = daemon.pss_kb();
    if pss_kb > PSS_KB_MAX {
        leaks.push(format!("{pss_kb} kB of memory"));
    }
    leaks
}
