//! Integration tests: the built runner against a real Docker Engine; fakes only for faults.

mod cli;
