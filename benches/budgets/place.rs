//! Where a run has its things: a directory on disk, and a prefix for what it makes at the Engine.
//! They go with it, also when it is interrupted; contrib/test.sh knows the prefix when it started
//! the run, and removes what even that could not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::engine::Engine;

pub struct Place {
    pub quick: bool,
    prefix: String,
    directory: tempfile::TempDir,
}

/// What a busybox is asked for here.
const APPLETS: &[&str] = &["cat", "head", "ls", "mkdir", "sh", "sleep", "stat", "true", "yes"];

pub struct Network {
    pub name: String,
    pub subnet: String,
    pub gateway: String,
}

impl Place {
    pub fn take(quick: bool) -> Place {
        let run = std::env::var("KIT_RUN").unwrap_or_else(|_| std::process::id().to_string());
        let prefix = format!("river-test-{run}-bench");
        // Cargo's directory for us: on a disk, as a node's own are, and not in memory.
        let directory = tempfile::Builder::new()
            .prefix("budgets-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory");
        remove_on_signals(prefix.clone(), directory.path().to_owned());
        Place { quick, prefix, directory }
    }

    /// The figure for a real run, or the one for a quick one.
    pub fn pick<T>(&self, real: T, quick: T) -> T {
        if self.quick { quick } else { real }
    }

    /// A new empty directory.
    pub fn directory(&self, what: &str) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.path().join(format!("{what}-{number}"));
        std::fs::create_dir(&directory).expect("a directory");
        directory
    }

    /// The owner label of our containers.
    pub fn node_id(&self) -> &str {
        &self.prefix
    }

    /// The network that our runners make: in a range that Docker does not hand out, and that a
    /// run beside this one is unlikely to have.
    pub fn network(&self) -> Network {
        let range = format!("10.214.{}", std::process::id() % 256);
        Network {
            name: format!("{}-net", self.prefix),
            subnet: format!("{range}.0/24"),
            gateway: format!("{range}.1"),
        }
    }

    /// Makes the environment that tasks run in: a busybox and nothing else. Its name, as the host
    /// would give it.
    pub fn environment(&self) -> String {
        let reference = image(&self.prefix);
        if Engine::connect().call("GET", &format!("/images/{reference}/json"), None).status == 200 {
            return self.prefix.clone();
        }
        let root = self.directory("image");
        std::fs::create_dir(root.join("bin")).expect("a directory");
        let busybox = root.join("bin/busybox");
        std::fs::copy("/bin/busybox", busybox).expect("busybox-static at /bin/busybox");
        for applet in APPLETS {
            let link = root.join("bin").join(applet);
            std::os::unix::fs::symlink("busybox", link).expect("a link");
        }
        let script = r#"tar -C "$0" -c . | docker import - "$1""#;
        let made = Command::new("sh")
            .args(["-c", script, root.to_str().expect("a plain path"), &reference])
            .stdout(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "docker import failed");
        self.prefix.clone()
    }
}

/// A task id that no other run has.
pub fn unique_id() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let micros = u64::try_from(since.as_micros()).expect("a year before 2255");
    (micros << 10) + COUNT.fetch_add(1, Ordering::Relaxed)
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.prefix);
    }
}

pub fn image(prefix: &str) -> String {
    format!("kohakuriver/{prefix}:base")
}

/// What this run has made at the Engine; a failure is said and no more can be done.
fn remove(prefix: &str) {
    let Some(mut engine) = Engine::try_connect() else { return };
    let ours = json!({ "label": [format!("kohakuriver.node={prefix}")] });
    for container in engine.containers(&ours) {
        engine.remove_container(&container);
    }
    // Snapshots carry who made them.
    let listed = engine.call("GET", "/images/json", None).expect(200);
    for image in listed.as_array().into_iter().flatten() {
        let maker = image["Labels"]["river-runner.snapshot"].as_str().unwrap_or_default();
        if let (true, Some(id)) = (maker.ends_with(&format!(" {prefix}")), image["Id"].as_str()) {
            engine.call("DELETE", &format!("/images/{id}?force=1"), None);
        }
    }
    for target in [format!("/images/{}?force=1", image(prefix)), format!("/networks/{prefix}-net")]
    {
        let status = engine.call("DELETE", &target, None).status;
        if status >= 300 && status != 404 {
            eprintln!("{target} may be left behind: {status}");
        }
    }
}

/// The runner of an interrupted run gets the terminal's signal itself; the rest is removed here.
fn remove_on_signals(prefix: String, directory: PathBuf) {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().expect("signals can be blocked");
    std::thread::spawn(move || {
        signals.wait().expect("a signal");
        remove(&prefix);
        remove_directory(&directory);
        std::process::exit(130);
    });
}

fn remove_directory(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        eprintln!("{} is left behind: {error}", directory.display());
    }
}
