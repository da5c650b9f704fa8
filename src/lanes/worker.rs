//! The loops of the threads that serve the board: workers, which run steps, and the clock, which
//! readies lanes whose pause is over. Both rest on a condition variable and cost nothing idle.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::lanes::board::{Board, Queue, Work};
use crate::lanes::shared::Shared;
use crate::lanes::{LanesSetup, OnFlag};
use crate::limits::STACK_BYTES;
use crate::model::ids::TaskId;
use crate::threads::{self, unpoisoned};

/// Starts all workers and the clock.
pub(super) fn start_all(
    shared: &Arc<Shared>,
    setup: LanesSetup,
    on_flag: &OnFlag,
) -> io::Result<()> {
    start(shared, "lane-clock".into(), keep_time)?;
    let urgent_crew = setup.groups.len();
    for (crew, group) in setup.groups.into_iter().enumerate() {
        for number in 0..group.workers.max(1) {
            let name = match group.node {
                Some(node) => format!("work-{node}-{number}"),
                None => format!("work-any-{number}"),
            };
            start_worker(shared, name, crew, group.cpus.clone(), on_flag)?;
        }
    }
    for number in 0..setup.urgent_workers {
        start_worker(shared, format!("work-urgent-{number}"), urgent_crew, Vec::new(), on_flag)?;
    }
    Ok(())
}

fn start_worker(
    shared: &Arc<Shared>,
    name: String,
    crew: usize,
    cpus: Vec<usize>,
    on_flag: &OnFlag,
) -> io::Result<()> {
    let on_flag = Arc::clone(on_flag);
    start(shared, name.clone(), move |shared| {
        // Locality is a gain, not a condition: an unpinned worker does the same work.
        if !cpus.is_empty()
            && let Err(error) = threads::pin(&cpus)
        {
            log::warn!("{name} stays unpinned: {error}");
        }
        work(shared, crew, &on_flag);
    })
}

fn start(
    shared: &Arc<Shared>,
    name: String,
    body: impl FnOnce(&Arc<Shared>) + Send + 'static,
) -> io::Result<()> {
    let present = Present::enter(shared);
    threads::spawn(name, STACK_BYTES, move || body(&present.0)).map(drop)
}

/// A thread that serves the board is counted from before it starts until it has ended, however.
struct Present(Arc<Shared>);

impl Present {
    fn enter(shared: &Arc<Shared>) -> Present {
        shared.with(Board::enter);
        Present(Arc::clone(shared))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.with(Board::leave);
        self.0.ended.notify_all();
    }
}

fn work(shared: &Arc<Shared>, crew: usize, on_flag: &OnFlag) {
    let mut owed = None;
    while let Some(Work { lane, job }) = next(shared, crew, owed) {
        let next = shared.run(lane, move || match job {
            Some(job) => job(),
            None => on_flag(lane),
        });
        owed = shared.settle(lane, next).map(|queue| (lane, queue));
    }
}

/// The next piece of work, however long that takes; `None` is the stop. `owed` is work that this
/// worker listed when it reported its last step: if it does not take that itself, it calls another.
fn next(shared: &Shared, crew: usize, owed: Option<(TaskId, Queue)>) -> Option<Work> {
    let mut board = shared.board();
    let mut work = if board.is_stopped() { None } else { board.take(crew) };
    if let Some((lane, queue)) = owed
        && work.as_ref().is_none_or(|work| work.lane != lane)
    {
        shared.ring(board.call(queue));
    }
    while work.is_none() && !board.is_stopped() {
        board.rest(crew);
        while !board.answer(crew) && !board.is_stopped() {
            board = unpoisoned(shared.bells[crew].wait(board));
        }
        work = board.take(crew);
    }
    work
}

fn keep_time(shared: &Arc<Shared>) {
    let mut board = shared.board();
    while !board.is_stopped() {
        let now = Instant::now();
        while let Some(queue) = board.wake_due(now) {
            shared.ring(board.call(queue));
        }
        board = match board.next_due() {
            None => unpoisoned(shared.clock.wait(board)),
            Some(due) => {
                let waited = shared.clock.wait_timeout(board, due.saturating_duration_since(now));
                unpoisoned(waited).0
            }
        };
    }
}
