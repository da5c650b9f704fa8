//! VPS and their snapshots, each beside the same calls made to the Engine by hand.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use river_runner::api::spec::vps_spec;
use river_runner::machine::topology;
use river_runner::model::settings::Settings;
use river_runner::model::task::TaskRecord;
use river_runner::model::time::Stamp;
use river_runner::ops::vps::container::create_body;
use river_runner::wire::api::vps::VpsBody;
use serde_json::{Value, json};

use crate::budget::{Figures, median};
use crate::engine::Engine;
use crate::host::Host;
use crate::http::Http;
use crate::place::{Place, image, unique_id};
use crate::runner::Runner;
use crate::tasks::{BREATH, facts, settings};

/// Has an sshd and its host keys are made at its first start; made by tests/images/build.sh.
const SSH_IMAGE: &str = "127.0.0.1:1/river-test/debian-ssh:latest";
/// Nobody has its other half.
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINtxKjLUE0zuQeHutPaBYMQITx3m6DH484i+6xtGNlIu";
const BANNER_PATIENCE: Duration = Duration::from_secs(60);
const BANNER_AGAIN: Duration = Duration::from_millis(2);
/// What a snapshot has to copy.
const FILE_MIB: u32 = 4;

struct Bench {
    runner: Runner,
    client: Http<TcpStream>,
    engine: Engine,
    settings: Settings,
    _host: Host,
}

pub fn run(place: &Place, figures: &mut Figures) {
    let host = Host::start();
    place.environment();
    let runner = Runner::start(place, Some(&host));
    let mut bench = Bench {
        client: runner.connect(),
        engine: Engine::connect(),
        settings: settings(place, &runner),
        runner,
        _host: host,
    };
    let plain = image(place.node_id());
    // The first ones make the network and fill the caches of both sides.
    bench.create_and_kill(&plain, false);
    bench.by_hand(&plain, false);

    let (ours, raw) = bench.in_turn(place.pick(20, 1), &plain, false);
    figures.tell_beside("vps_create_ms", median(ours), median(raw.clone()));
    if bench.engine.call("GET", &format!("/images/{SSH_IMAGE}/json"), None).status == 200 {
        let (ours, by_hand) = bench.in_turn(place.pick(16, 1), SSH_IMAGE, true);
        figures.tell_beside("vps_ssh_ms", median(ours), median(by_hand));
    } else {
        eprintln!("no {SSH_IMAGE}: tests/images/build.sh makes it");
    }
    let (mut snapshots, mut commits, mut restores) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..place.pick(10, 1) {
        let (snapshot, commit, restore) = bench.snapshot_and_restore(&plain, number % 2 == 0);
        snapshots.push(snapshot);
        commits.push(commit);
        restores.push(restore);
    }
    figures.tell_beside("vps_snapshot_ms", median(snapshots), median(commits));
    figures.tell_beside("vps_restore_ms", median(restores), median(raw));
}

impl Bench {
    /// As many of the runner's as by hand. In turn: whoever comes second finds the machine busy with
    /// the end of the first.
    fn in_turn(&mut self, count: usize, of: &str, with_ssh: bool) -> (Vec<f64>, Vec<f64>) {
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for number in 0..count {
            if number % 2 == 0 {
                ours.push(self.create_and_kill(of, with_ssh));
                raw.push(self.by_hand(of, with_ssh));
            } else {
                raw.push(self.by_hand(of, with_ssh));
                ours.push(self.create_and_kill(of, with_ssh));
            }
        }
        (ours, raw)
    }

    /// Milliseconds until the answer, or until its SSH server speaks.
    fn create_and_kill(&mut self, of: &str, with_ssh: bool) -> f64 {
        sleep(BREATH);
        let id = unique_id();
        let since = Instant::now();
        let created = self.ask("POST", "/api/vps/create", &body(id, of, with_ssh));
        if with_ssh {
            wait_banner(&created["ssh_port"]);
        }
        let took = millis(since);
        self.kill(id);
        took
    }

    fn kill(&mut self, id: u64) {
        self.ask("POST", "/api/kill", &json!({ "task_id": id, "container_name": container(id) }));
        self.runner.wait_no_tasks();
    }

    /// The calls that the runner makes for such a VPS, with the same bodies.
    fn by_hand(&mut self, of: &str, with_ssh: bool) -> f64 {
        sleep(BREATH);
        let id = unique_id();
        let asked = body(id, of, with_ssh).to_string();
        let (asked, fields) = VpsBody::read(asked.as_bytes()).expect("our own body");
        let topology = topology::read(&self.settings.sysfs_root);
        let network = facts(&self.settings);
        let spec = vps_spec(asked, fields, &topology, &network).expect("our own body");
        let record = TaskRecord::accepted(spec, Stamp::now(), None, String::new(), vec![]);
        let vps = record.spec.vps().expect("a VPS");
        let body = create_body(&self.settings, &network, Ipv4Addr::LOCALHOST, &record, vps);
        let body = serde_json::to_value(body).expect("JSON");
        let name = container(id);

        let since = Instant::now();
        let look = self.engine.call("GET", &format!("/images/{of}/json"), None).status;
        let create = format!("/containers/create?name={name}");
        let created = self.engine.call("POST", &create, Some(&body)).status;
        let start = format!("/containers/{name}/start");
        let started = self.engine.call("POST", &start, None).status;
        assert_eq!([look, created, started], [200, 201, 204]);
        let inspected = self.engine.call("GET", &format!("/containers/{name}/json"), None);
        if with_ssh {
            let ports = inspected.expect(200)["NetworkSettings"]["Ports"]["22/tcp"].clone();
            wait_banner(&ports[0]["HostPort"]);
        }
        let took = millis(since);
        self.engine.remove_container(&name);
        took
    }

    /// Milliseconds of a snapshot, of a raw commit of the same container, and of the create after
    /// its stop.
    fn snapshot_and_restore(&mut self, of: &str, is_ours_first: bool) -> (f64, f64, f64) {
        sleep(BREATH);
        let id = unique_id();
        self.ask("POST", "/api/vps/create", &body(id, of, false));
        self.fill(id);
        let (snapshot, commit) = if is_ours_first {
            let snapshot = self.snapshot(id);
            (snapshot, self.commit(id))
        } else {
            let commit = self.commit(id);
            (self.snapshot(id), commit)
        };
        self.ask("POST", &format!("/api/vps/stop/{id}"), &json!({}));
        sleep(BREATH);
        let since = Instant::now();
        self.ask("POST", "/api/vps/create", &body(id, of, false));
        let restore = millis(since);
        self.kill(id);
        let removed = self.client.call("DELETE", &format!("/api/vps/snapshots/{id}"), None);
        removed.expect("the runner answers").expect(200);
        (snapshot, commit, restore)
    }

    fn snapshot(&mut self, id: u64) -> f64 {
        let since = Instant::now();
        self.ask("POST", &format!("/api/vps/snapshots/{id}"), &json!({}));
        millis(since)
    }

    fn commit(&mut self, id: u64) -> f64 {
        let target = format!("/commit?container={}&pause=1", container(id));
        let since = Instant::now();
        let made = self.engine.call("POST", &target, None).expect(201);
        let took = millis(since);
        let image = made["Id"].as_str().expect("an image").to_owned();
        self.engine.call("DELETE", &format!("/images/{image}?force=1"), None);
        took
    }

    /// Something to save.
    fn fill(&mut self, id: u64) {
        let script = format!("yes | head -c {} >/file", FILE_MIB << 20);
        let exec = json!({ "Cmd": ["sh", "-c", script], "AttachStdout": true });
        let made = format!("/containers/{}/exec", container(id));
        let made = self.engine.call("POST", &made, Some(&exec)).expect(201);
        let exec = made["Id"].as_str().expect("an exec").to_owned();
        let start = json!({ "Detach": true });
        self.engine.call("POST", &format!("/exec/{exec}/start"), Some(&start));
        let until = Instant::now() + BANNER_PATIENCE;
        loop {
            let state = self.engine.call("GET", &format!("/exec/{exec}/json"), None).expect(200);
            if state["Running"] == false {
                return assert_eq!(state["ExitCode"], 0, "{state}");
            }
            assert!(Instant::now() < until, "the file is not written: {state}");
            sleep(BANNER_AGAIN);
        }
    }

    fn ask(&mut self, method: &str, target: &str, body: &Value) -> Value {
        self.client.call(method, target, Some(body)).expect("the runner answers").expect(200)
    }
}

fn body(id: u64, of: &str, with_ssh: bool) -> Value {
    json!({
        "task_id": id.to_string(), "required_cores": 1, "required_gpus": [],
        "required_memory_bytes": null, "target_numa_node_id": null, "container_name": null,
        "registry_image": of, "pull": "never",
        "ssh_key_mode": if with_ssh { "upload" } else { "disabled" },
        "ssh_public_key": with_ssh.then_some(KEY), "ssh_port": 2222, "vps_backend": "docker",
    })
}

fn container(id: u64) -> String {
    format!("kohakuriver-vps-{id}")
}

/// Returns when whoever listens at this port, a number or its text, has said `SSH-`.
fn wait_banner(port: &Value) {
    let text = port.as_str().map_or_else(|| port.to_string(), str::to_owned);
    let port: u16 = text.parse().expect("a port");
    let until = Instant::now() + BANNER_PATIENCE;
    loop {
        let mut said = [0; 4];
        // The Engine's proxy takes the connection before sshd listens, and ends it again.
        let spoke = TcpStream::connect(("127.0.0.1", port))
            .and_then(|mut stream| stream.read_exact(&mut said));
        if spoke.is_ok() && said == *b"SSH-" {
            return;
        }
        assert!(Instant::now() < until, "no SSH server at port {port}");
        sleep(BANNER_AGAIN);
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
