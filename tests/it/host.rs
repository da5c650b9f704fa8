//! The runner towards its host (contract 3, design law 6): it registers, beats and reports, and a
//! host that is away, hangs or talks nonsense neither stops a task nor loses its outcome.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, mpsc};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use serde_json::{Value, json};

use crate::kit::{
    Address, Behaviour, Daemon, EngineProxy, FakeHost, Fault, Moment, SOON, Verdict, call,
    container_exists, execute, execute_body, node_of, remove_container, task_container, unique_id,
    wait_until,
};

/// What a call takes that waits for nobody, on a loaded machine; every fault here lasts longer.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The longest pauses of the outbox and of registering (10 and 15 s), and a call's deadline.
const AFTER_AN_OUTAGE: Duration = Duration::from_secs(45);

fn reports_fail(host: &FakeHost) {
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
}

/// Returns once the node knows that the host has heard from it: the second beat follows the first
/// one's answer.
fn wait_contact(host: &FakeHost) {
    host.wait_registered();
    host.wait_beats(2, SOON);
}

fn is_listed(host: &FakeHost, id: u64) -> bool {
    host.wait_beats(1, AFTER_AN_OUTAGE).running_tasks.contains(&id)
}

fn health(daemon: &Daemon) -> Value {
    daemon.get("/health").expect(200).json
}

// ── register ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn node_answers_at_the_registered_url_before_the_host_has_its_registration() {
    let host = FakeHost::start();
    let (tell, told) = mpsc::channel();
    host.on_register(move |body| {
        let url = body["url"].as_str().expect("a url");
        let address: SocketAddr = url.trim_start_matches("http://").parse().expect("an address");
        let answer = call(&Address::Tcp(address), "GET", "/health", &[], None);
        tell.send(answer.map(|answer| answer.status).map_err(|e| e.to_string())).expect("a test");
    });
    let daemon = node_of(&host);
    assert_eq!(told.recv_timeout(SOON).expect("a registration"), Ok(200));
    assert_eq!(host.wait_registered().body["url"], format!("http://127.0.0.1:{}", daemon.port()));
}

#[test]
fn registration_has_the_fields_of_the_contract_and_their_types() {
    let host = FakeHost::start();
    let _daemon = Daemon::builder().host(&host).set("hostname", "node-7.lab").start();
    let body = host.wait_registered().body;
    let mut keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(
        keys,
        ["gpu_info", "hostname", "numa_topology", "total_cores", "total_ram_bytes", "url"]
    );
    assert_eq!(body["hostname"], "node-7.lab");
    assert!(body["total_cores"].as_u64().unwrap() > 0);
    assert!(body["total_ram_bytes"].as_u64().unwrap() > 0);
    assert!(body["gpu_info"].is_array());
    assert_eq!(host.wait_beats(1, SOON).hostname, "node-7.lab");
}

/// A machine as sysfs shows it: `(path below the root, content)`.
fn sysfs(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (path, content) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, content).expect("a file");
    }
    root
}

fn registered_on(files: &[(&str, &str)]) -> Value {
    let root = sysfs(files);
    let host = FakeHost::start();
    let root_text = root.path().to_str().expect("a plain path");
    let _daemon = Daemon::builder().host(&host).set("sysfs_root", root_text).start();
    host.wait_registered().body
}

#[test]
fn two_numa_nodes_are_registered_with_cores_and_memory() {
    let body = registered_on(&[
        ("devices/system/cpu/online", "0-3\n"),
        ("devices/system/node/node0/cpulist", "0-1\n"),
        ("devices/system/node/node0/meminfo", "Node 0 MemTotal:  1024 kB\n"),
        ("devices/system/node/node1/cpulist", "2-3\n"),
        ("devices/system/node/node1/meminfo", "Node 1 MemTotal:  2048 kB\n"),
    ]);
    assert_eq!(body["total_cores"], 4);
    assert_eq!(
        body["numa_topology"],
        json!({
            "0": { "cores": [0, 1], "memory_bytes": 1_048_576 },
            "1": { "cores": [2, 3], "memory_bytes": 2_097_152 },
        })
    );
}

#[test]
fn four_numa_nodes_with_holes_keep_their_numbers() {
    let body = registered_on(&[
        ("devices/system/cpu/online", "0-2,4-5,8-10\n"),
        ("devices/system/node/node0/cpulist", "0-1\n"),
        ("devices/system/node/node2/cpulist", "2-3\n"),
        ("devices/system/node/node5/cpulist", "4-5\n"),
        ("devices/system/node/node8/cpulist", "8-10\n"),
        ("devices/system/node/node8/meminfo", "Node 8 MemTotal:  4 kB\n"),
    ]);
    assert_eq!(body["total_cores"], 8);
    assert_eq!(
        body["numa_topology"],
        json!({
            "0": { "cores": [0, 1], "memory_bytes": null },
            "2": { "cores": [2], "memory_bytes": null },
            "5": { "cores": [4, 5], "memory_bytes": null },
            "8": { "cores": [8, 9, 10], "memory_bytes": 4096 },
        })
    );
}

#[test]
fn numa_node_of_memory_only_is_not_registered() {
    let body = registered_on(&[
        ("devices/system/cpu/online", "0-1\n"),
        ("devices/system/node/node0/cpulist", "0-1\n"),
        ("devices/system/node/node0/meminfo", "Node 0 MemTotal:  8 kB\n"),
        ("devices/system/node/node1/cpulist", "\n"),
        ("devices/system/node/node1/meminfo", "Node 1 MemTotal:  800 kB\n"),
    ]);
    assert_eq!(body["numa_topology"], json!({ "0": { "cores": [0, 1], "memory_bytes": 8192 } }));
}

#[test]
fn node_registers_once_a_host_that_was_down_is_there() {
    let host = FakeHost::start();
    host.down();
    let daemon = node_of(&host);
    assert!(wait_until(SOON, || health(&daemon)["host"]["trouble"].is_string()));
    let id = execute(&daemon, "exit 4");
    daemon.wait_status(id, "failed");
    assert_eq!(health(&daemon)["host"]["registered"], false);
    host.up();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(4));
    assert!(wait_until(SOON, || health(&daemon)["host"]["registered"] == true));
    assert_eq!(health(&daemon)["host"]["trouble"], Value::Null);
}

#[test]
fn node_whose_registration_fails_in_every_way_tries_again() {
    let host = FakeHost::start();
    host.fail_next(1, "POST /api/register", Fault::Status(500));
    host.fail_next(1, "POST /api/register", Fault::Garbage);
    host.fail_next(1, "POST /api/register", Fault::Status(422));
    let _daemon = node_of(&host);
    host.wait_registered();
    host.wait_beats(1, SOON);
    assert_eq!(host.registrations().len(), 1);
}

#[test]
fn node_registers_again_when_the_host_has_forgotten_it() {
    let host = FakeHost::start();
    let _daemon = node_of(&host);
    wait_contact(&host);
    host.forget_nodes();
    assert!(wait_until(SOON, || host.registrations().len() == 2));
    assert_eq!(host.wait_beats(2, SOON).status, 200);
    assert_eq!(host.registrations().len(), 2);
}

#[test]
fn host_that_forgets_the_node_again_and_again_is_asked_at_the_pace_of_heartbeats() {
    let host = FakeHost::start();
    host.fail_next(usize::MAX, "PUT /api/heartbeat", Fault::Status(404));
    let _daemon = node_of(&host);
    host.wait_registered();
    sleep(Duration::from_secs(3));
    // With a heartbeat a second these are four; without a pause they are hundreds.
    assert!(host.registrations().len() <= 8, "{}", host.registrations().len());
}

// ── heartbeat ────────────────────────────────────────────────────────────────────────────────

#[test]
fn first_heartbeat_follows_the_registration_at_once() {
    let host = FakeHost::start();
    // The longest there is: a beat by the clock would miss the test's patience.
    let _daemon = Daemon::builder().host(&host).set("heartbeat_interval_seconds", 60).start();
    assert!(wait_until(SOON, || !host.beats().is_empty()));
    assert_eq!(host.beats()[0].status, 200);
}

#[test]
fn heartbeat_does_not_use_a_connection_that_the_host_is_about_to_close() {
    let host = FakeHost::start();
    // The host's server closes a connection after 5 s without a call: just then the beat comes.
    let _daemon = Daemon::builder().host(&host).set("heartbeat_interval_seconds", 5).start();
    assert!(wait_until(SOON, || host.beats().len() == 1));
    let before = host.connections_seen();
    host.wait_beats(1, SOON);
    assert_eq!(host.connections_seen(), before + 1);
}

#[test]
fn heartbeat_has_every_field_of_the_contract_with_its_type() {
    let root = sysfs(&[
        ("devices/system/cpu/online", "0\n"),
        ("class/hwmon/hwmon3/temp1_input", "40000\n"),
        ("class/hwmon/hwmon3/temp2_input", "50000\n"),
    ]);
    let host = FakeHost::start();
    let root_text = root.path().to_str().expect("a plain path");
    let _daemon = Daemon::builder().host(&host).set("sysfs_root", root_text).start();
    host.wait_registered();
    let body = host.wait_beats(2, SOON).body;
    let mut keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(
        keys,
        [
            "cpu_percent",
            "current_avg_temp",
            "current_max_temp",
            "gpu_info",
            "killed_tasks",
            "memory_percent",
            "memory_total_bytes",
            "memory_used_bytes",
            "runner_version",
            "running_tasks",
            "vfio_gpus",
            "vm_capable",
        ]
    );
    assert_eq!(body["running_tasks"], json!([]));
    assert_eq!(body["killed_tasks"], json!([]));
    assert!((0.0..=100.0).contains(&body["cpu_percent"].as_f64().unwrap()));
    assert!((0.0..=100.0).contains(&body["memory_percent"].as_f64().unwrap()));
    let used = body["memory_used_bytes"].as_u64().unwrap();
    assert!(used < body["memory_total_bytes"].as_u64().unwrap());
    assert_eq!(body["current_avg_temp"], 45.0);
    assert_eq!(body["current_max_temp"], 50.0);
    assert_eq!(body["gpu_info"], json!([]));
    assert_eq!(body["vm_capable"], false);
    assert_eq!(body["vfio_gpus"], Value::Null);
    assert!(body["runner_version"].is_string());
}

#[test]
fn task_is_listed_while_its_image_is_prepared_and_while_it_is_paused() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    engine.on_nth(1, "POST", "/images/create", Behaviour::Hang);
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    wait_contact(&host);
    let id = execute(&daemon, "sleep 60");
    engine.wait_calls("POST /images/create", 1, SOON);
    host.wait_beats(1, SOON);
    assert!(is_listed(&host, id));
    assert!(!container_exists(&task_container(id)));
    engine.release();
    daemon.wait_status(id, "running");
    daemon.control("pause", id).expect(200);
    host.wait_beats(1, SOON);
    assert!(is_listed(&host, id));
}

// ── reports ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn task_is_reported_pending_running_and_final_with_one_start_time() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let id = execute(&daemon, "sleep 1; exit 7");
    let last = host.wait_final(id, SOON);
    assert_eq!(host.accepted_of(id), ["pending", "running", "failed"]);
    assert_eq!(last.exit_code, Some(7));
    assert!(last.message.as_deref().unwrap().contains('7'), "{:?}", last.message);
    assert_eq!(last.ssh_port, None);
    let reports = host.reports_of(id);
    assert!(reports.iter().all(|report| report.started_at == last.started_at));
    assert!(last.completed_at > last.started_at);
    assert_eq!(reports[0].completed_at, None);
    assert_eq!(reports[1].completed_at, None);
}

#[test]
fn success_is_reported_with_code_0_and_no_message() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let last = host.wait_final(execute(&daemon, "true"), SOON);
    assert_eq!((last.status.as_str(), last.exit_code), ("completed", Some(0)));
    assert_eq!(last.message, None);
}

#[test]
fn end_that_a_host_missed_is_told_alone_and_once() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    host.down();
    let id = execute(&daemon, "exit 3");
    daemon.wait_status(id, "failed");
    host.up();
    let last = host.wait_final(id, AFTER_AN_OUTAGE);
    assert_eq!(last.exit_code, Some(3));
    assert!(last.started_at.is_some() && last.completed_at.is_some());
    host.wait_beats(3, SOON);
    // What the final makes stale was never sent, and the final is not repeated.
    assert_eq!(host.accepted_of(id), ["failed"]);
}

#[test]
fn reports_of_many_tasks_are_all_told_in_order_after_an_outage() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    host.down();
    let ended = [(); 3].map(|()| execute(&daemon, "exit 3"));
    let running = execute(&daemon, "sleep 60");
    ended.iter().for_each(|&id| drop(daemon.wait_status(id, "failed")));
    daemon.wait_status(running, "running");
    host.up();
    ended.iter().for_each(|&id| drop(host.wait_final(id, AFTER_AN_OUTAGE)));
    host.wait_status(running, "running", SOON);
    assert_eq!(host.accepted_of(running), ["pending", "running"]);
}

#[test]
fn final_whose_answer_was_lost_is_told_again_until_it_is_acknowledged() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let id = execute(&daemon, "sleep 2");
    host.wait_status(id, "running", SOON);
    host.fail_next(1, "POST /api/update", Fault::LostAnswer);
    host.fail_next(1, "POST /api/update", Fault::HalfAnswer);
    assert!(wait_until(SOON, || host.accepted_of(id).len() == 5));
    host.wait_beats(3, SOON);
    assert_eq!(host.accepted_of(id), ["pending", "running", "completed", "completed", "completed"]);
}

#[test]
fn task_stays_listed_until_its_final_is_acknowledged() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    reports_fail(&host);
    let id = execute(&daemon, "true");
    daemon.wait_status(id, "completed");
    host.wait_beats(1, SOON);
    assert!(is_listed(&host, id));
    host.heal();
    host.wait_final(id, SOON);
    host.wait_beats(1, SOON);
    assert!(!is_listed(&host, id));
}

#[test]
fn report_that_the_host_calls_malformed_is_set_aside_and_shown() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    host.fail_next(1, "POST /api/update", Fault::Status(422));
    let id = execute(&daemon, "sleep 1");
    host.wait_final(id, SOON);
    assert_eq!(host.accepted_of(id), ["running", "completed"]);
    let health = health(&daemon);
    assert_eq!(health["reports"]["set_aside"], 1);
    assert!(health["warnings"].to_string().contains("malformed"), "{health:#}");
}

#[test]
fn final_that_the_host_calls_malformed_does_not_keep_its_task_listed() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    let id = execute(&daemon, "sleep 2");
    host.wait_status(id, "running", SOON);
    host.fail_next(1, "POST /api/update", Fault::Status(422));
    daemon.wait_status(id, "completed");
    assert!(wait_until(SOON, || !is_listed(&host, id)));
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
    assert_eq!(host.accepted_of(id), ["pending", "running"]);
}

// ── what a refusal means ─────────────────────────────────────────────────────────────────────

#[test]
fn task_that_the_user_ended_before_the_node_had_it_never_runs() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    let id = unique_id();
    host.set_status(id, "killed");
    daemon.post("/api/execute", &execute_body(&daemon, id, "sleep 60")).expect(200);
    daemon.wait_status(id, "killed");
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
    host.wait_beats(2, SOON);
    assert_eq!(host.accepted_of(id), [""; 0]);
    assert!(!is_listed(&host, id));
}

#[test]
fn task_that_the_user_ended_while_its_image_was_prepared_is_stopped() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    engine.on_nth(1, "POST", "/images/create", Behaviour::Hang);
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    wait_contact(&host);
    let id = execute(&daemon, "sleep 60");
    host.wait_status(id, "pending", SOON);
    engine.wait_calls("POST /images/create", 1, SOON);
    // The host sends no kill then (contract 3.3).
    host.set_status(id, "killed");
    engine.release();
    daemon.wait_status(id, "killed");
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
    assert_eq!(host.accepted_of(id), ["pending"]);
    assert_eq!(host.status_of(id).as_deref(), Some("killed"));
}

#[test]
fn task_that_a_silent_node_lost_runs_on_and_its_end_is_told() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    engine.on_nth(1, "POST", "/images/create", Behaviour::Hang);
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    wait_contact(&host);
    let id = execute(&daemon, "sleep 3; exit 5");
    host.wait_status(id, "pending", SOON);
    host.down();
    // The gap from which on the host may have called the node dead (law 6: 25 s).
    sleep(Duration::from_millis(25_500));
    host.set_status(id, "lost");
    host.up();
    host.wait_beats(1, AFTER_AN_OUTAGE);
    engine.release();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(5));
    // The host's fall may have cut off its answer to `pending`, which is then told again.
    let reports = host.reports_of(id);
    let refused = reports.iter().rfind(|report| report.verdict == Verdict::Refused);
    assert_eq!(refused.map(|report| report.status.as_str()), Some("running"));
}

#[test]
fn task_that_came_before_the_answer_to_the_registration_came_after_no_gap() {
    let host = FakeHost::start();
    host.down();
    let daemon = node_of(&host);
    let (answer, held) = mpsc::channel();
    let held = Mutex::new(held);
    host.on_nth(1, "POST /api/register", Moment::After, move |_| {
        let _ = held.lock().expect("one call").recv_timeout(SOON);
    });
    host.up();
    host.wait_registered();
    let id = unique_id();
    host.set_status(id, "killed");
    daemon.post("/api/execute", &execute_body(&daemon, id, "sleep 60")).expect(200);
    answer.send(()).expect("a call that waits");
    daemon.wait_status(id, "killed");
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
    assert_eq!(host.accepted_of(id), [""; 0]);
}

#[test]
fn task_accepted_before_the_first_contact_runs_on_when_its_report_is_refused() {
    let host = FakeHost::start();
    host.down();
    let daemon = node_of(&host);
    let id = execute(&daemon, "sleep 30");
    daemon.wait_status(id, "running");
    host.set_status(id, "lost");
    host.up();
    let is_refused =
        |host: &FakeHost| host.reports_of(id).iter().any(|r| r.verdict == Verdict::Refused);
    assert!(wait_until(AFTER_AN_OUTAGE, || is_refused(&host)));
    host.wait_beats(2, SOON);
    assert_eq!(daemon.wait_status(id, "running")["status"], "running");
    assert!(is_listed(&host, id));
}

// ── kill ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn kill_drops_the_reports_that_wait() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    reports_fail(&host);
    let id = execute(&daemon, "sleep 60");
    daemon.wait_status(id, "running");
    daemon.control("kill", id).expect(200);
    daemon.wait_status(id, "killed");
    host.heal();
    host.wait_beats(3, SOON);
    assert_eq!(host.accepted_of(id), [""; 0]);
    assert!(!is_listed(&host, id));
    assert!(daemon.containers().is_empty());
}

#[test]
fn kill_drops_also_a_final_that_waits() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    reports_fail(&host);
    let id = execute(&daemon, "true");
    daemon.wait_status(id, "completed");
    daemon.control("kill", id).expect(200);
    host.heal();
    host.wait_beats(3, SOON);
    assert_eq!(host.accepted_of(id), [""; 0]);
    assert!(!is_listed(&host, id));
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
}

#[test]
fn nothing_is_told_after_a_kill() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let id = execute(&daemon, "sleep 60");
    host.wait_status(id, "running", SOON);
    daemon.control("kill", id).expect(200);
    daemon.wait_status(id, "killed");
    host.wait_beats(2, SOON);
    assert_eq!(host.accepted_of(id), ["pending", "running"]);
}

/// A listener whose queue is full: who connects waits, and the kernel knocks again each second or two.
struct FullQueue {
    _listener: OwnedFd,
    _first: Vec<TcpStream>,
}

impl FullQueue {
    fn on(port: u16) -> FullQueue {
        let listener =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&listener, sockopt::ReuseAddr, &true).unwrap();
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = ([127, 0, 0, 1], port).into();
        let patience = Duration::from_millis(100);
        let mut first = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, patience) {
            first.push(stream);
            assert!(first.len() < 10, "the queue of one is not full with 10");
        }
        FullQueue { _listener: listener, _first: first }
    }
}

#[test]
fn report_that_waits_for_its_connection_is_not_sent_after_a_kill() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    host.wait_registered();
    let (told, killed) = (execute(&daemon, "sleep 60"), execute(&daemon, "sleep 60"));
    host.wait_status(told, "running", SOON);
    host.wait_status(killed, "running", SOON);
    host.down();
    let full = FullQueue::on(host.port());
    remove_container(&task_container(killed));
    daemon.wait_status(killed, "failed");
    // The report is on its way now, and gets no further than a connection that is not taken.
    sleep(Duration::from_secs(1));
    daemon.control("kill", killed).expect(200);
    drop(full);
    host.up();
    remove_container(&task_container(told));
    host.wait_final(told, AFTER_AN_OUTAGE);
    host.wait_beats(2, SOON);
    assert_eq!(host.accepted_of(killed), ["pending", "running"]);
}

// ── hosts in trouble ─────────────────────────────────────────────────────────────────────────

/// While every call to the host meets `fault`, users are answered at once and a task runs to its
/// end; afterwards the host hears of it.
#[track_caller]
fn node_is_untouched_by(fault: Fault) {
    let host = FakeHost::start();
    host.fail(fault);
    let daemon = node_of(&host);
    let since = Instant::now();
    let id = execute(&daemon, "exit 3");
    daemon.get("/health").expect(200);
    daemon.get("/metrics").expect(200);
    assert!(since.elapsed() < AT_ONCE, "three calls took {:?}", since.elapsed());
    daemon.wait_status(id, "failed");
    host.heal();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(3));
    assert!(wait_until(AFTER_AN_OUTAGE, || !is_listed(&host, id)));
}

#[test]
fn host_that_hangs_holds_up_nobody() {
    node_is_untouched_by(Fault::Hang);
}

#[test]
fn host_that_is_slow_holds_up_nobody() {
    node_is_untouched_by(Fault::Slow(Duration::from_secs(4)));
}

#[test]
fn host_that_answers_500_holds_up_nobody() {
    node_is_untouched_by(Fault::Status(500));
}

#[test]
fn host_that_talks_nonsense_holds_up_nobody() {
    node_is_untouched_by(Fault::Garbage);
}

#[test]
fn host_that_breaks_off_its_answers_holds_up_nobody() {
    node_is_untouched_by(Fault::HalfAnswer);
}

#[test]
fn host_that_answers_a_report_with_a_strangers_page_has_not_acknowledged_it() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    wait_contact(&host);
    // Not a word of the contract, yet 200: a proxy in between.
    host.fail_next(2, "POST /api/update", Fault::Status(200));
    let id = execute(&daemon, "sleep 1");
    host.wait_final(id, SOON);
    assert!(host.reports_of(id).iter().filter(|r| r.verdict == Verdict::Unheard).count() == 2);
    assert_eq!(host.accepted_of(id).last().map(String::as_str), Some("completed"));
}

// ── no host ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn standalone_node_calls_nobody_and_cleans_up() {
    let daemon = Daemon::builder().strace(&["-e", "trace=connect"]).start();
    let id = execute(&daemon, "exit 3");
    let task = daemon.wait_status(id, "failed");
    assert_eq!(task["exit_code"], 3);
    assert_eq!(task["unreported"], 0);
    assert!(wait_until(SOON, || daemon.containers().is_empty()));
    assert_eq!(health(&daemon)["host"], json!({ "mode": "standalone" }));
    let connects = std::fs::read_to_string(daemon.strace_path()).unwrap();
    assert!(connects.contains("AF_UNIX"), "strace saw no call to the Engine");
    assert!(!connects.contains("AF_INET"), "{connects}");
}
