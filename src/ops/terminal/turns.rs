//! Turns at opening terminals: each takes some calls to the Engine and a look into the container, and
//! many at once would only take those places from everybody else.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::limits::{TERMINAL_TURN_LOOK, TERMINAL_TURN_PATIENCE, TERMINAL_TURNS_MAX};
use crate::ops::{Node, OpError};
use crate::threads::{lock, unpoisoned};

#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<usize>,
    given_back: Condvar,
}

/// A turn, as long as it lives.
pub(super) struct Turn(Arc<Node>);

impl Turn {
    /// Waits for one.
    ///
    /// # Errors
    /// None came free in [`TERMINAL_TURN_PATIENCE`], or the runner stops.
    pub fn take(node: &Arc<Node>) -> Result<Turn, OpError> {
        let turns = &node.terminals.turns;
        let until = Instant::now() + TERMINAL_TURN_PATIENCE;
        let mut taken = lock(&turns.taken);
        while *taken >= TERMINAL_TURNS_MAX {
            if node.stop.is_raised() {
                return Err(OpError::Stopping);
            }
            if Instant::now() >= until {
                return Err(OpError::Busy {
                    what: "terminals being opened",
                    max: TERMINAL_TURNS_MAX,
                });
            }
            taken = unpoisoned(turns.given_back.wait_timeout(taken, TERMINAL_TURN_LOOK)).0;
        }
        *taken += 1;
        Ok(Turn(Arc::clone(node)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let turns = &self.0.terminals.turns;
        *lock(&turns.taken) -= 1;
        turns.given_back.notify_one();
    }
}
