//! The records' files: read, written, moved, and remembered how that went.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Entry, Place, Purpose, Table};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::task::TaskRecord;
use crate::model::time::Stamp;
use crate::store::directory::within;
use crate::store::error::StoreError;
use crate::store::file;
use crate::store::lost::Loss;
use crate::store::record_file::{self, Flawed, Unread};
use crate::threads::lock;

impl Table {
    /// `None`: there is none, or what was there is set aside now.
    pub(in crate::store) fn read(
        &self,
        path: &Path,
        id: TaskId,
    ) -> Result<Option<TaskRecord>, StoreError> {
        Ok(match self.examine(path, id)? {
            Ok(record) => Some(record),
            Err(flawed) => {
                flawed.inspect(|flawed| self.aside.take(path, flawed));
                None
            }
        })
    }

    /// The record, or what is wrong with its file; `None`: it is gone.
    pub(super) fn examine(
        &self,
        path: &Path,
        id: TaskId,
    ) -> Result<Result<TaskRecord, Option<Flawed>>, StoreError> {
        match record_file::read(path, Some(id)) {
            Ok(record) => Ok(Ok(record)),
            Err(Unread::Missing) => Ok(Err(None)),
            Err(Unread::Flawed(flawed)) => Ok(Err(Some(flawed))),
            Err(Unread::Refused(error)) => Err(StoreError::io("read", path, error)),
        }
    }

    /// The record of a task that waits for the host is none, or gone. The caller holds its place, which
    /// it loses last: until the file is moved nobody may give the task an outcome, whose file would have
    /// the same name. The loss is on disk before, so that a crash finds one of the two.
    pub(super) fn lose(&self, id: TaskId, flawed: Option<&Flawed>) {
        let path = self.untold_file(id);
        let loss = flawed.map_or(Some(Loss::Gone), |flawed| Loss::by(flawed.flaw));
        let loss = loss.filter(|loss| self.lost.has_room_for(id, *loss));
        {
            let _at_the_disk = self.at_the_disk();
            loss.inspect(|loss| self.lost.mark(id, *loss));
            flawed.inspect(|flawed| self.aside.take(&path, flawed));
        }
        self.aside.note_loss(&path);
        let mut live = lock(&self.live);
        loss.inspect(|loss| self.lost.note(id, *loss));
        live.remove(id);
    }

    /// The record of a task that waits for the host, or was told. One that is none is lost.
    pub(super) fn read_untold(&self, id: TaskId) -> Option<TaskRecord> {
        let path = self.untold_file(id);
        match self.examine(&path, id) {
            Ok(Ok(record)) => return Some(record),
            Ok(Err(_)) => {}
            Err(error) => {
                log::error!("{error}");
                return None;
            }
        }
        // Looked at once more with its place in our hands: it may have been mended meanwhile.
        let entry: Arc<Entry> = Arc::default();
        let _slot = lock(&entry);
        let place = {
            let mut live = lock(&self.live);
            match live.places.get(&id).cloned() {
                // It has come to memory, or was put away.
                Some(Place::Whole(_)) | None => return None,
                Some(place) => {
                    live.put(id, Place::Whole(Arc::clone(&entry)));
                    place
                }
            }
        };
        match self.examine(&path, id) {
            Ok(Err(flawed)) if matches!(place, Place::Untold) => {
                self.lose(id, flawed.as_ref());
                None
            }
            // The host knows how it ended.
            Ok(Err(flawed)) => {
                flawed.inspect(|flawed| self.aside.take(&path, flawed));
                lock(&self.live).remove(id);
                None
            }
            found => {
                lock(&self.live).put(id, place);
                found.inspect_err(|error| log::error!("{error}")).ok().and_then(Result::ok)
            }
        }
    }

    pub(super) fn move_untold_to_ended(
        &self,
        id: TaskId,
        reported: Stamp,
    ) -> Result<(), StoreError> {
        let from = self.untold_file(id);
        let Some(mut record) = self.read(&from, id)? else { return Ok(()) };
        record.reports.clear();
        record.times.reported = Some(reported);
        let content = encode(&record)?;
        // Beside the old one, where a start finds what we could not finish.
        let (fresh, to) = (file::temporary(&from), self.ended_file(id));
        let written = {
            let _at_the_disk = self.at_the_disk();
            within(&self.ended, || {
                file::write(&fresh, &content)
                    .and_then(|_| fs::rename(&fresh, &to))
                    .and_then(|()| fs::remove_file(&from))
                    .map_err(|source| StoreError::io("write", &to, source))
            })
        };
        written.or_else(|error| {
            let _ = fs::remove_file(&fresh);
            // A full disk can still move: what is not written follows from where the file is.
            self.rename(&from, &self.ended).map_err(|_| error)
        })
    }

    pub(super) fn write(&self, record: &TaskRecord) -> Result<(), StoreError> {
        self.note_trouble(Purpose::Change, self.write_file(record))
    }

    pub(super) fn write_file(&self, record: &TaskRecord) -> Result<(), StoreError> {
        let path = self.live_file(record.spec.id);
        let content = encode(record)?;
        metrics::RECORD_WRITES.up();
        let _at_the_disk = self.at_the_disk();
        within(&self.tasks, || file::write_durably(&path, &content))
    }

    pub(super) fn rename(&self, from: &Path, directory: &Path) -> Result<(), StoreError> {
        let to = directory.join(from.file_name().unwrap_or_default());
        let _at_the_disk = self.at_the_disk();
        within(directory, || {
            fs::rename(from, &to).map_err(|source| StoreError::io("move", from, source))
        })
    }

    /// Remembers how the last step on the disk went, for [`Table::trouble`].
    pub(super) fn note_trouble(
        &self,
        purpose: Purpose,
        done: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut trouble = lock(&self.trouble);
        let before = match &done {
            Ok(()) => trouble.remove(&purpose),
            Err(error) => trouble.insert(purpose, error.to_string()),
        };
        drop(trouble);
        // The first only: what was refused is tried again every second, for every task.
        if let (Err(error), None) = (&done, before) {
            log::error!("{error}");
        }
        done
    }

    /// The first write of a record. Refused after the rename (its directory can't be opened or synced),
    /// it must not be found at the next start: its caller was told that nothing was accepted.
    pub(super) fn write_first(&self, record: &TaskRecord) -> Result<(), StoreError> {
        let path = self.live_file(record.spec.id);
        if self.aside.blocks(&path) {
            return Err(StoreError::Blocked { path });
        }
        self.write(record).inspect_err(|_| {
            let _at_the_disk = self.at_the_disk();
            let _ = fs::remove_file(&path);
        })
    }

    pub(super) fn live_file(&self, id: TaskId) -> PathBuf {
        self.tasks.join(format!("{id}.json"))
    }

    pub(super) fn untold_file(&self, id: TaskId) -> PathBuf {
        self.untold.join(format!("{id}.json"))
    }

    pub(in crate::store) fn ended_file(&self, id: TaskId) -> PathBuf {
        self.ended.join(format!("{id}.json"))
    }
}

fn encode(record: &TaskRecord) -> Result<Vec<u8>, StoreError> {
    let id = record.spec.id;
    record_file::encode(record).map_err(|source| StoreError::Unwritable { id, source })
}
