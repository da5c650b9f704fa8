//! The body of `POST /api/vps/create` (contract 1.2).

use serde::Serialize;

use crate::cli::run::order::Pull;
use crate::model::ids::TaskId;
use crate::model::vps::PublicKey;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VpsOrder {
    pub task_id: TaskId,
    pub required_cores: u32,
    pub required_gpus: Vec<u32>,
    pub required_memory_bytes: Option<u64>,
    pub container_name: Option<String>,
    pub registry_image: Option<String>,
    pub pull: Pull,
    pub ssh_key_mode: &'static str,
    pub ssh_public_key: Option<String>,
    pub vps_backend: &'static str,
}

/// How root is to get in.
#[derive(Clone, Debug)]
pub enum Entrance<'a> {
    Key(&'a PublicKey),
    /// Without a password; as before, where the VPS is known.
    Open,
    Closed,
}

impl VpsOrder {
    pub fn new(task_id: TaskId, entrance: Entrance<'_>) -> VpsOrder {
        let (ssh_key_mode, key) = match entrance {
            Entrance::Key(key) => ("upload", Some(key.as_str().to_owned())),
            Entrance::Open => ("none", None),
            Entrance::Closed => ("disabled", None),
        };
        VpsOrder {
            task_id,
            required_cores: 1,
            required_gpus: Vec::new(),
            required_memory_bytes: None,
            container_name: None,
            registry_image: None,
            pull: Pull::Missing,
            ssh_key_mode,
            ssh_public_key: key,
            vps_backend: "docker",
        }
    }
}
