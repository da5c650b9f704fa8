//! Body of `/api/vps/create` (contract 1.2). Types are checked here; what a value may be is
//! `api::vps_spec`'s business.

use crate::limits::SNAPSHOT_MESSAGE_BYTES_MAX;

use super::fields::{Fields, Invalid, integer, list, string};

/// `POST /api/vps/create`, types checked, nothing interpreted.
#[derive(Clone, Debug)]
pub struct VpsBody {
    pub task_id: i64,
    pub required_cores: i64,
    pub required_gpus: Vec<i64>,
    pub required_memory_bytes: Option<i64>,
    pub container_name: Option<String>,
    pub registry_image: Option<String>,
    /// Ours, optional: `always` (default), `missing` or `never`.
    pub pull: Option<String>,
    pub ssh_key_mode: String,
    pub ssh_public_key: Option<String>,
    pub reserved_ip: Option<String>,
    pub vps_backend: String,
}

impl VpsBody {
    /// The body, and the fields it came from for faults found later.
    ///
    /// # Errors
    /// The body is no JSON object.
    pub fn read(body: &[u8]) -> Result<(VpsBody, Fields), Invalid> {
        let mut fields = Fields::of_body(body)?;
        let body = VpsBody {
            task_id: fields.need("task_id", integer),
            required_cores: fields.or("required_cores", 1, integer),
            required_gpus: fields.option("required_gpus", list(integer)).unwrap_or_default(),
            required_memory_bytes: fields.option("required_memory_bytes", integer),
            container_name: fields.option("container_name", string),
            registry_image: fields.option("registry_image", string),
            pull: fields.option("pull", string),
            ssh_key_mode: fields.or("ssh_key_mode", "disabled".to_owned(), string),
            ssh_public_key: fields.option("ssh_public_key", string),
            reserved_ip: fields.option("reserved_ip", string),
            vps_backend: fields.or("vps_backend", "docker".to_owned(), string),
        };
        // Required by the letter, ignored for Docker (contract 1.2); the host sends it as null, too.
        fields.option("target_numa_node_id", integer);
        fields.option("ssh_port", integer);
        Ok((body, fields))
    }
}

/// `POST /api/vps/snapshots/{id}`, which may have no body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotBody {
    pub message: Option<String>,
}

impl SnapshotBody {
    /// # Errors
    /// The body is no JSON object, or the message none that the Engine takes.
    pub fn read(body: &[u8]) -> Result<SnapshotBody, Invalid> {
        // A client without a body sends none, or says so.
        if matches!(body.trim_ascii(), b"" | b"null") {
            return Ok(SnapshotBody::default());
        }
        let mut fields = Fields::of_body(body)?;
        let message = fields.option("message", string);
        if message.as_ref().is_some_and(|message| message.len() > SNAPSHOT_MESSAGE_BYTES_MAX) {
            let why = format!("must not have more than {SNAPSHOT_MESSAGE_BYTES_MAX} bytes");
            fields.refuse("message", why);
        }
        fields.done(SnapshotBody { message })
    }
}
