//! Terminals: the runner's WebSocket beside the Engine's own stream, with one, 30 and 100 of both
//! open at a time, and what an open one takes of the runner's memory.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::budget::{Figures, median};
use crate::exec;
use crate::place::Place;
use crate::runner::{InContainer, Runner};
use crate::socket::Socket;

/// All terminals together write this in a bulk round.
const BULK_BYTES: usize = 24_000_000;
/// Keystrokes on one line: the kernel's line holds 4096.
const LINE_KEYS: usize = 40;

/// A shell's terminal, by either way.
trait Terminal: Send {
    fn enter(&mut self, text: &str);
    /// Appends what comes next; waits for something to come.
    fn more(&mut self, output: &mut Vec<u8>);

    /// Reads until `text` has come; how many bytes there were. A prompt may follow, and may come
    /// together with `text` or before the next one.
    fn until(&mut self, text: &str) -> usize {
        let (mut output, mut passed) = (Vec::new(), 0);
        loop {
            self.more(&mut output);
            if output.windows(text.len()).any(|part| part == text.as_bytes()) {
                return passed + output.len();
            }
            // The rest may be the beginning of `text`.
            let past = output.len().saturating_sub(text.len());
            output.drain(..past);
            passed += past;
        }
    }
}

impl Terminal for Socket {
    fn enter(&mut self, text: &str) {
        self.send(&json!({ "type": "input", "data": text }));
    }

    fn more(&mut self, output: &mut Vec<u8>) {
        let message = self.next();
        assert_eq!(message["type"], "output", "{message}");
        output.extend_from_slice(message["data"].as_str().unwrap_or_default().as_bytes());
    }
}

impl Terminal for UnixStream {
    fn enter(&mut self, text: &str) {
        self.write_all(text.as_bytes()).expect("a terminal");
    }

    fn more(&mut self, output: &mut Vec<u8>) {
        let mut buffer = [0; 32 * 1024];
        let read = self.read(&mut buffer).expect("a terminal");
        assert!(read > 0, "the terminal ended");
        output.extend_from_slice(&buffer[..read]);
    }
}

pub fn run(place: &Place, figures: &mut Figures) {
    let runner = Runner::start(place, None);
    let task = InContainer::start(&runner, &place.environment());
    let settle = place.pick(Duration::from_secs(3), Duration::from_millis(300));
    let path = format!("/ws/task/{}/terminal", task.id);
    let open = || Socket::open(runner.address, &path);

    // Every thread has worked once.
    drop(opened(open()));
    sleep(settle);
    let empty = runner.pss_bytes();
    let idle: Vec<_> = (0..place.pick(30, 3)).map(|_| opened(open())).collect();
    sleep(settle);
    figures.tell("terminal_kb", (runner.pss_bytes() - empty) / 1e3 / idle.len() as f64);
    drop(idle);

    let counts = place.pick([1, 30, 100], [1, 2, 3]);
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for (count, name) in counts.into_iter().zip([1, 30, 100]) {
        while ours.len() < count {
            ours.push(opened(open()));
            raw.push(opened(exec::shell(&task.container())));
        }
        let keys = place.pick(3000, 10);
        let (ours_ms, raw_ms) = echoes(&mut ours, &mut raw, keys);
        figures.tell_beside(
            &format!("terminal_{name}_ms"),
            quantile(&ours_ms, 0.5),
            quantile(&raw_ms, 0.5),
        );
        let name_p99 = format!("terminal_{name}_p99_ms");
        figures.tell_beside(&name_p99, quantile(&ours_ms, 0.99), quantile(&raw_ms, 0.99));

        let (mut ours_rates, mut raw_rates) = (Vec::new(), Vec::new());
        for _ in 0..place.pick(5, 1) {
            let bytes = place.pick(BULK_BYTES, 10_000) / count;
            ours_rates.push(bulk(&mut ours, bytes));
            raw_rates.push(bulk(&mut raw, bytes));
        }
        figures.tell_beside(
            &format!("terminal_{name}_bulk"),
            median(ours_rates),
            median(raw_rates),
        );
    }
    sleep(settle);
    let used = (runner.pss_bytes() - empty) / 1e3 / ours.len() as f64;
    figures.tell("terminal_used_kb", used);
}

/// Returns when the shell has come up.
fn opened<T: Terminal>(mut terminal: T) -> T {
    // The quotes keep the echo of what is typed from being taken for the answer.
    terminal.enter("PS1=; echo UP''HERE\n");
    terminal.until("UPHERE\r\n");
    terminal
}

/// Milliseconds from a keystroke to its echo, one after the other, on each terminal in turn. The
/// kernel's terminal echoes; no shell has a say in it.
fn echoes(
    ours: &mut [impl Terminal],
    raw: &mut [impl Terminal],
    keys: usize,
) -> (Vec<f64>, Vec<f64>) {
    cat(ours);
    cat(raw);
    let (mut ours_ms, mut raw_ms) = (Vec::with_capacity(keys), Vec::with_capacity(keys));
    for key in 0..keys {
        let at = key % ours.len();
        let text =
            if key / ours.len() % LINE_KEYS == LINE_KEYS - 1 { ("\n", "\r\n") } else { ("x", "x") };
        ours_ms.push(echo(&mut ours[at], text));
        raw_ms.push(echo(&mut raw[at], text));
    }
    for terminal in ours {
        leave_cat(terminal);
    }
    for terminal in raw {
        leave_cat(terminal);
    }
    (ours_ms, raw_ms)
}

fn cat(terminals: &mut [impl Terminal]) {
    for terminal in terminals {
        terminal.enter("echo IN''CAT; cat >/dev/null\n");
        terminal.until("INCAT\r\n");
    }
    // The last one may not have read its first byte; its terminal echoes all the same.
    sleep(Duration::from_millis(50));
}

fn leave_cat(terminal: &mut impl Terminal) {
    terminal.enter("\n\x04");
    terminal.enter("echo LE''FT\n");
    terminal.until("LEFT\r\n");
}

fn echo(terminal: &mut impl Terminal, (key, answer): (&str, &str)) -> f64 {
    let since = Instant::now();
    terminal.enter(key);
    terminal.until(answer);
    since.elapsed().as_secs_f64() * 1e3
}

/// Megabytes in a second that come out of all terminals together, `bytes` of each.
fn bulk(terminals: &mut [impl Terminal], bytes: usize) -> f64 {
    let command = format!(
        "yes 0123456789012345678901234567890123456789012345678901234567890 | head -c {bytes}; echo DO''NE\n"
    );
    let since = Instant::now();
    let read: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = terminals
            .iter_mut()
            .map(|terminal| {
                let command = &command;
                scope.spawn(move || {
                    terminal.enter(command);
                    terminal.until("DONE\r\n")
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a reader")).sum()
    });
    read as f64 / 1e6 / since.elapsed().as_secs_f64()
}

fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}
