//! Kills and stops that come in the middle of a snapshot.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{BIG_BYTES, desk, kill, layers, path, read, snapshot, tags, write};
use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, Response, SOON, Vps, container_exists,
    container_status, docker, wait_until,
};

#[test]
fn kill_overtakes_a_commit_at_work() {
    let daemon = Daemon::start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    let script = format!("head -c {BIG_BYTES} /dev/urandom >/root/big");
    docker(&["exec", &vps.container(), "sh", "-c", &script]);
    thread::scope(|scope| {
        let caller = scope.spawn(|| daemon.post(&path(vps.id), &json!({})));
        let frozen = || container_status(&vps.container()).as_deref() == Some("paused");
        assert!(wait_until(SOON, || frozen() || caller.is_finished()));
        kill(&daemon, &vps);
        let answered = caller.join().unwrap();
        assert!([200, 500].contains(&answered.status), "{}", answered.status);
    });
    // Whether the Engine still makes it or not, what is listed is whole.
    for tag in tags(&daemon, &vps) {
        assert_eq!(layers(&tag), 2);
    }
}

#[test]
fn kill_overtakes_a_snapshot() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    engine.on("POST", "/commit", Behaviour::Hang);
    thread::scope(|scope| {
        let caller = scope.spawn(|| daemon.post(&path(vps.id), &json!({})));
        engine.wait_held(1, SOON);
        kill(&daemon, &vps);
        let failed = caller.join().unwrap().expect(500);
        assert!(failed.json["detail"].as_str().unwrap().contains("killed"), "{}", failed.json);
    });
    assert_eq!(daemon.wait_over(vps.id)["status"], "killed");
}

#[test]
fn kill_overtakes_the_snapshot_of_a_stop() {
    let host = FakeHost::start();
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    engine.on("POST", "/commit", Behaviour::Hang);
    thread::scope(|scope| {
        let caller = scope.spawn(|| daemon.post(&format!("/api/vps/stop/{}", vps.id), &json!({})));
        engine.wait_held(1, SOON);
        daemon.control("kill", vps.id).expect(200);
        caller.join().unwrap().expect(200);
    });
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    assert_eq!(daemon.wait_over(vps.id)["status"], "killed");
    assert!(host.reports_of(vps.id).iter().all(|report| !report.is_final()));
}

#[test]
fn slow_snapshot_blocks_nothing_else_and_a_stop_answers_in_time() {
    let host = FakeHost::start();
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let [vps, other] = [Vps::new(), Vps::new()];
    desk(&daemon, &vps);
    write(&vps, "mine", "/root/file");
    engine.on_nth(1, "POST", "/commit", Behaviour::Hang);
    thread::scope(|scope| {
        let first = scope.spawn(|| snapshot(&daemon, &vps));
        engine.wait_held(1, SOON);
        // The second waits for the first, and the stop overtakes it.
        let second = scope.spawn(|| daemon.post(&path(vps.id), &json!({})));
        host.wait_beats(2, SOON);
        desk(&daemon, &other);
        snapshot(&daemon, &other);
        assert_eq!(tags(&daemon, &vps), [""; 0]);

        let asked = Instant::now();
        daemon.post(&format!("/api/vps/stop/{}", vps.id), &json!({})).expect(200);
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
        assert!(container_exists(&vps.container()));
        let again = scope.spawn(|| vps.create(&daemon, "busybox", json!({})));
        thread::sleep(Duration::from_millis(300));
        assert!(!again.is_finished());
        engine.release();
        let made = first.join().unwrap();
        again.join().unwrap().expect(200);
        assert_eq!(read(&vps, "/root/file"), "mine\n");
        // The stop's own is newer than the one that it waited for.
        let restored = daemon.task(vps.id)["vps"]["restored_from"].clone();
        assert!(restored.as_str().unwrap() > made.as_str(), "{restored} {made}");
        // When its turn came there was no VPS, or one that had no container yet.
        let second: Response = second.join().unwrap();
        assert!([404, 500].contains(&second.status), "{}", second.status);
    });
}
