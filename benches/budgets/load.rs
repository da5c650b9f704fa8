//! Connections that ask again as soon as they are answered. Two threads for any number of them, so
//! that the load costs less than what it measures: one `epoll_wait`, then a read and a write for
//! each answer, into memory that was there before.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::http;

/// Two, as half of the connections each wait for the server while the other half is dealt with.
const THREADS: usize = 2;

/// Latencies kept per thread; a round that has more ends early.
const ANSWERS_MAX: usize = 1_000_000;

pub struct Load {
    pub address: SocketAddr,
    pub connections: usize,
    pub time: Duration,
}

pub struct Score {
    pub answers: usize,
    pub per_second: f64,
    pub p99: Duration,
    /// Connections that got no answer at all.
    pub unserved: usize,
}

struct Caller {
    stream: TcpStream,
    asked: Instant,
    /// Bytes of the present answer that are still to come.
    missing: usize,
    answers: usize,
}

impl Load {
    pub fn run(&self, target: &str) -> Score {
        let request = http::request("GET", target, None);
        let answer_bytes = self.answer_bytes(&request);
        let begin = Barrier::new(THREADS);
        let halves: Vec<Half> = std::thread::scope(|scope| {
            let half = || self.half(&request, answer_bytes, &begin);
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(half)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a load thread")).collect()
        });
        let per_second =
            halves.iter().map(|half| half.latencies.len() as f64 / half.took.as_secs_f64());
        let per_second = per_second.sum();
        let unserved = halves.iter().map(|half| half.unserved).sum();
        let mut latencies: Vec<u32> = halves.into_iter().flat_map(|half| half.latencies).collect();
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        let p99 = Duration::from_nanos(u64::from(p99));
        Score { answers: latencies.len(), per_second, p99, unserved }
    }

    /// How long an answer is: all are alike.
    fn answer_bytes(&self, request: &[u8]) -> usize {
        let mut stream = TcpStream::connect(self.address).expect("a server");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
        stream.write_all(request).expect("a server");
        let mut bytes = 0;
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => bytes += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock && bytes > 0 => return bytes,
                other => panic!("a server that does not answer: {other:?}"),
            }
        }
    }

    fn half(&self, request: &[u8], answer_bytes: usize, begin: &Barrier) -> Half {
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
        let connect = |number| {
            let stream = TcpStream::connect(self.address).expect("a server");
            stream.set_nodelay(true).expect("a socket");
            stream.set_nonblocking(true).expect("a socket");
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
            epoll.add(&stream, event).expect("an epoll");
            Caller { stream, asked: Instant::now(), missing: answer_bytes, answers: 0 }
        };
        let count = u64::try_from(self.connections / THREADS).expect("a few");
        let mut callers: Vec<Caller> = (0..count).map(connect).collect();
        let mut latencies = Vec::with_capacity(ANSWERS_MAX);
        let mut events = vec![EpollEvent::empty(); callers.len()];
        let mut buffer = vec![0; answer_bytes];
        begin.wait();
        let since = Instant::now();
        let until = since + self.time;
        for caller in &mut callers {
            caller.ask(request);
        }
        while Instant::now() < until && latencies.len() < ANSWERS_MAX - callers.len() {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO);
            let ready = epoll.wait(&mut events, timeout).expect("an epoll");
            for event in &events[..ready] {
                let caller = &mut callers[usize::try_from(event.data()).expect("a number of ours")];
                let read = caller.stream.read(&mut buffer[..caller.missing]).expect("a server");
                assert!(read > 0, "the server hung up");
                caller.missing -= read;
                if caller.missing == 0 {
                    let nanos = caller.asked.elapsed().as_nanos();
                    latencies.push(u32::try_from(nanos).unwrap_or(u32::MAX));
                    caller.answers += 1;
                    caller.missing = answer_bytes;
                    caller.ask(request);
                }
            }
        }
        let unserved = callers.iter().filter(|caller| caller.answers == 0).count();
        Half { latencies, took: since.elapsed(), unserved }
    }
}

struct Half {
    latencies: Vec<u32>,
    took: Duration,
    unserved: usize,
}

impl Caller {
    fn ask(&mut self, request: &[u8]) {
        self.asked = Instant::now();
        // A request is far smaller than a socket's empty buffer.
        self.stream.write_all(request).expect("a server");
    }
}
