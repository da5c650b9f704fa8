//! Integration tests: the built runner against a real Docker Engine; fakes only for faults.
//! `contrib/test.sh` prepares what they need: an Engine and the images of `tests/images`.

mod kit;
mod kit_selftest;
