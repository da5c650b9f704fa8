//! The Engine itself, over its socket: the floor under what the runner asks of it, and the second
//! witness of what happens there.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::http::{Answer, Http};

/// One kept connection.
pub struct Engine {
    http: Http<UnixStream>,
}

/// Longer than any call takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

impl Engine {
    pub fn connect() -> Engine {
        Engine::try_connect().expect("a Docker Engine: run contrib/test.sh")
    }

    pub fn try_connect() -> Option<Engine> {
        let stream = UnixStream::connect(socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Engine { http: Http::new(stream) })
    }

    pub fn call(&mut self, method: &str, target: &str, body: Option<&Value>) -> Answer {
        self.http.call(method, target, body).expect("the Engine answers")
    }

    /// Sends the bytes of a request.
    pub fn exchange(&mut self, request: &[u8]) -> Answer {
        self.http.exchange(request).expect("the Engine answers")
    }

    /// Ids of the containers that pass the filters, also those that have ended.
    pub fn containers(&mut self, filters: &Value) -> Vec<String> {
        let target = format!("/containers/json?all=1&filters={}", encoded(filters));
        let listed = self.call("GET", &target, None).expect(200);
        let ids = listed.as_array().into_iter().flatten();
        ids.filter_map(|container| container["Id"].as_str().map(str::to_owned)).collect()
    }

    pub fn remove_container(&mut self, id: &str) {
        self.call("DELETE", &format!("/containers/{id}?force=1&v=1"), None);
    }
}

/// Ends of our containers, as the Engine tells them to a reader that does nothing else.
pub struct Ends {
    seen: Arc<Seen>,
    stream: UnixStream,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    ends: Mutex<HashMap<String, End>>,
    changed: Condvar,
}

/// Both in nanoseconds since 1970.
#[derive(Clone, Copy)]
pub struct End {
    pub stamped: i64,
    pub read: i64,
}

impl Ends {
    pub fn listen(node_id: &str) -> Ends {
        let stream = UnixStream::connect(socket()).expect("the Engine's socket");
        let filters = json!({ "event": ["die"], "label": [format!("kohakuriver.node={node_id}")] });
        let target = format!("/events?filters={}", encoded(&filters));
        let asked = Http::new(stream.try_clone().expect("a socket"));
        let (events, rest) = asked.stream(&target).expect("the Engine's events");
        let seen = Arc::<Seen>::default();
        let reader = {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || seen.read(BufReader::new(rest.chain(events))))
        };
        Ends { seen, stream, reader: Some(reader) }
    }

    /// Waits for the end of the container of this name.
    pub fn of(&self, name: &str) -> End {
        let ends = self.seen.ends.lock().expect("no reader panics");
        let told =
            self.seen.changed.wait_timeout_while(ends, PATIENCE, |ends| !ends.contains_key(name));
        *told.expect("no reader panics").0.get(name).expect("an end within the patience")
    }
}

impl Seen {
    /// An event is a line; the lines of the chunks around it begin otherwise.
    fn read(&self, mut events: impl BufRead) {
        let mut line = String::new();
        while events.read_line(&mut line).is_ok_and(|read| read > 0) {
            let read = now_nanos();
            if let Ok(event) = serde_json::from_str::<Value>(&line)
                && let Some(stamped) = event["timeNano"].as_i64()
                && let Some(name) = event["Actor"]["Attributes"]["name"].as_str()
            {
                let mut ends = self.ends.lock().expect("no other side panics");
                ends.insert(name.to_owned(), End { stamped, read });
                self.changed.notify_all();
            }
            line.clear();
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The wall clock, which the Engine stamps its events with.
pub fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i64::try_from(since.as_nanos()).expect("a year before 2262")
}

pub fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into()
}

fn encoded(filters: &Value) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode =
        |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    filters.to_string().bytes().map(encode).collect()
}
