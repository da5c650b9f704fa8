//! What can go wrong with the state directory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::ids::TaskId;

/// A record could not be read or made durable.
#[derive(Debug)]
pub enum StoreError {
    /// Another runner works on this directory; its process id, if it could write it down.
    InUse { path: PathBuf, holder: Option<u32> },
    /// A record of this id exists.
    Exists(TaskId),
    /// No record of this id.
    Missing(TaskId),
    /// The file system said no; what was in memory is unchanged.
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// A file that is no record, and that could not be set aside, has the record's name.
    Blocked { path: PathBuf },
    /// A path of the record can't be written as JSON.
    Unwritable { id: TaskId, source: serde_json::Error },
}

impl StoreError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Io { doing, path: path.to_owned(), source }
    }

    /// Whether the file system is full: of bytes, of inodes, or of what our user may have of them.
    pub fn is_for_want_of_room(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if is_full(source))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::InUse { path, holder: None } => {
                write!(f, "{} is in use by another runner", path.display())
            }
            StoreError::InUse { path, holder: Some(pid) } => {
                write!(f, "{} is in use by another runner (process {pid})", path.display())
            }
            StoreError::Exists(id) => write!(f, "task {id} is known already"),
            StoreError::Missing(id) => write!(f, "task {id} is not known"),
            StoreError::Io { doing, path, source } => {
                write!(f, "{doing} {}: {source}", path.display())?;
                if is_full(source) {
                    f.write_str("; make room there, for bytes and for files")?;
                }
                Ok(())
            }
            StoreError::Blocked { path } => {
                write!(f, "{} is no task record and is in the way: remove it", path.display())
            }
            StoreError::Unwritable { id, source } => {
                write!(f, "the record of task {id} can't be written: {source}")
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io { source, .. } => Some(source),
            StoreError::Unwritable { source, .. } => Some(source),
            StoreError::InUse { .. }
            | StoreError::Exists(_)
            | StoreError::Missing(_)
            | StoreError::Blocked { .. } => None,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
