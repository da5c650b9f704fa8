//! Contract 1.1 at the door: what is taken, what is refused with which status, and that a refusal
//! leaves nothing.

use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, Response, SOON, call, execute_body, unique_id, with,
};

// ── ids ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn id_is_taken_as_text_and_as_number_and_answered_as_number() {
    let daemon = Daemon::start();
    let accept = |id: u64, written: Value| {
        let body = with(execute_body(&daemon, id, "true"), json!({ "task_id": written }));
        let accepted = daemon.post("/api/execute", &body).expect(200);
        assert_eq!(accepted.json["task_id"], json!(id));
        assert!(accepted.json["message"].is_string());
        daemon.wait_over(id);
    };
    let (text, number) = (unique_id(), unique_id());
    accept(text, json!(text.to_string()));
    accept(number, json!(number));
}

#[test]
fn id_that_is_none_or_would_lose_digits_is_422() {
    let daemon = Daemon::start();
    let refuse = |written: Value| {
        let body = with(execute_body(&daemon, 7, "true"), json!({ "task_id": written }));
        assert_refused(&daemon.post("/api/execute", &body), "task_id");
    };
    refuse(json!(0));
    refuse(json!(-1));
    refuse(json!(9_223_372_036_854_775_808_u64));
    refuse(json!(9_007_199_254_740_992.0));
    refuse(json!("seven"));
    refuse(json!(""));
    refuse(json!(null));
    refuse(json!([7]));
}

// ── twice ────────────────────────────────────────────────────────────────────────────────────

fn post_with_key(daemon: &Daemon, key: &str, body: &Value) -> Response {
    let headers = [("Idempotency-Key", key)];
    call(&daemon.address(), "POST", "/api/execute", &headers, Some(body)).expect("an answer")
}

#[test]
fn id_in_use_is_409_while_the_task_lives_and_after() {
    let daemon = Daemon::start();
    let body = execute_body(&daemon, unique_id(), "sleep 1000");
    let id = daemon.submit(&body);
    daemon.post("/api/execute", &body).expect(409);
    daemon.control("kill", id).expect(200);
    daemon.wait_over(id);
    daemon.post("/api/execute", &body).expect(409);
}

#[test]
fn repeat_under_the_same_key_is_200_and_runs_once() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    let body = execute_body(&daemon, unique_id(), "true");
    let first = post_with_key(&daemon, "dispatch-1", &body).expect(200);
    let again = post_with_key(&daemon, "dispatch-1", &body).expect(200);
    assert_eq!(again.json, first.json);
    daemon.wait_over(first.json["task_id"].as_u64().unwrap());
    // Also when the task is over by the time the caller tries again.
    post_with_key(&daemon, "dispatch-1", &body).expect(200);
    assert_eq!(proxy.calls("POST /containers/create"), 1);
}

#[test]
fn same_key_with_another_body_is_409() {
    let daemon = Daemon::start();
    let id = unique_id();
    post_with_key(&daemon, "dispatch-1", &execute_body(&daemon, id, "true")).expect(200);
    post_with_key(&daemon, "dispatch-1", &execute_body(&daemon, id, "false")).expect(409);
}

#[test]
fn repeat_under_another_key_or_none_is_409() {
    let daemon = Daemon::start();
    let body = execute_body(&daemon, unique_id(), "true");
    post_with_key(&daemon, "dispatch-1", &body).expect(200);
    post_with_key(&daemon, "dispatch-2", &body).expect(409);
    daemon.post("/api/execute", &body).expect(409);
}

// ── refused ──────────────────────────────────────────────────────────────────────────────────

/// A 422 in the contract's list shape whose first entry names this field.
#[track_caller]
fn assert_refused(response: &Response, field: &str) {
    assert_eq!(response.status, 422, "{}", response.text());
    let fault = &response.json["detail"][0];
    // The place inside the field may follow.
    assert_eq!((&fault["loc"][0], &fault["loc"][1]), (&json!("body"), &json!(field)), "{fault}");
    assert!(fault["type"].is_string() && fault["msg"].is_string(), "{fault}");
    assert!(fault.get("input").is_some(), "{fault}");
}

#[test]
fn wrong_value_of_any_field_is_422_naming_it_and_leaves_nothing() {
    let daemon = Daemon::start();
    let refuse = |field: &str, value: Value| {
        let body = with(execute_body(&daemon, unique_id(), "true"), json!({ field: value }));
        assert_refused(&daemon.post("/api/execute", &body), field);
    };
    refuse("command", json!(null));
    refuse("command", json!(5));
    refuse("command", json!("a\0b"));
    refuse("arguments", json!("a"));
    refuse("arguments", json!(["a", 5]));
    refuse("arguments", json!(["a\0"]));
    refuse("env_vars", json!({ "A": 1 }));
    refuse("env_vars", json!({ "A=B": "c" }));
    refuse("env_vars", json!({ "": "c" }));
    refuse("env_vars", json!({ "A": "b\0" }));
    refuse("env_vars", json!({ "A\0": "b" }));
    refuse("required_cores", json!("many"));
    refuse("required_cores", json!(100_000));
    refuse("required_gpus", json!([-1]));
    refuse("required_memory_bytes", json!(-1));
    // One byte less than the Engine takes.
    refuse("required_memory_bytes", json!(6 * 1024 * 1024 - 1));
    refuse("required_memory_bytes", json!("1G"));
    refuse("working_dir", json!(null));
    refuse("working_dir", json!("relative"));
    refuse("working_dir", json!("/a\0b"));
    refuse("registry_image", json!("--privileged"));
    refuse("registry_image", json!("image name"));
    assert_eq!(daemon.get("/api/tasks?all=1").json["count"], 0);
    assert_eq!(daemon.containers(), Vec::<String>::new());
    assert!(!daemon.shared_dir().join("logs").exists());
}

#[test]
fn numbers_are_taken_in_the_spellings_of_the_contract_and_unknown_fields_are_ignored() {
    let daemon = Daemon::start();
    let cores_of = |written: Value| {
        let fields = json!({ "required_cores": written, "unheard_of": { "a": [1] } });
        let id = daemon.submit(&with(execute_body(&daemon, unique_id(), "true"), fields));
        daemon.wait_over(id)["cores"].clone()
    };
    assert_eq!(cores_of(json!("1")), 1);
    assert_eq!(cores_of(json!(1.0)), 1);
    assert_eq!(cores_of(json!(true)), 1);
}

#[test]
fn missing_field_is_422_of_type_missing() {
    let daemon = Daemon::start();
    let refuse = |field: &str| {
        let mut body = execute_body(&daemon, unique_id(), "true");
        body.as_object_mut().unwrap().remove(field);
        let refused = daemon.post("/api/execute", &body);
        assert_refused(&refused, field);
        assert_eq!(refused.json["detail"][0]["type"], "missing");
    };
    refuse("task_id");
    refuse("command");
    refuse("stdout_path");
    refuse("stderr_path");
}

#[test]
fn neither_environment_nor_registry_image_is_422() {
    let daemon = Daemon::start();
    let body = with(execute_body(&daemon, unique_id(), "true"), json!({ "registry_image": null }));
    assert_refused(&daemon.post("/api/execute", &body), "container_name");
    let odd = with(body, json!({ "container_name": "../escape" }));
    assert_refused(&daemon.post("/api/execute", &odd), "container_name");
}

#[test]
fn fields_that_the_host_may_leave_out_have_their_defaults() {
    let daemon = Daemon::start();
    let full = execute_body(&daemon, unique_id(), "pwd");
    let needed = ["task_id", "command", "registry_image", "stdout_path", "stderr_path"];
    let body = Value::Object(
        needed.map(|field| (field.to_owned(), full[field].clone())).into_iter().collect(),
    );
    let id = daemon.submit(&with(body, json!({ "container_name": "" })));
    let task = daemon.wait_over(id);
    assert_eq!((&task["status"], &task["cores"]), (&json!("completed"), &json!(1)));
    assert_eq!(daemon.stdout_of(id), "/shared\n");
}

#[test]
fn log_path_outside_the_tasks_own_directory_is_422_in_every_spelling() {
    let daemon = Daemon::start();
    let id = unique_id();
    let own = daemon.log_path(id, "");
    let own = own.to_str().unwrap().trim_end_matches('/');
    let refuse = |path: String| {
        let body = execute_body(&daemon, id, "true");
        let stdout = with(body.clone(), json!({ "stdout_path": path }));
        assert_refused(&daemon.post("/api/execute", &stdout), "stdout_path");
        let stderr = with(body, json!({ "stderr_path": path }));
        assert_refused(&daemon.post("/api/execute", &stderr), "stderr_path");
    };
    refuse("/etc/cron.d/task".to_owned());
    refuse(format!("{own}/../{}/stdout.log", id + 1));
    refuse(format!("{own}/a/../../{}/stdout.log", id + 1));
    refuse(format!("{own}0/stdout.log"));
    refuse(format!("{own}/../stdout.log"));
    refuse(format!("{own}/.."));
    refuse(format!("{own}/."));
    refuse(own.to_owned());
    refuse(format!("{own}/"));
    refuse(format!("{own}/dir/"));
    refuse(format!("//tmp/{own}/stdout.log"));
    refuse(own.trim_start_matches('/').to_owned() + "/stdout.log");
    refuse(format!("{own}/std\0out.log"));
    refuse(String::new());
    assert!(!daemon.shared_dir().join("logs").exists());
}

#[test]
fn odd_spelling_of_a_path_inside_the_own_directory_is_taken() {
    let daemon = Daemon::start();
    let id = unique_id();
    let own = daemon.log_path(id, "").to_str().unwrap().to_owned();
    let body = with(
        execute_body(&daemon, id, "echo here"),
        json!({ "stdout_path": format!("{own}//./x/../ünï code's.log") }),
    );
    daemon.run(&body);
    let written = std::fs::read_to_string(daemon.log_path(id, "ünï code's.log"));
    assert_eq!(written.unwrap(), "here\n");
}

#[test]
fn missing_local_temp_directory_is_500_and_nothing_is_accepted() {
    let daemon = Daemon::start();
    std::fs::remove_dir_all(daemon.path("local_temp_dir")).unwrap();
    let refused = daemon.post("/api/execute", &execute_body(&daemon, unique_id(), "true"));
    assert_eq!(refused.status, 500);
    assert!(refused.json["detail"].as_str().unwrap().contains("LOCAL_TEMP_DIR"));
    assert_eq!(daemon.get("/api/tasks?all=1").json["count"], 0);
}

// ── many ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn twelve_at_once_all_complete_with_their_own_output() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let ids = [(); 12].map(|()| unique_id());
    std::thread::scope(|scope| {
        for id in ids {
            let daemon = &daemon;
            scope.spawn(move || daemon.submit(&execute_body(daemon, id, &format!("echo {id}"))));
        }
    });
    for id in ids {
        assert_eq!(host.wait_final(id, SOON).status, "completed");
        assert_eq!(daemon.stdout_of(id), format!("{id}\n"));
        daemon.wait_over(id);
    }
    assert_eq!(daemon.containers(), Vec::<String>::new());
}

#[test]
fn acceptance_does_not_wait_for_an_engine_that_hangs() {
    let proxy = EngineProxy::start();
    let daemon = Daemon::builder().engine(&proxy).start();
    proxy.on("POST", "/images/create", Behaviour::Hang);
    proxy.pause_all();
    let since = std::time::Instant::now();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "true"));
    assert!(since.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!(daemon.task(id)["status"], "pending");
    proxy.resume_all();
    proxy.clear();
    proxy.release();
    daemon.wait_over(id);
}
