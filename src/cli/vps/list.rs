//! `vps list`: a runner's VPS as a table.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::print;
use crate::cli::reach::{ConfigPath, Reach};
use crate::cli::runner::{Task, Which};
use crate::cli::table::aligned;

#[derive(Args, Clone, Debug)]
pub struct ListArguments {
    /// Also those that have ended
    #[arg(long, short = 'a')]
    all: bool,

    /// Print what the runner answers, for other programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reach: Reach,
}

/// Prints the VPS, newest first.
pub fn list(arguments: &ListArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let runner = arguments.reach.runner(path)?;
    let which = if arguments.all { Which::All } else { Which::Live };
    if arguments.json {
        let mut answer = runner.tasks_json(which)?;
        if let Some(tasks) = answer.get_mut("tasks").and_then(Value::as_array_mut) {
            tasks.retain(|task| task.get("vps").is_some_and(|vps| !vps.is_null()));
            answer["count"] = answer["tasks"].as_array().map_or(0, Vec::len).into();
        }
        return print(&format!("{answer:#}\n"));
    }
    let mut tasks = runner.tasks(which)?;
    tasks.retain(|task| task.vps.is_some() && (arguments.all || !task.status.is_ended()));
    tasks.sort_by(|one, other| other.phases.accepted.cmp(&one.phases.accepted));
    print(&table(&tasks, Utc::now()))
}

fn table(tasks: &[Task], now: DateTime<Utc>) -> String {
    let head = ["ID", "STATE", "SSH", "IMAGE", "RESTARTS", "AGE"];
    let rows = tasks.iter().filter_map(|task| {
        let vps = task.vps.as_ref()?;
        Some([
            task.id.clone(),
            task.progress.clone().unwrap_or_else(|| task.status.name().into()),
            if task.status.is_ended() { String::new() } else { vps.door() },
            task.image.clone().unwrap_or_default(),
            vps.restarts.to_string(),
            age(task, now),
        ])
    });
    aligned(head, rows)
}

/// Since its container was created or, if it was not, since it was accepted.
fn age(task: &Task, now: DateTime<Utc>) -> String {
    let at = task.phases.created.as_deref().or(task.phases.accepted.as_deref());
    let at = at.and_then(|at| DateTime::parse_from_rfc3339(at).ok());
    at.map(|at| span(now.signed_duration_since(at).num_seconds())).unwrap_or_default()
}

/// The two largest units of a time.
fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{}m", minutes % 60),
        (days, hours, _) => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn line_tells_state_port_image_restarts_and_age() {
        let task: Task = serde_json::from_value(serde_json::json!({
            "id": "7", "status": "running", "image": "debian",
            "vps": {"ssh_key_mode": "upload", "ssh_port": 32768, "ssh": "preparing", "restarts": 2},
            "phases": {"accepted": "2026-11-24T21:12:04Z", "created": "2026-11-24T21:12:05Z"},
        }))
        .unwrap();
        let now = DateTime::parse_from_rfc3339("2026-11-24T23:13:05Z").unwrap().to_utc();
        let table = table(&[task], now);
        let line = table.lines().nth(1).unwrap();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(cells, ["7", "running", "32768", "preparing", "debian", "2", "2h1m"]);
    }

    #[test]
    fn ages_have_two_units_at_most() {
        assert_eq!([span(-5), span(59), span(61)], ["0s", "59s", "1m1s"]);
        assert_eq!([span(7260), span(90_000)], ["2h1m", "1d1h"]);
    }
}
