//! The Docker Engine over its Unix socket (design D3, D4): one file per kind of thing, one method
//! per call. Called by `ops`, which decides; nothing here retries for a reason of policy, keeps
//! state about tasks, or knows HTTP status numbers of our own API.
//!
//! Quick calls share kept connections and have deadlines from `limits`; patient calls (pull, load)
//! have a connection of their own, the caller's deadline, and end at once when a [`Stop`] goes up.
//! The Engine is spoken to in one API version, agreed on with `GET /version` at the first call and
//! again whenever it has been away.
//!
//! [`Stop`]: crate::stop::Stop

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use ureq::Agent;

use self::ask::Ask;
use self::health::Seen;
use crate::metrics;
use crate::threads::lock;
use crate::wire::docker as wire;

mod archive;
mod ask;
mod call;
pub mod containers;
mod error;
mod events;
mod exec;
mod health;
mod hijack;
mod images;
mod lines;
mod memory;
mod names;
mod networks;
mod snapshots;
mod socket;
mod turn;

pub use self::containers::{Container, LogTail, Removal, Volumes};
pub use self::error::DockerError;
pub use self::events::{EXIT_CODE_LABEL, EngineEvent, watch_ends};
pub use self::exec::Exec;
pub use self::health::{ApiVersion, EngineHealth, NotAVersion};
pub use self::hijack::Hijack;
pub use self::images::{Image, Loaded, Progress};
pub use self::memory::Memory;
pub use self::networks::Network;
pub use self::snapshots::Commit;
pub use self::socket::{NotAUnixSocket, connect, socket_from_env};
pub use crate::wire::docker::{
    ContainerState, ContainerSummary, Created, ImageBuild, ImageSummary, PathStat,
};

/// A handle on the Engine behind one socket. Clones are cheap and share connections, bounds and
/// health.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    /// Kept connections for quick calls.
    agent: Agent,
    /// Locked for the time of an assignment, never across a call.
    seen: Mutex<Seen>,
    quick_calls: AtomicUsize,
    patient_calls: AtomicUsize,
    probes: AtomicUsize,
}

/// What the Engine says about itself and its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    pub version: String,
    /// What we speak with it.
    pub api: ApiVersion,
    pub os: String,
    pub storage_driver: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// `cgroupfs` or `systemd`.
    pub cgroup_driver: String,
    pub root_dir: PathBuf,
    pub cores: u32,
    pub memory_bytes: u64,
    /// With user namespaces: the host ids that are 0 in a container.
    pub userns_shift: Option<UserNamespaceShift>,
    /// Containers run on while it is stopped.
    pub live_restore: bool,
    /// Its clock; ours where it does not tell.
    pub time: DateTime<Utc>,
}

/// Container id 0 as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserNamespaceShift {
    pub uid: u32,
    pub gid: u32,
}

impl Engine {
    /// A handle; makes no call.
    pub fn new(socket: PathBuf) -> Engine {
        let agent = call::agent(socket::EngineConnector {
            socket: socket.clone(),
            buffer_bytes: crate::limits::ENGINE_BUFFER_BYTES,
            body_unwanted: None,
        });
        let inner = Inner {
            socket,
            agent,
            seen: Mutex::default(),
            quick_calls: AtomicUsize::new(0),
            patient_calls: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
        };
        Engine { inner: Arc::new(inner) }
    }

    /// What the last calls said; makes no call.
    pub fn health(&self) -> EngineHealth {
        self.seen().health()
    }

    /// Whether the last calls found it away or hung; makes no call.
    pub fn is_away(&self) -> bool {
        matches!(
            self.health(),
            EngineHealth::Unresponsive { .. } | EngineHealth::Unreachable { .. }
        )
    }

    /// When a call of ours last found that there was no Engine: one that answers now was started
    /// later. Makes no call.
    pub fn gone(&self) -> Option<SystemTime> {
        self.seen().gone()
    }

    /// Where the Engine listens, for raw streams.
    pub fn socket(&self) -> &std::path::Path {
        &self.inner.socket
    }

    /// Version and surroundings, from `/version` and `/info`.
    ///
    /// # Errors
    /// As every call's: see [`DockerError`].
    pub fn about(&self) -> Result<EngineInfo, DockerError> {
        const CALL: &str = "tell about itself";
        let version: wire::Version = self.ask(&Ask::get(CALL, "/version".into()))?.json()?;
        let info: wire::Info = self.ask(&Ask::get(CALL, "/info".into()))?.json()?;
        let oldest = version.min_api_version.parse();
        let newest: ApiVersion = version
            .api_version
            .parse()
            .map_err(|error| DockerError::Garbage { call: CALL, source: Box::new(error) })?;
        let api = ApiVersion::meet(oldest.unwrap_or(newest), newest).unwrap_or(newest);
        Ok(EngineInfo {
            version: version.version,
            api,
            userns_shift: userns_shift(&info),
            os: info.operating_system,
            storage_driver: info.driver,
            cgroup_version: if info.cgroup_version == "2" { 2 } else { 1 },
            cgroup_driver: info.cgroup_driver,
            root_dir: PathBuf::from(info.docker_root_dir),
            cores: info.ncpu,
            memory_bytes: info.mem_total,
            live_restore: info.live_restore_enabled,
            time: containers::moment(&info.system_time).unwrap_or_else(Utc::now),
        })
    }

    /// Wall time spent in Engine calls since the process began, calls at the same time added up:
    /// the difference over a phase is the Engine's share of it.
    pub fn call_time_total(&self) -> Duration {
        Duration::from_micros(metrics::ENGINE_CALL_MICROSECONDS.get())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.inner.seen)
    }
}

/// With user namespaces the Engine keeps its data in a directory called by the shift,
/// `/var/lib/docker/100000.100000`; nothing else in its answers tells it.
fn userns_shift(info: &wire::Info) -> Option<UserNamespaceShift> {
    info.security_options.iter().find(|option| option.split(',').any(|o| o == "name=userns"))?;
    let (_, last) = info.docker_root_dir.trim_end_matches('/').rsplit_once('/')?;
    let (uid, gid) = last.split_once('.')?;
    Some(UserNamespaceShift { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("socket", &self.inner.socket).finish_non_exhaustive()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    fn info(security_options: &[&str], root: &str) -> wire::Info {
        serde_json::from_value(json!({
            "DockerRootDir": root, "NCPU": 2, "MemTotal": 1, "SecurityOptions": security_options
        }))
        .unwrap()
    }

    #[test]
    fn the_userns_shift_is_read_from_the_root_directory_name() {
        let info = info(&["name=seccomp,profile=default", "name=userns"], "/d/100000.200000");
        assert_eq!(userns_shift(&info), Some(UserNamespaceShift { uid: 100_000, gid: 200_000 }));
    }

    #[test]
    fn a_root_directory_that_only_looks_like_a_shift_is_none() {
        assert_eq!(userns_shift(&info(&["name=seccomp"], "/d/100000.200000")), None);
        assert_eq!(userns_shift(&info(&["name=userns"], "/var/lib/docker")), None);
    }
}
