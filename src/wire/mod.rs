//! What peers write: structs and codecs exactly as the bytes are, ugly where the peer is.

pub mod docker;
pub mod docker_frames;
pub mod numa;
