//! Creates of ids that are not free yet: the VPS before is being stopped or killed, or has ended and is
//! not put away. They go on when it is; a later kill or stop of the id ends them, and so does time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Told, create};
use crate::limits::{VPS_FREE_PATIENCE, VPS_PENDING_MAX, VPS_STOPPED_PATIENCE};
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::TaskSpec;
use crate::ops::{Node, OpError};
use crate::store::StoreError;
use crate::threads::lock;

/// A create that waits for its id.
pub struct Pending {
    pub spec: TaskSpec,
    pub told: Told<u16>,
    until: Instant,
}

/// All of them.
#[derive(Default)]
pub struct PendingCreates(BTreeMap<TaskId, Pending>);

impl PendingCreates {
    /// Gives it back with the reason if there is no room for it.
    fn add(&mut self, pending: Pending) -> Result<(), (Told<u16>, OpError)> {
        let id = pending.spec.id;
        if self.0.contains_key(&id) {
            return Err((pending.told, OpError::InUse(id)));
        }
        if self.0.len() >= VPS_PENDING_MAX {
            let what = "VPS whose id is not free yet";
            return Err((pending.told, OpError::Busy { what, max: VPS_PENDING_MAX }));
        }
        self.0.insert(id, pending);
        Ok(())
    }

    /// Those that have waited long enough.
    fn take_late(&mut self, now: Instant) -> Vec<Pending> {
        let (late, left) =
            std::mem::take(&mut self.0).into_iter().partition(|(_, pending)| pending.until <= now);
        self.0 = left;
        BTreeMap::into_values(late).collect()
    }
}

/// For how long a create of this id is to wait for what is there; `None` if it need not, or may not.
pub fn patience(node: &Node, id: TaskId) -> Option<Duration> {
    match node.tasks.get(id) {
        Some(record) if record.spec.vps().is_none() => None,
        // Its snapshot may be large.
        Some(record) if record.wanted == Wanted::Stopped && record.phase != Phase::Ended => {
            Some(VPS_STOPPED_PATIENCE)
        }
        Some(record) if record.wanted == Wanted::Run && record.phase != Phase::Ended => None,
        Some(_) => Some(VPS_FREE_PATIENCE),
        // Just being put away.
        None => node.tasks.is_live(id).then_some(VPS_FREE_PATIENCE),
    }
}

/// Lets a create wait.
pub fn wait(node: &Arc<Node>, spec: TaskSpec, told: Told<u16>, patience: Duration) {
    let id = spec.id;
    let pending = Pending { spec, told, until: Instant::now() + patience };
    let added = lock(&node.vps.pending).add(pending);
    match added {
        Ok(()) => {
            forget_what_is_untold(node, id);
            // It may have become free in between.
            go_on(node, id);
        }
        Err((told, why)) => told(Err(why)),
    }
}

/// The host has not heard how the VPS before has ended, and must not take it for the end of this one.
fn forget_what_is_untold(node: &Node, id: TaskId) {
    let is_ended = node.tasks.get(id).is_some_and(|record| record.phase == Phase::Ended);
    if !is_ended {
        return;
    }
    let forgotten = node.tasks.update(id, |record| {
        if record.phase == Phase::Ended {
            record.reports.clear();
        }
    });
    match forgotten {
        Ok(()) => node.lanes.raise(id),
        Err(StoreError::Missing(_)) => {}
        // Then it waits until the host has heard.
        Err(error) => log::error!("VPS {id}: {error}"),
    }
}

/// Lets a create go on that waited for this id, if that is free now.
pub fn go_on(node: &Arc<Node>, id: TaskId) {
    let freed = {
        let mut pending = lock(&node.vps.pending);
        if pending.0.is_empty() || node.tasks.is_live(id) {
            return;
        }
        pending.0.remove(&id)
    };
    if let Some(Pending { spec, told, .. }) = freed {
        create::accept(node, spec, told);
    }
}

/// Whether a create of this id waits.
pub fn holds(node: &Node, id: TaskId) -> bool {
    lock(&node.vps.pending).0.contains_key(&id)
}

/// All ids of which a create waits. To the host they are at work: it takes a task that the heartbeat does
/// not list for one that nobody has (contract rule 10).
pub fn ids(node: &Node) -> Vec<TaskId> {
    lock(&node.vps.pending).0.keys().copied().collect()
}

/// The id's last word is another one. Whether a create was waiting.
pub fn end(node: &Node, id: TaskId, why: &str) -> bool {
    let ended = lock(&node.vps.pending).0.remove(&id);
    let Some(Pending { told, .. }) = ended else { return false };
    told(Err(OpError::VpsFailed { id, why: why.to_owned() }));
    true
}

/// Looks after all of them: what nobody has told of, and those that have waited long enough.
pub fn look(node: &Arc<Node>) {
    let (late, ids) = {
        let mut pending = lock(&node.vps.pending);
        let late = pending.take_late(Instant::now());
        (late, pending.0.keys().copied().collect::<Vec<TaskId>>())
    };
    late.into_iter().for_each(|Pending { spec, told, .. }| told(Err(OpError::InUse(spec.id))));
    ids.into_iter().for_each(|id| go_on(node, id));
}

/// The runner stops: none of them was accepted, and none will be.
pub fn end_all(node: &Node) {
    let all = std::mem::take(&mut *lock(&node.vps.pending));
    all.0.into_values().for_each(|Pending { told, .. }| told(Err(OpError::Stopping)));
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::model::placement::Placement;
    use crate::model::task::{ImageSource, Pull, Work};
    use crate::model::vps::{Login, Vps};

    fn pending(id: i64, until: Instant) -> Pending {
        let spec = TaskSpec {
            id: TaskId::from_wire(id).unwrap(),
            work: Work::Vps { vps: Vps { login: Login::Disabled, is_remembered: false } },
            cores: None,
            memory_bytes: None,
            gpus: Vec::new(),
            placement: Placement::Anywhere,
            cpuset: None,
            image: ImageSource::Registry("image".to_owned(), Pull::Never),
            reserved_ip: None,
        };
        Pending { spec, told: Box::new(|_| {}), until }
    }

    #[test]
    fn only_the_late_are_taken() {
        let now = Instant::now();
        let mut all = PendingCreates::default();
        assert!(all.add(pending(1, now)).is_ok());
        assert!(all.add(pending(2, now + Duration::from_secs(1))).is_ok());
        let late = all.take_late(now);
        assert_eq!(late.iter().map(|late| late.spec.id.get()).collect::<Vec<u64>>(), [1]);
        assert_eq!(all.0.len(), 1);
    }

    #[test]
    fn one_create_waits_for_an_id_and_not_too_many_for_all() {
        let now = Instant::now();
        let mut all = PendingCreates::default();
        for id in 1..=VPS_PENDING_MAX as i64 {
            assert!(all.add(pending(id, now)).is_ok());
        }
        let refused =
            |all: &mut PendingCreates, id| all.add(pending(id, now)).err().map(|(_, why)| why);
        assert!(matches!(refused(&mut all, 1), Some(OpError::InUse(_))));
        assert!(matches!(refused(&mut all, 1000), Some(OpError::Busy { .. })));
    }
}
