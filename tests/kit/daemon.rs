//! The built runner as a process of its own: directories, a port and a node id that nobody else
//! has, and its end with everything it made. What it wrote to stderr is shown when a test fails.

mod builder;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::http::{self, Address, Response};
use super::{SOON, Socket, docker, wait_until};
use builder::Activation;
pub use builder::Builder;

/// Law 10 says under 2 s; the rest is for a loaded machine.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// How much of the log a failed test shows.
const LOG_SHOWN_BYTES: usize = 16 * 1024;
/// What the Engine takes to finish a creation whose caller is gone, so that it can be removed.
const CREATION_SETTLES: Duration = Duration::from_millis(50);
/// The runner's log has a thread of its own: a line is there a moment after what it tells of.
const LOG_SETTLES: Duration = Duration::from_millis(20);

/// A runner, running or stopped. Dropping it ends it and removes its containers.
pub struct Daemon {
    dir: tempfile::TempDir,
    settings: toml::Table,
    environment: Vec<(String, String)>,
    strace: Vec<String>,
    activation: Option<Activation>,
    /// Where its containers are.
    engine: docker::Client,
    child: Option<Child>,
}

impl Daemon {
    /// A standalone runner on the machine's Engine.
    #[track_caller]
    pub fn start() -> Daemon {
        Builder::default().start()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A second one with the same settings, directories and port; it has not been started.
    pub fn twin(&self) -> Daemon {
        let mut twin = Builder::of(self.settings.clone()).stopped();
        twin.engine = self.engine.clone();
        twin
    }

    // ── its life ───────────────────────────────────────────────────────────────────────────

    /// Starts the process and does not wait for it.
    #[track_caller]
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "already running");
        let stderr = File::options().create(true).append(true).open(self.log_file());
        let binary = env!("CARGO_BIN_EXE_river-runner");
        let mut command = if let Some(activation) = &self.activation {
            activation.command(binary)
        } else if self.strace.is_empty() {
            Command::new(binary)
        } else {
            let mut strace = Command::new("strace");
            // -D: the tracer is the grandchild, the runner our child.
            strace.args(["-D", "-f", "-o"]).arg(self.strace_path());
            strace.args(&self.strace).arg("--").arg(binary);
            strace
        };
        command.arg("serve").arg("--config").arg(self.config_path());
        // Nothing of the developer's own runner may reach this one.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RIVER_")) {
            command.env_remove(name);
        }
        // Nor may what a service manager said to whoever runs the tests.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID"] {
            command.env_remove(name);
        }
        command.env_remove("DOCKER_HOST").envs(self.environment.iter().cloned());
        if self.activation.is_none() {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        command.stderr(stderr.expect("the log file"));
        self.child = Some(command.spawn().expect("river-runner or strace"));
    }

    /// Returns once `GET /health` is 200; fails the test when it exits or takes too long.
    #[track_caller]
    pub fn wait_healthy(&mut self) {
        assert!(self.answers_health(), "the runner is not healthy");
    }

    fn answers_health(&mut self) -> bool {
        let mut answered = false;
        let _ended = wait_until(SOON, || {
            answered = self.try_get("/health").is_ok_and(|response| response.status == 200);
            answered || self.has_exited()
        });
        answered
    }

    /// Whether the process has ended by itself.
    pub fn has_exited(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| child.try_wait().expect("our child").is_some())
    }

    /// SIGTERM; it must exit with 0 within 3 s. Returns how long it took.
    #[track_caller]
    pub fn stop(&mut self) -> Duration {
        let since = Instant::now();
        let mut child = self.child.take().expect("a running runner");
        kill(pid_of(&child), Signal::SIGTERM).expect("our child");
        let mut status: Option<ExitStatus> = None;
        let ended = wait_until(STOP_PATIENCE, || {
            status = child.try_wait().expect("our child");
            status.is_some()
        });
        if !ended {
            // So that `drop` ends it.
            self.child = Some(child);
        }
        let status = status.unwrap_or_else(|| panic!("still running {STOP_PATIENCE:?} after TERM"));
        assert!(status.success(), "ended with {status} on TERM");
        since.elapsed()
    }

    /// Sends a signal and waits for nothing.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("our child");
    }

    /// SIGKILL, and waits for the end; no error if it has ended already.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until it ends by itself and returns the signal, if one ended it (`strace` inject).
    #[track_caller]
    pub fn wait_exit(&mut self, patience: Duration) -> (Option<i32>, Option<i32>) {
        assert!(wait_until(patience, || self.has_exited()), "still running after {patience:?}");
        let mut child = self.child.take().expect("a started runner");
        let status = child.wait().expect("our child");
        (status.code(), status.signal())
    }

    /// Starts it again with the same directories and port, after ending it if it still runs.
    #[track_caller]
    pub fn restart(&mut self) {
        if !self.has_exited() {
            self.stop();
        }
        self.child = None;
        self.launch();
        self.wait_healthy();
    }

    /// Changes a key of the configuration file; it counts from the next start on.
    pub fn reconfigure(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.settings.insert(key.to_owned(), value.into());
        self.write_config();
    }

    /// The next start is traced, as by [`Builder::strace`].
    pub fn with_strace(&mut self, arguments: &[&str]) {
        self.strace = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// The next start is not traced.
    pub fn without_strace(&mut self) {
        self.strace.clear();
    }

    // ── its API ────────────────────────────────────────────────────────────────────────────

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.answered(self.try_call("GET", path, None))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.answered(self.try_call("POST", path, Some(body)))
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Response {
        self.answered(self.try_call("DELETE", path, None))
    }

    /// For a runner that may not be there.
    pub fn try_get(&self, path: &str) -> std::io::Result<Response> {
        self.try_call("GET", path, None)
    }

    pub fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<Response> {
        http::call(&self.address(), method, path, &[], body)
    }

    #[track_caller]
    fn answered(&self, response: std::io::Result<Response>) -> Response {
        response.unwrap_or_else(|error| panic!("the runner did not answer: {error}"))
    }

    /// A WebSocket that must be accepted.
    #[track_caller]
    pub fn socket(&self, path: &str) -> Socket {
        Socket::open(self.socket_address(), path)
    }

    /// Where it is called over TCP.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port()))
    }

    /// For calls of a test's own making, with [`http::call`] and [`http::exchange`].
    pub fn address(&self) -> Address {
        Address::Tcp(self.socket_address())
    }

    pub fn port(&self) -> u16 {
        let port = self.settings["runner_port"].as_integer().expect("a number");
        u16::try_from(port).expect("a port")
    }

    // ── its places ─────────────────────────────────────────────────────────────────────────

    /// A text of the configuration file; empty when the key is not there.
    pub fn setting(&self, key: &str) -> &str {
        self.settings.get(key).and_then(toml::Value::as_str).unwrap_or_default()
    }

    pub fn node_id(&self) -> &str {
        self.setting("node_id")
    }

    pub fn shared_dir(&self) -> &Path {
        Path::new(self.setting("shared_dir"))
    }

    pub fn state_dir(&self) -> &Path {
        Path::new(self.setting("state_dir"))
    }

    pub fn api_socket(&self) -> &Path {
        Path::new(self.setting("api_socket"))
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("runner.toml")
    }

    pub fn strace_path(&self) -> PathBuf {
        self.dir.path().join("strace")
    }

    /// A file of its own temporary directory, for what a test puts beside the runner.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `{SHARED_DIR}/logs/{id}/{name}`, the log paths of a dispatch.
    pub fn log_path(&self, id: u64, name: &str) -> PathBuf {
        self.shared_dir().join("logs").join(id.to_string()).join(name)
    }

    /// The file of a live task's record.
    pub fn record_path(&self, id: u64) -> PathBuf {
        self.state_dir().join("tasks").join(format!("{id}.json"))
    }

    /// What the task wrote to stdout so far; empty when there is no such file yet.
    pub fn stdout_of(&self, id: u64) -> String {
        lossy(&self.log_path(id, "stdout.log"))
    }

    pub fn stderr_of(&self, id: u64) -> String {
        lossy(&self.log_path(id, "stderr.log"))
    }

    /// Everything the runner has written to stderr, over all its lives.
    pub fn log(&self) -> String {
        std::thread::sleep(LOG_SETTLES);
        lossy(&self.log_file())
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("stderr")
    }

    fn write_config(&self) {
        fs::write(self.config_path(), self.settings.to_string()).expect("the configuration file");
    }

    // ── what it costs ──────────────────────────────────────────────────────────────────────

    #[track_caller]
    pub fn pid(&self) -> i32 {
        pid_of(self.child.as_ref().expect("a running runner")).as_raw()
    }

    #[track_caller]
    pub fn threads(&self) -> usize {
        self.thread_names().len()
    }

    /// As the kernel shows them: the first 15 bytes.
    #[track_caller]
    pub fn thread_names(&self) -> Vec<String> {
        let tasks = fs::read_dir(self.proc("task")).expect("threads").flatten();
        tasks.map(|task| lossy(&task.path().join("comm")).trim_end().to_owned()).collect()
    }

    #[track_caller]
    pub fn fds(&self) -> usize {
        fs::read_dir(self.proc("fd")).expect("descriptors").count()
    }

    #[track_caller]
    pub fn rss_kb(&self) -> u64 {
        kb_after(&lossy(&self.proc("status")), "VmRSS:")
    }

    #[track_caller]
    pub fn pss_kb(&self) -> u64 {
        kb_after(&lossy(&self.proc("smaps_rollup")), "Pss:")
    }

    /// Memory of its own. A share of the program's text, as in the PSS, depends on how many other
    /// runners live now.
    #[track_caller]
    pub fn anonymous_kb(&self) -> u64 {
        kb_after(&lossy(&self.proc("status")), "RssAnon:")
    }

    #[track_caller]
    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid()))
    }

    /// Names of the containers on the Engine that are this runner's, ended ones too.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        self.engine.containers_labelled("kohakuriver.node", self.node_id())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let was_running = !self.has_exited();
        self.kill9();
        if std::thread::panicking() {
            let log = fs::read(self.log_file()).unwrap_or_default();
            let shown = &log[log.len().saturating_sub(LOG_SHOWN_BYTES)..];
            let shown = String::from_utf8_lossy(shown);
            eprintln!("── log of {} ──\n{shown}── end of log ──", self.node_id());
        }
        self.engine.remove_labelled("kohakuriver.node", self.node_id());
        if was_running {
            // A creation may have been under way at the Engine when its caller died.
            std::thread::sleep(CREATION_SETTLES);
            self.engine.remove_labelled("kohakuriver.node", self.node_id());
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
}

fn lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[track_caller]
fn kb_after(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {key} in {text:?}"))
}
