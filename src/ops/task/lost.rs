//! Ends a task whose record is no more and that has no container: we accepted it, so the host is told
//! one outcome (design law 1), and that is that nobody knows how it ended.

use std::sync::Arc;

use super::container::{EssentialWork, Essentials};
use super::outcome::record_lost;
use super::recover::{Stand, nudge, rebuilt};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::task::{ImageSource, LogFiles, Pull};
use crate::model::time::Stamp;
use crate::ops::Node;

/// Ends `id` if its record was lost. For one that has no container, which the caller has looked for. A
/// disk that refuses is tried again with the next reconciliation.
pub fn end(node: &Arc<Node>, id: TaskId) {
    let Some(loss) = node.tasks.loss(id) else { return };
    let now = Stamp::now();
    // Where the files of one that named none are: they may be there still.
    let directory = node.settings.shared_dir.join("logs").join(id.to_string());
    let logs = LogFiles {
        stdout: directory.join("stdout.log"),
        stderr: directory.join("stderr.log"),
        directory,
    };
    let image = ImageSource::Registry("(lost with its record)".to_owned(), Pull::Never);
    let mut record =
        rebuilt(id, Essentials { accepted: now, image, work: EssentialWork::Command { logs } });
    let outcome = record_lost(loss, &node.tasks.set_aside().directory);
    record.end(outcome, None, now, node.host.is_some());
    let stand = Stand::of(&record);
    if let Err(error) = node.tasks.end_lost(record) {
        log::debug!("task {id}: {loss}; not told yet: {error}");
        return;
    }
    log::warn!("task {id}: failed, exit code none: {loss}");
    metrics::TASKS_ENDED.up();
    node.events.note(id, "failed");
    nudge(node, &stand);
}
