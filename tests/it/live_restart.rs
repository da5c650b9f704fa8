//! One runner follows another under load: no task is lost, and no request that was answered. A
//! request without an answer is repeated under its key, as the command line does.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kit::{
    Address, Daemon, FakeHost, SOON, call, doomed_body, execute, unique_id, wait_until,
};

const AFTER_AN_OUTAGE: Duration = Duration::from_secs(40);
const RESTARTS: usize = 5;
const CALLERS: usize = 3;
/// Between two restarts, and between two tries of a caller.
const A_WHILE: Duration = Duration::from_millis(300);
const AGAIN: Duration = Duration::from_millis(1);
/// Between two tasks of a caller: enough are under way at each restart, and the host hears of all.
const NEXT: Duration = Duration::from_millis(10);

/// What callers met.
#[derive(Default)]
struct Seen {
    accepted: Mutex<Vec<u64>>,
    /// Failures other than an answer, by kind.
    failures: Mutex<HashMap<ErrorKind, usize>>,
    /// Answers other than 200.
    turned_away: AtomicUsize,
}

impl Seen {
    fn failures(&self, kind: ErrorKind) -> usize {
        self.failures.lock().unwrap().get(&kind).copied().unwrap_or_default()
    }
}

/// Hands in one task after the other until told to stop, each until it is answered.
fn hand_in(address: &Address, template: &Value, over: &AtomicBool, seen: &Seen) {
    while !over.load(Ordering::SeqCst) {
        let id = unique_id();
        let template_id = template["task_id"].as_str().unwrap();
        let body = template.to_string().replace(template_id, &id.to_string());
        let body: Value = serde_json::from_str(&body).unwrap();
        let key = format!("key-{id}");
        let until = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < until, "nobody answers");
            match call(address, "POST", "/api/execute", &[("Idempotency-Key", &key)], Some(&body)) {
                Ok(answer) if answer.status == 200 => break,
                Ok(answer) => {
                    assert_eq!(answer.status, 503, "{}", answer.text());
                    seen.turned_away.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => {
                    *seen.failures.lock().unwrap().entry(error.kind()).or_default() += 1;
                }
            }
            thread::sleep(AGAIN);
        }
        seen.accepted.lock().unwrap().push(id);
        thread::sleep(NEXT);
    }
}

/// Restarts the runner again and again, by `end` and a launch, under callers and two running tasks;
/// then looks that every task has had exactly one outcome. What the callers saw.
fn restart_under_load(host: &FakeHost, daemon: &mut Daemon, end: fn(&mut Daemon)) -> Seen {
    let running = [execute(daemon, "sleep 3; exit 5"), execute(daemon, "sleep 5; exit 6")];
    running.iter().for_each(|&id| drop(daemon.wait_status(id, "running")));
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    let (address, template) = (daemon.address(), doomed_body(daemon, unique_id()));
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| hand_in(&address, &template, &over, &seen));
        }
        for _ in 0..RESTARTS {
            thread::sleep(A_WHILE);
            end(daemon);
            daemon.launch();
            daemon.wait_healthy();
        }
        thread::sleep(A_WHILE);
        over.store(true, Ordering::SeqCst);
    });
    let mut health = Value::Null;
    let all_told = wait_until(AFTER_AN_OUTAGE, || {
        health = daemon.get("/health").expect(200).json;
        health["tasks"]["live"] == 0
    });
    assert!(all_told, "{health:#}");
    assert_eq!(host.wait_final(running[0], AFTER_AN_OUTAGE).exit_code, Some(5));
    assert_eq!(host.wait_final(running[1], AFTER_AN_OUTAGE).exit_code, Some(6));
    let accepted = seen.accepted.lock().unwrap().clone();
    assert!(accepted.len() > RESTARTS * CALLERS, "{} accepted", accepted.len());
    for id in accepted {
        assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).status, "failed");
    }
    seen
}

fn stop(daemon: &mut Daemon) {
    daemon.stop();
}

#[test]
fn restart_by_the_port_loses_no_task_and_no_request_that_was_answered() {
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).start();
    let seen = restart_under_load(&host, &mut daemon, stop);
    assert_eq!(seen.turned_away.load(Ordering::SeqCst), 0);
    assert!(seen.failures(ErrorKind::ConnectionRefused) > 0, "{:?}", seen.failures);
}

#[test]
fn restart_with_a_passed_socket_refuses_and_resets_nobody() {
    let host = FakeHost::start();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut daemon = Daemon::builder().host(&host).activated(tcp, None).start();
    let seen = restart_under_load(&host, &mut daemon, stop);
    assert_eq!(seen.turned_away.load(Ordering::SeqCst), 0);
    assert_eq!(*seen.failures.lock().unwrap(), HashMap::new());
}

#[test]
fn kill_of_a_runner_with_a_passed_socket_refuses_nobody() {
    let host = FakeHost::start();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut daemon = Daemon::builder().host(&host).activated(tcp, None).start();
    let seen = restart_under_load(&host, &mut daemon, Daemon::kill9);
    assert_eq!(seen.turned_away.load(Ordering::SeqCst), 0);
    assert_eq!(seen.failures(ErrorKind::ConnectionRefused), 0);
    // Whoever was being served meets the end of the connection, and nobody else.
    let cut: usize = seen.failures.lock().unwrap().values().sum();
    assert!(cut <= RESTARTS * CALLERS, "{:?}", seen.failures);
}

/// As an upgrade that does not wait: the new process is there before the old one has left.
#[test]
fn successor_that_is_started_early_waits_for_its_predecessor() {
    let host = FakeHost::start();
    let mut first = Daemon::builder().host(&host).start();
    let id = execute(&first, "sleep 2; exit 5");
    host.wait_status(id, "running", SOON);
    let mut second = first.twin();
    second.launch();
    assert!(wait_until(SOON, || second.log().contains("waiting")));
    first.stop();
    second.wait_healthy();
    assert_eq!(host.wait_final(id, AFTER_AN_OUTAGE).exit_code, Some(5));
}
