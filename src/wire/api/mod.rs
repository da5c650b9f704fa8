//! Bodies of our REST rows, read with the leniency and the error shape of contract 1.0.

pub mod fields;
pub mod files;
pub mod tasks;
pub mod terminal;
pub mod vps;
pub mod watch;
