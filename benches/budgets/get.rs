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

/// The events of a runner that has had none: through the whole door, the route's pattern and its
/// query, a lock and a little JSON, and not one system call in the handler.
const TARGET: &str = "/api/events";

const FEW: usize = 4;
const MANY: usize = 64;

/// What one server did in each round, with one number of connections.
#[derive(Default)]
struct Scores {
    per_second: Vec<f64>,
    p99_ms: Vec<f64>,
    /// CPU time of the server for each answer.
    cpu_us: Vec<f64>,
}

struct Medians {
    per_second: f64,
    p99_ms: f64,
    cpu_us: f64,
}

pub fn run(place: &Place, figures: &mut Figures) {
    allow_many_files();
    let runner = Runner::start(place, None);
    let threads = Peer::start("threads");
    let tiny_http = Peer::start("tiny_http");
    let (own_cpu, floor_cpu) = (|| runner.cpu(), || threads.cpu());

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
            ours.add(own_cpu, || score(runner.address, connections));
            floor.add(floor_cpu, || score(threads.address, connections));
            unserved += other.add(|| tiny_http.cpu(), || score(tiny_http.address, connections));
            let crowd = crowd(runner.address, crowd_size);
            crowded.add(own_cpu, || score(runner.address, connections));
            drop(crowd);
        }
        if unserved > 0 {
            eprintln!("tiny_http never served {unserved} of its connections to {connections}");
        }
        let name = format!("get_{connections}");
        let [ours, floor, other, crowded] = [ours, floor, other, crowded].map(Scores::medians);
        figures.tell_beside(&name, ours.per_second, floor.per_second);
        figures.tell_beside(&format!("{name}_p99_ms"), ours.p99_ms, floor.p99_ms);
        figures.tell_beside(&format!("{name}_cpu_us"), ours.cpu_us, floor.cpu_us);
        figures.tell_beside(&format!("{name}_tiny_http"), ours.per_second, other.per_second);
        figures.tell_beside(&format!("{name}_crowd"), crowded.per_second, ours.per_second);
        figures.tell_beside(&format!("{name}_crowd_p99_ms"), crowded.p99_ms, ours.p99_ms);
    }
}

impl Scores {
    /// Adds a round and what it cost the server; gives how many connections were never served.
    fn add(&mut self, cpu: impl Fn() -> Duration, round: impl FnOnce() -> Score) -> usize {
        let before = cpu();
        let score = round();
        let used = cpu() - before;
        assert!(score.answers > 0, "no answer at all");
        self.per_second.push(score.per_second);
        self.p99_ms.push(score.p99.as_secs_f64() * 1e3);
        self.cpu_us.push(used.as_secs_f64() * 1e6 / score.answers as f64);
        score.unserved
    }

    fn medians(self) -> Medians {
        Medians {
            per_second: median(self.per_second),
            p99_ms: median(self.p99_ms),
            cpu_us: median(self.cpu_us),
        }
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
