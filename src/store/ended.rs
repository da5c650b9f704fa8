//! Records of tasks that are over: listed for users, and thrown away when they are too many or too
//! old. They are in no memory; a list is a look at the directory, kept small by `prune`.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::directory::id_of;
use super::error::StoreError;
use super::table::Table;
use crate::limits::{ENDED_RECORD_AGE_MAX, ENDED_RECORDS_MAX, ENDED_RECORDS_SLACK};
use crate::model::ids::TaskId;
use crate::model::task::TaskRecord;

impl Table {
    /// The newest records that are over, newest first, at most `count_max`.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn newest_over(&self, count_max: usize) -> Result<Vec<TaskRecord>, StoreError> {
        let mut files = self.ended_files()?;
        files.truncate(count_max);
        Ok(files.into_iter().filter_map(|(_, id)| self.find(id).ok()).collect())
    }

    /// Whether so many records are over that `prune` should not wait for its hour.
    pub fn is_crowded(&self) -> bool {
        self.ended_count.load(Ordering::Relaxed) > ENDED_RECORDS_MAX + ENDED_RECORDS_SLACK
    }

    /// Deletes records that are over beyond the newest `ENDED_RECORDS_MAX`, or too old.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn prune(&self) -> Result<usize, StoreError> {
        let oldest = SystemTime::now().checked_sub(ENDED_RECORD_AGE_MAX);
        let mut pruned = 0;
        let files = self.ended_files()?;
        let count = files.len();
        for (rank, (modified, id)) in files.into_iter().enumerate() {
            if rank >= ENDED_RECORDS_MAX || oldest.is_some_and(|oldest| modified < oldest) {
                pruned += usize::from(fs::remove_file(self.ended_file(id)).is_ok());
            }
        }
        // What came meanwhile is counted the next time.
        self.ended_count.store(count - pruned, Ordering::Relaxed);
        Ok(pruned)
    }

    fn ended_files(&self) -> Result<Vec<(SystemTime, TaskId)>, StoreError> {
        let names =
            fs::read_dir(&self.ended).map_err(|e| StoreError::io("read", &self.ended, e))?;
        let mut files: Vec<(SystemTime, TaskId)> = names
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let id = id_of(&entry.path())?;
                Some((entry.metadata().ok()?.modified().ok()?, id))
            })
            .collect();
        files.sort_unstable_by(|a, b| b.cmp(a));
        Ok(files)
    }
}
