//! The runner dies in the middle of a create or a stop of a VPS: when it is back there is exactly one
//! container, or none, and the host has heard the right thing.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, SOON, Vps, container_exists, container_status,
    docker, node_of, remove_container, said, ssh_without_a_key, wait_until,
};

const AFTER_AN_OUTAGE: Duration = Duration::from_secs(30);
const SIGKILL: i32 = 9;

type When = fn(Arc<dyn Fn() + Send + Sync>) -> Behaviour;

/// From now on the `nth` of these calls is the runner's death.
fn strike(engine: &EngineProxy, daemon: &Daemon, nth: usize, call: (&str, &str), when: When) {
    let pid = Pid::from_raw(daemon.pid());
    let die = Arc::new(move || kill(pid, Signal::SIGKILL).expect("our child"));
    engine.on_nth(nth, call.0, call.1, when(die));
}

fn containers_of(vps: &Vps) -> usize {
    let filter = format!("name=^/{}$", vps.container());
    docker(&["ps", "-aq", "--filter", &filter]).lines().count()
}

#[track_caller]
fn create_survives_a_kill_at(nth: usize, call: (&str, &str), when: When) {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    let vps = Vps::new();
    strike(&engine, &daemon, nth, call, when);
    let body = vps.body("debian-ssh", json!({ "ssh_key_mode": "none" }));
    daemon.try_call("POST", "/api/vps/create", Some(&body)).expect_err("no answer");
    assert_eq!(daemon.wait_exit(SOON), (None, Some(SIGKILL)));
    engine.clear();
    daemon.restart();
    daemon.wait_status(vps.id, "running");
    vps.wait_open(&daemon);
    assert_eq!(containers_of(&vps), 1);
    let port = vps.state(&daemon)["ssh_port"].as_u64().unwrap();
    let told = || host.reports_of(vps.id).last().is_some_and(|r| r.ssh_port == Some(port as i64));
    assert!(wait_until(AFTER_AN_OUTAGE, told), "{:#?}", host.reports_of(vps.id));
    let mut words = host.accepted_of(vps.id);
    words.dedup();
    assert_eq!(words, ["pending", "running"]);
    assert_eq!(said(&ssh_without_a_key(u16::try_from(port).unwrap(), "id -un")), "root");
    // The host's second try.
    daemon.post("/api/vps/create", &body).expect(409);
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || containers_of(&vps) == 0));
    assert!(wait_until(SOON, || !daemon.record_path(vps.id).exists()));
}

#[test]
fn runner_killed_before_the_create() {
    create_survives_a_kill_at(1, ("POST", "/containers/create"), Behaviour::Before);
}

#[test]
fn runner_killed_after_the_create() {
    create_survives_a_kill_at(1, ("POST", "/containers/create"), Behaviour::After);
}

#[test]
fn runner_killed_before_the_start() {
    create_survives_a_kill_at(1, ("POST", "/containers/*/start"), Behaviour::Before);
}

#[test]
fn runner_killed_after_the_start() {
    create_survives_a_kill_at(1, ("POST", "/containers/*/start"), Behaviour::After);
}

#[test]
fn runner_killed_before_the_port_is_known() {
    create_survives_a_kill_at(1, ("GET", "/containers/*/json"), Behaviour::Before);
}

#[track_caller]
fn stop_survives_a_kill_at(call: (&str, &str), when: When) {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    let vps = Vps::new();
    vps.create_with(&daemon, "busybox", "disabled", None);
    host.wait_status(vps.id, "running", SOON);
    vps.exec("echo mine >/root/file");
    strike(&engine, &daemon, 1, call, when);
    let path = format!("/api/vps/stop/{}", vps.id);
    let _ = daemon.try_call("POST", &path, Some(&json!({})));
    assert_eq!(daemon.wait_exit(SOON), (None, Some(SIGKILL)));
    engine.clear();
    daemon.restart();
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    assert!(wait_until(SOON, || !daemon.record_path(vps.id).exists()));
    assert_eq!(daemon.task(vps.id)["status"], "stopped");
    // The host has said it itself.
    let mut words = host.accepted_of(vps.id);
    words.dedup();
    assert_eq!(words, ["pending", "running"]);
    vps.create_again(&daemon, "busybox");
    assert_eq!(vps.exec("cat /root/file"), "mine\n");
    assert_eq!(containers_of(&vps), 1);
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || containers_of(&vps) == 0));
}

#[test]
fn runner_killed_before_the_stop() {
    stop_survives_a_kill_at(("POST", "/containers/*/stop"), Behaviour::Before);
}

#[test]
fn runner_killed_after_the_stop() {
    stop_survives_a_kill_at(("POST", "/containers/*/stop"), Behaviour::After);
}

#[test]
fn runner_killed_before_the_removal() {
    stop_survives_a_kill_at(("DELETE", "/containers/*"), Behaviour::Before);
}

#[test]
fn runner_killed_after_the_removal() {
    stop_survives_a_kill_at(("DELETE", "/containers/*"), Behaviour::After);
}

// ── verbs ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn both_routes_pause_resume_and_kill() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let vps = Vps::new();
    vps.create_with(&daemon, "busybox", "disabled", None);
    host.wait_status(vps.id, "running", SOON);
    let is = |word: &str| container_status(&vps.container()).as_deref() == Some(word);
    for (pause, resume) in [("/api/pause", "/api/resume"), ("/api/vps/pause", "/api/vps/resume")] {
        let call = |path: &str| match path.contains("vps") {
            true => daemon.post(&format!("{path}/{}", vps.id), &json!({})),
            false => daemon.post(path, &json!({ "task_id": vps.id, "container_name": "other" })),
        };
        for _ in 0..2 {
            call(pause).expect(200);
            assert!(is("paused"));
        }
        assert_eq!(daemon.task(vps.id)["status"], "paused");
        for _ in 0..2 {
            call(resume).expect(200);
            assert!(is("running"));
        }
    }
    daemon.control("pause", vps.id).expect(200);
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || containers_of(&vps) == 0));
    assert_eq!(host.accepted_of(vps.id), ["pending", "running"]);
    for path in ["/api/vps/stop", "/api/vps/pause", "/api/vps/resume"] {
        daemon.post(&format!("{path}/{}", vps.id), &json!({})).expect(404);
    }
}

#[test]
fn paused_vps_and_one_whose_container_is_gone_can_be_stopped() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let vps = Vps::new();
    vps.create_with(&daemon, "busybox", "disabled", None);
    vps.exec("echo mine >/root/file");
    daemon.control("pause", vps.id).expect(200);
    vps.stop(&daemon);
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    vps.create_again(&daemon, "busybox");
    assert_eq!(vps.exec("cat /root/file"), "mine\n");
    // The end is on its way to us when the stop comes, or is told after it.
    remove_container(&vps.container());
    let path = format!("/api/vps/stop/{}", vps.id);
    let answer = daemon.post(&path, &json!({}));
    assert!([200, 404].contains(&answer.status), "{}", answer.text());
    assert!(wait_until(SOON, || daemon.task(vps.id)["status"] == "stopped"));
}

/// Creates and kills in each round.
const ROUNDS: usize = 30;
/// A thread for long calls ends after 2 s without work.
const POOLS_REST: Duration = Duration::from_secs(4);
/// Connections to the Engine that may stay open, for the next call (docker room: at most 8).
const IDLE_CONNECTIONS: usize = 8;

#[test]
fn creates_and_kills_leave_nothing() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let round = || {
        for _ in 0..ROUNDS / 2 {
            let vps = Vps::new();
            vps.create_with(&daemon, "busybox", "disabled", None);
            daemon.control("kill", vps.id).expect(200);
            assert!(wait_until(SOON, || !container_exists(&vps.container())));
        }
        assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 0));
        std::thread::sleep(POOLS_REST);
    };
    round();
    let (threads, fds) = (daemon.threads(), daemon.fds());
    round();
    assert!(daemon.threads() <= threads, "{threads} threads, now {:?}", daemon.thread_names());
    assert!(daemon.fds() <= fds + IDLE_CONNECTIONS, "{fds} descriptors, now {}", daemon.fds());
    assert!(daemon.containers().is_empty());
    let files = |name: &str| std::fs::read_dir(daemon.state_dir().join(name)).unwrap().count();
    assert_eq!((files("tasks"), files("ended"), files("broken")), (0, ROUNDS, 0));
}
