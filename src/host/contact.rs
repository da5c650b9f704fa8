//! What the host's answers say about the host: registered, away since when, and whether it has
//! heard from us without a gap (design law 6).

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::limits::HOST_GAP_MAX;
use crate::model::time::Stamp;
use crate::threads::lock;

/// Kept by the heartbeat loop, read by `/health` and by the rule on refused reports.
#[derive(Debug, Default)]
pub struct Contact {
    state: Mutex<ContactState>,
}

/// A copy for `/health`.
#[derive(Clone, Debug, Default)]
pub struct ContactState {
    pub registered: bool,
    /// Why the last call failed; `None` after one that worked.
    pub trouble: Option<String>,
    pub last_acknowledged: Option<Stamp>,
    last_at: Option<Instant>,
    /// No wall clock: that may be set, also while the host is away.
    unbroken_since: Option<Instant>,
}

impl Contact {
    /// A heartbeat was acknowledged. True after a gap: the host may have marked our tasks `lost`.
    pub fn acknowledged(&self, now: Stamp) -> bool {
        let mut state = self.lock();
        state.last_acknowledged = Some(now);
        state.heard()
    }

    /// The host took our registration. From here on it dispatches, and counts our silence: a task
    /// that comes before the first heartbeat is acknowledged comes after no gap. True after a gap, as
    /// [`Contact::acknowledged`].
    pub fn registered(&self) -> bool {
        let mut state = self.lock();
        state.registered = true;
        state.heard()
    }

    /// The host does not know us (any more).
    pub fn forgotten(&self) {
        self.lock().registered = false;
    }

    /// A call failed.
    pub fn failed(&self, why: String) {
        self.lock().trouble = Some(why);
    }

    /// Whether the host has heard from us without a gap from `since` until now. Then it has not
    /// marked our tasks `lost`, and a refusal means that the user ended the task.
    pub fn unbroken_since(&self, since: Instant) -> bool {
        let state = self.lock();
        let recent = state.last_at.is_some_and(|last| last.elapsed() < HOST_GAP_MAX);
        recent && state.unbroken_since.is_some_and(|start| start <= since)
    }

    /// What is known now.
    pub fn state(&self) -> ContactState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ContactState> {
        lock(&self.state)
    }
}

impl ContactState {
    fn heard(&mut self) -> bool {
        let now = Instant::now();
        let gap = self.last_at.is_none_or(|last| now.duration_since(last) >= HOST_GAP_MAX);
        if gap {
            self.unbroken_since = Some(now);
        }
        self.last_at = Some(now);
        self.trouble = None;
        gap
    }
}

#[cfg(test)]
mod test {
    use std::time::Duration;

    use super::*;

    #[test]
    fn contact_before_the_first_acknowledgement_is_broken() {
        let contact = Contact::default();
        assert!(!contact.unbroken_since(Instant::now()));
    }

    #[test]
    fn contact_begins_with_the_registration() {
        let contact = Contact::default();
        assert!(contact.registered(), "all before was a gap");
        let since = Instant::now();
        assert!(!contact.acknowledged(Stamp::now()));
        assert!(contact.unbroken_since(since));
    }

    #[test]
    fn contact_is_unbroken_for_what_came_after_its_start_only() {
        let contact = Contact::default();
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        contact.acknowledged(Stamp::now());
        assert!(contact.unbroken_since(Instant::now()));
        assert!(!contact.unbroken_since(before));
    }
}
