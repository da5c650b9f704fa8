//! Contract 3.3 and 3.4: what the host hears of a task, in which order, and that it is true.

use std::time::Duration;

use chrono::{Local, NaiveDateTime};
use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, SOON, container_status, execute_body, task_container,
    unique_id, wait_until, with,
};

fn naive(text: &Option<String>) -> NaiveDateTime {
    let text = text.as_deref().expect("a time");
    text.parse().expect("naive, without a zone")
}

#[test]
fn reports_come_in_order_with_every_field() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let before = Local::now().naive_local();
    // Long enough for `running` to be told: the end drops what is unsent.
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep 2; exit 7"));
    let after = Local::now().naive_local();
    let last = host.wait_final(id, SOON);
    assert_eq!(host.accepted_of(id), ["pending", "running", "failed"]);

    let reports = host.reports_of(id);
    let keys = |body: &Value| body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let seven =
        ["completed_at", "exit_code", "message", "ssh_port", "started_at", "status", "task_id"];
    assert!(reports.iter().all(|report| keys(&report.body) == seven));
    assert!(reports.iter().all(|report| report.ssh_port.is_none()));
    // The host keeps the first only, so all must say the moment of acceptance.
    let started = naive(&last.started_at);
    assert!(reports.iter().all(|report| naive(&report.started_at) == started));
    assert!(before <= started && started <= after, "{before} {started} {after}");

    let untold = |n: usize| {
        let report = &reports[n];
        (report.exit_code, report.message.clone(), report.completed_at.clone())
    };
    assert_eq!([untold(0), untold(1)], [(None, None, None), (None, None, None)]);
    assert_eq!((last.exit_code, last.message.as_deref()), (Some(7), Some("exit code 7")));
    let completed = naive(&last.completed_at);
    assert!(completed >= started + Duration::from_millis(200));
    assert!(completed <= Local::now().naive_local());
}

#[test]
fn success_is_reported_with_code_0_and_a_null_message() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "true"));
    let last = host.wait_final(id, SOON);
    assert_eq!((last.status.as_str(), last.exit_code, last.message), ("completed", Some(0), None));
}

#[test]
fn running_is_reported_before_the_engine_has_started_the_container() {
    let host = FakeHost::start();
    let proxy = EngineProxy::start();
    proxy.on("POST", "/containers/*/start", Behaviour::Hang);
    let daemon = Daemon::builder().host(&host).engine(&proxy).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "true"));
    host.wait_status(id, "running", SOON);
    proxy.wait_held(1, SOON);
    assert_eq!(container_status(&task_container(id)).as_deref(), Some("created"));
    proxy.release();
    assert_eq!(host.wait_final(id, SOON).status, "completed");
}

#[test]
fn image_that_can_not_be_had_is_reported_failed_without_a_code_and_never_running() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let body = with(
        execute_body(&daemon, unique_id(), "true"),
        json!({ "registry_image": "127.0.0.1:1/river-test/nowhere:latest" }),
    );
    let id = daemon.submit(&body);
    let last = host.wait_final(id, SOON);
    assert_eq!(last.status, "failed");
    assert_eq!(last.exit_code, None);
    assert!(last.message.unwrap().contains("127.0.0.1:1/river-test/nowhere:latest"));
    assert!(naive(&last.completed_at) >= naive(&last.started_at));
    assert!(host.reports_of(id).iter().all(|report| report.status != "running"));
}

#[test]
fn all_of_20_megabytes_is_on_disk_when_the_final_report_comes() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let command = "dd if=/dev/urandom of=/local_temp/same bs=1M count=20; cat /local_temp/same";
    let id = daemon.submit(&execute_body(&daemon, unique_id(), command));
    assert_eq!(host.wait_final(id, SOON).status, "completed");
    let written = std::fs::read(daemon.log_path(id, "stdout.log")).unwrap();
    let wanted = std::fs::read(daemon.path("local_temp_dir").join("same")).unwrap();
    assert_eq!(wanted.len(), 20 << 20);
    assert!(written == wanted, "{} bytes, or others", written.len());
}

#[test]
fn container_is_kept_until_the_host_has_acknowledged_the_final() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep 0.5"));
    host.wait_status(id, "running", SOON);
    host.down();
    daemon.wait_status(id, "completed");
    assert_eq!(container_status(&task_container(id)).as_deref(), Some("exited"));
    host.up();
    host.wait_final(id, SOON);
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

#[test]
fn standalone_runner_removes_the_container_once_the_end_is_recorded() {
    let daemon = Daemon::start();
    let task = daemon.run(&execute_body(&daemon, unique_id(), "true"));
    assert!(task["phases"]["recorded"].is_string());
    assert_eq!(daemon.containers(), Vec::<String>::new());
}

#[test]
fn heartbeat_lists_a_task_from_acceptance_until_its_final_is_acknowledged() {
    let host = FakeHost::start();
    let proxy = EngineProxy::start();
    // The image takes longer than the 90 s after which the host fails what is not listed.
    proxy.on("POST", "/images/create", Behaviour::Hang);
    let daemon = Daemon::builder().host(&host).engine(&proxy).start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "true"));
    proxy.wait_held(1, SOON);
    // The beat under way may be older than the task; the one after it is not.
    assert_eq!(host.wait_beats(2, SOON).running_tasks, [id]);
    proxy.release();
    host.wait_final(id, SOON);
    assert_eq!(host.wait_beats(2, SOON).running_tasks, Vec::<u64>::new());
}

#[test]
fn task_that_the_host_had_ended_meanwhile_is_not_started() {
    let host = FakeHost::start();
    let proxy = EngineProxy::start();
    let id = unique_id();
    // The user kills it while its image is pulled; the host sends no kill then (contract 3.3).
    host.set_status(id, "killed");
    proxy.on("POST", "/images/create", Behaviour::Hang);
    let daemon = Daemon::builder().host(&host).engine(&proxy).start();
    host.wait_beats(1, SOON);
    daemon.submit(&execute_body(&daemon, id, "true"));
    daemon.wait_status(id, "killed");
    proxy.release();
    daemon.wait_over(id);
    assert_eq!(proxy.calls("POST /containers/create"), 0);
    assert_eq!(host.accepted_of(id), Vec::<String>::new());
}
