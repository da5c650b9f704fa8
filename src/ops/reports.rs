//! What the host is told, and what its answers mean (contract 3.3, 3.4; design law 6). The outbox
//! carries; this decides.

use std::sync::{Arc, Weak};

use super::task::lost;
use super::task::outcome::withdrawn;
use super::{Node, vps};
use crate::host::Verdict;
use crate::host::outbox::Ledger;
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::{FinalStatus, Report, TaskRecord};
use crate::model::time::Stamp;
use crate::wire::host::Update;

/// The outbox's view of the records.
pub fn ledger(node: &Arc<Node>) -> Ledger {
    let (next, due, settle) = (Arc::downgrade(node), Arc::downgrade(node), Arc::downgrade(node));
    Ledger {
        next: Box::new(move |id| Weak::upgrade(&next).and_then(|node| next_report(&node, id))),
        still_due: Box::new(move |id, report| {
            Weak::upgrade(&due)
                .and_then(|node| node.tasks.get(id))
                .is_some_and(|record| record.reports.first() == Some(report))
        }),
        settle: Box::new(move |id, report, verdict| {
            if let Some(node) = Weak::upgrade(&settle) {
                settled(&node, id, &report, verdict);
            }
        }),
    }
}

fn next_report(node: &Arc<Node>, id: TaskId) -> Option<(Report, Update)> {
    let record = node.tasks.get(id).or_else(|| {
        // It was to be told and its record is none: it waited for the host, so has no container.
        lost::end(node, id);
        node.tasks.get(id)
    })?;
    let report = record.reports.first()?.clone();
    let update = update_of(&record, &report);
    Some((report, update))
}

fn update_of(record: &TaskRecord, report: &Report) -> Update {
    let is_vps = record.spec.vps().is_some();
    // Of a command its acceptance, of a VPS its start (contract 3.4).
    let started = if is_vps { record.times.started } else { Some(record.times.accepted) };
    let started_at = started.map(Stamp::naive_local);
    let update = Update {
        task_id: record.spec.id.get(),
        status: "pending",
        exit_code: None,
        message: None,
        started_at,
        completed_at: None,
        ssh_port: None,
    };
    match (report, &record.outcome) {
        (Report::Pending, _) => update,
        (Report::Running, _) => {
            let ssh_port = is_vps.then_some(record.vps.ssh_port);
            // Contract 10.2: of a VPS that was found running.
            let is_found = is_vps && record.accepted_by_us.is_none();
            let message = is_found.then(|| "it runs on, after a restart of the runner".to_owned());
            Update { status: "running", ssh_port, message, ..update }
        }
        (Report::Final, outcome) => {
            let completed = record.times.exited.or(record.times.recorded);
            let (status, exit_code, message) = match outcome {
                Some(outcome) => (outcome.status, outcome.exit_code, outcome.message.clone()),
                None => (FinalStatus::Failed, None, Some("the outcome was lost".to_owned())),
            };
            Update {
                status: status.word(),
                exit_code,
                message,
                completed_at: completed.map(Stamp::naive_local),
                ..update
            }
        }
    }
}

fn settled(node: &Arc<Node>, id: TaskId, report: &Report, verdict: Verdict) {
    if verdict == Verdict::Malformed {
        metrics::REPORTS_SET_ASIDE.up();
        log::error!("task {id}: the host calls our report {report:?} malformed; set aside");
    }
    let now = Stamp::now();
    let is_final = *report == Report::Final;
    // In memory only: sent once more after a crash is harmless, and the next write carries it.
    let noted = node.tasks.note(id, |record| {
        if record.reports.first() == Some(report) {
            record.reports.remove(0);
        }
        if is_final {
            record.times.reported = Some(now);
        }
    });
    if is_final {
        node.events.note(id, "reported");
        match noted {
            Some(()) => node.lanes.raise(id),
            // It waited for nothing else. Here and not on its lane: the next of a long backlog is
            // sent when this one is off our hands. Refused, the sweep tries again.
            None => {
                let _ = node.tasks.put_away(id, now);
                vps::pending::go_on(node, id);
            }
        }
    } else if verdict == Verdict::Refused {
        withdraw_if_the_user_ended_it(node, id);
    }
}

/// A refused `pending` or `running` means that the host has finished the task. If it has heard from
/// us all the time since, the user did it, and the task must not run; after a gap the host has
/// merely marked it `lost`: it runs on, and its final is accepted.
fn withdraw_if_the_user_ended_it(node: &Arc<Node>, id: TaskId) {
    let Some(host) = &node.host else { return };
    let withdraw = |record: &mut TaskRecord| {
        if record.phase == Phase::Ended || record.wanted != Wanted::Run {
            return None;
        }
        // One of an earlier run of ours: nobody knows what the host heard between.
        let accepted = record.accepted_by_us?;
        if !host.contact.unbroken_since(accepted) {
            return None;
        }
        record.wanted = Wanted::Withdrawn;
        record.reports.clear();
        let ends_here = record.phase == Phase::Accepted;
        if ends_here {
            record.end(withdrawn(), None, Stamp::now(), true);
        }
        Some(ends_here)
    };
    let changed = node.tasks.update(id, withdraw).or_else(|error| {
        log::error!("task {id}: {error}");
        // In memory then: its end will be written with it, and after a crash before that the report
        // is on disk still, to be refused again.
        node.tasks.note(id, withdraw).ok_or(error)
    });
    match changed {
        Ok(Some(ends_here)) => {
            log::info!("task {id}: the host had ended it; stopping it");
            // The lane may have put it away already, and told nobody.
            if ends_here {
                vps::create::refused(node, id, &withdrawn());
            }
            node.lanes.raise(id);
        }
        Ok(None) => log::info!("task {id}: the host refused a report; it runs on"),
        // It is over.
        Err(_) => {}
    }
}
