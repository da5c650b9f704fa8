//! One request to the Engine and its answer: deadline, bound on calls in flight, API version,
//! accounting, and what to do when a kept connection has died. Every call of this room goes
//! through here. Never decides what an answer means beyond yes (2xx, 304) and no.
//!
//! A quick call whose connection ends before the answer's head is made once more, on another
//! connection. That is safe for every quick call there is, because each names what it is about:
//! GET and HEAD change nothing; a second create is 409 and a second start 304, answers the caller
//! has to know anyway (design law 3); a second remove is 404, pause or unpause 409, stop 304, tag
//! the same tag. Only a second kill can be felt: the process may get the signal twice.

use std::error::Error;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, AsSendBody, Body, SendBody};

use super::error::cut_said;
use super::health::{Agreement, ApiVersion};
use super::socket::{ConnectFailed, EngineConnector, NoResolver};
use super::{DockerError, Engine, Inner};
use crate::stop::Stop;
use crate::wire::docker as wire;
use crate::{limits, metrics};

/// A request, described. `call` names it for errors and logs, in the Engine's verbs.
#[derive(Debug)]
pub(super) struct Ask {
    pub call: &'static str,
    method: Method,
    /// Path and query below the API version.
    target: String,
    body: Vec<u8>,
    content_type: Option<&'static str>,
    deadline: Duration,
}

impl Ask {
    pub fn get(call: &'static str, target: String) -> Ask {
        Ask::new(call, Method::GET, target)
    }

    pub fn head(call: &'static str, target: String) -> Ask {
        Ask::new(call, Method::HEAD, target)
    }

    pub fn post(call: &'static str, target: String) -> Ask {
        Ask::new(call, Method::POST, target)
    }

    pub fn delete(call: &'static str, target: String) -> Ask {
        Ask::new(call, Method::DELETE, target)
    }

    fn new(call: &'static str, method: Method, target: String) -> Ask {
        let deadline = limits::ENGINE_CALL_DEADLINE;
        Ask { call, method, target, body: Vec::new(), content_type: None, deadline }
    }

    /// With another deadline than the quick one.
    pub fn within(self, deadline: Duration) -> Ask {
        Ask { deadline, ..self }
    }

    /// With a JSON body.
    pub fn json(self, body: &impl Serialize) -> Result<Ask, DockerError> {
        match serde_json::to_vec(body) {
            Ok(body) => Ok(Ask { body, content_type: Some("application/json"), ..self }),
            Err(error) => Err(DockerError::Garbage { call: self.call, source: error.into() }),
        }
    }

    /// With a tar archive as the body, which the call's `Upload` brings.
    pub fn tar(self) -> Ask {
        Ask { content_type: Some("application/x-tar"), ..self }
    }
}

/// A body that goes up while the call runs, and the flag that says nobody wants it any more.
pub(super) struct Upload<'a> {
    pub bytes: &'a mut dyn Read,
    pub unwanted: Arc<AtomicBool>,
}

/// A yes from the Engine: status 2xx or 304, the body still unread.
#[derive(Debug)]
pub(super) struct Reply {
    call: &'static str,
    deadline: Duration,
    engine: Engine,
    response: Response<Body>,
    _turn: Turn,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The whole body as `T`.
    pub fn json<T: DeserializeOwned>(mut self) -> Result<T, DockerError> {
        let mut body = Vec::new();
        let reader = &mut self.response.body_mut().with_config().limit(REPLY_BYTES_MAX).reader();
        let read = reader.read_to_end(&mut body);
        read.map_err(|error| self.fault(error))?;
        serde_json::from_slice(&body)
            .map_err(|error| DockerError::Garbage { call: self.call, source: error.into() })
    }

    /// The answer was the status. The body is read all the same: unread it costs the connection.
    pub fn done(mut self) {
        let reader = self.response.body_mut().with_config().limit(REPLY_BYTES_MAX).reader();
        let _ = io::copy(&mut { reader }, &mut io::sink());
    }

    /// The body as it comes, without a bound: for callers that keep little of it.
    pub fn reader(&mut self) -> impl Read {
        self.response.body_mut().with_config().reader()
    }

    /// What an error of [`Reply::reader`] means.
    pub fn fault(&self, error: io::Error) -> DockerError {
        self.engine.fault(self.call, self.deadline, ureq::Error::from(error))
    }
}

const REPLY_BYTES_MAX: u64 = limits::ENGINE_REPLY_BYTES_MAX as u64;

/// A place among the calls in flight. Its life is the call's time.
#[derive(Debug)]
struct Turn {
    inner: Arc<Inner>,
    class: Class,
    started: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Class {
    Quick,
    Patient,
    /// One at a time by nature, and wanted most when all other places are taken.
    Probe,
}

impl Turn {
    fn take(engine: &Engine, class: Class, call: &'static str) -> Result<Turn, DockerError> {
        let turn = Turn { inner: Arc::clone(&engine.inner), class, started: Instant::now() };
        let taken = turn.places().fetch_add(1, Ordering::Relaxed);
        metrics::ENGINE_CALLS_IN_FLIGHT.up();
        // A refused turn is dropped here and gives its place back.
        if taken >= turn.places_max() {
            metrics::ENGINE_CALLS_BUSY.up();
            return Err(DockerError::Busy { call });
        }
        metrics::ENGINE_CALLS.up();
        Ok(turn)
    }

    fn places(&self) -> &AtomicUsize {
        match self.class {
            Class::Quick => &self.inner.quick_calls,
            Class::Patient => &self.inner.patient_calls,
            Class::Probe => &self.inner.probes,
        }
    }

    fn places_max(&self) -> usize {
        match self.class {
            Class::Quick => limits::ENGINE_QUICK_CALLS_MAX,
            Class::Patient => limits::ENGINE_PATIENT_CALLS_MAX,
            Class::Probe => limits::ENGINE_PROBES_MAX,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.places().fetch_sub(1, Ordering::Relaxed);
        metrics::ENGINE_CALLS_IN_FLIGHT.down();
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        metrics::ENGINE_CALL_MICROSECONDS.add(micros);
    }
}

impl Engine {
    /// Makes a quick call.
    pub(super) fn ask(&self, ask: &Ask) -> Result<Reply, DockerError> {
        let turn = Turn::take(self, Class::Quick, ask.call)?;
        let until = turn.started + ask.deadline;
        let mut answer = self.try_quick(ask, until);
        if matches!(answer, Err(DockerError::Broken { .. })) {
            metrics::ENGINE_CALLS_REPEATED.up();
            answer = self.try_quick(ask, until);
        }
        self.judge(ask, answer, turn)
    }

    /// Makes a call that may take minutes, on a connection of its own that `stop` shuts down, and
    /// hands the answer to `read`. Never made twice.
    pub(super) fn ask_patiently<T>(
        &self,
        ask: &Ask,
        upload: Option<Upload>,
        stop: &Stop,
        read: impl FnOnce(Reply) -> Result<T, DockerError>,
    ) -> Result<T, DockerError> {
        let turn = Turn::take(self, Class::Patient, ask.call)?;
        let until = turn.started + ask.deadline;
        let unwanted = upload.as_ref().map(|upload| Arc::clone(&upload.unwanted));
        let agent = self.own_agent(unwanted);
        let _hooked = {
            let agent = agent.clone();
            stop.while_held(move || agent.shutdown())
        };
        let attempt = || {
            let target = self.versioned(ask, until)?;
            let left = self.left(ask, until)?;
            match upload {
                None => self.send_own_body(&agent, ask, &target, left),
                Some(upload) => {
                    self.send(&agent, ask, &target, left, SendBody::from_reader(upload.bytes))
                }
            }
        };
        let answer = attempt();
        self.judge(ask, answer, turn).and_then(read).map_err(|error| match error {
            // The shutdown looks like a broken connection from inside the call.
            _ if stop.is_raised() => DockerError::Stopped { call: ask.call },
            error => error,
        })
    }

    /// Opens an answer that has no end, on `agent`'s own connection. Not counted among the calls.
    pub(super) fn ask_for_stream(&self, agent: &Agent, ask: &Ask) -> Result<Body, DockerError> {
        let until = Instant::now() + ask.deadline;
        let uri = format!("{BASE}{}", self.versioned(ask, until)?);
        let request = Request::builder().method(ask.method.clone()).uri(uri).body(());
        let request = request.map_err(|_| DockerError::BadName { call: ask.call })?;
        let request = agent
            .configure_request(request)
            .timeout_send_request(Some(ask.deadline))
            .timeout_recv_response(Some(ask.deadline))
            .timeout_per_read(Some(limits::ENGINE_EVENTS_SILENCE))
            .build();
        let started = Instant::now();
        let answer = agent.run(request);
        let answer = answer.map_err(|error| self.fault(ask.call, ask.deadline, error));
        self.note(started, &answer);
        let mut response = answer?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(refusal(ask.call, &mut response))
    }

    /// Asks for a sign of life (design law 5): what a loop does now and then, and whoever wonders
    /// whether a silent Engine still lives. Within [`limits::ENGINE_PROBE_DEADLINE`].
    ///
    /// # Errors
    /// There was none.
    pub fn probe(&self) -> Result<(), DockerError> {
        let ask = Ask::get("probe", "/_ping".to_owned()).within(limits::ENGINE_PROBE_DEADLINE);
        let turn = Turn::take(self, Class::Probe, ask.call)?;
        let until = turn.started + ask.deadline;
        let answer =
            self.send(&self.inner.agent, &ask, &ask.target, ask.deadline, SendBody::none());
        let reply = self.judge(&ask, answer, turn)?;
        if let Some(agreement) = &self.seen().agreement
            && reply.header("Api-Version").is_some_and(|api| api == agreement.api_newest)
        {
            reply.done();
            return Ok(());
        }
        reply.done();
        self.agree(&ask, until).map(drop)
    }

    /// An agent that shares no connection with anyone, for calls that are ended by `shutdown`.
    pub(super) fn own_agent(&self, body_unwanted: Option<Arc<AtomicBool>>) -> Agent {
        agent(EngineConnector {
            socket: self.inner.socket.clone(),
            buffer_bytes: limits::ENGINE_PATIENT_BUFFER_BYTES,
            body_unwanted,
        })
    }

    fn try_quick(&self, ask: &Ask, until: Instant) -> Result<Response<Body>, DockerError> {
        let target = self.versioned(ask, until)?;
        let left = self.left(ask, until)?;
        self.send_own_body(&self.inner.agent, ask, &target, left)
    }

    /// The target below the version agreed on; asks for the Engine's version where none is known.
    fn versioned(&self, ask: &Ask, until: Instant) -> Result<String, DockerError> {
        let known = self.seen().agreement.as_ref().map(|agreement| agreement.api);
        let api = match known {
            Some(api) => api,
            None => self.agree(ask, until)?,
        };
        Ok(format!("/v{api}{}", ask.target))
    }

    fn agree(&self, ask: &Ask, until: Instant) -> Result<ApiVersion, DockerError> {
        let started = Instant::now();
        let question = Ask::get(ask.call, "/version".to_owned()).within(ask.deadline);
        let left = self.left(ask, until)?;
        let answer =
            self.send(&self.inner.agent, &question, &question.target, left, SendBody::none());
        self.note(started, &answer);
        let mut response = answer?;
        if !response.status().is_success() {
            return Err(refusal(ask.call, &mut response));
        }
        let body = response.body_mut().with_config().limit(REPLY_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| self.fault(ask.call, ask.deadline, error))?;
        let garbage = |source| DockerError::Garbage { call: ask.call, source };
        let theirs: wire::Version =
            serde_json::from_slice(&body).map_err(|error| garbage(error.into()))?;
        let newest: ApiVersion =
            theirs.api_version.parse().map_err(|error| garbage(Box::new(error) as _))?;
        // Engines before 1.25 do not say; they are as old as they are new.
        let oldest = theirs.min_api_version.parse().unwrap_or(newest);
        let Some(api) = ApiVersion::meet(oldest, newest) else {
            return Err(DockerError::Foreign {
                api_min: theirs.min_api_version,
                api_max: theirs.api_version,
            });
        };
        self.seen().agreement =
            Some(Agreement { version: theirs.version, api, api_newest: theirs.api_version });
        Ok(api)
    }

    fn send_own_body(
        &self,
        agent: &Agent,
        ask: &Ask,
        target: &str,
        left: Duration,
    ) -> Result<Response<Body>, DockerError> {
        if ask.method == Method::POST {
            // Also when it is empty: without a length ureq would send it chunked, and the Engine
            // refuses to start a container with a body of unknown length.
            self.send(agent, ask, target, left, &ask.body)
        } else {
            self.send(agent, ask, target, left, SendBody::none())
        }
    }

    fn send(
        &self,
        agent: &Agent,
        ask: &Ask,
        target: &str,
        left: Duration,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, DockerError> {
        let mut request =
            Request::builder().method(ask.method.clone()).uri(format!("{BASE}{target}"));
        if let Some(content_type) = ask.content_type {
            request = request.header("Content-Type", content_type);
        }
        let request = request.body(body).map_err(|_| DockerError::BadName { call: ask.call })?;
        let request = agent.configure_request(request).timeout_global(Some(left)).build();
        agent.run(request).map_err(|error| self.fault(ask.call, ask.deadline, error))
    }

    fn left(&self, ask: &Ask, until: Instant) -> Result<Duration, DockerError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DockerError::TimedOut { call: ask.call, after: ask.deadline });
        }
        Ok(left)
    }

    fn judge(
        &self,
        ask: &Ask,
        answer: Result<Response<Body>, DockerError>,
        turn: Turn,
    ) -> Result<Reply, DockerError> {
        self.note(turn.started, &answer);
        let mut response = answer.inspect_err(|error| {
            log::debug!("{}: {error}: {:?}", ask.call, error.source());
        })?;
        if !response.status().is_success() && response.status() != 304 {
            return Err(refusal(ask.call, &mut response));
        }
        let Ask { call, deadline, .. } = *ask;
        Ok(Reply { call, deadline, engine: self.clone(), response, _turn: turn })
    }

    /// Remembers what the call says about the Engine.
    fn note(&self, started: Instant, answer: &Result<Response<Body>, DockerError>) {
        let mut seen = self.seen();
        match answer {
            Ok(_) => return seen.answered(),
            Err(DockerError::Connect { source, .. }) => seen.unreachable(source.kind()),
            Err(DockerError::TimedOut { .. }) => seen.timed_out(started),
            Err(DockerError::Broken { .. }) => seen.broken(),
            Err(_) => {}
        }
        metrics::ENGINE_CALL_FAULTS.up();
    }

    fn fault(&self, call: &'static str, after: Duration, error: ureq::Error) -> DockerError {
        match error {
            ureq::Error::Timeout(_) => DockerError::TimedOut { call, after },
            ureq::Error::BodyExceedsLimit(limit) => DockerError::TooLarge {
                call,
                bytes_max: usize::try_from(limit).unwrap_or(usize::MAX),
            },
            ureq::Error::Io(source) => DockerError::Broken { call, source },
            ureq::Error::Other(other) => match other.downcast::<ConnectFailed>() {
                Ok(failed) => {
                    DockerError::Connect { socket: self.inner.socket.clone(), source: failed.0 }
                }
                Err(source) => DockerError::Garbage { call, source },
            },
            error => DockerError::Garbage { call, source: Box::new(error) },
        }
    }
}

const BASE: &str = "http://docker";

/// The agent of one connector. Deadlines are given by each request.
pub(super) fn agent(connector: EngineConnector) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("river-runner/", env!("CARGO_PKG_VERSION")))
        .input_buffer_size(connector.buffer_bytes)
        .output_buffer_size(connector.buffer_bytes)
        .max_response_header_size(limits::ENGINE_HEAD_BYTES_MAX)
        .max_idle_connections(limits::ENGINE_IDLE_CONNECTIONS_MAX)
        .max_idle_connections_per_host(limits::ENGINE_IDLE_CONNECTIONS_MAX)
        .max_idle_age(limits::ENGINE_IDLE_AGE)
        .build();
    Agent::with_parts(config, connector, NoResolver)
}

/// The Engine's no, with its text.
fn refusal(call: &'static str, response: &mut Response<Body>) -> DockerError {
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let _ = response.body_mut().as_reader().take(REFUSAL_BYTES_MAX).read_to_end(&mut body);
    let said = match serde_json::from_slice::<wire::Refusal>(&body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    DockerError::Refused { call, status, said: cut_said(said) }
}

/// JSON escapes can make the text six times as long.
const REFUSAL_BYTES_MAX: u64 = 6 * limits::ENGINE_SAID_BYTES_MAX as u64;

/// `value` for a query string.
pub(super) fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `filters=` as the Engine wants it.
pub(super) fn filters(wanted: &wire::Filters) -> String {
    // A map of strings always has a JSON form.
    escaped(&serde_json::to_string(wanted).unwrap_or_default())
}

/// Container, network or their ids: Docker's own grammar, so that no name can leave its place in
/// a path.
pub(super) fn checked_name<'a>(call: &'static str, name: &'a str) -> Result<&'a str, DockerError> {
    let head = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let tail = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if head && name.bytes().all(tail) { Ok(name) } else { Err(DockerError::BadName { call }) }
}

/// An image's reference or id: names with slashes, tag, digest, none of them empty or dots only.
pub(super) fn checked_reference<'a>(
    call: &'static str,
    reference: &'a str,
) -> Result<&'a str, DockerError> {
    let word = |word: &str| {
        word.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && word.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':' | b'@')
            })
    };
    if reference.split('/').all(word) { Ok(reference) } else { Err(DockerError::BadName { call }) }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_query_value_is_escaped_byte_by_byte() {
        assert_eq!(escaped("{\"a\":[\"ä b&c\"]}"), "%7B%22a%22:%5B%22%C3%A4%20b%26c%22%5D%7D");
    }

    #[test]
    fn names_that_could_leave_their_place_in_a_path_are_refused() {
        assert!(checked_name("test", "kohakuriver-task-7").is_ok());
        assert!(checked_name("test", "").is_err());
        assert!(checked_name("test", "..").is_err());
        assert!(checked_name("test", "a/../b").is_err());
        assert!(checked_name("test", "a?force=1").is_err());
        assert!(checked_name("test", "a%2fb").is_err());
    }

    #[test]
    fn references_with_registry_tag_and_digest_pass() {
        assert!(checked_reference("test", "127.0.0.1:5000/a_b/c:1.0").is_ok());
        assert!(checked_reference("test", "busybox@sha256:00ff").is_ok());
        assert!(checked_reference("test", "sha256:00ff").is_ok());
    }

    #[test]
    fn references_that_are_options_or_climb_are_refused() {
        assert!(checked_reference("test", "--privileged").is_err());
        assert!(checked_reference("test", "a/../../containers").is_err());
        assert!(checked_reference("test", "a//b").is_err());
        assert!(checked_reference("test", "a b").is_err());
        assert!(checked_reference("test", "").is_err());
    }
}
