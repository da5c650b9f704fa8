//! Ways to answer: parked, streamed, large, panicking; and who gets a worker.

use std::sync::atomic::Ordering;
use std::time::Duration;

use river_runner::serve::{Patience, Reply};

use super::{House, Plan, eventually};

#[test]
fn parked_call_is_answered_from_another_thread_and_the_connection_goes_on() {
    let house = House::usual();
    let mut client = house.client();
    client.send("GET /park HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.send("GET /hello/next HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("parked", || !house.hall.responders.lock().unwrap().is_empty());
    let responder = house.hall.responders.lock().unwrap().pop().unwrap();
    responder.respond(Reply::text(200, "later"));
    assert_eq!(client.answer().unwrap().text(), "later");
    assert_eq!(client.answer().unwrap().text(), "next - -");
}

#[test]
fn parked_calls_hold_no_worker() {
    let house = House::usual();
    let mut clients: Vec<_> = (0..50).map(|_| house.client()).collect();
    for client in &mut clients {
        client.send("GET /park HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    eventually("all parked", || house.hall.responders.lock().unwrap().len() == 50);
    assert_eq!(house.client().get("/hello/you").status, 200);
    for responder in house.hall.responders.lock().unwrap().drain(..) {
        responder.respond(Reply::text(200, "x".repeat(1 << 20)));
    }
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().body.len(), 1 << 20);
    }
}

#[test]
fn responder_may_be_faster_than_its_handler() {
    let house = House::usual();
    assert_eq!(house.client().get("/park/answered").text(), "before");
}

#[test]
fn responder_that_is_dropped_answers_503() {
    let house = House::usual();
    let seen = house.client().get("/park/dropped");
    assert_eq!(seen.status, 503);
    assert!(seen.text().starts_with(r#"{"detail":"#));
}

#[test]
fn parked_call_has_a_deadline_and_a_slow_row_a_longer_one() {
    let patience = Patience { parked: Duration::from_millis(200), ..Patience::default() };
    let house = House::of(Plan { patience, ..Plan::default() });
    let mut slow = house.client();
    slow.send("GET /park/slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("parked", || house.hall.responders.lock().unwrap().len() == 1);
    let slow_responder = house.hall.responders.lock().unwrap().pop().unwrap();
    assert_eq!(house.client().get("/park").status, 503);
    slow_responder.respond(Reply::text(200, "done"));
    assert_eq!(slow.answer().unwrap().text(), "done");
}

#[test]
fn handler_that_panics_costs_its_caller_a_500_and_nobody_else_anything() {
    let house = House::usual();
    for _ in 0..20 {
        let mut client = house.client();
        let seen = client.get("/panic");
        assert_eq!((seen.status, seen.text()), (500, r#"{"detail":"Internal Server Error"}"#));
        assert!(client.is_closed());
    }
    house.assert_healthy();
}

#[test]
fn urgent_rows_are_served_while_every_ordinary_worker_hangs() {
    let house = House::usual();
    let mut hanging: Vec<_> = (0..10).map(|_| house.client()).collect();
    for client in &mut hanging {
        client.send("GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    eventually("both ordinary workers hang", || house.hall.begun.load(Ordering::SeqCst) == 2);
    let mut client = house.client();
    for _ in 0..20 {
        assert_eq!(client.get("/health").status, 200);
        assert_eq!(client.post("/kill", "7").text(), "7");
    }
    house.hall.gate.open();
    for client in &mut hanging {
        assert_eq!(client.answer().unwrap().text(), "at last");
    }
}

#[test]
fn small_bodies_that_don_t_come_hold_no_worker() {
    let house = House::usual();
    let mut waiting: Vec<_> = (0..20).map(|_| house.client()).collect();
    for client in &mut waiting {
        client.send("POST /kill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n1");
    }
    assert_eq!(house.client().get("/hello/you").status, 200);
    house.assert_healthy();
    for client in &mut waiting {
        client.send("2");
        assert_eq!(client.answer().unwrap().text(), "12");
    }
}

#[test]
fn large_answer_arrives_whole() {
    let house = House::usual();
    let seen = house.client().get("/large/16384");
    assert_eq!(seen.body.len(), 16 << 20);
}

#[test]
fn peer_that_does_not_read_is_given_up() {
    let patience = Patience { write_stall: Duration::from_millis(200), ..Patience::default() };
    let house = House::of(Plan { patience, ..Plan::default() });
    let mut deaf: Vec<_> = (0..4).map(|_| house.client()).collect();
    for client in &mut deaf {
        client.send("GET /large/32768 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    assert_eq!(house.client().get("/hello/you").status, 200);
}

#[test]
fn stream_flows_until_its_reader_leaves() {
    let house = House::usual();
    let mut client = house.client();
    client.send("GET /ticks HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let seen = client.answer_head().unwrap();
    assert_eq!((seen.header("content-length"), seen.header("connection")), (None, Some("close")));
    eventually("five lines", || {
        client.more();
        client.read.iter().filter(|byte| **byte == b'\n').count() >= 5
    });
    assert!(client.read.starts_with(b"0\n1\n2\n3\n4\n"));
    assert_eq!(house.hall.streams_ended.load(Ordering::SeqCst), 0);
    drop(client);
    eventually("the writer ended", || house.hall.streams_ended.load(Ordering::SeqCst) == 1);
}

#[test]
fn stream_ends_when_its_reader_reads_nothing() {
    let patience = Patience { write_stall: Duration::from_millis(200), ..Patience::default() };
    let house = House::of(Plan { patience, ..Plan::default() });
    let mut client = house.client();
    client.send("GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the writer ended", || house.hall.streams_ended.load(Ordering::SeqCst) == 1);
}

#[test]
fn streams_beyond_their_number_are_refused() {
    let house = House::usual();
    let mut streams: Vec<_> = (0..64).map(|_| house.client()).collect();
    for client in &mut streams {
        client.send("GET /ticks HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.answer_head().unwrap().status, 200);
    }
    assert_eq!(house.client().get("/ticks").status, 503);
    house.assert_healthy();
}
