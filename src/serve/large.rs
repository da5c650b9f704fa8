//! Large bodies are held in memory whole: two at a time, from the first byte until the call is
//! answered. A caller beyond them waits a while; one beyond those that wait is told to come again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::head::{Framing, Head};
use crate::limits::{
    HTTP_LARGE_BODIES_MAX, HTTP_LARGE_BODIES_WAITING_MAX, HTTP_LARGE_BODY_BYTES,
    HTTP_LARGE_BODY_PATIENCE, HTTP_LARGE_BODY_TICK,
};

/// Room for the large bodies of a server.
#[derive(Debug)]
pub(super) struct LargeBodies {
    free: (Sender<()>, Receiver<()>),
    waiting: AtomicUsize,
}

/// Room that one large body takes until this goes.
#[derive(Debug)]
pub(super) struct LargeBody(Sender<()>);

impl LargeBodies {
    pub fn new() -> LargeBodies {
        let free = bounded(HTTP_LARGE_BODIES_MAX);
        for _ in 0..HTTP_LARGE_BODIES_MAX {
            let _ = free.0.try_send(());
        }
        LargeBodies { free, waiting: AtomicUsize::new(0) }
    }

    /// Takes room, or `None` when there is none in time or `is_over` says that nobody needs it.
    pub fn take(&self, is_over: impl Fn() -> bool) -> Option<LargeBody> {
        let taken = || LargeBody(self.free.0.clone());
        if self.free.1.try_recv().is_ok() {
            return Some(taken());
        }
        let wait = |waiting: usize| (waiting < HTTP_LARGE_BODIES_WAITING_MAX).then(|| waiting + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, wait).ok()?;
        let until = Instant::now() + HTTP_LARGE_BODY_PATIENCE;
        let mut found = None;
        while found.is_none() && Instant::now() < until && !is_over() {
            found = self.free.1.recv_timeout(HTTP_LARGE_BODY_TICK).ok().map(|()| taken());
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

impl Drop for LargeBody {
    fn drop(&mut self) {
        // There is room for all that were taken.
        let _ = self.0.try_send(());
    }
}

/// Whether a body may be large: announced so, or without a length in a row that takes such.
pub(super) fn is_large(head: &Head, row_bytes_max: usize) -> bool {
    match head.framing {
        Framing::Chunked => row_bytes_max > HTTP_LARGE_BODY_BYTES,
        Framing::Length(length) => length > HTTP_LARGE_BODY_BYTES as u64,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn room_is_given_back_and_those_beyond_the_waiting_are_refused() {
        let bodies = LargeBodies::new();
        let held: Vec<_> = (0..HTTP_LARGE_BODIES_MAX).map(|_| bodies.take(|| false)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(bodies.take(|| true).is_none());
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..HTTP_LARGE_BODIES_WAITING_MAX)
                .map(|_| scope.spawn(|| bodies.take(|| false).is_some()))
                .collect();
            while bodies.waiting.load(Ordering::SeqCst) < HTTP_LARGE_BODIES_WAITING_MAX {
                std::thread::yield_now();
            }
            assert!(bodies.take(|| false).is_none());
            drop(held);
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
    }
}
