//! One lane per task: its orders run one at a time and in order, its flag before them (design laws
//! 4 and 5). A lane exists only while it has something; an idle task costs nothing here.
//!
//! ```text
//! post ──▶ orders ┐                      ┌─▶ Done ──▶ the flag, the next order, or no lane
//! raise ─▶ flag ──┴─▶ ready ─▶ a worker ─┼─▶ Then ──▶ ready, or a patient/files thread ─┐
//!                       ▲                ├─▶ After ─▶ asleep ─┐  (raise wakes it)       │
//!                       │                └─▶ Park ──▶ parked ─┤                         │
//!                       └─────────────────────────────────────┴─────────────────────────┘
//! ```
//!
//! Workers are pinned to their NUMA node and make quick calls only; `work-urgent-N` take nothing
//! but flags, so that a kill does not wait behind hanging creates. What a job does is the business
//! of whoever posts it: this room knows no task, Engine or host.

mod board;
mod pool;
mod shared;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics;
use crate::model::ids::TaskId;
use crate::stop::Stop;

pub use pool::PoolGauge;
use shared::Shared;

/// One step of an order. It says what comes next; a panic counts as `Done`.
pub type Job = Box<dyn FnOnce() -> Next + Send>;

/// What a lane does after a step.
pub enum Next {
    /// The order has ended.
    Done,
    /// The order goes on there; the lane stays busy, its worker does not.
    Then(Place, Job),
    /// The order goes on later, on a worker. A raise cuts the pause short.
    After(Duration, Job),
    /// The order goes on when somebody resumes it. The closure hands the [`Resume`] to whoever
    /// that is; it runs at once, on the thread of the step.
    Park(Box<dyn FnOnce(Resume) + Send>),
}

/// Where the next step of an order runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A worker of the order's NUMA node: quick calls only.
    Worker,
    /// A `patient-N` thread: one long call.
    Patient,
    /// A `files-N` thread: shared storage, or a container's files.
    Files,
}

/// Threads that also take work of no lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    Patient,
    Files,
}

/// Runs on a worker when a lane's flag is up and the lane is free.
pub type OnFlag = Arc<dyn Fn(TaskId) -> Next + Send + Sync>;

/// How many threads there are, and where.
#[derive(Clone, Debug)]
pub struct LanesSetup {
    pub groups: Vec<Group>,
    pub urgent_workers: usize,
    pub patient_threads_max: usize,
    pub files_threads_max: usize,
}

/// Workers that share their CPUs; at least one, whatever `workers` says.
#[derive(Clone, Debug)]
pub struct Group {
    /// Orders for this NUMA node run here. `None`: no order asks for this group by name.
    pub node: Option<u16>,
    /// Empty leaves the workers unpinned.
    pub cpus: Vec<usize>,
    pub workers: usize,
}

/// Why an order was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneRefused {
    /// The lane holds `LANE_ORDERS_MAX` orders, or there are `LANES_MAX` lanes.
    Full,
    Stopped,
}

/// As much work waits for the pool as may, or the runner stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFull;

/// Figures of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Lanes that have anything: waiting, running, asleep or parked.
    pub lanes: usize,
    pub lanes_asleep: usize,
    pub workers: usize,
    pub workers_busy: usize,
    /// Flags, and later steps of their jobs, that wait for a worker.
    pub flags_ready: usize,
    /// First orders of lanes, and later steps, that wait for a worker.
    pub orders_ready: usize,
    pub patient: PoolGauge,
    pub files: PoolGauge,
}

/// Whether the workers get on, by two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Workers that have not ended.
    pub workers: usize,
    /// Of them, those that wait for work.
    pub idle: usize,
    /// Pieces of work that were begun, ever.
    pub steps: u64,
}

/// All lanes of the runner; clones share them. They end by the [`Stop`] they were started with.
#[derive(Clone)]
pub struct Lanes {
    shared: Arc<Shared>,
}

impl Lanes {
    /// Starts the workers and the clock; pool threads come when there is work for them.
    ///
    /// # Errors
    /// There is no group, or the system refused a thread. Threads already started are ended.
    pub fn start(setup: LanesSetup, on_flag: OnFlag, stop: Stop) -> io::Result<Lanes> {
        if setup.groups.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "lanes need a worker group"));
        }
        let shared = Arc::new(Shared::new(&setup));
        worker::start_all(&shared, setup, &on_flag).inspect_err(|_| shared.stop())?;
        let stopping = Arc::clone(&shared);
        stop.on_raise(move || stopping.stop());
        Ok(Lanes { shared })
    }

    /// Appends an order to a task's lane, to run on `node`'s workers, or on any where there is no
    /// such group. `label` names it in the log.
    ///
    /// # Errors
    /// The lane or the set of lanes is full, or the runner stops; the job is dropped.
    pub fn post(
        &self,
        lane: TaskId,
        node: Option<u16>,
        label: &'static str,
        job: Job,
    ) -> Result<(), LaneRefused> {
        let posted = self.shared.with(|board| {
            let queue = board.post(lane, node, label, job)?;
            Ok(queue.and_then(|queue| board.call(queue)))
        });
        posted.map(|bell| self.shared.ring(bell)).map_err(|(refused, _job)| {
            metrics::LANE_REFUSALS.up();
            refused
        })
    }

    /// Puts a lane's flag up: `on_flag` runs once when the lane is free, before waiting orders. A
    /// flag that goes up while `on_flag` runs makes it run once more. A lane that sits in an
    /// [`After`](Next::After), or enters one on the word of a step that began before this call,
    /// goes on at once.
    ///
    /// Never fails or blocks, and is not bounded by `LANES_MAX`: flags are raised for tasks that
    /// have a record, and there is one flag per lane.
    pub fn raise(&self, lane: TaskId) {
        let bell = self.shared.with(|board| {
            let queue = board.raise(lane)?;
            board.call(queue)
        });
        self.shared.ring(bell);
    }

    /// Whether the lane has anything: an order that waits, runs, sleeps or is parked, or a flag.
    pub fn holds(&self, lane: TaskId) -> bool {
        self.shared.with(|board| board.holds(lane))
    }

    /// Runs work of no lane on a pool's thread.
    ///
    /// # Errors
    /// `POOL_WAITING_MAX` such works wait already, no thread can be started, or the runner stops.
    pub fn submit(&self, pool: Pool, job: Box<dyn FnOnce() + Send>) -> Result<(), PoolFull> {
        self.shared.hand_over(pool, pool::Work::Stranger(job)).map_err(|_job| {
            metrics::POOL_REFUSALS.up();
            PoolFull
        })
    }

    /// The figures now.
    pub fn gauge(&self) -> Gauge {
        self.shared.gauge()
    }

    /// How the workers get on.
    pub fn progress(&self) -> Progress {
        self.shared.with(|board| board.progress())
    }

    /// Waits, after the stop was raised, for running jobs to end. True if all threads have ended
    /// by `deadline`.
    pub fn join(&self, deadline: Instant) -> bool {
        self.shared.join(deadline)
    }
}

/// The right, and the duty, to let a parked lane go on. Dropped unused, the order counts as done.
pub struct Resume {
    /// `None` once used.
    shared: Option<Arc<Shared>>,
    lane: TaskId,
}

impl Resume {
    /// The order goes on with `job` on a worker. Any thread may call this, also before the closure
    /// of [`Next::Park`] has returned.
    pub fn resume(mut self, job: Job) {
        if let Some(shared) = self.shared.take() {
            shared.report(self.lane, Next::Then(Place::Worker, job));
        }
    }
}

impl Drop for Resume {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        if let Some(label) = shared.with(|board| board.label(self.lane)) {
            metrics::LANE_LOST_RESUMES.up();
            log::error!("lane {}: {label} parked and given up; it counts as done", self.lane);
        }
        shared.report(self.lane, Next::Done);
    }
}

impl From<Pool> for Place {
    fn from(pool: Pool) -> Place {
        match pool {
            Pool::Patient => Place::Patient,
            Pool::Files => Place::Files,
        }
    }
}

impl fmt::Display for LaneRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LaneRefused::Full => "too many orders wait",
            LaneRefused::Stopped => "the runner is stopping",
        })
    }
}

impl fmt::Display for PoolFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much work of this kind waits")
    }
}

impl std::error::Error for LaneRefused {}
impl std::error::Error for PoolFull {}

#[cfg(test)]
mod test;
