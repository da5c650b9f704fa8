//! Just enough HTTP/1.1 to ask and be answered over a kept connection, for as little CPU as can be:
//! the request goes out in one write, the answer is read into one buffer that is used again.

use std::io::{self, ErrorKind, Read, Write};

use serde_json::Value;

/// A connection that requests go over, one at a time.
pub struct Http<S> {
    stream: S,
    buffer: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Heads of the runner and of the Engine are below a tenth of this.
const HEAD_BYTES_MAX: usize = 16 * 1024;

impl<S: Read + Write> Http<S> {
    pub fn new(stream: S) -> Http<S> {
        Http { stream, buffer: Vec::with_capacity(2 * HEAD_BYTES_MAX) }
    }

    /// # Errors
    /// The connection broke, or the peer speaks no HTTP.
    pub fn call(&mut self, method: &str, target: &str, body: Option<&Value>) -> io::Result<Answer> {
        self.exchange(&request(method, target, body))
    }

    /// Sends the bytes of a whole request and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke, or the peer speaks no HTTP.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let head = loop {
            if let Some(head) = Head::of(&self.buffer)? {
                break head;
            }
            self.more()?;
        };
        self.buffer.drain(..head.bytes);
        let body = match head.framing {
            Framing::Length(length) => {
                let mut body = std::mem::take(&mut self.buffer);
                let missing = length.saturating_sub(body.len());
                body.reserve_exact(missing);
                // Not by `more`: to clear room for each piece costs more than a large body itself.
                (&mut self.stream).take(missing as u64).read_to_end(&mut body)?;
                if body.len() < length {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                body
            }
            Framing::Chunked => self.chunks()?,
        };
        Ok(Answer { status: head.status, body })
    }

    /// Sends a request whose answer does not end by itself, and gives the stream behind its head.
    ///
    /// # Errors
    /// The connection broke, the peer speaks no HTTP, or it refuses.
    pub fn stream(mut self, target: &str) -> io::Result<(S, Vec<u8>)> {
        self.stream.write_all(&request("GET", target, None))?;
        loop {
            if let Some(head) = Head::of(&self.buffer)? {
                if head.status != 200 {
                    return Err(io::Error::other(format!("{target}: {}", head.status)));
                }
                self.buffer.drain(..head.bytes);
                return Ok((self.stream, self.buffer));
            }
            self.more()?;
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut at = 0;
        loop {
            match httparse::parse_chunk_size(&self.buffer[at..]) {
                Ok(httparse::Status::Complete((line_bytes, size))) => {
                    let from = at + line_bytes;
                    let to = from + usize::try_from(size).map_err(io::Error::other)?;
                    while self.buffer.len() < to + 2 {
                        self.more()?;
                    }
                    if size == 0 {
                        return Ok(body);
                    }
                    body.extend_from_slice(&self.buffer[from..to]);
                    at = to + 2;
                }
                Ok(httparse::Status::Partial) => self.more()?,
                Err(_) => return Err(ErrorKind::InvalidData.into()),
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let have = self.buffer.len();
        // More at once for what is large.
        self.buffer.resize(have + have.clamp(HEAD_BYTES_MAX, 1 << 20), 0);
        let read = self.stream.read(&mut self.buffer[have..])?;
        self.buffer.truncate(have + read);
        if read == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl Answer {
    /// The body, which must have come with this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// The bytes of a request.
pub fn request(method: &str, target: &str, body: Option<&Value>) -> Vec<u8> {
    let body = body.map(Value::to_string).unwrap_or_default();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

struct Head {
    status: u16,
    framing: Framing,
    bytes: usize,
}

enum Framing {
    Length(usize),
    Chunked,
}

impl Head {
    fn of(bytes: &[u8]) -> io::Result<Option<Head>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        let Ok(parsed) = answer.parse(bytes) else { return Err(ErrorKind::InvalidData.into()) };
        let httparse::Status::Complete(bytes) = parsed else { return Ok(None) };
        let mut framing = Framing::Length(0);
        for header in answer.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(header.value).ok().and_then(|n| n.parse().ok());
                framing = Framing::Length(length.ok_or(ErrorKind::InvalidData)?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Framing::Chunked;
            }
        }
        Ok(Some(Head { status: answer.code.unwrap_or_default(), framing, bytes }))
    }
}
