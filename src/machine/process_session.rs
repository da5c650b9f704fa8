//! All processes of one session (setsid(2)) of a container: what a terminal leaves behind when its
//! peer goes. A process that has made a session of its own is none of them.

use std::fs;

use super::process::Process;

/// The living processes whose session is `leader`'s and that belong to the container. Each is held,
/// and looked at once more while it is.
pub fn members(leader: i32, container_id: &str) -> Vec<Process> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| session_of(pid) == Some(leader))
        .filter_map(|pid| Process::pin(pid, container_id).ok())
        .filter(|process| session_of(process.pid()) == Some(leader) && process.is_alive())
        .collect()
}

/// The session of process `pid` (proc(5), the sixth field of `stat`).
fn session_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, a closing bracket too.
    let fields = &stat[stat.rfind(')')? + 1..];
    fields.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn session_of_this_process_is_the_kernels() {
        let own = i32::try_from(std::process::id()).unwrap();
        let session = nix::unistd::getsid(None).unwrap().as_raw();
        assert_eq!(session_of(own), Some(session));
        assert_eq!(session_of(i32::MAX), None);
    }
}
