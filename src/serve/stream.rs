//! Answers without a length: each on a thread of its own, bounded in number, ended by the peer, the
//! writer or the stop. The host calls no such row (design D15).

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::conn::{Conn, wait};
use super::desk::Desk;
use super::refusal::Refusal;
use super::reply::{After, Manner, Reply, put, status_line};
use crate::limits::{HTTP_STREAMS_MAX, STACK_BYTES};
use crate::{metrics, threads};

/// The peer has shut its side down; nix lacks the name.
const PEER_END: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

type First = Box<dyn FnOnce() -> Result<(), Reply> + Send>;
type Writer = Box<dyn FnOnce(&mut StreamOut) + Send>;

/// A body that is written as it comes to be.
pub struct Stream {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    first: Option<First>,
    writer: Writer,
}

impl Stream {
    /// `writer` runs on its own thread; when it returns the connection closes.
    pub fn new(
        content_type: &'static str,
        writer: impl FnOnce(&mut StreamOut) + Send + 'static,
    ) -> Stream {
        Stream {
            status: 200,
            content_type,
            headers: Vec::new(),
            first: None,
            writer: Box::new(writer),
        }
    }

    /// The same with one more header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Stream {
        self.headers.push((name, value.into()));
        self
    }

    /// The same, with something to find out before the head is sent, on the stream's own thread: an
    /// error is the whole answer.
    pub fn unless(mut self, first: impl FnOnce() -> Result<(), Reply> + Send + 'static) -> Stream {
        self.first = Some(Box::new(first));
        self
    }

    fn head(&self) -> Vec<u8> {
        let mut head = status_line(self.status);
        put(&mut head, "Content-Type", self.content_type);
        for (name, value) in &self.headers {
            put(&mut head, name, value);
        }
        put(&mut head, "Connection", "close");
        head.extend_from_slice(b"\r\n");
        head
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The way to the peer of a stream. Writing fails when the peer has gone, takes nothing for
/// `write_stall`, or the runner stops.
#[derive(Debug)]
pub struct StreamOut {
    conn: Box<Conn>,
    desk: Arc<Desk>,
}

/// Why a writer's pause is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// All of it has passed.
    Elapsed,
    PeerLeft,
    Stopping,
}

impl StreamOut {
    /// Pauses for `pause`, or less if there is nobody to write for.
    pub fn pause(&self, pause: Duration) -> Woken {
        let mut fds = [
            PollFd::new(self.desk.stop_bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.conn.socket.as_fd(), PEER_END),
        ];
        let ready = wait(&mut fds, Instant::now() + pause);
        if self.desk.is_stopping() {
            Woken::Stopping
        } else if ready.unwrap_or(true) {
            Woken::PeerLeft
        } else {
            Woken::Elapsed
        }
    }
}

impl Write for StreamOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stall = Instant::now() + self.desk.patience.write_stall;
        loop {
            if self.desk.is_stopping() {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            match self.conn.socket.send(&[IoSlice::new(bytes)]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => return sent,
            }
            let mut fds = [
                PollFd::new(self.desk.stop_bell.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.conn.socket.as_fd(), PollFlags::POLLOUT),
            ];
            if !wait(&mut fds, stall)? {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for StreamOut {
    fn drop(&mut self) {
        self.conn.socket.end_writing();
        self.desk.streams.fetch_sub(1, Ordering::Relaxed);
        metrics::HTTP_STREAMS.down();
    }
}

/// Starts the stream's thread, or tells the caller that there are too many.
pub(super) fn start(desk: &Arc<Desk>, conn: Box<Conn>, stream: Stream, manner: Manner) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    if desk.streams.fetch_add(1, Ordering::Relaxed) >= HTTP_STREAMS_MAX {
        desk.streams.fetch_sub(1, Ordering::Relaxed);
        metrics::HTTP_OVERLOADS.up();
        desk.refuse(conn, &Refusal::Busy, Manner { after: After::Linger, ..manner });
        return;
    }
    metrics::HTTP_STREAMS.up();
    let mut out = StreamOut { conn, desk: Arc::clone(desk) };
    let name = format!("http-stream-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let started = threads::spawn(name, STACK_BYTES, move || {
        let mut stream = stream;
        if let Some(Err(reply)) = stream.first.take().map(|first| first()) {
            let _ = out.write_all(&reply.encode(Manner { after: After::Close, ..manner }));
            return;
        }
        if out.write_all(&stream.head()).is_ok() && !manner.bodiless {
            (stream.writer)(&mut out);
        }
    });
    if let Err(error) = started {
        metrics::HTTP_OVERLOADS.up();
        log::warn!("no thread for a stream: {error}");
    }
}
