//! Integration tests: the built runner against a real Docker Engine; fakes only for faults.

// A test says what it expects by failing.
#![allow(clippy::unwrap_used)]

mod door;
mod fuzz_head;
