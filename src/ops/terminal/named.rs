//! Terminals that come back: a peer that gives its session a name finds the shell again when it has
//! gone and returns. One thread has the terminal at a time: the peer's while there is one, else one
//! that reads its output and waits. Whoever wants it asks, and is given it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::history::History;
use super::shell::check;
use super::{Said, Terminal, open};
use crate::limits::{
    STACK_BYTES, TERMINAL_GRACE, TERMINAL_NAME_CHARS_MAX, TERMINAL_READS_A_TURN,
    TERMINAL_TAKE_OVER_PATIENCE, TERMINALS_KEPT_MAX,
};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::ops::{Node, OpError};
use crate::threads::{self, lock, unpoisoned};

/// The name of a session, given by a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

/// A text that is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAName;

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Name, NotAName> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let fits = (1..=TERMINAL_NAME_CHARS_MAX).contains(&text.len());
        if fits && text.bytes().all(is_plain) { Ok(Name(text.to_owned())) } else { Err(NotAName) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name means something within its task.
pub(super) type Key = (TaskId, Name);

/// Where a named terminal changes hands.
#[derive(Debug)]
pub(super) struct Place {
    /// Rings when somebody asks, and when the runner stops.
    bell: EventFd,
    hand: Mutex<Hand>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Hand {
    askers: usize,
    /// For one of the askers, who is there: it is not left here.
    given: Option<Box<Terminal>>,
    is_over: bool,
}

enum Taken {
    Terminal(Box<Terminal>),
    Over,
    Late,
}

impl Place {
    pub fn new() -> io::Result<Place> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Place { bell, hand: Mutex::default(), changed: Condvar::new() })
    }

    pub fn ring(&self) {
        // It fails when nobody has heard 2^64 rings.
        let _ = self.bell.write(1);
    }

    /// Asks whoever has the terminal for it.
    fn take(&self, until: Instant) -> Taken {
        let mut hand = lock(&self.hand);
        hand.askers += 1;
        self.ring();
        let taken = loop {
            if let Some(terminal) = hand.given.take() {
                break Taken::Terminal(terminal);
            }
            let left = until.saturating_duration_since(Instant::now());
            if hand.is_over {
                break Taken::Over;
            }
            if left.is_zero() {
                break Taken::Late;
            }
            hand = unpoisoned(self.changed.wait_timeout(hand, left)).0;
        };
        hand.askers -= 1;
        if hand.askers > 0 {
            self.ring();
        }
        taken
    }
}

/// The right to have the named terminal. It is over when this goes, unless it was given on.
#[derive(Debug)]
pub struct Seat {
    node: Arc<Node>,
    key: Key,
    place: Arc<Place>,
    is_given_on: bool,
}

impl Seat {
    /// Whether somebody else wants the terminal. Its descriptor is readable when it is time to ask.
    pub fn is_wanted(&self) -> bool {
        let _ = self.place.bell.read();
        lock(&self.place.hand).askers > 0
    }
}

impl AsFd for Seat {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.place.bell.as_fd()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.is_given_on {
            return;
        }
        self.node.terminals.forget(&self.key, &self.place);
        lock(&self.place.hand).is_over = true;
        self.place.changed.notify_all();
    }
}

/// A named terminal, had by its one owner.
#[derive(Debug)]
pub struct Named {
    /// Before the seat: whoever opens the name anew does it when the shell has ended.
    pub terminal: Box<Terminal>,
    pub seat: Seat,
}

/// What is replayed to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The byte of the session's output that `text` begins with.
    pub offset: u64,
    pub text: String,
}

impl Named {
    /// Opens the session of this name, or takes it from whoever has it.
    ///
    /// # Errors
    /// As [`open`]; or whoever has it does not give it away.
    pub fn attach(node: &Arc<Node>, id: TaskId, name: &Name) -> Result<Named, OpError> {
        check(node, id)?;
        let until = Instant::now() + TERMINAL_TAKE_OVER_PATIENCE;
        let key = (id, name.clone());
        loop {
            let (place, is_new) = node.terminals.place(&key).map_err(OpError::NoSession)?;
            let seat = |place| Seat {
                node: Arc::clone(node),
                key: key.clone(),
                place,
                is_given_on: false,
            };
            if is_new {
                let seat = seat(place);
                let mut terminal = open(node, id)?;
                terminal.history = Some(History::default());
                return Ok(Named { terminal: Box::new(terminal), seat });
            }
            match place.take(until) {
                Taken::Terminal(terminal) => return Ok(Named { terminal, seat: seat(place) }),
                Taken::Over => {}
                Taken::Late => {
                    let after = TERMINAL_TAKE_OVER_PATIENCE;
                    return Err(OpError::TimedOut { what: "whoever has the session", after });
                }
            }
        }
    }

    /// What was said from byte `offset` on, as far as it is kept.
    pub fn replay(&mut self, offset: u64) -> Replay {
        let (offset, text) = self.terminal.said_since(offset);
        Replay { offset, text }
    }

    /// Gives it to whoever has asked. It comes back if nobody waits any more.
    pub fn give_on(self) -> Option<Named> {
        let Named { terminal, mut seat } = self;
        let mut hand = lock(&seat.place.hand);
        if hand.askers == 0 {
            drop(hand);
            return Some(Named { terminal, seat });
        }
        hand.given = Some(terminal);
        drop(hand);
        seat.place.changed.notify_all();
        seat.is_given_on = true;
        None
    }

    /// Keeps it for [`TERMINAL_GRACE`] for whoever comes back.
    pub fn keep(self) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Some(kept) = Kept::of(&self.seat.node) else {
            log::warn!("{TERMINALS_KEPT_MAX} terminals wait for their peers; one more ends");
            return;
        };
        let name = format!("term-kept-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let started = threads::spawn(name, STACK_BYTES, move || {
            wait_for_peer(self);
            drop(kept);
        });
        if let Err(error) = started {
            log::warn!("no thread to keep a terminal: {error}");
        }
    }
}

/// One of the terminals without a peer.
struct Kept(Arc<Node>);

impl Kept {
    fn of(node: &Arc<Node>) -> Option<Kept> {
        metrics::TERMINALS_KEPT.up();
        let kept = Kept(Arc::clone(node));
        (node.terminals.one_more_kept() <= TERMINALS_KEPT_MAX).then_some(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.terminals.one_less_kept();
        metrics::TERMINALS_KEPT.down();
    }
}

/// Reads what the shell says, which goes into its history, until somebody asks for the terminal.
fn wait_for_peer(mut named: Named) {
    let until = Instant::now() + TERMINAL_GRACE;
    let node = Arc::clone(&named.seat.node);
    loop {
        if node.stop.is_raised() {
            return;
        }
        if named.seat.is_wanted() {
            match named.give_on() {
                None => return,
                Some(back) => named = back,
            }
        }
        let mut is_quiet = false;
        for _ in 0..TERMINAL_READS_A_TURN {
            match named.terminal.read() {
                Ok(Said::Text(_)) => {}
                Ok(Said::Nothing) => {
                    is_quiet = true;
                    break;
                }
                Ok(Said::End) | Err(_) => return,
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let (id, name) = &named.seat.key;
            log::info!("task {id}: nobody came back to terminal {name}; it ends");
            return;
        }
        if is_quiet {
            let output = PollFd::new(named.terminal.as_fd(), PollFlags::POLLIN);
            let asked = PollFd::new(named.seat.as_fd(), PollFlags::POLLIN);
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            // It fails when it is interrupted, or for want of memory: then we look again.
            let _ = poll(&mut [output, asked], left);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        let longest = "x".repeat(TERMINAL_NAME_CHARS_MAX);
        for name in ["a", "Tab_1-b", &longest] {
            assert_eq!(name.parse::<Name>().unwrap().to_string(), name);
        }
        for text in ["", "a b", "a/b", "ä", "a\n", &format!("{longest}x")] {
            assert_eq!(text.parse::<Name>(), Err(NotAName), "{text:?}");
        }
    }

    #[test]
    fn whoever_asks_late_is_told_and_leaves_nothing_behind() {
        let place = Place::new().unwrap();
        assert!(matches!(place.take(Instant::now()), Taken::Late));
        assert_eq!(lock(&place.hand).askers, 0);
        lock(&place.hand).is_over = true;
        assert!(matches!(place.take(Instant::now()), Taken::Over));
    }
}
