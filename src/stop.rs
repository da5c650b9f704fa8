//! One word from the owner to all its threads: stop. Waiting on it is how a loop sleeps, and a
//! hook is how a thread that is blocked elsewhere (in `poll`, on a queue) is woken.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::threads::{lock, unpoisoned};

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
    hooks: Vec<(u64, Hook)>,
    hooks_made: u64,
}

/// A hook that is taken off again when this goes: see [`Stop::while_held`].
#[must_use = "dropping it takes the hook off at once"]
pub struct Hooked {
    stop: Stop,
    number: u64,
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
        for (_, hook) in hooks {
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
            state = unpoisoned(self.inner.raised.wait_timeout(state, left)).0;
        }
        state.stopped
    }

    /// Runs `hook` when the flag goes up, or at once if it is up already.
    pub fn on_raise(&self, hook: impl FnOnce() + Send + 'static) {
        self.hook(Box::new(hook));
    }

    /// As [`Stop::on_raise`], but only while the returned guard lives: for calls that are many and
    /// shorter than the flag. A raise that races with the guard's end may still run the hook.
    pub fn while_held(&self, hook: impl FnOnce() + Send + 'static) -> Hooked {
        Hooked { stop: self.clone(), number: self.hook(Box::new(hook)) }
    }

    fn hook(&self, hook: Hook) -> u64 {
        let mut state = self.state();
        let number = state.hooks_made;
        state.hooks_made += 1;
        if state.stopped {
            drop(state);
            hook();
        } else {
            state.hooks.push((number, hook));
        }
        number
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        self.stop.state().hooks.retain(|(number, _)| *number != self.number);
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("raised", &self.is_raised()).finish()
    }
}

#[cfg(test)]
mod test {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn light() -> (Arc<AtomicBool>, impl FnOnce() + Send + 'static) {
        let lit = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&lit);
        (lit, move || switch.store(true, Ordering::SeqCst))
    }

    #[test]
    fn a_held_hook_runs_when_the_flag_goes_up() {
        let (lit, hook) = light();
        let stop = Stop::new();
        let _held = stop.while_held(hook);
        stop.raise();
        assert!(lit.load(Ordering::SeqCst));
    }

    #[test]
    fn a_hook_that_is_let_go_runs_no_more_and_is_freed() {
        let (lit, hook) = light();
        let stop = Stop::new();
        drop(stop.while_held(hook));
        assert_eq!(Arc::strong_count(&lit), 1);
        stop.raise();
        assert!(!lit.load(Ordering::SeqCst));
    }
}
