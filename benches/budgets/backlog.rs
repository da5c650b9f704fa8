//! What a day without a host costs: a start with its reports in the state directory, memory while
//! they are told, how fast they are told, and how `/health` answers meanwhile. The host of this
//! program answers at once; a real one sets the pace.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::budget::{Figures, median};
use crate::host::Host;
use crate::place::{Place, unique_id};
use crate::runner::Runner;

/// More than one task ends in each second of a day.
const REPORTS: usize = 100_000;
/// How often `/health` is asked while they are told.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn run(place: &Place, figures: &mut Figures) {
    let count = place.pick(REPORTS, 50);
    let host = Host::start();
    let mut runner = Runner::prepare(place, Some(&host));
    runner.exec();
    let id = unique_id();
    let body = runner.execute_body(&place.environment(), id, "true");
    let answer = runner.connect().call("POST", "/api/execute", Some(&body));
    answer.expect("the runner answers").expect(200);
    host.wait_final(id);
    runner.wait_no_tasks();
    runner.end();
    leave_reports(&runner.state_dir(), id, count);

    let since = Instant::now();
    runner.exec();
    let mut http = runner.connect();
    http.call("GET", "/health", None).expect("the runner answers").expect(200);
    figures.tell("backlog_start_ms", since.elapsed().as_secs_f64() * 1e3);

    let mut answers = Vec::new();
    let mut peak = 0.0_f64;
    loop {
        let asked = Instant::now();
        let health = http.call("GET", "/health", None).expect("the runner answers").expect(200);
        answers.push(asked.elapsed().as_secs_f64() * 1e3);
        peak = peak.max(runner.pss_bytes());
        if health["reports"]["unsent"] == 0 {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    figures.tell("backlog_reports", count as f64 / since.elapsed().as_secs_f64());
    figures.tell("backlog_health_ms", median(answers));
    figures.tell("backlog_peak_mb", peak / 1e6);
}

/// What a run leaves that was without its host: the record of task `id`, as if it had not been told,
/// once for each of many tasks.
fn leave_reports(state_dir: &Path, id: u64, count: usize) {
    let file = std::fs::read(state_dir.join("ended").join(format!("{id}.json")));
    let mut record: Value = serde_json::from_slice(&file.expect("a record")).expect("JSON");
    record["reports"] = json!(["Final"]);
    for _ in 0..count {
        let id = unique_id();
        record["spec"]["id"] = json!(id);
        let path = state_dir.join("untold").join(format!("{id}.json"));
        std::fs::write(path, record.to_string()).expect("a file");
    }
}
