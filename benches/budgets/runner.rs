//! The built runner as a child process, and what the kernel and it itself say it costs.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::engine;
use crate::host::Host;
use crate::http::Http;
use crate::place::{Place, unique_id};

pub const BINARY: &str = env!("CARGO_BIN_EXE_river-runner");

/// A runner that has not been started, or one that has.
pub struct Runner {
    pub address: SocketAddr,
    pub shared_dir: PathBuf,
    pub local_temp_dir: PathBuf,
    directory: PathBuf,
    child: Option<Child>,
}

/// From a wait's begin until something must be wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often something that can only be asked for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Runner {
    /// Directories and a configuration; without a host it will be standalone.
    pub fn prepare(place: &Place, host: Option<&Host>) -> Runner {
        let directory = place.directory("runner");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut settings = toml::Table::new();
        let mut set = |key: &str, value: toml::Value| settings.insert(key.to_owned(), value);
        for key in ["shared_dir", "local_temp_dir", "state_dir"] {
            let path = directory.join(key);
            std::fs::create_dir(&path).expect("a directory");
            set(key, text(path));
        }
        set("api_socket", text(directory.join("api.sock")));
        set("runner_bind_ip", "127.0.0.1".into());
        set("runner_port", i64::from(address.port()).into());
        set("node_id", place.node_id().into());
        set("docker_host", format!("unix://{}", engine::socket().display()).into());
        let network = place.network();
        set("docker_network_name", network.name.into());
        set("docker_network_subnet", network.subnet.into());
        set("docker_network_gateway", network.gateway.into());
        if let Some(host) = host {
            set("host_address", "127.0.0.1".into());
            set("host_port", i64::from(host.port).into());
        }
        std::fs::write(directory.join("runner.toml"), settings.to_string()).expect("a file");
        Runner {
            address,
            shared_dir: directory.join("shared_dir"),
            local_temp_dir: directory.join("local_temp_dir"),
            directory,
            child: None,
        }
    }

    /// Prepares and starts one, and returns when it answers.
    pub fn start(place: &Place, host: Option<&Host>) -> Runner {
        let mut runner = Runner::prepare(place, host);
        runner.exec();
        runner.connect();
        runner
    }

    /// Starts the process and waits for nothing.
    pub fn exec(&mut self) {
        let log = File::create(self.directory.join("log")).expect("a file");
        let mut command = Command::new(BINARY);
        command.arg("serve").arg("--config").arg(self.directory.join("runner.toml"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RIVER_")) {
            command.env_remove(name);
        }
        command.env_remove("DOCKER_HOST");
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the runner's binary"));
    }

    /// Tells it to stop, and returns when it has ended.
    pub fn end(&mut self) {
        let mut child = self.child.take().expect("a runner that was started");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("our child");
        assert!(child.wait().is_ok_and(|status| status.success()));
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state_dir")
    }

    /// Its Engine is one that is not there.
    pub fn without_engine(&self) {
        let path = self.directory.join("runner.toml");
        let text = std::fs::read_to_string(&path).expect("the configuration");
        let mut settings: toml::Table = text.parse().expect("TOML");
        settings.insert("docker_host".to_owned(), "unix:///nowhere/docker.sock".into());
        std::fs::write(path, settings.to_string()).expect("a file");
    }

    /// A new connection. Tried again as fast as can be while the runner is not listening yet.
    pub fn connect(&self) -> Http<TcpStream> {
        const RETRY: Duration = Duration::from_micros(100);
        let until = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => {
                    stream.set_nodelay(true).expect("a socket");
                    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                    return Http::new(stream);
                }
                Err(error) => {
                    assert!(Instant::now() < until, "the runner does not listen: {error}");
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    /// The body that a host sends for a task, with every key there.
    pub fn execute_body(&self, environment: &str, id: u64, command: &str) -> Value {
        let logs = self.shared_dir.join("logs").join(id.to_string());
        json!({
            "task_id": id.to_string(),
            "command": command,
            "arguments": [],
            "env_vars": {},
            "required_cores": 1,
            "required_gpus": [],
            "required_memory_bytes": null,
            "target_numa_node_id": null,
            "container_name": environment,
            "registry_image": null,
            "working_dir": "/shared",
            "stdout_path": logs.join("stdout.log"),
            "stderr_path": logs.join("stderr.log"),
            "reserved_ip": null,
        })
    }

    /// Its events from now on.
    pub fn events(&self) -> Events {
        let latest = self.connect().call("GET", "/api/events", None).expect("the runner answers");
        let cursor = latest.body.rsplit(|&byte| byte == b'\n').find(|line| !line.is_empty());
        let cursor: Value = serde_json::from_slice(cursor.expect("a cursor")).expect("JSON");
        let target = format!("/api/events?since={}&follow=1", cursor["cursor"]);
        let (stream, rest) = self.connect().stream(&target).expect("the runner's events");
        Events { lines: Box::new(BufReader::new(std::io::Cursor::new(rest).chain(stream))) }
    }

    /// Returns when it has no task left to end or to clean up after.
    pub fn wait_no_tasks(&self) {
        self.wait_health(|health| health["tasks"]["live"] == 0);
    }

    /// Returns when the host has acknowledged everything.
    pub fn wait_no_reports(&self) {
        self.wait_health(|health| health["reports"]["unsent"] == 0);
    }

    fn wait_health(&self, reached: impl Fn(&Value) -> bool) {
        let mut http = self.connect();
        let until = Instant::now() + PATIENCE;
        loop {
            let health = http.call("GET", "/health", None).expect("the runner answers").expect(200);
            if reached(&health) {
                return;
            }
            assert!(Instant::now() < until, "the runner does not settle: {health}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    // ── what it costs ────────────────────────────────────────────────────────────────────────

    /// CPU time of all its threads, those that have ended too.
    pub fn cpu(&self) -> Duration {
        cpu(self.pid())
    }

    /// Its memory, with its share of what it shares.
    pub fn pss_bytes(&self) -> f64 {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let rollup = std::fs::read_to_string(path).expect("our child");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a Pss line");
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024.0
    }

    /// Time it has spent in Engine calls, as it counts itself.
    pub fn engine_micros(&self, http: &mut Http<TcpStream>) -> f64 {
        let answer = http.call("GET", "/metrics", None).expect("the runner answers");
        let text = String::from_utf8_lossy(&answer.body);
        let name = "river_engine_call_microseconds_total ";
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("that figure");
        line.parse().expect("a number")
    }

    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("a runner that was started");
        Pid::from_raw(child.id().cast_signed())
    }
}

impl Drop for Runner {
    /// Its containers run on; whoever made the tasks has waited for them, or the place removes them.
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            eprintln!("── log of the runner ──\n{log}── end of log ──");
        }
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        let _ = child.wait();
    }
}

/// A task that does nothing, to look inside of. It is killed at the end.
pub struct InContainer<'r> {
    pub id: u64,
    runner: &'r Runner,
}

impl InContainer<'_> {
    /// Returns when it runs.
    pub fn start<'r>(runner: &'r Runner, environment: &str) -> InContainer<'r> {
        let id = unique_id();
        let mut events = runner.events();
        let body = runner.execute_body(environment, id, "sleep 3600");
        let answer = runner.connect().call("POST", "/api/execute", Some(&body));
        answer.expect("the runner answers").expect(200);
        events.wait("started");
        InContainer { id, runner }
    }

    pub fn container(&self) -> String {
        format!("kohakuriver-task-{}", self.id)
    }
}

impl Drop for InContainer<'_> {
    fn drop(&mut self) {
        let body = json!({ "task_id": self.id, "container_name": self.container() });
        if let Err(error) = self.runner.connect().call("POST", "/api/kill", Some(&body)) {
            return eprintln!("{} may be left behind: {error}", self.container());
        }
        if !std::thread::panicking() {
            self.runner.wait_no_tasks();
        }
    }
}

/// The runner's events, one after the other.
pub struct Events {
    lines: Box<dyn BufRead>,
}

impl Events {
    /// Reads on until this happens, to whatever task; the event.
    pub fn wait(&mut self, what: &str) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.lines.read_line(&mut line).expect("an event within the patience");
            assert!(read > 0, "the runner ended its events");
            let event: Value = serde_json::from_str(&line).expect("a line of JSON");
            if event["event"] == what {
                return event;
            }
        }
    }
}

/// CPU time of a child's threads, those that have ended too.
pub fn cpu(child: Pid) -> Duration {
    let clock = ClockId::pid_cpu_clock_id(child).expect("a process has a CPU clock");
    clock.now().expect("our child").into()
}

fn text(path: PathBuf) -> toml::Value {
    path.to_str().expect("a plain path").into()
}

/// Below the range that the kernel hands to outgoing connections: still free when it is bound.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 7_000).expect("below 7,000");
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_000, "no free port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
