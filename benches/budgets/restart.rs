//! How long nobody answers while one runner follows another on the same port, without a service
//! manager that holds it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::budget::{Figures, median};
use crate::place::Place;
use crate::runner::Runner;

/// Tasks that are handed in between two restarts, so that there are records to write and to read.
const TASKS: u64 = 20;
/// A caller that was refused comes again after this.
const AGAIN: Duration = Duration::from_micros(200);
/// The caller has been answered many times before the stop and after the start.
const CALLER_SETTLES: Duration = Duration::from_millis(50);

/// From the last answer of the old process to the first of the new one, as a caller meets it that
/// calls without a pause, each time on a new connection. Beside it events are followed and one
/// connection is kept. The old one is told to stop, and the new one started when it has ended.
pub fn gap(place: &Place, figures: &mut Figures) {
    let mut runner = Runner::start(place, None);
    let mut gaps = Vec::new();
    for round in 0..place.pick(20, 2) {
        let mut kept = runner.connect();
        let events = runner.events();
        for number in 0..TASKS {
            // Its environment does not exist: it ends without the Engine.
            let body = runner.execute_body("none-such", round as u64 * TASKS + number + 1, "true");
            kept.call("POST", "/api/execute", Some(&body)).expect("an answer").expect(200);
        }
        gaps.push(gap_of(&mut runner));
        drop(events);
    }
    let worst = gaps.iter().copied().fold(0.0, f64::max);
    figures.tell("restart_ms", median(gaps));
    figures.tell("restart_worst_ms", worst);
}

fn gap_of(runner: &mut Runner) -> f64 {
    let (address, over) = (runner.address, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| longest_silence(address, &over));
        std::thread::sleep(CALLER_SETTLES);
        runner.end();
        runner.exec();
        drop(runner.connect());
        std::thread::sleep(CALLER_SETTLES);
        over.store(true, Ordering::SeqCst);
        caller.join().expect("a caller").as_secs_f64() * 1e3
    })
}

/// The longest time between two answers.
fn longest_silence(address: SocketAddr, over: &AtomicBool) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while !over.load(Ordering::SeqCst) {
        if is_answered(address) {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        } else {
            std::thread::sleep(AGAIN);
        }
    }
    longest.max(last.elapsed())
}

fn is_answered(address: SocketAddr) -> bool {
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(request)?;
        stream.read_to_end(&mut answer)
    });
    asked.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}
