//! Requests as good clients write them, in every shape the door takes.

use std::thread;
use std::time::Duration;

use super::{Client, House};

#[test]
fn path_query_and_headers_reach_the_handler_decoded() {
    let house = House::usual();
    let mut client = house.client();
    client
        .send("GET /hello/a%2Fb?q=c+d%26 HTTP/1.1\r\nHOST: localhost\r\nUser-Agent:  me \r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "a/b c d& me");
}

#[test]
fn connection_serves_many_requests_one_after_another() {
    let house = House::usual();
    let mut client = house.client();
    for number in 0..500 {
        assert_eq!(client.get(&format!("/hello/{number}")).text(), format!("{number} - -"));
    }
}

#[test]
fn connection_that_pauses_is_served_again() {
    let house = House::usual();
    let mut client = house.client();
    for _ in 0..3 {
        assert_eq!(client.get("/health").status, 200);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let house = House::usual();
    let mut client = house.client();
    let one = |name: usize| format!("GET /hello/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.send((0..100).map(one).collect::<String>());
    for name in 0..100 {
        assert_eq!(client.answer().unwrap().text(), format!("{name} - -"));
    }
}

#[test]
fn pipelined_bodies_don_t_run_into_each_other() {
    let house = House::usual();
    let mut client = house.client();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc\
         POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nde\r\n1\r\nf\r\n0\r\nTrailer: x\r\n\r\n\
         GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n\
         \r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert_eq!(client.answer().unwrap().text(), "abc");
    assert_eq!(client.answer().unwrap().text(), "def");
    assert_eq!(client.answer().unwrap().status, 404);
    assert_eq!(client.answer().unwrap().status, 200);
}

#[test]
fn request_in_single_bytes_is_answered() {
    let house = House::usual();
    let mut client = house.client();
    for byte in b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc" {
        client.send([*byte]);
    }
    assert_eq!(client.answer().unwrap().text(), "abc");
}

#[test]
fn head_is_get_without_the_body() {
    let house = House::usual();
    let mut client = house.client();
    client.send("HEAD /hello/you HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let seen = client.answer_head().unwrap();
    assert_eq!((seen.status, seen.header("content-length")), (200, Some("7")));
    client.send("HEAD /none HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.answer_head().unwrap().status, 404);
    assert_eq!(client.get("/health").status, 200);
}

#[test]
fn client_that_waits_for_100_is_told_to_go_on() {
    let house = House::usual();
    waits_for_100(house.client(), 10);
    waits_for_100(house.client(), 500_000);
}

fn waits_for_100(mut client: Client, length: usize) {
    client.send(format!(
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
         Expect: 100-continue\r\n\r\n"
    ));
    assert_eq!(client.answer_head().unwrap().status, 100);
    client.send("x".repeat(length));
    assert_eq!(client.answer().unwrap().body.len(), length);
}

#[test]
fn client_that_waits_for_100_with_too_much_is_refused_before_it_sends() {
    let house = House::usual();
    let mut client = house.client();
    client.send(
        "PUT /tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.answer().unwrap().status, 413);
    assert!(client.is_closed());
}

#[test]
fn body_of_the_limit_passes_and_one_byte_more_does_not() {
    let house = House::usual();
    let mut client = house.client();
    client.send("PUT /tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd");
    assert_eq!(client.answer().unwrap().status, 200);
    client.send("PUT /tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde");
    assert_eq!(client.answer().unwrap().status, 413);
}

#[test]
fn megabyte_body_arrives_whole_in_both_framings() {
    let house = House::usual();
    let body: String = ('a'..='z').cycle().take(1 << 20).collect();
    let mut client = house.client();
    assert!(client.post("/echo", &body).text() == body);
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for part in body.as_bytes().chunks(50_000) {
        client.send(format!("{:x}\r\n", part.len()));
        client.send(part);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert!(client.answer().unwrap().text() == body);
}

#[test]
fn old_client_is_answered_and_closed_unless_it_asks_otherwise() {
    let house = House::usual();
    let mut client = house.client();
    client.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().unwrap().header("connection"), Some("keep-alive"));
    client.send("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 200);
    assert!(client.is_closed());
}

#[test]
fn client_that_says_close_is_closed() {
    let house = House::usual();
    let mut client = house.client();
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let seen = client.answer().unwrap();
    assert_eq!((seen.status, seen.header("connection")), (200, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn empty_post_without_length_or_type_is_a_request() {
    let house = House::usual();
    let mut client = house.client();
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 200);
}

#[test]
fn unknown_paths_and_methods_have_the_contract_s_answers() {
    let house = House::usual();
    let mut client = house.client();
    let seen = client.get("/none");
    assert_eq!((seen.status, seen.text()), (404, r#"{"detail":"Not Found"}"#));
    let seen = client.post("/health", "");
    assert_eq!((seen.status, seen.text()), (405, r#"{"detail":"Method Not Allowed"}"#));
    assert_eq!(seen.header("allow"), Some("GET, HEAD"));
    assert_eq!(client.get("/ws/none").status, 403);
}

#[test]
fn bodies_that_forms_send_are_no_json() {
    let house = House::usual();
    let mut client = house.client();
    let mut typed = |kind: &str| {
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        ));
        client.answer().unwrap().status
    };
    assert_eq!(typed("application/json; charset=utf-8"), 200);
    assert_eq!(typed("application/vnd.river+json"), 200);
    assert_eq!(typed("text/plain"), 415);
}
