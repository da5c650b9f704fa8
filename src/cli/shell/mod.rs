//! `shell`: a terminal in a task's container, over the runner's WebSocket. One thread, one poll
//! over stdin, stdout, the connection and signals.

mod escape;
mod keyboard;
mod screen;
mod session;
mod way_back;
mod window;

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};

use super::client::ClientError;
use super::failure::Failure;
use super::reach::{ConfigPath, Reach};
use super::say;
use super::signals::{self, Signals};
use crate::limits;
use crate::model::ids::TaskId;
use keyboard::{Input, Keyboard};
use screen::Screen;
use session::{Goodbye, Heard, Session};
use way_back::WayBack;
use window::Window;

#[derive(Args, Clone, Debug)]
pub struct ShellArguments {
    /// The task's id
    id: TaskId,

    #[command(flatten)]
    reach: Reach,
}

/// A tty's end of input, typed at the start of a line.
const END_OF_INPUT: &str = "\u{4}";

/// What Ctrl-C types.
const INTERRUPT: char = '\u{3}';

/// The close code of a shell that has ended.
const NORMAL: u16 = 1000;

/// How a session came to its end, as far as it is no failure.
enum Ending {
    /// The shell has ended.
    Shell,
    /// We leave it with this code.
    Left(u8),
}

/// Opens a terminal and stays until its shell has ended.
///
/// # Errors
/// The runner can't be reached, has no terminal for us, or is lost.
pub fn shell(arguments: &ShellArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let runner = arguments.reach.runner(path)?;
    let keyboard = Keyboard::of_stdin().map_err(Failure::Input)?;
    let way_back = WayBack::new(runner, arguments.id, &keyboard).map_err(Failure::Input)?;
    let session = way_back.open()?;
    // Held before the terminal is touched: from here on nothing ends us that leaves it raw.
    let signals = [Signal::SIGQUIT, Signal::SIGWINCH, Signal::SIGTSTP, Signal::SIGCONT];
    let signals = Signals::hold_with(&signals).map_err(|errno| Failure::Output(errno.into()))?;
    let mut shell = Shell {
        signals,
        keyboard,
        screen: Screen::of_stdout().map_err(Failure::Output)?,
        session,
        way_back,
        stage: Stage::Greeting,
        input: InputStage::Open { at_line_start: true },
    };
    let ending = shell.attend();
    if shell.keyboard.restore() && !matches!(ending, Ok(Ending::Shell)) {
        // Behind what the shell has written last. With stderr closed there is nobody to see it.
        let _ = writeln!(io::stderr());
    }
    match ending? {
        Ending::Shell => Ok(ExitCode::SUCCESS),
        Ending::Left(code) => {
            shell.leave();
            Ok(ExitCode::from(code))
        }
    }
}

struct Shell {
    signals: Signals,
    keyboard: Keyboard,
    screen: Screen,
    session: Session,
    way_back: WayBack,
    stage: Stage,
    input: InputStage,
}

/// How far a session is.
enum Stage {
    /// The runner has not said yet that there is a shell.
    Greeting,
    /// There is one since then. What comes from a pipe waits for its prompt, or for a tick: a
    /// terminal that no shell has set up yet shows what is typed twice, and swallows an end.
    Starting(Instant),
    Open,
    /// The runner has said why it can't go on, and will close.
    Refused(String),
    /// What is left to do is to show the last output.
    Closed(Goodbye),
}

/// How far our stdin is.
enum InputStage {
    Open {
        at_line_start: bool,
    },
    /// It has ended, and the shell was told so at that time.
    Ended(Instant),
}

/// What poll has found.
struct Ready {
    keyboard: bool,
    screen: bool,
}

impl Shell {
    fn attend(&mut self) -> Result<Ending, Failure> {
        loop {
            let lost = match self.attend_connection() {
                Err(Failure::Client(error)) => error,
                done => return done,
            };
            let is_open = matches!(self.stage, Stage::Starting(_) | Stage::Open);
            if !is_open {
                return Err(lost.into());
            }
            if let Some(ending) = self.come_back(lost)? {
                return Ok(ending);
            }
        }
    }

    /// Attends until the end, or until the connection is lost.
    fn attend_connection(&mut self) -> Result<Ending, Failure> {
        self.tell_size()?;
        loop {
            // Before the wait: the first messages may have come together with the handshake, and
            // others while there was no room on the screen.
            self.listen()?;
            if let Stage::Closed(goodbye) = &self.stage
                && !self.screen.is_waiting()
            {
                return verdict(goodbye);
            }
            let ready = self.wait()?;
            while let Some(signal) = self.signals.pending() {
                if let Some(ending) = self.take_signal(signal)? {
                    return Ok(ending);
                }
            }
            if ready.screen {
                self.screen.write().map_err(Failure::Output)?;
            }
            if ready.keyboard
                && let Some(ending) = self.take_input()?
            {
                return Ok(ending);
            }
            self.look_at_the_clock()?;
        }
    }

    /// Waits until there is something to do, for a tick at most.
    fn wait(&self) -> Result<Ready, Failure> {
        let is_open = !matches!(self.stage, Stage::Closed(_));
        let hears = is_open && !self.screen.is_full();
        let is_wanted = match self.stage {
            Stage::Open => true,
            Stage::Starting(_) => self.keyboard.is_terminal(),
            Stage::Greeting | Stage::Refused(_) | Stage::Closed(_) => false,
        };
        let reads =
            is_wanted && matches!(self.input, InputStage::Open { .. }) && !self.session.is_unsent();
        let writes = self.screen.is_waiting();
        let signals = || PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
        // What is not wanted now must not be polled at all: an end would be told again and again.
        let mut fds = [
            signals(),
            if hears {
                PollFd::new(self.session.as_fd(), self.session.interest())
            } else {
                signals()
            },
            if reads { PollFd::new(self.keyboard.as_fd(), PollFlags::POLLIN) } else { signals() },
            if writes { PollFd::new(self.screen.as_fd(), PollFlags::POLLOUT) } else { signals() },
        ];
        let tick = PollTimeout::try_from(limits::CLI_SHELL_TICK).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, tick) {
            Ok(_) | Err(Errno::EINTR) => (),
            Err(errno) => return Err(Failure::Input(errno.into())),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or_default();
        Ok(Ready { keyboard: reads && is_ready(&fds[2]), screen: writes && is_ready(&fds[3]) })
    }

    fn take_signal(&mut self, signal: Signal) -> Result<Option<Ending>, Failure> {
        match signal {
            Signal::SIGWINCH => self.tell_size()?,
            Signal::SIGTSTP => {
                self.keyboard.restore();
                raise(Signal::SIGSTOP).map_err(|errno| Failure::Input(errno.into()))?;
            }
            // Whoever had the terminal meanwhile has its mode as it likes it, and its size.
            Signal::SIGCONT => {
                if matches!(self.stage, Stage::Starting(_) | Stage::Open) {
                    self.keyboard.make_raw().map_err(Failure::Input)?;
                }
                self.tell_size()?;
            }
            signal => return Ok(Some(Ending::Left(signals::exit_code(signal)))),
        }
        Ok(None)
    }

    /// Takes what the runner has said, as far as there is room.
    fn listen(&mut self) -> Result<(), Failure> {
        if matches!(self.stage, Stage::Closed(_)) {
            return Ok(());
        }
        self.session.flush()?;
        while !self.screen.is_full() {
            match self.session.hear()? {
                None => break,
                Some(Heard::Attached { offset, lost }) => {
                    self.way_back.attached(offset)?;
                    self.greet()?;
                    if lost > 0 {
                        notice(&format!("{lost} bytes of output are lost"));
                    }
                }
                Some(Heard::Output { data }) => {
                    self.way_back.saw(&data)?;
                    self.greet()?;
                    if matches!(self.stage, Stage::Starting(_)) && !data.is_empty() {
                        self.stage = Stage::Open;
                    }
                    self.screen.show(&data);
                }
                Some(Heard::Error { data }) => self.stage = Stage::Refused(data),
                Some(Heard::Unknown) => (),
                Some(Heard::Goodbye(goodbye)) => {
                    if let Stage::Refused(text) = &self.stage {
                        return Err(Failure::Terminal(text.clone()));
                    }
                    self.stage = Stage::Closed(goodbye);
                    break;
                }
            }
        }
        Ok(())
    }

    /// There is a shell.
    fn greet(&mut self) -> Result<(), Failure> {
        if matches!(self.stage, Stage::Greeting) {
            // Not before: until there is a shell, Ctrl-C is a signal.
            self.keyboard.make_raw().map_err(Failure::Input)?;
            self.stage = Stage::Starting(Instant::now());
        }
        Ok(())
    }

    fn tell_size(&mut self) -> Result<(), Failure> {
        match self.stage {
            Stage::Closed(_) => Ok(()),
            Stage::Greeting | Stage::Starting(_) | Stage::Open | Stage::Refused(_) => {
                Ok(self.session.resize(Window::now())?)
            }
        }
    }

    fn take_input(&mut self) -> Result<Option<Ending>, Failure> {
        match self.keyboard.read() {
            Ok(Input::Text(text)) if self.way_back.is_lost() => {
                // The rest reaches nobody: which shell there will be is not known.
                let leaves = text.contains(INTERRUPT);
                Ok(leaves.then(|| Ending::Left(signals::exit_code(Signal::SIGINT))))
            }
            Ok(Input::Text(text)) => {
                self.session.input(&text)?;
                if let (InputStage::Open { at_line_start }, Some(last)) =
                    (&mut self.input, text.chars().last())
                {
                    *at_line_start = last == '\n';
                }
                Ok(None)
            }
            Ok(Input::Leave) => {
                say(&"left; its shell ends");
                Ok(Some(Ending::Left(1)))
            }
            // A terminal that hangs up, with or without SIGHUP.
            Ok(Input::End) | Err(_) if self.keyboard.is_terminal() => {
                Ok(Some(Ending::Left(signals::exit_code(Signal::SIGHUP))))
            }
            Ok(Input::End) => {
                if let InputStage::Open { at_line_start: false } = self.input {
                    self.session.input("\n")?;
                }
                self.tell_end_of_input()?;
                Ok(None)
            }
            Err(error) => Err(Failure::Input(error)),
        }
    }

    fn tell_end_of_input(&mut self) -> Result<(), Failure> {
        self.input = InputStage::Ended(Instant::now());
        Ok(self.session.input(END_OF_INPUT)?)
    }

    fn look_at_the_clock(&mut self) -> Result<(), Failure> {
        let patience = match self.stage {
            Stage::Greeting | Stage::Refused(_) => limits::CLI_ANSWER_PATIENCE,
            Stage::Starting(_) | Stage::Open => limits::CLI_QUIET_PATIENCE,
            Stage::Closed(_) => return Ok(()),
        };
        // While we don't listen it is not the runner that is quiet.
        if self.session.quiet_for() > patience && !self.screen.is_full() {
            return Err(ClientError::TimedOut { after: patience }.into());
        }
        if let Stage::Starting(since) = self.stage
            && since.elapsed() >= limits::CLI_SHELL_TICK
        {
            self.stage = Stage::Open;
        }
        // The first may have ended a program that the shell had started; the shell wants its own.
        if let InputStage::Ended(told_at) = self.input
            && told_at.elapsed() >= limits::CLI_SHELL_TICK
            && !self.session.is_unsent()
        {
            self.tell_end_of_input()?;
        }
        Ok(())
    }

    /// Says goodbye, so that the runner ends the shell at once. It does so anyway, later.
    fn leave(&mut self) {
        let until = Instant::now() + limits::CLI_GOODBYE_PATIENCE;
        let mut outcome = self.session.say_goodbye();
        while outcome.is_ok() && Instant::now() < until {
            outcome = match self.session.hear() {
                Ok(Some(Heard::Goodbye(_))) | Err(_) => return,
                Ok(_) => self.session.flush(),
            };
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.session.as_fd(), self.session.interest())];
            if poll(&mut fds, left).is_err() {
                return;
            }
        }
    }
}

/// A line for the person at the terminal, which is raw.
fn notice(what: &impl Display) {
    // With stderr closed there is nobody to tell.
    let _ = write!(io::stderr(), "\r\nriver-runner: {what}\r\n");
}

fn verdict(goodbye: &Goodbye) -> Result<Ending, Failure> {
    match goodbye.code {
        NORMAL => Ok(Ending::Shell),
        code => Err(Failure::Hangup { code, reason: goodbye.reason.clone() }),
    }
}
