//! From the body of `/api/execute` to a task: every value is judged here, once, against this node
//! (its cores, NUMA nodes, network, shared directory). Afterwards nothing is checked again.

use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};

use crate::limits::{ENVIRONMENT_NAME_BYTES_MAX, IMAGE_REFERENCE_BYTES_MAX, MEMORY_BYTES_MIN};
use crate::model::ids::TaskId;
use crate::model::placement::{Placement, seat};
use crate::model::script::WORKING_DIR_DEFAULT;
use crate::model::settings::Settings;
use crate::model::task::{Command, ImageSource, LogFiles, Pull, TaskSpec, Work};
use crate::model::topology::Topology;
use crate::model::vps::{Login, PublicKey, Vps};
use crate::ops::network::NetworkFacts;
use crate::wire::api::fields::{Fields, Invalid};
use crate::wire::api::tasks::ExecuteBody;
use crate::wire::api::vps::VpsBody;

/// The task that `body` asks for.
///
/// # Errors
/// All faults, also those that reading the fields has found.
pub fn task_spec(
    body: ExecuteBody,
    mut fields: Fields,
    settings: &Settings,
    topology: &Topology,
    network: &NetworkFacts,
) -> Result<TaskSpec, Invalid> {
    let id = TaskId::from_wire(body.task_id);
    if let Err(error) = id {
        fields.refuse("task_id", error.to_string());
    }
    let has_nul = |text: &String| text.contains('\0');
    for (name, found) in [
        ("command", has_nul(&body.command)),
        ("arguments", body.arguments.iter().any(has_nul)),
        ("working_dir", has_nul(&body.working_dir)),
        ("stdout_path", has_nul(&body.stdout_path)),
        ("stderr_path", has_nul(&body.stderr_path)),
    ] {
        if found {
            fields.refuse(name, "must not contain a NUL byte");
        }
    }
    if body.env_vars.iter().any(|(name, value)| !is_variable(name, value)) {
        fields
            .refuse("env_vars", "a name is not empty and has no '='; neither part has a NUL byte");
    }
    let (image, pull) = (body.registry_image.as_deref(), body.pull.as_deref());
    let image = image_source(body.container_name.as_deref(), image, pull, &mut fields);
    let placement = Placement::try_from(body.target_numa_node_id);
    let seat = placement
        .and_then(|placement| Ok((placement, seat(topology, placement, body.required_cores)?)));
    if let Err(error) = &seat {
        fields.refuse(error.field(), error.to_string());
    }
    let gpus = gpus(&body.required_gpus, &mut fields);
    let memory_bytes = memory_bytes(body.required_memory_bytes, &mut fields);
    let working_dir = Some(body.working_dir).filter(|path| !path.is_empty());
    let working_dir = working_dir.unwrap_or_else(|| WORKING_DIR_DEFAULT.to_owned());
    if !working_dir.starts_with('/') {
        fields.refuse("working_dir", "must be an absolute path in the container");
    }
    let reserved_ip = reserved_ip(body.reserved_ip.as_deref(), network, &mut fields);
    // Without an id nobody can say where its files belong.
    let logs = id.as_ref().ok().map(|id| {
        let directory = settings.shared_dir.join("logs").join(id.to_string());
        LogFiles {
            stdout: log_path("stdout_path", &body.stdout_path, &directory, &mut fields),
            stderr: log_path("stderr_path", &body.stderr_path, &directory, &mut fields),
            directory,
        }
    });
    let (Ok(id), Some(logs), Some(image), Ok((placement, seat)), Some(gpus)) =
        (id, logs, image, seat, gpus)
    else {
        return Err(fields.into_faults());
    };
    if let Some(note) = &seat.note {
        log::warn!("task {id}: {note}");
    }
    fields.done(TaskSpec {
        id,
        work: Work::Command(Command {
            command: body.command,
            arguments: body.arguments,
            env: body.env_vars,
            working_dir,
            logs,
        }),
        cores: seat.cores,
        memory_bytes,
        gpus,
        placement,
        cpuset: seat.cpuset,
        image,
        reserved_ip,
    })
}

fn is_variable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

/// Bytes of memory; `None` is no limit.
fn memory_bytes(asked: Option<i64>, fields: &mut Fields) -> Option<u64> {
    match asked.map(u64::try_from) {
        None | Some(Ok(0)) => None,
        Some(Ok(bytes)) if bytes >= MEMORY_BYTES_MIN && i64::try_from(bytes).is_ok() => Some(bytes),
        Some(_) => {
            fields.refuse(
                "required_memory_bytes",
                format!("the Engine takes {MEMORY_BYTES_MIN} bytes or more; 0 or null is no limit"),
            );
            None
        }
    }
}

fn gpus(asked: &[i64], fields: &mut Fields) -> Option<Vec<u32>> {
    let gpus = asked.iter().map(|&gpu| u32::try_from(gpu)).collect::<Result<_, _>>();
    if gpus.is_err() {
        fields.refuse("required_gpus", "a GPU index is a whole number from 0");
    }
    gpus.ok()
}

/// A registry image if one is named, else an environment (contract rule 2).
fn image_source(
    container_name: Option<&str>,
    registry_image: Option<&str>,
    pull: Option<&str>,
    fields: &mut Fields,
) -> Option<ImageSource> {
    let pull = match pull {
        None | Some("always") => Pull::Always,
        Some("missing") => Pull::Missing,
        Some("never") => Pull::Never,
        Some(_) => {
            fields.refuse("pull", "must be always, missing or never");
            return None;
        }
    };
    if let Some(reference) = registry_image.filter(|text| !text.is_empty()) {
        if !is_reference(reference) {
            fields.refuse(
                "registry_image",
                "is no image reference, such as busybox:1.36 or ghcr.io/me/tool@sha256:…",
            );
            return None;
        }
        return Some(ImageSource::Registry(reference.to_owned(), pull));
    }
    match container_name.filter(|text| !text.is_empty()) {
        Some(name) if is_environment_name(name) => Some(ImageSource::Environment(name.to_owned())),
        Some(_) => {
            fields.refuse("container_name", ENVIRONMENT_NAME_RULE);
            None
        }
        None => {
            fields.refuse("container_name", "name an environment, or a registry_image");
            None
        }
    }
}

/// The VPS that `body` asks for.
///
/// # Errors
/// All faults, also those that reading the fields has found.
pub fn vps_spec(
    body: VpsBody,
    mut fields: Fields,
    topology: &Topology,
    network: &NetworkFacts,
) -> Result<TaskSpec, Invalid> {
    let id = TaskId::from_wire(body.task_id);
    if let Err(error) = id {
        fields.refuse("task_id", error.to_string());
    }
    let (image, pull) = (body.registry_image.as_deref(), body.pull.as_deref());
    let image = image_source(body.container_name.as_deref(), image, pull, &mut fields);
    // A NUMA node has no effect on a VPS (contract 1.2).
    let placement = Placement::Anywhere;
    let seat = seat(topology, placement, body.required_cores);
    if let Err(error) = &seat {
        fields.refuse(error.field(), error.to_string());
    }
    let gpus = gpus(&body.required_gpus, &mut fields);
    let memory_bytes = memory_bytes(body.required_memory_bytes, &mut fields);
    let reserved_ip = reserved_ip(body.reserved_ip.as_deref(), network, &mut fields);
    let login = login(&body.ssh_key_mode, body.ssh_public_key.as_deref(), &mut fields);
    let (Ok(id), Some(image), Ok(seat), Some(gpus), Some(login)) = (id, image, seat, gpus, login)
    else {
        return Err(fields.into_faults());
    };
    if let Some(note) = &seat.note {
        log::warn!("VPS {id}: {note}");
    }
    fields.done(TaskSpec {
        id,
        work: Work::Vps { vps: Vps { login, is_remembered: false } },
        cores: seat.cores,
        memory_bytes,
        gpus,
        placement,
        cpuset: seat.cpuset,
        image,
        reserved_ip,
    })
}

/// `generate` differs from `upload` at the host only, which makes the pair (contract 5.4).
fn login(mode: &str, key: Option<&str>, fields: &mut Fields) -> Option<Login> {
    match mode {
        "disabled" => Some(Login::Disabled),
        "none" => Some(Login::Open),
        "" | "upload" | "generate" => match key.filter(|key| !key.trim().is_empty()) {
            None => {
                fields.refuse("ssh_public_key", "is needed for the modes upload and generate");
                None
            }
            Some(key) => match PublicKey::parse(key) {
                Ok(key) => Some(Login::Key(key)),
                Err(fault) => {
                    fields.refuse("ssh_public_key", fault.to_string());
                    None
                }
            },
        },
        _ => {
            fields.refuse("ssh_key_mode", "must be disabled, none, upload or generate");
            None
        }
    }
}

/// Loose on purpose: the Engine has the last word. Strict where a reference would become something
/// else in a URL.
fn is_reference(reference: &str) -> bool {
    reference.len() <= IMAGE_REFERENCE_BYTES_MAX
        && reference.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b))
        && reference.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// What is said to somebody whose name fails [`is_environment_name`].
pub const ENVIRONMENT_NAME_RULE: &str =
    "an environment's name is letters, digits, '.', '_', '-', and begins with a letter or digit";

/// Whether `name` can be an environment's: part of an image reference and of a file's name.
pub fn is_environment_name(name: &str) -> bool {
    name.len() <= ENVIRONMENT_NAME_BYTES_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn reserved_ip(
    text: Option<&str>,
    network: &NetworkFacts,
    fields: &mut Fields,
) -> Option<Ipv4Addr> {
    let text = text.filter(|text| !text.is_empty())?;
    match text.parse() {
        Ok(address) if network.subnet.has_member(address) && address != network.gateway => {
            Some(address)
        }
        Ok(_) => {
            let (subnet, gateway) = (network.subnet, network.gateway);
            fields.refuse(
                "reserved_ip",
                format!(
                    "must be a member's address of the container network {subnet} and not its \
                     gateway's, {gateway}"
                ),
            );
            None
        }
        Err(_) => {
            fields.refuse("reserved_ip", "must be an IPv4 address");
            None
        }
    }
}

/// A file below the task's own log directory (design D5); anything else is another's.
fn log_path(name: &'static str, text: &str, directory: &Path, fields: &mut Fields) -> PathBuf {
    let path = normalised(Path::new(text));
    let is_below = path.strip_prefix(directory).is_ok_and(|rest| rest.file_name().is_some());
    if !is_below || text.ends_with('/') {
        fields.refuse(name, format!("must be a file below {}/", directory.display()));
    }
    path
}

/// `.`, `..` and double slashes resolved as text.
fn normalised(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod test {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::model::placement::Placement;
    use crate::model::topology::{Node, NumaNode};

    fn topology() -> Topology {
        let node = Node {
            cpus: "0-3".parse().unwrap(),
            memory_bytes: Some(1 << 30),
            distances: BTreeMap::new(),
        };
        Topology { online: "0-3".parse().unwrap(), nodes: BTreeMap::from([(NumaNode(0), node)]) }
    }

    fn read(change: Value) -> Result<TaskSpec, Invalid> {
        let mut body = json!({
            "task_id": "7", "command": "true", "container_name": "env",
            "stdout_path": "/s/logs/7/stdout.log", "stderr_path": "/s/logs/7/stderr.log",
        });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let settings = Settings { shared_dir: "/s".into(), ..Settings::default() };
        let network = NetworkFacts {
            subnet: settings.docker_network_subnet,
            gateway: settings.docker_network_gateway,
            differs: false,
        };
        let (body, fields) = ExecuteBody::read(body.to_string().as_bytes())?;
        task_spec(body, fields, &settings, &topology(), &network)
    }

    /// The one field that is refused.
    fn refused(change: Value) -> String {
        let Invalid(faults) = read(change).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].loc[1].as_str().unwrap().to_owned()
    }

    #[test]
    fn body_with_the_required_fields_gets_the_contracts_defaults() {
        let spec = read(json!({})).unwrap();
        assert_eq!(spec.id.to_string(), "7");
        assert_eq!(spec.cores.map(|cores| cores.get()), Some(1));
        assert_eq!((spec.memory_bytes, spec.placement), (None, Placement::Anywhere));
        assert_eq!(spec.command().unwrap().working_dir, "/shared");
        assert_eq!(spec.image, ImageSource::Environment("env".into()));
    }

    #[test]
    fn registry_image_overrides_the_environment_and_needs_none() {
        let spec = read(json!({"registry_image": "a/b:c", "container_name": null})).unwrap();
        assert_eq!(spec.image, ImageSource::Registry("a/b:c".into(), Pull::Always));
        assert_eq!(refused(json!({"container_name": null})), "container_name");
        assert_eq!(refused(json!({"container_name": ""})), "container_name");
    }

    #[test]
    fn names_that_would_become_something_else_are_refused() {
        assert_eq!(refused(json!({"container_name": "../x"})), "container_name");
        assert_eq!(refused(json!({"registry_image": "a?b=c"})), "registry_image");
        assert_eq!(refused(json!({"registry_image": "--help"})), "registry_image");
    }

    #[test]
    fn log_path_outside_the_tasks_own_directory_is_refused_in_every_spelling() {
        for path in [
            "/s/logs/8/stdout.log",
            "/s/logs/7",
            "/s/logs/7/",
            "/s/logs/7/../8/stdout.log",
            "/s/logs/77/stdout.log",
            "/etc/passwd",
            "stdout.log",
            "",
        ] {
            assert_eq!(refused(json!({"stdout_path": path})), "stdout_path", "{path}");
        }
        assert!(read(json!({"stdout_path": "/s//logs/./7/deep/../out"})).is_ok());
    }

    #[test]
    fn id_that_is_none_is_the_only_fault() {
        for id in [json!(0), json!(-1), json!("x"), json!(null)] {
            assert_eq!(refused(json!({ "task_id": id })), "task_id");
        }
    }

    #[test]
    fn limits_below_one_are_no_limit_and_above_the_machine_are_refused() {
        let spec = read(json!({"required_cores": 0, "required_memory_bytes": 0})).unwrap();
        assert_eq!((spec.cores, spec.memory_bytes), (None, None));
        assert!(read(json!({"required_cores": -3})).unwrap().cores.is_none());
        assert_eq!(refused(json!({"required_cores": 5})), "required_cores");
        assert_eq!(refused(json!({"required_memory_bytes": 4096})), "required_memory_bytes");
        assert_eq!(refused(json!({"required_memory_bytes": -1})), "required_memory_bytes");
    }

    #[test]
    fn numa_node_that_does_not_exist_is_refused() {
        let cpuset = read(json!({"target_numa_node_id": 0})).unwrap().cpuset.unwrap();
        assert_eq!((&*cpuset.cpus, &*cpuset.mems), ("0-3", "0"));
        assert_eq!(refused(json!({"target_numa_node_id": 1})), "target_numa_node_id");
        assert_eq!(refused(json!({"target_numa_node_id": -1})), "target_numa_node_id");
    }

    #[test]
    fn reserved_address_must_be_a_free_one_of_the_network() {
        assert!(read(json!({"reserved_ip": "172.30.4.5"})).is_ok());
        assert!(read(json!({"reserved_ip": ""})).unwrap().reserved_ip.is_none());
        assert_eq!(refused(json!({"reserved_ip": "10.0.0.1"})), "reserved_ip");
        assert_eq!(refused(json!({"reserved_ip": "172.30.0.1"})), "reserved_ip");
        assert_eq!(refused(json!({"reserved_ip": "fe80::1"})), "reserved_ip");
    }

    #[test]
    fn nul_bytes_and_broken_variables_are_refused() {
        assert_eq!(refused(json!({"command": "a\0b"})), "command");
        assert_eq!(refused(json!({"arguments": ["\0"]})), "arguments");
        assert_eq!(refused(json!({"env_vars": {"A=B": "c"}})), "env_vars");
        assert_eq!(refused(json!({"env_vars": {"": "c"}})), "env_vars");
    }

    #[test]
    fn working_directory_must_be_absolute_and_empty_is_the_default() {
        assert_eq!(refused(json!({"working_dir": "tmp"})), "working_dir");
        assert_eq!(
            read(json!({"working_dir": ""})).unwrap().command().unwrap().working_dir,
            "/shared"
        );
    }

    #[test]
    fn faults_of_types_and_of_values_come_together() {
        let body = json!({"required_cores": "x", "required_gpus": [-1], "working_dir": "tmp"});
        let Invalid(faults) = read(body).unwrap_err();
        assert_eq!(faults.len(), 3, "{faults:?}");
    }
}
