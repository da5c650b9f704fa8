//! The body of an answer: counted, chunked, or up to the end of the connection.

use std::io::{self, Read};
use std::time::Duration;

use super::connection::Connection;
use crate::limits;

/// A body that is read as it comes.
#[derive(Debug)]
pub struct Body {
    connection: Connection,
    framing: Framing,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Bytes still to come.
    Length(u64),
    /// Bytes still to come of the chunk that was begun.
    Chunked {
        left: u64,
    },
    /// The blank line behind a chunk is due.
    ChunkEnd,
    UntilClose,
}

impl Body {
    pub(super) fn new(connection: Connection, framing: Framing) -> Body {
        Body { connection, framing }
    }

    /// The connection, of an answer that has no body.
    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }

    pub(super) fn read_in_ticks(&mut self, tick: Duration) {
        self.connection.read_in_ticks(tick);
    }

    /// All of it, up to `CLI_ANSWER_BYTES_MAX`.
    pub(super) fn read_whole(&mut self) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        let count = self.take(limits::CLI_ANSWER_BYTES_MAX + 1).read_to_end(&mut whole)?;
        if count as u64 > limits::CLI_ANSWER_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(whole)
    }

    /// Reads at most `left` bytes; the end of the connection is too early then.
    fn read_counted(&mut self, into: &mut [u8], left: u64) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match self.connection.read(&mut into[..most])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// The size of the next chunk; `None` behind the last one.
    fn next_chunk(&mut self) -> io::Result<Option<u64>> {
        let line = self.connection.read_line(limits::CLI_CHUNK_LINE_BYTES_MAX)?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let digits = std::str::from_utf8(digits).map_err(|_| io::ErrorKind::InvalidData)?;
        let size = u64::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok((size > 0).then_some(size))
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match self.framing {
                Framing::Length(0) => return Ok(0),
                Framing::Length(left) => {
                    let count = self.read_counted(into, left)?;
                    self.framing = Framing::Length(left - count as u64);
                    return Ok(count);
                }
                Framing::UntilClose => return self.connection.read(into),
                Framing::ChunkEnd => {
                    self.connection.read_line(limits::CLI_CHUNK_LINE_BYTES_MAX)?;
                    self.framing = Framing::Chunked { left: 0 };
                }
                Framing::Chunked { left: 0 } => match self.next_chunk()? {
                    Some(left) => self.framing = Framing::Chunked { left },
                    // Trailers may follow; the connection is not used again.
                    None => self.framing = Framing::Length(0),
                },
                Framing::Chunked { left } => {
                    let count = self.read_counted(into, left)?;
                    let left = left - count as u64;
                    self.framing =
                        if left == 0 { Framing::ChunkEnd } else { Framing::Chunked { left } };
                    return Ok(count);
                }
            }
        }
    }
}
