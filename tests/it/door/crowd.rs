//! Many at once. The server runs in a process of its own here, so that its memory and its file
//! descriptors are its own: this test binary, started again with `RIVER_TEST_SERVER` set.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use river_runner::model::settings::Cidr;
use river_runner::serve::access::Policy;

use super::{Client, House, Plan, eventually};

const SERVER: &str = "RIVER_TEST_SERVER";

/// Not a test: what the started process does. Its argument is how many file descriptors it may have.
#[test]
fn server_process() {
    let Ok(descriptors) = std::env::var(SERVER) else { return };
    let descriptors = descriptors.parse().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).unwrap();
    let house = House::usual();
    println!("listening on {}", house.address);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Process {
    child: Child,
    _input: ChildStdin,
    address: SocketAddr,
}

impl Process {
    fn start(descriptors: u64) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["door::crowd::server_process", "--exact", "--nocapture"])
            .env(SERVER, descriptors.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("listening on ").map(|(_, text)| text.to_owned()));
        let address = address.unwrap().parse().unwrap();
        Process { _input: child.stdin.take().unwrap(), child, address }
    }

    fn resident_kib(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    fn assert_healthy(&self) {
        assert_eq!(Client::connect(self.address).get("/health").status, 200);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As many file descriptors as this process may have at all.
fn raise_own_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

#[test]
fn thousands_of_half_open_requests_cost_little_and_nobody_waits_for_them() {
    raise_own_limit();
    let process = Process::start(4096);
    process.assert_healthy();
    let before = process.resident_kib();
    let mut half_open: Vec<TcpStream> = Vec::new();
    for _ in 0..2000 {
        let mut stream = TcpStream::connect(process.address).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: local").unwrap();
        half_open.push(stream);
    }
    let mut client = Client::connect(process.address);
    for _ in 0..200 {
        assert_eq!(client.get("/hello/you").status, 200);
        process.assert_healthy();
    }
    let grown = process.resident_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB for 2,000 half-open requests");
    half_open[1999].write_all(b"host\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    half_open[1999].read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[test]
fn unfinished_heads_are_bounded_together() {
    raise_own_limit();
    let process = Process::start(4096);
    process.assert_healthy();
    let before = process.resident_kib();
    let long = format!("GET /health HTTP/1.1\r\nX: {}", "a".repeat(15_000));
    let mut half_open: Vec<TcpStream> = Vec::new();
    for _ in 0..3000 {
        let mut stream = TcpStream::connect(process.address).unwrap();
        stream.write_all(long.as_bytes()).unwrap();
        half_open.push(stream);
    }
    process.assert_healthy();
    let grown = process.resident_kib().saturating_sub(before);
    assert!(grown < 30 * 1024, "{grown} KiB for 44 MiB of heads");
}

#[test]
fn running_out_of_file_descriptors_is_survived() {
    let process = Process::start(64);
    process.assert_healthy();
    for _ in 0..3 {
        let crowd: Vec<TcpStream> =
            (0..200).map(|_| TcpStream::connect(process.address).unwrap()).collect();
        assert_eq!(Client::connect(process.address).answer().unwrap().status, 503);
        drop(crowd);
        eventually("served again", || {
            let mut client = Client::connect(process.address);
            client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.answer().is_some_and(|seen| seen.status == 200)
        });
    }
}

#[test]
fn parked_callers_that_hang_up_leave_nothing_behind() {
    let process = Process::start(1024);
    let before = process.descriptors();
    let parked: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = Client::connect(process.address);
            client.send("GET /park/slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client
        })
        .collect();
    eventually("all are there", || process.descriptors() >= before + 100);
    std::thread::sleep(Duration::from_millis(100));
    drop(parked);
    eventually("all have gone", || process.descriptors() <= before);
}

#[test]
fn address_beyond_its_connections_is_turned_away() {
    let Some(own) = own_address() else {
        eprintln!("this machine has no address but loopback: nothing to test");
        return;
    };
    let policy = Policy { allow_from: vec![Cidr { base: own, prefix: 32 }], ..Policy::default() };
    let house = House::of(Plan { policy, address: "0.0.0.0:0", ..Plan::default() });
    let address = SocketAddr::new(own, house.address.port());
    let mut crowd: Vec<Client> = (0..64).map(|_| Client::connect(address)).collect();
    assert_eq!(crowd[63].get("/health").status, 200);
    assert_eq!(Client::connect(address).answer().unwrap().status, 503);
    crowd.truncate(32);
    eventually("served again", || {
        let mut client = Client::connect(address);
        client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.answer().is_some_and(|seen| seen.status == 200)
    });
}

/// An IPv4 address of this machine that is not loopback; talking to it stays inside.
fn own_address() -> Option<IpAddr> {
    let addresses = getifaddrs().unwrap();
    addresses
        .filter_map(|interface| interface.address)
        .filter_map(|address| address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip())))
        .find(|address| !address.is_loopback())
}
