//! The two output files of a task: made before the start with the container user's ownership, read
//! for users. All of it runs on files threads: SHARED_DIR may hang (design law 5, D5).

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::container::SHARED_DATA;
use crate::lanes::Pool;
use crate::limits::{LOG_CHUNK_BYTES_MAX, OUTPUT_MADE_BEFORE};
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::model::task::{Command, LogFiles, TaskRecord};
use crate::model::time::Stamp;
use crate::ops::Node;

/// Whose the files are to be: the image's USER, as numbers of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Root, or a user that can't be told: the Engine will say what it thinks of that one.
    AsIs,
    Known {
        uid: u32,
        gid: u32,
    },
    /// A name; the numbers are in the container's own `/etc/passwd`.
    Named(String),
}

/// Why a task's output has nowhere to go.
#[derive(Debug)]
pub enum LogsFault {
    SharedDirMissing(PathBuf),
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl Owner {
    /// From an image's `USER` (`""`, `1234`, `1234:100`, `worker`, `worker:staff`); `shift` is what
    /// the Engine's user namespace adds to ids.
    pub fn of_image(user: &str, shift: (u32, u32)) -> Owner {
        let (name, group) = user.split_once(':').unwrap_or((user, ""));
        match name.parse::<u32>() {
            Ok(uid) => Owner::shifted(uid, group.parse().unwrap_or(0), shift),
            Err(_) if name.is_empty() || name == "root" => Owner::shifted(0, 0, shift),
            Err(_) => Owner::Named(name.to_owned()),
        }
    }

    /// The user called `name` in a `passwd` file.
    pub fn in_passwd(name: &str, passwd: &[u8], shift: (u32, u32)) -> Owner {
        String::from_utf8_lossy(passwd)
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name))
            .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
            .map_or(Owner::AsIs, |(uid, gid)| Owner::shifted(uid, gid, shift))
    }

    fn shifted(uid: u32, gid: u32, (uid_shift, gid_shift): (u32, u32)) -> Owner {
        match (uid.saturating_add(uid_shift), gid.saturating_add(gid_shift)) {
            (0, 0) => Owner::AsIs,
            (uid, gid) => Owner::Known { uid, gid },
        }
    }
}

/// Makes what every container mounts below `shared_dir`.
///
/// # Errors
/// Names the directory and the remedy.
pub fn prepare_shared(shared_dir: &Path) -> Result<(), LogsFault> {
    // Never made here: an absent one is a share that is not mounted, and writing below its mount
    // point would hide the task's output from the host.
    match fs::metadata(shared_dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(LogsFault::SharedDirMissing(shared_dir.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LogsFault::SharedDirMissing(shared_dir.to_owned()));
        }
        // A share that is mounted and broken: mounting it is no advice.
        Err(error) => return Err(LogsFault::io("look at", shared_dir, error)),
    }
    make_directory(&shared_dir.join(SHARED_DATA))
}

/// Makes both files, empty.
///
/// # Errors
/// Names the directory and the remedy.
pub fn prepare(files: &LogFiles, owner: &Owner) -> Result<(), LogsFault> {
    make_directory(&files.directory)?;
    for path in [&files.stdout, &files.stderr] {
        make_directory(path.parent().unwrap_or(&files.directory))?;
        let file = open_below(&files.directory, path, FRESH);
        let file = file.map_err(|e| LogsFault::io("make", path, e))?;
        // Refused, it has the time of its making: a witness all the same, where times are fine.
        let _ = file.set_modified(SystemTime::now() - OUTPUT_MADE_BEFORE);
    }
    give(files, owner)
}

/// Gives both files to `owner`. Where the file system forbids that (NFS with root squashed) anybody
/// may write them; the directory still keeps everybody from others.
///
/// # Errors
/// Neither was possible.
pub fn give(files: &LogFiles, owner: &Owner) -> Result<(), LogsFault> {
    let Owner::Known { uid, gid } = *owner else { return Ok(()) };
    const WRITABLE_BY_ALL: u32 = 0o666;
    for path in [&files.stdout, &files.stderr] {
        let file = open_below(&files.directory, path, OFlag::O_WRONLY)
            .map_err(|e| LogsFault::io("open", path, e))?;
        if fchown(&file, Some(uid), Some(gid)).is_err() {
            file.set_permissions(fs::Permissions::from_mode(WRITABLE_BY_ALL))
                .map_err(|e| LogsFault::io("share", path, e))?;
        }
    }
    Ok(())
}

/// The time that stdout was given as it was made; `None` where that can't be told.
pub fn made_at(files: &LogFiles) -> Option<Stamp> {
    changed_at(&open_below(&files.directory, &files.stdout, OFlag::O_RDONLY).ok()?).ok()
}

/// Whether somebody has written, emptied, removed or replaced stdout since it was made at `made`.
/// False also where that can't be told, as with a share that is not mounted.
pub fn is_touched(files: &LogFiles, made: Stamp) -> bool {
    match open_below(&files.directory, &files.stdout, OFlag::O_RDONLY) {
        Ok(file) => changed_at(&file).is_ok_and(|changed| changed != made),
        Err(error) => {
            let is_another = matches!(
                error.raw_os_error().map(Errno::from_raw),
                Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO | Errno::EXDEV)
            );
            // Its directory is the one thing there that the task can't remove.
            is_another && files.directory.is_dir()
        }
    }
}

fn changed_at(file: &File) -> io::Result<Stamp> {
    Ok(DateTime::<Utc>::from(file.metadata()?.modified()?).into())
}

/// A piece of an output file.
#[derive(Debug)]
pub struct Chunk {
    pub bytes: Vec<u8>,
    /// The file's size now.
    pub size: u64,
}

/// Reads `path`, which lies in the log directory, from `offset`, at most [`LOG_CHUNK_BYTES_MAX`];
/// empty at the end and beyond it, and for a file that is not there yet.
///
/// # Errors
/// The file is there and can't be read, or the task has put something else in its place.
pub fn read(directory: &Path, path: &Path, offset: u64) -> io::Result<Chunk> {
    let mut file = match open_below(directory, path, OFlag::O_RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Chunk { bytes: Vec::new(), size: 0 });
        }
        other => other?,
    };
    let metadata = file.metadata()?;
    // The task can replace its file by anything; only a file is read.
    if !metadata.is_file() {
        return Err(io::Error::other("no regular file"));
    }
    let size = metadata.len();
    let mut bytes = Vec::new();
    // The kernel refuses offsets that no file can have.
    if offset < size {
        file.seek(SeekFrom::Start(offset))?;
        file.take(LOG_CHUNK_BYTES_MAX).read_to_end(&mut bytes)?;
    }
    Ok(Chunk { bytes, size })
}

/// An output file of the task was written at `at`, or only truncated: the redirection opens it so.
/// Notes the first output, or has the files watched on.
pub fn written(node: &Arc<Node>, id: TaskId, at: Stamp) {
    let owner = Arc::clone(node);
    let look = Box::new(move || {
        let note_output = |record: &TaskRecord| {
            let has_output = |path| fs::metadata(path).is_ok_and(|file| file.len() > 0);
            let Some(Command { logs, .. }) = record.spec.command() else { return true };
            let found = has_output(&logs.stdout) || has_output(&logs.stderr);
            if found {
                owner.tasks.note(id, |record| record.times.first_output.get_or_insert(at).micros());
            }
            found
        };
        let (Some(record), Some(watch)) = (owner.tasks.get(id), &owner.first_writes) else {
            return;
        };
        if note_output(&record) {
            return;
        }
        if let Some(Command { logs, .. }) = record.spec.command() {
            watch.watch(id, &[&logs.stdout, &logs.stderr]);
        }
        // What came in between is seen here; an end in between has not seen the new watch.
        note_output(&record);
        if owner.tasks.get(id).is_none_or(|record| record.phase == Phase::Ended) {
            watch.forget(id);
        }
    });
    if node.lanes.submit(Pool::Files, look).is_err() {
        log::debug!("task {id}: no room to look for its first output");
    }
}

fn make_directory(path: &Path) -> Result<(), LogsFault> {
    fs::create_dir_all(path).map_err(|e| LogsFault::io("make directory", path, e))
}

/// Makes the file, or empties the one of an earlier run of the same id.
const FRESH: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_TRUNC);

/// Opens a file of the log directory, never through a link and never waiting for a peer: the task
/// may put what it likes there, and a link to `/etc/shadow` would be followed on the host, as root.
fn open_below(directory: &Path, path: &Path, flags: OFlag) -> io::Result<File> {
    let name = path.strip_prefix(directory).map_err(|_| Errno::EXDEV)?;
    let mode = if flags.contains(OFlag::O_CREAT) { 0o644 } else { 0 };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(File::open(directory)?, name, how)?.into())
}

impl LogsFault {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> LogsFault {
        LogsFault::Io { doing, path: path.to_owned(), source }
    }
}

impl fmt::Display for LogsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogsFault::SharedDirMissing(path) => write!(
                f,
                "SHARED_DIR {} is no directory on this node: mount the share, or set SHARED_DIR",
                path.display()
            ),
            LogsFault::Io { doing, path, source } => write!(
                f,
                "the task's output has nowhere to go: {doing} {}: {source}; {}",
                path.display(),
                match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        "make room there, for bytes and for files"
                    }
                    _ => "the runner must be able to write there",
                }
            ),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn files(root: &Path) -> LogFiles {
        let directory = root.join("logs/7");
        LogFiles {
            stdout: directory.join("stdout.log"),
            stderr: directory.join("deep/stderr.log"),
            directory,
        }
    }

    #[test]
    fn user_of_an_image_is_read_in_every_spelling() {
        assert_eq!(Owner::of_image("", (0, 0)), Owner::AsIs);
        assert_eq!(Owner::of_image("root", (0, 0)), Owner::AsIs);
        assert_eq!(Owner::of_image("1234:100", (0, 0)), Owner::Known { uid: 1234, gid: 100 });
        assert_eq!(Owner::of_image("1234", (0, 0)), Owner::Known { uid: 1234, gid: 0 });
        assert_eq!(Owner::of_image("worker:staff", (0, 0)), Owner::Named("worker".into()));
    }

    #[test]
    fn user_namespace_shifts_every_user_also_root() {
        assert_eq!(Owner::of_image("", (1000, 2000)), Owner::Known { uid: 1000, gid: 2000 });
        let passwd = b"root:x:0:0::/:/bin/sh\nworker:x:5:6::/:/bin/sh\n";
        assert_eq!(Owner::in_passwd("worker", passwd, (10, 10)), Owner::Known { uid: 15, gid: 16 });
    }

    #[test]
    fn user_that_passwd_does_not_have_is_left_to_the_engine() {
        assert_eq!(Owner::in_passwd("ghost", b"root:x:0:0\n", (0, 0)), Owner::AsIs);
    }

    #[test]
    fn share_that_is_not_mounted_is_not_made() {
        let root = tempfile::tempdir().unwrap();
        let share = root.path().join("share");
        let fault = prepare_shared(&share).unwrap_err();
        assert!(fault.to_string().contains("SHARED_DIR"));
        assert!(!share.exists());
    }

    #[test]
    fn output_files_are_made_empty_also_in_directories_below() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        prepare(&files, &Owner::AsIs).unwrap();
        fs::write(&files.stdout, "old").unwrap();
        prepare(&files, &Owner::AsIs).unwrap();
        assert_eq!(read(&files.directory, &files.stdout, 0).unwrap().size, 0);
        assert!(files.stderr.exists());
    }

    #[test]
    fn start_within_the_tick_of_a_coarse_clock_shows_at_the_output_file() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        prepare(&files, &Owner::AsIs).unwrap();
        let made = made_at(&files).unwrap();
        assert!(!is_touched(&files, made));
        // Some shares keep seconds, or two of them: what a start at once would leave there.
        let seconds = Stamp::now().micros() / 2_000_000 * 2;
        assert!(made < Stamp::from_seconds(seconds));
        File::create(&files.stdout).unwrap();
        assert!(is_touched(&files, made));
    }

    #[test]
    fn output_file_that_its_task_removed_or_replaced_was_touched() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        prepare(&files, &Owner::AsIs).unwrap();
        let made = made_at(&files).unwrap();
        fs::remove_file(&files.stdout).unwrap();
        assert!(is_touched(&files, made));
        std::os::unix::fs::symlink("/etc/passwd", &files.stdout).unwrap();
        assert!(is_touched(&files, made));
        // A share that went away says nothing.
        fs::remove_dir_all(&files.directory).unwrap();
        assert!(!is_touched(&files, made));
    }

    #[test]
    fn link_in_the_place_of_an_output_file_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        let victim = root.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        fs::create_dir_all(&files.directory).unwrap();
        std::os::unix::fs::symlink(&victim, &files.stdout).unwrap();
        assert!(prepare(&files, &Owner::AsIs).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn reading_goes_on_where_it_stopped() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("out");
        fs::write(&path, "hello").unwrap();
        let chunk = read(root.path(), &path, 3).unwrap();
        assert_eq!((&chunk.bytes[..], chunk.size), (&b"lo"[..], 5));
    }

    #[test]
    fn offset_that_no_file_can_have_reads_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("out");
        fs::write(&path, "hello").unwrap();
        let chunk = read(root.path(), &path, u64::MAX).unwrap();
        assert_eq!((chunk.bytes.len(), chunk.size), (0, 5));
    }

    #[test]
    fn link_in_the_place_of_a_directory_of_output_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        let elsewhere = root.path().join("elsewhere");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(elsewhere.join("stderr.log"), "precious").unwrap();
        fs::create_dir_all(&files.directory).unwrap();
        std::os::unix::fs::symlink(&elsewhere, files.directory.join("deep")).unwrap();
        assert!(prepare(&files, &Owner::AsIs).is_err());
        assert!(read(&files.directory, &files.stderr, 0).is_err());
        assert_eq!(fs::read(elsewhere.join("stderr.log")).unwrap(), b"precious");
    }

    #[test]
    fn output_that_is_not_there_yet_reads_as_empty() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        assert_eq!(read(&files.directory, &files.stdout, 0).unwrap().size, 0);
    }
}
