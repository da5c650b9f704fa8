//! `vps snapshot` makes one, `vps snapshots` lists and deletes them.

use std::process::ExitCode;
use std::str::FromStr;

use chrono::{DateTime, Local};
use clap::Args;

use super::fault::VpsFault;
use super::{Attendant, told_better};
use crate::cli::failure::Failure;
use crate::cli::print;
use crate::cli::reach::{ConfigPath, Reach};
use crate::cli::runner::{Runner, Snapshot};
use crate::cli::size;
use crate::cli::table::aligned;
use crate::model::ids::TaskId;

#[derive(Args, Clone, Debug)]
pub struct SnapshotArguments {
    /// The VPS's id
    id: TaskId,

    /// Text that goes with the image, as its comment
    #[arg(long, short = 'm', value_name = "TEXT")]
    message: Option<String>,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Args, Clone, Debug)]
pub struct SnapshotsArguments {
    /// The VPS's id
    id: TaskId,

    /// Delete one, by its timestamp, or all that are not in use
    #[arg(long, value_name = "TIMESTAMP|all")]
    delete: Option<Doomed>,

    #[command(flatten)]
    reach: Reach,
}

/// What is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doomed {
    One(u64),
    All,
}

impl FromStr for Doomed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Doomed, &'static str> {
        match text {
            "all" => Ok(Doomed::All),
            number => number.parse().map(Doomed::One).map_err(|_| "it must be a timestamp or all"),
        }
    }
}

/// Makes one and prints its name.
pub fn snapshot(arguments: &SnapshotArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let (runner, id) = (arguments.reach.runner(path)?, arguments.id);
    let attendant = Attendant::of(&runner, id);
    attendant.show("is being saved");
    let made = runner.make_snapshot(id, arguments.message.as_deref());
    attendant.clear();
    let tag = made.map_err(|error| told_better(&runner, id, error))?;
    print(&format!("{tag}\n"))
}

pub fn snapshots(arguments: &SnapshotsArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let (runner, id) = (arguments.reach.runner(path)?, arguments.id);
    match arguments.delete {
        None => print(&table(&snapshots_of(&runner, id)?)),
        Some(Doomed::One(timestamp)) => {
            runner.delete_snapshot(id, timestamp)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Doomed::All) => {
            let count = runner.delete_snapshots(id)?;
            print(&format!("{count} deleted\n"))
        }
    }
}

/// All of them, newest first.
///
/// # Errors
/// The runner can't be reached, or can't tell.
pub fn snapshots_of(runner: &Runner, id: TaskId) -> Result<Vec<Snapshot>, Failure> {
    let answer = runner.snapshots(id)?;
    match answer.error {
        None => Ok(answer.snapshots),
        Some(why) => Err(VpsFault::NotListed(why).into()),
    }
}

fn table(snapshots: &[Snapshot]) -> String {
    let head = ["TIMESTAMP", "MADE", "SIZE", "ADDED", "IMAGE"];
    let rows = snapshots.iter().map(|snapshot| {
        let at = DateTime::parse_from_rfc3339(&snapshot.created_at).ok();
        let at = at.map(|at| at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string());
        [
            snapshot.timestamp.to_string(),
            at.unwrap_or_default(),
            size::shown(snapshot.size),
            snapshot.unique_size.map(size::shown).unwrap_or_default(),
            snapshot.tag.clone(),
        ]
    });
    aligned(head, rows)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn one_or_all_are_deleted() {
        assert_eq!("all".parse(), Ok(Doomed::All));
        assert_eq!("17".parse(), Ok(Doomed::One(17)));
        assert!("-1".parse::<Doomed>().is_err() && "ALL".parse::<Doomed>().is_err());
    }
}
