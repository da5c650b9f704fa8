//! `shell`, at a terminal and in a pipe. Faults come from a runner made of paper.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

use super::fake::{FakeRunner, Request, reply};
use super::pty::Pty;
use super::{client, of, program, status_of, text};
use crate::kit::{Daemon, SOON, docker, running, task_container, unique_id, wait_until};

// ── faults ───────────────────────────────────────────────────────────────────────────────────

type Socket<'a> = WebSocket<&'a mut TcpStream>;

/// A runner whose terminals do what a test says.
fn terminals(attend: impl Fn(&mut Socket<'_>) + Send + Sync + 'static) -> FakeRunner {
    FakeRunner::start(move |request, caller| {
        accept(request, caller);
        attend(&mut WebSocket::from_raw_socket(caller, Role::Server, None));
    })
}

fn accept(request: &Request, caller: &mut TcpStream) {
    let key = request.head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let accepted = derive_accept_key(key.unwrap().as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accepted}\r\n\r\n"
    );
    caller.write_all(head.as_bytes()).unwrap();
}

fn tell(socket: &mut Socket<'_>, message: &Value) {
    let _ = socket.send(Message::text(message.to_string()));
}

fn greet(socket: &mut Socket<'_>) {
    tell(socket, &json!({"type": "output", "data": ""}));
}

fn close(socket: &mut Socket<'_>, code: u16) {
    let _ = socket.close(Some(CloseFrame { code: CloseCode::from(code), reason: "".into() }));
    listen(socket);
}

/// Reads until the caller is gone.
fn listen(socket: &mut Socket<'_>) {
    while socket.read().is_ok() {}
}

fn shell(runner: &FakeRunner) -> Command {
    let mut command = program(&["shell", "7"]);
    command.env("RIVER_URL", &runner.url);
    command
}

#[test]
fn shell_that_is_refused_says_why_and_leaves_the_terminal_alone() {
    let runner = terminals(|socket| {
        tell(socket, &json!({"type": "error", "data": "task 7 is not \u{1b}[2Jrunning"}));
        close(socket, 1008);
    });
    let mut pty = Pty::start(&shell(&runner));
    assert_eq!(pty.wait_end().code(), Some(1));
    pty.wait_shown_alone("river-runner: task 7 is not [2Jrunning\r\n");
}

#[test]
fn refused_handshake_reads_as_all_refusals() {
    let runner = FakeRunner::start(|_, caller| {
        reply(caller, 403, &json!({"detail": "callers by name are refused"}));
    });
    let output = client(&runner, &["shell", "7"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "river-runner: callers by name are refused (status 403)\n");
}

#[test]
fn token_is_shown_in_the_handshake() {
    let runner = terminals(|socket| close(socket, 1000));
    let mut command = shell(&runner);
    assert!(command.env("RIVER_API_TOKEN", "sesame").status().unwrap().success());
    runner.seen.wait_for("GET /ws/task/7/terminal", |request| {
        assert!(request.head.contains("\r\nAuthorization: Bearer sesame\r\n"));
    });
}

#[test]
fn answer_that_is_no_websocket_is_not_taken_for_one() {
    let runner = FakeRunner::start(|_, caller| {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n";
        caller.write_all(head).unwrap();
    });
    let output = client(&runner, &["shell", "7"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("does not speak"), "{}", text(&output.stderr));
}

#[test]
fn runner_that_is_lost_gives_the_terminal_back_and_is_an_error() {
    let go = Arc::new(Mutex::new(()));
    let held = go.lock().unwrap();
    let wait = Arc::clone(&go);
    let runner = terminals(move |socket| {
        greet(socket);
        drop(wait.lock());
    });
    let mut pty = Pty::start(&shell(&runner));
    pty.wait_raw();
    drop(held);
    assert_eq!(pty.wait_end().code(), Some(1));
    pty.wait_shown("the connection to the runner broke", 1);
}

#[test]
fn runner_that_closes_before_the_shell_ends_is_an_error() {
    let runner = terminals(|socket| {
        greet(socket);
        close(socket, 1001);
    });
    let mut pty = Pty::start(&shell(&runner));
    assert_eq!(pty.wait_end().code(), Some(1));
    pty.wait_shown("the runner closed the terminal (code 1001)", 1);
}

#[test]
fn signals_give_the_terminal_back() {
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
        (Signal::SIGINT, 130),
        (Signal::SIGQUIT, 131),
    ] {
        let runner = terminals(|socket| {
            greet(socket);
            listen(socket);
        });
        let mut pty = Pty::start(&shell(&runner));
        pty.wait_raw();
        pty.signal(signal);
        assert_eq!(pty.wait_end().code(), Some(code), "{signal}");
    }
}

#[test]
fn ctrl_c_leaves_a_runner_that_does_not_speak() {
    let runner = terminals(listen);
    let mut pty = Pty::start(&shell(&runner));
    runner.seen.wait_for("GET /ws/task/7/terminal", |_| ());
    pty.type_keys("\u{3}");
    // As soon as it waits for messages it ends by itself, before that by the signal.
    let status = pty.wait_end();
    assert!(status.code() == Some(130) || status.signal() == Some(2), "{status}");
}

#[test]
fn last_output_is_shown_however_slowly_it_is_read() {
    let runner = terminals(|socket| {
        greet(socket);
        for _ in 0..40 {
            tell(socket, &json!({"type": "output", "data": "x".repeat(50_000)}));
        }
        close(socket, 1000);
    });
    let mut command = shell(&runner);
    command.stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout.len(), 40 * 50_000);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn stdout_that_nobody_reads_does_not_keep_a_signal_away() {
    let runner = terminals(|socket| {
        greet(socket);
        for _ in 0..100 {
            tell(socket, &json!({"type": "output", "data": "x".repeat(50_000)}));
        }
        listen(socket);
    });
    let mut command = shell(&runner);
    command.stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Held, and never read.
    let _stdout = child.stdout.take();
    std::thread::sleep(Duration::from_millis(300));
    super::interrupt(&child);
    assert_eq!(status_of(child).code(), Some(130));
}

#[test]
fn first_message_is_the_size_and_a_new_size_is_told() {
    let heard = Arc::new(Mutex::new(Vec::<Value>::new()));
    let into = Arc::clone(&heard);
    let runner = terminals(move |socket| {
        greet(socket);
        while let Ok(Message::Text(text)) = socket.read() {
            into.lock().unwrap().push(serde_json::from_str(&text).unwrap());
        }
    });
    let pty = Pty::start(&shell(&runner));
    pty.wait_raw();
    pty.resize(40, 120);
    let all = || heard.lock().unwrap().clone();
    assert!(wait_until(SOON, || all().len() >= 2), "{:?}", all());
    assert_eq!(all()[0], json!({"type": "resize", "rows": 30, "cols": 100}));
    assert_eq!(all()[1], json!({"type": "resize", "rows": 40, "cols": 120}));
}

/// A runner that keeps shells: it tells of the session at this byte of its output, says something
/// and loses the connection, and when the session is asked for again does `attend`.
fn keeper(attend: impl Fn(&mut Socket<'_>) + Send + Sync + 'static) -> FakeRunner {
    FakeRunner::start(move |request, caller| {
        accept(request, caller);
        let mut socket = WebSocket::from_raw_socket(caller, Role::Server, None);
        if request.path.contains("&offset=") {
            attend(&mut socket);
        } else {
            tell(&mut socket, &attached(0, 0));
            tell(&mut socket, &json!({"type": "output", "data": "on\u{e9}"}));
            // Closed with something unread, the connection would take along what was said.
            let _ = socket.get_ref().shutdown(Shutdown::Write);
            listen(&mut socket);
        }
    })
}

fn attached(offset: u64, lost: u64) -> Value {
    json!({"type": "attached", "session": "x", "offset": offset, "lost": lost})
}

#[test]
fn shell_that_is_kept_is_come_back_to_behind_what_was_seen() {
    let runner = keeper(|socket| {
        tell(socket, &attached(4, 0));
        tell(socket, &json!({"type": "output", "data": "two"}));
        close(socket, 1000);
    });
    let mut pty = Pty::start(&shell(&runner));
    assert_eq!(pty.wait_end().code(), Some(0));
    pty.wait_shown("two", 1);
    let shown = pty.shown();
    assert!(shown.starts_with("on\u{e9}\r\nriver-runner: the connection is lost; "), "{shown:?}");
    let path = |request: &Request| request.path.clone();
    let first = runner.seen.wait_for("GET /ws/task/7/terminal", path);
    let session = first.split_once("?session=").unwrap().1;
    assert!(session.len() == 32 && session.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert!(runner.seen.has(&format!("GET {first}&offset=4")));
}

#[test]
fn output_that_was_not_kept_is_said() {
    let runner = keeper(|socket| {
        tell(socket, &attached(9, 5));
        close(socket, 1000);
    });
    let mut pty = Pty::start(&shell(&runner));
    assert_eq!(pty.wait_end().code(), Some(0));
    pty.wait_shown("river-runner: 5 bytes of output are lost\r\n", 1);
}

#[test]
fn other_shell_than_the_one_that_was_lost_is_not_typed_into() {
    for other in [attached(0, 0), json!({"type": "output", "data": ""})] {
        let runner = keeper(move |socket| {
            tell(socket, &other);
            listen(socket);
        });
        let mut pty = Pty::start(&shell(&runner));
        assert_eq!(pty.wait_end().code(), Some(1));
        pty.wait_shown("the shell has ended while the connection was lost", 1);
    }
}

#[test]
fn refused_way_back_ends_with_the_runners_words() {
    let runner = keeper(|socket| {
        tell(socket, &json!({"type": "error", "data": "task 7 is not running"}));
        close(socket, 1008);
    });
    let mut pty = Pty::start(&shell(&runner));
    assert_eq!(pty.wait_end().code(), Some(1));
    pty.wait_shown("river-runner: task 7 is not running", 1);
}

#[test]
fn nobody_has_to_wait_for_a_runner_that_does_not_come_back() {
    let calls = Arc::new(Mutex::new(0));
    let runner = FakeRunner::start(move |request, caller| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        if *calls > 1 {
            return reply(caller, 503, &json!({"detail": "busy"}));
        }
        accept(request, caller);
        tell(&mut WebSocket::from_raw_socket(caller, Role::Server, None), &attached(0, 0));
    });
    let mut pty = Pty::start(&shell(&runner));
    pty.wait_shown("the connection is lost", 1);
    assert!(wait_until(SOON, || runner.seen.count("GET /ws/task/7/terminal") > 2));
    pty.type_keys("x\u{3}");
    assert_eq!(pty.wait_end().code(), Some(130));
}

#[test]
fn lines_from_a_pipe_are_for_one_connection() {
    let runner = keeper(listen);
    let mut command = shell(&runner);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(runner.seen.count("GET /ws/task/7/terminal"), 1);
    assert!(!runner.seen.has("GET /ws/task/7/terminal?"));
}

// ── on the real thing ────────────────────────────────────────────────────────────────────────

fn shell_in(daemon: &Daemon, id: u64) -> Command {
    of(daemon, &["shell", &id.to_string()])
}

/// How many shells the task has beside its own.
fn shells(id: u64) -> usize {
    let top = docker(&["top", &task_container(id), "-eo", "pid,args"]);
    let commands = top.lines().filter_map(|line| line.trim().split_once(' '));
    commands.filter(|(_, words)| matches!(words.trim(), "/bin/sh" | "sh")).count()
}

#[test]
fn person_types_resizes_and_leaves_by_exit() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    let mut pty = Pty::start(&shell_in(&daemon, id));
    pty.wait_raw();
    pty.type_keys("echo o''ne\r");
    pty.wait_shown("one\r\n", 1);
    // A size is told to the Engine beside all else.
    let when_it_is = |size: &str, then: &str| {
        format!("until [ \"$(stty size)\" = '{size}' ]; do sleep 0.1; done; echo {then}\r")
    };
    pty.type_keys(&when_it_is("30 100", "fi''rst"));
    pty.wait_shown("first\r\n", 1);
    pty.resize(41, 121);
    pty.type_keys(&when_it_is("41 121", "sec''ond"));
    pty.wait_shown("second\r\n", 1);
    // To the shell, not to us.
    pty.type_keys("echo r''eady; sleep 100\r");
    pty.wait_shown("ready", 1);
    pty.type_keys("\u{3}");
    pty.type_keys("echo t''wo\r");
    pty.wait_shown("two", 1);
    pty.type_keys("exit 3\r");
    assert_eq!(pty.wait_end().code(), Some(0));
}

#[test]
fn tilde_and_dot_leave_and_end_the_shell() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    let mut pty = Pty::start(&shell_in(&daemon, id));
    pty.wait_raw();
    pty.type_keys("echo o''ne\r");
    pty.wait_shown("one", 1);
    assert_eq!(shells(id), 1);
    pty.type_keys("~.");
    assert_eq!(pty.wait_end().code(), Some(1));
    assert!(wait_until(SOON, || shells(id) == 0), "the shell is still there");
}

#[test]
fn stop_and_continuation_give_the_terminal_back_and_take_it_again() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    let mut pty = Pty::start(&shell_in(&daemon, id));
    pty.wait_raw();
    pty.signal(Signal::SIGTSTP);
    assert!(wait_until(SOON, || !pty.is_raw()));
    pty.signal(Signal::SIGCONT);
    pty.wait_raw();
    pty.type_keys("echo o''ne; exit\r");
    pty.wait_shown("one", 1);
    assert_eq!(pty.wait_end().code(), Some(0));
}

#[test]
fn death_of_the_runner_gives_the_terminal_back() {
    let mut daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    let mut pty = Pty::start(&shell_in(&daemon, id));
    pty.wait_raw();
    daemon.kill9();
    assert_eq!(pty.wait_end().code(), Some(1));
}

#[test]
fn lines_from_a_pipe_are_typed_and_its_end_ends_the_shell() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    let mut command = shell_in(&daemon, id);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The last line has no end.
    let lines = b"echo $((6 * 7))\nstty size\necho l''ast";
    child.stdin.take().unwrap().write_all(lines).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stdout);
    for line in ["42", "24 80", "last"] {
        assert!(said.contains(&format!("\n{line}\r\n")), "{line}: {said:?}");
    }
}

#[test]
fn end_of_input_reaches_the_shell_behind_a_program_that_took_it() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    let mut command = shell_in(&daemon, id);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"cat").unwrap();
    assert_eq!(status_of(child).code(), Some(0));
}

#[test]
fn shell_of_a_task_that_is_not_there_says_so() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    daemon.control("kill", id);
    daemon.wait_over(id);
    for id in [id, unique_id()] {
        let output = shell_in(&daemon, id).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(&id.to_string()), "{}", text(&output.stderr));
    }
}

#[test]
fn image_without_a_shell_is_said() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    docker(&["exec", &task_container(id), "rm", "-f", "/bin/sh", "/bin/bash"]);
    let output = shell_in(&daemon, id).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    assert!(text(&output.stderr).contains("/bin/sh"), "{}", text(&output.stderr));
}

#[test]
fn shell_without_a_terminal_and_without_input_ends_at_once() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    let child = shell_in(&daemon, id).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(status_of(child).code(), Some(0));
}

#[test]
fn shell_is_reached_by_the_socket_too() {
    let daemon = Daemon::start();
    let id = running(&daemon, "sleep 300");
    let mut command = program(&["shell", &id.to_string()]);
    command.env("RIVER_URL", format!("unix://{}", daemon.api_socket().display()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo o''ne\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("\none\r\n"), "{output:?}");
}
