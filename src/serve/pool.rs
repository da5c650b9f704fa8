//! The workers: wait in the lobby for a connection that needs somebody, read its request, run the
//! row's handler, answer. Started by the server; a handler that panics costs its caller a 500 and
//! nobody else anything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::body::{self, Cut};
use super::call::Call;
use super::conn::Conn;
use super::desk::{Desk, Job};
use super::refusal::Refusal;
use super::reply::{After, Answer, Manner, Reply};
use super::route::{Pace, Route};
use super::{large, session, stream, upgrade};
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::metrics;

/// Works until the stop, on whatever connection needs somebody.
pub(super) fn work<C>(desk: &Arc<Desk>, routes: &'static [Route<C>], context: &Arc<C>) {
    // Only what is read is ever touched: for a usual request one page.
    let mut scratch = vec![0; HTTP_HEAD_BYTES_MAX];
    let mut attended = 0;
    loop {
        let job = match desk.line.take() {
            Some(job) => Some(job),
            None if desk.line.is_closed() => break,
            None => {
                if is_one_too_many(desk, attended) {
                    desk.line.bench();
                    desk.attending.fetch_add(1, Ordering::SeqCst);
                }
                let rested = desk.lobby.rest(|| !desk.line.is_empty() || desk.line.is_closed());
                attended = rested.attended;
                if rested.was_last {
                    desk.ask_for_help();
                }
                rested.seat.and_then(|seat| desk.attend(seat, &mut scratch))
            }
        };
        if let Some(job) = job {
            run_all(job, desk, routes, context);
        }
    }
    desk.workers.fetch_sub(1, Ordering::Relaxed);
}

/// Whether this worker goes to the bench, which it has left when this is true: there are as many
/// others as cores, and they are not stuck, for one of them has taken an event since this one did.
fn is_one_too_many(desk: &Desk, attended: u64) -> bool {
    let leave = |attending: usize| (attending > desk.attending_enough).then(|| attending - 1);
    desk.lobby.attended() != attended
        && desk.attending.fetch_update(Ordering::SeqCst, Ordering::SeqCst, leave).is_ok()
}

/// Works until the stop, on urgent requests that found no other worker.
pub(super) fn work_urgent<C>(desk: &Arc<Desk>, routes: &'static [Route<C>], context: &Arc<C>) {
    while let Some(job) = desk.line.take_urgent() {
        if let Some(conn) = run(job, desk, routes, context)
            && let Some(next) = desk.advance(conn, None)
        {
            desk.enqueue(next);
        }
    }
    desk.workers.fetch_sub(1, Ordering::Relaxed);
}

/// Runs one request, and those that the peer sent right behind it for as long as nobody waits.
fn run_all<C>(mut job: Job, desk: &Arc<Desk>, routes: &'static [Route<C>], context: &Arc<C>) {
    while let Some(conn) = run(job, desk, routes, context)
        && let Some(next) = desk.advance(conn, None)
    {
        if !desk.line.is_empty() {
            return desk.enqueue(next);
        }
        job = next;
    }
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
    let key = row.is_socket.then(|| upgrade::key(&request.head, &conn.read).map(str::to_owned));
    let large = match large::is_large(&request.head, row.body_bytes_max) {
        false => None,
        true => match desk.large_bodies.take(|| desk.stopping.load(Ordering::Relaxed)) {
            Some(large) => Some(large),
            None => {
                desk.refuse(conn, &Refusal::Busy, Manner { after: After::Linger, ..manner });
                return None;
            }
        },
    };
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
    let call = Call::new(bytes, *request, body, large, conn.peer);
    let answer = catch_unwind(AssertUnwindSafe(|| (routes[row.index].run)(context, call)));
    match answer {
        Ok(Answer::Now(reply)) => send(conn, &reply, manner, desk),
        Ok(Answer::Parked(parked)) => parked.seat(desk, conn, manner, parked_wait(row.pace, desk)),
        Ok(Answer::Session(session)) => {
            let Some(Ok(key)) = key else {
                log::error!("{} is no row of WebSockets", row.path);
                let reply = Refusal::Panicked.reply();
                return send(conn, &reply, Manner { after: After::Close, ..manner }, desk);
            };
            session::start(desk, conn, &key, session, manner);
            None
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
