//! Rows of our own (design D15): health, metrics, tasks, logs, events; and what every answer has in
//! common (contract 1.0, rule 4).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use chrono::{DateTime, FixedOffset};
use serde_json::{Value, json};

use crate::kit::{
    Address, Behaviour, Daemon, EngineProxy, FakeHost, SOON, call, execute, execute_body,
    task_container, unique_id, wait_until,
};

/// Half of the answers of a healthy row; the rest is the machine's other work.
const USUAL_ANSWER_MAX: Duration = Duration::from_millis(50);
/// Any answer that waits for nobody; an Engine's deadline is 2 s at the least.
const AT_ONCE: Duration = Duration::from_secs(1);

// ── health ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn health_of_a_node_that_is_well_has_all_its_fields_and_no_warnings() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).set("hostname", "node-7").start();
    host.wait_registered();
    host.wait_beats(2, SOON);
    let mut health = Value::Null;
    assert!(wait_until(SOON, || {
        health = daemon.get("/health").expect(200).json;
        health["status"] == "ok"
    }));
    assert_eq!(health["warnings"], json!([]));
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(health["hostname"], "node-7");
    assert_eq!(health["node_id"], daemon.node_id());
    assert!(health["uptime_seconds"].is_u64());
    assert_eq!(health["engine"], "ok");
    assert!(health["engine_detail"].as_str().unwrap().contains("API 1."));
    assert_eq!(health["host"]["registered"], true);
    assert!(health["host"]["last_acknowledged"].is_string());
    assert_eq!(health["tasks"], json!({ "live": 0, "running": 0, "untold": 0 }));
    assert_eq!(health["reports"], json!({ "unsent": 0, "set_aside": 0 }));
    assert_eq!(health["records_set_aside"], 0);
    assert_eq!(health["records_set_aside_newest"], json!([]));
    assert_eq!(health["records_stuck"], json!([]));
    assert_eq!(health["shared_dir"], json!(daemon.shared_dir()));
}

#[test]
fn health_answers_at_once_and_says_it_while_the_engine_hangs() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    assert!(wait_until(SOON, || daemon.get("/health").json["engine"] == "ok"));
    engine.pause_all();
    let mut took = Vec::new();
    let mut health = Value::Null;
    // The probe comes every 5 s and waits for 2.
    assert!(wait_until(SOON, || {
        let since = Instant::now();
        health = daemon.get("/health").expect(200).json;
        took.push(since.elapsed());
        health["engine"] == "unresponsive"
    }));
    took.sort();
    assert!(took[took.len() / 2] < USUAL_ANSWER_MAX, "usually {:?}", took[took.len() / 2]);
    assert!(took[took.len() - 1] < AT_ONCE, "once {:?}", took[took.len() - 1]);
    assert_eq!(health["status"], "degraded");
    assert!(health["warnings"].to_string().contains("answers none"), "{health:#}");
    engine.resume_all();
    assert!(wait_until(SOON, || daemon.get("/health").json["engine"] == "ok"));
}

#[test]
fn what_is_asked_while_the_engine_hangs_is_done_when_it_is_back() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let killed = execute(&daemon, "sleep 60");
    host.wait_status(killed, "running", SOON);
    engine.pause_all();
    let since = Instant::now();
    let accepted = execute(&daemon, "exit 5");
    daemon.control("kill", killed).expect(200);
    daemon.get("/api/tasks").expect(200);
    daemon.get(&format!("/api/tasks/{accepted}")).expect(200);
    daemon.get("/metrics").expect(200);
    assert!(since.elapsed() < AT_ONCE, "five calls took {:?}", since.elapsed());
    host.wait_beats(2, SOON);
    engine.resume_all();
    assert_eq!(host.wait_final(accepted, SOON).exit_code, Some(5));
    daemon.wait_status(killed, "killed");
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

#[test]
fn health_of_a_node_without_an_engine_says_so() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    engine.down();
    let mut health = Value::Null;
    assert!(wait_until(SOON, || {
        health = daemon.get("/health").expect(200).json;
        health["engine"] == "unreachable"
    }));
    assert_eq!(health["status"], "degraded");
}

// ── metrics ──────────────────────────────────────────────────────────────────────────────────

/// One figure as Prometheus text has it: its three lines.
struct Figure {
    name: String,
    kind: String,
    value: f64,
}

/// Parses format 0.0.4 as far as a runner uses it: HELP, TYPE, sample, each once per name.
#[track_caller]
fn figures(text: &str) -> Vec<Figure> {
    assert!(text.ends_with('\n'));
    let lines: Vec<&str> = text.lines().collect();
    lines.chunks(3).map(figure).collect()
}

#[track_caller]
fn figure(lines: &[&str]) -> Figure {
    let [help, kind, sample] = lines else { panic!("three lines a figure: {lines:?}") };
    let (name, value) = sample.split_once(' ').expect("a name and a value");
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    assert!(is_name(name), "{name}");
    let help = help.strip_prefix(&format!("# HELP {name} ")).expect("its help");
    assert!(!help.is_empty());
    let kind = kind.strip_prefix(&format!("# TYPE {name} ")).expect("its type");
    assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
    assert!(matches!(kind, "counter" | "gauge"));
    Figure { name: name.into(), kind: kind.into(), value: value.parse().expect("a number") }
}

#[test]
fn metrics_are_prometheus_text_that_counts_tasks() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "true");
    daemon.wait_status(id, "completed");
    let answer = daemon.get("/metrics").expect(200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let figures = figures(&answer.text());
    let mut names: Vec<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name twice");
    let value = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap().value;
    assert_eq!(value("river_tasks_ended_total"), 1.0);
    assert!(value("river_record_writes_total") >= 3.0);
    assert!(figures.iter().any(|figure| figure.kind == "gauge"));
}

// ── tasks ────────────────────────────────────────────────────────────────────────────────────

/// The moments of a task in the order that they must have.
fn moments(task: &Value) -> Vec<DateTime<FixedOffset>> {
    const ORDER: [&str; 8] = [
        "accepted",
        "image_ready",
        "created",
        "started",
        "first_output",
        "exited",
        "recorded",
        "reported",
    ];
    let moment = |name: &str| {
        let text = task["phases"][name].as_str().unwrap_or_else(|| panic!("no {name}: {task:#}"));
        DateTime::parse_from_rfc3339(text).expect("RFC 3339")
    };
    ORDER.map(moment).to_vec()
}

#[test]
fn finished_task_shows_every_phase_in_order() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let id = execute(&daemon, "echo out; sleep 1");
    host.wait_final(id, SOON);
    let path = format!("/api/tasks/{id}");
    assert!(wait_until(SOON, || daemon.get(&path).json["phases"]["reported"].is_string()));
    assert!(moments(&daemon.get(&path).json).is_sorted());
    // Out of memory, from its file, the same.
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 0));
    assert!(moments(&daemon.get(&path).json).is_sorted());
}

#[test]
fn task_that_wrote_nothing_has_no_first_output() {
    let daemon = Daemon::start();
    let task = daemon.wait_status(execute(&daemon, "true"), "completed");
    assert_eq!(task["phases"]["first_output"], Value::Null);
    assert_eq!(task["phases"]["reported"], Value::Null);
}

#[test]
fn task_shows_its_id_as_a_number_and_as_text() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "true");
    let task = daemon.get(&format!("/api/tasks/{id}")).expect(200).json;
    assert_eq!(task["task_id"].as_u64(), Some(id));
    assert_eq!(task["id"], id.to_string());
    assert_eq!(task["command"], "true");
    assert_eq!(task["container"], format!("kohakuriver-task-{id}"));
}

#[test]
fn environment_of_a_task_is_shown_nowhere() {
    let daemon = Daemon::start();
    let id = unique_id();
    let mut body = execute_body(&daemon, id, "true");
    body["env_vars"] = json!({ "PASSWORD": "opensesame" });
    daemon.post("/api/execute", &body).expect(200);
    daemon.wait_status(id, "completed");
    assert!(!daemon.get(&format!("/api/tasks/{id}")).text().contains("opensesame"));
    assert!(!daemon.get("/api/tasks?all=1").text().contains("opensesame"));
    assert!(!daemon.get("/api/events").text().contains("opensesame"));
    assert!(!daemon.log().contains("opensesame"));
}

#[test]
fn list_has_live_tasks_and_with_all_also_those_that_are_over() {
    let daemon = Daemon::start();
    let over = execute(&daemon, "true");
    let live = execute(&daemon, "sleep 60");
    daemon.wait_status(live, "running");
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 1));
    let listed = daemon.get("/api/tasks").expect(200).json;
    assert_eq!(listed["tasks"][0]["id"], live.to_string());
    let listed = daemon.get("/api/tasks?all=1").expect(200).json;
    assert_eq!(listed["count"], 2);
    assert_eq!(listed["tasks"][1]["id"], over.to_string());
    assert_eq!(listed["tasks"][1]["status"], "completed");
    let fault = daemon.get("/api/tasks?all=maybe").expect(422).json["detail"][0].clone();
    assert_eq!(fault["loc"], json!(["query", "all"]));
}

#[test]
fn task_that_nobody_knows_is_404_and_one_that_can_not_be_is_422() {
    let daemon = Daemon::start();
    let unknown = daemon.get(&format!("/api/tasks/{}", unique_id())).expect(404);
    assert!(unknown.json["detail"].is_string());
    let fault = daemon.get("/api/tasks/none").expect(422).json["detail"][0].clone();
    assert_eq!(fault["loc"], json!(["path", "task_id"]));
}

// ── logs ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn logs_are_read_from_an_offset_to_the_end() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "echo hello; echo world >&2");
    daemon.wait_status(id, "completed");
    let whole = daemon.get(&format!("/api/tasks/{id}/logs")).expect(200);
    assert_eq!(whole.text(), "hello\n");
    assert_eq!(whole.header("x-next-offset"), Some("6"));
    assert_eq!(whole.header("x-size"), Some("6"));
    assert_eq!(daemon.get(&format!("/api/tasks/{id}/logs?offset=4")).text(), "o\n");
    let past = daemon.get(&format!("/api/tasks/{id}/logs?offset=600")).expect(200);
    assert_eq!((past.text().as_str(), past.header("x-next-offset")), ("", Some("600")));
    assert_eq!(daemon.get(&format!("/api/tasks/{id}/logs?stream=stderr")).text(), "world\n");
}

#[test]
fn logs_of_nobody_and_of_no_stream_are_refused() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "true");
    daemon.get(&format!("/api/tasks/{}/logs", unique_id())).expect(404);
    daemon.get(&format!("/api/tasks/{id}/logs?stream=stdin")).expect(422);
    daemon.get(&format!("/api/tasks/{id}/logs?offset=-1")).expect(422);
    daemon.get(&format!("/api/tasks/{id}/logs?follow=perhaps")).expect(422);
}

#[test]
fn followed_logs_are_whole_when_the_task_has_ended() {
    let daemon = Daemon::start();
    // 3 MB in bursts, the last line without an end: more than one chunk, more than one look.
    let id = execute(
        &daemon,
        "for i in 1 2 3; do head -c 1000000 /dev/zero | tr '\\0' x; sleep 0.3; done; printf end",
    );
    let followed = daemon.get(&format!("/api/tasks/{id}/logs?follow=1")).expect(200);
    assert_eq!(followed.body.len(), 3_000_003);
    assert!(followed.body.ends_with(b"xxend"));
    assert_eq!(followed.header("connection"), Some("close"));
    assert_eq!(daemon.wait_status(id, "completed")["exit_code"], 0);
}

#[test]
fn followed_logs_of_a_task_that_is_over_end_at_once_and_begin_at_the_offset() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "echo hello; exit 1");
    daemon.wait_status(id, "failed");
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 0));
    let followed = daemon.get(&format!("/api/tasks/{id}/logs?follow=1&offset=2")).expect(200);
    assert_eq!(followed.text(), "llo\n");
}

#[test]
fn followed_logs_come_while_the_task_runs() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "echo early >&2; sleep 60");
    let mut lines = stream(&daemon, &format!("/api/tasks/{id}/logs?follow=1&stream=stderr"));
    assert_eq!(next_line(&mut lines), "early\n");
    daemon.wait_status(id, "running");
}

#[test]
fn output_that_the_task_replaced_by_a_link_shows_nothing_of_this_machine() {
    let daemon = Daemon::start();
    let secret = daemon.path("secret");
    std::fs::write(&secret, "of this machine").expect("a file");
    let id = unique_id();
    let command = format!("ln -sf {} /kohakuriver-logs/{id}/stdout.log", secret.display());
    daemon.run(&execute_body(&daemon, id, &command));
    let answer = daemon.get(&format!("/api/tasks/{id}/logs")).expect(500);
    assert!(!answer.text().contains("of this machine"));
    daemon.get(&format!("/api/tasks/{id}/logs?stream=stderr&offset={}", u64::MAX)).expect(200);
}

#[test]
fn followers_that_leave_are_noticed() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "sleep 60");
    daemon.wait_status(id, "running");
    // The threads of the start's long calls end when they are idle.
    sleep(Duration::from_secs(3));
    let before = daemon.threads();
    let path = format!("/api/tasks/{id}/logs?follow=1");
    let followers = [(); 8].map(|()| stream(&daemon, &path));
    assert!(wait_until(SOON, || daemon.threads() >= before + 8));
    drop(followers);
    assert!(wait_until(SOON, || daemon.threads() <= before));
}

// ── events ───────────────────────────────────────────────────────────────────────────────────

fn lines_of(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// What happened to this task, by the lines of an answer.
fn events_of(lines: &[Value], id: u64) -> Vec<String> {
    let id = id.to_string();
    let of_it = lines.iter().filter(|line| line["id"] == json!(id));
    of_it.map(|line| line["event"].as_str().expect("an event").to_owned()).collect()
}

#[test]
fn events_tell_a_tasks_life_in_order_and_end_with_a_cursor() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let id = execute(&daemon, "true");
    host.wait_final(id, SOON);
    assert!(wait_until(SOON, || daemon.get("/api/events").text().contains("reported")));
    let answer = daemon.get("/api/events").expect(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines = lines_of(&answer.text());
    assert_eq!(
        events_of(&lines, id),
        ["accepted", "image_ready", "created", "started", "completed", "reported"]
    );
    let numbers: Vec<u64> = lines.iter().filter_map(|line| line["number"].as_u64()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert!(DateTime::parse_from_rfc3339(lines[0]["at"].as_str().unwrap()).is_ok());
    assert_eq!(lines.last().unwrap(), &json!({ "cursor": 6 }));
}

#[test]
fn events_since_a_cursor_are_those_that_came_later() {
    let daemon = Daemon::start();
    let first = execute(&daemon, "true");
    daemon.wait_status(first, "completed");
    let cursor = lines_of(&daemon.get("/api/events").text()).pop().unwrap()["cursor"].clone();
    let second = execute(&daemon, "true");
    daemon.wait_status(second, "completed");
    let lines = lines_of(&daemon.get(&format!("/api/events?since={cursor}")).text());
    assert_eq!(events_of(&lines, first), [""; 0]);
    assert_eq!(events_of(&lines, second)[0], "accepted");
    daemon.get("/api/events?since=x").expect(422);
}

#[test]
fn followed_events_come_as_they_happen() {
    let daemon = Daemon::start();
    let mut lines = stream(&daemon, "/api/events?follow=1");
    let id = execute(&daemon, "true");
    let mut seen = Vec::new();
    assert!(wait_until(SOON, || {
        seen.extend(lines_of(&next_line(&mut lines)));
        events_of(&seen, id).last().is_some_and(|event| event == "completed")
    }));
    assert_eq!(events_of(&seen, id)[0], "accepted");
}

/// A GET whose answer is read line by line, while it grows.
fn stream(daemon: &Daemon, path: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port())).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a listener");
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        reader.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    reader
}

#[track_caller]
fn next_line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line in time");
    line
}

// ── every answer ─────────────────────────────────────────────────────────────────────────────

#[test]
fn unknown_path_and_wrong_method_are_told_apart() {
    let daemon = Daemon::start();
    let unknown = daemon.get("/api/nothing").expect(404);
    assert_eq!(unknown.json, json!({ "detail": "Not Found" }));
    let wrong = daemon.get("/api/execute").expect(405);
    assert_eq!(wrong.json, json!({ "detail": "Method Not Allowed" }));
    daemon.delete("/api/tasks").expect(405);
    daemon.post("/health", &json!({})).expect(405);
    daemon.get("/api/tasks/").expect(404);
    daemon.get("/API/tasks").expect(404);
}

#[test]
fn every_answer_has_a_length_and_is_never_compressed() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "echo out");
    daemon.wait_status(id, "completed");
    let one = |method: &str, path: &str, body: Option<&Value>| {
        let headers = [("Accept-Encoding", "gzip, deflate"), ("TE", "trailers")];
        let answer = call(&daemon.address(), method, path, &headers, body).expect("an answer");
        let length = answer.header("content-length").map(str::to_owned);
        assert_eq!(length, Some(answer.body.len().to_string()), "{method} {path}");
        assert_eq!(answer.header("content-encoding"), None, "{method} {path}");
        assert_eq!(answer.header("transfer-encoding"), None, "{method} {path}");
        answer.status
    };
    let control = json!({ "task_id": id, "container_name": task_container(id) });
    let answered = [
        one("GET", "/health", None),
        one("GET", "/metrics", None),
        one("GET", "/api/tasks", None),
        one("GET", "/api/tasks?all=1", None),
        one("GET", &format!("/api/tasks/{id}"), None),
        one("GET", &format!("/api/tasks/{id}/logs"), None),
        one("GET", "/api/events", None),
        one("GET", "/api/docker/images", None),
        one("POST", "/api/docker/sync/no-such-environment", None),
        one("GET", "/api/nothing", None),
        one("GET", "/api/kill", None),
        one("POST", "/api/kill", Some(&json!({}))),
        one("POST", "/api/kill", Some(&control)),
        one("POST", "/api/pause", Some(&control)),
    ];
    assert_eq!(answered[..9], [200; 9]);
    assert_eq!(answered[9..12], [404, 405, 422]);
    assert!(answered[12..].iter().all(|status| matches!(status, 404 | 409)), "{answered:?}");
}

#[test]
fn rows_are_the_same_on_the_unix_socket() {
    let daemon = Daemon::start();
    let socket = Address::Unix(daemon.api_socket().to_owned());
    let answer = call(&socket, "GET", "/health", &[], None).unwrap();
    assert_eq!(answer.expect(200).json["node_id"], daemon.node_id());
}

#[test]
fn rows_that_wait_for_the_engine_do_not_hold_up_the_others() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    engine.on("GET", "/images/json", Behaviour::Hang);
    std::thread::scope(|scope| {
        // More than there are workers.
        let waiting = [(); 12].map(|()| scope.spawn(|| daemon.get("/api/docker/images").status));
        engine.wait_calls("GET /images/json", 1, SOON);
        let since = Instant::now();
        daemon.get("/health").expect(200);
        daemon.get("/api/tasks").expect(200);
        assert!(since.elapsed() < AT_ONCE, "two calls took {:?}", since.elapsed());
        engine.clear();
        engine.release();
        let answered = waiting.map(|thread| thread.join().unwrap());
        assert!(answered.iter().all(|status| matches!(status, 200 | 500 | 503)), "{answered:?}");
    });
}
