//! Sessions (setsid(2)) of a container's processes: what a terminal leaves behind when its peer goes.
//! A process that has made a session of its own is in none but that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};

use super::process::{PinFault, Process};
use crate::limits::CONTAINER_GROUPS_MAX;

/// A session, by the process that leads it. The leader is held: its number means this session as
/// long as it lives or any member does, and after that it may pass on, which is noticed.
#[derive(Debug)]
pub struct ProcessSession {
    leader: Process,
    /// When the leader began, in the kernel's ticks: tells it from a later one of its number.
    began: u64,
    container: String,
    /// Where the kernel lists the container's processes; `None`: they are looked for among all.
    group: Option<PathBuf>,
}

impl ProcessSession {
    /// The session of process `leader`, of the container of this id.
    ///
    /// # Errors
    /// It has ended, leads no session, or is none of that container's.
    pub fn of(leader: i32, container_id: &str) -> Result<ProcessSession, PinFault> {
        let process = Process::pin(leader, container_id)?;
        let groups = fs::read_to_string(format!("/proc/{leader}/cgroup")).unwrap_or_default();
        let stat = Stat::of(leader).ok_or(PinFault::Gone)?;
        if !process.is_alive() {
            return Err(PinFault::Gone);
        }
        if stat.session != leader {
            return Err(PinFault::Foreign);
        }
        let (began, container) = (stat.began, container_id.to_owned());
        let group = group_directory(Path::new("/sys/fs/cgroup"), &groups, container_id);
        Ok(ProcessSession { leader: process, began, container, group })
    }

    /// The process that leads it.
    pub fn leader(&self) -> &Process {
        &self.leader
    }

    /// Whether anybody of it is alive, or may be.
    pub fn is_alive(&self) -> bool {
        if self.leader.is_alive() {
            return true;
        }
        let look = self.look();
        !look.is_whole || !look.members.is_empty()
    }

    /// Sends the signals to all who are in it now; whether there is anybody.
    pub fn signal(&self, signals: &[Signal]) -> bool {
        let members = self.look().members;
        for process in &members {
            for &signal in signals {
                // Failing means that it has ended.
                let _ = process.signal(signal);
            }
        }
        !members.is_empty()
    }

    /// Who of it is alive. Each is held, and looked at once more while it is.
    fn look(&self) -> Look {
        let leader = self.leader.pid();
        let mut look = Look { members: Vec::new(), is_whole: true };
        // The number is given to somebody else only when the session has no member left.
        if Stat::of(leader).is_some_and(|stat| stat.began != self.began) {
            return look;
        }
        // One call each: a hundred terminals of a container that end at once look at everybody there.
        let is_member = |pid: i32| Some(getsid(Some(Pid::from_raw(pid))).ok()?.as_raw() == leader);
        let hold = |pid: i32| {
            let process = Process::pin(pid, &self.container).ok()?;
            (is_member(pid) == Some(true) && process.is_alive()).then_some(process)
        };
        let listed = self.group.as_deref().and_then(|group| listed(group).ok());
        for pid in listed.unwrap_or_else(everybody) {
            if is_member(pid) == Some(false) {
                continue;
            }
            match hold(pid) {
                Some(process) => look.members.push(process),
                None => look.is_whole = false,
            }
        }
        look
    }
}

/// What is found of a session.
struct Look {
    members: Vec<Process>,
    /// Nobody ended between the list and the look at him: he may have been of it, and have children
    /// that are not on the list. Processes that fork and end in a row are seen by no other sign.
    is_whole: bool,
}

/// The sessions that were begun from outside of these containers with a variable that `is_mark` knows
/// in their environment. Inherited ones are left out: a session that somebody inside has begun has a
/// parent inside, and what the container's first process has, every process has. May read a process's
/// memory: not for threads that must not wait.
pub fn entered(containers: &[String], is_mark: impl Fn(&[u8]) -> bool) -> Vec<ProcessSession> {
    let container_of = |pid: i32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        containers.iter().find(|id| groups.contains(id.as_str()))
    };
    let (mut found, mut firsts) = (Vec::new(), Vec::new());
    for pid in everybody() {
        let Some(stat) = Stat::of(pid).filter(|stat| stat.session == pid) else { continue };
        let Some(id) = container_of(pid).filter(|id| container_of(stat.parent) != Some(id)) else {
            continue;
        };
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mark = environment.split(|&byte| byte == 0).find(|variable| is_mark(variable));
        let Some(mark) = mark.map(<[u8]>::to_owned) else { continue };
        if is_first(pid) {
            firsts.push((id, mark));
        } else if let Ok(session) = ProcessSession::of(pid, id)
            // Whoever has the number now is whom we have read of.
            && session.began == stat.began
        {
            found.push((id, mark, session));
        }
    }
    let is_own = |id: &String, mark: &Vec<u8>| !firsts.iter().any(|(i, m)| *i == id && m == mark);
    found.into_iter().filter(|(id, mark, _)| is_own(id, mark)).map(|found| found.2).collect()
}

/// Whether it is the first process of its namespace.
fn is_first(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some("1"))
}

/// What matters of `/proc/<pid>/stat` (proc(5)).
struct Stat {
    parent: i32,
    session: i32,
    began: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Stat> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything, a closing bracket too.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        // The first of these is the third of the file.
        let field = |number: usize| fields.get(number - 3);
        Some(Stat {
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            began: field(22)?.parse().ok()?,
        })
    }
}

/// Every process of this machine.
fn everybody() -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The control group of the container, below `root`, by what `/proc/<pid>/cgroup` says of a process in
/// it: one of the first version's hierarchies, or the second version's only one.
fn group_directory(root: &Path, groups: &str, container_id: &str) -> Option<PathBuf> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (hierarchy, path) = (fields.next()?, fields.next()?);
        // Whatever groups the container has made of its own are below.
        let end = path.find(container_id)? + container_id.len();
        let end = end + path[end..].find('/').unwrap_or(path.len() - end);
        let hierarchy = hierarchy.strip_prefix("name=").unwrap_or(hierarchy);
        let directory = root.join(hierarchy).join(path[..end].trim_start_matches('/'));
        directory.join("cgroup.procs").is_file().then_some(directory)
    })
}

/// The processes of a group and of those below it.
fn listed(group: &Path) -> io::Result<Vec<i32>> {
    let (mut pids, mut groups) = (Vec::new(), vec![group.to_owned()]);
    let mut seen = 0;
    while let Some(group) = groups.pop() {
        seen += 1;
        if seen > CONTAINER_GROUPS_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let numbers = fs::read_to_string(group.join("cgroup.procs"))?;
        pids.extend(numbers.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        for entry in fs::read_dir(group)?.flatten() {
            if entry.file_type()?.is_dir() {
                groups.push(entry.path());
            }
        }
    }
    Ok(pids)
}

#[cfg(test)]
mod test {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    /// Any text of the group's path will do for a container's id: here every process is in some group.
    const ANY: &str = ":/";

    /// A process that leads a session.
    fn leader(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        // SAFETY: setsid is one system call, which a child between fork and exec may make.
        unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
        command.spawn().unwrap()
    }

    fn pid(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn stat_of_this_process_is_the_kernels() {
        let own = i32::try_from(std::process::id()).unwrap();
        let session = nix::unistd::getsid(None).unwrap().as_raw();
        let stat = Stat::of(own).unwrap();
        assert_eq!((stat.session, stat.parent), (session, nix::unistd::getppid().as_raw()));
        assert!(stat.began > 0 && Stat::of(i32::MAX).is_none());
    }

    #[test]
    fn signal_reaches_the_session_and_whoever_is_left_of_it_after_its_leader() {
        let mut child = leader("sleep 60 & exec sleep 60");
        let session = ProcessSession::of(pid(&child), ANY).unwrap();
        let has_two = || session.look().members.len() == 2;
        while !has_two() {
            std::thread::yield_now();
        }
        session.leader().signal(Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(!session.leader().is_alive() && session.is_alive());
        session.signal(&[Signal::SIGKILL]);
        while session.is_alive() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn number_that_has_passed_on_has_no_members() {
        let mut child = leader("exec sleep 60");
        let session = ProcessSession::of(pid(&child), ANY).unwrap();
        let later = ProcessSession { began: session.began - 1, ..session };
        assert!(later.look().members.is_empty());
        later.leader().signal(Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn process_that_leads_no_session_is_none() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let fault = ProcessSession::of(pid(&child), ANY).unwrap_err();
        assert!(matches!(fault, PinFault::Foreign), "{fault}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn group_is_found_in_either_version_without_what_the_container_made_below() {
        let dir = tempfile::tempdir().unwrap();
        let id = "c".repeat(64);
        let first = dir.path().join(format!("memory/docker/{id}"));
        let second = dir.path().join(format!("system.slice/docker-{id}.scope"));
        for group in [&first, &second] {
            fs::create_dir_all(group).unwrap();
            fs::write(group.join("cgroup.procs"), "").unwrap();
        }
        let find = |groups: &str| group_directory(dir.path(), groups, &id);
        assert_eq!(find(&format!("9:pids:/docker/{id}\n4:memory:/docker/{id}/a\n")), Some(first));
        let line = format!("0::/system.slice/docker-{id}.scope/init.scope\n");
        assert_eq!(find(&line), Some(second));
        assert_eq!(find("0::/\n"), None);
    }

    #[test]
    fn processes_of_groups_below_are_listed_unless_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        for (group, pids) in [(dir.path(), "1\n"), (&dir.path().join("a"), ""), (&below, "2\n3\n")]
        {
            fs::write(group.join("cgroup.procs"), pids).unwrap();
        }
        assert_eq!(listed(dir.path()).unwrap(), [1, 2, 3]);
        for number in 0..CONTAINER_GROUPS_MAX {
            let group = dir.path().join(number.to_string());
            fs::create_dir(&group).unwrap();
            fs::write(group.join("cgroup.procs"), "").unwrap();
        }
        assert!(listed(dir.path()).is_err());
    }
}
