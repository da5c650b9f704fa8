//! The cluster host as the runner needs it: acknowledges everything at once, and notes when it
//! heard what. One thread per connection, for the life of the process.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;

use crate::engine::now_nanos;

pub struct Host {
    pub port: u16,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    beats: u64,
    /// Final reports, and when they were here in nanoseconds since 1970.
    finals: HashMap<u64, (Value, i64)>,
}

/// Longer than any task of ours takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
    Content-Length: 48\r\n\r\n{\"message\": \"Task status updated successfully.\"}";

impl Host {
    pub fn start() -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let heard = Arc::<Heard>::default();
        let host = Host { port, heard: Arc::clone(&heard) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || heard.serve(stream));
            }
        });
        host
    }

    /// Returns when the runner has beaten so often.
    pub fn wait_beats(&self, count: u64) {
        self.wait(|state| (state.beats >= count).then_some(()));
    }

    /// When the final report of this task was here, in nanoseconds since 1970.
    pub fn wait_final(&self, task: u64) -> i64 {
        let (report, at) = self.wait(|state| state.finals.remove(&task));
        assert_eq!(report["status"], "completed", "a task of ours went wrong: {report}");
        at
    }

    fn wait<T>(&self, look: impl Fn(&mut State) -> Option<T>) -> T {
        let mut found = None;
        let unseen = |state: &mut State| {
            found = look(state);
            found.is_none()
        };
        let waited = self.heard.changed.wait_timeout_while(self.heard.lock(), PATIENCE, unseen);
        drop(waited);
        found.expect("the runner calls its host within the patience")
    }
}

impl Heard {
    /// Ends when the runner hangs up.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::with_capacity(16 * 1024);
        let mut piece = [0; 4096];
        loop {
            let read = stream.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            buffer.extend_from_slice(&piece[..read]);
            while let Some(bytes) = self.hear(&buffer)? {
                buffer.drain(..bytes);
                stream.write_all(ANSWER)?;
            }
        }
    }

    /// Takes in the first request, if it is whole; how many bytes it has.
    fn hear(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head) = request.parse(bytes).map_err(io::Error::other)?
        else {
            return Ok(None);
        };
        let length = request
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
        let end = head + length.unwrap_or(0);
        let Some(body) = bytes.get(head..end) else { return Ok(None) };
        let at = now_nanos();
        let path = request.path.unwrap_or_default();
        let mut state = self.lock();
        if path.starts_with("/api/heartbeat/") {
            state.beats += 1;
        } else if path == "/api/update" {
            let report: Value = serde_json::from_slice(body)?;
            let status = report["status"].as_str().unwrap_or_default();
            if !matches!(status, "pending" | "running") {
                state.finals.insert(report["task_id"].as_u64().unwrap_or_default(), (report, at));
            }
        }
        self.changed.notify_all();
        Ok(Some(end))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
