//! The HTTP/1.1 door (design D1, contrib/design/0001): accepts, collects whole requests without a
//! thread per connection, decides who may call, and runs rows on a few workers. Called by `app`;
//! knows nothing of tasks, and makes no outgoing connection.
//!
//! ```text
//!       accepts            new bytes                  whole request
//! door ─────────▶ lobby ─────────────▶ worker (desk) ───────────────▶ handler
//!                   ▲                     │
//!                   └─────────────────────┘ kept alive, parked, rest of a request or an answer
//! ```
//!
//! While every worker is stuck the door reads the lobby's requests into the line, from which the
//! reserved workers take the urgent ones.

pub mod access;
mod body;
pub mod call;
mod conn;
mod desk;
mod door;
pub mod head;
mod large;
mod line;
mod listen;
mod lobby;
pub mod park;
pub mod pool;
mod refusal;
pub mod reply;
pub mod route;
pub mod session;
pub mod stream;
mod upgrade;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

pub use self::access::Access;
pub use self::call::Call;
pub use self::conn::Peer;
pub use self::listen::{Passed, PassedFault, Sockets};
pub use self::park::Responder;
pub use self::reply::{Answer, Reply};
pub use self::route::{Audience, Method, Pace, Route, delete, get, post, put, socket};
pub use self::session::{Message, Session, Socket, Source, Turn};
pub use self::stream::{Stream, StreamOut, Woken};

use self::desk::Desk;
use self::door::Door;
use self::large::LargeBodies;
use self::line::Line;
use self::lobby::Lobby;
use self::route::Table;
use crate::stop::Stop;
use crate::{limits, threads};

/// What a server is started with.
#[derive(Debug)]
pub struct Setup {
    pub sockets: Sockets,
    /// Threads that run handlers, the reserved ones included; at least one more than those.
    pub workers: usize,
    pub access: Arc<Access>,
    pub patience: Patience,
}

/// How long peers may take. An embedder on slow links wants more than the defaults of `limits`.
#[derive(Clone, Debug)]
pub struct Patience {
    /// From a request's first byte to its last, if the door collects it.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// Until the rate of a body counts.
    pub body_grace: Duration,
    /// A body that a worker reads.
    pub body_deadline: Duration,
    /// Without the peer taking a byte of its answer.
    pub write_stall: Duration,
    /// An answer that a worker writes.
    pub write_deadline: Duration,
    /// A parked call of a slow row, and of another.
    pub parked_slow: Duration,
    pub parked: Duration,
    /// Closing after an early error.
    pub linger: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            head: limits::HTTP_HEAD_DEADLINE,
            idle: limits::HTTP_IDLE_DEADLINE,
            body_grace: limits::HTTP_BODY_GRACE,
            body_deadline: limits::HTTP_BODY_DEADLINE,
            write_stall: limits::HTTP_WRITE_STALL,
            write_deadline: limits::HTTP_WRITE_DEADLINE,
            parked_slow: limits::HTTP_PARKED_SLOW_DEADLINE,
            parked: limits::HTTP_PARKED_DEADLINE,
            linger: limits::HTTP_LINGER,
        }
    }
}

/// A running server. It ends by its [`Stop`].
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<Option<()>>>,
}

impl Server {
    /// Starts the door and its workers.
    ///
    /// # Errors
    /// The operating system refused a thread or a file descriptor.
    pub fn start<C: Send + Sync + 'static>(
        setup: Setup,
        routes: &'static [Route<C>],
        context: Arc<C>,
        stop: Stop,
    ) -> Result<Server, ServeError> {
        let Sockets { listeners, local_addr } = setup.sockets;
        let workers = setup.workers.max(limits::HTTP_WORKERS_RESERVED + 1);
        let desk = Arc::new(Desk {
            lobby: Lobby::new(setup.patience.clone()).map_err(ServeError::System)?,
            line: Line::new(),
            table: Table::of(routes),
            access: setup.access,
            patience: setup.patience,
            leaving: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            stop_bell: bell().map_err(ServeError::System)?,
            door_helps: AtomicBool::new(false),
            help_bell: bell().map_err(ServeError::System)?,
            attending: AtomicUsize::new(workers - limits::HTTP_WORKERS_RESERVED),
            attending_enough: thread::available_parallelism().map_or(1, NonZero::get).max(2),
            workers: AtomicUsize::new(workers),
            streams: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            large_bodies: LargeBodies::new(),
            door_turns: AtomicU64::new(0),
        });
        let door = Door::new(Arc::clone(&desk), listeners).map_err(ServeError::System)?;
        match start_threads(&desk, door, workers, routes, &context) {
            Ok(threads) => {
                let stopped = Arc::clone(&desk);
                stop.on_raise(move || stopped.stop());
                Ok(Server { local_addr, desk, threads })
            }
            Err(source) => {
                // Those that did start end with this.
                desk.stop();
                desk.dismiss();
                Err(ServeError::System(source))
            }
        }
    }

    /// Where TCP is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Goes on as before, but keeps no connection after its answer; and waits up to `wait` for a
    /// moment in which no request is under way. A stop is short then.
    pub fn settle(&self, wait: Duration) {
        let end = Instant::now() + wait;
        self.desk.leaving.store(true, Ordering::SeqCst);
        while !self.desk.is_quiet() && Instant::now() < end {
            thread::sleep(limits::JOIN_LOOK_AGAIN);
        }
    }

    /// Waits until everything has ended, after the stop was raised. False if something has not
    /// within `wait`: a handler, a stream or a session that hangs keeps its thread.
    pub fn join(&self, wait: Duration) -> bool {
        let end = Instant::now() + wait;
        loop {
            let ended = self.threads.iter().all(JoinHandle::is_finished)
                && self.desk.streams.load(Ordering::Relaxed) == 0
                && self.desk.sessions.load(Ordering::Relaxed) == 0;
            if ended || Instant::now() >= end {
                return ended;
            }
            thread::sleep(limits::JOIN_LOOK_AGAIN);
        }
    }

    /// For somebody else to ask whether the door still turns.
    pub fn pulse(&self) -> Pulse {
        Pulse { desk: Arc::clone(&self.desk) }
    }
}

/// Asks whether the door turns: a door that is stuck answers nobody.
#[derive(Debug)]
pub struct Pulse {
    desk: Arc<Desk>,
}

impl Pulse {
    /// How often the door has come round; and makes it come round once more.
    pub fn ask(&self) -> u64 {
        let turns = self.desk.door_turns.load(Ordering::SeqCst);
        // It fails when the door has heard none of 2^64 asks.
        let _ = self.desk.help_bell.write(1);
        turns
    }
}

fn start_threads<C: Send + Sync + 'static>(
    desk: &Arc<Desk>,
    door: Door,
    workers: usize,
    routes: &'static [Route<C>],
    context: &Arc<C>,
) -> io::Result<Vec<JoinHandle<Option<()>>>> {
    let mut started = Vec::with_capacity(workers + 1);
    for number in 0..workers {
        let (desk, context) = (Arc::clone(desk), Arc::clone(context));
        let reserved = number < limits::HTTP_WORKERS_RESERVED;
        started.push(threads::spawn(format!("http-{number}"), limits::STACK_BYTES, move || {
            if reserved {
                pool::work_urgent(&desk, routes, &context);
            } else {
                pool::work(&desk, routes, &context);
            }
        })?);
    }
    started.push(threads::spawn("door", limits::STACK_BYTES, move || door.keep())?);
    Ok(started)
}

fn bell() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

/// Why a server does not start.
#[derive(Debug)]
pub enum ServeError {
    /// The TCP address can't be listened on.
    Address { address: SocketAddr, source: io::Error },
    /// The socket file can't be made or examined.
    SocketFile { path: PathBuf, source: io::Error },
    /// Somebody answers there: another runner.
    SocketInUse { path: PathBuf },
    /// Something else lies there.
    NoSocketFile { path: PathBuf },
    /// A socket that the service manager calls `name`.
    Passed { name: String, fault: PassedFault },
    /// A thread, an epoll set or an event descriptor was refused.
    System(io::Error),
}

impl ServeError {
    /// Whether it may be had once somebody else has left.
    fn is_in_use(&self) -> bool {
        match self {
            ServeError::Address { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            ServeError::SocketInUse { .. } => true,
            ServeError::SocketFile { .. }
            | ServeError::NoSocketFile { .. }
            | ServeError::Passed { .. }
            | ServeError::System(_) => false,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Address { address, .. } => write!(f, "can't listen on {address}"),
            ServeError::SocketFile { path, .. } => {
                write!(f, "can't listen on the socket file {}", path.display())
            }
            ServeError::SocketInUse { path } => {
                write!(f, "another process answers on {}", path.display())
            }
            ServeError::NoSocketFile { path } => write!(f, "{} is no socket", path.display()),
            ServeError::Passed { name, fault } => {
                write!(f, "the passed socket {name} {fault}")
            }
            ServeError::System(_) => f.write_str("the system refuses what a server needs"),
        }
    }
}

impl fmt::Display for PassedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassedFault::NotListening => f.write_str("is no stream socket that listens"),
            PassedFault::Family => f.write_str("is neither TCP nor a socket file"),
            PassedFault::Port { listens, wanted } => {
                write!(f, "listens on port {listens}, and RUNNER_PORT is {wanted}")
            }
            PassedFault::File { listens, wanted } => {
                let (listens, wanted) = (listens.display(), wanted.display());
                write!(f, "listens on {listens}, and API_SOCKET is {wanted}")
            }
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServeError::Address { source, .. }
            | ServeError::SocketFile { source, .. }
            | ServeError::System(source) => Some(source),
            ServeError::SocketInUse { .. }
            | ServeError::NoSocketFile { .. }
            | ServeError::Passed { .. } => None,
        }
    }
}
