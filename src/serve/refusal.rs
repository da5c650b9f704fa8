//! What the door itself answers, and the only status numbers of this room beside those of heads.

use std::fmt;

use super::access::Denial;
use super::head::HeadError;
use super::reply::Reply;
use super::upgrade::{self, NoUpgrade};

/// Why a request does not reach its handler, or its answer does not come from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Head(HeadError),
    Denied(Denial),
    NotFound,
    OtherMethods {
        allow: String,
    },
    /// A WebSocket path that no row has (contract 2).
    NoSuchSocket,
    /// A request to a row of WebSockets that is no handshake.
    NoUpgrade(NoUpgrade),
    /// Percent coding of the path or the query.
    Coding,
    ContentType,
    BodyTooLarge {
        limit_bytes: usize,
    },
    Chunk,
    /// The request did not come in time.
    Late,
    /// A limit on work was reached.
    Busy,
    /// A responder was dropped.
    Unanswered,
    /// A parked call's deadline passed.
    TimedOut,
    Stopping,
    Panicked,
}

impl Refusal {
    /// The answer that says it.
    pub fn reply(&self) -> Reply {
        let reply = Reply::detail(self.status(), &self.to_string());
        match self {
            Refusal::OtherMethods { allow } => reply.header("Allow", allow.as_str()),
            Refusal::NoUpgrade(NoUpgrade::Missing | NoUpgrade::Version) => reply
                .header("Upgrade", "websocket")
                .header("Sec-WebSocket-Version", upgrade::VERSION),
            _ => reply,
        }
    }

    fn status(&self) -> u16 {
        match self {
            Refusal::Head(error) => error.status(),
            Refusal::NoUpgrade(NoUpgrade::Missing | NoUpgrade::Version) => 426,
            Refusal::NoUpgrade(NoUpgrade::Key | NoUpgrade::Body) => 400,
            Refusal::Coding | Refusal::Chunk => 400,
            Refusal::Denied(_) | Refusal::NoSuchSocket => 403,
            Refusal::NotFound => 404,
            Refusal::OtherMethods { .. } => 405,
            Refusal::Late => 408,
            Refusal::BodyTooLarge { .. } => 413,
            Refusal::ContentType => 415,
            Refusal::Panicked => 500,
            Refusal::Busy | Refusal::Unanswered | Refusal::TimedOut | Refusal::Stopping => 503,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Head(error) => error.fmt(f),
            Refusal::Denied(denial) => denial.fmt(f),
            Refusal::NotFound => f.write_str("Not Found"),
            Refusal::OtherMethods { .. } => f.write_str("Method Not Allowed"),
            Refusal::NoSuchSocket => f.write_str("Forbidden"),
            Refusal::NoUpgrade(NoUpgrade::Missing) => {
                f.write_str("only WebSockets are spoken here")
            }
            Refusal::NoUpgrade(NoUpgrade::Version) => {
                f.write_str("only version 13 of WebSocket is spoken here")
            }
            Refusal::NoUpgrade(NoUpgrade::Key) => f.write_str("Sec-WebSocket-Key is no key"),
            Refusal::NoUpgrade(NoUpgrade::Body) => f.write_str("a WebSocket begins without a body"),
            Refusal::Coding => f.write_str("malformed percent-encoding in the path or query"),
            Refusal::ContentType => f.write_str("Content-Type is not application/json"),
            Refusal::BodyTooLarge { limit_bytes } => {
                write!(f, "request body larger than {limit_bytes} bytes")
            }
            Refusal::Chunk => f.write_str("malformed chunked body"),
            Refusal::Late => f.write_str("the request did not arrive in time"),
            Refusal::Busy => f.write_str("too much to do at once; try again"),
            Refusal::Unanswered => f.write_str("the order ended without an answer"),
            Refusal::TimedOut => f.write_str("the order takes too long; it goes on"),
            Refusal::Stopping => f.write_str("the runner is stopping"),
            Refusal::Panicked => f.write_str("Internal Server Error"),
        }
    }
}
