//! A shared directory that never answers, as one on a file server that is gone (design law 5): what
//! needs it waits or is told so in time, and everything else goes on.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::kit::{
    Daemon, FakeHost, HungShare, Response, SOON, STOP_MAX, call, execute, execute_body, unique_id,
    wait_until,
};

/// What a caller of a row that needs the share waits at most, and what the door and a loaded machine
/// take besides.
const TOLD_WITHIN: Duration = Duration::from_secs(10 + 3);
/// Half of the answers of a row that needs no share; the rest is the machine's other work.
const USUAL_ANSWER_MAX: Duration = Duration::from_millis(50);
/// Any answer that waits for nobody.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long the share hangs while the rest of the runner is looked at.
const WHILE: Duration = Duration::from_secs(8);
/// Heartbeats are a second apart here; the rest is the machine's other work.
const BETWEEN_BEATS_MAX: Duration = Duration::from_millis(2500);
/// Threads that may be stuck in the share: the files pool, and it is full with more tasks than this.
const FILES_THREADS: usize = 8;
const MORE_TASKS_THAN_FILES_THREADS: usize = 12;
/// A thread without work ends after 2 s.
const POOLS_REST: Duration = Duration::from_secs(4);

/// A runner that has never seen its share answer.
#[track_caller]
fn hung_from_the_start(host: &FakeHost) -> (Daemon, HungShare) {
    let mut daemon = Daemon::builder().host(host).stopped();
    let share = HungShare::over(daemon.shared_dir());
    daemon.launch();
    daemon.wait_healthy();
    (daemon, share)
}

/// Dispatches tasks that write a word and end with 3. They wait for the share, in more than all
/// threads that may.
#[track_caller]
fn many_tasks(daemon: &Daemon) -> Vec<u64> {
    (0..MORE_TASKS_THAN_FILES_THREADS).map(|_| execute(daemon, "echo word; exit 3")).collect()
}

fn timed(call: impl FnOnce() -> Response) -> (Response, Duration) {
    let since = Instant::now();
    (call(), since.elapsed())
}

#[track_caller]
fn assert_ended_right(host: &FakeHost, daemon: &Daemon, id: u64) {
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(3));
    assert_eq!(daemon.stdout_of(id), "word\n");
}

// ── what needs the share ─────────────────────────────────────────────────────────────────────────

#[test]
fn rows_that_need_a_hung_share_answer_503_in_time_and_name_it() {
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).stopped();
    let tarballs = daemon.shared_dir().join("containers");
    daemon.reconfigure("container_tar_dir", tarballs.to_str().expect("a plain path"));
    let share = HungShare::over(daemon.shared_dir());
    daemon.launch();
    daemon.wait_healthy();
    let id = execute(&daemon, "true");
    let daemon = &daemon;
    let answers = scope(|threads| {
        let logs = format!("/api/tasks/{id}/logs");
        let followed = format!("/api/tasks/{id}/logs?follow=1");
        let calls = [
            threads.spawn(move || timed(|| daemon.get(&logs))),
            threads.spawn(move || timed(|| daemon.get(&followed))),
            threads.spawn(|| timed(|| daemon.post("/api/docker/sync/env", &Value::Null))),
        ];
        calls.map(|call| call.join().expect("an answer"))
    });
    for (answer, took) in answers {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.json["detail"].to_string().contains("shared storage"), "{}", answer.text());
        assert!(took <= TOLD_WITHIN, "{took:?}");
    }
    share.heal();
    daemon.get(&format!("/api/tasks/{id}/logs")).expect(200);
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(0));
}

#[test]
fn readers_that_a_hung_share_has_no_room_for_are_told_at_once() {
    const READERS: usize = 100;
    let host = FakeHost::start();
    let (daemon, share) = hung_from_the_start(&host);
    let id = execute(&daemon, "true");
    let daemon = &daemon;
    let answers = scope(|threads| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| threads.spawn(|| timed(|| daemon.get(&format!("/api/tasks/{id}/logs")))))
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("an answer")).collect::<Vec<_>>()
    });
    let early = answers.iter().filter(|(_, took)| *took < TOLD_WITHIN / 2).count();
    // 8 at work, one of them the task's; 64 wait.
    assert!((READERS - 72..=READERS - 64).contains(&early), "{early} were told at once");
    for (answer, took) in answers {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.json["detail"].to_string().contains("shared storage"), "{}", answer.text());
        assert!(took <= TOLD_WITHIN, "{took:?}");
    }
    share.heal();
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(0));
}

#[test]
fn tasks_that_wait_for_a_hung_share_go_on_when_it_is_back() {
    let host = FakeHost::start();
    let (daemon, share) = hung_from_the_start(&host);
    let ids = many_tasks(&daemon);
    daemon.wait_warning("does not answer");
    assert!(wait_until(SOON, || daemon.log().contains("does not answer")));
    assert!(ids.iter().all(|&id| daemon.task(id)["status"] == "pending"));
    share.heal();
    ids.iter().for_each(|&id| assert_ended_right(&host, &daemon, id));
    daemon.wait_well();
    assert!(daemon.log().contains("answers again"));
}

#[test]
fn doctor_says_that_a_share_hangs_instead_of_hanging() {
    let mut daemon = Daemon::builder().stopped();
    let elsewhere = tempfile::tempdir().unwrap();
    let log_file = elsewhere.path().join("runner.log");
    daemon.reconfigure("runner_log_file", log_file.to_str().expect("a plain path"));
    let _logs = HungShare::over(elsewhere.path());
    let _share = HungShare::over(daemon.shared_dir());
    let since = Instant::now();
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_river-runner"));
    doctor.arg("doctor").arg("--config").arg(daemon.config_path());
    let mut doctor = doctor.stdout(Stdio::piped()).spawn().expect("river-runner");
    let ended = wait_until(2 * TOLD_WITHIN, || doctor.try_wait().expect("our child").is_some());
    let _ = doctor.kill();
    let output = doctor.wait_with_output().expect("its output");
    assert!(ended, "still running after {:?}", since.elapsed());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    for place in ["shared_dir", "runner_log_file"] {
        let line = said.lines().find(|line| line.contains(place)).expect("a line about it");
        assert!(line.starts_with("fail") && line.contains("does not answer"), "{said}");
    }
}

// ── what does not ────────────────────────────────────────────────────────────────────────────────

#[test]
fn health_and_heartbeats_are_as_ever_while_the_share_hangs() {
    let host = FakeHost::start();
    let (mut daemon, _share) = hung_from_the_start(&host);
    many_tasks(&daemon);
    daemon.wait_warning("does not answer");
    host.wait_beats(1, SOON);
    let beats_before = host.beats().len();
    let end = Instant::now() + WHILE;
    let mut taken = Vec::new();
    while Instant::now() < end {
        taken.push(timed(|| daemon.get("/health").expect(200)).1);
        sleep(Duration::from_millis(50));
    }
    taken.sort_unstable();
    let (median, longest) = (taken[taken.len() / 2], taken[taken.len() - 1]);
    assert!(median <= USUAL_ANSWER_MAX, "{median:?}");
    assert!(longest <= AT_ONCE, "{longest:?}");
    let beats = host.beats();
    let pairs = beats[beats_before - 1..].windows(2);
    let longest = pairs.map(|pair| pair[1].at - pair[0].at).max().expect("beats");
    assert!(longest <= BETWEEN_BEATS_MAX, "{longest:?}");
    // Before the share comes back and the tasks make containers that nobody waits for.
    daemon.kill9();
}

#[test]
fn tasks_are_accepted_and_killed_while_the_share_hangs_and_both_last() {
    let host = FakeHost::start();
    let (mut daemon, share) = hung_from_the_start(&host);
    let ids = many_tasks(&daemon);
    // One that is stuck in the share, and one that waits behind those.
    let [killed, .., also_killed] = ids[..] else { panic!("many") };
    for id in [killed, also_killed] {
        let (answer, took) = timed(|| daemon.control("kill", id));
        answer.expect(200);
        assert!(took <= AT_ONCE, "{took:?}");
    }
    daemon.kill9();
    daemon.launch();
    daemon.wait_healthy();
    let status_of = |id: u64| daemon.task(id)["status"].clone();
    assert!(ids.iter().all(|&id| {
        let expected = if [killed, also_killed].contains(&id) { "killed" } else { "pending" };
        status_of(id) == expected
    }));
    share.heal();
    let others = ids.iter().filter(|&&id| id != killed && id != also_killed);
    others.for_each(|&id| assert_ended_right(&host, &daemon, id));
    assert_eq!(status_of(killed), "killed");
    assert_eq!(host.take_breaches(), Vec::<String>::new());
}

#[test]
fn tasks_that_run_when_the_share_hangs_end_with_their_true_codes() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let running = [5, 0, 7].map(|code| {
        let id = execute(&daemon, &format!("echo early; sleep 6; echo word; exit {code}"));
        (id, code)
    });
    let killed = execute(&daemon, "sleep 60");
    running.iter().for_each(|(id, _)| drop(daemon.wait_status(*id, "running")));
    daemon.wait_status(killed, "running");
    sleep(POOLS_REST);
    let (threads, fds) = (daemon.threads(), daemon.fds());
    let share = HungShare::over(daemon.shared_dir());
    let waiting = many_tasks(&daemon);
    daemon.wait_warning("does not answer");
    let (answer, took) = timed(|| daemon.control("kill", killed));
    answer.expect(200);
    assert!(took <= AT_ONCE, "{took:?}");
    assert_eq!(daemon.wait_over(killed)["status"], "killed");
    for (id, code) in running {
        assert_eq!(host.wait_final(id, SOON).exit_code, Some(code));
    }
    sleep(POOLS_REST);
    let names = daemon.thread_names();
    assert!(names.len() <= threads + FILES_THREADS, "{threads} threads, now {names:?}");
    assert!(daemon.fds() <= fds + 8, "{fds} descriptors, now {}", daemon.fds());
    share.heal();
    waiting.iter().for_each(|&id| assert_ended_right(&host, &daemon, id));
    running.iter().for_each(|(id, _)| assert_eq!(daemon.stdout_of(*id), "early\nword\n"));
    let rested = wait_until(SOON, || daemon.threads() <= threads);
    assert!(rested, "{threads} threads, now {:?}", daemon.thread_names());
}

#[test]
fn runner_stops_in_time_while_the_share_hangs_and_the_next_goes_on() {
    let host = FakeHost::start();
    let (mut daemon, share) = hung_from_the_start(&host);
    let ids = many_tasks(&daemon);
    daemon.wait_warning("does not answer");
    // Readers that wait are told, and hold up nothing.
    let readers = ["", "?follow=1"].map(|how| {
        let (address, path) = (daemon.address(), format!("/api/tasks/{}/logs{how}", ids[0]));
        spawn(move || call(&address, "GET", &path, &[], None))
    });
    sleep(AT_ONCE);
    let took = daemon.stop();
    assert!(took < STOP_MAX, "{took:?}");
    let [parked, _] = readers.map(|reader| reader.join().expect("an end"));
    assert_eq!(parked.expect("an answer").status, 503);
    daemon.launch();
    daemon.wait_healthy();
    share.heal();
    ids.iter().for_each(|&id| assert_ended_right(&host, &daemon, id));
}

/// SHARED_DIR is mostly a directory on a mount, and then its path can't even be looked up.
#[test]
fn runner_starts_with_its_shared_directory_below_a_mount_that_hangs() {
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).stopped();
    let below = daemon.shared_dir().join("below");
    fs::create_dir(&below).unwrap();
    let share = HungShare::over(daemon.shared_dir());
    daemon.reconfigure("shared_dir", below.to_str().expect("a plain path"));
    daemon.launch();
    daemon.wait_healthy();
    daemon.wait_warning("does not answer");
    let id = execute(&daemon, "echo word; exit 3");
    drop(share);
    assert_ended_right(&host, &daemon, id);
}

/// Nothing ends a thread that waits for a file server which has its request: the process stays, without
/// its port and, since that was let go, without the state directory.
#[test]
fn successor_starts_while_the_share_keeps_its_predecessor_from_ending() {
    let host = FakeHost::start();
    let (mut daemon, mut share) = hung_from_the_start(&host);
    let id = execute(&daemon, "echo word; exit 3");
    daemon.wait_warning("does not answer");
    share.swallow_requests();
    let mut next = daemon.twin();
    daemon.signal(Signal::SIGTERM);
    sleep(STOP_MAX);
    next.launch();
    next.wait_healthy();
    assert!(!daemon.has_exited(), "this share lets everybody go");
    share.break_down();
    drop(share);
    assert_eq!(daemon.wait_exit(SOON), (Some(0), None));
    assert_ended_right(&host, &next, id);
}

// ── a share that is not there ────────────────────────────────────────────────────────────────────

#[test]
fn share_that_is_not_mounted_is_told_in_health_until_it_is() {
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).stopped();
    fs::remove_dir(daemon.shared_dir()).expect("an empty directory");
    daemon.launch();
    daemon.wait_healthy();
    daemon.wait_warning("is no directory on this node: mount the share");
    assert!(daemon.warnings().contains(daemon.setting("shared_dir")));
    fs::create_dir(daemon.shared_dir()).expect("a directory");
    daemon.wait_well();
    // It may go at any time.
    fs::remove_dir(daemon.shared_dir()).expect("an empty directory");
    daemon.wait_warning("is no directory on this node: mount the share");
}

#[test]
fn share_that_broke_fails_what_waits_with_its_own_error_and_nothing_else() {
    let host = FakeHost::start();
    let (daemon, mut share) = hung_from_the_start(&host);
    let id = execute(&daemon, "true");
    daemon.wait_warning("does not answer");
    share.break_down();
    let report = host.wait_final(id, SOON);
    let message = report.message.expect("a message");
    assert_eq!(report.status, "failed");
    assert!(message.contains(daemon.setting("shared_dir")), "{message}");
    daemon.wait_warning("os error");
    drop(share);
    daemon.wait_well();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "exit 4"));
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(4));
}

// ── the kit's own ────────────────────────────────────────────────────────────────────────────────

#[test]
fn hung_share_holds_callers_until_it_is_healed_or_broken_and_never_outlives_its_test() {
    let place = tempfile::tempdir().expect("a directory");
    fs::write(place.path().join("below"), "").expect("a file");
    let is_mounted = || {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        mounts.contains(place.path().to_str().expect("a plain path"))
    };
    let look = || {
        let path = place.path().to_owned();
        spawn(move || fs::metadata(path).map(|found| found.is_dir()))
    };
    let share = HungShare::over(place.path());
    let held = look();
    sleep(Duration::from_millis(500));
    assert!(!held.is_finished());
    share.heal();
    assert!(held.join().expect("a look").expect("a directory"));
    assert!(place.path().join("below").exists() && !is_mounted());

    let mut share = HungShare::over(place.path());
    let held = look();
    sleep(Duration::from_millis(500));
    assert!(!held.is_finished() && is_mounted());
    share.break_down();
    held.join().expect("a look").expect_err("it is broken");
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _share = share;
        panic!("a test that fails, as it should");
    }));
    assert!(failed.is_err() && !is_mounted());
}
