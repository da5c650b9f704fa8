//! What is done: one verb, one function, context first; all policy. Knows neither HTTP nor
//! WebSocket; called by `api` (who asks) and `loops` (the clock), runs on lanes.

pub mod error;
pub mod events;
pub mod files;
pub mod files_thread;
pub mod health;
pub mod images;
pub mod inside;
pub mod network;
pub mod node;
pub mod reports;
pub mod shared_dir;
pub mod snapshots;
pub mod task;
pub mod terminal;
pub mod vps;
pub mod watch;

pub use error::OpError;
pub use node::Node;
