//! The connection below `Client`: opening it, a buffer, and the head of an answer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::body::{Body, Framing};
use super::{Answer, Patience, SWITCHING_PROTOCOLS, Target};
use crate::limits;

/// An open connection and the bytes that came before they were asked for.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    patience: Patience,
    buffer: Vec<u8>,
}

/// The bare connection, of either kind.
#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Why there is no head.
pub(super) enum HeadFault {
    Io(io::Error),
    NotHttp,
}

impl Connection {
    pub fn connect(target: &Target, patience: Duration) -> io::Result<Connection> {
        let stream = match target {
            Target::Unix(path) => Stream::Unix(connect_unix(path, patience)?),
            Target::Tcp { host, port } => Stream::Tcp(connect_tcp(host, *port, patience)?),
        };
        let patience = Patience::Tick(patience);
        Ok(Connection { stream, patience, buffer: Vec::new() })
    }

    /// From now on all reads together may take `patience`.
    pub fn read_until(&mut self, patience: Duration) {
        self.patience = Patience::Until(Instant::now() + patience);
    }

    /// From now on each read may take `tick`, and any number of them may be done.
    pub fn read_in_ticks(&mut self, tick: Duration) {
        self.patience = Patience::Tick(tick);
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let wait = Some(self.wait()?);
        match &self.stream {
            Stream::Unix(stream) => stream.set_write_timeout(wait)?,
            Stream::Tcp(stream) => stream.set_write_timeout(wait)?,
        }
        self.stream.write_all(bytes)
    }

    /// Bytes that are there, from the buffer first. 0 is the end.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            return self.read_stream(into);
        }
        let count = into.len().min(self.buffer.len());
        into[..count].copy_from_slice(&self.buffer[..count]);
        self.buffer.drain(..count);
        Ok(count)
    }

    /// One line without its end. When it fails nothing is lost: the next call goes on.
    pub fn read_line(&mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.truncate(line.trim_ascii_end().len());
                return Ok(line);
            }
            if self.buffer.len() > bytes_max {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.fill()?;
        }
    }

    /// The connection itself, which blocks no more, and the bytes that had come already.
    pub fn into_stream(self) -> io::Result<(Stream, Vec<u8>)> {
        match &self.stream {
            Stream::Unix(stream) => stream.set_nonblocking(true)?,
            Stream::Tcp(stream) => stream.set_nonblocking(true)?,
        }
        Ok((self.stream, self.buffer))
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut more = [0; 4096];
        match self.read_stream(&mut more)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.buffer.extend_from_slice(&more[..count]);
                Ok(())
            }
        }
    }

    fn read_stream(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wait = Some(self.wait()?);
        match &self.stream {
            Stream::Unix(stream) => stream.set_read_timeout(wait)?,
            Stream::Tcp(stream) => stream.set_read_timeout(wait)?,
        }
        self.stream.read(into)
    }

    fn wait(&self) -> io::Result<Duration> {
        match self.patience {
            Patience::Tick(tick) => Ok(tick),
            Patience::Until(end) => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(into),
            Stream::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Sockets hold nothing back.
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// The kernel keeps a connect to a Unix socket waiting while the peer's backlog is full, for as
/// long as the socket's send timeout says; the standard library can't set that before.
fn connect_unix(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let wait = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&fd, sockopt::SendTimeout, &wait)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}

fn connect_tcp(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads status and headers; the body stays on the connection.
pub(super) fn read_head(mut connection: Connection, method: &str) -> Result<Answer, HeadFault> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; limits::CLI_HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        match head.parse(&connection.buffer) {
            Err(_) => return Err(HeadFault::NotHttp),
            Ok(httparse::Status::Partial)
                if connection.buffer.len() > limits::CLI_HEAD_BYTES_MAX =>
            {
                return Err(HeadFault::NotHttp);
            }
            Ok(httparse::Status::Partial) => connection.fill().map_err(HeadFault::Io)?,
            Ok(httparse::Status::Complete(length)) => {
                let status = head.code.ok_or(HeadFault::NotHttp)?;
                let framing = framing(head.headers, method, status).ok_or(HeadFault::NotHttp)?;
                let websocket_accept = value(head.headers, "sec-websocket-accept");
                let websocket_accept = websocket_accept.map(String::from);
                connection.buffer.drain(..length);
                // 100 Continue and its like only announce the real answer; 101 is one.
                if status >= 200 || status == SWITCHING_PROTOCOLS {
                    let body = Body::new(connection, framing);
                    return Ok(Answer { status, websocket_accept, body });
                }
            }
        }
    }
}

fn framing(headers: &[httparse::Header<'_>], method: &str, status: u16) -> Option<Framing> {
    if method == "HEAD" || matches!(status, 100..200 | 204 | 304) {
        return Some(Framing::Length(0));
    }
    if let Some(coding) = value(headers, "transfer-encoding") {
        return coding.eq_ignore_ascii_case("chunked").then_some(Framing::Chunked { left: 0 });
    }
    match value(headers, "content-length") {
        Some(length) => length.trim().parse().ok().map(Framing::Length),
        None => Some(Framing::UntilClose),
    }
}

fn value<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()
}
