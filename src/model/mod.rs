//! What we mean: types that are right by construction. Wire texts become these once, at the door.

pub mod account;
pub mod cpu_list;
pub mod guest_path;
pub mod ids;
pub mod phase;
pub mod placement;
pub mod script;
pub mod settings;
pub mod subnet;
pub mod task;
pub mod time;
pub mod topology;
pub mod vps;
pub mod vps_script;
