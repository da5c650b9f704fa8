//! The cluster host: the three calls of contract section 3, each with a deadline, and what their
//! answers say about the host. Called by the heartbeat loop and the outbox.

pub mod contact;
pub mod names;
pub mod outbox;

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::limits::{
    HOST_ANSWER_BYTES_MAX, HOST_BEAT_DEADLINE, HOST_IDLE_AGE, HOST_REGISTER_DEADLINE,
    HOST_UPDATE_DEADLINE,
};
use crate::metrics;
use crate::wire::host::{Answer, Heartbeat, Register, UPDATE_REFUSED, Update};
use contact::Contact;
use names::{HostNames, KnownAddresses};

/// The host at one address. Cheap calls share one kept-alive connection per thread that calls.
#[derive(Debug)]
pub struct Host {
    agent: ureq::Agent,
    base: String,
    pub contact: Contact,
    pub names: Arc<HostNames>,
}

/// What the host said to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    Acknowledged,
    /// 404: the host does not know this node; register again (contract 3.2).
    Unknown,
}

/// What the host said to a status report. All three end the report's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    /// The host has finished the task, or never knew it (contract 3.3).
    Refused,
    /// 422: it will never be taken; set aside and shown in `/health`.
    Malformed,
}

/// The host could not be told. Worth another try, always.
#[derive(Debug)]
pub enum HostError {
    /// `HOST_ADDRESS` has no address yet.
    Unresolved,
    /// No connection, or it broke, or the deadline passed.
    Unreachable { call: &'static str, source: Box<ureq::Error> },
    /// An answer that the contract does not know.
    Status { call: &'static str, status: u16 },
    /// 200 with a body that is no answer.
    Garbage { call: &'static str },
    /// Not the host's doing: what was to be told was withdrawn before a byte of it was sent.
    Withdrawn,
}

impl Host {
    /// Makes no call. `address` is a name or an address, as configured.
    pub fn new(address: &str, port: u16) -> Host {
        let names = Arc::new(HostNames::new(address));
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_age(HOST_IDLE_AGE)
            .user_agent(concat!("river-runner/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .build();
        let agent = ureq::Agent::with_parts(
            config,
            ureq::unversioned::transport::DefaultConnector::default(),
            KnownAddresses(Arc::clone(&names)),
        );
        let bracketed =
            if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        Host {
            agent,
            base: format!("http://{bracketed}:{port}"),
            contact: Contact::default(),
            names,
        }
    }

    /// Makes this node known (contract 3.1).
    ///
    /// # Errors
    /// The host is away or did not say 200.
    pub fn register(&self, register: &Register) -> Result<(), HostError> {
        let call = "register";
        let url = format!("{}/api/register", self.base);
        match self.send(call, self.agent.post(url), register, HOST_REGISTER_DEADLINE, &|| true)? {
            (200, _) => Ok(()),
            (status, _) => Err(HostError::Status { call, status }),
        }
    }

    /// Says that this node lives (contract 3.2).
    ///
    /// # Errors
    /// The host is away or said neither 200 nor 404.
    pub fn beat(&self, hostname: &str, heartbeat: &Heartbeat) -> Result<Beat, HostError> {
        let call = "heartbeat";
        let url = format!("{}/api/heartbeat/{}", self.base, path_segment(hostname));
        match self.send(call, self.agent.put(url), heartbeat, HOST_BEAT_DEADLINE, &|| true)? {
            (200, _) => Ok(Beat::Acknowledged),
            (404, _) => Ok(Beat::Unknown),
            (status, _) => Err(HostError::Status { call, status }),
        }
    }

    /// Reports one state of a task (contract 3.3). `still_due` is asked once there is a connection,
    /// just before the report is sent: making one may take seconds, and a task that was killed
    /// meanwhile must not be told (contract rule 8).
    ///
    /// # Errors
    /// The host is away or gave an answer that settles nothing, or the report is due no more.
    pub fn update(
        &self,
        update: &Update,
        still_due: &dyn Fn() -> bool,
    ) -> Result<Verdict, HostError> {
        let call = "update";
        let request = self.agent.post(format!("{}/api/update", self.base));
        let (status, body) = self.send(call, request, update, HOST_UPDATE_DEADLINE, still_due)?;
        match status {
            // A refusal is visible in the text only; an answer without our kind of body was not
            // given by the host (a proxy's page, half an answer) and acknowledges nothing.
            200 => match serde_json::from_slice::<Answer>(&body) {
                Ok(answer) if answer.message == UPDATE_REFUSED => Ok(Verdict::Refused),
                Ok(answer) if !answer.message.is_empty() => Ok(Verdict::Taken),
                _ => Err(HostError::Garbage { call }),
            },
            422 => Ok(Verdict::Malformed),
            status => Err(HostError::Status { call, status }),
        }
    }

    fn send(
        &self,
        call: &'static str,
        request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        body: &impl Serialize,
        deadline: Duration,
        still_due: &dyn Fn() -> bool,
    ) -> Result<(u16, Vec<u8>), HostError> {
        metrics::HOST_CALLS.up();
        let withdrawn = Cell::new(false);
        let failed = |source: ureq::Error| {
            if withdrawn.get() {
                return HostError::Withdrawn;
            }
            metrics::HOST_CALLS_FAILED.up();
            match source {
                ureq::Error::HostNotFound => HostError::Unresolved,
                source => HostError::Unreachable { call, source: Box::new(source) },
            }
        };
        let body = serde_json::to_vec(body).map_err(|_| HostError::Garbage { call })?;
        let length = body.len();
        let mut body =
            LastMoment { body: &body, still_due: Some(still_due), withdrawn: &withdrawn };
        let mut answer = request
            .config()
            .timeout_global(Some(deadline))
            .build()
            .content_type("application/json")
            .header("Content-Length", length)
            .send(ureq::SendBody::from_reader(&mut body))
            .map_err(failed)?;
        let status = answer.status().as_u16();
        let content = answer
            .body_mut()
            .with_config()
            .limit(HOST_ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(failed)?;
        Ok((status, content))
    }
}

/// A body that asks, when its first byte is wanted, whether it is to be sent at all.
struct LastMoment<'a> {
    body: &'a [u8],
    still_due: Option<&'a dyn Fn() -> bool>,
    withdrawn: &'a Cell<bool>,
}

impl Read for LastMoment<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(still_due) = self.still_due.take()
            && !still_due()
        {
            self.withdrawn.set(true);
            return Err(io::Error::other("due no more"));
        }
        self.body.read(into)
    }
}

/// A host name may hold anything the operator configured; the path must not be led astray by it.
fn path_segment(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::Unresolved => f.write_str("the host's name has no address"),
            HostError::Unreachable { call, source } => write!(f, "{call}: {source}"),
            HostError::Status { call, status } => write!(f, "{call}: answered {status}"),
            HostError::Garbage { call } => write!(f, "{call}: answered no JSON of the contract"),
            HostError::Withdrawn => f.write_str("due no more"),
        }
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HostError::Unreachable { source, .. } => Some(source),
            HostError::Unresolved
            | HostError::Status { .. }
            | HostError::Garbage { .. }
            | HostError::Withdrawn => None,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn odd_host_name_stays_one_path_segment() {
        assert_eq!(path_segment("node-1.lab"), "node-1.lab");
        assert_eq!(path_segment("a/../b c"), "a%2F..%2Fb%20c");
    }
}
