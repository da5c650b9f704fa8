//! Every limit has its name here, with the reason beside it. Sizes end in `_BYTES`, counts in
//! `_MAX`, times are `Duration`s.

use std::time::Duration;

// ── threads ──────────────────────────────────────────────────────────────────────────────────

/// Stack of ordinary threads. JSON of 128 levels and ureq's frames were measured below 64 KiB;
/// untouched pages cost nothing.
pub const STACK_BYTES: usize = 256 * 1024;

/// The standard library joins a thread without a deadline: its end is looked for this often.
pub const JOIN_LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Arenas of the C library's allocator: each keeps freed memory of its own, and workers need no more.
pub const ARENAS_MAX: i32 = 2;

/// Allocations from this size on are mappings of their own and go back when freed; as much free memory
/// at the heap's end goes back too. The C library's own start value.
pub const OWN_MAPPING_BYTES_MIN: i32 = 128 * 1024;

/// A loop that panicked rests this long before it begins anew.
pub const PANIC_REST: Duration = Duration::from_secs(1);

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
/// Bytes of all answers that their callers have not taken whole: a dozen of the largest files. Whoever
/// has taken nothing for longest makes room.
pub const HTTP_UNSENT_BYTES_MAX: usize = 192 * 1024 * 1024;
/// Bodies up to this are collected at the door, so that a slow sender of one holds no worker.
pub const HTTP_DOOR_BODY_BYTES_MAX: usize = 64 * 1024;
/// The largest body of a row that does not say otherwise; a task with its environment is below.
pub const HTTP_BODY_BYTES_MAX: usize = 1024 * 1024;
/// A body beyond this is large: so many are in memory at a time, so many callers wait for room (each
/// with a worker), so long, and that often they look whether the server stops.
pub const HTTP_LARGE_BODY_BYTES: usize = 4 * 1024 * 1024;
pub const HTTP_LARGE_BODIES_MAX: usize = 2;
pub const HTTP_LARGE_BODIES_WAITING_MAX: usize = 2;
pub const HTTP_LARGE_BODY_PATIENCE: Duration = Duration::from_secs(15);
pub const HTTP_LARGE_BODY_TICK: Duration = Duration::from_millis(100);
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
/// A parked call of an ordinary row, then 503: pause and resume, where the host gives up after 10 s.
pub const HTTP_PARKED_DEADLINE: Duration = Duration::from_secs(15);
/// A parked call of a slow row: VPS creation pulls images, and the host waits without limit.
pub const HTTP_PARKED_SLOW_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// After an early error the rest of the request is read and dropped for this long, so that the
/// answer is not overtaken by a reset.
pub const HTTP_LINGER: Duration = Duration::from_secs(2);
/// And for this many bytes.
pub const HTTP_LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Events the door takes from the kernel at a time.
pub const HTTP_EVENTS_PER_TURN: usize = 64;
/// How long every worker may be busy before the door reads requests in their place.
pub const HTTP_HELP: Duration = Duration::from_millis(1);
/// The door looks for passed deadlines this often while anybody is connected.
pub const HTTP_SWEEP: Duration = Duration::from_millis(500);
/// Streams open at a time; each is a thread.
pub const HTTP_STREAMS_MAX: usize = 64;
/// At stop, once nobody new is let in: what runs may finish this long. Only what is slower than
/// `SHUTDOWN_SETTLE` is still there then, and meanwhile callers are refused.
pub const HTTP_DRAIN: Duration = Duration::from_millis(300);
/// Of it, for whoever had connected in the last moment: a request follows its connection at once. With
/// a start of some 20 ms nobody is refused for 100 ms.
pub const HTTP_LAST_HEARING: Duration = Duration::from_millis(60);
/// Meanwhile the door looks this often whether all is done: callers are refused.
pub const HTTP_DRAIN_TURN: Duration = Duration::from_millis(1);
/// Streams end at once; one that is held up by shared storage is left behind after this.
pub const HTTP_STREAMS_LEAVE: Duration = Duration::from_millis(100);
/// What every 503 gives in `Retry-After`. Bounds are reached in bursts, which pass within a second.
pub const HTTP_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Of an input that a 422 quotes back, this much at most; a longer one is not quoted.
pub const HTTP_ECHO_BYTES_MAX: usize = 1024;
/// Refused addresses remembered for `/health`.
pub const DENIED_KEPT_MAX: usize = 16;
/// And how much of the path each of them wanted.
pub const DENIED_PATH_BYTES_MAX: usize = 128;

// ── docker ───────────────────────────────────────────────────────────────────────────────────

/// A quick Engine call. The Engine answers in milliseconds; ten seconds means one of its locks is
/// held, and the caller has other work.
pub const ENGINE_CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Create and start: with 30 to 40 at once the Engine itself takes this long.
pub const ENGINE_START_DEADLINE: Duration = Duration::from_secs(60);

/// The probe, which touches no lock of the Engine. Later than this it hangs.
pub const ENGINE_PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// A connect waits only when the Engine has stopped accepting and its backlog is full.
pub const ENGINE_CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// What a stop may take beyond its grace: SIGKILL, the process's end, the Engine's clean-up.
pub const ENGINE_STOP_SLACK: Duration = Duration::from_secs(20);

/// Quick calls in flight. More than every worker, session and loop together make.
pub const ENGINE_QUICK_CALLS_MAX: usize = 64;

/// Patient calls in flight, each with a thread and a connection of its own.
pub const ENGINE_PATIENT_CALLS_MAX: usize = 16;

/// Probes in flight: one loop, one event thread, and somebody at a terminal.
pub const ENGINE_PROBES_MAX: usize = 4;

/// Idle connections kept for quick calls; each holds two buffers.
pub const ENGINE_IDLE_CONNECTIONS_MAX: usize = 8;

/// An idle connection older than this is closed instead of used.
pub const ENGINE_IDLE_AGE: Duration = Duration::from_secs(60);

/// Each of a connection's two buffers. A request's or an answer's head must fit into one.
pub const ENGINE_BUFFER_BYTES: usize = 16 * 1024;

/// The same for patient calls, which move images.
pub const ENGINE_PATIENT_BUFFER_BYTES: usize = 64 * 1024;

/// An answer's head; the longest true one carries a path and its link target.
pub const ENGINE_HEAD_BYTES_MAX: usize = 12 * 1024;

/// An answer held in memory. Ten thousand containers or images list in less.
pub const ENGINE_REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Of an Engine's refusal text, this much is kept; start errors quote whole command lines.
pub const ENGINE_SAID_BYTES_MAX: usize = 4 * 1024;

/// One line of a stream of events or progress. An event carries all labels of its container.
pub const ENGINE_LINE_BYTES_MAX: usize = 256 * 1024;

/// Lines asked for when the tail of a container's log is read; a line is at most 16 KiB there.
pub const ENGINE_LOG_LINES_MAX: usize = 200;

/// An event stream silent for this long asks the Engine whether it lives. Silence itself is fine.
pub const ENGINE_EVENTS_SILENCE: Duration = Duration::from_secs(10);

/// Kernel timeouts of the Engine's sockets are set in steps of this, so that equal deadlines on a
/// kept connection cost no system call. A deadline is late by one step at most.
pub const ENGINE_TIMEOUT_STEP: Duration = Duration::from_millis(50);

/// Of an archive that holds one file: extended heads (long names, attributes) before its entry, and
/// how long each may be.
pub const ENGINE_ARCHIVE_EXTENSIONS_MAX: usize = 8;
pub const ENGINE_ARCHIVE_EXTENSION_BYTES_MAX: u64 = 1024 * 1024;

/// First and longest pause before a lost event stream is opened again. A connect costs nothing, and
/// what ends meanwhile waits for it.
pub const ENGINE_EVENTS_PAUSE_MIN: Duration = Duration::from_millis(100);
pub const ENGINE_EVENTS_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Events that the Engine keeps in its memory (its own constant, seen with 20.10).
pub const ENGINE_EVENTS_REMEMBERED: usize = 256;

// ── lanes ────────────────────────────────────────────────────────────────────────────────────

/// Orders that may wait in a lane. The host sends verbs one by one; sixteen means it has gone wild.
pub const LANE_ORDERS_MAX: usize = 16;

/// Lanes that may have something at once before `post` refuses a new one. As many as there may be tasks
/// that need something here: what was accepted has a lane at once.
pub const LANES_MAX: usize = TASKS_ACTIVE_MAX;

/// The longest pause a lane takes; a longer one is cut to this. No retry should wait longer.
pub const LANE_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Work without a lane (API rows) that may wait behind each pool; more is answered 503.
pub const POOL_WAITING_MAX: usize = 64;

/// A pool's thread without work ends after this, so that idle memory does not remember bursts;
/// starting one anew costs tens of microseconds.
pub const POOL_IDLE_END: Duration = Duration::from_secs(2);

/// A lane whose step needs a pool thread that the system refuses to start tries again after this.
pub const POOL_START_RETRY: Duration = Duration::from_secs(1);

// ── sessions ─────────────────────────────────────────────────────────────────────────────────

/// WebSockets open at a time, each a thread: 200 terminals, 200 watches, and tunnels beside them.
pub const SESSIONS_MAX: usize = 1024;
/// What is read ahead of a peer; a keystroke is 30 bytes, a paste some kilobytes.
pub const SESSION_READ_BYTES: usize = 16 * 1024;
/// The contract's largest message of a host (rule 5).
pub const SESSION_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages that the handler has not taken yet; one more may be on top.
pub const SESSION_INPUT_BYTES_MAX: usize = 1024 * 1024;
/// So long nothing is read of a peer whose input nobody takes: it gives us up after 20 s without an
/// answer to its ping.
pub const SESSION_INPUT_STALL: Duration = Duration::from_secs(15);
/// What a peer has not taken, before its handler stops reading for it.
pub const SESSION_OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// What the WebSocket's own buffer may hold: the largest message to a peer is 1 MiB (contract rule 5),
/// and answers to pings come on top.
pub const SESSION_HANDED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Frames taken of a peer before everything else has its turn.
pub const SESSION_FRAMES_A_TURN: usize = 64;
/// And reads: the fragments of one message may be empty and without end.
pub const SESSION_READS_A_TURN: usize = 64;
/// A close frame holds 125 bytes with its code.
pub const SESSION_REASON_BYTES_MAX: usize = 120;

/// The contract's keep-alive: a ping after 20 s of silence, 20 s more for any sign of life.
pub const SESSION_PING_EVERY: Duration = Duration::from_secs(20);
pub const SESSION_SILENCE_MAX: Duration = Duration::from_secs(40);
/// For the peer to hear the last message and to say goodbye too; and at a stop.
pub const SESSION_LINGER: Duration = Duration::from_secs(2);
pub const SESSION_LINGER_AT_STOP: Duration = Duration::from_millis(200);

// ── files ────────────────────────────────────────────────────────────────────────────────────

/// Contract 8.4: names of one list, bytes of one read, bytes of one write.
pub const LIST_ENTRIES_MAX: usize = 1000;
pub const READ_BYTES_MAX: usize = 10 * 1024 * 1024;
pub const WRITE_BYTES_MAX: usize = 50 * 1024 * 1024;
/// A write's JSON: base64 is a third longer, and text may be escaped to twice its length.
pub const WRITE_BODY_BYTES_MAX: usize = 128 * 1024 * 1024;
/// How long a caller waits: the host gives up after 60 s (contract 8.4).
pub const FILES_DEADLINE: Duration = Duration::from_secs(50);
/// Links that a write follows, as many as the kernel.
pub const FILE_LINKS_MAX: usize = 40;
/// Directories in each other that are removed or copied; each holds a few descriptors meanwhile, and
/// some stack.
pub const TREE_DEPTH_MAX: usize = 256;
/// A path of a container; the kernel takes 4096 bytes with the NUL behind it.
pub const GUEST_PATH_BYTES_MAX: usize = 4095;
/// Lookups of one path: each is repeated if something is renamed on this machine in its microseconds.
pub const LOOKUPS_MAX: usize = 10_000;
/// Bytes that are copied before the clock is looked at: a second on a slow disk.
pub const COPY_BYTES: u64 = 64 * 1024 * 1024;
/// Names of a directory that are read before they are removed.
pub const TREE_NAMES_MAX: usize = 4096;

// ── store ────────────────────────────────────────────────────────────────────────────────────

/// The map of tasks gives memory back once it is this many times larger than needed; a small one never.
pub const PLACES_SLACK_MAX: usize = 8;
pub const PLACES_KEPT_MIN: usize = 64;

/// Records of tasks that are over: the newest this many, and none older than a month (design D6).
pub const ENDED_RECORDS_MAX: usize = 10_000;
pub const ENDED_RECORD_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// So many more before the next hour's look, and they are thrown away sooner: a drained outbox or a
/// busy hour must not make the list of them slow.
pub const ENDED_RECORDS_SLACK: usize = 1_000;

/// A record's file. An execute body is 4 MiB at most; JSON writes a byte of it in six at most.
pub const RECORD_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Names of files that were set aside, in `/health`; how many of them are logged; and how many of one
/// name in one second are told apart.
pub const ASIDE_NAMES_MAX: usize = 5;
pub const ASIDE_LOGGED_MAX: u64 = 50;
pub const ASIDE_SAME_NAME_MAX: usize = 100;

/// Tasks whose records were damaged or deleted and that have no outcome yet: as many as can be active. A
/// few dozen bytes each, for as long as the Engine is away.
pub const LOST_RECORDS_MAX: usize = TASKS_ACTIVE_MAX;

// ── host ─────────────────────────────────────────────────────────────────────────────────────

/// The contract's timeouts (section 3).
pub const HOST_REGISTER_DEADLINE: Duration = Duration::from_secs(15);
pub const HOST_BEAT_DEADLINE: Duration = Duration::from_secs(10);
pub const HOST_UPDATE_DEADLINE: Duration = Duration::from_secs(15);

/// A kept-alive connection older than this is closed instead of used. The host's server closes its
/// end after 5 s without a call, just when the next heartbeat is due: it would meet a reset.
pub const HOST_IDLE_AGE: Duration = Duration::from_secs(4);

/// The host's answers are a sentence long; a proxy's error page is not worth more.
pub const HOST_ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// A name's addresses are looked up again this often, sooner when the resolver was away.
pub const HOST_RESOLVE_AGAIN: Duration = Duration::from_secs(60);
pub const HOST_RESOLVE_RETRY: Duration = Duration::from_secs(2);

/// Addresses of the host that are tried; the HTTP client has room for sixteen.
pub const HOST_ADDRESSES_MAX: usize = 16;

/// The host calls a node dead after 30 s of silence, looking every 10 s; with this gap it may have
/// (design law 6).
pub const HOST_GAP_MAX: Duration = Duration::from_secs(25);

/// A call that the host has answered within this time is one moment to the rule above: what the host
/// dispatched during it was dispatched after it had heard us.
pub const HOST_CALL_PROMPT: Duration = Duration::from_secs(2);

/// Pauses between attempts to register. Never given up: the host may be down for a weekend.
pub const REGISTER_PAUSE_FIRST: Duration = Duration::from_secs(1);
pub const REGISTER_PAUSE_MAX: Duration = Duration::from_secs(15);

/// Pauses of the outbox while the host does not answer. An acknowledged heartbeat ends one early.
pub const OUTBOX_BACKOFF_FIRST: Duration = Duration::from_millis(250);
pub const OUTBOX_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Of the tasks with something unsent the newest this many take turns with all others, so that a
/// backlog of a day does not hold up what happens now.
pub const OUTBOX_FRESH_MAX: usize = 64;

/// What is due when the runner stops is tried for this long; the records keep the rest.
pub const OUTBOX_LAST_TRY: Duration = Duration::from_millis(800);

// ── machine ──────────────────────────────────────────────────────────────────────────────────

/// CPU numbers a list may name: the most the kernel can be built for (`NR_CPUS`).
pub const CPUS_MAX: usize = 8192;

/// Files of sysfs and procfs are read up to here. `/proc/stat` of 8192 CPUs is below 1 MiB.
pub const KERNEL_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The kernel's log: a record is below 8 KiB by the kernel's own limit; a log is a few thousand.
pub const KERNEL_LOG_RECORD_BYTES_MAX: usize = 8 * 1024;
pub const KERNEL_LOG_RECORDS_MAX: usize = 100_000;

// ── ops ──────────────────────────────────────────────────────────────────────────────────────

/// Tasks that still need something here: running, waiting, to be cleaned up. About 16 kB each.
pub const TASKS_ACTIVE_MAX: usize = 20_000;

/// Tasks that are over and only wait for the host: twice a day at one task a second. About 100 bytes
/// each, and 20 in every heartbeat, which lists them by contract.
pub const TASKS_UNTOLD_MAX: usize = 200_000;

/// Containers that wait for the host's acknowledgement and are kept, so that a node whose state
/// directory is lost can still report them (design law 2).
pub const ENDED_KEPT_MAX: usize = 64;

/// Workers of each NUMA node. They make quick calls only; four keep a busy Engine busy.
pub const WORKERS_PER_NODE: usize = 4;

/// Workers that take flags only, so that a kill never waits behind starts.
pub const URGENT_WORKERS: usize = 2;

/// Threads for calls that may take minutes: load and pull. As many as the Engine client lets fly.
pub const PATIENT_THREADS_MAX: usize = 16;

/// Threads for shared storage. When all of them hang, the rows that need it answer 503.
pub const FILES_THREADS_MAX: usize = 8;

/// Output files are made with a time so far back: a start that follows at once changes it also where
/// times have no more than seconds.
pub const OUTPUT_MADE_BEFORE: Duration = Duration::from_secs(10);

/// How long a caller waits for shared storage.
pub const SHARED_STORAGE_DEADLINE: Duration = Duration::from_secs(10);

/// SHARED_DIR is looked at this often for `/health`. A share on the network answers in milliseconds;
/// one that takes longer than this is said to hang.
pub const SHARED_DIR_LOOK_EVERY: Duration = Duration::from_secs(5);
pub const SHARED_DIR_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// An execute body: command, arguments and environment. The kernel's own limit on those is 2 MiB.
pub const EXECUTE_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The Engine refuses less memory.
pub const MEMORY_BYTES_MIN: u64 = 6 * 1024 * 1024;

/// An environment's name is part of an image reference and of a file name.
pub const ENVIRONMENT_NAME_BYTES_MAX: usize = 128;
pub const IMAGE_REFERENCE_BYTES_MAX: usize = 512;
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// A pull, as the contract has it (5.8).
pub const IMAGE_PULL_DEADLINE: Duration = Duration::from_secs(600);

/// Pauses before trying again what the Engine, the disk, or a busy container refused.
pub const ENGINE_RETRY_PAUSE: Duration = Duration::from_secs(1);
pub const STORE_RETRY_PAUSE: Duration = Duration::from_secs(1);
pub const REMOVE_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// `/etc/passwd` of an image, read for its USER.
pub const PASSWD_BYTES_MAX: usize = 1024 * 1024;

/// What is fetched of a failed container's own log, and what a message quotes of it (contract 5.3).
pub const LOG_TAIL_BYTES_MAX: usize = 4096;
pub const MESSAGE_QUOTE_CHARS_MAX: usize = 500;

/// One answer of `/api/tasks/{id}/logs`, and how often a follower looks for more.
pub const LOG_CHUNK_BYTES_MAX: u64 = 256 * 1024;
pub const LOG_FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Tasks that are over in one answer of `/api/tasks`.
pub const TASKS_LISTED_MAX: usize = 100;

/// A caller that was turned away shows in `/health` for this long after its last try.
pub const DENIED_SHOWN: Duration = Duration::from_secs(3600);

/// Events kept for `/api/events`, 40 bytes each; and how often a follower looks whether to stop.
pub const EVENTS_KEPT_MAX: usize = 10_000;
pub const EVENTS_WAIT: Duration = Duration::from_millis(500);

/// The Engine is pinged this often, and more often while it is away so that its return is noticed.
pub const ENGINE_PROBE_EVERY: Duration = Duration::from_secs(5);
pub const ENGINE_PROBE_EVERY_WHEN_AWAY: Duration = Duration::from_secs(1);

/// Records are compared with the Engine's containers this often: the net for events that were lost.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(60);
/// And once more so long after the event stream stands anew: the Engine tells an end before it cleans
/// up, and lists the container as running until it has. An end in that gap is neither told nor listed.
pub const RECONCILE_AGAIN: Duration = Duration::from_secs(4);
/// Old records are thrown away this often; `ENDED_RECORDS_SLACK` may ask for it sooner.
pub const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// Our own addresses, which may always call, are looked up this often: interfaces come and go.
pub const OWN_ADDRESSES_EVERY: Duration = Duration::from_secs(60);

/// A runner that is told to stop waits this long for its threads before it leaves (design law 10).
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

/// Of it, for lanes and outbox to finish what they are at, while callers are still served.
pub const SHUTDOWN_SETTLE: Duration = Duration::from_millis(900);

/// Then the process leaves, whoever still hangs; the rest of two seconds is a loaded machine's.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_millis(1700);

/// A record's write takes some milliseconds; one that takes longer keeps the state directory to the end.
pub const STATE_DIR_LEAVE: Duration = Duration::from_millis(50);

/// What a service manager is told goes into its queue at once; one that hangs is not waited for.
pub const SUPERVISOR_DEADLINE: Duration = Duration::from_millis(100);
/// The line of status is looked at this often, and told if it has changed.
pub const SUPERVISOR_STATUS_EVERY: Duration = Duration::from_secs(5);
/// Sockets that a service manager may pass: each address family and the socket file, several times.
pub const SUPERVISOR_SOCKETS_MAX: i32 = 16;
/// No worker's step lasts as long, `ENGINE_START_DEADLINE` and some durable writes together.
pub const LANES_STUCK_AFTER: Duration = Duration::from_secs(180);

/// Looking up a path on a disk takes no millisecond; one that takes longer is on a share that hangs, and the
/// start goes on without knowing where it leads.
pub const PATH_LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// Lines that wait for the log's thread: a burst of 1,000 tasks at the usual level. What a log that hangs
/// costs is bounded by it.
pub const LOG_LINES_WAITING_MAX: usize = 1024;
/// Whoever logs waits so long for room once; after that, lines are dropped until there is room again.
pub const LOG_PATIENCE: Duration = Duration::from_millis(100);
/// Opening the log file, at the start. On a share that hangs it takes for ever.
pub const LOG_OPEN_DEADLINE: Duration = Duration::from_secs(2);

/// A start waits this long for a port or a state directory that another process has: a predecessor
/// that was told to stop is gone by then.
pub const START_PATIENCE: Duration = Duration::from_millis(2500);
/// And looks this often: callers are refused meanwhile.
pub const START_LOOK_AGAIN: Duration = Duration::from_millis(2);

// ── watch ────────────────────────────────────────────────────────────────────────────────────

/// Directories that one session watches: three times a large source tree, a quarter of the node's.
pub const WATCH_DIRECTORIES_SESSION_MAX: usize = 16_384;

/// Directories watched for all sessions together; each pins about a kilobyte in the kernel.
pub const WATCH_DIRECTORIES_NODE_MAX: usize = 65_536;

/// Changes kept for a session whose peer is slow: twice the kernel's own queue, a few megabytes.
pub const WATCH_NOTES_MAX: usize = 32_768;

/// Rest between two readings of the kernel's queue: repeated writes of one file become one event
/// there, and 16,384 events don't come in so short a time.
pub const WATCH_REST: Duration = Duration::from_millis(3);

/// The second half of a rename comes at once; after this the directory has left what is watched.
pub const WATCH_MOVE_GRACE: Duration = Duration::from_millis(200);

/// How long one session's scan holds a files thread before the others have their turn.
pub const WATCH_SCAN_SLICE: Duration = Duration::from_millis(100);

/// Names announced under one lock, so that a huge directory doesn't hold up the shared thread.
pub const WATCH_ANNOUNCE_BATCH: usize = 256;

/// The same directory in many sessions: each keeps its name, some 200 bytes, in 50 MB altogether.
pub const WATCH_SHARES_NODE_MAX: usize = 262_144;

/// No event tells that a directory was removed which a session was opened on: we hold it open. It is
/// looked at this often.
pub const WATCH_BASES_LOOK_EVERY: Duration = Duration::from_secs(2);

/// Paths that one session may name: as many as anybody shows side by side, and a few descriptors.
pub const WATCH_PATHS_MAX: usize = 64;

/// A directory on a network file system is read this often and to this depth, as clients of the
/// Python runner are used to (contract 2.2), and not more than a tenth of the time where it is slow.
pub const WATCH_POLL_EVERY: Duration = Duration::from_secs(2);
pub const WATCH_POLL_DEPTH: usize = 3;
pub const WATCH_POLL_REST_FACTOR: u32 = 9;

/// A directory whose time has come, and that waits for others to be read, is looked at this often.
pub const WATCH_POLL_LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Entries that are looked at in one such reading: about 2 MB, and a second where each takes 0.1 ms.
pub const WATCH_POLL_ENTRIES_MAX: usize = 10_000;

/// Directories polled for one session, and for all.
pub const WATCH_POLLED_SESSION_MAX: usize = 16;
pub const WATCH_POLLED_NODE_MAX: usize = 64;

/// Readings at a time, half of the files threads; one that hangs counts.
pub const WATCH_POLLS_AT_A_TIME: usize = 4;

/// Directories that an error message names; it counts the others.
pub const WATCH_NAMED_MAX: usize = 8;

// ── cli ──────────────────────────────────────────────────────────────────────────────────────

/// A runner on this machine accepts at once; one over the network within a few round trips.
pub const CLI_CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// Until an answer is complete. A runner answers in milliseconds; a machine that swaps does not.
pub const CLI_ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How often a quiet log stream looks whether it is still wanted.
pub const CLI_STREAM_TICK: Duration = Duration::from_millis(250);

/// A VPS is created, or a snapshot made, when its image is there and written: as long as the runner
/// itself waits.
pub const CLI_VPS_PATIENCE: Duration = Duration::from_secs(60 * 60 + 60);

/// The stop of a VPS is answered within [`VPS_STOP_PATIENCE`], done or not.
pub const CLI_VPS_STOP_PATIENCE: Duration = Duration::from_secs(60);

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

/// The record may come a moment after the last byte: it is asked for this often.
pub const CLI_OUTCOME_TICK: Duration = Duration::from_millis(20);

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

/// A message of a terminal. A runner's are below 1 MiB, the most that a host takes.
pub const CLI_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Typed or piped in, as one message: what a terminal holds for a program that is not reading.
pub const CLI_INPUT_BYTES: usize = 4096;

/// Written to our stdout at once: a pipe that has room has room for this.
pub const CLI_SCREEN_WRITE_BYTES: usize = 4096;

/// Output that waits for our stdout; beyond it the runner waits. A few full screens with colours.
pub const CLI_SCREEN_BYTES_MAX: usize = 256 * 1024;

/// How often `shell` looks at the clock, and says again that its input is at an end.
pub const CLI_SHELL_TICK: Duration = Duration::from_secs(1);

/// After goodbye, until the runner's goodbye: it has nothing else to do for us.
pub const CLI_GOODBYE_PATIENCE: Duration = Duration::from_millis(500);

/// A file comes and goes in pieces of this size at most: few calls, and a progress that moves.
pub const CLI_PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// The largest file that `cp` sends: the runner takes it in one call (contract 8.4).
pub const CLI_UPLOAD_BYTES_MAX: u64 = 50 * 1024 * 1024;

/// Such a call, over a network too: 67 MB of base64 at 5 Mbit/s, and its way to the disk.
pub const CLI_UPLOAD_PATIENCE: Duration = Duration::from_secs(150);

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

/// `doctor`: a peer that needs longer for a small answer is not well.
pub const DOCTOR_PATIENCE: Duration = Duration::from_secs(5);

// ── terminal ─────────────────────────────────────────────────────────────────────────────────

/// Terminals being opened at a time: more at once only make each of them slower.
pub const TERMINAL_TURNS_MAX: usize = 8;
/// Others wait for their turn; two hundred at once take ten seconds of a small machine's Engine.
pub const TERMINAL_TURN_PATIENCE: Duration = Duration::from_secs(30);
/// How often those who wait look whether the runner stops.
pub const TERMINAL_TURN_LOOK: Duration = Duration::from_millis(50);
/// Input that a shell has not taken: a large paste; the peer waits with what is beyond.
pub const TERMINAL_INPUT_BYTES_MAX: usize = 256 * 1024;
/// Output in one message. Escaped as JSON it can become six times as long, below the 1 MiB of rule 5.
pub const TERMINAL_PIECE_BYTES: usize = 32 * 1024;
/// Between the hang-up and the kill of what a terminal leaves behind; and at a stop of the runner.
pub const TERMINAL_END_GRACE: Duration = Duration::from_millis(500);
pub const TERMINAL_END_GRACE_AT_STOP: Duration = Duration::from_millis(100);
/// Processes that are killed are gone within milliseconds, unless the kernel holds them, or they fork
/// as fast as they are found; and at a stop.
pub const TERMINAL_KILL_PATIENCE: Duration = Duration::from_secs(1);
pub const TERMINAL_KILL_PATIENCE_AT_STOP: Duration = Duration::from_millis(200);
/// How often they are killed meanwhile: faster than most fork.
pub const TERMINAL_KILL_AGAIN: Duration = Duration::from_millis(1);
/// How often is looked whether a shell is there, or gone.
pub const TERMINAL_LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Between the end of a shell's output and the end of its process: microseconds.
pub const TERMINAL_END_PATIENCE: Duration = Duration::from_secs(1);

/// The longest name of a session that comes back: a UUID has 36.
pub const TERMINAL_NAME_CHARS_MAX: usize = 64;
/// Output kept of such a session: a few screens of a full-screen program, some thousand lines.
pub const TERMINAL_HISTORY_BYTES: usize = 256 * 1024;
/// How long its shell waits for a peer to come back: a laptop changes its network, a page is reloaded.
pub const TERMINAL_GRACE: Duration = Duration::from_secs(300);
/// Shells that wait so, each with a thread and its history.
pub const TERMINALS_KEPT_MAX: usize = 64;
/// Whoever has a session gives it on within milliseconds, or is opening it.
pub const TERMINAL_TAKE_OVER_PATIENCE: Duration = Duration::from_secs(15);
/// Pieces read of a shell without a peer before it is looked whether somebody asks.
pub const TERMINAL_READS_A_TURN: usize = 16;

/// Between the Engine's answer to an exec's start and the process being there: the answer comes before
/// the start, which takes tens of milliseconds, and seconds where many start on a loaded node.
pub const TERMINAL_START_PATIENCE: Duration = Duration::from_secs(10);

/// A start that has gone wrong is looked for so long, before its peer is told; then by its mark.
pub const TERMINAL_UNSEEN_PATIENCE: Duration = Duration::from_secs(2);

/// So many looks of the clock are for shells that no terminal has, whenever there is a doubt: a start that
/// was answered too late has its effect within them.
pub const TERMINAL_LEFTOVER_LOOKS: usize = 3;

/// A container that has made more control groups than these has its processes looked for among all.
pub const CONTAINER_GROUPS_MAX: usize = 64;

/// The Engine's answer to an exec's start: somebody sits in front of the screen, and most clients have
/// given up by then.
pub const TERMINAL_OPEN_DEADLINE: Duration = Duration::from_secs(10);

// ── VPS ──────────────────────────────────────────────────────────────────────────────────────

/// A line of `authorized_keys`, by `sshd(8)`: enough for a key of 16 kilobits. A longer one would not fit
/// into the container's command either.
pub const SSH_KEY_BYTES_MAX: usize = 8 * 1024;

/// Creates that wait for their ids.
pub const VPS_PENDING_MAX: usize = 64;
/// How long one waits for a stop of its id, whose snapshot may be large: less than its caller,
/// [`HTTP_PARKED_SLOW_DEADLINE`].
pub const VPS_STOPPED_PATIENCE: Duration = Duration::from_secs(50 * 60);
/// How long one waits for an id whose VPS was killed or has ended: until its container is removed.
pub const VPS_FREE_PATIENCE: Duration = Duration::from_secs(20);
/// The Engine's mapping of port 22 may come a moment after the start (contract 5.4).
pub const VPS_PORT_TRIES: u32 = 5;
pub const VPS_PORT_PAUSE: Duration = Duration::from_millis(500);
/// Between SIGTERM and SIGKILL (contract 5.10).
pub const VPS_STOP_GRACE: Duration = Duration::from_secs(10);
/// The host gives up a stop after 30 s (contract 4).
pub const VPS_STOP_PATIENCE: Duration = Duration::from_secs(25);
/// A container that the Engine restarts, or is asked to start, is looked at again.
pub const VPS_LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between an end that nobody asked for and our start; doubled with each.
pub const VPS_RESTART_PAUSE_MIN: Duration = Duration::from_secs(1);
pub const VPS_RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A run that was shorter than this makes the next pause longer.
pub const VPS_RUN_IS_SHORT: Duration = Duration::from_secs(60);
/// How often a port is tried while sshd is set up, how long each time, and when it is given up: a
/// package manager over a slow line.
pub const VPS_DOOR_EVERY: Duration = Duration::from_millis(500);
pub const VPS_DOOR_PATIENCE: Duration = Duration::from_secs(1);
pub const VPS_DOOR_SILENT_AFTER: Duration = Duration::from_secs(900);

// ── snapshots ────────────────────────────────────────────────────────────────────────────────

/// A commit of a large container to a slow disk, and a copy of it, each.
pub const SNAPSHOT_TIMEOUT_DEFAULT: u64 = 3600;

/// Layers of a snapshot, beyond which it is copied into one. An Engine on overlay2 takes 125 (seen with
/// 20.10 to 28): what is left between serves a copy that fails and is tried again with the next.
pub const SNAPSHOT_LAYERS_DEFAULT: u32 = 100;
pub const SNAPSHOT_LAYERS_MOST: u32 = 120;

/// What a user writes beside a snapshot. It travels in a request's head.
pub const SNAPSHOT_MESSAGE_BYTES_MAX: usize = 4096;

/// The Engine broke off the snapshot of a stop, after which the container is removed: how often it is
/// tried, and how long its return is waited for.
pub const SNAPSHOT_TRIES: u32 = 3;
pub const SNAPSHOT_ENGINE_PATIENCE: Duration = Duration::from_secs(120);
pub const SNAPSHOT_ENGINE_LOOK: Duration = Duration::from_secs(1);

/// Two empty blocks end a tar archive.
pub const TAR_END_BYTES: usize = 1024;
