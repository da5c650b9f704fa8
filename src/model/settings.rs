//! What the operator chose. Names are the contract's (section 9.2) in lower case, plus ours;
//! `app::config` fills this from file, environment and flags and says where each value came from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

pub use super::subnet::{Cidr, OverlayPlan, Subnet};
use crate::limits::{SNAPSHOT_LAYERS_DEFAULT, SNAPSHOT_TIMEOUT_DEFAULT};

/// The settings in force, checked: every value here is usable as it stands.
///
/// `Settings::default()` is what an empty configuration means, except for the names that come from
/// the machine (`hostname`, and `node_id` made of it).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    // the contract's
    pub runner_bind_ip: IpAddr,
    pub runner_port: u16,
    /// `None` is standalone: no host is called.
    pub host_address: Option<String>,
    pub host_port: u16,
    pub shared_dir: PathBuf,
    pub local_temp_dir: PathBuf,
    /// Where environment tarballs lie; the contract's empty default is already resolved.
    pub container_tar_dir: PathBuf,
    pub heartbeat_interval_seconds: u64,
    pub tasks_privileged: bool,
    /// `host:container[:options]`, checked to have two absolute paths at least.
    pub additional_mounts: Vec<String>,
    pub docker_image_sync_timeout: u64,
    pub tunnel_enabled: bool,
    /// `None` searches the places of contract 5.6.
    pub tunnel_client_path: Option<PathBuf>,
    pub docker_network_name: String,
    pub docker_network_subnet: Subnet,
    /// Checked to lie in `docker_network_subnet`.
    pub docker_network_gateway: Ipv4Addr,
    pub auto_snapshot_on_stop: bool,
    /// 0 keeps all.
    pub max_snapshots_per_vps: u32,
    /// Ours: a snapshot of more layers is copied into one.
    pub snapshot_layers_max: u32,
    /// Ours: seconds.
    pub snapshot_timeout: u64,
    pub auto_restore_on_create: bool,
    /// Ours: the address on which a VPS's port 22 is published; `None` is all (contract 5.4).
    pub ssh_publish_ip: Option<IpAddr>,
    pub log_level: log::LevelFilter,
    /// `None` logs to stderr.
    pub runner_log_file: Option<PathBuf>,
    pub vm_images_dir: PathBuf,
    pub vm_instances_dir: PathBuf,
    pub vm_default_memory_mb: u64,
    /// A size as `qemu-img` reads it, such as `500G`.
    pub vm_default_disk_size: String,
    pub vm_acs_override: bool,
    pub vm_bridge_name: String,
    pub vm_bridge_subnet: Subnet,
    /// Checked to lie in `vm_bridge_subnet`.
    pub vm_bridge_gateway: Ipv4Addr,
    pub overlay_enabled: bool,
    pub overlay_subnet: OverlayPlan,
    pub overlay_network_name: String,
    pub overlay_vxlan_id: u32,
    pub overlay_vxlan_port: u16,
    pub overlay_mtu: u32,
    // ours
    /// Records, never inside a directory that containers can write (design D6). Of the names in
    /// it, `shared` and `local` are not the store's: the standalone directories lie there.
    pub state_dir: PathBuf,
    /// The owner label's value: containers of another node on the same Engine are not ours.
    pub node_id: String,
    /// The name this node registers under.
    pub hostname: String,
    /// The Engine's socket, from `docker_host` or `DOCKER_HOST` (`unix://…`).
    pub docker_socket: PathBuf,
    /// Unix socket for local users; `None` serves TCP only.
    pub api_socket: Option<PathBuf>,
    pub api_token: Option<Token>,
    pub allow_from: Vec<Cidr>,
    /// Host names a request's `Host` or `Origin` may carry beside the machine's own.
    pub allow_hosts: Vec<String>,
    /// Whether TCP from this machine itself is let in without a token.
    pub loopback: bool,
    /// Root of the sysfs tree that topology is read from.
    pub sysfs_root: PathBuf,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            runner_bind_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            runner_port: 8001,
            host_address: None,
            host_port: 8000,
            shared_dir: "/var/lib/river-runner/shared".into(),
            local_temp_dir: "/var/lib/river-runner/local".into(),
            container_tar_dir: "/var/lib/river-runner/shared/kohakuriver-containers".into(),
            heartbeat_interval_seconds: 5,
            tasks_privileged: false,
            additional_mounts: Vec::new(),
            docker_image_sync_timeout: 600,
            tunnel_enabled: true,
            tunnel_client_path: None,
            docker_network_name: "kohakuriver-net".into(),
            docker_network_subnet: Subnet { base: Ipv4Addr::new(172, 30, 0, 0), prefix: 16 },
            docker_network_gateway: Ipv4Addr::new(172, 30, 0, 1),
            auto_snapshot_on_stop: true,
            max_snapshots_per_vps: 3,
            snapshot_layers_max: SNAPSHOT_LAYERS_DEFAULT,
            snapshot_timeout: SNAPSHOT_TIMEOUT_DEFAULT,
            auto_restore_on_create: true,
            ssh_publish_ip: None,
            log_level: log::LevelFilter::Info,
            runner_log_file: None,
            vm_images_dir: "/var/lib/kohakuriver/vm-images".into(),
            vm_instances_dir: "/var/lib/kohakuriver/vm-instances".into(),
            vm_default_memory_mb: 4096,
            vm_default_disk_size: "500G".into(),
            vm_acs_override: true,
            vm_bridge_name: "kohaku-br0".into(),
            vm_bridge_subnet: Subnet { base: Ipv4Addr::new(10, 200, 0, 0), prefix: 24 },
            vm_bridge_gateway: Ipv4Addr::new(10, 200, 0, 1),
            overlay_enabled: false,
            overlay_subnet: OverlayPlan {
                base: Ipv4Addr::new(10, 128, 0, 0),
                net_bits: 12,
                node_bits: 6,
                sub_bits: 14,
            },
            overlay_network_name: "kohakuriver-overlay".into(),
            overlay_vxlan_id: 100,
            overlay_vxlan_port: 4789,
            overlay_mtu: 1450,
            state_dir: "/var/lib/river-runner".into(),
            node_id: "localhost:8001".into(),
            hostname: "localhost".into(),
            docker_socket: "/var/run/docker.sock".into(),
            api_socket: Some("/run/river-runner/api.sock".into()),
            api_token: None,
            allow_from: Vec::new(),
            allow_hosts: Vec::new(),
            loopback: true,
            sysfs_root: "/sys".into(),
        }
    }
}

/// A secret that callers show. Printing it, also with `{:?}`, shows that it is set and no more.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `text` as a token; it is taken as it is.
    pub fn new(text: impl Into<String>) -> Token {
        Token(text.into())
    }

    /// The secret itself, for comparing with what a caller shows or for showing it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(set)")
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn settings_printed_for_a_log_do_not_show_the_token() {
        let settings =
            Settings { api_token: Some(Token::new("opensesame")), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("opensesame"));
    }
}
