//! Directories on network file systems: what other machines change there gives no event here, so
//! they are read again and again, to a small depth, and the difference is told. One reading serves
//! all sessions that watch the same directory with the same rights. It runs in jobs of the
//! caller's threads; one that hangs holds one thread for each file system and no session.

use std::collections::HashSet;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::Inotify;
use nix::sys::stat::fstat;

use super::session::joined;
use super::snapshot::Snapshot;
use super::state::State;
use super::{Change, ChangeKind, Inner, Note, RemoteTrouble, RunJob};
use crate::limits::{
    SHARED_STORAGE_DEADLINE, WATCH_POLL_ENTRIES_MAX, WATCH_POLL_EVERY, WATCH_POLL_LOOK_AGAIN,
    WATCH_POLL_REST_FACTOR, WATCH_POLLED_NODE_MAX, WATCH_POLLED_SESSION_MAX, WATCH_POLLS_AT_A_TIME,
};
use crate::machine::identity::Identity;
use crate::metrics;
use crate::threads::lock;

/// A directory that is polled.
pub(super) struct Poll {
    device: u64,
    inode: u64,
    user: Arc<Identity>,
    dir: Arc<OwnedFd>,
    run: RunJob,
    /// The sessions, and what each calls the directory.
    holders: Vec<(u64, PathBuf)>,
    /// What was there last; none before the first reading.
    seen: Option<Snapshot>,
    /// What events told since the last reading but one began: it is not told again.
    heard: [HashSet<PathBuf>; 2],
    due: Instant,
    /// Since when it is being read, or waits for its thread.
    reading_since: Option<Instant>,
    outcome: Option<Result<Snapshot, Errno>>,
    trouble: Option<RemoteTrouble>,
}

impl std::fmt::Debug for Poll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poll").field("holders", &self.holders).finish_non_exhaustive()
    }
}

impl Inner {
    /// Has `dir` polled for a session that calls it `path`, from now on.
    pub(super) fn poll_for(&self, number: u64, path: &Path, dir: &OwnedFd) -> Result<(), Errno> {
        let stat = fstat(dir)?;
        let copy = || dir.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE);
        let mut state = lock(&self.state);
        state.poll_for(number, path, (stat.st_dev, stat.st_ino), copy)?;
        self.wake();
        Ok(())
    }

    /// Has the directories read whose time has come.
    pub(super) fn read_due(self: &Arc<Self>) {
        let due = lock(&self.state).take_due();
        for (poll, run) in due {
            let inner = Arc::clone(self);
            if !run(Box::new(move || inner.read_polled(poll))) {
                lock(&self.state).put_off(poll);
            }
        }
    }

    fn read_polled(&self, number: u64) {
        let place = lock(&self.state).polls.get(&number).map(Poll::place);
        let Some((dir, user)) = place else { return };
        let outcome = match user.assume() {
            Ok(_as_user) => Snapshot::take(&dir),
            Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or_default())),
        };
        if let Some(poll) = lock(&self.state).polls.get_mut(&number) {
            poll.outcome = Some(outcome);
        }
        // The shared thread tells it, after what events have told.
        self.wake();
    }
}

impl Poll {
    fn place(&self) -> (Arc<OwnedFd>, Arc<Identity>) {
        (Arc::clone(&self.dir), Arc::clone(&self.user))
    }

    /// When something is to be done about it next, if no job says so first.
    fn next_look(&self) -> Option<Instant> {
        match self.reading_since {
            None => Some(self.due),
            Some(_) if self.trouble == Some(RemoteTrouble::Silent) => None,
            Some(since) => Some(since + SHARED_STORAGE_DEADLINE),
        }
    }

    fn is_heard(&self, rest: &Path) -> bool {
        self.heard.iter().any(|heard| heard.contains(rest))
    }
}

impl State {
    fn poll_for(
        &mut self,
        number: u64,
        path: &Path,
        (device, inode): (u64, u64),
        dir: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<(), Errno> {
        let is_full = self.polls.len() >= WATCH_POLLED_NODE_MAX;
        let of_session = |poll: &&Poll| poll.holders.iter().any(|holder| holder.0 == number);
        let has_enough = self.polls.values().filter(of_session).count() >= WATCH_POLLED_SESSION_MAX;
        let Some(session) = self.sessions.get_mut(&number) else { return Ok(()) };
        let same = self
            .polls
            .values_mut()
            .find(|poll| poll.device == device && poll.inode == inode && poll.user == session.user);
        if let Some(poll) = same {
            let is_known = poll.holders.iter().any(|holder| holder.0 == number && holder.1 == path);
            if !is_known && has_enough {
                session.tell_remote(path, RemoteTrouble::NoRoom);
            } else if !is_known {
                poll.holders.push((number, path.to_owned()));
                if let Some(trouble) = poll.trouble {
                    session.tell_remote(path, trouble);
                }
            }
            return Ok(());
        }
        if is_full || has_enough {
            session.tell_remote(path, RemoteTrouble::NoRoom);
            return Ok(());
        }
        let poll = Poll {
            device,
            inode,
            user: Arc::clone(&session.user),
            dir: Arc::new(dir()?),
            run: Arc::clone(&session.run),
            holders: vec![(number, path.to_owned())],
            seen: None,
            heard: Default::default(),
            due: Instant::now(),
            reading_since: None,
            outcome: None,
            trouble: None,
        };
        self.opened += 1;
        self.polls.insert(self.opened, poll);
        metrics::WATCH_POLLED.up();
        Ok(())
    }

    /// A session's directories at and below `path` are not polled any more; all of them for no path.
    pub(super) fn end_polls(&mut self, session: u64, path: Option<&Path>) {
        self.polls.retain(|_, poll| {
            poll.holders.retain(|(holder, held)| {
                *holder != session || path.is_some_and(|path| !held.starts_with(path))
            });
            if poll.holders.is_empty() {
                metrics::WATCH_POLLED.down();
            }
            !poll.holders.is_empty()
        });
    }

    /// A session knows directories at and below `old` by another name.
    pub(super) fn rename_polls(&mut self, session: u64, old: &Path, new: &Path) {
        for (holder, path) in self.polls.values_mut().flat_map(|poll| &mut poll.holders) {
            if *holder == session
                && let Ok(rest) = path.strip_prefix(old)
            {
                *path = joined(new, rest);
            }
        }
    }

    /// An event has told of `path`: the next readings need not.
    pub(super) fn hear(&mut self, session: u64, path: &Path) {
        for poll in self.polls.values_mut() {
            for (holder, base) in &poll.holders {
                if *holder == session
                    && let Ok(rest) = path.strip_prefix(base)
                    && poll.heard[0].len() < WATCH_POLL_ENTRIES_MAX
                {
                    poll.heard[0].insert(rest.to_owned());
                }
            }
        }
    }

    /// How long there is nothing to do about polled directories.
    pub(super) fn rest_of_polls(&self) -> Option<Duration> {
        let next = self.polls.values().filter_map(Poll::next_look).min()?;
        let is_held_up = self.reading_now() >= WATCH_POLLS_AT_A_TIME;
        let rest = next.saturating_duration_since(Instant::now());
        // One that waits for others is told silent by the same clock.
        Some(if is_held_up || rest.is_zero() { rest.max(WATCH_POLL_LOOK_AGAIN) } else { rest })
    }

    fn reading_now(&self) -> usize {
        self.polls.values().filter(|poll| poll.reading_since.is_some()).count()
    }

    /// Those to be read now, the longest due first: one for each file system at a time, so that one
    /// that hangs costs one thread.
    fn take_due(&mut self) -> Vec<(u64, RunJob)> {
        let now = Instant::now();
        let reading = self.polls.values().filter(|poll| poll.reading_since.is_some());
        let mut busy: HashSet<u64> = reading.map(|poll| poll.device).collect();
        let mut room = WATCH_POLLS_AT_A_TIME.saturating_sub(self.reading_now());
        let mut due: Vec<_> = self.polls.iter_mut().filter(|(_, poll)| poll.due <= now).collect();
        due.sort_by_key(|(_, poll)| poll.due);
        let mut taken = Vec::new();
        for (number, poll) in due {
            if poll.reading_since.is_some() {
                continue;
            }
            if room == 0 || !busy.insert(poll.device) {
                continue;
            }
            room -= 1;
            poll.reading_since = Some(now);
            poll.heard[1] = mem::take(&mut poll.heard[0]);
            taken.push((*number, Arc::clone(&poll.run)));
        }
        taken
    }

    /// No thread was to be had for it.
    fn put_off(&mut self, number: u64) {
        let Some(poll) = self.polls.get_mut(&number) else { return };
        poll.reading_since = None;
        poll.due = Instant::now() + WATCH_POLL_EVERY;
    }

    /// Tells what finished readings found, and which do not come to an end.
    pub(super) fn settle_polls(&mut self, inotify: &Inotify) {
        let numbers: Vec<u64> = self.polls.keys().copied().collect();
        for number in numbers {
            let Some(poll) = self.polls.get_mut(&number) else { continue };
            match (poll.outcome.take(), poll.reading_since) {
                (Some(outcome), since) => {
                    let took = since.map(|since| since.elapsed()).unwrap_or_default();
                    let rest = WATCH_POLL_EVERY.max(took * WATCH_POLL_REST_FACTOR);
                    poll.reading_since = None;
                    poll.due = Instant::now() + rest;
                    self.settle(inotify, number, outcome);
                }
                (None, since) => {
                    let since = since.unwrap_or(poll.due);
                    if since.elapsed() >= SHARED_STORAGE_DEADLINE {
                        self.trouble(number, Some(RemoteTrouble::Silent));
                    }
                }
            }
        }
    }

    fn settle(&mut self, inotify: &Inotify, number: u64, outcome: Result<Snapshot, Errno>) {
        let Some(poll) = self.polls.get_mut(&number) else { return };
        let mut new = match outcome {
            Ok(new) => new,
            Err(error) => return self.trouble(number, Some(RemoteTrouble::Failed(error))),
        };
        let is_cut = new.is_cut;
        let mut changes = match poll.seen.take() {
            Some(old) => new.succeed(old),
            None => Vec::new(),
        };
        poll.seen = Some(new);
        let (holders, mut told) = (poll.holders.clone(), Vec::new());
        for change in changes.drain(..) {
            told.push((poll.is_heard(&change.path), change));
        }
        for (session, base) in holders {
            self.tell_found(inotify, session, &base, &told);
        }
        self.trouble(number, is_cut.then_some(RemoteTrouble::TooLarge));
    }

    fn tell_found(
        &mut self,
        inotify: &Inotify,
        number: u64,
        base: &Path,
        changes: &[(bool, Change)],
    ) {
        let mut gone = Vec::new();
        let Some(session) = self.sessions.get_mut(&number) else { return };
        for (is_heard, Change { kind, path, is_dir }) in changes {
            let path = base.join(path);
            let is_watched = path.parent().is_some_and(|dir| session.held.contains_key(dir));
            if *is_heard && is_watched {
                continue;
            }
            session.tell_change(Change { kind: *kind, path: path.clone(), is_dir: *is_dir });
            match kind {
                ChangeKind::Create if *is_dir => session.plan(path, false),
                ChangeKind::Delete if *is_dir => gone.extend(session.detach(&path)),
                _ => {}
            }
        }
        self.release(inotify, number, &gone);
    }

    /// Tells a trouble when it begins, and notes when it is over.
    fn trouble(&mut self, number: u64, trouble: Option<RemoteTrouble>) {
        let Some(poll) = self.polls.get_mut(&number) else { return };
        if poll.trouble == trouble {
            return;
        }
        poll.trouble = trouble;
        let Some(trouble) = trouble else { return };
        for (session, path) in poll.holders.clone() {
            if let Some(session) = self.sessions.get_mut(&session) {
                session.tell_remote(&path, trouble);
            }
        }
    }
}

impl super::session::SessionState {
    fn tell_remote(&mut self, path: &Path, trouble: RemoteTrouble) {
        self.tell(Note::Remote { path: path.to_owned(), trouble });
    }
}
