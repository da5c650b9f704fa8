//! A runner's life: idle after its start, with a thousand tasks behind it, and with many running.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::budget::Figures;
use crate::host::Host;
use crate::place::{Place, unique_id};
use crate::runner::Runner;

/// Tasks under way at a time: the Engine has the machine's cores busy with four.
const AT_ONCE: usize = 8;

pub fn run(place: &Place, figures: &mut Figures) {
    let host = Host::start();
    let environment = place.environment();
    let runner = Runner::start(place, Some(&host));
    let rest = place.pick(Duration::from_secs(10), Duration::from_millis(500));

    host.wait_beats(1);
    sleep(rest);
    figures.tell("idle_pss_mb", runner.pss_bytes() / 1e6);

    let watched = place.pick(Duration::from_secs(60), Duration::from_secs(1));
    let before = runner.cpu();
    sleep(watched);
    let used = runner.cpu() - before;
    figures.tell("idle_cpu_percent", used.as_secs_f64() / watched.as_secs_f64() * 100.0);

    let count = place.pick(1000, 4);
    let before = runner.cpu();
    run_tasks(&runner, &host, &environment, count);
    runner.wait_no_tasks();
    let used = runner.cpu() - before;
    figures.tell("task_cpu_ms", used.as_secs_f64() * 1e3 / count as f64);
    sleep(rest);
    figures.tell("used_pss_mb", runner.pss_bytes() / 1e6);
}

/// Runs tasks that end at once, until the host knows the end of each.
fn run_tasks(runner: &Runner, host: &Host, environment: &str, count: usize) {
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(count) {
            scope.spawn(|| {
                let mut client = runner.connect();
                while taken.fetch_add(1, Ordering::Relaxed) < count {
                    let id = unique_id();
                    let body = runner.execute_body(environment, id, "true");
                    let answer = client.call("POST", "/api/execute", Some(&body));
                    answer.expect("the runner answers").expect(200);
                    host.wait_final(id);
                }
            });
        }
    });
}

/// What memory grows by for each task that was accepted and can't start, the host knowing of it.
pub fn queued_task(place: &Place, figures: &mut Figures) {
    let count = place.pick(2000, 4);
    let settle = place.pick(Duration::from_secs(5), Duration::from_millis(500));
    let host = Host::start();
    let mut runner = Runner::prepare(place, Some(&host));
    runner.without_engine();
    runner.exec();
    let mut client = runner.connect();
    let mut accept = |id: u64| {
        let body = runner.execute_body("none", id, &"x".repeat(1000));
        let answer = client.call("POST", "/api/execute", Some(&body));
        answer.expect("the runner answers").expect(200);
    };
    // Every thread has worked once.
    (0..AT_ONCE).for_each(|_| accept(unique_id()));
    runner.wait_no_reports();
    sleep(settle);
    let before = runner.pss_bytes();
    (0..count).for_each(|_| accept(unique_id()));
    runner.wait_no_reports();
    sleep(settle);
    let grown = runner.pss_bytes() - before;
    figures.tell("queued_task_kb", grown / 1e3 / count as f64);
}

/// What memory grows by for each task that runs, once all is told and quiet. In a runner without a
/// past: what many tasks have left free in the heap would hide it.
pub fn running_task(place: &Place, figures: &mut Figures) {
    let count = place.pick(64, 2);
    // Pool threads end when idle for 2 s; their stacks are no task's.
    let settle = place.pick(Duration::from_secs(5), Duration::from_millis(500));
    let host = Host::start();
    let environment = place.environment();
    let runner = Runner::start(place, Some(&host));
    // Every thread has worked once, every cache is filled.
    run_tasks(&runner, &host, &environment, AT_ONCE);
    runner.wait_no_tasks();
    let mut events = runner.events();
    let mut client = runner.connect();
    sleep(settle);
    let before = runner.pss_bytes();
    let ids: Vec<u64> = (0..count).map(|_| unique_id()).collect();
    for some in ids.chunks(AT_ONCE) {
        for &id in some {
            let body = runner.execute_body(&environment, id, "sleep 600");
            client
                .call("POST", "/api/execute", Some(&body))
                .expect("the runner answers")
                .expect(200);
        }
        some.iter().for_each(|_| drop(events.wait("started")));
    }
    runner.wait_no_reports();
    sleep(settle);
    let grown = runner.pss_bytes() - before;
    figures.tell("running_task_kb", grown / 1e3 / count as f64);
    for id in ids {
        let body = json!({ "task_id": id, "container_name": format!("kohakuriver-task-{id}") });
        client.call("POST", "/api/kill", Some(&body)).expect("the runner answers").expect(200);
    }
    runner.wait_no_tasks();
}
