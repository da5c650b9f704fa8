//! Every limit has its name here, with the reason beside it. Sizes end in `_BYTES`, counts in
//! `_MAX`, times are `Duration`s.

use std::time::Duration;

// ── threads ──────────────────────────────────────────────────────────────────────────────────

/// Stack of ordinary threads. JSON of 128 levels and ureq's frames were measured below 64 KiB;
/// untouched pages cost nothing.
pub const STACK_BYTES: usize = 256 * 1024;

// ── serve ────────────────────────────────────────────────────────────────────────────────────

/// Threads that run handlers. Handlers are short (slow ones park), so a few per core are enough.
pub const HTTP_WORKERS: usize = 8;
/// Of those, the ones that serve urgent rows only: one for the host, one for an operator.
pub const HTTP_WORKERS_RESERVED: usize = 2;
/// Whole requests waiting, per pace, while all workers are busy; beyond it the caller is told 503.
pub const HTTP_LINE_MAX: usize = 1024;
/// Connections open at a time, half the usual 32,768 ephemeral ports of one caller.
pub const HTTP_CONNECTIONS_MAX: usize = 16_384;
/// Connections of one address (one /64 for IPv6). Browsers open 6, HTTP client pools 10 to 32.
pub const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// Connections taken from a listener before others get their turn.
pub const HTTP_ACCEPTS_PER_TURN: usize = 64;
/// Length of the kernel's accept queue; the kernel cuts it to `net.core.somaxconn`.
pub const HTTP_BACKLOG: i32 = 1024;
/// How long accepting rests when file descriptors have run out.
pub const HTTP_ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// One request head, as other servers allow (nginx 8 to 32 KiB, Apache 8 KiB a line).
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines of one head, as Apache.
pub const HTTP_HEADERS_MAX: usize = 100;
/// Bytes of all unfinished requests at the door; the oldest makes room for the newest.
pub const HTTP_UNFINISHED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bodies up to this are collected at the door, so that a slow sender of one holds no worker.
pub const HTTP_DOOR_BODY_BYTES_MAX: usize = 64 * 1024;
/// The largest body of a row that does not say otherwise; a task with its environment is below.
pub const HTTP_BODY_BYTES_MAX: usize = 1024 * 1024;
/// One read of a body by a worker.
pub const HTTP_READ_BYTES: usize = 64 * 1024;
/// The line before a chunk: a size and extensions that nobody sends.
pub const HTTP_CHUNK_LINE_BYTES_MAX: usize = 256;
/// Trailers after the last chunk; they are read and dropped.
pub const HTTP_TRAILERS_BYTES_MAX: usize = 4 * 1024;
/// From a request's first byte to the end of its head (and of a body collected at the door).
pub const HTTP_HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A kept-alive connection without a request. Longer than the pools of usual clients (5 to 60 s),
/// so that it is them who close.
pub const HTTP_IDLE_DEADLINE: Duration = Duration::from_secs(75);
/// A body may take this long before its rate is looked at.
pub const HTTP_BODY_GRACE: Duration = Duration::from_secs(10);
/// After the grace a body has to come at this rate on average: half a megabit per second.
pub const HTTP_BODY_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// A body at any rate: 67 MB (a 50 MB file in base64) at 5 Mbit/s.
pub const HTTP_BODY_DEADLINE: Duration = Duration::from_secs(120);
/// A peer that takes nothing of its answer for this long is gone.
pub const HTTP_WRITE_STALL: Duration = Duration::from_secs(10);
/// A whole answer, stalls or not.
pub const HTTP_WRITE_DEADLINE: Duration = Duration::from_secs(120);
/// A parked call of an ordinary row; then 504.
pub const HTTP_PARKED_DEADLINE: Duration = Duration::from_secs(60);
/// A parked call of a slow row: VPS creation pulls images, and the host waits without limit.
pub const HTTP_PARKED_SLOW_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// After an early error the rest of the request is read and dropped for this long, so that the
/// answer is not overtaken by a reset.
pub const HTTP_LINGER: Duration = Duration::from_secs(2);
/// And for this many bytes.
pub const HTTP_LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long every worker may be busy before the door reads requests in their place.
pub const HTTP_HELP: Duration = Duration::from_millis(1);
/// The door looks for passed deadlines this often while anybody is connected.
pub const HTTP_SWEEP: Duration = Duration::from_millis(500);
/// Streams open at a time; each is a thread.
pub const HTTP_STREAMS_MAX: usize = 64;
/// At stop: what runs may finish, then parked callers are told 503. Inside `SHUTDOWN_GRACE`.
pub const HTTP_DRAIN: Duration = Duration::from_millis(1000);
/// Refused addresses remembered for `/health`.
pub const DENIED_KEPT_MAX: usize = 16;
/// And how much of the path each of them wanted.
pub const DENIED_PATH_BYTES_MAX: usize = 128;

// ── docker ───────────────────────────────────────────────────────────────────────────────────

// ── lanes ────────────────────────────────────────────────────────────────────────────────────

// ── store ────────────────────────────────────────────────────────────────────────────────────

// ── host ─────────────────────────────────────────────────────────────────────────────────────

// ── machine ──────────────────────────────────────────────────────────────────────────────────

// ── ops ──────────────────────────────────────────────────────────────────────────────────────

/// A runner that is told to stop waits this long for its threads before it leaves (design law 10).
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

// ── cli ──────────────────────────────────────────────────────────────────────────────────────
