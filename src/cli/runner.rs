//! A runner as its clients see it: the rows that the commands call, and what they answer. Knows
//! HTTP paths; prints nothing.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::client::{Answer, Client, ClientError};
use super::run::order::Order;
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
    pub phases: Phases,
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
            Status::Completed | Status::Failed | Status::Killed | Status::KilledOom => true,
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
            Status::Unknown => "unknown",
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
