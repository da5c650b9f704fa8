//! Integration tests: the built runner against a real Docker Engine; fakes only for faults.
//! `contrib/test.sh` prepares what they need: an Engine and the images of `tests/images`.

// A test says what it expects by failing.
#![allow(clippy::unwrap_used)]

/// Bad input: each fault is told in its place, and leaves nothing behind.
mod bad_input;
/// Bounds: bursts of accepts, and a day's reports that the host has missed.
mod bounds;
/// The command line as a user types it, against a fake runner.
mod cli;
/// The wall clock is set under the runner.
mod clock;
/// Deaths of the runner at each system call on a record.
mod crash_sweep;
/// The HTTP door by itself: framing, hostile bytes, caps, who may call.
mod door;
/// The Engine room against the machine's own Engine.
mod engine;
/// The Engine hangs, is stopped, killed, wiped under its tasks, and comes back.
mod engine_away;
/// The Engine room against Engines that hang, die and talk nonsense.
mod engine_faults;
/// A command task from its dispatch to its end: outcomes, reports, script, container, images.
mod execute;
/// The rows of files inside containers.
mod files;
/// Pause and resume at the real Engine.
mod freeze;
/// Disks without room: for records, for output, for scratch files.
mod full_disk;
/// The fuzz target's property, as a seeded loop.
mod fuzz_head;
/// What the runner tells its host, and what a host that is away, slow or wrong does to it: nothing.
mod host;
/// A shared directory that never answers stops what needs it, and nothing else.
mod hung_share;
/// Images for tasks: tarballs, registries, and what a user reads when there is none.
mod images;
/// Kill in every phase of a task.
mod kill;
/// What tests are made of, shared with the campaign.
#[path = "../kit/mod.rs"]
mod kit;
/// The kit itself: that its fakes keep their peers' rules and that each of its faults is one.
mod kit_selftest;
/// What a runner keeps of tasks that are over.
mod leaks;
/// One runner follows another under load: nobody's task or request is lost between them.
mod live_restart;
/// The log in a file: where it goes, SIGHUP, and a disk that is full.
mod log_file;
/// The container network, where it is not there yet.
mod network;
/// Cores and NUMA nodes: what the Engine is asked for, and what is refused at the door.
mod placement;
/// Deaths and restarts of the runner and the Engine; what is ours and what is not.
mod restart;
/// Rows of our own: health, metrics, tasks, logs, events; and what every answer has in common.
mod rows;
/// SIGTERM at the worst of moments: an end within two seconds, and nothing lost.
mod shutdown;
/// Snapshots of VPS: rows, limits, restores, layers, and what goes wrong in the middle.
mod snapshots;
/// Attacks on the state directory: what is no record, and what becomes of its task.
mod state;
/// The runner's death at each call on the state directory.
mod state_calls;
/// A service manager over the runner: what it is told, and the sockets it passes.
mod supervisor;
/// The terminal: the raw connection below it, against the real Engine and one that misbehaves.
mod terminal;
/// The terminal row on real containers.
mod terminal_rows;
/// VPS: create, its answers, and the restart by the host.
mod vps;
/// Deaths of the runner in a create and a stop of a VPS; kills that leave nothing.
mod vps_deaths;
/// A real `ssh` that logs into VPS, and into those that the host restarts.
mod vps_ssh;
/// Creates, kills and stops of one VPS that follow each other closely, and the runner's end among them.
mod vps_turns;
/// A VPS that ends without anybody's asking, and what is in the way of one.
mod vps_watch;
/// Watch sessions: what a peer hears of files, and what is left when it goes.
mod watch;
/// Watches that somebody means to break.
mod watch_attacks;
/// Watches on network file systems.
mod watch_remote;
/// The watch row on real containers.
mod watch_rows;
