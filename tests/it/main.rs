//! Integration tests: the built runner against a real Docker Engine; fakes only for faults.
//! `contrib/test.sh` prepares what they need: an Engine and the images of `tests/images`.

// A test says what it expects by failing.
#![allow(clippy::unwrap_used)]

/// The command line as a user types it, against a fake runner.
mod cli;
/// The HTTP door by itself: framing, hostile bytes, caps, who may call.
mod door;
/// The Engine room against the machine's own Engine.
mod engine;
/// The Engine room against Engines that hang, die and talk nonsense.
mod engine_faults;
/// The fuzz target's property, as a seeded loop.
mod fuzz_head;
/// A command task from its dispatch to its end: outcomes, reports, script, container, images.
mod execute;
/// Pause and resume at the real Engine.
mod freeze;
/// Kill in every phase of a task.
mod kill;
mod kit;
mod kit_selftest;
/// Cores and NUMA nodes: what the Engine is asked for, and what is refused at the door.
mod placement;
