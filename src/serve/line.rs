//! Requests that wait for a worker, in two bounded queues, so that urgent work is done when all
//! ordinary workers are stuck. Usually empty: a worker that rests takes requests from the lobby
//! itself, and the queues fill only when nobody rests. Beside it the bench, for workers that are
//! more than the machine has cores: each awake would only cost the others their turn.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::limits::HTTP_LINE_MAX;
use crate::threads::{lock, unpoisoned};

/// Which queue a job stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Ordinary,
    /// Also served by the reserved workers, and before the ordinary queue.
    Urgent,
}

/// The queues before the workers.
#[derive(Debug)]
pub(super) struct Line<J> {
    jobs: Mutex<Jobs<J>>,
    /// For the reserved workers.
    urgent: Condvar,
    /// For those on the bench.
    call: Condvar,
}

#[derive(Debug)]
struct Jobs<J> {
    ordinary: VecDeque<J>,
    urgent: VecDeque<J>,
    /// Workers on the bench, and calls that none of them has heard yet.
    benched: usize,
    calls: usize,
    /// Workers that wait here for either.
    resting: usize,
    closed: bool,
}

impl<J> Line<J> {
    /// A line in which nobody stands.
    pub fn new() -> Line<J> {
        let jobs = Jobs {
            ordinary: VecDeque::new(),
            urgent: VecDeque::new(),
            benched: 0,
            calls: 0,
            resting: 0,
            closed: false,
        };
        Line { jobs: Mutex::new(jobs), urgent: Condvar::new(), call: Condvar::new() }
    }

    /// Lets `job` wait. It comes back when its queue is full or the line closed.
    pub fn push(&self, job: J, lane: Lane) -> Result<(), J> {
        let mut jobs = self.jobs();
        let closed = jobs.closed;
        let queue = match lane {
            Lane::Ordinary => &mut jobs.ordinary,
            Lane::Urgent => &mut jobs.urgent,
        };
        if closed || queue.len() >= HTTP_LINE_MAX {
            return Err(job);
        }
        queue.push_back(job);
        drop(jobs);
        if lane == Lane::Urgent {
            self.urgent.notify_one();
        }
        Ok(())
    }

    /// The next job for an ordinary worker, if one waits.
    pub fn take(&self) -> Option<J> {
        let mut jobs = self.jobs();
        jobs.urgent.pop_front().or_else(|| jobs.ordinary.pop_front())
    }

    /// The next job for a reserved worker, which waits for it. `None` when the line is closed.
    pub fn take_urgent(&self) -> Option<J> {
        let mut jobs = self.jobs();
        loop {
            if let Some(job) = jobs.urgent.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            jobs.resting += 1;
            jobs = unpoisoned(self.urgent.wait(jobs));
            jobs.resting -= 1;
        }
    }

    /// Sits an ordinary worker on the bench until it is called or the line closes.
    pub fn bench(&self) {
        let mut jobs = self.jobs();
        jobs.benched += 1;
        while jobs.calls == 0 && !jobs.closed {
            jobs.resting += 1;
            jobs = unpoisoned(self.call.wait(jobs));
            jobs.resting -= 1;
        }
        jobs.calls = jobs.calls.saturating_sub(1);
    }

    /// Calls a worker from the bench. False if nobody sits there.
    pub fn call(&self) -> bool {
        let mut jobs = self.jobs();
        let somebody = jobs.benched > 0;
        if somebody {
            jobs.benched -= 1;
            jobs.calls += 1;
            self.call.notify_one();
        }
        somebody
    }

    /// How many workers wait here.
    pub fn resting(&self) -> usize {
        self.jobs().resting
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        let jobs = self.jobs();
        jobs.urgent.is_empty() && jobs.ordinary.is_empty()
    }

    /// Whether it takes no more jobs.
    pub fn is_closed(&self) -> bool {
        self.jobs().closed
    }

    /// Takes no more jobs. Those that wait are still done.
    pub fn close(&self) {
        self.jobs().closed = true;
        self.urgent.notify_all();
        self.call.notify_all();
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs<J>> {
        lock(&self.jobs)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn urgent_job_overtakes_and_the_reserved_worker_takes_no_other() {
        let line = Line::new();
        line.push("list", Lane::Ordinary).unwrap();
        line.push("kill", Lane::Urgent).unwrap();
        line.push("health", Lane::Urgent).unwrap();
        assert_eq!(line.take_urgent(), Some("kill"));
        assert_eq!(line.take(), Some("health"));
        line.close();
        assert_eq!(line.take_urgent(), None);
        assert_eq!(line.take(), Some("list"));
        assert!(line.is_empty());
    }

    #[test]
    fn full_queue_gives_the_job_back_and_the_other_one_is_open() {
        let line = Line::new();
        for _ in 0..HTTP_LINE_MAX {
            line.push("list", Lane::Ordinary).unwrap();
        }
        assert_eq!(line.push("one more", Lane::Ordinary), Err("one more"));
        assert_eq!(line.push("kill", Lane::Urgent), Ok(()));
    }

    #[test]
    fn closed_line_takes_nothing() {
        let line = Line::new();
        line.close();
        assert_eq!(line.push("late", Lane::Urgent), Err("late"));
    }

    #[test]
    fn benched_worker_is_called_once_and_by_the_end() {
        let line = Line::<()>::new();
        assert!(!line.call());
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| line.bench());
            while !line.call() {
                std::thread::yield_now();
            }
            worker.join().unwrap();
            assert!(!line.call());
            let worker = scope.spawn(|| line.bench());
            line.close();
            worker.join().unwrap();
        });
    }

    #[test]
    fn reserved_worker_is_woken_by_a_job_and_by_the_end() {
        let line = Line::new();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| (line.take_urgent(), line.take_urgent()));
            line.push("kill", Lane::Urgent).unwrap();
            while !line.is_empty() {
                std::thread::yield_now();
            }
            line.close();
            assert_eq!(worker.join().unwrap(), (Some("kill"), None));
        });
    }
}
