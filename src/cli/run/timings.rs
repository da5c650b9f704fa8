//! `run --timings`: when a task reached each phase, and how long each took.

use std::fmt::Write;

use chrono::{DateTime, FixedOffset};

use super::super::runner::Phases;

/// Prints the table on stderr, apart from the task's own output.
pub fn print(phases: &Phases) {
    eprint!("{}", table(phases));
}

fn table(phases: &Phases) -> String {
    let mut text = String::from("phase         at                 since the phase before\n");
    let mut before: Option<DateTime<FixedOffset>> = None;
    let rows = [
        ("accepted", &phases.accepted),
        ("image_ready", &phases.image_ready),
        ("created", &phases.created),
        ("started", &phases.started),
        ("first_output", &phases.first_output),
        ("exited", &phases.exited),
        ("recorded", &phases.recorded),
        ("reported", &phases.reported),
    ];
    for (name, at) in rows {
        let at = at.as_deref().and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        let Some(at) = at else {
            let _ = writeln!(text, "{name:<13} -");
            continue;
        };
        let clock = at.format("%H:%M:%S%.6f");
        let _ = match before {
            None => writeln!(text, "{name:<13} {clock}"),
            Some(before) => {
                let took = (at - before).num_microseconds().unwrap_or(i64::MAX) as f64 / 1000.0;
                writeln!(text, "{name:<13} {clock} {took:>12.3} ms")
            }
        };
        before = Some(at);
    }
    text
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn phases_are_told_in_milliseconds_since_the_one_before() {
        let phases = Phases {
            accepted: Some("2026-11-24T21:12:04.100000Z".into()),
            started: Some("2026-11-24T21:12:04.350250Z".into()),
            ..Phases::default()
        };
        let table = table(&phases);
        assert!(table.contains("accepted      21:12:04.100000\n"), "{table}");
        assert!(table.contains("image_ready   -\n"), "{table}");
        assert!(table.contains("started       21:12:04.350250      250.250 ms\n"), "{table}");
    }
}
