//! What we mean: types that are right by construction. Wire texts become these once, at the door.

pub mod cpu_list;
pub mod ids;
pub mod placement;
pub mod settings;
pub mod subnet;
pub mod topology;
