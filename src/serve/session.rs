//! WebSocket sessions (design D2): one thread each, which waits in one `poll` for its peer, for what
//! it stands between, and for the stop. Pings are answered while either side is slow; what a peer
//! does not take is bounded by the handler, which asks [`Socket::is_clogged`] before it reads more.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message as Frame, WebSocket};

use super::conn::{Conn, wait};
use super::desk::Desk;
use super::refusal::Refusal;
use super::reply::{After, Manner};
use super::upgrade;
use crate::limits::{
    SESSION_FRAMES_A_TURN, SESSION_HANDED_BYTES_MAX, SESSION_INPUT_BYTES_MAX, SESSION_INPUT_STALL,
    SESSION_LINGER, SESSION_LINGER_AT_STOP, SESSION_MESSAGE_BYTES_MAX, SESSION_OUTPUT_BYTES_MAX,
    SESSION_PING_EVERY, SESSION_READ_BYTES, SESSION_READS_A_TURN, SESSION_REASON_BYTES_MAX,
    SESSION_SILENCE_MAX, SESSIONS_MAX, STACK_BYTES,
};
use crate::{metrics, threads};

/// Close codes (RFC 6455 7.4.1).
pub const NORMAL: u16 = 1000;
pub const GOING_AWAY: u16 = 1001;
pub const PROTOCOL_ERROR: u16 = 1002;
pub const NOT_UTF8: u16 = 1007;
pub const POLICY: u16 = 1008;
pub const TOO_BIG: u16 = 1009;
pub const INTERNAL_ERROR: u16 = 1011;

type Handler = Box<dyn FnOnce(&mut Socket) + Send>;

/// What a handler returns to talk over a WebSocket.
pub struct Session {
    kind: &'static str,
    run: Handler,
}

impl Session {
    /// `run` gets a thread `ws-<kind>-<number>`; when it returns the WebSocket closes.
    pub fn new(kind: &'static str, run: impl FnOnce(&mut Socket) + Send + 'static) -> Session {
        Session { kind, run: Box::new(run) }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A message of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Binary(Vec<u8>),
}

/// Something beside the WebSocket that a session waits for.
#[derive(Debug)]
pub struct Source<'f> {
    pub fd: BorrowedFd<'f>,
    pub wanted: PollFlags,
    /// What it is ready for; filled by [`Socket::wait`].
    pub ready: PollFlags,
}

impl<'f> Source<'f> {
    /// Waits for `wanted` on `fd`; with nothing wanted not even for its end.
    pub fn new(fd: BorrowedFd<'f>, wanted: PollFlags) -> Source<'f> {
        Source { fd, wanted, ready: PollFlags::empty() }
    }
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A message has come, a source is ready, or the peer has taken what clogged.
    Ready,
    /// The time has come.
    Elapsed,
    /// The peer has gone, broke the protocol, or was silent for too long.
    PeerLeft,
    /// The runner stops.
    Stopping,
}

/// A session's WebSocket. Nothing here blocks but [`Socket::wait`].
pub struct Socket {
    stream: WebSocket<Stream>,
    desk: Arc<Desk>,
    input: VecDeque<Message>,
    input_bytes: usize,
    /// Messages came that no wait has told of yet.
    input_is_news: bool,
    /// Since when there has been no room for input.
    input_full_since: Option<Instant>,
    output: VecDeque<Frame>,
    /// Of what is in `output`, and of what tungstenite holds.
    output_bytes: usize,
    handed_bytes: usize,
    pinged: Instant,
    is_over: bool,
    /// The peer broke the protocol: nothing it sends has a meaning any more.
    is_broken: bool,
    /// There may be more to take than one turn did.
    has_more: bool,
    farewell: Option<(u16, String)>,
    /// With what the peer has closed, if it said so.
    parting_code: Option<u16>,
    /// Goodbye is said.
    has_parted: bool,
}

impl Socket {
    fn new(conn: Box<Conn>, desk: Arc<Desk>) -> Socket {
        let mut conn = conn;
        let ahead = std::mem::take(&mut conn.read);
        let config = WebSocketConfig::default()
            .read_buffer_size(SESSION_READ_BYTES)
            // Everything is handed on at once; what the peer does not take stays here.
            .write_buffer_size(0)
            // Answers to the pings of a peer that never reads.
            .max_write_buffer_size(SESSION_HANDED_BYTES_MAX)
            .max_message_size(Some(SESSION_MESSAGE_BYTES_MAX))
            .max_frame_size(Some(SESSION_MESSAGE_BYTES_MAX));
        let now = Instant::now();
        let stream = Stream { conn, heard: now, is_full: false, reads_left: 0 };
        Socket {
            stream: WebSocket::from_partially_read(stream, ahead, Role::Server, Some(config)),
            desk,
            input: VecDeque::new(),
            input_bytes: 0,
            input_is_news: false,
            input_full_since: None,
            output: VecDeque::new(),
            output_bytes: 0,
            handed_bytes: 0,
            pinged: now,
            is_over: false,
            is_broken: false,
            has_more: false,
            farewell: None,
            parting_code: None,
            has_parted: false,
        }
    }

    /// Waits until a message has come, one of `sources` is ready, `until` has come, or it is over.
    /// Messages that were left where they are wake nobody again.
    pub fn wait(&mut self, sources: &mut [Source<'_>], until: Option<Instant>) -> Turn {
        let was_clogged = self.is_clogged();
        loop {
            self.flush();
            self.fetch();
            self.keep_alive();
            let is_news = std::mem::take(&mut self.input_is_news);
            let has_room_again = was_clogged && !self.is_clogged();
            if self.is_over && !is_news {
                return Turn::PeerLeft;
            }
            if self.desk.is_stopping() {
                return Turn::Stopping;
            }
            let now = Instant::now();
            let at_once = is_news || has_room_again;
            let is_busy = at_once || self.has_more;
            let mut wake = if is_busy { now } else { self.next_look(now) };
            wake = until.map_or(wake, |until| until.min(wake));
            if self.poll(sources, wake, true) || at_once {
                return Turn::Ready;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Turn::Elapsed;
            }
        }
    }

    /// The next message of the peer that is here already.
    pub fn receive(&mut self) -> Option<Message> {
        let message = self.input.pop_front()?;
        self.input_bytes -= message.bytes();
        Some(message)
    }

    /// Whether a message is here that has not been received.
    pub fn has_message(&self) -> bool {
        !self.input.is_empty()
    }

    /// Sends a text, or keeps it until the peer takes it.
    pub fn send_text(&mut self, text: impl Into<String>) {
        self.send(Frame::text(text.into()));
    }

    /// Sends bytes, or keeps them until the peer takes them.
    pub fn send_binary(&mut self, bytes: Vec<u8>) {
        self.send(Frame::binary(bytes));
    }

    /// Whether nothing more should be read for the peer: it has much to take already, or has left.
    pub fn is_clogged(&self) -> bool {
        self.is_over || self.output_bytes + self.handed_bytes > SESSION_OUTPUT_BYTES_MAX
    }

    /// Whether the peer has left by its own goodbye, 1000: it does not mean to come back.
    pub fn has_taken_leave(&self) -> bool {
        self.parting_code == Some(NORMAL)
    }

    /// With what the WebSocket closes when the handler returns; otherwise it is 1000.
    pub fn close(&mut self, code: u16, reason: impl Into<String>) {
        self.farewell = Some((code, reason.into()));
    }

    /// Says goodbye now, where the handler has more to do before it returns. Nothing is sent after it.
    pub fn say_goodbye(&mut self) {
        if self.has_parted || (self.is_over && self.farewell.is_none()) {
            return;
        }
        let fallback = match self.desk.is_stopping() {
            true => (GOING_AWAY, "the runner stops".to_owned()),
            false => (NORMAL, String::new()),
        };
        let (code, mut reason) = self.farewell.take().unwrap_or(fallback);
        while reason.len() > SESSION_REASON_BYTES_MAX {
            reason.pop();
        }
        self.is_over = false;
        self.send(Frame::Close(Some(CloseFrame { code: code.into(), reason: reason.into() })));
        self.has_parted = true;
    }

    fn send(&mut self, frame: Frame) {
        if self.is_over || self.has_parted {
            return;
        }
        self.output_bytes += frame.len();
        self.output.push_back(frame);
        self.flush();
    }

    /// Gives the kernel what it takes.
    fn flush(&mut self) {
        while !self.is_over {
            match self.stream.flush() {
                Ok(()) => self.handed_bytes = 0,
                Err(error) => return self.heed(&error),
            }
            let Some(frame) = self.output.pop_front() else { return };
            self.output_bytes -= frame.len();
            self.handed_bytes = frame.len();
            if let Err(error) = self.stream.write(frame) {
                self.heed(&error);
            }
        }
    }

    /// Takes what has come, as far as there is room: frames inside tungstenite wake no poll.
    fn fetch(&mut self) {
        self.has_more = false;
        self.stream.get_mut().reads_left = SESSION_READS_A_TURN;
        for turn in 0.. {
            if self.is_over || self.input_bytes >= SESSION_INPUT_BYTES_MAX {
                break;
            }
            self.input_full_since = None;
            // A peer that sends without end must not keep us from everything else.
            self.has_more = turn >= SESSION_FRAMES_A_TURN;
            if self.has_more {
                return;
            }
            let message = match self.stream.read() {
                Ok(Frame::Text(text)) => Message::Text(text.as_str().to_owned()),
                Ok(Frame::Binary(bytes)) => Message::Binary(bytes.into()),
                Ok(Frame::Close(frame)) => {
                    self.parting_code = frame.map(|frame| frame.code.into());
                    continue;
                }
                Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_)) => continue,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    self.has_more = self.stream.get_ref().reads_left == 0;
                    return;
                }
                Err(error) => return self.heed(&error),
            };
            self.input_bytes += message.bytes();
            self.input.push_back(message);
            self.input_is_news = true;
        }
        if !self.is_over {
            // Pings behind it are not seen; a peer waits 20 s for their answers (contract 2).
            let since = *self.input_full_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= SESSION_INPUT_STALL {
                self.close(INTERNAL_ERROR, "input is not taken");
                self.is_over = true;
            }
        }
    }

    fn heed(&mut self, error: &Error) {
        match error {
            Error::Io(error) if error.kind() == ErrorKind::WouldBlock => {}
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => self.is_over = true,
            Error::Protocol(_) => self.break_off(PROTOCOL_ERROR, error),
            Error::Utf8(_) => self.break_off(NOT_UTF8, error),
            Error::Capacity(_) => self.break_off(TOO_BIG, error),
            _ => self.is_over = true,
        }
    }

    fn break_off(&mut self, code: u16, error: &Error) {
        (self.is_over, self.is_broken) = (true, true);
        self.close(code, error.to_string());
    }

    /// Pings a peer that was not heard of, and gives one up that stays silent.
    fn keep_alive(&mut self) {
        let silent = self.stream.get_ref().heard.elapsed();
        // Unread input has a limit of its own.
        if silent >= SESSION_SILENCE_MAX && self.input_full_since.is_none() {
            self.is_over = true;
        } else if silent >= SESSION_PING_EVERY && self.pinged.elapsed() >= SESSION_PING_EVERY {
            self.pinged = Instant::now();
            // Before what waits: a peer that takes it slowly is to answer in time.
            self.output.push_front(Frame::Ping(Default::default()));
            self.flush();
        }
    }

    fn next_look(&self, now: Instant) -> Instant {
        let heard = self.stream.get_ref().heard;
        let ping = (heard + SESSION_PING_EVERY).max(self.pinged + SESSION_PING_EVERY);
        let silence = heard + SESSION_SILENCE_MAX;
        let next = match self.input_full_since {
            Some(since) => ping.min(since + SESSION_INPUT_STALL),
            None => ping.min(silence),
        };
        // A time that has passed and changes nothing must not make a loop of it.
        next.max(now + Duration::from_millis(1))
    }

    /// Whether one of `sources` was ready before `until`.
    fn poll(&mut self, sources: &mut [Source<'_>], until: Instant, hears_stop: bool) -> bool {
        let mut wanted = PollFlags::empty();
        if self.input_full_since.is_none() {
            wanted |= PollFlags::POLLIN;
        }
        // Full without anything of ours: of answers to pings.
        let is_full = self.stream.get_ref().is_full;
        if is_full || self.handed_bytes > 0 || !self.output.is_empty() {
            wanted |= PollFlags::POLLOUT;
        }
        let socket = PollFd::new(self.stream.get_ref().conn.socket.as_fd(), wanted);
        let stop = if hears_stop { PollFlags::POLLIN } else { PollFlags::empty() };
        let bell = PollFd::new(self.desk.stop_bell.as_fd(), stop);
        // The end of a source wakes us whatever is wanted of it: of one that can't be heeded now
        // that would be again and again.
        let heeded = sources.iter().filter(|source| !source.wanted.is_empty());
        let fds = heeded.map(|source| PollFd::new(source.fd, source.wanted));
        let mut fds: Vec<PollFd<'_>> = [socket, bell].into_iter().chain(fds).collect();
        // It fails for want of memory only; then nothing is ready.
        let _ = wait(&mut fds, until);
        let ready: Vec<PollFlags> =
            fds[2..].iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        let broken = PollFlags::POLLERR | PollFlags::POLLHUP;
        let is_broken = fds[0].revents().is_some_and(|events| events.intersects(broken));
        drop(fds);
        // Where nothing is read the end would not be seen, and would wake us again and again.
        if is_broken && self.input_full_since.is_some() {
            self.is_over = true;
        }
        sources.iter_mut().for_each(|source| source.ready = PollFlags::empty());
        let heeded = sources.iter_mut().filter(|source| !source.wanted.is_empty());
        heeded.zip(&ready).for_each(|(source, ready)| source.ready = *ready);
        ready.iter().any(|ready| !ready.is_empty())
    }

    /// Says goodbye, and gives the peer a moment to hear what was sent before.
    fn leave(&mut self) {
        self.say_goodbye();
        let mut until = Instant::now() + SESSION_LINGER;
        let mut hears_stop = true;
        while !self.is_over && Instant::now() < until {
            if hears_stop && self.desk.is_stopping() {
                hears_stop = false;
                until = until.min(Instant::now() + SESSION_LINGER_AT_STOP);
            }
            if self.is_broken {
                self.is_over = self.stream.get_mut().discard();
            } else {
                self.fetch();
            }
            self.input.clear();
            self.input_bytes = 0;
            self.flush();
            if !self.is_over && !self.has_more {
                self.poll(&mut [], until, hears_stop);
            }
        }
    }
}

/// What a message takes beside its content: an empty one is not nothing.
const MESSAGE_OWN_BYTES: usize = 64;

impl Message {
    fn bytes(&self) -> usize {
        match self {
            Message::Text(text) => MESSAGE_OWN_BYTES + text.len(),
            Message::Binary(bytes) => MESSAGE_OWN_BYTES + bytes.len(),
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.desk.sessions.fetch_sub(1, Ordering::Relaxed);
        metrics::SESSIONS.down();
    }
}

/// The connection as tungstenite wants it.
struct Stream {
    conn: Box<Conn>,
    /// When the peer was last heard of.
    heard: Instant,
    /// The kernel had no room for more: when it has again, the peer has taken something.
    is_full: bool,
    /// In this turn. A message may have fragments without end, which tungstenite reads in one go.
    reads_left: usize,
}

impl Stream {
    /// Throws away what has come; true at the end.
    fn discard(&self) -> bool {
        let mut scratch = [0; 4096];
        // Bounded: the caller comes again.
        for _ in 0..SESSION_FRAMES_A_TURN {
            match self.conn.socket.receive(&mut scratch) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
        false
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.reads_left.checked_sub(1);
        self.reads_left = left.ok_or(ErrorKind::WouldBlock)?;
        let read = self.conn.socket.receive(into)?;
        self.heard = Instant::now();
        Ok(read)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.conn.socket.send(&[IoSlice::new(bytes)]);
        match &sent {
            Ok(_) if std::mem::take(&mut self.is_full) => self.heard = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_full = true,
            Ok(_) | Err(_) => {}
        }
        sent
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the session's thread, or tells the caller that there are too many.
pub(super) fn start(
    desk: &Arc<Desk>,
    conn: Box<Conn>,
    key: &str,
    session: Session,
    manner: Manner,
) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    if desk.sessions.fetch_add(1, Ordering::Relaxed) >= SESSIONS_MAX {
        desk.sessions.fetch_sub(1, Ordering::Relaxed);
        metrics::HTTP_OVERLOADS.up();
        desk.refuse(conn, &Refusal::Busy, Manner { after: After::Linger, ..manner });
        return;
    }
    metrics::SESSIONS.up();
    metrics::SESSIONS_OPENED.up();
    let head = upgrade::accept(key);
    let mut socket = Socket::new(conn, Arc::clone(desk));
    let name = format!("ws-{}-{}", session.kind, NUMBER.fetch_add(1, Ordering::Relaxed));
    let started = threads::spawn(name, STACK_BYTES, move || {
        let conn = &socket.stream.get_ref().conn;
        if conn.socket.send_all(&head, &[], &socket.desk.patience).is_err() {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| (session.run)(&mut socket))).is_err() {
            metrics::THREAD_PANICS.up();
            log::error!("the handler of a {} session panicked", session.kind);
            socket.close(INTERNAL_ERROR, "Internal Server Error");
        }
        socket.leave();
    });
    if let Err(error) = started {
        metrics::HTTP_OVERLOADS.up();
        log::warn!("no thread for a session: {error}");
    }
}
