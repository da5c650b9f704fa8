//! Where a file lands on this machine: beside its place until it is whole, then there at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Mutex};

use crate::cli::signals::Signals;
use crate::limits;
use crate::threads::{self, lock};

/// The file that is removed if we have to leave now.
#[derive(Clone, Debug)]
pub struct Unfinished(Arc<Mutex<Option<PathBuf>>>);

impl Unfinished {
    /// Whenever a signal comes, the unfinished file is removed and the program ends.
    ///
    /// # Errors
    /// There may be no more threads.
    pub fn removed_on(signals: Signals) -> io::Result<Unfinished> {
        let unfinished = Unfinished(Arc::default());
        let its = unfinished.clone();
        threads::spawn("cp-signals", limits::STACK_BYTES, move || {
            let code = signals.wait_exit_code();
            // Held to the end: nothing is renamed any more.
            let path = lock(&its.0);
            remove(path.as_deref());
            process::exit(code.into());
        })?;
        Ok(unfinished)
    }
}

/// A file that is being written.
#[derive(Debug)]
pub enum Landing<'a> {
    /// What can't be replaced, such as a device or a file in a directory that we may not change.
    InPlace(File),
    Beside {
        file: File,
        target: PathBuf,
        unfinished: &'a Unfinished,
    },
}

impl<'a> Landing<'a> {
    /// A new file gets `mode`, less the umask; one that is replaced keeps its mode and owner.
    ///
    /// # Errors
    /// It can't be written.
    pub fn open(target: &Path, mode: u32, unfinished: &'a Unfinished) -> io::Result<Landing<'a>> {
        let old = match fs::metadata(target) {
            Ok(old) => old,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Landing::beside(target.into(), mode, unfinished);
            }
            Err(error) => return Err(error),
        };
        if !old.is_file() {
            return OpenOptions::new().write(true).open(target).map(Landing::InPlace);
        }
        // Whoever may not write to a file may not replace it either.
        let file = OpenOptions::new().write(true).open(target)?;
        let anew = Landing::beside(fs::canonicalize(target)?, mode, unfinished);
        if let Ok(landing) = anew
            && landing.is_made_like(&old).is_ok()
        {
            return Ok(landing);
        }
        file.set_len(0)?;
        Ok(Landing::InPlace(file))
    }

    /// The file is whole.
    ///
    /// # Errors
    /// It can't get its name.
    pub fn finish(mut self) -> io::Result<()> {
        if let Landing::Beside { target, unfinished, .. } = &mut self {
            let mut path = lock(&unfinished.0);
            if let Some(path) = path.as_deref() {
                fs::rename(path, target)?;
            }
            *path = None;
        }
        Ok(())
    }

    fn beside(target: PathBuf, mode: u32, unfinished: &'a Unfinished) -> io::Result<Landing<'a>> {
        let directory = match target.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            Some(_) | None => Path::new("."),
        };
        let path = directory.join(format!(".river-cp-{}", process::id()));
        let mut path_kept = lock(&unfinished.0);
        // What an earlier process of this number has left is nobody's.
        remove(Some(&path));
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        *path_kept = Some(path);
        Ok(Landing::Beside { file, target, unfinished })
    }

    fn is_made_like(&self, old: &fs::Metadata) -> io::Result<()> {
        let file = match self {
            Landing::InPlace(file) | Landing::Beside { file, .. } => file,
        };
        fchown(file, Some(old.uid()), Some(old.gid()))?;
        file.set_permissions(fs::Permissions::from_mode(old.mode()))
    }
}

impl Write for Landing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Landing::InPlace(file) | Landing::Beside { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Files hold nothing back.
        Ok(())
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if let Landing::Beside { unfinished, .. } = self {
            remove(lock(&unfinished.0).take().as_deref());
        }
    }
}

/// Best effort: what can't be removed is seen by its name.
fn remove(path: Option<&Path>) {
    if let Some(path) = path {
        let _ = fs::remove_file(path);
    }
}
