//! Files inside a running container: the runner's rows, the programs that the Python runner starts
//! there, and the Engine's archive calls in turn, round after round.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};

use crate::budget::{Figures, median};
use crate::exec;
use crate::http::{self, Answer};
use crate::place::Place;
use crate::runner::{InContainer, Runner};

const ENTRIES: usize = 1000;
const BIG_BYTES: usize = 10_000_000;

/// Milliseconds of each round, by three ways.
#[derive(Default)]
struct Ways {
    ours: Vec<f64>,
    exec: Vec<f64>,
    archive: Vec<f64>,
}

pub fn run(place: &Place, figures: &mut Figures) {
    let runner = Runner::start(place, None);
    let task = InContainer::start(&runner, &place.environment());
    let container = task.container();
    let mut http = runner.connect();
    let rows = format!("/api/fs/{}", task.id);
    let script = "mkdir /many; i=0; while [ $i -lt 1000 ]; do : > /many/file-$i; i=$((i+1)); done";
    exec::output(&container, &["sh", "-c", script]);
    // Text, as most files that are read in an editor; compressible to nothing, as nothing compresses.
    let content = "0123456789abcde\n".repeat(BIG_BYTES / 16);

    let [mut list, mut stat, mut read, mut write] = [(); 4].map(|()| Ways::default());
    let body = json!({ "path": "/big-ours", "content": content });
    let put = http::request("POST", &format!("{rows}/write"), Some(&body));
    let put_json = body.to_string().into_bytes();
    let mut way = Loopback::new();
    for _ in 0..place.pick(15, 1) {
        // What a client makes of the JSON is its own time, and is not measured. A program's output is
        // made the same JSON, and carried over a socket as that is; an archive is only fetched or put.
        let mut get = |row: &str| timed(|| http.call("GET", &format!("{rows}/{row}"), None));

        let listed = get("list?path=/many").into_ms(&mut list.ours);
        assert_eq!(listed["entries"].as_array().map(Vec::len), Some(ENTRIES));
        list.exec.push(ms(|| drop(exec::output(&container, &["ls", "-la", "/many"]))));
        list.archive.push(ms(|| drop(exec::fetch(&container, "/many"))));

        get("stat?path=/many/file-7").into_ms(&mut stat.ours);
        stat.exec.push(ms(|| drop(exec::output(&container, &["stat", "/many/file-7"]))));
        stat.archive.push(ms(|| drop(exec::fetch(&container, "/many/file-7"))));

        let written = timed(|| http.exchange(&put)).into_ms(&mut write.ours);
        assert_eq!(written["size"], BIG_BYTES);
        let writer = ["sh", "-c", "cat > /big-exec"];
        write.exec.push(ms(|| {
            let body: Value = serde_json::from_slice(&way.carry(&put_json)).expect("JSON");
            let content = body["content"].as_str().expect("a text");
            exec::feed(&container, &writer, content.as_bytes());
        }));
        write.archive.push(ms(|| exec::put(&container, "big-archive", content.as_bytes())));

        let content = timed(|| http.call("GET", &format!("{rows}/read?path=/big-ours"), None));
        assert_eq!(content.into_ms(&mut read.ours)["size"], BIG_BYTES);
        read.exec.push(ms(|| {
            let content = exec::stdout(&exec::output(&container, &["cat", "/big-exec"]));
            assert_eq!(content.len(), BIG_BYTES);
            let content = String::from_utf8(content).expect("a text");
            way.carry(json!({ "path": "/big-exec", "content": content }).to_string().as_bytes());
        }));
        read.archive.push(ms(|| drop(exec::fetch(&container, "/big-exec"))));
    }
    for (name, ways) in [("list", list), ("stat", stat), ("read", read), ("write", write)] {
        let ours = rate(ways.ours);
        figures.tell_beside(&format!("files_{name}"), ours, rate(ways.exec));
        figures.tell_beside(&format!("files_{name}_archive"), ours, rate(ways.archive));
    }
}

/// A connection to itself: what is carried costs what a body costs between two processes.
struct Loopback {
    near: TcpStream,
    far: TcpStream,
}

impl Loopback {
    fn new() -> Loopback {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let near =
            TcpStream::connect(listener.local_addr().expect("an address")).expect("loopback");
        let (far, _) = listener.accept().expect("our own connection");
        Loopback { near, far }
    }

    fn carry(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut carried = Vec::with_capacity(bytes.len());
        std::thread::scope(|scope| {
            scope.spawn(|| self.near.write_all(bytes).expect("our own connection"));
            let mut far = (&mut self.far).take(bytes.len() as u64);
            far.read_to_end(&mut carried).expect("our own connection");
        });
        carried
    }
}

/// An answer, and how long it took to be there.
struct Timed {
    answer: Answer,
    ms: f64,
}

fn timed(call: impl FnOnce() -> io::Result<Answer>) -> Timed {
    let since = Instant::now();
    let answer = call().expect("an answer");
    Timed { answer, ms: since.elapsed().as_secs_f64() * 1e3 }
}

impl Timed {
    /// Puts the time to the others, and reads the answer, which must be a success.
    fn into_ms(self, all: &mut Vec<f64>) -> Value {
        all.push(self.ms);
        self.answer.expect(200)
    }
}

fn ms(work: impl FnOnce()) -> f64 {
    let since = Instant::now();
    work();
    since.elapsed().as_secs_f64() * 1e3
}

/// Times in a second, by the median.
fn rate(rounds_ms: Vec<f64>) -> f64 {
    1e3 / median(rounds_ms)
}
