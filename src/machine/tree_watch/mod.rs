//! Watches directories with all that is below them: one inotify instance and one thread (`watch`)
//! for all sessions, started with the first. Sessions that watch the same directory share a watch;
//! on network file systems they share a reading, every few seconds (`poll`).
//! Called by `ops::watch`. Opens directories only in scans, which run where the caller says (they
//! can hang on a dead share); the shared thread never blocks, on a session or on a file system.

mod poll;
mod scan;
mod session;
mod snapshot;
mod state;
#[cfg(test)]
mod test;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::limits::{STACK_BYTES, WATCH_BASES_LOOK_EVERY, WATCH_MOVE_GRACE, WATCH_REST};
use crate::machine::identity::Identity;
use crate::stop::Stop;
use crate::threads::{self, lock};
use session::{Base, SessionState};
use state::State;

/// What happened to an entry of a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Create,
    Modify,
    Delete,
    /// One for the old path and one for the new.
    Move,
}

impl ChangeKind {
    fn of(mask: AddWatchFlags) -> ChangeKind {
        if mask.contains(AddWatchFlags::IN_CREATE) {
            ChangeKind::Create
        } else if mask.contains(AddWatchFlags::IN_DELETE) {
            ChangeKind::Delete
        } else if mask.intersects(AddWatchFlags::IN_MOVE) {
            ChangeKind::Move
        } else {
            ChangeKind::Modify
        }
    }
}

/// One change, at the path that the session's peer knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    pub path: PathBuf,
    pub is_dir: bool,
}

/// Why a directory is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    SessionBudget,
    NodeBudget,
    /// The system said so: `ENOSPC` is its own limit on watches.
    Refused(Errno),
    /// It shows the kernel's own state.
    KernelView,
    /// No thread was to be had for reading directories.
    Busy,
}

/// Directories that are not watched: the first few, how many, and why the first is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwatched {
    pub first: Vec<PathBuf>,
    pub count: usize,
    pub why: Why,
}

/// Why changes that other machines make in a directory are not told, or not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteTrouble {
    /// Its file system does not answer.
    Silent,
    Failed(Errno),
    /// There is more in it than is looked at.
    TooLarge,
    /// Enough others are looked at.
    NoRoom,
}

/// What a session has to tell its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Change(Change),
    /// The kernel's queue was full: changes are missing here, and all is looked at again.
    Missed,
    /// This session's queue was full: changes are missing here.
    Lost,
    Unwatched(Unwatched),
    /// A directory that the session was opened on was removed, moved away or unmounted.
    BaseGone(PathBuf),
    Remote {
        path: PathBuf,
        trouble: RemoteTrouble,
    },
    /// Directories can't be read with the rights they are to be read with: nothing more is told.
    NoRights(Errno),
}

impl Note {
    fn is_modification(&self) -> bool {
        matches!(self, Note::Change(Change { kind: ChangeKind::Modify, .. }))
    }
}

/// One piece of reading directories.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs a job on a thread that may hang; false if no such thread is to be had.
pub type RunJob = Arc<dyn Fn(Job) -> bool + Send + Sync>;

/// All watches of this process.
#[derive(Debug)]
pub struct TreeWatches {
    stop: Stop,
    inner: Mutex<Option<Arc<Inner>>>,
}

#[derive(Debug)]
struct Inner {
    inotify: Inotify,
    state: Mutex<State>,
    wake: EventFd,
}

/// One caller's watches; they end with it.
#[derive(Debug)]
pub struct TreeSession {
    inner: Arc<Inner>,
    number: u64,
    wake: Arc<EventFd>,
}

impl TreeWatches {
    /// Takes nothing of the system yet.
    pub fn new(stop: &Stop) -> TreeWatches {
        TreeWatches { stop: stop.clone(), inner: Mutex::default() }
    }

    /// Watches the open `directories`, each under the path its peer knows, and all below them.
    /// The scan of what is there begins now, through `run` and with the rights of `user`; its end is
    /// not waited for.
    ///
    /// # Errors
    /// No inotify instance, thread or file descriptor was to be had.
    pub fn open(
        &self,
        directories: Vec<(PathBuf, OwnedFd)>,
        user: Identity,
        run: RunJob,
    ) -> io::Result<TreeSession> {
        let inner = self.inner()?;
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let bases = directories.into_iter().map(|(path, fd)| Base::new(path, fd));
        let state = SessionState::new(bases.collect(), user, run, Arc::clone(&wake));
        let number = lock(&inner.state).add(state);
        inner.wake();
        inner.scan_if_needed(number);
        Ok(TreeSession { inner, number, wake })
    }

    fn inner(&self) -> io::Result<Arc<Inner>> {
        let mut started = lock(&self.inner);
        if let Some(inner) = started.as_ref() {
            return Ok(Arc::clone(inner));
        }
        let inner = Inner::start(&self.stop)?;
        *started = Some(Arc::clone(&inner));
        Ok(inner)
    }
}

impl TreeSession {
    /// The next note, if there is one; the session is readable when there is.
    pub fn take(&self) -> Option<Note> {
        lock(&self.inner.state).sessions.get_mut(&self.number)?.take()
    }

    /// Whether the watch of every directory it was opened on was tried: changes in them are told from
    /// then on.
    pub fn is_begun(&self) -> bool {
        let state = lock(&self.inner.state);
        state.sessions.get(&self.number).is_none_or(|session| session.begins == 0)
    }

    /// For how long the reading of one directory has been under way, or has waited for its thread.
    pub fn scanning_for(&self) -> Option<Duration> {
        let state = lock(&self.inner.state);
        Some(state.sessions.get(&self.number)?.scanning_since?.elapsed())
    }
}

impl AsFd for TreeSession {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for TreeSession {
    fn drop(&mut self) {
        lock(&self.inner.state).close(&self.inner.inotify, self.number);
    }
}

impl Inner {
    fn start(stop: &Stop) -> io::Result<Arc<Inner>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let inner = Arc::new(Inner { inotify, state: Mutex::default(), wake });
        let (watched, woken, stopped) = (Arc::clone(&inner), Arc::clone(&inner), stop.clone());
        let rest = {
            let stop = stop.clone();
            move || stop.wait(WATCH_MOVE_GRACE)
        };
        threads::spawn_kept("watch", STACK_BYTES, rest, move || {
            let mut looked = Instant::now();
            while !stopped.is_raised() {
                watched.turn();
                if looked.elapsed() >= WATCH_BASES_LOOK_EVERY {
                    looked = Instant::now();
                    watched.look_after_bases();
                }
                std::thread::sleep(WATCH_REST);
            }
        })?;
        stop.on_raise(move || woken.wake());
        Ok(inner)
    }

    /// Has the shared thread look around.
    fn wake(&self) {
        // It fails when nobody has looked for 2^64 wakes.
        let _ = self.wake.write(1);
    }

    /// For how long there is nothing to do but to wait for events.
    fn patience(&self) -> PollTimeout {
        let state = lock(&self.state);
        let moving = state.is_moving().then_some(WATCH_MOVE_GRACE);
        let bases = (!state.sessions.is_empty()).then_some(WATCH_BASES_LOOK_EVERY);
        let Some(rest) = moving.into_iter().chain(state.rest_of_polls()).chain(bases).min() else {
            return PollTimeout::NONE;
        };
        // Not a moment too early.
        PollTimeout::try_from(rest + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    /// Tells the sessions whose directories were removed.
    fn look_after_bases(&self) {
        let bases: Vec<_> = {
            let state = lock(&self.state);
            let all = state.sessions.iter();
            all.map(|(number, session)| (*number, Arc::clone(&session.bases))).collect()
        };
        for (number, bases) in bases {
            for base in bases.iter().filter(|base| base.is_removed()) {
                let mut state = lock(&self.state);
                let session = state.sessions.get(&number);
                if session.is_some_and(|session| session.held.contains_key(&base.path)) {
                    state.base_moved(number, &base.path);
                }
            }
        }
    }

    /// Waits for events, and tells the sessions all that are there.
    fn turn(self: &Arc<Self>) {
        let mut fds = [
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        if let Err(error) = poll(&mut fds, self.patience())
            && error != Errno::EINTR
        {
            log::error!("watch: {error}");
        }
        let _ = self.wake.read();
        lock(&self.state).sessions.values_mut().for_each(SessionState::begin_events);
        while let Ok(events) = self.inotify.read_events() {
            let mut state = lock(&self.state);
            events.iter().for_each(|event| state.heed(event));
        }
        let idle = {
            let mut state = lock(&self.state);
            state.sessions.values_mut().for_each(SessionState::end_events);
            state.expire(&self.inotify);
            state.settle_polls(&self.inotify);
            state.with_plans()
        };
        self.read_due();
        idle.into_iter().for_each(|session| self.scan_if_needed(session));
    }
}
