//! The door: one thread that accepts, ends what takes too long, and stands in when no worker
//! looks after the lobby: then it reads requests into the line, so that urgent ones reach the
//! reserved workers. It never blocks on a peer and never runs a handler.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::conn::{Census, Conn, Peer, Socket};
use super::desk::Desk;
use super::listen::Listener;
use super::lobby::{Seat, Stage};
use super::refusal::Refusal;
use super::reply::Manner;
use crate::limits::{
    HTTP_ACCEPT_PAUSE, HTTP_ACCEPTS_PER_TURN, HTTP_BACKLOG, HTTP_DRAIN, HTTP_DRAIN_TURN,
    HTTP_EVENTS_PER_TURN, HTTP_HEAD_BYTES_MAX, HTTP_HELP, HTTP_LAST_HEARING, HTTP_SWEEP,
};
use crate::metrics;

/// Events of the two bells; listeners have their place in the list.
const STOP: u64 = u64::MAX;
const HELP: u64 = u64::MAX - 1;

/// What the door's thread owns.
pub(super) struct Door {
    desk: Arc<Desk>,
    epoll: Epoll,
    listeners: Vec<Listener>,
    census: Arc<Census>,
    /// Given up for a moment to tell a caller that there are no file descriptors left.
    spare: Option<File>,
    /// Accepting rests until then.
    resting_until: Option<Instant>,
    swept: Instant,
    /// What workers had attended to when the door last looked.
    attended: u64,
    scratch: Box<[u8]>,
}

impl Door {
    /// Prepares to listen. Nothing is accepted before [`Door::keep`].
    pub fn new(desk: Arc<Desk>, listeners: Vec<Listener>) -> io::Result<Door> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&desk.stop_bell, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        epoll.add(&desk.help_bell, EpollEvent::new(EpollFlags::EPOLLIN, HELP))?;
        for (listener, number) in listeners.iter().zip(0..) {
            epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        }
        Ok(Door {
            desk,
            epoll,
            listeners,
            census: Arc::default(),
            spare: spare(),
            resting_until: None,
            swept: Instant::now(),
            attended: 0,
            scratch: vec![0; HTTP_HEAD_BYTES_MAX].into(),
        })
    }

    /// Keeps the door until the stop, then lets everybody out.
    pub fn keep(mut self) {
        let mut events = [EpollEvent::empty(); HTTP_EVENTS_PER_TURN];
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
        if self.desk.door_helps.load(Ordering::SeqCst) {
            Some(HTTP_HELP)
        } else if self.resting_until.is_some() {
            Some(HTTP_ACCEPT_PAUSE)
        } else {
            (!self.census.is_empty()).then_some(HTTP_SWEEP)
        }
    }

    fn turn(&mut self, events: &mut [EpollEvent], timeout: Option<Duration>) {
        let timeout = timeout.map(EpollTimeout::try_from).and_then(Result::ok);
        // EINTR is a turn without events.
        let count = self.epoll.wait(events, timeout.unwrap_or(EpollTimeout::NONE)).unwrap_or(0);
        self.desk.door_turns.fetch_add(1, Ordering::SeqCst);
        // Whoever has just asked gets a moment: busy is not stuck.
        let mut look = self.desk.door_helps.load(Ordering::SeqCst);
        for event in &events[..count] {
            match event.data() {
                STOP => {}
                HELP => {
                    let _ = self.desk.help_bell.read();
                    look = false;
                }
                listener => self.accept_some(listener as usize),
            }
        }
        if look {
            self.help(events);
        }
    }

    /// Takes care that somebody attends to the lobby. Workers that come and go are let alone.
    fn help(&mut self, events: &mut [EpollEvent]) {
        if self.desk.lobby.is_attended() {
            self.desk.door_helps.store(false, Ordering::SeqCst);
            // The last may have left between these lines, and found that help was asked for.
            if self.desk.lobby.is_attended() {
                return;
            }
            self.desk.door_helps.store(true, Ordering::SeqCst);
        }
        let attended = self.desk.lobby.attended();
        if attended != self.attended {
            self.attended = attended;
            return;
        }
        if self.desk.line.call() {
            return;
        }
        for seat in self.desk.lobby.stand_in(events) {
            if let Some(job) = self.desk.attend(seat, &mut self.scratch) {
                self.desk.enqueue(job);
            }
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
        for (listener, number) in self.listeners.iter().zip(0..) {
            let mut event = EpollEvent::new(interest, number);
            if let Err(error) = self.epoll.modify(listener, &mut event) {
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
                Stage::Parked { manner, late } => self.desk.answer_parked(conn, *late, manner),
                Stage::Answering { .. } | Stage::Lingering { .. } => {}
            }
        }
    }

    /// Lets everybody out: what runs is finished, whoever has just connected is heard, who is idle
    /// is closed, and parked callers are told that nothing more comes.
    fn drain(&mut self, events: &mut [EpollEvent]) {
        let begun = Instant::now();
        let (hear_until, end) = (begun + HTTP_LAST_HEARING, begun + HTTP_DRAIN);
        self.accept_the_last();
        self.listeners.clear();
        let _ = self.epoll.delete(&self.desk.stop_bell);
        loop {
            let now = Instant::now();
            self.tell_the_parked();
            self.close_the_idle(now < hear_until);
            self.refuse_the_unfinished(now);
            if now >= end || self.desk.is_empty() {
                break;
            }
            // All workers may be stuck.
            self.desk.door_helps.store(true, Ordering::SeqCst);
            self.turn(events, Some(HTTP_DRAIN_TURN));
        }
        self.desk.dismiss();
        self.tell_the_parked();
    }

    /// Takes who has connected already: closing the listener would reset them. On a socket that
    /// lives on they wait for our successor.
    fn accept_the_last(&mut self) {
        for number in 0..self.listeners.len() {
            let listener = &mut self.listeners[number];
            if listener.outlives_us() {
                continue;
            }
            if let Err(error) = listener.invite_no_more() {
                log::warn!("who connects in this moment is reset: {error}");
            }
            // As many as the kernel has kept for us; those who come meanwhile are not all awaited.
            for _ in 0..=HTTP_BACKLOG as usize / HTTP_ACCEPTS_PER_TURN {
                self.accept_some(number);
            }
        }
    }

    fn tell_the_parked(&self) {
        for Seat { conn, stage, .. } in
            self.desk.lobby.take_all(|s| matches!(s.stage, Stage::Parked { .. }))
        {
            if let Stage::Parked { manner, .. } = stage {
                self.desk.answer_parked(conn, Refusal::Stopping.reply(), manner);
            }
        }
    }

    /// Tells who has had its hearing and brings half a request that nothing comes of it: all others would
    /// wait for a door because of it.
    fn refuse_the_unfinished(&self, now: Instant) {
        let had_hearing = now + self.desk.patience.head - HTTP_LAST_HEARING;
        let unfinished = |seat: &Seat| match &seat.stage {
            Stage::Head => !seat.conn.read.is_empty() && seat.deadline <= had_hearing,
            Stage::Body(_) => seat.deadline <= had_hearing,
            Stage::Parked { .. } | Stage::Answering { .. } | Stage::Lingering { .. } => false,
        };
        for Seat { conn, .. } in self.desk.lobby.take_all(unfinished) {
            self.desk.refuse(conn, &Refusal::Stopping, Manner::CONFUSED);
        }
    }

    /// Closes who waits between two requests, unless the next has come this moment. While `hearing`,
    /// who has not asked anything yet may still do so.
    fn close_the_idle(&mut self, hearing: bool) {
        let idle = |seat: &Seat| match &seat.stage {
            Stage::Head => seat.conn.read.is_empty() && (seat.conn.has_asked || !hearing),
            Stage::Lingering { .. } => !hearing,
            Stage::Parked { .. } | Stage::Body(_) | Stage::Answering { .. } => false,
        };
        for seat in self.desk.lobby.take_all(idle) {
            if let Some(job) = self.desk.attend_or_close(seat, &mut self.scratch) {
                self.desk.enqueue(job);
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
