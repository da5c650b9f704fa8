//! Death at every call on the state directory, one after the other (design laws 1 and 3): whatever a
//! task's record had on disk, an accepted task has one true outcome, and nothing is left over.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::kit::{Daemon, FakeHost, SOON, StateCalls, call, execute_body, unique_id, wait_until};

/// Lives at a time; each is mostly the Engine's work.
const LIVES_AT_ONCE: u64 = 4;
/// A task's six durable writes are some 40 calls, the start is some ten. Where fewer were counted
/// the library has not seen them all.
const CALLS_MIN: u64 = 40;
const CALLS_MAX: u64 = 200;
const AFTER_A_DEATH: Duration = Duration::from_secs(40);

#[test]
fn runner_killed_at_any_call_on_the_state_directory_loses_and_repeats_nothing() {
    let next = AtomicU64::new(1);
    let reached = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..LIVES_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::SeqCst);
                    assert!(nth <= CALLS_MAX, "a task never ends its calls");
                    if !task_outlives_a_death_at(nth) {
                        return;
                    }
                    reached.fetch_max(nth, Ordering::SeqCst);
                }
            });
        }
    });
    let reached = reached.into_inner();
    eprintln!("killed at each of {reached} calls");
    assert!(reached >= CALLS_MIN, "only {reached} calls were met");
}

/// A task from its dispatch to its end, and the runner's death at its `nth` call. False when there
/// were not as many.
fn task_outlives_a_death_at(nth: u64) -> bool {
    let host = FakeHost::start();
    let calls = StateCalls::new();
    let mut builder = Daemon::builder().host(&host);
    for (name, value) in calls.environment() {
        builder = builder.env(name, &value);
    }
    let mut daemon = builder.stopped();
    calls.strike_at(nth, daemon.state_dir());
    daemon.launch();
    let id = unique_id();
    let body = execute_body(&daemon, id, &format!("echo ran >>/shared/{id}; echo said; exit 3"));
    let address = daemon.address();
    // As a host that insists: until it is accepted, under one key.
    let headers = [("Idempotency-Key", "again")];
    let accepted = wait_until(SOON, || {
        revive(&mut daemon);
        call(&address, "POST", "/api/execute", &headers, Some(&body))
            .is_ok_and(|answer| answer.status == 200)
    });
    assert!(accepted, "call {nth}: not accepted\n{}", daemon.log());
    let is_over = |daemon: &Daemon| {
        names(&daemon.state_dir().join("ended")) == [format!("{id}.json")]
            && daemon.containers().is_empty()
    };
    let since = Instant::now();
    let ended = wait_until(AFTER_A_DEATH, || {
        revive(&mut daemon);
        is_over(&daemon)
    });
    let said = host.reports_of(id);
    assert!(ended, "call {nth}: not over after {:?}: {said:?}\n{}", since.elapsed(), daemon.log());
    // The last call of all may be the one, a moment later: whoever looks next finds it done.
    let well = wait_until(SOON, || {
        revive(&mut daemon);
        daemon.try_get("/health").is_ok_and(|answer| answer.status == 200)
    });
    assert!(well, "call {nth}: not well\n{}", daemon.log());
    let finals: Vec<_> = said.iter().filter(|report| report.is_final()).collect();
    assert!(!finals.is_empty(), "call {nth}: nothing told");
    for told in &finals {
        let outcome = (told.status.as_str(), told.exit_code);
        assert_eq!(outcome, ("failed", Some(3)), "call {nth}: {said:?}");
    }
    let first = said.iter().position(|report| report.is_final()).expect("one");
    assert!(said[first..].iter().all(|report| report.is_final()), "call {nth}: {said:?}");
    let runs = fs::read_to_string(daemon.shared_dir().join(format!("shared_data/{id}")));
    assert_eq!(runs.unwrap_or_default(), "ran\n", "call {nth}");
    assert_eq!(daemon.stdout_of(id), "said\n", "call {nth}");
    for directory in ["tasks", "untold", "broken"] {
        let left = names(&daemon.state_dir().join(directory));
        assert!(left.is_empty(), "call {nth}: {directory}/ holds {left:?}");
    }
    assert_eq!(host.take_breaches(), Vec::<String>::new(), "call {nth}");
    calls.has_struck()
}

/// Starts it again if it has died, as a service manager would.
fn revive(daemon: &mut Daemon) {
    if daemon.has_exited() {
        let (code, signal) = daemon.wait_exit(Duration::ZERO);
        assert_eq!((code, signal), (None, Some(9)), "{}", daemon.log());
        daemon.launch();
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
