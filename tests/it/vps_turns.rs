//! Creates, kills and stops of one VPS that follow each other closely, and the end of the runner in the
//! middle of them: what a caller is told and what becomes of the VPS agree.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, Fault, Response, SOON, STOP_MAX, Vps, call,
    container_exists, container_status, wait_until,
};

/// Long enough for what would go on to have gone on.
const A_MOMENT: Duration = Duration::from_millis(300);
/// The runner looks after what waits, and gives an id up after 20 s.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(60);

fn create(daemon: &Daemon, vps: &Vps) -> Response {
    vps.create(daemon, "busybox", json!({}))
}

fn runs(vps: &Vps) -> bool {
    container_status(&vps.container()).as_deref() == Some("running")
}

/// Posts without judging the answer, from a thread that outlives the borrow of the runner.
fn post(daemon: &Daemon, path: &str, body: Value) -> thread::JoinHandle<Response> {
    let (address, path) = (daemon.address(), path.to_owned());
    thread::spawn(move || call(&address, "POST", &path, &[], Some(&body)).expect("an answer"))
}

fn post_create(daemon: &Daemon, vps: &Vps) -> thread::JoinHandle<Response> {
    post(daemon, "/api/vps/create", vps.body("busybox", json!({})))
}

#[track_caller]
fn stops_in_time(daemon: &mut Daemon) {
    let took = daemon.stop();
    assert!(took < STOP_MAX, "stopped after {took:?}");
}

// ── an id that is not free yet ───────────────────────────────────────────────────────────────

#[test]
fn create_right_after_a_kill_waits_for_its_end() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let vps = Vps::new();
    create(&daemon, &vps).expect(200);
    for _ in 0..5 {
        daemon.control("kill", vps.id).expect(200);
        create(&daemon, &vps).expect(200);
    }
    assert!(runs(&vps));
    create(&daemon, &vps).expect(409);
}

#[test]
fn create_waits_while_the_container_of_a_killed_one_is_not_removed_yet() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    create(&daemon, &vps).expect(200);
    engine.on("DELETE", "/containers/*", Behaviour::Hang);
    daemon.control("kill", vps.id).expect(200);
    engine.wait_held(1, SOON);
    let again = post_create(&daemon, &vps);
    thread::sleep(A_MOMENT);
    assert!(!again.is_finished());
    // One waits, and no more.
    create(&daemon, &vps).expect(409);
    engine.clear();
    engine.release();
    again.join().unwrap().expect(200);
    assert!(runs(&vps));
}

#[test]
fn create_gives_up_an_id_that_does_not_become_free() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    create(&daemon, &vps).expect(200);
    engine.on("DELETE", "/containers/*", Behaviour::Hang);
    daemon.control("kill", vps.id).expect(200);
    engine.wait_held(1, SOON);
    let body = vps.body("busybox", json!({}));
    let asked = Instant::now();
    let refused = call(&daemon.address(), "POST", "/api/vps/create", &[], Some(&body));
    refused.expect("an answer").expect(409);
    assert!(asked.elapsed() < UNTIL_GIVEN_UP, "{:?}", asked.elapsed());
    engine.clear();
    engine.release();
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    thread::sleep(A_MOMENT);
    assert!(!container_exists(&vps.container()));
}

/// The host would take the end of the one before for the end of this one.
#[test]
fn create_of_one_that_has_failed_does_not_wait_for_the_host_to_know() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let vps = Vps::new();
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    vps.create(&daemon, "busybox", json!({ "ssh_key_mode": "telnet" })).expect(422);
    host.set_status(vps.id, "assigning");
    create(&daemon, &vps).expect(200);
    host.heal();
    host.wait_status(vps.id, "running", UNTIL_GIVEN_UP);
    assert!(!host.accepted_of(vps.id).contains(&"failed".to_owned()));
    assert!(runs(&vps));
}

#[test]
fn kill_ends_a_create_that_waits_for_a_stop() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    create(&daemon, &vps).expect(200);
    engine.on("POST", "/commit", Behaviour::Hang);
    let stopping = post(&daemon, &format!("/api/vps/stop/{}", vps.id), json!({}));
    engine.wait_held(1, SOON);
    let again = post_create(&daemon, &vps);
    thread::sleep(A_MOMENT);
    assert!(!again.is_finished());
    daemon.control("kill", vps.id).expect(200);
    let ended = again.join().unwrap().expect(500);
    assert!(ended.json["detail"].to_string().contains("killed"), "{}", ended.json);
    stopping.join().unwrap().expect(200);
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    thread::sleep(A_MOMENT);
    assert!(!container_exists(&vps.container()));
    assert_eq!(daemon.wait_over(vps.id)["status"], "killed");
}

/// After so many heartbeats without it the host takes a task for lost (contract rule 10).
const BEATS_MISSED_MAX: usize = 3;

#[test]
fn create_that_waits_for_a_long_stop_is_in_the_heartbeat() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let vps = Vps::new();
    create(&daemon, &vps).expect(200);
    engine.on("POST", "/commit", Behaviour::Hang);
    let stopping = post(&daemon, &format!("/api/vps/stop/{}", vps.id), json!({}));
    engine.wait_held(1, SOON);
    let is_listed = || host.beats().last().is_some_and(|b| b.running_tasks.contains(&vps.id));
    assert!(wait_until(SOON, || !is_listed()));
    // As the host's restart has it.
    host.set_status(vps.id, "assigning");
    let again = post_create(&daemon, &vps);
    let begun = host.beats().len();
    assert!(wait_until(SOON, || host.beats().len() > begun + BEATS_MISSED_MAX));
    let beats = &host.beats()[begun + 1..];
    assert!(beats.iter().all(|beat| beat.running_tasks.contains(&vps.id)), "{beats:#?}");
    engine.clear();
    engine.release();
    stopping.join().unwrap().expect(200);
    again.join().unwrap().expect(200);
    assert!(runs(&vps));
}

#[test]
fn second_stop_ends_a_create_that_waits_for_the_first() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    create(&daemon, &vps).expect(200);
    engine.on("POST", "/commit", Behaviour::Hang);
    let stopping = post(&daemon, &format!("/api/vps/stop/{}", vps.id), json!({}));
    engine.wait_held(1, SOON);
    let again = post_create(&daemon, &vps);
    thread::sleep(A_MOMENT);
    assert!(!again.is_finished());
    let second = post(&daemon, &format!("/api/vps/stop/{}", vps.id), json!({}));
    again.join().unwrap().expect(500);
    engine.clear();
    engine.release();
    stopping.join().unwrap().expect(200);
    second.join().unwrap().expect(200);
    assert_eq!(daemon.wait_over(vps.id)["status"], "stopped");
    assert!(!container_exists(&vps.container()));
}

// ── the runner stops ─────────────────────────────────────────────────────────────────────────

/// The create is told that the runner stops, and the next run of the runner makes no VPS of it; then the
/// id is free.
#[track_caller]
fn is_withdrawn(
    mut daemon: Daemon,
    engine: &EngineProxy,
    vps: &Vps,
    caller: thread::JoinHandle<Response>,
) {
    stops_in_time(&mut daemon);
    caller.join().unwrap().expect(503);
    engine.clear();
    engine.release();
    engine.up();
    daemon.restart();
    assert_eq!(daemon.wait_over(vps.id)["status"], "killed");
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    thread::sleep(A_MOMENT);
    assert!(!container_exists(&vps.container()));
    create(&daemon, vps).expect(200);
    assert!(runs(vps));
}

#[test]
fn create_that_waits_for_the_engine_is_withdrawn_when_the_runner_stops() {
    let engine = EngineProxy::start();
    let mut daemon = Daemon::builder().engine(&engine).start();
    daemon.wait_healthy();
    engine.down();
    let vps = Vps::new();
    let caller = post_create(&daemon, &vps);
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 1));
    is_withdrawn(daemon, &engine, &vps, caller);
}

#[test]
fn create_whose_container_is_just_made_is_withdrawn_when_the_runner_stops() {
    for step in ["/containers/create", "/containers/*/start"] {
        for behaviour in [Behaviour::Hang, Behaviour::HangReply] {
            let engine = EngineProxy::start();
            let daemon = Daemon::builder().engine(&engine).start();
            let vps = Vps::new();
            engine.on_nth(1, "POST", step, behaviour);
            let caller = post_create(&daemon, &vps);
            engine.wait_held(1, SOON);
            is_withdrawn(daemon, &engine, &vps, caller);
        }
    }
}

/// What an earlier VPS of the id has left is somebody's work, and no part of the create.
#[test]
fn create_that_is_withdrawn_takes_no_container_of_an_earlier_vps_with_it() {
    let engine = EngineProxy::start();
    let mut daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    create(&daemon, &vps).expect(200);
    vps.exec("echo mine >/root/file");
    daemon.stop();
    std::fs::remove_file(daemon.record_path(vps.id)).unwrap();
    // So that the container is not found before the create.
    engine.on("GET", "/containers/json", Behaviour::Hang);
    daemon.restart();
    engine.on("POST", "/commit", Behaviour::Hang);
    let caller = post_create(&daemon, &vps);
    engine.wait_calls("POST /commit", 1, SOON);
    stops_in_time(&mut daemon);
    caller.join().unwrap().expect(503);
    engine.clear();
    engine.release();
    daemon.restart();
    assert_eq!(daemon.wait_over(vps.id)["status"], "killed");
    assert!(container_exists(&vps.container()));
    create(&daemon, &vps).expect(200);
    assert_eq!(vps.exec("cat /root/file"), "mine\n");
}

#[test]
fn create_at_any_moment_of_a_stop_runs_if_it_was_so_answered_and_only_then() {
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).start();
    let mut answers = Vec::new();
    for millis in [0, 20, 60, 120, 200, 300, 450, 700, 1000] {
        let vps = Vps::new();
        let (address, body) = (daemon.address(), vps.body("busybox", json!({})));
        let caller =
            thread::spawn(move || call(&address, "POST", "/api/vps/create", &[], Some(&body)));
        thread::sleep(Duration::from_millis(millis));
        stops_in_time(&mut daemon);
        let answer = match caller.join().unwrap() {
            Ok(answer) => answer,
            // On a loaded machine the caller may come when nobody is there any more.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                daemon.restart();
                continue;
            }
            Err(error) => panic!("after {millis} ms: {error}"),
        };
        daemon.restart();
        answers.push(answer.status);
        match answer.status {
            200 => {
                assert!(runs(&vps), "after {millis} ms");
                assert_eq!(daemon.task(vps.id)["status"], "running");
            }
            503 => {
                let is_over = || {
                    let found = daemon.get(&format!("/api/tasks/{}", vps.id));
                    found.status == 404 || found.json["status"] == "killed"
                };
                assert!(wait_until(SOON, is_over), "after {millis} ms");
                assert!(wait_until(SOON, || !container_exists(&vps.container())));
                thread::sleep(A_MOMENT);
                assert!(!container_exists(&vps.container()), "after {millis} ms");
            }
            other => panic!("{other} after {millis} ms: {}", answer.json),
        }
        let _ = daemon.control("kill", vps.id);
    }
    // The last had all the time that it needs.
    assert_eq!(answers.last(), Some(&200), "{answers:?}");
}

#[test]
fn stop_that_the_runners_end_cuts_short_is_no_error_and_goes_on() {
    let engine = EngineProxy::start();
    let mut daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    create(&daemon, &vps).expect(200);
    vps.exec("echo mine >/root/file");
    engine.on_nth(1, "POST", "/commit", Behaviour::Hang);
    let stopping = post(&daemon, &format!("/api/vps/stop/{}", vps.id), json!({}));
    engine.wait_held(1, SOON);
    let pending = post_create(&daemon, &vps);
    thread::sleep(A_MOMENT);
    stops_in_time(&mut daemon);
    let told = stopping.join().unwrap().expect(200);
    assert!(told.json["message"].as_str().unwrap().contains("being stopped"), "{}", told.json);
    // It was not accepted, and is not done.
    pending.join().unwrap().expect(503);
    engine.clear();
    engine.release();
    daemon.restart();
    assert_eq!(daemon.wait_over(vps.id)["status"], "stopped");
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    create(&daemon, &vps).expect(200);
    assert_eq!(vps.exec("cat /root/file"), "mine\n");
}
