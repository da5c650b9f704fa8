//! Contract 5.3: from how a container ended to the status, the code and the text.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::ChangedImage;
use crate::kit::{Daemon, docker, execute_body, remove_container, task_container, unique_id, with};

const MEBIBYTE: u64 = 1 << 20;

/// Status, exit code and message of a task that is over.
fn outcome(task: &Value) -> (&str, Option<i64>, Option<&str>) {
    let status = task["status"].as_str().expect("a status");
    (status, task["exit_code"].as_i64(), task["message"].as_str())
}

#[test]
fn success_is_completed_without_a_message() {
    let daemon = Daemon::start();
    let task = daemon.run(&execute_body(&daemon, unique_id(), "true"));
    assert_eq!(outcome(&task), ("completed", Some(0), None));
}

#[test]
fn failure_is_failed_with_its_code_in_the_message() {
    let daemon = Daemon::start();
    let task = daemon.run(&execute_body(&daemon, unique_id(), "exit 7"));
    assert_eq!(outcome(&task), ("failed", Some(7), Some("exit code 7")));
}

#[test]
fn command_that_does_not_exist_is_127_and_stderr_names_it() {
    let daemon = Daemon::start();
    let id = unique_id();
    let task = daemon.run(&execute_body(&daemon, id, "no-such-program --flag"));
    assert_eq!(outcome(&task), ("failed", Some(127), Some("exit code 127")));
    assert!(daemon.stderr_of(id).contains("no-such-program"));
}

#[test]
fn file_that_is_not_executable_is_126() {
    let daemon = Daemon::start();
    let plain = daemon.shared_dir().join("shared_data/plain");
    std::fs::create_dir_all(plain.parent().unwrap()).unwrap();
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o644)).unwrap();
    let task = daemon.run(&execute_body(&daemon, unique_id(), "/shared/plain"));
    assert_eq!(outcome(&task), ("failed", Some(126), Some("exit code 126")));
}

#[test]
fn termination_is_143_and_says_so() {
    let daemon = Daemon::start();
    let command = "sh -c 'kill -TERM $$'; exit $?";
    let task = daemon.run(&execute_body(&daemon, unique_id(), command));
    assert_eq!(outcome(&task), ("failed", Some(143), Some("exit code 143: terminated (SIGTERM)")));
}

#[test]
fn task_over_its_memory_limit_is_killed_oom() {
    let daemon = Daemon::start();
    let body = with(
        execute_body(&daemon, unique_id(), "dd if=/dev/zero of=/dev/null bs=256M count=1"),
        json!({ "required_memory_bytes": 16 * MEBIBYTE }),
    );
    let task = daemon.run(&body);
    let (status, code, message) = outcome(&task);
    assert_eq!((status, code), ("killed_oom", Some(137)));
    assert!(message.unwrap().contains("out of memory"), "{message:?}");
}

#[test]
fn child_over_the_memory_limit_is_failed_and_the_message_mentions_memory() {
    let daemon = Daemon::start();
    let body = with(
        execute_body(&daemon, unique_id(), "dd if=/dev/zero of=/dev/null bs=256M count=1; exit 3"),
        json!({ "required_memory_bytes": 16 * MEBIBYTE }),
    );
    let task = daemon.run(&body);
    let (status, code, message) = outcome(&task);
    assert_eq!((status, code), ("failed", Some(3)));
    assert!(message.unwrap().contains("memory"), "{message:?}");
}

#[test]
fn kill_by_somebody_else_is_failed_with_137_and_no_word_of_out_of_memory() {
    let daemon = Daemon::start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep 1000"));
    daemon.wait_status(id, "running");
    docker(&["kill", &task_container(id)]);
    let task = daemon.wait_over(id);
    let (status, code, message) = outcome(&task);
    assert_eq!((status, code), ("failed", Some(137)));
    assert!(message.unwrap().contains("not by the runner and not for memory"), "{message:?}");
}

#[test]
fn container_removed_by_somebody_else_is_failed_and_recorded() {
    let daemon = Daemon::start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep 1000"));
    daemon.wait_status(id, "running");
    remove_container(&task_container(id));
    let task = daemon.wait_over(id);
    assert_eq!(task["status"], "failed");
    assert!(task["message"].is_string());
}

#[test]
fn exit_code_is_the_processs_own_also_when_the_images_label_claims_another() {
    // This label replaces the true code in the Engine's events.
    let claims = ChangedImage::with("LABEL exitCode=0");
    let daemon = Daemon::start();
    let body = with(
        execute_body(&daemon, unique_id(), "exit 7"),
        json!({ "registry_image": claims.0, "pull": "never" }),
    );
    let task = daemon.run(&body);
    assert_eq!(outcome(&task), ("failed", Some(7), Some("exit code 7")));
}

#[test]
fn entrypoint_that_gives_up_is_failed_with_its_code_and_its_words() {
    let refuses = ChangedImage::with(
        r#"ENTRYPOINT ["/bin/sh", "-c", "echo no licence for this >&2; exit 9"]"#,
    );
    let daemon = Daemon::start();
    let body = with(
        execute_body(&daemon, unique_id(), "true"),
        json!({ "registry_image": refuses.0, "pull": "never" }),
    );
    let task = daemon.run(&body);
    assert_eq!(outcome(&task), ("failed", Some(9), Some("exit code 9: no licence for this")));
}

#[test]
fn command_longer_than_the_kernel_takes_is_failed_saying_so() {
    // The kernel's limit for one argument is 128 KiB.
    let command = format!("true {}", "x".repeat(200 * 1024));
    let daemon = Daemon::start();
    let task = daemon.run(&execute_body(&daemon, unique_id(), &command));
    assert_eq!(task["status"], "failed");
    let message = task["message"].as_str().unwrap();
    assert!(message.contains("argument list too long"), "{message}");
    assert_eq!(daemon.containers(), Vec::<String>::new());
}
