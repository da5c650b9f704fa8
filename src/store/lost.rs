//! Tasks whose records are no more: accepted by us, as the name of the file said, and without an
//! outcome until `ops` has given them one (design law 1, contrib/design/0007). Each has a mark on disk,
//! so that a restart before that does not forget it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::directory::{make, within};
use super::error::StoreError;
use super::file;
use super::record_file::Flaw;
use crate::limits::LOST_RECORDS_MAX;
use crate::model::ids::TaskId;
use crate::threads::lock;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Deleted, and not by us.
    Gone,
    /// Its file is in `broken`, under a name that ends in this word.
    Damaged(&'static str),
}

/// A file of a later version may be read again by the program that wrote it; one with another task's
/// record was put there by somebody. Neither says that a record of ours was lost.
const TELLING: [Flaw; 6] =
    [Flaw::Empty, Flaw::Torn, Flaw::Garbage, Flaw::NotAFile, Flaw::TooLarge, Flaw::Unreadable];

const GONE: &str = "gone";

impl Loss {
    /// `None`: the file does not say that a record was lost.
    pub fn by(flaw: Flaw) -> Option<Loss> {
        TELLING.contains(&flaw).then(|| Loss::Damaged(flaw.word()))
    }

    fn word(self) -> &'static str {
        match self {
            Loss::Gone => GONE,
            Loss::Damaged(word) => word,
        }
    }

    fn from_word(word: &str) -> Option<Loss> {
        let flaw = TELLING.into_iter().find(|flaw| flaw.word() == word);
        flaw.and_then(Loss::by).or_else(|| (word == GONE).then_some(Loss::Gone))
    }
}

/// What a user reads.
impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Gone => f.write_str("its record is gone from the state directory"),
            Loss::Damaged(word) => write!(f, "its record was damaged ({word})"),
        }
    }
}

/// `STATE_DIR/lost`: an empty file `{id}.{word}` for each.
#[derive(Debug)]
pub struct Lost {
    directory: PathBuf,
    losses: Mutex<BTreeMap<TaskId, Loss>>,
}

impl Lost {
    /// With what an earlier run has left there.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(directory: PathBuf) -> Result<Lost, StoreError> {
        make(&directory)?;
        let names = fs::read_dir(&directory).map_err(|e| StoreError::io("read", &directory, e))?;
        let losses = names.flatten().filter_map(|entry| loss_of(&entry.path()));
        let losses = losses.take(LOST_RECORDS_MAX).collect();
        Ok(Lost { directory, losses: Mutex::new(losses) })
    }

    /// Whether one more can be remembered; if not, it is said.
    pub fn has_room_for(&self, id: TaskId, loss: Loss) -> bool {
        let losses = lock(&self.losses);
        let has_room = losses.len() < LOST_RECORDS_MAX || losses.contains_key(&id);
        if !has_room {
            log::error!("task {id}: {loss}; too many are, and this one is not told");
        }
        has_room
    }

    /// Makes it known to the next run. A disk that refuses costs no more than that.
    pub fn mark(&self, id: TaskId, loss: Loss) {
        let path = self.path(id, loss);
        if let Err(error) = within(&self.directory, || file::write_durably(&path, b"")) {
            log::error!("{error}");
        }
    }

    /// Known from now on.
    pub fn note(&self, id: TaskId, loss: Loss) {
        lock(&self.losses).insert(id, loss);
    }

    /// It has an outcome, or needs none. Whether it was one of these.
    pub fn forget(&self, id: TaskId) -> bool {
        let Some(loss) = lock(&self.losses).remove(&id) else { return false };
        let _ = fs::remove_file(self.path(id, loss));
        true
    }

    pub fn get(&self, id: TaskId) -> Option<Loss> {
        lock(&self.losses).get(&id).copied()
    }

    /// All of them, in the order of ids.
    pub fn ids(&self) -> Vec<TaskId> {
        lock(&self.losses).keys().copied().collect()
    }

    fn path(&self, id: TaskId, loss: Loss) -> PathBuf {
        self.directory.join(format!("{id}.{}", loss.word()))
    }
}

fn loss_of(mark: &Path) -> Option<(TaskId, Loss)> {
    let (id, word) = mark.file_name()?.to_str()?.split_once('.')?;
    Some((id.parse().ok()?, Loss::from_word(word)?))
}
