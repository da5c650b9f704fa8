//! Directories: there or creatable, writable, on storage that survives, with room left.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use crossbeam_channel::bounded;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use super::Finding;
use crate::limits;
use crate::model::settings::Settings;
use crate::threads;

/// What becomes of a directory's contents when the machine starts anew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// Results: losing them breaks the runner's promise.
    Records,
    Output,
    Scratch,
}

pub fn findings(settings: &Settings) -> Vec<Finding> {
    let places = [
        ("state_dir", &settings.state_dir, Keeps::Records),
        ("shared_dir", &settings.shared_dir, Keeps::Output),
        ("local_temp_dir", &settings.local_temp_dir, Keeps::Scratch),
    ];
    let mut findings: Vec<Finding> = places
        .into_iter()
        .map(|(subject, path, keeps)| {
            let looked = path.clone();
            in_time(subject, path, move || place(subject, &looked, keeps))
                .unwrap_or_else(|hung| hung)
        })
        .collect();
    findings.extend(settings.runner_log_file.as_ref().map(|path| {
        let looked = path.clone();
        in_time("runner_log_file", path, move || log_file(&looked)).unwrap_or_else(|hung| hung)
    }));
    for mount in &settings.additional_mounts {
        let source = PathBuf::from(mount.split(':').next().unwrap_or_default());
        let looked = source.clone();
        match in_time("mounts", &source, move || looked.exists()) {
            Ok(true) => {}
            Ok(false) => findings.push(Finding::fail(
                "mounts",
                format!("{} does not exist", source.display()),
                "create it or take it out of additional_mounts: Docker refuses containers else",
            )),
            Err(hung) => findings.push(hung),
        }
    }
    findings
}

/// A file server that is gone holds whoever looks, for ever: `look` runs on a thread that may be left
/// behind. The error says that it was.
fn in_time<T: Send + 'static>(
    subject: &'static str,
    path: &Path,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Finding> {
    let (tell, told) = bounded(1);
    let started = threads::spawn("look", limits::STACK_BYTES, move || tell.send(look()));
    match (started, told.recv_timeout(limits::DOCTOR_PATIENCE)) {
        (_, Ok(found)) => Ok(found),
        (Ok(_), Err(_)) => Err(Finding::fail(
            subject,
            format!("{} does not answer", path.display()),
            "look at its file server, or mount it again",
        )),
        (Err(error), Err(_)) => {
            Err(Finding::fail(subject, format!("no thread: {error}"), "see ulimit -u"))
        }
    }
}

fn place(subject: &'static str, path: &Path, keeps: Keeps) -> Finding {
    let shown = path.display();
    // A directory that is missing is created at the start, if what is above lets us.
    let Some(there) = path.ancestors().find(|ancestor| ancestor.exists()) else {
        return Finding::fail(subject, format!("{shown} does not exist"), "create it");
    };
    if !there.is_dir() {
        return Finding::fail(subject, format!("{shown} is no directory"), "move the file away");
    }
    if let Err(error) = probe(there) {
        let found = format!("{shown} can't be written: {error}");
        return Finding::fail(
            subject,
            found,
            "run as root; on NFS export it with no_root_squash or give it to this user",
        );
    }
    let found = match there == path {
        true => format!("{shown}"),
        false => format!("{shown} (created at the start)"),
    };
    let is_memory = statfs(there).is_ok_and(|kind| kind.filesystem_type() == TMPFS_MAGIC);
    if is_memory {
        let found = format!("{shown} is in memory (tmpfs)");
        return match keeps {
            Keeps::Records => Finding::fail(
                subject,
                found,
                "choose a directory on disk: results are lost when the machine starts anew",
            ),
            Keeps::Output => Finding::warn(
                subject,
                found,
                "choose a directory on disk: output fills memory and is lost with it",
            ),
            Keeps::Scratch => {
                Finding::warn(subject, found, "choose a directory on disk: files fill memory")
            }
        };
    }
    match free_bytes(there) {
        Some(free) if free < limits::DOCTOR_FREE_BYTES_MIN => Finding::warn(
            subject,
            format!("{found}, {} MiB free", free >> 20),
            "make room: records and output need it",
        ),
        Some(free) => Finding::ok(subject, format!("{found}, {} GiB free", free >> 30)),
        None => Finding::ok(subject, found),
    }
}

/// Opened as the runner does, but not made.
fn log_file(path: &Path) -> Finding {
    let shown = path.display();
    let opened = match OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Err(error), probe)
        }
        Ok(file) if file.metadata().is_ok_and(|file| file.is_file()) => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no ordinary file")),
        Err(error) => Err(error),
    };
    match opened {
        Ok(()) => Finding::ok("runner_log_file", format!("{shown}")),
        Err(error) => Finding::fail(
            "runner_log_file",
            format!("{shown} can't be written: {error}"),
            "create its directory, or set runner_log_file to \"\" for stderr",
        ),
    }
}

/// Whether a file can be made there; only trying tells, since NFS may refuse root.
fn probe(directory: &Path) -> io::Result<()> {
    let file = directory.join(format!(".river-runner-doctor-{}", process::id()));
    OpenOptions::new().write(true).create_new(true).open(&file)?;
    fs::remove_file(&file)
}

fn free_bytes(path: &Path) -> Option<u64> {
    let found = statvfs(path).ok()?;
    Some(found.blocks_available() * found.fragment_size())
}

#[cfg(test)]
mod test {
    use super::super::Grade;
    use super::*;

    #[test]
    fn directory_that_will_be_created_is_fine_and_leaves_no_probe() {
        let above = tempfile::tempdir().unwrap();
        let found = place("shared_dir", &above.path().join("a/b"), Keeps::Output);
        assert_ne!(found.grade, Grade::Fail);
        assert_eq!(fs::read_dir(above.path()).unwrap().count(), 0);
    }

    #[test]
    fn file_in_place_of_the_directory_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = place("shared_dir", &file.path().join("logs"), Keeps::Output);
        assert_eq!(found.grade, Grade::Fail);
    }

    #[test]
    fn records_in_memory_fail_and_scratch_in_memory_is_a_warning() {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(place("state_dir", memory.path(), Keeps::Records).grade, Grade::Fail);
        assert_eq!(place("local_temp_dir", memory.path(), Keeps::Scratch).grade, Grade::Warn);
    }

    #[test]
    fn log_file_fails_where_it_could_not_be_opened_and_is_not_made() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("runner.log");
        assert_eq!(log_file(&path).grade, Grade::Ok);
        assert!(!path.exists());
        assert_eq!(log_file(above.path()).grade, Grade::Fail);
        assert_eq!(log_file(&above.path().join("a/b")).grade, Grade::Fail);
    }

    #[test]
    fn mount_whose_source_is_missing_fails() {
        let settings = Settings {
            additional_mounts: vec!["/nonexistent:/data".into()],
            ..Settings::default()
        };
        assert!(findings(&settings).iter().any(|found| found.subject == "mounts"));
    }
}
