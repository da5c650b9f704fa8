//! Rows of VPS (contract 1.2).

use std::sync::Arc;

use serde_json::json;

use super::fault::{Fault, task_id_in_path};
use super::spec::vps_spec;
use crate::limits::VPS_STOP_PATIENCE;
use crate::model::ids::TaskId;
use crate::ops::task::freeze::{self, Done};
use crate::ops::vps::{create, stop};
use crate::ops::{Node, OpError, network};
use crate::serve::{Answer, Call, Reply};
use crate::wire::api::fields::Invalid;
use crate::wire::api::vps::VpsBody;

/// `POST /api/vps/create`: answered when its container runs.
pub fn create(node: &Arc<Node>, call: Call) -> Answer {
    let (body, fields) = match VpsBody::read(call.body()) {
        Ok(read) => read,
        Err(invalid) => return refused(invalid),
    };
    let id = TaskId::from_wire(body.task_id);
    if body.vps_backend == "qemu" {
        let why = "this runner has no backend for virtual machines yet".to_owned();
        let _ = id.map(|id| create::reject(node, id, &why));
        return Reply::detail(500, &why).into();
    }
    let network = network::known(node);
    let spec = match vps_spec(body, fields, &node.topology, &network) {
        Ok(spec) => spec,
        Err(invalid) => {
            // The host waits for a word of every id that it has sent.
            let said: Vec<String> = invalid.0.iter().map(ToString::to_string).collect();
            let _ = id.map(|id| create::reject(node, id, &said.join("; ")));
            return refused(invalid);
        }
    };
    let container_name = spec.container_name();
    let (answer, responder) = call.park();
    let told = move |created: Result<u16, OpError>| {
        responder.respond(match created {
            Ok(port) => {
                let done =
                    json!({ "success": true, "ssh_port": port, "container_name": container_name });
                Reply::json(200, &done)
            }
            Err(error) => Fault::from(error).into(),
        });
    };
    create::accept(node, spec, Box::new(told));
    answer
}

/// `POST /api/vps/stop/{task_id}`: answered when it has stopped, or when the host would give up or the
/// runner stops; then the stop goes on.
pub fn stop(node: &Arc<Node>, call: Call) -> Answer {
    let id = match task_id_in_path(call.param("task_id")) {
        Ok(id) => id,
        Err(fault) => return Reply::from(fault).into(),
    };
    if let Err(error) = stop::can_stop(node, id) {
        return Reply::from(Fault::from(error)).into();
    }
    let late = Reply::json(200, &json!({ "message": format!("VPS {id} is being stopped.") }));
    let (answer, responder) = call.park_for(VPS_STOP_PATIENCE, late.clone());
    let told = move |stopped: Result<(), OpError>| {
        responder.respond(match stopped {
            Ok(()) => Reply::json(200, &json!({ "message": format!("VPS {id} is stopped.") })),
            // It is on disk: the next run of ours goes on with it.
            Err(OpError::Stopping) => late,
            Err(error) => Fault::from(error).into(),
        });
    };
    stop::stop(node, id, Box::new(told));
    answer
}

/// `POST /api/vps/pause/{task_id}`.
pub fn pause(node: &Arc<Node>, call: Call) -> Answer {
    frozen(node, call, freeze::pause, "paused")
}

/// `POST /api/vps/resume/{task_id}`.
pub fn resume(node: &Arc<Node>, call: Call) -> Answer {
    frozen(node, call, freeze::resume, "resumed")
}

fn frozen(
    node: &Arc<Node>,
    call: Call,
    verb: fn(&Arc<Node>, TaskId, Done),
    word: &'static str,
) -> Answer {
    let id = task_id_in_path(call.param("task_id")).and_then(|id| {
        let is_vps = node.tasks.get(id).is_some_and(|record| record.spec.vps().is_some());
        if is_vps { Ok(id) } else { Err(OpError::NotKnown(id).into()) }
    });
    let id = match id {
        Ok(id) => id,
        Err(fault) => return Reply::from(fault).into(),
    };
    let (answer, responder) = call.park();
    let done = move |done: Result<(), OpError>| {
        responder.respond(match done {
            Ok(()) => Reply::json(200, &json!({ "message": format!("VPS {id} is {word}.") })),
            Err(error) => Fault::from(error).into(),
        });
    };
    verb(node, id, Box::new(done));
    answer
}

fn refused(invalid: Invalid) -> Answer {
    Reply::from(Fault::from(invalid)).into()
}
