//! The bound on calls in flight and the account of their time. Every call holds one turn; nobody
//! waits for one, since a caller that finds none has other work or can say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{DockerError, Engine, Inner};
use crate::{limits, metrics};

/// A place among the calls in flight. Its life is the call's time.
#[derive(Debug)]
pub(super) struct Turn {
    inner: Arc<Inner>,
    class: Class,
    pub started: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    Quick,
    Patient,
    /// One at a time by nature, and wanted most when all other places are taken.
    Probe,
}

impl Turn {
    pub fn take(engine: &Engine, class: Class, call: &'static str) -> Result<Turn, DockerError> {
        let turn = Turn { inner: Arc::clone(&engine.inner), class, started: Instant::now() };
        let taken = turn.places().fetch_add(1, Ordering::Relaxed);
        metrics::ENGINE_CALLS_IN_FLIGHT.up();
        // A refused turn is dropped here and gives its place back.
        if taken >= turn.places_max() {
            metrics::ENGINE_CALLS_BUSY.up();
            return Err(DockerError::Busy { call });
        }
        metrics::ENGINE_CALLS.up();
        Ok(turn)
    }

    fn places(&self) -> &AtomicUsize {
        match self.class {
            Class::Quick => &self.inner.quick_calls,
            Class::Patient => &self.inner.patient_calls,
            Class::Probe => &self.inner.probes,
        }
    }

    fn places_max(&self) -> usize {
        match self.class {
            Class::Quick => limits::ENGINE_QUICK_CALLS_MAX,
            Class::Patient => limits::ENGINE_PATIENT_CALLS_MAX,
            Class::Probe => limits::ENGINE_PROBES_MAX,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.places().fetch_sub(1, Ordering::Relaxed);
        metrics::ENGINE_CALLS_IN_FLIGHT.down();
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        metrics::ENGINE_CALL_MICROSECONDS.add(micros);
    }
}
