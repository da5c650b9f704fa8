//! The state of all lanes as a plain value: what each lane holds, which work is ready, who is idle.
//! No lock, thread or clock in here; `mod.rs` keeps it under one mutex and rings the bells it asks
//! for. Nothing is dropped in here either: a job may own a `Resume`, whose drop needs that mutex,
//! so refused jobs are handed back.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem;
use std::time::Instant;

use crate::lanes::{Gauge, Job, LaneRefused, PoolGauge, Progress};
use crate::limits::{LANE_ORDERS_MAX, LANES_MAX};
use crate::model::ids::TaskId;

pub(super) struct Board {
    lanes: HashMap<TaskId, Lane>,
    /// Lanes whose next piece of work may run, by queue and then by age.
    ready: BTreeMap<(Queue, Ticket), TaskId>,
    asleep: BTreeSet<(Instant, TaskId)>,
    /// The ordinary crews, then the urgent one.
    crews: Vec<Crew>,
    next_ticket: Ticket,
    /// Pieces of work that were taken, ever.
    steps: u64,
    /// Workers and the clock, as far as they have not ended.
    threads: usize,
    stopped: bool,
}

/// Given once to each order and each flag; a later step of the same order keeps it, so that work
/// begun goes before work waiting.
type Ticket = u64;

/// Who takes the work: any worker (urgent ones take nothing else), any ordinary one, one crew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Queue {
    Flags,
    Anywhere,
    Crew(usize),
}

/// Workers that share their CPUs.
struct Crew {
    node: Option<u16>,
    workers: usize,
    idle: usize,
    /// Idle workers that were rung for and have not woken yet; they are no longer counted idle.
    called: usize,
}

struct Lane {
    stage: Stage,
    /// What is listed or under way.
    course: Course,
    flag: bool,
    /// Raised since the step under way began.
    nudged: bool,
    orders: VecDeque<Order>,
}

#[derive(Clone, Copy)]
struct Course {
    queue: Queue,
    ticket: Ticket,
    label: &'static str,
}

struct Order {
    course: Course,
    job: Job,
}

enum Stage {
    /// Between orders; `course` is listed as ready.
    Between,
    /// Within an order whose next step is listed as ready.
    Ready(Job),
    /// On a thread, in a pool's queue, or parked.
    Busy,
    Asleep(Instant, Job),
}

/// A piece of work taken off the board; its lane is busy until it is reported back.
pub(super) struct Work {
    pub lane: TaskId,
    /// `None` is the flag's job.
    pub job: Option<Job>,
}

/// What became of a lane that wanted to pause.
pub(super) enum Pause {
    /// It is asleep; `first` if nobody wakes earlier, so that the clock must look again.
    Asleep { first: bool },
    /// It was nudged meanwhile and is ready again.
    CutShort(Queue),
}

impl Board {
    /// A board for these ordinary crews (node, workers) and one urgent crew after them.
    pub fn new(ordinary: impl Iterator<Item = (Option<u16>, usize)>, urgent: usize) -> Board {
        let crew = |(node, workers)| Crew { node, workers, idle: 0, called: 0 };
        Board {
            lanes: HashMap::new(),
            ready: BTreeMap::new(),
            asleep: BTreeSet::new(),
            crews: ordinary.chain([(None, urgent)]).map(crew).collect(),
            next_ticket: 0,
            steps: 0,
            threads: 0,
            stopped: false,
        }
    }

    /// Whether the lane exists, that is: has anything.
    pub fn holds(&self, id: TaskId) -> bool {
        self.lanes.contains_key(&id)
    }

    // ── work comes in ────────────────────────────────────────────────────────────────────────

    /// Appends an order. `Some` is a queue that has new work.
    pub fn post(
        &mut self,
        id: TaskId,
        node: Option<u16>,
        label: &'static str,
        job: Job,
    ) -> Result<Option<Queue>, (LaneRefused, Job)> {
        if self.stopped {
            return Err((LaneRefused::Stopped, job));
        }
        let full = match self.lanes.get(&id) {
            Some(lane) => lane.orders.len() >= LANE_ORDERS_MAX,
            None => self.lanes.len() >= LANES_MAX,
        };
        if full {
            return Err((LaneRefused::Full, job));
        }
        let ordinary = &self.crews[..self.urgent_crew()];
        let crew = node.and_then(|_| ordinary.iter().position(|crew| crew.node == node));
        let queue = crew.map_or(Queue::Anywhere, Queue::Crew);
        let course = Course { queue, ticket: self.ticket(), label };
        match self.lanes.get_mut(&id) {
            Some(lane) => {
                lane.orders.push_back(Order { course, job });
                Ok(None)
            }
            None => {
                let orders = VecDeque::from([Order { course, job }]);
                Ok(Some(self.open(id, Lane { orders, ..Lane::new(course) })))
            }
        }
    }

    /// Sets a lane's flag. `Some` is a queue that has new work.
    pub fn raise(&mut self, id: TaskId) -> Option<Queue> {
        if self.stopped {
            return None;
        }
        let course = Course { queue: Queue::Flags, ticket: self.ticket(), label: "flag" };
        let Some(lane) = self.lanes.get_mut(&id) else {
            return Some(self.open(id, Lane { flag: true, ..Lane::new(course) }));
        };
        let was_up = mem::replace(&mut lane.flag, true);
        match lane.stage {
            Stage::Between if was_up => None,
            Stage::Between => {
                let order = mem::replace(&mut lane.course, course);
                self.ready.remove(&(order.queue, order.ticket));
                Some(self.list(id, course))
            }
            Stage::Ready(_) => None,
            Stage::Busy => {
                lane.nudged = true;
                None
            }
            Stage::Asleep(until, _) => {
                self.asleep.remove(&(until, id));
                self.wake(id)
            }
        }
    }

    fn wake(&mut self, id: TaskId) -> Option<Queue> {
        let lane = self.lanes.get_mut(&id)?;
        if let Stage::Asleep(_, job) = mem::replace(&mut lane.stage, Stage::Busy) {
            lane.stage = Stage::Ready(job);
        }
        let course = lane.course;
        Some(self.list(id, course))
    }

    fn open(&mut self, id: TaskId, lane: Lane) -> Queue {
        let course = lane.course;
        self.lanes.insert(id, lane);
        self.list(id, course)
    }

    fn list(&mut self, id: TaskId, course: Course) -> Queue {
        self.ready.insert((course.queue, course.ticket), id);
        course.queue
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }

    // ── work goes out ────────────────────────────────────────────────────────────────────────

    /// The next piece of work for a worker of `crew`: flags first, then the oldest it may take.
    pub fn take(&mut self, crew: usize) -> Option<Work> {
        let slot = match self.first(Queue::Flags) {
            Some(slot) => slot,
            None if crew == self.urgent_crew() => return None,
            None => [self.first(Queue::Crew(crew)), self.first(Queue::Anywhere)]
                .into_iter()
                .flatten()
                .min_by_key(|&(_, ticket)| ticket)?,
        };
        let id = self.ready.remove(&slot)?;
        let lane = self.lanes.get_mut(&id)?;
        lane.nudged = false;
        self.steps += 1;
        let job = match mem::replace(&mut lane.stage, Stage::Busy) {
            Stage::Ready(job) => Some(job),
            Stage::Between | Stage::Busy | Stage::Asleep(..) => {
                let flag_was_up = mem::take(&mut lane.flag);
                if flag_was_up { None } else { Some(lane.orders.pop_front()?.job) }
            }
        };
        Some(Work { lane: id, job })
    }

    fn first(&self, queue: Queue) -> Option<(Queue, Ticket)> {
        self.ready.range((queue, 0)..=(queue, Ticket::MAX)).next().map(|(&slot, _)| slot)
    }

    // ── work is reported back ────────────────────────────────────────────────────────────────

    /// The order under way has ended: the lane goes on with its flag, its next order, or closes.
    pub fn done(&mut self, id: TaskId) -> Option<Queue> {
        let ticket = self.ticket();
        let lane = self.lanes.get_mut(&id)?;
        lane.stage = Stage::Between;
        if lane.flag {
            lane.course = Course { queue: Queue::Flags, ticket, label: "flag" };
        } else if let Some(order) = lane.orders.front() {
            lane.course = order.course;
        } else {
            self.close(id);
            return None;
        }
        let course = lane.course;
        Some(self.list(id, course))
    }

    /// A burst of lanes must not be remembered as memory for ever.
    fn close(&mut self, id: TaskId) {
        self.lanes.remove(&id);
        if self.lanes.capacity() > 64 && self.lanes.capacity() > 8 * self.lanes.len() {
            self.lanes.shrink_to(2 * self.lanes.len());
        }
    }

    /// The order under way goes on with `job` on a worker. The job comes back if all has stopped.
    pub fn go_on(&mut self, id: TaskId, job: Job) -> Result<Queue, Job> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Err(job) };
        lane.stage = Stage::Ready(job);
        let course = lane.course;
        Ok(self.list(id, course))
    }

    /// The order under way goes on with `job` at `until`, or at once if the lane was raised after
    /// the step that asked for the pause began: that step can't have seen why.
    pub fn pause(&mut self, id: TaskId, until: Instant, job: Job) -> Result<Pause, Job> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Err(job) };
        if lane.nudged {
            return self.go_on(id, job).map(Pause::CutShort);
        }
        lane.stage = Stage::Asleep(until, job);
        self.asleep.insert((until, id));
        Ok(Pause::Asleep { first: self.next_due() == Some(until) })
    }

    /// When the next sleeper wants to be woken.
    pub fn next_due(&self) -> Option<Instant> {
        self.asleep.first().map(|&(until, _)| until)
    }

    /// Readies one sleeper whose time has come. `Some` is a queue that has new work.
    pub fn wake_due(&mut self, now: Instant) -> Option<Queue> {
        let &(until, id) = self.asleep.first().filter(|&&(until, _)| until <= now)?;
        self.asleep.remove(&(until, id));
        self.wake(id)
    }

    // ── workers ──────────────────────────────────────────────────────────────────────────────

    /// Picks an idle worker for new work in `queue` and counts it as called; its crew's bell is to
    /// be rung. `None`: all who could are at work, and look here before they rest.
    pub fn call(&mut self, queue: Queue) -> Option<usize> {
        let urgent = self.urgent_crew();
        let crew = match queue {
            Queue::Crew(crew) => crew,
            Queue::Anywhere | Queue::Flags => {
                let most_idle = (0..urgent).max_by_key(|&crew| self.crews[crew].idle)?;
                let none_idle = self.crews[most_idle].idle == 0;
                if none_idle && queue == Queue::Flags { urgent } else { most_idle }
            }
        };
        let crew_called = &mut self.crews[crew];
        crew_called.idle = crew_called.idle.checked_sub(1)?;
        crew_called.called += 1;
        Some(crew)
    }

    /// A worker of `crew` found nothing to do.
    pub fn rest(&mut self, crew: usize) {
        self.crews[crew].idle += 1;
    }

    /// Whether a resting worker of `crew` is called; if so it is at work from now.
    pub fn answer(&mut self, crew: usize) -> bool {
        let crew = &mut self.crews[crew];
        let called = crew.called > 0;
        crew.called -= usize::from(called);
        called
    }

    fn urgent_crew(&self) -> usize {
        self.crews.len() - 1
    }

    /// One more thread serves this board.
    pub fn enter(&mut self) {
        self.threads += 1;
    }

    /// One fewer.
    pub fn leave(&mut self) {
        self.threads -= 1;
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    // ── the whole ────────────────────────────────────────────────────────────────────────────

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes nothing more and gives up all lanes, for the caller to drop.
    #[must_use]
    pub fn stop(&mut self) -> impl Sized + use<> {
        self.stopped = true;
        self.ready.clear();
        self.asleep.clear();
        mem::take(&mut self.lanes)
    }

    /// What a lane has listed or under way, if it exists.
    pub fn label(&self, id: TaskId) -> Option<&'static str> {
        self.lanes.get(&id).map(|lane| lane.course.label)
    }

    pub fn progress(&self) -> Progress {
        // One of the threads is the clock.
        let workers = self.threads.saturating_sub(1);
        let idle = self.crews.iter().map(|crew| crew.idle + crew.called).sum();
        Progress { workers, idle, steps: self.steps }
    }

    pub fn gauge(&self, patient: PoolGauge, files: PoolGauge) -> Gauge {
        let workers: usize = self.crews.iter().map(|crew| crew.workers).sum();
        let workers_idle: usize = self.crews.iter().map(|crew| crew.idle).sum();
        let flags_ready = self.ready.range(..(Queue::Anywhere, 0)).count();
        Gauge {
            lanes: self.lanes.len(),
            lanes_asleep: self.asleep.len(),
            workers,
            workers_busy: workers - workers_idle,
            flags_ready,
            orders_ready: self.ready.len() - flags_ready,
            patient,
            files,
        }
    }
}

impl Lane {
    fn new(course: Course) -> Lane {
        let orders = VecDeque::new();
        Lane { stage: Stage::Between, course, flag: false, nudged: false, orders }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::lanes::Next;

    const URGENT: usize = 2;

    fn board() -> Board {
        Board::new([(Some(0), 2), (Some(1), 1)].into_iter(), 1)
    }

    fn id(raw: u64) -> TaskId {
        TaskId::try_from(raw).unwrap()
    }

    fn post(board: &mut Board, lane: u64, node: Option<u16>) -> Option<Queue> {
        let posted = board.post(id(lane), node, "test", Box::new(|| Next::Done));
        posted.map_err(|(refused, _)| refused).unwrap()
    }

    fn taken(board: &mut Board, crew: usize) -> Option<(u64, bool)> {
        board.take(crew).map(|work| (work.lane.get(), work.job.is_none()))
    }

    #[test]
    fn order_for_a_node_is_taken_by_that_crew_only() {
        let mut board = board();
        assert_eq!(post(&mut board, 1, Some(1)), Some(Queue::Crew(1)));
        assert_eq!(taken(&mut board, 0), None);
        assert_eq!(taken(&mut board, URGENT), None);
        assert_eq!(taken(&mut board, 1), Some((1, false)));
    }

    #[test]
    fn oldest_order_goes_first_whether_for_the_crew_or_for_anybody() {
        let mut board = board();
        post(&mut board, 1, None);
        post(&mut board, 2, Some(0));
        post(&mut board, 3, None);
        assert_eq!(taken(&mut board, 0), Some((1, false)));
        assert_eq!(taken(&mut board, 0), Some((2, false)));
        assert_eq!(taken(&mut board, 0), Some((3, false)));
    }

    #[test]
    fn next_step_of_an_order_goes_before_younger_orders() {
        let mut board = board();
        post(&mut board, 1, Some(0));
        assert_eq!(taken(&mut board, 0), Some((1, false)));
        post(&mut board, 2, Some(0));
        assert!(board.go_on(id(1), Box::new(|| Next::Done)).is_ok());
        assert_eq!(taken(&mut board, 0), Some((1, false)));
    }

    #[test]
    fn order_overtaken_by_its_lanes_flag_keeps_its_place_among_lanes() {
        let mut board = board();
        post(&mut board, 1, Some(0));
        post(&mut board, 2, Some(0));
        assert_eq!(board.raise(id(1)), Some(Queue::Flags));
        assert_eq!(taken(&mut board, URGENT), Some((1, true)));
        board.done(id(1));
        assert_eq!(taken(&mut board, 0), Some((1, false)));
    }

    #[test]
    fn flag_calls_an_ordinary_worker_and_an_urgent_one_only_if_all_are_busy() {
        let mut board = board();
        board.rest(1);
        board.rest(URGENT);
        assert_eq!(board.call(Queue::Flags), Some(1));
        assert_eq!(board.call(Queue::Flags), Some(URGENT));
        assert_eq!(board.call(Queue::Flags), None);
    }

    #[test]
    fn order_never_calls_an_urgent_worker() {
        let mut board = board();
        board.rest(URGENT);
        assert_eq!(board.call(Queue::Anywhere), None);
        assert_eq!(board.call(Queue::Crew(0)), None);
    }

    #[test]
    fn called_worker_answers_once() {
        let mut board = board();
        board.rest(0);
        assert_eq!(board.call(Queue::Anywhere), Some(0));
        assert!(board.answer(0));
        assert!(!board.answer(0));
    }

    #[test]
    fn burst_of_lanes_leaves_no_memory_behind() {
        let mut board = board();
        for lane in 1..=2000 {
            post(&mut board, lane, None);
        }
        while let Some((lane, _)) = taken(&mut board, 0) {
            board.done(id(lane));
        }
        assert_eq!(board.gauge(PoolGauge::default(), PoolGauge::default()).lanes, 0);
        assert!(board.lanes.capacity() <= 64);
    }
}
