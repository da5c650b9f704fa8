//! Contract 1.1 and 5.10, rule 8: a kill takes effect in every phase of a task, at once, on that
//! task alone, and the host hears nothing more of it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, Fault, SOON, container_exists, container_status,
    docker, execute_body, image, inspect, remove_container, running, task_container, test_name,
    unique_id, wait_until, with,
};

/// What the issue promises between the kill's answer and the container's end at the Engine.
const EFFECT_MAX: Duration = Duration::from_secs(1);

/// Two heartbeats of the tests' configuration: a report that was to come would have come.
const QUIET: Duration = Duration::from_secs(2);

/// Kills and asserts that the container does not run any more within the promised second.
#[track_caller]
fn kill_within_a_second(daemon: &Daemon, id: u64) {
    let since = Instant::now();
    daemon.control("kill", id).expect(200);
    let runs = || {
        let state = container_status(&task_container(id));
        matches!(state.as_deref(), Some("running" | "paused"))
    };
    let ended = wait_until(EFFECT_MAX.saturating_sub(since.elapsed()), || !runs());
    assert!(ended, "still running {:?} after the kill", since.elapsed());
}

// ── running ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn running_task_ends_within_a_second_and_leaves_nothing() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 1000");
    kill_within_a_second(&daemon, id);
    let task = daemon.wait_over(id);
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("killed"), &json!(137)));
    assert_eq!(daemon.containers(), Vec::<String>::new());
}

#[test]
fn host_hears_nothing_after_a_kill_and_the_heartbeat_forgets_the_task() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let id = running(&daemon, "sleep 1000");
    host.wait_status(id, "running", SOON);
    // As the host does it: its own record first, then the call (contract rule 8).
    host.set_status(id, "killed");
    daemon.control("kill", id).expect(200);
    daemon.wait_over(id);
    std::thread::sleep(QUIET);
    assert_eq!(host.accepted_of(id), ["pending", "running"]);
    assert_eq!(host.reports_of(id).len(), 2);
    assert_eq!(host.status_of(id).as_deref(), Some("killed"));
    assert_eq!(host.wait_beats(1, SOON).running_tasks, Vec::<u64>::new());
}

#[test]
fn paused_task_ends_within_a_second() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 1000");
    daemon.control("pause", id).expect(200);
    assert_eq!(container_status(&task_container(id)).as_deref(), Some("paused"));
    kill_within_a_second(&daemon, id);
    assert_eq!(daemon.wait_over(id)["status"], "killed");
}

#[test]
fn second_kill_is_200_while_the_first_is_under_way() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = running(&daemon, "sleep 1000");
    proxy.on("POST", "/containers/*/kill", Behaviour::Hang);
    daemon.control("kill", id).expect(200);
    proxy.wait_held(1, SOON);
    daemon.control("kill", id).expect(200);
    proxy.clear();
    proxy.release();
    assert_eq!(daemon.wait_over(id)["status"], "killed");
}

#[test]
fn kill_whose_call_to_the_engine_is_lost_is_made_again() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = running(&daemon, "sleep 1000");
    proxy.on_nth(1, "POST", "/containers/*/kill", Behaviour::Die);
    daemon.control("kill", id).expect(200);
    assert_eq!(daemon.wait_over(id)["status"], "killed");
}

// ── before it runs ───────────────────────────────────────────────────────────────────────────

#[test]
fn kill_while_the_image_is_prepared_ends_the_task_without_a_container() {
    let host = FakeHost::start();
    let proxy = EngineProxy::start();
    proxy.on("POST", "/images/create", Behaviour::Hang);
    let daemon = Daemon::builder().host(&host).engine(&proxy).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "true"));
    proxy.wait_held(1, SOON);
    daemon.control("kill", id).expect(200);
    assert_eq!(daemon.task(id)["status"], "killed");
    proxy.release();
    std::thread::sleep(QUIET);
    assert_eq!(proxy.calls("POST /containers/create"), 0);
    let statuses: Vec<_> = host.reports_of(id).into_iter().map(|report| report.status).collect();
    assert_eq!(statuses, ["pending"]);
    assert_eq!(host.wait_beats(1, SOON).running_tasks, Vec::<u64>::new());
}

#[test]
fn kill_while_the_image_is_prepared_is_the_last_word_also_when_the_image_fails() {
    let proxy = EngineProxy::start();
    proxy.on("POST", "/images/create", Behaviour::Hang);
    let daemon = Daemon::builder().engine(&proxy).start();
    let nowhere = json!({ "registry_image": "127.0.0.1:1/river-test/nowhere:latest" });
    let id = daemon.submit(&with(execute_body(&daemon, unique_id(), "true"), nowhere));
    proxy.wait_held(1, SOON);
    daemon.control("kill", id).expect(200);
    proxy.release();
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 0));
    assert_eq!(daemon.task(id)["status"], "killed");
    let events = daemon.get("/api/events").text();
    assert!(events.contains("killed") && !events.contains("failed"), "{events}");
    assert!(!daemon.log_path(id, "").exists());
}

#[test]
fn kill_during_a_create_that_the_engine_never_got_makes_no_running_container() {
    let proxy = EngineProxy::start();
    proxy.on("POST", "/containers/create", Behaviour::Hang);
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "echo ran"));
    proxy.wait_held(1, SOON);
    daemon.control("kill", id).expect(200);
    proxy.release();
    assert_eq!(daemon.wait_over(id)["status"], "killed");
    assert_eq!(proxy.calls("POST /containers/*/start"), 0);
    assert_eq!(daemon.stdout_of(id), "");
}

#[test]
fn kill_during_a_create_that_the_engine_has_done_removes_the_container_unstarted() {
    let proxy = EngineProxy::start();
    proxy.on("POST", "/containers/create", Behaviour::HangReply);
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "echo ran"));
    proxy.wait_held(1, SOON);
    assert!(container_exists(&task_container(id)));
    daemon.control("kill", id).expect(200);
    proxy.release();
    assert_eq!(daemon.wait_over(id)["status"], "killed");
    assert_eq!(proxy.calls("POST /containers/*/start"), 0);
}

#[test]
fn kill_during_a_start_that_the_engine_never_got_removes_the_container() {
    let host = FakeHost::start();
    let proxy = EngineProxy::start();
    proxy.on("POST", "/containers/*/start", Behaviour::Hang);
    let daemon = Daemon::builder().host(&host).engine(&proxy).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep 1000"));
    proxy.wait_held(1, SOON);
    daemon.control("kill", id).expect(200);
    proxy.release();
    assert_eq!(daemon.wait_over(id)["status"], "killed");
    assert!(host.reports_of(id).iter().all(|report| !report.is_final()));
}

#[test]
fn kill_during_a_start_that_the_engine_has_done_ends_the_container() {
    let proxy = EngineProxy::start();
    proxy.on("POST", "/containers/*/start", Behaviour::HangReply);
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep 1000"));
    proxy.wait_held(1, SOON);
    assert_eq!(container_status(&task_container(id)).as_deref(), Some("running"));
    daemon.control("kill", id).expect(200);
    proxy.release();
    assert_eq!(daemon.wait_over(id)["status"], "killed");
}

// ── after it ran ─────────────────────────────────────────────────────────────────────────────

#[test]
fn kill_of_a_task_that_is_over_is_404() {
    let daemon = Daemon::start();
    let task = daemon.run(&execute_body(&daemon, unique_id(), "true"));
    daemon.control("kill", task["task_id"].as_u64().unwrap()).expect(404);
    assert_eq!(daemon.task(task["task_id"].as_u64().unwrap())["status"], "completed");
}

#[test]
fn kill_of_a_task_that_was_killed_is_404_once_it_is_over() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 1000");
    daemon.control("kill", id).expect(200);
    daemon.wait_over(id);
    daemon.control("kill", id).expect(404);
}

#[test]
fn kill_before_the_final_report_was_heard_keeps_it_from_being_sent() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep 0.5; exit 7"));
    host.wait_status(id, "running", SOON);
    host.fail(Fault::Status(500));
    daemon.wait_status(id, "failed");
    host.set_status(id, "killed");
    daemon.control("kill", id).expect(200);
    host.heal();
    daemon.wait_over(id);
    std::thread::sleep(QUIET);
    assert_eq!(host.status_of(id).as_deref(), Some("killed"));
}

// ── whose ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn kill_of_an_unknown_id_is_404() {
    let daemon = Daemon::start();
    daemon.control("kill", unique_id()).expect(404);
}

#[test]
fn kill_takes_the_id_as_text_and_needs_a_container_name() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 1000");
    let body = json!({ "task_id": id });
    let refused = daemon.post("/api/kill", &body).expect(422);
    assert_eq!(refused.json["detail"][0]["loc"], json!(["body", "container_name"]));
    let body = json!({ "task_id": id.to_string(), "container_name": "" });
    daemon.post("/api/kill", &body).expect(200);
    assert_eq!(daemon.wait_over(id)["status"], "killed");
}

#[test]
fn kill_believes_its_record_and_not_the_name_in_the_body() {
    let daemon = Daemon::start();
    let bystander = test_name("bystander");
    docker(&["run", "--detach", "--name", &bystander, &image("busybox"), "sleep", "1000"]);
    let id = running(&daemon, "sleep 1000");
    let body = json!({ "task_id": id, "container_name": bystander });
    daemon.post("/api/kill", &body).expect(200);
    assert_eq!(daemon.wait_over(id)["status"], "killed");
    let state = inspect(&bystander).expect("a container")["State"]["Status"].clone();
    remove_container(&bystander);
    assert_eq!(state, "running");
}

#[test]
fn kill_ends_that_task_and_no_other() {
    let daemon = Daemon::start();
    let (other, id) = (running(&daemon, "sleep 1000"), running(&daemon, "sleep 1000"));
    daemon.control("kill", id).expect(200);
    daemon.wait_over(id);
    assert_eq!(container_status(&task_container(other)).as_deref(), Some("running"));
    assert_eq!(daemon.task(other)["status"], "running");
}

// ── while others hang ────────────────────────────────────────────────────────────────────────

/// Enough to fill every worker, every patient thread and every place at the Engine client.
const HANGING: usize = 64;
/// As many of them as are at the Engine at a time: the workers of the one NUMA node here, and the
/// patient threads.
const WORKERS: usize = 4;
const PATIENT_THREADS: usize = 16;

#[test]
fn sixty_four_hanging_creates_do_not_keep_a_kill_from_its_effect() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = running(&daemon, "sleep 1000");
    proxy.on("POST", "/containers/create", Behaviour::Hang);
    for _ in 0..HANGING {
        daemon.submit(&execute_body(&daemon, unique_id(), "true"));
    }
    proxy.wait_held(WORKERS, SOON);
    kill_within_a_second(&daemon, id);
    assert_eq!(daemon.wait_over(id)["status"], "killed");
}

#[test]
fn sixty_four_hanging_pulls_do_not_keep_a_kill_from_its_effect() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let id = running(&daemon, "sleep 1000");
    proxy.on("POST", "/images/create", Behaviour::Hang);
    for number in 0..HANGING {
        let reference = format!("127.0.0.1:1/river-test/none-{number}:latest");
        let body = execute_body(&daemon, unique_id(), "true");
        daemon.submit(&with(body, json!({ "registry_image": reference })));
    }
    proxy.wait_held(PATIENT_THREADS, SOON);
    kill_within_a_second(&daemon, id);
    assert_eq!(daemon.wait_over(id)["status"], "killed");
}
