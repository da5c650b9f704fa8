//! `vps`: VPS of a runner, from their creation to their stop, and their snapshots.

mod attend;
mod create;
mod fault;
mod key;
mod list;
pub mod order;
mod snapshots;

use std::process::ExitCode;

use clap::{Args, Subcommand};

pub use attend::Attendant;
pub use fault::VpsFault;

use super::client::ClientError;
use super::failure::Failure;
use super::print;
use super::reach::{ConfigPath, Reach};
use super::runner::{Door, Runner, Status, Task, Vps};
use crate::model::ids::TaskId;

#[derive(Debug, Subcommand)]
pub enum VpsCommand {
    /// Create a VPS and say how one gets in
    ///
    /// Without --ssh-key, --no-password and --no-ssh, root gets in by your own public key in
    /// ~/.ssh. Returns when the container runs; its SSH server may need some time more, and
    /// --wait waits for it. An id that has snapshots starts from the newest of them.
    #[command(after_long_help = CREATE_EXAMPLES)]
    Create(Box<create::CreateArguments>),

    /// List VPS
    List(list::ListArguments),

    /// Stop a VPS
    ///
    /// Its container goes. Unless the runner's auto_snapshot_on_stop is off, a snapshot is made
    /// before, which `vps restore` brings back.
    Stop(VpsArguments),

    /// Save a VPS as a snapshot
    ///
    /// The VPS stands still while it is saved, and goes on. Volumes and mounts (/shared,
    /// /local_temp) are not in a snapshot.
    Snapshot(snapshots::SnapshotArguments),

    /// List the snapshots of a VPS, or delete some
    Snapshots(snapshots::SnapshotsArguments),

    /// Create a stopped VPS again from its newest snapshot
    ///
    /// Cores, memory and GPUs are those it had, if the runner still knows it; root gets in as
    /// before.
    Restore(create::RestoreArguments),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  river-runner vps create --image debian --cores 4 --memory 8G --wait
  river-runner vps create --environment base --gpu 0,1 --ssh-key alice.pub
  id=$(river-runner vps create --image busybox --no-ssh -q); river-runner shell $id

With --no-password, whoever reaches the port is root.";

#[derive(Args, Clone, Debug)]
pub struct VpsArguments {
    /// The VPS's id
    id: TaskId,

    #[command(flatten)]
    reach: Reach,
}

/// Does one of the verbs.
///
/// # Errors
/// The runner can't be reached or refuses, or the VPS is not what the verb needs.
pub fn vps(command: VpsCommand, path: &ConfigPath) -> Result<ExitCode, Failure> {
    match command {
        VpsCommand::Create(arguments) => create::create(*arguments, path),
        VpsCommand::List(arguments) => list::list(&arguments, path),
        VpsCommand::Stop(arguments) => stop(&arguments, path),
        VpsCommand::Snapshot(arguments) => snapshots::snapshot(&arguments, path),
        VpsCommand::Snapshots(arguments) => snapshots::snapshots(&arguments, path),
        VpsCommand::Restore(arguments) => create::restore(&arguments, path),
    }
}

fn stop(arguments: &VpsArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let (runner, id) = (arguments.reach.runner(path)?, arguments.id);
    let attendant = Attendant::of(&runner, id);
    attendant.show("is being stopped");
    runner.stop_vps(id).map_err(|error| told_better(&runner, id, error))?;
    // The answer may come before a long snapshot is made.
    let stopped = attendant.until(|task| {
        attendant.show("is being stopped");
        Ok(task.status.is_ended().then(|| task.vps.as_ref()?.saved_as.clone()))
    });
    attendant.clear();
    match stopped {
        Ok(Some(tag)) => print(&format!("VPS {id} is stopped, and saved as {tag}\n")),
        Ok(None) => print(&format!("VPS {id} is stopped; no snapshot was made of it\n")),
        // Over and forgotten.
        Err(Failure::Client(ClientError::Refused { status: 404, .. })) => {
            print(&format!("VPS {id} is stopped\n"))
        }
        Err(failure) => Err(failure),
    }
}

/// A refusal of an id that is no live VPS, with what it is instead.
fn told_better(runner: &Runner, id: TaskId, error: ClientError) -> Failure {
    let ClientError::Refused { status: 404, .. } = error else { return error.into() };
    match runner.task(id) {
        Ok(Task { vps: None, .. }) => VpsFault::NotAVps(id).into(),
        Ok(task) if task.status.is_ended() => VpsFault::ended(id, &task).into(),
        Ok(_) | Err(_) => error.into(),
    }
}

/// Whether one can log in; `None` as long as that is not decided.
///
/// # Errors
/// Nobody can, and waiting does not help.
pub fn door(id: TaskId, task: &Task) -> Result<Option<Door>, Failure> {
    let Some(vps) = &task.vps else { return Err(VpsFault::NotAVps(id).into()) };
    if vps.has_no_ssh() {
        return Err(VpsFault::NoSsh(id).into());
    }
    match task.status {
        Status::Paused => Err(VpsFault::Paused(id).into()),
        status if status.is_ended() => Err(VpsFault::ended(id, task).into()),
        Status::Running => match vps.ssh {
            Door::Open | Door::Silent => Ok(Some(vps.ssh)),
            Door::Preparing => Ok(None),
            // Between two runs of its container.
            Door::None => Ok(None),
        },
        _ => Ok(None),
    }
}

impl Vps {
    /// Whether it was created without SSH.
    pub fn has_no_ssh(&self) -> bool {
        self.ssh_key_mode == "disabled"
    }

    /// Port and state of its SSH server, for a table.
    pub fn door(&self) -> String {
        match self.ssh_port {
            0 => "none".into(),
            port => format!("{port} {}", self.ssh.name()),
        }
    }

    /// The address at which its port is reached.
    ///
    /// # Errors
    /// It is published on the runner's own machine only, and that is not this one.
    pub fn address(&self, id: TaskId, runner: &Runner) -> Result<String, Failure> {
        let machine = runner.0.machine();
        let is_here = machine == "localhost"
            || machine.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        match self.ssh_address {
            None => Ok(machine.into()),
            Some(address) if address.is_loopback() && !is_here => {
                Err(VpsFault::OnlyThere { id, address }.into())
            }
            Some(address) => Ok(address.to_string()),
        }
    }
}

#[cfg(test)]
mod test {
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::client::{Client, Target};

    fn id() -> TaskId {
        "7".parse().unwrap()
    }

    fn task(status: &str, vps: Value) -> Task {
        serde_json::from_value(json!({ "id": "7", "status": status, "vps": vps })).unwrap()
    }

    fn keyed(ssh: &str) -> Value {
        json!({ "ssh_key_mode": "upload", "ssh_port": 32768, "ssh": ssh, "ssh_address": null })
    }

    fn runner(url: &str) -> Runner {
        let target: Target = url.parse().unwrap();
        Runner(Client::new(target, None, std::time::Duration::from_secs(1)))
    }

    #[test]
    fn door_is_awaited_until_it_is_open_or_can_never_be() {
        let of = |status, ssh| door(id(), &task(status, keyed(ssh))).map_err(|it| it.to_string());
        assert_eq!(of("pending", "none"), Ok(None));
        assert_eq!(of("running", "preparing"), Ok(None));
        assert_eq!(of("running", "none"), Ok(None));
        assert_eq!(of("running", "open"), Ok(Some(Door::Open)));
        assert_eq!(of("running", "silent"), Ok(Some(Door::Silent)));
        assert!(of("paused", "none").unwrap_err().contains("resume 7"));
        assert!(of("stopped", "none").unwrap_err().contains("vps restore 7"));
        assert!(of("failed", "none").unwrap_err().contains("failed"));
    }

    #[test]
    fn tasks_and_vps_without_ssh_have_no_door() {
        let refused = |vps| door(id(), &task("running", vps)).unwrap_err().to_string();
        assert_eq!(refused(Value::Null), "task 7 is no VPS");
        let disabled = json!({ "ssh_key_mode": "disabled", "ssh_port": 0, "ssh": "none" });
        assert!(refused(disabled).contains("river-runner shell 7"));
    }

    #[test]
    fn port_is_called_where_it_is_published() {
        let at = |ssh_address: Value, url: &str| {
            let mut vps = keyed("open");
            vps["ssh_address"] = ssh_address;
            let vps: Vps = serde_json::from_value(vps).unwrap();
            vps.address(id(), &runner(url)).map_err(|failure| failure.to_string())
        };
        assert_eq!(at(Value::Null, "unix:///run/api.sock"), Ok("127.0.0.1".into()));
        assert_eq!(at(Value::Null, "http://node:8001"), Ok("node".into()));
        assert_eq!(at(json!("10.0.0.7"), "unix:///run/api.sock"), Ok("10.0.0.7".into()));
        assert_eq!(at(json!("127.0.0.1"), "http://localhost:8001"), Ok("127.0.0.1".into()));
        assert!(at(json!("127.0.0.1"), "http://node:8001").is_err());
    }
}
