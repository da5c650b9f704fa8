//! Ends of containers, from one event stream on one thread (design D4). Called once, by `app`;
//! tells what it hears and never asks about a container: whoever is told decides that.
//!
//! A stream says nothing for days when nothing ends, so silence proves nothing. After
//! [`limits::ENGINE_EVENTS_SILENCE`] of it this thread probes the Engine; one that does not answer
//! hangs, and the stream is given up and opened again. A stream that ends by itself (the Engine
//! went away) is opened again after a growing pause.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

use super::ask::Ask;
use super::lines::{Line, Lines};
use super::names::filters;
use super::{DockerError, Engine};
use crate::stop::Stop;
use crate::wire::docker as wire;
use crate::{limits, metrics, threads};

/// What the event thread tells.
#[derive(Debug)]
pub enum EngineEvent {
    /// The subscription stands: every end from now on will be told. Ends before it were not, so
    /// list and reconcile, now and every time.
    Connected,
    /// The stream is gone; ends are missed until the next `Connected`.
    Lost { why: DockerError },
    /// A container with our label has ended.
    Ended {
        id: String,
        name: String,
        /// `None`: the Engine did not say it legibly; inspect. Not to be believed where the
        /// container or its image carries the label [`EXIT_CODE_LABEL`].
        exit_code: Option<i64>,
        at: DateTime<Utc>,
        /// Its labels, and `image`.
        labels: BTreeMap<String, String>,
    },
    /// The kernel killed a process of a container with our label for memory; the container may run on.
    OutOfMemory { name: String, labels: BTreeMap<String, String> },
}

/// A label of this name replaces the exit code in the Engine's event, so that any image can lie
/// about its end (seen with Engine 20.10). Look for it in [`super::Image::labels`].
pub const EXIT_CODE_LABEL: &str = "exitCode";

/// Starts the thread `engine-events`, which tells `on` of every end of a container that carries
/// `label` (`key` or `key=value`) until `stop` goes up. `on` must not block for long: events wait
/// in the socket meanwhile.
///
/// # Errors
/// The thread could not be started.
pub fn watch_ends(
    engine: &Engine,
    label: &str,
    stop: &Stop,
    mut on: impl FnMut(EngineEvent) + Send + 'static,
) -> io::Result<JoinHandle<Option<()>>> {
    let (engine, label, stop) = (engine.clone(), label.to_owned(), stop.clone());
    threads::spawn("engine-events", limits::STACK_BYTES, move || {
        let mut pause = limits::ENGINE_EVENTS_PAUSE_MIN;
        while !stop.is_raised() {
            let mut stood = false;
            let why = listen(&engine, &label, &stop, &mut |event| {
                stood |= matches!(event, EngineEvent::Connected);
                on(event);
            });
            if stop.is_raised() {
                break;
            }
            if stood {
                log::warn!("event stream lost: {why}");
                metrics::ENGINE_EVENTS_LOST.up();
                on(EngineEvent::Lost { why });
                pause = limits::ENGINE_EVENTS_PAUSE_MIN;
            } else {
                log::debug!("event stream not opened: {why}");
                pause = (pause * 2).min(limits::ENGINE_EVENTS_PAUSE_MAX);
            }
            stop.wait(pause);
        }
    })
}

const CALL: &str = "send events";

/// Opens the stream, tells what comes, and returns why it ended.
fn listen(
    engine: &Engine,
    label: &str,
    stop: &Stop,
    on: &mut dyn FnMut(EngineEvent),
) -> DockerError {
    let agent = engine.own_agent(limits::ENGINE_BUFFER_BYTES, None);
    let _hooked = {
        let agent = agent.clone();
        stop.while_held(move || agent.shutdown())
    };
    let mut stream =
        match engine.ask_for_stream(&agent, &question(label), limits::ENGINE_EVENTS_SILENCE) {
            Ok(body) => body.into_reader(),
            Err(why) => return why,
        };
    on(EngineEvent::Connected);
    let mut lines = Lines::default();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return ended(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => lines.feed(&piece[..bytes], |line| tell(line, on)),
            Err(error) => match ureq::Error::from(error) {
                ureq::Error::Timeout(_) => {
                    if let Err(why) = engine.probe() {
                        return why;
                    }
                }
                error => return ended(error.into_io()),
            },
        }
    }
}

fn ended(source: io::Error) -> DockerError {
    DockerError::Broken { call: CALL, source }
}

/// `since` is now: the Engine sends the answer's head just before it subscribes us, and would else
/// drop an end that falls between the two.
fn question(label: &str) -> Ask {
    let wanted =
        [("type", vec!["container"]), ("event", vec!["die", "oom"]), ("label", vec![label])];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let since = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
    Ask::get(CALL, format!("/events?since={since}&filters={}", filters(&wanted.into())))
}

fn tell(line: Line, on: &mut dyn FnMut(EngineEvent)) {
    match read(line) {
        Some(event) => {
            if matches!(event, EngineEvent::Ended { .. }) {
                metrics::ENGINE_ENDS.up();
            }
            on(event);
        }
        None => metrics::ENGINE_EVENTS_UNREAD.up(),
    }
}

fn read(line: Line) -> Option<EngineEvent> {
    let Line::Whole(line) = line else { return None };
    let event: wire::Event = serde_json::from_slice(line).ok()?;
    if event.kind != "container" {
        return None;
    }
    let mut labels = event.actor.attributes;
    match event.action.as_str() {
        "die" => {}
        "oom" => {
            let name = labels.remove("name").unwrap_or_default();
            return Some(EngineEvent::OutOfMemory { name, labels });
        }
        _ => return None,
    }
    Some(EngineEvent::Ended {
        id: event.actor.id,
        name: labels.remove("name").unwrap_or_default(),
        exit_code: labels.remove(EXIT_CODE_LABEL).and_then(|code| code.parse().ok()),
        at: DateTime::from_timestamp_nanos(event.time_nano),
        labels,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    const DIE: &str = r#"{"Type":"container","Action":"die","Actor":{"ID":"7","Attributes":
        {"name":"task","exitCode":"137","image":"i","a.b":"c"}},"timeNano":1795562572260662520}"#;

    #[test]
    fn a_die_event_becomes_an_end_with_code_time_and_labels() {
        let Some(EngineEvent::Ended { id, name, exit_code, at, labels }) =
            read(Line::Whole(DIE.as_bytes()))
        else {
            panic!("no end")
        };
        assert_eq!((id.as_str(), name.as_str(), exit_code), ("7", "task", Some(137)));
        assert_eq!(at.timestamp_nanos_opt(), Some(1_795_562_572_260_662_520));
        assert_eq!(labels.get("a.b").map(String::as_str), Some("c"));
    }

    #[test]
    fn an_end_without_a_legible_code_is_told_without_it() {
        let line = DIE.replace("137", "?");
        let end = read(Line::Whole(line.as_bytes())).unwrap();
        assert!(matches!(end, EngineEvent::Ended { exit_code: None, .. }));
    }

    #[test]
    fn an_oom_event_names_its_container() {
        let event = read(Line::Whole(DIE.replace("die", "oom").as_bytes()));
        let Some(EngineEvent::OutOfMemory { name, .. }) = event else { panic!("no such event") };
        assert_eq!(name, "task");
    }

    #[test]
    fn other_events_and_noise_are_no_ends() {
        let start = DIE.replace("\"die\"", "\"start\"");
        assert!(read(Line::Whole(start.as_bytes())).is_none());
        assert!(read(Line::Whole(b"{half")).is_none());
        assert!(read(Line::Overlong).is_none());
    }
}
