//! What goes wrong between a command and a runner, said so that the next step is clear.

use std::fmt;
use std::io;
use std::time::Duration;

use super::Target;

/// A call that did not succeed.
#[derive(Debug)]
pub enum ClientError {
    Connect {
        target: Target,
        source: io::Error,
    },
    Broken {
        source: io::Error,
    },
    TimedOut {
        after: Duration,
    },
    NotHttp {
        target: Target,
    },
    NotJson(serde_json::Error),
    /// The peer answered; `detail` is its own text.
    Refused {
        status: u16,
        detail: String,
    },
}

impl ClientError {
    pub(super) fn from_io(source: io::Error, after: Duration) -> ClientError {
        match source.kind() {
            // What a socket's own timeout looks like.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut { after },
            _ => ClientError::Broken { source },
        }
    }

    /// Whether the peer may be back soon, as it is while it restarts.
    pub fn may_pass(&self) -> bool {
        match self {
            ClientError::Connect { .. }
            | ClientError::Broken { .. }
            | ClientError::TimedOut { .. } => true,
            ClientError::Refused { status, .. } => *status == 503,
            ClientError::NotHttp { .. } | ClientError::NotJson(_) => false,
        }
    }
}

/// The `detail` of an error answer as one line; without one, the answer's beginning. Names of files
/// are in there, and a terminal would obey control characters of theirs.
pub(super) fn detail(body: &[u8]) -> String {
    let blank = |letter: char| if letter.is_control() { ' ' } else { letter };
    detail_as_sent(body).chars().map(blank).collect()
}

fn detail_as_sent(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let detail = parsed.as_ref().and_then(|answer| answer.get("detail"));
    match detail {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Array(faults)) => {
            faults.iter().map(one_fault).collect::<Vec<_>>().join("; ")
        }
        Some(other) => other.to_string(),
        // The Engine says `message`.
        None => match parsed.as_ref().and_then(|answer| answer.get("message")?.as_str()) {
            Some(message) => message.into(),
            None => String::from_utf8_lossy(&body[..body.len().min(200)]).trim().into(),
        },
    }
}

/// `{"loc": ["body", "command"], "msg": "Field required"}` as `command: Field required`.
fn one_fault(fault: &serde_json::Value) -> String {
    let place = fault.get("loc").and_then(|loc| loc.as_array()?.last()?.as_str());
    let message = fault.get("msg").and_then(|message| message.as_str()).unwrap_or("not valid");
    match place {
        Some(place) => format!("{place}: {message}"),
        None => message.into(),
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connect { target, source } => write!(
                f,
                "no runner answers at {target} ({source}): start one with `river-runner serve`, \
                 or say with --url where it is"
            ),
            ClientError::Broken { source } => {
                write!(f, "the connection to the runner broke: {source}")
            }
            ClientError::TimedOut { after } => {
                write!(f, "the runner did not answer within {} s", after.as_secs())
            }
            ClientError::NotHttp { target } => {
                write!(f, "what listens at {target} does not speak HTTP")
            }
            ClientError::NotJson(_) => f.write_str("the answer is not what a runner sends"),
            ClientError::Refused { status, detail } if detail.is_empty() => {
                write!(f, "the runner refused with status {status}")
            }
            ClientError::Refused { status, detail } => write!(f, "{detail} (status {status})"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Connect { source, .. } | ClientError::Broken { source } => Some(source),
            ClientError::NotJson(source) => Some(source),
            ClientError::TimedOut { .. }
            | ClientError::NotHttp { .. }
            | ClientError::Refused { .. } => None,
        }
    }
}
