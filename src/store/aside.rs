//! Files that are no records are set aside, for an operator to look at: never deleted, never a
//! reason not to start (contrib/design/0007). The directory is what counts, not our memory: what lies
//! there is told after a restart too, and is forgotten when somebody has cleared it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::directory::make;
use super::record_file::Flawed;
use crate::limits::{ASIDE_LOGGED_MAX, ASIDE_NAMES_MAX, ASIDE_SAME_NAME_MAX};
use crate::metrics;
use crate::threads::lock;

/// `STATE_DIR/broken`.
#[derive(Debug)]
pub struct Aside {
    directory: PathBuf,
    listing: Mutex<Listing>,
    /// Files that could not be moved. They stay where they are and are not tried again.
    stuck: Mutex<BTreeSet<PathBuf>>,
}

/// What a look at the directory has told.
#[derive(Clone, Debug, Default)]
struct Listing {
    /// The directory's time of change then; `None`: not looked at.
    changed: Option<SystemTime>,
    count: usize,
    newest: Vec<String>,
}

/// Counts a record that is none; the level is for saying so.
fn count_one() -> (u64, log::Level) {
    metrics::RECORDS_BROKEN.up();
    let count = metrics::RECORDS_BROKEN.get();
    (count, if count > ASIDE_LOGGED_MAX { log::Level::Debug } else { log::Level::Error })
}

/// What an operator has to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAside {
    pub directory: PathBuf,
    /// Files that lie there.
    pub count: usize,
    /// Names of the newest of them, newest first. A name ends in what is wrong with the file.
    pub newest: Vec<String>,
    /// Files that could not be moved there.
    pub stuck: Vec<PathBuf>,
}

impl Aside {
    pub fn new(directory: PathBuf) -> Aside {
        Aside { directory, listing: Mutex::default(), stuck: Mutex::default() }
    }

    /// Moves a file out of the records' way, under a name that says when it was found, what it was
    /// called, and what is wrong with it.
    pub fn take(&self, path: &Path, flawed: &Flawed) {
        let (count, level) = count_one();
        // Somebody may have cleared it by removing it. Refused, so is the move.
        let _ = make(&self.directory);
        let moved = self.free_name(path, flawed).and_then(|aside| fs::rename(path, aside));
        match moved {
            Ok(()) => log::log!(level, "{} is no record: {flawed}; set aside", path.display()),
            Err(error) => {
                log::log!(
                    level,
                    "{} is no record: {flawed}; it can't be moved to {}: {error}",
                    path.display(),
                    self.directory.display()
                );
                lock(&self.stuck).insert(path.to_owned());
            }
        }
        if count == ASIDE_LOGGED_MAX {
            log::error!("more of them are not logged; see {}", self.directory.display());
        }
        lock(&self.listing).changed = None;
    }

    /// The record of a task that waits for the host is not at `path` any more, whoever took it: no
    /// other place knows how that task ended.
    pub fn note_loss(&self, path: &Path) {
        let (_, level) = count_one();
        log::log!(level, "{} is gone: how its task ended is not known", path.display());
    }

    /// Whether what could not be moved is still in a record's way. A file is not: a record that is
    /// written there matters more than it.
    pub fn blocks(&self, path: &Path) -> bool {
        let mut stuck = lock(&self.stuck);
        let is_in_the_way =
            || fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_file());
        let blocks = stuck.contains(path) && is_in_the_way();
        if !blocks {
            stuck.remove(path);
        }
        blocks
    }

    /// What lies there now. Looks at the directory only if it has changed since the last time.
    pub fn list(&self) -> SetAside {
        let known = lock(&self.listing).clone();
        let changed = fs::metadata(&self.directory).and_then(|found| found.modified()).ok();
        let listing = if changed.is_some() && changed == known.changed {
            known
        } else {
            let listing = self.look(changed);
            *lock(&self.listing) = listing.clone();
            listing
        };
        let stuck: Vec<PathBuf> = lock(&self.stuck).iter().cloned().collect();
        SetAside {
            directory: self.directory.clone(),
            count: listing.count,
            newest: listing.newest,
            stuck: stuck.into_iter().filter(|path| fs::symlink_metadata(path).is_ok()).collect(),
        }
    }

    fn look(&self, changed: Option<SystemTime>) -> Listing {
        let names = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let count = names.len();
        // They begin with the second.
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.truncate(ASIDE_NAMES_MAX);
        Listing { changed, count, newest: names }
    }

    /// Nothing that lies there is overwritten.
    fn free_name(&self, path: &Path, flawed: &Flawed) -> std::io::Result<PathBuf> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or(Duration::ZERO).as_secs();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let word = flawed.flaw.word();
        let mut names = (1..ASIDE_SAME_NAME_MAX).map(|nth| match nth {
            1 => self.directory.join(format!("{seconds}-{name}.{word}")),
            nth => self.directory.join(format!("{seconds}-{name}.{nth}.{word}")),
        });
        names
            .find(|aside| fs::symlink_metadata(aside).is_err())
            .ok_or_else(|| std::io::ErrorKind::AlreadyExists.into())
    }
}
