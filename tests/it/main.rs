//! Integration tests: the built runner against a real Docker Engine; fakes only for faults.
//! `contrib/test.sh` prepares what they need: an Engine and the images of `tests/images`.

/// The command line as a user types it, against a fake runner.
mod cli;
/// The Engine room against the machine's own Engine.
mod engine;
/// The Engine room against Engines that hang, die and talk nonsense.
mod engine_faults;
mod kit;
mod kit_selftest;
/// The container network, where it is not there yet.
mod network;
