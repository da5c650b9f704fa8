//! A running container and its rows.

use serde_json::{Value, json};

use crate::kit::{
    Daemon, Response, docker, execute_body, image, running, task_container, unique_id, with,
};

/// A task's container, and a runner to ask.
pub struct House {
    pub daemon: Daemon,
    pub id: u64,
}

impl House {
    pub fn busybox() -> House {
        House::of(Daemon::start())
    }

    pub fn of(daemon: Daemon) -> House {
        let id = running(&daemon, "sleep 600");
        House { daemon, id }
    }

    /// Nothing is in it that could be run any more: no shell, no tools.
    pub fn bare() -> House {
        let house = House::busybox();
        house.delete("/bin&recursive=true").expect(200);
        house
    }

    pub fn of_image(name: &str) -> House {
        let daemon = Daemon::builder().start();
        let body = execute_body(&daemon, unique_id(), "sleep 600");
        let id = daemon.submit(&with(body, json!({ "registry_image": image(name) })));
        daemon.wait_status(id, "running");
        House { daemon, id }
    }

    pub fn get(&self, row: &str) -> Response {
        self.daemon.get(&format!("/api/fs/{}/{row}", self.id))
    }

    pub fn post(&self, row: &str, body: Value) -> Response {
        self.daemon.post(&format!("/api/fs/{}/{row}", self.id), &body)
    }

    pub fn write(&self, path: &str, content: &str) -> Response {
        self.post("write", json!({ "path": path, "content": content }))
    }

    pub fn rename(&self, source: &str, destination: &str, overwrite: bool) -> Response {
        let body = json!({ "source": source, "destination": destination, "overwrite": overwrite });
        self.post("rename", body)
    }

    /// `path` may have `&recursive=true` behind it.
    pub fn delete(&self, path: &str) -> Response {
        self.daemon.delete(&format!("/api/fs/{}/delete?path={path}", self.id))
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let read = self.get(&format!("read?path={path}")).expect(200);
        read.json["content"].as_str().expect("a text").to_owned()
    }

    #[track_caller]
    pub fn inside(&self, script: &str) -> String {
        docker(&["exec", &task_container(self.id), "sh", "-c", script])
    }
}
