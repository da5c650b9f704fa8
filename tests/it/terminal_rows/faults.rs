//! Terminals and an Engine that hangs, loses answers or dies; and a runner that is killed: no shell
//! is left behind.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use river_runner::limits::{TERMINAL_OPEN_DEADLINE, TERMINAL_START_PATIENCE};
use serde_json::json;

use super::{Terminal, metric, processes, refused};
use crate::kit::{
    Behaviour, Daemon, EngineProxy, OwnEngine, SOON, docker, execute_body, running, task_container,
    unique_id, wait_until, with,
};

/// Whether the task's own process is the only one in its container.
fn is_alone(id: u64) -> bool {
    // One line is the heading.
    processes(id).lines().count() == 2
}

#[track_caller]
fn wait_alone(daemon: &Daemon, id: u64) {
    assert!(wait_until(SOON, || is_alone(id)), "{}", processes(id));
    assert!(wait_until(SOON, || metric(daemon, "river_terminals") == 0));
}

#[test]
fn shell_whose_start_was_not_answered_is_ended() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let id = running(&daemon, "sleep 600");
    engine.on("POST", "/exec/*/start", Behaviour::LoseReply);
    assert_eq!(refused(&daemon, id).1, 1011);
    wait_alone(&daemon, id);
    engine.clear();
    engine.on("POST", "/exec/*/start", Behaviour::HangReply);
    let since = Instant::now();
    let (message, code) = refused(&daemon, id);
    assert!(since.elapsed() < TERMINAL_OPEN_DEADLINE + SOON);
    assert!(message.contains("start exec"), "{message}");
    assert_eq!((code, engine.calls("POST /exec/*/start")), (1011, 2));
    engine.release();
    wait_alone(&daemon, id);
}

#[test]
fn shell_that_the_engine_does_not_name_is_ended_by_its_mark() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let id = running(&daemon, "sleep 600");
    let unseen = json!({ "ID": "x", "Running": false, "Pid": 0, "ExitCode": null });
    engine.on("GET", "/exec/*/json", Behaviour::Reply(200, unseen));
    let since = Instant::now();
    assert_eq!(refused(&daemon, id).1, 1011);
    assert!(since.elapsed() < TERMINAL_START_PATIENCE + SOON);
    wait_alone(&daemon, id);
}

#[test]
fn engine_that_hangs_at_the_creation_is_an_error_within_its_deadline() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let id = running(&daemon, "sleep 600");
    engine.on("POST", "/containers/*/exec", Behaviour::Hang);
    let since = Instant::now();
    assert_eq!(refused(&daemon, id).1, 1011);
    assert!(since.elapsed() < TERMINAL_OPEN_DEADLINE + SOON);
    engine.clear();
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("echo a''b\n");
    terminal.until("ab\r\n");
}

#[test]
fn connection_that_the_engine_ends_before_the_shell_has_ended_is_an_error() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let id = running(&daemon, "sleep 600");
    let mut terminal = Terminal::open(&daemon, id);
    // One that is left alone by its input's end.
    terminal.enter("trap '' HUP; echo a''b; sleep 600\n");
    terminal.until("ab\r\n");
    engine.cut("POST /exec/*/start");
    let (message, code) = terminal.last_word();
    assert!(message.contains("broke") && code == 1011, "{message} {code}");
    wait_alone(&daemon, id);
}

/// Processor time of the runner, in hundredths of a second.
fn processor_time(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..].split_whitespace().collect();
    // The first of these is the third of the file: utime and stime (proc(5)).
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn stream_that_ends_while_the_peer_does_not_read_costs_nothing_and_is_told_later() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let id = running(&daemon, "sleep 600");
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("yes abcdefghijklmnopqrstuvwxyz\n");
    let mut before = 0;
    let is_clogged = || {
        sleep(Duration::from_millis(300));
        let now = processor_time(&daemon);
        now - std::mem::replace(&mut before, now) <= 1
    };
    assert!(wait_until(SOON, is_clogged));
    engine.cut("POST /exec/*/start");
    let before = processor_time(&daemon);
    sleep(Duration::from_secs(2));
    let used = processor_time(&daemon) - before;
    assert!(used < 40, "{used} hundredths of a second in two");
    // The Engine may hang the shell up when it has nobody left to give its output to.
    assert!([1000, 1011].contains(&terminal.socket.wait_close()));
    wait_alone(&daemon, id);
}

#[test]
fn killed_runner_finds_its_shells_at_the_next_start_and_leaves_everybody_elses() {
    let mut daemon = Daemon::builder().start();
    // A mark that only its owner can have given it.
    let mark = json!({ "RIVER_TERMINAL": format!("{}/7", daemon.node_id()) });
    let body = execute_body(&daemon, unique_id(), "sleep 600");
    let id = daemon.submit(&with(body, json!({ "env_vars": mark })));
    daemon.wait_status(id, "running");
    let container = task_container(id);
    docker(&["exec", "-d", &container, "sleep", "1011"]);
    docker(&["exec", "-dt", &container, "sh", "-c", "sleep 1012; true"]);
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("sleep 1013 & (trap '' HUP; sleep 1014) & setsid sh -c 'sleep 1015; true' &\n");
    let has = |seconds: &str| processes(id).contains(&format!("sleep {seconds}"));
    let all = ["1011", "1012", "1013", "1014", "1015"];
    assert!(wait_until(SOON, || all.iter().all(|job| has(job))), "{}", processes(id));
    daemon.kill9();
    daemon.restart();
    assert!(wait_until(SOON, || !has("1013") && !has("1014")), "{}", processes(id));
    let mut stays = Terminal::open(&daemon, id);
    // Looked for twice more, the second time 4 s after the first.
    sleep(Duration::from_secs(6));
    assert!(["1011", "1012", "1015", "600"].iter().all(|job| has(job)), "{}", processes(id));
    stays.enter("echo a''b\n");
    stays.until("ab\r\n");
}

#[test]
fn engine_restart_ends_open_terminals_with_a_word_and_new_ones_are_had_after_it() {
    let mut engine = OwnEngine::start(&["busybox"]);
    let daemon = Daemon::builder().own_engine(&engine).start();
    for is_killed in [false, true] {
        let id = running(&daemon, "sleep 600");
        let mut terminal = Terminal::open(&daemon, id);
        terminal.enter("echo a''b\n");
        terminal.until("ab\r\n");
        let mut watch = daemon.socket(&format!("/ws/fs/{id}/watch?paths=/tmp"));
        assert_eq!(watch.next_json()["type"], "watching");
        if is_killed {
            engine.kill9()
        } else {
            engine.stop()
        }
        let (message, code) = terminal.last_word();
        // Stopped, it ends its containers first; killed, it leaves them to its next life.
        let expected = match is_killed {
            false => ("the container has ended", 1000),
            true => ("the Engine's connection to the terminal broke", 1011),
        };
        assert!(message.starts_with(expected.0) && code == expected.1, "{message} {code}");
        engine.start_again();
        let message = watch.next_json();
        assert_eq!(message["message"], "the container has ended", "{message}");
        assert_eq!(watch.wait_close(), 1000);
        let again = running(&daemon, "sleep 600");
        let mut terminal = Terminal::open(&daemon, again);
        terminal.enter("echo a''b\n");
        terminal.until("ab\r\n");
        assert!(wait_until(SOON, || metric(&daemon, "river_terminals") == 1));
    }
}
