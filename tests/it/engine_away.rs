//! The Engine itself goes away under its tasks (design laws 1 and 5; contrib/design/0004): it hangs,
//! is stopped, restarted, killed, loses its data. Each test has an Engine of its own; whatever
//! happens to that, each task gets one true outcome and the runner stays well.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, OwnEngine, Report, SOON, api, call, docker, execute,
    execute_body, image, running, task_container, test_name, unique_id, wait_until, with,
};

/// A loaded machine, an Engine that has just started, and tasks that wait for it.
const AFTER_AN_OUTAGE: Duration = Duration::from_secs(30);
/// Ends at once when it is asked to, as a program that knows SIGTERM does.
const OBEYS: &str = "trap 'exit 143' TERM; while :; do sleep 0.1; done";

/// Runs until the file is there.
const AT_THE_SIGN: &str = "while ! test -e /shared/go; do sleep 0.1; done; exit 6";

fn node_of(host: &FakeHost, engine: &OwnEngine) -> Daemon {
    Daemon::builder().host(host).own_engine(engine).start()
}

/// The task's final, which must be the only one.
#[track_caller]
fn final_of(host: &FakeHost, id: u64) -> Report {
    let last = host.wait_final(id, AFTER_AN_OUTAGE);
    assert_eq!(host.reports_of(id).iter().filter(|report| report.is_final()).count(), 1);
    last
}

#[track_caller]
fn assert_ended_with_the_engine(last: &Report, exit_code: Option<i64>) {
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", exit_code), "{last:?}");
    let message = last.message.as_deref().unwrap_or_default();
    assert!(message.contains("the Docker Engine was stopped or restarted"), "{message}");
}

#[track_caller]
fn assert_ended_by_itself(last: &Report, exit_code: i64) {
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", Some(exit_code)), "{last:?}");
    assert!(!last.message.as_deref().unwrap_or_default().contains("Docker Engine"), "{last:?}");
}

/// A killed task: gone from the Engine, and nothing told but what was told before.
#[track_caller]
fn assert_killed_in_silence(host: &FakeHost, daemon: &Daemon, engine: &OwnEngine, id: u64) {
    daemon.wait_status(id, "killed");
    let container = task_container(id);
    assert!(wait_until(SOON, || engine.client().inspect(&container).is_none()));
    assert!(host.reports_of(id).iter().all(|report| !report.is_final()));
}

fn engine_word(daemon: &Daemon) -> String {
    let health = daemon.get("/health").expect(200).json;
    health["engine"].as_str().unwrap_or_default().to_owned()
}

/// How often the task left its mark.
fn marks(daemon: &Daemon, id: u64) -> usize {
    let marks = fs::read_to_string(daemon.shared_dir().join(format!("shared_data/{id}")));
    marks.unwrap_or_default().lines().count()
}

/// Dispatches a task that leaves a mark each time it runs, and ends with 3 a second later.
fn execute_marking(daemon: &Daemon) -> u64 {
    let id = unique_id();
    daemon.submit(&execute_body(daemon, id, &format!("echo ran >>/shared/{id}; sleep 1; exit 3")))
}

// ── stopped, killed, gone ────────────────────────────────────────────────────────────────────

#[test]
fn engine_that_is_stopped_fails_its_tasks_with_its_own_codes_and_is_named() {
    let mut engine = OwnEngine::start(&["busybox"]);
    let host = FakeHost::start();
    let daemon = node_of(&host, &engine);
    let ignores = running(&daemon, "sleep 300");
    let obeys = running(&daemon, OBEYS);
    let tidies_up = running(&daemon, "trap 'exit 9' TERM; while :; do sleep 0.1; done");
    let wanted_dead = running(&daemon, "sleep 300");
    let id = unique_id();
    let hungry = execute_body(&daemon, id, "tail /dev/zero; echo survived; sleep 300");
    let hungry = daemon.submit(&with(hungry, json!({ "required_memory_bytes": 16 << 20 })));
    assert!(wait_until(SOON, || daemon.stdout_of(hungry) == "survived\n"));

    engine.stop();
    // The Engine told these ends on its way out; who did it is only known from the next one.
    assert!(host.reports_of(ignores).iter().all(|report| !report.is_final()));
    assert!(host.reports_of(obeys).iter().all(|report| !report.is_final()));
    daemon.control("kill", wanted_dead).expect(200);
    let queued = execute_marking(&daemon);
    engine.start_again();

    assert_ended_with_the_engine(&final_of(&host, ignores), Some(137));
    assert_ended_with_the_engine(&final_of(&host, obeys), Some(143));
    assert_ended_with_the_engine(&final_of(&host, hungry), Some(137));
    assert_ended_by_itself(&final_of(&host, tidies_up), 9);
    assert_killed_in_silence(&host, &daemon, &engine, wanted_dead);
    assert_ended_by_itself(&final_of(&host, queued), 3);
    assert_eq!(marks(&daemon, queued), 1);
}

#[test]
fn engine_that_is_killed_under_tasks_in_every_phase_loses_none_of_them() {
    let mut engine = OwnEngine::start(&["busybox"]);
    let host = FakeHost::start();
    let daemon = node_of(&host, &engine);
    let obeys = running(&daemon, OBEYS);
    let paused = running(&daemon, OBEYS);
    daemon.control("pause", paused).expect(200);
    let ends_meanwhile = running(&daemon, "echo before; sleep 2; echo after; exit 5");
    let succeeds_meanwhile = running(&daemon, "sleep 2");
    // Nobody has this address: the pull waits three seconds for the kernel's no.
    let pulled = execute_body(&daemon, unique_id(), "true");
    let pulled = daemon.submit(&with(pulled, json!({ "registry_image": "10.213.78.77:5000/x:1" })));
    let follower = {
        let (address, path) =
            (daemon.address(), format!("/api/tasks/{ends_meanwhile}/logs?follow=1"));
        thread::spawn(move || call(&address, "GET", &path, &[], None).expect("the log"))
    };
    let starting: Vec<u64> = (0..6).map(|_| execute_marking(&daemon)).collect();
    assert!(wait_until(SOON, || daemon.task(starting[0])["phases"]["created"].is_string()));

    engine.kill9();
    let containers_live_on =
        wait_until(SOON, || daemon.stdout_of(ends_meanwhile).ends_with("after\n"));
    assert!(containers_live_on);
    assert!(wait_until(SOON, || engine_word(&daemon) == "unreachable"));
    daemon.control("kill", paused).expect(200);
    engine.start_again();

    assert_ended_with_the_engine(&final_of(&host, obeys), Some(143));
    assert_ended_by_itself(&final_of(&host, ends_meanwhile), 5);
    assert_eq!(final_of(&host, succeeds_meanwhile).exit_code, Some(0));
    assert_killed_in_silence(&host, &daemon, &engine, paused);
    assert_eq!(follower.join().expect("a follower").text(), "before\nafter\n");
    let message = final_of(&host, pulled).message.unwrap_or_default();
    assert!(message.contains("can't be pulled"), "{message}");
    for id in starting {
        let last = final_of(&host, id);
        assert_eq!((last.exit_code, marks(&daemon, id)), (Some(3), 1), "{last:?}");
    }
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

#[test]
fn machine_that_lost_power_has_failed_its_tasks_with_255_whoever_looks_first() {
    let mut engine = OwnEngine::start(&["busybox"]);
    let host = FakeHost::start();
    let mut daemon = node_of(&host, &engine);
    let cut = running(&daemon, "sleep 300");
    let ends_before = running(&daemon, "sleep 1; exit 3");
    let succeeds_before = running(&daemon, "sleep 1");
    daemon.kill9();
    for id in [ends_before, succeeds_before] {
        let state = || engine.client().container_status(&task_container(id));
        assert!(wait_until(SOON, || state().as_deref() == Some("exited")));
    }
    engine.power_cut();
    engine.start_again();
    daemon.restart();
    assert_ended_with_the_engine(&final_of(&host, cut), Some(255));
    assert_ended_by_itself(&final_of(&host, ends_before), 3);
    assert_eq!(final_of(&host, succeeds_before).exit_code, Some(0));

    // The same codes under an Engine that lives are nobody's fault but the task's, or a stranger's.
    let own_255 = execute(&daemon, "exit 255");
    let own_143 = execute(&daemon, "exit 143");
    let foreign = running(&daemon, "sleep 300");
    engine.client().docker(&["kill", &task_container(foreign)]);
    assert_ended_by_itself(&final_of(&host, own_255), 255);
    assert_ended_by_itself(&final_of(&host, own_143), 143);
    assert_ended_by_itself(&final_of(&host, foreign), 137);
}

#[test]
fn success_that_an_engine_made_up_after_a_power_cut_is_none() {
    let mut engine = OwnEngine::start(&["busybox"]);
    let (host, proxy) = (FakeHost::start(), EngineProxy::before_own(&engine));
    let mut daemon = Daemon::builder().host(&host).own_engine(&engine).engine(&proxy).start();
    let cut = running(&daemon, "sleep 300");
    daemon.kill9();
    engine.power_cut();
    engine.start_again();
    // It says 255 nearly always: the rare 0 is put into its mouth, with all else as it says it.
    let mut container = engine.client().inspect(&task_container(cut)).expect("a container");
    container["State"]["ExitCode"] = json!(0);
    proxy.on("GET", "/containers/*/json", Behaviour::Reply(200, container));
    daemon.restart();
    assert_ended_with_the_engine(&final_of(&host, cut), None);
}

#[test]
fn tasks_run_through_the_restart_of_an_engine_with_live_restore() {
    let mut engine = OwnEngine::start_with(&["busybox"], &["--live-restore"]);
    let host = FakeHost::start();
    let daemon = node_of(&host, &engine);
    let ends_later = running(&daemon, AT_THE_SIGN);
    let ends_meanwhile = running(&daemon, "sleep 2; exit 255");
    let foreign = running(&daemon, "sleep 300");
    engine.stop();
    thread::sleep(Duration::from_secs(2));
    engine.start_again();
    engine.kill9();
    engine.start_again();
    engine.client().docker(&["kill", &task_container(foreign)]);
    assert_ended_by_itself(&final_of(&host, foreign), 137);
    assert_eq!(daemon.task(ends_later)["status"], "running");
    fs::write(daemon.shared_dir().join("shared_data/go"), "").expect("a file");
    assert_ended_by_itself(&final_of(&host, ends_later), 6);
    assert_eq!(final_of(&host, ends_meanwhile).exit_code, Some(255));
}

#[test]
fn engine_that_lost_all_it_had_fails_what_ran_and_runs_what_comes() {
    let mut engine = OwnEngine::start(&["busybox"]);
    let host = FakeHost::start();
    let daemon = node_of(&host, &engine);
    let told = running(&daemon, OBEYS);
    engine.stop();
    engine.wipe();
    let queued = execute(&daemon, "exit 4");
    engine.start_again();
    assert_ended_with_the_engine(&final_of(&host, told), Some(143));
    let message = final_of(&host, queued).message.unwrap_or_default();
    assert!(message.contains(&image("busybox")), "{message}");

    engine.load("busybox");
    let untold = running(&daemon, OBEYS);
    engine.power_cut();
    engine.wipe();
    engine.start_again();
    assert_ended_with_the_engine(&final_of(&host, untold), None);
    engine.load("busybox");
    // On the network, which is made again.
    assert_ended_by_itself(&final_of(&host, execute(&daemon, "exit 5")), 5);
}

#[test]
fn container_whose_start_was_cut_short_and_cannot_be_repeated_is_made_anew() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let start = "/containers/*/start";
    engine.on_nth(1, "POST", start, Behaviour::Die);
    engine.on_nth(2, "POST", start, Behaviour::Die);
    let refusal = json!({ "message": "failed to start shim: mkdir x: file exists: unknown" });
    engine.on_nth(3, "POST", start, Behaviour::Reply(500, refusal));
    let id = execute_marking(&daemon);
    assert_ended_by_itself(&final_of(&host, id), 3);
    assert_eq!(marks(&daemon, id), 1);
    assert_eq!(host.accepted_of(id), ["pending", "running", "failed"]);
}

/// An Engine that ends just as it starts a container can forget that it did (seen with 20.10 on
/// SIGTERM, about one start in twenty that was under way).
#[test]
fn task_that_ran_though_the_engine_forgot_its_start_is_failed_and_does_not_run_again() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = unique_id();
    let forgotten = json!({
        "Id": task_container(id), "Name": format!("/{}", task_container(id)), "Image": "sha256:1",
        "State": {
            "Status": "created", "Running": false, "Paused": false, "OOMKilled": false, "Pid": 0,
            "ExitCode": 0, "StartedAt": "0001-01-01T00:00:00Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
        },
        "Config": { "Labels": {
            "kohakuriver.managed": "true", "kohakuriver.node": daemon.node_id(),
        } },
        "NetworkSettings": {},
    });
    engine.on_nth(1, "POST", "/containers/*/start", Behaviour::LoseReply);
    engine.on("GET", "/containers/*/json", Behaviour::Reply(200, forgotten));
    let command = format!("echo ran >>/shared/{id}; sleep 300");
    daemon.submit(&execute_body(&daemon, id, &command));
    let last = final_of(&host, id);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", None));
    let message = last.message.unwrap_or_default();
    assert!(message.contains("Docker Engine was stopped"), "{message}");
    assert_eq!((marks(&daemon, id), engine.calls("POST /containers/*/start")), (1, 1));
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

// ── hung ─────────────────────────────────────────────────────────────────────────────────────

/// What was seen of the runner while its Engine hung.
#[derive(Debug, Default)]
struct Watched {
    answers: Vec<Duration>,
    threads: Vec<usize>,
    fds: Vec<usize>,
    rss_kb: Vec<u64>,
}

impl Watched {
    /// Asks for its health ten times a second, for this long.
    fn over(daemon: &Daemon, time: Duration) -> Watched {
        let mut watched = Watched::default();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let asked = Instant::now();
            daemon.get("/health").expect(200);
            watched.answers.push(asked.elapsed());
            watched.threads.push(daemon.threads());
            watched.fds.push(daemon.fds());
            watched.rss_kb.push(daemon.rss_kb());
            thread::sleep(Duration::from_millis(100));
        }
        watched.answers.sort_unstable();
        watched
    }

    fn median(&self) -> Duration {
        self.answers[self.answers.len() / 2]
    }
}

fn longest_gap(host: &FakeHost, since: Instant) -> Duration {
    let beats: Vec<Instant> =
        host.beats().iter().map(|beat| beat.at).filter(|at| *at >= since).collect();
    beats.windows(2).map(|pair| pair[1] - pair[0]).max().expect("beats")
}

fn execute_eight(daemon: &Daemon) -> Vec<u64> {
    (0..8).map(|_| execute_marking(daemon)).collect()
}

#[track_caller]
fn until_all_started(daemon: &Daemon, ids: &[u64]) -> Duration {
    let since = Instant::now();
    let has_started = |id: &u64| daemon.task(*id)["phases"]["started"].is_string();
    assert!(wait_until(AFTER_AN_OUTAGE, || ids.iter().all(has_started)));
    since.elapsed()
}

/// Design law 5, whole: what an Engine that hangs for a minute costs, and how soon it is over.
#[test]
fn engine_that_hangs_for_a_minute_costs_nothing_but_the_minute() {
    let engine = OwnEngine::start(&["busybox"]);
    let host = FakeHost::start();
    let daemon = node_of(&host, &engine);
    // What the Engine itself takes for as many, on this machine under this load.
    let well = until_all_started(&daemon, &execute_eight(&daemon));
    let killed = running(&daemon, "sleep 300");
    let ends_meanwhile = running(&daemon, "sleep 3; exit 5");
    let ends_at_once = running(&daemon, "sleep 1; exit 0");
    let hung_at = Instant::now();
    engine.hang();
    let accepted_at = Instant::now();
    let queued = execute_eight(&daemon);
    daemon.control("kill", killed).expect(200);
    assert!(accepted_at.elapsed() < Duration::from_secs(2));
    assert!(wait_until(SOON, || engine_word(&daemon) == "unresponsive"));

    // Whatever hangs with it is there by now: from here on nothing more comes.
    let first = Watched::over(&daemon, Duration::from_secs(10));
    let rest = Watched::over(&daemon, Duration::from_secs(60).saturating_sub(hung_at.elapsed()));
    assert_eq!(engine_word(&daemon), "unresponsive");
    eprintln!(
        "health: median {:?}, longest {:?} of {}; threads {:?} then {:?}; fds {:?} then {:?}; \
         RSS {:?} then {:?} kB; longest gap of heartbeats {:?}",
        rest.median(),
        rest.answers.last(),
        rest.answers.len(),
        first.threads.iter().max(),
        rest.threads.iter().max(),
        first.fds.iter().max(),
        rest.fds.iter().max(),
        first.rss_kb.iter().max(),
        rest.rss_kb.iter().max(),
        longest_gap(&host, hung_at),
    );
    for watched in [&first, &rest] {
        assert!(watched.median() <= Duration::from_millis(50), "{watched:?}");
        assert!(watched.answers.last() < Some(&Duration::from_secs(1)), "{watched:?}");
    }
    assert!(rest.threads.iter().max() <= first.threads.iter().max(), "{first:?} {rest:?}");
    assert!(rest.fds.iter().max() <= first.fds.iter().max(), "{first:?} {rest:?}");
    assert!(rest.rss_kb.iter().max() <= first.rss_kb.iter().max().map(|kb| kb + 512).as_ref());
    // Every second, on a machine that has other work.
    assert!(longest_gap(&host, hung_at) < Duration::from_secs(3));

    let back_at = Instant::now();
    engine.go_on();
    let started = until_all_started(&daemon, &queued);
    assert_ended_by_itself(&final_of(&host, ends_meanwhile), 5);
    assert_eq!(final_of(&host, ends_at_once).status, "completed");
    assert_killed_in_silence(&host, &daemon, &engine, killed);
    let over = back_at.elapsed();
    eprintln!("eight started in {well:?}; after its return in {started:?}, all told by {over:?}");
    assert!(over < Duration::from_secs(5).max(2 * well + Duration::from_secs(2)));
    for id in queued {
        assert_ended_by_itself(&final_of(&host, id), 3);
        assert_eq!(marks(&daemon, id), 1);
    }
}

#[test]
fn what_is_accepted_while_the_engine_hangs_outlives_a_kill_of_the_runner() {
    let engine = OwnEngine::start(&["busybox"]);
    let host = FakeHost::start();
    let mut daemon = node_of(&host, &engine);
    let ends_meanwhile = running(&daemon, "sleep 1; exit 5");
    let killed = running(&daemon, "sleep 300");
    engine.hang();
    let before: Vec<u64> = (0..3).map(|_| execute_marking(&daemon)).collect();
    daemon.control("kill", killed).expect(200);
    daemon.kill9();
    daemon.restart();
    let after = execute_marking(&daemon);
    let never = execute_marking(&daemon);
    daemon.control("kill", never).expect(200);
    assert!(wait_until(SOON, || engine_word(&daemon) == "unresponsive"));
    assert!(host.reports_of(ends_meanwhile).iter().all(|report| !report.is_final()));
    engine.go_on();
    assert_ended_by_itself(&final_of(&host, ends_meanwhile), 5);
    for id in before.into_iter().chain([after]) {
        assert_ended_by_itself(&final_of(&host, id), 3);
        assert_eq!(marks(&daemon, id), 1);
    }
    assert_killed_in_silence(&host, &daemon, &engine, killed);
    assert_killed_in_silence(&host, &daemon, &engine, never);
    assert_eq!(marks(&daemon, never), 0);
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

#[test]
fn engine_that_hangs_and_is_then_killed_finishes_what_it_had_begun() {
    let mut engine = OwnEngine::start(&["busybox"]);
    let host = FakeHost::start();
    let daemon = node_of(&host, &engine);
    let obeys = running(&daemon, OBEYS);
    let ending: Vec<u64> = (0..4).map(|_| running(&daemon, AT_THE_SIGN)).collect();
    let starting: Vec<u64> = (0..6).map(|_| execute_marking(&daemon)).collect();
    fs::write(daemon.shared_dir().join("shared_data/go"), "").expect("a file");
    // Now containers are made, started and removed at the same time.
    host.wait_final(ending[0], SOON);
    engine.hang();
    thread::sleep(Duration::from_secs(1));
    engine.kill9();
    engine.start_again();
    assert_ended_with_the_engine(&final_of(&host, obeys), Some(143));
    for id in ending {
        assert_ended_by_itself(&final_of(&host, id), 6);
    }
    for id in starting {
        assert_ended_by_itself(&final_of(&host, id), 3);
        assert_eq!(marks(&daemon, id), 1);
    }
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

// ── an Engine whose memory is full ───────────────────────────────────────────────────────────

#[test]
fn end_with_an_engine_that_was_gone_is_laid_at_its_door_also_when_its_memory_is_full() {
    /// `ENGINE_EVENTS_REMEMBERED`.
    const REMEMBERED: usize = 256;
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let id = running(&daemon, "sleep 600");
    engine.down();
    docker(&["kill", &task_container(id)]);
    // What a hundred tasks' ends leave there by themselves: the task's start falls out.
    let repository = test_name("memory");
    let tag = format!("/images/{}/tag?repo={repository}&tag=x", image("busybox"));
    (0..REMEMBERED).for_each(|_| drop(api("POST", &tag, None).expect(201)));
    docker(&["rmi", &format!("{repository}:x")]);
    // The event stream tries again each second.
    thread::sleep(Duration::from_secs(2));
    engine.up();
    assert_ended_with_the_engine(&final_of(&host, id), Some(137));
}

#[test]
fn container_that_neither_starts_nor_goes_fails_its_task() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let refused = |said: &str| Behaviour::Reply(500, json!({ "message": said }));
    engine.on("POST", "/containers/*/start", refused("failed to start shim"));
    engine.on_nth(1, "POST", "/containers/*/start", Behaviour::Die);
    engine.on("DELETE", "/containers/*", refused("device or resource busy"));
    let last = final_of(&host, execute(&daemon, "true"));
    assert_eq!(last.status, "failed");
    assert!(last.message.is_some_and(|said| said.contains("failed to start shim")));
    assert_eq!(engine.calls("POST /containers/*/start"), 2);
    engine.clear();
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}
