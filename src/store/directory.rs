//! The state directory itself: made for nobody but us, and held by one runner at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::StoreError;
use crate::model::ids::TaskId;

/// Makes a directory, with those above it; no error if it is there.
///
/// # Errors
/// It cannot be made.
pub fn make(path: &Path) -> Result<(), StoreError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StoreError::io("make", path, source))
}

/// Does `act`, once more if `directory` was removed under us: what is in memory is still true.
///
/// # Errors
/// As `act`, or the directory cannot be made again.
pub fn within(
    directory: &Path,
    act: impl Fn() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    match act() {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            make(directory)?;
            act()
        }
        other => other,
    }
}

/// Takes the directory for this process. The kernel gives the lock back when we die, however we die;
/// the file holds our process id for whoever is refused, and means nothing else.
///
/// # Errors
/// [`StoreError::InUse`], or the file system refused.
pub fn hold(state_dir: &Path) -> Result<Flock<File>, StoreError> {
    let path = state_dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(|source| StoreError::io("open", &path, source))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            // Only a courtesy: a full disk is no reason not to start.
            let _ = held.set_len(0).and_then(|()| write!(held, "{}", std::process::id()));
            Ok(held)
        }
        Err((file, Errno::EWOULDBLOCK)) => {
            Err(StoreError::InUse { path: state_dir.to_owned(), holder: holder(file) })
        }
        Err((_, errno)) => Err(StoreError::io("lock", &path, errno.into())),
    }
}

fn holder(file: File) -> Option<u32> {
    /// Of a number of 32 bits.
    const DIGITS_MAX: u64 = 10;
    let mut text = String::new();
    file.take(DIGITS_MAX).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// The id in the name of a record's file, as we write it: `007.json` is somebody else's.
pub fn id_of(path: &Path) -> Option<TaskId> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".json")?;
    stem.parse().ok().filter(|id: &TaskId| id.to_string() == stem)
}
