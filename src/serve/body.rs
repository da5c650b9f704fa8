//! Request bodies as a worker reads them: within the row's limit, at a minimum rate, to an absolute
//! deadline. Small bodies have been collected by the door before and cost no wait here.

use std::io::ErrorKind;
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::Patience;
use super::conn::Conn;
use super::head::{Framing, Head};
use super::refusal::Refusal;
use crate::limits::{
    HTTP_BODY_BYTES_PER_SECOND_MIN, HTTP_CHUNK_LINE_BYTES_MAX, HTTP_READ_BYTES,
    HTTP_TRAILERS_BYTES_MAX,
};

/// Sent to a peer that waits to be told to send its body.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Where a body is.
#[derive(Debug)]
pub(super) enum Body {
    /// Behind the head, in the same buffer.
    Behind(Range<usize>),
    Apart(Vec<u8>),
}

/// Why a body did not come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The peer can be told.
    Refused(Refusal),
    /// The peer has gone.
    Gone,
}

/// Takes the request that `conn` has begun: the buffer with its head, and its body. What follows
/// it stays in `conn`.
pub(super) fn take(
    conn: &mut Conn,
    head: &Head,
    limit_bytes: usize,
    patience: &Patience,
) -> Result<(Vec<u8>, Body), Cut> {
    let mut bytes = std::mem::take(&mut conn.read);
    let length = match head.framing {
        Framing::Chunked => None,
        Framing::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > limit_bytes {
                return Err(Cut::Refused(Refusal::BodyTooLarge { limit_bytes }));
            }
            Some(length)
        }
    };
    if let Some(length) = length
        && bytes.len() - head.bytes >= length
    {
        let end = head.bytes + length;
        if bytes.len() > end {
            conn.read = bytes.split_off(end);
        }
        return Ok((bytes, Body::Behind(head.bytes..end)));
    }

    let begun = bytes.split_off(head.bytes);
    if head.expects_continue && begun.is_empty() {
        conn.socket.send_all(CONTINUE, &[], patience).map_err(|_| Cut::Gone)?;
    }
    let mut stream = Incoming { conn, started: Instant::now(), received: 0, patience };
    let body = match length {
        Some(length) => stream.exactly(length, begun)?,
        None => stream.chunks(begun, limit_bytes)?,
    };
    Ok((bytes, Body::Apart(body)))
}

/// A body on its way.
struct Incoming<'a> {
    conn: &'a mut Conn,
    started: Instant,
    received: u64,
    patience: &'a Patience,
}

impl Incoming<'_> {
    fn exactly(&mut self, length: usize, mut body: Vec<u8>) -> Result<Vec<u8>, Cut> {
        let mut filled = body.len();
        while filled < length {
            // Memory follows what has come, not what was announced.
            if filled == body.len() {
                body.resize(length.min(filled + HTTP_READ_BYTES.max(filled)), 0);
            }
            filled += self.some(&mut body[filled..])?;
        }
        Ok(body)
    }

    fn chunks(&mut self, begun: Vec<u8>, limit_bytes: usize) -> Result<Vec<u8>, Cut> {
        let (mut chunks, mut body) = (Chunks::default(), Vec::new());
        let mut raw = begun;
        loop {
            let used = chunks.feed(&raw, &mut body, limit_bytes).map_err(Cut::Refused)?;
            if chunks.is_done() {
                self.conn.read = raw.split_off(used);
                return Ok(body);
            }
            raw.resize(HTTP_READ_BYTES, 0);
            let count = self.some(&mut raw)?;
            raw.truncate(count);
        }
    }

    /// Waits for some bytes, for as long as the rate so far has earned.
    fn some(&mut self, into: &mut [u8]) -> Result<usize, Cut> {
        loop {
            match self.conn.socket.receive(into) {
                Ok(0) => return Err(Cut::Gone),
                Ok(count) => {
                    self.received += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let earned =
                        Duration::from_secs(self.received / HTTP_BODY_BYTES_PER_SECOND_MIN);
                    let wait = self.patience.body_deadline.min(self.patience.body_grace + earned);
                    let ready = self.conn.socket.wait(PollFlags::POLLIN, self.started + wait);
                    if !ready.map_err(|_| Cut::Gone)? {
                        return Err(Cut::Refused(Refusal::Late));
                    }
                }
                Err(_) => return Err(Cut::Gone),
            }
        }
    }
}

/// Takes chunked coding off, a piece at a time.
#[derive(Debug, Default)]
struct Chunks {
    at: Place,
    /// The line that is being read, without its end.
    line: Vec<u8>,
    trailer_bytes: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Size,
    Data {
        left: usize,
    },
    DataEnd,
    Trailers,
    Done,
}

impl Chunks {
    fn is_done(&self) -> bool {
        self.at == Place::Done
    }

    /// Decodes `raw` onto `body` and says how much of it was used: all, but for what follows the
    /// last chunk.
    fn feed(
        &mut self,
        raw: &[u8],
        body: &mut Vec<u8>,
        limit_bytes: usize,
    ) -> Result<usize, Refusal> {
        let mut used = 0;
        while used < raw.len() && !self.is_done() {
            if let Place::Data { left } = self.at {
                let count = left.min(raw.len() - used);
                body.extend_from_slice(&raw[used..used + count]);
                used += count;
                self.at = match left - count {
                    0 => Place::DataEnd,
                    left => Place::Data { left },
                };
                continue;
            }
            let byte = raw[used];
            used += 1;
            self.line.push(byte);
            if byte == b'\n' {
                self.line_ended(body.len(), limit_bytes)?;
                self.line.clear();
            } else if self.line.len() > HTTP_CHUNK_LINE_BYTES_MAX && self.at != Place::Trailers
                || self.trailer_bytes + self.line.len() > HTTP_TRAILERS_BYTES_MAX
            {
                return Err(Refusal::Chunk);
            }
        }
        Ok(used)
    }

    fn line_ended(&mut self, body_bytes: usize, limit_bytes: usize) -> Result<(), Refusal> {
        let line = self.line.strip_suffix(b"\r\n").ok_or(Refusal::Chunk)?;
        if line.iter().any(u8::is_ascii_control) {
            return Err(Refusal::Chunk);
        }
        self.at = match self.at {
            Place::Size => {
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
                match chunk_size(digits)? {
                    0 => Place::Trailers,
                    size if size > limit_bytes - body_bytes => {
                        return Err(Refusal::BodyTooLarge { limit_bytes });
                    }
                    left => Place::Data { left },
                }
            }
            Place::DataEnd if line.is_empty() => Place::Size,
            Place::Trailers if line.is_empty() => Place::Done,
            Place::Trailers => {
                self.trailer_bytes += self.line.len();
                Place::Trailers
            }
            Place::DataEnd | Place::Data { .. } | Place::Done => return Err(Refusal::Chunk),
        };
        Ok(())
    }
}

/// Hexadecimal digits only, and no more of them than a size can have.
fn chunk_size(digits: &[u8]) -> Result<usize, Refusal> {
    let plain = digits.len() <= 16 && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| plain).ok_or(Refusal::Chunk)?;
    usize::from_str_radix(text, 16).map_err(|_| Refusal::Chunk)
}

#[cfg(test)]
mod test {
    use super::*;

    const LIMIT: usize = 8;

    /// The body and what was left over.
    fn decoded(raw: &str) -> Result<(String, String), Refusal> {
        let (mut chunks, mut body) = (Chunks::default(), Vec::new());
        let used = chunks.feed(raw.as_bytes(), &mut body, LIMIT)?;
        assert!(chunks.is_done(), "no end in {raw:?}");
        Ok((String::from_utf8(body).unwrap(), raw[used..].to_owned()))
    }

    #[test]
    fn chunks_join_and_the_next_request_is_left() {
        let raw = "3\r\nabc\r\n05;x=y\r\ndefgh\r\n0\r\nTrailer: x\r\n\r\nGET";
        assert_eq!(decoded(raw), Ok(("abcdefgh".into(), "GET".into())));
    }

    #[test]
    fn chunks_in_single_bytes_decode_as_in_one_piece() {
        let (mut chunks, mut body) = (Chunks::default(), Vec::new());
        for byte in b"3\r\nabc\r\n0\r\n\r\n" {
            chunks.feed(&[*byte], &mut body, LIMIT).unwrap();
        }
        assert!(chunks.is_done());
        assert_eq!(body, b"abc");
    }

    #[test]
    fn chunks_beyond_the_limit_are_too_large_before_they_come() {
        let too_large = Err(Refusal::BodyTooLarge { limit_bytes: LIMIT });
        assert_eq!(decoded("8\r\nabcdefgh\r\n0\r\n\r\n").unwrap().0, "abcdefgh");
        assert_eq!(decoded("9\r\n"), too_large);
        assert_eq!(decoded("8\r\nabcdefgh\r\n1\r\n"), too_large);
        assert_eq!(decoded("ffffffffffffffff\r\n"), too_large);
    }

    #[test]
    fn chunk_sizes_other_than_hexadecimal_are_refused() {
        let refused = |raw: &str| assert_eq!(decoded(raw), Err(Refusal::Chunk), "{raw:?}");
        refused("-1\r\n");
        refused("+1\r\n");
        refused("0x1\r\n");
        refused(" 1\r\n");
        refused("1 \r\n");
        refused("1\n");
        refused("00000000000000001\r\n");
        refused("1;\u{1}\r\n");
        refused("1\r\nab\r\n");
    }

    #[test]
    fn empty_chunk_size_is_refused() {
        assert_eq!(decoded("\r\n"), Err(Refusal::Chunk));
        assert_eq!(decoded(";a\r\n"), Err(Refusal::Chunk));
    }

    #[test]
    fn lines_and_trailers_have_an_end() {
        let line = format!("1;{}", "x".repeat(HTTP_CHUNK_LINE_BYTES_MAX));
        assert_eq!(decoded(&line), Err(Refusal::Chunk));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(HTTP_TRAILERS_BYTES_MAX / 6 + 1));
        assert_eq!(decoded(&trailers), Err(Refusal::Chunk));
    }
}
