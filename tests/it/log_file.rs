//! The log in a file: where it goes, SIGHUP, and a disk that is full.

use std::fs;
use std::io::{ErrorKind, Write, pipe};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use crate::kit::{Daemon, HungShare, SOON, execute, wait_until};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A runner that logs to `directory/runner.log`.
fn logging_to(directory: &Path) -> (Daemon, PathBuf) {
    let path = directory.join("runner.log");
    let setting = path.to_str().expect("a plain path");
    (Daemon::builder().set("runner_log_file", setting).start(), path)
}

#[test]
fn log_goes_to_its_file_and_after_a_hangup_to_the_new_one_of_that_name() {
    let directory = tempfile::tempdir().unwrap();
    let (mut daemon, path) = logging_to(directory.path());
    let rotated = directory.path().join("runner.log.1");
    assert!(wait_until(SOON, || text(&path).contains("listens on")), "{}", text(&path));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    fs::rename(&path, &rotated).unwrap();
    daemon.signal(Signal::SIGHUP);
    assert!(wait_until(SOON, || text(&path).contains("opened anew")));
    daemon.stop();
    assert!(text(&path).contains("SIGTERM: stopping") && !text(&rotated).contains("SIGTERM"));
    assert!(text(&rotated).contains("listens on"));
    assert_eq!(daemon.log(), "");
}

#[test]
fn log_file_that_cannot_be_opened_refuses_the_start_and_names_it() {
    let mut daemon = Daemon::builder().set("runner_log_file", "/nonexistent/r.log").stopped();
    daemon.launch();
    assert_eq!(daemon.wait_exit(SOON), (Some(1), None));
    assert!(daemon.log().contains("RUNNER_LOG_FILE /nonexistent/r.log: No such file"));
}

#[test]
fn start_that_is_refused_is_told_to_who_typed_it_also_with_a_log_file() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = logging_to(directory.path());
    let path = directory.path().join("second.log");
    let mut second = Daemon::builder()
        .set("runner_log_file", path.to_str().expect("a plain path"))
        .set("state_dir", first.state_dir().to_str().expect("a plain path"))
        .stopped();
    second.launch();
    assert_eq!(second.wait_exit(SOON), (Some(1), None));
    assert!(second.log().contains("in use by another runner") && text(&path).contains("in use"));
}

/// A file system in memory of one page.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount() -> TinyDisk {
        let directory = tempfile::tempdir().unwrap();
        let (kind, size) = (Some("tmpfs"), Some("size=4k"));
        mount(kind, directory.path(), kind, MsFlags::empty(), size).expect("a tmpfs");
        TinyDisk(directory)
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn full_disk_under_the_log_file_hurts_no_task_and_shows_in_health() {
    let disk = TinyDisk::mount();
    fs::write(disk.0.path().join("ballast"), [b'x'; 4096]).unwrap();
    let (daemon, path) = logging_to(disk.0.path());
    let id = execute(&daemon, "exit 3");
    assert_eq!(daemon.wait_over(id)["exit_code"], 3);
    assert_eq!(text(&path), "");
    let warnings = daemon.get("/health").expect(200).json["warnings"].to_string();
    assert!(warnings.contains("log file"), "{warnings}");
    // Room again: whole lines follow.
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    daemon.signal(Signal::SIGHUP);
    assert!(wait_until(SOON, || text(&path).ends_with("log file opened anew\n")));
}

// ── a log that hangs ─────────────────────────────────────────────────────────────────────────────

#[test]
fn hangup_with_the_log_directory_hung_holds_neither_tasks_nor_the_stop() {
    let directory = tempfile::tempdir().unwrap();
    let (mut daemon, path) = logging_to(directory.path());
    let share = HungShare::over(directory.path());
    daemon.signal(Signal::SIGHUP);
    let id = execute(&daemon, "exit 3");
    assert_eq!(daemon.wait_over(id)["exit_code"], 3);
    daemon.stop();
    drop(share);
    assert!(text(&path).contains("listens on"));
}

#[test]
fn log_file_that_hangs_refuses_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let share = HungShare::over(directory.path());
    let path = directory.path().join("runner.log");
    let setting = path.to_str().expect("a plain path");
    let mut daemon = Daemon::builder().set("runner_log_file", setting).stopped();
    daemon.launch();
    assert_eq!(daemon.wait_exit(SOON), (Some(1), None));
    assert!(daemon.log().contains("does not answer"), "{}", daemon.log());
    drop(share);
}

/// As a service manager's log that is stuck.
#[test]
fn stderr_that_nobody_reads_holds_neither_tasks_nor_the_stop() {
    let daemon = Daemon::builder().set("log_level", "debug").stopped();
    let (reader, mut writer) = pipe().unwrap();
    let stderr = writer.try_clone().unwrap();
    let runner = Command::new(env!("CARGO_BIN_EXE_river-runner"))
        .arg("serve")
        .arg("--config")
        .arg(daemon.config_path())
        .stderr(Stdio::from(stderr))
        .spawn();
    let mut runner = Ended(runner.unwrap());
    assert!(wait_until(SOON, || daemon.try_get("/health").is_ok()));
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
        .unwrap();
    let full = std::iter::repeat_with(|| writer.write(&[b'x'; 512])).find_map(Result::err);
    assert_eq!(full.unwrap().kind(), ErrorKind::WouldBlock);
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    let id = execute(&daemon, "exit 3");
    assert_eq!(daemon.wait_over(id)["exit_code"], 3);
    let pid = nix::unistd::Pid::from_raw(runner.0.id().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let ended = wait_until(SOON, || runner.0.try_wait().unwrap().is_some());
    assert!(ended, "SIGTERM is not heard");
    drop(reader);
}

/// A runner that no test leaves behind.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
