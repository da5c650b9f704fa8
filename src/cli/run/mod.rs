//! `run`: hands a task in, shows its output as it comes, and ends as it ended.

pub mod order;
mod timings;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use clap::Args;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::client::ClientError;
use super::failure::Failure;
use super::follow::{FollowError, follow};
use super::progress::ProgressLine;
use super::reach::{ConfigPath, Reach};
use super::runner::{Runner, Status, Stream, Task, Verb};
use super::say;
use super::signals::Signals;
use crate::limits;
use crate::model::ids::TaskId;
use crate::stop::Stop;
use crate::threads;

#[derive(Args, Clone, Debug)]
pub struct RunArguments {
    #[command(flatten)]
    wish: order::Wish,

    /// Print the task's id and leave; `logs -f ID` shows its output
    #[arg(long, short = 'd')]
    detach: bool,

    /// At the end print when the task reached each phase
    #[arg(long, conflicts_with = "detach")]
    timings: bool,

    #[command(flatten)]
    reach: Reach,
}

/// The exit code when the task never ran, as with `docker run`.
pub const NEVER_RAN: u8 = 125;

/// The exit code of a program that was killed (128 + SIGKILL).
const KILLED: u8 = 137;

/// The exit code of a program whose reader left (128 + SIGPIPE).
pub const READER_LEFT: u8 = 141;

/// Runs one task.
///
/// # Errors
/// The runner can't be reached or does not take the task.
pub fn run(arguments: RunArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let runner = arguments.reach.runner(path)?;
    let health = runner.health()?;
    let id = order::new_id();
    let order = arguments.wish.order(id, &health.shared_dir);
    let signals = Signals::hold().map_err(|errno| Failure::Output(errno.into()))?;
    runner.execute(&order)?;
    if arguments.detach {
        writeln!(io::stdout(), "{id}").map_err(Failure::Output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let code = attend(&runner, id, &signals, arguments.timings)?;
    Ok(ExitCode::from(code))
}

/// Stays with a task until it has ended.
fn attend(runner: &Runner, id: TaskId, signals: &Signals, timings: bool) -> Result<u8, Failure> {
    let stop = Stop::new();
    let progress = Arc::new(ProgressLine::on_stderr());
    let copies = start_copies(runner, id, &stop, &progress).map_err(Failure::Output)?;
    let watched = watch(runner, id, signals, &copies, &progress);
    stop.raise();
    progress.clear();
    let leaving = match watched? {
        Watched::Ended => None,
        Watched::Killed(code) => Some(code),
        Watched::Left(code) => return Ok(code),
    };
    let task = outcome(runner, id);
    if let Ok(task) = &task {
        task.notes.iter().for_each(say);
        if timings {
            timings::print(&task.phases);
        }
    }
    match (leaving, task) {
        (Some(code), _) => Ok(code),
        (None, Ok(task)) => {
            let verdict = verdict(&task);
            if let Some(text) = verdict.text {
                say(&text);
            }
            Ok(verdict.code)
        }
        (None, Err(error)) => Err(error.into()),
    }
}

type Copied = Result<(), FollowError>;

/// Two threads, one for each of the task's streams.
fn start_copies(
    runner: &Runner,
    id: TaskId,
    stop: &Stop,
    progress: &Arc<ProgressLine>,
) -> io::Result<Receiver<Copied>> {
    let (done, copies) = bounded(2);
    for stream in [Stream::Stdout, Stream::Stderr] {
        let (runner, stop, progress) = (runner.clone(), stop.clone(), Arc::clone(progress));
        let done = done.clone();
        threads::spawn(format!("copy-{}", stream.name()), limits::STACK_BYTES, move || {
            let mut sink = Sink { stream, progress };
            // The receiver is gone only when we are leaving anyway.
            let _ = done.send(follow(&runner, id, stream, &mut sink, &stop));
        })?;
    }
    Ok(copies)
}

/// Our own stdout or stderr, which the progress line makes room for.
struct Sink {
    stream: Stream,
    progress: Arc<ProgressLine>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.progress.clear();
        match self.stream {
            Stream::Stdout => io::stdout().write(bytes),
            Stream::Stderr => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.stream {
            Stream::Stdout => io::stdout().flush(),
            Stream::Stderr => io::stderr().flush(),
        }
    }
}

/// Why `watch` came to its end.
enum Watched {
    /// All output is shown.
    Ended,
    /// All output is shown of a task that we killed, to end with this code: a signal came, or
    /// nobody reads our output.
    Killed(u8),
    /// We end with this code and wait for nothing more.
    Left(u8),
}

/// Waits for the copies, for signals, and shows how far the image is until the task has started.
fn watch(
    runner: &Runner,
    id: TaskId,
    signals: &Signals,
    copies: &Receiver<Copied>,
    progress: &ProgressLine,
) -> Result<Watched, Failure> {
    let mut open = 2;
    let mut next_look = progress.is_visible().then(Instant::now);
    let mut leaving: Option<(u8, Instant)> = None;
    while open > 0 {
        match copies.recv_timeout(limits::CLI_SIGNAL_TICK) {
            Ok(Ok(())) => open -= 1,
            Ok(Err(error)) if error.is_closed_pipe() => {
                open -= 1;
                leaving.get_or_insert_with(|| leave(runner, id, READER_LEFT));
            }
            Ok(Err(error)) => {
                say(&format!(
                    "task {id} is left to itself; `river-runner logs -f {id}` follows it"
                ));
                return Err(error.into());
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        match (signals.pending_exit_code(), &leaving) {
            (Some(code), None) => {
                progress.clear();
                say(&format!("killing task {id}; once more leaves at once"));
                leaving = Some(leave(runner, id, code));
            }
            (Some(code), Some(_)) => return Ok(Watched::Left(code)),
            (None, Some((code, until))) if Instant::now() > *until => {
                say(&format!("task {id} does not end; `river-runner ps` shows it"));
                return Ok(Watched::Left(*code));
            }
            (None, _) => (),
        }
        if next_look.is_some_and(|at| Instant::now() >= at) {
            next_look = look(runner, id, progress);
        }
    }
    Ok(leaving.map_or(Watched::Ended, |(code, _)| Watched::Killed(code)))
}

/// Kills the task because we leave with `code`; until when its end is awaited.
fn leave(runner: &Runner, id: TaskId, code: u8) -> (u8, Instant) {
    if let Err(error) = runner.act(Verb::Kill, id) {
        say(&format!("task {id} was not killed: {error}"));
    }
    (code, Instant::now() + limits::CLI_KILL_PATIENCE)
}

/// Shows how far the image is; when to look again.
fn look(runner: &Runner, id: TaskId, progress: &ProgressLine) -> Option<Instant> {
    let again = Some(Instant::now() + limits::CLI_PROGRESS_TICK);
    match runner.task(id) {
        Ok(Task { status: Status::Pending, progress: text, .. }) => {
            progress.show(text.as_deref().unwrap_or_default());
            again
        }
        Ok(_) => {
            progress.clear();
            None
        }
        Err(_) => again,
    }
}

/// The task as it ended. The record may come a moment after the last output.
fn outcome(runner: &Runner, id: TaskId) -> Result<Task, ClientError> {
    let until = Instant::now() + limits::CLI_OUTCOME_PATIENCE;
    loop {
        match runner.task(id) {
            Ok(task) if task.status.is_ended() || Instant::now() > until => return Ok(task),
            Err(error) if !error.may_pass() || Instant::now() > until => return Err(error),
            Ok(_) | Err(_) => thread::sleep(limits::CLI_OUTCOME_TICK),
        }
    }
}

/// What we end with, and what there is to say.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    code: u8,
    text: Option<String>,
}

fn verdict(task: &Task) -> Verdict {
    let id = &task.id;
    let message = task.message.as_deref().unwrap_or("the runner gives no reason");
    let told =
        |code, what: &str| Verdict { code, text: Some(format!("task {id} {what}: {message}")) };
    // Codes of a process are 0 to 255; anything else is not one.
    let code = task.exit_code.and_then(|code| u8::try_from(code).ok());
    match (task.status, code) {
        (_, None) if task.phases.started.is_none() => told(NEVER_RAN, "did not start"),
        (Status::Completed, code) => Verdict { code: code.unwrap_or(0), text: None },
        (Status::KilledOom, code) => told(code.unwrap_or(KILLED), "ran out of memory"),
        (Status::Killed, code) => {
            let text = Some(format!("task {id} was killed"));
            Verdict { code: code.unwrap_or(KILLED), text }
        }
        // The task has said itself why; the runner speaks up only where it knows more than the
        // number, such as what was said before the output was redirected.
        (Status::Failed, Some(code))
            if task.message.is_none() || message == format!("exit code {code}") =>
        {
            Verdict { code, text: None }
        }
        (Status::Failed, code) => told(code.unwrap_or(NEVER_RAN), "failed"),
        (Status::Stopped, code) => told(code.unwrap_or(KILLED), "was stopped"),
        (Status::Pending | Status::Running | Status::Paused | Status::Unknown, _) => {
            told(NEVER_RAN, "has no outcome")
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn task(status: &str, exit_code: Option<i64>, started: bool) -> Task {
        let started = started.then_some("2026-11-24T21:12:04.123456Z");
        serde_json::from_value(serde_json::json!({
            "task_id": 7, "id": "7", "status": status, "exit_code": exit_code,
            "message": "said so", "phases": {"started": started},
        }))
        .unwrap()
    }

    #[test]
    fn code_of_the_task_is_ours() {
        assert_eq!(verdict(&task("completed", Some(0), true)), Verdict { code: 0, text: None });
        let mut failed = task("failed", Some(3), true);
        failed.message = Some("exit code 3".to_owned());
        assert_eq!(verdict(&failed), Verdict { code: 3, text: None });
    }

    #[test]
    fn reason_that_says_more_than_the_code_is_shown() {
        let verdict = verdict(&task("failed", Some(137), true));
        assert_eq!((verdict.code, verdict.text.as_deref()), (137, Some("task 7 failed: said so")));
    }

    #[test]
    fn task_that_never_started_ends_with_125_and_the_reason() {
        let verdict = verdict(&task("failed", None, false));
        assert_eq!(verdict.code, 125);
        assert_eq!(verdict.text.as_deref(), Some("task 7 did not start: said so"));
    }

    #[test]
    fn command_that_the_engine_refuses_keeps_the_code_it_gives() {
        assert_eq!(verdict(&task("failed", Some(127), false)).code, 127);
        assert!(verdict(&task("failed", Some(127), false)).text.is_some());
    }

    #[test]
    fn memory_and_kills_are_told_apart() {
        let oom = verdict(&task("killed_oom", Some(137), true));
        assert_eq!(
            (oom.code, oom.text.as_deref()),
            (137, Some("task 7 ran out of memory: said so"))
        );
        let killed = verdict(&task("killed", None, true));
        assert_eq!((killed.code, killed.text.as_deref()), (137, Some("task 7 was killed")));
    }

    #[test]
    fn code_outside_a_process_is_not_taken_for_success() {
        assert_eq!(verdict(&task("failed", Some(256), true)).code, 125);
        assert_eq!(verdict(&task("failed", Some(-1), true)).code, 125);
    }
}
