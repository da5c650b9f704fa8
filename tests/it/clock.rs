//! The wall clock is set while tasks run: what became of them is told as it was.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::kit::{Daemon, FakeHost, SOON, Verdict, execute};

/// A wall clock that the runner alone reads, and that can be set.
struct Clock {
    dir: tempfile::TempDir,
}

impl Clock {
    fn new() -> Clock {
        let clock = Clock { dir: tempfile::tempdir().unwrap() };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/campaign/clock.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(clock.path("clock.so")).arg(source);
        assert!(cc.status().unwrap().success());
        fs::write(clock.path("offset"), 0i64.to_ne_bytes()).unwrap();
        clock
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn set(&self, seconds: i64) {
        let offset = File::options().write(true).open(self.path("offset")).unwrap();
        offset.write_all_at(&(seconds * 1_000_000_000).to_ne_bytes(), 0).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn node_by(clock: &Clock, host: &FakeHost) -> Daemon {
    Daemon::builder()
        .host(host)
        .env("LD_PRELOAD", text(&clock.path("clock.so")))
        .env("CAMPAIGN_CLOCK", text(&clock.path("offset")))
        .start()
}

#[test]
fn end_of_a_task_s_own_after_the_clock_was_set_back_is_not_laid_at_the_engine_s_door() {
    let (host, clock) = (FakeHost::start(), Clock::new());
    let daemon = node_by(&clock, &host);
    let id = execute(&daemon, "sleep 2; exit 255");
    daemon.wait_status(id, "running");
    clock.set(-3600);
    let last = host.wait_final(id, SOON);
    assert_eq!(last.exit_code, Some(255));
    assert_eq!(last.message.as_deref(), Some("exit code 255"));
}

#[test]
fn task_that_the_host_marked_lost_runs_on_when_the_clock_was_set_back_in_the_gap() {
    let (host, clock) = (FakeHost::start(), Clock::new());
    let daemon = node_by(&clock, &host);
    host.wait_beats(1, SOON);
    host.down();
    let id = execute(&daemon, "sleep 40; exit 5");
    daemon.wait_status(id, "running");
    // The gap from which on the host may have called the node dead (law 6: 25 s).
    sleep(Duration::from_millis(26_500));
    clock.set(-3600);
    host.set_status(id, "lost");
    host.up();
    assert_eq!(host.wait_final(id, SOON * 2).exit_code, Some(5));
    let refused = host.reports_of(id).iter().any(|r| r.verdict == Verdict::Refused);
    assert!(refused);
}
