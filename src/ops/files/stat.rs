//! What is known of one path; a link is looked at, not followed.

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};

use super::{FileFault, Place, kind};
use crate::model::account::Account;
use crate::model::guest_path::GuestPath;
use crate::ops::inside::small_text;

/// The four kinds that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

/// What is told of a name.
#[derive(Debug)]
pub struct About {
    pub kind: Kind,
    pub size_bytes: i64,
    /// Seconds since 1970.
    pub changed: i64,
    pub mode: u32,
    /// The owner's number on this machine.
    owner: u32,
}

impl About {
    pub(super) fn of(stat: &FileStat) -> About {
        let kind = match kind(stat.st_mode) {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => Kind::Symlink,
            _ => Kind::Other,
        };
        About {
            kind,
            size_bytes: stat.st_size,
            changed: stat.st_mtime,
            mode: stat.st_mode,
            owner: stat.st_uid,
        }
    }
}

/// Tells of `path`, and its owner's name if the container has one for it.
///
/// # Errors
/// It is not there or may not be reached.
pub fn stat(place: &Place<'_>, path: &GuestPath) -> Result<(About, Option<String>), FileFault> {
    let about = About::of(&fstat(place.hold(path.as_path(), OFlag::O_NOFOLLOW)?)?);
    let passwd = small_text(&place.root, "/etc/passwd");
    let owner = place.inside.users.inside(about.owner);
    let owner = owner.and_then(|owner| Account::name_of(owner, &passwd)).map(str::to_owned);
    Ok((about, owner))
}
