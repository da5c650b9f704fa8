//! The state directory: one JSON file per task, durable before an answer is given (design D6).
//! Called by `ops`; knows nothing of the Engine or the host.
//!
//! ```text
//! STATE_DIR/lock               held by the runner that works here
//! STATE_DIR/tasks/{id}.json    tasks that still need something
//! STATE_DIR/untold/{id}.json   tasks that are over, cleaned up, and only wait for the host
//! STATE_DIR/ended/{id}.json    tasks that are over, told and cleaned up
//! STATE_DIR/broken/…           files that are no records, set aside (contrib/design/0007)
//! STATE_DIR/lost/{id}.{fault}  tasks of such files that have no outcome yet
//! ```

mod aside;
mod directory;
mod ended;
mod error;
mod file;
mod lost;
mod record_file;
mod table;
#[cfg(test)]
mod test;

pub use aside::SetAside;
pub use error::StoreError;
pub use lost::Loss;
pub use table::{Counts, Table};
