//! What the kernel lets the runner have: open files, threads, inotify.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::Finding;
use crate::limits;

pub fn findings() -> Vec<Finding> {
    vec![files(), threads(), inotify_instances(), inotify_watches()]
}

fn files() -> Finding {
    // The runner raises its soft limit by itself; the hard one is the operator's.
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    at_least(
        "open files",
        hard,
        limits::DOCTOR_FILES_MIN,
        "raise it: LimitNOFILE=65536 in the unit, or `ulimit -Hn 65536`",
    )
}

fn threads() -> Finding {
    let of_user = getrlimit(Resource::RLIMIT_NPROC).map_or(0, |(soft, _)| soft);
    let of_machine = number("/proc/sys/kernel/threads-max").unwrap_or(u64::MAX);
    let of_group = own_group_threads().unwrap_or(u64::MAX);
    at_least(
        "threads",
        of_user.min(of_machine).min(of_group),
        limits::DOCTOR_THREADS_MIN,
        "raise it: TasksMax=infinity and LimitNPROC=infinity in the unit",
    )
}

fn inotify_instances() -> Finding {
    at_least(
        "inotify",
        number("/proc/sys/fs/inotify/max_user_instances").unwrap_or(0),
        limits::DOCTOR_INOTIFY_INSTANCES_MIN,
        "sysctl fs.inotify.max_user_instances=128",
    )
}

fn inotify_watches() -> Finding {
    at_least(
        "inotify watches",
        number("/proc/sys/fs/inotify/max_user_watches").unwrap_or(0),
        limits::DOCTOR_INOTIFY_WATCHES_MIN,
        "sysctl fs.inotify.max_user_watches=65536",
    )
}

fn at_least(subject: &'static str, found: u64, least: u64, remedy: &str) -> Finding {
    let shown = match found {
        u64::MAX => "no limit".into(),
        found => format!("{found} allowed"),
    };
    if found >= least {
        Finding::ok(subject, shown)
    } else {
        Finding::warn(subject, format!("{shown}, {least} wanted"), remedy)
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The limit of the control group we are in (`max` is none), for both cgroup versions.
fn own_group_threads() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        match controllers {
            "" => number(&format!("/sys/fs/cgroup{group}/pids.max")),
            "pids" => number(&format!("/sys/fs/cgroup/pids{group}/pids.max")),
            _ => None,
        }
    })
}

#[cfg(test)]
mod test {
    use super::super::Grade;
    use super::*;

    #[test]
    fn limit_below_what_is_wanted_is_a_warning_with_both_numbers() {
        let found = at_least("open files", 1023, 1024, "raise it");
        assert_eq!((found.grade, &*found.found), (Grade::Warn, "1023 allowed, 1024 wanted"));
        assert_eq!(at_least("open files", 1024, 1024, "raise it").grade, Grade::Ok);
        assert_eq!(at_least("open files", u64::MAX, 1024, "raise it").found, "no limit");
    }
}
