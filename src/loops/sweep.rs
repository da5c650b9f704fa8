//! The net below the net: probes the Engine, compares its containers with the records, and throws
//! old records away. Runs when the event stream asks for it, and by the clock.

use std::io;
use std::mem;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::limits::{
    ENGINE_PROBE_EVERY, ENGINE_PROBE_EVERY_WHEN_AWAY, OWN_ADDRESSES_EVERY, PANIC_REST, PRUNE_EVERY,
    RECONCILE_AGAIN, RECONCILE_EVERY, STACK_BYTES,
};
use crate::machine::addresses;
use crate::ops::task::recover::reconcile;
use crate::ops::terminal::leftovers;
use crate::ops::{Node, shared_dir, vps};
use crate::threads;

/// Starts the `sweep` thread; `wanted` says that a reconciliation can't wait for the clock.
///
/// # Errors
/// The thread could not be started.
pub fn start(node: &Arc<Node>, wanted: Receiver<()>) -> io::Result<JoinHandle<Option<()>>> {
    let node = Arc::clone(node);
    let stop = node.stop.clone();
    let rest = move || stop.wait(PANIC_REST);
    threads::spawn_kept("sweep", STACK_BYTES, rest, move || run(&node, &wanted))
}

fn run(node: &Arc<Node>, wanted: &Receiver<()>) {
    let mut reconcile_at = Instant::now();
    let mut was_asked = true;
    let mut addresses_at = Instant::now();
    let mut prune_at = Instant::now();
    let mut was_away = false;
    while !node.stop.is_raised() {
        let probed = node.engine.probe().inspect_err(|error| log::debug!("probe: {error}"));
        let is_away = probed.is_err();
        node.tasks.look();
        vps::pending::look(node);
        shared_dir::tell_a_hang(node);
        let now = Instant::now();
        if mem::replace(&mut was_away, is_away) && !is_away {
            log::info!("the Docker Engine answers again");
            // What waits for it goes on at once.
            reconcile_at = now;
        }
        // Of one that hangs, every further question costs its whole deadline, and its return would
        // be noticed that much later.
        if now >= reconcile_at && !is_away {
            match reconcile(node) {
                Ok(()) => {
                    let again = if was_asked { RECONCILE_AGAIN } else { RECONCILE_EVERY };
                    (reconcile_at, was_asked) = (now + again, false);
                    leftovers::end_all(node);
                }
                Err(error) => log::debug!("reconcile: {error}"),
            }
        }
        if now >= addresses_at {
            addresses_at = now + OWN_ADDRESSES_EVERY;
            if let Ok(own) = addresses::own() {
                node.access.set_own_addresses(own.into_iter().collect());
            }
        }
        if now >= prune_at || node.tasks.is_crowded() {
            prune_at = now + PRUNE_EVERY;
            match node.tasks.prune() {
                Ok(0) => {}
                Ok(count) => log::info!("{count} records of old tasks thrown away"),
                Err(error) => log::error!("{error}"),
            }
        }
        let pause = if is_away || node.engine.is_away() {
            ENGINE_PROBE_EVERY_WHEN_AWAY
        } else {
            ENGINE_PROBE_EVERY
        };
        match wanted.recv_timeout(pause) {
            Ok(()) => (reconcile_at, was_asked) = (Instant::now(), true),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
