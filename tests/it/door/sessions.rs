//! WebSockets at the door: the handshake, what peers may do to a session, and how it ends.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use river_runner::limits::{
    SESSION_LINGER, SESSION_MESSAGE_BYTES_MAX, SESSION_OUTPUT_BYTES_MAX, SESSIONS_MAX,
};
use river_runner::serve::session::POLICY;
use river_runner::serve::{Answer, Call, Message, Reply, Session, Turn};
use tungstenite::Message as Frame;

use super::{Hall, House, PATIENCE, Plan, eventually};
use crate::kit::Socket;

// ── handlers ─────────────────────────────────────────────────────────────────────────────────

/// Sends back what comes; "leave" makes it close with 1008.
pub fn echo(hall: &Arc<Hall>, _: Call) -> Answer {
    let hall = Arc::clone(hall);
    Answer::Session(Session::new("echo", move |socket| {
        while socket.wait(&mut [], None) == Turn::Ready {
            while let Some(message) = socket.receive() {
                match message {
                    Message::Text(text) if text == "leave" => return socket.close(POLICY, "asked"),
                    Message::Text(text) => socket.send_text(text),
                    Message::Binary(bytes) => socket.send_binary(bytes),
                }
            }
        }
        hall.sessions_ended.fetch_add(1, Ordering::SeqCst);
    }))
}

/// Sends as much as is taken.
pub fn flood(hall: &Arc<Hall>, _: Call) -> Answer {
    const PIECE: usize = 64 * 1024;
    let hall = Arc::clone(hall);
    Answer::Session(Session::new("flood", move |socket| {
        loop {
            while !socket.is_clogged() {
                socket.send_binary(vec![7; PIECE]);
                hall.flooded_bytes.fetch_add(PIECE, Ordering::SeqCst);
            }
            match socket.wait(&mut [], None) {
                Turn::Ready | Turn::Elapsed => {}
                Turn::PeerLeft | Turn::Stopping => break,
            }
        }
        hall.sessions_ended.fetch_add(1, Ordering::SeqCst);
    }))
}

/// Takes nothing.
pub fn deaf(_: &Arc<Hall>, _: Call) -> Answer {
    Answer::Session(Session::new("deaf", |socket| {
        while matches!(socket.wait(&mut [], None), Turn::Ready | Turn::Elapsed) {}
    }))
}

pub fn panic(_: &Arc<Hall>, _: Call) -> Answer {
    Answer::Session(Session::new("panic", |_| panic!("on purpose")))
}

pub fn refused(_: &Arc<Hall>, _: Call) -> Answer {
    Reply::detail(403, "no").into()
}

// ── handshake ────────────────────────────────────────────────────────────────────────────────

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";

fn asked(house: &House, target: &str, lines: &str) -> super::Seen {
    let mut client = house.client();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"));
    client.answer_head().expect("an answer")
}

#[test]
fn handshake_is_answered_as_the_standard_has_it() {
    let house = House::usual();
    let seen = asked(&house, "/ws/echo", &format!("{UPGRADE}{KEY}{VERSION}"));
    assert_eq!(seen.status, 101);
    // The example of RFC 6455 1.3.
    assert_eq!(seen.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(seen.header("sec-websocket-extensions"), None);
}

#[test]
fn request_that_is_no_handshake_is_told_why() {
    let house = House::usual();
    let status = |lines: &str| asked(&house, "/ws/echo", lines).status;
    assert_eq!(status(""), 426);
    assert_eq!(status(&format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{KEY}{VERSION}")), 426);
    assert_eq!(status(&format!("Upgrade: websocket\r\n{KEY}{VERSION}")), 426);
    assert_eq!(status(&format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 8\r\n")), 426);
    assert_eq!(status(&format!("{UPGRADE}{VERSION}")), 400);
    assert_eq!(status(&format!("{UPGRADE}{VERSION}Sec-WebSocket-Key: short\r\n")), 400);
    assert_eq!(status(&format!("{UPGRADE}{VERSION}{KEY}{KEY}")), 400);
    assert_eq!(status(&format!("{UPGRADE}{VERSION}{KEY}Content-Length: 2\r\n")), 400);
    let origin = format!("{UPGRADE}{VERSION}{KEY}Origin: http://evil.example\r\n");
    assert_eq!(status(&origin), 403);
    house.assert_healthy();
}

#[test]
fn handshake_that_the_handler_refuses_or_nobody_knows_is_403() {
    let house = House::usual();
    assert_eq!(Socket::try_open(house.address, "/ws/refused").unwrap_err(), 403);
    assert_eq!(Socket::try_open(house.address, "/ws/nobody").unwrap_err(), 403);
}

#[test]
fn method_that_opens_no_socket_is_told_the_one_that_does() {
    let house = House::usual();
    for method in ["HEAD", "POST", "DELETE"] {
        let mut client = house.client();
        let lines = format!("{UPGRADE}{KEY}{VERSION}");
        client.send(format!("{method} /ws/echo HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"));
        let seen = client.answer_head().expect("an answer");
        assert_eq!((seen.status, seen.header("allow")), (405, Some("GET")), "{method}");
    }
    assert_eq!(house.client().post("/hello/you", "{}").header("allow"), Some("GET, HEAD"));
}

#[test]
fn session_beyond_the_most_is_told_to_come_again() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let house = House::usual();
    let mut sockets: Vec<Socket> =
        (0..SESSIONS_MAX).map(|_| Socket::open(house.address, "/ws/echo")).collect();
    let seen = asked(&house, "/ws/echo", &format!("{UPGRADE}{KEY}{VERSION}"));
    assert_eq!(seen.status, 503);
    assert!(seen.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    house.assert_healthy();
    sockets.pop();
    eventually("there is room", || Socket::try_open(house.address, "/ws/echo").is_ok());
}

#[test]
fn session_over_the_socket_file_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let house = House::of(Plan { api_socket: Some(path.clone()), ..Plan::default() });
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut socket, _) = tungstenite::client("ws://localhost/ws/echo", stream).unwrap();
    socket.send(Frame::text("hi")).unwrap();
    assert_eq!(socket.read().unwrap(), Frame::text("hi"));
    drop(socket);
    eventually("it ended", || house.hall.sessions_ended.load(Ordering::SeqCst) == 1);
}

// ── messages ─────────────────────────────────────────────────────────────────────────────────

/// A client's frame; `first` is the first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let length = u8::try_from(payload.len()).expect("a short one");
    assert!(length <= 125);
    let mut bytes = vec![first, 0x80 | length];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

#[test]
fn message_right_behind_the_handshake_is_not_lost() {
    let house = House::usual();
    let mut client = house.client();
    let head = format!("GET /ws/echo HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{KEY}{VERSION}\r\n");
    client.send([head.as_bytes(), &frame(0x81, b"early")].concat());
    assert_eq!(client.answer_head().expect("an answer").status, 101);
    let expected = [&[0x81, 5][..], b"early"].concat();
    while client.read.len() < expected.len() {
        client.more().expect("the echo");
    }
    assert_eq!(client.read, expected);
}

#[test]
fn messages_of_every_kind_come_back_whole() {
    let house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/echo");
    socket.send(Frame::text("grüße"));
    assert_eq!(socket.next(), Frame::text("grüße"));
    let big: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    socket.send(Frame::binary(big.clone()));
    assert_eq!(socket.next(), Frame::binary(big));
    socket.leave();
    eventually("it ended", || house.hall.sessions_ended.load(Ordering::SeqCst) == 1);
}

#[test]
fn fragments_with_a_ping_between_them_are_one_message_and_a_pong() {
    let house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/echo");
    socket.send_raw(&frame(0x01, b"one ")).unwrap();
    socket.send_raw(&frame(0x89, b"ping")).unwrap();
    socket.send_raw(&frame(0x80, b"two")).unwrap();
    assert_eq!(socket.next(), Frame::text("one two"));
}

#[test]
fn peers_that_break_the_protocol_are_told_how_and_lose_their_session_only() {
    let house = House::usual();
    let unmasked = (b"\x81\x02hi".to_vec(), 1002);
    let reserved_bits = (frame(0xf1, b"hi"), 1002);
    let unknown_opcode = (frame(0x83, b"hi"), 1002);
    let stray_continuation = (frame(0x80, b"hi"), 1002);
    let no_utf8 = (frame(0x81, b"\xff\xfe"), 1007);
    let mut too_long = vec![0x82, 0xff];
    too_long.extend_from_slice(&(SESSION_MESSAGE_BYTES_MAX as u64 + 1).to_be_bytes());
    too_long.extend_from_slice(&[0; 64]);
    let all =
        [unmasked, reserved_bits, unknown_opcode, stray_continuation, no_utf8, (too_long, 1009)];
    let count = all.len();
    for (bytes, code) in all {
        let mut socket = Socket::open(house.address, "/ws/echo");
        socket.send_raw(&bytes).unwrap();
        assert_eq!(socket.wait_close(), code, "{bytes:x?}");
    }
    eventually("all ended", || house.hall.sessions_ended.load(Ordering::SeqCst) == count);
    house.assert_healthy();
}

#[test]
fn peer_that_pings_without_end_and_never_reads_is_bounded_and_stops_with_the_runner() {
    let mut house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/echo");
    let pings = frame(0x89, &[7; 125 - 4]).repeat(1000);
    socket.stream().set_nonblocking(true).unwrap();
    let flood = std::thread::spawn(move || {
        let end = std::time::Instant::now() + Duration::from_secs(3);
        while std::time::Instant::now() < end {
            let _ = socket.send_raw(&pings);
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    house.assert_healthy();
    house.stop.raise();
    assert!(house.server.take().unwrap().join(Duration::from_millis(1500)));
    flood.join().unwrap();
}

#[test]
fn message_of_fragments_without_end_does_not_keep_its_session_from_the_stop() {
    let mut house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/echo");
    socket.send_raw(&frame(0x01, b"")).unwrap();
    let fragments = frame(0x00, b"").repeat(10_000);
    let flood = std::thread::spawn(move || while socket.send_raw(&fragments).is_ok() {});
    std::thread::sleep(Duration::from_secs(1));
    house.assert_healthy();
    house.stop.raise();
    assert!(house.server.take().unwrap().join(Duration::from_millis(1500)));
    flood.join().unwrap();
}

#[test]
fn answers_to_pings_that_the_peer_did_not_read_come_when_it_does() {
    const PINGS: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let _house = House::of(Plan { api_socket: Some(path.clone()), ..Plan::default() });
    // Its buffers are smaller than what is answered, and the WebSocket's is not.
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut socket, _) = tungstenite::client("ws://localhost/ws/echo", stream).unwrap();
    socket.get_mut().write_all(&frame(0x89, &[7; 125]).repeat(PINGS)).unwrap();
    for answer in 0..PINGS {
        assert_eq!(socket.read().unwrap(), Frame::Pong(vec![7; 125].into()), "{answer}");
    }
}

#[test]
fn garbage_of_any_kind_ends_a_session_and_nothing_else() {
    const ROUNDS: u64 = 300;
    let house = House::usual();
    for seed in 0..ROUNDS {
        // xorshift: the same bytes in every run.
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let garbage: Vec<u8> = (0..256)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .collect();
        let mut socket = Socket::open(house.address, "/ws/echo");
        let _ = socket.send_raw(&garbage);
    }
    let ended = || house.hall.sessions_ended.load(Ordering::SeqCst) as u64 == ROUNDS;
    eventually("all ended", ended);
    house.assert_healthy();
}

// ── bounds ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn peer_that_does_not_read_stops_its_own_source_only() {
    let house = House::usual();
    let idle = Socket::open(house.address, "/ws/flood");
    let bytes = || house.hall.flooded_bytes.load(Ordering::SeqCst);
    eventually("it floods", || bytes() > SESSION_OUTPUT_BYTES_MAX);
    let mut before = 0;
    eventually("it stops", || {
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, bytes()) == bytes()
    });
    // The kernel's buffers on both sides hold a few megabytes.
    assert!(bytes() < 16 * 1024 * 1024, "{}", bytes());
    let mut other = Socket::open(house.address, "/ws/echo");
    other.send(Frame::text("hi"));
    assert_eq!(other.next(), Frame::text("hi"));
    drop(idle);
    eventually("it ended", || house.hall.sessions_ended.load(Ordering::SeqCst) == 1);
}

#[test]
fn peer_that_begins_to_read_gets_everything_in_order() {
    let house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/flood");
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..500 {
        assert_eq!(socket.next().len(), 64 * 1024);
    }
}

#[test]
fn input_that_nobody_takes_is_bounded_and_ends_the_session() {
    let house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/deaf");
    let mut sent = 0;
    while socket.try_send(Frame::binary(vec![0; 64 * 1024])) {
        sent += 64 * 1024;
        assert!(sent < 64 * 1024 * 1024, "it takes everything");
    }
    house.assert_healthy();
}

// ── the end ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn handler_that_leaves_closes_with_its_code() {
    let house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/echo");
    socket.send(Frame::text("leave"));
    assert_eq!(socket.wait_close(), 1008);
}

#[test]
fn handler_that_panics_closes_with_1011() {
    let house = House::usual();
    assert_eq!(Socket::open(house.address, "/ws/panic").wait_close(), 1011);
    house.assert_healthy();
}

#[test]
fn sessions_end_at_the_stop_with_1001() {
    let mut house = House::usual();
    let mut sockets: Vec<Socket> =
        (0..20).map(|_| Socket::open(house.address, "/ws/echo")).collect();
    house.stop.raise();
    for socket in &mut sockets {
        assert_eq!(socket.wait_close(), 1001);
    }
    assert!(house.server.take().unwrap().join(PATIENCE));
}

#[test]
fn peer_that_closes_its_half_has_left() {
    let house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/echo");
    socket.stream().shutdown(Shutdown::Write).unwrap();
    socket.wait_end();
    eventually("it ended", || house.hall.sessions_ended.load(Ordering::SeqCst) == 1);
}

#[test]
fn peer_that_answers_no_goodbye_and_dribbles_is_given_up() {
    let house = House::usual();
    let mut socket = Socket::open(house.address, "/ws/echo");
    socket.send(Frame::text("leave"));
    let since = Instant::now();
    // Pieces of a frame that never ends.
    let mut bytes = frame(0x82, &[0; 125]).into_iter().cycle();
    while socket.send_raw(&[bytes.next().unwrap()]).is_ok() {
        assert!(since.elapsed() < SESSION_LINGER + PATIENCE, "it is never given up");
        std::thread::sleep(Duration::from_millis(50));
    }
    house.assert_healthy();
}

#[test]
fn stop_during_a_goodbye_is_not_held_up_by_it() {
    let mut house = House::usual();
    let mut sockets: Vec<Socket> =
        (0..20).map(|_| Socket::open(house.address, "/ws/echo")).collect();
    for socket in &mut sockets {
        socket.send(Frame::text("leave"));
    }
    // The goodbyes are said, and nobody reads them: they would be waited for much longer.
    std::thread::sleep(Duration::from_millis(300));
    house.stop.raise();
    assert!(house.server.take().unwrap().join(SESSION_LINGER - Duration::from_millis(800)));
}

#[test]
fn two_hundred_sessions_dropped_rudely_all_end() {
    let house = House::usual();
    let sockets: Vec<Socket> = (0..200).map(|_| Socket::open(house.address, "/ws/echo")).collect();
    drop(sockets);
    eventually("all ended", || house.hall.sessions_ended.load(Ordering::SeqCst) == 200);
    house.assert_healthy();
}
