//! The floor map of `src/lib.rs`, checked by reading the sources.
