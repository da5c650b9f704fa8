//! The lanes as their users see them: real threads, small stories.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::*;
use crate::limits::{LANE_ORDERS_MAX, LANES_MAX, POOL_IDLE_END, POOL_WAITING_MAX};
use crate::threads;

/// No step of these tests takes longer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct House {
    lanes: Lanes,
    stop: Stop,
}

impl House {
    fn with(
        groups: Vec<Group>,
        urgent_workers: usize,
        on_flag: impl Fn(TaskId) -> Next + Send + Sync + 'static,
    ) -> House {
        let setup =
            LanesSetup { groups, urgent_workers, patient_threads_max: 3, files_threads_max: 2 };
        let stop = Stop::new();
        let lanes = Lanes::start(setup, Arc::new(on_flag), stop.clone()).unwrap();
        House { lanes, stop }
    }

    fn of_workers(workers: usize) -> House {
        House::with(vec![group(None, workers)], 1, |_| Next::Done)
    }

    fn post(&self, lane: u64, job: impl FnOnce() -> Next + Send + 'static) {
        self.lanes.post(id(lane), None, "test", Box::new(job)).unwrap();
    }

    /// Occupies one ordinary worker until the sender is dropped.
    fn block(&self, lane: u64) -> Sender<()> {
        let (open, gate) = bounded::<()>(0);
        let (started, begun) = bounded(1);
        self.post(lane, move || {
            started.send(()).unwrap();
            let _ = gate.recv();
            Next::Done
        });
        soon(&begun);
        open
    }

    fn settle(&self) {
        until(|| self.lanes.gauge().lanes == 0);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.raise();
        if !thread::panicking() {
            assert!(self.lanes.join(Instant::now() + PATIENCE), "{:?}", self.lanes.gauge());
            assert_eq!(self.lanes.gauge().lanes, 0);
        }
    }
}

fn group(node: Option<u16>, workers: usize) -> Group {
    Group { node, cpus: Vec::new(), workers }
}

fn id(raw: u64) -> TaskId {
    TaskId::try_from(raw).unwrap()
}

fn soon<T>(events: &Receiver<T>) -> T {
    events.recv_timeout(PATIENCE).unwrap()
}

fn until(holds: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "still not so");
        thread::sleep(Duration::from_millis(1));
    }
}

fn thread_name() -> String {
    thread::current().name().unwrap().to_owned()
}

fn say<T: Send + 'static>(to: &Sender<T>, what: T) -> impl FnOnce() -> Next + Send + use<T> {
    let to = to.clone();
    move || {
        to.send(what).unwrap();
        Next::Done
    }
}

// ── orders ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn orders_of_a_lane_run_in_order_and_one_at_a_time_under_contention() {
    let house = House::of_workers(4);
    let ran = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        for lane in 1..=6 {
            let (house, ran) = (&house, Arc::clone(&ran));
            scope.spawn(move || {
                let next_expected = Arc::new(AtomicU64::new(0));
                let inside = Arc::new(AtomicBool::new(false));
                for order in 0..500 {
                    let place = [Place::Worker, Place::Patient, Place::Files][order as usize % 3];
                    loop {
                        let (expected, inside) = (next_expected.clone(), inside.clone());
                        let ran = ran.clone();
                        let first = move || {
                            assert!(!inside.swap(true, SeqCst));
                            assert_eq!(expected.fetch_add(1, SeqCst), order);
                            let last = move || {
                                ran.fetch_add(1, SeqCst);
                                inside.store(false, SeqCst);
                                Next::Done
                            };
                            Next::Then(place, Box::new(last))
                        };
                        match house.lanes.post(id(lane), None, "count", Box::new(first)) {
                            Ok(()) => break,
                            Err(LaneRefused::Full) => thread::yield_now(),
                            Err(LaneRefused::Stopped) => panic!("nobody stopped"),
                        }
                    }
                }
            });
        }
    });
    house.settle();
    assert_eq!(ran.load(SeqCst), 3000);
}

#[test]
fn lane_takes_as_many_waiting_orders_as_its_bound_and_no_more() {
    let house = House::of_workers(1);
    let gate = house.block(1);
    for _ in 0..LANE_ORDERS_MAX {
        house.post(1, || Next::Done);
    }
    let refused = house.lanes.post(id(1), None, "one more", Box::new(|| Next::Done));
    assert_eq!(refused, Err(LaneRefused::Full));
    drop(gate);
    house.settle();
}

#[test]
fn lanes_are_bounded_for_orders_but_never_for_flags() {
    let (raised, flags) = unbounded();
    let house = House::with(vec![group(None, 1)], 1, move |lane| {
        raised.send(lane).unwrap();
        Next::Done
    });
    let gate = house.block(1);
    for lane in 2..=LANES_MAX as u64 {
        house.post(lane, || Next::Done);
    }
    let beyond = id(LANES_MAX as u64 + 1);
    let refused = house.lanes.post(beyond, None, "one more", Box::new(|| Next::Done));
    assert_eq!(refused, Err(LaneRefused::Full));
    house.lanes.raise(beyond);
    assert_eq!(soon(&flags), beyond);
    drop(gate);
    house.settle();
}

#[test]
fn orders_for_a_node_run_on_its_workers() {
    let house = House::with(vec![group(Some(0), 2), group(Some(3), 2)], 1, |_| Next::Done);
    let (tell, names) = unbounded();
    for lane in 1..=20 {
        let tell = tell.clone();
        let job = move || {
            tell.send(thread_name()).unwrap();
            let there = move || say(&tell, thread_name())();
            Next::After(Duration::from_millis(1), Box::new(there))
        };
        house.lanes.post(id(lane), Some(3), "where", Box::new(job)).unwrap();
    }
    let names: HashSet<String> = (0..40).map(|_| soon(&names)).collect();
    assert!(names.iter().all(|name| name.starts_with("work-3-")), "{names:?}");
}

#[test]
fn orders_for_no_node_or_an_unknown_one_run_where_a_worker_is_free() {
    let house = House::with(vec![group(Some(0), 1), group(Some(1), 1)], 0, |_| Next::Done);
    let (tell, names) = unbounded();
    let gate = house.block(1);
    house.lanes.post(id(2), Some(77), "where", Box::new(say(&tell, ()))).unwrap();
    house.lanes.post(id(3), None, "where", Box::new(say(&tell, ()))).unwrap();
    soon(&names);
    soon(&names);
    drop(gate);
}

#[test]
fn worker_is_pinned_to_its_groups_cpus_and_an_urgent_one_is_not() {
    let all = threads::affinity().unwrap();
    let last = *all.last().unwrap();
    let (tell, affinities) = unbounded();
    let flag_tell = tell.clone();
    let pinned = Group { node: Some(0), cpus: vec![last], workers: 1 };
    let house = House::with(vec![pinned], 1, move |_| {
        flag_tell.send((thread_name(), threads::affinity().unwrap())).unwrap();
        Next::Done
    });
    let (open, gate) = bounded::<()>(0);
    house.post(1, move || {
        tell.send((thread_name(), threads::affinity().unwrap())).unwrap();
        let _ = gate.recv();
        Next::Done
    });
    assert_eq!(soon(&affinities), ("work-0-0".to_owned(), vec![last]));
    house.lanes.raise(id(2));
    assert_eq!(soon(&affinities), ("work-urgent-0".to_owned(), all));
    drop(open);
}

#[test]
fn worker_whose_cpus_do_not_exist_works_unpinned() {
    let group = Group { node: Some(0), cpus: vec![1023], workers: 1 };
    let house = House::with(vec![group], 0, |_| Next::Done);
    let (tell, done) = unbounded();
    house.post(1, say(&tell, ()));
    soon(&done);
}

// ── flags ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn flag_runs_before_waiting_orders_and_once_however_often_raised() {
    let (tell, events) = unbounded();
    let flag_tell = tell.clone();
    let house = House::with(vec![group(None, 1)], 0, move |_| say(&flag_tell, "flag")());
    let gate = house.block(1);
    house.post(1, say(&tell, "first"));
    house.post(1, say(&tell, "second"));
    house.lanes.raise(id(1));
    house.lanes.raise(id(1));
    drop(gate);
    house.settle();
    let seen: Vec<&str> = events.try_iter().collect();
    assert_eq!(seen, ["flag", "first", "second"]);
}

#[test]
fn flag_of_a_lane_whose_order_waits_for_a_worker_takes_an_urgent_one() {
    let (tell, events) = unbounded();
    let flag_tell = tell.clone();
    let house = House::with(vec![group(None, 1)], 1, move |_| say(&flag_tell, "flag")());
    let gate = house.block(1);
    house.post(2, say(&tell, "order"));
    house.lanes.raise(id(2));
    assert_eq!(soon(&events), "flag");
    drop(gate);
    assert_eq!(soon(&events), "order");
}

#[test]
fn flag_raised_while_its_job_runs_runs_once_more() {
    let (begun, begins) = unbounded();
    let (open, gate) = unbounded::<()>();
    let house = House::with(vec![group(None, 2)], 1, move |_| {
        begun.send(()).unwrap();
        gate.recv().unwrap();
        Next::Done
    });
    house.lanes.raise(id(1));
    soon(&begins);
    house.lanes.raise(id(1));
    house.lanes.raise(id(1));
    open.send(()).unwrap();
    soon(&begins);
    open.send(()).unwrap();
    house.settle();
    assert!(begins.is_empty());
}

#[test]
fn flags_run_with_all_their_steps_while_every_ordinary_worker_hangs() {
    let (tell, names) = unbounded();
    let house = House::with(vec![group(Some(0), 8)], 2, move |_| {
        let tell = tell.clone();
        Next::Then(Place::Worker, Box::new(move || say(&tell, thread_name())()))
    });
    let gates: Vec<_> = (1..=8).map(|lane| house.block(lane)).collect();
    for lane in 9..=64 {
        house.post(lane, || Next::Done);
    }
    house.lanes.raise(id(64));
    assert!(soon(&names).starts_with("work-urgent-"));
    drop(gates);
    house.settle();
}

#[test]
fn raises_from_many_threads_are_never_lost() {
    const LANES: usize = 16;
    let written: Arc<[AtomicU64; LANES]> = Arc::default();
    let read: Arc<[AtomicU64; LANES]> = Arc::default();
    let runs = Arc::new(AtomicU64::new(0));
    let on_flag = {
        let (written, read, runs) = (written.clone(), read.clone(), runs.clone());
        move |lane: TaskId| {
            let lane = lane.get() as usize - 1;
            read[lane].store(written[lane].load(SeqCst), SeqCst);
            runs.fetch_add(1, SeqCst);
            let places = [Place::Worker, Place::Files, Place::Patient];
            match lane % 4 {
                3 => Next::After(Duration::from_micros(50), Box::new(|| Next::Done)),
                place => Next::Then(places[place], Box::new(|| Next::Done)),
            }
        }
    };
    let house = House::with(vec![group(Some(0), 2), group(Some(1), 1)], 1, on_flag);
    thread::scope(|scope| {
        for seed in 0..8 {
            let (house, written) = (&house, &written);
            scope.spawn(move || {
                for round in 0..2000 {
                    let lane = (seed * 7 + round) % LANES;
                    written[lane].fetch_add(1, SeqCst);
                    house.lanes.raise(id(lane as u64 + 1));
                    if round % 5 == 0 {
                        let _ = house.lanes.post(
                            id(lane as u64 + 1),
                            Some(seed as u16 % 3),
                            "between",
                            Box::new(|| Next::Done),
                        );
                    }
                }
            });
        }
    });
    house.settle();
    let value = |of: &[AtomicU64; LANES]| of.iter().map(|n| n.load(SeqCst)).collect::<Vec<_>>();
    assert_eq!(value(&read), value(&written));
    assert!(runs.load(SeqCst) <= 16_000);
}

// ── pauses ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn order_goes_on_after_its_pause_and_not_before() {
    let house = House::of_workers(1);
    let (tell, events) = unbounded();
    let began = Instant::now();
    house.post(1, move || Next::After(Duration::from_millis(60), Box::new(say(&tell, ()))));
    soon(&events);
    assert!(began.elapsed() >= Duration::from_millis(60));
}

#[test]
fn shorter_pause_that_begins_later_ends_first() {
    let house = House::of_workers(1);
    let (tell, events) = unbounded();
    let (long, short) = (say(&tell, "long"), say(&tell, "short"));
    house.post(1, move || Next::After(Duration::from_millis(300), Box::new(long)));
    house.post(2, move || Next::After(Duration::from_millis(30), Box::new(short)));
    assert_eq!(soon(&events), "short");
    assert_eq!(soon(&events), "long");
}

#[test]
fn raise_cuts_a_pause_short_and_the_flag_runs_when_the_order_is_done() {
    let (tell, events) = unbounded();
    let flag_tell = tell.clone();
    let house = House::with(vec![group(None, 1)], 0, move |_| say(&flag_tell, "flag")());
    let later = say(&tell, "later");
    house.post(1, move || Next::After(Duration::from_secs(600), Box::new(later)));
    until(|| house.lanes.gauge().lanes_asleep == 1);
    house.lanes.raise(id(1));
    assert_eq!(soon(&events), "later");
    assert_eq!(soon(&events), "flag");
    house.settle();
}

#[test]
fn raise_during_the_step_before_a_pause_cuts_that_pause_short_but_not_the_next() {
    let house = House::of_workers(1);
    let (begun, begins) = bounded(1);
    let (open, gate) = bounded::<()>(0);
    let (tell, events) = unbounded();
    house.post(1, move || {
        begun.send(()).unwrap();
        let _ = gate.recv();
        let again = move || {
            tell.send(()).unwrap();
            Next::After(Duration::from_secs(600), Box::new(|| Next::Done))
        };
        Next::After(Duration::from_secs(600), Box::new(again))
    });
    soon(&begins);
    house.lanes.raise(id(1));
    drop(open);
    soon(&events);
    until(|| house.lanes.gauge().lanes_asleep == 1);
}

// ── parking ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn parked_lane_holds_no_worker_and_goes_on_when_resumed() {
    let house = House::of_workers(1);
    let (tell, events) = unbounded();
    let (give, resumes) = bounded(1);
    house.post(1, move || Next::Park(Box::new(move |resume| give.send(resume).unwrap())));
    house.post(1, say(&tell, "next order"));
    let resume: Resume = soon(&resumes);
    house.post(2, say(&tell, "other lane"));
    assert_eq!(soon(&events), "other lane");
    resume.resume(Box::new(say(&tell, "resumed")));
    assert_eq!(soon(&events), "resumed");
    assert_eq!(soon(&events), "next order");
}

#[test]
fn lane_resumed_before_its_park_closure_returned_goes_on() {
    let house = House::of_workers(2);
    let (tell_closure, resumed) = unbounded();
    let (tell, events) = unbounded();
    house.post(1, move || {
        Next::Park(Box::new(move |resume| {
            resume.resume(Box::new(say(&tell_closure, ())));
            soon(&resumed);
            tell.send(()).unwrap();
        }))
    });
    soon(&events);
    house.settle();
}

#[test]
fn resume_that_is_dropped_ends_the_order_and_is_counted() {
    let house = House::of_workers(1);
    let (tell, events) = unbounded();
    let lost_before = metrics::LANE_LOST_RESUMES.get();
    house.post(1, || Next::Park(Box::new(drop)));
    house.post(1, say(&tell, ()));
    soon(&events);
    assert!(metrics::LANE_LOST_RESUMES.get() > lost_before);
}

#[test]
fn resume_after_the_stop_is_harmless() {
    let house = House::of_workers(1);
    let (give, resumes) = bounded(1);
    house.post(1, move || Next::Park(Box::new(move |resume| give.send(resume).unwrap())));
    let resume: Resume = soon(&resumes);
    house.stop.raise();
    resume.resume(Box::new(|| panic!("runs no more")));
}

// ── panics ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn panic_anywhere_in_an_order_ends_that_order_only() {
    let house = House::with(vec![group(None, 1)], 0, |_| panic!("flag, on purpose"));
    let (tell, events) = unbounded();
    let panics_before = metrics::LANE_PANICS.get();
    house.post(1, || panic!("order, on purpose"));
    house.post(1, || Next::Then(Place::Patient, Box::new(|| panic!("step, on purpose"))));
    house.post(1, || Next::Park(Box::new(|_resume| panic!("park, on purpose"))));
    house.lanes.raise(id(1));
    house.post(1, say(&tell, ()));
    soon(&events);
    assert!(metrics::LANE_PANICS.get() >= panics_before + 4);
}

#[test]
fn panic_in_work_of_no_lane_leaves_the_pool_at_work() {
    let house = House::of_workers(1);
    let (tell, events) = unbounded();
    house.lanes.submit(Pool::Files, Box::new(|| panic!("on purpose"))).unwrap();
    house.lanes.submit(Pool::Files, Box::new(move || tell.send(()).unwrap())).unwrap();
    soon(&events);
}

// ── pools ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn long_step_holds_its_lane_but_no_worker() {
    let house = House::of_workers(1);
    let (tell, events) = unbounded();
    let (open, gate) = bounded::<()>(0);
    let (name, names) = unbounded();
    house.post(1, move || {
        let long = move || {
            name.send(thread_name()).unwrap();
            let _ = gate.recv();
            Next::Done
        };
        Next::Then(Place::Patient, Box::new(long))
    });
    house.post(1, say(&tell, "same lane"));
    assert_eq!(soon(&names), "patient-0");
    house.post(2, say(&tell, "other lane"));
    assert_eq!(soon(&events), "other lane");
    drop(open);
    assert_eq!(soon(&events), "same lane");
}

#[test]
fn pool_grows_to_its_bound_and_shrinks_to_nothing_when_idle() {
    let house = House::of_workers(1);
    let (open, gate) = bounded::<()>(0);
    for _ in 0..10 {
        let gate = gate.clone();
        house.lanes.submit(Pool::Patient, Box::new(move || gate.recv().unwrap_or(()))).unwrap();
    }
    let full = PoolGauge { threads: 3, busy: 3, waiting: 7 };
    until(|| house.lanes.gauge().patient == full);
    drop(open);
    until(|| house.lanes.gauge().patient.busy == 0);
    thread::sleep(POOL_IDLE_END);
    until(|| house.lanes.gauge().patient == PoolGauge::default());
}

#[test]
fn idle_pool_thread_is_used_again() {
    let house = House::of_workers(1);
    let (tell, names) = unbounded();
    for _ in 0..20 {
        let tell = tell.clone();
        let work = move || tell.send(thread_name()).unwrap();
        house.lanes.submit(Pool::Files, Box::new(work)).unwrap();
        assert_eq!(soon(&names), "files-0");
        until(|| house.lanes.gauge().files.busy == 0);
    }
}

#[test]
fn pool_refuses_strangers_beyond_its_bound_but_takes_steps_of_lanes() {
    let house = House::of_workers(1);
    let (tell, events) = unbounded();
    let (open, gate) = bounded::<()>(0);
    let block = || {
        let gate = gate.clone();
        house.lanes.submit(Pool::Files, Box::new(move || gate.recv().unwrap_or(())))
    };
    block().unwrap();
    block().unwrap();
    until(|| house.lanes.gauge().files.waiting == 0);
    for _ in 0..POOL_WAITING_MAX {
        block().unwrap();
    }
    assert_eq!(block(), Err(PoolFull));
    house.post(1, move || Next::Then(Place::Files, Box::new(say(&tell, ()))));
    until(|| house.lanes.gauge().files.waiting == POOL_WAITING_MAX + 1);
    drop(open);
    soon(&events);
}

// ── the end ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn stop_lets_running_jobs_end_and_drops_those_that_wait() {
    let house = House::of_workers(1);
    let gate = house.block(1);
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Tally(Arc<AtomicUsize>);
    impl Drop for Tally {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let held = |tally: Tally| {
        move || {
            let _held = tally;
            panic!("runs no more")
        }
    };
    house.post(1, held(Tally(dropped.clone())));
    house.post(2, held(Tally(dropped.clone())));
    house.stop.raise();
    assert_eq!(dropped.load(SeqCst), 2);
    assert!(!house.lanes.join(Instant::now() + Duration::from_millis(30)));
    let late = house.lanes.post(id(3), None, "late", Box::new(|| Next::Done));
    assert_eq!(late, Err(LaneRefused::Stopped));
    assert_eq!(house.lanes.submit(Pool::Files, Box::new(|| ())), Err(PoolFull));
    house.lanes.raise(id(1));
    drop(gate);
}

#[test]
fn stop_with_sleepers_parked_lanes_and_busy_pools_ends_all_threads() {
    let house = House::of_workers(2);
    let (kept, parked) = bounded(1);
    let kept = Mutex::new(Some(kept));
    house.post(1, || Next::After(Duration::from_secs(600), Box::new(|| Next::Done)));
    house.post(2, move || {
        let kept = kept.lock().unwrap().take().unwrap();
        Next::Park(Box::new(move |resume| kept.send(resume).unwrap()))
    });
    let (begun, begins) = bounded(1);
    let (open, gate) = bounded::<()>(0);
    house.post(3, move || {
        let long = move || {
            begun.send(()).unwrap();
            let _ = gate.recv();
            Next::Then(Place::Files, Box::new(|| panic!("runs no more")))
        };
        Next::Then(Place::Patient, Box::new(long))
    });
    let _parked: Resume = soon(&parked);
    soon(&begins);
    until(|| house.lanes.gauge().lanes_asleep == 1);
    house.stop.raise();
    assert!(!house.lanes.join(Instant::now()));
    drop(open);
}

#[test]
fn lanes_without_a_group_do_not_start() {
    let setup = LanesSetup {
        groups: Vec::new(),
        urgent_workers: 1,
        patient_threads_max: 1,
        files_threads_max: 1,
    };
    let refused = Lanes::start(setup, Arc::new(|_| Next::Done), Stop::new());
    assert!(refused.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput));
}

#[test]
fn progress_tells_a_crew_that_is_stuck_from_one_that_works_or_rests() {
    let house = House::of_workers(1);
    until(|| house.lanes.progress() == Progress { workers: 2, idle: 2, steps: 0 });
    let gate = house.block(1);
    assert_eq!(house.lanes.progress(), Progress { workers: 2, idle: 1, steps: 1 });
    drop(gate);
    house.settle();
    until(|| house.lanes.progress() == Progress { workers: 2, idle: 2, steps: 1 });
}
