//! The state directory under attack (design D6): what is no record is set aside under a name that
//! says so, is told until somebody has cleared it, and costs no other task anything. Its own task is
//! rebuilt from its container, or told as failed if it has none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::kit::{
    Daemon, EngineProxy, FakeHost, Fault, SOON, doomed_body, execute, execute_body, node_of,
    told_running, unique_id, wait_until,
};

/// Pauses of the outbox and of the Engine's event stream, after a restart.
const AFTER_A_RESTART: Duration = Duration::from_secs(30);

/// What lies in `broken`, without the second in front.
fn broken(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.state_dir().join("broken")).unwrap().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let without = |name: String| name.split_once('-').expect("a second").1.to_owned();
    let mut names: Vec<String> = entries.map(name).map(without).collect();
    names.sort();
    names
}

/// What lies in a directory of the state directory.
fn names(daemon: &Daemon, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(daemon.state_dir().join(directory)).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[track_caller]
fn health(daemon: &Daemon) -> Value {
    daemon.get("/health").expect(200).json
}

fn make_sparse(path: &Path, bytes: u64) {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn everything_that_is_no_record_is_set_aside_by_its_fault_and_the_rest_works() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 4; exit 5");
    daemon.kill9();
    let whole = fs::read_to_string(daemon.record_path(id)).unwrap();
    let tasks = daemon.state_dir().join("tasks");
    fs::write(tasks.join("1.json"), "").unwrap();
    fs::write(tasks.join("2.json"), &whole[..whole.len() / 2]).unwrap();
    fs::write(tasks.join("3.json"), b"\x7fELF\0\0").unwrap();
    fs::write(tasks.join("4.json"), whole.replace("\"format\":1", "\"format\":7")).unwrap();
    fs::create_dir(tasks.join("5.json")).unwrap();
    nix::unistd::mkfifo(&tasks.join("6.json"), Mode::S_IRWXU).unwrap();
    symlink(daemon.record_path(id), tasks.join("7.json")).unwrap();
    make_sparse(&tasks.join("8.json"), 1 << 40);
    fs::write(tasks.join("9.json"), &whole).unwrap();
    fs::write(tasks.join("notes.txt"), "by an operator").unwrap();
    daemon.restart();
    let expected = [
        "1.json.empty",
        "2.json.torn",
        "3.json.garbage",
        "4.json.future-version",
        "5.json.not-a-file",
        "6.json.not-a-file",
        "7.json.not-a-file",
        "8.json.too-large",
        "9.json.wrong-id",
        "notes.txt.garbage",
    ];
    assert_eq!(broken(&daemon), expected);
    let told = health(&daemon);
    assert_eq!(told["records_set_aside"], 10);
    assert_eq!(told["records_set_aside_newest"].as_array().unwrap().len(), 5);
    for file in expected {
        let name = file.rsplit_once('.').unwrap().0;
        assert!(daemon.log().contains(name), "{name} is not in the log");
    }
    assert_eq!(host.wait_final(id, AFTER_A_RESTART).exit_code, Some(5));
    let after = execute(&daemon, "exit 6");
    assert_eq!(host.wait_final(after, SOON).exit_code, Some(6));
}

#[test]
fn files_set_aside_are_told_with_the_remedy_until_they_are_cleared() {
    let mut daemon = Daemon::start();
    daemon.stop();
    fs::write(daemon.record_path(7), "{").unwrap();
    daemon.restart();
    // They were found by an earlier run, and lie there still.
    daemon.restart();
    let told = health(&daemon);
    assert_eq!((&told["status"], &told["records_set_aside"]), (&json!("degraded"), &json!(1)));
    let warning = told["warnings"][0].as_str().unwrap();
    let directory = daemon.state_dir().join("broken");
    assert!(warning.contains("7.json.torn"), "{warning}");
    assert!(warning.contains(directory.to_str().unwrap()), "{warning}");
    assert!(warning.contains("delete"), "{warning}");
    fs::remove_dir_all(&directory).unwrap();
    let told = health(&daemon);
    assert_eq!((&told["warnings"], &told["records_set_aside"]), (&json!([]), &json!(0)));
}

#[test]
fn record_that_the_disk_does_not_give_is_set_aside_and_its_task_rebuilt() {
    let host = FakeHost::start();
    // The path is known only now; the tracing is for the second life.
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 6; exit 5");
    daemon.kill9();
    let file = daemon.record_path(id);
    let file = file.to_str().unwrap();
    daemon.with_strace(&["-P", file, "-e", "trace=read", "-e", "inject=read:error=EIO"]);
    daemon.restart();
    assert_eq!(broken(&daemon), [format!("{id}.json.unreadable")]);
    assert_eq!(host.wait_final(id, AFTER_A_RESTART).exit_code, Some(5));
}

/// Spoils the record of a running task between two lives of the runner, and looks that the task's
/// true outcome reaches the host all the same.
#[track_caller]
fn task_survives_its_record(spoil: impl FnOnce(&Path)) -> Daemon {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 3; echo said; exit 5");
    daemon.kill9();
    spoil(&daemon.record_path(id));
    daemon.restart();
    let last = host.wait_final(id, AFTER_A_RESTART);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", Some(5)));
    assert_eq!(daemon.get(&format!("/api/tasks/{id}/logs")).expect(200).text(), "said\n");
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
    daemon
}

#[test]
fn task_whose_record_is_torn_is_rebuilt_from_its_container() {
    let daemon = task_survives_its_record(|file| {
        let whole = fs::read(file).unwrap();
        fs::write(file, &whole[..whole.len() - 1]).unwrap();
    });
    assert_eq!(health(&daemon)["records_set_aside"], 1);
}

#[test]
fn task_whose_record_became_a_directory_is_rebuilt_from_its_container() {
    let daemon = task_survives_its_record(|file| {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    });
    assert_eq!(health(&daemon)["records_set_aside"], 1);
}

#[test]
fn task_whose_broken_record_can_t_be_set_aside_is_rebuilt_over_it() {
    let daemon = task_survives_its_record(|file| {
        fs::write(file, "{").unwrap();
        let broken = file.parent().unwrap().with_file_name("broken");
        fs::remove_dir(&broken).unwrap();
        // A file in a directory's place refuses also root.
        fs::write(&broken, "").unwrap();
    });
    assert_eq!(health(&daemon)["records_stuck"], json!([]));
}

#[test]
fn what_can_t_be_set_aside_is_told_once_and_nothing_waits_for_it() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 60");
    daemon.kill9();
    let file = daemon.record_path(id);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let broken = daemon.state_dir().join("broken");
    fs::remove_dir(&broken).unwrap();
    fs::write(&broken, "").unwrap();
    daemon.restart();
    assert_eq!(health(&daemon)["records_stuck"], json!([file]));
    assert!(health(&daemon)["warnings"].to_string().contains("can't be moved"));
    let other = execute(&daemon, "exit 6");
    assert_eq!(host.wait_final(other, SOON).exit_code, Some(6));
    assert_eq!(daemon.log().matches(&format!("{id}.json")).count(), 1, "{}", daemon.log());
    // Cleared by hand, and the next start finds the task by its container.
    fs::remove_dir(&file).unwrap();
    assert_eq!(health(&daemon)["records_stuck"], json!([]));
    daemon.restart();
    let is_known = || daemon.get(&format!("/api/tasks/{id}")).json["status"] == "running";
    assert!(wait_until(SOON, is_known));
    daemon.control("kill", id).expect(200);
    daemon.wait_status(id, "killed");
}

#[test]
fn broken_record_of_a_task_that_is_over_is_not_found_and_the_list_goes_on() {
    let daemon = Daemon::start();
    let (spoilt, whole) = (execute(&daemon, "true"), execute(&daemon, "true"));
    let ended = |id: u64| daemon.state_dir().join("ended").join(format!("{id}.json"));
    assert!(wait_until(SOON, || ended(spoilt).exists() && ended(whole).exists()));
    fs::write(ended(spoilt), "{\"format\":1,").unwrap();
    nix::unistd::mkfifo(&ended(6), Mode::S_IRWXU).unwrap();
    let all = daemon.get("/api/tasks?all=1").expect(200).json;
    assert_eq!((&all["count"], &all["tasks"][0]["task_id"]), (&json!(1), &json!(whole)));
    daemon.get(&format!("/api/tasks/{spoilt}")).expect(404);
    assert_eq!(broken(&daemon), [format!("{spoilt}.json.torn"), "6.json.not-a-file".to_owned()]);
    assert_eq!(health(&daemon)["records_set_aside"], 2);
}

#[test]
fn records_of_a_version_that_wrote_no_format_go_on() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = told_running(&host, &daemon, "sleep 3; exit 5");
    daemon.kill9();
    let file = daemon.record_path(id);
    let before = fs::read_to_string(&file).unwrap().replace("\"format\":1,", "");
    assert!(!before.contains("format"));
    fs::write(&file, before).unwrap();
    daemon.restart();
    assert_eq!(host.wait_final(id, AFTER_A_RESTART).exit_code, Some(5));
    assert_eq!(health(&daemon)["records_set_aside"], 0);
    // Its own record, not one that was rebuilt.
    assert_eq!(daemon.task(id)["command"], "sleep 3; exit 5");
}

#[test]
fn task_whose_record_is_broken_and_that_has_no_container_is_told_failed_once() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    daemon.stop();
    let (torn, empty, directory) = (unique_id(), unique_id(), unique_id());
    fs::write(daemon.record_path(torn), "{").unwrap();
    fs::write(daemon.record_path(empty), "").unwrap();
    fs::create_dir(daemon.record_path(directory)).unwrap();
    daemon.restart();
    for (id, fault) in [(torn, "torn"), (empty, "empty"), (directory, "not-a-file")] {
        let last = host.wait_final(id, AFTER_A_RESTART);
        assert_eq!((last.status.as_str(), last.exit_code), ("failed", None));
        let message = last.message.unwrap();
        assert!(message.contains(&format!("damaged ({fault})")), "{message}");
        assert!(message.contains(daemon.state_dir().join("broken").to_str().unwrap()), "{message}");
        daemon.wait_over(id);
    }
    assert_eq!(names(&daemon, "lost"), [""; 0]);
    // What is told is not told by the next life, though the files lie there still.
    daemon.restart();
    let after = execute(&daemon, "true");
    host.wait_final(after, AFTER_A_RESTART);
    daemon.wait_over(after);
    assert_eq!(host.accepted_of(torn), ["failed"]);
    assert_eq!(health(&daemon)["records_set_aside"], 3);
}

#[test]
fn standalone_node_shows_a_task_whose_record_was_broken_and_does_not_run_it_again() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let id = unique_id();
    fs::write(daemon.record_path(id), "{").unwrap();
    daemon.restart();
    let is_known = || daemon.get(&format!("/api/tasks/{id}")).status == 200;
    assert!(wait_until(SOON, is_known));
    daemon.wait_status(id, "failed");
    daemon.wait_over(id);
    assert!(daemon.task(id)["message"].as_str().unwrap().contains("damaged (torn)"));
    daemon.post("/api/execute", &execute_body(&daemon, id, "true")).expect(409);
}

#[test]
fn broken_record_is_not_forgotten_by_lives_that_never_reached_the_engine() {
    let engine = EngineProxy::start();
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    daemon.stop();
    engine.down();
    let id = unique_id();
    fs::write(daemon.record_path(id), "{").unwrap();
    daemon.restart();
    assert_eq!(names(&daemon, "lost"), [format!("{id}.torn")]);
    // It may have a container: nobody runs it again, and nobody says how it ended.
    daemon.post("/api/execute", &execute_body(&daemon, id, "true")).expect(409);
    daemon.kill9();
    daemon.restart();
    assert_eq!(host.reports_of(id).len(), 0);
    engine.up();
    assert_eq!(host.wait_final(id, AFTER_A_RESTART).status, "failed");
    daemon.wait_over(id);
    assert_eq!(names(&daemon, "lost"), [""; 0]);
}

#[test]
fn record_of_a_later_version_is_left_to_the_program_that_wrote_it() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    daemon.stop();
    let (future, torn) = (unique_id(), unique_id());
    fs::write(daemon.record_path(future), "{\"format\":7}").unwrap();
    fs::write(daemon.record_path(torn), "{").unwrap();
    daemon.restart();
    host.wait_final(torn, AFTER_A_RESTART);
    assert_eq!(host.reports_of(future).len(), 0);
    daemon.get(&format!("/api/tasks/{future}")).expect(404);
}

/// A node with a task that has ended while the host takes no report.
fn with_an_untold_task(host: &FakeHost) -> (Daemon, u64) {
    let daemon = node_of(host);
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    let id = daemon.submit(&doomed_body(&daemon, unique_id()));
    assert!(wait_until(SOON, || untold_file(&daemon, id).exists()));
    (daemon, id)
}

fn untold_file(daemon: &Daemon, id: u64) -> PathBuf {
    daemon.state_dir().join("untold").join(format!("{id}.json"))
}

/// Spoils the record of a task that waits for the host, and gives what the host is told at last.
#[track_caller]
fn told_of_a_waiting_task(spoil: impl FnOnce(&Path)) -> String {
    let host = FakeHost::start();
    let (daemon, id) = with_an_untold_task(&host);
    spoil(&untold_file(&daemon, id));
    host.heal();
    let last = host.wait_final(id, AFTER_A_RESTART);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", None));
    daemon.wait_over(id);
    assert_eq!(names(&daemon, "lost"), [""; 0]);
    assert_eq!(host.accepted_of(id).iter().filter(|status| *status == "failed").count(), 1);
    last.message.unwrap()
}

#[test]
fn task_whose_waiting_record_is_broken_is_told_failed() {
    let message = told_of_a_waiting_task(|file| fs::write(file, "{").unwrap());
    assert!(message.contains("damaged (torn)"), "{message}");
}

#[test]
fn task_whose_waiting_record_was_deleted_is_told_failed() {
    let message = told_of_a_waiting_task(|file| fs::remove_file(file).unwrap());
    assert!(message.contains("its record is gone"), "{message}");
}

#[test]
fn kill_of_a_task_whose_waiting_record_is_broken_is_the_last_word() {
    let host = FakeHost::start();
    let (daemon, id) = with_an_untold_task(&host);
    host.down();
    fs::write(untold_file(&daemon, id), "{").unwrap();
    daemon.control("kill", id).expect(200);
    host.up();
    host.heal();
    let after = execute(&daemon, "true");
    host.wait_final(after, AFTER_A_RESTART);
    assert!(!host.accepted_of(id).contains(&"failed".to_owned()), "{:?}", host.accepted_of(id));
    assert_eq!(names(&daemon, "lost"), [""; 0]);
}

#[test]
fn move_that_the_disk_refuses_is_logged_once_while_other_writes_work() {
    let daemon = Daemon::start();
    let ended = daemon.state_dir().join("ended");
    fs::remove_dir(&ended).unwrap();
    // A file in a directory's place refuses also root.
    fs::write(&ended, "").unwrap();
    let refused = execute(&daemon, "true");
    daemon.wait_status(refused, "completed");
    let other = execute(&daemon, "sleep 3");
    daemon.wait_status(other, "running");
    // It is tried again each second.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.log().matches("ERROR | store").count(), 1, "{}", daemon.log());
    assert!(health(&daemon)["warnings"].to_string().contains("state directory"));
    fs::remove_file(&ended).unwrap();
    let both = || fs::read_dir(&ended).is_ok_and(|names| names.count() == 2);
    assert!(wait_until(SOON, both));
    assert_eq!(health(&daemon)["warnings"], json!([]));
}
