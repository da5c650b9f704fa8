//! One word from the owner to all its threads: stop. Waiting on it is how a loop sleeps, and a
//! hook is how a thread that is blocked elsewhere (in `poll`, on a queue) is woken.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

type Hook = Box<dyn FnOnce() + Send>;

/// A stop flag shared by clones. Once raised it stays raised.
#[derive(Clone, Default)]
pub struct Stop {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    raised: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    hooks: Vec<Hook>,
}

impl Stop {
    /// A flag that nobody has raised yet.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Raises the flag, wakes every waiter and runs every hook once.
    pub fn raise(&self) {
        let hooks = {
            let mut state = self.state();
            state.stopped = true;
            std::mem::take(&mut state.hooks)
        };
        self.inner.raised.notify_all();
        for hook in hooks {
            hook();
        }
    }

    /// Whether the flag is up.
    pub fn is_raised(&self) -> bool {
        self.state().stopped
    }

    /// Sleeps for `pause`, or less if the flag goes up. True when it is up.
    pub fn wait(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.state();
        while !state.stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = match self.inner.raised.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        state.stopped
    }

    /// Runs `hook` when the flag goes up, or at once if it is up already.
    pub fn on_raise(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.stopped {
            drop(state);
            hook();
        } else {
            state.hooks.push(Box::new(hook));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("raised", &self.is_raised()).finish()
    }
}
