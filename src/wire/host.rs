//! What we send to the host and what it answers (contract section 3), field by field as it reads
//! them.

use serde::{Deserialize, Serialize};

use super::numa::NumaTopology;

/// `POST /api/register` (contract 3.1).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Register {
    pub hostname: String,
    pub url: String,
    pub total_cores: usize,
    pub total_ram_bytes: Option<u64>,
    pub numa_topology: Option<NumaTopology>,
    pub gpu_info: Vec<serde_json::Value>,
}

/// `PUT /api/heartbeat/{hostname}` (contract 3.2); every field is always sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heartbeat {
    pub running_tasks: Vec<u64>,
    /// Always empty: what we kill on our own account is reported as a final, with its reason.
    pub killed_tasks: Vec<serde_json::Value>,
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub current_avg_temp: Option<f64>,
    pub current_max_temp: Option<f64>,
    pub gpu_info: Vec<serde_json::Value>,
    pub vm_capable: bool,
    pub vfio_gpus: Option<Vec<serde_json::Value>>,
    pub runner_version: &'static str,
}

/// `POST /api/update` (contract 3.3); all seven keys, nulls included.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Update {
    pub task_id: u64,
    pub status: &'static str,
    pub exit_code: Option<i64>,
    pub message: Option<String>,
    /// Naive local time (contract rule 3).
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    pub ssh_port: Option<u16>,
}

/// The part of the host's answers that we read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Answer {
    #[serde(default)]
    pub message: String,
}

/// `message` of an update that the host did not take; the status is 200 all the same.
pub const UPDATE_REFUSED: &str = "Task ID not recognized or invalid state transition.";
