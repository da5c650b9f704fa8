//! `ps`: the tasks of a runner as a table.

use std::process::ExitCode;

use chrono::{DateTime, Local};
use clap::Args;

use super::failure::Failure;
use super::print;
use super::reach::{ConfigPath, Reach};
use super::runner::{Task, Which};
use super::table::aligned;

#[derive(Args, Clone, Debug)]
pub struct PsArguments {
    /// Also those that have ended
    #[arg(long, short = 'a')]
    all: bool,

    /// Print what the runner answers, for other programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reach: Reach,
}

/// Longer commands are cut: one task is one line.
const COMMAND_LETTERS_MAX: usize = 50;

/// Prints the tasks, newest first.
pub fn ps(arguments: &PsArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let runner = arguments.reach.runner(path)?;
    let which = if arguments.all { Which::All } else { Which::Live };
    if arguments.json {
        return print(&format!("{:#}\n", runner.tasks_json(which)?));
    }
    let mut tasks = runner.tasks(which)?;
    tasks.retain(|task| arguments.all || !task.status.is_ended());
    tasks.sort_by(|one, other| other.phases.accepted.cmp(&one.phases.accepted));
    print(&table(&tasks))
}

fn table(tasks: &[Task]) -> String {
    let head = ["ID", "STATUS", "KIND", "SINCE", "EXIT", "NUMA", "IMAGE", "COMMAND"];
    let rows = tasks.iter().map(|task| {
        [
            task.id.clone(),
            task.progress.clone().unwrap_or_else(|| task.status.name().into()),
            if task.vps.is_some() { "vps" } else { "task" }.into(),
            since(task),
            task.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            task.numa_node.map(|node| node.to_string()).unwrap_or_default(),
            task.image.clone().unwrap_or_default(),
            match &task.vps {
                Some(vps) => format!("(ssh {})", vps.door()),
                None => on_one_line(task.command.as_deref().unwrap_or_default()),
            },
        ]
    });
    aligned(head, rows)
}

/// When the task was started or, if it was not, accepted; in this machine's time.
fn since(task: &Task) -> String {
    let at = task.phases.started.as_deref().or(task.phases.accepted.as_deref());
    let at = at.and_then(|at| DateTime::parse_from_rfc3339(at).ok());
    at.map(|at| at.with_timezone(&Local).format("%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// A command has line ends and could have control characters that a terminal obeys.
fn on_one_line(text: &str) -> String {
    let clean = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut line: String = clean.clone().take(COMMAND_LETTERS_MAX).collect();
    if clean.count() > COMMAND_LETTERS_MAX {
        line.pop();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod test {
    use super::*;

    fn task(json: serde_json::Value) -> Task {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn table_shows_a_line_for_each_task_with_its_columns_aligned() {
        let tasks = [
            task(serde_json::json!({"id": "7", "status": "running", "image": "busybox",
                                    "command": "sleep 1"})),
            task(serde_json::json!({"id": "7531103436712968193", "status": "failed",
                                    "image": "a", "exit_code": 3, "numa_node": 1,
                                    "command": "false"})),
        ];
        let table = table(&tasks);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].find("COMMAND"), lines[1].find("sleep 1"));
        assert!(lines[2].starts_with("7531103436712968193  failed"));
    }

    #[test]
    fn vps_is_told_from_a_task_and_shows_its_door() {
        let vps = task(serde_json::json!({
            "id": "7", "status": "running", "image": "busybox", "command": null,
            "vps": {"ssh_key_mode": "upload", "ssh_port": 32768, "ssh": "open"},
        }));
        let table = table(&[vps]);
        assert!(table.contains("running  vps") && table.contains("(ssh 32768 open)"), "{table}");
    }

    #[test]
    fn task_without_an_image_yet_shows_its_progress() {
        let pulling = task(serde_json::json!({"id": "7", "status": "pending",
                                              "progress": "pulling busybox: 45%"}));
        assert!(table(&[pulling]).contains("pulling busybox: 45%"));
    }

    #[test]
    fn long_command_with_line_ends_stays_on_its_line() {
        let line = on_one_line(&"a\nb\x1b[31m".repeat(20));
        assert_eq!(line.chars().count(), COMMAND_LETTERS_MAX);
        assert!(line.ends_with('…') && !line.contains(char::is_control));
    }
}
