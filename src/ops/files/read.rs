//! A piece of a file.

use std::io::{Read, Seek, SeekFrom};

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::{FileFault, Place, kind, reopen};
use crate::model::guest_path::GuestPath;

/// What was read.
#[derive(Debug)]
pub struct Piece {
    pub bytes: Vec<u8>,
    /// The file goes on behind it.
    pub truncated: bool,
}

/// Up to `limit_bytes` from `offset` on.
///
/// # Errors
/// It is no regular file, or can't be read.
pub fn read(
    place: &Place<'_>,
    path: &GuestPath,
    offset: u64,
    limit_bytes: usize,
) -> Result<Piece, FileFault> {
    let held = place.hold(path.as_path(), OFlag::empty())?;
    let stat = fstat(&held)?;
    match kind(stat.st_mode) {
        SFlag::S_IFREG => {}
        SFlag::S_IFDIR => return Err(FileFault::IsADirectory),
        _ => return Err(FileFault::NotAFile),
    }
    let mut file = reopen(&held, libc::O_RDONLY)?;
    match file.seek(SeekFrom::Start(offset)) {
        // Behind what any file of this file system may have.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return Ok(Piece { bytes: Vec::new(), truncated: false });
        }
        done => drop(done?),
    }
    // Files grow, and some don't tell their size: it is only what is made room for.
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let expected = usize::try_from(size.saturating_sub(offset)).unwrap_or(limit_bytes);
    let mut bytes = Vec::with_capacity(expected.min(limit_bytes) + 1);
    // One byte more tells whether there is more.
    file.take(limit_bytes as u64 + 1).read_to_end(&mut bytes)?;
    let truncated = bytes.len() > limit_bytes;
    bytes.truncate(limit_bytes);
    Ok(Piece { bytes, truncated })
}
