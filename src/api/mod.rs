//! The contract's page as one table: who may call what, with how large a body, at which pace.
//! Handlers read a call into a model type, ask `ops`, and answer; they hold no policy.

pub mod fault;
pub mod files;
pub mod images;
pub mod node;
pub mod query;
pub mod snapshots;
pub mod spec;
pub mod task_view;
pub mod tasks;
pub mod terminal;
pub mod vps;
pub mod watch;

use crate::limits::{EXECUTE_BODY_BYTES_MAX, WRITE_BODY_BYTES_MAX};
use crate::ops::Node;
use crate::serve::{Route, delete, get, post, socket};

/// Every row there is.
#[rustfmt::skip]
pub static ROUTES: &[Route<Node>] = &[
    // contract 1.1
    post("/api/execute", tasks::execute).urgent().body_max(EXECUTE_BODY_BYTES_MAX),
    post("/api/kill", tasks::kill).urgent(),
    post("/api/pause", tasks::pause),
    post("/api/resume", tasks::resume),
    // contract 1.2
    post("/api/vps/create", vps::create).slow(),
    post("/api/vps/stop/{task_id}", vps::stop).slow(),
    post("/api/vps/pause/{task_id}", vps::pause),
    post("/api/vps/resume/{task_id}", vps::resume),
    // contract 1.3
    get("/api/vps/snapshots/{task_id}", snapshots::list),
    post("/api/vps/snapshots/{task_id}", snapshots::create).slow(),
    get("/api/vps/snapshots/{task_id}/latest", snapshots::latest),
    delete("/api/vps/snapshots/{task_id}/{timestamp}", snapshots::delete).slow(),
    delete("/api/vps/snapshots/{task_id}", snapshots::delete_all).slow(),
    // contract 1.5
    get("/api/docker/images", images::list).slow(),
    post("/api/docker/sync/{name}", images::sync).slow(),
    // contract 2.1, 2.2
    socket("/ws/task/{task_id}/terminal", terminal::open),
    socket("/ws/fs/{task_id}/watch", watch::open),
    // contract 8
    get("/api/fs/{task_id}/list", files::list),
    get("/api/fs/{task_id}/read", files::read),
    post("/api/fs/{task_id}/write", files::write).body_max(WRITE_BODY_BYTES_MAX),
    post("/api/fs/{task_id}/mkdir", files::mkdir),
    post("/api/fs/{task_id}/rename", files::rename),
    delete("/api/fs/{task_id}/delete", files::delete),
    get("/api/fs/{task_id}/stat", files::stat),
    // ours (design D15)
    get("/health", node::health).urgent(),
    get("/metrics", node::metrics).urgent(),
    get("/api/tasks", tasks::list),
    get("/api/tasks/{task_id}", tasks::show),
    get("/api/tasks/{task_id}/logs", tasks::logs),
    get("/api/events", node::events),
];
