//! Copies a task's output to a sink, to its last byte. Survives a runner that restarts: the task
//! runs on meanwhile, and the copy goes on where it was. Called by `run` and `logs`.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::Instant;

use super::client::{Body, ClientError, is_quiet};
use super::runner::{Runner, Stream};
use crate::limits;
use crate::model::ids::TaskId;
use crate::stop::Stop;

/// Why a copy ended before the output did.
#[derive(Debug)]
pub enum FollowError {
    Runner(ClientError),
    /// Our own output is closed or full.
    Sink(io::Error),
}

/// How one connection of a stream ended.
enum Ending {
    Ended,
    /// It broke, or was quiet for long.
    Lost(ClientError),
    Stopped,
}

/// Copies `stream` until the task has ended and all of it is copied, or `stop` is raised.
///
/// # Errors
/// The sink fails, the runner refuses, or is away for longer than `CLI_LOST_PATIENCE`.
pub fn follow(
    runner: &Runner,
    id: TaskId,
    stream: Stream,
    sink: &mut dyn Write,
    stop: &Stop,
) -> Result<(), FollowError> {
    let mut offset = 0;
    let mut lost_since: Option<Instant> = None;
    while !stop.is_raised() {
        let was = offset;
        let outcome = follow_once(runner, id, stream, sink, stop, &mut offset);
        if offset > was {
            lost_since = None;
        }
        match outcome {
            Ok(Progress::Done) => return Ok(()),
            Ok(Progress::Again) => lost_since = None,
            Err(FollowError::Runner(error)) if error.may_pass() => {
                let since = *lost_since.get_or_insert_with(Instant::now);
                if since.elapsed() > limits::CLI_LOST_PATIENCE {
                    return Err(FollowError::Runner(error));
                }
            }
            Err(error) => return Err(error),
        }
        stop.wait(limits::CLI_RETRY_PAUSE);
    }
    Ok(())
}

enum Progress {
    Done,
    Again,
}

fn follow_once(
    runner: &Runner,
    id: TaskId,
    stream: Stream,
    sink: &mut dyn Write,
    stop: &Stop,
    offset: &mut u64,
) -> Result<Progress, FollowError> {
    let mut body = runner.follow(id, stream, *offset).map_err(FollowError::Runner)?.body;
    if let Ending::Stopped = copy(&mut body, sink, stop, offset)? {
        return Ok(Progress::Done);
    }
    // The stream ends by closing the connection, as a dying runner does, and a machine that is
    // gone is as quiet as a task that has nothing to say: only the record tells.
    if !runner.task(id).map_err(FollowError::Runner)?.status.is_ended() {
        return Ok(Progress::Again);
    }
    copy_rest(runner, id, stream, sink, stop, offset)?;
    Ok(Progress::Done)
}

/// Copies what is there now, from `offset` to the end.
///
/// # Errors
/// The sink fails, or the runner refuses or can't be reached.
pub fn copy_rest(
    runner: &Runner,
    id: TaskId,
    stream: Stream,
    sink: &mut dyn Write,
    stop: &Stop,
    offset: &mut u64,
) -> Result<(), FollowError> {
    loop {
        let was = *offset;
        let mut body = runner.output(id, stream, *offset).map_err(FollowError::Runner)?.body;
        if let Ending::Lost(error) = copy(&mut body, sink, stop, offset)? {
            return Err(FollowError::Runner(error));
        }
        // An answer may hold a part only.
        if *offset == was || stop.is_raised() {
            return Ok(());
        }
    }
}

fn copy(
    body: &mut Body,
    sink: &mut dyn Write,
    stop: &Stop,
    offset: &mut u64,
) -> Result<Ending, FollowError> {
    let mut buffer = vec![0; limits::CLI_COPY_BYTES];
    let mut last = Instant::now();
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(Ending::Ended),
            Ok(count) => {
                sink.write_all(&buffer[..count]).map_err(FollowError::Sink)?;
                sink.flush().map_err(FollowError::Sink)?;
                *offset += count as u64;
                last = Instant::now();
            }
            Err(error) if is_quiet(&error) && stop.is_raised() => return Ok(Ending::Stopped),
            Err(error) if is_quiet(&error) && last.elapsed() > limits::CLI_QUIET_PATIENCE => {
                let after = limits::CLI_QUIET_PATIENCE;
                return Ok(Ending::Lost(ClientError::TimedOut { after }));
            }
            Err(error) if is_quiet(&error) => (),
            Err(source) => return Ok(Ending::Lost(ClientError::Broken { source })),
        }
    }
}

impl FollowError {
    /// Whether whoever read our output has had enough, as `head` does.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, FollowError::Sink(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for FollowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FollowError::Runner(error) => error.fmt(f),
            FollowError::Sink(error) => write!(f, "output can't be written: {error}"),
        }
    }
}

impl std::error::Error for FollowError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FollowError::Runner(error) => Some(error),
            FollowError::Sink(error) => Some(error),
        }
    }
}
