//! What one session watches and what it has yet to be told: plain bookkeeping under the lock of
//! `state`; no system call but the waking of the session's thread.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::readlink;
use nix::sys::eventfd::EventFd;
use nix::sys::inotify::WatchDescriptor;

use super::{Change, ChangeKind, Note, RunJob, Unwatched, Why};
use crate::limits::{WATCH_DIRECTORIES_SESSION_MAX, WATCH_NAMED_MAX, WATCH_NOTES_MAX};
use crate::machine::identity::Identity;
use crate::metrics;

/// A directory that a session was opened on.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub path: PathBuf,
    pub fd: Arc<OwnedFd>,
    /// How many marks of a removed directory its name ended with when it was opened.
    pub removed_marks: usize,
}

impl Base {
    pub fn new(path: PathBuf, fd: OwnedFd) -> Base {
        let removed_marks = removed_marks(&fd);
        Base { path, fd: Arc::new(fd), removed_marks }
    }

    /// Whether it was removed. The kernel says so with the name that it has for the descriptor;
    /// no file system is asked, which might hang.
    pub fn is_removed(&self) -> bool {
        removed_marks(&self.fd) > self.removed_marks
    }
}

fn removed_marks(fd: &OwnedFd) -> usize {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = readlink(link.as_str()).unwrap_or_default();
    let mut rest = name.as_bytes();
    let mut marks = 0;
    while let Some(before) = rest.strip_suffix(b" (deleted)") {
        (rest, marks) = (before, marks + 1);
    }
    marks
}

/// A directory to be watched and read.
#[derive(Debug)]
pub(super) struct Scan {
    /// As the session's peer knows it. A rename changes it, also while the scan is under way.
    pub path: PathBuf,
    /// Tell what is in there as created, if it was not watched before.
    pub announce: bool,
    /// Read it even when it is watched already.
    pub whole: bool,
    /// Only its watch is added: it is read when all bases are watched.
    pub only_watch: bool,
    /// On which device the directory above it lies, where that was looked at.
    pub device_above: Option<u64>,
    /// Names that events have told since the watch was added.
    pub touched: HashSet<OsString>,
}

/// A watch of a session. `round` is the last rescan that found it in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub watch: WatchDescriptor,
    pub round: u64,
}

impl Scan {
    pub fn of(path: PathBuf) -> Scan {
        Scan {
            path,
            announce: false,
            whole: false,
            only_watch: false,
            device_above: None,
            touched: HashSet::new(),
        }
    }
}

pub(super) struct SessionState {
    pub bases: Arc<[Base]>,
    pub held: BTreeMap<PathBuf, Held>,
    pub pending: VecDeque<Scan>,
    /// The directory being read now.
    pub current: Option<Scan>,
    /// Bases whose watch was not tried yet.
    pub begins: usize,
    /// Since when a files thread has been reading, or been asked to read, a directory.
    pub scanning_since: Option<Instant>,
    pub round: u64,
    pub user: Arc<Identity>,
    pub run: RunJob,
    /// What scans told as created before the shared thread began to read events, and since: the
    /// kernel's own news of it may be in the queue still.
    announced: [HashSet<PathBuf>; 2],
    notes: VecDeque<Note>,
    lost: bool,
    /// One for each reason.
    unwatched: Vec<Unwatched>,
    wake: Arc<EventFd>,
}

impl fmt::Debug for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionState").field("bases", &self.bases).finish_non_exhaustive()
    }
}

impl SessionState {
    pub fn new(
        bases: Arc<[Base]>,
        user: Identity,
        run: RunJob,
        wake: Arc<EventFd>,
    ) -> SessionState {
        let bases_count = bases.len();
        let mut session = SessionState {
            bases,
            held: BTreeMap::new(),
            pending: VecDeque::new(),
            current: None,
            scanning_since: None,
            begins: bases_count,
            round: 0,
            user: Arc::new(user),
            run,
            announced: Default::default(),
            notes: VecDeque::new(),
            lost: false,
            unwatched: Vec::new(),
            wake,
        };
        session.plan_all(false, true);
        session.plan_all(false, false);
        session
    }

    /// Queues `note` for the session's thread; a full queue is told once and counted.
    pub fn tell(&mut self, note: Note) {
        if self.notes.len() >= WATCH_NOTES_MAX {
            metrics::WATCH_CHANGES_LOST.up();
            if !self.lost {
                self.lost = true;
                self.notes.push_back(Note::Lost);
            }
            return;
        }
        if self.notes.back() == Some(&note) && note.is_modification() {
            return;
        }
        self.notes.push_back(note);
        if self.notes.len() == 1 {
            let _ = self.wake.write(1);
        }
    }

    pub fn tell_change(&mut self, change: Change) {
        self.tell(Note::Change(change));
    }

    /// Tells what a scan found in a new directory.
    pub fn announce(&mut self, path: PathBuf, is_dir: bool) {
        if self.announced[1].len() < WATCH_NOTES_MAX {
            self.announced[1].insert(path.clone());
        }
        self.tell_change(Change { kind: ChangeKind::Create, path, is_dir });
    }

    /// Whether a scan has told of it before this event could: once, what comes then is news.
    pub fn is_announced(&mut self, path: &Path) -> bool {
        self.announced.iter_mut().any(|paths| paths.remove(path))
    }

    /// The shared thread begins to read all events that are there.
    pub fn begin_events(&mut self) {
        let since = mem::take(&mut self.announced[1]);
        self.announced[0].extend(since);
    }

    /// It has read them: of what was announced before, no news can come any more.
    pub fn end_events(&mut self) {
        self.announced[0] = HashSet::new();
    }

    pub fn take(&mut self) -> Option<Note> {
        let note = self.notes.pop_front();
        match note {
            Some(Note::Lost) => self.lost = false,
            Some(_) => {}
            None => {
                let _ = self.wake.read();
            }
        }
        note
    }

    /// Plans the scan of a directory that appeared; too many of them become one rescan.
    pub fn plan(&mut self, path: PathBuf, announce: bool) {
        if self.pending.len() < WATCH_DIRECTORIES_SESSION_MAX {
            self.pending.push_back(Scan { announce, ..Scan::of(path) });
        } else {
            self.rescan();
        }
    }

    /// Plans a directory that a scan found; there are no more of them than may be watched.
    pub fn plan_found(&mut self, found: Scan) {
        if self.pending.len() < WATCH_DIRECTORIES_SESSION_MAX {
            self.pending.push_back(found);
        } else {
            self.note_unwatched(found.path, Why::SessionBudget);
        }
    }

    /// Says that changes may have been missed, and looks at everything again.
    pub fn rescan(&mut self) {
        self.tell(Note::Missed);
        self.round += 1;
        self.pending.clear();
        self.plan_all(true, false);
    }

    fn plan_all(&mut self, announce: bool, only_watch: bool) {
        let bases = Arc::clone(&self.bases);
        self.pending.extend(bases.iter().map(|base| Scan {
            announce,
            whole: true,
            only_watch,
            ..Scan::of(base.path.clone())
        }));
    }

    /// One more base is watched, or can't be.
    pub fn begin_one(&mut self) {
        self.begins = self.begins.saturating_sub(1);
        if self.begins == 0 {
            // It fails when nobody has looked for 2^64 wakes.
            let _ = self.wake.write(1);
        }
    }

    pub fn is_base(&self, path: &Path) -> bool {
        self.bases.iter().any(|base| base.path == path)
    }

    /// The nearest base above `path`, and the way from there.
    pub fn place(&self, path: &Path) -> Option<(Base, PathBuf)> {
        let bases = self.bases.iter().filter(|base| path.starts_with(&base.path));
        let base = bases.max_by_key(|base| base.path.as_os_str().len())?;
        let rest = path.strip_prefix(&base.path).ok()?;
        let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
        Some((base.clone(), rest.to_path_buf()))
    }

    pub fn note_unwatched(&mut self, path: PathBuf, why: Why) {
        let at = self.unwatched.iter().position(|unwatched| unwatched.why == why);
        let at = at.unwrap_or_else(|| {
            self.unwatched.push(Unwatched { first: Vec::new(), count: 0, why });
            self.unwatched.len() - 1
        });
        let unwatched = &mut self.unwatched[at];
        unwatched.count += 1;
        if unwatched.first.len() < WATCH_NAMED_MAX {
            unwatched.first.push(path);
        }
    }

    pub fn tell_unwatched(&mut self) {
        for unwatched in mem::take(&mut self.unwatched) {
            self.tell(Note::Unwatched(unwatched));
        }
    }

    /// Says that no directory can be read with the user's rights, and plans no more.
    pub fn fail(&mut self, error: Errno) {
        self.scanning_since = None;
        self.pending.clear();
        self.begins = 0;
        self.tell(Note::NoRights(error));
    }

    /// Takes the watches at and below `path` out of their places, and forgets scans below it.
    pub fn detach(&mut self, path: &Path) -> Vec<(PathBuf, Held)> {
        let from = self.held.range(path.to_path_buf()..);
        let paths: Vec<PathBuf> =
            from.map(|(held, _)| held).take_while(|held| held.starts_with(path)).cloned().collect();
        paths.into_iter().filter_map(|path| self.held.remove_entry(&path)).collect()
    }

    /// Scans at and below `old` go on at `new`, or are forgotten.
    pub fn move_scans(&mut self, old: &Path, new: Option<&Path>) {
        let mut stays = |scan: &mut Scan| match (scan.path.strip_prefix(old), new) {
            (Err(_), _) => true,
            (Ok(_), None) => false,
            (Ok(rest), Some(new)) => {
                scan.path = joined(new, rest);
                true
            }
        };
        self.pending.retain_mut(&mut stays);
        if let Some(current) = &mut self.current
            && !stays(current)
        {
            self.current = None;
        }
    }
}

/// `dir`/`rest`, where an empty `rest` adds no slash.
pub(super) fn joined(dir: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { dir.to_path_buf() } else { dir.join(rest) }
}
