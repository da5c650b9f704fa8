//! `logs`: a task's output as it lies in the runner's log files.

use std::io;
use std::process::ExitCode;

use clap::Args;

use super::client::ClientError;
use super::failure::Failure;
use super::follow::{FollowError, copy_rest, follow};
use super::reach::{ConfigPath, Reach};
use super::runner::Stream;
use super::vps::VpsFault;
use crate::model::ids::TaskId;
use crate::stop::Stop;

#[derive(Args, Clone, Debug)]
pub struct LogsArguments {
    /// The task's id
    id: TaskId,

    /// Go on until the task has ended
    #[arg(long, short = 'f')]
    follow: bool,

    /// Its stderr in place of its stdout
    #[arg(long)]
    stderr: bool,

    #[command(flatten)]
    reach: Reach,
}

/// Copies the output to stdout.
pub fn logs(arguments: &LogsArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let runner = arguments.reach.runner(path)?;
    let stream = if arguments.stderr { Stream::Stderr } else { Stream::Stdout };
    // Ctrl-C just ends us: the task is not ours.
    let (id, mut sink, stop) = (arguments.id, io::stdout(), Stop::new());
    let copied = if arguments.follow {
        follow(&runner, id, stream, &mut sink, &stop)
    } else {
        copy_rest(&runner, id, stream, &mut sink, &stop, &mut 0)
    };
    match copied {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(FollowError::Runner(ClientError::Refused { status: 422, .. }))
            if runner.task(id).is_ok_and(|task| task.vps.is_some()) =>
        {
            Err(VpsFault::NoLogs(id).into())
        }
        Err(error) => Err(error.into()),
    }
}
