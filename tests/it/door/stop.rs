//! The end of a server: what runs finishes, who waits is told, nothing is left behind.

use std::sync::atomic::Ordering;
use std::time::Duration;

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
    assert_eq!(client.answer().unwrap().status, 503);
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
