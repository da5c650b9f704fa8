//! What the Engine is asked for: the container of a VPS, as contract 5.4 lists it. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::model::script::WORKING_DIR_DEFAULT;
use crate::model::settings::Settings;
use crate::model::task::TaskRecord;
use crate::model::vps::{Login, Vps};
use crate::model::vps_script::setup_script;
use crate::ops::network::NetworkFacts;
use crate::ops::task::container::base_body;
use crate::wire::docker::{CreateContainer, HostConfig, Nothing, PortBinding, RestartPolicy};

/// How one gets in, for a restart whose record is gone: a snapshot inherits the label.
pub const LABEL_LOGIN: &str = "river-runner.login";
/// sshd's port inside.
pub const SSH_PORT: &str = "22/tcp";

/// The create call for a VPS.
pub fn create_body(
    settings: &Settings,
    network: &NetworkFacts,
    registered: Ipv4Addr,
    record: &TaskRecord,
    vps: &Vps,
) -> CreateContainer {
    let mut base = base_body(settings, network, record);
    if let Ok(login) = serde_json::to_string(&vps.login) {
        base.labels.insert(LABEL_LOGIN.into(), login);
    }
    let has_port = vps.login.has_port();
    let published = PortBinding {
        host_ip: publish_ip(settings.ssh_publish_ip, registered, &vps.login)
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        ..PortBinding::default()
    };
    let bindings = match has_port {
        true => BTreeMap::from([(SSH_PORT.into(), vec![published])]),
        false => BTreeMap::new(),
    };
    CreateContainer {
        cmd: vec!["/bin/sh".into(), "-c".into(), setup_script(record.spec.id, &vps.login)],
        working_dir: Some(WORKING_DIR_DEFAULT.into()),
        // sshd takes root; a desk without one is whoever the image says.
        user: has_port.then(|| "0".into()),
        exposed_ports: bindings.keys().map(|port: &String| (port.clone(), Nothing {})).collect(),
        host_config: HostConfig {
            restart_policy: RestartPolicy { name: "unless-stopped".into(), maximum_retry_count: 0 },
            port_bindings: bindings,
            ..base.host_config
        },
        ..base
    }
}

/// Where the machine listens for it; `None` is everywhere. One that lets anybody in, or may, is reached
/// by the host's way alone, unless the operator says otherwise (design D13).
fn publish_ip(set: Option<IpAddr>, registered: Ipv4Addr, login: &Login) -> Option<IpAddr> {
    match login {
        Login::Open | Login::Kept => Some(set.unwrap_or(registered.into())),
        Login::Key(_) | Login::Disabled => set,
    }
}

/// The login in a container's or a snapshot's labels.
pub fn login_of(labels: &BTreeMap<String, String>) -> Option<Login> {
    serde_json::from_str(labels.get(LABEL_LOGIN)?).ok()
}
