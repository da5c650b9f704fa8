//! All terminals of a node: their numbers, their names, and how many of them have no peer.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use super::named::{Key, Place};
use super::turns::Turns;
use crate::limits::TERMINAL_LEFTOVER_LOOKS;
use crate::ops::Node;
use crate::threads::lock;

/// All terminals of a node.
#[derive(Debug)]
pub struct Terminals {
    next_number: AtomicU64,
    /// Numbers of those that somebody has.
    numbers: Mutex<HashSet<u64>>,
    named: Mutex<HashMap<Key, Arc<Place>>>,
    /// How many have no peer.
    kept: AtomicUsize,
    pub(super) turns: Turns,
    /// How often it is worth looking for shells that nobody has.
    doubts: AtomicUsize,
}

impl Default for Terminals {
    fn default() -> Terminals {
        // Above every number of an earlier life: what has one of those is left over.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(now.as_micros()).unwrap_or(0) << 10;
        Terminals {
            next_number: AtomicU64::new(first),
            numbers: Mutex::default(),
            named: Mutex::default(),
            kept: AtomicUsize::new(0),
            turns: Turns::default(),
            doubts: AtomicUsize::new(TERMINAL_LEFTOVER_LOOKS),
        }
    }
}

impl Terminals {
    /// Whether somebody has the terminal of this number.
    pub(super) fn has(&self, number: u64) -> bool {
        lock(&self.numbers).contains(&number)
    }

    /// There may be, or come to be, a shell that nobody has.
    pub(super) fn doubt(&self) {
        self.doubts.store(TERMINAL_LEFTOVER_LOOKS, Ordering::SeqCst);
    }

    /// Whether to look once more.
    pub(super) fn is_in_doubt(&self) -> bool {
        let one_less = |looks: usize| looks.checked_sub(1);
        self.doubts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }

    /// Where the terminal of this name changes hands, and whether the caller is the first there.
    pub(super) fn place(&self, key: &Key) -> io::Result<(Arc<Place>, bool)> {
        let mut named = lock(&self.named);
        if let Some(place) = named.get(key) {
            return Ok((Arc::clone(place), false));
        }
        let place = Arc::new(Place::new()?);
        named.insert(key.clone(), Arc::clone(&place));
        Ok((place, true))
    }

    /// The terminal of this name is over there.
    pub(super) fn forget(&self, key: &Key, place: &Arc<Place>) {
        let mut named = lock(&self.named);
        if named.get(key).is_some_and(|known| Arc::ptr_eq(known, place)) {
            named.remove(key);
        }
    }

    /// Counts one without a peer; how many there are with it.
    pub(super) fn one_more_kept(&self) -> usize {
        self.kept.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(super) fn one_less_kept(&self) {
        self.kept.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes those who keep a terminal, to see that the runner stops.
    pub fn wake(&self) {
        lock(&self.named).values().for_each(|place| place.ring());
    }

    /// Whether every terminal that has no peer has ended.
    pub fn none_is_kept(&self) -> bool {
        self.kept.load(Ordering::SeqCst) == 0
    }
}

/// A terminal's number, in use as long as this lives.
pub(super) struct Number {
    node: Arc<Node>,
    number: u64,
    /// A shell with this mark may be left behind: it is looked for, as soon as may be.
    pub is_in_doubt: bool,
}

impl Number {
    pub fn of_next(node: &Arc<Node>) -> Number {
        let number = node.terminals.next_number.fetch_add(1, Ordering::Relaxed);
        lock(&node.terminals.numbers).insert(number);
        Number { node: Arc::clone(node), number, is_in_doubt: false }
    }

    pub fn get(&self) -> u64 {
        self.number
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        lock(&self.node.terminals.numbers).remove(&self.number);
        if self.is_in_doubt {
            self.node.terminals.doubt();
            // A full queue: one is asked for already.
            let _ = self.node.reconcile_wanted.try_send(());
        }
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}
