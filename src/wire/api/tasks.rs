//! Bodies of `/api/execute` and of kill, pause and resume (contract 1.1). Types are checked here;
//! what a value may be is `api::spec`'s business.

use super::fields::{Fields, Invalid, integer, list, string, string_pairs};

/// `POST /api/execute`, types checked, nothing interpreted.
#[derive(Clone)]
pub struct ExecuteBody {
    pub task_id: i64,
    pub command: String,
    pub arguments: Vec<String>,
    pub env_vars: Vec<(String, String)>,
    pub required_cores: i64,
    pub required_gpus: Vec<i64>,
    pub required_memory_bytes: Option<i64>,
    pub target_numa_node_id: Option<i64>,
    pub container_name: Option<String>,
    pub registry_image: Option<String>,
    /// Ours, optional: `always` (default), `missing` or `never`.
    pub pull: Option<String>,
    /// Empty where none was named.
    pub working_dir: String,
    pub stdout_path: String,
    pub stderr_path: String,
    pub reserved_ip: Option<String>,
}

impl ExecuteBody {
    /// The body, and the fields it came from for faults found later.
    ///
    /// # Errors
    /// The body is no JSON object.
    pub fn read(body: &[u8]) -> Result<(ExecuteBody, Fields), Invalid> {
        let mut fields = Fields::of_body(body)?;
        let execute = ExecuteBody {
            task_id: fields.need("task_id", integer),
            command: fields.need("command", string),
            arguments: fields.option("arguments", list(string)).unwrap_or_default(),
            env_vars: fields.option("env_vars", string_pairs).unwrap_or_default(),
            required_cores: fields.or("required_cores", 1, integer),
            required_gpus: fields.option("required_gpus", list(integer)).unwrap_or_default(),
            required_memory_bytes: fields.option("required_memory_bytes", integer),
            target_numa_node_id: fields.option("target_numa_node_id", integer),
            // Required by the letter of the contract, yet the host sends null with a registry
            // image (rule 2); which of the two is needed is decided by what they say.
            container_name: fields.option("container_name", string),
            registry_image: fields.option("registry_image", string),
            pull: fields.option("pull", string),
            working_dir: fields.or("working_dir", String::new(), string),
            stdout_path: fields.need("stdout_path", string),
            stderr_path: fields.need("stderr_path", string),
            reserved_ip: fields.option("reserved_ip", string),
        };
        Ok((execute, fields))
    }
}

/// Body of kill, pause and resume. The container's name is sent by the host but never believed:
/// the record knows its container (contract 1.1 and S5).
#[derive(Clone, Debug, PartialEq)]
pub struct ControlBody {
    pub task_id: i64,
}

impl ControlBody {
    /// # Errors
    /// Every fault of the body.
    pub fn read(body: &[u8]) -> Result<ControlBody, Invalid> {
        let mut fields = Fields::of_body(body)?;
        let control = ControlBody { task_id: fields.need("task_id", integer) };
        fields.need("container_name", string);
        fields.done(control)
    }
}
