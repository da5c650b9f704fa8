//! What the Engine is asked for: the container of a task, as contract 5.2 lists it. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::script::{LOGS_MOUNT, SHARED_MOUNT, WORKING_DIR_DEFAULT, script};
use crate::model::settings::Settings;
use crate::model::task::{Command, ImageSource, LogFiles, TaskRecord, TaskSpec, Work};
use crate::model::time::Stamp;
use crate::model::vps::Vps;
use crate::ops::network::NetworkFacts;
use crate::ops::vps;
use crate::wire::docker::{
    CreateContainer, DeviceRequest, EndpointConfig, EndpointIpamConfig, HostConfig, LogConfig,
    Mount, NetworkingConfig,
};

/// The label every container of a runner carries; the Engine filters by it.
const LABEL_MANAGED: &str = "kohakuriver.managed";
const LABEL_TASK: &str = "kohakuriver.task_id";
const LABEL_KIND: &str = "kohakuriver.task_type";
/// The owner: `NODE_ID`. Without it a container made from a committed image would pass for ours.
pub const LABEL_NODE: &str = "kohakuriver.node";
/// The record's essentials as JSON, never environment or keys (design D6).
pub const LABEL_RECORD: &str = "river-runner.record";

/// The part of SHARED_DIR that every task sees, as [`SHARED_MOUNT`].
pub const SHARED_DATA: &str = "shared_data";

/// The create call for `record`; `registered` is the address by which the host reaches this node.
pub fn create_body(
    settings: &Settings,
    network: &NetworkFacts,
    registered: Ipv4Addr,
    record: &TaskRecord,
) -> CreateContainer {
    match &record.spec.work {
        Work::Command(command) => command_body(settings, network, record, command),
        Work::Vps { vps } => {
            vps::container::create_body(settings, network, registered, record, vps)
        }
    }
}

fn command_body(
    settings: &Settings,
    network: &NetworkFacts,
    record: &TaskRecord,
    command: &Command,
) -> CreateContainer {
    let (spec, logs) = (&record.spec, &command.logs);
    let inside = |path: &Path| {
        let below = path.strip_prefix(&logs.directory).unwrap_or(path);
        format!("{LOGS_MOUNT}/{}/{}", spec.id, below.display())
    };
    let script = script(
        &command.command,
        &command.arguments,
        &command.working_dir,
        &inside(&logs.stdout),
        &inside(&logs.stderr),
    );
    let is_default = command.working_dir == WORKING_DIR_DEFAULT;
    let base = base_body(settings, network, record);
    let mut env: Vec<String> =
        command.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    // In order, the last of equal names wins: a user can't overwrite what the runner says.
    env.push(format!("KOHAKURIVER_TASK_ID={}", spec.id));
    env.push(format!("KOHAKURIVER_LOCAL_TEMP_DIR={}", settings.local_temp_dir.display()));
    env.push(format!("KOHAKURIVER_SHARED_DIR={}", settings.shared_dir.display()));
    if let Some(node) = spec.placement.node() {
        env.push(format!("KOHAKURIVER_TARGET_NUMA_NODE={node}"));
    }
    env.extend(base.env);
    // This task's directory alone: a task must not read another's output (design D5).
    let mut host_config = base.host_config;
    host_config
        .mounts
        .insert(1, bind(&logs.directory, &format!("{LOGS_MOUNT}/{}", spec.id), false));
    CreateContainer {
        cmd: vec!["/bin/sh".into(), "-c".into(), script],
        env,
        // Any other directory is entered by the script: the Engine would make one that is missing.
        working_dir: is_default.then(|| WORKING_DIR_DEFAULT.into()),
        host_config: HostConfig {
            memory: spec.memory_bytes.map_or(0, whole_mebibytes),
            // It holds only what precedes the redirection; a chatty entrypoint must not fill the disk.
            ..host_config
        },
        ..base
    }
}

/// What the containers of both kinds have.
pub fn base_body(
    settings: &Settings,
    network: &NetworkFacts,
    record: &TaskRecord,
) -> CreateContainer {
    let spec = &record.spec;
    CreateContainer {
        image: spec.image.reference(),
        env: tunnel_environment(settings, network, record),
        labels: labels(settings, record),
        host_config: host_config(settings, spec),
        networking_config: spec.reserved_ip.map(|address| NetworkingConfig {
            endpoints_config: BTreeMap::from([(
                settings.docker_network_name.clone(),
                EndpointConfig {
                    ipam_config: Some(EndpointIpamConfig { ipv4_address: address.to_string() }),
                },
            )]),
        }),
        ..CreateContainer::default()
    }
}

fn host_config(settings: &Settings, spec: &TaskSpec) -> HostConfig {
    const NANO: i64 = 1_000_000_000;
    let cpuset = spec.cpuset.as_ref();
    HostConfig {
        mounts: mounts(settings),
        network_mode: settings.docker_network_name.clone(),
        nano_cpus: spec.cores.map_or(0, |cores| i64::from(cores.get()) * NANO),
        memory: spec.memory_bytes.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        cpuset_cpus: cpuset.map(|set| set.cpus.clone()).unwrap_or_default(),
        cpuset_mems: cpuset.map(|set| set.mems.clone()).unwrap_or_default(),
        privileged: settings.tasks_privileged,
        cap_add: if settings.tasks_privileged { vec![] } else { vec!["SYS_NICE".into()] },
        device_requests: gpus(&spec.gpus),
        // What a container writes there must not fill the disk.
        log_config: Some(LogConfig {
            kind: "json-file".into(),
            config: BTreeMap::from([
                ("max-size".into(), "64k".into()),
                ("max-file".into(), "1".into()),
            ]),
        }),
        ..HostConfig::default()
    }
}

/// Rounded up, so that a task never gets less than it asked for.
fn whole_mebibytes(bytes: u64) -> i64 {
    const MEBIBYTE: u64 = 1 << 20;
    i64::try_from(bytes.div_ceil(MEBIBYTE).saturating_mul(MEBIBYTE)).unwrap_or(i64::MAX)
}

fn gpus(indices: &[u32]) -> Vec<DeviceRequest> {
    if indices.is_empty() {
        return vec![];
    }
    vec![DeviceRequest {
        device_ids: indices.iter().map(u32::to_string).collect(),
        capabilities: vec![vec!["gpu".into()]],
        ..DeviceRequest::default()
    }]
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        kind: "bind".into(),
        source: source.to_string_lossy().into_owned(),
        target: target.into(),
        read_only,
    }
}

fn mounts(settings: &Settings) -> Vec<Mount> {
    let mut mounts = vec![
        bind(&settings.shared_dir.join(SHARED_DATA), SHARED_MOUNT, false),
        bind(&settings.local_temp_dir, "/local_temp", false),
    ];
    for text in &settings.additional_mounts {
        let mut parts = text.split(':');
        let (Some(source), Some(target)) = (parts.next(), parts.next()) else { continue };
        let read_only = parts.next().is_some_and(|options| options.split(',').any(|o| o == "ro"));
        mounts.push(bind(Path::new(source), target, read_only));
    }
    mounts
}

fn tunnel_environment(
    settings: &Settings,
    network: &NetworkFacts,
    record: &TaskRecord,
) -> Vec<String> {
    if !settings.tunnel_enabled {
        return Vec::new();
    }
    vec![
        format!(
            "KOHAKURIVER_TUNNEL_URL=ws://{}:{}/t/{}",
            network.gateway, settings.runner_port, record.tunnel_secret
        ),
        format!("KOHAKURIVER_CONTAINER_ID={}", record.spec.container_name()),
    ]
}

fn labels(settings: &Settings, record: &TaskRecord) -> BTreeMap<String, String> {
    let mut labels = owner_labels(settings);
    labels.insert(LABEL_TASK.into(), record.spec.id.to_string());
    let kind = if record.spec.vps().is_some() { "vps" } else { "command" };
    labels.insert(LABEL_KIND.into(), kind.into());
    labels.insert(LABEL_RECORD.into(), Essentials::of(record).to_label());
    labels
}

/// What makes a container ours, beside its name.
pub fn owner_labels(settings: &Settings) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_MANAGED.to_owned(), "true".to_owned()),
        (LABEL_NODE.to_owned(), settings.node_id.clone()),
    ])
}

/// What a record can be rebuilt from when the state directory is empty: enough to report the end of
/// the task, nothing that is secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct Essentials {
    pub accepted: Stamp,
    pub image: ImageSource,
    #[serde(flatten)]
    pub work: EssentialWork,
}

/// What a record must know of its work.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EssentialWork {
    Vps { vps: Vps },
    Command { logs: LogFiles },
}

impl Essentials {
    fn of(record: &TaskRecord) -> Essentials {
        Essentials {
            accepted: record.times.accepted,
            image: record.spec.image.clone(),
            work: match &record.spec.work {
                Work::Vps { vps } => EssentialWork::Vps { vps: vps.clone() },
                Work::Command(command) => EssentialWork::Command { logs: command.logs.clone() },
            },
        }
    }

    fn to_label(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The essentials in a container's labels.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Option<Essentials> {
        serde_json::from_str(labels.get(LABEL_RECORD)?).ok()
    }
}

/// Ours by its labels; the caller knows it by its name. Both are needed: `docker commit` copies
/// labels into images, so a stranger's container can carry them.
pub fn is_ours(settings: &Settings, labels: &BTreeMap<String, String>) -> bool {
    owner_labels(settings).iter().all(|(key, value)| labels.get(key) == Some(value))
}
