//! What the Engine remembers of its present life. It keeps its newest events in memory only: one
//! that was started after a container has never heard of that container's start. Asked by `ops`
//! about a container whose exit code the Engine's own stop may have made, and about no other.

use std::fs;

use chrono::{DateTime, Utc};

use super::ask::Ask;
use super::{DockerError, Engine};
use crate::limits::ENGINE_EVENTS_REMEMBERED;
use crate::wire::docker::Event;

/// Beside the socket, unless the Engine's administrator says otherwise.
const PID_FILE: &str = "docker.pid";

/// What the Engine's memory holds of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub start: bool,
    pub end: bool,
    /// It reaches back to the Engine's own start; else older events may have fallen out.
    pub is_whole: bool,
}

impl Memory {
    /// The Engine has seen nothing of the container in its present life.
    pub fn has_no_trace(self) -> bool {
        self.is_whole && !self.start && !self.end
    }
}

impl Engine {
    /// Asks for the memory on a new connection: an Engine that is stopping refuses it, so whatever
    /// answers knows whether the container has outlived an Engine. `container` is an id, `until` a
    /// moment that is past by the Engine's clock: the answer ends there.
    pub fn remembers(&self, container: &str, until: DateTime<Utc>) -> Result<Memory, DockerError> {
        const CALL: &str = "tell what it remembers";
        let until = format!("{}.{:09}", until.timestamp(), until.timestamp_subsec_nanos());
        // No filter: all are counted.
        let ask = Ask::get(CALL, format!("/events?since=0&until={until}"));
        Ok(read(&self.ask_anew(&ask)?.bytes()?, container))
    }

    /// When the Engine that answers now was started, at the latest: it makes its socket anew, or
    /// where systemd listens for it, its pid file. `None`: there is no such file to be seen.
    pub fn started(&self) -> Option<DateTime<Utc>> {
        let socket = self.socket();
        let files = [socket.to_owned(), socket.with_file_name(PID_FILE)];
        let made = |file| fs::symlink_metadata(file).and_then(|found| found.modified()).ok();
        files.into_iter().filter_map(made).max().map(DateTime::from)
    }
}

fn read(lines: &[u8], container: &str) -> Memory {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut memory = Memory { start: false, end: false, is_whole: false };
    let mut count = 0;
    for line in lines {
        count += 1;
        let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
        let is_its = event.kind == "container" && event.actor.id == container;
        memory.start |= is_its && event.action == "start";
        memory.end |= is_its && event.action == "die";
    }
    memory.is_whole = count < ENGINE_EVENTS_REMEMBERED;
    memory
}

#[cfg(test)]
mod test {
    use super::*;

    fn event(action: &str, id: &str) -> String {
        format!(
            "{{\"Type\":\"container\",\"Action\":\"{action}\",\"Actor\":{{\"ID\":\"{id}\"}},\
             \"timeNano\":1}}\n"
        )
    }

    #[test]
    fn memory_holds_the_start_and_end_of_the_container_itself_and_of_no_other() {
        let lines = event("start", "other") + &event("die", "other") + &event("start", "7");
        let memory = read(lines.as_bytes(), "7");
        assert_eq!(memory, Memory { start: true, end: false, is_whole: true });
    }

    #[test]
    fn memory_that_is_full_may_have_forgotten() {
        let lines = event("start", "other").repeat(ENGINE_EVENTS_REMEMBERED - 1);
        assert!(read(lines.as_bytes(), "7").is_whole);
        assert!(!read((lines + "{odd\n").as_bytes(), "7").is_whole);
    }

    #[test]
    fn container_without_a_trace_has_neither_started_nor_ended_and_nothing_is_forgotten() {
        let nothing = Memory { start: false, end: false, is_whole: true };
        assert!(nothing.has_no_trace());
        assert!(!Memory { start: true, ..nothing }.has_no_trace());
        assert!(!Memory { end: true, ..nothing }.has_no_trace());
        assert!(!Memory { is_whole: false, ..nothing }.has_no_trace());
    }
}
