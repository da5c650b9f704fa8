//! A runner as its clients see it: the rows that the commands call, and what they answer. Knows
//! HTTP paths; prints nothing.

use std::net::IpAddr;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Answer, Client, ClientError};
use super::run::order::Order;
use super::vps::order::VpsOrder;
use crate::limits;
use crate::model::ids::TaskId;

/// A runner that can be called.
#[derive(Clone, Debug)]
pub struct Runner(pub Client);

/// What `/health` says, as far as the commands need it.
#[derive(Clone, Debug, Deserialize)]
pub struct Health {
    pub version: String,
    pub shared_dir: String,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One task as the runner tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    pub id: String,
    pub status: Status,
    #[serde(default)]
    pub command: Option<String>,
    #[serde(default)]
    pub image: Option<String>,
    #[serde(default)]
    pub exit_code: Option<i64>,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub numa_node: Option<i64>,
    #[serde(default)]
    pub progress: Option<String>,
    #[serde(default)]
    pub notes: Vec<String>,
    #[serde(default)]
    pub container: Option<String>,
    #[serde(default)]
    pub cores: Option<u32>,
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    #[serde(default)]
    pub gpus: Vec<u32>,
    /// Only a VPS has it.
    #[serde(default)]
    pub vps: Option<Vps>,
    #[serde(default)]
    pub phases: Phases,
}

/// What a VPS has beside what every task has.
#[derive(Clone, Debug, Deserialize)]
pub struct Vps {
    pub ssh_key_mode: String,
    /// 0 for none.
    pub ssh_port: u16,
    /// Where the port is published; all addresses of the machine if there is none.
    #[serde(default)]
    pub ssh_address: Option<IpAddr>,
    pub ssh: Door,
    #[serde(default)]
    pub restored_from: Option<String>,
    /// The snapshot that its stop has made.
    #[serde(default)]
    pub saved_as: Option<String>,
    #[serde(default)]
    pub restarts: u32,
}

/// Whether an SSH server answers at a VPS's port.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    Preparing,
    Open,
    Silent,
    /// There is none, or its container does not run; also a newer runner's word.
    #[serde(other)]
    None,
}

/// A snapshot of a VPS.
#[derive(Clone, Debug, Deserialize)]
pub struct Snapshot {
    pub tag: String,
    pub timestamp: u64,
    pub size: u64,
    #[serde(default)]
    pub unique_size: Option<u64>,
    pub created_at: String,
}

/// All snapshots of a VPS, newest first.
#[derive(Debug, Deserialize)]
pub struct Snapshots {
    pub snapshots: Vec<Snapshot>,
    /// Why the list is empty although there may be some.
    #[serde(default)]
    pub error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Made {
    tag: String,
}

#[derive(Debug, Deserialize)]
struct Deleted {
    deleted_count: u64,
}

#[derive(Debug, Serialize)]
struct SnapshotOrder<'a> {
    message: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pending,
    Running,
    Paused,
    Completed,
    Failed,
    Killed,
    KilledOom,
    Stopped,
    /// A newer runner's word.
    #[serde(other)]
    Unknown,
}

/// When a task reached each phase, as RFC 3339.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Phases {
    pub accepted: Option<String>,
    pub image_ready: Option<String>,
    pub created: Option<String>,
    pub started: Option<String>,
    pub first_output: Option<String>,
    pub exited: Option<String>,
    pub recorded: Option<String>,
    pub reported: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Tasks {
    tasks: Vec<Task>,
}

/// One of a task's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// What may be done to a task that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Kill,
    Pause,
    Resume,
}

/// Which tasks a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that still need something.
    Live,
    /// The newest that are over as well.
    All,
}

impl Which {
    fn row(self) -> &'static str {
        match self {
            Which::Live => "/api/tasks",
            Which::All => "/api/tasks?all=1",
        }
    }
}

impl Runner {
    /// # Errors
    /// As for all rows: the runner can't be reached, is late, or refuses.
    pub fn health(&self) -> Result<Health, ClientError> {
        self.0.get("/health")
    }

    /// Hands a task in. When this returns the runner has it on disk.
    pub fn execute(&self, order: &Order) -> Result<(), ClientError> {
        self.0.post("/api/execute", order).map(|_: IgnoredAny| ())
    }

    pub fn act(&self, verb: Verb, id: TaskId) -> Result<(), ClientError> {
        let body = json!({"task_id": id, "container_name": id.task_container()});
        self.0.post(&format!("/api/{}", verb.name()), &body).map(|_: IgnoredAny| ())
    }

    pub fn tasks(&self, which: Which) -> Result<Vec<Task>, ClientError> {
        self.0.get(which.row()).map(|answer: Tasks| answer.tasks)
    }

    /// The list as the runner writes it, for other programs.
    pub fn tasks_json(&self, which: Which) -> Result<serde_json::Value, ClientError> {
        self.0.get(which.row())
    }

    pub fn task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.0.get(&format!("/api/tasks/{id}"))
    }

    /// Hands a VPS in and returns when its container runs.
    pub fn create_vps(&self, order: &VpsOrder) -> Result<(), ClientError> {
        let patient = self.0.patient(limits::CLI_VPS_PATIENCE);
        patient.post("/api/vps/create", order).map(|_: IgnoredAny| ())
    }

    /// Returns when the VPS has stopped, or while it still stops if that takes long.
    pub fn stop_vps(&self, id: TaskId) -> Result<(), ClientError> {
        let patient = self.0.patient(limits::CLI_VPS_STOP_PATIENCE);
        patient.post(&format!("/api/vps/stop/{id}"), &json!({})).map(|_: IgnoredAny| ())
    }

    /// Makes a snapshot and gives its name.
    pub fn make_snapshot(&self, id: TaskId, message: Option<&str>) -> Result<String, ClientError> {
        let patient = self.0.patient(limits::CLI_VPS_PATIENCE);
        let order = SnapshotOrder { message };
        patient.post(&format!("/api/vps/snapshots/{id}"), &order).map(|made: Made| made.tag)
    }

    pub fn snapshots(&self, id: TaskId) -> Result<Snapshots, ClientError> {
        self.0.get(&format!("/api/vps/snapshots/{id}"))
    }

    pub fn delete_snapshot(&self, id: TaskId, timestamp: u64) -> Result<(), ClientError> {
        let patient = self.0.patient(limits::CLI_VPS_PATIENCE);
        let path = format!("/api/vps/snapshots/{id}/{timestamp}");
        patient.delete(&path).map(|_: IgnoredAny| ())
    }

    /// Deletes those that are not in use, and says how many these were.
    pub fn delete_snapshots(&self, id: TaskId) -> Result<u64, ClientError> {
        let patient = self.0.patient(limits::CLI_VPS_PATIENCE);
        let deleted = patient.delete(&format!("/api/vps/snapshots/{id}"));
        deleted.map(|deleted: Deleted| deleted.deleted_count)
    }

    /// A stream's bytes from `offset` to its present end.
    pub fn output(&self, id: TaskId, stream: Stream, offset: u64) -> Result<Answer, ClientError> {
        let stream = stream.name();
        self.0.stream(&format!("/api/tasks/{id}/logs?stream={stream}&offset={offset}"))
    }

    /// A stream's bytes from `offset` until the task has ended.
    pub fn follow(&self, id: TaskId, stream: Stream, offset: u64) -> Result<Answer, ClientError> {
        let stream = stream.name();
        self.0.stream(&format!("/api/tasks/{id}/logs?stream={stream}&offset={offset}&follow=1"))
    }
}

impl Status {
    pub fn is_ended(self) -> bool {
        match self {
            Status::Completed
            | Status::Failed
            | Status::Killed
            | Status::KilledOom
            | Status::Stopped => true,
            Status::Pending | Status::Running | Status::Paused | Status::Unknown => false,
        }
    }

    /// The runner's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Killed => "killed",
            Status::KilledOom => "killed_oom",
            Status::Stopped => "stopped",
            Status::Unknown => "unknown",
        }
    }
}

impl Door {
    /// The runner's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Door::Preparing => "preparing",
            Door::Open => "open",
            Door::Silent => "silent",
            Door::None => "none",
        }
    }
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Verb::Kill => "kill",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
        }
    }
}
