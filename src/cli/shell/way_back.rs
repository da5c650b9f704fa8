//! The way back to a shell whose connection is lost, if the runner keeps it for a while: the same
//! session is asked for again, from the first byte of output that has not come. A runner that knows
//! of no sessions does not tell of one, and then there is no way back.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::keyboard::Keyboard;
use super::session::Session;
use super::{Ending, Shell, notice};
use crate::cli::client::ClientError;
use crate::cli::failure::Failure;
use crate::cli::runner::Runner;
use crate::cli::signals;
use crate::limits;
use crate::machine::random;
use crate::model::ids::TaskId;

/// Which session to ask for, and from where.
#[derive(Debug)]
pub struct WayBack {
    runner: Runner,
    id: TaskId,
    /// A pipe has none: what of its lines came through before a loss is not known.
    session: Option<String>,
    /// Bytes of output that have come.
    seen: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The runner has not told of a session, and may know of none.
    NotOffered,
    Attached,
    /// It must tell of the same session again.
    Lost(Instant),
}

/// The runner has another shell for us than the one we had.
#[derive(Clone, Copy, Debug)]
pub struct ShellIsGone;

impl WayBack {
    /// # Errors
    /// There is no randomness; a session's name must not be guessed.
    pub fn new(runner: Runner, id: TaskId, keyboard: &Keyboard) -> io::Result<WayBack> {
        let session = if keyboard.is_terminal() { Some(random::hex_128()?) } else { None };
        Ok(WayBack { runner, id, session, seen: 0, stage: Stage::NotOffered })
    }

    /// Opens the terminal for the first time.
    ///
    /// # Errors
    /// As for [`Session::open`].
    pub fn open(&self) -> Result<Session, ClientError> {
        Session::open(&self.runner, &self.row())
    }

    /// Tries to open it again. `None` says that it may succeed later.
    ///
    /// # Errors
    /// It will not.
    pub fn open_again(&self) -> Result<Option<Session>, ClientError> {
        // Nothing else is looked after meanwhile.
        let patient = Runner(self.runner.0.patient(limits::CLI_CONNECT_PATIENCE));
        match Session::open(&patient, &format!("{}&offset={}", self.row(), self.seen)) {
            Ok(session) => Ok(Some(session)),
            Err(error) if error.may_pass() && !is_dead(&error) && !self.is_late() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The runner tells of the session, and from where its output goes on.
    ///
    /// # Errors
    /// It is not the one that we had.
    pub fn attached(&mut self, offset: u64) -> Result<(), ShellIsGone> {
        if matches!(self.stage, Stage::Lost(_)) && offset < self.seen {
            return Err(ShellIsGone);
        }
        self.seen = offset;
        self.stage = Stage::Attached;
        Ok(())
    }

    /// Output has come.
    ///
    /// # Errors
    /// The runner did not tell of the session before.
    pub fn saw(&mut self, output: &str) -> Result<(), ShellIsGone> {
        if let Stage::Lost(_) = self.stage {
            return Err(ShellIsGone);
        }
        self.seen += output.len() as u64;
        Ok(())
    }

    /// The connection is lost. Returns whether to try to open it again.
    pub fn lose(&mut self) -> bool {
        match self.stage {
            Stage::NotOffered => false,
            Stage::Attached => {
                self.stage = Stage::Lost(Instant::now());
                true
            }
            // It was lost again before the runner told of the session.
            Stage::Lost(_) => !self.is_late(),
        }
    }

    /// Whether it is not known yet that there is a shell, and which.
    pub fn is_lost(&self) -> bool {
        matches!(self.stage, Stage::Lost(_))
    }

    fn is_late(&self) -> bool {
        matches!(self.stage, Stage::Lost(since) if since.elapsed() > limits::CLI_LOST_PATIENCE)
    }

    fn row(&self) -> String {
        let row = format!("/ws/task/{}/terminal", self.id);
        match &self.session {
            Some(session) => format!("{row}?session={session}"),
            None => row,
        }
    }
}

/// Whether nobody listens where the runner did. Its shells have ended with it.
fn is_dead(error: &ClientError) -> bool {
    matches!(error, ClientError::Connect { source, .. }
        if matches!(source.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound))
}

impl From<ShellIsGone> for Failure {
    fn from(_: ShellIsGone) -> Failure {
        Failure::Terminal("the shell has ended while the connection was lost".into())
    }
}

impl Shell {
    /// Goes on with the same shell after the connection was lost with `error`, or leaves.
    ///
    /// # Errors
    /// There is no way back.
    pub(super) fn come_back(&mut self, error: ClientError) -> Result<Option<Ending>, Failure> {
        if !error.may_pass() || !self.way_back.lose() {
            return Err(error.into());
        }
        let mut is_said = false;
        loop {
            if let Some(ending) = self.pause()? {
                return Ok(Some(ending));
            }
            // Behind the output that was waiting.
            if !is_said {
                notice(&"the connection is lost; trying to come back (Ctrl-C leaves)");
                is_said = true;
            }
            if let Some(session) = self.way_back.open_again()? {
                self.session = session;
                return Ok(None);
            }
        }
    }

    /// Waits for a moment. Whoever has no patience leaves.
    fn pause(&mut self) -> Result<Option<Ending>, Failure> {
        let until = Instant::now() + limits::CLI_RETRY_PAUSE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let writes = self.screen.is_waiting();
            let signals = || PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
            let mut fds = [
                signals(),
                PollFd::new(self.keyboard.as_fd(), PollFlags::POLLIN),
                // What is not wanted must not be polled: its end would be told again and again.
                if writes {
                    PollFd::new(self.screen.as_fd(), PollFlags::POLLOUT)
                } else {
                    signals()
                },
            ];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(Errno::EINTR) => (),
                Err(errno) => return Err(Failure::Input(errno.into())),
            }
            let is_typed = fds[1].any().unwrap_or_default();
            if writes && fds[2].any().unwrap_or_default() {
                self.screen.write().map_err(Failure::Output)?;
            }
            while let Some(signal) = self.signals.pending() {
                match signal {
                    // The size is told again when there is somebody to tell.
                    Signal::SIGWINCH | Signal::SIGTSTP | Signal::SIGCONT => (),
                    signal => return Ok(Some(Ending::Left(signals::exit_code(signal)))),
                }
            }
            if !is_typed {
                continue;
            }
            if let Some(ending) = self.take_input()? {
                return Ok(Some(ending));
            }
        }
    }
}
