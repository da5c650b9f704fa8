//! Processes whose parent was killed: the shims and containers of an Engine that lost its power.
//! They would stay as zombies where nobody reaps them, so they come to us.

use std::fs;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Programs that the kit has started and waits for itself.
const WAITED_FOR: &[&str] =
    &["river-runner", "dockerd", "containerd", "docker", "unshare", "nsenter", "cc"];

pub fn adopt_orphans() {
    let done = nix::sys::prctl::set_child_subreaper(true);
    if let Err(error) = done {
        eprintln!("orphans stay where they are: {error}");
    }
}

pub fn reap_orphans() {
    let us = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // pid (name) state parent …; a name may hold spaces and brackets.
        let Some((front, back)) = stat.rsplit_once(')') else { continue };
        let Some((pid, name)) = front.split_once(" (") else { continue };
        let mut back = back.split_whitespace();
        let is_ours = back.next() == Some("Z") && back.next() == Some(us.as_str());
        if let (true, false, Ok(pid)) = (is_ours, WAITED_FOR.contains(&name), pid.parse()) {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}
