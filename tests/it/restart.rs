//! Deaths and restarts (design laws 1 to 4, D4, D6; contract 10.2): whatever dies when, an accepted
//! task runs once and its true outcome reaches the host; what is not ours is not touched.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, Fault, SOON, STOP_MAX, container_exists,
    container_status, docker, execute, execute_body, image, node_of, remove_container,
    task_container, test_name, told_running, unique_id, wait_until,
};

/// Pauses of the outbox and of the Engine's event stream, after an outage of seconds.
const AFTER_AN_OUTAGE: Duration = Duration::from_secs(30);
const SIGKILL: i32 = 9;

/// A command that leaves a line for each time it ran, and ends with 3.
const MARKING: &str = "echo ran >>/shared/runs; sleep 1; exit 3";

/// How often a task with [`MARKING`] ran on this node.
fn runs(daemon: &Daemon) -> usize {
    let marks = fs::read_to_string(daemon.shared_dir().join("shared_data/runs"));
    marks.unwrap_or_default().lines().count()
}

fn has_ended(container: &str) -> bool {
    container_status(container).as_deref() == Some("exited")
}

// ── the runner dies ──────────────────────────────────────────────────────────────────────────

#[test]
fn task_that_runs_through_a_kill_of_the_runner_ends_with_its_true_code() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 4; exit 5");
    daemon.kill9();
    daemon.restart();
    let last = host.wait_final(id, AFTER_AN_OUTAGE);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", Some(5)));
    // Told once more at most: that `running` was acknowledged is not worth a write of its own.
    let mut told = host.accepted_of(id);
    told.dedup();
    assert_eq!(told, ["pending", "running", "failed"]);
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

#[test]
fn task_that_ended_while_no_runner_was_there_ends_with_its_true_code() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 1; echo said; exit 6");
    daemon.kill9();
    assert!(wait_until(SOON, || has_ended(&task_container(id))));
    let restarted_at = chrono::Local::now().format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    daemon.restart();
    let last = host.wait_final(id, AFTER_AN_OUTAGE);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", Some(6)));
    assert_eq!(daemon.stdout_of(id), "said\n");
    // The end is the container's, not the moment we looked.
    assert!(last.completed_at.unwrap() < restarted_at);
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

/// The Engine tells an end before it cleans up, and lists the container as running until it has.
#[test]
fn end_that_is_neither_told_nor_listed_yet_when_the_runner_starts_is_found_soon() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = told_running(&host, &daemon, "sleep 2; exit 5");
    let filter = format!("%7B%22name%22%3A%5B%22{}%22%5D%7D", task_container(id));
    let stale = crate::kit::api("GET", &format!("/containers/json?filters={filter}"), None);
    assert_eq!(stale.json[0]["State"], "running");
    daemon.kill9();
    assert!(wait_until(SOON, || has_ended(&task_container(id))));
    // The look at the start, and the one when the event stream stands.
    engine.on_nth(1, "GET", "/containers/json", Behaviour::Reply(200, stale.json.clone()));
    engine.on_nth(2, "GET", "/containers/json", Behaviour::Reply(200, stale.json));
    daemon.restart();
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(5));
}

#[test]
fn final_that_the_host_did_not_hear_survives_a_kill_of_the_runner() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    let id = execute(&daemon, "exit 8");
    daemon.wait_status(id, "failed");
    daemon.kill9();
    host.heal();
    daemon.restart();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(8));
    assert_eq!(host.accepted_of(id), ["failed"]);
}

#[test]
fn paused_task_is_found_paused_and_a_kill_reaches_it() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = execute(&daemon, "sleep 60");
    daemon.wait_status(id, "running");
    daemon.control("pause", id).expect(200);
    daemon.kill9();
    daemon.restart();
    daemon.wait_status(id, "paused");
    daemon.control("kill", id).expect(200);
    daemon.wait_status(id, "killed");
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

#[test]
fn kill_that_was_answered_holds_when_the_runner_dies_before_it_took_effect() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = told_running(&host, &daemon, "sleep 60");
    engine.on("POST", "/containers/*/kill", Behaviour::Hang);
    daemon.control("kill", id).expect(200);
    engine.wait_calls("POST /containers/*/kill", 1, SOON);
    daemon.kill9();
    engine.clear();
    daemon.restart();
    daemon.wait_status(id, "killed");
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
    assert_eq!(host.accepted_of(id), ["pending", "running"]);
}

/// SIGKILLs the runner before or after the Engine does this call, starts it again, and looks that
/// the task ran exactly once, was reported with its code, and left nothing.
#[track_caller]
fn task_survives_a_kill_at(
    method: &str,
    path: &str,
    behaviour: fn(Arc<dyn Fn() + Send + Sync>) -> Behaviour,
) {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    let pid = Pid::from_raw(daemon.pid());
    let die = Arc::new(move || kill(pid, Signal::SIGKILL).expect("our child"));
    engine.on_nth(1, method, path, behaviour(die));
    let id = unique_id();
    // The lane begins with the record on disk, and may meet its death before the answer has left.
    if let Ok(answer) =
        daemon.try_call("POST", "/api/execute", Some(&execute_body(&daemon, id, MARKING)))
    {
        answer.expect(200);
    }
    assert_eq!(daemon.wait_exit(SOON), (None, Some(SIGKILL)));
    daemon.restart();
    let last = host.wait_final(id, AFTER_AN_OUTAGE);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", Some(3)));
    assert_eq!(runs(&daemon), 1);
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
    assert!(wait_until(SOON, || !daemon.record_path(id).exists()));
}

#[test]
fn runner_killed_before_the_image_is_there_runs_the_task_once() {
    task_survives_a_kill_at("POST", "/images/create", Behaviour::Before);
}

#[test]
fn runner_killed_before_the_engine_creates_runs_the_task_once() {
    task_survives_a_kill_at("POST", "/containers/create", Behaviour::Before);
}

#[test]
fn runner_killed_after_the_engine_created_runs_the_task_once() {
    task_survives_a_kill_at("POST", "/containers/create", Behaviour::After);
}

#[test]
fn runner_killed_before_the_engine_starts_runs_the_task_once() {
    task_survives_a_kill_at("POST", "/containers/*/start", Behaviour::Before);
}

#[test]
fn runner_killed_after_the_engine_started_runs_the_task_once() {
    task_survives_a_kill_at("POST", "/containers/*/start", Behaviour::After);
}

#[test]
fn runner_killed_before_the_engine_removes_cleans_up_later() {
    task_survives_a_kill_at("DELETE", "/containers/*", Behaviour::Before);
}

#[test]
fn runner_killed_after_the_engine_removed_loses_nothing() {
    task_survives_a_kill_at("DELETE", "/containers/*", Behaviour::After);
}

/// SIGKILLs the runner as it enters its `nth` fsync of the life of a task.
fn runner_killed_at_fsync(nth: usize, host: &FakeHost) -> Daemon {
    let inject = format!("inject=fsync:signal=KILL:when={nth}");
    Daemon::builder().host(host).strace(&["-e", "trace=fsync", "-e", &inject]).start()
}

#[test]
fn runner_killed_before_the_record_is_on_disk_has_promised_nothing() {
    let host = FakeHost::start();
    let mut daemon = runner_killed_at_fsync(1, &host);
    let id = unique_id();
    let body = execute_body(&daemon, id, MARKING);
    daemon.try_call("POST", "/api/execute", Some(&body)).expect_err("no answer");
    daemon.wait_exit(SOON);
    daemon.without_strace();
    daemon.restart();
    daemon.get(&format!("/api/tasks/{id}")).expect(404);
    assert_eq!(fs::read_dir(daemon.state_dir().join("tasks")).unwrap().count(), 0);
    // Nothing is left in the way of the host's next try.
    daemon.post("/api/execute", &body).expect(200);
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
}

#[test]
fn runner_killed_between_the_record_and_the_answer_runs_the_task_once() {
    let host = FakeHost::start();
    let mut daemon = runner_killed_at_fsync(2, &host);
    let id = unique_id();
    let body = execute_body(&daemon, id, MARKING);
    daemon.try_call("POST", "/api/execute", Some(&body)).expect_err("no answer");
    daemon.wait_exit(SOON);
    daemon.without_strace();
    daemon.restart();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
    // The host, which got no answer, tries again.
    daemon.post("/api/execute", &body).expect(409);
}

#[test]
fn runner_killed_right_after_its_answer_runs_the_task_once() {
    let host = FakeHost::start();
    // The third is the record of the next phase.
    let mut daemon = runner_killed_at_fsync(3, &host);
    let id = execute(&daemon, MARKING);
    daemon.wait_exit(SOON);
    daemon.without_strace();
    daemon.restart();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
}

// ── the runner is stopped ────────────────────────────────────────────────────────────────────

#[test]
fn stop_leaves_containers_running_and_the_next_start_goes_on() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 5; exit 9");
    let took = daemon.stop();
    assert!(took < STOP_MAX, "stopped after {took:?}");
    assert_eq!(container_status(&task_container(id)).as_deref(), Some("running"));
    daemon.restart();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(9));
}

#[test]
fn stop_waits_neither_for_a_hung_host_nor_for_a_hung_engine() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    host.wait_registered();
    host.fail(Fault::Hang);
    engine.on("POST", "/images/create", Behaviour::Hang);
    engine.on("POST", "/containers/create", Behaviour::Hang);
    let pulling = execute(&daemon, MARKING);
    engine.wait_calls("POST /images/create", 1, SOON);
    let took = daemon.stop();
    assert!(took < STOP_MAX, "stopped after {took:?}");
    engine.clear();
    engine.release();
    host.heal();
    daemon.restart();
    assert_eq!(host.wait_final(pulling, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
}

// ── the record ───────────────────────────────────────────────────────────────────────────────

/// Of a trace of the runner, the calls of the thread that made the task's record, from its opening
/// on, one word each.
fn calls_around_the_record(trace: &str, id: u64) -> Vec<&'static str> {
    let fresh = format!("{id}.json.new");
    let opened = trace.lines().position(|line| line.contains("openat(") && line.contains(&fresh));
    let after: Vec<&str> = trace.lines().skip(opened.expect("the record's file")).collect();
    let thread = after[0].split_whitespace().next().expect("a thread id");
    let word = |line: &str| match line {
        line if line.contains("fsync(") && line.contains(&fresh) => Some("fsync file"),
        line if line.contains("rename") && line.contains(&fresh) => Some("rename"),
        line if line.contains("fsync(") && line.contains("/tasks>") => Some("fsync directory"),
        line if line.contains("HTTP/1.1 200") => Some("answer"),
        _ => None,
    };
    after.into_iter().filter(|line| line.starts_with(thread)).filter_map(word).collect()
}

#[test]
fn answer_follows_the_sync_of_the_record_and_of_its_name() {
    let daemon = Daemon::builder()
        .strace(&[
            "-y",
            "-s",
            "64",
            "-e",
            "trace=openat,fsync,rename,renameat,write,sendto,sendmsg",
        ])
        .start();
    let id = execute(&daemon, "true");
    daemon.wait_status(id, "completed");
    let trace = fs::read_to_string(daemon.strace_path()).unwrap();
    let calls = calls_around_the_record(&trace, id);
    assert_eq!(calls[..4], ["fsync file", "rename", "fsync directory", "answer"], "{trace}");
}

#[test]
fn files_that_are_no_records_are_set_aside_and_the_others_go_on() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 5; exit 5");
    daemon.kill9();
    let whole = fs::read(daemon.record_path(id)).unwrap();
    let (empty, half, other) = (unique_id(), unique_id(), unique_id());
    fs::write(daemon.record_path(empty), "").unwrap();
    fs::write(daemon.record_path(half), &whole[..whole.len() / 2]).unwrap();
    // A whole record under another's name.
    fs::write(daemon.record_path(other), &whole).unwrap();
    // Of an id of its own: the task of a broken record is given a new one.
    let unfinished = daemon.state_dir().join("tasks").join(format!("{}.json.new", unique_id()));
    fs::write(&unfinished, "{").unwrap();
    daemon.restart();
    let health = daemon.get("/health").expect(200).json;
    assert_eq!(health["records_set_aside"], 3);
    assert!(health["warnings"].to_string().contains("records"), "{health:#}");
    assert!(daemon.log().contains(&empty.to_string()));
    assert_eq!(fs::read_dir(daemon.state_dir().join("broken")).unwrap().count(), 3);
    assert!(!unfinished.exists());
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(5));
}

#[test]
fn state_directory_emptied_under_a_running_task_is_rebuilt_from_its_container() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 4; echo said; exit 5");
    daemon.stop();
    fs::remove_dir_all(daemon.state_dir()).unwrap();
    daemon.restart();
    let last = host.wait_final(id, AFTER_AN_OUTAGE);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", Some(5)));
    assert_eq!(daemon.get(&format!("/api/tasks/{id}/logs")).expect(200).text(), "said\n");
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

#[test]
fn state_directory_emptied_after_the_end_is_rebuilt_from_the_container() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    let id = execute(&daemon, "exit 6");
    daemon.wait_status(id, "failed");
    daemon.kill9();
    fs::remove_dir_all(daemon.state_dir()).unwrap();
    host.heal();
    daemon.restart();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(6));
}

#[test]
fn records_deleted_while_the_runner_runs_do_not_lose_the_outcome() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 2; exit 5");
    fs::remove_dir_all(daemon.state_dir().join("tasks")).unwrap();
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(5));
}

#[test]
fn task_refused_for_a_directory_that_does_not_sync_is_not_found_after_a_restart() {
    // The second sync is the directory's: the record has its name already.
    let inject = "inject=fsync:error=EIO:when=2";
    let mut daemon = Daemon::builder().strace(&["-e", "trace=fsync", "-e", inject]).start();
    let body = execute_body(&daemon, unique_id(), MARKING);
    daemon.post("/api/execute", &body).expect(500);
    // Beside the trials of a runner that looks whether the directory takes writes again.
    let names = fs::read_dir(daemon.state_dir().join("tasks")).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.find(|name| !name.ends_with(".new")), None);
    daemon.kill9();
    daemon.without_strace();
    daemon.restart();
    daemon.get(&format!("/api/tasks/{}", body["task_id"].as_str().unwrap())).expect(404);
    assert_eq!(runs(&daemon), 0);
}

#[test]
fn state_directory_that_refuses_writes_is_said_and_the_outcome_waits_for_it() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 2; exit 5");
    let (tasks, aside) = (daemon.state_dir().join("tasks"), daemon.path("aside"));
    // A file in a directory's place refuses also root.
    fs::rename(&tasks, &aside).unwrap();
    fs::write(&tasks, "").unwrap();
    let body = execute_body(&daemon, unique_id(), "true");
    daemon.post("/api/execute", &body).expect(500);
    let health = daemon.get("/health").expect(200).json;
    assert!(health["warnings"].to_string().contains("state directory"), "{health:#}");
    assert!(wait_until(SOON, || has_ended(&task_container(id))));
    fs::remove_file(&tasks).unwrap();
    fs::rename(&aside, &tasks).unwrap();
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(5));
    assert_eq!(daemon.get("/health").expect(200).json["warnings"], json!([]));
}

#[test]
fn second_runner_on_a_state_directory_does_not_start() {
    let first = Daemon::start();
    let state_dir = first.state_dir().to_str().expect("a plain path");
    let mut second = Daemon::builder().set("state_dir", state_dir).stopped();
    second.launch();
    assert_eq!(second.wait_exit(SOON), (Some(1), None));
    let (log, holder) = (second.log(), format!("process {}", first.pid()));
    assert!(log.contains("in use by another runner"), "{log}");
    assert!(log.contains(state_dir) && log.contains(&holder), "{log}");
    first.get("/health").expect(200);
}

// ── what is not ours, and what is gone ───────────────────────────────────────────────────────

/// A container that `docker commit` and `docker run` made from ours: its labels, another's name.
struct Commit {
    name: String,
    image: String,
}

impl Commit {
    fn of(id: u64) -> Commit {
        let (name, image) = (test_name("commit"), test_name("committed"));
        docker(&["commit", &task_container(id), &image]);
        docker(&["run", "-d", "--name", &name, "--network", "none", &image, "sleep", "60"]);
        Commit { name, image }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        remove_container(&self.name);
        docker(&["rmi", "--force", &self.image]);
    }
}

#[test]
fn container_made_from_a_commit_of_ours_is_not_touched() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = execute(&daemon, "sleep 60");
    daemon.wait_status(id, "running");
    let foreign = Commit::of(id);
    daemon.control("kill", id).expect(200);
    daemon.wait_status(id, "killed");
    assert!(wait_until(SOON, || !container_exists(&task_container(id))));
    // Neither with the record of the task it was made from nor without any.
    daemon.restart();
    host.wait_beats(2, SOON);
    daemon.stop();
    fs::remove_dir_all(daemon.state_dir()).unwrap();
    daemon.restart();
    host.wait_beats(2, SOON);
    assert_eq!(container_status(&foreign.name).as_deref(), Some("running"));
    assert_eq!(daemon.get("/api/tasks").expect(200).json["count"], 0);
    assert_eq!(host.beats().last().unwrap().running_tasks, [0; 0]);
}

#[test]
fn foreign_container_with_the_tasks_name_fails_the_task_and_stays() {
    let daemon = Daemon::start();
    let id = unique_id();
    docker(&["create", "--name", &task_container(id), &image("busybox"), "true"]);
    daemon.post("/api/execute", &execute_body(&daemon, id, "true")).expect(200);
    let reached =
        wait_until(SOON, || daemon.get(&format!("/api/tasks/{id}")).json["status"] == "failed");
    let stays = container_exists(&task_container(id));
    remove_container(&task_container(id));
    assert!(reached && stays);
    let message = daemon.get(&format!("/api/tasks/{id}")).json["message"].to_string();
    assert!(message.contains(&task_container(id)) && message.contains("not ours"), "{message}");
}

#[test]
fn container_of_another_node_on_the_same_engine_is_not_touched() {
    let other = Daemon::start();
    let id = execute(&other, "sleep 60");
    other.wait_status(id, "running");
    let host = FakeHost::start();
    let daemon = node_of(&host);
    host.wait_registered();
    host.wait_beats(2, SOON);
    assert_eq!(container_status(&task_container(id)).as_deref(), Some("running"));
    assert_eq!(daemon.get("/api/tasks").expect(200).json["count"], 0);
}

#[test]
fn container_of_another_node_with_the_tasks_name_fails_the_task_and_runs_on() {
    let other = Daemon::start();
    let id = execute(&other, "sleep 60");
    other.wait_status(id, "running");
    let host = FakeHost::start();
    let daemon = node_of(&host);
    daemon.post("/api/execute", &execute_body(&daemon, id, "exit 3")).expect(200);
    let last = host.wait_final(id, SOON);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", None));
    assert!(last.message.unwrap().contains("not ours"));
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 0));
    assert_eq!(container_status(&task_container(id)).as_deref(), Some("running"));
    assert_eq!(other.task(id)["status"], "running");
}

#[test]
fn container_removed_behind_our_back_fails_the_task_with_a_message() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 60");
    remove_container(&task_container(id));
    let last = host.wait_final(id, SOON);
    assert_eq!(last.status, "failed");
    let message = last.message.expect("a message");
    assert!(message.contains("not by the runner"), "{message}");
}

#[test]
fn container_removed_while_no_runner_was_there_fails_the_task_with_a_message() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 60");
    daemon.kill9();
    remove_container(&task_container(id));
    daemon.restart();
    let last = host.wait_final(id, AFTER_AN_OUTAGE);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", None));
    assert!(last.message.unwrap().contains("not by the runner"));
}

// ── the Engine goes and comes ────────────────────────────────────────────────────────────────

#[test]
fn end_that_the_event_stream_missed_is_found_when_it_is_open_again() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = told_running(&host, &daemon, "sleep 2; exit 5");
    engine.on("GET", "/events", Behaviour::Die);
    engine.cut("GET /events");
    assert!(wait_until(SOON, || has_ended(&task_container(id))));
    engine.clear();
    let last = host.wait_final(id, AFTER_AN_OUTAGE);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", Some(5)));
}

#[test]
fn end_during_an_outage_of_the_engine_is_found_with_its_true_code() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = told_running(&host, &daemon, "sleep 2; exit 5");
    engine.down();
    assert!(wait_until(SOON, || has_ended(&task_container(id))));
    engine.up();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(5));
}

#[test]
fn task_accepted_during_an_outage_of_the_engine_runs_once_it_is_back() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    engine.down();
    let since = Instant::now();
    let id = execute(&daemon, MARKING);
    assert!(since.elapsed() < STOP_MAX, "accepted after {:?}", since.elapsed());
    host.wait_status(id, "pending", SOON);
    engine.up();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
}

#[test]
fn runner_that_starts_without_an_engine_takes_up_its_tasks_when_there_is_one() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = told_running(&host, &daemon, "sleep 2; exit 5");
    daemon.kill9();
    engine.down();
    daemon.restart();
    assert_eq!(daemon.get("/health").expect(200).json["status"], "degraded");
    assert!(wait_until(SOON, || has_ended(&task_container(id))));
    engine.up();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(5));
}

#[test]
fn create_whose_reply_was_lost_makes_one_container() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    engine.on_nth(1, "POST", "/containers/create", Behaviour::LoseReply);
    engine.on_nth(1, "POST", "/containers/*/start", Behaviour::LoseReply);
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = execute(&daemon, MARKING);
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
}

#[test]
fn start_whose_reply_is_lost_after_the_task_has_ended_runs_it_once() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    engine.on_nth(1, "POST", "/containers/*/start", Behaviour::HangReply);
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = execute(&daemon, MARKING);
    engine.wait_held(1, SOON);
    assert!(wait_until(SOON, || has_ended(&task_container(id))));
    engine.cut("POST /containers/*/start");
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
}

#[test]
fn answers_that_nobody_can_read_are_no_outcome_of_a_task() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    engine.on_nth(1, "POST", "/containers/create", Behaviour::Garbage);
    engine.on_nth(1, "POST", "/containers/*/start", Behaviour::Garbage);
    engine.on_nth(1, "GET", "/containers/*/json", Behaviour::Garbage);
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = execute(&daemon, MARKING);
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
}

#[test]
fn task_whose_container_the_engine_refuses_to_show_runs_on() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    engine.on_nth(1, "POST", "/containers/*/start", Behaviour::LoseReply);
    let refusal = json!({ "message": "busy" });
    engine.on_nth(1, "GET", "/containers/*/json", Behaviour::Reply(500, refusal));
    let id = execute(&daemon, MARKING);
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert_eq!(runs(&daemon), 1);
}

/// An image that carries the label by which the Engine's event would tell a false exit code.
struct Labelled(String);

impl Labelled {
    fn with_exit_code_0() -> Labelled {
        // Under the test images' registry, which refuses: no pull of it leaves this machine.
        let name = format!("127.0.0.1:1/{}", test_name("labelled"));
        let recipe = format!("FROM {}\nLABEL exitCode=0\n", image("busybox"));
        let context = tempfile::tempdir().expect("a directory");
        fs::write(context.path().join("Dockerfile"), recipe).expect("a file");
        let built = Command::new("docker")
            .args(["build", "--quiet", "--tag", &name])
            .arg(context.path())
            .env("DOCKER_BUILDKIT", "0")
            .stdout(Stdio::null())
            .status();
        assert!(built.expect("docker command").success());
        Labelled(name)
    }
}

impl Drop for Labelled {
    fn drop(&mut self) {
        docker(&["rmi", "--force", &self.0]);
    }
}

#[test]
fn image_whose_label_names_an_exit_code_is_not_believed() {
    let labelled = Labelled::with_exit_code_0();
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let id = unique_id();
    let mut body = execute_body(&daemon, id, "exit 3");
    body["registry_image"] = json!(labelled.0);
    daemon.post("/api/execute", &body).expect(200);
    let last = host.wait_final(id, SOON);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", Some(3)));
    // The image can only go when no container uses it.
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}
