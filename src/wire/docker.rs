//! The Docker Engine's JSON, field for field as version 1.41 to 1.47 of its API writes it. Only
//! `docker` reads and writes these; what the Engine calls by other names stays ugly here.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

// ── what we send ─────────────────────────────────────────────────────────────────────────────

/// Body of `POST /containers/create`. No `Debug`: the environment holds users' secrets.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateContainer {
    pub image: String,
    pub cmd: Vec<String>,
    /// Absent keeps the image's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`; of equal names the last wins.
    pub env: Vec<String>,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub open_stdin: bool,
    pub tty: bool,
    /// `22/tcp`.
    pub exposed_ports: BTreeMap<String, Nothing>,
    pub host_config: HostConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking_config: Option<NetworkingConfig>,
}

/// An object without members, where the Engine uses a map as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// The part of a container that the Engine calls the host's business.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostConfig {
    /// `host:container[:options]`. The Engine makes a missing source; `mounts` refuse it.
    pub binds: Vec<String>,
    pub mounts: Vec<Mount>,
    /// A network's name; empty is the Engine's default.
    pub network_mode: String,
    /// Billionths of a core; 0 is no limit.
    pub nano_cpus: i64,
    /// Bytes; 0 is no limit.
    pub memory: i64,
    /// `0-3,8`; empty is every core.
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub device_requests: Vec<DeviceRequest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_config: Option<LogConfig>,
    pub auto_remove: bool,
    pub restart_policy: RestartPolicy,
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Bytes of `/dev/shm`; absent is the Engine's 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<i64>,
}

/// One mount of `HostConfig`; `kind` is `bind`, `volume` or `tmpfs`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mount {
    #[serde(rename = "Type")]
    pub kind: String,
    pub source: String,
    pub target: String,
    pub read_only: bool,
}

/// Devices by their driver's own names.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceRequest {
    pub driver: String,
    pub count: i64,
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Vec<String>,
    /// Any of these sets, each wanted whole.
    pub capabilities: Vec<Vec<String>>,
}

/// Log driver and its options.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LogConfig {
    #[serde(rename = "Type")]
    pub kind: String,
    pub config: BTreeMap<String, String>,
}

/// `name` is `no` (or empty), `always`, `unless-stopped` or `on-failure`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestartPolicy {
    pub name: String,
    pub maximum_retry_count: i64,
}

/// Where a container's port appears on the host, both when asked for and as it came out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Empty is every address.
    pub host_ip: String,
    /// Decimal; empty or `0` lets the Engine choose.
    pub host_port: String,
}

/// Networks to join at creation, by name. The Engine takes one at most.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkingConfig {
    pub endpoints_config: BTreeMap<String, EndpointConfig>,
}

/// How the container joins one network.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EndpointConfig {
    #[serde(rename = "IPAMConfig", skip_serializing_if = "Option::is_none")]
    pub ipam_config: Option<EndpointIpamConfig>,
}

/// A fixed address in the network.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EndpointIpamConfig {
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
}

/// Body of `POST /networks/create`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateNetwork {
    pub name: String,
    /// True makes an equal name 409; newer Engines do so anyway.
    pub check_duplicate: bool,
    pub driver: String,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// The address pools of a network, asked for or as they are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ipam {
    pub driver: String,
    #[serde(deserialize_with = "null_is_default")]
    pub config: Vec<IpamPool>,
}

/// One pool: `172.30.0.0/16` with its gateway and the addresses the Engine must not hand out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamPool {
    pub subnet: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// The value of every `filters=` query: a map of lists, as JSON.
pub type Filters<'a> = BTreeMap<&'a str, Vec<&'a str>>;

// ── what we read ─────────────────────────────────────────────────────────────────────────────

/// `GET /version`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    pub version: String,
    pub api_version: String,
    /// Absent before 1.25.
    #[serde(rename = "MinAPIVersion", default)]
    pub min_api_version: String,
}

/// `GET /info`, what concerns us.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    #[serde(default)]
    pub operating_system: String,
    #[serde(default)]
    pub driver: String,
    /// Absent where the Engine knows version 1 only.
    #[serde(default)]
    pub cgroup_version: String,
    #[serde(default)]
    pub cgroup_driver: String,
    pub docker_root_dir: String,
    #[serde(rename = "NCPU")]
    pub ncpu: u32,
    /// Bytes.
    pub mem_total: u64,
    /// `name=seccomp,profile=default`, `name=userns`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub security_options: Vec<String>,
    #[serde(default)]
    pub live_restore_enabled: bool,
    /// Its clock, RFC 3339.
    #[serde(default)]
    pub system_time: String,
}

/// The body of every refusal.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    pub message: String,
}

/// Answer to `POST /containers/create`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    pub id: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub warnings: Vec<String>,
}

/// One row of `GET /containers/json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerSummary {
    pub id: String,
    /// Each with a leading slash. Empty while a removal is stuck.
    #[serde(default, deserialize_with = "null_is_default")]
    pub names: Vec<String>,
    #[serde(default)]
    pub image: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    pub state: ContainerState,
    /// For people: `Exited (3) 1 second ago`.
    #[serde(default)]
    pub status: String,
    /// Unix seconds.
    #[serde(default)]
    pub created: i64,
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<SummaryPort>,
}

/// A port of a container in a list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SummaryPort {
    pub private_port: u16,
    /// On the host; 0 where it is exposed only.
    #[serde(default)]
    pub public_port: u16,
}

/// The Engine's word for what a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// A word of a newer Engine: one odd container must not hide the others in a list.
    #[serde(other)]
    Unknown,
}

/// `GET /containers/{name}/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerInspect {
    pub id: String,
    pub name: String,
    /// The image's id.
    pub image: String,
    pub state: InspectState,
    pub config: InspectConfig,
    pub network_settings: NetworkSettings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectState {
    pub status: ContainerState,
    pub running: bool,
    pub paused: bool,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// 0 when there is no process.
    pub pid: i32,
    pub exit_code: i64,
    #[serde(default)]
    pub error: String,
    /// RFC 3339 with up to nine decimals; year 1 is "not yet".
    pub started_at: String,
    pub finished_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub struct InspectConfig {
    /// The reference the container was made from.
    pub image: String,
    pub user: String,
    pub tty: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    pub working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    #[serde(deserialize_with = "null_is_default")]
    pub networks: BTreeMap<String, EndpointSettings>,
    /// `22/tcp` → where it appears; null for a port that is only exposed.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointSettings {
    /// Empty while the container does not run.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
}

/// One row of `GET /images/json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageSummary {
    pub id: String,
    /// Null, or `<none>:<none>` on old Engines, for an image without a name.
    #[serde(default, deserialize_with = "null_is_default")]
    pub repo_tags: Vec<String>,
    /// Unix seconds.
    pub created: i64,
    /// Bytes.
    pub size: i64,
    #[serde(default, deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
}

/// `GET /images/{reference}/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageInspect {
    pub id: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub repo_tags: Vec<String>,
    /// RFC 3339; may be absent in newer Engines.
    #[serde(default, deserialize_with = "null_is_default")]
    pub created: String,
    pub size: i64,
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: InspectConfig,
}

/// The same answer, for a copy of the image: what it is built of, its configuration unread.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageBuild {
    pub id: String,
    pub size: i64,
    #[serde(default)]
    pub config: serde_json::Value,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootFs {
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<String>,
}

/// `GET /networks/{name}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkInspect {
    pub id: String,
    pub name: String,
    pub driver: String,
    #[serde(rename = "IPAM", default)]
    pub ipam: Ipam,
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
}

/// Answer to `POST /networks/create`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedNetwork {
    pub id: String,
}

/// Header `X-Docker-Container-Path-Stat`, below its base64.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathStat {
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `FileMode`, not the kernel's: see [`PathStat::is_link`] and its like.
    pub mode: u32,
    pub mtime: String,
    /// Resolved to the end, absolute inside the container; empty unless it is a link.
    #[serde(default)]
    pub link_target: String,
}

impl PathStat {
    /// A symbolic link.
    pub fn is_link(&self) -> bool {
        self.mode & GO_MODE_SYMLINK != 0
    }

    /// A directory.
    pub fn is_directory(&self) -> bool {
        self.mode & GO_MODE_DIRECTORY != 0
    }

    /// Plain bytes: no link, directory, device, pipe or socket.
    pub fn is_regular_file(&self) -> bool {
        self.mode & GO_MODE_TYPES == 0
    }

    /// The nine permission bits.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o777
    }
}

const GO_MODE_DIRECTORY: u32 = 1 << 31;
const GO_MODE_SYMLINK: u32 = 1 << 27;
/// Directory, symlink, named pipe, socket, device, character device, irregular.
const GO_MODE_TYPES: u32 =
    GO_MODE_DIRECTORY | GO_MODE_SYMLINK | 1 << 25 | 1 << 24 | 1 << 26 | 1 << 21 | 1 << 19;

/// One line of the stream that pull and load answer with.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgressLine {
    /// Load's only word: `Loaded image: name:tag`.
    pub stream: String,
    pub status: String,
    /// A layer's short id.
    pub id: String,
    pub progress_detail: ProgressDetail,
    /// Not empty: the call failed, whatever its status said.
    pub error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    pub current: u64,
    pub total: u64,
}

/// One line of `GET /events`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Event {
    #[serde(rename = "Type")]
    pub kind: String,
    pub action: String,
    pub actor: Actor,
    /// Unix nanoseconds.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

#[derive(Debug, Deserialize)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    /// The container's labels with `name`, `image` and `exitCode` among them. A label named
    /// `exitCode` **replaces** the code (seen with Engine 20.10).
    #[serde(rename = "Attributes", default, deserialize_with = "null_is_default")]
    pub attributes: BTreeMap<String, String>,
}

/// Go writes `null` for an empty list or map.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Body of `POST /containers/{id}/exec`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateExec<'a> {
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub tty: bool,
    pub env: &'a [String],
    pub cmd: &'a [&'a str],
}

/// Answer of `POST /containers/{id}/exec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedExec {
    pub id: String,
}

/// Body of `POST /exec/{id}/start`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StartExec {
    pub detach: bool,
    pub tty: bool,
}

/// Answer of `GET /exec/{id}/json`, as far as we look.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecInspect {
    pub running: bool,
    /// 0 before it runs.
    #[serde(default)]
    pub pid: i32,
    /// `null` while it has none.
    #[serde(default)]
    pub exit_code: Option<i64>,
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_with_a_gpu_and_a_fixed_address_is_written_as_the_engine_reads_it() {
        let body = CreateContainer {
            image: "kohakuriver/base:base".into(),
            cmd: vec!["/bin/sh".into()],
            exposed_ports: [("22/tcp".into(), Nothing {})].into(),
            host_config: HostConfig {
                nano_cpus: 2_000_000_000,
                cpuset_cpus: "0-1".into(),
                device_requests: vec![DeviceRequest {
                    device_ids: vec!["3".into()],
                    capabilities: vec![vec!["gpu".into()]],
                    ..DeviceRequest::default()
                }],
                port_bindings: [("22/tcp".into(), vec![PortBinding::default()])].into(),
                ..HostConfig::default()
            },
            networking_config: Some(NetworkingConfig {
                endpoints_config: [(
                    "kohakuriver-overlay".into(),
                    EndpointConfig {
                        ipam_config: Some(EndpointIpamConfig { ipv4_address: "10.0.0.7".into() }),
                    },
                )]
                .into(),
            }),
            ..CreateContainer::default()
        };
        assert_eq!(
            serde_json::to_value(&body).unwrap(),
            json!({
                "Image": "kohakuriver/base:base", "Cmd": ["/bin/sh"], "Env": [], "Labels": {},
                "OpenStdin": false, "Tty": false, "ExposedPorts": {"22/tcp": {}},
                "HostConfig": {
                    "Binds": [], "Mounts": [], "NetworkMode": "", "NanoCpus": 2_000_000_000,
                    "Memory": 0, "CpusetCpus": "0-1", "CpusetMems": "", "Privileged": false,
                    "CapAdd": [], "AutoRemove": false,
                    "DeviceRequests": [{
                        "Driver": "", "Count": 0, "DeviceIDs": ["3"], "Capabilities": [["gpu"]]
                    }],
                    "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
                    "PortBindings": {"22/tcp": [{"HostIp": "", "HostPort": ""}]}
                },
                "NetworkingConfig": {"EndpointsConfig": {
                    "kohakuriver-overlay": {"IPAMConfig": {"IPv4Address": "10.0.0.7"}}
                }}
            })
        );
    }

    #[test]
    fn nulls_of_an_imported_image_read_as_empty() {
        let image: ImageInspect = serde_json::from_value(json!({
            "Id": "sha256:1", "RepoTags": null, "Created": "2026-11-24T23:22:51.236403228Z",
            "Size": 7, "Config": {"User": "", "Labels": null, "Entrypoint": null, "Cmd": null}
        }))
        .unwrap();
        assert!(image.repo_tags.is_empty() && image.config.entrypoint.is_empty());
    }

    #[test]
    fn a_container_state_of_a_newer_engine_reads_as_unknown() {
        let row: ContainerSummary =
            serde_json::from_value(json!({"Id": "1", "State": "teleporting"})).unwrap();
        assert_eq!(row.state, ContainerState::Unknown);
    }

    #[test]
    fn a_path_stat_of_a_link_tells_its_target_and_kind() {
        let stat: PathStat = serde_json::from_value(json!({
            "name": "link", "size": 6, "mode": 134_218_239, "mtime": "2026-11-24T23:22:51Z",
            "linkTarget": "/etc/passwd"
        }))
        .unwrap();
        assert!(stat.is_link() && !stat.is_regular_file() && !stat.is_directory());
        assert_eq!((stat.permissions(), stat.link_target.as_str()), (0o777, "/etc/passwd"));
    }

    #[test]
    fn a_die_event_keeps_labels_beside_the_engines_own_attributes() {
        let event: Event = serde_json::from_value(json!({
            "status": "die", "id": "7", "Type": "container", "Action": "die",
            "Actor": {"ID": "7", "Attributes": {"a.b": "c", "exitCode": "3", "name": "x"}},
            "scope": "local", "time": 1_795_562_572, "timeNano": 1_795_562_572_260_662_520_i64
        }))
        .unwrap();
        assert_eq!((event.action.as_str(), event.actor.attributes.len()), ("die", 3));
    }
}
