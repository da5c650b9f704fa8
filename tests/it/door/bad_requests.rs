//! Requests that are wrong. Each is answered or closed, and a stranger is served right after.

use std::time::Duration;

use river_runner::serve::Patience;

use super::{Client, House, Plan};

/// What is sent and the status it earns. After each the connection must be closed.
static FRAMING: &[(&str, u16)] = &[
    // the request line
    ("\0", 400),
    ("\u{16}\u{3}\u{1}\u{2}\0\u{1}", 400),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 400),
    ("GET / HTTP/3\r\nHost: localhost\r\n\r\n", 400),
    ("GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", 400),
    ("GET / HTTP/0.9\r\nHost: localhost\r\n\r\n", 400),
    ("GET / http/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET / \r\nHost: localhost\r\n\r\n", 400),
    ("GET /\r\n\r\n", 400),
    ("GET\r\n\r\n", 400),
    ("garbage\r\n\r\n", 400),
    (" GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET\t/\tHTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("G(T / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET https://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET /caf\u{e9} HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET /#a HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET /\u{7f} HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    // line ends
    ("GET / HTTP/1.1\nHost: localhost\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\r\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: local\rhost\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\r\nHost: localhost\r\n\r\n", 400),
    ("\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    // header lines
    ("GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\r\n: empty\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\r\nX[]: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\r\nX: a\u{8}b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    ("GET / HTTP/1.0\r\nHost: localhost\r\nHost: other\r\n\r\n", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 200-maybe\r\n\r\n", 417),
    // lengths
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\na", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1.0\r\n\r\na", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x1\r\n\r\na", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1 1\r\n\r\na", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\na", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length:\r\n\r\n", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: one\r\n\r\n", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: \u{661}\r\n\r\n", 400),
    (
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        400,
    ),
    (
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        400,
    ),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000000000000000\r\n\r\n", 413),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551617\r\n\r\n", 413),
    ("PUT /tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde", 413),
    // codings
    (
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
    ("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\r\n\r\n", 400),
    ("POST /echo HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    // access
    ("GET /health HTTP/1.1\r\nHost: a.example\r\n\r\n", 403),
    ("GET /health HTTP/1.1\r\nHost:\r\n\r\n", 403),
    ("GET http://a.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
    ("GET /ws/none HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
];

/// Chunked bodies of `/tiny`, which takes four bytes.
static CHUNKS: &[(&str, u16)] = &[
    ("\r\n", 400),
    ("x\r\n", 400),
    ("-1\r\n", 400),
    ("+1\r\na\r\n", 400),
    ("0x1\r\na\r\n", 400),
    ("1 \r\na\r\n", 400),
    (" 1\r\na\r\n", 400),
    ("1\na\n", 400),
    ("1\r\nab\r\n0\r\n\r\n", 400),
    ("1\r\na\n0\r\n\r\n", 400),
    ("1;\0\r\na\r\n", 400),
    ("11111111111111111\r\n", 400),
    ("ffffffffffffffff\r\n", 413),
    ("5\r\n", 413),
    ("4\r\nabcd\r\n1\r\n", 413),
    ("0\r\nX: a\n\r\n", 400),
];

/// Well framed and yet wrong: the connection goes on.
static MEANING: &[(&str, u16)] = &[
    ("GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ("GET //health HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ("GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ("GET /hello/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ("GET /%68ealth HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ("GET /../health HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ("get /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ("BREW /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ("DELETE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ("GET /hello/% HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET /hello/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET /hello/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET /hello/%ff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("GET /hello/a?q=%f HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
];

fn assert_status(client: &mut Client, sent: &str, status: u16) {
    let seen = client.answer().unwrap_or_else(|| panic!("no answer to {sent:?}"));
    assert_eq!(seen.status, status, "{sent:?}");
    assert!(seen.text().starts_with(r#"{"detail":"#), "{sent:?}: {}", seen.text());
}

#[test]
fn requests_framed_wrongly_are_answered_and_closed() {
    let house = House::usual();
    for (sent, status) in FRAMING {
        let mut client = house.client();
        client.send(sent);
        assert_status(&mut client, sent, *status);
        assert!(client.is_closed(), "{sent:?}");
        house.assert_healthy();
    }
}

#[test]
fn chunks_framed_wrongly_are_answered_and_closed() {
    let house = House::usual();
    let head = "PUT /tiny HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (chunks, status) in CHUNKS {
        let mut client = house.client();
        client.send(format!("{head}{chunks}"));
        assert_status(&mut client, chunks, *status);
        assert!(client.is_closed(), "{chunks:?}");
        house.assert_healthy();
    }
}

#[test]
fn requests_that_mean_nothing_leave_the_connection_alive() {
    let house = House::usual();
    let mut client = house.client();
    for (sent, status) in MEANING {
        client.send(sent);
        assert_status(&mut client, sent, *status);
        assert_eq!(client.get("/health").status, 200);
    }
}

#[test]
fn garbage_behind_a_good_request_costs_only_itself() {
    let house = House::usual();
    let mut client = house.client();
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n\u{1}\u{2}\u{3}garbage\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(client.answer().unwrap().status, 400);
    assert!(client.is_closed());
}

#[test]
fn head_that_is_not_utf_8_is_refused() {
    let house = House::usual();
    let mut client = house.client();
    client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: \xff\xfe\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 400);
    house.assert_healthy();
}

#[test]
fn head_of_100_megabytes_is_refused_at_its_limit() {
    let house = House::usual();
    let mut client = house.client();
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nX: ");
    // Stops by itself when the door has had enough; the answer may be lost with the reset.
    client.send(vec![b'a'; 100_000_000]);
    assert!(client.answer().is_none_or(|seen| seen.status == 431));
    house.assert_healthy();
}

#[test]
fn head_just_too_large_is_answered_431() {
    let house = House::usual();
    let mut client = house.client();
    client.send(format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "a".repeat(20_000)
    ));
    assert_eq!(client.answer().unwrap().status, 431);
    let mut client = house.client();
    client.send(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(20_000)));
    assert_eq!(client.answer().unwrap().status, 431);
}

#[test]
fn head_of_too_many_lines_is_answered_431() {
    let house = House::usual();
    let mut client = house.client();
    let lines = "a:b\r\n".repeat(200);
    client.send(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"));
    assert_eq!(client.answer().unwrap().status, 431);
}

#[test]
fn requests_that_come_too_slowly_are_answered_408() {
    let short = Duration::from_millis(200);
    let patience = Patience { head: short, body_grace: short, ..Patience::default() };
    let house = House::of(Plan { patience, ..Plan::default() });
    let begun = [
        "GET /heal",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ];
    for sent in begun {
        let mut client = house.client();
        client.send(sent);
        house.assert_healthy();
        assert_status(&mut client, sent, 408);
        assert!(client.is_closed());
    }
}

#[test]
fn connection_that_says_nothing_is_closed() {
    let short = Duration::from_millis(200);
    let patience = Patience { head: short, idle: short, ..Patience::default() };
    let house = House::of(Plan { patience, ..Plan::default() });
    assert!(house.client().is_closed());
    let mut client = house.client();
    assert_eq!(client.get("/health").status, 200);
    assert!(client.is_closed());
}

#[test]
fn peer_that_leaves_in_the_middle_is_no_matter() {
    let house = House::usual();
    let begun = [
        "GET /heal",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "GET /large/8192 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ];
    for sent in begun.iter().cycle().take(50) {
        house.client().send(sent);
    }
    house.assert_healthy();
}
