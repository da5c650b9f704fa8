//! Watches that somebody means to break: wild paths and trees, storms, peers that don't read or vanish.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use super::watch_rows::{inotify_watches, inside, refused, until_change, watch};
use crate::kit::{
    Daemon, SOON, Socket, docker, execute_body, image, remove_container, running, task_container,
    unique_id, wait_until, with,
};

/// As root, whoever the image's user is.
fn inside_as_root(id: u64, script: &str) {
    docker(&["exec", "-u", "0", &task_container(id), "sh", "-c", script]);
}

/// A container of an image whose user is not root.
fn running_as_worker(daemon: &Daemon) -> u64 {
    let body = with(
        execute_body(daemon, unique_id(), "sleep 600"),
        json!({ "registry_image": image("debian-worker") }),
    );
    let id = daemon.submit(&body);
    daemon.wait_status(id, "running");
    id
}

/// Resets the connection: no goodbye of any kind.
fn vanish(socket: &Socket) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(socket.stream(), sockopt::Linger, &linger).expect("a socket");
}

/// Reads on until an error has this in its text.
#[track_caller]
fn until_error(socket: &mut Socket, about: &str) -> String {
    loop {
        let message = socket.next_json();
        let text = message["message"].as_str().unwrap_or_default();
        if message["type"] == "error" && text.contains(about) {
            return text.to_owned();
        }
    }
}

// ── paths ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn wild_paths_are_watched_left_out_or_refused_and_none_breaks_a_session() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(
        id,
        "mkdir -p /w/a; ln -s loop2 /w/loop1; ln -s loop1 /w/loop2; ln -s . /w/self; mkfifo /w/pipe",
    );
    let mut socket = daemon.socket(&format!(
        "/ws/fs/{id}/watch?paths=w,/w/loop1,/w/pipe,/etc/passwd,/w/../w/a,/w/self/self,/w/nowhere,/w,/w"
    ));
    assert_eq!(socket.next_json()["paths"], json!(["w", "/w/../w/a", "/w/self/self", "/w", "/w"]));
    inside(id, ": > /w/a/f");
    let mut missing = vec!["w/a/f", "/w/../w/a/f", "/w/self/self/a/f", "/w/a/f"];
    while !missing.is_empty() {
        let message = socket.next_json();
        assert_eq!(message["type"], "change", "{message}");
        missing.retain(|path| message["path"] != *path);
    }

    let many = vec!["/"; 4000].join(",");
    let (message, code) = refused(&daemon, &format!("/ws/fs/{id}/watch?paths={many}"));
    assert!(message.contains("4000 paths are too many"), "{message}");
    assert_eq!(code, 1000);
    let beyond = vec!["/"; 10_000].join(",");
    let path = format!("/ws/fs/{id}/watch?paths={beyond}");
    let status = Socket::try_open(daemon.socket_address(), &path).unwrap_err();
    assert!((400..500).contains(&status), "{status}");
    for path in ["/w/%00", "%FF"] {
        let path = format!("/ws/fs/{id}/watch?paths={path}");
        assert_eq!(Socket::try_open(daemon.socket_address(), &path).unwrap_err(), 400);
    }
}

#[test]
fn kernel_views_are_told_as_not_watched_and_left_out_of_the_root() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut socket = watch(&daemon, id, "/proc,/sys,/dev/pts,/proc/sys/net,/tmp");
    let text = until_error(&mut socket, "the kernel's own state");
    assert!(text.contains("/proc, /sys, /dev/pts, /proc/sys/net:"), "{text}");
    assert_eq!(inotify_watches(&daemon), 1);
    inside(id, ": > /tmp/f");
    until_change(&mut socket, "CREATE", "/tmp/f");
    // Of the whole root some hundreds are directories; the kernel's are tens of thousands.
    let mut root = watch(&daemon, id, "/");
    inside(id, ": > /tmp/g");
    until_change(&mut root, "CREATE", "/tmp/g");
    sleep(Duration::from_secs(1));
    let watches = inotify_watches(&daemon);
    assert!((10..5_000).contains(&watches), "{watches}");
}

#[test]
fn names_with_newlines_and_bytes_outside_utf8_are_told() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir /w");
    let mut socket = watch(&daemon, id, "/w");
    inside(id, r#"mkdir "$(printf '/w/a\nb')"; : > "$(printf '/w/a\nb/\377"\\')"; : > '/w/a,b'"#);
    // What is in a new directory is found by looking, in whatever order.
    let mut expected = vec!["/w/a\nb", "/w/a\nb/\u{fffd}\"\\", "/w/a,b"];
    while !expected.is_empty() {
        let message = socket.next_json();
        expected.retain(|path| message["event"] != "CREATE" || message["path"] != *path);
    }
}

#[test]
fn tree_deeper_than_a_path_may_be_long_is_watched_as_far_as_it_goes() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let name = "n".repeat(200);
    let deep = [name.as_str(); 15].join("/");
    // Two halves, each of a length that can be named.
    inside(id, &format!("mkdir -p /w/{deep} /y/{deep}; cd /w/{deep} && mv /y ."));
    let mut socket = watch(&daemon, id, "/w");
    until_error(&mut socket, "not watched, with all below");
    inside(id, &format!(": > /w/{name}/{name}/f"));
    until_change(&mut socket, "CREATE", &format!("/w/{name}/{name}/f"));
}

#[test]
fn directory_that_goes_away_and_comes_back_is_watched_again() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir -p /w/a/deep /elsewhere");
    let mut socket = watch(&daemon, id, "/w");
    inside(id, "mv /w/a /elsewhere/a");
    until_change(&mut socket, "MOVE", "/w/a");
    sleep(Duration::from_secs(1));
    inside(id, ": > /elsewhere/a/deep/unheard; mv /elsewhere/a /w/a; : > /w/a/deep/heard");
    let mut told = Vec::new();
    while told.last() != Some(&json!("/w/a/deep/heard")) {
        let message = socket.next_json();
        assert_eq!(message["type"], "change", "{message}");
        told.push(message["path"].clone());
    }
    assert!(told.contains(&json!("/w/a")), "{told:?}");
    inside(id, "rm -r /w");
    until_error(&mut socket, "/w was removed, moved or unmounted");
}

#[test]
fn file_without_a_name_is_told_no_more() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir /w");
    let mut socket = watch(&daemon, id, "/w");
    inside(id, "exec 3> /w/f; rm /w/f; echo text >&3; echo text >&3; exec 3>&-; : > /w/end");
    let mut told = Vec::new();
    while told.last() != Some(&json!(["CREATE", "/w/end"])) {
        let message = socket.next_json();
        told.push(json!([message["event"], message["path"]]));
    }
    assert!(!told.contains(&json!(["MODIFY", "/w/f"])), "{told:?}");
}

// ── budgets and rights ───────────────────────────────────────────────────────────────────────────

#[test]
fn directories_beyond_a_sessions_budget_are_told_and_the_others_watched() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir /w; cd /w; mkdir first; cd first; seq 17000 | xargs mkdir; : > /w/ready");
    let mut socket = watch(&daemon, id, "/w");
    let text = until_error(&mut socket, "this session watches as many directories as it may");
    assert!(text.contains("others"), "{text}");
    assert_eq!(inotify_watches(&daemon), 16_384);
    inside(id, ": > /w/f; mkdir /w/new; : > /w/first/g");
    until_change(&mut socket, "CREATE", "/w/f");
    until_change(&mut socket, "CREATE", "/w/new");
    // Another session has a budget of its own, and shares what is watched.
    let mut other = watch(&daemon, id, "/tmp,/w/new");
    inside(id, ": > /w/new/h");
    until_change(&mut other, "CREATE", "/w/new/h");
    drop((socket, other));
    assert!(wait_until(SOON, || inotify_watches(&daemon) == 0));
}

#[test]
fn directories_that_the_user_may_not_read_are_told_and_passed_over() {
    let daemon = Daemon::builder().start();
    let id = running_as_worker(&daemon);
    inside_as_root(
        id,
        "mkdir -p /w/closed/in /w/open/in; chmod 700 /w/closed; chmod -R a+rwX /w/open; chmod 755 /w",
    );
    let mut socket = watch(&daemon, id, "/w");
    let text = until_error(&mut socket, "Permission denied");
    assert!(text.contains("/w/closed:"), "{text}");
    inside(id, ": > /w/open/in/f");
    until_change(&mut socket, "CREATE", "/w/open/in/f");
}

// ── storms ───────────────────────────────────────────────────────────────────────────────────────

#[test]
fn everything_made_at_once_in_deep_new_directories_is_told() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir /w");
    let mut socket = watch(&daemon, id, "/w");
    inside(
        id,
        "cd /w; for i in $(seq 50); do mkdir -p $i/b/c/d; : > $i/1; : > $i/b/2; : > $i/b/c/3; : > $i/b/c/d/4; done",
    );
    let of = |i: u32| {
        ["", "/1", "/b", "/b/2", "/b/c", "/b/c/3", "/b/c/d", "/b/c/d/4"]
            .map(|end| format!("/w/{i}{end}"))
    };
    let mut missing: std::collections::HashSet<String> = (1..=50).flat_map(of).collect();
    while !missing.is_empty() {
        let message = socket.next_json();
        assert_eq!(message["type"], "change", "{message}");
        missing.remove(message["path"].as_str().expect("a path"));
    }
}

#[test]
fn storm_is_told_whole_or_said_to_be_missed_and_a_peer_that_does_not_read_costs_a_bounded_queue() {
    const FILES: usize = 10_000;
    const ROUNDS: usize = 6;
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir /w");
    let mut quick = watch(&daemon, id, "/w");
    let mut stuck = watch(&daemon, id, "/w");
    // What the kernel holds for it is little, too.
    setsockopt(stuck.stream(), sockopt::RcvBuf, &4096).expect("a socket");
    let before = daemon.rss_kb();
    let container = task_container(id);
    let storm = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            let name = "n".repeat(150);
            let script = format!(
                "mkdir /w/{round}; cd /w/{round}; seq {FILES} | sed 's/$/-{name}/' | xargs touch"
            );
            docker(&["exec", &container, "sh", "-c", &script]);
        }
        docker(&["exec", &container, "sh", "-c", ": > /w/end"]);
    });
    // Directories that the storm has made are looked at while it goes on: its end may be told sooner.
    let (mut made, mut is_missed, mut is_over) = (0, false, false);
    while !(is_over && (is_missed || made == ROUNDS * (FILES + 1) + 1)) {
        let message = quick.next_json();
        is_missed |= message["type"] == "error";
        made += usize::from(message["event"] == "CREATE");
        is_over |= message["path"] == "/w/end" && message["event"] == "CREATE";
    }
    storm.join().expect("the storm");
    // 32,768 changes of some 100 bytes for each of two sessions, and what an allocator keeps.
    let grown = daemon.rss_kb().saturating_sub(before);
    assert!(grown < 40 * 1024, "{grown} kB");
    // It begins to read, through a window that is no longer tiny.
    setsockopt(stuck.stream(), sockopt::RcvBuf, &(1024 * 1024)).expect("a socket");
    until_error(&mut stuck, "changes were lost");
    inside(id, ": > /w/after");
    until_change_among_errors(&mut stuck, "/w/after");
}

#[track_caller]
fn until_change_among_errors(socket: &mut Socket, path: &str) {
    while socket.next_json()["path"] != path {}
}

// ── ends ─────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn session_of_a_peer_that_does_not_read_ends_with_its_container() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir /w");
    let mut stuck = watch(&daemon, id, "/w");
    assert_eq!(inotify_watches(&daemon), 1);
    let is_there = || daemon.thread_names().iter().any(|name| name.starts_with("ws-watch"));
    assert!(is_there());
    inside(id, "cd /w; for i in 1 2 3; do seq 20000 | xargs touch; rm -r /w/*; done");
    remove_container(&task_container(id));
    assert!(wait_until(SOON, || !is_there()), "{:?}", daemon.thread_names());
    assert_eq!(inotify_watches(&daemon), 0);
    // What it had to say is lost on one who never reads; the end is not.
    stuck.wait_end();
}

#[test]
fn end_of_a_container_removed_by_force_is_told() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut socket = watch(&daemon, id, "/tmp");
    remove_container(&task_container(id));
    until_error(&mut socket, "the container has ended");
    assert_eq!(socket.wait_close(), 1000);
}

#[test]
fn two_hundred_watches_half_of_them_reset_leave_nothing() {
    const SESSIONS: usize = 200;
    /// What an allocator may hold on to of 200 sessions after the second time.
    const MEMORY_SLACK_KB: u64 = 4096;
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir -p /w/a/b /w/c /w/d");
    let round = || {
        let sockets: Vec<Socket> = (0..SESSIONS).map(|_| watch(&daemon, id, "/w")).collect();
        let shared = inotify_watches(&daemon);
        sockets.iter().step_by(2).for_each(vanish);
        inside(id, ": > /w/a/b/f; rm /w/a/b/f");
        drop(sockets);
        shared
    };
    let counts = || (daemon.threads(), daemon.fds(), inotify_watches(&daemon));
    let at_rest = || {
        let mut before = counts();
        let rests = wait_until(SOON, || {
            sleep(Duration::from_secs(3));
            std::mem::replace(&mut before, counts()) == counts()
        });
        assert!(rests, "{before:?}");
        before
    };
    assert_eq!(round(), 5);
    let (before, memory_kb) = (at_rest(), daemon.anonymous_kb());
    assert_eq!(before.2, 0);
    assert_eq!(round(), 5);
    let after = at_rest();
    assert!(after.0 <= before.0 && after.1 <= before.1 && after.2 == 0, "{before:?} {after:?}");
    let now_kb = daemon.anonymous_kb();
    assert!(now_kb <= memory_kb + MEMORY_SLACK_KB, "{memory_kb} kB, now {now_kb}");
    println!("200 sessions: {before:?} {memory_kb} kB, then {after:?} {now_kb} kB");
}
