//! `/ws/fs/{task_id}/watch` on real containers: what programs inside do is told to the peer, and
//! nothing of a session stays when it is over (contract 2.2, design D8).

use std::fs;

use nix::sys::inotify::AddWatchFlags;
use serde_json::{Value, json};

use crate::kit::{
    Daemon, SOON, Socket, docker, execute, execute_body, image, running, task_container, unique_id,
    wait_until, with,
};

/// A watch that is up.
pub fn watch(daemon: &Daemon, id: u64, paths: &str) -> Socket {
    let mut socket = daemon.socket(&format!("/ws/fs/{id}/watch?paths={paths}"));
    let first = socket.next_json();
    assert_eq!(first["type"], "watching", "{first}");
    socket
}

/// What a session hears when it can't watch: the message, and the close.
pub fn refused(daemon: &Daemon, path: &str) -> (String, u16) {
    let mut socket = daemon.socket(path);
    let message = socket.next_json();
    assert_eq!(message["type"], "error", "{message}");
    (message["message"].as_str().expect("a text").to_owned(), socket.wait_close())
}

pub fn inside(id: u64, script: &str) {
    docker(&["exec", &task_container(id), "sh", "-c", script]);
}

/// Reads on until this change is told.
#[track_caller]
pub fn until_change(socket: &mut Socket, event: &str, path: &str) -> Value {
    loop {
        let message = socket.next_json();
        assert_ne!(message["type"], "error", "{message}");
        if message["event"] == event && message["path"] == path {
            return message;
        }
    }
}

pub fn inotify_watches(daemon: &Daemon) -> usize {
    watches_of_instances(daemon).into_iter().sum()
}

/// The watches of each inotify instance that has some. Not those of tasks' output files, which come
/// and go with what a task writes and with its end: they ask for no new entries.
fn watches_of_instances(daemon: &Daemon) -> Vec<usize> {
    let fds = fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid())).expect("our child");
    let infos = fds.flatten().filter_map(|fd| fs::read_to_string(fd.path()).ok());
    let is_tree = |line: &&str| {
        let mask = line.split_whitespace().find_map(|field| field.strip_prefix("mask:"));
        let mask = mask.and_then(|mask| u32::from_str_radix(mask, 16).ok()).expect("a mask");
        mask & AddWatchFlags::IN_CREATE.bits() != 0
    };
    let watches = |info: &str| {
        info.lines().filter(|line| line.starts_with("inotify wd:")).filter(is_tree).count()
    };
    let counts = infos.map(|info| watches(&info));
    let mut counts: Vec<usize> = counts.filter(|count| *count > 0).collect();
    counts.sort_unstable();
    counts
}

/// How many directories a tree has.
fn walked(dir: &std::path::Path) -> usize {
    let below = fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path());
    1 + below.filter(|path| path.is_dir()).map(|path| walked(&path)).sum::<usize>()
}

#[test]
fn watch_tells_every_kind_of_change_made_inside() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir /w");
    let mut socket = watch(&daemon, id, "/w,/absent");
    inside(
        id,
        "mkdir /w/d; echo a > '/w/a b'; echo b >> '/w/a b'; mv '/w/a b' /w/c; rm /w/c; rmdir /w/d",
    );
    let dir = until_change(&mut socket, "CREATE", "/w/d");
    assert_eq!(dir, json!({"type": "change", "event": "CREATE", "path": "/w/d", "is_dir": true}));
    assert_eq!(until_change(&mut socket, "CREATE", "/w/a b")["is_dir"], false);
    until_change(&mut socket, "MODIFY", "/w/a b");
    until_change(&mut socket, "MOVE", "/w/c");
    until_change(&mut socket, "DELETE", "/w/c");
    assert_eq!(until_change(&mut socket, "DELETE", "/w/d")["is_dir"], true);
}

#[test]
fn watching_names_the_paths_that_are_directories_in_the_order_they_were_asked_for() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut socket = daemon
        .socket(&format!("/ws/fs/{id}/watch?paths=/local_temp,/nowhere,%20/shared%20,/etc/passwd"));
    let expected =
        json!({ "type": "watching", "paths": ["/local_temp", "/shared"], "method": "inotify" });
    assert_eq!(socket.next_json(), expected);
    let mut default = daemon.socket(&format!("/ws/fs/{id}/watch"));
    let expected =
        json!({ "type": "watching", "paths": ["/shared", "/local_temp"], "method": "inotify" });
    assert_eq!(default.next_json(), expected);
}

#[test]
fn change_made_on_the_host_side_of_a_mount_is_told() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut socket = watch(&daemon, id, "/local_temp");
    fs::write(std::path::Path::new(daemon.setting("local_temp_dir")).join("from-host"), "x")
        .expect("a file");
    until_change(&mut socket, "CREATE", "/local_temp/from-host");
}

#[test]
fn file_of_the_image_that_is_changed_for_the_first_time_is_told() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut socket = watch(&daemon, id, "/etc");
    inside(id, "echo 'x:x:7:7::/:' >> /etc/passwd");
    let message = socket.next_json();
    assert_eq!((&message["type"], &message["path"]), (&json!("change"), &json!("/etc/passwd")));
}

#[test]
fn files_in_directories_made_in_one_breath_are_all_told() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(id, "mkdir /w");
    let mut socket = watch(&daemon, id, "/w");
    inside(id, "for i in 1 2 3 4 5 6 7 8 9; do mkdir -p /w/a$i/b/c; : > /w/a$i/b/c/f; done");
    let mut missing: Vec<String> = (1..10).map(|i| format!("/w/a{i}/b/c/f")).collect();
    while !missing.is_empty() {
        let message = socket.next_json();
        assert_eq!(message["type"], "change", "{message}");
        missing.retain(|path| message["path"] != *path);
    }
}

#[test]
fn ping_is_answered_and_nonsense_is_not() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut socket = watch(&daemon, id, "/shared");
    socket.send(tungstenite::Message::text("no json"));
    socket.send(tungstenite::Message::binary(vec![0, 1]));
    socket.send_json(&json!({ "type": "dance" }));
    socket.send_json(&json!({ "type": "ping" }));
    assert_eq!(socket.next_json(), json!({ "type": "pong" }));
}

#[test]
fn watch_that_can_not_be_had_is_one_error_and_an_ordinary_close() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let (message, code) = refused(&daemon, "/ws/fs/7/watch");
    assert!(message.contains('7'), "{message}");
    assert_eq!(code, 1000);
    let (_, code) = refused(&daemon, &format!("/ws/fs/{id}/watch?paths=/nowhere"));
    assert_eq!(code, 1000);
    let over = execute(&daemon, "true");
    daemon.wait_over(over);
    let (_, code) = refused(&daemon, &format!("/ws/fs/{over}/watch"));
    assert_eq!(code, 1000);
    assert_eq!(Socket::try_open(daemon.socket_address(), "/ws/fs/x/watch").unwrap_err(), 403);
}

#[test]
fn watch_ends_with_its_container() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut socket = watch(&daemon, id, "/tmp,/shared");
    daemon.control("kill", id).expect(200);
    let message = socket.next_json();
    assert_eq!(
        (&message["type"], &message["message"]),
        (&json!("error"), &json!("the container has ended"))
    );
    assert_eq!(socket.wait_close(), 1000);
    daemon.wait_status(id, "killed");
}

#[test]
fn link_to_outside_leads_to_the_containers_own_root() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    inside(
        id,
        "mkdir /own; ln -s / /root-link; ln -s /proc/1/root/own /magic; ln -s ../../../../own /up",
    );
    let mut socket = daemon.socket(&format!("/ws/fs/{id}/watch?paths=/magic,/up,/../../../own"));
    assert_eq!(socket.next_json()["paths"], json!(["/up", "/../../../own"]));
    inside(id, ": > /own/f");
    assert_eq!(socket.next_json()["path"], "/up/f");
}

#[test]
fn user_of_the_image_watches_what_he_may_read() {
    let daemon = Daemon::builder().start();
    let body = with(
        execute_body(&daemon, unique_id(), "sleep 600"),
        json!({ "registry_image": image("debian-worker") }),
    );
    let id = daemon.submit(&body);
    daemon.wait_status(id, "running");
    docker(&[
        "exec",
        "-u",
        "0",
        &task_container(id),
        "sh",
        "-c",
        "mkdir -m 700 /closed /closed/in; mkdir -m 755 /open",
    ]);
    let mut socket = daemon.socket(&format!("/ws/fs/{id}/watch?paths=/closed/in,/open"));
    assert_eq!(socket.next_json()["paths"], json!(["/open"]));
}

#[test]
fn twenty_sessions_on_a_container_share_their_watches_and_leave_none() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let neighbour = running(&daemon, "sleep 600");
    inside(id, "mkdir -p /w/a /w/b /w/c");
    let mut sockets: Vec<Socket> = (0..20).map(|_| watch(&daemon, id, "/w")).collect();
    assert!(wait_until(SOON, || inotify_watches(&daemon) == 4));
    inside(id, ": > /w/b/f");
    for socket in &mut sockets {
        until_change(socket, "CREATE", "/w/b/f");
    }
    assert_eq!(watches_of_instances(&daemon), [4]);
    // Another container shares what both have mounted.
    let shared =
        (0..2).map(|_| [watch(&daemon, id, "/shared"), watch(&daemon, neighbour, "/shared")]);
    let shared: Vec<_> = shared.collect();
    let directories = walked(&daemon.shared_dir().join("shared_data"));
    assert!(wait_until(SOON, || watches_of_instances(&daemon) == [4 + directories]));
    drop((sockets, shared));
    assert!(wait_until(SOON, || inotify_watches(&daemon) == 0));
}

#[test]
fn two_hundred_watches_dropped_rudely_leave_no_thread_descriptor_or_watch() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let counts = || {
        let entries = |what: &str| {
            fs::read_dir(format!("/proc/{}/{what}", daemon.pid())).expect("our child").count()
        };
        (entries("task"), entries("fd"), inotify_watches(&daemon))
    };
    // Every thread has worked once.
    watch(&daemon, id, "/etc,/shared").leave();
    let mut before = counts();
    let settled = wait_until(SOON, || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        std::mem::replace(&mut before, counts()) == counts()
    });
    assert!(settled);
    drop((0..200).map(|_| watch(&daemon, id, "/etc,/shared")).collect::<Vec<_>>());
    assert!(
        wait_until(SOON, || {
            let now = counts();
            now.0 <= before.0 && now.1 <= before.1 && now.2 == before.2
        }),
        "{before:?} {:?}",
        counts()
    );
}
