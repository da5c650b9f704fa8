//! Commits that fail, hang, or are cut short by the death of the runner.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{PATIENCE, desk, kill, path, read, snapshot, stop, tags, write};
use crate::kit::{
    Behaviour, Daemon, EngineProxy, SOON, Vps, call, container_exists, container_status, docker,
    wait_until,
};

#[test]
fn commit_that_fails_says_why_and_prevents_no_stop() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    let refusal = Behaviour::Reply(500, json!({ "message": "no space left on device" }));
    engine.on("POST", "/commit", refusal);
    let failed = daemon.post(&path(vps.id), &json!({})).expect(500);
    assert!(failed.json["detail"].as_str().unwrap().contains("no space left"), "{}", failed.json);
    assert_eq!(daemon.task(vps.id)["status"], "running");
    stop(&daemon, &vps);
    assert!(daemon.log().contains("no snapshot before its stop"));
    engine.clear();
    assert_eq!(tags(&daemon, &vps), [""; 0]);
}

#[test]
fn stop_whose_commit_was_broken_off_is_saved_all_the_same() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    write(&vps, "mine", "/root/file");
    // Done, and the answer lost: found. Not done: made.
    for behaviour in [Behaviour::LoseReply, Behaviour::Die] {
        engine.on_nth(1, "POST", "/commit", behaviour);
        stop(&daemon, &vps);
        engine.clear();
        desk(&daemon, &vps);
        assert_eq!(read(&vps, "/root/file"), "mine\n");
    }
    assert_eq!(engine.calls("POST /commit"), 3);
    assert_eq!(tags(&daemon, &vps).len(), 2);
}

#[test]
fn commit_that_hangs_ends_at_its_deadline() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).set("snapshot_timeout", 2).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    engine.on("POST", "/commit", Behaviour::Hang);
    let failed = daemon.post(&path(vps.id), &json!({})).expect(500);
    assert!(failed.json["detail"].as_str().unwrap().contains("within 2 s"), "{}", failed.json);
    engine.clear();
    snapshot(&daemon, &vps);
}

#[test]
fn runner_killed_in_the_commit_of_a_stop_goes_on_with_what_was_saved() {
    let engine = EngineProxy::start();
    let mut daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    write(&vps, "mine", "/root/file");
    engine.on_nth(1, "POST", "/commit", Behaviour::HangReply);
    thread::scope(|scope| {
        let stopping = format!("/api/vps/stop/{}", vps.id);
        let address = daemon.address();
        let caller = scope.spawn(move || call(&address, "POST", &stopping, &[], None));
        engine.wait_held(1, SOON);
        daemon.kill9();
        assert!(caller.join().unwrap().is_err());
    });
    engine.release();
    engine.clear();
    daemon.launch();
    daemon.wait_healthy();
    assert!(wait_until(PATIENCE, || !container_exists(&vps.container())));
    assert!(wait_until(SOON, || daemon.task(vps.id)["status"] == "stopped"));
    assert_eq!(engine.calls("POST /commit"), 1);
    assert_eq!(tags(&daemon, &vps).len(), 1);
    desk(&daemon, &vps);
    assert_eq!(read(&vps, "/root/file"), "mine\n");
}

#[test]
fn runner_killed_in_a_commit_leaves_the_desk_running_and_no_half_snapshot() {
    for (behaviour, made) in [(Behaviour::Hang, 0), (Behaviour::HangReply, 1)] {
        let engine = EngineProxy::start();
        let mut daemon = Daemon::builder().engine(&engine).start();
        let vps = Vps::new();
        desk(&daemon, &vps);
        write(&vps, "mine", "/root/file");
        engine.on_nth(1, "POST", "/commit", behaviour);
        thread::scope(|scope| {
            let (address, path) = (daemon.address(), path(vps.id));
            let caller = scope.spawn(move || call(&address, "POST", &path, &[], None));
            engine.wait_held(1, SOON);
            daemon.kill9();
            assert!(caller.join().unwrap().is_err());
        });
        engine.release();
        engine.clear();
        daemon.launch();
        daemon.wait_healthy();
        assert_eq!(tags(&daemon, &vps).len(), made);
        assert_eq!(container_status(&vps.container()).as_deref(), Some("running"));
        assert_eq!(daemon.task(vps.id)["status"], "running");
        snapshot(&daemon, &vps);
        assert_eq!(tags(&daemon, &vps).len(), made + 1);
        kill(&daemon, &vps);
        desk(&daemon, &vps);
        assert_eq!(read(&vps, "/root/file"), "mine\n");
    }
}

#[test]
fn desk_that_a_commit_has_frozen_does_not_count_as_paused() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    engine.on_nth(1, "POST", "/commit", Behaviour::Hang);
    thread::scope(|scope| {
        let caller = scope.spawn(|| snapshot(&daemon, &vps));
        engine.wait_held(1, SOON);
        docker(&["pause", &vps.container()]);
        reconcile(&engine);
        assert_eq!(daemon.task(vps.id)["status"], "running");
        docker(&["unpause", &vps.container()]);
        engine.release();
        caller.join().unwrap();
    });
    // Frozen by nobody of ours it does.
    docker(&["pause", &vps.container()]);
    reconcile(&engine);
    assert!(wait_until(SOON, || daemon.task(vps.id)["status"] == "paused"));
}

/// A lost event stream makes the runner compare all with what the Engine has.
fn reconcile(engine: &EngineProxy) {
    let looked = engine.calls("GET /containers/json");
    engine.cut("GET /events");
    engine.wait_calls("GET /containers/json", looked + 1, SOON);
    thread::sleep(Duration::from_millis(300));
}
