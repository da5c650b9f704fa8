//! The HTTP door over real sockets: a server with a small table of rows, and peers who speak to it
//! byte by byte. What belongs here: anything a peer can do to the door, or the door to a peer.

mod access;
mod answers;
mod bad_requests;
mod crowd;
mod requests;
mod sessions;
mod stop;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use river_runner::serve::access::Policy;
use river_runner::serve::{
    Access, Answer, Audience, Call, Patience, Reply, Responder, Route, Server, Setup, Sockets,
    Stream, get, post, put, socket,
};
use river_runner::stop::Stop;
use serde_json::json;

/// Long enough for a loaded machine; nothing waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the handlers share with their test.
#[derive(Default)]
pub struct Hall {
    gate: Gate,
    responders: Mutex<Vec<Responder>>,
    /// Handlers that have begun, and streams that have ended.
    begun: AtomicUsize,
    streams_ended: AtomicUsize,
    sessions_ended: AtomicUsize,
    flooded_bytes: AtomicUsize,
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

static ROUTES: &[Route<Hall>] = &[
    get("/health", health).urgent(),
    get("/hello/{name}", hello),
    post("/echo", echo).body_max(1 << 20),
    post("/kill", echo).urgent(),
    put("/tiny", echo).body_max(4),
    get("/hang", hang),
    get("/panic", panic),
    get("/park", park),
    get("/park/slow", park).slow(),
    get("/park/answered", park_answered),
    get("/park/dropped", park_dropped),
    get("/large/{kib}", large),
    get("/ticks", ticks),
    get("/flood", flood),
    post("/workload", echo).audience(Audience::Workload),
    socket("/ws/echo", sessions::echo),
    socket("/ws/flood", sessions::flood),
    socket("/ws/deaf", sessions::deaf),
    socket("/ws/panic", sessions::panic),
    socket("/ws/refused", sessions::refused),
];

fn health(_: &Arc<Hall>, _: Call) -> Answer {
    Reply::json(200, &json!({"status": "ok"})).into()
}

fn hello(_: &Arc<Hall>, call: Call) -> Answer {
    let query = call.query("q").unwrap_or("-");
    let agent = call.header("user-agent").unwrap_or("-");
    Reply::text(200, format!("{} {query} {agent}", call.param("name"))).into()
}

fn echo(_: &Arc<Hall>, call: Call) -> Answer {
    Reply::bytes(200, "application/octet-stream", call.body().to_vec()).into()
}

fn hang(hall: &Arc<Hall>, _: Call) -> Answer {
    hall.begun.fetch_add(1, Ordering::SeqCst);
    hall.gate.pass();
    Reply::text(200, "at last").into()
}

fn panic(_: &Arc<Hall>, _: Call) -> Answer {
    panic!("as asked")
}

fn park(hall: &Arc<Hall>, call: Call) -> Answer {
    let (answer, responder) = call.park();
    hall.responders.lock().unwrap().push(responder);
    answer
}

fn park_answered(_: &Arc<Hall>, call: Call) -> Answer {
    let (answer, responder) = call.park();
    responder.respond(Reply::text(200, "before"));
    answer
}

fn park_dropped(_: &Arc<Hall>, call: Call) -> Answer {
    call.park().0
}

fn large(_: &Arc<Hall>, call: Call) -> Answer {
    let kib: usize = call.param("kib").parse().unwrap();
    Reply::bytes(200, "application/octet-stream", vec![b'x'; kib << 10]).into()
}

fn ticks(hall: &Arc<Hall>, _: Call) -> Answer {
    let hall = Arc::clone(hall);
    Answer::Stream(Stream::new("application/x-ndjson", move |out| {
        let mut tick = 0;
        while writeln!(out, "{tick}").is_ok()
            && out.pause(Duration::from_millis(20)) == river_runner::serve::Woken::Elapsed
        {
            tick += 1;
        }
        hall.streams_ended.fetch_add(1, Ordering::SeqCst);
    }))
}

fn flood(hall: &Arc<Hall>, _: Call) -> Answer {
    let hall = Arc::clone(hall);
    Answer::Stream(Stream::new("text/plain", move |out| {
        while out.write_all(&[b'x'; 4096]).is_ok() {}
        hall.streams_ended.fetch_add(1, Ordering::SeqCst);
    }))
}

/// A server and the means to end it.
struct House {
    address: SocketAddr,
    hall: Arc<Hall>,
    access: Arc<Access>,
    stop: Stop,
    server: Option<Server>,
}

/// What a test wants otherwise than usual.
struct Plan {
    policy: Policy,
    patience: Patience,
    workers: usize,
    address: &'static str,
    api_socket: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            policy: Policy { loopback: true, ..Policy::default() },
            patience: Patience::default(),
            workers: 4,
            address: "127.0.0.1:0",
            api_socket: None,
        }
    }
}

impl House {
    fn usual() -> House {
        House::of(Plan::default())
    }

    fn of(plan: Plan) -> House {
        let (stop, hall) = (Stop::new(), Arc::new(Hall::default()));
        let access = Arc::new(Access::new(plan.policy));
        let setup = Setup {
            sockets: Sockets::open(plan.address.parse().unwrap(), plan.api_socket.as_deref())
                .unwrap(),
            workers: plan.workers,
            access: Arc::clone(&access),
            patience: plan.patience,
        };
        let server = Server::start(setup, ROUTES, Arc::clone(&hall), stop.clone()).unwrap();
        House { address: server.local_addr(), hall, access, stop, server: Some(server) }
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Whether a stranger is served now.
    fn assert_healthy(&self) {
        let seen = self.client().get("/health");
        assert_eq!((seen.status, seen.text()), (200, r#"{"status":"ok"}"#));
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.hall.gate.open();
        self.stop.raise();
        if let Some(server) = self.server.take() {
            server.join(PATIENCE);
        }
    }
}

/// A peer that writes what it likes and reads answers one by one.
struct Client {
    stream: Box<dyn Wire>,
    read: Vec<u8>,
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// An answer as it came.
#[derive(Debug)]
struct Seen {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Seen {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: Box::new(stream), read: Vec::new() }
    }

    fn connect_local(path: &Path) -> Client {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream: Box::new(stream), read: Vec::new() }
    }

    /// Writes as much as the door takes: it may have answered and closed before the end.
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    fn get(&mut self, target: &str) -> Seen {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.answer().expect("an answer")
    }

    fn post(&mut self, target: &str, body: &str) -> Seen {
        let length = body.len();
        self.send(format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        self.answer().expect("an answer")
    }

    /// The next answer with a body as its length says; none if the door closed first.
    fn answer(&mut self) -> Option<Seen> {
        let seen = self.answer_head()?;
        let length = seen.header("content-length").map_or(0, |text| text.parse().unwrap());
        while self.read.len() < length {
            self.more()?;
        }
        let body = self.read.drain(..length).collect();
        Some(Seen { body, ..seen })
    }

    /// The next answer without its body.
    fn answer_head(&mut self) -> Option<Seen> {
        let end = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more()?,
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Seen { status, head, body: Vec::new() })
    }

    fn more(&mut self) -> Option<()> {
        let mut part = [0; 16384];
        let count = self.stream.read(&mut part).ok().filter(|count| *count > 0)?;
        self.read.extend_from_slice(&part[..count]);
        Some(())
    }

    /// Whether the door closes without another byte.
    fn is_closed(&mut self) -> bool {
        self.read.is_empty() && self.more().is_none()
    }
}

/// Waits for what comes true soon.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
