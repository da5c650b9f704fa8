//! Every limit has its name here, with the reason beside it. Sizes end in `_BYTES`, counts in
//! `_MAX`, times are `Duration`s.

use std::time::Duration;

// ── threads ──────────────────────────────────────────────────────────────────────────────────

/// Stack of ordinary threads. JSON of 128 levels and ureq's frames were measured below 64 KiB;
/// untouched pages cost nothing.
pub const STACK_BYTES: usize = 256 * 1024;

// ── serve ────────────────────────────────────────────────────────────────────────────────────

// ── docker ───────────────────────────────────────────────────────────────────────────────────

// ── lanes ────────────────────────────────────────────────────────────────────────────────────

/// Orders that may wait in a lane. The host sends verbs one by one; sixteen means it has gone wild.
pub const LANE_ORDERS_MAX: usize = 16;

/// Lanes that may have something at once before `post` refuses a new one. Far above the tasks a
/// node can run; a thousand starts at once are no reason to refuse.
pub const LANES_MAX: usize = 4096;

/// The longest pause a lane takes; a longer one is cut to this. No retry should wait longer.
pub const LANE_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Work without a lane (API rows) that may wait behind each pool; more is answered 503.
pub const POOL_WAITING_MAX: usize = 64;

/// A pool's thread without work ends after this, so that idle memory does not remember bursts;
/// starting one anew costs tens of microseconds.
pub const POOL_IDLE_END: Duration = Duration::from_secs(2);

/// A lane whose step needs a pool thread that the system refuses to start tries again after this.
pub const POOL_START_RETRY: Duration = Duration::from_secs(1);

// ── store ────────────────────────────────────────────────────────────────────────────────────

// ── host ─────────────────────────────────────────────────────────────────────────────────────

// ── machine ──────────────────────────────────────────────────────────────────────────────────

/// CPU numbers a list may name: the most the kernel can be built for (`NR_CPUS`).
pub const CPUS_MAX: usize = 8192;

/// Files of sysfs and procfs are read up to here. `/proc/stat` of 8192 CPUs is below 1 MiB.
pub const KERNEL_FILE_BYTES_MAX: u64 = 1024 * 1024;

// ── ops ──────────────────────────────────────────────────────────────────────────────────────

/// A runner that is told to stop waits this long for its threads before it leaves (design law 10).
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

// ── cli ──────────────────────────────────────────────────────────────────────────────────────
