//! `vps create` and `vps restore`: hand a VPS in, wait for it, and say how one gets in.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{ArgGroup, Args};
use crossbeam_channel::{RecvTimeoutError, bounded};

use super::fault::VpsFault;
use super::key::{self, FoundKey};
use super::order::{Entrance, VpsOrder};
use super::snapshots::snapshots_of;
use super::{Attendant, door};
use crate::cli::client::ClientError;
use crate::cli::failure::Failure;
use crate::cli::reach::{ConfigPath, Reach};
use crate::cli::run::order::{Pull, memory, new_id};
use crate::cli::runner::{Door, Runner, Status, Task};
use crate::cli::{print, say};
use crate::limits;
use crate::model::ids::TaskId;
use crate::threads;

#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("source").required(true))]
#[command(group = ArgGroup::new("login"))]
pub struct CreateArguments {
    /// Image from a registry or of this machine, such as debian or ghcr.io/me/desk:2
    #[arg(long, value_name = "NAME", group = "source")]
    image: Option<String>,

    /// Environment of the cluster (a tarball in shared storage)
    #[arg(long, value_name = "NAME", group = "source")]
    environment: Option<String>,

    /// When the image is fetched from its registry
    #[arg(long, value_enum, default_value = "missing")]
    pull: Pull,

    /// CPU cores the VPS may use; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 1)]
    cores: u32,

    /// Memory limit, such as 512M or 2GiB
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,

    /// GPUs by their index, such as 0,1
    #[arg(long = "gpu", alias = "gpus", value_name = "LIST", value_delimiter = ',')]
    gpus: Vec<u32>,

    /// Public key by which root gets in [default: ~/.ssh/id_ed25519.pub or another of yours]
    #[arg(long, value_name = "FILE", group = "login")]
    ssh_key: Option<PathBuf>,

    /// Let root in without key or password, whoever reaches the port
    #[arg(long, group = "login")]
    no_password: bool,

    /// No SSH server and no port
    #[arg(long, group = "login")]
    no_ssh: bool,

    /// Its id, such as that of a stopped VPS [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<TaskId>,

    #[command(flatten)]
    manner: Manner,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Args, Clone, Debug)]
pub struct RestoreArguments {
    /// The VPS's id
    id: TaskId,

    /// The snapshot, by its timestamp [default: the newest]
    #[arg(long, value_name = "TIMESTAMP")]
    snapshot: Option<u64>,

    /// CPU cores the VPS may use; 0 is no limit [default: as before, else 1]
    #[arg(long, value_name = "N")]
    cores: Option<u32>,

    /// Memory limit, such as 512M or 2GiB [default: as before]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,

    /// GPUs by their index, such as 0,1 [default: as before]
    #[arg(long = "gpu", alias = "gpus", value_name = "LIST", value_delimiter = ',')]
    gpus: Option<Vec<u32>>,

    #[command(flatten)]
    manner: Manner,

    #[command(flatten)]
    reach: Reach,
}

/// How a VPS is handed in.
#[derive(Args, Clone, Copy, Debug)]
struct Manner {
    /// Return when its SSH server answers; exit code 1 if none does
    #[arg(long)]
    wait: bool,

    /// Print the id only
    #[arg(long, short = 'q')]
    quiet: bool,
}

pub fn create(arguments: CreateArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let runner = arguments.reach.runner(path)?;
    let key = found_key(&arguments)?;
    let entrance = match &key {
        Some(found) => Entrance::Key(&found.key),
        None if arguments.no_password => Entrance::Open,
        None => Entrance::Closed,
    };
    let id = arguments.id.unwrap_or_else(new_id);
    let order = VpsOrder {
        required_cores: arguments.cores,
        required_gpus: arguments.gpus,
        required_memory_bytes: arguments.memory,
        container_name: arguments.environment,
        registry_image: arguments.image,
        pull: arguments.pull,
        ..VpsOrder::new(id, entrance)
    };
    hand_in(&runner, order, key.as_ref(), arguments.manner)
}

fn found_key(arguments: &CreateArguments) -> Result<Option<FoundKey>, Failure> {
    match &arguments.ssh_key {
        Some(file) => key::read(file).map(Some),
        None if arguments.no_password || arguments.no_ssh => Ok(None),
        None => key::own(env::home_dir().as_deref()).map(Some),
    }
}

/// What the host's restart does after its stop (contract rule 14).
pub fn restore(arguments: &RestoreArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let (runner, id) = (arguments.reach.runner(path)?, arguments.id);
    let before = match runner.task(id) {
        Ok(task) if task.vps.is_none() => return Err(VpsFault::NotAVps(id).into()),
        Ok(task) => Some(task),
        Err(ClientError::Refused { status: 404, .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let snapshots = snapshots_of(&runner, id)?;
    let chosen = match arguments.snapshot {
        None => snapshots.into_iter().next().ok_or(VpsFault::NoSnapshot(id))?,
        Some(timestamp) => snapshots
            .into_iter()
            .find(|snapshot| snapshot.timestamp == timestamp)
            .ok_or(VpsFault::NoSuchSnapshot { id, timestamp })?,
    };
    // No cores in a record are no limit.
    let cores_before = before.as_ref().map_or(1, |task| task.cores.unwrap_or(0));
    let memory_before = before.as_ref().and_then(|task| task.memory_bytes);
    let gpus_before = || before.as_ref().map(|task| task.gpus.clone()).unwrap_or_default();
    let order = VpsOrder {
        required_cores: arguments.cores.unwrap_or(cores_before),
        required_memory_bytes: arguments.memory.or(memory_before),
        required_gpus: arguments.gpus.clone().unwrap_or_else(gpus_before),
        registry_image: Some(chosen.tag),
        pull: Pull::Never,
        ..VpsOrder::new(id, Entrance::Open)
    };
    hand_in(&runner, order, None, arguments.manner)
}

fn hand_in(
    runner: &Runner,
    order: VpsOrder,
    key: Option<&FoundKey>,
    manner: Manner,
) -> Result<ExitCode, Failure> {
    let id = order.task_id;
    let attendant = Attendant::holding_signals(runner, id)?;
    let started = start(runner, order, &attendant);
    attendant.clear();
    let task = started?;
    task.notes.iter().for_each(say);
    let has_ssh = task.vps.as_ref().is_some_and(|vps| !vps.has_no_ssh());
    print(&if manner.quiet { format!("{id}\n") } else { told(runner, id, &task, key) })?;
    if !manner.wait || !has_ssh {
        return Ok(ExitCode::SUCCESS);
    }
    let opened = attendant.until(|task| {
        attendant.show("runs; its SSH server is being set up");
        door(id, task)
    });
    attendant.clear();
    match opened? {
        Door::Silent => Err(VpsFault::Silent(id).into()),
        Door::Open | Door::Preparing | Door::None => Ok(ExitCode::SUCCESS),
    }
}

/// Returns when the container runs.
fn start(runner: &Runner, order: VpsOrder, attendant: &Attendant<'_>) -> Result<Task, Failure> {
    let id = order.task_id;
    let (done, answer) = bounded(1);
    let caller = runner.clone();
    threads::spawn("create-vps", limits::STACK_BYTES, move || {
        // The receiver is gone only when we have left.
        let _ = done.send(caller.create_vps(&order));
    })
    .map_err(Failure::Output)?;
    let mut next_look = Instant::now() + limits::CLI_PROGRESS_TICK;
    let posted = loop {
        match answer.recv_timeout(limits::CLI_SIGNAL_TICK) {
            Ok(posted) => break posted,
            Err(RecvTimeoutError::Timeout) => attendant.heed_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                let source = std::io::ErrorKind::ConnectionAborted.into();
                break Err(ClientError::Broken { source });
            }
        }
        if Instant::now() >= next_look {
            attendant.look();
            next_look = Instant::now() + limits::CLI_PROGRESS_TICK;
        }
    };
    match posted {
        Ok(()) => Ok(runner.task(id)?),
        // The runner was restarted or the answer is late: the record tells whether it was accepted.
        Err(error @ (ClientError::Broken { .. } | ClientError::TimedOut { .. })) => {
            let started = attendant.until(|task| match task.status {
                Status::Pending => Ok(None),
                Status::Running | Status::Paused => Ok(Some(task.clone())),
                _ => Err(VpsFault::ended(id, task).into()),
            });
            match started {
                Err(Failure::Client(ClientError::Refused { status: 404, .. })) => Err(error.into()),
                started => started,
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// What is printed of a VPS that runs.
fn told(runner: &Runner, id: TaskId, task: &Task, key: Option<&FoundKey>) -> String {
    let container = task.container.clone().unwrap_or_else(|| id.vps_container());
    let mut text = format!("id         {id}\ncontainer  {container}\n");
    let Some(vps) = &task.vps else { return text };
    if let Some(tag) = &vps.restored_from {
        text += &format!("from       {tag}\n");
    }
    if let Some(found) = key {
        text += &format!("key        {}\n", found.path.display());
    }
    text += &match (vps.ssh_port, vps.address(id, runner)) {
        (0, _) => "ssh        none\n".to_owned(),
        (port, Ok(address)) => format!("ssh        ssh -p {port} root@{address}\n"),
        (port, Err(failure)) => format!("ssh        port {port}: {failure}\n"),
    };
    text
}

#[cfg(test)]
mod test {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: CreateArguments,
    }

    #[test]
    fn one_image_and_one_way_in_at_most() {
        let read = |words: &[&str]| Line::try_parse_from([&["create"], words].concat()).is_ok();
        assert!(read(&["--image", "b"]));
        assert!(read(&["--environment", "e", "--no-ssh", "--gpus", "0,1"]));
        assert!(!read(&[]));
        assert!(!read(&["--image", "b", "--environment", "e"]));
        assert!(!read(&["--image", "b", "--no-ssh", "--no-password"]));
        assert!(!read(&["--image", "b", "--no-ssh", "--ssh-key", "f"]));
    }
}
