//! The records that still need something, and their files. What is being worked on is held whole,
//! each behind a lock of its own; of a task that only waits for the host no more than its id, so
//! that a day without one costs little. Records that are over live in their files only.

mod files;
mod start;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, TryLockError};
use std::thread;
use std::time::Instant;

use nix::fcntl::Flock;
use nix::sys::statvfs::statvfs;

use super::aside::{Aside, SetAside};
use super::directory::{hold, make, within};
use super::error::StoreError;
use super::file;
use super::lost::{Loss, Lost};
use crate::limits::{JOIN_LOOK_AGAIN, PLACES_KEPT_MIN, PLACES_SLACK_MAX, STATE_DIR_LEAVE};
use crate::model::ids::TaskId;
use crate::model::task::TaskRecord;
use crate::model::time::Stamp;
use crate::threads::{lock, unpoisoned};

/// The records of this node.
#[derive(Debug)]
pub struct Table {
    /// Held while we live: two runners on one directory would each end the other's tasks.
    lock: Mutex<Option<Flock<File>>>,
    /// Read while a file is written or moved; taken for good by who leaves.
    gate: RwLock<()>,
    tasks: PathBuf,
    untold: PathBuf,
    pub(super) ended: PathBuf,
    aside: Aside,
    lost: Lost,
    live: Mutex<Live>,
    /// Why the last write failed, by what it was for; none for what works.
    trouble: Mutex<BTreeMap<Purpose, String>>,
    /// Files in `ended`, as far as known.
    pub(super) ended_count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Live {
    places: HashMap<TaskId, Place>,
    /// Of these, those that are not held whole.
    waiting: usize,
}

/// What an id that is over means for a new record of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Counts,
    IsReplaced,
}

/// Where a record is.
#[derive(Clone, Debug)]
enum Place {
    /// In memory, and in `tasks`.
    Whole(Arc<Entry>),
    /// In `untold`.
    Untold,
    /// Still there, though the host knows: the disk has refused to move it.
    Told,
}

/// `None` only while a record comes from the disk or goes there, or after that failed.
type Entry = Mutex<Option<TaskRecord>>;

/// What a write is for. A disk may refuse one and not the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Change,
    WaitForTheHost,
    PutAway,
}

/// How many records need something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Held whole.
    pub active: usize,
    /// Over and cleaned up; only the host is to be told.
    pub untold: usize,
}

impl Live {
    fn put(&mut self, id: TaskId, place: Place) {
        let waits = |place: &Place| usize::from(!matches!(place, Place::Whole(_)));
        self.waiting += waits(&place);
        self.waiting -= self.places.insert(id, place).as_ref().map_or(0, waits);
    }

    fn remove(&mut self, id: TaskId) {
        if let Some(Place::Untold | Place::Told) = self.places.remove(&id) {
            self.waiting -= 1;
        }
        // A day without a host must not be remembered as memory for ever.
        let room = self.places.capacity();
        if room > PLACES_KEPT_MIN && room / PLACES_SLACK_MAX > self.places.len() {
            self.places.shrink_to(2 * self.places.len());
        }
    }
}

impl Table {
    /// Opens the directory, making it if need be, and reads the live records. Of tasks that only
    /// wait for the host no file is opened. A file that is no record is set aside and told, never
    /// a reason not to start.
    ///
    /// # Errors
    /// [`StoreError::InUse`] by another runner, or the directory cannot be made or read.
    pub fn open(state_dir: &Path) -> Result<Table, StoreError> {
        make(state_dir)?;
        let table = Table {
            lock: Mutex::new(Some(hold(state_dir)?)),
            gate: RwLock::default(),
            tasks: state_dir.join("tasks"),
            untold: state_dir.join("untold"),
            ended: state_dir.join("ended"),
            aside: Aside::new(state_dir.join("broken")),
            lost: Lost::open(state_dir.join("lost"))?,
            live: Mutex::default(),
            trouble: Mutex::default(),
            ended_count: AtomicUsize::new(0),
        };
        for directory in [&table.tasks, &table.untold, &table.ended] {
            make(directory)?;
        }
        // Not a reason not to start: what can't be set aside stays where it is.
        if let Err(error) = make(&state_dir.join("broken")) {
            log::error!("{error}");
        }
        table.each_in(&table.untold, |path| table.list_in(path))?;
        table.each_in(&table.tasks, |path| table.take_in(path))?;
        Ok(table)
    }

    /// Adds a record. When this returns `Ok` it is on disk.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for an id that is live, over, or lost; otherwise nothing was added.
    pub fn insert(&self, record: TaskRecord) -> Result<(), StoreError> {
        self.add(record, |loss| loss.is_none(), Over::Counts)
    }

    /// Adds what its container says of a task, whether its record was lost or was never here.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for an id that is live or over; otherwise nothing was added.
    pub fn restore(&self, record: TaskRecord) -> Result<(), StoreError> {
        self.add_found(record, |_| true)
    }

    /// Adds a record, also in place of one that is over: a VPS that is created again. Until the new one is
    /// on disk the old one stays.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for an id that is live or lost; otherwise nothing was added.
    pub fn reopen(&self, record: TaskRecord) -> Result<(), StoreError> {
        let ended = self.ended_file(record.spec.id);
        self.add(record, |loss| loss.is_none(), Over::IsReplaced)?;
        // What a crash leaves is overwritten when the new one is over, too.
        if std::fs::remove_file(ended).is_ok() {
            self.ended_count.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Adds the outcome of a task whose record is lost still: a kill may have made it needless.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for an id that is live, over, or not lost any more; otherwise nothing
    /// was added.
    pub fn end_lost(&self, record: TaskRecord) -> Result<(), StoreError> {
        self.add_found(record, |loss| loss.is_some())
    }

    fn add_found(
        &self,
        record: TaskRecord,
        may_be: impl Fn(Option<Loss>) -> bool,
    ) -> Result<(), StoreError> {
        let id = record.spec.id;
        let added = self.add(record, may_be, Over::Counts);
        if let Ok(()) | Err(StoreError::Exists(_)) = added {
            self.forget_loss(id);
        }
        added
    }

    fn add(
        &self,
        record: TaskRecord,
        may_be: impl Fn(Option<Loss>) -> bool,
        over: Over,
    ) -> Result<(), StoreError> {
        let id = record.spec.id;
        let entry: Arc<Entry> = Arc::default();
        // Locked before it is visible: whoever finds it waits until the record is on disk.
        let mut slot = lock(&entry);
        {
            let mut live = lock(&self.live);
            // One that is lost may have run already: nobody runs it again.
            if live.places.contains_key(&id) || !may_be(self.lost.get(id)) {
                return Err(StoreError::Exists(id));
            }
            live.put(id, Place::Whole(Arc::clone(&entry)));
        }
        // Looked at while the place in the map is ours: a record's file is moved first and leaves
        // the map after, so an id that is over is seen in one of the two.
        let is_taken = over == Over::Counts && self.is_over(id);
        let written =
            if is_taken { Err(StoreError::Exists(id)) } else { self.write_first(&record) };
        match written {
            Ok(()) => *slot = Some(record),
            Err(_) => lock(&self.live).remove(id),
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
        loop {
            let entry = self.taken_down(id)?;
            let mut slot = lock(&entry);
            // It began to wait for the host, or was put away, while we waited for it: by now its
            // place says which.
            let Some(current) = slot.as_mut() else { continue };
            let mut next = current.clone();
            let result = change(&mut next);
            if next != *current {
                self.write(&next)?;
                *current = next;
            }
            return Ok(result);
        }
    }

    /// Changes a record that is worked on, in memory; the change reaches the disk with the next
    /// `update`. Only for what may be lost: that a report was acknowledged (it would be sent again),
    /// or a time. `None` for any other record, one that waits for the host included.
    pub fn note<R>(&self, id: TaskId, change: impl FnOnce(&mut TaskRecord) -> R) -> Option<R> {
        let Some(Place::Whole(entry)) = self.place(id) else { return None };
        let mut slot = lock(&entry);
        slot.as_mut().map(change)
    }

    /// A copy of the live record.
    pub fn get(&self, id: TaskId) -> Option<TaskRecord> {
        // Its place changes under us once or twice at most: it begins to wait for the host, or is
        // taken back from there.
        for _ in 0..3 {
            let place = self.place(id)?;
            let found = match &place {
                Place::Whole(entry) => lock(entry).clone(),
                Place::Untold => self.read_untold(id),
                Place::Told => self.read_untold(id).map(without_reports),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// A copy of the record, live or over. A file that is no record is set aside.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or the file of a task that is over cannot be read now.
    pub fn find(&self, id: TaskId) -> Result<TaskRecord, StoreError> {
        if let Some(record) = self.get(id) {
            return Ok(record);
        }
        let path = self.ended_file(id);
        let record = self.read(&path, id)?.ok_or(StoreError::Missing(id))?;
        // The host had heard of it when it came here.
        Ok(without_reports(record))
    }

    /// Whether a live record of this id is there.
    pub fn is_live(&self, id: TaskId) -> bool {
        lock(&self.live).places.contains_key(&id)
    }

    /// Whether a task of this id is over.
    pub fn is_over(&self, id: TaskId) -> bool {
        self.ended_file(id).exists()
    }

    /// What `read` makes of each record that is worked on, in the order of ids.
    pub fn active<R>(&self, mut read: impl FnMut(&TaskRecord) -> Option<R>) -> Vec<R> {
        let mut entries: Vec<(TaskId, Arc<Entry>)> = lock(&self.live)
            .places
            .iter()
            .filter_map(|(id, place)| match place {
                Place::Whole(entry) => Some((*id, Arc::clone(entry))),
                Place::Untold | Place::Told => None,
            })
            .collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        entries.iter().filter_map(|(_, entry)| lock(entry).as_ref().and_then(&mut read)).collect()
    }

    /// Tasks that are over and only wait for the host, in the order of ids.
    pub fn untold(&self) -> Vec<TaskId> {
        self.waiting(|place| matches!(place, Place::Untold))
    }

    /// How many records need something.
    pub fn counts(&self) -> Counts {
        let live = lock(&self.live);
        Counts { active: live.places.len() - live.waiting, untold: live.waiting }
    }

    /// Takes a record out of memory that nobody works on any more: to those that are over, or to
    /// those that only wait for the host. Any other stays. Its file moves in one step, so that a
    /// crash finds it in one place or the other, never in neither.
    ///
    /// # Errors
    /// The disk refused; the record stays in memory.
    pub fn retire(&self, id: TaskId) -> Result<(), StoreError> {
        let Some(Place::Whole(entry)) = self.place(id) else { return Ok(()) };
        let mut slot = lock(&entry);
        let Some(record) = slot.as_ref() else { return Ok(()) };
        let is_over = record.is_settled();
        let (directory, purpose) = if is_over {
            (&self.ended, Purpose::PutAway)
        } else if record.waits_for_the_host_only() {
            (&self.untold, Purpose::WaitForTheHost)
        } else {
            return Ok(());
        };
        // One step to `note_trouble`: a write that works must not hide a move that does not.
        let written = self.write_file(record);
        let moved = written.and_then(|()| self.rename(&self.live_file(id), directory));
        self.note_trouble(purpose, moved)?;
        if is_over {
            self.ended_count.fetch_add(1, Ordering::Relaxed);
            lock(&self.live).remove(id);
        } else {
            lock(&self.live).put(id, Place::Untold);
        }
        *slot = None;
        Ok(())
    }

    /// The host knows of the end of a task that waited for nothing else: it is over. Nothing is synced,
    /// as it would make a long backlog ten times as long: a power failure may cost what is remembered
    /// of a task whose story is told, or the host is told once more.
    ///
    /// # Errors
    /// The disk refused. The record is not reported again; [`Table::put_away_told`] is to be tried.
    pub fn put_away(&self, id: TaskId, reported: Stamp) -> Result<(), StoreError> {
        let entry: Arc<Entry> = Arc::default();
        // Nobody else works on the file meanwhile.
        let _slot = lock(&entry);
        {
            let mut live = lock(&self.live);
            if !matches!(live.places.get(&id), Some(Place::Untold | Place::Told)) {
                return Ok(());
            }
            live.put(id, Place::Whole(Arc::clone(&entry)));
        }
        let moved = self.note_trouble(Purpose::PutAway, self.move_untold_to_ended(id, reported));
        match moved {
            Ok(()) => {
                self.ended_count.fetch_add(1, Ordering::Relaxed);
                lock(&self.live).remove(id);
            }
            Err(_) => lock(&self.live).put(id, Place::Told),
        }
        moved
    }

    /// Tries again what the disk refused to [`Table::put_away`].
    ///
    /// # Errors
    /// The disk refuses still.
    pub fn put_away_told(&self) -> Result<(), StoreError> {
        let told = self.waiting(|place| matches!(place, Place::Told));
        let mut tried = Ok(());
        for id in told {
            // All of them: one that can't be moved must not keep the others.
            tried = tried.and(self.put_away(id, Stamp::now()));
        }
        tried
    }

    /// Looks whether records can be written, if that is in doubt: after a write that failed, or with
    /// a file system that is full. Otherwise a trouble that is over would be told until the next
    /// task comes, and one that is coming not before.
    pub fn look(&self) {
        if self.trouble().is_some() || !has_room(&self.tasks) {
            // What is wrong is remembered, and said.
            let _at_the_disk = self.at_the_disk();
            let tried = within(&self.tasks, || file::try_writing(&self.tasks));
            let _ = self.note_trouble(Purpose::Change, tried);
        }
    }

    /// Why records can't be written now, if they can't.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).values().next().cloned()
    }

    /// Files that are no records and wait for an operator.
    pub fn set_aside(&self) -> SetAside {
        self.aside.list()
    }

    /// What became of the record of a task that has no outcome yet for that reason.
    pub fn loss(&self, id: TaskId) -> Option<Loss> {
        self.lost.get(id)
    }

    /// Tasks without an outcome whose records were lost, in the order of ids.
    pub fn lost(&self) -> Vec<TaskId> {
        self.lost.ids()
    }

    /// The task needs no outcome any more. Whether its record was lost.
    pub fn forget_loss(&self, id: TaskId) -> bool {
        let _at_the_disk = self.at_the_disk();
        self.lost.forget(id)
    }

    /// Gives the directory to whoever follows us, as the last thing before the process ends: nothing
    /// is written any more, and whoever tries waits for the end. The kernel would give it back only
    /// with our last thread, and one that waits in it for a file server that is gone can outlive us
    /// for days. False if a write hangs: then the directory stays ours until the kernel is done.
    pub fn leave(&self) -> bool {
        let until = Instant::now() + STATE_DIR_LEAVE;
        loop {
            match self.gate.try_write() {
                Ok(closed) => {
                    std::mem::forget(closed);
                    break;
                }
                Err(TryLockError::Poisoned(closed)) => {
                    std::mem::forget(closed.into_inner());
                    break;
                }
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    thread::sleep(JOIN_LOOK_AGAIN);
                }
                Err(TryLockError::WouldBlock) => return false,
            }
        }
        drop(lock(&self.lock).take());
        true
    }

    /// Held while a file is written or moved.
    fn at_the_disk(&self) -> RwLockReadGuard<'_, ()> {
        unpoisoned(self.gate.read())
    }

    // ── places ───────────────────────────────────────────────────────────────────────────────

    fn place(&self, id: TaskId) -> Option<Place> {
        lock(&self.live).places.get(&id).cloned()
    }

    fn waiting(&self, is: impl Fn(&Place) -> bool) -> Vec<TaskId> {
        let live = lock(&self.live);
        let mut ids: Vec<TaskId> =
            live.places.iter().filter_map(|(id, place)| is(place).then_some(*id)).collect();
        drop(live);
        ids.sort_unstable();
        ids
    }

    /// The record in memory, taken back from those that only wait for the host if it is one.
    fn taken_down(&self, id: TaskId) -> Result<Arc<Entry>, StoreError> {
        let entry: Arc<Entry> = Arc::default();
        let mut slot = lock(&entry);
        {
            let mut live = lock(&self.live);
            match live.places.get(&id) {
                None | Some(Place::Told) => return Err(StoreError::Missing(id)),
                Some(Place::Whole(entry)) => return Ok(Arc::clone(entry)),
                Some(Place::Untold) => live.put(id, Place::Whole(Arc::clone(&entry))),
            }
        }
        let path = self.untold_file(id);
        let taken = self.examine(&path, id).and_then(|found| match found {
            Ok(record) => self.rename(&path, &self.tasks).map(|()| Ok(record)),
            Err(flawed) => Ok(Err(flawed)),
        });
        match taken {
            Ok(Ok(record)) => *slot = Some(record),
            Ok(Err(flawed)) => {
                self.lose(id, flawed.as_ref());
                return Err(StoreError::Missing(id));
            }
            Err(error) => {
                lock(&self.live).put(id, Place::Untold);
                return Err(error);
            }
        }
        drop(slot);
        Ok(entry)
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

fn without_reports(record: TaskRecord) -> TaskRecord {
    TaskRecord { reports: Vec::new(), ..record }
}
