//! What the clock asks for: being alive at the host, and looking whether all is as recorded. Each
//! loop is one thread, owns its pace, and ends with the stop flag.

pub mod doors;
pub mod engine_events;
pub mod heartbeat;
pub mod shared_dir;
pub mod sweep;
