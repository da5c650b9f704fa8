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

/// A runner on this machine accepts at once; one over the network within a few round trips.
pub const CLI_CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// Until an answer is complete. A runner answers in milliseconds; a machine that swaps does not.
pub const CLI_ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How often a quiet log stream looks whether it is still wanted.
pub const CLI_STREAM_TICK: Duration = Duration::from_millis(250);

/// A log stream that is quiet for so long is opened anew: its peer may be gone without a word.
pub const CLI_QUIET_PATIENCE: Duration = Duration::from_secs(60);

/// How often `run` looks for signals. A person does not feel it.
pub const CLI_SIGNAL_TICK: Duration = Duration::from_millis(50);

/// How often `run` asks for the progress of an image while it waits for the start.
pub const CLI_PROGRESS_TICK: Duration = Duration::from_millis(500);

/// Before a lost runner is tried again.
pub const CLI_RETRY_PAUSE: Duration = Duration::from_millis(300);

/// A runner that restarts is back before this is over; its tasks run on meanwhile.
pub const CLI_LOST_PATIENCE: Duration = Duration::from_secs(60);

/// After Ctrl-C, until the kill is done and the last output is there.
pub const CLI_KILL_PATIENCE: Duration = Duration::from_secs(15);

/// Between the last byte of output and the recorded outcome.
pub const CLI_OUTCOME_PATIENCE: Duration = Duration::from_secs(30);

/// The head of an answer. Ours are below 1 KiB, the Engine's below 2.
pub const CLI_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Headers of an answer that are looked at.
pub const CLI_HEADERS_MAX: usize = 64;

/// An answer that is kept whole, such as the list of tasks.
pub const CLI_ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One line of chunked framing: a hexadecimal size, perhaps with an extension.
pub const CLI_CHUNK_LINE_BYTES_MAX: usize = 1024;

/// Bytes of output moved at once; less than a pipe holds.
pub const CLI_COPY_BYTES: usize = 32 * 1024;

/// `doctor`: a peer that needs longer for a small answer is not well.
pub const DOCTOR_PATIENCE: Duration = Duration::from_secs(5);

/// `doctor`: the door holds up to 16,384 connections, tasks and sessions need the rest.
pub const DOCTOR_FILES_MIN: u64 = 20_000;

/// `doctor`: one thread for each open terminal, watch or forward, beside a few dozen.
pub const DOCTOR_THREADS_MIN: u64 = 4_096;

/// `doctor`: the runner takes one; desktop programs and other agents of the same user the rest.
pub const DOCTOR_INOTIFY_INSTANCES_MIN: u64 = 16;

/// `doctor`: a few sessions that watch a large tree.
pub const DOCTOR_INOTIFY_WATCHES_MIN: u64 = 16_384;

/// `doctor`: room for records and some output.
pub const DOCTOR_FREE_BYTES_MIN: u64 = 1 << 30;
