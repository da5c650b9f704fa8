//! Where connections are while nobody works on them, and the epoll set that says when one needs
//! somebody. Resting workers wait here and take one connection at a time; a connection that was
//! taken is the taker's alone. While nobody rests, the door stands in (see `door`).

use std::io::{self, ErrorKind, IoSlice};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Patience;
use super::conn::Conn;
use super::desk::Request;
use super::reply::{After, Manner, Reply};
use crate::limits::{HTTP_LINGER_BYTES_MAX, HTTP_UNFINISHED_BYTES_MAX, HTTP_UNSENT_BYTES_MAX};
use crate::metrics;
use crate::threads::lock;

/// What a seated connection waits for.
#[derive(Debug)]
pub(super) enum Stage {
    /// A request head, or its rest.
    Head,
    /// The rest of a small body.
    Body(Box<Request>),
    /// An answer that somebody else is working on; `late` is said at the deadline.
    Parked { manner: Manner, late: Box<Reply> },
    /// Room to send the rest of an answer.
    Answering { bytes: Vec<u8>, sent: usize, after: After },
    /// The peer's end, after the answer to a request that was not read whole.
    Lingering { bytes_left: usize },
}

impl Stage {
    fn interest(&self) -> EpollFlags {
        let wanted = match self {
            Stage::Head | Stage::Body(_) | Stage::Lingering { .. } => EpollFlags::EPOLLIN,
            // A parked caller's next request waits in its socket; only its end is looked for.
            Stage::Parked { .. } => EpollFlags::EPOLLRDHUP,
            Stage::Answering { .. } => EpollFlags::EPOLLOUT,
        };
        wanted | EpollFlags::EPOLLONESHOT
    }
}

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Seat {
    pub conn: Box<Conn>,
    pub stage: Stage,
    pub deadline: Instant,
}

impl Seat {
    /// Bytes of an unfinished request.
    fn unfinished_bytes(&self) -> usize {
        match self.stage {
            Stage::Head | Stage::Body(_) => self.conn.read.capacity(),
            Stage::Parked { .. } | Stage::Answering { .. } | Stage::Lingering { .. } => 0,
        }
    }

    /// Bytes of an answer that its peer has not taken whole.
    fn unsent_bytes(&self) -> usize {
        match &self.stage {
            Stage::Answering { bytes, .. } => bytes.capacity(),
            _ => 0,
        }
    }
}

/// Names a seat; a later occupant of the same place has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    place: u32,
    turn: u32,
}

impl Token {
    fn to_event(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.place)
    }

    fn from_event(data: u64) -> Token {
        Token { place: data as u32, turn: (data >> 32) as u32 }
    }
}

/// The event of the kick; no seat has this place.
const KICK: u64 = u64::MAX;

/// The waiting room.
#[derive(Debug)]
pub(super) struct Lobby {
    epoll: Epoll,
    seats: Mutex<Seats>,
    patience: Patience,
    /// Workers that wait for an event.
    resting: AtomicUsize,
    /// Events that workers have taken, ever.
    attended: AtomicU64,
    /// Wakes one resting worker per count: the line has something for it.
    kick: EventFd,
}

/// How a worker's rest ended.
#[derive(Debug)]
pub(super) struct Rested {
    /// The connection that needs somebody; none after a kick.
    pub seat: Option<Seat>,
    /// Nobody rests any more.
    pub was_last: bool,
    /// The count of events taken, this one included.
    pub attended: u64,
}

#[derive(Debug, Default)]
struct Seats {
    places: Vec<Place>,
    free: Vec<u32>,
    unfinished_bytes: usize,
    unsent_bytes: usize,
}

#[derive(Debug)]
struct Place {
    turn: u32,
    seat: Option<Seat>,
}

impl Lobby {
    /// An empty room.
    pub fn new(patience: Patience) -> io::Result<Lobby> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let counting = EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let kick = EventFd::from_flags(counting)?;
        epoll.add(&kick, EpollEvent::new(EpollFlags::EPOLLIN, KICK))?;
        Ok(Lobby {
            epoll,
            seats: Mutex::default(),
            patience,
            resting: AtomicUsize::new(0),
            attended: AtomicU64::new(0),
            kick,
        })
    }

    /// Lets a worker rest until a connection needs it or somebody kicks. It does not rest at all
    /// if there `is_work` that was queued before it could be kicked.
    pub fn rest(&self, is_work: impl Fn() -> bool) -> Rested {
        self.resting.fetch_add(1, SeqCst);
        let mut events = [EpollEvent::empty()];
        let count = if is_work() {
            0
        } else {
            self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0)
        };
        let was_last = self.resting.fetch_sub(1, SeqCst) == 1;
        let attended = self.attended.fetch_add(1, SeqCst) + 1;
        let seat = events[..count].first().and_then(|event| match event.data() {
            KICK => {
                // Somebody else may have been faster.
                let _ = self.kick.read();
                None
            }
            data => self.take(Token::from_event(data)),
        });
        Rested { seat, was_last, attended }
    }

    /// Connections that need somebody now, without waiting, one for each of `events` at most.
    pub fn stand_in(&self, events: &mut [EpollEvent]) -> Vec<Seat> {
        let count = self.epoll.wait(events, EpollTimeout::ZERO).unwrap_or(0);
        // A kick is for a worker: taking it away could leave a job lying.
        let seats = events[..count].iter().filter(|event| event.data() != KICK);
        seats.filter_map(|event| self.take(Token::from_event(event.data()))).collect()
    }

    /// Wakes a resting worker, if there is one.
    pub fn kick(&self) {
        if self.resting.load(SeqCst) > 0 {
            self.kick_all(1);
        }
    }

    /// Wakes `workers`, those that rest now and those that will.
    pub fn kick_all(&self, workers: usize) {
        if let Err(error) = self.kick.write(workers as u64) {
            log::error!("resting workers can't be woken: {error}");
        }
    }

    /// Whether a worker waits for events.
    pub fn is_attended(&self) -> bool {
        self.resting.load(SeqCst) > 0
    }

    /// How many workers wait for events.
    pub fn resting(&self) -> usize {
        self.resting.load(SeqCst)
    }

    /// A count that grows when a worker takes an event.
    pub fn attended(&self) -> u64 {
        self.attended.load(SeqCst)
    }

    /// Lets `conn` wait until `deadline`. `None` if the kernel won't watch it: it is closed then.
    pub fn seat(&self, conn: Box<Conn>, stage: Stage, deadline: Instant) -> Option<Token> {
        let mut seats = self.seats();
        let token = seats.insert(Seat { conn, stage, deadline });
        // Under the lock: a socket that the door closed meanwhile could carry another's number.
        let seat = seats.places[token.place as usize].seat.as_mut()?;
        let mut event = EpollEvent::new(seat.stage.interest(), token.to_event());
        let watched = if seat.conn.watched {
            self.epoll.modify(&seat.conn.socket, &mut event)
        } else {
            self.epoll.add(&seat.conn.socket, event)
        };
        seat.conn.watched = true;
        if watched.is_err() {
            seats.remove(token);
            metrics::HTTP_OVERLOADS.up();
            return None;
        }
        let beyond: Vec<Seat> = std::iter::from_fn(|| seats.oldest_beyond_limit()).collect();
        drop(seats);
        for oldest in beyond {
            metrics::HTTP_OVERLOADS.up();
            drop(oldest);
        }
        Some(token)
    }

    /// Takes the connection if it still waits there.
    pub fn take(&self, token: Token) -> Option<Seat> {
        self.seats().remove(token)
    }

    /// Takes all that fit `wanted`.
    pub fn take_all(&self, wanted: impl Fn(&Seat) -> bool) -> Vec<Seat> {
        let mut seats = self.seats();
        let tokens: Vec<Token> =
            seats.taken().filter(|(_, seat)| wanted(seat)).map(|(token, _)| token).collect();
        tokens.into_iter().filter_map(|token| seats.remove(token)).collect()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        let seats = self.seats();
        seats.places.len() == seats.free.len()
    }

    /// Whether nobody here has begun a request that is not answered whole.
    pub fn is_quiet(&self) -> bool {
        self.seats().taken().all(|(_, seat)| match &seat.stage {
            Stage::Head => seat.conn.read.is_empty(),
            Stage::Parked { .. } | Stage::Lingering { .. } => true,
            Stage::Body(_) | Stage::Answering { .. } => false,
        })
    }

    /// Sends an answer without ever blocking: what the kernel does not take now is sent as the peer
    /// reads. The connection comes back if it may bring another request at once.
    pub fn answer(&self, conn: Box<Conn>, bytes: Vec<u8>, after: After) -> Option<Box<Conn>> {
        self.send_rest(conn, bytes, 0, after)
    }

    /// Goes on with an answer of which `sent` bytes have gone.
    pub fn send_rest(
        &self,
        conn: Box<Conn>,
        bytes: Vec<u8>,
        mut sent: usize,
        after: After,
    ) -> Option<Box<Conn>> {
        while sent < bytes.len() {
            match conn.socket.send(&[IoSlice::new(&bytes[sent..])]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let deadline = Instant::now() + self.patience.write_stall;
                    self.seat(conn, Stage::Answering { bytes, sent, after }, deadline);
                    return None;
                }
                Err(_) => return None,
            }
        }
        match after {
            After::KeepAlive => Some(conn),
            After::Close => None,
            After::Linger => {
                self.linger(conn);
                None
            }
        }
    }

    /// Closes `conn` in two steps, so that unread bytes don't turn the answer into a reset.
    fn linger(&self, mut conn: Box<Conn>) {
        conn.socket.end_writing();
        conn.read = Vec::new();
        let deadline = Instant::now() + self.patience.linger;
        self.seat(conn, Stage::Lingering { bytes_left: HTTP_LINGER_BYTES_MAX }, deadline);
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        lock(&self.seats)
    }
}

impl Seats {
    fn insert(&mut self, seat: Seat) -> Token {
        self.unfinished_bytes += seat.unfinished_bytes();
        self.unsent_bytes += seat.unsent_bytes();
        if let Stage::Parked { .. } = seat.stage {
            metrics::HTTP_PARKED.up();
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { turn: 0, seat: None });
            (self.places.len() - 1) as u32
        });
        let taken = &mut self.places[place as usize];
        taken.seat = Some(seat);
        Token { place, turn: taken.turn }
    }

    fn remove(&mut self, token: Token) -> Option<Seat> {
        let place = self.places.get_mut(token.place as usize)?;
        if place.turn != token.turn {
            return None;
        }
        let seat = place.seat.take()?;
        place.turn = place.turn.wrapping_add(1);
        self.free.push(token.place);
        self.unfinished_bytes -= seat.unfinished_bytes();
        self.unsent_bytes -= seat.unsent_bytes();
        if let Stage::Parked { .. } = seat.stage {
            metrics::HTTP_PARKED.down();
        }
        Some(seat)
    }

    fn taken(&self) -> impl Iterator<Item = (Token, &Seat)> {
        self.places.iter().zip(0..).filter_map(|(place, index)| {
            Some((Token { place: index, turn: place.turn }, place.seat.as_ref()?))
        })
    }

    /// Whoever has kept bytes longest goes when there are too many, of unfinished requests or of answers
    /// that are not taken: those who send a request in one go, and read, are through in milliseconds.
    fn oldest_beyond_limit(&mut self) -> Option<Seat> {
        let held: fn(&Seat) -> usize = if self.unfinished_bytes > HTTP_UNFINISHED_BYTES_MAX {
            Seat::unfinished_bytes
        } else if self.unsent_bytes > HTTP_UNSENT_BYTES_MAX {
            Seat::unsent_bytes
        } else {
            return None;
        };
        let holding = self.taken().filter(|(_, seat)| held(seat) > 0);
        let (token, _) = holding.min_by_key(|(_, seat)| seat.deadline)?;
        self.remove(token)
    }
}
