//! river-runner: a synchronous node agent that runs a cluster's tasks and never loses a result.
//!
//! The house has five floors; `use crate::` goes down only, and rooms of floor 1 do not import each
//! other. `tests/layers.rs` reads every file and refuses anything else.
//!
//! ```text
//! 4  app cli      wires everything; the command line
//! 3  api loops    who asks: the host and users (api) or the clock (loops)
//! 2  ops          what is done: one verb = one function; all policy
//! 1  serve docker host machine store lanes      the outside, one peer each
//! 0  wire model limits metrics threads stop     words and rules; no I/O
//! ```
//!
//! `POST /api/execute` from socket to report, in six files: `serve/pool.rs`, `api/tasks.rs`,
//! `ops/task/execute.rs`, `docker/containers.rs`, `ops/task/finish.rs`, `host/outbox.rs`.
//!
//! A program can have a node of its own:
//!
//! ```no_run
//! use river_runner::app;
//! use river_runner::model::settings::Settings;
//!
//! let node = app::start(Settings { runner_port: 0, ..Settings::default() })?;
//! println!("listening on {}", node.local_addr());
//! node.stop(); // containers run on
//! # Ok::<(), app::StartError>(())
//! ```

pub mod api;
pub mod app;
pub mod cli;
pub mod docker;
pub mod host;
pub mod lanes;
pub mod limits;
pub mod loops;
pub mod machine;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod serve;
pub mod stop;
pub mod store;
pub mod threads;
pub mod wire;
