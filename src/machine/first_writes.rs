//! Sees the first byte of a task's output, for its phase times: one inotify instance and one thread
//! (`first-writes`) for all tasks.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::limits::STACK_BYTES;
use crate::model::ids::TaskId;
use crate::stop::Stop;
use crate::threads::{self, lock};

/// The files being watched.
#[derive(Clone, Debug)]
pub struct FirstWrites {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    inotify: Inotify,
    watches: Mutex<HashMap<WatchDescriptor, TaskId>>,
}

impl FirstWrites {
    /// Starts the thread; `seen` is called with each task one of whose files was written or
    /// truncated. That file is not watched any more then.
    ///
    /// # Errors
    /// No inotify instance or thread was to be had.
    pub fn start(seen: impl Fn(TaskId) + Send + 'static, stop: &Stop) -> io::Result<FirstWrites> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let inner = Arc::new(Inner { inotify, watches: Mutex::default() });
        let watched = Arc::clone(&inner);
        let (woken, stopped) = (Arc::clone(&wake), stop.clone());
        threads::spawn("first-writes", STACK_BYTES, move || {
            while !stopped.is_raised() {
                let mut fds = [
                    PollFd::new(watched.inotify.as_fd(), PollFlags::POLLIN),
                    PollFd::new(woken.as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => watched.tell(&seen),
                    Err(error) => return log::error!("first-writes: {error}"),
                }
            }
        })?;
        stop.on_raise(move || {
            let _ = wake.write(1);
        });
        Ok(FirstWrites { inner })
    }

    /// Watches each of `files` for its next change. May block on a hung file system: call it
    /// on a files thread. A watch that can't be had costs the phase time and nothing else.
    pub fn watch(&self, task: TaskId, files: &[&Path]) {
        for file in files {
            let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
            // Not under the lock: `forget` runs on lanes, which a hung share must not hold.
            match self.inner.inotify.add_watch(*file, flags) {
                Ok(watch) => {
                    self.inner.lock().insert(watch, task);
                }
                Err(error) => log::debug!("watch {}: {error}", file.display()),
            }
        }
    }

    /// Ends what is left of a task's watches.
    pub fn forget(&self, task: TaskId) {
        let mut watches = self.inner.lock();
        watches.retain(|watch, of| {
            if *of == task {
                let _ = self.inner.inotify.rm_watch(*watch);
            }
            *of != task
        });
    }
}

impl Inner {
    fn tell(&self, seen: &impl Fn(TaskId)) {
        let Ok(events) = self.inotify.read_events() else { return };
        for event in events.iter().filter(|event| event.mask.contains(AddWatchFlags::IN_MODIFY)) {
            let task = self.lock().remove(&event.wd);
            if let Some(task) = task {
                seen(task);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, TaskId>> {
        lock(&self.watches)
    }
}
