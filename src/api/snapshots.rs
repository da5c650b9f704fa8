//! Rows of a VPS's snapshots (contract 1.3).

use std::sync::Arc;

use serde_json::{Value, json};

use super::fault::{Fault, task_id_in_path};
use crate::model::ids::TaskId;
use crate::ops::snapshots::{self as ops, Snapshot};
use crate::ops::{Node, OpError};
use crate::serve::{Answer, Call, Reply};
use crate::wire::api::fields::Invalid;
use crate::wire::api::vps::SnapshotBody;

/// `GET /api/vps/snapshots/{task_id}`: always 200. An Engine that does not tell is no VPS without
/// snapshots: the empty list comes with an `error` then.
pub fn list(node: &Arc<Node>, call: Call) -> Answer {
    let id = match task_id_in_path(call.param("task_id")) {
        Ok(id) => id,
        Err(fault) => return Reply::from(fault).into(),
    };
    let (answer, responder) = call.park();
    ops::off_lane(node, move |node| {
        responder.respond(match ops::list(node, id) {
            Ok(snapshots) => Reply::json(200, &view(id, &snapshots)),
            Err(error) => {
                log::warn!("VPS {id}: its snapshots: {error}");
                let mut none = view(id, &[]);
                none["error"] = OpError::Docker(error).to_string().into();
                Reply::json(200, &none)
            }
        });
    });
    answer
}

/// `POST /api/vps/snapshots/{task_id}`: answered when it is made, and the old ones are away.
pub fn create(node: &Arc<Node>, call: Call) -> Answer {
    let id = match task_id_in_path(call.param("task_id")) {
        Ok(id) => id,
        Err(fault) => return Reply::from(fault).into(),
    };
    let message = match SnapshotBody::read(call.body()) {
        Ok(body) => body.message,
        Err(invalid) => return Reply::from(Fault::from(invalid)).into(),
    };
    let (answer, responder) = call.park();
    let told = move |made: Result<String, OpError>| {
        responder.respond(match made {
            Ok(tag) => {
                let message = format!("Snapshot of VPS {id} made.");
                Reply::json(200, &json!({ "message": message, "tag": tag }))
            }
            Err(error) => Fault::from(error).into(),
        });
    };
    ops::create(node, id, message, Box::new(told));
    answer
}

/// `GET /api/vps/snapshots/{task_id}/latest`.
pub fn latest(node: &Arc<Node>, call: Call) -> Answer {
    let id = match task_id_in_path(call.param("task_id")) {
        Ok(id) => id,
        Err(fault) => return Reply::from(fault).into(),
    };
    let (answer, responder) = call.park();
    ops::off_lane(node, move |node| {
        responder.respond(match ops::latest(node, id) {
            Ok(Some(latest)) => Reply::json(200, &json!({ "task_id": id, "tag": latest.tag })),
            Ok(None) => Reply::detail(404, &format!("VPS {id} has no snapshot")),
            Err(error) => Fault::from(OpError::Docker(error)).into(),
        });
    });
    answer
}

/// `DELETE /api/vps/snapshots/{task_id}/{timestamp}`: 404 for any failure, as the contract has it.
pub fn delete(node: &Arc<Node>, call: Call) -> Answer {
    let id = match task_id_in_path(call.param("task_id")) {
        Ok(id) => id,
        Err(fault) => return Reply::from(fault).into(),
    };
    let text = call.param("timestamp");
    let Ok(timestamp) = text.parse::<i64>() else {
        let why = "must be a whole number of seconds";
        let fault = Fault::from(Invalid::value("path", "timestamp", why, text.into()));
        return Reply::from(fault).into();
    };
    let (answer, responder) = call.park();
    ops::off_lane(node, move |node| {
        let removed = match u64::try_from(timestamp) {
            Ok(timestamp) => ops::remove(node, id, timestamp).map_err(|error| error.to_string()),
            Err(_) => Err("there is none".to_owned()),
        };
        responder.respond(match removed {
            Ok(()) => {
                let message = format!("Snapshot {timestamp} of VPS {id} removed.");
                Reply::json(200, &json!({ "message": message }))
            }
            Err(why) => Reply::detail(404, &format!("snapshot {timestamp} of VPS {id}: {why}")),
        });
    });
    answer
}

/// `DELETE /api/vps/snapshots/{task_id}`: counts those that are really gone.
pub fn delete_all(node: &Arc<Node>, call: Call) -> Answer {
    let id = match task_id_in_path(call.param("task_id")) {
        Ok(id) => id,
        Err(fault) => return Reply::from(fault).into(),
    };
    let (answer, responder) = call.park();
    ops::off_lane(node, move |node| {
        let count = ops::remove_all(node, id).unwrap_or_else(|error| {
            log::warn!("VPS {id}: its snapshots: {error}");
            0
        });
        let message = format!("{count} snapshots of VPS {id} removed.");
        let done = json!({ "message": message, "deleted_count": count });
        responder.respond(Reply::json(200, &done));
    });
    answer
}

fn view(id: TaskId, snapshots: &[Snapshot]) -> Value {
    let rows: Vec<Value> = snapshots
        .iter()
        .map(|snapshot| {
            json!({
                "tag": snapshot.tag,
                "task_id": id,
                "timestamp": snapshot.timestamp,
                "size": snapshot.size_bytes,
                "unique_size": snapshot.unique_bytes,
                "created_at": snapshot.created.rfc3339(),
            })
        })
        .collect();
    json!({ "task_id": id, "snapshots": rows, "count": rows.len() })
}
