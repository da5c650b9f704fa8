//! Rows of command tasks: execute, kill, pause, resume (contract 1.1) and the views of our own
//! (design D15).

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::fault::{Fault, task_id_in_path};
use super::query;
use super::spec::task_spec;
use super::task_view::task_view;
use crate::limits::{
    IDEMPOTENCY_KEY_BYTES_MAX, LOG_FOLLOW_PAUSE, SHARED_STORAGE_DEADLINE, TASKS_LISTED_MAX,
};
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::model::task::{LogFiles, Work};
use crate::ops::files_thread::{hand_to_files_thread, on_files_thread, shared_storage_hangs};
use crate::ops::task::freeze::Done;
use crate::ops::task::logs::Chunk;
use crate::ops::{Node, OpError, network, task as ops};
use crate::serve::{Answer, Call, Reply, Stream, StreamOut, Woken};
use crate::wire::api::fields::Invalid;
use crate::wire::api::tasks::{ControlBody, ExecuteBody};

/// `POST /api/execute`: 200 once the task is on disk.
pub fn execute(node: &Arc<Node>, call: Call) -> Answer {
    answer(|| {
        let (body, fields) = ExecuteBody::read(call.body())?;
        let key = idempotency_key(&call)?;
        let network = network::known(node);
        let spec = task_spec(body, fields, &node.settings, &node.topology, &network)?;
        let id = spec.id;
        ops::execute::accept(node, spec, key)?;
        Ok(Reply::json(200, &json!({ "message": "Task accepted.", "task_id": id })))
    })
}

/// `POST /api/kill`: 200 once the wish is on disk; no call to the Engine is made here.
pub fn kill(node: &Arc<Node>, call: Call) -> Answer {
    answer(|| {
        let id = control_id(&call)?;
        ops::kill::kill(node, id)?;
        Ok(Reply::json(200, &json!({ "message": format!("Task {id} is being killed.") })))
    })
}

/// `POST /api/pause`: answered when the Engine has done it.
pub fn pause(node: &Arc<Node>, call: Call) -> Answer {
    frozen(node, call, ops::freeze::pause, "paused")
}

/// `POST /api/resume`: answered when the Engine has done it.
pub fn resume(node: &Arc<Node>, call: Call) -> Answer {
    frozen(node, call, ops::freeze::resume, "resumed")
}

fn frozen(
    node: &Arc<Node>,
    call: Call,
    verb: fn(&Arc<Node>, TaskId, Done),
    word: &'static str,
) -> Answer {
    let id = match control_id(&call) {
        Ok(id) => id,
        Err(fault) => return Reply::from(fault).into(),
    };
    let (answer, responder) = call.park();
    verb(
        node,
        id,
        Box::new(move |done| {
            responder.respond(match done {
                Ok(()) => Reply::json(200, &json!({ "message": format!("Task {id} is {word}.") })),
                Err(error) => Fault::from(error).into(),
            });
        }),
    );
    answer
}

/// `GET /api/tasks`: live tasks, but of those that only wait for the host the newest; with `all=1`
/// also the newest that are over.
pub fn list(node: &Arc<Node>, call: Call) -> Answer {
    answer(|| {
        let all = query::flag(&call, "all")?;
        let mut tasks = node.tasks.active(|record| Some(task_view(node, record)));
        let untold = node.tasks.untold();
        let newest = &untold[untold.len().saturating_sub(TASKS_LISTED_MAX)..];
        let untold_listed = newest.iter().filter_map(|id| node.tasks.get(*id));
        tasks.extend(untold_listed.map(|record| task_view(node, &record)));
        if all {
            let over = node.tasks.newest_over(TASKS_LISTED_MAX).map_err(OpError::from)?;
            tasks.extend(over.iter().map(|record| task_view(node, record)));
        }
        let untold_count = untold.len();
        let answer = json!({ "count": tasks.len(), "untold": untold_count, "tasks": tasks });
        Ok(Reply::json(200, &answer))
    })
}

/// `GET /api/tasks/{task_id}`: live or over.
pub fn show(node: &Arc<Node>, call: Call) -> Answer {
    answer(|| {
        let id = task_id_in_path(call.param("task_id"))?;
        let record = node.tasks.find(id).map_err(OpError::from)?;
        Ok(Reply::json(200, &task_view(node, &record)))
    })
}

/// `GET /api/tasks/{task_id}/logs?stream=&offset=&follow=`: raw bytes of one output file. With
/// `follow` they stream until the task has ended and all is sent.
pub fn logs(node: &Arc<Node>, call: Call) -> Answer {
    match log_request(node, &call) {
        Ok(asked) if asked.follow => follow(node, asked),
        Ok(asked) => {
            // Parked: workers that wait for a share that hangs would be missed by other rows.
            let late = Fault::from(shared_storage_hangs());
            let (answer, responder) = call.park_for(SHARED_STORAGE_DEADLINE, late.in_reserve());
            let done = |piece: Result<Reply, OpError>| {
                responder.respond(piece.unwrap_or_else(|error| Fault::from(error).into()));
            };
            hand_to_files_thread(node, move || piece(&asked), done);
            answer
        }
        Err(fault) => Reply::from(fault).into(),
    }
}

fn piece(asked: &LogRequest) -> Reply {
    match asked.read_at(asked.offset) {
        Ok(chunk) => {
            let next = asked.offset.saturating_add(chunk.bytes.len() as u64);
            Reply::bytes(200, BYTES, chunk.bytes)
                .header("X-Next-Offset", next.to_string())
                .header("X-Size", chunk.size.to_string())
        }
        Err(fault) => fault.into(),
    }
}

const BYTES: &str = "application/octet-stream";

/// What a call for logs asks for.
#[derive(Clone)]
struct LogRequest {
    id: TaskId,
    directory: PathBuf,
    path: PathBuf,
    offset: u64,
    follow: bool,
}

impl LogRequest {
    /// For files threads: shared storage may hang.
    fn read_at(&self, offset: u64) -> Result<Chunk, Fault> {
        ops::logs::read(&self.directory, &self.path, offset).map_err(|error| {
            log::warn!("task {}: its output: {error}", self.id);
            Fault::from(OpError::Unreadable { path: self.path.clone(), source: error })
        })
    }
}

fn log_request(node: &Arc<Node>, call: &Call) -> Result<LogRequest, Fault> {
    let id = task_id_in_path(call.param("task_id"))?;
    let record = node.tasks.find(id).map_err(OpError::from)?;
    let Work::Command(command) = record.spec.work else {
        let msg = "a VPS has no output files";
        return Err(Invalid::value("path", "task_id", msg, id.to_string().into()).into());
    };
    let LogFiles { directory, stdout, stderr } = command.logs;
    let path = match call.query("stream").unwrap_or("stdout") {
        "stdout" => stdout,
        "stderr" => stderr,
        other => {
            let msg = "must be stdout or stderr";
            return Err(Invalid::value("query", "stream", msg, other.into()).into());
        }
    };
    let offset = query::number(call, "offset")?;
    Ok(LogRequest { id, directory, path, offset, follow: query::flag(call, "follow")? })
}

fn follow(node: &Arc<Node>, asked: LogRequest) -> Answer {
    let (looking, first) = (Arc::clone(node), asked.clone());
    let node = Arc::clone(node);
    let stream = Stream::new(BYTES, move |out: &mut StreamOut| {
        let mut offset = asked.offset;
        loop {
            // Looked at before reading: what was written before the end is read after it.
            let has_ended = node.tasks.get(asked.id).is_none_or(|r| r.phase == Phase::Ended);
            let reading = asked.clone();
            let read = on_files_thread(&node, move || reading.read_at(offset));
            let Ok(Ok(chunk)) = read else { return };
            // A file that shrank was truncated: what is in it now is new.
            if chunk.size < offset {
                offset = 0;
                continue;
            }
            offset += chunk.bytes.len() as u64;
            if !chunk.bytes.is_empty() {
                if out.write_all(&chunk.bytes).is_err() {
                    return;
                }
            } else if has_ended || out.pause(LOG_FOLLOW_PAUSE) != Woken::Elapsed {
                return;
            }
        }
    });
    // Output that can't be read is told while there is a status to tell it with.
    let readable = move || -> Result<(), Fault> {
        on_files_thread(&looking, move || first.read_at(first.offset))?.map(drop)
    };
    Answer::Stream(stream.unless(move || readable().map_err(Reply::from)))
}

fn control_id(call: &Call) -> Result<TaskId, Fault> {
    let body = ControlBody::read(call.body())?;
    TaskId::from_wire(body.task_id).map_err(|error| {
        Invalid::value("body", "task_id", error.to_string(), body.task_id.into()).into()
    })
}

fn idempotency_key(call: &Call) -> Result<Option<String>, Fault> {
    let Some(key) = call.header("Idempotency-Key") else { return Ok(None) };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let msg = format!("must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} characters");
        return Err(Invalid::value("header", "Idempotency-Key", msg, key.into()).into());
    }
    Ok(Some(key.to_owned()))
}

fn answer(read: impl FnOnce() -> Result<Reply, Fault>) -> Answer {
    Answer::Now(read().unwrap_or_else(Reply::from))
}
