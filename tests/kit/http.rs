//! HTTP/1.1 as bytes: what the fakes read and write, and a small client. Heads are kept verbatim
//! and bodies are copied without decoding, so that a proxy built on this changes nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// No honest answer in these tests takes longer; a longer wait is a hang and fails its test.
const CALL_SECONDS_MAX: u64 = 60;
const HEAD_BYTES_MAX: usize = 64 * 1024;

// ── messages ─────────────────────────────────────────────────────────────────────────────────

/// A request's or a response's head, with the bytes it came in.
#[derive(Clone, Debug)]
pub struct Head {
    /// Everything up to and with the blank line.
    pub raw: Vec<u8>,
    pub first_line: String,
    pub headers: Vec<(String, String)>,
}

/// How a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    /// Reads a head; `None` when the peer closed before its first byte.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Head>> {
        let mut raw = Vec::new();
        loop {
            let before = raw.len();
            from.take((HEAD_BYTES_MAX - before) as u64).read_until(b'\n', &mut raw)?;
            match &raw[before..] {
                b"" if before == 0 => return Ok(None),
                b"\r\n" | b"\n" => return Head::parse(raw).map(Some),
                line if line.ends_with(b"\n") => {}
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    fn parse(raw: Vec<u8>) -> io::Result<Head> {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.lines();
        let first_line = lines.next().unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(Head { raw, first_line, headers })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The first line's `n`th word: method and target of a request, status of a response.
    pub fn word(&self, n: usize) -> &str {
        self.first_line.split(' ').nth(n).unwrap_or_default()
    }

    pub fn status(&self) -> io::Result<u16> {
        self.word(1).parse().map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// A request without a length has no body.
    pub fn request_framing(&self) -> Framing {
        self.declared_framing().unwrap_or(Framing::Empty)
    }

    /// A response without a length lasts until its sender closes.
    pub fn response_framing(&self, method: &str) -> io::Result<Framing> {
        let status = self.status()?;
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Framing::Empty);
        }
        Ok(self.declared_framing().unwrap_or(Framing::UntilClose))
    }

    fn declared_framing(&self) -> Option<Framing> {
        if self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return Some(Framing::Chunked);
        }
        let length = self.header("content-length")?.parse().ok()?;
        Some(if length == 0 { Framing::Empty } else { Framing::Length(length) })
    }
}

/// Copies one body as it is on the wire, piece by piece, without waiting for its end.
pub fn copy_body(from: &mut impl BufRead, framing: Framing, to: &mut impl Write) -> io::Result<()> {
    match framing {
        Framing::Empty => Ok(()),
        Framing::Length(bytes) => copy_exactly(from, bytes, to),
        Framing::UntilClose => loop {
            if copy_piece(from, u64::MAX, to)? == 0 {
                return Ok(());
            }
        },
        Framing::Chunked => loop {
            let size_line = copy_line(from, to)?;
            let size = size_line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                // Trailers, if any, then the blank line.
                while copy_line(from, to)? != "\r\n" {}
                return Ok(());
            }
            copy_exactly(from, size + 2, to)?;
        },
    }
}

fn copy_exactly(from: &mut impl BufRead, bytes: u64, to: &mut impl Write) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        match copy_piece(from, left, to)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            copied => left -= copied,
        }
    }
    Ok(())
}

fn copy_piece(from: &mut impl BufRead, bytes_max: u64, to: &mut impl Write) -> io::Result<u64> {
    let piece = from.fill_buf()?;
    let bytes = piece.len().min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
    to.write_all(&piece[..bytes])?;
    to.flush()?;
    from.consume(bytes);
    Ok(bytes as u64)
}

fn copy_line(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(HEAD_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    to.write_all(&line)?;
    to.flush()?;
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Reads one body and undoes its framing.
pub fn read_body(from: &mut impl BufRead, framing: Framing) -> io::Result<Vec<u8>> {
    let mut wire = Vec::new();
    copy_body(from, framing, &mut wire)?;
    Ok(if framing == Framing::Chunked { unchunk(&wire) } else { wire })
}

/// The content of a chunked body that `copy_body` has found complete.
fn unchunk(mut wire: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line_end = wire.iter().position(|&b| b == b'\n').expect("a chunk's size line");
        let size = String::from_utf8_lossy(&wire[..line_end]);
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&wire[line_end + 1..][..size]);
        wire = &wire[line_end + 1 + size + 2..];
    }
}

/// A whole response with a JSON body, as a fake sends it.
pub fn json_response(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

// ── client ───────────────────────────────────────────────────────────────────────────────────

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The content, with chunking undone.
    pub body: Vec<u8>,
    /// The content as JSON; null when it is none.
    pub json: Value,
}

impl Response {
    /// This response, if its status is the one expected; the test fails otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "answer was: {}", self.text());
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// One call on a connection of its own. `headers` may replace `Host` and `Content-Type`.
pub fn call(
    address: &Address,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> io::Result<Response> {
    let body = body.map(Value::to_string);
    let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let given = |name: &str| headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
    if !given("host") {
        let host = match address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        };
        request.push_str(&format!("Host: {host}\r\n"));
    }
    if let Some(body) = &body {
        if !given("content-type") {
            request.push_str("Content-Type: application/json\r\n");
        }
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    } else if method != "GET" && method != "HEAD" {
        request.push_str("Content-Length: 0\r\n");
    }
    request.push_str("\r\n");
    request.push_str(body.as_deref().unwrap_or_default());
    exchange(address, request.as_bytes(), method)
}

/// Sends `request` as it is and reads one response to it: for requests that no client would send.
pub fn exchange(address: &Address, request: &[u8], method: &str) -> io::Result<Response> {
    let mut stream = connect(address)?;
    // A server that refuses early closes while we still write: its answer is what counts.
    let written = stream.write_all(request);
    read_response(&mut BufReader::new(stream), method).or_else(|error| written.and(Err(error)))
}

/// Reads one response to a request of this method.
pub fn read_response(reader: &mut impl BufRead, method: &str) -> io::Result<Response> {
    let head = loop {
        match Head::read(reader)? {
            Some(head) if head.status()? >= 200 => break head,
            Some(_informational) => {}
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    let body = read_body(reader, head.response_framing(method)?)?;
    Ok(Response {
        status: head.status()?,
        json: serde_json::from_slice(&body).unwrap_or(Value::Null),
        headers: head.headers,
        body,
    })
}

fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    let patience = Some(Duration::from_secs(CALL_SECONDS_MAX));
    Ok(match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(patience)?;
            stream.set_write_timeout(patience)?;
            Box::new(stream)
        }
        Address::Unix(path) => {
            let stream = connect_unix(path)?;
            stream.set_read_timeout(patience)?;
            stream.set_write_timeout(patience)?;
            Box::new(stream)
        }
    })
}

/// `UnixStream::connect` names no file in its error; this does.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
