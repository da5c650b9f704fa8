//! Processes that the Engine starts in a running container: create, look at, set the size of their
//! terminal. Called by `ops`. Their streams are `hijack`'s.

use std::time::{Duration, Instant};

use super::ask::Ask;
use super::names::checked_name;
use super::{DockerError, Engine};
use crate::limits;
use crate::wire::docker as wire;

/// An exec as the Engine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exec {
    pub running: bool,
    /// Its process as the host sees it, from the moment it runs; kept by the Engine after its end, so
    /// by itself it names nobody.
    pub pid: Option<i32>,
    /// Of an ended one.
    pub exit_code: Option<i64>,
}

/// Rows and columns of a terminal, none of them zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    pub rows: u16,
    pub cols: u16,
}

impl Engine {
    /// Makes an exec of `command` with a terminal in `container`, and returns its id. Nothing runs
    /// before [`Engine::start_exec`]; one that is never started goes with its container.
    ///
    /// # Errors
    /// Missing: no such container. Conflict: it does not run, or is paused.
    pub fn create_terminal_exec(
        &self,
        container: &str,
        command: &[&str],
        environment: &[String],
    ) -> Result<String, DockerError> {
        const CALL: &str = "create exec";
        let container = checked_name(CALL, container)?;
        let body = wire::CreateExec {
            attach_stdin: true,
            attach_stdout: true,
            attach_stderr: true,
            tty: true,
            env: environment,
            cmd: command,
        };
        let ask = Ask::post(CALL, format!("/containers/{container}/exec")).json(&body)?;
        let created: wire::CreatedExec = self.ask(&ask)?.json()?;
        Ok(created.id)
    }

    /// Looks at an exec.
    ///
    /// # Errors
    /// Missing: the Engine has forgotten it, as it does some minutes after its end.
    pub fn inspect_exec(&self, id: &str) -> Result<Exec, DockerError> {
        const CALL: &str = "inspect exec";
        let id = checked_name(CALL, id)?;
        let inspect: wire::ExecInspect =
            self.ask(&Ask::get(CALL, format!("/exec/{id}/json")))?.json()?;
        let wire::ExecInspect { running, pid, exit_code } = inspect;
        Ok(Exec { running, pid: (pid > 0).then_some(pid), exit_code })
    }

    /// Sets the size of an exec's terminal. An Engine refuses that until the process runs, a moment
    /// after the start's answer: it is asked again within [`limits::TERMINAL_START_PATIENCE`].
    ///
    /// # Errors
    /// Missing or refused: it has ended.
    pub fn resize_exec(&self, id: &str, size: WindowSize) -> Result<(), DockerError> {
        const CALL: &str = "resize exec";
        let id = checked_name(CALL, id)?;
        let WindowSize { rows, cols } = size;
        let until = Instant::now() + limits::TERMINAL_START_PATIENCE;
        loop {
            let ask = Ask::post(CALL, format!("/exec/{id}/resize?h={rows}&w={cols}"));
            match self.ask(&ask) {
                Ok(reply) => {
                    reply.done();
                    return Ok(());
                }
                Err(error @ DockerError::Refused { .. })
                    if !error.is_missing() && Instant::now() < until =>
                {
                    std::thread::sleep(RESIZE_AGAIN);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A process is there a few milliseconds after its start was answered.
const RESIZE_AGAIN: Duration = Duration::from_millis(10);
