//! The runner dies at every system call that a task's record sees, one after the other, while the
//! host is away: whatever was accepted is told once, with one outcome, and no file is left over.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Daemon, FakeHost, Fault, SOON, execute_body, unique_id, wait_until, with};

const AFTER_AN_OUTAGE: Duration = Duration::from_secs(30);
/// Far beyond what the life of one record takes on one thread.
const STRIKES_MAX: usize = 40;

/// What the sweep's task does while it waits for the host.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    TheHostReturns,
    ItIsKilled,
}

/// A task that ends without a container, so that nothing but its record is in play.
fn body(daemon: &Daemon, id: u64) -> Value {
    let fields = json!({ "registry_image": null, "container_name": "nosuch" });
    with(execute_body(daemon, id, "true"), fields)
}

fn names(daemon: &Daemon, directory: &str) -> Vec<String> {
    let names = fs::read_dir(daemon.state_dir().join(directory)).unwrap().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// One life with one death at most; true if it came.
#[track_caller]
fn struck(call: &str, nth: usize, then: Then) -> bool {
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).start();
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    let id = unique_id();
    let mut arguments = vec!["-e".to_owned(), format!("trace={call}")];
    arguments.extend(["-e".to_owned(), format!("inject={call}:signal=KILL:when={nth}")]);
    for directory in ["tasks", "untold", "ended"].map(|name| daemon.state_dir().join(name)) {
        for name in [format!("{id}.json"), format!("{id}.json.new"), String::new()] {
            let path = directory.join(name).to_str().unwrap().trim_end_matches('/').to_owned();
            arguments.extend(["-P".to_owned(), path]);
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    daemon.stop();
    daemon.with_strace(&arguments);
    daemon.launch();
    let alive = wait_until(SOON, || daemon.has_exited() || daemon.try_get("/health").is_ok());
    assert!(alive);
    let mut accepted = false;
    let mut killed = false;
    if !daemon.has_exited() {
        let body = body(&daemon, id);
        let answer = daemon.try_call("POST", "/api/execute", Some(&body));
        accepted = answer.is_ok_and(|answer| answer.status == 200);
        let untold = daemon.state_dir().join("untold").join(format!("{id}.json"));
        assert!(wait_until(SOON, || daemon.has_exited() || untold.exists()));
        if then == Then::ItIsKilled && !daemon.has_exited() {
            let body = json!({"task_id": id, "container_name": format!("kohakuriver-task-{id}")});
            let answer = daemon.try_call("POST", "/api/kill", Some(&body));
            killed = answer.is_ok_and(|answer| answer.status == 200);
        }
        if killed || then == Then::TheHostReturns {
            host.heal();
            let ended = daemon.state_dir().join("ended").join(format!("{id}.json"));
            let over = || ended.exists() && !untold.exists();
            assert!(wait_until(SOON, || daemon.has_exited() || over()), "{call} {nth}");
        }
        // The last call may come a moment after what was waited for.
        std::thread::sleep(Duration::from_millis(150));
    }
    let died = daemon.has_exited();
    if died {
        daemon.wait_exit(SOON);
    } else {
        daemon.stop();
    }
    daemon.without_strace();
    host.heal();
    daemon.restart();
    let unsent = || daemon.get("/health").json["reports"]["unsent"] != 0;
    assert!(wait_until(AFTER_AN_OUTAGE, || !unsent()), "{call} {nth}: still unsent");
    let outcomes = host.accepted_of(id);
    let finals: Vec<&String> = outcomes.iter().filter(|status| *status == "failed").collect();
    let context = format!("{call} {nth}: accepted {accepted}, killed {killed}, told {outcomes:?}");
    eprintln!("{context} died {died}");
    if killed {
        assert!(finals.is_empty(), "{context}");
    } else if accepted && then == Then::TheHostReturns {
        assert!((1..=2).contains(&finals.len()), "{context}");
    }
    assert!(wait_until(SOON, || names(&daemon, "tasks").is_empty()), "{context}");
    assert!(wait_until(SOON, || names(&daemon, "untold").is_empty()), "{context}");
    assert_eq!(names(&daemon, "broken"), [""; 0], "{context}");
    let kept = names(&daemon, "ended");
    let file = format!("{id}.json");
    if accepted {
        assert_eq!(kept, [file], "{context}");
        assert_eq!(daemon.task(id)["unreported"], 0, "{context}");
        daemon.post("/api/execute", &body(&daemon, id)).expect(409);
    }
    died
}

#[track_caller]
fn sweep(then: Then) {
    let mut deaths = 0;
    for call in ["openat", "write", "fsync", "rename", "unlink", "read"] {
        let strikes = (1..=STRIKES_MAX).take_while(|nth| struck(call, *nth, then)).count();
        assert!(strikes < STRIKES_MAX);
        eprintln!("{call}: {strikes} deaths");
        deaths += strikes;
    }
    assert!(deaths >= 15, "{deaths} deaths: the calls are others now");
}

#[test]
fn death_at_any_call_on_a_record_that_waits_for_the_host_tells_it_once() {
    sweep(Then::TheHostReturns);
}

#[test]
fn death_at_any_call_on_a_record_that_is_killed_while_it_waits_tells_nothing() {
    sweep(Then::ItIsKilled);
}
