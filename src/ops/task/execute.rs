//! Accepts a task and starts it: record, image, log files, container, start. Posted to the task's
//! lane by `accept`, or by `recover` for a task that an earlier run of ours left half-way; each step
//! says where it runs, and none waits for another task's.

use std::sync::Arc;

use super::adopt::{adopt, make_anew};
use super::container::create_body;
use super::finish::{refuse, settle};
use super::logs::{self, Owner};
use super::outcome::{failed, refused_by_engine};
use super::{when_the_disk_is_back, when_the_engine_is_back};
use crate::docker::{DockerError, EXIT_CODE_LABEL};
use crate::lanes::{Next, Place};
use crate::limits::{PASSWD_BYTES_MAX, TASKS_ACTIVE_MAX, TASKS_UNTOLD_MAX};
use crate::machine::random::hex_128;
use crate::model::ids::TaskId;
use crate::model::phase::{Phase, Wanted};
use crate::model::task::{Command, ContainerTrace, Report, TaskRecord, TaskSpec};
use crate::model::time::Stamp;
use crate::ops::images::{self, ImageFault, ImageReady, ImageResult};
use crate::ops::{Node, OpError, network, vps};
use crate::store::StoreError;
use crate::threads::lock;

/// Accepts a task. When this returns `Ok` the task is on disk and will end in exactly one outcome
/// (design law 1).
///
/// A repeat of the same task under the same `idempotency_key` is `Ok` too: its caller did not get
/// the first answer.
///
/// # Errors
/// [`OpError::InUse`] for a known id; nothing was accepted then, or for any other error.
pub fn accept(
    node: &Arc<Node>,
    spec: TaskSpec,
    idempotency_key: Option<String>,
) -> Result<(), OpError> {
    check_room(node)?;
    let id = spec.id;
    let reports = node.host.iter().map(|_| Report::Pending).collect();
    let secret = hex_128().map_err(OpError::NoRandomness)?;
    let record = TaskRecord::accepted(spec, Stamp::now(), idempotency_key, secret, reports);
    let asked = record.clone();
    match node.tasks.insert(record) {
        Ok(()) => {}
        Err(StoreError::Exists(_)) if is_repeat(node, &asked) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    node.events.note(id, "accepted");
    node.outbox.notify(id);
    post_start(node, id, asked.spec.placement.node());
    Ok(())
}

/// Whether one more task can be taken.
///
/// # Errors
/// Too many are here, or a directory that all need is not.
pub fn check_room(node: &Node) -> Result<(), OpError> {
    if !node.settings.local_temp_dir.is_dir() {
        return Err(OpError::LocalTempMissing(node.settings.local_temp_dir.clone()));
    }
    let counts = node.tasks.counts();
    if counts.active >= TASKS_ACTIVE_MAX {
        return Err(OpError::Busy { what: "tasks on this node", max: TASKS_ACTIVE_MAX });
    }
    if counts.untold >= TASKS_UNTOLD_MAX {
        let what = "ended tasks of which the host does not know";
        return Err(OpError::Busy { what, max: TASKS_UNTOLD_MAX });
    }
    Ok(())
}

/// Posts the start order. Should the lanes be full or stopping, the record stands, and `recover`
/// posts it again.
pub fn post_start(node: &Arc<Node>, id: TaskId, numa_node: Option<u16>) {
    if let Err(refused) = node.lanes.post(id, numa_node, "start", super::job(node, id, begin)) {
        log::warn!("task {id}: its start waits: {refused}");
    }
}

fn is_repeat(node: &Node, asked: &TaskRecord) -> bool {
    asked.idempotency_key.is_some()
        && node.tasks.find(asked.spec.id).is_ok_and(|known| {
            known.idempotency_key == asked.idempotency_key && known.spec == asked.spec
        })
}

/// Wherever the record says the task is, go on from there.
pub fn begin(node: &Arc<Node>, id: TaskId) -> Next {
    let Some(record) = node.tasks.get(id) else { return Next::Done };
    if record.wanted != Wanted::Run {
        return settle(node, id);
    }
    match record.phase {
        Phase::Running | Phase::Paused | Phase::Ended => Next::Done,
        _ if node.engine.is_away() => when_the_engine_is_back(node, id, begin),
        Phase::Accepted if record.spec.vps().is_some() => vps::create::choose_image(node, &record),
        Phase::Accepted => image_step(node, &record),
        // A create may have been sent by an earlier run; the name tells.
        Phase::Creating | Phase::Starting => adopt(node, id),
    }
}

/// Makes the record's image available, and goes on.
pub fn image_step(node: &Arc<Node>, record: &TaskRecord) -> Next {
    let (owner, id) = (Arc::clone(node), record.spec.id);
    let then = move |result| image_answered(&owner, id, result);
    images::ensure(node, record.spec.image.clone(), Box::new(then))
}

fn image_answered(node: &Arc<Node>, id: TaskId, result: ImageResult) -> Next {
    // Killed meanwhile: neither its files nor an outcome of the image's are wanted any more.
    if node.tasks.get(id).is_none_or(|record| record.phase == Phase::Ended) {
        return settle(node, id);
    }
    let ImageReady { image, note } = match result {
        Ok(ready) => ready,
        Err(fault) => {
            return match &*fault {
                ImageFault::Engine(error) if error.is_unclear() => {
                    when_the_engine_is_back(node, id, begin)
                }
                fault => refuse(node, id, failed(fault.to_string())),
            };
        }
    };
    let noted = node.tasks.note(id, |record| {
        if record.phase != Phase::Accepted || record.wanted != Wanted::Run {
            return None;
        }
        record.times.image_ready.get_or_insert(Stamp::now());
        record.end_is_told = !image.labels.contains_key(EXIT_CODE_LABEL);
        record.notes.extend(note.filter(|note| !record.notes.contains(note)));
        Some(record.spec.command().map(|command| command.logs.clone()))
    });
    // Killed meanwhile: then nothing is made for it any more.
    let Some(files) = noted.flatten() else { return settle(node, id) };
    node.events.note(id, "image_ready");
    // A VPS has no output files.
    let owner = match files {
        Some(_) => Owner::of_image(&image.user, user_shift(node)),
        None => Owner::AsIs,
    };
    let node = Arc::clone(node);
    Next::Then(
        Place::Files,
        Box::new(move || {
            let mut prepared = logs::prepare_shared(&node.settings.shared_dir);
            let mut made = None;
            if let Some(files) = files {
                prepared = prepared.and_then(|()| logs::prepare(&files, &owner));
                if let (Ok(()), Some(first_writes)) = (&prepared, &node.first_writes) {
                    first_writes.watch(id, &[&files.stdout, &files.stderr]);
                }
                made = logs::made_at(&files);
            }
            Next::Then(
                Place::Worker,
                Box::new(move || match prepared {
                    Ok(()) => create(&node, id, owner, made),
                    Err(fault) => refuse(&node, id, failed(fault.to_string())),
                }),
            )
        }),
    )
}

fn create(node: &Arc<Node>, id: TaskId, owner: Owner, output_made: Option<Stamp>) -> Next {
    let marked = node.tasks.update(id, |record| {
        if record.phase == Phase::Accepted && record.wanted == Wanted::Run {
            record.phase = Phase::Creating;
            record.output_made = output_made;
            record.container = ContainerTrace::Possible;
        }
        record.clone()
    });
    let record = match marked {
        Ok(record) if record.phase == Phase::Creating => record,
        Ok(_) | Err(StoreError::Missing(_)) => return settle(node, id),
        Err(_) => return when_the_disk_is_back(node, id, begin),
    };
    match create_with_network(node, &record) {
        Ok(created) => own_and_start(node, id, created, owner),
        Err(error) if error.is_conflict() => adopt(node, id),
        Err(error) if error.is_unclear() => when_the_engine_is_back(node, id, begin),
        Err(error) => refuse(node, id, refused_by_engine(&error)),
    }
}

/// A network that somebody removed is made again, once.
fn create_with_network(node: &Node, record: &TaskRecord) -> Result<String, DockerError> {
    let name = record.spec.container_name();
    let registered = network::registered_address(&node.settings, node.host.as_ref());
    let body = |facts| create_body(&node.settings, &facts, registered, record);
    let first = node.engine.create_container(&name, &body(network::known_or_ensured(node)?));
    let created = match first {
        Err(error) if error.is_missing() => {
            let facts = network::ensure(node)?;
            node.engine.create_container(&name, &body(facts))
        }
        other => other,
    }?;
    for warning in &created.warnings {
        log::warn!("task {}: the Engine warns: {warning}", record.spec.id);
    }
    Ok(created.id)
}

/// What the Engine's user namespace adds to ids, as far as the Engine has told.
pub(super) fn user_shift(node: &Node) -> (u32, u32) {
    let facts = lock(&node.engine_facts);
    let shift = facts.as_ref().and_then(|facts| facts.userns_shift);
    shift.map_or((0, 0), |shift| (shift.uid, shift.gid))
}

pub(super) fn own_and_start(node: &Arc<Node>, id: TaskId, container: String, owner: Owner) -> Next {
    match owner {
        Owner::Named(name) => own_by_name(node, id, container, name),
        // Done with the making of the files.
        Owner::Known { .. } | Owner::AsIs => start(node, id, &container),
    }
}

/// The image's USER is a name: its numbers are in the container's own /etc/passwd.
fn own_by_name(node: &Arc<Node>, id: TaskId, container: String, name: String) -> Next {
    let passwd = match node.engine.read_container_file(&container, "/etc/passwd", PASSWD_BYTES_MAX)
    {
        Ok(passwd) => passwd.unwrap_or_default(),
        Err(error) if error.is_engine_trouble() => return when_the_engine_is_back(node, id, begin),
        Err(error) => {
            log::warn!("task {id}: /etc/passwd of its image: {error}");
            Vec::new()
        }
    };
    let owner = Owner::in_passwd(&name, &passwd, user_shift(node));
    let Some(record) = node.tasks.get(id) else { return Next::Done };
    let Some(Command { logs: files, .. }) = record.spec.command().cloned() else {
        return start(node, id, &container);
    };
    let node = Arc::clone(node);
    Next::Then(
        Place::Files,
        Box::new(move || {
            let owned = logs::give(&files, &owner);
            Next::Then(
                Place::Worker,
                Box::new(move || match owned {
                    Ok(()) => start(&node, id, &container),
                    Err(fault) => refuse(&node, id, failed(fault.to_string())),
                }),
            )
        }),
    )
}

fn start(node: &Arc<Node>, id: TaskId, container: &str) -> Next {
    let has_host = node.host.is_some();
    let marked = node.tasks.update(id, |record| {
        record.container = ContainerTrace::Known(container.to_owned());
        let is_first = record.times.created.is_none();
        record.times.created.get_or_insert(Stamp::now());
        if record.wanted != Wanted::Run {
            return None;
        }
        let was = record.phase;
        if was == Phase::Creating {
            record.phase = Phase::Starting;
            // Before the start, as the contract has it (3.4, row 2b); of a VPS with its port, later.
            if has_host && is_first && record.spec.command().is_some() {
                record.reports.push(Report::Running);
            }
        }
        (record.phase == Phase::Starting).then_some(was)
    });
    let was = match marked {
        Ok(Some(was)) => was,
        Ok(None) | Err(StoreError::Missing(_)) => return settle(node, id),
        Err(_) => return when_the_disk_is_back(node, id, begin),
    };
    node.events.note(id, "created");
    node.outbox.notify(id);
    match node.engine.start_container(container) {
        Ok(()) => started(node, id, Stamp::now()),
        Err(error) if error.is_missing() && network::ensure(node).is_ok() => {
            match node.engine.start_container(container) {
                Ok(()) => started(node, id, Stamp::now()),
                Err(error) => start_failed(node, id, &error),
            }
        }
        // A start was cut short before. What is left of that at the Engine's runtime can refuse
        // every other one of this container (seen with 20.10: "failed to start shim: file exists").
        Err(error) if was == Phase::Starting && !error.is_unclear() => {
            make_anew(node, id, container, &error)
        }
        Err(error) => start_failed(node, id, &error),
    }
}

fn start_failed(node: &Arc<Node>, id: TaskId, error: &DockerError) -> Next {
    if error.is_unclear() {
        // It may run all the same: look before anything is tried again.
        when_the_engine_is_back(node, id, begin)
    } else {
        refuse(node, id, refused_by_engine(error))
    }
}

pub(super) fn started(node: &Arc<Node>, id: TaskId, at: Stamp) -> Next {
    if node.tasks.get(id).is_some_and(|record| record.spec.vps().is_some()) {
        return vps::create::run(node, id, at);
    }
    let marked = node.tasks.update(id, |record| {
        if matches!(record.phase, Phase::Creating | Phase::Starting) {
            record.phase = Phase::Running;
            // The Engine's answer comes a moment after the start; its output may come before.
            let at = record.times.first_output.map_or(at, |first| first.min(at));
            record.times.started.get_or_insert(at);
        }
    });
    match marked {
        Ok(()) => {
            node.events.note(id, "started");
            // A kill or an end that came meanwhile has raised the lane's flag.
            Next::Done
        }
        Err(StoreError::Missing(_)) => Next::Done,
        Err(_) => when_the_disk_is_back(node, id, begin),
    }
}
