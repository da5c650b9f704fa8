//! What a start costs, and the size of what is started.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::budget::{Figures, median};
use crate::place::Place;
use crate::runner::{BINARY, Runner};

pub fn binary(_place: &Place, figures: &mut Figures) {
    let bytes = std::fs::metadata(BINARY).expect("the runner's binary").len();
    figures.tell("binary_mb", bytes as f64 / 1e6);
}

/// From before `exec` to a whole answer. The floor is the same binary, read and linked, doing
/// nothing.
pub fn first_answer(place: &Place, figures: &mut Figures) {
    let mut answered = Vec::new();
    let mut printed = Vec::new();
    for _ in 0..place.pick(20, 2) {
        let since = Instant::now();
        let version = Command::new(BINARY).arg("version").stdout(Stdio::null()).status();
        assert!(version.is_ok_and(|status| status.success()));
        printed.push(since.elapsed().as_secs_f64() * 1e3);

        let mut runner = Runner::prepare(place, None);
        let since = Instant::now();
        runner.exec();
        runner.connect().call("GET", "/health", None).expect("the runner answers").expect(200);
        answered.push(since.elapsed().as_secs_f64() * 1e3);
    }
    figures.tell_beside("first_answer_ms", median(answered), median(printed));
}
