//! Durable files: a reader sees the old content or the new one, whatever dies when (design D6).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::StoreError;

/// Suffix of a file that is being written. One that is found at start was never renamed: rubbish.
pub const TEMPORARY_SUFFIX: &str = ".new";

/// The size of an ordinary record and more.
const TRIAL_BYTES: usize = 4096;

/// Writes `content` so that it is on disk, whole, when this returns: temporary file, fsync, rename,
/// fsync of the directory.
///
/// # Errors
/// The file system refused a step; the old content, if any, still stands.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let temporary = temporary(path);
    let written = write(&temporary, content)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_directory(path.parent().unwrap_or(Path::new("/"))));
    written.map_err(|source| {
        // On a full disk the half-written file is what stands in the way of the next try.
        let _ = fs::remove_file(&temporary);
        StoreError::io("write", path, source)
    })
}

/// Whether a record can be written in `directory` now: tries it and leaves nothing.
///
/// # Errors
/// It can't.
pub fn try_writing(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(format!("trial{TEMPORARY_SUFFIX}"));
    let written = write(&path, &[0; TRIAL_BYTES]).and_then(|file| file.sync_all());
    let _ = fs::remove_file(&path);
    written.map_err(|source| StoreError::io("write", &path, source))
}

/// Where a file is written before it has its name.
pub fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY_SUFFIX);
    PathBuf::from(temporary)
}

/// Makes the names in `directory` durable.
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Writes `content`; after a power failure it may be lost or torn.
///
/// # Errors
/// The file system refused; half a file may be there.
pub fn write(path: &Path, content: &[u8]) -> io::Result<File> {
    // Records hold environments: nobody but us reads them.
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    Ok(file)
}
