//! What we mean: types that are right by construction. Wire texts become these once, at the door.

pub mod ids;
pub mod settings;
pub mod subnet;
