//! The end of a server: what runs finishes, who waits is told, nothing is left behind.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{House, PATIENCE, Plan, eventually};

#[test]
fn running_request_is_answered_after_the_stop_and_idle_connections_close() {
    let mut house = House::usual();
    let (mut idle, mut running) = (house.client(), house.client());
    idle.get("/health");
    running.send("GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it runs", || house.hall.begun.load(Ordering::SeqCst) == 1);
    house.stop.raise();
    assert!(idle.is_closed());
    house.hall.gate.open();
    let seen = running.answer().unwrap();
    assert_eq!((seen.text(), seen.header("connection")), ("at last", Some("close")));
    assert!(house.server.take().unwrap().join(PATIENCE));
}

#[test]
fn parked_caller_is_told_at_the_stop() {
    let mut house = House::usual();
    let mut client = house.client();
    client.send("GET /park HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("parked", || !house.hall.responders.lock().unwrap().is_empty());
    house.stop.raise();
    let seen = client.answer().unwrap();
    assert_eq!((seen.status, seen.head.matches("Retry-After").count()), (503, 1));
    assert!(house.server.take().unwrap().join(PATIENCE));
}

#[test]
fn stream_ends_at_the_stop() {
    let mut house = House::usual();
    let mut client = house.client();
    client.send("GET /ticks HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.answer_head().unwrap();
    house.stop.raise();
    assert!(house.server.take().unwrap().join(PATIENCE));
    assert_eq!(house.hall.streams_ended.load(Ordering::SeqCst), 1);
}

#[test]
fn handler_that_hangs_does_not_hold_the_one_who_joins() {
    let mut house = House::usual();
    let mut client = house.client();
    client.send("GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it runs", || house.hall.begun.load(Ordering::SeqCst) == 1);
    house.stop.raise();
    assert!(!house.server.take().unwrap().join(Duration::from_millis(50)));
}

#[test]
fn stopped_server_leaves_its_port_and_its_socket_file_free() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let plan = || Plan { api_socket: Some(path.clone()), ..Plan::default() };
    let mut house = House::of(plan());
    house.stop.raise();
    assert!(house.server.take().unwrap().join(PATIENCE));
    assert!(!path.exists());
    assert!(std::net::TcpListener::bind(house.address).is_ok());
    House::of(plan()).assert_healthy();
}

#[test]
fn request_that_came_on_a_kept_connection_before_the_stop_is_answered() {
    let mut house = House::usual();
    let mut kept = house.client();
    kept.get("/health");
    kept.send("GET /hello/late HTTP/1.1\r\nHost: localhost\r\n\r\n");
    house.stop.raise();
    assert_eq!(kept.answer().expect("an answer").text(), "late - -");
    assert!(kept.is_closed());
    assert!(house.server.take().unwrap().join(PATIENCE));
}

#[test]
fn caller_who_has_connected_and_not_yet_asked_is_heard_after_the_stop() {
    let mut house = House::usual();
    let mut fresh = house.client();
    house.stop.raise();
    let seen = fresh.get("/hello/late");
    assert_eq!((seen.status, seen.header("connection")), (200, Some("close")));
    assert!(house.server.take().unwrap().join(PATIENCE));
}

#[test]
fn settling_server_serves_everybody_and_keeps_no_connection() {
    let house = House::usual();
    let (mut kept, mut idle) = (house.client(), house.client());
    kept.get("/health");
    idle.get("/health");
    house.server.as_ref().unwrap().settle(PATIENCE);
    assert_eq!(kept.get("/health").header("connection"), Some("close"));
    assert!(kept.is_closed());
    house.assert_healthy();
    // Closing the idle would meet requests that are on their way.
    assert_eq!(idle.get("/health").status, 200);
}

#[test]
fn settling_lasts_until_the_request_under_way_is_answered() {
    let house = House::usual();
    let mut running = house.client();
    running.send("GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it runs", || house.hall.begun.load(Ordering::SeqCst) == 1);
    let server = house.server.as_ref().unwrap();
    let since = Instant::now();
    server.settle(Duration::from_millis(50));
    assert!(since.elapsed() >= Duration::from_millis(50));
    house.hall.gate.open();
    server.settle(PATIENCE);
    assert!(since.elapsed() < PATIENCE);
    assert_eq!(running.answer().unwrap().text(), "at last");
}

#[test]
fn door_that_is_asked_whether_it_turns_does() {
    let house = House::usual();
    let pulse = house.server.as_ref().unwrap().pulse();
    let turns = pulse.ask();
    eventually("a turn", || pulse.ask() > turns);
}
