//! What a runner keeps of tasks that are over: their records, and nothing else.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::kit::{Daemon, FakeHost, SOON, execute, wait_until};

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
    let (threads, fds, memory_kb) = (daemon.threads(), daemon.fds(), daemon.pss_kb());
    run_many(&host, &daemon);
    assert!(daemon.threads() <= threads, "{threads} threads, now {:?}", daemon.thread_names());
    assert!(daemon.fds() <= fds + IDLE_CONNECTIONS, "{fds} descriptors, now {}", daemon.fds());
    assert!(
        daemon.pss_kb() <= memory_kb + MEMORY_SLACK_KB,
        "{memory_kb} kB, now {}",
        daemon.pss_kb()
    );
    assert!(daemon.containers().is_empty());
    let files = |name: &str| fs::read_dir(daemon.state_dir().join(name)).unwrap().count();
    assert_eq!((files("tasks"), files("ended"), files("broken")), (0, 2 * TASKS, 0));
}
