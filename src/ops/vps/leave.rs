//! The runner stops while callers wait for creates and stops of VPS. What they are told and what becomes
//! of the VPS must agree, as the next run of ours goes on with every record: a create is withdrawn, a
//! stop goes on.

use super::pending;
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::time::Stamp;
use crate::ops::task::outcome::withdrawn;
use crate::ops::{Node, OpError};
use crate::store::StoreError;

/// What became of a create whose caller waits when the runner stops.
enum Left {
    /// It will not run.
    Withdrawn,
    /// It runs since, at this port.
    Runs(u16),
    /// The disk refused: the next run of ours starts it.
    Goes(StoreError),
}

/// Answers everybody who waits for a VPS; creates that come later are refused.
pub fn close(node: &Node) {
    pending::end_all(node);
    for (id, callers) in node.vps.creates.close() {
        let left = withdraw(node, id);
        callers.into_iter().for_each(|told| told(answer(id, &left)));
    }
    for (_, callers) in node.vps.stops.close() {
        callers.into_iter().for_each(|told| told(Err(OpError::Stopping)));
    }
}

/// A create that was recorded when the runner had begun to stop. What its caller is to hear.
pub fn withdraw_late(node: &Node, id: TaskId) -> Result<u16, OpError> {
    answer(id, &withdraw(node, id))
}

fn answer(id: TaskId, left: &Left) -> Result<u16, OpError> {
    match left {
        Left::Withdrawn => Err(OpError::Stopping),
        Left::Runs(port) => Ok(*port),
        Left::Goes(error) => {
            let why = format!("the runner stops, and the next one starts this VPS: {error}");
            Err(OpError::VpsFailed { id, why })
        }
    }
}

fn withdraw(node: &Node, id: TaskId) -> Left {
    let has_host = node.host.is_some();
    let mut has_ended = false;
    let left = node.tasks.update(id, |record| {
        match (record.phase, record.wanted) {
            (Phase::Running | Phase::Paused, _) => return Left::Runs(record.vps.ssh_port),
            (Phase::Accepted, Wanted::Run) => {
                record.end(withdrawn(), None, Stamp::now(), has_host);
                has_ended = true;
            }
            (Phase::Creating | Phase::Starting, Wanted::Run) => {
                record.wanted = Wanted::Withdrawn;
                record.reports.clear();
            }
            _ => {}
        }
        Left::Withdrawn
    });
    match left {
        Ok(left) => {
            if has_ended {
                metrics::TASKS_ENDED.up();
            }
            if let Left::Withdrawn = left {
                log::info!("VPS {id}: withdrawn, as the runner stops before it runs");
            }
            left
        }
        Err(StoreError::Missing(_)) => Left::Withdrawn,
        Err(error) => {
            log::error!("VPS {id}: its create could not be withdrawn: {error}");
            Left::Goes(error)
        }
    }
}
