//! The board under its lock, with the bells of those who wait for it: how a step is run and how what
//! it said is taken in. The lock covers a look at the board, never a job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::lanes::board::{Board, Pause, Queue};
use crate::lanes::pool::{self, Threads};
use crate::lanes::{Gauge, Job, LanesSetup, Next, Place, Pool, Resume};
use crate::limits::{LANE_PAUSE_MAX, POOL_START_RETRY};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::threads::{lock, unpoisoned};

pub(super) struct Shared {
    board: Mutex<Board>,
    /// One for each crew of the board.
    pub bells: Vec<Condvar>,
    pub clock: Condvar,
    /// A worker or the clock has ended.
    pub ended: Condvar,
    patient: Threads,
    files: Threads,
}

impl Shared {
    pub fn new(setup: &LanesSetup) -> Shared {
        let crews = setup.groups.iter().map(|group| (group.node, group.workers.max(1)));
        Shared {
            board: Mutex::new(Board::new(crews, setup.urgent_workers)),
            bells: (0..=setup.groups.len()).map(|_| Condvar::new()).collect(),
            clock: Condvar::new(),
            ended: Condvar::new(),
            patient: Threads::new(Pool::Patient, setup.patient_threads_max),
            files: Threads::new(Pool::Files, setup.files_threads_max),
        }
    }

    // ── steps ────────────────────────────────────────────────────────────────────────────────

    /// Runs one step of a lane; whatever it does, the lane goes on.
    pub fn run(&self, lane: TaskId, step: impl FnOnce() -> Next) -> Next {
        catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
            metrics::LANE_PANICS.up();
            let label = self.with(|board| board.label(lane)).unwrap_or("a step");
            log::error!("lane {lane}: {label} panicked; it counts as done");
            Next::Done
        })
    }

    /// Takes in what a step said and calls a worker if there is work for one.
    pub fn report(self: &Arc<Self>, lane: TaskId, next: Next) {
        if let Some(queue) = self.settle(lane, next) {
            self.ring(self.with(|board| board.call(queue)));
        }
    }

    /// Takes in what a step said. `Some` is a queue that has new work, for which nobody was called.
    pub fn settle(self: &Arc<Self>, lane: TaskId, next: Next) -> Option<Queue> {
        match next {
            Next::Done => self.with(|board| board.done(lane)),
            Next::Then(Place::Worker, job) => self.with(|board| board.go_on(lane, job)).ok(),
            Next::Then(Place::Patient, job) => self.go_long(Pool::Patient, lane, job),
            Next::Then(Place::Files, job) => self.go_long(Pool::Files, lane, job),
            Next::After(pause, job) => self.pause(lane, pause, job),
            Next::Park(hand_over) => {
                let resume = Resume { shared: Some(Arc::clone(self)), lane };
                // What the closure's end means is up to whoever holds the `Resume` now.
                self.run(lane, || {
                    hand_over(resume);
                    Next::Done
                });
                None
            }
        }
    }

    fn pause(&self, lane: TaskId, pause: Duration, job: Job) -> Option<Queue> {
        let until = Instant::now() + pause.min(LANE_PAUSE_MAX);
        match self.with(|board| board.pause(lane, until, job)).ok()? {
            Pause::CutShort(queue) => Some(queue),
            Pause::Asleep { first } => {
                if first {
                    self.clock.notify_one();
                }
                None
            }
        }
    }

    fn go_long(self: &Arc<Self>, pool: Pool, lane: TaskId, job: Job) -> Option<Queue> {
        match self.hand_over(pool, pool::Work::Step(lane, job)) {
            Err(pool::Work::Step(lane, job)) => {
                let again = Box::new(move || Next::Then(pool.into(), job));
                self.pause(lane, POOL_START_RETRY, again)
            }
            Ok(()) | Err(pool::Work::Stranger(_)) => None,
        }
    }

    // ── pools ────────────────────────────────────────────────────────────────────────────────

    /// Queues work for a pool; it comes back where [`Threads::push`] refuses it.
    pub fn hand_over(self: &Arc<Self>, pool: Pool, work: pool::Work) -> Result<(), pool::Work> {
        self.pool(pool).push(self, work)
    }

    pub fn pool(&self, pool: Pool) -> &Threads {
        match pool {
            Pool::Patient => &self.patient,
            Pool::Files => &self.files,
        }
    }

    // ── the whole ────────────────────────────────────────────────────────────────────────────

    pub fn gauge(&self) -> Gauge {
        let (patient, files) = (self.patient.gauge(), self.files.gauge());
        self.with(|board| board.gauge(patient, files))
    }

    /// Drops what waits, wakes who rests; running jobs end by themselves.
    pub fn stop(&self) {
        let lanes = self.with(Board::stop);
        self.bells.iter().chain([&self.clock]).for_each(Condvar::notify_all);
        let queues = (self.patient.stop(), self.files.stop());
        drop((lanes, queues));
    }

    /// Whether all threads have ended by `deadline`.
    pub fn join(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.ended.wait_timeout_while(self.board(), left, |board| board.threads() > 0);
        let workers_ended = unpoisoned(waited).0.threads() == 0;
        workers_ended && self.patient.join(deadline) && self.files.join(deadline)
    }

    pub fn ring(&self, crew: Option<usize>) {
        if let Some(crew) = crew {
            self.bells[crew].notify_one();
        }
    }

    /// The lock covers `look` only; what it returns is dropped outside.
    pub fn with<T>(&self, look: impl FnOnce(&mut Board) -> T) -> T {
        look(&mut self.board())
    }

    pub fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }
}
