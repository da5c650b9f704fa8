//! One task after the other, each beside the same calls made to the Engine by hand: what the runner
//! adds between a task's acceptance and its start, and between its end and the host's knowledge.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
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
use crate::http::{self, Http};
use crate::place::{Place, unique_id};
use crate::runner::{Events, Runner};

/// Long enough to read the runner's figures between the start and the end.
const COMMAND: &str = "sleep 0.3";

/// Before each start: the kernel is still taking down the network of the container before it.
pub const BREATH: Duration = Duration::from_millis(200);

/// The two ways to start a container, and who sees what becomes of it.
struct Bench {
    environment: String,
    runner: Runner,
    client: Http<TcpStream>,
    events: Events,
    host: Host,
    settings: Settings,
    engine: Engine,
    ends: Ends,
}

/// What one task took, in milliseconds.
struct Took {
    accepted_to_started: f64,
    /// The runner's Engine calls until then.
    engine_calls: f64,
    /// From the Engine's stamp of the end to the host.
    exit_to_report: f64,
    /// From the same stamp to a reader of the Engine's events.
    exit_to_event: f64,
}

pub fn run(place: &Place, figures: &mut Figures) {
    let mut bench = Bench::start(place);
    let scratch = place.directory("records");
    // The first ones make the network and fill the caches of both sides.
    bench.by_runner();
    bench.by_hand();
    let (mut tasks, mut raw, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..place.pick(50, 2) {
        // In turn: whoever comes second finds the machine busy with the end of the first.
        if number % 2 == 0 {
            tasks.push(bench.by_runner());
            raw.push(bench.by_hand());
        } else {
            raw.push(bench.by_hand());
            tasks.push(bench.by_runner());
        }
        writes.push(writes_by_hand(&scratch));
    }
    let floor = median(raw);
    let of = |figure: fn(&Took) -> f64| median(tasks.iter().map(figure).collect());
    figures.tell_beside("start_ms", of(|took| took.accepted_to_started), floor);
    figures.tell_beside("engine_calls_ms", of(|took| took.engine_calls), floor);
    let own = of(|took| took.accepted_to_started - took.engine_calls);
    figures.tell_beside("start_own_ms", own, median(writes));
    let event = of(|took| took.exit_to_event);
    figures.tell_beside("exit_report_ms", of(|took| took.exit_to_report), event);
}

impl Bench {
    fn start(place: &Place) -> Bench {
        let host = Host::start();
        let environment = place.environment();
        let runner = Runner::start(place, Some(&host));
        Bench {
            environment,
            client: runner.connect(),
            events: runner.events(),
            settings: settings(place, &runner),
            runner,
            host,
            engine: Engine::connect(),
            ends: Ends::listen(place.node_id()),
        }
    }

    /// A task from its dispatch to its removal.
    fn by_runner(&mut self) -> Took {
        sleep(BREATH);
        let id = unique_id();
        let body = self.runner.execute_body(&self.environment, id, COMMAND);
        let before = self.runner.engine_micros(&mut self.client);
        self.ask("POST", "/api/execute", Some(&body));
        let started = self.events.wait("started");
        let engine_calls = (self.runner.engine_micros(&mut self.client) - before) / 1e3;
        let end = self.ends.of(&container(id));
        let told = self.host.wait_final(id);
        let task = self.ask("GET", &format!("/api/tasks/{id}"), None);
        self.runner.wait_no_tasks();
        Took {
            // The event comes when the Engine has answered; the record's own time may be that of
            // the first output, which comes before.
            accepted_to_started: millis(&task["phases"]["accepted"], &started["at"]),
            engine_calls,
            exit_to_report: (told - end.stamped) as f64 / 1e6,
            exit_to_event: (end.read - end.stamped) as f64 / 1e6,
        }
    }

    /// The calls that the runner makes for such a task, with the same bodies; how many milliseconds
    /// they take.
    fn by_hand(&mut self) -> f64 {
        sleep(BREATH);
        let id = unique_id();
        let execute = self.runner.execute_body(&self.environment, id, COMMAND);
        let record = record(&self.settings, &execute);
        let logs = &record.spec.command().expect("a command").logs;
        std::fs::create_dir_all(&logs.directory).expect("a directory");
        let name = container(id);
        let registered = std::net::Ipv4Addr::LOCALHOST;
        let body = create_body(&self.settings, &facts(&self.settings), registered, &record);
        let body = serde_json::to_value(body).expect("JSON");
        let image = format!("/images/{}/json", record.spec.image.reference());
        let look = http::request("GET", &image, None);
        let create = http::request("POST", &format!("/containers/create?name={name}"), Some(&body));
        let start = http::request("POST", &format!("/containers/{name}/start"), None);

        let since = Instant::now();
        let answers = [look, create, start].map(|request| self.engine.exchange(&request).status);
        let took = since.elapsed();
        assert_eq!(answers, [200, 201, 204]);
        self.ends.of(&name);
        self.engine.remove_container(&name);
        took.as_secs_f64() * 1e3
    }

    fn ask(&mut self, method: &str, target: &str, body: Option<&Value>) -> Value {
        self.client.call(method, target, body).expect("the runner answers").expect(200)
    }
}

fn container(id: u64) -> String {
    format!("kohakuriver-task-{id}")
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

/// The settings that this runner has.
pub fn settings(place: &Place, runner: &Runner) -> Settings {
    let network = place.network();
    Settings {
        shared_dir: runner.shared_dir.clone(),
        local_temp_dir: runner.local_temp_dir.clone(),
        docker_network_name: network.name,
        docker_network_subnet: network.subnet.parse().expect("a subnet"),
        docker_network_gateway: network.gateway.parse().expect("an address"),
        node_id: place.node_id().to_owned(),
        ..Settings::default()
    }
}

pub fn facts(settings: &Settings) -> NetworkFacts {
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
