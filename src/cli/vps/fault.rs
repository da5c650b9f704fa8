//! Why a verb on a VPS could not do its work, with what to do about it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::cli::runner::Task;
use crate::model::ids::TaskId;
use crate::model::vps::NotAKey;

#[derive(Debug)]
pub enum VpsFault {
    NotAVps(TaskId),
    /// It was created so.
    NoSsh(TaskId),
    /// No SSH server has answered for long.
    Silent(TaskId),
    Paused(TaskId),
    Ended {
        id: TaskId,
        status: &'static str,
        message: Option<String>,
    },
    /// Its port is published on a loopback address of another machine.
    OnlyThere {
        id: TaskId,
        address: IpAddr,
    },
    NoLogs(TaskId),
    NoSnapshot(TaskId),
    /// None of this timestamp.
    NoSuchSnapshot {
        id: TaskId,
        timestamp: u64,
    },
    /// The runner does not know whether there are snapshots; its words.
    NotListed(String),
    /// The user has no public key in these files.
    NoKey(Vec<PathBuf>),
    BadKey {
        path: PathBuf,
        fault: NotAKey,
    },
    /// Nowhere to keep host keys.
    NoHome,
    /// The machine has no `ssh`, or it can't be run.
    NoClient(io::Error),
}

impl VpsFault {
    /// Of a VPS that is over.
    pub fn ended(id: TaskId, task: &Task) -> VpsFault {
        VpsFault::Ended { id, status: task.status.name(), message: task.message.clone() }
    }
}

impl fmt::Display for VpsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VpsFault::NotAVps(id) => write!(f, "task {id} is no VPS"),
            VpsFault::NoSsh(id) => write!(
                f,
                "VPS {id} was created without SSH; `river-runner shell {id}` opens a shell in it"
            ),
            VpsFault::Silent(id) => write!(
                f,
                "no SSH server has answered at the port of VPS {id}; its container runs, and \
                 `docker logs {}` shows what sshd said",
                id.vps_container()
            ),
            VpsFault::Paused(id) => {
                write!(f, "VPS {id} is paused; `river-runner resume {id}` lets it go on")
            }
            VpsFault::Ended { id, status: "failed", message } => {
                let message = message.as_deref().unwrap_or("the runner gives no reason");
                write!(f, "VPS {id} has failed: {message}")
            }
            VpsFault::Ended { id, status, .. } => write!(
                f,
                "VPS {id} does not run ({status}); `river-runner vps restore {id}` creates it \
                 again from its newest snapshot"
            ),
            VpsFault::OnlyThere { id, address } => write!(
                f,
                "the SSH port of VPS {id} is published on {address} of the runner's machine only: \
                 log in from there, or set ssh_publish_ip"
            ),
            VpsFault::NoLogs(id) => write!(
                f,
                "VPS {id} has no logs: only tasks have; `docker logs {}` shows what its set-up \
                 and sshd said",
                id.vps_container()
            ),
            VpsFault::NoSnapshot(id) => write!(
                f,
                "VPS {id} has no snapshot; `river-runner vps create --id {id} --image NAME` \
                 makes it anew"
            ),
            VpsFault::NoSuchSnapshot { id, timestamp } => write!(
                f,
                "VPS {id} has no snapshot {timestamp}; `river-runner vps snapshots {id}` lists \
                 them"
            ),
            VpsFault::NotListed(why) => write!(f, "the snapshots can't be listed: {why}"),
            VpsFault::NoKey(looked) => {
                let looked: Vec<String> =
                    looked.iter().map(|path| path.display().to_string()).collect();
                write!(
                    f,
                    "you have no public key (looked for: {}): make one with ssh-keygen, or say who \
                     gets in by --ssh-key FILE, --no-password (whoever reaches the port) or \
                     --no-ssh (nobody)",
                    if looked.is_empty() { "no home directory".into() } else { looked.join(", ") }
                )
            }
            VpsFault::BadKey { path, fault } => {
                write!(f, "{}: is no public key: it {fault}", path.display())
            }
            VpsFault::NoHome => f.write_str(
                "there is no home directory to keep host keys in: set HOME or XDG_STATE_HOME",
            ),
            VpsFault::NoClient(error) if error.kind() == io::ErrorKind::NotFound => f.write_str(
                "there is no ssh on this machine: install an SSH client (openssh-client)",
            ),
            VpsFault::NoClient(error) => write!(f, "ssh can't be run: {error}"),
        }
    }
}
