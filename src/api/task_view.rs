//! A task as rows of our own show it (design D15).

use serde_json::{Value, json};

use crate::model::script::SHARED_MOUNT;
use crate::model::task::{ImageSource, TaskRecord};
use crate::model::time::Stamp;
use crate::model::vps::{Door, Login, Vps, VpsState};
use crate::ops::Node;

/// The record without its environment, with the id also as text: it exceeds 2^53, beyond which
/// JavaScript loses digits.
pub fn task_view(node: &Node, record: &TaskRecord) -> Value {
    let spec = &record.spec;
    let command = spec.command();
    let times = &record.times;
    let outcome = record.outcome.as_ref();
    let at = |time: Option<Stamp>| time.map(Stamp::rfc3339);
    let reference = spec.image.reference();
    let progress = times.image_ready.is_none().then(|| node.images.progress(&reference)).flatten();
    json!({
        "task_id": spec.id,
        "id": spec.id.to_string(),
        "status": record.status_word(),
        "kind": if spec.vps().is_some() { "vps" } else { "command" },
        "command": command.map(|command| &command.command),
        "arguments": command.map(|command| &command.arguments),
        "image": reference,
        "environment": match &spec.image {
            ImageSource::Environment(name) => Some(name),
            ImageSource::Registry(..) => None,
        },
        "container": spec.container_name(),
        "exit_code": outcome.and_then(|outcome| outcome.exit_code),
        "message": outcome.and_then(|outcome| outcome.message.as_deref()),
        "cores": spec.cores,
        "memory_bytes": spec.memory_bytes,
        "gpus": spec.gpus,
        "numa_node": spec.placement.node(),
        "working_dir": command.map_or(SHARED_MOUNT, |command| &command.working_dir),
        "vps": spec.vps().map(|vps| vps_view(vps, &record.vps)),
        "progress": progress,
        "notes": record.notes,
        "phases": {
            "accepted": at(Some(times.accepted)),
            "image_ready": at(times.image_ready),
            "created": at(times.created),
            "started": at(times.started),
            "first_output": at(times.first_output),
            "exited": at(times.exited),
            "recorded": at(times.recorded),
            "reported": at(times.reported),
        },
        "unreported": record.reports.len(),
        "stdout_path": command.map(|command| &command.logs.stdout),
        "stderr_path": command.map(|command| &command.logs.stderr),
    })
}

/// How one gets into a VPS, and how it has fared.
fn vps_view(vps: &Vps, state: &VpsState) -> Value {
    json!({
        "ssh_key_mode": match &vps.login {
            Login::Disabled => "disabled",
            Login::Open => "none",
            Login::Key(_) => "upload",
            Login::Kept => "as in the snapshot",
        },
        "ssh_port": state.ssh_port,
        "ssh_address": state.ssh_address,
        "ssh": match &state.door {
            Door::None => "none",
            Door::Preparing(_) => "preparing",
            Door::Open => "open",
            Door::Silent => "silent",
        },
        "restored_from": state.restored_from,
        "saved_as": state.saved_as,
        "running_since": state.running_since.map(Stamp::rfc3339),
        "restarts": state.restarts,
        "oom_kills": state.oom_kills,
        "last_end": state.last_end.as_ref().map(|end| json!({
            "exit_code": end.exit_code,
            "oom_killed": end.oom_killed,
            "at": end.at.rfc3339(),
        })),
    })
}
