//! Shells of terminals that no terminal has any more: of a runner that was killed, or of a start
//! whose answer was lost. They are known by a mark in the environment that they were started with.

use std::sync::Arc;
use std::time::Instant;

use super::shell::{self, HANG_UP};
use crate::docker::DockerError;
use crate::machine::process_session::{ProcessSession, entered};
use crate::model::ids::TaskId;
use crate::ops::Node;
use crate::ops::files_thread::hand_to_files_thread;
use crate::ops::task::container::{LABEL_NODE, is_ours};

/// The mark of terminal `number`.
pub(super) fn mark(node: &Node, number: u64) -> String {
    format!("{}{number}", prefix(node))
}

fn prefix(node: &Node) -> String {
    format!("RIVER_TERMINAL={}/", node.settings.node_id)
}

/// Ends what there may be of them, on a thread of its own kind. Called by the clock; does nothing
/// unless there is a reason.
pub fn end_all(node: &Arc<Node>) {
    if !node.terminals.is_in_doubt() {
        return;
    }
    let ours = Arc::clone(node);
    let work = move || match look(&ours) {
        Ok(sessions) => end(&ours, &sessions),
        Err(error) => {
            ours.terminals.doubt();
            log::debug!("leftover terminals: {error}");
        }
    };
    let again = Arc::clone(node);
    hand_to_files_thread(node, work, move |done| {
        if done.is_err() {
            again.terminals.doubt();
        }
    });
}

fn look(node: &Node) -> Result<Vec<ProcessSession>, DockerError> {
    let label = format!("{LABEL_NODE}={}", node.settings.node_id);
    let is_tasks =
        |names: &[String]| names.iter().any(|name| TaskId::from_task_container(name).is_some());
    let containers = node.engine.list_containers(&label)?;
    let containers: Vec<String> = containers
        .into_iter()
        .filter(|found| is_tasks(&found.names) && is_ours(&node.settings, &found.labels))
        .map(|found| found.id)
        .collect();
    let prefix = prefix(node);
    Ok(entered(&containers, |variable| {
        let number = variable.strip_prefix(prefix.as_bytes());
        let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        number.is_some_and(|number| !node.terminals.has(number))
    }))
}

fn end(node: &Node, sessions: &[ProcessSession]) {
    if sessions.is_empty() {
        return;
    }
    let since = Instant::now();
    for session in sessions {
        session.signal(&HANG_UP);
    }
    shell::end(node, sessions);
    let count = sessions.len();
    log::info!("{count} shells of former terminals ended, in {:?}", since.elapsed());
}
