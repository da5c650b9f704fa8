//! A dockerd of the test's own, to be stopped, hung and killed without harm to anybody else's. It
//! lives in its own network and mount namespace: beside the machine's own it would otherwise
//! delete that one's bridge.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::docker::{Client, image, machine};
use super::wait_until;

/// dockerd answers about 2 s after its start here; a loaded machine needs longer.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// It gives each container 10 s, and itself 15 before it gives up on them.
const STOP_PATIENCE: Duration = Duration::from_secs(40);

/// Of its own default bridge, in its own network namespace.
const BRIDGE_ADDRESS: &str = "10.213.78.1/24";

const CONTAINERD_SOCKET: &str = "containerd.sock";

/// The namespaces, held by a process of their own, so that an Engine that comes back after its death
/// finds the mounts and networks of its containers. In them there is no trace of the machine's
/// containerd. `slave`: mounts that a test makes later are seen inside, those of the Engine are not
/// seen outside.
const HOLDER: &str = "mount -t tmpfs tmpfs /run && ip link set lo up && exec sleep infinity";

/// The Engine, with the test images asked for and the tests' network. Dropping it ends it with all
/// its containers.
pub struct OwnEngine {
    dir: tempfile::TempDir,
    client: Client,
    holder: Child,
    /// A process of its own, as where systemd starts both: it outlives the Engine.
    containerd: Option<Child>,
    child: Option<Child>,
    options: Vec<String>,
}

impl OwnEngine {
    /// Starts one that has these of the test images, copied from the machine's Engine.
    #[track_caller]
    pub fn start(images: &[&str]) -> OwnEngine {
        OwnEngine::start_with(images, &[])
    }

    /// With options of dockerd, at every start.
    #[track_caller]
    pub fn start_with(images: &[&str], options: &[&str]) -> OwnEngine {
        let dir = tempfile::Builder::new().prefix("dockerd-").tempdir().expect("a directory");
        let client = Client::new(dir.path().join("docker.sock"));
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "slave", "sh", "-c", HOLDER])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut engine = OwnEngine { dir, client, holder, containerd: None, child: None, options };
        engine.wait_namespaces();
        engine.start_again();
        for name in images {
            engine.load(name);
        }
        engine.client.ensure_network();
        engine
    }

    /// Calls to it, past every proxy.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("a running Engine");
        Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
    }

    /// What it has said, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Starts it on the same data, and returns once it answers.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch();
        self.wait_ready();
    }

    /// Starts it and does not wait.
    #[track_caller]
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "already running");
        // One that was killed leaves its pid file; its number may be in use again.
        let _ = fs::remove_file(self.dir.path().join("pid"));
        if self.containerd.is_none() {
            self.launch_containerd();
        }
        let mut dockerd = self.command("dockerd");
        for (option, name) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
            ("--containerd", CONTAINERD_SOCKET),
        ] {
            dockerd.arg(option).arg(self.dir.path().join(name));
        }
        dockerd.args(["--host", &self.client.docker_host(), "--group", "root"]);
        dockerd.args(["--bip", BRIDGE_ADDRESS]).args(&self.options);
        self.child = Some(dockerd.spawn().expect("nsenter, dockerd: run contrib/test.sh"));
    }

    #[track_caller]
    fn launch_containerd(&mut self) {
        let place = |name: &str| self.dir.path().join(name);
        let config = place("containerd.toml");
        fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
            .expect("containerd's configuration");
        let mut containerd = self.command("containerd");
        for (option, name) in [
            ("--config", "containerd.toml"),
            ("--root", "containerd"),
            ("--state", "containerd-state"),
            ("--address", CONTAINERD_SOCKET),
        ] {
            containerd.arg(option).arg(place(name));
        }
        self.containerd = Some(containerd.spawn().expect("containerd: run contrib/test.sh"));
        let listens = wait_until(START_PATIENCE, || place(CONTAINERD_SOCKET).exists());
        assert!(listens, "containerd did not start: {}", self.log());
    }

    /// In the holder's namespaces. nsenter becomes the program: the child's pid is its.
    fn command(&self, program: &str) -> Command {
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.expect("the Engine's log");
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--mount", program]);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the Engine's log")).stderr(log);
        command
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        let ready = wait_until(START_PATIENCE, || {
            self.client.try_api("GET", "/_ping", None).is_ok_and(|response| response.status == 200)
        });
        assert!(ready, "dockerd did not answer: {}", self.log());
    }

    /// SIGTERM: it ends its containers (SIGTERM, 10 s, SIGKILL), then itself.
    #[track_caller]
    pub fn stop(&mut self) {
        self.ask_to_stop();
        self.wait_stopped();
    }

    /// SIGTERM, and does not wait.
    pub fn ask_to_stop(&self) {
        kill(self.pid(), Signal::SIGTERM).expect("our child");
    }

    #[track_caller]
    pub fn wait_stopped(&mut self) {
        let mut child = self.child.take().expect("a running Engine");
        let ended = wait_until(STOP_PATIENCE, || child.try_wait().expect("our child").is_some());
        if !ended {
            self.child = Some(child);
            panic!("dockerd runs {STOP_PATIENCE:?} after TERM: {}", self.log());
        }
    }

    /// SIGKILL to dockerd alone: containerd and the containers live on.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGKILL to dockerd, containerd and every process of every container, as a power cut.
    pub fn power_cut(&mut self) {
        self.kill9();
        self.kill_the_rest();
        if let Some(mut containerd) = self.containerd.take() {
            let _ = containerd.wait();
        }
        let _ = fs::remove_file(self.dir.path().join(CONTAINERD_SOCKET));
    }

    /// All it had, while it is stopped: containers, images, networks.
    #[track_caller]
    pub fn wipe(&self) {
        assert!(self.child.is_none(), "it runs");
        fs::remove_dir_all(self.dir.path().join("data")).expect("the Engine's data");
    }

    /// SIGSTOP: it takes connections and answers none.
    pub fn hang(&self) {
        kill(self.pid(), Signal::SIGSTOP).expect("our child");
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("our child");
    }

    /// Returns once the holder has become `sleep`: then all is mounted.
    #[track_caller]
    fn wait_namespaces(&self) {
        let name = format!("/proc/{}/comm", self.holder.id());
        let ready = wait_until(START_PATIENCE, || {
            fs::read_to_string(&name).is_ok_and(|name| name.trim_end() == "sleep")
        });
        assert!(ready, "no namespaces for an Engine of our own");
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Copies one of the test images from the machine's Engine.
    #[track_caller]
    pub fn load(&self, name: &str) {
        let reference = image(name);
        let archive = self.dir.path().join("image.tar");
        let archive = archive.to_str().expect("a plain path");
        machine().docker(&["save", "--output", archive, &reference]);
        self.client.docker(&["load", "--quiet", "--input", archive]);
        fs::remove_file(archive).expect("the archive");
    }

    /// containerd, its shims and the containers' processes: all of them know our directory by their
    /// arguments, or are below one that does.
    fn kill_the_rest(&self) {
        let named = processes_naming(self.dir.path());
        let children = children_of(&named);
        children.iter().for_each(|pid| thaw(*pid));
        // Shims first: one would report the death of its container.
        for pid in named.iter().chain(&children) {
            match kill(*pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => eprintln!("process {pid} may be left behind: {error}"),
            }
        }
        let gone =
            wait_until(Duration::from_secs(10), || processes_naming(self.dir.path()).is_empty());
        if !gone {
            eprintln!("processes of {} are left behind", self.dir.path().display());
        }
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.go_on();
        }
        self.power_cut();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A paused container's processes: with cgroups of version 1 not even SIGKILL ends them.
fn thaw(pid: Pid) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.split_once(":freezer:"));
    // Docker's alone: other groups are not ours to thaw.
    if let Some((_, group)) = group.filter(|(_, group)| group.starts_with("/docker/")) {
        let _ = fs::write(format!("/sys/fs/cgroup/freezer{group}/freezer.state"), "THAWED");
    }
}

/// Processes with `path` in their command line.
fn processes_naming(path: &Path) -> Vec<Pid> {
    let path = path.to_str().expect("a plain path");
    let names = |pid: &Pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != Pid::this() && String::from_utf8_lossy(&line).contains(path)
    };
    all_processes().into_iter().filter(names).collect()
}

/// All processes below these, at any depth.
fn children_of(parents: &[Pid]) -> Vec<Pid> {
    let mut family = parents.to_vec();
    let all: Vec<(Pid, Pid)> =
        all_processes().into_iter().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut looked = 0;
    while looked < family.len() {
        let parent = family[looked];
        family.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        looked += 1;
    }
    family.split_off(parents.len())
}

fn all_processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pid = |entry: fs::DirEntry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    entries.filter_map(pid).collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(Pid::from_raw(line.trim().parse().ok()?))
}
