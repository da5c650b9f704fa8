//! Terminals that come back: `?session=` and `&offset=`.

use serde_json::{Value, json};
use tungstenite::Message;

use super::{Terminal, metric, processes};
use crate::kit::{Daemon, SOON, Socket, docker, running, task_container, wait_until};

/// What is kept of a session's output (issue 4).
const KEPT_BYTES: u64 = 256 * 1024;

/// A terminal of a name, and how it was attached.
#[track_caller]
fn attach(daemon: &Daemon, id: u64, query: &str) -> (Terminal, Value) {
    let mut socket = daemon.socket(&format!("/ws/task/{id}/terminal?session={query}"));
    let attached = socket.next_json();
    assert_eq!(attached["type"], "attached", "{attached}");
    (Terminal { socket, said: String::new() }, attached)
}

fn attached(session: &str, offset: u64, lost: u64) -> Value {
    json!({ "type": "attached", "session": session, "offset": offset, "lost": lost })
}

/// The goodbye's code and reason.
#[track_caller]
fn goodbye(socket: &mut Socket) -> (u16, String) {
    loop {
        if let Message::Close(frame) = socket.next() {
            let frame = frame.expect("a code");
            return (frame.code.into(), frame.reason.as_str().to_owned());
        }
    }
}

#[track_caller]
fn wait_kept(daemon: &Daemon, count: u64) {
    assert!(wait_until(SOON, || metric(daemon, "river_terminals_kept") == count));
}

#[test]
fn peer_that_comes_back_finds_its_shell_and_all_that_it_has_missed() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let (mut first, told) = attach(&daemon, id, "my-tab_1");
    assert_eq!(told, attached("my-tab_1", 0, 0));
    first.enter("mine=4711; (sleep 1; echo wh''ile; echo done > /tmp/done) &\n");
    first.until("\n");
    let seen = first.said.len() as u64;
    let said = first.said.clone();
    first.reset();
    wait_kept(&daemon, 1);
    docker(&[
        "exec",
        &task_container(id),
        "sh",
        "-c",
        "until test -s /tmp/done; do sleep 0.1; done",
    ]);
    let (mut second, told) = attach(&daemon, id, &format!("my-tab_1&offset={seen}"));
    assert_eq!(told, attached("my-tab_1", seen, 0));
    second.until("while");
    second.enter("echo $mine$mine\n");
    second.until("47114711");
    assert_eq!(metric(&daemon, "river_terminals_kept"), 0);
    let said = said + &second.said;
    second.socket.leave();
    wait_kept(&daemon, 1);
    // All that is kept, in the order in which it was said.
    let (mut third, told) = attach(&daemon, id, "my-tab_1");
    assert_eq!(told, attached("my-tab_1", 0, 0));
    third.until(&said);
    assert!(third.said.starts_with(&said));
}

#[test]
fn peer_that_closes_with_1000_means_not_to_come_back() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let (mut terminal, _) = attach(&daemon, id, "mine");
    terminal.enter("mine=4711; echo re''ady\n");
    terminal.until("ready");
    terminal.socket.say_goodbye(1000);
    terminal.socket.wait_end();
    assert!(wait_until(SOON, || metric(&daemon, "river_terminals") == 0));
    let (mut fresh, told) = attach(&daemon, id, "mine");
    assert_eq!(told, attached("mine", 0, 0));
    fresh.enter("echo =$mine=\n");
    fresh.until("==");
}

#[test]
fn shell_without_a_peer_is_not_held_up_and_only_the_end_of_what_it_says_is_kept() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let (mut terminal, _) = attach(&daemon, id, "flood");
    terminal
        .enter("PS1=; stty -echo -onlcr; echo GO''NE; sleep 1; seq 1 300000; echo x > /tmp/done\n");
    terminal.until("GONE\n");
    let seen = terminal.said.len() as u64;
    terminal.reset();
    wait_kept(&daemon, 1);
    docker(&[
        "exec",
        &task_container(id),
        "sh",
        "-c",
        "until test -s /tmp/done; do sleep 0.1; done",
    ]);
    let (mut terminal, told) = attach(&daemon, id, &format!("flood&offset={seen}"));
    let (offset, lost) = (told["offset"].as_u64().unwrap(), told["lost"].as_u64().unwrap());
    assert_eq!(offset - lost, seen);
    terminal.until("300000\n");
    let numbers: Vec<u64> =
        terminal.said.lines().skip(1).map(|line| line.parse().expect("a number")).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(terminal.said.len() as u64, KEPT_BYTES);
    let whole: u64 = (1..=300_000_u64).map(|number| number.to_string().len() as u64 + 1).sum();
    assert_eq!(offset + KEPT_BYTES, seen + whole);
}

#[test]
fn second_peer_takes_over_and_the_first_is_told() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let (mut first, _) = attach(&daemon, id, "one");
    first.enter("mine=4711\n");
    first.until("\n");
    let (mut second, _) = attach(&daemon, id, "one");
    assert_eq!(goodbye(&mut first.socket), (1000, "taken over".to_owned()));
    second.enter("echo $mine$mine\n");
    second.until("47114711");
    assert_eq!(metric(&daemon, "river_terminals"), 1);
}

#[test]
fn many_who_want_one_session_get_it_one_after_another() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let (mut terminal, _) = attach(&daemon, id, "one");
    terminal.enter("mine=4711\n");
    terminal.until("\n");
    let peers: Vec<Socket> =
        (0..8).map(|_| daemon.socket(&format!("/ws/task/{id}/terminal?session=one"))).collect();
    let closed = peers.into_iter().map(|mut socket| {
        assert_eq!(socket.next_json()["type"], "attached");
        socket
    });
    drop(closed.collect::<Vec<_>>());
    let (mut last, _) = attach(&daemon, id, "one");
    last.enter("echo $mine$mine\n");
    last.until("47114711");
    assert_eq!(metric(&daemon, "river_terminals"), 1);
}

#[test]
fn sessions_of_other_names_and_other_tasks_are_others() {
    let daemon = Daemon::builder().start();
    let (one, two) = (running(&daemon, "sleep 600"), running(&daemon, "sleep 600"));
    let (mut first, _) = attach(&daemon, one, "a");
    first.enter("mine=4711\n");
    for (id, name) in [(one, "b"), (two, "a")] {
        let (mut other, told) = attach(&daemon, id, name);
        assert_eq!(told, attached(name, 0, 0));
        other.enter("echo $mine:no''ne\n");
        other.until("\n:none");
    }
    first.enter("echo $mine$mine\n");
    first.until("47114711");
}

#[test]
fn session_ends_with_its_shell_and_its_name_is_free() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let (mut terminal, _) = attach(&daemon, id, "a");
    terminal.enter("exit\n");
    assert_eq!(goodbye(&mut terminal.socket).0, 1000);
    // Also while nobody is there.
    let (mut terminal, told) = attach(&daemon, id, "a&offset=1000000");
    assert_eq!(told, attached("a", 0, 0));
    terminal.enter("sleep 1; exit\n");
    terminal.until("\n");
    terminal.reset();
    assert!(wait_until(SOON, || metric(&daemon, "river_terminals") == 0));
    assert_eq!(attach(&daemon, id, "a").1, attached("a", 0, 0));
}

#[test]
fn session_without_a_peer_ends_with_its_container() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    attach(&daemon, id, "a").0.reset();
    wait_kept(&daemon, 1);
    docker(&["kill", &task_container(id)]);
    wait_kept(&daemon, 0);
    assert_eq!(metric(&daemon, "river_terminals"), 0);
}

#[test]
fn stop_of_the_runner_ends_sessions_without_a_peer() {
    let mut daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let (mut terminal, _) = attach(&daemon, id, "a");
    terminal.enter("(trap '' HUP; sleep 1008) &\n");
    assert!(wait_until(SOON, || processes(id).contains("sleep 1008")));
    terminal.reset();
    wait_kept(&daemon, 1);
    daemon.stop();
    assert!(!processes(id).contains("sleep 1008"), "{}", processes(id));
}

#[test]
fn name_or_offset_that_is_none_is_refused_at_the_handshake() {
    let daemon = Daemon::builder().start();
    let long = "x".repeat(65);
    for query in ["session=", "session=a%20b", &format!("session={long}"), "session=a&offset=-1"] {
        let path = format!("/ws/task/7/terminal?{query}");
        assert_eq!(Socket::try_open(daemon.socket_address(), &path).unwrap_err(), 400, "{query}");
    }
}
