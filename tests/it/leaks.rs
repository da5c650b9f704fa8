//! What a runner keeps of tasks that are over: their records, and nothing else.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::kit::{Behaviour, Daemon, EngineProxy, FakeHost, SOON, execute, wait_until};

const TASKS: usize = 30;
/// A thread for long calls ends after 2 s without work.
const POOLS_REST: Duration = Duration::from_secs(4);
/// Connections to the Engine that may stay open, for the next call (docker room: at most 8).
const IDLE_CONNECTIONS: usize = 8;
/// What an allocator may hold on to after the second time the same was done.
const MEMORY_SLACK_KB: u64 = 2048;

/// Runs many tasks at a time and returns when all are over, told and cleaned up.
#[track_caller]
fn run_many(host: &FakeHost, daemon: &Daemon) {
    let ids = [(); TASKS].map(|()| execute(daemon, "echo out; exit 3"));
    ids.iter().for_each(|&id| drop(host.wait_final(id, SOON * 3)));
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 0));
    sleep(POOLS_REST);
}

#[test]
fn many_tasks_leave_their_records_and_nothing_else() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    run_many(&host, &daemon);
    let (threads, fds, memory_kb) = (daemon.threads(), daemon.fds(), daemon.anonymous_kb());
    run_many(&host, &daemon);
    assert!(daemon.threads() <= threads, "{threads} threads, now {:?}", daemon.thread_names());
    assert!(daemon.fds() <= fds + IDLE_CONNECTIONS, "{fds} descriptors, now {}", daemon.fds());
    assert!(
        daemon.anonymous_kb() <= memory_kb + MEMORY_SLACK_KB,
        "{memory_kb} kB, now {}",
        daemon.anonymous_kb()
    );
    assert!(daemon.containers().is_empty());
    let files = |name: &str| fs::read_dir(daemon.state_dir().join(name)).unwrap().count();
    assert_eq!((files("tasks"), files("ended"), files("broken")), (0, 2 * TASKS, 0));
}

/// A few more than the containers that are kept for a host that is away.
const TASKS_BEYOND_THE_KEPT: usize = 64 + 4;
/// Twice the pause before a container that the Engine did not remove is tried again.
const REMOVALS_SEEN: Duration = Duration::from_secs(10);
/// Each of those beyond the kept may be tried a few times in it; never in a loop without a pause.
const REMOVALS_MAX: usize = 100;

#[test]
fn containers_that_the_engine_refuses_to_remove_are_tried_at_a_pace() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    host.wait_registered();
    host.down();
    engine.on("DELETE", "/containers/*", Behaviour::Reply(500, json!({ "message": "busy" })));
    let ids = [(); TASKS_BEYOND_THE_KEPT].map(|()| execute(&daemon, "true"));
    ids.iter().for_each(|&id| {
        let over = || daemon.task(id)["phases"]["recorded"].is_string();
        assert!(wait_until(SOON * 6, over), "task {id} is not over");
    });
    let before = engine.calls("DELETE /containers/*");
    sleep(REMOVALS_SEEN);
    let tried = engine.calls("DELETE /containers/*") - before;
    assert!((1..REMOVALS_MAX).contains(&tried), "{tried} removals");
}
