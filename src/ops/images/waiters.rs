//! One makes an image available, all who ask meanwhile wait for that one.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::ImageResult;
use crate::ops::Node;
use crate::threads::lock;

/// Images being made available, and tarballs already loaded.
#[derive(Default)]
pub struct Images {
    in_flight: Mutex<HashMap<String, InFlight>>,
    /// Which tarball made which image. A hand-made tarball may carry a number newer than its image's
    /// own age, and would be loaded again for every task (contract L19).
    pub(super) loaded: Mutex<HashMap<String, Loaded>>,
}

#[derive(Default)]
struct InFlight {
    progress: String,
    waiters: Vec<Waiter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub tarball: PathBuf,
    /// The Engine's id of it.
    pub image: String,
}

/// Called with the result, or with `None`: whoever led has gone without one, look again.
pub(super) type Waiter = Box<dyn FnOnce(Option<ImageResult>) + Send>;

impl Images {
    /// What is being done for `reference` now, for people who wait.
    pub fn progress(&self, reference: &str) -> Option<String> {
        let in_flight = lock(&self.in_flight);
        in_flight.get(reference).map(|one| one.progress.clone()).filter(|text| !text.is_empty())
    }

    pub(super) fn say(&self, reference: &str, progress: String) {
        if let Some(one) = lock(&self.in_flight).get_mut(reference) {
            one.progress = progress;
        }
    }

    /// The right to make `reference` available; `None` while somebody else does.
    pub(super) fn lead(&self, node: &Arc<Node>, reference: &str) -> Option<Lead> {
        let mut in_flight = lock(&self.in_flight);
        if in_flight.contains_key(reference) {
            return None;
        }
        in_flight.insert(reference.to_owned(), InFlight::default());
        let (node, reference) = (Arc::clone(node), reference.to_owned());
        Some(Lead { node, reference, is_finished: false })
    }

    /// Waits for the one who leads; gives the waiter back when nobody does.
    pub(super) fn wait(&self, reference: &str, waiter: Waiter) -> Result<(), Waiter> {
        match lock(&self.in_flight).get_mut(reference) {
            Some(one) => {
                one.waiters.push(waiter);
                Ok(())
            }
            None => Err(waiter),
        }
    }
}

/// Held by the one who pulls or loads. Gone without a result (a panic, a stop), it sends the waiters
/// to look again.
pub(super) struct Lead {
    node: Arc<Node>,
    reference: String,
    is_finished: bool,
}

impl Lead {
    /// Hands the result to all who wait, and back.
    pub fn finish(mut self, result: ImageResult) -> ImageResult {
        // From here on the place in the map may be somebody else's.
        self.is_finished = true;
        for waiter in self.take_waiters() {
            waiter(Some(result.clone()));
        }
        result
    }

    fn take_waiters(&self) -> Vec<Waiter> {
        let ended = lock(&self.node.images.in_flight).remove(&self.reference);
        ended.map(|one| one.waiters).unwrap_or_default()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.is_finished {
            for waiter in self.take_waiters() {
                waiter(None);
            }
        }
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("in_flight", &lock(&self.in_flight).len()).finish()
    }
}
