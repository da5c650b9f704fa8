//! What the integration tests are made of: the built runner as a process ([`Daemon`]), the
//! KohakuRiver host it reports to ([`FakeHost`]), the real Engine with single calls made to misbehave
//! ([`EngineProxy`]) or a whole one to be hung and killed ([`OwnEngine`]), and directories that hang,
//! fill up or change from afar ([`HungShare`], [`SmallDisk`], [`RemoteShare`]). Everything is outside the runner and speaks its
//! protocols; every wait has an end, and a fake fails the test that it would otherwise let pass.

// Two programs share it, the integration tests and the campaign; neither uses all of it.
#![allow(dead_code, unused_imports)]

mod daemon;
mod docker;
mod engine;
mod host;
mod http;
mod hung_share;
mod own_engine;
mod remote_share;
mod small_disk;
mod socket;
mod state_calls;
mod task;
mod vps;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

pub use daemon::{Builder, Daemon};
pub use docker::{
    Client, NETWORK, NETWORK_GATEWAY, api, container_exists, container_status, docker, image,
    image_exists, inspect, remove_container,
};
pub use engine::{Behaviour, EngineProxy};
pub use host::{FakeHost, Fault, Moment, REFUSED, Report, UPDATED, Verdict};
pub use http::{Address, Response, call, exchange, read_response};
pub use hung_share::HungShare;
pub use own_engine::OwnEngine;
pub use remote_share::RemoteShare;
pub use small_disk::SmallDisk;
pub use socket::Socket;
pub use state_calls::StateCalls;
pub use task::{task_container, with};
pub use vps::{SshKey, Vps, assert_refused, is_free, port_of, said, ssh_without_a_key};

/// A wait for something that is only a matter of scheduling: long enough for a loaded machine.
pub const SOON: Duration = Duration::from_secs(45);

/// How long a stop may take at the most (design law 10).
pub const STOP_MAX: Duration = Duration::from_secs(2);

/// A task id that no other test, process or run has: like the host's, above 2^53, so that a
/// number that went through a float shows.
pub fn unique_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    let now = u64::try_from(since.as_micros()).expect("a year before 2255") << 10;
    let next = |last: u64| Some(now.max(last + 1));
    let last = LAST.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).expect("always some");
    now.max(last + 1)
}

/// A name for what a test makes at the Engine by itself: contrib/test.sh recognises it and removes
/// what a killed test could not.
pub fn test_name(what: &str) -> String {
    static RUN: OnceLock<String> = OnceLock::new();
    let run = RUN.get_or_init(|| std::env::var("KIT_RUN").unwrap_or_else(|_| "by-hand".to_owned()));
    format!("river-test-{run}-{what}-{}", unique_id())
}

/// The body of a fresh dispatch, exactly as the host sends it (contract 13): the id as a string,
/// no container name beside a registry image, every key there. Change what your test is about.
#[track_caller]
pub fn execute_body(daemon: &Daemon, id: u64, command: &str) -> Value {
    execute_body_below(&daemon.shared_dir().join("logs"), id, command)
}

/// The same; `logs` is the directory of all tasks' output.
pub fn execute_body_below(logs: &Path, id: u64, command: &str) -> Value {
    let logs = logs.join(id.to_string());
    json!({
        "task_id": id.to_string(),
        "command": command,
        "arguments": [],
        "env_vars": {},
        "required_cores": 1,
        "required_gpus": [],
        "required_memory_bytes": null,
        "target_numa_node_id": null,
        "container_name": null,
        "registry_image": image("busybox"),
        "working_dir": "/shared",
        "stdout_path": logs.join("stdout.log"),
        "stderr_path": logs.join("stderr.log"),
        "reserved_ip": null,
    })
}

/// Dispatches a fresh task in busybox as the host would, and returns its id.
#[track_caller]
pub fn execute(daemon: &Daemon, command: &str) -> u64 {
    daemon.submit(&execute_body(daemon, unique_id(), command))
}

/// A runner that reports to this host.
#[track_caller]
pub fn node_of(host: &FakeHost) -> Daemon {
    Daemon::builder().host(host).start()
}

/// Dispatches a task, and returns once its container runs.
#[track_caller]
pub fn running(daemon: &Daemon, command: &str) -> u64 {
    let id = execute(daemon, command);
    daemon.wait_status(id, "running");
    id
}

/// The same, and the host has been told.
#[track_caller]
pub fn told_running(host: &FakeHost, daemon: &Daemon, command: &str) -> u64 {
    let id = running(daemon, command);
    host.wait_status(id, "running", SOON);
    id
}

/// The body of a task that ends without the Engine: its environment does not exist.
pub fn doomed_body(daemon: &Daemon, id: u64) -> Value {
    let environment = json!({ "registry_image": null, "container_name": "no-such-environment" });
    with(execute_body(daemon, id, "true"), environment)
}

/// Looks every 10 ms until `reached` says so. False when `patience` was over first.
#[must_use]
pub fn wait_until(patience: Duration, mut reached: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if reached() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A TCP port of 127.0.0.1 that is free now, given out once per process. Taken below the range
/// that the kernel hands to outgoing connections, so that it is still free after a restart.
fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    // Test processes of other checkouts start elsewhere in the range.
    let start = u64::from(std::process::id()) * 37;
    for _ in 0..COUNT {
        let offset = (start + GIVEN.fetch_add(1, Ordering::Relaxed)) % u64::from(COUNT);
        let port = FIRST + u16::try_from(offset).expect("below COUNT");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT)
}
