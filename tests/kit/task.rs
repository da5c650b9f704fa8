//! What most tests do with a task: submit it, wait until it stands somewhere, look at what the
//! runner knows of it and says of itself. Everything through the runner's own rows, as a user would.

use std::time::Duration;

use serde_json::{Value, json};

use super::http::Response;
use super::{Daemon, SOON, inspect, wait_until};

/// The Engine's name of a command task's container (contract 5.1).
pub fn task_container(id: u64) -> String {
    format!("kohakuriver-task-{id}")
}

/// `body` with these fields in the place of its own.
pub fn with(mut body: Value, fields: Value) -> Value {
    let (Value::Object(into), Value::Object(fields)) = (&mut body, fields) else {
        panic!("a body is an object")
    };
    into.extend(fields);
    body
}

impl Daemon {
    /// Submits a task that must be accepted, and returns its id.
    #[track_caller]
    pub fn submit(&self, body: &Value) -> u64 {
        let accepted = self.post("/api/execute", body).expect(200);
        accepted.json["task_id"].as_u64().expect("the id as a number")
    }

    /// Submits a task and waits until it is over. Returns its record.
    #[track_caller]
    pub fn run(&self, body: &Value) -> Value {
        let id = self.submit(body);
        self.wait_over(id)
    }

    /// `kill`, `pause` or `resume`, as the host sends it.
    #[track_caller]
    pub fn control(&self, verb: &str, id: u64) -> Response {
        let body = json!({ "task_id": id, "container_name": task_container(id) });
        self.post(&format!("/api/{verb}"), &body)
    }

    /// The record of a task, live or over.
    #[track_caller]
    pub fn task(&self, id: u64) -> Value {
        self.get(&format!("/api/tasks/{id}")).expect(200).json
    }

    /// Returns once the task has this status, with its record.
    #[track_caller]
    pub fn wait_status(&self, id: u64, status: &str) -> Value {
        self.wait_task(id, SOON, |task| task["status"] == status)
    }

    /// Returns once the outcome is recorded and the container is removed, with the record.
    #[track_caller]
    pub fn wait_over(&self, id: u64) -> Value {
        let task = self.wait_task(id, SOON, |task| task["phases"]["recorded"].is_string());
        let name = task_container(id);
        // The Engine lists a container for a moment after it can't be asked about any more.
        let gone =
            wait_until(SOON, || inspect(&name).is_none() && !self.containers().contains(&name));
        assert!(gone, "the container of {id} is still there: {task:#}");
        task
    }

    /// The warnings of `/health`.
    #[track_caller]
    pub fn warnings(&self) -> String {
        self.get("/health").expect(200).json["warnings"].to_string()
    }

    /// Returns once a warning of `/health` has this in it, and the node is degraded.
    #[track_caller]
    pub fn wait_warning(&self, about: &str) {
        let told = wait_until(SOON, || {
            let health = self.get("/health").expect(200).json;
            health["status"] == "degraded" && health["warnings"].to_string().contains(about)
        });
        assert!(told, "nothing about {about:?} in {}", self.warnings());
    }

    /// Returns once `/health` warns of nothing.
    #[track_caller]
    pub fn wait_well(&self) {
        let well = wait_until(SOON, || self.warnings() == "[]");
        assert!(well, "still {}", self.warnings());
    }

    #[track_caller]
    fn wait_task(&self, id: u64, patience: Duration, is: impl Fn(&Value) -> bool) -> Value {
        let mut task = Value::Null;
        let reached = wait_until(patience, || {
            task = self.task(id);
            is(&task)
        });
        assert!(reached, "task {id} did not get there in {patience:?}: {task:#}");
        task
    }
}
