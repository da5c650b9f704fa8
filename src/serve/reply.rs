//! Answers: what handlers return and how it looks on the wire. Always with a length, never
//! compressed, never chunked (contract rule 4); only streams end by closing.

use serde::Serialize;
use serde_json::json;

use super::park::Parked;
use super::session::Session;
use super::stream::Stream;
use crate::limits::HTTP_RETRY_AFTER;

/// What a handler gives back.
#[derive(Debug)]
pub enum Answer {
    /// The answer.
    Now(Reply),
    /// A responder, made by [`Call::park`](super::call::Call::park), will answer.
    Parked(Parked),
    /// A body without a length, written on a thread of its own until either side ends it.
    Stream(Stream),
    /// A WebSocket on a thread of its own; only for rows of WebSockets.
    Session(Session),
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer::Now(reply)
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    /// Further headers. `Content-Type`, `Content-Length` and `Connection` are the door's.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// `value` as compact JSON; 500 if it can't be written as such (a map with keys of no text).
    pub fn json(status: u16, value: &impl Serialize) -> Reply {
        match serde_json::to_vec(value) {
            Ok(body) => Reply::bytes(status, "application/json", body),
            Err(error) => {
                log::error!("an answer is no JSON: {error}");
                Reply::detail(500, "Internal Server Error")
            }
        }
    }

    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Reply {
        Reply::bytes(status, "text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// Any body.
    pub fn bytes(status: u16, content_type: &'static str, body: Vec<u8>) -> Reply {
        Reply { status, content_type, headers: Vec::new(), body }
    }

    /// `{"detail": text}`, the contract's shape of an error.
    pub fn detail(status: u16, text: &str) -> Reply {
        let body = json!({ "detail": text }).to_string().into_bytes();
        Reply::bytes(status, "application/json", body)
    }

    /// The same with one more header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    /// The head as it is sent.
    pub(super) fn head(&self, manner: Manner) -> Vec<u8> {
        let mut head = status_line(self.status);
        // Two statuses that never have a body (RFC 9110 15.3.5, 15.4.5).
        if !matches!(self.status, 204 | 304) {
            put(&mut head, "Content-Type", self.content_type);
            put(&mut head, "Content-Length", &self.body.len().to_string());
        }
        for (name, value) in &self.headers {
            put(&mut head, name, value);
        }
        if self.status == 503 {
            put(&mut head, "Retry-After", &HTTP_RETRY_AFTER.as_secs().to_string());
        }
        match manner.after {
            After::Close | After::Linger => put(&mut head, "Connection", "close"),
            After::KeepAlive if manner.old_version => put(&mut head, "Connection", "keep-alive"),
            After::KeepAlive => {}
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The body as far as it is sent.
    pub(super) fn body(&self, manner: Manner) -> &[u8] {
        let none = manner.bodiless || matches!(self.status, 204 | 304);
        if none { &[] } else { &self.body }
    }

    /// Head and body in one piece: the body's, for a second one of a large body costs more than to
    /// move it.
    pub(super) fn encode(mut self, manner: Manner) -> Vec<u8> {
        let head = self.head(manner);
        if self.body(manner).is_empty() {
            return head;
        }
        self.body.splice(..0, head);
        self.body
    }
}

/// What an answer has to look like, by the request it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// The request was HEAD.
    pub bodiless: bool,
    /// The request was HTTP/1.0.
    pub old_version: bool,
    pub after: After,
}

impl Manner {
    /// For a request that was not understood: close, and let the peer finish sending first.
    pub const CONFUSED: Manner =
        Manner { bodiless: false, old_version: false, after: After::Linger };
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    KeepAlive,
    Close,
    /// Close, but read on for a moment: part of the request may still be under way.
    Linger,
}

/// The status line.
pub(super) fn status_line(status: u16) -> Vec<u8> {
    let mut line = Vec::with_capacity(192);
    line.extend_from_slice(b"HTTP/1.1 ");
    line.extend_from_slice(status.to_string().as_bytes());
    line.push(b' ');
    line.extend_from_slice(reason(status).as_bytes());
    line.extend_from_slice(b"\r\n");
    line
}

/// One header line. Whatever `value` holds, it stays one line.
pub(super) fn put(head: &mut Vec<u8>, name: &str, value: &str) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    head.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        // The phrase may be empty (RFC 9112 4).
        _ => "",
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const PLAIN: Manner = Manner { bodiless: false, old_version: false, after: After::KeepAlive };

    fn wire(reply: &Reply, manner: Manner) -> String {
        String::from_utf8(reply.clone().encode(manner)).unwrap()
    }

    #[test]
    fn json_is_compact_and_keeps_its_letters() {
        let reply = Reply::json(200, &json!({ "a": [1, "é"] }));
        assert_eq!(
            wire(&reply, PLAIN),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n\
             {\"a\":[1,\"é\"]}"
        );
    }

    #[test]
    fn head_request_gets_the_length_without_the_body() {
        let text = wire(&Reply::text(200, "hello"), Manner { bodiless: true, ..PLAIN });
        assert!(text.contains("Content-Length: 5\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn connection_is_said_where_the_peer_could_not_know() {
        let said = |manner: Manner| wire(&Reply::text(200, ""), manner);
        assert!(!said(PLAIN).contains("Connection"));
        assert!(said(Manner { old_version: true, ..PLAIN }).contains("Connection: keep-alive"));
        assert!(said(Manner { after: After::Linger, ..PLAIN }).contains("Connection: close"));
    }

    #[test]
    fn header_value_with_line_ends_stays_one_line() {
        let reply = Reply::text(200, "").header("X-A", "b\r\nX-C: d");
        assert!(wire(&reply, PLAIN).contains("X-A: b  X-C: d\r\n"));
    }

    #[test]
    fn no_content_has_no_length() {
        assert_eq!(wire(&Reply::text(204, ""), PLAIN), "HTTP/1.1 204 No Content\r\n\r\n");
    }
}
