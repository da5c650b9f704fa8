//! Tells the service manager how we are while we live: a line of status, and the watchdog's sign of
//! life. Runs only if somebody wants to hear it.
//!
//! The sign is given while what only a new process could mend is whole: the door turns, and the
//! lanes' workers are not all stuck. An Engine, a host or a share that hangs is not our death.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::supervisor::Notices;
use crate::docker::EngineHealth;
use crate::lanes::Progress;
use crate::limits::{LANES_STUCK_AFTER, STACK_BYTES, SUPERVISOR_STATUS_EVERY};
use crate::ops::Node;
use crate::serve::Pulse;
use crate::stop::Stop;
use crate::threads;

/// Starts the thread. It ends with `stop`.
///
/// # Errors
/// The system refused the thread.
pub fn start(
    node: &Arc<Node>,
    door: Pulse,
    notices: Arc<Notices>,
    watchdog: Option<Duration>,
    stop: Stop,
) -> io::Result<JoinHandle<Option<()>>> {
    let node = Arc::downgrade(node);
    let every =
        watchdog.map_or(SUPERVISOR_STATUS_EVERY, |after| SUPERVISOR_STATUS_EVERY.min(after / 2));
    threads::spawn("pulse", STACK_BYTES, move || {
        let mut told = String::new();
        let mut door_turns = door.ask();
        let mut lanes = LanesLife::default();
        let mut lived = true;
        while !stop.wait(every) {
            let Some(node) = node.upgrade() else { return };
            let turned = door.ask();
            let lives = turned != door_turns && lanes.live(node.lanes.progress(), Instant::now());
            door_turns = turned;
            if lives != lived {
                lived = lives;
                let what = if lives { "goes on" } else { "is stuck" };
                log::error!("the runner {what}: door turns {turned}, {:?}", node.lanes.gauge());
            }
            notices.pay();
            let status = status(&node);
            let mut lines = String::new();
            if watchdog.is_some() && lives {
                lines.push_str("WATCHDOG=1\n");
            }
            if status != told {
                lines.push_str(&status);
            }
            if !lines.is_empty() && notices.say(&lines) {
                told = status;
            }
        }
    })
}

/// One line for `systemctl status`; nothing in it is asked of anybody now.
pub fn status(node: &Node) -> String {
    let engine = match node.engine.health() {
        EngineHealth::Ok { .. } => "answers",
        EngineHealth::Unknown => "not asked yet",
        EngineHealth::Unresponsive { .. } => "unresponsive",
        EngineHealth::Unreachable { .. } => "unreachable",
    };
    let host = match node.host.as_ref().map(|host| host.contact.state()) {
        None => "none",
        Some(contact) if contact.trouble.is_some() => "away",
        Some(contact) if contact.registered => "registered",
        Some(_) => "registering",
    };
    let (tasks, unsent) = (node.tasks.counts().active, node.outbox.waiting());
    format!("STATUS=tasks: {tasks}, unsent reports: {unsent}, host: {host}, Engine: {engine}")
}

/// Whether the lanes get on: not while every worker is at the same steps for longer than any step's
/// deadline allows.
#[derive(Default)]
struct LanesLife {
    steps: u64,
    since: Option<Instant>,
}

impl LanesLife {
    fn live(&mut self, progress: Progress, now: Instant) -> bool {
        let moved = progress.steps != self.steps;
        self.steps = progress.steps;
        if progress.workers > 0 && (moved || progress.idle > 0) {
            self.since = None;
            return true;
        }
        let since = *self.since.get_or_insert(now);
        now.duration_since(since) < LANES_STUCK_AFTER
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const STEP: Duration = Duration::from_secs(1);

    fn busy(steps: u64) -> Progress {
        Progress { workers: 4, idle: 0, steps }
    }

    #[test]
    fn lanes_whose_workers_all_hang_beyond_every_deadline_are_dead() {
        let (mut life, now) = (LanesLife::default(), Instant::now());
        assert!(life.live(busy(7), now));
        assert!(life.live(busy(7), now));
        assert!(life.live(busy(7), now + LANES_STUCK_AFTER - STEP));
        assert!(!life.live(busy(7), now + LANES_STUCK_AFTER));
        assert!(life.live(busy(8), now + LANES_STUCK_AFTER + STEP));
    }

    #[test]
    fn lanes_without_work_live_however_long() {
        let (mut life, now) = (LanesLife::default(), Instant::now());
        let idle = Progress { workers: 4, idle: 1, steps: 0 };
        assert!(life.live(idle, now));
        assert!(life.live(idle, now + 2 * LANES_STUCK_AFTER));
    }

    #[test]
    fn lanes_whose_workers_have_all_ended_are_dead() {
        let (mut life, now) = (LanesLife::default(), Instant::now());
        let none = Progress { workers: 0, idle: 0, steps: 3 };
        assert!(life.live(none, now));
        assert!(!life.live(none, now + LANES_STUCK_AFTER));
    }
}
