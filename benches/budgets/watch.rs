//! Watching files of a running container: from a file's making to the message, beside an inotify of
//! our own on the same directory, and what an open watch takes of the runner's memory.

use std::fs::File;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::budget::{Figures, median};
use crate::place::Place;
use crate::runner::{InContainer, Runner};
use crate::socket::Socket;

pub fn run(place: &Place, figures: &mut Figures) {
    let runner = Runner::start(place, None);
    let task = InContainer::start(&runner, &place.environment());
    let settle = place.pick(Duration::from_secs(3), Duration::from_millis(300));
    let path = format!("/ws/fs/{}/watch?paths=/local_temp", task.id);
    let open = || {
        let mut socket = Socket::open(runner.address, &path);
        assert_eq!(socket.next()["type"], "watching");
        socket
    };

    let mut socket = open();
    // Scanning goes on for a moment after that message.
    sleep(settle);
    let (mut told, mut seen) = (Vec::new(), Vec::new());
    for round in 0..place.pick(300, 3) {
        // Changes that follow each other at once are told together, a little later.
        sleep(Duration::from_millis(20));
        let name = format!("bench-{round}");
        let file = runner.local_temp_dir.join(&name);
        let since = Instant::now();
        File::create(&file).expect("a file");
        while !socket.next()["path"].as_str().is_some_and(|path| path.ends_with(&name)) {}
        told.push(since.elapsed().as_secs_f64() * 1e3);
        seen.push(notice(&runner.local_temp_dir));
        std::fs::remove_file(&file).expect("our file");
        while socket.next()["event"] != "DELETE" {}
    }
    figures.tell_beside("watch_ms", median(told), median(seen));

    sleep(settle);
    let before = runner.pss_bytes();
    let more: Vec<_> = (0..place.pick(50, 2)).map(|_| open()).collect();
    sleep(settle);
    figures.tell("watch_kb", (runner.pss_bytes() - before) / 1e3 / more.len() as f64);
}

/// Milliseconds from a file's making to the kernel's own word of it.
fn notice(directory: &Path) -> f64 {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).expect("an inotify instance");
    inotify.add_watch(directory, AddWatchFlags::IN_CREATE).expect("a watch");
    let file = directory.join("bench-floor");
    let since = Instant::now();
    File::create(&file).expect("a file");
    inotify.read_events().expect("an event");
    let took = since.elapsed().as_secs_f64() * 1e3;
    std::fs::remove_file(&file).expect("our file");
    took
}
