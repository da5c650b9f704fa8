//! What happened on this node lately: a ring that users follow by `/api/events` (design D15). Not a
//! record of truth; that is the state directory.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::limits::EVENTS_KEPT_MAX;
use crate::model::ids::TaskId;
use crate::model::time::Stamp;
use crate::threads::{lock, unpoisoned};

/// One thing that happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts from 1 since the runner's start.
    pub number: u64,
    pub at: Stamp,
    pub task: TaskId,
    /// `accepted`, `image_ready`, `created`, `started`, `paused`, `resumed`, `kill_wanted`, a final
    /// status, `reported`.
    pub what: &'static str,
}

/// The newest [`EVENTS_KEPT_MAX`] events.
#[derive(Debug, Default)]
pub struct EventLog {
    ring: Mutex<Ring>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    last: u64,
    closed: bool,
}

/// What a reader gets: the events after its cursor, and how many it has missed.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub missed: u64,
    pub events: Vec<Event>,
    /// The cursor for the next page.
    pub last: u64,
}

impl EventLog {
    /// Adds an event; the oldest falls out when the ring is full.
    pub fn note(&self, task: TaskId, what: &'static str) {
        let mut ring = lock(&self.ring);
        ring.last += 1;
        let event = Event { number: ring.last, at: Stamp::now(), task, what };
        if ring.events.len() == EVENTS_KEPT_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
        drop(ring);
        self.grown.notify_all();
    }

    /// Nobody waits here any more: the runner stops.
    pub fn close(&self) {
        lock(&self.ring).closed = true;
        self.grown.notify_all();
    }

    /// The events after number `since`, waiting up to `patience` for the first.
    pub fn since(&self, since: u64, patience: Duration) -> Page {
        let until = Instant::now() + patience;
        let mut ring = lock(&self.ring);
        // A cursor from before a restart is ahead of us: it has seen nothing of this run.
        let since = if since > ring.last { 0 } else { since };
        while ring.last <= since && !ring.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            ring = unpoisoned(self.grown.wait_timeout(ring, left)).0;
        }
        let oldest = ring.events.front().map_or(ring.last + 1, |event| event.number);
        Page {
            missed: oldest.saturating_sub(since + 1),
            events: ring.events.iter().filter(|event| event.number > since).copied().collect(),
            last: ring.last,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn id() -> TaskId {
        "7".parse().unwrap()
    }

    #[test]
    fn reader_gets_what_came_after_its_cursor() {
        let log = EventLog::default();
        log.note(id(), "accepted");
        log.note(id(), "started");
        let page = log.since(1, Duration::ZERO);
        assert_eq!((page.missed, page.last), (0, 2));
        assert_eq!(page.events[0].what, "started");
    }

    #[test]
    fn reader_that_was_overrun_learns_how_many_it_missed() {
        let log = EventLog::default();
        for _ in 0..EVENTS_KEPT_MAX + 5 {
            log.note(id(), "accepted");
        }
        let page = log.since(2, Duration::ZERO);
        assert_eq!((page.missed, page.events.len()), (3, EVENTS_KEPT_MAX));
    }

    #[test]
    fn cursor_of_an_earlier_run_starts_over() {
        let log = EventLog::default();
        log.note(id(), "accepted");
        assert_eq!(log.since(900, Duration::ZERO).events.len(), 1);
    }
}
