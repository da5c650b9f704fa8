//! `cp`: files and directories into a task's container and out of it.

mod download;
mod fault;
mod landing;
mod upload;

use std::process::ExitCode;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};

use super::client::ClientError;
use super::failure::Failure;
use super::place::Side;
use super::progress::ProgressLine;
use super::reach::{ConfigPath, Reach};
use super::runner::Runner;
use super::signals::Signals;
use super::{quote, say};
pub use fault::CopyFault;
use landing::Unfinished;

#[derive(Args, Clone, Debug)]
pub struct CpArguments {
    /// What to copy: TASK:PATH, a path on this machine, or - for stdin
    #[arg(value_name = "SRC", value_parser = side())]
    source: Side,

    /// Where to: TASK:PATH, a path on this machine, or - for stdout
    #[arg(value_name = "DST", value_parser = side())]
    destination: Side,

    /// Directories with all files and directories below them
    #[arg(long, short = 'r')]
    recursive: bool,

    #[command(flatten)]
    reach: Reach,
}

fn side() -> ValueParser {
    OsStringValueParser::new().try_map(Side::parse).into()
}

/// A copy under way.
struct Copy {
    runner: Runner,
    progress: ProgressLine,
    recursive: bool,
    unfinished: Unfinished,
    /// Whether something was left out of a directory, and said.
    is_incomplete: bool,
}

/// Copies what the arguments say.
///
/// # Errors
/// The runner can't be reached or refuses, a file can't be read or written, or is too large.
pub fn cp(arguments: &CpArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let runner = arguments.reach.runner(path)?;
    let signals = Signals::hold().map_err(|errno| Failure::Output(errno.into()))?;
    let unfinished = Unfinished::removed_on(signals).map_err(Failure::Output)?;
    let progress = ProgressLine::on_stderr();
    let recursive = arguments.recursive;
    let mut copy = Copy { runner, progress, recursive, unfinished, is_incomplete: false };
    let done = copy.between(&arguments.source, &arguments.destination);
    copy.progress.clear();
    done?;
    Ok(if copy.is_incomplete { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Copy {
    fn between(&mut self, source: &Side, destination: &Side) -> Result<(), Failure> {
        match (source, destination) {
            (Side::Task(from), Side::Here(to)) => self.take(from, to),
            (Side::Task(from), Side::Standard) => self.take_to_stdout(from),
            (Side::Here(from), Side::Task(to)) => self.bring(from, to),
            (Side::Standard, Side::Task(to)) => self.bring_stdin(to),
            (Side::Task(_), Side::Task(_)) => Err(CopyFault::TwoTasks.into()),
            (Side::Here(_) | Side::Standard, Side::Here(_) | Side::Standard) => {
                Err(CopyFault::NoTask.into())
            }
        }
    }

    /// Goes on without a part of a directory, if what was wrong is that part's own.
    fn leave_out(&mut self, what: &str, failure: Failure) -> Result<(), Failure> {
        let is_its_own = match &failure {
            // 404 of the task itself would come for each.
            Failure::Client(ClientError::Refused { .. })
            | Failure::Unreadable { .. }
            | Failure::Copy(_) => true,
            Failure::Client(_)
            | Failure::Unwritable { .. }
            | Failure::Config(_)
            | Failure::Url(_)
            | Failure::Input(_)
            | Failure::Terminal(_)
            | Failure::Hangup { .. }
            | Failure::Vps(_)
            | Failure::Left { .. }
            | Failure::Output(_) => false,
        };
        if !is_its_own {
            return Err(failure);
        }
        self.progress.clear();
        say(&format!("{} is left out: {failure}", quote::shown(what)));
        self.is_incomplete = true;
        Ok(())
    }
}
