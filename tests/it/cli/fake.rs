//! A runner made of paper: it answers the rows that the commands call as a test says, so that
//! faults and moments can be shown that a real one rarely has.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// Longer than anything here takes; a test that waits in vain fails by it.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Request {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: Value,
}

/// Requests that have come, as `METHOD /path`, and bodies by the same name.
#[derive(Clone, Default)]
pub struct Seen(Arc<(Mutex<Vec<Request>>, Condvar)>);

impl Seen {
    fn add(&self, request: Request) {
        self.0.0.lock().unwrap().push(request);
        self.0.1.notify_all();
    }

    /// Waits until a request begins with `call` and looks at it.
    pub fn wait_for<T>(&self, call: &str, look: impl Fn(&Request) -> T) -> T {
        let is_it =
            |request: &Request| format!("{} {}", request.method, request.path).starts_with(call);
        let requests = self.0.0.lock().unwrap();
        let none = |requests: &mut Vec<Request>| !requests.iter().any(is_it);
        let (requests, waited) = self.0.1.wait_timeout_while(requests, PATIENCE, none).unwrap();
        assert!(!waited.timed_out(), "{call} never came");
        look(requests.iter().find(|request| is_it(request)).unwrap())
    }

    pub fn has(&self, call: &str) -> bool {
        self.count(call) > 0
    }

    pub fn count(&self, call: &str) -> usize {
        let requests = self.0.0.lock().unwrap();
        let calls = requests.iter().map(|request| format!("{} {}", request.method, request.path));
        calls.filter(|name| name.starts_with(call)).count()
    }
}

pub struct FakeRunner {
    pub url: String,
    pub port: u16,
    pub seen: Seen,
}

impl FakeRunner {
    /// Answers `/health` by itself, all else by `answer`, each caller on a thread of its own.
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> FakeRunner {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, answer) = (Seen::default(), Arc::new(answer));
        let record = seen.clone();
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let (record, answer) = (record.clone(), Arc::clone(&answer));
                thread::spawn(move || serve(caller, &record, &*answer));
            }
        });
        FakeRunner { url: format!("http://127.0.0.1:{port}"), port, seen }
    }
}

fn serve(mut caller: TcpStream, seen: &Seen, answer: &dyn Fn(&Request, &mut TcpStream)) {
    let Some(request) = read(&mut caller) else { return };
    if request.path == "/health" {
        let health = json!({
            "status": "ok", "version": "0.1.0", "node_id": "fake:1", "engine": "ok",
            "shared_dir": "/srv/share", "uptime_seconds": 1, "tasks": {}, "warnings": [],
        });
        return reply(&mut caller, 200, &health);
    }
    // Seen before it is answered: whoever waits for it may count on it.
    let for_answer = Request {
        method: request.method.clone(),
        path: request.path.clone(),
        head: request.head.clone(),
        body: request.body.clone(),
    };
    seen.add(request);
    answer(&for_answer, &mut caller);
}

fn read(caller: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut more = [0; 4096];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match caller.read(&mut more).ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&more[..count]),
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    let mut body = bytes[head_end..].to_vec();
    while body.len() < length {
        let count = caller.read(&mut more).ok()?;
        body.extend_from_slice(&more[..count]);
    }
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Request { method, path, body: serde_json::from_slice(&body).unwrap_or_default(), head })
}

pub fn reply(caller: &mut TcpStream, status: u16, body: &Value) {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n", body.len());
    // A caller that was killed is no fault of the fake.
    let _ = caller.write_all((head + &body).as_bytes());
}

/// Begins an answer that ends with the connection.
pub fn begin_stream(caller: &mut TcpStream) {
    let _ = caller.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
}

/// The bytes of `whole` from the request's offset, as the row of logs sends them.
pub fn reply_log(request: &Request, caller: &mut TcpStream, whole: &[u8]) {
    begin_stream(caller);
    let _ = caller.write_all(whole.get(offset(request)..).unwrap_or_default());
}

pub fn offset(request: &Request) -> usize {
    let query = request.path.split_once("offset=").unwrap().1;
    query.split('&').next().unwrap().parse().unwrap()
}

/// A task as `/api/tasks/{id}` tells it.
pub fn task(id: &str, status: &str, exit_code: Option<i32>) -> Value {
    json!({
        "task_id": id.parse::<u64>().unwrap(), "id": id, "status": status,
        "command": "echo 'a b'", "image": "busybox", "container": "kohakuriver-task-7",
        "exit_code": exit_code, "message": null, "numa_node": null, "progress": null,
        "notes": [], "stdout_path": "/srv/share/logs/7/stdout.log",
        "stderr_path": "/srv/share/logs/7/stderr.log",
        "phases": {
            "accepted": "2026-11-24T21:12:04.000000Z", "image_ready": "2026-11-24T21:12:04.010000Z",
            "created": "2026-11-24T21:12:04.100000Z", "started": "2026-11-24T21:12:04.300000Z",
            "first_output": null, "exited": null, "recorded": null, "reported": null,
        },
    })
}
