//! A call that waits while somebody else works on it: the worker is free, the connection sits in
//! the lobby, and a responder in other hands will answer. The two meet here, in either order.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::conn::Conn;
use super::desk::Desk;
use super::large::LargeBody;
use super::lobby::{Seat, Stage, Token};
use super::refusal::Refusal;
use super::reply::{Manner, Reply};
use crate::threads::lock;

/// What a handler returns when it has parked its call. Only [`Call::park`](super::call::Call::park)
/// makes one.
#[derive(Debug)]
pub struct Parked {
    meeting: Arc<Meeting>,
    /// A deadline of the call's own, and what its caller is told then.
    late: Option<(Duration, Reply)>,
}

/// Answers a parked call, once. Dropped unused, it answers 503: a caller is never forgotten.
#[derive(Debug)]
pub struct Responder {
    meeting: Option<Arc<Meeting>>,
    /// Until the answer there is something in memory of a large body.
    _large: Option<LargeBody>,
}

#[derive(Default)]
struct Meeting {
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    /// The handler has not returned yet.
    #[default]
    Handling,
    /// The answer was there first.
    Answered(Reply),
    /// The connection was there first.
    Seated(Arc<Desk>, Token),
    Over,
}

pub(super) fn pair(
    late: Option<(Duration, Reply)>,
    large: Option<LargeBody>,
) -> (Parked, Responder) {
    let meeting = Arc::new(Meeting::default());
    (
        Parked { meeting: Arc::clone(&meeting), late },
        Responder { meeting: Some(meeting), _large: large },
    )
}

impl Parked {
    /// Seats the connection for `patience`, unless the call has a deadline of its own, or answers if
    /// the responder was faster; then the connection may come back for its next request.
    pub(super) fn seat(
        self,
        desk: &Arc<Desk>,
        conn: Box<Conn>,
        manner: Manner,
        patience: Duration,
    ) -> Option<Box<Conn>> {
        let (patience, late) = self.late.unwrap_or_else(|| (patience, Refusal::TimedOut.reply()));
        let (deadline, late) = (Instant::now() + patience, Box::new(late));
        let mut state = self.meeting.state();
        if let State::Answered(reply) = std::mem::replace(&mut *state, State::Over) {
            drop(state);
            let manner = desk.until_stop(manner);
            return desk.lobby.answer(conn, reply.encode(manner), manner.after);
        }
        // Under the lock: the responder must find the token, however fast it is.
        if let Some(token) = desk.lobby.seat(conn, Stage::Parked { manner, late }, deadline) {
            *state = State::Seated(Arc::clone(desk), token);
        }
        None
    }
}

impl Responder {
    /// Sends `reply`. Never blocks, and is no error when the caller has gone.
    pub fn respond(mut self, reply: Reply) {
        if let Some(meeting) = self.meeting.take() {
            meeting.answer(reply);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(meeting) = self.meeting.take() {
            meeting.answer(Refusal::Unanswered.reply());
        }
    }
}

impl Meeting {
    fn answer(&self, reply: Reply) {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Over) {
            State::Handling => *state = State::Answered(reply),
            State::Seated(desk, token) => {
                drop(state);
                let Some(Seat { conn, stage: Stage::Parked { manner, .. }, .. }) =
                    desk.lobby.take(token)
                else {
                    return;
                };
                desk.answer_parked(conn, reply, manner);
            }
            State::Answered(_) | State::Over => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meeting").finish_non_exhaustive()
    }
}
