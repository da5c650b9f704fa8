//! Names taken away, with all that is below them where that is asked for.

use nix::sys::stat::SFlag;

use super::{FileFault, Place, kind, mounts, tree};
use crate::model::guest_path::GuestPath;

/// Removes what is at `path`; one that is not there is removed already.
///
/// # Errors
/// A directory without `recursive`, a mount or what holds one, or no right to.
pub fn remove(place: &Place<'_>, path: &GuestPath, recursive: bool) -> Result<(), FileFault> {
    if path.parent().is_none() {
        return Err(if recursive { FileFault::Mount } else { FileFault::NotRecursive });
    }
    let (parent, name) = match place.parent(path.as_path()) {
        Err(FileFault::Missing | FileFault::NotADirectory) => return Ok(()),
        found => found?,
    };
    let stat = match place.stat(&parent, &name) {
        Err(FileFault::Missing) => return Ok(()),
        stat => stat?,
    };
    mounts::allow_change(&parent, &name)?;
    if kind(stat.st_mode) == SFlag::S_IFDIR {
        if !recursive {
            return Err(FileFault::NotRecursive);
        }
        mounts::allow_removal(place, &tree::enter(&parent, &name)?)?;
    }
    tree::remove(place, &parent, &name)
}
