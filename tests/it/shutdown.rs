//! SIGTERM at the worst of moments (design law 10): the runner ends within two seconds with exit
//! code 0, containers live on, and the next start goes on with everything that was accepted.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, Fault, SOON, STOP_MAX, container_status, doomed_body,
    execute, execute_body, node_of, task_container, unique_id, wait_until,
};

/// Pauses of the outbox and of the Engine's event stream, after an outage of seconds.
const AFTER_AN_OUTAGE: Duration = Duration::from_secs(40);
/// Time to be in the middle of what was begun.
const A_MOMENT: Duration = Duration::from_millis(100);
const SIGTERM: i32 = 15;

#[track_caller]
fn stops_in_time(daemon: &mut Daemon) {
    let took = daemon.stop();
    assert!(took < STOP_MAX, "stopped after {took:?}");
}

/// A connection on which these bytes were sent.
fn sent(daemon: &Daemon, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port())).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

// ── while others hang ────────────────────────────────────────────────────────────────────────

#[test]
fn stop_while_the_engine_hangs_with_starts_kills_and_pulls_under_way_loses_nothing() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    let (killed, kept) = (execute(&daemon, "sleep 60"), execute(&daemon, "sleep 8; exit 6"));
    host.wait_status(killed, "running", SOON);
    host.wait_status(kept, "running", SOON);
    engine.on_nth(1, "POST", "/containers/create", Behaviour::HangReply);
    let creating = execute(&daemon, "exit 7");
    engine.wait_calls("POST /containers/create", 3, SOON);
    engine.pause_all();
    let pulling = [execute(&daemon, "exit 7"), execute(&daemon, "exit 7")];
    daemon.control("kill", killed).expect(200);
    thread::sleep(A_MOMENT);
    stops_in_time(&mut daemon);
    assert_eq!(container_status(&task_container(kept)).as_deref(), Some("running"));
    engine.clear();
    engine.release();
    engine.resume_all();
    daemon.restart();
    daemon.wait_status(killed, "killed");
    assert_eq!(host.wait_final(kept, AFTER_AN_OUTAGE).exit_code, Some(6));
    assert_eq!(host.wait_final(creating, AFTER_AN_OUTAGE).exit_code, Some(7));
    assert_eq!(pulling.map(|id| host.wait_final(id, AFTER_AN_OUTAGE).exit_code), [Some(7); 2]);
}

#[test]
fn stop_while_the_host_is_slow_delivers_the_final_after_the_next_start() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    host.wait_registered();
    host.fail(Fault::Hang);
    let id = execute(&daemon, "exit 4");
    daemon.wait_status(id, "failed");
    stops_in_time(&mut daemon);
    host.heal();
    daemon.restart();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(4));
}

#[test]
fn stop_with_200_tasks_waiting_for_a_hung_engine_loses_none() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    engine.pause_all();
    let ids: Vec<u64> = (0..200).map(|_| unique_id()).collect();
    for &id in &ids {
        daemon.submit(&doomed_body(&daemon, id));
    }
    stops_in_time(&mut daemon);
    engine.resume_all();
    daemon.restart();
    for id in ids {
        host.wait_final(id, AFTER_AN_OUTAGE);
        let finals = host.accepted_of(id).into_iter().filter(|status| status == "failed");
        assert_eq!(finals.count(), 1, "{:?}", host.accepted_of(id));
    }
}

/// Makes copies of a record under ids of their own, as of tasks that wait for the host, while no
/// runner looks. The ids.
fn copies_of_untold(daemon: &Daemon, id: u64, count: usize) -> Vec<u64> {
    let untold = daemon.state_dir().join("untold");
    // Where it is depends on whether the runner was through with it.
    let places = [daemon.state_dir().join("tasks"), untold.clone()];
    let found =
        places.iter().find_map(|place| fs::read_to_string(place.join(format!("{id}.json"))).ok());
    let record = found.expect("the record");
    let ids: Vec<u64> = (0..count).map(|_| unique_id()).collect();
    for copy in &ids {
        let text = record.replace(&id.to_string(), &copy.to_string());
        fs::write(untold.join(format!("{copy}.json")), text).unwrap();
    }
    ids
}

#[test]
fn stop_with_an_outbox_of_thousands_keeps_what_the_host_has_not_heard() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    let id = daemon.submit(&doomed_body(&daemon, unique_id()));
    let untold = || daemon.get("/health").expect(200).json["tasks"]["untold"] == 1;
    assert!(wait_until(SOON, untold));
    stops_in_time(&mut daemon);
    let ids = copies_of_untold(&daemon, id, 3000);
    host.heal();
    host.fail_next(usize::MAX, "POST /api/update", Fault::Hang);
    daemon.restart();
    let unsent = daemon.get("/health").expect(200).json["reports"]["unsent"].as_u64();
    assert!(unsent.unwrap() >= 3000, "{unsent:?}");
    stops_in_time(&mut daemon);
    host.heal();
    daemon.restart();
    assert!(wait_until(SOON, || ids.iter().any(|&id| !host.accepted_of(id).is_empty())));
    // In the middle of delivering.
    stops_in_time(&mut daemon);
    daemon.restart();
    for id in ids {
        host.wait_final(id, AFTER_AN_OUTAGE);
    }
}

// ── while callers are there ──────────────────────────────────────────────────────────────────

#[test]
fn stop_ends_followers_of_logs_and_events_without_cutting_a_line() {
    let mut daemon = Daemon::start();
    let id = execute(&daemon, "while echo 0123456789; do sleep 0.05; done");
    daemon.wait_status(id, "running");
    assert!(wait_until(SOON, || !daemon.stdout_of(id).is_empty()));
    let follow = |target: String| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        sent(&daemon, request.as_bytes())
    };
    let log = follow(format!("/api/tasks/{id}/logs?stream=stdout&follow=1"));
    let events = follow("/api/events?follow=1".to_owned());
    thread::sleep(A_MOMENT);
    stops_in_time(&mut daemon);
    for mut stream in [log, events] {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an end, not a reset");
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with('\n'), "{text:?}");
    }
}

#[test]
fn stop_tells_callers_whose_pause_hangs_in_the_engine() {
    let engine = EngineProxy::start();
    let mut daemon = Daemon::builder().engine(&engine).start();
    let ids = [execute(&daemon, "sleep 60"), execute(&daemon, "sleep 60")];
    ids.iter().for_each(|&id| drop(daemon.wait_status(id, "running")));
    engine.on("POST", "/containers/*/pause", Behaviour::Hang);
    let parked = ids.map(|id| {
        let body = json!({ "task_id": id, "container_name": task_container(id) }).to_string();
        let head = "POST /api/pause HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        sent(&daemon, request.as_bytes())
    });
    engine.wait_held(2, SOON);
    stops_in_time(&mut daemon);
    for mut stream in parked {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 503"), "{text:?}");
    }
}

/// Nobody else waits for a door because somebody dribbles.
#[test]
fn stop_tells_who_brings_half_a_request_and_does_not_wait_for_the_rest() {
    let mut daemon = Daemon::start();
    let mut half = sent(&daemon, b"GET /health HTTP/1.1\r\nHost: 127");
    thread::sleep(A_MOMENT);
    stops_in_time(&mut daemon);
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
}

#[test]
fn stop_in_the_middle_of_bodies_ends_in_time_and_accepts_nothing_of_them() {
    let mut daemon = Daemon::start();
    let ids = [unique_id(), unique_id()];
    // One that the door collects, one that a worker reads.
    let uploads = [(ids[0], 1_000), (ids[1], 1_000_000)].map(|(id, padding)| {
        let mut body = execute_body(&daemon, id, "true");
        body["env_vars"] = json!({ "PADDING": "x".repeat(padding) });
        let body = body.to_string();
        let head =
            "POST /api/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        sent(&daemon, &request.as_bytes()[..request.len() - 10])
    });
    thread::sleep(A_MOMENT);
    stops_in_time(&mut daemon);
    for mut upload in uploads {
        let mut answer = Vec::new();
        let _closed_or_reset = upload.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    daemon.restart();
    for id in ids {
        daemon.get(&format!("/api/tasks/{id}")).expect(404);
    }
}

// ── signals ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn stop_at_any_moment_of_a_start_ends_it_and_loses_nothing() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let id = execute(&daemon, "sleep 4; exit 5");
    host.wait_status(id, "running", SOON);
    daemon.stop();
    for millis in 0..=30 {
        daemon.launch();
        thread::sleep(Duration::from_millis(millis));
        daemon.signal(Signal::SIGTERM);
        let ended = daemon.wait_exit(STOP_MAX);
        // Before it holds the signal back, the signal itself ends it.
        let fits = matches!(ended, (Some(0), None) | (None, Some(SIGTERM)));
        assert!(fits, "{ended:?} after {millis} ms");
    }
    daemon.launch();
    daemon.wait_healthy();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(5));
}

#[test]
fn stop_while_a_start_waits_for_its_predecessor_ends_it() {
    let first = Daemon::start();
    let state_dir = first.state_dir().to_str().expect("a plain path");
    let mut second = Daemon::builder().set("state_dir", state_dir).stopped();
    second.launch();
    assert!(wait_until(SOON, || second.log().contains("waiting")), "{}", second.log());
    second.signal(Signal::SIGTERM);
    assert_eq!(second.wait_exit(STOP_MAX), (Some(0), None));
}

#[test]
fn second_signal_during_a_stop_ends_it_at_once() {
    let engine = EngineProxy::start();
    let mut daemon = Daemon::builder().engine(&engine).start();
    engine.on("POST", "/containers/create", Behaviour::Hang);
    execute(&daemon, "true");
    engine.wait_held(1, SOON);
    daemon.signal(Signal::SIGTERM);
    assert!(wait_until(SOON, || daemon.log().contains("SIGTERM: stopping")));
    assert!(!daemon.has_exited());
    let since = Instant::now();
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait_exit(STOP_MAX), (Some(0), None));
    assert!(daemon.log().contains("SIGINT again: leaving at once"), "{:?}", since.elapsed());
}

#[test]
fn hangup_without_a_log_file_is_harmless() {
    let daemon = Daemon::start();
    daemon.signal(Signal::SIGHUP);
    assert!(wait_until(SOON, || daemon.log().contains("no log file")));
    daemon.get("/health").expect(200);
}
