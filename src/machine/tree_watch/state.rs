//! Which watch belongs to which sessions, and what an event of the kernel means to each of them.
//! Called under one lock by the shared thread, the scans and the sessions; never opens a file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::inotify::{AddWatchFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::poll::Poll;
use super::session::{Held, SessionState, joined};
use super::{Change, ChangeKind, Note, Why};
use crate::limits::{
    WATCH_DIRECTORIES_NODE_MAX, WATCH_DIRECTORIES_SESSION_MAX, WATCH_MOVE_GRACE,
    WATCH_SHARES_NODE_MAX,
};
use crate::metrics;

/// A session that holds a watch, and what that directory is called there.
#[derive(Debug)]
struct Holder {
    session: u64,
    path: PathBuf,
}

/// A directory of which only the first half of a rename has been seen.
#[derive(Debug)]
struct Moving {
    cookie: u32,
    session: u64,
    path: PathBuf,
    watches: Vec<(PathBuf, Held)>,
    since: Instant,
    /// Another is in its place now, under the same name.
    is_replaced: bool,
}

/// What became of a watch that a scan has added.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Registered {
    New,
    Already,
    Over(Why),
    /// The session has ended, or the directory has left it.
    Gone,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub sessions: HashMap<u64, SessionState>,
    /// Numbers given to sessions and polls.
    pub opened: u64,
    pub polls: HashMap<u64, Poll>,
    holders: HashMap<WatchDescriptor, Vec<Holder>>,
    moving: Vec<Moving>,
    /// Counts the watches taken away, so that a scan sees that the one it just added may be gone.
    pub removals: u64,
}

impl State {
    pub fn add(&mut self, session: SessionState) -> u64 {
        self.opened += 1;
        self.sessions.insert(self.opened, session);
        self.opened
    }

    /// The sessions that have directories to be read.
    pub fn with_plans(&self) -> Vec<u64> {
        let planned = self.sessions.iter().filter(|(_, session)| !session.pending.is_empty());
        planned.map(|(number, _)| *number).collect()
    }

    pub fn is_held(&self, watch: WatchDescriptor) -> bool {
        self.holders.contains_key(&watch)
    }

    pub fn is_moving(&self) -> bool {
        !self.moving.is_empty()
    }

    /// Gives `session` the watch of the directory it is reading now.
    pub fn register(
        &mut self,
        inotify: &Inotify,
        session: u64,
        watch: WatchDescriptor,
    ) -> Registered {
        let is_full = self.holders.len() >= WATCH_DIRECTORIES_NODE_MAX;
        let shares: usize = self.sessions.values().map(|session| session.held.len()).sum();
        let is_shared_enough = shares >= WATCH_SHARES_NODE_MAX;
        let mut replaced = None;
        let outcome = match self.sessions.get_mut(&session) {
            Some(SessionState { held, current: Some(current), round, .. }) => {
                let known = held.get_mut(&current.path).filter(|held| held.watch == watch);
                if let Some(known) = known {
                    known.round = *round;
                    Registered::Already
                } else if held.len() >= WATCH_DIRECTORIES_SESSION_MAX {
                    Registered::Over(Why::SessionBudget)
                } else if is_shared_enough || is_full && !self.holders.contains_key(&watch) {
                    Registered::Over(Why::NodeBudget)
                } else {
                    let path = current.path.clone();
                    let now = Held { watch, round: *round };
                    replaced = held.insert(path.clone(), now).map(|old| (path.clone(), old));
                    let holders = self.holders.entry(watch).or_insert_with(|| {
                        metrics::WATCHES_HELD.up();
                        Vec::new()
                    });
                    holders.push(Holder { session, path });
                    Registered::New
                }
            }
            _ => Registered::Gone,
        };
        // Another directory was here, which lives on: elsewhere, or in a process that works in it.
        if let Some(replaced) = replaced {
            self.release(inotify, session, &[replaced]);
        }
        if !self.holders.contains_key(&watch) {
            self.remove(inotify, watch);
        }
        outcome
    }

    /// Ends a session and the watches that were only its own.
    pub fn close(&mut self, inotify: &Inotify, session: u64) {
        let Some(ended) = self.sessions.remove(&session) else { return };
        let moving = self.moving.extract_if(.., |moving| moving.session == session);
        let watches: Vec<_> = moving.flat_map(|moving| moving.watches).chain(ended.held).collect();
        self.release(inotify, session, &watches);
        self.end_polls(session, None);
    }

    /// Drops directories that left what is watched, and what a finished rescan did not find again.
    pub fn expire(&mut self, inotify: &Inotify) {
        let late: Vec<_> = self
            .moving
            .extract_if(.., |moving| moving.since.elapsed() > WATCH_MOVE_GRACE)
            .collect();
        for Moving { session, watches, path, is_replaced, .. } in late {
            self.release(inotify, session, &watches);
            if !is_replaced {
                self.end_polls(session, Some(&path));
            }
        }
    }

    /// Ends the watches that a finished rescan did not find in their places.
    pub fn sweep(&mut self, inotify: &Inotify, session: u64) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let round = state.round;
        let stale = state.held.iter().filter(|(_, held)| held.round != round);
        let stale: Vec<_> = stale.map(|(path, held)| (path.clone(), *held)).collect();
        state.held.retain(|_, held| held.round == round);
        self.release(inotify, session, &stale);
    }

    pub fn release(&mut self, inotify: &Inotify, session: u64, watches: &[(PathBuf, Held)]) {
        for (path, held) in watches {
            let Some(holders) = self.holders.get_mut(&held.watch) else { continue };
            holders.retain(|holder| holder.session != session || holder.path != *path);
            if holders.is_empty() {
                self.holders.remove(&held.watch);
                metrics::WATCHES_HELD.down();
                self.remove(inotify, held.watch);
            }
        }
    }

    fn remove(&mut self, inotify: &Inotify, watch: WatchDescriptor) {
        self.removals += 1;
        // An error says that the directory is gone, and the watch with it.
        let _ = inotify.rm_watch(watch);
    }

    /// Tells the sessions what one event of the kernel means to them.
    pub fn heed(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            metrics::WATCH_CHANGES_LOST.up();
            return self.sessions.values_mut().for_each(SessionState::rescan);
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            return self.ignored(event.wd);
        }
        let Some(holders) = self.holders.get(&event.wd) else { return };
        let held: Vec<_> =
            holders.iter().map(|holder| (holder.session, holder.path.clone())).collect();
        for (session, dir) in held {
            match &event.name {
                Some(name) => self.heed_entry(session, &dir, name, event),
                None if event.mask.contains(AddWatchFlags::IN_MOVE_SELF) => {
                    self.base_moved(session, &dir);
                }
                None => {}
            }
        }
    }

    fn heed_entry(&mut self, session: u64, dir: &Path, name: &OsStr, event: &InotifyEvent) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if let Some(current) = state.current.as_mut().filter(|current| current.path == *dir) {
            current.touched.insert(name.to_owned());
        }
        let path = dir.join(name);
        self.hear(session, &path);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if event.mask.contains(AddWatchFlags::IN_CREATE) && state.is_announced(&path) {
            return;
        }
        let is_dir = event.mask.contains(AddWatchFlags::IN_ISDIR);
        let kind = ChangeKind::of(event.mask);
        state.tell_change(Change { kind, path: path.clone(), is_dir });
        if !is_dir {
            return;
        }
        if event.mask.contains(AddWatchFlags::IN_CREATE) {
            state.plan(path, true);
        } else if event.mask.contains(AddWatchFlags::IN_MOVED_FROM) {
            let watches = state.detach(&path);
            let (cookie, since) = (event.cookie, Instant::now());
            let is_replaced = false;
            self.moving.push(Moving { cookie, session, path, watches, since, is_replaced });
        } else if event.mask.contains(AddWatchFlags::IN_MOVED_TO) {
            self.moved_to(session, path, event.cookie);
        }
    }

    fn moved_to(&mut self, session: u64, new: PathBuf, cookie: u32) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let ours = |moving: &Moving| moving.session == session && moving.cookie == cookie;
        let Some(at) = self.moving.iter().position(ours) else { return state.plan(new, true) };
        let moved = self.moving.swap_remove(at);
        self.rename_polls(session, &moved.path, &new);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.move_scans(&moved.path, Some(&new));
        let mut over = Vec::new();
        for (old, held) in moved.watches {
            let Ok(rest) = old.strip_prefix(&moved.path) else { continue };
            let path = joined(&new, rest);
            let Some(holders) = self.holders.get_mut(&held.watch) else { continue };
            let is_old = |holder: &Holder| holder.session == session && holder.path == old;
            if state.held.get(&path).is_some_and(|there| there.watch == held.watch) {
                // A scan was here before this news.
                holders.retain(|holder| !is_old(holder));
                continue;
            }
            for holder in holders.iter_mut().filter(|holder| is_old(holder)) {
                holder.path.clone_from(&path);
            }
            let now = Held { round: state.round, ..held };
            if let Some(replaced) = state.held.insert(path.clone(), now) {
                over.push((path, replaced));
            }
        }
        // What was made in there before the first scan had come by is found now.
        if !state.held.contains_key(&new) {
            state.plan(new.clone(), true);
        }
        // What the rename has replaced is over, as if it had been moved away.
        if !over.is_empty() {
            let since = Instant::now();
            self.moving.push(Moving {
                cookie: 0,
                session,
                path: new,
                watches: over,
                since,
                is_replaced: true,
            });
        }
    }

    /// The directory is gone, or its file system.
    fn ignored(&mut self, watch: WatchDescriptor) {
        let Some(holders) = self.holders.remove(&watch) else { return };
        metrics::WATCHES_HELD.down();
        for Holder { session, path } in holders {
            let Some(state) = self.sessions.get_mut(&session) else { continue };
            if state.held.get(&path).is_some_and(|held| held.watch == watch) {
                state.held.remove(&path);
                if state.is_base(&path) {
                    state.tell(Note::BaseGone(path));
                }
            }
        }
    }

    /// A directory that a session was opened on is somewhere else now, and nobody says where.
    pub fn base_moved(&mut self, session: u64, path: &Path) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if !state.is_base(path) {
            return;
        }
        let watches = state.detach(path);
        state.move_scans(path, None);
        state.tell(Note::BaseGone(path.to_path_buf()));
        // As for a rename whose second half does not come.
        let (path, since) = (path.to_path_buf(), Instant::now());
        let is_replaced = false;
        self.moving.push(Moving { cookie: 0, session, path, watches, since, is_replaced });
    }
}
