//! A terminal in a task's container: the shell that is there, started by the Engine, and its end with
//! everything it has started (design D9). Called by `api::terminal`, on the session's own thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::files_thread::on_files_thread;
use super::inside::{self, Inside};
use super::{Node, OpError};
pub use crate::docker::WindowSize;
use crate::docker::{DockerError, Hijack};
use crate::lanes::Pool;
use crate::limits::{TERMINAL_END_GRACE, TERMINAL_LOOK_AGAIN, TERMINAL_START_PATIENCE};
use crate::machine::process_session;
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::threads::lock;

/// Tried in this order.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// A shell with a terminal. Dropping it ends the shell and all of its session.
#[derive(Debug)]
pub struct Terminal {
    node: Arc<Node>,
    inside: Arc<Inside>,
    exec: String,
    stream: Hijack,
    /// The shell, which leads the session; `None` if it ended before it was seen.
    leader: Option<i32>,
    /// The size that the next call will set; a call is under way or due while it is there.
    wanted_size: Arc<Mutex<Option<WindowSize>>>,
}

/// Opens one.
///
/// # Errors
/// The task does not run or is paused, its image has no shell, or the Engine refuses.
pub fn open(node: &Arc<Node>, id: TaskId) -> Result<Terminal, OpError> {
    if node.tasks.find(id)?.phase == Phase::Paused {
        return Err(OpError::NotRunning(id));
    }
    let inside = inside::enter(node, id)?;
    let there = Arc::clone(&inside);
    let shell = on_files_thread(node, move || find_shell(&there))?;
    let shell = shell.ok_or(OpError::NoShell(id))?;
    let environment = ["TERM=xterm-256color".to_owned(), mark(node)];
    let create = || node.engine.create_terminal_exec(&inside.container, &[shell], &environment);
    let not_running = |error: DockerError| match error.is_missing() {
        true => OpError::NotRunning(id),
        false => error.into(),
    };
    let exec = create().map_err(not_running)?;
    let stream = node.engine.start_exec(&exec).map_err(not_running)?;
    let leader = wait_for_leader(node, &exec)?;
    let (node, wanted_size) = (Arc::clone(node), Arc::default());
    Ok(Terminal { node, inside, exec, stream, leader, wanted_size })
}

/// What tells our shells from others' in their environment.
fn mark(node: &Node) -> String {
    format!("RIVER_TERMINAL={}", node.settings.node_id)
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

fn wait_for_leader(node: &Node, exec: &str) -> Result<Option<i32>, OpError> {
    let until = Instant::now() + TERMINAL_START_PATIENCE;
    loop {
        let seen = node.engine.inspect_exec(exec)?;
        if seen.pid.is_some() || seen.exit_code.is_some() || Instant::now() >= until {
            return Ok(seen.pid);
        }
        std::thread::sleep(TERMINAL_LOOK_AGAIN);
    }
}

impl Terminal {
    /// Sets the window's size, soon: of several only the last.
    pub fn resize(&self, size: WindowSize) {
        if lock(&self.wanted_size).replace(size).is_some() {
            return;
        }
        let (node, exec) = (Arc::clone(&self.node), self.exec.clone());
        let wanted = Arc::clone(&self.wanted_size);
        let work = Box::new(move || {
            loop {
                let Some(size) = *lock(&wanted) else { return };
                // It has ended; its size is nobody's concern.
                let _ = node.engine.resize_exec(&exec, size);
                let mut wanted = lock(&wanted);
                if *wanted == Some(size) {
                    *wanted = None;
                    return;
                }
            }
        });
        if self.node.lanes.submit(Pool::Patient, work).is_err() {
            *lock(&self.wanted_size) = None;
        }
    }

    /// Output is here that no poll tells of.
    pub fn has_early(&self) -> bool {
        self.stream.has_early()
    }
}

impl Read for Terminal {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into)
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Terminal {
    /// As when a terminal's line breaks: hang-up, and for those that stay a kill.
    fn drop(&mut self) {
        self.stream.shut();
        let Some(leader) = self.leader else { return };
        let members = || process_session::members(leader, &self.inside.container);
        for process in members() {
            // Failing means that it has ended.
            let _ = process.signal(Signal::SIGHUP);
            let _ = process.signal(Signal::SIGCONT);
        }
        let until = Instant::now() + TERMINAL_END_GRACE;
        while Instant::now() < until && !members().is_empty() {
            std::thread::sleep(TERMINAL_LOOK_AGAIN);
        }
        for process in members() {
            let _ = process.signal(Signal::SIGKILL);
        }
    }
}
