//! A task as rows of our own show it (design D15).

use serde_json::{Value, json};

use crate::model::task::{ImageSource, TaskRecord};
use crate::model::time::Stamp;
use crate::ops::Node;

/// The record without its environment, with the id also as text: it exceeds 2^53, beyond which
/// JavaScript loses digits.
pub fn task_view(node: &Node, record: &TaskRecord) -> Value {
    let spec = &record.spec;
    let times = &record.times;
    let outcome = record.outcome.as_ref();
    let at = |time: Option<Stamp>| time.map(Stamp::rfc3339);
    let reference = spec.image.reference();
    let progress = times.image_ready.is_none().then(|| node.images.progress(&reference)).flatten();
    json!({
        "task_id": spec.id,
        "id": spec.id.to_string(),
        "status": record.status_word(),
        "command": spec.command,
        "arguments": spec.arguments,
        "image": reference,
        "environment": match &spec.image {
            ImageSource::Environment(name) => Some(name),
            ImageSource::Registry(..) => None,
        },
        "container": spec.id.task_container(),
        "exit_code": outcome.and_then(|outcome| outcome.exit_code),
        "message": outcome.and_then(|outcome| outcome.message.as_deref()),
        "cores": spec.cores,
        "memory_bytes": spec.memory_bytes,
        "gpus": spec.gpus,
        "numa_node": spec.placement.node(),
        "working_dir": spec.working_dir,
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
        "stdout_path": spec.logs.stdout,
        "stderr_path": spec.logs.stderr,
    })
}
