//! How SHARED_DIR is, as `/health` tells it. Looked at by the clock on a thread of its own, which is
//! all that a share can hang here (design law 5): the files threads are for those who need it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Node;
use crate::limits::SHARED_DIR_ANSWERS_WITHIN;
use crate::machine::disk;
use crate::threads::lock;

/// What the looks have found.
#[derive(Debug, Default)]
pub struct SharedDir {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// A look is under way since then.
    looking_since: Option<Instant>,
    /// What was wrong at the end of the last look.
    trouble: Option<String>,
    /// That it hangs is in the log already.
    hang_is_said: bool,
}

/// Looks at SHARED_DIR, however long that takes. A standalone node makes its own; a cluster's is
/// mounted, or it is missing, and then it must not be made.
pub fn look(node: &Node) {
    let path = &node.settings.shared_dir;
    lock(&node.shared_dir.seen).looking_since = Some(Instant::now());
    let made = if node.host.is_none() { fs::create_dir_all(path) } else { Ok(()) };
    let found = made.and_then(|()| trouble_of(path));
    let trouble =
        found.unwrap_or_else(|error| Some(format!("{error}; until it is back tasks fail")));
    let mut seen = lock(&node.shared_dir.seen);
    seen.looking_since = None;
    if std::mem::take(&mut seen.hang_is_said) {
        log::warn!("SHARED_DIR {} answers again", path.display());
    }
    if seen.trouble != trouble
        && let Some(trouble) = &trouble
    {
        log::error!("SHARED_DIR {}: {trouble}", path.display());
    }
    seen.trouble = trouble;
}

/// Says in the log, once, that a look takes too long: the thread that looks can't.
pub fn tell_a_hang(node: &Node) {
    let mut seen = lock(&node.shared_dir.seen);
    if seen.hang().is_some() && !std::mem::replace(&mut seen.hang_is_said, true) {
        log::error!("SHARED_DIR {} does not answer", node.settings.shared_dir.display());
    }
}

/// What is wrong with SHARED_DIR, if anything is. Asks nobody.
pub fn trouble(node: &Node) -> Option<String> {
    let seen = lock(&node.shared_dir.seen);
    match seen.hang() {
        Some(hang) => Some(format!(
            "does not answer, for {} s now; until it does new tasks wait and their output can't be read",
            hang.as_secs()
        )),
        None => seen.trouble.clone(),
    }
}

impl Seen {
    fn hang(&self) -> Option<Duration> {
        let taken = self.looking_since?.elapsed();
        (taken >= SHARED_DIR_ANSWERS_WITHIN).then_some(taken)
    }
}

fn trouble_of(path: &Path) -> io::Result<Option<String>> {
    const MISSING: &str = "is no directory on this node: mount the share, or set SHARED_DIR; until then \
                           tasks fail";
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => return Ok(Some(MISSING.to_owned())),
    }
    // Also answered by the share itself, where a stat may come out of a cache.
    let on = disk::filesystem(path)?;
    let full_of = match (on.free_bytes, on.free_files) {
        (Some(0), _) => "bytes",
        (_, Some(0)) => "files",
        _ => return Ok(None),
    };
    Ok(Some(format!("is full of {full_of}: make room, or tasks fail for want of it")))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn directory_is_no_trouble_and_a_file_or_nothing_in_its_place_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(trouble_of(dir.path()).unwrap(), None);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(trouble_of(&file).unwrap().unwrap().contains("no directory"));
        assert!(trouble_of(&dir.path().join("none")).unwrap().unwrap().contains("no directory"));
        assert!(trouble_of(&file.join("below")).is_err());
    }
}
