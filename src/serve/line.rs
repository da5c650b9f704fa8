//! The bounded queue before the workers. Two paces, so that urgent work finds a worker when all
//! ordinary ones are stuck; the worker that rested last goes first, its caches still warm. A job is
//! handed to one worker by name, so that no wake-up is lost or spent on two.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::limits::HTTP_LINE_MAX;

/// Which line a job stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Ordinary,
    /// Also served by the reserved workers, and before the ordinary line.
    Urgent,
}

/// A worker's number, from 0; the reserved ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Worker(pub usize);

/// Jobs waiting for workers and workers waiting for jobs; never both.
#[derive(Debug)]
pub(super) struct Line<J> {
    state: Mutex<State<J>>,
    bells: Vec<Condvar>,
    reserved: usize,
    /// Jobs that wait, readable without the lock.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct State<J> {
    ordinary: VecDeque<J>,
    urgent: VecDeque<J>,
    idle_ordinary: Vec<Worker>,
    idle_reserved: Vec<Worker>,
    /// What an idle worker was given.
    hands: Vec<Option<J>>,
    closed: bool,
}

impl<J> Line<J> {
    /// A line before `workers`, the first `reserved` of which serve urgent jobs only.
    pub fn new(workers: usize, reserved: usize) -> Line<J> {
        let state = State {
            ordinary: VecDeque::new(),
            urgent: VecDeque::new(),
            idle_ordinary: Vec::with_capacity(workers),
            idle_reserved: Vec::with_capacity(reserved),
            hands: (0..workers).map(|_| None).collect(),
            closed: false,
        };
        Line {
            state: Mutex::new(state),
            bells: (0..workers).map(|_| Condvar::new()).collect(),
            reserved,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Gives `job` to an idle worker or lets it wait. It comes back when the line is full or closed.
    pub fn push(&self, job: J, lane: Lane) -> Result<(), J> {
        let mut state = self.state();
        if state.closed {
            return Err(job);
        }
        let idle = match (state.idle_ordinary.pop(), lane) {
            (None, Lane::Urgent) => state.idle_reserved.pop(),
            (idle, Lane::Ordinary | Lane::Urgent) => idle,
        };
        if let Some(worker) = idle {
            state.hands[worker.0] = Some(job);
            drop(state);
            self.bells[worker.0].notify_one();
            return Ok(());
        }
        let jobs = match lane {
            Lane::Ordinary => &mut state.ordinary,
            Lane::Urgent => &mut state.urgent,
        };
        if jobs.len() >= HTTP_LINE_MAX {
            return Err(job);
        }
        jobs.push_back(job);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The next job for `worker`, which waits for it. `None` when the line is closed and empty.
    pub fn next(&self, worker: Worker) -> Option<J> {
        let mut state = self.state();
        let ordinary = worker.0 >= self.reserved;
        let mut job = state.urgent.pop_front();
        if ordinary && job.is_none() {
            job = state.ordinary.pop_front();
        }
        if job.is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return job;
        }
        let idle = if ordinary { &mut state.idle_ordinary } else { &mut state.idle_reserved };
        idle.push(worker);
        loop {
            if let Some(job) = state.hands[worker.0].take() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.bells[worker.0].wait(state).unwrap_or_else(|poison| poison.into_inner());
        }
    }

    /// Whether no job waits.
    pub fn is_quiet(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Takes no more jobs. Those that wait are still done.
    pub fn close(&self) {
        self.state().closed = true;
        self.bells.iter().for_each(Condvar::notify_one);
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const RESERVED: Worker = Worker(0);
    const ORDINARY: Worker = Worker(1);

    fn line() -> Line<&'static str> {
        Line::new(2, 1)
    }

    #[test]
    fn urgent_job_overtakes_and_the_reserved_worker_takes_no_other() {
        let line = line();
        line.push("list", Lane::Ordinary).unwrap();
        line.push("kill", Lane::Urgent).unwrap();
        line.push("health", Lane::Urgent).unwrap();
        assert_eq!(line.next(RESERVED), Some("kill"));
        assert_eq!(line.next(ORDINARY), Some("health"));
        line.close();
        assert_eq!(line.next(RESERVED), None);
        assert_eq!(line.next(ORDINARY), Some("list"));
        assert_eq!(line.next(ORDINARY), None);
    }

    #[test]
    fn full_line_gives_the_job_back_and_the_other_one_is_open() {
        let line = line();
        for _ in 0..HTTP_LINE_MAX {
            line.push("list", Lane::Ordinary).unwrap();
        }
        assert_eq!(line.push("one more", Lane::Ordinary), Err("one more"));
        assert_eq!(line.push("kill", Lane::Urgent), Ok(()));
        assert!(!line.is_quiet());
    }

    #[test]
    fn closed_line_takes_nothing() {
        let line = line();
        line.close();
        assert_eq!(line.push("late", Lane::Urgent), Err("late"));
    }

    #[test]
    fn idle_workers_are_woken_with_a_job_each_and_by_the_end() {
        let line = line();
        let (first, second) = std::thread::scope(|scope| {
            let reserved = scope.spawn(|| (line.next(RESERVED), line.next(RESERVED)));
            let ordinary = scope.spawn(|| (line.next(ORDINARY), line.next(ORDINARY)));
            line.push("list", Lane::Ordinary).unwrap();
            while !line.is_quiet() {
                std::thread::yield_now();
            }
            line.push("kill", Lane::Urgent).unwrap();
            while !line.is_quiet() {
                std::thread::yield_now();
            }
            line.close();
            (reserved.join().unwrap(), ordinary.join().unwrap())
        });
        let mut done: Vec<_> =
            [first.0, first.1, second.0, second.1].into_iter().flatten().collect();
        done.sort_unstable();
        assert_eq!(done, ["kill", "list"]);
    }
}
