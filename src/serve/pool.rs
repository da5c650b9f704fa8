//! The workers: read what is left of a body, run the row's handler, answer, and stay with the
//! connection for as long as nobody else needs a worker. Started by the server; a handler that
//! panics costs its caller a 500 and nobody else anything.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::body::{self, Cut};
use super::call::Call;
use super::conn::{Conn, wait};
use super::desk::{Desk, Job};
use super::line::Worker;
use super::lobby::Stage;
use super::refusal::Refusal;
use super::reply::{After, Answer, Manner, Reply};
use super::route::{Pace, Route};
use super::stream;
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::metrics;

/// Works until the line is closed and empty.
pub(super) fn work<C>(
    worker: Worker,
    desk: &Arc<Desk>,
    routes: &'static [Route<C>],
    context: &Arc<C>,
) {
    // Only what is read is ever touched: for a usual request one page.
    let mut scratch = vec![0; HTTP_HEAD_BYTES_MAX];
    while let Some(mut job) = desk.line.next(worker) {
        while let Some(conn) = run(job, desk, routes, context) {
            match next_of(conn, desk, worker, &mut scratch) {
                Some(next) => job = next,
                None => break,
            }
        }
    }
    desk.workers.fetch_sub(1, Ordering::Relaxed);
}

/// Runs one request. The connection comes back if it may bring another.
fn run<C>(
    job: Job,
    desk: &Arc<Desk>,
    routes: &'static [Route<C>],
    context: &Arc<C>,
) -> Option<Box<Conn>> {
    let Job { mut conn, request } = job;
    let (row, manner) = (request.row, request.manner());
    let taken = body::take(&mut conn, &request.head, row.body_bytes_max, &desk.patience);
    let (bytes, body) = match taken {
        Ok(taken) => taken,
        Err(Cut::Refused(refusal)) => {
            desk.refuse(conn, &refusal, Manner { after: After::Linger, ..manner });
            return None;
        }
        Err(Cut::Gone) => return None,
    };
    metrics::HTTP_REQUESTS.up();
    let call = Call::new(bytes, *request, body, conn.peer);
    let answer = catch_unwind(AssertUnwindSafe(|| (routes[row.index].run)(context, call)));
    match answer {
        Ok(Answer::Now(reply)) => send(conn, &reply, manner, desk),
        Ok(Answer::Parked(parked)) => {
            parked.seat(desk, conn, manner, Instant::now() + parked_wait(row.pace, desk))
        }
        Ok(Answer::Stream(stream)) => {
            stream::start(desk, conn, stream, manner);
            None
        }
        Err(_) => {
            metrics::HTTP_PANICS.up();
            log::error!("the handler of {} panicked", row.path);
            let reply = Refusal::Panicked.reply();
            send(conn, &reply, Manner { after: After::Close, ..manner }, desk)
        }
    }
}

fn parked_wait(pace: Pace, desk: &Desk) -> Duration {
    match pace {
        Pace::Slow => desk.patience.parked_slow,
        Pace::Quick | Pace::Urgent => desk.patience.parked,
    }
}

/// Writes the answer; the deadline of a peer that does not read is the worker's, not the caller's.
fn send(conn: Box<Conn>, reply: &Reply, manner: Manner, desk: &Desk) -> Option<Box<Conn>> {
    let manner = desk.until_stop(manner);
    let sent = conn.socket.send_all(&reply.head(manner), reply.body(manner), &desk.patience);
    sent.ok()?;
    match manner.after {
        After::KeepAlive => Some(conn),
        // Bytes nobody read would turn the close into a reset.
        After::Close if conn.read.is_empty() => None,
        After::Close | After::Linger => desk.lobby.answer(conn, Vec::new(), After::Linger),
    }
}

/// What the worker does next, with the connection it has just answered in hand: the connection's
/// next request, or somebody else's.
fn next_of(mut conn: Box<Conn>, desk: &Desk, worker: Worker, scratch: &mut [u8]) -> Option<Job> {
    if conn.read.is_empty() && desk.line.lean(worker) {
        // A deadline this far needs no timer interrupt of its own, which a short one does: that
        // alone would cost a third of the throughput on a virtual machine.
        let end = Instant::now() + desk.patience.idle;
        let mut fds = [
            PollFd::new(conn.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(desk.line.bell(worker), PollFlags::POLLIN),
        ];
        let ready = wait(&mut fds, end);
        if let Some(job) = desk.line.rise(worker) {
            desk.lobby.seat(conn, Stage::Head, end);
            return Some(job);
        }
        if !ready.ok()? || conn.receive(scratch).ok()? == 0 {
            return None;
        }
    }
    let job = desk.advance(conn, None)?;
    if desk.line.is_reserved(worker) || !desk.line.is_quiet() {
        desk.enqueue(job);
        return None;
    }
    Some(job)
}
