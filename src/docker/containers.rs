//! Containers: create, start, signals, stop, freeze, remove, look at, list, the log's tail. Called
//! by `ops`. A container is always named, by its name or its id.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};

use super::ask::Ask;
use super::names::{checked_name, escaped, filters};
use super::{DockerError, Engine};
use crate::limits;
use crate::wire::docker as wire;
use crate::wire::docker_frames::{Frames, Output};

/// A container as the Engine has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    /// Without the Engine's leading slash.
    pub name: String,
    pub state: wire::ContainerState,
    /// True also while it is paused.
    pub running: bool,
    pub paused: bool,
    /// Of the last run; 0 before the first.
    pub exit_code: i64,
    /// The kernel killed a process of it for memory.
    pub oom_killed: bool,
    /// Why the last start failed.
    pub error: String,
    /// The first process as the host sees it, while there is one.
    pub pid: Option<i32>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// The reference it was made from.
    pub image: String,
    pub image_id: String,
    pub labels: BTreeMap<String, String>,
    pub user: String,
    pub tty: bool,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Its address in each network by the network's name, while it runs.
    pub addresses: BTreeMap<String, IpAddr>,
    /// `22/tcp` → where the host listens for it, while it runs.
    pub ports: BTreeMap<String, Vec<wire::PortBinding>>,
}

/// Whether a removal may kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A running container is a conflict.
    Ended,
    /// A running container is killed first.
    Forced,
}

/// What becomes of the anonymous volumes of a removed container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volumes {
    Keep,
    Remove,
}

/// The last bytes of what a container wrote to its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTail {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Engine {
    /// Creates a container called `name`.
    ///
    /// # Errors
    /// Conflict: the name is taken, possibly by this very call, whose first reply was lost.
    /// Missing: the image is not here.
    pub fn create_container(
        &self,
        name: &str,
        body: &wire::CreateContainer,
    ) -> Result<wire::Created, DockerError> {
        const CALL: &str = "create container";
        let name = checked_name(CALL, name)?;
        let ask = Ask::post(CALL, format!("/containers/create?name={name}"))
            .within(limits::ENGINE_START_DEADLINE)
            .json(body)?;
        self.ask(&ask)?.json()
    }

    /// Starts a container. One that runs already is no error.
    ///
    /// On a connection of its own: an Engine that is stopping still starts what the kept ones ask
    /// for, takes the file systems away under it, and forgets that it ran (seen with 20.10). And never
    /// made twice by itself: one whose reply was lost may have run and ended.
    ///
    /// # Errors
    /// Refused with 400 or 500: the runtime could not (no such executable, mount, device).
    pub fn start_container(&self, name: &str) -> Result<(), DockerError> {
        const CALL: &str = "start container";
        let name = checked_name(CALL, name)?;
        let ask = Ask::post(CALL, format!("/containers/{name}/start"));
        self.ask_anew(&ask.within(limits::ENGINE_START_DEADLINE))?.done();
        Ok(())
    }

    /// Sends `signal` (`KILL`, `TERM`, or a number).
    ///
    /// # Errors
    /// Conflict: it does not run.
    pub fn kill_container(&self, name: &str, signal: &str) -> Result<(), DockerError> {
        let verb = format!("/kill?signal={}", escaped(signal));
        self.act("kill container", name, &verb, limits::ENGINE_CALL_DEADLINE)
    }

    /// Sends the container's stop signal and, after `grace` (whole seconds), SIGKILL. Blocks until
    /// it has ended; one that has already is no error.
    pub fn stop_container(&self, name: &str, grace: Duration) -> Result<(), DockerError> {
        let verb = format!("/stop?t={}", grace.as_secs());
        self.act("stop container", name, &verb, grace + limits::ENGINE_STOP_SLACK)
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// Conflict: it does not run, or is frozen already.
    pub fn pause_container(&self, name: &str) -> Result<(), DockerError> {
        self.act("pause container", name, "/pause", limits::ENGINE_CALL_DEADLINE)
    }

    /// Thaws a container.
    ///
    /// # Errors
    /// Conflict (500 on Engines up to 20.10): it is not frozen.
    pub fn unpause_container(&self, name: &str) -> Result<(), DockerError> {
        self.act("unpause container", name, "/unpause", limits::ENGINE_CALL_DEADLINE)
    }

    /// Removes a container.
    ///
    /// # Errors
    /// Missing: it is gone. Conflict: it runs, or another removal is under way.
    pub fn remove_container(
        &self,
        name: &str,
        removal: Removal,
        volumes: Volumes,
    ) -> Result<(), DockerError> {
        const CALL: &str = "remove container";
        let name = checked_name(CALL, name)?;
        let force = removal == Removal::Forced;
        let v = volumes == Volumes::Remove;
        let ask = Ask::delete(CALL, format!("/containers/{name}?force={force}&v={v}"))
            .within(limits::ENGINE_START_DEADLINE);
        self.ask(&ask)?.done();
        Ok(())
    }

    /// Looks at one container.
    pub fn inspect_container(&self, name: &str) -> Result<Container, DockerError> {
        const CALL: &str = "inspect container";
        let name = checked_name(CALL, name)?;
        let inspect: wire::ContainerInspect =
            self.ask(&Ask::get(CALL, format!("/containers/{name}/json")))?.json()?;
        Ok(Container::from(inspect))
    }

    /// All containers, in whatever state, whose labels hold `label` (`key` or `key=value`).
    pub fn list_containers(&self, label: &str) -> Result<Vec<wire::ContainerSummary>, DockerError> {
        let wanted = filters(&[("label", vec![label])].into());
        let target = format!("/containers/json?all=true&filters={wanted}");
        self.ask(&Ask::get("list containers", target))?.json()
    }

    /// The newest of what the container's log holds, at most `bytes_max` of each output. Empty
    /// where its log driver cannot be read.
    pub fn container_log_tail(&self, name: &str, bytes_max: usize) -> Result<LogTail, DockerError> {
        const CALL: &str = "read the log of container";
        let name = checked_name(CALL, name)?;
        let lines = limits::ENGINE_LOG_LINES_MAX;
        let target = format!("/containers/{name}/logs?stdout=true&stderr=true&tail={lines}");
        let mut reply = match self.ask(&Ask::get(CALL, target)) {
            Ok(reply) => reply,
            // The log driver writes to where it cannot read.
            Err(DockerError::Refused { status: 501, .. }) => return Ok(LogTail::default()),
            Err(error) => return Err(error),
        };
        let (mut stdout, mut stderr) = (Tail::new(bytes_max), Tail::new(bytes_max));
        let mut frames = Frames::new();
        let mut piece = [0; 4096];
        loop {
            let read = reply.reader().read(&mut piece);
            let bytes = match read {
                Ok(0) => break,
                Ok(bytes) => bytes,
                Err(error) => return Err(reply.fault(error)),
            };
            let fed = frames.feed(&piece[..bytes], |output, run| match output {
                Output::Stdout => stdout.push(run),
                Output::Stderr | Output::Engine => stderr.push(run),
            });
            fed.map_err(|error| DockerError::Garbage { call: CALL, source: error.into() })?;
        }
        Ok(LogTail { stdout: stdout.into(), stderr: stderr.into() })
    }

    fn act(
        &self,
        call: &'static str,
        name: &str,
        verb: &str,
        deadline: Duration,
    ) -> Result<(), DockerError> {
        let name = checked_name(call, name)?;
        self.ask(&Ask::post(call, format!("/containers/{name}{verb}")).within(deadline))?.done();
        Ok(())
    }
}

/// The last bytes of a stream.
struct Tail {
    bytes: VecDeque<u8>,
    bytes_max: usize,
}

impl Tail {
    fn new(bytes_max: usize) -> Tail {
        Tail { bytes: VecDeque::new(), bytes_max }
    }

    fn push(&mut self, run: &[u8]) {
        let run = &run[run.len().saturating_sub(self.bytes_max)..];
        let surplus = (self.bytes.len() + run.len()).saturating_sub(self.bytes_max);
        self.bytes.drain(..surplus);
        self.bytes.extend(run);
    }
}

impl From<Tail> for Vec<u8> {
    fn from(tail: Tail) -> Vec<u8> {
        tail.bytes.into()
    }
}

impl From<wire::ContainerInspect> for Container {
    fn from(inspect: wire::ContainerInspect) -> Container {
        let wire::ContainerInspect { id, name, image, state, config, network_settings } = inspect;
        let networks = network_settings.networks.into_iter();
        let ports = network_settings.ports.into_iter();
        Container {
            id,
            name: name.trim_start_matches('/').to_owned(),
            state: state.status,
            running: state.running,
            paused: state.paused,
            exit_code: state.exit_code,
            oom_killed: state.oom_killed,
            error: state.error,
            pid: (state.pid > 0).then_some(state.pid),
            started_at: moment(&state.started_at),
            finished_at: moment(&state.finished_at),
            image: config.image,
            image_id: image,
            labels: config.labels,
            user: config.user,
            tty: config.tty,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            addresses: networks
                .filter_map(|(network, end)| Some((network, end.ip_address.parse().ok()?)))
                .collect(),
            ports: ports.filter_map(|(port, bindings)| Some((port, bindings?))).collect(),
        }
    }
}

/// The Engine's time, or none where it writes year 1.
pub(super) fn moment(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    (at.year() > 1).then_some(at)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_tail_keeps_the_newest_bytes() {
        let mut tail = Tail::new(4);
        tail.push(b"abc");
        tail.push(b"def");
        assert_eq!(Vec::from(tail), b"cdef");
    }

    #[test]
    fn a_run_longer_than_the_tail_leaves_its_own_end() {
        let mut tail = Tail::new(4);
        tail.push(b"abc");
        tail.push(b"0123456789");
        assert_eq!(Vec::from(tail), b"6789");
    }

    #[test]
    fn the_engines_year_one_is_no_time() {
        assert_eq!(moment("0001-01-01T00:00:00Z"), None);
        let at = moment("2026-11-24T23:22:52.21817274Z").unwrap();
        assert_eq!(at.timestamp_subsec_nanos(), 218_172_740);
    }
}
