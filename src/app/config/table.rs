//! Every setting is one row here: key, type, what is allowed, and a paragraph. Parsing, the flags
//! of `serve`, `config default` and `config show` are all made from the rows; defaults are those
//! of `Settings::default()`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use log::LevelFilter;

use super::check::{
    anything, disk_size, host_name, host_names, interface_name, mounts, name, socket_path, within,
};
use super::value::{Allowed, Field, Value, is_plain_path};
use crate::limits::SNAPSHOT_LAYERS_MOST;
use crate::model::settings::{Cidr, OverlayPlan, Settings, Subnet, Token};

/// One setting.
#[derive(Debug)]
pub struct Row {
    /// The name in TOML; `RIVER_` and upper case make the environment variable.
    pub key: &'static str,
    /// One paragraph. Its first sentence must stand alone: it is the short help.
    pub doc: &'static str,
    pub slot: Slot,
}

/// Where a row's value goes.
#[derive(Debug)]
pub enum Slot {
    Field(Accessor),
    /// Accepted so that an existing configuration loads; the reason is told when it is set.
    Ignored {
        why: &'static str,
    },
}

/// How a row reads and writes its field of `Settings`.
#[derive(Debug)]
pub struct Accessor {
    pub value_name: &'static str,
    pub empty_counts: bool,
    /// Secrets have no flag (`ps` shows flags to everybody) and are printed as set or not set.
    pub secret: bool,
    pub get: fn(&Settings) -> Value,
    pub set: fn(&mut Settings, &Value) -> Result<(), Allowed>,
}

impl Row {
    /// The flag of this setting, without its dashes. `None` for secrets and what is ignored.
    pub fn flag(&self) -> Option<String> {
        match &self.slot {
            Slot::Field(Accessor { secret: false, .. }) => Some(self.key.replace('_', "-")),
            Slot::Field(_) | Slot::Ignored { .. } => None,
        }
    }

    /// Whether `""` is a value of this setting; otherwise it means "as if not said".
    pub fn empty_counts(&self) -> bool {
        matches!(&self.slot, Slot::Field(Accessor { empty_counts: true, .. }))
    }

    /// The first sentence of the paragraph.
    pub fn summary(&self) -> &'static str {
        self.doc.split_once(". ").map_or(self.doc, |(first, _)| first).trim_end_matches('.')
    }
}

/// What the variables of our settings begin with.
pub const VARIABLE_PREFIX: &str = "RIVER_";

/// The environment variable of the setting `key`.
pub fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase())
}

/// The row of `key`.
pub fn row(key: &str) -> Option<&'static Row> {
    SETTINGS.iter().find(|row| row.key == key)
}

macro_rules! setting {
    ($key:ident: $type:ty, $doc:expr) => {
        setting!($key: $type, anything, $doc)
    };
    ($key:ident: $type:ty, $check:expr, $doc:expr) => {
        Row {
            key: stringify!($key),
            doc: $doc,
            slot: Slot::Field(Accessor {
                value_name: <$type>::NAME,
                empty_counts: <$type>::EMPTY_COUNTS,
                secret: false,
                get: |settings| settings.$key.show(),
                set: |settings, value| {
                    ($check)(value)?;
                    settings.$key = <$type>::read(value)?;
                    Ok(())
                },
            }),
        }
    };
}

/// A setting of a part that is still to come: checked and kept, and its paragraph says so.
macro_rules! later {
    ($key:ident: $type:ty, $doc:literal) => {
        later!($key: $type, anything, $doc)
    };
    ($key:ident: $type:ty, $check:expr, $doc:literal) => {
        setting!($key: $type, $check, concat!($doc, " Not used yet."))
    };
}

const fn ignored(key: &'static str, why: &'static str) -> Row {
    Row { key, doc: "Accepted and ignored.", slot: Slot::Ignored { why } }
}

const NEVER_READ: &str = "the reference never read it either";

/// All settings, in the order in which they are printed: the contract's, then ours.
pub const SETTINGS: &[Row] = &[
    setting!(host_address: Option<String>, host_name,
        "The cluster host's name or IP address, without scheme and port. Empty is standalone: the \
         node works alone and calls nobody."),
    setting!(host_port: u16, |v: &Value| within(v, 1..=65535),
        "The cluster host's TCP port."),
    setting!(runner_bind_ip: IpAddr,
        "The address the runner listens on. It is also the address registered at the host, unless \
         it is 0.0.0.0: then the address that reaches the host is found out."),
    setting!(runner_port: u16, |v: &Value| within(v, 1..=65535),
        "The TCP port the runner listens on. Containers and the host reach it here."),
    setting!(shared_dir: PathBuf,
        "The root of the cluster's shared storage. Host and nodes must mount it at the same path; \
         below it lie shared_data (/shared in containers), logs, kohakuriver-containers and bin. \
         With host_address set the default is /mnt/cluster-share."),
    setting!(local_temp_dir: PathBuf,
        "A directory on this node that containers see as /local_temp. Created at the start. With \
         host_address set the default is /tmp/kohakuriver."),
    setting!(container_tar_dir: PathBuf,
        "Where the tarballs of environments lie. Empty is kohakuriver-containers in shared_dir."),
    setting!(heartbeat_interval_seconds: u64, |v: &Value| within(v, 1..=60),
        "Seconds between two heartbeats to the host. The host's own setting must be the same."),
    setting!(tasks_privileged: bool,
        "Whether all containers run privileged. A privileged container owns the machine."),
    setting!(additional_mounts: Vec<String>, mounts,
        "More directories for all containers, each as \"/on/the/host:/in/the/container[:ro]\". A \
         directory that holds state_dir or api_socket is refused."),
    setting!(docker_image_sync_timeout: u64, |v: &Value| within(v, 1..=86_400),
        "Seconds that loading an environment's tarball may take. A pull has 600."),
    setting!(docker_network_name: String, name,
        "The Docker network of containers. Created if there is none of that name."),
    setting!(docker_network_subnet: Subnet,
        "The addresses of that network, as BASE/PREFIX."),
    setting!(docker_network_gateway: Ipv4Addr,
        "The runner's address in that network, which containers call. It must lie in \
         docker_network_subnet."),
    setting!(tunnel_enabled: bool,
        "Whether containers are told the tunnel's URL, in KOHAKURIVER_TUNNEL_URL. No client is put \
         into them, and /ws/tunnel is not served yet."),
    later!(tunnel_client_path: Option<PathBuf>,
        "The tunnel client's binary. Empty searches the usual places."),
    setting!(auto_snapshot_on_stop: bool,
        "Whether stopping a VPS first commits it to an image."),
    setting!(max_snapshots_per_vps: u32, |v: &Value| within(v, 0..=1000),
        "How many snapshots of one VPS are kept; older ones are removed after each new one. 0 keeps \
         all. One more stays while the VPS's container was made from it."),
    setting!(auto_restore_on_create: bool,
        "Whether a VPS created under an id that has snapshots starts from the newest."),
    setting!(log_level: LevelFilter,
        "How much is logged: full, debug, info, warning or error."),
    setting!(runner_log_file: Option<PathBuf>,
        "A file the log is appended to, made with mode 0640. SIGHUP opens it anew, for logrotate. \
         Empty is stderr, which a service manager keeps. It must lie out of the containers' reach."),
    later!(vm_images_dir: PathBuf,
        "Where the base images of VMs (*.qcow2) lie."),
    later!(vm_instances_dir: PathBuf,
        "Where the disks of VMs are made."),
    later!(vm_default_memory_mb: u64, |v: &Value| within(v, 64..=16_777_216),
        "Memory of a VM whose request names none, in MiB."),
    later!(vm_default_disk_size: String, disk_size,
        "Disk of a VM whose request names none, as qemu-img reads it (50G, 1T)."),
    later!(vm_acs_override: bool,
        "Whether devices that share an IOMMU group may be given to a VM one by one."),
    later!(vm_bridge_name: String, interface_name,
        "The bridge of VMs when there is no overlay."),
    later!(vm_bridge_subnet: Subnet,
        "The addresses of that bridge, as BASE/PREFIX."),
    later!(vm_bridge_gateway: Ipv4Addr,
        "The runner's address on that bridge. It must lie in vm_bridge_subnet."),
    later!(overlay_enabled: bool,
        "Whether an overlay network is expected. The host switches it on by itself when it has one."),
    later!(overlay_subnet: OverlayPlan,
        "How overlay addresses are divided, as BASE/NET/NODE/SUB. Must be the host's."),
    later!(overlay_network_name: String, name,
        "The Docker network of the overlay."),
    later!(overlay_vxlan_id: u32, |v: &Value| within(v, 1..=16_777_215),
        "The base of VXLAN network ids. Must be the host's."),
    later!(overlay_vxlan_port: u16, |v: &Value| within(v, 1..=65535),
        "The UDP port of VXLAN. Must be the host's."),
    later!(overlay_mtu: u32, |v: &Value| within(v, 576..=65_535),
        "The MTU inside the overlay. Should be the host's."),
    setting!(state_dir: PathBuf,
        "Where the records of tasks lie. It must not be in a directory that containers can write, \
         and should not be on tmpfs: results are kept here until the host has them."),
    setting!(hostname: String, name,
        "The name under which this node registers. Empty is the machine's name."),
    setting!(node_id: String, name,
        "What this node's containers are labelled with. Containers of another node on the same \
         Engine are left alone. Empty is hostname:runner_port."),
    Row {
        key: "docker_host",
        doc: "The Docker Engine's socket, as unix:///path. Empty is DOCKER_HOST, or else \
              unix:///var/run/docker.sock.",
        slot: Slot::Field(Accessor {
            value_name: "unix:///PATH",
            empty_counts: false,
            secret: false,
            get: |settings| Value::Text(format!("unix://{}", settings.docker_socket.display())),
            set: |settings, value| {
                let path = value.text().and_then(|text| text.strip_prefix("unix://"));
                let path = path.map(Path::new).filter(|path| is_plain_path(path));
                settings.docker_socket =
                    path.ok_or(Allowed::Form("unix:// and an absolute path"))?.to_owned();
                Ok(())
            },
        }),
    },
    setting!(snapshot_layers_max: u32,
        |v: &Value| within(v, 2..=u64::from(SNAPSHOT_LAYERS_MOST)),
        "Layers of a snapshot, beyond which it is copied into a single one. Each stop and restart of \
         a VPS adds one, and the Engine takes 125. The copy needs the disk space of the whole VPS."),
    setting!(snapshot_timeout: u64, |v: &Value| within(v, 1..=86_400),
        "Seconds that a snapshot may take, and its copy into a single layer once more."),
    setting!(ssh_publish_ip: Option<IpAddr>,
        "The address on which port 22 of a VPS is published. Empty is every address of the machine, and \
         of a VPS that lets anybody in the one by which the host reaches this node."),
    setting!(api_socket: Option<PathBuf>, socket_path,
        "A Unix socket for users of this machine (mode 0660). Empty is none."),
    Row {
        key: "api_token",
        doc: "A bearer token that lets callers in from anywhere. Empty is none. It has no flag: \
              set it in the file (mode 0600) or the environment.",
        slot: Slot::Field(Accessor {
            value_name: <Token>::NAME,
            empty_counts: true,
            secret: true,
            get: |settings| settings.api_token.show(),
            set: |settings, value| {
                settings.api_token = Option::<Token>::read(value)?;
                Ok(())
            },
        }),
    },
    setting!(allow_from: Vec<Cidr>,
        "Addresses and ranges that may call without a token, beside the host and this machine. \
         \"0.0.0.0/0\" is everybody."),
    setting!(allow_hosts: Vec<String>, host_names,
        "Names by which callers may address this node, beside its own. Others are refused, since \
         a web page could have made them up."),
    setting!(loopback: bool,
        "Whether TCP from this machine needs no token. false leaves local users the api_socket."),
    setting!(sysfs_root: PathBuf,
        "Where sysfs is mounted; the topology is read from it."),
    ignored("numactl_path", "NUMA placement is done at creation, without numactl"),
    ignored("default_working_dir", NEVER_READ),
    ignored("resource_check_interval_seconds", NEVER_READ),
    ignored("runner_user", NEVER_READ),
    ignored("vm_boot_timeout_seconds", NEVER_READ),
    ignored("vm_heartbeat_timeout_seconds", NEVER_READ),
    ignored("vm_ssh_ready_timeout_seconds", NEVER_READ),
];

#[cfg(test)]
mod test {
    use super::*;

    fn set(key: &str, value: Value) -> Result<(), Allowed> {
        let Slot::Field(field) = &row(key).unwrap().slot else { panic!("{key} is ignored") };
        (field.set)(&mut Settings::default(), &value)
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn every_default_is_allowed_by_its_own_row_and_reads_back_the_same() {
        let mut read_back = Settings::default();
        for row in SETTINGS {
            let Slot::Field(field) = &row.slot else { continue };
            (field.set)(&mut read_back, &(field.get)(&Settings::default())).expect(row.key);
        }
        assert_eq!(read_back, Settings::default());
    }

    #[test]
    fn every_row_has_a_paragraph_and_a_key_of_its_own() {
        for (at, row) in SETTINGS.iter().enumerate() {
            assert!(row.doc.ends_with('.'), "{}", row.key);
            assert!(SETTINGS[at + 1..].iter().all(|other| other.key != row.key), "{}", row.key);
        }
    }

    #[test]
    fn ports_are_1_to_65535() {
        assert!(set("runner_port", Value::Number(1)).is_ok());
        assert!(set("runner_port", Value::Number(65535)).is_ok());
        let refused = set("runner_port", Value::Number(0)).unwrap_err();
        assert_eq!(refused, Allowed::Number { least: 1, most: 65535 });
        assert!(set("runner_port", Value::Number(65536)).is_err());
    }

    #[test]
    fn engine_behind_tcp_is_refused() {
        assert!(set("docker_host", text("tcp://127.0.0.1:2375")).is_err());
        assert!(set("docker_host", text("unix://run/docker.sock")).is_err());
        assert!(set("docker_host", text("unix:///run/docker.sock")).is_ok());
    }

    #[test]
    fn secret_has_no_flag() {
        assert_eq!(row("api_token").unwrap().flag(), None);
        assert_eq!(row("runner_port").unwrap().flag().as_deref(), Some("runner-port"));
    }
}
