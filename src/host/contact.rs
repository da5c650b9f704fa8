//! What the host's answers say about the host: registered, away since when, and whether it has
//! heard from us without a gap (design law 6).

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::limits::{HOST_CALL_PROMPT, HOST_GAP_MAX};
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
    /// A heartbeat was acknowledged; the call began at `begun`. True after a gap: the host may have
    /// marked our tasks `lost`.
    pub fn acknowledged(&self, begun: Instant, now: Stamp) -> bool {
        let mut state = self.lock();
        state.last_acknowledged = Some(now);
        state.heard(begun)
    }

    /// The host took our registration; the call began at `begun`. From here on it dispatches, and
    /// counts our silence: a task that comes before the first heartbeat is acknowledged comes after
    /// no gap. True after a gap, as [`Contact::acknowledged`].
    pub fn registered(&self, begun: Instant) -> bool {
        let mut state = self.lock();
        state.registered = true;
        state.heard(begun)
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
    /// After a gap the host has heard us at some moment of the call, and may dispatch before we have
    /// read its answer: of a prompt call all is after the gap, of another only what is after it. True
    /// if there was one.
    fn heard(&mut self, begun: Instant) -> bool {
        let now = Instant::now();
        let gap = self.last_at.is_none_or(|last| now.duration_since(last) >= HOST_GAP_MAX);
        if gap {
            let is_prompt = now.duration_since(begun) < HOST_CALL_PROMPT;
            self.unbroken_since = Some(if is_prompt { begun } else { now });
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
        assert!(contact.registered(Instant::now()), "all before was a gap");
        let since = Instant::now();
        assert!(!contact.acknowledged(Instant::now(), Stamp::now()));
        assert!(contact.unbroken_since(since));
    }

    #[test]
    fn contact_is_unbroken_for_what_came_after_its_start_only() {
        let contact = Contact::default();
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        contact.acknowledged(Instant::now(), Stamp::now());
        assert!(contact.unbroken_since(Instant::now()));
        assert!(!contact.unbroken_since(before));
    }

    #[test]
    fn contact_holds_for_what_came_while_a_prompt_answer_was_under_way() {
        let (begun, during) = (Instant::now(), Instant::now());
        let contact = Contact::default();
        contact.registered(begun);
        assert!(contact.unbroken_since(during));
    }

    #[test]
    fn contact_does_not_hold_for_what_came_while_a_slow_answer_was_under_way() {
        let begun =
            Instant::now().checked_sub(HOST_CALL_PROMPT).expect("the machine is up for longer");
        let contact = Contact::default();
        contact.registered(begun);
        assert!(!contact.unbroken_since(begun));
        assert!(contact.unbroken_since(Instant::now()));
    }
}
