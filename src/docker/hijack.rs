//! A connection to the Engine that stops being HTTP: `POST /exec/{id}/start` with an upgrade, after
//! which the bytes are a terminal's (design D3). ureq never hands out a 101, so this speaks HTTP for
//! one request by itself. Called by `ops`, which polls the descriptor. Holds no place among the calls
//! in flight once the answer's head is here.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::ask::Ask;
use super::error::cut_said;
use super::names::checked_name;
use super::socket::connect;
use super::turn::{Class, Turn};
use super::{DockerError, Engine};
use crate::limits;
use crate::wire::docker as wire;

const CALL: &str = "start exec";

/// Both directions of a terminal. Never blocks. `poll` does not know of what came with the answer's
/// head: it is to be read before the first wait.
#[derive(Debug)]
pub struct Hijack {
    stream: UnixStream,
    /// What came with the answer's head and has not been read yet.
    early: Vec<u8>,
}

impl Hijack {
    /// Ends both directions. The process lives on: see `ops` for its end.
    pub fn shut(&self) {
        // An error means that it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Read for Hijack {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.early.is_empty() {
            return self.stream.read(into);
        }
        let bytes = self.early.len().min(into.len());
        into[..bytes].copy_from_slice(&self.early[..bytes]);
        self.early.drain(..bytes);
        Ok(bytes)
    }
}

impl Write for Hijack {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Hijack {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Engine {
    /// Starts the exec `id`, made with a terminal, and returns its stream. Never made twice: one whose
    /// answer was lost may run.
    ///
    /// # Errors
    /// Missing: no such exec. Conflict: its container is paused. Refused with 400: the runtime could
    /// not, which Engines may also say in the stream.
    pub fn start_exec(&self, id: &str) -> Result<Hijack, DockerError> {
        let id = checked_name(CALL, id)?;
        let turn = Turn::take(self, Class::Quick, CALL)?;
        let ask = Ask::post(CALL, format!("/exec/{id}/start"))
            .within(limits::TERMINAL_OPEN_DEADLINE)
            .json(&wire::StartExec { detach: false, tty: true })?;
        let until = turn.started + ask.deadline;
        let target = self.versioned(&self.inner.agent, &ask, until)?;
        let opened = self.open_hijack(&ask, &target, until);
        match &opened {
            Err(DockerError::Connect { source, .. }) => self.seen().unreachable(source.kind()),
            Err(DockerError::TimedOut { .. }) => self.seen().timed_out(turn.started),
            Err(DockerError::Broken { .. }) => self.seen().broken(),
            _ => {}
        }
        opened
    }

    fn open_hijack(&self, ask: &Ask, target: &str, until: Instant) -> Result<Hijack, DockerError> {
        let fault = |source: io::Error| match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                DockerError::TimedOut { call: CALL, after: ask.deadline }
            }
            _ => DockerError::Broken { call: CALL, source },
        };
        let mut stream = connect(self.socket(), limits::ENGINE_CONNECT_DEADLINE)
            .map_err(|source| DockerError::Connect { socket: self.socket().to_owned(), source })?;
        stream.set_write_timeout(Some(self.left(ask, until)?)).map_err(fault)?;
        let mut request = format!(
            "POST {target} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
            ask.body.len()
        )
        .into_bytes();
        request.extend_from_slice(&ask.body);
        stream.write_all(&request).map_err(fault)?;
        let mut bytes = Vec::new();
        loop {
            stream.set_read_timeout(Some(self.left(ask, until)?)).map_err(fault)?;
            let mut piece = [0; 1024];
            let read = match stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(fault)?,
            };
            if read == 0 {
                return Err(fault(io::ErrorKind::UnexpectedEof.into()));
            }
            bytes.extend_from_slice(&piece[..read]);
            match read_head(&bytes)? {
                // An older Engine, or one asked without an upgrade, says 200 and means the same.
                Some(head) if matches!(head.status, 101 | 200) => {
                    bytes.drain(..head.bytes);
                    stream.set_nonblocking(true).map_err(fault)?;
                    return Ok(Hijack { stream, early: bytes });
                }
                Some(head) => {
                    let body = &mut bytes.split_off(head.bytes);
                    return Err(self.refused(ask, stream, head, body, until));
                }
                None if bytes.len() > limits::ENGINE_HEAD_BYTES_MAX => {
                    return Err(DockerError::TooLarge {
                        call: CALL,
                        bytes_max: limits::ENGINE_HEAD_BYTES_MAX,
                    });
                }
                None => {}
            }
        }
    }

    /// The refusal, with as much of its text as is here by the deadline.
    fn refused(
        &self,
        ask: &Ask,
        mut stream: UnixStream,
        head: Head,
        body: &mut Vec<u8>,
        until: Instant,
    ) -> DockerError {
        while body.len() < head.body_bytes.min(limits::ENGINE_SAID_BYTES_MAX) {
            let Ok(left) = self.left(ask, until) else { break };
            let mut piece = [0; 1024];
            match stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut piece)) {
                Ok(read) if read > 0 => body.extend_from_slice(&piece[..read]),
                _ => break,
            }
        }
        let said = match serde_json::from_slice::<wire::Refusal>(body) {
            Ok(refusal) => refusal.message,
            Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
        };
        DockerError::Refused { call: CALL, status: head.status, said: cut_said(said) }
    }
}

/// What matters of an answer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Of the head itself.
    bytes: usize,
    /// Of the body behind it, as far as it is told.
    body_bytes: usize,
}

fn read_head(bytes: &[u8]) -> Result<Option<Head>, DockerError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let garbage = |source| DockerError::Garbage { call: CALL, source: Box::new(source) };
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(garbage)? else {
        return Ok(None);
    };
    let told = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let body_bytes = told.and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse().ok());
    Ok(response.code.map(|status| Head {
        status,
        bytes: length,
        body_bytes: body_bytes.unwrap_or(0),
    }))
}

/// An Engine sends five.
const HEADERS_MAX: usize = 32;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn head_in_two_pieces_is_whole_with_the_second_and_keeps_what_follows() {
        let whole = b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n$ ";
        assert_eq!(read_head(&whole[..20]).unwrap(), None);
        let head = read_head(whole).unwrap().unwrap();
        assert_eq!((head.status, &whole[head.bytes..]), (101, &b"$ "[..]));
    }

    #[test]
    fn head_that_is_no_http_is_garbage() {
        assert!(matches!(read_head(b"SSH-2.0\r\n\r\n"), Err(DockerError::Garbage { .. })));
    }
}
