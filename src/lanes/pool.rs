//! Threads for work that may take long: they start on demand up to a bound, and end when idle.
//! A lane's step keeps its lane busy but no worker; the rest is work of no lane (API rows).

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use crate::lanes::shared::Shared;
use crate::lanes::{Job, Pool};
use crate::limits::{POOL_IDLE_END, POOL_WAITING_MAX, STACK_BYTES};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::threads::{self, lock, unpoisoned};

/// What a pool's thread does.
pub(super) enum Work {
    /// The next step of a lane's order.
    Step(TaskId, Job),
    /// Work of no lane.
    Stranger(Box<dyn FnOnce() + Send>),
}

pub(super) struct Threads {
    pool: Pool,
    threads_max: usize,
    state: Mutex<State>,
    bell: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Lane steps are here without a bound of their own: a lane has one step under way, and lanes
    /// are bounded.
    queue: VecDeque<Work>,
    /// How many of the queue are [`Work::Stranger`].
    strangers: usize,
    threads: usize,
    threads_started: u64,
    idle: usize,
    /// Idle threads that were rung for and have not woken yet; no longer counted idle.
    called: usize,
    stopped: bool,
}

/// A pool's part of [`Gauge`](crate::lanes::Gauge).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolGauge {
    pub threads: usize,
    pub busy: usize,
    pub waiting: usize,
}

impl Threads {
    /// None yet; at most `threads_max`, and at least one, when there is work.
    pub fn new(pool: Pool, threads_max: usize) -> Threads {
        Threads {
            pool,
            threads_max: threads_max.max(1),
            state: Mutex::default(),
            bell: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    /// Queues work. It comes back after the stop, if no thread runs and none can be started, or if
    /// it is of no lane and too much of that waits.
    pub fn push(&self, shared: &Arc<Shared>, work: Work) -> Result<(), Work> {
        let mut state = self.state();
        if state.stopped || (work.is_stranger() && state.strangers >= POOL_WAITING_MAX) {
            return Err(work);
        }
        if state.idle > 0 {
            state.idle -= 1;
            state.called += 1;
            self.bell.notify_one();
        } else if state.threads < self.threads_max
            && let Err(error) = self.start_thread(shared, &mut state)
        {
            log::error!("no more {} threads than {}: {error}", self.pool, state.threads);
            if state.threads == 0 {
                return Err(work);
            }
        }
        state.strangers += usize::from(work.is_stranger());
        state.queue.push_back(work);
        Ok(())
    }

    fn start_thread(&self, shared: &Arc<Shared>, state: &mut State) -> io::Result<()> {
        let (shared, pool) = (Arc::clone(shared), self.pool);
        let name = format!("{pool}-{}", state.threads_started);
        threads::spawn(name, STACK_BYTES, move || {
            while let Some(work) = shared.pool(pool).next() {
                match work {
                    Work::Step(lane, job) => shared.report(lane, shared.run(lane, job)),
                    Work::Stranger(job) => run_stranger(pool, job),
                }
            }
        })?;
        state.threads += 1;
        state.threads_started += 1;
        Ok(())
    }

    /// The next piece of work; `None` ends the thread, which is then no longer counted.
    fn next(&self) -> Option<Work> {
        let mut state = self.state();
        while !state.stopped {
            if let Some(work) = state.queue.pop_front() {
                state.strangers -= usize::from(work.is_stranger());
                return Some(work);
            }
            state.idle += 1;
            let at_rest = |state: &mut State| state.called == 0 && !state.stopped;
            let waited = self.bell.wait_timeout_while(state, POOL_IDLE_END, at_rest);
            state = unpoisoned(waited).0;
            if state.called == 0 {
                state.idle -= 1;
                break;
            }
            state.called -= 1;
        }
        state.threads -= 1;
        if state.threads == 0 {
            state.queue.shrink_to_fit();
        }
        self.ended.notify_all();
        None
    }

    /// Takes nothing more and gives up what waits, for the caller to drop.
    #[must_use]
    pub fn stop(&self) -> impl Sized + use<> {
        let mut state = self.state();
        state.stopped = true;
        state.strangers = 0;
        self.bell.notify_all();
        std::mem::take(&mut state.queue)
    }

    /// Whether all threads have ended by `deadline`.
    pub fn join(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.ended.wait_timeout_while(self.state(), left, |state| state.threads > 0);
        unpoisoned(waited).0.threads == 0
    }

    pub fn gauge(&self) -> PoolGauge {
        let state = self.state();
        let busy = state.threads - state.idle;
        PoolGauge { threads: state.threads, busy, waiting: state.queue.len() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn run_stranger(pool: Pool, job: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        metrics::LANE_PANICS.up();
        log::error!("work on a {pool} thread panicked");
    }
}

impl Work {
    fn is_stranger(&self) -> bool {
        matches!(self, Work::Stranger(_))
    }
}

impl fmt::Display for Pool {
    /// The first part of its threads' names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pool::Patient => "patient",
            Pool::Files => "files",
        })
    }
}
