//! A task, be it a command or a VPS: what was asked (`TaskSpec`), what has become of it (`TaskRecord`), and how it
//! ended (`Outcome`). A record is what lies on disk, one file a task (design D6).

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::ids::TaskId;
use super::phase::{Phase, Wanted};
use super::placement::{Cpuset, Placement};
use super::time::Stamp;
use super::vps::{Door, Vps, VpsState};

/// What a task is to run, as checked at the door.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub id: TaskId,
    #[serde(flatten)]
    pub work: Work,
    /// CPU limit in whole cores; `None` is unlimited.
    pub cores: Option<NonZeroU32>,
    /// Memory limit in bytes; `None` is unlimited.
    pub memory_bytes: Option<u64>,
    /// GPU indices for the NVIDIA runtime.
    pub gpus: Vec<u32>,
    pub placement: Placement,
    /// The CPUs and memory nodes that the placement means on this machine.
    pub cpuset: Option<Cpuset>,
    pub image: ImageSource,
    /// A fixed address on the container network.
    pub reserved_ip: Option<Ipv4Addr>,
}

/// What its container is for. On disk the fields of either lie beside the others.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Work {
    /// Runs until it is stopped: somebody's desk.
    Vps {
        vps: Vps,
    },
    Command(Command),
}

/// A command that runs to its end.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Raw shell text (contract 1.1).
    pub command: String,
    /// Words appended to the command, each quoted.
    pub arguments: Vec<String>,
    /// The user's environment; names are unique.
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    /// Where the output goes, below the task's own log directory.
    pub logs: LogFiles,
}

impl TaskSpec {
    /// The command, unless it is a VPS.
    pub fn command(&self) -> Option<&Command> {
        match &self.work {
            Work::Command(command) => Some(command),
            Work::Vps { .. } => None,
        }
    }

    /// The VPS, unless it is a command.
    pub fn vps(&self) -> Option<&Vps> {
        match &self.work {
            Work::Vps { vps } => Some(vps),
            Work::Command(_) => None,
        }
    }

    /// The name of its container (contract rule 20).
    pub fn container_name(&self) -> String {
        match &self.work {
            Work::Command(_) => self.id.task_container(),
            Work::Vps { .. } => self.id.vps_container(),
        }
    }
}

/// The image a task runs in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ImageSource {
    /// `kohakuriver/{name}:base`, synced from the newest tarball (contract 5.7).
    Environment(String),
    /// A full reference, pulled as `Pull` says (contract 5.8).
    Registry(String, Pull),
}

/// When a registry image is pulled. The host never names it, so its tasks always pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    #[default]
    Always,
    Missing,
    Never,
}

impl ImageSource {
    /// The reference the Engine knows the image by.
    pub fn reference(&self) -> String {
        match self {
            ImageSource::Environment(name) => environment_reference(name),
            ImageSource::Registry(reference, _) => reference.clone(),
        }
    }
}

/// `kohakuriver/{name}:base` (contract 5.1).
pub fn environment_reference(name: &str) -> String {
    format!("kohakuriver/{name}:base")
}

/// A task's two output files: host directory `{SHARED_DIR}/logs/{id}`, paths below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFiles {
    /// The one directory that is mounted into the container (design D5).
    pub directory: PathBuf,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

/// How a task ended. Exactly one per accepted task (design law 1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub status: FinalStatus,
    /// The process's own code, or the code the `docker` command would give for a refused start.
    pub exit_code: Option<i64>,
    /// What the user reads; `None` for success.
    pub message: Option<String>,
}

/// The final states of contract 3.3 that a task can reach here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalStatus {
    Completed,
    Failed,
    /// By `/api/kill` or because the host had ended the task: never reported (contract rule 8).
    Killed,
    KilledOom,
    /// A VPS by `/api/vps/stop` (never reported), or one whose container is gone.
    Stopped,
}

impl FinalStatus {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            FinalStatus::Completed => "completed",
            FinalStatus::Failed => "failed",
            FinalStatus::Killed => "killed",
            FinalStatus::KilledOom => "killed_oom",
            FinalStatus::Stopped => "stopped",
        }
    }
}

/// When each phase was reached (design D15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    pub accepted: Stamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ready: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_output: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Stamp>,
}

impl Times {
    /// A task accepted at `at` and nothing since.
    pub fn accepted(at: Stamp) -> Times {
        Times {
            accepted: at,
            image_ready: None,
            created: None,
            started: None,
            first_output: None,
            exited: None,
            recorded: None,
            reported: None,
        }
    }
}

/// One thing the host is still to be told (contract 3.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    Pending,
    Running,
    /// The record's `outcome`.
    Final,
}

/// What lies on disk for a task, and what every verb reads and writes.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub spec: TaskSpec,
    pub phase: Phase,
    pub wanted: Wanted,
    pub times: Times,
    /// When this run of the program accepted it, by a clock that nobody can set; `None` for one that
    /// an earlier run did.
    #[serde(skip)]
    pub accepted_by_us: Option<Instant>,
    /// `Idempotency-Key` of the request that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The part of the tunnel URL that only this container knows (design D13).
    pub tunnel_secret: String,
    /// Whether the Engine's event can be believed about the exit code: an image can carry a label
    /// that replaces it there.
    #[serde(default)]
    pub end_is_told: bool,
    /// The time of the stdout file as it was made. The first act of whatever runs in the container
    /// is to empty that file, which changes it: the witness where the Engine has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_made: Option<Stamp>,
    /// Whether the Engine may hold a container for it.
    pub container: ContainerTrace,
    /// What a VPS has become; of a command it stays as it was made.
    #[serde(default, skip_serializing_if = "VpsState::is_default")]
    pub vps: VpsState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Unsent, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<Report>,
    /// What a user should know besides: a local image used while the registry was away, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What the Engine may hold for a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerTrace {
    /// Nothing was asked of it yet.
    None,
    /// A create was sent, or about to be: the deterministic name tells whether it worked.
    Possible,
    /// The Engine's id of the container: unlike the name it can never come to mean another one.
    Known(String),
    /// Removed, or known never to have been made.
    Removed,
}

impl TaskRecord {
    /// The record of a task accepted at `now`; `reports` is empty for a node without a host.
    pub fn accepted(
        spec: TaskSpec,
        now: Stamp,
        idempotency_key: Option<String>,
        tunnel_secret: String,
        reports: Vec<Report>,
    ) -> TaskRecord {
        TaskRecord {
            spec,
            phase: Phase::Accepted,
            wanted: Wanted::Run,
            times: Times::accepted(now),
            accepted_by_us: Some(Instant::now()),
            idempotency_key,
            tunnel_secret,
            end_is_told: false,
            output_made: None,
            container: ContainerTrace::None,
            vps: VpsState::default(),
            outcome: None,
            reports,
            notes: Vec::new(),
        }
    }

    /// Ends the task. A killed task tells the host nothing more (contract rule 8), nor does a VPS that
    /// was stopped (contract 3.4); any other queues its final and drops what the final makes stale (design law 6).
    pub fn end(&mut self, outcome: Outcome, exited: Option<Stamp>, now: Stamp, has_host: bool) {
        self.reports.clear();
        if has_host && outcome.status != FinalStatus::Killed && self.wanted != Wanted::Stopped {
            self.reports.push(Report::Final);
        }
        self.phase = Phase::Ended;
        // Its port may be another's already.
        (self.vps.door, self.vps.ssh_port, self.vps.ssh_address) = (Door::None, 0, None);
        self.times.exited = self.times.exited.or(exited);
        self.times.recorded = Some(now);
        if self.container == ContainerTrace::None {
            self.container = ContainerTrace::Removed;
        }
        self.outcome = Some(outcome);
    }

    /// Nothing is left to do: ended, told, and cleaned up.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Ended
            && self.reports.is_empty()
            && self.container == ContainerTrace::Removed
    }

    /// Nothing is left to do here: ended and cleaned up; only the host is to be told how.
    pub fn waits_for_the_host_only(&self) -> bool {
        self.phase == Phase::Ended
            && self.reports == [Report::Final]
            && self.container == ContainerTrace::Removed
    }

    /// Whether the heartbeat lists it: until its final is acknowledged, and not after a kill.
    pub fn counts_as_running(&self) -> bool {
        match self.phase {
            Phase::Ended => !self.reports.is_empty(),
            _ => self.wanted == Wanted::Run,
        }
    }

    /// The status word for rows of our own.
    pub fn status_word(&self) -> &'static str {
        match (self.phase, &self.outcome) {
            (Phase::Accepted | Phase::Creating | Phase::Starting, _) => "pending",
            (Phase::Running, _) => "running",
            (Phase::Paused, _) => "paused",
            (Phase::Ended, Some(outcome)) => outcome.status.word(),
            (Phase::Ended, None) => "failed",
        }
    }
}

// Environment and arguments may hold secrets: a log line names the task, never its content.
impl fmt::Debug for TaskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSpec").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for TaskRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRecord")
            .field("id", &self.spec.id)
            .field("phase", &self.phase)
            .field("wanted", &self.wanted)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}
