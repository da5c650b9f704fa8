//! The content of a file, from an offset on.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};

use nix::fcntl::OFlag;

use super::{FileFault, Guest, regular, reopen};
use crate::model::guest_path::GuestPath;

/// Up to `limit_bytes` from `offset` on, and whether the file goes on behind them.
///
/// # Errors
/// No regular file, or none that may be read.
pub fn read(
    guest: &Guest<'_>,
    path: &GuestPath,
    offset: u64,
    limit_bytes: usize,
) -> Result<(Vec<u8>, bool), FileFault> {
    let found = guest.find(path.as_path(), OFlag::empty())?;
    let size = regular(&found)?.len();
    let mut file = reopen(&found, OpenOptions::new().read(true))?;
    file.seek(SeekFrom::Start(offset))?;
    let expected = usize::try_from(size.saturating_sub(offset)).unwrap_or(limit_bytes);
    // One more byte tells whether there is more.
    let mut bytes = Vec::with_capacity(expected.min(limit_bytes) + 1);
    file.take(limit_bytes as u64 + 1).read_to_end(&mut bytes)?;
    let is_cut = bytes.len() > limit_bytes;
    bytes.truncate(limit_bytes);
    Ok((bytes, is_cut))
}
