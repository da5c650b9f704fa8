//! The kit itself: that the fakes keep their peers' rules, that the proxy changes nothing unless
//! told to, and that each fault really is one. A fake that can't fail proves nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::kit::{
    Address, Behaviour, Daemon, EngineProxy, FakeHost, Fault, Moment, OwnEngine, REFUSED, SOON,
    UPDATED, Verdict, api, call, container_exists, docker, execute, image, remove_container,
    test_name, unique_id, wait_until,
};

// ── the host ─────────────────────────────────────────────────────────────────────────────────

fn to_host(
    host: &FakeHost,
    method: &str,
    path: &str,
    body: &Value,
) -> std::io::Result<(u16, Value)> {
    let address = Address::Tcp(([127, 0, 0, 1], host.port()).into());
    call(&address, method, path, &[], Some(body)).map(|response| (response.status, response.json))
}

fn report(id: u64, status: &str) -> Value {
    json!({
        "task_id": id, "status": status, "exit_code": null, "message": null,
        "started_at": "2026-11-24T21:12:04.123456", "completed_at": null, "ssh_port": null,
    })
}

fn update(host: &FakeHost, id: u64, status: &str) -> std::io::Result<(u16, Value)> {
    to_host(host, "POST", "/api/update", &report(id, status))
}

fn updated(text: &str) -> (u16, Value) {
    (200, json!({ "message": text }))
}

#[test]
fn host_answers_a_heartbeat_with_404_until_the_node_registers() {
    let host = FakeHost::start();
    let beat = json!({ "running_tasks": [7] });
    assert_eq!(to_host(&host, "PUT", "/api/heartbeat/n1", &beat).unwrap().0, 404);
    let node = json!({ "hostname": "n1", "url": "http://127.0.0.1:1", "total_cores": 2 });
    assert_eq!(to_host(&host, "POST", "/api/register", &node).unwrap().1["created"], true);
    assert_eq!(to_host(&host, "PUT", "/api/heartbeat/n1", &beat).unwrap().0, 200);
    assert_eq!(host.wait_registered().body, node);
    assert_eq!(host.beats()[1].running_tasks, [7]);
    host.forget_nodes();
    assert_eq!(to_host(&host, "PUT", "/api/heartbeat/n1", &beat).unwrap().0, 404);
}

#[test]
fn host_refuses_final_to_running_and_takes_final_to_final() {
    let host = FakeHost::start();
    assert_eq!(update(&host, 7, "running").unwrap(), updated(UPDATED));
    assert_eq!(update(&host, 7, "failed").unwrap(), updated(UPDATED));
    assert_eq!(update(&host, 7, "running").unwrap(), updated(REFUSED));
    assert_eq!(update(&host, 7, "completed").unwrap(), updated(UPDATED));
    assert_eq!(host.accepted_of(7), ["running", "failed", "completed"]);
    assert_eq!(host.reports_of(7)[2].verdict, Verdict::Refused);
    assert_eq!(host.wait_final(7, SOON).status, "failed");
}

#[test]
fn host_refuses_a_task_that_it_does_not_know_or_a_user_ended() {
    let host = FakeHost::start();
    host.forget_task(7);
    assert_eq!(update(&host, 7, "completed").unwrap(), updated(REFUSED));
    host.set_status(8, "killed");
    assert_eq!(update(&host, 8, "pending").unwrap(), updated(REFUSED));
    assert_eq!(host.status_of(8).as_deref(), Some("killed"));
}

#[test]
fn host_notes_what_is_against_the_contract() {
    let host = FakeHost::start();
    let mut zoned = report(7, "running");
    zoned["started_at"] = json!("2026-11-24T21:12:04Z");
    assert_eq!(to_host(&host, "POST", "/api/update", &zoned).unwrap().0, 200);
    assert_eq!(host.take_breaches().len(), 1);
    let mut short = report(7, "running");
    short.as_object_mut().unwrap().remove("ssh_port");
    assert_eq!(to_host(&host, "POST", "/api/update", &short).unwrap().0, 200);
    assert_eq!(to_host(&host, "POST", "/api/update", &json!({})).unwrap().0, 422);
    assert_eq!(to_host(&host, "POST", "/api/nothing", &json!({})).unwrap().0, 404);
    assert_eq!(host.take_breaches().len(), 3);
}

#[test]
fn host_that_is_down_refuses_connections_and_comes_back_on_its_port() {
    let host = FakeHost::start();
    update(&host, 7, "running").unwrap();
    host.down();
    let refused = update(&host, 7, "completed").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    host.up();
    assert_eq!(update(&host, 7, "completed").unwrap(), updated(UPDATED));
    assert_eq!(host.accepted_of(7), ["running", "completed"]);
}

#[test]
fn host_that_answers_500_or_garbage_has_not_applied_the_report() {
    let host = FakeHost::start();
    host.fail_next(1, "POST /api/update", Fault::Status(500));
    assert_eq!(update(&host, 7, "running").unwrap().0, 500);
    host.fail_next(1, "POST /api/update", Fault::Garbage);
    update(&host, 7, "running").unwrap_err();
    assert_eq!(host.status_of(7), None);
    assert_eq!(host.reports_of(7).len(), 2);
    assert_eq!(update(&host, 7, "running").unwrap(), updated(UPDATED));
}

#[test]
fn host_whose_answer_is_lost_or_halved_has_applied_the_report() {
    let host = FakeHost::start();
    host.fail(Fault::LostAnswer);
    update(&host, 7, "running").unwrap_err();
    host.heal();
    host.fail(Fault::HalfAnswer);
    update(&host, 8, "running").unwrap_err();
    assert_eq!(host.accepted_of(7), ["running"]);
    assert_eq!(host.accepted_of(8), ["running"]);
}

#[test]
fn host_that_is_slow_answers_late_and_one_that_hangs_only_when_healed() {
    let host = FakeHost::start();
    let slow = Duration::from_millis(200);
    host.fail_next(1, "POST /api/update", Fault::Slow(slow));
    let since = Instant::now();
    update(&host, 7, "running").unwrap();
    assert!(since.elapsed() >= slow);
    host.fail(Fault::Hang);
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| update(&host, 7, "completed").unwrap());
        sleep(slow);
        assert!(!hung.is_finished());
        host.heal();
        assert_eq!(hung.join().unwrap(), updated(UPDATED));
    });
}

#[test]
fn host_hook_runs_at_its_call_alone_before_or_after_the_host_has_acted() {
    let host = Arc::new(FakeHost::start());
    let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    for (nth, moment) in [(2, Moment::Before), (3, Moment::After)] {
        let (seeing, seen) = (Arc::downgrade(&host), Arc::clone(&seen));
        host.on_nth(nth, "POST /api/update", moment, move |body| {
            assert_eq!(body["task_id"], 7);
            let host = seeing.upgrade().unwrap();
            seen.lock().unwrap().push(host.status_of(7));
        });
    }
    for status in ["pending", "running", "completed", "completed"] {
        update(&host, 7, status).unwrap();
    }
    let states = ["pending", "completed"].map(|state| Some(state.to_owned()));
    assert_eq!(*seen.lock().unwrap(), states);
}

#[test]
fn host_fault_that_is_lifted_leaves_the_others() {
    let host = FakeHost::start();
    host.fail(Fault::Garbage);
    host.fail(Fault::Status(500));
    host.lift(Fault::Garbage);
    assert_eq!(update(&host, 7, "running").unwrap().0, 500);
    assert_eq!(host.struck(), 1);
}

#[test]
fn host_says_when_a_report_came_that_it_took_in_late() {
    let host = FakeHost::start();
    let slow = Duration::from_millis(200);
    host.fail(Fault::Slow(slow));
    update(&host, 7, "running").unwrap();
    let report = &host.reports_of(7)[0];
    assert!(report.at - report.came >= slow);
}

// ── the proxy, passing ───────────────────────────────────────────────────────────────────────

fn to_engine(proxy: &EngineProxy, method: &str, path: &str) -> std::io::Result<(u16, Value)> {
    let address = Address::Unix(proxy.socket().to_owned());
    call(&address, method, path, &[], None).map(|response| (response.status, response.json))
}

/// `docker` through the proxy, with this on its stdin.
fn docker_through(proxy: &EngineProxy, arguments: &[&str], stdin: &[u8]) -> (bool, Vec<u8>) {
    let mut docker = Command::new("docker")
        .args(["-H", &proxy.docker_host()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker command: run contrib/test.sh");
    let mut input = docker.stdin.take().expect("piped");
    input.write_all(stdin).expect("docker reads its stdin");
    drop(input);
    let output = docker.wait_with_output().expect("docker");
    (output.status.success(), output.stdout)
}

#[test]
fn proxy_gives_the_engines_own_answers() {
    let proxy = EngineProxy::start();
    let direct = api("GET", "/version", None).json;
    assert_eq!(to_engine(&proxy, "GET", "/v1.41/version").unwrap(), (200, direct));
    assert_eq!(to_engine(&proxy, "GET", "/containers/no-such/json").unwrap().0, 404);
    assert_eq!(proxy.calls("GET /version"), 1);
    assert_eq!(proxy.calls("GET /containers/*/json"), 1);
    assert_eq!(proxy.all_calls().len(), 2);
}

#[test]
fn proxy_serves_many_calls_on_one_connection() {
    let proxy = EngineProxy::start();
    let mut stream = UnixStream::connect(proxy.socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: engine\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\nOK") {
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(proxy.calls("GET /_ping"), 3);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn container_runs_through_the_proxy_with_its_output_and_exit_code() {
    let proxy = EngineProxy::start();
    let run = ["run", "--rm", "-i", &image("busybox"), "sh", "-c"];
    // Attach is hijacked; its stdin ends before its stdout does.
    let (ok, output) = docker_through(&proxy, &[&run[..], &["cat; echo end"]].concat(), b"in\n");
    assert!(ok);
    assert_eq!(String::from_utf8_lossy(&output), "in\nend\n");
    let (ok, _) = docker_through(&proxy, &[&run[..], &["exit 3"]].concat(), b"");
    assert!(!ok);
    assert_eq!(proxy.calls("POST /containers/create"), 2);
    assert_eq!(proxy.seen("POST /containers/create")[0].body["Image"], image("busybox"));
    assert!(wait_until(SOON, || proxy.connections() == 0));
}

#[test]
fn images_stream_through_the_proxy_both_ways() {
    let proxy = EngineProxy::start();
    let (ok, archive) = docker_through(&proxy, &["save", &image("busybox")], b"");
    assert!(ok && archive.len() > 1_000_000);
    let (ok, said) = docker_through(&proxy, &["load"], &archive);
    assert!(ok);
    assert!(String::from_utf8_lossy(&said).contains(&image("busybox")));
    assert_eq!(proxy.calls("POST /images/load"), 1);
}

#[test]
fn events_stream_through_the_proxy_until_they_are_cut() {
    let proxy = EngineProxy::start();
    let name = test_name("events");
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 1;
    docker(&["create", "--name", &name, &image("busybox"), "true"]);
    let mut stream = UnixStream::connect(proxy.socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let request = format!("GET /v1.41/events?since={before} HTTP/1.1\r\nHost: engine\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut seen = String::new();
    let mut piece = [0; 4096];
    while !seen.contains("destroy") || !seen.contains(&name) {
        let bytes = stream.read(&mut piece).unwrap();
        assert_ne!(bytes, 0, "ended after {seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..bytes]));
        // An event of now, after those of before.
        remove_container(&name);
    }
    proxy.cut("GET /events");
    assert!(stream.read_to_end(&mut Vec::new()).is_ok());
    assert!(wait_until(SOON, || proxy.connections() == 0));
}

#[test]
fn caller_that_leaves_takes_its_call_at_the_engine_along() {
    let proxy = EngineProxy::start();
    let mut stream = UnixStream::connect(proxy.socket()).unwrap();
    stream.write_all(b"GET /v1.41/events HTTP/1.1\r\nHost: engine\r\n\r\n").unwrap();
    proxy.wait_calls("GET /events", 1, SOON);
    assert_eq!(proxy.connections(), 1);
    drop(stream);
    assert!(wait_until(SOON, || proxy.connections() == 0));
}

// ── the proxy, misbehaving ───────────────────────────────────────────────────────────────────

#[test]
fn hung_call_reaches_the_engine_only_when_released() {
    let proxy = EngineProxy::start();
    proxy.on("GET", "/version", Behaviour::Hang);
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| to_engine(&proxy, "GET", "/version").unwrap());
        assert!(wait_until(SOON, || proxy.held() == 1));
        assert_eq!(to_engine(&proxy, "GET", "/info").unwrap().0, 200);
        assert!(!hung.is_finished());
        proxy.release();
        assert_eq!(hung.join().unwrap().0, 200);
    });
}

#[test]
fn hung_call_whose_caller_left_never_reaches_the_engine() {
    let proxy = EngineProxy::start();
    let name = test_name("hung");
    proxy.on("POST", "/containers/create", Behaviour::Hang);
    let body = json!({ "Image": image("busybox") }).to_string();
    let mut stream = UnixStream::connect(proxy.socket()).unwrap();
    let head = format!("POST /v1.41/containers/create?name={name} HTTP/1.1\r\nHost: engine\r\n");
    let length =
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all([head, length, body].concat().as_bytes()).unwrap();
    assert!(wait_until(SOON, || proxy.held() == 1));
    drop(stream);
    assert!(wait_until(SOON, || proxy.held() == 0));
    proxy.release();
    assert!(!container_exists(&name));
}

#[test]
fn lost_and_held_replies_are_calls_that_the_engine_has_done() {
    let proxy = EngineProxy::start();
    let address = Address::Unix(proxy.socket().to_owned());
    let body = json!({ "Image": image("busybox"), "Cmd": ["true"] });
    let lost = test_name("lost");
    proxy.on_nth(1, "POST", "/containers/create", Behaviour::LoseReply);
    proxy.on_nth(2, "POST", "/containers/create", Behaviour::HangReply);
    let target = format!("/containers/create?name={lost}");
    call(&address, "POST", &target, &[], Some(&body)).unwrap_err();
    assert!(container_exists(&lost));
    remove_container(&lost);
    let held = test_name("held");
    let target = format!("/containers/create?name={held}");
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| call(&address, "POST", &target, &[], Some(&body)).unwrap());
        assert!(wait_until(SOON, || proxy.held() == 1));
        assert!(container_exists(&held));
        proxy.release();
        assert_eq!(creating.join().unwrap().status, 201);
    });
    remove_container(&held);
}

#[test]
fn reply_that_dies_or_hangs_in_the_middle_is_cut_there() {
    let proxy = EngineProxy::start();
    proxy.on_nth(1, "GET", "/version", Behaviour::DieMidReply);
    let cut = to_engine(&proxy, "GET", "/version").unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
    proxy.clear();
    proxy.on("GET", "/version", Behaviour::HangMidReply);
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| to_engine(&proxy, "GET", "/version").unwrap());
        assert!(wait_until(SOON, || proxy.held() == 1));
        assert!(!hung.is_finished());
        proxy.release();
        assert_eq!(hung.join().unwrap(), (200, api("GET", "/version", None).json));
    });
}

#[test]
fn only_the_nth_call_misbehaves_when_so_ruled() {
    let proxy = EngineProxy::start();
    proxy.on_nth(2, "GET", "/version", Behaviour::Reply(500, json!({ "message": "no" })));
    let statuses = [(); 3].map(|()| to_engine(&proxy, "GET", "/version").unwrap().0);
    assert_eq!(statuses, [200, 500, 200]);
}

#[test]
fn dead_garbled_and_slow_calls_are_what_they_say() {
    let proxy = EngineProxy::start();
    proxy.on("GET", "/version", Behaviour::Die);
    to_engine(&proxy, "GET", "/version").unwrap_err();
    proxy.on("GET", "/version", Behaviour::Garbage);
    to_engine(&proxy, "GET", "/version").unwrap_err();
    let slow = Duration::from_millis(200);
    proxy.on("GET", "/version", Behaviour::Slow(slow));
    let since = Instant::now();
    assert_eq!(to_engine(&proxy, "GET", "/version").unwrap().0, 200);
    assert!(since.elapsed() >= slow);
}

#[test]
fn hooks_run_before_the_engine_acts_and_after() {
    let proxy = EngineProxy::start();
    let name = Arc::new(test_name("hook"));
    let existed = [Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false))];
    let look = |existed: &Arc<AtomicBool>| {
        let (name, existed) = (Arc::clone(&name), Arc::clone(existed));
        Arc::new(move || existed.store(container_exists(&name), Ordering::SeqCst))
    };
    proxy.on_nth(1, "POST", "/containers/create", Behaviour::Before(look(&existed[0])));
    docker_through(&proxy, &["create", "--name", &name, &image("busybox"), "true"], b"");
    proxy.on_nth(1, "GET", "/containers/*/json", Behaviour::After(look(&existed[1])));
    docker_through(&proxy, &["inspect", "--type", "container", &name], b"");
    remove_container(&name);
    assert_eq!(existed.map(|existed| existed.load(Ordering::SeqCst)), [false, true]);
}

#[test]
fn paused_proxy_lets_nothing_through_until_resumed() {
    let proxy = EngineProxy::start();
    proxy.pause_all();
    std::thread::scope(|scope| {
        let paused = scope.spawn(|| to_engine(&proxy, "GET", "/version").unwrap());
        sleep(Duration::from_millis(200));
        assert!(!paused.is_finished());
        proxy.resume_all();
        assert_eq!(paused.join().unwrap().0, 200);
    });
}

#[test]
fn proxy_that_is_down_has_no_socket_and_comes_back_on_it() {
    let proxy = EngineProxy::start();
    let mut open = UnixStream::connect(proxy.socket()).unwrap();
    assert!(wait_until(SOON, || proxy.connections() == 1));
    proxy.down();
    assert_eq!(open.read(&mut [0]).unwrap(), 0);
    let gone = to_engine(&proxy, "GET", "/version").unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
    proxy.up();
    assert_eq!(to_engine(&proxy, "GET", "/version").unwrap().0, 200);
}

#[test]
fn fake_engine_answers_only_what_is_scripted() {
    let engine = EngineProxy::fake();
    engine.on("GET", "/_ping", Behaviour::Reply(200, json!("OK")));
    engine.on("GET", "/events", Behaviour::Stream(vec![json!({ "status": "die" })]));
    assert_eq!(to_engine(&engine, "GET", "/_ping").unwrap(), (200, json!("OK")));
    assert_eq!(to_engine(&engine, "GET", "/version").unwrap().0, 404);
    std::thread::scope(|scope| {
        let events = scope.spawn(|| to_engine(&engine, "GET", "/events"));
        engine.wait_calls("GET /events", 1, SOON);
        sleep(Duration::from_millis(50));
        assert!(!events.is_finished());
        engine.cut("GET /events");
        assert!(events.join().unwrap().is_err());
    });
}

// ── the rest ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn unique_ids_are_task_ids_beyond_what_a_float_holds() {
    let (first, second) = (unique_id(), unique_id());
    assert!(second > first);
    assert!(first > 1 << 53 && i64::try_from(second).is_ok());
}

#[test]
fn wait_until_gives_up_at_its_deadline() {
    let since = Instant::now();
    assert!(!wait_until(Duration::from_millis(50), || false));
    assert!(since.elapsed() < SOON);
}

#[test]
fn answer_before_the_request_was_read_is_still_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let server = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n").unwrap();
        sleep(Duration::from_millis(100));
    });
    let answer = call(&address, "POST", "/", &[], Some(&json!("x".repeat(64)))).unwrap();
    assert_eq!(answer.status, 413);
    server.join().unwrap();
}

#[test]
fn own_engine_runs_a_task_hangs_goes_on_and_leaves_nothing() {
    let mut engine = OwnEngine::start(&["busybox"]);
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).own_engine(&engine).start();
    let id = execute(&daemon, "exit 7");
    assert_eq!(host.wait_final(id, SOON).exit_code, Some(7));
    engine.hang();
    let ping = |engine: &OwnEngine| engine.client().try_api("GET", "/_ping", None);
    engine.go_on();
    assert!(ping(&engine).is_ok());
    engine.kill9();
    assert!(ping(&engine).is_err());
    engine.start_again();
    engine.stop();
    engine.start_again();
}

#[test]
fn own_engine_takes_a_paused_container_along() {
    let engine = OwnEngine::start(&["busybox"]);
    let name = test_name("paused");
    engine.client().docker(&["run", "-d", "--name", &name, &image("busybox"), "sleep", "600"]);
    let pid = engine.client().inspect(&name).unwrap()["State"]["Pid"].clone();
    engine.client().docker(&["pause", &name]);
    drop(engine);
    // Nobody may have reaped it yet; a zombie has no command line.
    let runs = || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert!(wait_until(SOON, || !runs()), "process {pid} is left behind");
}
