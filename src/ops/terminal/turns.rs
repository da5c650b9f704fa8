//! Turns at opening terminals: each takes some calls to the Engine and a look into the container, and
//! many at once would only take those places from everybody else. First come, first served.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::limits::{TERMINAL_TURN_LOOK, TERMINAL_TURN_PATIENCE, TERMINAL_TURNS_MAX};
use crate::ops::{Node, OpError};
use crate::threads::{lock, unpoisoned};

#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// Tickets of those who wait, in their order.
    waiting: VecDeque<u64>,
    tickets: u64,
}

/// A turn, as long as it lives.
pub(super) struct Turn(Arc<Node>);

impl Turn {
    /// Waits for one.
    ///
    /// # Errors
    /// None came in [`TERMINAL_TURN_PATIENCE`], or the runner stops.
    pub fn take(node: &Arc<Node>) -> Result<Turn, OpError> {
        let turns = &node.terminals.turns;
        let until = Instant::now() + TERMINAL_TURN_PATIENCE;
        let mut state = lock(&turns.state);
        let ticket = state.tickets;
        state.tickets += 1;
        state.waiting.push_back(ticket);
        let given = loop {
            if state.taken < TERMINAL_TURNS_MAX && state.waiting.front() == Some(&ticket) {
                state.taken += 1;
                break Ok(Turn(Arc::clone(node)));
            }
            if node.stop.is_raised() {
                break Err(OpError::Stopping);
            }
            if Instant::now() >= until {
                let what = "terminals being opened";
                break Err(OpError::Busy { what, max: TERMINAL_TURNS_MAX });
            }
            state = unpoisoned(turns.changed.wait_timeout(state, TERMINAL_TURN_LOOK)).0;
        };
        state.waiting.retain(|&waiting| waiting != ticket);
        // There may be one for the next too.
        turns.changed.notify_all();
        given
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let turns = &self.0.terminals.turns;
        lock(&turns.state).taken -= 1;
        turns.changed.notify_all();
    }
}
