//! One task after the other, each beside the same calls made to the Engine by hand: what the runner
//! adds between a task's acceptance and its start, and between its end and the host's knowledge.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use river_runner::api::spec::task_spec;
use river_runner::machine::topology;
use river_runner::model::settings::Settings;
use river_runner::model::task::TaskRecord;
use river_runner::model::time::Stamp;
use river_runner::ops::network::NetworkFacts;
use river_runner::ops::task::container::create_body;
use river_runner::wire::api::tasks::ExecuteBody;
use serde_json::Value;

use crate::budget::{Figures, median};
use crate::engine::{Ends, Engine};
use crate::host::Host;
use crate::http;
use crate::place::{Place, unique_id};
use crate::runner::Runner;

/// Long enough to read the runner's figures between the start and the end.
const COMMAND: &str = "sleep 0.3";

/// Before each start: the kernel is still taking down the network of the container before it.
const BREATH: Duration = Duration::from_millis(200);

pub fn run(place: &Place, figures: &mut Figures) {
    let host = Host::start();
    let environment = place.environment();
    let runner = Runner::start(place, Some(&host));
    let network = place.network();
    let settings = Settings {
        shared_dir: runner.shared_dir.clone(),
        local_temp_dir: runner.local_temp_dir.clone(),
        docker_network_name: network.name,
        docker_network_subnet: network.subnet.parse().expect("a subnet"),
        docker_network_gateway: network.gateway.parse().expect("an address"),
        node_id: place.node_id().to_owned(),
        ..Settings::default()
    };
    let scratch = place.directory("records");
    let ends = Ends::listen(place.node_id());
    let mut engine = Engine::connect();
    let mut client = runner.connect();
    let mut events = runner.events();

    let (mut raw, mut writes) = (Vec::new(), Vec::new());
    let (mut start, mut calls, mut own) = (Vec::new(), Vec::new(), Vec::new());
    let (mut report, mut event) = (Vec::new(), Vec::new());
    // The first one makes the network and fills the caches of both sides.
    for number in 0..=place.pick(50, 2) {
        sleep(BREATH);
        let id = unique_id();
        let body = runner.execute_body(&environment, id, COMMAND);
        let before = runner.engine_micros(&mut client);
        client.call("POST", "/api/execute", Some(&body)).expect("the runner answers").expect(200);
        let started = events.wait("started");
        let spent = (runner.engine_micros(&mut client) - before) / 1e3;
        let end = ends.of(&format!("kohakuriver-task-{id}"));
        let told = host.wait_final(id);
        let task = client.call("GET", &format!("/api/tasks/{id}"), None);
        let task = task.expect("the runner answers").expect(200);
        // The event comes when the Engine has answered; the record's own time may be that of the
        // first output, which comes before.
        let took = millis(&task["phases"]["accepted"], &started["at"]);
        runner.wait_no_tasks();

        sleep(BREATH);
        let id = unique_id();
        let execute = runner.execute_body(&environment, id, COMMAND);
        let by_hand = by_hand(&mut engine, &settings, &execute);
        ends.of(&format!("kohakuriver-task-{id}"));
        engine.remove_container(&format!("kohakuriver-task-{id}"));
        if number > 0 {
            raw.push(by_hand);
            writes.push(writes_by_hand(&scratch));
            start.push(took);
            calls.push(spent);
            own.push(took - spent);
            report.push((told - end.stamped) as f64 / 1e6);
            event.push((end.read - end.stamped) as f64 / 1e6);
        }
    }
    let floor = median(raw);
    figures.tell_beside("start_ms", median(start), floor);
    figures.tell_beside("engine_calls_ms", median(calls), floor);
    figures.tell_beside("start_own_ms", median(own), median(writes));
    figures.tell_beside("exit_report_ms", median(report), median(event));
}

/// The calls that the runner makes for this task, with the same bodies; how many milliseconds they
/// take.
fn by_hand(engine: &mut Engine, settings: &Settings, execute: &Value) -> f64 {
    let record = record(settings, execute);
    std::fs::create_dir_all(&record.spec.logs.directory).expect("a directory");
    let name = record.spec.id.task_container();
    let body = create_body(settings, &facts(settings), &record);
    let body = serde_json::to_value(body).expect("JSON");
    let look =
        http::request("GET", &format!("/images/{}/json", record.spec.image.reference()), None);
    let create = http::request("POST", &format!("/containers/create?name={name}"), Some(&body));
    let start = http::request("POST", &format!("/containers/{name}/start"), None);

    let since = Instant::now();
    let answers = [look, create, start].map(|request| engine.exchange(&request).status);
    let took = since.elapsed();
    assert_eq!(answers, [200, 201, 204]);
    took.as_secs_f64() * 1e3
}

/// As many records as are made durable between a task's acceptance and its start, and nothing else;
/// how many milliseconds they take on this disk now.
fn writes_by_hand(directory: &Path) -> f64 {
    /// Accepted, to be created, to be started, running.
    const WRITES: usize = 4;
    const RECORD: [u8; 1500] = [b'x'; 1500];
    let since = Instant::now();
    for _ in 0..WRITES {
        let temporary = directory.join("record.new");
        let mut file = File::create(&temporary).expect("a file");
        file.write_all(&RECORD).expect("a disk with room");
        file.sync_all().expect("a disk");
        std::fs::rename(&temporary, directory.join("record")).expect("a disk");
        File::open(directory).and_then(|directory| directory.sync_all()).expect("a disk");
    }
    since.elapsed().as_secs_f64() * 1e3
}

/// The record that the runner makes of this request.
fn record(settings: &Settings, execute: &Value) -> TaskRecord {
    let topology = topology::read(&settings.sysfs_root);
    let (body, fields) = ExecuteBody::read(execute.to_string().as_bytes()).expect("our own body");
    let spec = task_spec(body, fields, settings, &topology, &facts(settings));
    TaskRecord::accepted(spec.expect("our own body"), Stamp::now(), None, String::new(), vec![])
}

fn facts(settings: &Settings) -> NetworkFacts {
    NetworkFacts {
        subnet: settings.docker_network_subnet,
        gateway: settings.docker_network_gateway,
        differs: false,
    }
}

fn millis(from: &Value, to: &Value) -> f64 {
    let at = |text: &Value| -> DateTime<Utc> {
        text.as_str().and_then(|text| text.parse().ok()).expect("a time")
    };
    (at(to) - at(from)).as_seconds_f64() * 1e3
}
