//! Watches on network file systems (design D8): what other machines change there is told, once, and a
//! share that hangs holds up nothing else.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::watch_rows::{inside, until_change, watch};
use crate::kit::{Daemon, RemoteShare, SOON, Socket, running, wait_until};

/// A few readings of the share: they are 2 s apart.
const READINGS: Duration = Duration::from_secs(7);

/// A share with `d/old` in it, at `/shared/net` of a running task.
#[track_caller]
fn house() -> (Daemon, RemoteShare, u64) {
    let daemon = Daemon::builder().start();
    let mount = daemon.shared_dir().join("shared_data/net");
    fs::create_dir_all(&mount).expect("a directory");
    let share = RemoteShare::over(&mount);
    share.make_dir("d");
    share.write("d/old");
    let id = running(&daemon, "sleep 600");
    (daemon, share, id)
}

/// A watch whose first reading of the share is over.
#[track_caller]
fn polled(daemon: &Daemon, share: &RemoteShare, id: u64) -> Socket {
    let before = share.readings();
    let socket = watch(daemon, id, "/shared");
    // Two directories: for their watches, and twice for what is in them.
    assert!(wait_until(SOON, || share.readings() >= before + 6), "{}", share.readings());
    socket
}

/// Everything up to the answer to a ping.
#[track_caller]
fn until_pong(socket: &mut Socket) -> Vec<Value> {
    socket.send_json(&json!({ "type": "ping" }));
    let mut heard = Vec::new();
    loop {
        let message = socket.next_json();
        if message["type"] == "pong" {
            return heard;
        }
        heard.push(message);
    }
}

fn polled_directories(daemon: &Daemon) -> String {
    let text = daemon.get("/metrics").expect(200).text();
    let line = text.lines().find(|line| line.starts_with("river_watch_polled "));
    line.expect("the gauge").rsplit(' ').next().expect("its figure").to_owned()
}

#[test]
fn what_other_machines_change_on_a_share_is_told_to_all_sessions_by_one_reading() {
    let (daemon, share, id) = house();
    let mut sockets = [polled(&daemon, &share, id), watch(&daemon, id, "/shared")];
    assert_eq!(polled_directories(&daemon), "1");
    share.make_dir("d/new");
    share.write("d/new/file");
    share.write("d/old");
    for socket in &mut sockets {
        assert_eq!(until_change(socket, "CREATE", "/shared/net/d/new")["is_dir"], true);
        until_change(socket, "MODIFY", "/shared/net/d/old");
    }
    share.remove("d");
    for socket in &mut sockets {
        until_change(socket, "DELETE", "/shared/net/d/new/file");
        assert_eq!(until_change(socket, "DELETE", "/shared/net/d")["is_dir"], true);
    }
    drop(sockets);
    assert!(wait_until(SOON, || polled_directories(&daemon) == "0"));
    let readings = share.readings();
    sleep(READINGS);
    assert_eq!(share.readings(), readings, "nobody watches it");
}

#[test]
fn what_this_machine_changes_on_a_share_is_told_once() {
    let (daemon, share, id) = house();
    let mut socket = polled(&daemon, &share, id);
    inside(id, "mkdir /shared/net/d/own");
    let before = share.readings();
    assert!(wait_until(SOON, || share.readings() >= before + 9), "three readings");
    let heard = until_pong(&mut socket);
    let own =
        json!({ "type": "change", "event": "CREATE", "path": "/shared/net/d/own", "is_dir": true });
    assert_eq!(heard, [own]);
}

#[test]
fn share_that_hangs_is_told_and_holds_up_no_session() {
    let (daemon, share, id) = house();
    let mut socket = polled(&daemon, &share, id);
    share.hang();
    let message = socket.next_json();
    assert_eq!(message["type"], "error", "{message}");
    let text = message["message"].as_str().expect("a text");
    assert!(text.contains("/shared/net does not answer"), "{text}");
    fs::write(daemon.shared_dir().join("shared_data/beside"), "").expect("a file");
    until_change(&mut socket, "CREATE", "/shared/beside");
    assert_eq!(until_pong(&mut socket), [Value::Null; 0]);
    let mut other = watch(&daemon, id, "/local_temp");
    inside(id, ": > /local_temp/f");
    until_change(&mut other, "CREATE", "/local_temp/f");
    share.go_on();
    share.write("d/late");
    until_change(&mut socket, "CREATE", "/shared/net/d/late");

    share.hang();
    daemon.control("kill", id).expect(200);
    for socket in [&mut socket, &mut other] {
        let mut last = Value::Null;
        while last["message"] != "the container has ended" {
            last = socket.next_json();
        }
        assert_eq!(socket.wait_close(), 1000);
    }
}
