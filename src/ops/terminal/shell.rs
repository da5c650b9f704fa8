//! The shell of a terminal: found in the image, started by the Engine, and ended with everything it
//! has started (design D9), also when its start went wrong.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::WindowSize;
use super::leftovers::mark;
use super::terminals::Number;
use crate::docker::{DockerError, Hijack};
use crate::limits::{
    TERMINAL_END_GRACE, TERMINAL_END_GRACE_AT_STOP, TERMINAL_END_PATIENCE, TERMINAL_KILL_AGAIN,
    TERMINAL_KILL_PATIENCE, TERMINAL_KILL_PATIENCE_AT_STOP, TERMINAL_LOOK_AGAIN,
    TERMINAL_START_PATIENCE, TERMINAL_UNSEEN_PATIENCE,
};
use crate::machine::process::PinFault;
use crate::machine::process_session::ProcessSession;
use crate::machine::window::Window;
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::ops::files_thread::on_files_thread;
use crate::ops::inside::{self, Inside};
use crate::ops::{Node, OpError};

/// Tried in this order.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// A shell. Dropping it ends all of its session.
#[derive(Debug)]
pub(super) struct Shell {
    node: Arc<Node>,
    id: TaskId,
    inside: Arc<Inside>,
    exec: String,
    process: ShellProcess,
    window: Option<Window>,
    is_hung_up: bool,
    /// Last: as long as it is there, the shell is nobody's leftover.
    number: Number,
}

/// What is known of its process.
#[derive(Debug)]
enum ShellProcess {
    /// It may run.
    Unseen,
    Seen(ProcessSession),
    Over,
}

impl Shell {
    /// Starts one, and gives its stream.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn start(node: &Arc<Node>, id: TaskId) -> Result<(Shell, Hijack), OpError> {
        check(node, id)?;
        let inside = inside::enter(node, id)?;
        let there = Arc::clone(&inside);
        let path = on_files_thread(node, move || find_shell(&there))?;
        let path = path.ok_or(OpError::NoShell(id))?;
        let number = Number::of_next(node);
        let environment = ["TERM=xterm-256color".to_owned(), mark(node, number.get())];
        let not_running = |error: DockerError| match error.is_missing() || error.is_conflict() {
            true => OpError::NotRunning(id),
            false => error.into(),
        };
        let exec = node.engine.create_terminal_exec(&inside.container, &[path], &environment);
        let exec = exec.map_err(not_running)?;
        metrics::TERMINALS.up();
        // From here on it may run, whatever we are told: its drop ends it.
        let mut shell = Shell {
            node: Arc::clone(node),
            id,
            inside,
            exec,
            process: ShellProcess::Unseen,
            window: None,
            is_hung_up: false,
            number,
        };
        let started = node.engine.start_exec(&shell.exec);
        if started.as_ref().is_err_and(|error| !error.is_unclear()) {
            shell.process = ShellProcess::Over;
        }
        let stream = started.map_err(not_running)?;
        shell.wait_for_process(TERMINAL_START_PATIENCE)?;
        shell.window = shell.process.window().ok();
        Ok((shell, stream))
    }

    /// Waits until it is there, which is not so when its start is answered.
    fn wait_for_process(&mut self, after: Duration) -> Result<(), OpError> {
        let until = Instant::now() + after;
        loop {
            self.look()?;
            if !matches!(self.process, ShellProcess::Unseen) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(OpError::TimedOut { what: "the start of the shell", after });
            }
            std::thread::sleep(TERMINAL_LOOK_AGAIN);
        }
    }

    /// Asks the Engine for the process.
    fn look(&mut self) -> Result<(), OpError> {
        let seen = match self.node.engine.inspect_exec(&self.exec) {
            Ok(seen) => seen,
            Err(error) if error.is_missing() => {
                self.process = ShellProcess::Over;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.process = match seen.pid {
            _ if seen.exit_code.is_some() => ShellProcess::Over,
            None => ShellProcess::Unseen,
            Some(pid) => match ProcessSession::of(pid, &self.inside.container) {
                Ok(session) => ShellProcess::Seen(session),
                Err(PinFault::Gone) => ShellProcess::Over,
                Err(fault) => return Err(OpError::NoWayIn { id: self.id, fault }),
            },
        };
        Ok(())
    }

    pub fn resize(&mut self, size: WindowSize) {
        if self.window.is_none() {
            self.window = self.process.window().ok();
        }
        let WindowSize { rows, cols } = size;
        if let Some(window) = &self.window
            && let Err(error) = window.resize(rows, cols)
        {
            // It has ended; its size is nobody's concern.
            log::debug!("task {}: the window of a terminal: {error}", self.id);
        }
    }

    /// Whether its process has ended, soon.
    pub fn has_ended(&self) -> bool {
        let ShellProcess::Seen(session) = &self.process else { return true };
        let patience = PollTimeout::try_from(TERMINAL_END_PATIENCE).unwrap_or(PollTimeout::MAX);
        let leader = session.leader();
        // An interrupted wait has its answer in the process.
        let _ = poll(&mut [PollFd::new(leader.as_fd(), PollFlags::POLLIN)], patience);
        !leader.is_alive()
    }

    /// Whether the container is gone; it loses its root before its other processes end.
    pub fn has_lost_its_container(&self) -> bool {
        self.inside.has_ended()
    }

    /// As when a terminal's line breaks.
    pub fn hang_up(&mut self) {
        if std::mem::replace(&mut self.is_hung_up, true) {
            return;
        }
        if matches!(self.process, ShellProcess::Unseen)
            && let Err(error) = self.wait_for_process(TERMINAL_UNSEEN_PATIENCE)
        {
            log::warn!("task {}: a terminal's shell may be left behind: {error}", self.id);
            self.number.is_in_doubt = true;
        }
        if let ShellProcess::Seen(session) = &self.process {
            session.signal(&HANG_UP);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.hang_up();
        if let ShellProcess::Seen(session) = &self.process {
            end(&self.node, std::slice::from_ref(session));
        }
        metrics::TERMINALS.down();
        log::debug!("task {}: terminal {} has ended", self.id, self.number.get());
    }
}

impl ShellProcess {
    fn window(&self) -> io::Result<Window> {
        match self {
            ShellProcess::Seen(session) => Window::of(session.leader()),
            ShellProcess::Unseen | ShellProcess::Over => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Those who stopped are to hear it too.
pub(super) const HANG_UP: [Signal; 2] = [Signal::SIGHUP, Signal::SIGCONT];

/// Ends sessions that are hung up: what has not ended when its grace is over is killed.
pub(super) fn end(node: &Node, sessions: &[ProcessSession]) {
    // Asked anew each time: the runner may stop meanwhile.
    let of_stop = |at_stop, usual| if node.stop.is_raised() { at_stop } else { usual };
    let grace = || of_stop(TERMINAL_END_GRACE_AT_STOP, TERMINAL_END_GRACE);
    let patience = || of_stop(TERMINAL_KILL_PATIENCE_AT_STOP, TERMINAL_KILL_PATIENCE);
    let are_alive = || sessions.iter().any(ProcessSession::is_alive);
    let since = Instant::now();
    while since.elapsed() < grace() {
        if !are_alive() {
            return;
        }
        std::thread::sleep(TERMINAL_LOOK_AGAIN);
    }
    // Again and again: they may start others meanwhile.
    let since = Instant::now();
    while are_alive() {
        let kill =
            |found: bool, session: &ProcessSession| session.signal(&[Signal::SIGKILL]) || found;
        let has_found = sessions.iter().fold(false, kill);
        if since.elapsed() >= patience() {
            if has_found {
                log::warn!(
                    "processes of a terminal are not gone {:?} after their kill",
                    patience()
                );
            }
            return;
        }
        std::thread::sleep(TERMINAL_KILL_AGAIN);
    }
}

/// Whether the task is one to open a terminal in.
pub(super) fn check(node: &Node, id: TaskId) -> Result<(), OpError> {
    match node.tasks.find(id)?.phase {
        Phase::Running => Ok(()),
        _ => Err(OpError::NotRunning(id)),
    }
}

/// The first shell that is a program; looked for as root, for the Engine starts it.
fn find_shell(inside: &Inside) -> Option<&'static str> {
    let root = inside.root().ok()?;
    let is_program = |path: &&str| {
        let open = root.open(Path::new(path), OFlag::O_PATH, Mode::empty());
        let stat = open.and_then(|file| Ok(nix::sys::stat::fstat(&file)?));
        stat.is_ok_and(|stat| {
            stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_mode & 0o111 != 0
        })
    };
    SHELLS.into_iter().find(is_program)
}
