//! `ssh`: becomes the machine's own ssh, logged into a VPS.
//!
//! Every VPS has a file of host keys of its own, under its id and not under address and port, which
//! other VPS get after it. What is in there must be shown again, by a container that came from a
//! snapshot too: the snapshot carries the keys. Only a container that was made anew from an image may
//! show others, and the file's first line tells of which container it is.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use super::failure::Failure;
use super::reach::{ConfigPath, Reach};
use super::runner::{Door, Task};
use super::say;
use super::vps::{Attendant, VpsFault, door};
use crate::model::ids::TaskId;

#[derive(Args, Clone, Debug)]
pub struct SshArguments {
    /// The VPS's id
    id: TaskId,

    /// For ssh: options, or a command to run
    #[arg(last = true, value_name = "ARGUMENT")]
    words: Vec<String>,

    #[command(flatten)]
    reach: Reach,
}

/// Becomes ssh, once the VPS can be logged into.
///
/// # Errors
/// It can't be, or there is no ssh.
pub fn ssh(arguments: &SshArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let (runner, id) = (arguments.reach.runner(path)?, arguments.id);
    let attendant = Attendant::of(&runner, id);
    let opened = attendant.until(|task| {
        let found = door(id, task)?.map(|door| (door, task.clone()));
        if found.is_none() && task.phases.started.is_some() {
            attendant.show("runs; its SSH server is being set up");
        }
        Ok(found)
    });
    attendant.clear();
    let (door, task) = opened?;
    if door == Door::Silent {
        say(&VpsFault::Silent(id));
    }
    let Some(vps) = &task.vps else { return Err(VpsFault::NotAVps(id).into()) };
    let address = vps.address(id, &runner)?;
    let known_hosts = known_hosts(id, &task)?;
    let mut ssh = Command::new("ssh");
    ssh.args(["-p", &vps.ssh_port.to_string()]);
    for option in [
        format!("UserKnownHostsFile={}", quoted(&known_hosts)),
        format!("HostKeyAlias=vps-{id}"),
        "StrictHostKeyChecking=accept-new".to_owned(),
        "CheckHostIP=no".to_owned(),
    ] {
        ssh.args(["-o", &option]);
    }
    ssh.arg(format!("root@{address}")).args(&arguments.words);
    Err(VpsFault::NoClient(ssh.exec()).into())
}

/// The file of the VPS's host keys, without those of a container before this one that this one can't
/// have.
fn known_hosts(id: TaskId, task: &Task) -> Result<PathBuf, Failure> {
    let dir = state_dir().ok_or(VpsFault::NoHome)?.join("river-runner/known_hosts");
    let file = dir.join(id.to_string());
    let unwritable = |source| Failure::Unwritable { path: file.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(unwritable)?;
    let is_anew = task.vps.as_ref().is_some_and(|vps| vps.restored_from.is_none());
    let made = task.phases.created.as_deref().unwrap_or_default();
    let first_line = format!("# container of {made}");
    let is_of_this_one = match fs::read_to_string(&file) {
        Ok(text) => !is_anew || text.lines().next() == Some(&first_line),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(Failure::Unreadable { path: file, source }),
    };
    if !is_of_this_one {
        fs::write(&file, first_line + "\n").map_err(unwritable)?;
    }
    Ok(file)
}

fn state_dir() -> Option<PathBuf> {
    let said = env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    said.filter(|dir| dir.is_absolute()).or_else(|| Some(env::home_dir()?.join(".local/state")))
}

/// A path as ssh reads it in an option: one word, nothing in it expanded.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display()).replace('%', "%%")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn path_is_one_word_for_ssh() {
        assert_eq!(quoted(Path::new("/a b/100%")), "\"/a b/100%%\"");
    }
}
