//! Who is let in (design D13), over real sockets.

use river_runner::serve::access::Policy;

use super::{Client, House, Plan, Seen};

/// Callers need a token; this machine has no privilege.
fn closed_house() -> House {
    let policy = Policy { token: Some("sesame".into()), ..Policy::default() };
    House::of(Plan { policy, ..Plan::default() })
}

fn ask(house: &House, lines: &str) -> Seen {
    let mut client = house.client();
    client.send(format!("GET /health HTTP/1.1\r\n{lines}\r\n"));
    client.answer().unwrap()
}

#[test]
fn stranger_is_refused_counted_and_named() {
    let house = closed_house();
    let seen = ask(&house, "Host: localhost\r\n");
    assert_eq!(seen.status, 403);
    assert!(seen.text().starts_with(r#"{"detail":"Forbidden"#));
    ask(&house, "Host: localhost\r\nAuthorization: Bearer wrong\r\n");
    let denied = house.access.denied();
    assert_eq!((denied[0].address.to_string().as_str(), denied[0].times), ("127.0.0.1", 2));
    assert_eq!(denied[0].path, "/health");
}

#[test]
fn stranger_learns_nothing_about_rows() {
    let house = closed_house();
    assert_eq!(house.client().get("/none").status, 403);
    assert_eq!(house.client().post("/health", "").status, 403);
}

#[test]
fn stranger_is_refused_before_the_body_comes() {
    let house = closed_house();
    let mut client = house.client();
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 403);
    assert!(client.is_closed());
}

#[test]
fn bearer_of_the_token_is_let_in() {
    let house = closed_house();
    assert_eq!(ask(&house, "Host: localhost\r\nAuthorization: Bearer sesame\r\n").status, 200);
}

#[test]
fn workload_row_is_open() {
    let house = closed_house();
    assert_eq!(house.client().post("/workload", "beat").text(), "beat");
}

#[test]
fn host_is_let_in_as_soon_as_its_address_is_known() {
    let house = closed_house();
    house.access.set_host_addresses(vec!["127.0.0.1".parse().unwrap()]);
    house.assert_healthy();
}

#[test]
fn pages_of_others_are_refused() {
    let house = House::usual();
    let here = house.address;
    assert_eq!(ask(&house, &format!("Host: {here}\r\n")).status, 200);
    assert_eq!(ask(&house, &format!("Host: {here}\r\nOrigin: http://{here}\r\n")).status, 200);
    assert_eq!(ask(&house, &format!("Host: {here}\r\nOrigin: http://a.example\r\n")).status, 403);
    assert_eq!(ask(&house, &format!("Host: {here}\r\nOrigin: null\r\n")).status, 403);
    let both = format!("Host: {here}\r\nOrigin: http://{here}\r\nOrigin: http://a.example\r\n");
    assert_eq!(ask(&house, &both).status, 403);
    assert_eq!(ask(&house, "Host: a.example\r\n").status, 403);
}

#[test]
fn local_user_comes_in_by_the_socket_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let house = House::of(Plan {
        policy: Policy::default(),
        api_socket: Some(path.clone()),
        ..Plan::default()
    });
    assert_eq!(house.client().get("/health").status, 403);
    let mut local = Client::connect_local(&path);
    assert_eq!(local.get("/health").status, 200);
    assert_eq!(local.post("/echo", &"x".repeat(300_000)).body.len(), 300_000);
}
