//! Contract 1.1 and 5.10: pause and resume at the real Engine.

use std::time::Duration;

use serde_json::json;

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, SOON, container_status, docker, execute_body, image,
    inspect, remove_container, running, task_container, test_name, unique_id, wait_until,
};

fn state(id: u64) -> Option<String> {
    container_status(&task_container(id))
}

#[test]
fn paused_task_stands_still_and_goes_on_when_resumed() {
    let daemon = Daemon::start();
    let id = running(&daemon, "while :; do echo tick; sleep 0.02; done");
    let ticks = || daemon.stdout_of(id).len();
    assert!(wait_until(SOON, || ticks() > 0));
    daemon.control("pause", id).expect(200);
    assert_eq!(state(id).as_deref(), Some("paused"));
    assert_eq!(daemon.task(id)["status"], "paused");
    let before = ticks();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ticks(), before);
    daemon.control("resume", id).expect(200);
    assert_eq!(state(id).as_deref(), Some("running"));
    assert_eq!(daemon.task(id)["status"], "running");
    assert!(wait_until(SOON, || ticks() > before));
}

#[test]
fn repeated_pause_and_repeated_resume_are_200() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 1000");
    daemon.control("resume", id).expect(200);
    daemon.control("pause", id).expect(200);
    daemon.control("pause", id).expect(200);
    assert_eq!(state(id).as_deref(), Some("paused"));
    daemon.control("resume", id).expect(200);
    daemon.control("resume", id).expect(200);
    assert_eq!(state(id).as_deref(), Some("running"));
}

#[test]
fn unknown_id_is_404() {
    let daemon = Daemon::start();
    daemon.control("pause", unique_id()).expect(404);
    daemon.control("resume", unique_id()).expect(404);
}

#[test]
fn task_that_is_over_is_404() {
    let daemon = Daemon::start();
    let task = daemon.run(&execute_body(&daemon, unique_id(), "true"));
    let id = task["task_id"].as_u64().unwrap();
    daemon.control("pause", id).expect(404);
    daemon.control("resume", id).expect(404);
}

#[test]
fn task_that_has_not_started_is_409_at_once() {
    let proxy = EngineProxy::start();
    proxy.on("POST", "/images/create", Behaviour::Hang);
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "true"));
    proxy.wait_held(1, SOON);
    daemon.control("pause", id).expect(409);
    daemon.control("resume", id).expect(409);
}

#[test]
fn task_that_is_being_killed_is_409() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = running(&daemon, "sleep 1000");
    proxy.on("POST", "/containers/*/kill", Behaviour::Hang);
    daemon.control("kill", id).expect(200);
    daemon.control("pause", id).expect(409);
    proxy.clear();
    proxy.release();
    daemon.wait_over(id);
}

#[test]
fn paused_task_stays_in_the_heartbeat_and_nothing_is_reported() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let id = running(&daemon, "sleep 1000");
    host.wait_status(id, "running", SOON);
    daemon.control("pause", id).expect(200);
    // As the host does it once we have answered.
    host.set_status(id, "paused");
    let beat = host.wait_beats(2, SOON);
    assert_eq!(beat.running_tasks, [id]);
    assert_eq!(beat.body["killed_tasks"], json!([]));
    assert_eq!(host.accepted_of(id), ["pending", "running"]);
    daemon.control("resume", id).expect(200);
    assert_eq!(host.reports_of(id).len(), 2);
}

#[test]
fn pause_believes_its_record_and_not_the_name_in_the_body() {
    let daemon = Daemon::start();
    let bystander = test_name("bystander");
    docker(&["run", "--detach", "--name", &bystander, &image("busybox"), "sleep", "1000"]);
    let id = running(&daemon, "sleep 1000");
    let body = json!({ "task_id": id, "container_name": bystander });
    daemon.post("/api/pause", &body).expect(200);
    let untouched = inspect(&bystander).expect("a container")["State"]["Status"].clone();
    remove_container(&bystander);
    assert_eq!((untouched, state(id).as_deref()), (json!("running"), Some("paused")));
}

#[test]
fn pause_whose_reply_is_lost_is_found_done_when_repeated() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = running(&daemon, "sleep 1000");
    proxy.on_nth(1, "POST", "/containers/*/pause", Behaviour::LoseReply);
    let _lost_or_found = daemon.control("pause", id);
    daemon.control("pause", id).expect(200);
    assert_eq!(state(id).as_deref(), Some("paused"));
    assert_eq!(daemon.task(id)["status"], "paused");
}

#[test]
fn resume_thaws_what_somebody_else_has_paused() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 1000");
    docker(&["pause", &task_container(id)]);
    daemon.control("resume", id).expect(200);
    assert_eq!(state(id).as_deref(), Some("running"));
}

#[test]
fn pause_freezes_what_somebody_else_has_resumed() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 1000");
    daemon.control("pause", id).expect(200);
    docker(&["unpause", &task_container(id)]);
    daemon.control("pause", id).expect(200);
    assert_eq!(state(id).as_deref(), Some("paused"));
}

#[test]
fn pause_by_somebody_else_is_noticed_when_the_records_are_compared() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = running(&daemon, "sleep 1000");
    docker(&["pause", &task_container(id)]);
    // A lost event stream brings the comparison that the clock brings once a minute.
    proxy.cut("GET /events");
    daemon.wait_status(id, "paused");
    docker(&["unpause", &task_container(id)]);
    proxy.cut("GET /events");
    daemon.wait_status(id, "running");
}
