//! `shell`, at a terminal and in a pipe. Faults come from a runner made of paper.

use std::net::TcpStream;
use std::process::Command;
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
use super::{client, program, text};
use crate::kit::{SOON, wait_until};

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
    std::io::Write::write_all(caller, head.as_bytes()).unwrap();
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
    assert_eq!(pty.shown(), "river-runner: task 7 is not [2Jrunning\r\n");
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
fn answer_that_is_no_websocket_is_not_taken_for_one() {
    let runner = FakeRunner::start(|_, caller| {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n";
        std::io::Write::write_all(caller, head).unwrap();
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
    assert!(pty.shown().contains("the connection to the runner broke"), "{}", pty.shown());
}

#[test]
fn runner_that_closes_before_the_shell_ends_is_an_error() {
    let runner = terminals(|socket| {
        greet(socket);
        close(socket, 1001);
    });
    let mut pty = Pty::start(&shell(&runner));
    assert_eq!(pty.wait_end().code(), Some(1));
    assert!(pty.shown().contains("the runner closed the terminal (code 1001)"), "{}", pty.shown());
}

#[test]
fn signals_give_the_terminal_back() {
    for (signal, code) in
        [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGQUIT, 131)]
    {
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
    assert_eq!(pty.wait_end().code(), Some(130));
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
    command.stdout(std::process::Stdio::piped());
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
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Held, and never read.
    let _stdout = child.stdout.take();
    std::thread::sleep(Duration::from_millis(300));
    super::interrupt(&child);
    assert_eq!(super::status_of(child).code(), Some(130));
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
