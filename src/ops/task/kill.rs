//! Ends a task at a user's word. Makes no call to the Engine: the wish goes to disk, the lane does
//! the rest, so that a hung Engine can't hold up the answer (design law 5).

use std::sync::Arc;

use super::outcome::killed;
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::{Denied, Verb, Verdict, Wanted, decide};
use crate::model::time::Stamp;
use crate::ops::{Node, OpError, vps};
use crate::store::StoreError;

/// From now on the task is to end, and nothing more about it is told to the host (contract rule 8).
///
/// # Errors
/// [`OpError::NotKnown`] also for a task that is over: to the host it is not known any more.
pub fn kill(node: &Arc<Node>, id: TaskId) -> Result<(), OpError> {
    let had_pending = vps::pending::end(node, id, "killed by request");
    match kill_recorded(node, id) {
        Err(OpError::NotKnown(_)) if had_pending => Ok(()),
        killed => killed,
    }
}

fn kill_recorded(node: &Arc<Node>, id: TaskId) -> Result<(), OpError> {
    let has_host = node.host.is_some();
    let verdict = node.tasks.update(id, |record| {
        let verdict = decide(record.phase, record.wanted, Verb::Kill);
        match verdict {
            Ok(Verdict::EndHere) => record.end(killed(None), None, Stamp::now(), has_host),
            Ok(Verdict::Go) => {
                record.wanted = Wanted::Killed;
                record.reports.clear();
            }
            Ok(Verdict::AlreadySo) => {}
            Err(Denied::Over | Denied::NotStarted) => {
                // It ended by itself and the host does not know yet: the kill's word stands there.
                let untold = !record.reports.is_empty();
                record.reports.clear();
                return if untold { Ok(Verdict::AlreadySo) } else { verdict };
            }
        }
        verdict
    });
    let verdict = match verdict {
        Err(StoreError::Missing(_)) => {
            let was_lost = node.tasks.forget_loss(id);
            if node.tasks.is_live(id) {
                // It was just given an outcome, which is not to be told either.
                node.tasks.update(id, |record| record.reports.clear())?;
                node.lanes.raise(id);
                return Ok(());
            }
            // No outcome is made up from now on: the kill's word stands at the host.
            return if was_lost { Ok(()) } else { Err(OpError::NotKnown(id)) };
        }
        verdict => verdict?,
    };
    match verdict {
        Ok(Verdict::EndHere) => {
            metrics::TASKS_ENDED.up();
            node.events.note(id, "killed");
            vps::create::refused(node, id, &killed(None));
        }
        Ok(Verdict::Go) => {
            node.vps.cut_short(id);
            node.events.note(id, "kill_wanted");
        }
        Ok(Verdict::AlreadySo) => {}
        Err(_) => return Err(OpError::NotKnown(id)),
    }
    node.lanes.raise(id);
    Ok(())
}
