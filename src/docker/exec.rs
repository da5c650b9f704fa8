//! Processes that the Engine starts in a running container: create, and look at. Called by
//! `ops`. Their streams are `hijack`'s.

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
        let ask = Ask::post(CALL, format!("/containers/{container}/exec"))
            .within(limits::TERMINAL_OPEN_DEADLINE)
            .json(&body)?;
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
}
