//! One request to the Engine and its answer: deadline, bound on calls in flight, API version,
//! accounting, and what to do when a kept connection has died. Every call of this room goes
//! through here. Never decides what an answer means beyond yes (2xx, 304) and no.
//!
//! A quick call whose connection ends before the answer's head is made once more, on another
//! connection. That is safe because each names what it is about: GET and HEAD change nothing; a
//! second create is 409, an answer the caller has to know anyway (design law 3); a second remove is
//! 404, pause or unpause 409, stop 304, tag the same tag. Only a second kill can be felt: the process
//! may get the signal twice. A start is never made again here: one whose answer was lost may have
//! run and ended, so its caller looks first ([`Engine::start_container`]).

use std::error::Error;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, AsSendBody, Body, SendBody};

use super::ask::{Ask, Upload};
use super::error::cut_said;
use super::health::{Agreement, ApiVersion};
use super::socket::{ConnectFailed, EngineConnector, NoResolver};
use super::turn::{Class, Turn};
use super::{DockerError, Engine};
use crate::stop::Stop;
use crate::wire::docker as wire;
use crate::{limits, metrics};

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
    pub fn json<T: DeserializeOwned>(self) -> Result<T, DockerError> {
        let call = self.call;
        serde_json::from_slice(&self.bytes()?)
            .map_err(|error| DockerError::Garbage { call, source: error.into() })
    }

    /// The whole body.
    pub fn bytes(mut self) -> Result<Vec<u8>, DockerError> {
        let mut body = Vec::new();
        let reader = &mut self.response.body_mut().with_config().limit(REPLY_BYTES_MAX).reader();
        let read = reader.read_to_end(&mut body);
        read.map_err(|error| self.fault(error))?;
        Ok(body)
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

impl Engine {
    /// Makes a quick call.
    pub(super) fn ask(&self, ask: &Ask) -> Result<Reply, DockerError> {
        let turn = Turn::take(self, Class::Quick, ask.call)?;
        let until = turn.started + ask.deadline;
        let mut answer = self.try_quick(ask, until);
        if matches!(answer, Err(DockerError::Broken { .. })) {
            metrics::ENGINE_CALLS_REPEATED.up();
            self.seen().broken();
            answer = self.try_quick(ask, until);
        }
        self.judge(ask, answer, turn)
    }

    /// Makes a quick call on a connection of its own. An Engine on its way out takes no new
    /// connection, while the kept ones still get answers: what this call is told, it is told by one
    /// that is there to stay.
    pub(super) fn ask_anew(&self, ask: &Ask) -> Result<Reply, DockerError> {
        let turn = Turn::take(self, Class::Quick, ask.call)?;
        let agent = self.own_agent(limits::ENGINE_BUFFER_BYTES, None);
        let until = turn.started + ask.deadline;
        let answer = self.versioned(&agent, ask, until).and_then(|target| {
            let left = self.left(ask, until)?;
            self.send_own_body(&agent, ask, &target, left)
        });
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
        let agent = self.own_agent(limits::ENGINE_PATIENT_BUFFER_BYTES, unwanted);
        let _hooked = {
            let agent = agent.clone();
            stop.while_held(move || agent.shutdown())
        };
        let attempt = || {
            let target = self.versioned(&agent, ask, until)?;
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

    /// Opens an answer that has no end, on `agent`'s own connection. A read of it that takes longer
    /// than `silence` is an error of ureq's, after which reading may go on. Not counted among the
    /// calls.
    pub(super) fn ask_for_stream(
        &self,
        agent: &Agent,
        ask: &Ask,
        silence: Duration,
    ) -> Result<Body, DockerError> {
        let started = Instant::now();
        let open = || {
            let target = self.versioned(agent, ask, started + ask.deadline)?;
            let request = Request::builder().method(ask.method.clone());
            let request = request.uri(format!("{BASE}{target}")).body(());
            let request = request.map_err(|_| DockerError::BadName { call: ask.call })?;
            let request = agent
                .configure_request(request)
                .timeout_send_request(Some(ask.deadline))
                .timeout_recv_response(Some(ask.deadline))
                .timeout_per_read(Some(silence))
                .build();
            agent.run(request).map_err(|error| self.fault(ask.call, ask.deadline, error))
        };
        let answer = open();
        self.note(started, &answer);
        let mut response = answer?;
        if !response.status().is_success() {
            return Err(refusal(ask.call, &mut response));
        }
        Ok(response.into_body())
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
        self.judge(&ask, answer, turn)?.done();
        self.versioned(&self.inner.agent, &ask, until).map(drop)
    }

    /// An agent that shares no connection with anyone, for calls that are ended by `shutdown`.
    pub(super) fn own_agent(
        &self,
        buffer_bytes: usize,
        body_unwanted: Option<Arc<AtomicBool>>,
    ) -> Agent {
        agent(EngineConnector { socket: self.inner.socket.clone(), buffer_bytes, body_unwanted })
    }

    fn try_quick(&self, ask: &Ask, until: Instant) -> Result<Response<Body>, DockerError> {
        let target = self.versioned(&self.inner.agent, ask, until)?;
        let left = self.left(ask, until)?;
        self.send_own_body(&self.inner.agent, ask, &target, left)
    }

    /// The target below the version agreed on; asks for the Engine's version where none is known.
    pub(super) fn versioned(
        &self,
        agent: &Agent,
        ask: &Ask,
        until: Instant,
    ) -> Result<String, DockerError> {
        let known = self.seen().agreement.as_ref().map(|agreement| agreement.api);
        let api = match known {
            Some(api) => api,
            None => self.agree(agent, ask, until)?,
        };
        Ok(format!("/v{api}{}", ask.target))
    }

    fn agree(&self, agent: &Agent, ask: &Ask, until: Instant) -> Result<ApiVersion, DockerError> {
        let question = Ask::get(ask.call, "/version".to_owned()).within(ask.deadline);
        let left = self.left(ask, until)?;
        let mut response = self.send(agent, &question, &question.target, left, SendBody::none())?;
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

    pub(super) fn left(&self, ask: &Ask, until: Instant) -> Result<Duration, DockerError> {
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
            Ok(response) => {
                let api = response.headers().get("Api-Version");
                return seen.answered(api.and_then(|api| api.to_str().ok()));
            }
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
