//! What can go wrong with the state directory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::ids::TaskId;

/// A record could not be read or made durable.
#[derive(Debug)]
pub enum StoreError {
    /// Another runner works on this directory.
    InUse { path: PathBuf },
    /// A record of this id exists.
    Exists(TaskId),
    /// No record of this id.
    Missing(TaskId),
    /// The file system said no; what was in memory is unchanged.
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The file is no record.
    Broken { path: PathBuf, source: serde_json::Error },
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
            StoreError::InUse { path } => {
                write!(f, "{} is in use by another runner", path.display())
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
            StoreError::Broken { path, source } => {
                write!(f, "{} is no task record: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io { source, .. } => Some(source),
            StoreError::Broken { source, .. } => Some(source),
            StoreError::InUse { .. } | StoreError::Exists(_) | StoreError::Missing(_) => None,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
