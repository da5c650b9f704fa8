//! What a runner of a test is started with: its configuration, environment, tracer and passed sockets.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::{EngineProxy, FakeHost, OwnEngine, docker, free_port, test_name};
use super::Daemon;

/// Another process may take the port between our look and the runner's bind.
const START_TRIES: usize = 3;

/// What a daemon is started with; everything not said has a value that disturbs nobody.
#[derive(Default)]
pub struct Builder {
    settings: toml::Table,
    environment: Vec<(String, String)>,
    strace: Vec<String>,
    activation: Option<Activation>,
    own_engine: Option<docker::Client>,
}

/// Sockets that a service manager would pass.
pub(super) struct Activation {
    tcp: TcpListener,
    file: Option<UnixListener>,
}

impl Builder {
    pub(super) fn of(settings: toml::Table) -> Builder {
        Builder { settings, ..Builder::default() }
    }

    /// Overrides one key of the configuration file.
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Builder {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Reports to this host; without one the runner is standalone.
    pub fn host(self, host: &FakeHost) -> Builder {
        self.set("host_address", "127.0.0.1").set("host_port", i64::from(host.port()))
    }

    /// Talks to the machine's Engine through this.
    pub fn engine(self, engine: &EngineProxy) -> Builder {
        self.set("docker_host", engine.docker_host())
    }

    /// Its containers are made by this Engine, not the machine's. For a proxy before it, call
    /// [`Builder::engine`] after this.
    pub fn own_engine(mut self, engine: &OwnEngine) -> Builder {
        self.own_engine = Some(engine.client().clone());
        self.set("docker_host", engine.client().docker_host())
    }

    /// Runs under `strace -f` with these arguments, written to [`Daemon::strace_path`]. The
    /// runner stays our child, so `pid` and signals are its own.
    pub fn strace(mut self, arguments: &[&str]) -> Builder {
        self.strace = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// Starts it as systemd does with a socket unit: `tcp` is descriptor 3 of each of its lives, and
    /// `file` descriptor 4. The port is `tcp`'s.
    pub fn activated(mut self, tcp: TcpListener, file: Option<UnixListener>) -> Builder {
        let port = tcp.local_addr().expect("a bound socket").port();
        if let Some(file) = &file {
            let address = file.local_addr().expect("a bound socket");
            let path = address.as_pathname().expect("a socket file");
            self = self.set("api_socket", path.to_str().expect("a plain path"));
        }
        self.activation = Some(Activation { tcp, file });
        self.set("runner_port", i64::from(port))
    }

    /// Starts it and waits until `GET /health` is 200.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut daemon = self.stopped();
        for tries_left in (0..START_TRIES).rev() {
            daemon.launch();
            let healthy = daemon.answers_health();
            if healthy || tries_left == 0 || !daemon.log().contains("in use") {
                assert!(healthy, "the runner is not healthy");
                break;
            }
            daemon.kill9();
            daemon.reconfigure("runner_port", i64::from(free_port()));
        }
        daemon
    }

    /// Writes the configuration and starts nothing: `launch` and `wait_healthy` are the test's.
    pub fn stopped(self) -> Daemon {
        let dir = tempfile::Builder::new().prefix("runner-").tempdir().expect("a directory");
        let mut settings = default_settings(dir.path());
        settings.extend(self.settings);
        let Builder { environment, strace, activation, own_engine, .. } = self;
        // An Engine of the test's own has the network from its start on.
        let is_own = own_engine.is_some();
        let engine = own_engine.unwrap_or_else(docker::machine);
        let daemon = Daemon { dir, settings, environment, strace, activation, engine, child: None };
        if !is_own && daemon.setting("docker_network_name") == docker::NETWORK {
            docker::ensure_network();
        }
        daemon.write_config();
        daemon
    }
}

fn default_settings(dir: &Path) -> toml::Table {
    let mut settings = toml::Table::new();
    let mut set = |key: &str, value: toml::Value| settings.insert(key.to_owned(), value);
    for key in ["shared_dir", "local_temp_dir", "state_dir"] {
        let path = dir.join(key);
        fs::create_dir(&path).expect("a directory");
        set(key, path.to_str().expect("a plain path").into());
    }
    let api_socket = dir.join("api.sock");
    set("api_socket", api_socket.to_str().expect("a plain path").into());
    set("runner_bind_ip", "127.0.0.1".into());
    set("runner_port", i64::from(free_port()).into());
    set("node_id", test_name("node").into());
    set("docker_host", format!("unix://{}", docker::socket().display()).into());
    set("docker_network_name", docker::NETWORK.into());
    set("docker_network_subnet", docker::NETWORK_SUBNET.into());
    set("docker_network_gateway", docker::NETWORK_GATEWAY.into());
    // The shortest the contract's whole seconds allow.
    set("heartbeat_interval_seconds", 1.into());
    settings
}

impl Activation {
    /// Standard streams are the one thing that a child is given without doubt; the shell moves them
    /// to where the protocol wants them, and becomes the runner.
    pub(super) fn command(&self, binary: &str) -> Command {
        let (count, script) = match self.file {
            None => ("1", "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\""),
            Some(_) => {
                ("2", "exec 3<&0 0</dev/null 4>&1 1>/dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"")
            }
        };
        let mut command = Command::new("sh");
        command.args(["-c", script, binary]).env("LISTEN_FDS", count);
        let tcp = OwnedFd::from(self.tcp.try_clone().expect("a descriptor"));
        command.stdin(tcp).stdout(Stdio::null());
        if let Some(file) = &self.file {
            command.stdout(OwnedFd::from(file.try_clone().expect("a descriptor")));
        }
        command
    }
}
