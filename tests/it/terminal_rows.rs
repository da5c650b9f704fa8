//! `/ws/task/{task_id}/terminal` on real containers (contract 2.1): what a peer types and reads, and
//! what is left in the container when it goes.

mod crowd;
mod faults;
mod named;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;
use tungstenite::Message;

use crate::kit::{
    Daemon, SOON, Socket, docker, execute, execute_body, image, running, task_container, unique_id,
    wait_until, with,
};

/// A terminal that is up, and what it has said.
struct Terminal {
    socket: Socket,
    said: String,
}

impl Terminal {
    #[track_caller]
    fn open(daemon: &Daemon, id: u64) -> Terminal {
        let mut socket = daemon.socket(&format!("/ws/task/{id}/terminal"));
        assert_eq!(socket.next_json(), json!({ "type": "output", "data": "" }));
        Terminal { socket, said: String::new() }
    }

    /// Leaves without a word: the peer's machine has gone, or its program was killed.
    fn reset(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(self.socket.stream(), sockopt::Linger, &linger).expect("a socket");
    }

    fn enter(&mut self, text: &str) {
        self.socket.send_json(&json!({ "type": "input", "data": text }));
    }

    /// Reads until the output has `text`.
    #[track_caller]
    fn until(&mut self, text: &str) {
        // Megabytes are looked through once, not with each message.
        let mut looked = 0;
        while !self.said[looked..].contains(text) {
            looked = self.said.len().saturating_sub(text.len());
            while !self.said.is_char_boundary(looked) {
                looked -= 1;
            }
            let message = self.socket.next_json();
            assert_eq!(message["type"], "output", "{message}");
            self.said.push_str(message["data"].as_str().expect("a text"));
        }
    }

    /// The error that it ends with, and the code that it is closed with.
    #[track_caller]
    fn last_word(mut self) -> (String, u16) {
        loop {
            let message = self.socket.next_json();
            if message["type"] == "error" {
                let text = message["data"].as_str().expect("a text").to_owned();
                return (text, self.socket.wait_close());
            }
        }
    }
}

fn refused(daemon: &Daemon, id: u64) -> (String, u16) {
    let mut socket = daemon.socket(&format!("/ws/task/{id}/terminal"));
    let message = socket.next_json();
    assert_eq!(message["type"], "error", "{message}");
    (message["data"].as_str().expect("a text").to_owned(), socket.wait_close())
}

/// A figure of the runner's.
#[track_caller]
fn metric(daemon: &Daemon, name: &str) -> u64 {
    let metrics = daemon.get("/metrics").expect(200).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

/// A task of another image than busybox.
#[track_caller]
fn running_in(daemon: &Daemon, name: &str) -> u64 {
    let image = json!({ "registry_image": image(name) });
    let id = daemon.submit(&with(execute_body(daemon, unique_id(), "sleep 600"), image));
    daemon.wait_status(id, "running");
    id
}

/// Command lines of what runs in the container.
fn processes(id: u64) -> String {
    docker(&["top", &task_container(id), "-eo", "pid,args"])
}

#[test]
fn shell_answers_and_its_exit_closes_with_1000() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("echo $((40+2))$TERM\n");
    terminal.until("42xterm-256color");
    terminal.enter("exit\n");
    assert_eq!(terminal.socket.wait_close(), 1000);
    daemon.wait_status(id, "running");
}

#[test]
fn first_message_of_any_kind_is_heeded() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut socket = daemon.socket(&format!("/ws/task/{id}/terminal"));
    socket.send_json(&json!({ "type": "input", "data": "echo a''b\n" }));
    assert_eq!(socket.next_json(), json!({ "type": "output", "data": "" }));
    Terminal { socket, said: String::new() }.until("ab\r\n");
}

#[test]
fn size_of_the_window_reaches_the_shell_and_the_last_one_counts() {
    let daemon = Daemon::builder().start();
    let id = running_in(&daemon, "debian");
    let mut terminal = Terminal::open(&daemon, id);
    for rows in [10, 20, 33] {
        terminal.socket.send_json(&json!({ "type": "resize", "rows": rows, "cols": 101 }));
    }
    assert!(wait_until(SOON, || {
        terminal.said.clear();
        terminal.enter("stty size; echo $BASH; echo D''ONE\n");
        terminal.until("DONE");
        terminal.said.contains("33 101") && terminal.said.contains("/bin/bash")
    }));
}

#[test]
fn nonsense_is_ignored() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut terminal = Terminal::open(&daemon, id);
    terminal.socket.send(Message::text("no json"));
    terminal.socket.send(Message::text("[]"));
    terminal.socket.send(Message::binary(vec![3, 4]));
    terminal.socket.send_json(&json!({ "type": "resize", "rows": 0, "cols": "x" }));
    terminal.socket.send_json(&json!({ "type": "input" }));
    terminal.enter("echo a''b\n");
    terminal.until("ab\r\n");
}

#[test]
fn terminal_that_can_not_be_had_is_one_error_and_a_close_that_tells_why() {
    let daemon = Daemon::builder().start();
    assert_eq!(refused(&daemon, 7).1, 1008);
    let over = execute(&daemon, "true");
    daemon.wait_over(over);
    assert_eq!(refused(&daemon, over).1, 1008);
    let paused = running(&daemon, "sleep 600");
    daemon.control("pause", paused).expect(200);
    daemon.wait_status(paused, "paused");
    assert_eq!(refused(&daemon, paused).1, 1008);
    assert_eq!(Socket::try_open(daemon.socket_address(), "/ws/task/x/terminal").unwrap_err(), 403);
}

#[test]
fn large_output_comes_whole_and_in_order() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("stty -onlcr; PS1=; echo BE''GIN; seq 1 1000000; echo EN''D\n");
    terminal.until("END\n");
    let from = terminal.said.find("BEGIN\n").expect("the begin") + "BEGIN\n".len();
    let mut expected = 1;
    for line in terminal.said[from..].lines().take(1_000_000) {
        assert_eq!(line, expected.to_string());
        expected += 1;
    }
    assert_eq!(expected, 1_000_001);
}

#[test]
fn characters_are_whole_wherever_the_output_is_cut() {
    const LINES: usize = 50_000;
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("stty -onlcr; PS1=; echo BE''GIN; yes 'xä€😀' | head -n 50000; echo EN''D\n");
    terminal.until("END\n");
    let from = terminal.said.find("BEGIN\n").expect("the begin") + "BEGIN\n".len();
    let lines = terminal.said[from..].lines().take(LINES);
    assert_eq!(lines.filter(|&line| line == "xä€😀").count(), LINES);
}

#[test]
fn paste_of_many_messages_arrives_whole_while_the_shell_is_silent() {
    const PIECES: usize = 64;
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("stty raw -echo; echo RE''ADY; head -c 1048576 >/tmp/f; echo TO''LD\n");
    terminal.until("READY");
    let piece: String = ('a'..='z').cycle().take(1024 * 1024 / PIECES).collect();
    for _ in 0..PIECES {
        terminal.enter(&piece);
    }
    terminal.until("TOLD");
    let pasted = docker(&["exec", &task_container(id), "cat", "/tmp/f"]);
    assert!(pasted == piece.repeat(PIECES), "{} bytes", pasted.len());
}

#[test]
fn shell_is_the_images_user_and_bash_where_there_is_one() {
    let daemon = Daemon::builder().start();
    let id = running_in(&daemon, "debian-worker");
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("echo $(id -un):$(id -u):$BASH:\n");
    terminal.until("worker:4321:/bin/bash:");
}

#[test]
fn terminal_over_the_socket_file_is_the_same() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let stream = UnixStream::connect(daemon.api_socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let url = format!("ws://localhost/ws/task/{id}/terminal");
    let (mut socket, _) = tungstenite::client(url, stream).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(r#"{"type":"output","data":""}"#));
    socket.send(Message::text(r#"{"type":"input","data":"exit\n"}"#)).unwrap();
    let close = loop {
        if let Message::Close(close) = socket.read().unwrap() {
            break close;
        }
    };
    assert_eq!(u16::from(close.unwrap().code), 1000);
}

#[test]
fn peer_that_leaves_ends_the_shell_and_its_jobs_but_no_session_of_its_own_and_nobody_else() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut stays = Terminal::open(&daemon, id);
    stays.enter("sleep 1001 &\n");
    let mut leaves = Terminal::open(&daemon, id);
    leaves.enter("sleep 1002 &\n");
    leaves.enter("(trap '' HUP; sleep 1003) &\n");
    leaves.enter("setsid sleep 1004 &\n");
    let has = |seconds: &str| processes(id).contains(&format!("sleep {seconds}"));
    assert!(wait_until(SOON, || ["1001", "1002", "1003", "1004"].iter().all(|job| has(job))));
    drop(leaves);
    assert!(wait_until(SOON, || !has("1002") && !has("1003")));
    assert!(has("1001") && has("1004") && has("600"));
    stays.enter("echo a''b\n");
    stays.until("ab\r\n");
}

#[test]
fn processes_that_fork_and_end_in_a_row_do_not_outlive_their_terminal() {
    let daemon = Daemon::builder().start();
    let image = json!({ "registry_image": image("debian-worker") });
    // The first process is one that takes its orphans' ends.
    let body = execute_body(&daemon, unique_id(), "while :; do sleep 1; done");
    let id = daemon.submit(&with(body, image));
    daemon.wait_status(id, "running");
    let shared = daemon.shared_dir().join("shared_data");
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).unwrap();
    let sign = shared.join("hop");
    let beat = || sign.metadata().and_then(|sign| sign.modified()).ok();
    // Each does nothing but make the next, for some seconds, if nobody ends them before.
    let hop = "$SIG{HUP}=$SIG{TTOU}=\"IGNORE\"; $t=time; exit if fork; while (time<$t+8) { exit if fork; \
               open F,\">/shared/hop\"; close F; select(undef,undef,undef,0.0002); }";
    // A look catches them by luck: it is tried some times.
    for _ in 0..4 {
        let mut terminal = Terminal::open(&daemon, id);
        let first = beat();
        terminal.enter(&format!("perl -e '{hop}' &\n"));
        assert!(wait_until(SOON, || beat() > first));
        terminal.reset();
        assert!(wait_until(SOON, || metric(&daemon, "river_terminals") == 0));
        let last = beat();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(beat(), last, "they go on");
    }
}

#[test]
fn stop_of_the_runner_ends_its_shells() {
    let mut daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let mut terminal = Terminal::open(&daemon, id);
    terminal.enter("sleep 1005\n");
    assert!(wait_until(SOON, || processes(id).contains("sleep 1005")));
    daemon.stop();
    assert!(wait_until(SOON, || !processes(id).contains("sleep 1005")));
}

#[test]
fn end_of_the_container_is_told() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    let terminal = Terminal::open(&daemon, id);
    daemon.control("kill", id).expect(200);
    assert_eq!(terminal.last_word(), ("the container has ended".to_owned(), 1000));
}

#[test]
fn image_without_a_shell_is_told_so() {
    let daemon = Daemon::builder().start();
    let id = running(&daemon, "sleep 600");
    docker(&["exec", &task_container(id), "sh", "-c", "rm -f /bin/sh /bin/bash"]);
    let (message, code) = refused(&daemon, id);
    assert!(message.contains("/bin/sh"), "{message}");
    assert_eq!(code, 1011);
    assert_eq!(metric(&daemon, "river_terminals"), 0);
}
