//! The terminal (contract 2.1). So far what it stands on: an exec's raw connection, against the real
//! Engine and one that misbehaves.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Instant;

use river_runner::docker::{DockerError, Engine, Hijack, socket_from_env};

use crate::kit::{
    Behaviour, EngineProxy, SOON, docker, image, remove_container, test_name, wait_until,
};

/// A container of a test's own, removed with it.
struct Sleeper {
    name: String,
}

impl Sleeper {
    #[track_caller]
    fn start(story: &str) -> Sleeper {
        let name = test_name(story);
        docker(&["run", "-d", "--name", &name, &image("busybox"), "sleep", "1000"]);
        Sleeper { name }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        remove_container(&self.name);
    }
}

fn engine() -> Engine {
    Engine::new(socket_from_env(std::env::var("DOCKER_HOST").ok().as_deref()).unwrap())
}

/// An exec of a shell, and its raw stream.
#[track_caller]
fn shell(engine: &Engine, container: &str) -> (String, Hijack) {
    let environment = ["TERM=xterm-256color".to_owned()];
    let id = engine.create_terminal_exec(container, &["/bin/sh"], &environment).unwrap();
    let hijack = engine.start_exec(&id).unwrap();
    (id, hijack)
}

/// What came until `until` is in it.
#[track_caller]
fn read_until(hijack: &mut Hijack, until: &str) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    let came = wait_until(SOON, || {
        match hijack.read(&mut piece) {
            Ok(read) => text.extend_from_slice(&piece[..read]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        String::from_utf8_lossy(&text).contains(until)
    });
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(came, "no {until:?} in {text:?}");
    text
}

#[test]
fn shell_over_the_raw_connection_answers_what_is_typed_and_ends_the_stream_with_itself() {
    let sleeper = Sleeper::start("hijack");
    let engine = engine();
    let (id, mut hijack) = shell(&engine, &sleeper.name);
    hijack.write_all(b"echo $((6*7)) $TERM\n").unwrap();
    read_until(&mut hijack, "42 xterm-256color");
    let exec = engine.inspect_exec(&id).unwrap();
    assert!(exec.running && exec.pid.is_some(), "{exec:?}");
    hijack.write_all(b"exit 3\n").unwrap();
    let mut piece = [0; 4096];
    assert!(wait_until(SOON, || matches!(hijack.read(&mut piece), Ok(0))));
    assert!(wait_until(SOON, || engine.inspect_exec(&id).unwrap().exit_code == Some(3)));
}

#[test]
fn exec_in_a_paused_container_or_in_none_is_refused_by_its_status() {
    let sleeper = Sleeper::start("paused");
    docker(&["pause", &sleeper.name]);
    let refused = engine().create_terminal_exec(&sleeper.name, &["/bin/sh"], &[]);
    docker(&["unpause", &sleeper.name]);
    assert!(refused.unwrap_err().is_conflict());
    let missing = engine().create_terminal_exec("river-no-such", &["/bin/sh"], &[]);
    assert!(missing.unwrap_err().is_missing());
    assert!(engine().start_exec("0123456789abcdef").unwrap_err().is_missing());
}

#[test]
fn more_raw_connections_than_quick_calls_may_be_open_at_once() {
    let sleeper = Sleeper::start("many");
    let engine = engine();
    let count = river_runner::limits::ENGINE_QUICK_CALLS_MAX + 2;
    let mut open: Vec<_> = (0..count).map(|_| shell(&engine, &sleeper.name).1).collect();
    for hijack in &mut open {
        hijack.write_all(b"echo $((6*7))\n").unwrap();
        read_until(hijack, "42");
    }
}

#[test]
fn start_that_an_engine_hangs_in_or_dies_in_is_an_error_within_its_deadline() {
    let sleeper = Sleeper::start("faults");
    let proxy = EngineProxy::start();
    let engine = Engine::new(proxy.socket().to_owned());
    let id = engine.create_terminal_exec(&sleeper.name, &["/bin/sh"], &[]).unwrap();
    let since = Instant::now();
    proxy.on("POST", "/exec/*/start", Behaviour::Die);
    assert!(matches!(engine.start_exec(&id), Err(DockerError::Broken { .. })));
    proxy.clear();
    proxy.on("POST", "/exec/*/start", Behaviour::Hang);
    assert!(matches!(engine.start_exec(&id), Err(DockerError::TimedOut { .. })));
    assert!(since.elapsed() < river_runner::limits::TERMINAL_OPEN_DEADLINE + SOON);
}

#[test]
fn output_that_comes_in_one_piece_with_the_answers_head_is_read_first() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine");
    let listener = UnixListener::bind(&socket).unwrap();
    let fake = thread::spawn(move || {
        let version = b"HTTP/1.1 200 OK\r\nContent-Length: 58\r\nConnection: close\r\n\r\n\
            {\"Version\":\"1\",\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\"}";
        let started = b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly ";
        let mut request = [0; 4096];
        for answer in [&version[..], started] {
            let (mut peer, _) = listener.accept().unwrap();
            assert!(peer.read(&mut request).unwrap() > 0);
            peer.write_all(answer).unwrap();
            if answer == started {
                peer.write_all(b"late").unwrap();
            }
        }
    });
    let mut hijack = Engine::new(socket).start_exec("0123456789abcdef").unwrap();
    assert_eq!(read_until(&mut hijack, "late"), "early late");
    fake.join().unwrap();
}
