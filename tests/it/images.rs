//! Images (contract 1.5, 5.7, 5.8): environments out of tarballs, images of registries, each made
//! available once for many tasks; and what a user reads when there is none.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, Response, SOON, api, call, container_exists, docker,
    execute, execute_body, image, image_exists, task_container, test_name, unique_id, wait_until,
};

/// Older than any image.
const OLD: u64 = 5;

/// Newer than any image: a tarball's number is in unix seconds.
fn new() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() + 3600
}

/// An environment that no other test has. Dropping it takes its name off the Engine's image.
struct Environment {
    name: String,
}

impl Environment {
    fn new() -> Environment {
        Environment { name: format!("it-{}", unique_id()) }
    }

    fn reference(&self) -> String {
        format!("kohakuriver/{}:base", self.name)
    }

    /// The Engine has it, made of this test image.
    fn is_local(&self, of: &str) {
        docker(&["tag", &image(of), &self.reference()]);
    }

    fn is_gone(&self) {
        docker(&["rmi", &self.reference()]);
    }

    fn path(&self, daemon: &Daemon, number: u64) -> PathBuf {
        let directory = daemon.shared_dir().join("kohakuriver-containers");
        fs::create_dir_all(&directory).expect("a directory");
        directory.join(format!("{}-{number}.tar", self.name))
    }

    /// Puts a tarball with these images beside the runner.
    fn tarball_of(&self, daemon: &Daemon, number: u64, images: &[&str]) -> PathBuf {
        let path = self.path(daemon, number);
        let save = ["save", "-o", path.to_str().expect("a plain path")];
        docker(&[&save, images].concat());
        path
    }

    /// Puts its own tarball beside the runner, and leaves no local image.
    fn tarball(&self, daemon: &Daemon, number: u64) -> PathBuf {
        self.is_local("busybox");
        let path = self.tarball_of(daemon, number, &[&self.reference()]);
        self.is_gone();
        path
    }

    /// Puts a file that is no tarball beside the runner.
    fn garbage(&self, daemon: &Daemon, number: u64) -> PathBuf {
        let path = self.path(daemon, number);
        fs::write(&path, "this is no archive").expect("a file");
        path
    }

    #[track_caller]
    fn sync(&self, daemon: &Daemon) -> Response {
        let path = format!("/api/docker/sync/{}", self.name);
        daemon.try_call("POST", &path, None).expect("an answer")
    }

    fn body(&self, daemon: &Daemon, id: u64, command: &str) -> Value {
        let mut body = execute_body(daemon, id, command);
        body["container_name"] = json!(self.name);
        body["registry_image"] = Value::Null;
        body
    }

    #[track_caller]
    fn execute(&self, daemon: &Daemon, command: &str) -> u64 {
        let id = unique_id();
        daemon.post("/api/execute", &self.body(daemon, id, command)).expect(200);
        id
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let target = format!("/images/{}", self.reference());
        api("DELETE", &target, None);
    }
}

fn behind(engine: &EngineProxy) -> Daemon {
    Daemon::builder().engine(engine).start()
}

fn id_of(image: &str) -> Value {
    api("GET", &format!("/images/{image}/json"), None).expect(200).json["Id"].clone()
}

/// The message of a task that could not be started for its image; nothing of it is left.
#[track_caller]
fn refusal(daemon: &Daemon, id: u64) -> String {
    let task = daemon.wait_status(id, "failed");
    assert_eq!(task["phases"]["created"], Value::Null);
    assert!(!container_exists(&task_container(id)));
    task["message"].as_str().expect("a message").to_owned()
}

// ── the list ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn list_shows_every_local_image_in_the_contracts_shape() {
    let daemon = Daemon::start();
    let listed = daemon.get("/api/docker/images").expect(200).json;
    let images = listed["images"].as_array().unwrap();
    let busybox = json!(image("busybox"));
    let found = images.iter().find(|shown| shown["tags"].as_array().unwrap().contains(&busybox));
    let found = found.expect("our image").as_object().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["created", "id", "size", "tags"]);
    assert_eq!(found["id"], id_of(&image("busybox")));
    assert!(found["size"].as_u64().unwrap() > 1_000_000);
    assert!(found["created"].as_str().unwrap().starts_with("20"));
}

#[test]
fn list_is_an_error_while_the_engine_is_away() {
    let engine = EngineProxy::start();
    let daemon = behind(&engine);
    engine.down();
    let answer = daemon.get("/api/docker/images").expect(500);
    assert!(answer.json["detail"].is_string());
}

// ── sync ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn sync_without_a_tarball_does_nothing() {
    let daemon = Daemon::start();
    let answer = Environment::new().sync(&daemon).expect(200).json;
    assert_eq!(answer["synced"], false);
    assert!(answer["message"].is_string());
}

#[test]
fn sync_loads_the_newest_by_number_and_names_it() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    // As text, 9 comes after 40.
    environment.garbage(&daemon, 9);
    let newest = environment.tarball(&daemon, 40);
    let answer = environment.sync(&daemon).expect(200).json;
    assert_eq!(answer["synced"], true);
    assert_eq!(answer["source"], json!(newest));
    assert!(image_exists(&environment.reference()));
}

#[test]
fn sync_leaves_an_image_that_is_newer_than_its_tarball() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    environment.is_local("busybox");
    environment.garbage(&daemon, OLD);
    assert_eq!(environment.sync(&daemon).expect(200).json["synced"], false);
}

#[test]
fn sync_replaces_an_image_that_is_older_than_its_tarball() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    environment.tarball(&daemon, new());
    environment.is_local("entrypoint");
    assert_eq!(environment.sync(&daemon).expect(200).json["synced"], true);
    assert_eq!(id_of(&environment.reference()), id_of(&image("busybox")));
}

#[test]
fn sync_takes_the_right_image_out_of_several() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    environment.is_local("entrypoint");
    let images = [&image("busybox"), &environment.reference(), &image("scratch")];
    environment.tarball_of(&daemon, OLD, &images.map(String::as_str));
    environment.is_gone();
    assert_eq!(environment.sync(&daemon).expect(200).json["synced"], true);
    assert_eq!(id_of(&environment.reference()), id_of(&image("entrypoint")));
}

#[test]
fn single_image_under_another_name_becomes_the_environment() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    environment.tarball_of(&daemon, OLD, &[&image("entrypoint")]);
    assert_eq!(environment.sync(&daemon).expect(200).json["synced"], true);
    assert_eq!(id_of(&environment.reference()), id_of(&image("entrypoint")));
}

#[test]
fn single_image_without_a_name_becomes_the_environment() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    let id = id_of(&image("entrypoint"));
    environment.tarball_of(&daemon, OLD, &[id.as_str().unwrap()]);
    assert_eq!(environment.sync(&daemon).expect(200).json["synced"], true);
    assert_eq!(id_of(&environment.reference()), id);
}

#[test]
fn several_images_of_which_none_is_wanted_are_an_error_that_names_them() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    let images = [image("busybox"), image("entrypoint")];
    environment.tarball_of(&daemon, OLD, &[&images[0], &images[1]]);
    let detail = environment.sync(&daemon).expect(500).json["detail"].to_string();
    assert!(detail.contains(&images[0]) && detail.contains(&images[1]), "{detail}");
    assert!(detail.contains(&environment.reference()), "{detail}");
    let message = refusal(&daemon, environment.execute(&daemon, "true"));
    assert!(message.contains(&images[0]) && message.contains(&images[1]), "{message}");
}

/// A tarball that can't be loaded is a 500 for the row and a `failed` report that names it.
#[track_caller]
fn is_refused_by_name(make: fn(&Environment, &Daemon) -> PathBuf) {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let environment = Environment::new();
    let path = make(&environment, &daemon).to_string_lossy().into_owned();
    let detail = environment.sync(&daemon).expect(500).json["detail"].to_string();
    assert!(detail.contains(&path), "{detail}");
    let id = environment.execute(&daemon, "true");
    let last = host.wait_final(id, SOON);
    assert_eq!((last.status.as_str(), last.exit_code), ("failed", None));
    assert!(last.message.as_deref().expect("a message").contains(&path), "{:?}", last.message);
    // `pending` is told unless the end came before it was sent (design law 6).
    let told = host.accepted_of(id);
    assert!(told == ["pending", "failed"] || told == ["failed"], "{told:?}");
    assert!(!image_exists(&environment.reference()));
}

#[test]
fn tarball_that_is_no_archive_is_refused_by_name() {
    is_refused_by_name(|environment, daemon| environment.garbage(daemon, OLD));
}

#[test]
fn tarball_that_is_cut_off_is_refused_by_name() {
    is_refused_by_name(|environment, daemon| {
        let path = environment.tarball(daemon, OLD);
        let whole = fs::read(&path).expect("a tarball");
        fs::write(&path, &whole[..whole.len() / 2]).expect("a file");
        path
    });
}

#[test]
fn tarball_that_is_empty_is_refused_by_name() {
    is_refused_by_name(|environment, daemon| {
        let path = environment.path(daemon, OLD);
        fs::write(&path, "").expect("a file");
        path
    });
}

#[test]
fn tarball_that_can_not_be_opened_is_refused_by_name() {
    is_refused_by_name(|environment, daemon| {
        let path = environment.path(daemon, OLD);
        // A link to itself: nobody can open it, not even root.
        std::os::unix::fs::symlink(&path, &path).expect("a link");
        path
    });
}

#[test]
fn tarball_that_is_a_directory_is_refused_by_name() {
    is_refused_by_name(|environment, daemon| {
        let path = environment.path(daemon, OLD);
        fs::create_dir(&path).expect("a directory");
        path
    });
}

#[test]
fn load_that_takes_too_long_ends_at_the_configured_time() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).set("docker_image_sync_timeout", 1).start();
    let environment = Environment::new();
    environment.tarball(&daemon, OLD);
    engine.on("POST", "/images/load", Behaviour::HangReply);
    let detail = environment.sync(&daemon).expect(500).json["detail"].to_string();
    assert!(detail.contains("DOCKER_IMAGE_SYNC_TIMEOUT"), "{detail}");
}

#[test]
fn task_whose_image_takes_too_long_to_load_fails_and_says_so() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).set("docker_image_sync_timeout", 1).start();
    let environment = Environment::new();
    environment.tarball(&daemon, OLD);
    engine.on("POST", "/images/load", Behaviour::Hang);
    let message = refusal(&daemon, environment.execute(&daemon, "true"));
    assert!(message.contains("DOCKER_IMAGE_SYNC_TIMEOUT (1 s)"), "{message}");
}

#[test]
fn sync_refuses_a_name_that_would_lead_elsewhere() {
    let daemon = Daemon::start();
    let answer = daemon.try_call("POST", "/api/docker/sync/..%2fx", None).unwrap();
    assert!(matches!(answer.status, 404 | 422), "{}", answer.status);
}

// ── environments of tasks ────────────────────────────────────────────────────────────────────

#[test]
fn task_in_an_environment_loads_its_tarball_and_runs() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    environment.tarball(&daemon, OLD);
    let id = environment.execute(&daemon, "echo here");
    let task = daemon.wait_status(id, "completed");
    assert_eq!(daemon.stdout_of(id), "here\n");
    assert_eq!(task["environment"], json!(environment.name));
    assert_eq!(task["image"], json!(environment.reference()));
}

#[test]
fn environment_that_does_not_exist_fails_the_task_and_nothing_is_pulled() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let environment = Environment::new();
    let id = environment.execute(&daemon, "true");
    let last = host.wait_final(id, SOON);
    assert_eq!(last.status, "failed");
    assert!(last.message.unwrap().contains(&environment.name));
    // A public registry may have a stranger's image of that name (contract S11).
    assert_eq!(engine.calls("POST /images/create"), 0);
    assert_eq!(engine.calls("POST /containers/create"), 0);
}

#[test]
fn environment_in_capitals_is_found_by_its_tarball_and_refused_with_the_engines_words() {
    let daemon = Daemon::start();
    let mut environment = Environment::new();
    // The tarball's name is in lower case, the image's would be as given, which no Engine takes.
    environment.tarball(&daemon, OLD);
    environment.name = environment.name.to_uppercase();
    let message = refusal(&daemon, environment.execute(&daemon, "true"));
    assert!(message.contains("lowercase"), "{message}");
}

#[test]
fn tarball_with_a_number_newer_than_its_image_is_loaded_once() {
    let engine = EngineProxy::start();
    let daemon = behind(&engine);
    let environment = Environment::new();
    environment.tarball(&daemon, new());
    daemon.wait_status(environment.execute(&daemon, "true"), "completed");
    daemon.wait_status(environment.execute(&daemon, "true"), "completed");
    assert_eq!(environment.sync(&daemon).expect(200).json["synced"], false);
    assert_eq!(engine.calls("POST /images/load"), 1);
}

#[test]
fn local_environment_is_used_when_the_tarball_directory_can_not_be_read() {
    let daemon = Daemon::start();
    let environment = Environment::new();
    environment.is_local("busybox");
    // A file in the directory's place.
    fs::write(daemon.shared_dir().join("kohakuriver-containers"), "").unwrap();
    let task = daemon.wait_status(environment.execute(&daemon, "true"), "completed");
    assert!(task["notes"][0].as_str().unwrap().contains("used the local image"), "{task:#}");
}

/// Tasks that want an image at one time.
const WAITERS: usize = 12;

/// A figure of `/metrics`.
fn figure(daemon: &Daemon, name: &str) -> Option<usize> {
    let text = daemon.get("/metrics").expect(200).text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Every task has come to the image, and waits there.
fn all_wait(daemon: &Daemon) -> bool {
    figure(daemon, "river_lanes ") == Some(WAITERS)
        && figure(daemon, "river_lane_workers_busy ") == Some(0)
}

#[test]
fn many_tasks_of_one_environment_load_it_once() {
    let engine = EngineProxy::start();
    let daemon = behind(&engine);
    let environment = Environment::new();
    environment.tarball(&daemon, new());
    engine.on("POST", "/images/load", Behaviour::Hang);
    let ids = [(); WAITERS].map(|()| environment.execute(&daemon, "true"));
    assert!(wait_until(SOON, || engine.held() == 1 && all_wait(&daemon)));
    engine.release();
    ids.iter().for_each(|&id| drop(daemon.wait_status(id, "completed")));
    assert_eq!(engine.calls("POST /images/load"), 1);
}

#[test]
fn many_tasks_of_one_registry_image_pull_it_once() {
    let engine = EngineProxy::start();
    let daemon = behind(&engine);
    engine.on("POST", "/images/create", Behaviour::Hang);
    let ids = [(); WAITERS].map(|()| execute(&daemon, "true"));
    assert!(wait_until(SOON, || engine.held() == 1 && all_wait(&daemon)));
    engine.release();
    ids.iter().for_each(|&id| drop(daemon.wait_status(id, "completed")));
    assert_eq!(engine.calls("POST /images/create"), 1);
}

#[test]
fn kill_of_one_of_two_waiters_leaves_the_other_its_image() {
    let engine = EngineProxy::start();
    let daemon = behind(&engine);
    engine.on("POST", "/images/create", Behaviour::Hang);
    let (killed, other) = (execute(&daemon, "true"), execute(&daemon, "true"));
    engine.wait_calls("POST /images/create", 1, SOON);
    daemon.control("kill", killed).expect(200);
    daemon.wait_status(killed, "killed");
    engine.release();
    daemon.wait_status(other, "completed");
    assert_eq!(engine.calls("POST /containers/create"), 1);
}

// ── registries ───────────────────────────────────────────────────────────────────────────────

#[test]
fn image_that_is_local_is_used_when_its_registry_is_out_of_reach() {
    let daemon = Daemon::start();
    let task = daemon.wait_status(execute(&daemon, "true"), "completed");
    let note = task["notes"][0].as_str().unwrap();
    assert!(note.contains("used the local image"), "{note}");
    assert!(note.contains("connection refused"), "{note}");
}

/// A reference below a registry that refuses at once; no image of that name is local.
fn absent() -> String {
    format!("127.0.0.1:1/{}:latest", test_name("absent"))
}

fn execute_with(daemon: &Daemon, reference: &str, pull: &str) -> u64 {
    let id = unique_id();
    let mut body = execute_body(daemon, id, "true");
    body["registry_image"] = json!(reference);
    body["pull"] = json!(pull);
    daemon.post("/api/execute", &body).expect(200);
    id
}

#[test]
fn image_that_can_not_be_had_fails_the_task_with_the_registrys_words() {
    let daemon = Daemon::start();
    let reference = absent();
    let message = refusal(&daemon, execute_with(&daemon, &reference, "always"));
    assert!(message.contains(&reference) && message.contains("connection refused"), "{message}");
}

#[test]
fn pull_missing_pulls_only_what_is_not_local() {
    let engine = EngineProxy::start();
    let daemon = behind(&engine);
    let id = execute_with(&daemon, &image("busybox"), "missing");
    assert_eq!(daemon.wait_status(id, "completed")["notes"], json!([]));
    assert_eq!(engine.calls("POST /images/create"), 0);
    refusal(&daemon, execute_with(&daemon, &absent(), "missing"));
    assert_eq!(engine.calls("POST /images/create"), 1);
}

#[test]
fn pull_never_fails_what_is_not_local_and_pulls_nothing() {
    let engine = EngineProxy::start();
    let daemon = behind(&engine);
    daemon.wait_status(execute_with(&daemon, &image("busybox"), "never"), "completed");
    let message = refusal(&daemon, execute_with(&daemon, &absent(), "never"));
    assert!(message.contains("not to be pulled"), "{message}");
    assert_eq!(engine.calls("POST /images/create"), 0);
}

// ── which of the two names counts ────────────────────────────────────────────────────────────

/// The answer to a dispatch with these two names.
fn named(daemon: &Daemon, container_name: Value, registry_image: Value) -> Response {
    let mut body = execute_body(daemon, unique_id(), "true");
    body["container_name"] = container_name;
    body["registry_image"] = registry_image;
    daemon.post("/api/execute", &body)
}

#[test]
fn registry_image_needs_no_environment_and_overrides_one() {
    let daemon = Daemon::start();
    named(&daemon, Value::Null, json!(image("busybox"))).expect(200);
    named(&daemon, json!(""), json!(image("busybox"))).expect(200);
    let overridden = named(&daemon, json!("no-such-environment"), json!(image("busybox")));
    let id = overridden.expect(200).json["task_id"].as_u64().unwrap();
    daemon.wait_status(id, "completed");
}

#[test]
fn dispatch_that_names_neither_is_refused_at_the_door() {
    let daemon = Daemon::start();
    let place = |answer: Response| answer.expect(422).json["detail"][0]["loc"].clone();
    let name = json!(["body", "container_name"]);
    assert_eq!(place(named(&daemon, Value::Null, Value::Null)), name);
    assert_eq!(place(named(&daemon, json!(""), json!(""))), name);
    let mut body = execute_body(&daemon, unique_id(), "true");
    body.as_object_mut().unwrap().remove("container_name");
    body.as_object_mut().unwrap().remove("registry_image");
    assert_eq!(place(daemon.post("/api/execute", &body)), name);
}

#[test]
fn names_that_would_become_something_else_in_a_url_are_refused() {
    let daemon = Daemon::start();
    let address = daemon.address();
    let answered = |name: &str| {
        let mut body = execute_body(&daemon, unique_id(), "true");
        body["registry_image"] = json!(name);
        call(&address, "POST", "/api/execute", &[], Some(&body)).unwrap().status
    };
    assert_eq!(answered("busybox?x=1"), 422);
    assert_eq!(answered("../../containers"), 422);
    assert_eq!(answered("bus ybox"), 422);
    assert_eq!(named(&daemon, json!("../x"), Value::Null).status, 422);
    assert_eq!(named(&daemon, json!("a/b"), Value::Null).status, 422);
}
