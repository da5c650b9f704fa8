//! Where a schedule happens: an Engine that lives over many schedules, and for each of them a host,
//! a proxy, directories and a runner of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::fault::Kind;
use crate::kit::{
    Address, Client, Daemon, EngineProxy, FakeHost, OwnEngine, SmallDisk, StateCalls, test_name,
};
use crate::runner::Runner;
use crate::schedule::Schedule;
use crate::tasks::MARKS;
use crate::verdict::Breach;
use crate::vps;

/// Room for the output of a schedule's tasks (1 MB each at most), so small that filling it is quick.
const SHARE_BYTES: usize = 32 << 20;
/// A record is below 4 kB.
const STATE_BYTES: usize = 1 << 20;
/// More than a schedule's tasks make: bytes run out first.
const DISK_FILES: usize = 10_000;

/// What a job keeps over its schedules.
pub struct Place {
    /// `Some` but for the moment in which a damaged one is replaced.
    engine: Option<OwnEngine>,
    /// What an idle runner has, once it has run a task.
    pub idle: Option<Idle>,
    clock_library: PathBuf,
    share: SmallDisk,
    state: SmallDisk,
    dir: tempfile::TempDir,
}

/// What a runner costs that has nothing to do.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    pub threads: usize,
    pub fds: usize,
}

impl Place {
    /// Makes the directories that are file systems of their own, then the Engine, which sees them.
    pub fn make() -> Place {
        let dir = tempfile::Builder::new().prefix("campaign-").tempdir().expect("a directory");
        let disk = |name: &str, bytes| {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("a directory");
            SmallDisk::over(&path, bytes, DISK_FILES)
        };
        let (share, state) = (disk("share", SHARE_BYTES), disk("state", STATE_BYTES));
        let clock_library = dir.path().join("clock.so");
        let mut place = Place { engine: None, idle: None, clock_library, share, state, dir };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/campaign/clock.c");
        let library = place.clock_library.to_str().expect("a plain path").to_owned();
        run("cc", &["-O1", "-shared", "-fPIC", "-o", &library, source]);
        place.renew_engine();
        place
    }

    pub fn renew_engine(&mut self) {
        self.engine = None;
        self.engine = Some(OwnEngine::start(&["busybox"]));
    }

    fn engine(&self) -> &OwnEngine {
        self.engine.as_ref().expect("an Engine")
    }
}

/// One schedule's.
pub struct World<'a> {
    pub schedule: &'a Schedule,
    pub begin: Instant,
    pub engine: Mutex<&'a mut OwnEngine>,
    /// Calls to the Engine past the proxy.
    pub client: Client,
    pub daemon: Mutex<Daemon>,
    pub runner: Arc<Runner>,
    pub proxy: EngineProxy,
    pub host: Arc<FakeHost>,
    pub address: Address,
    pub logs: PathBuf,
    pub marks: PathBuf,
    pub state_dir: PathBuf,
    pub local_temp: PathBuf,
    /// The file systems on which `logs` and, where it is to be full, `state_dir` lie.
    pub share_disk: &'a SmallDisk,
    pub state_disk: &'a SmallDisk,
    /// The wall clock's offset, as the runner reads it.
    clock: File,
    /// Where the schedule kills the runner at a call on its state directory.
    pub state_calls: Option<StateCalls>,
    pub notes: Arc<Mutex<Notes>>,
    pub foreign: Mutex<Vec<Foreign>>,
}

/// A stranger's container that carries our labels.
pub struct Foreign {
    pub name: String,
    pub image: String,
    pub id: String,
}

/// What really happened, for the verdict and the table.
#[derive(Default)]
pub struct Notes {
    pub injected: BTreeMap<Kind, usize>,
    pub breaches: Vec<String>,
    /// When the Engine's process was stopped, killed or without its containers.
    pub engine_outages: Vec<Span>,
    pub logs_full: Vec<Span>,
    /// A call to the Engine was answered 500.
    pub engine_refused: bool,
    pub tasks: BTreeMap<u64, TaskNote>,
    pub vps: BTreeMap<u64, vps::Note>,
    pub vps_breaches: Vec<Breach>,
}

#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub begin: Instant,
    pub end: Instant,
}

/// What was done to a task and what it was answered.
#[derive(Clone, Debug, Default)]
pub struct TaskNote {
    pub submitted: Option<Instant>,
    pub answer: Answer,
    pub refusals: usize,
    /// When the answer 200 to a kill was read.
    pub killed: Option<Instant>,
    /// A kill was sent and not answered, or with an error of the runner.
    pub kill_unsure: bool,
    /// SIGKILL and the like behind the runner's back; `removed` with the container.
    pub signalled: bool,
    pub removed: bool,
    /// Its user ended it at the host.
    pub user_ended: bool,
}

/// The last answer to a task's submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Nothing came to the runner.
    #[default]
    NotSent,
    Accepted,
    /// With this status.
    Refused(u16),
    /// The connection broke: done or not.
    Broken,
}

impl<'a> World<'a> {
    pub fn make(place: &'a mut Place, schedule: &'a Schedule) -> World<'a> {
        let root = place.dir.path().to_owned();
        let fresh = |under: &str| {
            let path = root.join(under).join(schedule.seed.to_string());
            fs::create_dir_all(&path).expect("a directory");
            path
        };
        let (shared, marks) = (fresh("share"), fresh("marks"));
        // A file system without a disk only where one is to be full: fsync costs nothing there.
        let is_full_once = schedule.has(Kind::StateDirFull);
        let state = fresh(if is_full_once { "state" } else { "disk" });
        let clock_path = marks.join("clock");
        fs::write(&clock_path, 0i64.to_ne_bytes()).expect("the clock's file");
        let clock = File::options().write(true).open(&clock_path).expect("the clock's file");

        let host = Arc::new(FakeHost::start());
        let proxy = EngineProxy::before_own(place.engine());
        let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
        let mounts = vec![toml::Value::from(format!("{}:{MARKS}", text(&marks)))];
        let mut builder = Daemon::builder()
            .host(&host)
            .own_engine(place.engine())
            .engine(&proxy)
            .set("node_id", test_name("campaign"))
            .set("shared_dir", text(&shared))
            .set("state_dir", text(&state))
            .set("additional_mounts", mounts);
        let mut environment = Vec::new();
        if schedule.has(Kind::ClockJumps) {
            environment.push(("LD_PRELOAD", text(&place.clock_library)));
            environment.push(("CAMPAIGN_CLOCK", text(&clock_path)));
        }
        let state_calls = schedule.state_call.map(|nth| {
            let calls = StateCalls::new();
            calls.strike_at(nth, &state);
            calls
        });
        environment.extend(state_calls.iter().flat_map(StateCalls::environment));
        let (preloaded, others): (Vec<_>, Vec<_>) =
            environment.into_iter().partition(|(name, _)| *name == "LD_PRELOAD");
        let preloaded: Vec<String> = preloaded.into_iter().map(|(_, library)| library).collect();
        if !preloaded.is_empty() {
            builder = builder.env("LD_PRELOAD", &preloaded.join(":"));
        }
        for (name, value) in &others {
            builder = builder.env(name, value);
        }
        let daemon = builder.stopped();
        for task in &schedule.tasks {
            if let Some(script) = task.script() {
                fs::write(marks.join(format!("{}.sh", task.id)), script).expect("a script");
            }
        }
        let tasks = schedule.tasks.iter().map(|task| (task.id, TaskNote::default())).collect();
        let all_vps = schedule.vps.iter().map(|vps| (vps.id, vps::Note::default())).collect();
        World {
            schedule,
            begin: Instant::now(),
            client: place.engine().client().clone(),
            engine: Mutex::new(place.engine.as_mut().expect("an Engine")),
            address: daemon.address(),
            local_temp: PathBuf::from(daemon.setting("local_temp_dir")),
            daemon: Mutex::new(daemon),
            runner: Arc::default(),
            proxy,
            host,
            logs: shared.join("logs"),
            marks,
            state_dir: state,
            share_disk: &place.share,
            state_disk: &place.state,
            clock,
            state_calls,
            notes: Arc::new(Mutex::new(Notes { tasks, vps: all_vps, ..Notes::default() })),
            foreign: Mutex::default(),
        }
    }

    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        locked(&self.notes)
    }

    pub fn injected(&self, kind: Kind) {
        locked(&self.notes).injected(kind);
    }

    pub fn breach(&self, what: impl Into<String>) {
        self.notes().breaches.push(what.into());
    }

    pub fn note_task(&self, id: u64, change: impl FnOnce(&mut TaskNote)) {
        change(self.notes().tasks.get_mut(&id).expect("a task of the schedule"));
    }

    /// Until this time of the schedule.
    pub fn wait_for(&self, at_ms: u64) {
        let at = self.begin + Duration::from_millis(at_ms);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
    }

    pub fn set_clock(&self, offset: i64) {
        self.clock.write_all_at(&offset.to_ne_bytes(), 0).expect("the clock's file");
    }

    /// Names of the runner's containers, strangers that carry its label left out.
    pub fn containers(&self) -> Vec<String> {
        let mut names = locked(&self.daemon).containers();
        let foreign = locked(&self.foreign);
        names.retain(|name| !foreign.iter().any(|foreign| foreign.name == *name));
        names
    }

    /// What a breach has left of them, and its nameless images: the next schedule has the same Engine.
    fn remove_snapshots(&self) {
        for image in vps::verdict::images(self) {
            let is_snapshot = image["RepoTags"].to_string().contains("kohakuriver-snapshot/");
            let is_nameless = !image["RepoTags"].to_string().contains('/');
            if let (true, Some(id)) = (is_snapshot || is_nameless, image["Id"].as_str()) {
                let _ = self.client.try_api("DELETE", &format!("/images/{id}?force=1"), None);
            }
        }
    }

    /// What the runner has said, over all its lives.
    pub fn log(&self) -> String {
        locked(&self.daemon).log()
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        // Contract breaches were taken for the verdict; what came after must not panic here.
        drop(self.host.take_breaches());
        for foreign in locked(&self.foreign).drain(..) {
            self.client.remove_container(&foreign.name);
            let _ = self.client.try_api("DELETE", &format!("/images/{}", foreign.image), None);
        }
        locked(&self.daemon).kill9();
        self.remove_snapshots();
        for directory in [self.logs.parent().unwrap_or(&self.logs), &self.state_dir, &self.marks] {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

impl Notes {
    pub fn injected(&mut self, kind: Kind) {
        *self.injected.entry(kind).or_default() += 1;
    }
}

impl Span {
    pub fn since(begin: Instant) -> Span {
        Span { begin, end: Instant::now() }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
