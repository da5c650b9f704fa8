//! Bad input at the door (contract 1.0, issue 2): every fault is a 422 in the contract's list shape
//! that names its field, and leaves nothing behind; what only the Engine can judge is a `failed`
//! report that a user understands.

use std::fs;

use serde_json::{Value, json};

use crate::kit::{
    Daemon, FakeHost, NETWORK_GATEWAY, Response, SOON, container_exists, exchange, execute,
    execute_body, task_container, unique_id, wait_until,
};

/// A POST of these very bytes.
#[track_caller]
fn post_bytes(daemon: &Daemon, path: &str, body: &[u8]) -> Response {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(&daemon.address(), &[head.as_bytes(), body].concat(), "POST").expect("an answer")
}

/// The faults of a 422, each as the contract has it.
#[track_caller]
fn faults(answer: Response) -> Vec<Value> {
    let detail = answer.expect(422).json["detail"].take();
    let faults = detail.as_array().expect("a list").clone();
    assert!(!faults.is_empty());
    for fault in &faults {
        assert!(fault["type"].is_string() && fault["msg"].is_string(), "{fault}");
        assert!(matches!(fault["loc"][0].as_str(), Some("body" | "path" | "query")), "{fault}");
        assert!(fault.as_object().expect("an object").contains_key("input"), "{fault}");
    }
    faults
}

/// The only fault, as its type and the place below `body`.
#[track_caller]
fn only_fault(answer: Response) -> (String, Value) {
    let faults = faults(answer);
    assert_eq!(faults.len(), 1, "{faults:?}");
    let place = faults[0]["loc"].as_array().expect("a list")[1..].to_vec();
    (faults[0]["type"].as_str().expect("text").to_owned(), place.into())
}

/// Nothing of a refused task is on the node.
#[track_caller]
fn nothing_is_left(daemon: &Daemon) {
    assert_eq!(daemon.get("/api/tasks?all=1").expect(200).json["count"], 0);
    assert_eq!(fs::read_dir(daemon.state_dir().join("tasks")).expect("a directory").count(), 0);
    assert!(!daemon.shared_dir().join("logs").exists());
    assert!(daemon.containers().is_empty());
}

// ── types ────────────────────────────────────────────────────────────────────────────────────

/// `(field, what is sent, the type of the fault, its place)`: every field of execute with every
/// kind of value that it does not take.
#[rustfmt::skip]
fn wrong_types() -> Vec<(&'static str, Value, &'static str, Value)> {
    vec![
        ("task_id", json!(null), "int_type", json!(["task_id"])),
        ("task_id", json!([]), "int_type", json!(["task_id"])),
        ("task_id", json!("seven"), "int_parsing", json!(["task_id"])),
        ("task_id", json!(""), "int_parsing", json!(["task_id"])),
        ("task_id", json!("7.5"), "int_parsing", json!(["task_id"])),
        ("task_id", json!(7.5), "int_from_float", json!(["task_id"])),
        ("task_id", json!(9_007_199_254_740_992.0), "int_parsing_size", json!(["task_id"])),
        ("task_id", json!(1e300), "int_parsing_size", json!(["task_id"])),
        ("task_id", json!(u64::MAX), "int_parsing_size", json!(["task_id"])),
        ("task_id", json!("99999999999999999999"), "int_parsing", json!(["task_id"])),
        ("task_id", json!(0), "value_error", json!(["task_id"])),
        ("task_id", json!(-7), "value_error", json!(["task_id"])),
        ("command", json!(null), "string_type", json!(["command"])),
        ("command", json!(7), "string_type", json!(["command"])),
        ("command", json!(["true"]), "string_type", json!(["command"])),
        ("command", json!("a\u{0}b"), "value_error", json!(["command"])),
        ("arguments", json!("x"), "list_type", json!(["arguments"])),
        ("arguments", json!({}), "list_type", json!(["arguments"])),
        ("arguments", json!(["x", 7]), "string_type", json!(["arguments", 1])),
        ("arguments", json!([null]), "string_type", json!(["arguments", 0])),
        ("arguments", json!(["a\u{0}"]), "value_error", json!(["arguments"])),
        ("env_vars", json!([]), "dict_type", json!(["env_vars"])),
        ("env_vars", json!("A=1"), "dict_type", json!(["env_vars"])),
        ("env_vars", json!({"A": 1}), "string_type", json!(["env_vars", "A"])),
        ("env_vars", json!({"A": null}), "string_type", json!(["env_vars", "A"])),
        ("env_vars", json!({"": "x"}), "value_error", json!(["env_vars"])),
        ("env_vars", json!({"A=B": "x"}), "value_error", json!(["env_vars"])),
        ("env_vars", json!({"A": "\u{0}"}), "value_error", json!(["env_vars"])),
        ("required_cores", json!(null), "int_type", json!(["required_cores"])),
        ("required_cores", json!("many"), "int_parsing", json!(["required_cores"])),
        ("required_cores", json!(1.5), "int_from_float", json!(["required_cores"])),
        ("required_cores", json!(100_000), "value_error", json!(["required_cores"])),
        ("required_gpus", json!("0"), "list_type", json!(["required_gpus"])),
        ("required_gpus", json!(["x"]), "int_parsing", json!(["required_gpus", 0])),
        ("required_gpus", json!([-1]), "value_error", json!(["required_gpus"])),
        ("required_memory_bytes", json!("8G"), "int_parsing", json!(["required_memory_bytes"])),
        ("required_memory_bytes", json!([]), "int_type", json!(["required_memory_bytes"])),
        ("required_memory_bytes", json!(1000), "value_error", json!(["required_memory_bytes"])),
        ("required_memory_bytes", json!(-1), "value_error", json!(["required_memory_bytes"])),
        ("target_numa_node_id", json!("x"), "int_parsing", json!(["target_numa_node_id"])),
        ("target_numa_node_id", json!(-1), "value_error", json!(["target_numa_node_id"])),
        ("target_numa_node_id", json!(4711), "value_error", json!(["target_numa_node_id"])),
        ("target_numa_node_id", json!(70_000), "value_error", json!(["target_numa_node_id"])),
        ("container_name", json!(7), "string_type", json!(["container_name"])),
        ("registry_image", json!(7), "string_type", json!(["registry_image"])),
        ("registry_image", json!("-x"), "value_error", json!(["registry_image"])),
        ("pull", json!("sometimes"), "value_error", json!(["pull"])),
        ("pull", json!(true), "string_type", json!(["pull"])),
        ("working_dir", json!(null), "string_type", json!(["working_dir"])),
        ("working_dir", json!(7), "string_type", json!(["working_dir"])),
        ("working_dir", json!("not/absolute"), "value_error", json!(["working_dir"])),
        ("stdout_path", json!(null), "string_type", json!(["stdout_path"])),
        ("stdout_path", json!("/etc/passwd"), "value_error", json!(["stdout_path"])),
        ("stdout_path", json!(""), "value_error", json!(["stdout_path"])),
        ("stderr_path", json!(1), "string_type", json!(["stderr_path"])),
        ("stderr_path", json!("stderr.log"), "value_error", json!(["stderr_path"])),
        ("reserved_ip", json!(7), "string_type", json!(["reserved_ip"])),
        ("reserved_ip", json!("10.0.0"), "value_error", json!(["reserved_ip"])),
        ("reserved_ip", json!("fd00::1"), "value_error", json!(["reserved_ip"])),
        ("reserved_ip", json!("192.0.2.7"), "value_error", json!(["reserved_ip"])),
        ("reserved_ip", json!(NETWORK_GATEWAY), "value_error", json!(["reserved_ip"])),
    ]
}

#[test]
fn every_field_refuses_what_it_is_not_and_nothing_is_left() {
    let daemon = Daemon::start();
    for (field, value, kind, place) in wrong_types() {
        let mut body = execute_body(&daemon, unique_id(), "true");
        body[field] = value.clone();
        // Where the log paths follow from the id, they are its fault too.
        let faults = faults(daemon.post("/api/execute", &body));
        let first = (&faults[0]["type"], &faults[0]["loc"].as_array().unwrap()[1..]);
        assert_eq!(first.0, kind, "{field} = {value}: {faults:?}");
        assert_eq!(json!(first.1), place, "{field} = {value}: {faults:?}");
        assert_eq!(faults[0]["loc"][0], "body");
    }
    nothing_is_left(&daemon);
}

#[test]
fn every_required_field_is_missed() {
    let daemon = Daemon::start();
    let places: Vec<Value> = faults(daemon.post("/api/execute", &json!({})))
        .into_iter()
        .filter(|fault| fault["type"] == "missing")
        .map(|fault| fault["loc"][1].clone())
        .collect();
    assert_eq!(json!(places), json!(["task_id", "command", "stdout_path", "stderr_path"]));
    nothing_is_left(&daemon);
}

#[test]
fn fault_echoes_the_input_but_not_a_large_one() {
    let daemon = Daemon::start();
    let mut body = execute_body(&daemon, unique_id(), "true");
    body["required_cores"] = json!("many");
    assert_eq!(faults(daemon.post("/api/execute", &body))[0]["input"], "many");
    body["required_cores"] = json!("x".repeat(1_000_000));
    assert!(daemon.post("/api/execute", &body).expect(422).body.len() < 10_000);
}

#[test]
fn lenient_spellings_of_integers_are_taken() {
    let daemon = Daemon::start();
    let id = unique_id();
    let mut body = execute_body(&daemon, id, "true");
    body["task_id"] = json!(format!("{id}"));
    body["required_cores"] = json!(1.0);
    body["required_memory_bytes"] = json!("64000000");
    body["required_gpus"] = Value::Null;
    body["env_vars"] = Value::Null;
    body["arguments"] = Value::Null;
    body["unknown_field"] = json!({ "is": "ignored" });
    let answer = daemon.post("/api/execute", &body).expect(200);
    assert_eq!(answer.json["task_id"].as_u64(), Some(id));
    assert_eq!(daemon.wait_status(id, "completed")["cores"], 1);
}

#[test]
fn control_bodies_refuse_wrong_types_and_miss_both_fields() {
    let daemon = Daemon::start();
    for row in ["/api/kill", "/api/pause", "/api/resume"] {
        assert_eq!(faults(daemon.post(row, &json!({}))).len(), 2, "{row}");
        let id = only_fault(daemon.post(row, &json!({ "task_id": [], "container_name": "x" })));
        assert_eq!(id, ("int_type".into(), json!(["task_id"])), "{row}");
        let name = only_fault(daemon.post(row, &json!({ "task_id": 7, "container_name": null })));
        assert_eq!(name, ("string_type".into(), json!(["container_name"])), "{row}");
        daemon.post(row, &json!({ "task_id": 7, "container_name": "x" })).expect(404);
        faults(daemon.post(row, &json!({ "task_id": -7, "container_name": "x" })));
    }
}

// ── bodies ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn body_that_is_no_json_is_told_where() {
    let daemon = Daemon::start();
    let (kind, place) = only_fault(post_bytes(&daemon, "/api/execute", b"{\"task_id\": 7,}"));
    assert_eq!(kind, "json_invalid");
    assert!(place[0].is_u64(), "{place}");
    let bodies: [&[u8]; 7] = [
        b"{",
        b"\xff\xfe",
        b"{\"task_id\": 7} trailing",
        b"{'task_id': 7}",
        b"{\"task_id\": NaN}",
        b"{\"command\": \"\\ud800\"}",
        b"nul",
    ];
    for body in bodies {
        let answer = only_fault(post_bytes(&daemon, "/api/execute", body));
        assert_eq!(answer.0, "json_invalid", "{}", String::from_utf8_lossy(body));
    }
    nothing_is_left(&daemon);
}

#[test]
fn json_error_has_the_contracts_context() {
    let daemon = Daemon::start();
    let fault = faults(post_bytes(&daemon, "/api/execute", b"{\"a\" 1}")).remove(0);
    assert!(fault["ctx"]["error"].is_string(), "{fault}");
}

#[test]
fn body_that_is_no_object_is_refused() {
    let daemon = Daemon::start();
    for body in ["[]", "7", "null", "\"text\"", "true"] {
        let (kind, place) = only_fault(post_bytes(&daemon, "/api/execute", body.as_bytes()));
        assert_eq!((kind.as_str(), place), ("model_attributes_type", json!([])), "{body}");
    }
    let (kind, _) = only_fault(post_bytes(&daemon, "/api/execute", b""));
    assert_eq!(kind, "missing");
}

#[test]
fn body_nested_without_end_is_refused() {
    let daemon = Daemon::start();
    let deep = "[".repeat(100_000);
    let (kind, _) = only_fault(post_bytes(&daemon, "/api/execute", deep.as_bytes()));
    assert_eq!(kind, "json_invalid");
    daemon.get("/health").expect(200);
}

#[test]
fn numbers_that_no_integer_holds_are_refused() {
    let daemon = Daemon::start();
    // As text: our own JSON library would not write them.
    for number in ["1e400", "9007199254740993.0", "7531103436712968193.0", "-0.5", "1e-400"] {
        let body = format!("{{\"task_id\": {number}, \"container_name\": \"x\"}}");
        let answer = post_bytes(&daemon, "/api/kill", body.as_bytes());
        let kind = only_fault(answer).0;
        let known = ["int_parsing_size", "int_from_float", "json_invalid", "value_error"];
        assert!(known.contains(&kind.as_str()), "{number}: {kind}");
    }
    let digits = format!("{{\"task_id\": {}, \"container_name\": \"x\"}}", "9".repeat(10_000));
    faults(post_bytes(&daemon, "/api/kill", digits.as_bytes()));
}

#[test]
fn last_of_equal_keys_counts() {
    let daemon = Daemon::start();
    let id = unique_id();
    let body = execute_body(&daemon, id, "true").to_string();
    let doubled = body.replacen('{', "{\"command\": \"false\", \"task_id\": 1,", 1);
    post_bytes(&daemon, "/api/execute", doubled.as_bytes()).expect(200);
    assert_eq!(daemon.wait_status(id, "completed")["command"], "true");
}

#[test]
fn body_larger_than_its_row_allows_is_413() {
    let daemon = Daemon::start();
    let mut body = execute_body(&daemon, unique_id(), "true");
    body["command"] = json!("x".repeat(5 * 1024 * 1024));
    assert!(daemon.post("/api/execute", &body).expect(413).json["detail"].is_string());
    nothing_is_left(&daemon);
}

// ── values ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn log_path_that_leads_out_of_the_tasks_own_directory_is_refused() {
    let daemon = Daemon::start();
    let id = unique_id();
    let logs = daemon.shared_dir().join("logs");
    let own = logs.join(id.to_string());
    let outside = [
        logs.join("stdout.log"),
        own.join("../other/stdout.log"),
        own.join("deep/../../7/stdout.log"),
        own.clone(),
        own.join("."),
        own.join("sub/.."),
        logs.join(format!("{id}0/stdout.log")),
    ];
    for path in outside {
        let mut body = execute_body(&daemon, id, "true");
        body["stdout_path"] = json!(path);
        let fault = only_fault(daemon.post("/api/execute", &body));
        assert_eq!(fault, ("value_error".into(), json!(["stdout_path"])), "{}", path.display());
    }
    nothing_is_left(&daemon);
}

#[test]
fn fault_of_a_value_says_what_would_be_right() {
    let daemon = Daemon::start();
    let mut body = execute_body(&daemon, unique_id(), "true");
    body["target_numa_node_id"] = json!(4711);
    body["reserved_ip"] = json!("192.0.2.7");
    body["stdout_path"] = json!("/elsewhere");
    let faults = faults(daemon.post("/api/execute", &body));
    let said = |field: &str| {
        let fault = faults.iter().find(|fault| fault["loc"][1] == field);
        fault.expect(field)["msg"].as_str().unwrap().to_owned()
    };
    assert!(said("target_numa_node_id").contains('0'));
    assert!(said("reserved_ip").contains("10.213.77.0/24"));
    assert!(said("stdout_path").contains(daemon.shared_dir().to_str().unwrap()));
    assert_eq!(faults.len(), 3);
}

#[test]
fn working_directory_that_does_not_exist_fails_the_task_and_names_it() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let id = unique_id();
    let mut body = execute_body(&daemon, id, "true");
    body["working_dir"] = json!("/no/such/directory");
    daemon.post("/api/execute", &body).expect(200);
    let last = host.wait_final(id, SOON);
    assert_eq!(last.status, "failed");
    assert!(last.message.as_deref().unwrap().contains("/no/such/directory"), "{last:?}");
    assert!(wait_until(SOON, || !container_exists(&task_container(id))));
}

#[test]
fn refused_verbs_change_nothing() {
    let daemon = Daemon::start();
    let id = execute(&daemon, "sleep 60");
    daemon.wait_status(id, "running");
    let other = json!({ "task_id": id.to_string() });
    faults(daemon.post("/api/kill", &other));
    assert_eq!(daemon.wait_status(id, "running")["status"], "running");
    daemon.control("kill", id).expect(200);
    daemon.wait_status(id, "killed");
}
