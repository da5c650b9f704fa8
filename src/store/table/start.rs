//! What a start finds in the state directory, file by file.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Place, Table};
use crate::store::directory::id_of;
use crate::store::error::StoreError;
use crate::store::file::TEMPORARY_SUFFIX;
use crate::store::lost::Loss;
use crate::store::record_file::{self, Flaw, Flawed, Unread};
use crate::threads::lock;

impl Table {
    pub(super) fn each_in(
        &self,
        directory: &Path,
        mut take: impl FnMut(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let unread = |source| StoreError::io("read", directory, source);
        // All names first: what is taken moves, and a directory must not change under its reader.
        let names: Result<Vec<_>, _> = fs::read_dir(directory).map_err(unread)?.collect();
        for entry in names.map_err(unread)? {
            take(&directory.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// By its name alone: a day without a host leaves more files than a start may read.
    pub(super) fn list_in(&self, path: &Path) -> Result<(), StoreError> {
        match id_of(path) {
            Some(id) => lock(&self.live).put(id, Place::Untold),
            None if is_unfinished(path) => self.drop_unfinished(path),
            None => self.not_a_record(path),
        }
        Ok(())
    }

    pub(super) fn take_in(&self, path: &Path) -> Result<(), StoreError> {
        if is_unfinished(path) {
            self.drop_unfinished(path);
            return Ok(());
        }
        let id = id_of(path);
        let record = match record_file::read(path, id) {
            Ok(record) => record,
            Err(Unread::Missing) => return Ok(()),
            Err(Unread::Flawed(flawed)) => {
                // First, so that a crash between the two finds the file again.
                if let (Some(id), Some(loss)) = (id, Loss::by(flawed.flaw))
                    && self.lost.has_room_for(id, loss)
                {
                    self.lost.mark(id, loss);
                    self.lost.note(id, loss);
                }
                self.aside.take(path, &flawed);
                return Ok(());
            }
            Err(Unread::Refused(error)) => return Err(StoreError::io("read", path, error)),
        };
        let id = record.spec.id;
        // Somebody has put the whole file back.
        self.lost.forget(id);
        let waits = record.waits_for_the_host_only() && self.rename(path, &self.untold).is_ok();
        let place =
            if waits { Place::Untold } else { Place::Whole(Arc::new(Mutex::new(Some(record)))) };
        lock(&self.live).put(id, place);
        Ok(())
    }

    /// Never renamed, so never promised.
    pub(super) fn drop_unfinished(&self, path: &Path) {
        if fs::remove_file(path).is_err() {
            self.not_a_record(path);
        }
    }

    /// Of a name that no record has, whatever is in the file.
    pub(super) fn not_a_record(&self, path: &Path) {
        let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        let flaw = if is_file { Flaw::WrongId } else { Flaw::NotAFile };
        self.aside.take(path, &Flawed::new(flaw, "its name is no task id"));
    }
}

fn is_unfinished(path: &Path) -> bool {
    path.to_string_lossy().ends_with(TEMPORARY_SUFFIX)
}
