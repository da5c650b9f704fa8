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

// ── store ────────────────────────────────────────────────────────────────────────────────────

// ── host ─────────────────────────────────────────────────────────────────────────────────────

// ── machine ──────────────────────────────────────────────────────────────────────────────────

// ── ops ──────────────────────────────────────────────────────────────────────────────────────

/// A runner that is told to stop waits this long for its threads before it leaves (design law 10).
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

// ── cli ──────────────────────────────────────────────────────────────────────────────────────
