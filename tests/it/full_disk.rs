//! Disks without room, by bytes and by files: nothing is accepted that can't be recorded, what was
//! accepted waits for room and loses nothing, and a full share or scratch directory fails only those
//! who need it.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::kit::{
    Daemon, FakeHost, Fault, SOON, SmallDisk, container_status, docker, execute, execute_body,
    image, running, task_container, unique_id, wait_until,
};

/// Room for a few dozen records, which take a page each, and soon full.
const BYTES: usize = 512 * 1024;
const FILES: usize = 64;
/// A host would have been told by then: an outcome is tried to be written once a second.
const NOT_TOLD_FOR: Duration = Duration::from_secs(3);

type Fill = fn(&SmallDisk);

/// A runner with one of its directories on a small disk, running.
#[track_caller]
fn on_small_disk(host: &FakeHost, key: &str) -> (Daemon, SmallDisk) {
    let mut daemon = Daemon::builder().host(host).stopped();
    let disk = SmallDisk::over(daemon.setting(key).as_ref(), BYTES, FILES);
    daemon.launch();
    daemon.wait_healthy();
    (daemon, disk)
}

/// Names in the directory of live records.
fn records(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.state_dir().join("tasks")).expect("the records");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into()).collect()
}

fn has_exited(id: u64) -> bool {
    container_status(&task_container(id)).as_deref() == Some("exited")
}

// ── STATE_DIR ────────────────────────────────────────────────────────────────────────────────────

#[track_caller]
fn full_state_directory_accepts_nothing(fill: Fill) {
    let host = FakeHost::start();
    let (mut daemon, disk) = on_small_disk(&host, "state_dir");
    fill(&disk);
    let id = unique_id();
    let body = execute_body(&daemon, id, "exit 3");
    let refused = daemon.post("/api/execute", &body).expect(503);
    let detail = refused.json["detail"].as_str().expect("a text").to_owned();
    assert!(detail.contains("state directory"), "{detail}");
    assert!(detail.contains("No space left on device"), "{detail}");
    assert!(detail.contains("make room"), "{detail}");
    assert!(daemon.warnings().contains("No space left on device"), "{}", daemon.warnings());
    assert_eq!(records(&daemon), Vec::<String>::new());
    // Also for a runner that starts on it, and knows nothing of the task.
    daemon.restart();
    daemon.wait_warning("No space left on device");
    daemon.get(&format!("/api/tasks/{id}")).expect(404);
    daemon.post("/api/execute", &body).expect(503);
    // Room is noticed without a task, and then the same task is welcome.
    disk.make_room();
    daemon.wait_well();
    daemon.submit(&body);
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(3));
    assert_eq!(host.reports_of(id).iter().filter(|report| report.is_final()).count(), 1);
}

#[test]
fn state_directory_full_of_bytes_refuses_tasks_with_503_and_accepts_none() {
    full_state_directory_accepts_nothing(SmallDisk::fill);
}

#[test]
fn state_directory_full_of_files_refuses_tasks_with_503_and_accepts_none() {
    full_state_directory_accepts_nothing(SmallDisk::fill_files);
}

#[track_caller]
fn outcomes_wait_for_room(fill: Fill) {
    let host = FakeHost::start();
    let (daemon, disk) = on_small_disk(&host, "state_dir");
    let tasks = [5, 0, 137].map(|code| (running(&daemon, &format!("sleep 2; exit {code}")), code));
    fill(&disk);
    assert!(wait_until(SOON, || tasks.iter().all(|(id, _)| has_exited(*id))));
    std::thread::sleep(NOT_TOLD_FOR);
    daemon.wait_warning("No space left on device");
    let beat = host.wait_beats(1, SOON);
    for (id, _) in tasks {
        assert!(host.reports_of(id).iter().all(|report| !report.is_final()));
        assert!(beat.running_tasks.contains(&id), "{beat:?}");
        // Until the outcome is on disk the container is all that knows it.
        assert!(has_exited(id));
    }
    disk.make_room();
    for (id, code) in tasks {
        assert_eq!(host.wait_final(id, SOON).exit_code, Some(code));
        daemon.wait_over(id);
    }
    assert!(wait_until(SOON, || records(&daemon).is_empty()), "{:?}", records(&daemon));
    daemon.wait_well();
    assert_eq!(host.take_breaches(), Vec::<String>::new());
}

#[test]
fn outcomes_wait_for_room_when_the_state_directory_is_full_of_bytes() {
    outcomes_wait_for_room(SmallDisk::fill);
}

#[test]
fn outcomes_wait_for_room_when_the_state_directory_is_full_of_files() {
    outcomes_wait_for_room(SmallDisk::fill_files);
}

#[test]
fn outcome_waits_for_room_through_the_death_of_the_runner() {
    let host = FakeHost::start();
    let (mut daemon, disk) = on_small_disk(&host, "state_dir");
    let id = running(&daemon, "sleep 2; exit 5");
    disk.fill();
    assert!(wait_until(SOON, || has_exited(id)));
    daemon.kill9();
    daemon.launch();
    daemon.wait_healthy();
    std::thread::sleep(NOT_TOLD_FOR);
    assert!(host.reports_of(id).iter().all(|report| !report.is_final()));
    disk.make_room();
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(5));
    daemon.wait_over(id);
}

#[test]
fn kill_that_can_not_be_recorded_is_refused_and_taken_when_there_is_room() {
    let host = FakeHost::start();
    let (daemon, disk) = on_small_disk(&host, "state_dir");
    let id = running(&daemon, "sleep 60");
    host.wait_status(id, "running", SOON);
    disk.fill();
    let refused = daemon.control("kill", id).expect(503);
    assert!(refused.text().contains("No space left on device"), "{}", refused.text());
    assert_eq!(daemon.task(id)["status"], "running");
    disk.make_room();
    daemon.control("kill", id).expect(200);
    assert_eq!(daemon.wait_over(id)["status"], "killed");
    assert!(host.reports_of(id).iter().all(|report| !report.is_final()));
}

#[test]
fn task_that_the_host_has_ended_is_stopped_also_while_that_can_not_be_recorded() {
    let host = FakeHost::start();
    let (daemon, disk) = on_small_disk(&host, "state_dir");
    host.wait_beats(1, SOON);
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    let id = running(&daemon, "sleep 60");
    disk.fill();
    host.set_status(id, "killed");
    host.heal();
    assert!(wait_until(SOON * 2, || has_exited(id)), "it runs on");
    disk.make_room();
    assert_eq!(daemon.wait_over(id)["status"], "killed");
    assert!(host.reports_of(id).iter().all(|report| !report.is_final()));
}

#[test]
fn runner_without_room_for_its_state_directories_says_so_and_does_not_start() {
    let mut daemon = Daemon::builder().stopped();
    let disk = SmallDisk::over(daemon.state_dir(), BYTES, FILES);
    disk.fill_files();
    daemon.launch();
    assert_eq!(daemon.wait_exit(SOON), (Some(1), None));
    let log = daemon.log();
    assert!(log.contains("STATE_DIR"), "{log}");
    assert!(log.contains("No space left on device"), "{log}");
    assert!(log.contains("make room"), "{log}");
    disk.make_room();
    daemon.launch();
    daemon.wait_healthy();
}

// ── SHARED_DIR ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn task_whose_log_files_find_no_room_fails_with_the_directory_and_the_remedy() {
    let host = FakeHost::start();
    let (daemon, disk) = on_small_disk(&host, "shared_dir");
    disk.fill_files();
    let id = execute(&daemon, "true");
    let report = host.wait_final(id, SOON);
    let message = report.message.expect("a message");
    assert_eq!((report.status.as_str(), report.exit_code), ("failed", None));
    assert!(message.contains(daemon.setting("shared_dir")), "{message}");
    assert!(message.contains("No space left on device"), "{message}");
    assert!(message.contains("make room"), "{message}");
    daemon.wait_warning("is full of files");
    disk.make_room();
    daemon.wait_well();
    let id = execute(&daemon, "exit 3");
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(3));
}

/// What `command` ends with under the shell of the same image, its output going to a file on `disk`.
#[track_caller]
fn code_under_the_shell(disk: &SmallDisk, command: &str) -> i64 {
    let directory = disk.path().join("by-hand");
    fs::create_dir(&directory).expect("a directory");
    let mount = format!("{}:/out", directory.display());
    let script = format!("({command}) >/out/file; echo $?");
    let busybox = image("busybox");
    let said = docker(&["run", "--rm", "--volume", &mount, &busybox, "sh", "-c", &script]);
    fs::remove_dir_all(&directory).expect("the directory");
    said.trim().parse().expect("a code")
}

#[test]
fn task_that_fills_the_share_ends_as_it_would_under_the_shell() {
    let host = FakeHost::start();
    let (daemon, disk) = on_small_disk(&host, "shared_dir");
    let filling = format!("head -c {} /dev/zero", 2 * BYTES);
    let expected = code_under_the_shell(&disk, &filling);
    assert_ne!(expected, 0);
    let ids = [
        (execute(&daemon, &filling), expected),
        (execute(&daemon, &format!("{filling}; exit 6")), 6),
        (execute(&daemon, &format!("{filling} || true")), 0),
    ];
    for (id, code) in ids {
        assert_eq!(host.wait_final(id, SOON).exit_code, Some(code));
        daemon.wait_over(id);
    }
    daemon.wait_warning("is full of bytes");
    // It can be read what there was room for.
    let [(first, _), ..] = ids;
    daemon.get(&format!("/api/tasks/{first}/logs")).expect(200);
    // And a task that says nothing needs none.
    let id = execute(&daemon, "exit 4");
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(4));
}

// ── LOCAL_TEMP_DIR ───────────────────────────────────────────────────────────────────────────────

#[track_caller]
fn full_scratch_directory_is_its_users_trouble_only(fill: Fill) {
    let host = FakeHost::start();
    let (mut daemon, disk) = on_small_disk(&host, "local_temp_dir");
    fill(&disk);
    daemon.restart();
    let writing = execute(&daemon, "echo scratch >/local_temp/file || exit 9");
    let other = execute(&daemon, "echo word; exit 4");
    assert_eq!(host.wait_final(writing, SOON).exit_code, Some(9));
    assert_eq!(host.wait_final(other, SOON).exit_code, Some(4));
    assert_eq!(daemon.stdout_of(other), "word\n");
    assert_eq!(daemon.get("/health").json["warnings"], Value::Array(Vec::new()));
}

#[test]
fn scratch_directory_full_of_bytes_is_its_users_trouble_only() {
    full_scratch_directory_is_its_users_trouble_only(SmallDisk::fill);
}

#[test]
fn scratch_directory_full_of_files_is_its_users_trouble_only() {
    full_scratch_directory_is_its_users_trouble_only(SmallDisk::fill_files);
}
