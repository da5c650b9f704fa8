//! Small GETs over kept connections: the runner, a server with a thread per connection, and
//! tiny_http in turn, round after round, all giving the same answer; and the runner once more while
//! thousands of idle connections are open.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::budget::{Figures, median};
use crate::http;
use crate::load::{Load, Score};
use crate::peers::Peer;
use crate::place::Place;
use crate::runner::Runner;

/// A task nobody knows: through the whole door, the route's pattern and the table of tasks, and one
/// `open` of a record that is not there.
const TARGET: &str = "/api/tasks/1";

const FEW: usize = 4;
const MANY: usize = 64;

/// A row of the table of rounds.
#[derive(Default)]
struct Scores {
    per_second: Vec<f64>,
    p99_ms: Vec<f64>,
}

pub fn run(place: &Place, figures: &mut Figures) {
    allow_many_files();
    let runner = Runner::start(place, None);
    let mut client = runner.connect();
    let known = client.call("GET", TARGET, None).expect("the runner answers");
    assert_eq!(known.status, 404);
    let body = String::from_utf8(known.body).expect("JSON is UTF-8");
    let threads = Peer::start("threads", &body);
    let tiny_http = Peer::start("tiny_http", &body);

    let time = place.pick(Duration::from_secs(1), Duration::from_millis(100));
    let crowd_size = place.pick(10_000, 100);
    let score = |address: SocketAddr, connections| Load { address, connections, time }.run(TARGET);
    for connections in [FEW, MANY] {
        let mut ours = Scores::default();
        let mut floor = Scores::default();
        let mut other = Scores::default();
        let mut crowded = Scores::default();
        let mut unserved = 0;
        for _ in 0..place.pick(9, 1) {
            ours.add(&score(runner.address, connections));
            floor.add(&score(threads.address, connections));
            let tiny = score(tiny_http.address, connections);
            unserved += tiny.unserved;
            other.add(&tiny);
            let crowd = crowd(runner.address, crowd_size);
            crowded.add(&score(runner.address, connections));
            drop(crowd);
        }
        if unserved > 0 {
            eprintln!("tiny_http never served {unserved} of its connections to {connections}");
        }
        let name = format!("get_{connections}");
        let (per_second, p99_ms) = ours.medians();
        let (floor_per_second, floor_p99_ms) = floor.medians();
        let (crowded_per_second, crowded_p99_ms) = crowded.medians();
        figures.tell_beside(&name, per_second, floor_per_second);
        figures.tell_beside(&format!("{name}_p99_ms"), p99_ms, floor_p99_ms);
        figures.tell_beside(&format!("{name}_tiny_http"), per_second, other.medians().0);
        figures.tell_beside(&format!("{name}_crowd"), crowded_per_second, per_second);
        figures.tell_beside(&format!("{name}_crowd_p99_ms"), crowded_p99_ms, p99_ms);
    }
}

impl Scores {
    fn add(&mut self, score: &Score) {
        assert!(score.answers > 0, "no answer at all");
        self.per_second.push(score.per_second);
        self.p99_ms.push(score.p99.as_secs_f64() * 1e3);
    }

    fn medians(self) -> (f64, f64) {
        (median(self.per_second), median(self.p99_ms))
    }
}

/// Connections that have been answered once and then say nothing.
fn crowd(address: SocketAddr, size: usize) -> Vec<TcpStream> {
    let request = http::request("GET", TARGET, None);
    let join = |_| {
        let stream = TcpStream::connect(address).expect("the runner takes 16,384 connections");
        let mut http = http::Http::new(stream.try_clone().expect("a descriptor"));
        http.exchange(&request).expect("the runner answers");
        stream
    };
    (0..size).map(join).collect()
}

/// Ours and, by inheritance, the runner's.
fn allow_many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
}
