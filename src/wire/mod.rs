//! What peers write: structs and codecs exactly as the bytes are, ugly where the peer is.

pub mod api;
pub mod docker;
pub mod docker_frames;
pub mod host;
pub mod numa;
