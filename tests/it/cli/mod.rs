//! The command line: the built program, its output and its exit codes. Commands that talk to a
//! runner meet a fake one here; the real one is met in the modules below and beside.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod cp;
mod fake;
mod ls;
mod pty;
mod shell;
mod vps;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fake::{FakeRunner, Request, begin_stream, offset, reply, reply_log, task};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::kit::{Daemon, SOON};

/// The program, free of this machine's configuration, and with Ctrl-C at work: a script's background
/// jobs are started with it ignored, and hand that on.
fn program(words: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_river-runner")]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RIVER_") {
            command.env_remove(name);
        }
    }
    command.args(words).stdin(Stdio::null());
    command
}

/// A runner's client, ended.
fn client(runner: &FakeRunner, words: &[&str]) -> Output {
    program(words).env("RIVER_URL", &runner.url).output().unwrap()
}

/// A client of a real runner.
fn of(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = program(words);
    command.env("RIVER_URL", format!("http://127.0.0.1:{}", daemon.port()));
    command
}

/// A runner's client, running.
fn start(runner: &FakeRunner, words: &[&str]) -> Child {
    let mut command = program(words);
    command.env("RIVER_URL", &runner.url).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// How the program ended; one that does not is killed.
fn status_of(mut child: Child) -> ExitStatus {
    let until = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("still running: {:?}", child.wait());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn is_log(request: &Request, stream: &str) -> bool {
    request.path.contains(&format!("/logs?stream={stream}&"))
}

fn is_follow(request: &Request) -> bool {
    request.path.ends_with("&follow=1")
}

/// A runner with one task that has ended: what it wrote and how it ended.
fn ended(stdout: &'static [u8], stderr: &'static [u8], record: Value) -> FakeRunner {
    FakeRunner::start(move |request, caller| match request.path.as_str() {
        "/api/execute" => reply(caller, 200, &json!({"message": "accepted", "task_id": 7})),
        _ if is_log(request, "stdout") => reply_log(request, caller, stdout),
        _ if is_log(request, "stderr") => reply_log(request, caller, stderr),
        _ => reply(caller, 200, &record),
    })
}

const RUN: [&str; 5] = ["run", "--image", "busybox", "--", "true"];

#[test]
fn run_passes_on_both_streams_and_the_exit_code() {
    let runner = ended(b"to out\n\xff", b"to err\n", task("7", "failed", Some(3)));
    let output = client(&runner, &["run", "--image", "busybox", "--", "echo", "a b"]);
    assert_eq!(output.stdout, b"to out\n\xff");
    assert_eq!(text(&output.stderr), "to err\n");
    assert_eq!(output.status.code(), Some(3));
    let order = runner.seen.wait_for("POST /api/execute", |request| request.body.clone());
    assert_eq!(order["command"], "echo 'a b'");
    assert_eq!(order["registry_image"], "busybox");
    assert_eq!(order["container_name"], Value::Null);
    let id = order["task_id"].as_u64().unwrap();
    assert_eq!(order["stdout_path"], format!("/srv/share/logs/{id}/stdout.log"));
    assert_eq!(order["stderr_path"], format!("/srv/share/logs/{id}/stderr.log"));
}

#[test]
fn run_shows_output_as_it_comes() {
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let runner = FakeRunner::start(move |request, caller| match request.path.as_str() {
        "/api/execute" => reply(caller, 200, &json!({})),
        _ if is_log(request, "stdout") && is_follow(request) => {
            begin_stream(caller);
            std::io::Write::write_all(caller, b"first\n").unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
            std::io::Write::write_all(caller, b"second\n").unwrap();
        }
        _ if is_log(request, "stdout") => reply_log(request, caller, b"first\nsecond\n"),
        _ if is_log(request, "stderr") => reply_log(request, caller, b""),
        _ => reply(caller, 200, &task("7", "completed", Some(0))),
    });
    let mut child = start(&runner, &RUN);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    go_on.send(()).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "second");
    assert!(lines.next().is_none());
    assert_eq!(status_of(child).code(), Some(0));
}

/// A runner whose task runs until it is killed, if a kill helps.
fn endless(kill_helps: bool) -> FakeRunner {
    let killed = AtomicBool::new(false);
    FakeRunner::start(move |request, caller| match request.path.as_str() {
        "/api/execute" => reply(caller, 200, &json!({})),
        "/api/kill" => {
            killed.store(kill_helps, Ordering::SeqCst);
            reply(caller, 200, &json!({"message": "killed"}));
        }
        _ if is_follow(request) => {
            begin_stream(caller);
            let until = Instant::now() + Duration::from_secs(20);
            while !killed.load(Ordering::SeqCst) && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
        }
        _ if is_log(request, "stdout") => reply_log(request, caller, b"last words\n"),
        _ if is_log(request, "stderr") => reply_log(request, caller, b""),
        _ if killed.load(Ordering::SeqCst) => reply(caller, 200, &task("7", "killed", Some(137))),
        _ => reply(caller, 200, &task("7", "running", None)),
    })
}

#[test]
fn ctrl_c_kills_the_task_and_ends_with_130_and_its_last_output() {
    let runner = endless(true);
    let child = start(&runner, &RUN);
    runner.seen.wait_for("GET /api/tasks/", |_| ());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(text(&output.stdout), "last words\n");
    assert!(text(&output.stderr).contains("killing task"));
    let (order, killed) = (
        runner.seen.wait_for("POST /api/execute", |request| request.body["task_id"].clone()),
        runner.seen.wait_for("POST /api/kill", |request| request.body["task_id"].clone()),
    );
    assert_eq!(order, killed);
}

#[test]
fn second_ctrl_c_leaves_at_once() {
    let runner = endless(false);
    let child = start(&runner, &RUN);
    runner.seen.wait_for("GET /api/tasks/", |_| ());
    interrupt(&child);
    runner.seen.wait_for("POST /api/kill", |_| ());
    let begun = Instant::now();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn reader_that_leaves_ends_the_task() {
    let many: &'static [u8] = &[b'y'; 100_000];
    let runner = FakeRunner::start(move |request, caller| match request.path.as_str() {
        "/api/execute" | "/api/kill" => reply(caller, 200, &json!({})),
        _ if is_log(request, "stdout") && is_follow(request) => {
            begin_stream(caller);
            while std::io::Write::write_all(caller, many).is_ok() {}
        }
        _ if is_log(request, "stderr") => reply_log(request, caller, b""),
        _ => reply(caller, 200, &task("7", "killed", Some(137))),
    });
    let mut child = start(&runner, &RUN);
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 10]).unwrap();
    drop(out);
    assert_eq!(status_of(child).code(), Some(141));
    assert!(runner.seen.has("POST /api/kill"));
}

#[test]
fn task_that_never_started_ends_with_125_and_the_reason() {
    let mut record = task("7", "failed", None);
    record["phases"]["started"] = Value::Null;
    record["message"] = json!("no image busybox and no registry");
    let output = client(&ended(b"", b"", record), &RUN);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("did not start: no image busybox and no registry"));
}

#[test]
fn refused_task_ends_with_125_and_the_runners_words() {
    let runner = FakeRunner::start(|_, caller| {
        reply(caller, 503, &json!({"detail": "the state directory is full"}));
    });
    let output = client(&runner, &RUN);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stderr), "river-runner: the state directory is full (status 503)\n");
}

#[test]
fn output_goes_on_where_it_was_when_the_runner_comes_back() {
    let restarted = AtomicBool::new(false);
    let runner = FakeRunner::start(move |request, caller| match request.path.as_str() {
        "/api/execute" => reply(caller, 200, &json!({})),
        _ if is_log(request, "stderr") => reply_log(request, caller, b""),
        _ if is_follow(request) && offset(request) == 0 => reply_log(request, caller, b"before\n"),
        _ if is_log(request, "stdout") => {
            restarted.store(true, Ordering::SeqCst);
            reply_log(request, caller, b"before\nafter\n");
        }
        // What a runner that is going down answers.
        _ if !restarted.load(Ordering::SeqCst) => reply(caller, 200, &task("7", "running", None)),
        _ => reply(caller, 200, &task("7", "completed", Some(0))),
    });
    let output = client(&runner, &RUN);
    assert_eq!(text(&output.stdout), "before\nafter\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn detached_run_prints_the_id_and_leaves() {
    let runner = ended(b"", b"", task("7", "running", None));
    let output = client(&runner, &["run", "-d", "--image", "busybox", "--", "true"]);
    let id = runner.seen.wait_for("POST /api/execute", |request| request.body["task_id"].clone());
    assert_eq!(text(&output.stdout), format!("{id}\n"));
    assert_eq!(runner.seen.count("GET "), 0);
}

#[test]
fn timings_are_printed_beside_the_output() {
    let runner = ended(b"out\n", b"", task("7", "completed", Some(0)));
    let output = client(&runner, &["run", "--timings", "--image", "busybox", "--", "true"]);
    assert_eq!(text(&output.stdout), "out\n");
    assert!(text(&output.stderr).contains("started       21:12:04.300000      200.000 ms"));
}

#[test]
fn token_is_shown_to_the_runner() {
    let runner = ended(b"", b"", json!({"message": "killed"}));
    let mut kill = program(&["kill", "7"]);
    kill.env("RIVER_URL", &runner.url).env("RIVER_API_TOKEN", "sesame");
    assert!(kill.output().unwrap().status.success());
    runner.seen.wait_for("POST /api/kill", |request| {
        assert!(request.head.contains("\r\nAuthorization: Bearer sesame\r\n"));
        assert_eq!(request.body, json!({"task_id": 7, "container_name": "kohakuriver-task-7"}));
    });
}

#[test]
fn verbs_show_what_the_runner_says_against_them() {
    let runner = FakeRunner::start(|_, caller| {
        reply(caller, 404, &json!({"detail": "task 7 is not known"}));
    });
    for verb in ["kill", "pause", "resume"] {
        let output = client(&runner, &[verb, "7"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stderr), "river-runner: task 7 is not known (status 404)\n");
        assert!(runner.seen.has(&format!("POST /api/{verb}")));
    }
}

fn two_tasks() -> FakeRunner {
    FakeRunner::start(|_, caller| {
        let tasks = [task("7", "running", None), task("8", "failed", Some(3))];
        reply(caller, 200, &json!({"tasks": tasks, "count": 2}));
    })
}

#[test]
fn ps_lists_what_runs_and_with_a_flag_what_has_ended() {
    let runner = two_tasks();
    let running = text(&client(&runner, &["ps"]).stdout);
    assert_eq!(running.lines().count(), 2, "{running}");
    assert!(running.contains("echo 'a b'"));
    let all = text(&client(&runner, &["ps", "-a"]).stdout);
    assert_eq!(all.lines().count(), 3, "{all}");
}

#[test]
fn ps_for_programs_is_the_runners_json() {
    let output = client(&two_tasks(), &["ps", "--json"]);
    let tasks: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(tasks["tasks"][1]["exit_code"], 3);
}

#[test]
fn logs_copy_one_stream_and_follow_it_to_the_end() {
    let runner = ended(b"out\n", b"err\n", task("7", "completed", Some(0)));
    assert_eq!(client(&runner, &["logs", "7"]).stdout, b"out\n");
    assert_eq!(client(&runner, &["logs", "7", "--stderr"]).stdout, b"err\n");
    assert_eq!(client(&runner, &["logs", "-f", "7"]).stdout, b"out\n");
}

#[test]
fn logs_of_an_unknown_task_say_so() {
    let runner =
        FakeRunner::start(|_, caller| reply(caller, 404, &json!({"detail": "no such task"})));
    let output = client(&runner, &["logs", "-f", "7"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "river-runner: no such task (status 404)\n");
}

#[test]
fn runner_that_is_not_there_is_one_line_with_the_remedy() {
    let output = program(&["ps", "--url", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("river-runner serve"), "{said}");
}

#[test]
fn runner_is_found_by_its_port_and_its_socket() {
    let runner = two_tasks();
    let mut by_port = program(&["ps"]);
    by_port.env("RIVER_RUNNER_PORT", runner.port.to_string()).env("RIVER_API_SOCKET", "");
    assert!(by_port.output().unwrap().status.success());

    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("api.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answers = thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        let _ = caller.read(&mut [0; 4096]).unwrap();
        let body = b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{\"tasks\":[],\"count\":0}";
        std::io::Write::write_all(&mut caller, body).unwrap();
    });
    let mut by_socket = program(&["ps"]);
    by_socket.env("RIVER_API_SOCKET", &socket).env("RIVER_RUNNER_PORT", "1");
    assert!(by_socket.output().unwrap().status.success());
    answers.join().unwrap();
}

#[test]
fn ctrl_c_while_following_logs_leaves_the_task_alone() {
    let runner = endless(true);
    let child = start(&runner, &["logs", "-f", "7"]);
    runner.seen.wait_for("GET /api/tasks/7/logs", |_| ());
    interrupt(&child);
    assert_eq!(status_of(child).signal(), Some(Signal::SIGINT as i32));
    assert!(!runner.seen.has("POST /api/kill"));
}

fn written(place: &Path, name: &str, text: &str) -> String {
    let path = place.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn config_show_tells_where_each_value_came_from() {
    let place = tempfile::tempdir().unwrap();
    let file = written(place.path(), "runner.toml", "runner_port = 9001\nhost_port = 9002\n");
    let mut show = program(&["-c", &file, "config", "show", "--overlay-mtu", "1400"]);
    let shown = show.env("RIVER_HOST_PORT", "9003").env("RIVER_API_TOKEN", "sesame");
    let shown = text(&shown.output().unwrap().stdout);
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap();
    assert!(line("runner_port = 9001").ends_with(&format!("# {file}:1")));
    assert!(line("host_port = 9003").ends_with("# environment RIVER_HOST_PORT"));
    assert!(line("overlay_mtu = 1400").ends_with("# --overlay-mtu"));
    assert!(line("shared_dir").ends_with("# default"));
    assert!(line("# api_token is set").ends_with("# environment RIVER_API_TOKEN"));
    assert!(!shown.contains("sesame"));
}

#[test]
fn config_show_tells_of_a_variable_that_is_no_setting() {
    let output = program(&["config", "show"]).env("RIVER_RUNNER_PROT", "9001").output().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("RIVER_RUNNER_PROT"), "{}", text(&output.stderr));
}

#[test]
fn run_that_names_no_image_is_told_both_ways_to_name_one() {
    let output = program(&["run", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("<--image <NAME>|--environment <NAME>>"), "{said}");
}

#[test]
fn printed_defaults_are_a_file_that_loads() {
    let place = tempfile::tempdir().unwrap();
    let defaults = program(&["config", "default"]).output().unwrap();
    let file = written(place.path(), "runner.toml", &text(&defaults.stdout));
    let shown = program(&["-c", &file, "config", "show"]).output().unwrap();
    assert!(shown.status.success(), "{}", text(&shown.stderr));
}

#[test]
fn imported_file_loads_and_names_what_was_not_read() {
    let place = tempfile::tempdir().unwrap();
    let source = "HOST_ADDRESS: str = '10.0.0.1'\nRUNNER_PORT = int(os.environ['P'])\n";
    let file = written(place.path(), "runner_config.py", source);
    let output = program(&["config", "import", &file]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "river-runner: line 2: RUNNER_PORT was not read: it is a function call\n"
    );
    let toml = written(place.path(), "runner.toml", &text(&output.stdout));
    let shown = program(&["-c", &toml, "config", "show"]).output().unwrap();
    assert!(text(&shown.stdout).contains("host_address = \"10.0.0.1\""));
}

#[test]
fn mistakes_in_the_configuration_are_all_named_before_anything_starts() {
    let place = tempfile::tempdir().unwrap();
    let file = written(place.path(), "runner.toml", "share_dir = \"/srv\"\nrunner_port = 0\n");
    let output = program(&["serve", "-c", &file]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("{file}:1: there is no setting share_dir")), "{said}");
    assert!(said.contains("did you mean shared_dir?"), "{said}");
    assert!(said.contains(&format!("{file}:2: runner_port can't be 0")), "{said}");
}

#[test]
fn configuration_file_that_was_named_must_be_there() {
    let output = program(&["-c", "/nonexistent.toml", "config", "show"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent.toml: can't be read"));
}

/// `doctor` with directories of its own, so that only the machine is judged.
fn doctor(place: &Path, words: &[&str]) -> Command {
    let mut command = program(&[&["doctor"], words].concat());
    command
        .env("RIVER_STATE_DIR", place.join("state"))
        .env("RIVER_SHARED_DIR", place.join("shared"))
        .env("RIVER_LOCAL_TEMP_DIR", place.join("local"))
        .env("RIVER_API_SOCKET", place.join("api.sock"));
    command
}

#[test]
fn doctor_finds_this_machines_engine_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let output = doctor(place.path(), &[]).env("RIVER_RUNNER_PORT", "38417").output().unwrap();
    let said = text(&output.stdout);
    assert!(said.contains("ok    engine          Docker "), "{said}");
    assert!(said.contains("ok    runner_port     0.0.0.0:38417 is free"), "{said}");
    for subject in ["storage driver", "cgroups", "state_dir", "open files", "inotify", "numa"] {
        assert!(said.contains(&format!(" {subject} ")), "{subject}: {said}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn doctor_fails_with_a_remedy_where_there_is_no_engine() {
    let place = tempfile::tempdir().unwrap();
    let output =
        doctor(place.path(), &["--docker-host", "unix:///nonexistent.sock"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.contains("fail  engine          no Docker Engine at /nonexistent.sock"), "{said}");
    assert!(said.contains("-> start Docker"), "{said}");
}

#[test]
fn doctor_takes_our_own_runner_on_the_port_for_fine() {
    let place = tempfile::tempdir().unwrap();
    let runner = two_tasks();
    let port = runner.port.to_string();
    let output = doctor(place.path(), &["--runner-port", &port]).output().unwrap();
    let said = text(&output.stdout);
    assert!(said.contains("is served by river-runner 0.1.0"), "{said}");
}

#[test]
fn doctor_fails_where_the_host_does_not_answer() {
    let place = tempfile::tempdir().unwrap();
    let words = ["--host-address", "127.0.0.1", "--host-port", "1"];
    let output = doctor(place.path(), &words).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("fail  host            127.0.0.1:1: "));
}
