//! What the operator chose. Names are the contract's (section 9.2) in lower case, plus ours;
//! `app::config` fills this from file, environment and flags and says where each value came from.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// The settings in force, checked: every value here is usable as it stands.
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
    /// `host:container[:options]`, checked to have two parts at least.
    pub additional_mounts: Vec<String>,
    pub docker_image_sync_timeout: u64,
    pub tunnel_enabled: bool,
    /// `None` searches the places of contract 5.6.
    pub tunnel_client_path: Option<PathBuf>,
    pub docker_network_name: String,
    pub docker_network_subnet: Subnet,
    pub docker_network_gateway: Ipv4Addr,
    pub log_level: log::LevelFilter,
    // ours
    /// Records, never inside a directory that containers can write (design D6).
    pub state_dir: PathBuf,
    /// The owner label's value: containers of another node on the same Engine are not ours.
    pub node_id: String,
    /// The name this node registers under.
    pub hostname: String,
    /// The Engine's socket, from `DOCKER_HOST` when that is `unix://…`.
    pub docker_socket: PathBuf,
    /// Unix socket for local users; `None` serves TCP only.
    pub api_socket: Option<PathBuf>,
    pub api_token: Option<String>,
    pub allow_from: Vec<Cidr>,
    /// Host names a request's `Host` or `Origin` may carry beside the machine's own.
    pub allow_hosts: Vec<String>,
    /// Whether TCP from this machine itself is let in without a token.
    pub loopback: bool,
    /// Root of the sysfs tree that topology is read from.
    pub sysfs_root: PathBuf,
}

/// An IPv4 network such as `172.30.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub base: Ipv4Addr,
    pub prefix: u8,
}

/// An address range of either family that callers may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub base: IpAddr,
    pub prefix: u8,
}
