//! The bounded queue before the workers. Two paces, so that urgent work finds a worker when all
//! ordinary ones are stuck. A worker with nothing to do *leans*: it waits at the connection it has
//! just answered, for as long as nobody else needs it. A job is handed to one worker by name and
//! that worker's bell rung, so that no wake-up is lost or spent on two.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use nix::sys::eventfd::{EfdFlags, EventFd};

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
    /// One per worker, rung when it was handed a job, and at the end.
    bells: Vec<EventFd>,
    reserved: usize,
    /// Jobs that wait, readable without the lock.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct State<J> {
    ordinary: VecDeque<J>,
    urgent: VecDeque<J>,
    // The last to rest is the first to be called: its caches are warm.
    idle: Vec<Worker>,
    idle_reserved: Vec<Worker>,
    leaning: Vec<Worker>,
    /// What a resting worker was handed.
    hands: Vec<Option<J>>,
    closed: bool,
}

impl<J> State<J> {
    /// A worker without work, out of its list.
    fn call(&mut self, lane: Lane) -> Option<Worker> {
        let idle = self.idle.pop().or_else(|| self.leaning.pop());
        match lane {
            Lane::Ordinary => idle,
            Lane::Urgent => idle.or_else(|| self.idle_reserved.pop()),
        }
    }
}

impl<J> Line<J> {
    /// A line before `workers`, the first `reserved` of which serve urgent jobs only.
    ///
    /// # Errors
    /// The operating system has no descriptors for the bells.
    pub fn new(workers: usize, reserved: usize) -> io::Result<Line<J>> {
        let state = State {
            ordinary: VecDeque::new(),
            urgent: VecDeque::new(),
            idle: Vec::with_capacity(workers),
            idle_reserved: Vec::with_capacity(reserved),
            leaning: Vec::with_capacity(workers),
            hands: (0..workers).map(|_| None).collect(),
            closed: false,
        };
        let bells = (0..workers).map(|_| EventFd::from_flags(EfdFlags::EFD_CLOEXEC));
        Ok(Line {
            state: Mutex::new(state),
            bells: bells.collect::<nix::Result<_>>()?,
            reserved,
            waiting: AtomicUsize::new(0),
        })
    }

    /// Hands `job` to a resting worker or lets it wait. It comes back when the line is full or
    /// closed.
    pub fn push(&self, job: J, lane: Lane) -> Result<(), J> {
        let mut state = self.state();
        if state.closed {
            return Err(job);
        }
        if let Some(worker) = state.call(lane) {
            state.hands[worker.0] = Some(job);
            drop(state);
            self.ring(worker);
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
        let mut job = state.urgent.pop_front();
        if job.is_none() && !self.is_reserved(worker) {
            job = state.ordinary.pop_front();
        }
        if job.is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return job;
        }
        if self.is_reserved(worker) {
            state.idle_reserved.push(worker);
        } else {
            state.idle.push(worker);
        }
        while !state.closed {
            drop(state);
            self.hear(worker);
            state = self.state();
            if let Some(job) = state.hands[worker.0].take() {
                return Some(job);
            }
        }
        state.hands[worker.0].take()
    }

    /// Lets `worker` wait elsewhere, with an eye on its [`bell`](Line::bell), if it is not needed.
    /// It must [`rise`](Line::rise) before anything else.
    pub fn lean(&self, worker: Worker) -> bool {
        let mut state = self.state();
        let needed = state.closed
            || self.is_reserved(worker)
            || !state.urgent.is_empty()
            || !state.ordinary.is_empty();
        if !needed {
            state.leaning.push(worker);
        }
        !needed
    }

    /// Readable when a leaning worker is needed.
    pub fn bell(&self, worker: Worker) -> BorrowedFd<'_> {
        self.bells[worker.0].as_fd()
    }

    /// Ends leaning, with the job that was handed over meanwhile.
    pub fn rise(&self, worker: Worker) -> Option<J> {
        let mut state = self.state();
        if let Some(at) = state.leaning.iter().position(|leaning| *leaning == worker) {
            state.leaning.swap_remove(at);
            return None;
        }
        let job = state.hands[worker.0].take();
        drop(state);
        self.hear(worker);
        job
    }

    /// Whether no job waits.
    pub fn is_quiet(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Whether `worker` is kept for urgent jobs.
    pub fn is_reserved(&self, worker: Worker) -> bool {
        worker.0 < self.reserved
    }

    /// Takes no more jobs. Those that wait are still done.
    pub fn close(&self) {
        self.state().closed = true;
        (0..self.bells.len()).for_each(|number| self.ring(Worker(number)));
    }

    fn ring(&self, worker: Worker) {
        if let Err(error) = self.bells[worker.0].write(1) {
            log::error!("worker {} can't be called: {error}", worker.0);
        }
    }

    /// Waits for the bell and silences it.
    fn hear(&self, worker: Worker) {
        while self.bells[worker.0].read() == Err(nix::Error::EINTR) {}
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
        Line::new(2, 1).unwrap()
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
    fn leaning_worker_is_called_when_it_is_needed_and_only_then() {
        let line = line();
        assert!(!line.lean(RESERVED));
        assert!(line.lean(ORDINARY));
        assert_eq!(line.rise(ORDINARY), None);
        assert!(line.lean(ORDINARY));
        line.push("list", Lane::Ordinary).unwrap();
        assert_eq!(line.rise(ORDINARY), Some("list"));
        line.push("next", Lane::Ordinary).unwrap();
        assert!(!line.lean(ORDINARY));
        assert_eq!(line.next(ORDINARY), Some("next"));
    }

    #[test]
    fn leaning_worker_rises_at_the_end() {
        let line = line();
        assert!(line.lean(ORDINARY));
        line.close();
        assert_eq!(line.rise(ORDINARY), None);
        assert!(!line.lean(ORDINARY));
        assert_eq!(line.next(ORDINARY), None);
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
