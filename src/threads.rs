//! Named threads with small stacks. Every thread of the runner is started here, so that it has a
//! name an operator can read in `ps -T`, a counted panic and a stack size out of `limits`. And what
//! a panic leaves behind: locks that are none the worse for it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::metrics;

/// Starts a thread called `name` (the kernel shows the first 15 bytes) with `stack_bytes` of stack.
///
/// A panic in `body` ends that thread only; it is logged and counted, and `join` returns `None`.
///
/// # Errors
/// The operating system refused the thread (limits on processes or memory).
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    stack_bytes: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<Option<T>>> {
    let name = name.into();
    Builder::new().name(name.clone()).stack_size(stack_bytes).spawn(move || {
        metrics::THREADS_LIVE.up();
        let ended = catch_unwind(AssertUnwindSafe(body));
        metrics::THREADS_LIVE.down();
        if ended.is_err() {
            metrics::THREAD_PANICS.up();
            log::error!("thread {name} panicked");
        }
        ended.ok()
    })
}

/// Starts a thread for a loop that the runner can't do without: after a panic in `body` it rests and
/// begins anew. `rest` says whether the runner is stopping.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_kept(
    name: &'static str,
    stack_bytes: usize,
    rest: impl Fn() -> bool + Send + 'static,
    mut body: impl FnMut() + Send + 'static,
) -> io::Result<JoinHandle<Option<()>>> {
    spawn(name, stack_bytes, move || {
        while catch_unwind(AssertUnwindSafe(&mut body)).is_err() {
            metrics::THREAD_PANICS.up();
            log::error!("thread {name} panicked; it begins anew");
            if rest() {
                return;
            }
        }
    })
}

/// Locks `mutex`, whatever became of who held it before: see [`unpoisoned`].
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// What a lock or a wait gave, also after a panic under that lock. Our locks cover plain values and
/// a few lines each, so what is in there is still true; one panic must not end every thread.
pub fn unpoisoned<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// Binds the calling thread to `cpus`. Threads and processes it starts later inherit that.
///
/// # Errors
/// The kernel refused (no such CPU online, or outside our own cpuset), or a number is beyond the
/// 1024 that the system call's set holds here.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The CPUs the calling thread may run on, ascending.
///
/// # Errors
/// The kernel refused: it knows more CPUs than the 1024 that the set holds here.
pub fn affinity() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn kept_thread_begins_anew_after_a_panic() {
        let mut runs = 0;
        let (told, heard) = std::sync::mpsc::channel();
        let body = move || {
            runs += 1;
            told.send(runs).unwrap();
            assert!(runs > 2, "not yet");
        };
        let kept = spawn_kept("kept", 64 * 1024, || false, body).unwrap();
        kept.join().unwrap();
        assert_eq!(heard.iter().last(), Some(3));
    }

    #[test]
    fn pinned_thread_may_run_on_that_cpu_only() {
        let pinned = spawn("pin-one", 64 * 1024, || {
            let cpu = affinity().unwrap()[0];
            pin(&[cpu]).unwrap();
            (affinity().unwrap(), vec![cpu])
        });
        let (now, asked) = pinned.unwrap().join().unwrap().unwrap();
        assert_eq!(now, asked);
    }

    #[test]
    fn pin_to_no_cpu_or_to_one_beyond_the_set_is_an_error() {
        let before = affinity().unwrap();
        assert!(pin(&[]).is_err());
        assert!(pin(&[1024]).is_err());
        assert_eq!(affinity().unwrap(), before);
    }

    #[test]
    fn lock_that_a_panic_left_is_locked_all_the_same() {
        let figure = std::sync::Arc::new(Mutex::new(7));
        let held = std::sync::Arc::clone(&figure);
        let thread = spawn("doomed-holder", 64 * 1024, move || {
            let _held = lock(&held);
            panic!("on purpose");
        });
        assert_eq!(thread.unwrap().join().unwrap(), None::<()>);
        assert!(figure.is_poisoned());
        assert_eq!(*lock(&figure), 7);
    }

    #[test]
    fn panic_in_a_thread_is_no_result_and_is_counted() {
        let before = metrics::THREAD_PANICS.get();
        let thread = spawn("doomed", 64 * 1024, || panic!("on purpose")).unwrap();
        assert_eq!(thread.join().unwrap(), None::<()>);
        assert!(metrics::THREAD_PANICS.get() > before);
    }
}
