//! Tells the host what became of its tasks (design law 6). Holds ids only: the reports lie in the
//! records, and a report is over when the host has answered it. Started by `app`; `ops` says what
//! to send and what an answer means.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::Level;

use super::{Host, HostError, Verdict};
use crate::limits::{
    OUTBOX_BACKOFF_FIRST, OUTBOX_BACKOFF_MAX, OUTBOX_FRESH_MAX, OUTBOX_LAST_TRY, PANIC_REST,
    STACK_BYTES,
};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::task::Report;
use crate::stop::Stop;
use crate::threads::{self, lock, unpoisoned};
use crate::wire::host::Update;

/// Tasks with something unsent. Setting the mark cannot fail or block, and is bounded by the tasks.
#[derive(Debug, Default)]
pub struct Outbox {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Due {
    /// The newest [`OUTBOX_FRESH_MAX`].
    fresh: VecDeque<TaskId>,
    /// All others, oldest first.
    backlog: VecDeque<TaskId>,
    marked: HashSet<TaskId>,
    /// The two take turns: neither a day without a host nor a busy hour holds up the other.
    backlog_is_next: bool,
    /// The host has just answered something: a pause for its sake is over.
    nudged: bool,
    stopping: bool,
}

/// Where a task waited for its turn.
#[derive(Clone, Copy)]
enum Queue {
    Fresh,
    Backlog,
}

/// What `ops` hands down: the next report of a task, whether it is that still, and what to do with
/// the host's answer.
pub struct Ledger {
    pub next: Box<dyn Fn(TaskId) -> Option<(Report, Update)> + Send>,
    pub still_due: StillDue,
    pub settle: Box<dyn Fn(TaskId, Report, Verdict) + Send>,
}

/// Whether this is still the next report of the task.
type StillDue = Box<dyn Fn(TaskId, &Report) -> bool + Send>;

impl Outbox {
    /// `id` has something unsent.
    pub fn notify(&self, id: TaskId) {
        if self.lock().mark(id, Queue::Fresh) {
            self.changed.notify_one();
        }
    }

    /// These have had something unsent for long, the first for longest.
    pub fn remind(&self, ids: &[TaskId]) {
        for id in ids {
            self.lock().mark(*id, Queue::Backlog);
        }
        self.changed.notify_one();
    }

    /// The host answers again: end a pause that was for its sake.
    pub fn nudge(&self) {
        self.lock().nudged = true;
        self.changed.notify_one();
    }

    /// Tasks with something unsent, now.
    pub fn waiting(&self) -> usize {
        self.lock().marked.len()
    }

    /// Starts the `outbox` thread.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        self: &Arc<Outbox>,
        host: Arc<Host>,
        ledger: Ledger,
        stop: &Stop,
    ) -> io::Result<JoinHandle<Option<()>>> {
        let waking = Arc::clone(self);
        stop.on_raise(move || {
            waking.lock().stopping = true;
            waking.changed.notify_one();
        });
        let outbox = Arc::clone(self);
        let stop = stop.clone();
        let rest = move || stop.wait(PANIC_REST);
        threads::spawn_kept("outbox", STACK_BYTES, rest, move || outbox.run(&host, &ledger))
    }

    fn run(&self, host: &Host, ledger: &Ledger) {
        let mut backoff = OUTBOX_BACKOFF_FIRST;
        let mut last_try_until = None;
        while let Some((id, queue)) = self.take() {
            if self.lock().stopping {
                // One last try for what is due: what stays is in the records.
                let until = *last_try_until.get_or_insert_with(|| Instant::now() + OUTBOX_LAST_TRY);
                if Instant::now() >= until {
                    return;
                }
            }
            let Some((report, update)) = (ledger.next)(id) else { continue };
            match host.update(&update, &|| (ledger.still_due)(id, &report)) {
                Ok(verdict) => {
                    backoff = OUTBOX_BACKOFF_FIRST;
                    metrics::REPORTS_ANSWERED.up();
                    (ledger.settle)(id, report, verdict);
                    // It may have more; asking again is cheap and can't be forgotten.
                    self.notify(id);
                }
                // Whatever took its place has its own mark.
                Err(HostError::Withdrawn) => {}
                Err(error) => {
                    // The first of an outage only; a host may be away for a weekend.
                    let is_first = backoff == OUTBOX_BACKOFF_FIRST;
                    let level = if is_first { Level::Warn } else { Level::Debug };
                    log::log!(level, "task {id}: {} not told: {error}", update.status);
                    // To the back: a report that the host chokes on must not hold up the others.
                    self.lock().mark(id, queue);
                    if self.pause(backoff) {
                        return;
                    }
                    backoff = (backoff * 2).min(OUTBOX_BACKOFF_MAX);
                }
            }
        }
    }

    /// The next task that is due; `None` when stopping with nothing left.
    fn take(&self) -> Option<(TaskId, Queue)> {
        let mut due = self.lock();
        loop {
            if let Some(taken) = due.take() {
                return Some(taken);
            }
            if due.stopping {
                return None;
            }
            due = unpoisoned(self.changed.wait(due));
        }
    }

    /// Waits for the host's sake; true when stopping.
    fn pause(&self, backoff: Duration) -> bool {
        let until = Instant::now() + backoff;
        let mut due = self.lock();
        due.nudged = false;
        while !due.stopping && !due.nudged {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            due = unpoisoned(self.changed.wait_timeout(due, left)).0;
        }
        due.stopping
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        lock(&self.due)
    }
}

impl Due {
    /// False if it is marked already.
    fn mark(&mut self, id: TaskId, queue: Queue) -> bool {
        if !self.marked.insert(id) {
            return false;
        }
        match queue {
            Queue::Fresh => self.fresh.push_back(id),
            Queue::Backlog => self.backlog.push_back(id),
        }
        if self.fresh.len() > OUTBOX_FRESH_MAX {
            self.backlog.extend(self.fresh.pop_front());
        }
        true
    }

    fn take(&mut self) -> Option<(TaskId, Queue)> {
        self.backlog_is_next = !self.backlog_is_next;
        let fresh = |due: &mut Due| Some((due.fresh.pop_front()?, Queue::Fresh));
        let backlog = |due: &mut Due| Some((due.backlog.pop_front()?, Queue::Backlog));
        let taken = if self.backlog_is_next {
            fresh(self).or_else(|| backlog(self))
        } else {
            backlog(self).or_else(|| fresh(self))
        }?;
        self.marked.remove(&taken.0);
        if self.marked.is_empty() {
            // A long backlog must not be remembered as memory for ever.
            self.marked.shrink_to(OUTBOX_FRESH_MAX);
            self.backlog.shrink_to(OUTBOX_FRESH_MAX);
        }
        Some(taken)
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger")
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn id(number: u64) -> TaskId {
        TaskId::try_from(number).unwrap()
    }

    /// The order in which marked tasks get their turn.
    fn turns(due: &mut Due) -> Vec<u64> {
        std::iter::from_fn(|| due.take()).map(|(id, _)| id.get()).collect()
    }

    #[test]
    fn tasks_take_turns_in_the_order_in_which_they_were_marked() {
        let mut due = Due::default();
        for number in [3, 1, 2, 1] {
            due.mark(id(number), Queue::Fresh);
        }
        assert_eq!(turns(&mut due), [3, 1, 2]);
    }

    #[test]
    fn new_report_waits_for_one_of_the_backlog_only() {
        let mut due = Due::default();
        for number in 1..=5 {
            due.mark(id(number), Queue::Backlog);
        }
        due.mark(id(100), Queue::Fresh);
        due.mark(id(101), Queue::Fresh);
        assert_eq!(turns(&mut due), [100, 1, 101, 2, 3, 4, 5]);
    }

    #[test]
    fn oldest_of_many_marked_tasks_become_the_backlog() {
        let mut due = Due::default();
        for number in 1..=(OUTBOX_FRESH_MAX as u64 + 2) {
            due.mark(id(number), Queue::Fresh);
        }
        assert_eq!(due.backlog, [id(1), id(2)]);
        assert_eq!(due.fresh.len(), OUTBOX_FRESH_MAX);
        assert_eq!(turns(&mut due).len(), OUTBOX_FRESH_MAX + 2);
    }
}
