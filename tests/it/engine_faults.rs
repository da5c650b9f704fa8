//! The Engine room against Engines that misbehave: a listener on a Unix socket with one canned
//! behaviour, speaking the protocol from outside. The ordinary path is in `engine`.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use river_runner::docker::{DockerError, Engine, EngineEvent, EngineHealth, watch_ends};
use river_runner::limits;
use river_runner::stop::Stop;

/// Waits that a working implementation never reaches.
const PATIENCE: Duration = Duration::from_secs(25);

/// An Engine of our own making. It answers `/version` itself and leaves the rest to its behaviour,
/// which says whether the connection lives on.
struct FakeEngine {
    dir: tempfile::TempDir,
    /// Request lines, `/version` too.
    requests: Arc<Mutex<Vec<String>>>,
}

enum Then {
    KeepAlive,
    Close,
}

impl FakeEngine {
    fn start(behave: impl Fn(&str, &mut UnixStream) -> Then + Send + Sync + 'static) -> FakeEngine {
        let fake = FakeEngine { dir: tempfile::tempdir().unwrap(), requests: Arc::default() };
        fake.listen("1.41", behave);
        fake
    }

    fn listen(
        &self,
        api: &'static str,
        behave: impl Fn(&str, &mut UnixStream) -> Then + Send + Sync + 'static,
    ) {
        let path = self.dir.path().join("d.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let (behave, requests) = (Arc::new(behave), Arc::clone(&self.requests));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (behave, requests) = (Arc::clone(&behave), Arc::clone(&requests));
                thread::spawn(move || serve(stream, api, &*behave, &requests));
            }
        });
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("d.sock")
    }

    fn engine(&self) -> Engine {
        Engine::new(self.socket())
    }

    fn asked(&self, what: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }
}

fn serve(
    mut stream: UnixStream,
    api: &str,
    behave: &dyn Fn(&str, &mut UnixStream) -> Then,
    requests: &Mutex<Vec<String>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match reader.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let line = head.lines().next().unwrap_or_default().to_owned();
        requests.lock().unwrap().push(line.clone());
        let then = if line.starts_with("GET /version ") {
            let body =
                format!(r#"{{"Version":"fake","ApiVersion":"{api}","MinAPIVersion":"1.12"}}"#);
            let _ = stream.write_all(ok(&body).as_bytes());
            Then::KeepAlive
        } else {
            behave(&line, &mut stream)
        };
        if matches!(then, Then::Close) {
            return;
        }
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn say(stream: &mut UnixStream, text: &str) -> Then {
    let _ = stream.write_all(text.as_bytes());
    Then::KeepAlive
}

/// Says nothing until the caller goes away.
fn hang(stream: &mut UnixStream) -> Then {
    let _ = stream.read(&mut [0]);
    Then::Close
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn die(code: u8) -> String {
    chunk(&format!(
        "{{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{{\"ID\":\"7\",\"Attributes\":\
         {{\"exitCode\":\"{code}\",\"name\":\"n\"}}}},\"timeNano\":1}}\n"
    ))
}

fn pull(engine: &Engine, deadline: Duration, stop: &Stop) -> Result<(), DockerError> {
    engine.pull_image("x:1", deadline, &mut |_| {}, stop)
}

fn watch(engine: &Engine) -> (Stop, Receiver<EngineEvent>) {
    let (stop, (tell, told)) = (Stop::new(), channel());
    watch_ends(engine, "a=b", &stop, move |event| {
        let _ = tell.send(event);
    })
    .unwrap();
    (stop, told)
}

#[test]
fn no_socket_is_a_connect_error_and_shows_as_unreachable() {
    let engine = Engine::new(Path::new("/nonexistent/d.sock").into());
    assert!(matches!(engine.list_images(), Err(DockerError::Connect { .. })));
    assert!(engine.list_images().unwrap_err().is_engine_trouble());
    assert!(matches!(engine.health(), EngineHealth::Unreachable { .. }));
}

#[test]
fn an_engine_that_hangs_costs_a_probe_its_deadline_and_shows_as_unresponsive() {
    let fake = FakeEngine::start(|_, stream| hang(stream));
    let engine = fake.engine();
    let started = Instant::now();
    assert!(matches!(engine.probe(), Err(DockerError::TimedOut { .. })));
    let took = started.elapsed();
    assert!(took >= limits::ENGINE_PROBE_DEADLINE && took < limits::ENGINE_PROBE_DEADLINE * 2);
    assert!(matches!(engine.health(), EngineHealth::Unresponsive { .. }));
}

#[test]
fn an_answer_that_dribbles_past_the_deadline_is_timed_out() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, STREAM_HEAD);
        while stream.write_all(chunk("{\"status\":\"Waiting\"}\n").as_bytes()).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
        Then::Close
    });
    let started = Instant::now();
    let pulled = pull(&fake.engine(), Duration::from_millis(400), &Stop::new());
    assert!(matches!(pulled, Err(DockerError::TimedOut { .. })), "{pulled:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_head_that_dribbles_past_the_deadline_is_timed_out() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, "HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X-A: b\r\n").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
        Then::Close
    });
    let pulled = pull(&fake.engine(), Duration::from_millis(400), &Stop::new());
    assert!(matches!(pulled, Err(DockerError::TimedOut { .. })), "{pulled:?}");
}

#[test]
fn a_death_inside_the_body_is_broken_and_not_asked_again() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{");
        Then::Close
    });
    let listed = fake.engine().list_images();
    assert!(matches!(listed, Err(DockerError::Broken { .. })), "{listed:?}");
    assert_eq!(fake.asked("/images/json"), 1);
}

#[test]
fn a_death_before_every_answer_is_broken_after_two_tries() {
    let fake = FakeEngine::start(|_, _| Then::Close);
    let error = fake.engine().list_images().unwrap_err();
    assert!(matches!(error, DockerError::Broken { .. }) && error.is_engine_trouble());
    assert_eq!(fake.asked("/images/json"), 2);
}

#[test]
fn a_kept_connection_closed_meanwhile_fails_no_call() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, &ok("[]"));
        Then::Close
    });
    let engine = fake.engine();
    engine.list_images().unwrap();
    thread::sleep(Duration::from_millis(50));
    engine.list_images().unwrap();
    assert_eq!(fake.asked("/images/json"), 2);
}

#[test]
fn a_kept_connection_closed_as_the_request_arrives_fails_no_call() {
    let calls = AtomicUsize::new(0);
    let fake = FakeEngine::start(move |_, stream| match calls.fetch_add(1, Ordering::SeqCst) {
        1 => Then::Close,
        _ => say(stream, &ok("[]")),
    });
    let engine = fake.engine();
    engine.list_images().unwrap();
    engine.list_images().unwrap();
    assert_eq!(fake.asked("/images/json"), 3);
}

#[test]
fn noise_instead_of_http_is_garbage() {
    let fake = FakeEngine::start(|_, stream| say(stream, "SSH-2.0-OpenSSH_9.2\r\n\r\n"));
    let listed = fake.engine().list_images();
    assert!(matches!(listed, Err(DockerError::Garbage { .. })), "{listed:?}");
}

#[test]
fn noise_instead_of_json_is_garbage() {
    let fake = FakeEngine::start(|_, stream| say(stream, &ok("<html>")));
    let listed = fake.engine().list_images();
    assert!(matches!(listed, Err(DockerError::Garbage { .. })), "{listed:?}");
}

#[test]
fn an_answer_beyond_the_bound_is_too_large() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while stream.write_all(&[b' '; 65536]).is_ok() {}
        Then::Close
    });
    let listed = fake.engine().list_images();
    assert!(matches!(listed, Err(DockerError::TooLarge { .. })), "{listed:?}");
}

#[test]
fn an_endless_head_is_an_error() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, "HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X-A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n").is_ok() {}
        Then::Close
    });
    assert!(fake.engine().list_images().is_err());
}

#[test]
fn a_redirect_is_a_refusal_and_not_followed() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, "HTTP/1.1 301 Moved\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n")
    });
    let listed = fake.engine().list_images();
    assert!(matches!(listed, Err(DockerError::Refused { status: 301, .. })), "{listed:?}");
    assert_eq!(fake.asked("/else"), 0);
}

#[test]
fn a_newer_engine_is_spoken_to_in_our_newest_version_and_an_older_one_in_its_own() {
    let fake = FakeEngine::start(|_, stream| say(stream, &ok("[]")));
    fake.listen("1.99", |_, stream| say(stream, &ok("[]")));
    fake.engine().list_images().unwrap();
    assert_eq!(fake.asked("GET /v1.47/images/json"), 1);
    fake.listen("1.30", |_, stream| say(stream, &ok("[]")));
    fake.engine().list_images().unwrap();
    assert_eq!(fake.asked("GET /v1.30/images/json"), 1);
}

#[test]
fn an_engine_older_than_we_speak_is_foreign() {
    let fake = FakeEngine::start(|_, _| Then::Close);
    fake.listen("1.23", |_, stream| say(stream, &ok("[]")));
    let listed = fake.engine().list_images();
    assert!(matches!(listed, Err(DockerError::Foreign { .. })), "{listed:?}");
    assert_eq!(fake.asked("/images/json"), 0);
}

#[test]
fn an_engine_that_comes_back_as_another_is_asked_for_its_version_again() {
    let fake = FakeEngine::start(|_, _| Then::Close);
    let engine = fake.engine();
    engine.list_images().unwrap_err();
    fake.listen("1.43", |_, stream| say(stream, &ok("[]")));
    engine.list_images().unwrap();
    assert_eq!(fake.asked("GET /v1.43/images/json"), 1);
}

#[test]
fn an_engine_replaced_between_two_calls_is_asked_for_its_version_again() {
    let fake = FakeEngine::start(|_, _| Then::Close);
    let answer =
        |api| format!("HTTP/1.1 200 OK\r\nApi-Version: {api}\r\nContent-Length: 2\r\n\r\n[]");
    fake.listen("1.41", move |_, stream| {
        say(stream, &answer("1.41"));
        Then::Close
    });
    let engine = fake.engine();
    engine.list_images().unwrap();
    fake.listen("1.43", move |_, stream| say(stream, &answer("1.43")));
    engine.list_images().unwrap();
    engine.list_images().unwrap();
    assert_eq!(fake.asked("GET /v1.41/images/json"), 2);
    assert_eq!(fake.asked("GET /v1.43/images/json"), 1);
}

#[test]
fn a_stop_ends_a_blocked_pull_at_once() {
    let fake = FakeEngine::start(|_, stream| hang(stream));
    let stop = Stop::new();
    let raiser = stop.clone();
    let started = Instant::now();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        raiser.raise();
    });
    let pulled = pull(&fake.engine(), PATIENCE, &stop);
    assert!(matches!(pulled, Err(DockerError::Stopped { .. })), "{pulled:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_stop_ends_a_pull_at_an_engine_that_has_not_even_told_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.sock");
    let _never_accepts = UnixListener::bind(&path).unwrap();
    let (engine, stop) = (Engine::new(path), Stop::new());
    let raiser = stop.clone();
    let started = Instant::now();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        raiser.raise();
    });
    let pulled = pull(&engine, PATIENCE, &stop);
    assert!(matches!(pulled, Err(DockerError::Stopped { .. })), "{pulled:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_error_inside_a_pulls_stream_is_a_refusal_with_its_text() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, STREAM_HEAD);
        say(stream, &chunk("{\"status\":\"Pulling\"}\r\n"));
        say(
            stream,
            &chunk("{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}\r\n"),
        );
        say(stream, "0\r\n\r\n")
    });
    let error = pull(&fake.engine(), PATIENCE, &Stop::new()).unwrap_err();
    assert_eq!(error.said(), Some("no space"));
}

#[test]
fn a_pull_whose_stream_breaks_off_is_no_success() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, STREAM_HEAD);
        say(stream, &chunk("{\"status\":\"Pulling\"}\r\n"));
        Then::Close
    });
    let pulled = pull(&fake.engine(), PATIENCE, &Stop::new());
    assert!(matches!(pulled, Err(DockerError::Broken { .. })), "{pulled:?}");
}

#[test]
fn a_load_refused_before_its_end_gives_the_engines_reason() {
    let fake = FakeEngine::start(|_, stream| {
        let body = r#"{"message":"no space left on device"}"#;
        let length = body.len();
        say(stream, &format!("HTTP/1.1 500 X\r\nContent-Length: {length}\r\n\r\n{body}"));
        Then::Close
    });
    let mut endless = std::io::repeat(0);
    let loaded = fake.engine().load_image(&mut endless, PATIENCE, &mut |_| {}, &Stop::new());
    assert_eq!(loaded.unwrap_err().said(), Some("no space left on device"));
}

#[test]
fn a_load_that_nobody_reads_ends_at_its_deadline() {
    let fake = FakeEngine::start(|_, _| {
        thread::sleep(PATIENCE);
        Then::Close
    });
    let started = Instant::now();
    let mut endless = std::io::repeat(0);
    let deadline = Duration::from_millis(400);
    let loaded = fake.engine().load_image(&mut endless, deadline, &mut |_| {}, &Stop::new());
    assert!(matches!(loaded, Err(DockerError::TimedOut { .. })), "{loaded:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn patient_calls_beyond_the_bound_are_busy_and_places_come_free() {
    let fake = FakeEngine::start(|_, stream| hang(stream));
    let (engine, stop) = (fake.engine(), Stop::new());
    let pulls: Vec<_> = (0..limits::ENGINE_PATIENT_CALLS_MAX)
        .map(|_| {
            let (engine, stop) = (engine.clone(), stop.clone());
            thread::spawn(move || pull(&engine, PATIENCE, &stop))
        })
        .collect();
    while fake.asked("/images/create") < limits::ENGINE_PATIENT_CALLS_MAX {
        thread::sleep(Duration::from_millis(10));
    }
    let one_more = pull(&engine, PATIENCE, &Stop::new());
    assert!(matches!(one_more, Err(DockerError::Busy { .. })), "{one_more:?}");
    stop.raise();
    assert!(pulls.into_iter().all(|pull| pull.join().unwrap().is_err()));
    let short = pull(&engine, Duration::from_millis(100), &Stop::new());
    assert!(matches!(short, Err(DockerError::TimedOut { .. })), "{short:?}");
}

#[test]
fn a_lost_event_stream_is_opened_again_and_says_connected_again() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, STREAM_HEAD);
        say(stream, &die(3));
        Then::Close
    });
    let (stop, told) = watch(&fake.engine());
    for _ in 0..3 {
        assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Connected)));
        let end = told.recv_timeout(PATIENCE);
        assert!(matches!(end, Ok(EngineEvent::Ended { exit_code: Some(3), .. })));
        assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Lost { .. })));
    }
    stop.raise();
}

#[test]
fn connected_is_not_said_before_the_engine_has_answered() {
    let fake = FakeEngine::start(|_, stream| {
        thread::sleep(Duration::from_millis(300));
        say(stream, STREAM_HEAD);
        hang(stream)
    });
    let started = Instant::now();
    let (stop, told) = watch(&fake.engine());
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Connected)));
    assert!(started.elapsed() >= Duration::from_millis(300));
    stop.raise();
}

#[test]
fn a_refused_subscription_is_tried_again_and_tells_nothing() {
    let calls = AtomicUsize::new(0);
    let fake = FakeEngine::start(move |_, stream| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => say(stream, "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"),
        _ => {
            say(stream, STREAM_HEAD);
            hang(stream)
        }
    });
    let (stop, told) = watch(&fake.engine());
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Connected)));
    assert_eq!(fake.asked("/events"), 2);
    stop.raise();
}

#[test]
fn noise_and_endless_lines_in_the_event_stream_cost_no_end() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, STREAM_HEAD);
        say(stream, &chunk("noise\n{\"half\":\n\n"));
        say(stream, &chunk(&"x".repeat(limits::ENGINE_LINE_BYTES_MAX + 1)));
        say(stream, &chunk("\n"));
        say(stream, &die(5));
        hang(stream)
    });
    let (stop, told) = watch(&fake.engine());
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Connected)));
    let end = told.recv_timeout(PATIENCE);
    assert!(matches!(end, Ok(EngineEvent::Ended { exit_code: Some(5), .. })), "{end:?}");
    stop.raise();
}

#[test]
fn a_silent_stream_of_an_engine_that_lives_is_kept() {
    let fake = FakeEngine::start(|line, stream| {
        if line.contains("/_ping") {
            return say(
                stream,
                "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK",
            );
        }
        say(stream, STREAM_HEAD);
        thread::sleep(limits::ENGINE_EVENTS_SILENCE + Duration::from_secs(1));
        say(stream, &die(6));
        hang(stream)
    });
    let (stop, told) = watch(&fake.engine());
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Connected)));
    let end = told.recv_timeout(PATIENCE);
    assert!(matches!(end, Ok(EngineEvent::Ended { exit_code: Some(6), .. })), "{end:?}");
    assert_eq!((fake.asked("/events"), fake.asked("/_ping")), (1, 1));
    stop.raise();
}

#[test]
fn a_silent_stream_of_an_engine_that_hangs_is_given_up() {
    let fake = FakeEngine::start(|line, stream| {
        if line.contains("/events") {
            say(stream, STREAM_HEAD);
        }
        hang(stream)
    });
    let engine = fake.engine();
    let (stop, told) = watch(&engine);
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Connected)));
    let lost = told.recv_timeout(PATIENCE);
    let Ok(EngineEvent::Lost { why: DockerError::TimedOut { .. } }) = lost else {
        panic!("{lost:?}")
    };
    stop.raise();
}

#[test]
fn a_stop_ends_the_event_thread_at_once() {
    let fake = FakeEngine::start(|_, stream| {
        say(stream, STREAM_HEAD);
        hang(stream)
    });
    let stop = Stop::new();
    let (tell, told) = channel();
    let thread = watch_ends(&fake.engine(), "a=b", &stop, move |event| {
        let _ = tell.send(event);
    })
    .unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Connected)));
    let started = Instant::now();
    stop.raise();
    assert_eq!(thread.join().unwrap(), Some(()));
    assert!(started.elapsed() < Duration::from_secs(1));
}
