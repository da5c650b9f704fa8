//! Reads directories that are to be watched: adds the watch, then looks what is there, so that
//! nothing made meanwhile is lost. Runs in jobs of the caller's threads, one at a time for a
//! session, in slices; holds the lock for plain bookkeeping only.

use std::ffi::OsStr;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};
use nix::sys::stat::{SFlag, fstat, fstatat};

use super::session::Scan;
use super::state::Registered;
use super::{Inner, Why};
use crate::limits::{WATCH_ANNOUNCE_BATCH, WATCH_SCAN_SLICE};
use crate::machine::disk::{self, Kind};
use crate::machine::identity::Identity;
use crate::threads::lock;

impl Inner {
    /// Has a thread read the session's planned directories, unless one is at it.
    pub(super) fn scan_if_needed(self: &Arc<Self>, number: u64) {
        let run = {
            let mut state = lock(&self.state);
            let Some(session) = state.sessions.get_mut(&number) else { return };
            if session.scanning_since.is_some() || session.pending.is_empty() {
                return;
            }
            session.scanning_since = Some(Instant::now());
            Arc::clone(&session.run)
        };
        let (inner, again) = (Arc::clone(self), number);
        if !run(Box::new(move || inner.scan_slice(again))) {
            self.refuse(number);
        }
    }

    fn refuse(&self, number: u64) {
        let mut state = lock(&self.state);
        let Some(session) = state.sessions.get_mut(&number) else { return };
        session.scanning_since = None;
        for scan in mem::take(&mut session.pending) {
            match scan.only_watch {
                true => session.begin_one(),
                false => session.note_unwatched(scan.path, Why::Busy),
            }
        }
        session.tell_unwatched();
    }

    /// Reads directories until none is planned or the slice is over.
    fn scan_slice(self: &Arc<Self>, number: u64) {
        let Some(user) = self.user_of(number) else { return };
        match user.assume() {
            // Theirs is this only: a thread that is started meanwhile would have these rights for good.
            Ok(_as_user) => self.scan_for_a_while(number),
            Err(error) => {
                let error = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                if let Some(session) = lock(&self.state).sessions.get_mut(&number) {
                    session.fail(error);
                }
                return;
            }
        }
        {
            let mut state = lock(&self.state);
            let Some(session) = state.sessions.get_mut(&number) else { return };
            session.scanning_since = None;
            if session.pending.is_empty() {
                session.tell_unwatched();
                state.sweep(&self.inotify, number);
            }
        }
        self.scan_if_needed(number);
    }

    fn user_of(&self, number: u64) -> Option<Arc<Identity>> {
        lock(&self.state).sessions.get(&number).map(|session| Arc::clone(&session.user))
    }

    fn scan_for_a_while(&self, number: u64) {
        let begun = Instant::now();
        while begun.elapsed() < WATCH_SCAN_SLICE && self.take_up(number) {
            let outcome = self.scan_one(number);
            let mut state = lock(&self.state);
            let Some(session) = state.sessions.get_mut(&number) else { return };
            match (session.current.take(), outcome) {
                // It is tried again when it is read; what hinders it is told then.
                (Some(Scan { only_watch: true, .. }), _) => session.begin_one(),
                // It was deleted while it was read, which is told as a change.
                (Some(_), Err(Why::Refused(Errno::ENOENT))) => {}
                (Some(scan), Err(why)) => session.note_unwatched(scan.path, why),
                (Some(_), Ok(())) | (None, _) => {}
            }
        }
    }

    /// Makes the next planned directory the current one; false if there is none.
    fn take_up(&self, number: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(session) = state.sessions.get_mut(&number) else { return false };
        session.scanning_since = Some(Instant::now());
        session.current = session.pending.pop_front();
        session.current.is_some()
    }

    fn scan_one(&self, number: u64) -> Result<(), Why> {
        let Some((dir, is_base)) = self.open_current(number)? else { return Ok(()) };
        let system =
            |error: io::Error| Why::Refused(Errno::from_raw(error.raw_os_error().unwrap_or(0)));
        match disk::kind_of(&dir).map_err(system)? {
            Kind::Kernel if is_base => return Err(Why::KernelView),
            Kind::Kernel => return Ok(()),
            Kind::Network => self.poll_if_root(number, &dir, is_base).map_err(Why::Refused)?,
            Kind::Local | Kind::Memory => {}
        }
        let news = match self.add_watch(number, &dir)? {
            Registered::Over(why) => return Err(why),
            Registered::Gone => return Ok(()),
            Registered::New => true,
            Registered::Already => false,
        };
        if news && !is_base || self.is_whole(number) {
            self.read(number, dir, news).map_err(Why::Refused)?;
        }
        Ok(())
    }

    /// Has a directory polled where a network file system begins, as far as the session knows it.
    fn poll_if_root(&self, number: u64, dir: &OwnedFd, is_base: bool) -> Result<(), Errno> {
        let (path, above) = {
            let state = lock(&self.state);
            let current = state.sessions.get(&number).and_then(|session| session.current.as_ref());
            let Some(current) = current else { return Ok(()) };
            (current.path.clone(), current.device_above)
        };
        if is_base || above.is_some() && above != Some(fstat(dir)?.st_dev) {
            self.poll_for(number, &path, dir)?;
        }
        Ok(())
    }

    fn is_whole(&self, number: u64) -> bool {
        let state = lock(&self.state);
        let session = state.sessions.get(&number);
        session
            .and_then(|session| session.current.as_ref())
            .is_some_and(|scan| scan.whole && !scan.only_watch)
    }

    /// Opens the current directory below its base, through no symlink; none if it is gone.
    fn open_current(&self, number: u64) -> Result<Option<(OwnedFd, bool)>, Why> {
        let place = {
            let state = lock(&self.state);
            let Some(session) = state.sessions.get(&number) else { return Ok(None) };
            session.current.as_ref().and_then(|scan| session.place(&scan.path))
        };
        let Some((base, rest)) = place else { return Ok(None) };
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            );
        match openat2(&*base.fd, &rest, how) {
            Ok(dir) => Ok(Some((dir, rest == Path::new(".")))),
            // It was deleted, or replaced by something else, of which an event tells.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(error) => Err(Why::Refused(error)),
        }
    }

    /// Adds the watch without the lock (a dead share may hang here) and registers it under it.
    fn add_watch(&self, number: u64, dir: &OwnedFd) -> Result<Registered, Why> {
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR
            // What is done to a file that has no name any more concerns nobody.
            | AddWatchFlags::from_bits_retain(libc::IN_EXCL_UNLINK);
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        loop {
            let before = lock(&self.state).removals;
            let watch: WatchDescriptor =
                self.inotify.add_watch(path.as_str(), what).map_err(Why::Refused)?;
            let mut state = lock(&self.state);
            // Another session may have ended the watch that we were just given a share of.
            if state.is_held(watch) || state.removals == before {
                return Ok(state.register(&self.inotify, number, watch));
            }
        }
    }

    /// Plans the directories in `dir`; tells what is there if the directory is `news`.
    fn read(&self, number: u64, dir: OwnedFd, news: bool) -> Result<(), Errno> {
        let mut dir = Dir::from_fd(dir)?;
        let at = dir.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        let device = fstat(&at)?.st_dev;
        let mut batch = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let is_dir = match entry.file_type() {
                Some(kind) => kind == Type::Directory,
                None => is_directory(&at, name),
            };
            batch.push((PathBuf::from(name), is_dir));
            if batch.len() >= WATCH_ANNOUNCE_BATCH && !self.found(number, &mut batch, news, device)
            {
                return Ok(());
            }
        }
        self.found(number, &mut batch, news, device);
        Ok(())
    }

    /// Takes over what was found in the current directory; false if nobody wants to know any more.
    fn found(
        &self,
        number: u64,
        batch: &mut Vec<(PathBuf, bool)>,
        news: bool,
        device: u64,
    ) -> bool {
        let mut state = lock(&self.state);
        let Some(session) = state.sessions.get_mut(&number) else { return false };
        let Some(current) = &session.current else { return false };
        let (dir, announce, whole) = (current.path.clone(), current.announce, current.whole);
        let tell = announce && news;
        // What an event has told since the watch was added is known better than by reading.
        let fresh = |name: &PathBuf| !current.touched.contains(name.as_os_str());
        let found: Vec<_> =
            batch.drain(..).map(|(name, is_dir)| (fresh(&name), name, is_dir)).collect();
        for (fresh, name, is_dir) in found {
            let path = dir.join(name);
            if tell && fresh {
                session.announce(path.clone(), is_dir);
            }
            if is_dir {
                let device_above = Some(device);
                session.plan_found(Scan { announce, whole, device_above, ..Scan::of(path) });
            }
        }
        true
    }
}

fn is_directory(dir: &OwnedFd, name: &OsStr) -> bool {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}
