//! Many terminals at once, and peers that do not read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{Terminal, metric, processes};
use crate::kit::{Daemon, SOON, running, wait_until};

const TERMINALS: usize = 200;
/// The peers, a few terminals each: more at a time than are opened at a time.
const PEERS: usize = 20;
/// The pools' threads come and go, and connections to the Engine are kept for the next call.
const SLACK: usize = 24;
/// A thread for long calls ends after 2 s without work.
const POOLS_REST: Duration = Duration::from_secs(4);

#[track_caller]
fn open_type_and_leave(daemon: &Daemon, id: u64) {
    let opened = AtomicUsize::new(0);
    let terminals: Vec<Terminal> = thread::scope(|scope| {
        let open = |_| scope.spawn(|| open_some(daemon, id, &opened));
        let peers: Vec<_> = (0..PEERS).map(open).collect();
        peers.into_iter().flat_map(|peer| peer.join().expect("a peer")).collect()
    });
    assert_eq!(metric(daemon, "river_terminals"), TERMINALS as u64);
    let mut terminals = terminals;
    for (number, terminal) in terminals.iter_mut().enumerate() {
        terminal.enter(&format!("echo a$(({number}+1000000))z\n"));
    }
    for (number, terminal) in terminals.iter_mut().enumerate() {
        terminal.until(&format!("a{}z\r\n", number + 1_000_000));
    }
    terminals.into_iter().for_each(Terminal::reset);
}

/// Opens a peer's share, and waits until all others have theirs. Those that are open give signs of life
/// meanwhile, as every client does: silent peers are given up after 40 s.
fn open_some(daemon: &Daemon, id: u64, opened: &AtomicUsize) -> Vec<Terminal> {
    let mut terminals: Vec<Terminal> = Vec::new();
    let live = |terminals: &mut Vec<Terminal>| {
        let alive = json!({ "type": "ping" });
        terminals.iter_mut().for_each(|terminal| terminal.socket.send_json(&alive));
    };
    for _ in 0..TERMINALS / PEERS {
        terminals.push(Terminal::open(daemon, id));
        opened.fetch_add(1, Ordering::SeqCst);
        live(&mut terminals);
    }
    let all = wait_until(SOON * 6, || {
        thread::sleep(Duration::from_millis(500));
        live(&mut terminals);
        opened.load(Ordering::SeqCst) == TERMINALS
    });
    assert!(all, "{} of {TERMINALS} are open", opened.load(Ordering::SeqCst));
    terminals
}

#[test]
fn two_hundred_terminals_type_at_once_and_leave_nothing_when_they_are_dropped_rudely() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let inside = processes(id);
    thread::sleep(POOLS_REST);
    let (threads, fds) = (daemon.threads(), daemon.fds());
    open_type_and_leave(&daemon, id);
    assert!(wait_until(SOON * 3, || metric(&daemon, "river_terminals") == 0));
    assert!(wait_until(SOON, || processes(id).lines().count() == inside.lines().count()));
    let is_as_before = || daemon.threads() <= threads && daemon.fds() <= fds + SLACK;
    let (names, now) = (daemon.thread_names(), daemon.fds());
    assert!(wait_until(SOON, is_as_before), "{threads} threads, {names:?}; {fds} fds, {now}");
}

/// What a session may hold for a peer that does not read, several times over.
const MEMORY_SLACK_KB: u64 = 8 * 1024;

#[test]
fn peer_that_does_not_read_holds_up_nobody_and_takes_no_memory() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut other = Terminal::open(&daemon, id);
    let mut slow = Terminal::open(&daemon, id);
    let before_kb = daemon.anonymous_kb();
    slow.enter("yes abcdefghijklmnopqrstuvwxyz\n");
    thread::sleep(Duration::from_secs(2));
    for round in 0..20 {
        other.enter(&format!("echo a$(({round}+1000))z\n"));
        other.until(&format!("a{}z\r\n", round + 1000));
    }
    let now_kb = daemon.anonymous_kb();
    assert!(now_kb <= before_kb + MEMORY_SLACK_KB, "{before_kb} kB, now {now_kb}");
    // It is still there, and stops when it is asked.
    slow.enter("\u{3}");
    slow.enter("echo en''ded\n");
    slow.until("ended");
}
