//! What the kernel itself has logged, where a peer's word is missing.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::limits::{KERNEL_LOG_RECORD_BYTES_MAX, KERNEL_LOG_RECORDS_MAX};

/// Whether the kernel has killed a process because the container `id` reached its memory limit, as
/// far back as its log goes.
///
/// The Docker Engine listens for that itself, but starts to listen only after the container has
/// started: of a process that needs all memory at once it never hears.
///
/// # Errors
/// The log can't be read (not root, or a container of our own without it).
pub fn has_oom_kill(id: &str) -> io::Result<bool> {
    has_oom_kill_in(Path::new("/dev/kmsg"), id)
}

fn has_oom_kill_in(log: &Path, id: &str) -> io::Result<bool> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(log)?;
    let mut record = vec![0; KERNEL_LOG_RECORD_BYTES_MAX];
    for _ in 0..KERNEL_LOG_RECORDS_MAX {
        match log.read(&mut record) {
            Ok(0) => return Ok(false),
            Ok(length) if is_oom_kill_of(&record[..length], id) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            // The record was overwritten before it was read; the next read goes on behind it.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// `oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/docker/<id>,…`: the group whose limit it was.
fn is_oom_kill_of(record: &[u8], id: &str) -> bool {
    let text = String::from_utf8_lossy(record);
    let Some((_, fields)) = text.split_once("oom-kill:") else { return false };
    let limit_of = fields.split(',').find_map(|field| field.strip_prefix("oom_memcg="));
    !id.is_empty() && limit_of.is_some_and(|group| group.contains(id))
}

#[cfg(test)]
mod test {
    use super::*;

    const RECORD: &[u8] = b"4,900,5081833122,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),\
cpuset=58ac,mems_allowed=0,oom_memcg=/docker/58ac,task_memcg=/docker/58ac/x,task=dd,pid=15773,uid=0\n";

    #[test]
    fn kill_for_the_containers_own_limit_is_found() {
        assert!(is_oom_kill_of(RECORD, "58ac"));
    }

    #[test]
    fn kill_for_another_groups_limit_is_not_the_containers() {
        assert!(!is_oom_kill_of(RECORD, "77ff"));
        let by_parent =
            String::from_utf8_lossy(RECORD).replace("oom_memcg=/docker/58ac", "oom_memcg=/docker");
        assert!(!is_oom_kill_of(by_parent.as_bytes(), "58ac"));
    }

    #[test]
    fn other_record_that_names_the_container_is_no_kill() {
        assert!(!is_oom_kill_of(b"6,901,5,-;docker0: port 58ac entered\n", "58ac"));
    }

    #[test]
    fn log_without_such_a_record_says_no() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), "6,1,1,-;hello\n").unwrap();
        assert!(!has_oom_kill_in(log.path(), "58ac").unwrap());
    }
}
