//! Contract 5.1, 5.2 and design D5 for images of every kind: where the image comes from, who its
//! user is, what its own entrypoint writes, and what happens without a shell.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use super::ChangedImage;
use crate::kit::{
    Daemon, EngineProxy, SOON, api, docker, execute_body, image, inspect, task_container,
    test_name, unique_id, wait_until, with,
};

/// Runs `command` in a test image and returns the record.
fn run_in(daemon: &Daemon, id: u64, name: &str, command: &str) -> Value {
    let body = with(execute_body(daemon, id, command), json!({ "registry_image": image(name) }));
    daemon.run(&body)
}

// ── where it comes from ──────────────────────────────────────────────────────────────────────

#[test]
fn registry_image_needs_no_container_name() {
    let daemon = Daemon::start();
    let nameless = |name: Value| {
        let body = execute_body(&daemon, unique_id(), "true");
        daemon.run(&with(body, json!({ "container_name": name })))
    };
    assert_eq!(nameless(Value::Null)["exit_code"], 0);
    assert_eq!(nameless(json!(""))["exit_code"], 0);
}

#[test]
fn container_name_is_the_environments_image() {
    let name = test_name("env");
    let reference = format!("kohakuriver/{name}:base");
    docker(&["tag", &image("busybox"), &reference]);
    let daemon = Daemon::start();
    let body = with(
        execute_body(&daemon, unique_id(), "true"),
        json!({ "container_name": name, "registry_image": null }),
    );
    let task = daemon.run(&body);
    docker(&["image", "rm", &reference]);
    assert_eq!(task["status"], "completed");
    assert_eq!((&task["environment"], &task["image"]), (&json!(name), &json!(reference)));
}

#[test]
fn registry_image_counts_before_a_container_name() {
    let daemon = Daemon::start();
    let body = with(
        execute_body(&daemon, unique_id(), "true"),
        json!({ "container_name": "no-such-environment" }),
    );
    assert_eq!(daemon.run(&body)["image"], image("busybox"));
}

#[test]
fn environment_that_does_not_exist_is_failed_naming_it_and_never_pulled() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let body = with(
        execute_body(&daemon, unique_id(), "true"),
        json!({ "container_name": "no-such-environment", "registry_image": null }),
    );
    let task = daemon.run(&body);
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &Value::Null));
    assert!(task["message"].as_str().unwrap().contains("no-such-environment"), "{task:#}");
    assert_eq!(proxy.calls("POST /images/create"), 0);
    assert_eq!(proxy.calls("POST /containers/create"), 0);
}

// ── its user ─────────────────────────────────────────────────────────────────────────────────

/// Both users of the test images are in no machine's `/etc/passwd`.
const NUMERIC_USER: u32 = 1234;
const NAMED_USER: u32 = 4321;

/// Owners of a task's two output files.
fn owners(daemon: &Daemon, id: u64) -> [(u32, u32); 2] {
    ["stdout.log", "stderr.log"].map(|name| {
        let file = fs::metadata(daemon.log_path(id, name)).expect("an output file");
        (file.uid(), file.gid())
    })
}

#[test]
fn root_of_a_debian_image_owns_and_writes_its_output() {
    let daemon = Daemon::start();
    let id = unique_id();
    let task = run_in(&daemon, id, "debian", "id -u; id -u >&2");
    assert_eq!(task["status"], "completed");
    assert_eq!((daemon.stdout_of(id), daemon.stderr_of(id)), ("0\n".into(), "0\n".into()));
    assert_eq!(owners(&daemon, id), [(0, 0); 2]);
}

#[test]
fn user_by_number_owns_and_writes_its_output() {
    let daemon = Daemon::start();
    let id = unique_id();
    let task = run_in(&daemon, id, "debian-numeric", "id -u; id -u >&2");
    assert_eq!(task["status"], "completed");
    assert_eq!((daemon.stdout_of(id), daemon.stderr_of(id)), ("1234\n".into(), "1234\n".into()));
    assert_eq!(owners(&daemon, id), [(NUMERIC_USER, NUMERIC_USER); 2]);
}

#[test]
fn user_by_name_is_looked_up_in_the_image_and_owns_its_output() {
    let daemon = Daemon::start();
    let id = unique_id();
    let task = run_in(&daemon, id, "debian-worker", "id -un; id -u >&2");
    assert_eq!(task["status"], "completed");
    assert_eq!((daemon.stdout_of(id), daemon.stderr_of(id)), ("worker\n".into(), "4321\n".into()));
    assert_eq!(owners(&daemon, id), [(NAMED_USER, NAMED_USER); 2]);
}

#[test]
fn user_that_the_image_does_not_have_is_failed_naming_it_and_leaves_nothing() {
    let ghostly = ChangedImage::with("USER ghost");
    let daemon = Daemon::start();
    let body = with(
        execute_body(&daemon, unique_id(), "true"),
        json!({ "registry_image": ghostly.0, "pull": "never" }),
    );
    let task = daemon.run(&body);
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &json!(125)));
    assert!(task["message"].as_str().unwrap().contains("ghost"), "{task:#}");
    assert_eq!(daemon.containers(), Vec::<String>::new());
}

// ── its volumes ──────────────────────────────────────────────────────────────────────────────

#[test]
fn anonymous_volume_of_the_image_goes_with_the_container() {
    let voluminous = ChangedImage::with("VOLUME /data");
    let daemon = Daemon::start();
    let body = with(
        execute_body(&daemon, unique_id(), "sleep 1000"),
        json!({ "registry_image": voluminous.0, "pull": "never" }),
    );
    let id = daemon.submit(&body);
    daemon.wait_status(id, "running");
    let mounts = inspect(&task_container(id)).expect("a container")["Mounts"].clone();
    let volume = mounts.as_array().unwrap().iter().find(|mount| mount["Type"] == "volume");
    let volume = volume.expect("a volume")["Name"].as_str().unwrap().to_owned();
    daemon.control("kill", id).expect(200);
    daemon.wait_over(id);
    assert_eq!(api("GET", &format!("/volumes/{volume}"), None).status, 404);
}

// ── its entrypoint ───────────────────────────────────────────────────────────────────────────

#[test]
fn entrypoints_own_output_is_in_the_engines_log_and_the_tasks_in_its_file() {
    let daemon = Daemon::start();
    let id = unique_id();
    let body = with(
        execute_body(&daemon, id, "echo the task; sleep 1000"),
        json!({ "registry_image": image("entrypoint") }),
    );
    daemon.submit(&body);
    assert!(wait_until(SOON, || daemon.stdout_of(id) == "the task\n"), "{}", daemon.stdout_of(id));
    assert_eq!(docker(&["logs", &task_container(id)]), "entrypoint was here\n");
}

// ── no shell ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn image_without_a_shell_is_failed_127_saying_so_and_leaves_nothing() {
    let daemon = Daemon::start();
    let id = unique_id();
    let task = run_in(&daemon, id, "scratch", "/hello");
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &json!(127)));
    assert!(task["message"].as_str().unwrap().contains("no /bin/sh"), "{task:#}");
    assert_eq!(daemon.containers(), Vec::<String>::new());
    assert_eq!(daemon.stdout_of(id), "");
}
