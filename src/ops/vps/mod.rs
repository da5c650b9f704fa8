//! A VPS in Docker: somebody's desk, which runs until it is stopped (contract 1.2, 5.4). `create` makes
//! it, `stop` ends it, `watch` looks after it between the two; its start takes the steps of every task
//! (`ops::task::execute`), and so do a kill and a pause.

pub mod container;
pub mod create;
pub mod door;
pub mod leave;
pub mod pending;
pub mod stale;
pub mod stop;
pub mod watch;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use self::pending::PendingCreates;
use super::node::Exit;
use super::task::outcome::killed;
use super::{Node, OpError};
use crate::lanes::Next;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::{Report, TaskRecord};
use crate::model::time::Stamp;
use crate::stop::Stop;
use crate::threads::lock;

/// What the verbs on VPS share beside the records.
pub struct VpsDesk {
    /// Callers of creates, until the container runs or can't.
    creates: Waiting<u16>,
    /// Callers of stops.
    stops: Waiting<()>,
    /// Snapshots under way, and what ends them.
    pub makings: Mutex<HashMap<TaskId, Stop>>,
    /// This run of ours, in what an unfinished copy of a snapshot would leave.
    pub run: String,
    /// What earlier runs left of such copies is away.
    pub is_swept: AtomicBool,
    /// Creates of ids that are not free yet.
    pending: Mutex<PendingCreates>,
    /// Wakes whoever looks at the doors.
    pub doors_wanted: Sender<()>,
}

impl VpsDesk {
    pub fn new(doors_wanted: Sender<()>) -> VpsDesk {
        VpsDesk {
            creates: Waiting::default(),
            stops: Waiting::default(),
            makings: Mutex::default(),
            run: Stamp::now().micros().to_string(),
            is_swept: AtomicBool::new(false),
            pending: Mutex::default(),
            doors_wanted,
        }
    }

    /// A kill does not wait for a snapshot.
    pub fn cut_short(&self, id: TaskId) {
        let making = lock(&self.makings).get(&id).cloned();
        making.into_iter().for_each(|making| making.raise());
    }

    /// Whether the Engine has its container frozen for a snapshot of ours.
    pub fn is_being_saved(&self, id: TaskId) -> bool {
        lock(&self.makings).contains_key(&id)
    }

    /// Asks for a look at the doors that are being prepared; a full queue has one waiting already.
    fn want_doors(&self) {
        let _ = self.doors_wanted.try_send(());
    }
}

/// Told once what became of what a caller asked for, from whatever thread.
pub type Told<T> = Box<dyn FnOnce(Result<T, OpError>) + Send>;

/// Callers that wait, by id.
struct Waiting<T> {
    callers: Mutex<Callers<T>>,
}

struct Callers<T> {
    by_id: HashMap<TaskId, Vec<Told<T>>>,
    /// The runner stops: nobody is to wait any more.
    is_closed: bool,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        let callers = Callers { by_id: HashMap::new(), is_closed: false };
        Waiting { callers: Mutex::new(callers) }
    }
}

/// Does whatever the state of a VPS asks for, on its lane; see [`super::task::finish::settle`].
pub fn settle(node: &Arc<Node>, record: &TaskRecord, exit: Option<Exit>) -> Next {
    match (record.wanted, exit) {
        (Wanted::Run, None) => Next::Done,
        (Wanted::Run, Some(exit)) => watch::ended(node, record, exit),
        (Wanted::Stopped, _) => stop::take_down(node, record),
        (Wanted::Killed, _) => stop::kill(node, record, killed(None)),
        // Somebody has been in it: what he did there is not thrown away at a word that may be wrong.
        (Wanted::Withdrawn, _) if record.vps.opened.is_some() => stop::take_down(node, record),
        (Wanted::Withdrawn, _) => stop::withdraw(node, record),
    }
}

/// The host may have marked VPS `lost`, or asks again after a restart of ours: it is told of those that
/// run, which it takes as their return (contract 3.3, 10.2). In memory: the caller must not wait for the
/// disk, and after a crash it is told anyway.
pub fn tell_again(node: &Node) {
    let running = node.tasks.active(|record| {
        let runs = record.phase == Phase::Running && record.wanted == Wanted::Run;
        (runs && record.spec.vps().is_some()).then_some(record.spec.id)
    });
    for id in running {
        node.tasks.note(id, |record| {
            if record.phase == Phase::Running && record.reports.is_empty() {
                record.reports.push(Report::Running);
            }
        });
        node.outbox.notify(id);
    }
}

impl<T> Waiting<T> {
    /// Gives the caller back if nobody may wait any more.
    fn add(&self, id: TaskId, told: Told<T>) -> Result<(), Told<T>> {
        let mut callers = lock(&self.callers);
        if callers.is_closed {
            return Err(told);
        }
        callers.by_id.entry(id).or_default().push(told);
        Ok(())
    }

    fn tell(&self, id: TaskId, what: impl Fn() -> Result<T, OpError>) {
        let waiting = lock(&self.callers).by_id.remove(&id).unwrap_or_default();
        waiting.into_iter().for_each(|told| told(what()));
    }

    /// All that wait; nobody else will.
    fn close(&self) -> HashMap<TaskId, Vec<Told<T>>> {
        let mut callers = lock(&self.callers);
        callers.is_closed = true;
        std::mem::take(&mut callers.by_id)
    }
}
