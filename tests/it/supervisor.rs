//! A service manager over the runner: `sd_notify` and socket activation, spoken from outside.

use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use crate::kit::{Address, wait_until};
use crate::kit::{Builder, Daemon, EngineProxy, FakeHost, Fault, SOON, call, execute, test_name};

/// The socket on which a service manager listens.
struct Notices {
    socket: UnixDatagram,
    name: String,
    _directory: tempfile::TempDir,
}

impl Notices {
    fn listen() -> Notices {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let name = path.to_str().expect("a plain path").to_owned();
        Notices::on(socket, name, directory)
    }

    /// Without a file.
    fn listen_abstractly() -> Notices {
        let name = test_name("notify");
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notices::on(socket, format!("@{name}"), tempfile::tempdir().unwrap())
    }

    fn on(socket: UnixDatagram, name: String, directory: tempfile::TempDir) -> Notices {
        socket.set_read_timeout(Some(SOON)).unwrap();
        Notices { socket, name, _directory: directory }
    }

    fn builder(&self) -> Builder {
        Daemon::builder().env("NOTIFY_SOCKET", &self.name)
    }

    #[track_caller]
    fn next(&self) -> String {
        let mut message = [0; 4096];
        let count = self.socket.recv(&mut message).expect("a notice");
        String::from_utf8(message[..count].to_vec()).unwrap()
    }

    /// The next notice with this line in it.
    #[track_caller]
    fn wait(&self, line: &str) -> String {
        let end = Instant::now() + SOON;
        loop {
            let notice = self.next();
            if notice.lines().any(|said| said == line) {
                return notice;
            }
            assert!(Instant::now() < end, "no {line}; last {notice:?}");
        }
    }

    /// How many notices with this line come within `time`.
    fn count(&self, line: &str, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut count = 0;
        while Instant::now() < end {
            count += usize::from(self.next().lines().any(|said| said == line));
        }
        count
    }
}

// ── what it is told ──────────────────────────────────────────────────────────────────────────

#[test]
fn ready_is_told_once_the_port_answers_and_stopping_at_the_stop() {
    let notices = Notices::listen();
    let mut daemon = notices.builder().stopped();
    daemon.launch();
    let ready = notices.wait("READY=1");
    assert!(ready.contains("\nSTATUS=tasks: 0"), "{ready:?}");
    daemon.get("/health").expect(200);
    daemon.stop();
    notices.wait("STOPPING=1");
}

#[test]
fn ready_that_finds_the_managers_queue_full_is_told_again() {
    let notices = Notices::listen();
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"X_OF_OTHERS=1", &notices.name).is_ok() {}
    let _daemon = notices.builder().start();
    notices.wait("READY=1");
}

#[test]
fn name_without_a_file_is_told_too() {
    let notices = Notices::listen_abstractly();
    let _daemon = notices.builder().start();
    notices.wait("READY=1");
}

#[test]
fn start_that_fails_is_never_told_ready() {
    let first = Daemon::start();
    let notices = Notices::listen();
    let state_dir = first.state_dir().to_str().expect("a plain path");
    let mut second = notices.builder().set("state_dir", state_dir).stopped();
    second.launch();
    second.wait_exit(SOON);
    notices.socket.set_nonblocking(true).unwrap();
    assert!(notices.socket.recv(&mut [0; 4096]).is_err());
}

#[test]
fn status_follows_the_tasks() {
    let notices = Notices::listen();
    let daemon = notices.builder().env("WATCHDOG_USEC", "200000").start();
    execute(&daemon, "sleep 60");
    let mut status = String::new();
    let told = wait_until(SOON, || {
        status = notices.next();
        status.contains("STATUS=tasks: 1,") && status.contains("Engine: answers")
    });
    assert!(told, "{status:?}");
}

#[test]
fn watchdog_hears_of_us_also_while_engine_and_host_hang() {
    let (notices, host, engine) = (Notices::listen(), FakeHost::start(), EngineProxy::start());
    let daemon = notices.builder().env("WATCHDOG_USEC", "400000").host(&host).engine(&engine);
    let daemon = daemon.start();
    host.wait_registered();
    engine.pause_all();
    host.fail(Fault::Hang);
    execute(&daemon, "true");
    let count = notices.count("WATCHDOG=1", Duration::from_secs(3));
    // Fifteen on a machine of its own.
    assert!(count >= 8, "{count}");
    engine.resume_all();
    host.heal();
}

#[test]
fn watchdog_of_another_process_is_not_ours() {
    let notices = Notices::listen();
    let daemon = notices.builder().env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1").start();
    notices.wait("READY=1");
    // The status comes every 5 s, so this is the only tick a watchdog would have.
    std::thread::sleep(Duration::from_millis(500));
    notices.socket.set_nonblocking(true).unwrap();
    let notice = notices.socket.recv(&mut [0; 4096]);
    assert!(notice.is_err(), "{notice:?}");
    daemon.get("/health").expect(200);
}

#[test]
fn hangup_is_a_reload_that_begins_now_and_ends() {
    let notices = Notices::listen();
    let daemon = notices.builder().start();
    notices.wait("READY=1");
    let micros = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros();
    let before = micros();
    daemon.signal(Signal::SIGHUP);
    let reloading = notices.wait("RELOADING=1");
    let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let at: u128 = at.expect("the moment").parse().unwrap();
    assert!((before..=micros()).contains(&at), "{reloading:?}");
    notices.wait("READY=1");
}

#[test]
fn variable_without_sense_refuses_the_start_and_is_named() {
    let mut daemon = Daemon::builder().env("WATCHDOG_USEC", "soon").stopped();
    daemon.launch();
    assert_eq!(daemon.wait_exit(SOON), (Some(1), None));
    assert!(daemon.log().contains("WATCHDOG_USEC can't be \"soon\""), "{}", daemon.log());
}

// ── sockets it passes ────────────────────────────────────────────────────────────────────────

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn passed_sockets_are_served_and_stay_when_the_runner_has_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passed.sock");
    let (tcp, file) = (listener(), UnixListener::bind(&path).unwrap());
    let address = tcp.local_addr().unwrap();
    let mut daemon = Daemon::builder().activated(tcp, Some(file)).start();
    let local = Address::Unix(path.clone());
    call(&local, "GET", "/health", &[], None).unwrap().expect(200);
    daemon.stop();
    assert!(path.exists());
    // The listener lives on: a caller waits in it for the next runner.
    let waiting = TcpStream::connect(address).expect("connected");
    daemon.launch();
    daemon.wait_healthy();
    drop(waiting);
    call(&local, "GET", "/health", &[], None).unwrap().expect(200);
}

#[test]
fn sockets_meant_for_another_process_are_left_alone() {
    let daemon = Daemon::builder().env("LISTEN_PID", "1").env("LISTEN_FDS", "1").start();
    daemon.get("/health").expect(200);
}

#[test]
fn passed_socket_on_another_port_than_the_registered_one_refuses_the_start() {
    let mut daemon = Daemon::builder().activated(listener(), None).set("runner_port", 1).stopped();
    daemon.launch();
    assert_eq!(daemon.wait_exit(SOON), (Some(1), None));
    assert!(daemon.log().contains("and RUNNER_PORT is 1"), "{}", daemon.log());
}

#[test]
fn passed_socket_file_that_is_not_the_configured_one_refuses_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = UnixListener::bind(directory.path().join("passed.sock")).unwrap();
    let elsewhere = directory.path().join("other.sock");
    let elsewhere = elsewhere.to_str().expect("a plain path");
    let daemon = Daemon::builder().activated(listener(), Some(file)).set("api_socket", elsewhere);
    let mut daemon = daemon.stopped();
    daemon.launch();
    assert_eq!(daemon.wait_exit(SOON), (Some(1), None));
    assert!(daemon.log().contains("and API_SOCKET is"), "{}", daemon.log());
}
