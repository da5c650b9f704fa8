//! The door: one thread that accepts, collects requests as they come and hands whole ones to the
//! line. It alone waits on the epoll set; it never blocks on a peer and never runs a handler.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::conn::{Census, Conn, Peer, Socket};
use super::desk::Desk;
use super::listen::Listener;
use super::lobby::{Seat, Stage, Token};
use super::refusal::Refusal;
use super::reply::Manner;
use crate::limits::{
    HTTP_ACCEPT_PAUSE, HTTP_ACCEPTS_PER_TURN, HTTP_DRAIN, HTTP_HEAD_BYTES_MAX, HTTP_SWEEP,
};
use crate::metrics;

/// Events taken from the kernel at a time.
const EVENTS_PER_TURN: usize = 64;
/// While stopping, the door looks this often whether all is done.
const DRAIN_TURN: Duration = Duration::from_millis(10);

/// What the door's thread owns.
pub(super) struct Door {
    desk: Arc<Desk>,
    listeners: Vec<Listener>,
    census: Arc<Census>,
    /// Given up for a moment to tell a caller that there are no file descriptors left.
    spare: Option<File>,
    /// Accepting rests until then.
    resting_until: Option<Instant>,
    swept: Instant,
    scratch: Box<[u8]>,
}

impl Door {
    /// Prepares to listen. Nothing is accepted before [`Door::keep`].
    pub fn new(desk: Arc<Desk>, listeners: Vec<Listener>) -> io::Result<Door> {
        let bell = EpollEvent::new(EpollFlags::EPOLLIN, Token::BELL);
        desk.lobby.epoll.add(&desk.stop_bell, bell)?;
        for (listener, token) in listeners.iter().zip(Token::LISTENER..) {
            desk.lobby.epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        Ok(Door {
            desk,
            listeners,
            census: Arc::default(),
            spare: spare(),
            resting_until: None,
            swept: Instant::now(),
            scratch: vec![0; HTTP_HEAD_BYTES_MAX].into(),
        })
    }

    /// Keeps the door until the stop, then lets everybody out.
    pub fn keep(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        while !self.desk.is_stopping() {
            let timeout = self.timeout();
            self.turn(&mut events, timeout);
            let now = Instant::now();
            if self.resting_until.is_some_and(|until| now >= until) {
                self.listen(EpollFlags::EPOLLIN);
                self.resting_until = None;
            }
            if now >= self.swept + HTTP_SWEEP {
                self.swept = now;
                self.sweep(now);
            }
        }
        self.drain(&mut events);
    }

    /// Nobody here, nothing to look after: then the door sleeps until somebody comes.
    fn timeout(&self) -> Option<Duration> {
        let sweep = (!self.desk.lobby.is_empty()).then_some(HTTP_SWEEP);
        self.resting_until.map(|_| HTTP_ACCEPT_PAUSE).or(sweep)
    }

    fn turn(&mut self, events: &mut [EpollEvent], timeout: Option<Duration>) {
        let timeout = timeout.map(EpollTimeout::try_from).and_then(Result::ok);
        let timeout = timeout.unwrap_or(EpollTimeout::NONE);
        // EINTR is a turn without events.
        let count = self.desk.lobby.epoll.wait(events, timeout).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                Token::BELL => {}
                token if token >= Token::LISTENER => {
                    self.accept_some((token - Token::LISTENER) as usize);
                }
                token => {
                    let Some(seat) = self.desk.lobby.take(Token::from_event(token)) else {
                        continue;
                    };
                    if let Some((conn, deadline)) = self.attend(seat)
                        && let Some(job) = self.desk.advance(conn, deadline)
                    {
                        self.desk.enqueue(job);
                    }
                }
            }
        }
    }

    /// Does what a seated connection waited for. It comes back if it may hold a request now, with
    /// the deadline of the one it has begun.
    fn attend(&mut self, seat: Seat) -> Option<(Box<Conn>, Option<Instant>)> {
        let Seat { mut conn, stage, deadline } = seat;
        match stage {
            Stage::Head => {
                let begun = !conn.read.is_empty();
                self.receive(&mut conn)?;
                Some((conn, begun.then_some(deadline)))
            }
            Stage::Body(request) => {
                self.receive(&mut conn)?;
                if let Some(job) = self.desk.collect(conn, request, Some(deadline)) {
                    self.desk.enqueue(job);
                }
                None
            }
            // Only the peer's end shows here; whoever works on the order needs no caller.
            Stage::Parked(_) => None,
            Stage::Answering { bytes, sent, after } => {
                let conn = self.desk.lobby.send_rest(conn, bytes, sent, after)?;
                Some((conn, None))
            }
            Stage::Lingering { bytes_left } => {
                let count = self.receive(&mut conn)?;
                conn.read.clear();
                let bytes_left = bytes_left.checked_sub(count)?;
                self.desk.lobby.seat(conn, Stage::Lingering { bytes_left }, deadline);
                None
            }
        }
    }

    /// How many bytes came, if the peer is still there.
    fn receive(&mut self, conn: &mut Conn) -> Option<usize> {
        match conn.receive(&mut self.scratch) {
            Ok(0) => None,
            Ok(count) => Some(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
            Err(_) => None,
        }
    }

    fn accept_some(&mut self, listener: usize) {
        for _ in 0..HTTP_ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(listener) else { return };
            match listener.accept() {
                Ok((socket, peer)) => self.welcome(socket, peer),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        if self.spare.take().is_none() {
                            return self.rest();
                        }
                        if let Ok((socket, _)) = listener.accept() {
                            turn_away(&socket);
                        }
                        self.spare = spare();
                    }
                    Some(libc::EAGAIN) => return,
                    // It was gone before it was accepted.
                    Some(libc::ECONNABORTED) => {}
                    // Memory, a firewall: nothing that asking again at once would help.
                    _ => return self.rest(),
                },
            }
        }
    }

    fn welcome(&self, socket: Socket, peer: Peer) {
        let exempt = self.desk.access.is_exempt(peer);
        let Some(pass) = self.census.admit(peer, exempt) else {
            metrics::HTTP_OVERLOADS.up();
            return turn_away(&socket);
        };
        let deadline = Instant::now() + self.desk.patience.head;
        self.desk.lobby.seat(Conn::new(socket, peer, pass), Stage::Head, deadline);
    }

    /// File descriptors come back when somebody closes one, which no event tells.
    fn rest(&mut self) {
        metrics::HTTP_ACCEPT_PAUSES.up();
        self.listen(EpollFlags::empty());
        self.resting_until = Some(Instant::now() + HTTP_ACCEPT_PAUSE);
        self.spare = self.spare.take().or_else(spare);
    }

    fn listen(&self, interest: EpollFlags) {
        for (listener, token) in self.listeners.iter().zip(Token::LISTENER..) {
            let modified =
                self.desk.lobby.epoll.modify(listener, &mut EpollEvent::new(interest, token));
            if let Err(error) = modified {
                log::error!("epoll does not know a listener any more: {error}");
            }
        }
    }

    /// Ends the wait of everybody whose time is over.
    fn sweep(&self, now: Instant) {
        for Seat { conn, stage, .. } in self.desk.lobby.take_all(|seat| seat.deadline <= now) {
            match stage {
                Stage::Head if conn.read.is_empty() => {}
                Stage::Head | Stage::Body(_) => {
                    self.desk.refuse(conn, &Refusal::Late, Manner::CONFUSED);
                }
                Stage::Parked(manner) => {
                    self.desk.answer_parked(conn, &Refusal::TimedOut.reply(), manner);
                }
                Stage::Answering { .. } | Stage::Lingering { .. } => {}
            }
        }
    }

    /// Lets what runs finish, for a moment; then tells parked callers that nothing more comes.
    fn drain(&mut self, events: &mut [EpollEvent]) {
        let end = Instant::now() + HTTP_DRAIN;
        self.listeners.clear();
        let _ = self.desk.lobby.epoll.delete(&self.desk.stop_bell);
        loop {
            drop(self.desk.lobby.take_all(|seat| matches!(seat.stage, Stage::Head)));
            let everybody_left = self.desk.lobby.is_empty();
            let workers_left = self.desk.workers.load(Ordering::Relaxed) == 0;
            if Instant::now() >= end || (everybody_left && workers_left) {
                break;
            }
            self.turn(events, Some(DRAIN_TURN));
        }
        for Seat { conn, stage, .. } in self.desk.lobby.take_all(|_| true) {
            if let Stage::Parked(manner) = stage {
                self.desk.answer_parked(conn, &Refusal::Stopping.reply(), manner);
            }
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Says 503 to a connection that can't be kept, if the kernel takes it at once.
fn turn_away(socket: &Socket) {
    let answer = Refusal::Busy.reply().encode(Manner::CONFUSED);
    let _ = socket.send(&[IoSlice::new(&answer)]);
    socket.end_writing();
}
