//! All live records in memory, each behind a lock of its own, and their files. Records that are
//! over live in their files only.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;

use super::error::StoreError;
use super::file::{self, TEMPORARY_SUFFIX};
use crate::limits::{ENDED_RECORD_AGE_MAX, ENDED_RECORDS_MAX};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::task::TaskRecord;
use crate::threads::lock;

/// The records of this node.
#[derive(Debug)]
pub struct Table {
    /// Held while we live: two runners on one directory would each end the other's tasks.
    _lock: Flock<File>,
    tasks: PathBuf,
    ended: PathBuf,
    broken: PathBuf,
    live: Mutex<HashMap<TaskId, Arc<Entry>>>,
    /// Why the last write failed; `None` after one that worked.
    trouble: Mutex<Option<String>>,
}

/// `None` only while an insert has not reached the disk, or after it failed.
type Entry = Mutex<Option<TaskRecord>>;

impl Table {
    /// Opens the directory, making it if need be, and reads the live records. A file that is no
    /// record is moved aside and counted, never a reason not to start (demands A12, A13).
    ///
    /// # Errors
    /// [`StoreError::InUse`] by another runner, or the directory cannot be made or read.
    pub fn open(state_dir: &Path) -> Result<Table, StoreError> {
        make_directory(state_dir)?;
        let table = Table {
            _lock: lock_directory(state_dir)?,
            tasks: state_dir.join("tasks"),
            ended: state_dir.join("ended"),
            broken: state_dir.join("broken"),
            live: Mutex::default(),
            trouble: Mutex::default(),
        };
        for directory in [&table.tasks, &table.ended, &table.broken] {
            make_directory(directory)?;
        }
        let names =
            fs::read_dir(&table.tasks).map_err(|e| StoreError::io("read", &table.tasks, e))?;
        for name in names {
            let path = name.map_err(|e| StoreError::io("read", &table.tasks, e))?.path();
            table.take_in(&path)?;
        }
        Ok(table)
    }

    /// Adds a record. When this returns `Ok` it is on disk.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for an id that is live or over; otherwise nothing was added.
    pub fn insert(&self, record: TaskRecord) -> Result<(), StoreError> {
        let id = record.spec.id;
        let entry: Arc<Entry> = Arc::default();
        // Locked before it is visible: whoever finds it waits until the record is on disk.
        let mut slot = lock(&entry);
        {
            let mut live = lock(&self.live);
            if live.contains_key(&id) {
                return Err(StoreError::Exists(id));
            }
            live.insert(id, Arc::clone(&entry));
        }
        // Looked at while the place in the map is ours: `retire` moves the file first and leaves
        // the map after, so an id that is over is seen in one of the two.
        let written =
            if self.is_over(id) { Err(StoreError::Exists(id)) } else { self.write_first(&record) };
        match written {
            Ok(()) => *slot = Some(record),
            Err(_) => drop(lock(&self.live).remove(&id)),
        }
        written
    }

    /// Changes a live record, durably if the change made a difference.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or the disk refused and the record is as it was.
    pub fn update<R>(
        &self,
        id: TaskId,
        change: impl FnOnce(&mut TaskRecord) -> R,
    ) -> Result<R, StoreError> {
        let entry = self.entry(id).ok_or(StoreError::Missing(id))?;
        let mut slot = lock(&entry);
        let current = slot.as_mut().ok_or(StoreError::Missing(id))?;
        let mut next = current.clone();
        let result = change(&mut next);
        if next != *current {
            self.write(&next)?;
            *current = next;
        }
        Ok(result)
    }

    /// Changes a live record in memory; the change reaches the disk with the next `update`. Only
    /// for what may be lost: that a report was acknowledged (it would be sent again), or a time.
    pub fn note<R>(&self, id: TaskId, change: impl FnOnce(&mut TaskRecord) -> R) -> Option<R> {
        let entry = self.entry(id)?;
        let mut slot = lock(&entry);
        slot.as_mut().map(change)
    }

    /// A copy of the live record.
    pub fn get(&self, id: TaskId) -> Option<TaskRecord> {
        let entry = self.entry(id)?;
        let slot = lock(&entry);
        slot.clone()
    }

    /// A copy of the record, live or over.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or the file of a task that is over cannot be read.
    pub fn find(&self, id: TaskId) -> Result<TaskRecord, StoreError> {
        if let Some(record) = self.get(id) {
            return Ok(record);
        }
        let path = self.ended_file(id);
        match fs::read(&path) {
            Ok(content) => serde_json::from_slice(&content)
                .map_err(|source| StoreError::Broken { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing(id)),
            Err(source) => Err(StoreError::io("read", &path, source)),
        }
    }

    /// Whether a task of this id is over.
    pub fn is_over(&self, id: TaskId) -> bool {
        self.ended_file(id).exists()
    }

    /// What `read` makes of each live record, in the order of ids.
    pub fn live<R>(&self, mut read: impl FnMut(&TaskRecord) -> Option<R>) -> Vec<R> {
        let mut entries: Vec<(TaskId, Arc<Entry>)> =
            lock(&self.live).iter().map(|(id, entry)| (*id, Arc::clone(entry))).collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        entries.iter().filter_map(|(_, entry)| lock(entry).as_ref().and_then(&mut read)).collect()
    }

    /// How many records are live.
    pub fn live_count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Takes a settled record out of memory. Its file moves in one step, so that a crash finds it in
    /// one place or the other, never in neither.
    ///
    /// # Errors
    /// The disk refused; the record stays live.
    pub fn retire(&self, id: TaskId) -> Result<(), StoreError> {
        let Some(entry) = self.entry(id) else { return Ok(()) };
        let mut slot = lock(&entry);
        let Some(record) = slot.as_ref().filter(|record| record.is_settled()) else {
            return Ok(());
        };
        self.write(record)?;
        let (from, to) = (self.live_file(id), self.ended_file(id));
        self.note_trouble(in_directory(&self.ended, || {
            fs::rename(&from, &to).map_err(|source| StoreError::io("move", &from, source))
        }))?;
        *slot = None;
        drop(slot);
        lock(&self.live).remove(&id);
        Ok(())
    }

    /// The newest records that are over, newest first, at most `count_max`.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn newest_over(&self, count_max: usize) -> Result<Vec<TaskRecord>, StoreError> {
        let mut files = self.ended_files()?;
        files.truncate(count_max);
        Ok(files.into_iter().filter_map(|(_, id)| self.find(id).ok()).collect())
    }

    /// Deletes records that are over beyond the newest `ENDED_RECORDS_MAX`, or too old.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn prune(&self) -> Result<usize, StoreError> {
        let oldest = SystemTime::now().checked_sub(ENDED_RECORD_AGE_MAX);
        let mut pruned = 0;
        for (rank, (modified, id)) in self.ended_files()?.into_iter().enumerate() {
            if rank >= ENDED_RECORDS_MAX || oldest.is_some_and(|oldest| modified < oldest) {
                pruned += usize::from(fs::remove_file(self.ended_file(id)).is_ok());
            }
        }
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

    fn take_in(&self, path: &Path) -> Result<(), StoreError> {
        if path.to_string_lossy().ends_with(TEMPORARY_SUFFIX) {
            return fs::remove_file(path).map_err(|source| StoreError::io("remove", path, source));
        }
        let record = fs::read(path)
            .map_err(|source| StoreError::io("read", path, source))
            .and_then(|content| {
                serde_json::from_slice::<TaskRecord>(&content)
                    .map_err(|source| StoreError::Broken { path: path.to_owned(), source })
            });
        match record {
            Ok(record) if id_of(path) == Some(record.spec.id) => {
                lock(&self.live).insert(record.spec.id, Arc::new(Mutex::new(Some(record))));
            }
            Ok(record) => {
                log::error!("{}: holds task {}, set aside", path.display(), record.spec.id);
                self.set_aside(path);
            }
            Err(error) => {
                log::error!("{error}; set aside");
                self.set_aside(path);
            }
        }
        Ok(())
    }

    fn set_aside(&self, path: &Path) {
        metrics::RECORDS_BROKEN.up();
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside =
            self.broken.join(format!("{}-{name}", seconds.unwrap_or(Duration::ZERO).as_secs()));
        if let Err(error) = fs::rename(path, &aside) {
            log::error!("move {} to {}: {error}", path.display(), aside.display());
        }
    }

    fn write(&self, record: &TaskRecord) -> Result<(), StoreError> {
        let path = self.live_file(record.spec.id);
        let content = serde_json::to_vec(record)
            .map_err(|source| StoreError::Broken { path: path.clone(), source })?;
        metrics::RECORD_WRITES.up();
        self.note_trouble(in_directory(&self.tasks, || file::write_durably(&path, &content)))
    }

    /// Remembers how the last step on the disk went, for [`Table::trouble`].
    fn note_trouble(&self, done: Result<(), StoreError>) -> Result<(), StoreError> {
        let trouble = done.as_ref().err().map(ToString::to_string);
        let before = std::mem::replace(&mut *lock(&self.trouble), trouble);
        // The first only: what was refused is tried again every second, for every task.
        if let (Err(error), None) = (&done, before) {
            log::error!("{error}");
        }
        done
    }

    /// The first write of a record. Refused after the rename (its directory can't be opened or synced),
    /// it must not be found at the next start: its caller was told that nothing was accepted.
    fn write_first(&self, record: &TaskRecord) -> Result<(), StoreError> {
        self.write(record).inspect_err(|_| {
            let _ = fs::remove_file(self.live_file(record.spec.id));
        })
    }

    /// Looks whether records can be written, if that is in doubt: after a write that failed, or with
    /// a file system that is full. Otherwise a trouble that is over would be told until the next
    /// task comes, and one that is coming not before.
    pub fn look(&self) {
        if self.trouble().is_some() || !has_room(&self.tasks) {
            // What is wrong is remembered, and said.
            let _ = self.note_trouble(in_directory(&self.tasks, || file::try_writing(&self.tasks)));
        }
    }

    /// Why records can't be written now, if they can't.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    fn entry(&self, id: TaskId) -> Option<Arc<Entry>> {
        lock(&self.live).get(&id).cloned()
    }

    fn live_file(&self, id: TaskId) -> PathBuf {
        self.tasks.join(format!("{id}.json"))
    }

    fn ended_file(&self, id: TaskId) -> PathBuf {
        self.ended.join(format!("{id}.json"))
    }
}

/// Does `act`, once more if `directory` was removed under us: what is in memory is still true.
fn in_directory(
    directory: &Path,
    act: impl Fn() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    match act() {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            make_directory(directory)?;
            act()
        }
        other => other,
    }
}

/// What the file system says of itself, as far as it counts.
fn has_room(directory: &Path) -> bool {
    statvfs(directory).is_ok_and(|found| {
        let is_full = |total, left| total > 0 && left == 0;
        !is_full(found.blocks(), found.blocks_available())
            && !is_full(found.files(), found.files_available())
    })
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StoreError::io("make", path, source))
}

/// The kernel gives the lock back when we die, however we die; the file itself means nothing.
fn lock_directory(state_dir: &Path) -> Result<Flock<File>, StoreError> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|source| StoreError::io("open", &path, source))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => StoreError::InUse { path: state_dir.to_owned() },
        errno => StoreError::io("lock", &path, errno.into()),
    })
}

fn id_of(path: &Path) -> Option<TaskId> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod test {
    use std::path::PathBuf;

    use super::*;
    use crate::model::phase::Phase;
    use crate::model::placement::Placement;
    use crate::model::task::{
        ContainerTrace, FinalStatus, ImageSource, LogFiles, Outcome, TaskSpec,
    };
    use crate::model::time::Stamp;

    fn id(number: u64) -> TaskId {
        TaskId::try_from(number).unwrap()
    }

    fn record(number: u64) -> TaskRecord {
        let spec = TaskSpec {
            id: id(number),
            command: "true".into(),
            arguments: vec![],
            env: vec![("SECRET".into(), "x".into())],
            cores: None,
            memory_bytes: None,
            gpus: vec![],
            placement: Placement::Anywhere,
            cpuset: None,
            image: ImageSource::Environment("env".into()),
            working_dir: "/shared".into(),
            logs: LogFiles {
                directory: PathBuf::from("/l"),
                stdout: PathBuf::from("/l/o"),
                stderr: PathBuf::from("/l/e"),
            },
            reserved_ip: None,
        };
        TaskRecord::accepted(spec, Stamp::now(), None, "s".into(), vec![])
    }

    fn end(record: &mut TaskRecord) {
        let outcome = Outcome { status: FinalStatus::Completed, exit_code: Some(0), message: None };
        record.end(outcome, None, Stamp::now(), false);
        record.container = ContainerTrace::Removed;
    }

    #[test]
    fn record_is_there_after_a_restart_as_it_was_last_updated() {
        let state = tempfile::tempdir().unwrap();
        let table = Table::open(state.path()).unwrap();
        table.insert(record(7)).unwrap();
        table.update(id(7), |record| record.phase = Phase::Running).unwrap();
        drop(table);
        let again = Table::open(state.path()).unwrap();
        assert_eq!(again.get(id(7)).unwrap().phase, Phase::Running);
    }

    #[test]
    fn update_that_changes_nothing_writes_nothing() {
        let state = tempfile::tempdir().unwrap();
        let table = Table::open(state.path()).unwrap();
        table.insert(record(7)).unwrap();
        let file = state.path().join("tasks/7.json");
        fs::remove_file(&file).unwrap();
        table.update(id(7), |record| record.phase).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn update_that_can_t_be_written_leaves_the_record_as_it_was() {
        let state = tempfile::tempdir().unwrap();
        let table = Table::open(state.path()).unwrap();
        table.insert(record(7)).unwrap();
        fs::remove_dir_all(state.path().join("tasks")).unwrap();
        fs::write(state.path().join("tasks"), "in the way").unwrap();
        assert!(table.update(id(7), |record| record.phase = Phase::Running).is_err());
        assert_eq!(table.get(id(7)).unwrap().phase, Phase::Accepted);
    }

    #[test]
    fn settled_record_leaves_memory_and_its_id_stays_taken() {
        let state = tempfile::tempdir().unwrap();
        let table = Table::open(state.path()).unwrap();
        table.insert(record(7)).unwrap();
        table.update(id(7), end).unwrap();
        table.retire(id(7)).unwrap();
        assert_eq!(table.live_count(), 0);
        assert_eq!(table.find(id(7)).unwrap().phase, Phase::Ended);
        assert!(matches!(table.insert(record(7)), Err(StoreError::Exists(_))));
        assert_eq!(table.live_count(), 0);
    }

    #[test]
    fn record_that_still_needs_something_is_not_put_away() {
        let state = tempfile::tempdir().unwrap();
        let table = Table::open(state.path()).unwrap();
        table.insert(record(7)).unwrap();
        table.retire(id(7)).unwrap();
        assert!(table.get(id(7)).is_some());
    }

    #[test]
    fn file_that_is_no_record_is_set_aside_and_the_others_are_read() {
        let state = tempfile::tempdir().unwrap();
        Table::open(state.path()).unwrap().insert(record(7)).unwrap();
        let tasks = state.path().join("tasks");
        fs::write(tasks.join("8.json"), "").unwrap();
        fs::write(tasks.join("9.json"), fs::read(tasks.join("7.json")).unwrap()).unwrap();
        fs::write(tasks.join("10.json.new"), "half").unwrap();
        let table = Table::open(state.path()).unwrap();
        assert_eq!(table.live(|record| Some(record.spec.id)), [id(7)]);
        assert_eq!(fs::read_dir(state.path().join("broken")).unwrap().count(), 2);
        assert_eq!(fs::read_dir(&tasks).unwrap().count(), 1);
    }

    #[test]
    fn records_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        Table::open(state.path()).unwrap().insert(record(7)).unwrap();
        let file = fs::metadata(state.path().join("tasks/7.json")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn old_records_are_thrown_away_and_young_ones_stay() {
        let state = tempfile::tempdir().unwrap();
        let table = Table::open(state.path()).unwrap();
        for number in [7, 8] {
            table.insert(record(number)).unwrap();
            table.update(id(number), end).unwrap();
            table.retire(id(number)).unwrap();
        }
        let long_ago = SystemTime::now() - ENDED_RECORD_AGE_MAX - Duration::from_secs(60);
        let old = fs::File::options().write(true).open(state.path().join("ended/7.json")).unwrap();
        old.set_modified(long_ago).unwrap();
        assert_eq!(table.prune().unwrap(), 1);
        assert!(!table.is_over(id(7)) && table.is_over(id(8)));
    }

    #[test]
    fn directory_of_a_living_table_is_refused_to_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let first = Table::open(directory.path()).unwrap();
        let refused = Table::open(directory.path()).unwrap_err();
        assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
        drop(first);
        Table::open(directory.path()).unwrap();
    }
}
