//! Contract 5.1 and 5.2: the container as `docker inspect` shows it, and what a task sees from
//! inside.

use std::fs;

use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Builder, Daemon, EngineProxy, NETWORK, NETWORK_GATEWAY, SOON, execute_body, image,
    inspect, task_container, unique_id, wait_until, with,
};

/// Inspects the container of a task that runs with these fields in its body.
fn inspected(daemon: &Daemon, fields: Value) -> (u64, Value) {
    let body = with(execute_body(daemon, unique_id(), "sleep 1000"), fields);
    let id = daemon.submit(&body);
    daemon.wait_status(id, "running");
    (id, inspect(&task_container(id)).expect("a container"))
}

/// The create call for a task with these fields in its body, for what this machine can't run.
fn asked(daemon: Builder, fields: Value) -> Value {
    let proxy = EngineProxy::start();
    proxy.on("POST", "/containers/create", Behaviour::Reply(500, json!({ "message": "seen" })));
    let daemon = daemon.engine(&proxy).start();
    daemon.run(&with(execute_body(&daemon, unique_id(), "true"), fields));
    proxy.seen("POST /containers/create")[0].body.clone()
}

#[test]
fn container_has_the_contracts_settings() {
    let daemon = Daemon::start();
    let (id, container) = inspected(&daemon, json!({ "env_vars": { "SECRET": "hunter2" } }));
    let config = &container["Config"];
    assert_eq!(config["Image"], image("busybox"));
    assert_eq!(config["Entrypoint"], Value::Null);
    assert_eq!(config["Cmd"][0], "/bin/sh");
    assert_eq!(config["Cmd"][1], "-c");
    assert_eq!(config["WorkingDir"], "/shared");
    assert_eq!([&config["OpenStdin"], &config["Tty"]], [&json!(false), &json!(false)]);

    let host_config = &container["HostConfig"];
    assert_eq!(host_config["AutoRemove"], false);
    // Newer Engines write `no` where older ones leave it empty, and `CAP_` before a capability.
    assert!(["", "no"].map(Value::from).contains(&host_config["RestartPolicy"]["Name"]));
    let added = host_config["CapAdd"].as_array().unwrap();
    assert!(added.len() == 1 && added[0].as_str().unwrap().ends_with("SYS_NICE"), "{added:?}");
    assert_eq!(host_config["NetworkMode"], NETWORK);
    assert_eq!(host_config["PortBindings"], json!({}));
    assert_eq!(host_config["Privileged"], false);
    assert_eq!(host_config["NanoCpus"], 1_000_000_000);
    assert_eq!(host_config["Memory"], 0);
    assert_eq!([&host_config["CpusetCpus"], &host_config["CpusetMems"]], [&json!(""), &json!("")]);
    assert_eq!(host_config["DeviceRequests"], json!([]));
    let log = json!({ "Type": "json-file", "Config": { "max-file": "1", "max-size": "64k" } });
    assert_eq!(host_config["LogConfig"], log);

    let labels = &config["Labels"];
    assert_eq!(labels["kohakuriver.managed"], "true");
    assert_eq!(labels["kohakuriver.task_id"], id.to_string());
    assert_eq!(labels["kohakuriver.task_type"], "command");
    assert_eq!(labels["kohakuriver.node"], daemon.node_id());
    // Labels are shown to everybody and copied into images.
    assert!(!labels.to_string().contains("hunter2"));
}

#[test]
fn entrypoint_of_the_image_is_kept() {
    let daemon = Daemon::start();
    let (_, container) = inspected(&daemon, json!({ "registry_image": image("entrypoint") }));
    assert_eq!(container["Config"]["Entrypoint"], json!(["/entrypoint.sh"]));
    assert_eq!(container["Config"]["Cmd"][0], "/bin/sh");
}

// ── limits ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn memory_limit_is_rounded_up_to_whole_mebibytes() {
    let daemon = Daemon::start();
    let bytes = (64 << 20) + 1;
    let (_, container) = inspected(&daemon, json!({ "required_memory_bytes": bytes }));
    assert_eq!(container["HostConfig"]["Memory"], 65 << 20);
}

#[test]
fn zero_cores_and_zero_bytes_are_no_limit() {
    let daemon = Daemon::start();
    let none = json!({ "required_cores": 0, "required_memory_bytes": 0 });
    let (_, container) = inspected(&daemon, none);
    assert_eq!(container["HostConfig"]["NanoCpus"], 0);
    assert_eq!(container["HostConfig"]["Memory"], 0);
}

#[test]
fn negative_cores_are_no_limit() {
    let daemon = Daemon::start();
    let (_, container) = inspected(&daemon, json!({ "required_cores": -3 }));
    assert_eq!(container["HostConfig"]["NanoCpus"], 0);
}

// ── mounts ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn mounts_are_the_shared_data_the_own_logs_and_the_local_directory() {
    let daemon = Daemon::start();
    let (id, container) = inspected(&daemon, json!({}));
    let mount = |mount: &Value| {
        let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
        (text("Type"), text("Source"), text("Target"))
    };
    let mounts = container["HostConfig"]["Mounts"].as_array().unwrap();
    let mounts: Vec<_> = mounts.iter().map(mount).collect();
    let bind = |source: std::path::PathBuf, target: &str| {
        ("bind".to_owned(), source.to_str().unwrap().to_owned(), target.to_owned())
    };
    let logs = daemon.shared_dir().join("logs").join(id.to_string());
    assert_eq!(
        mounts,
        [
            bind(daemon.shared_dir().join("shared_data"), "/shared"),
            bind(logs, &format!("/kohakuriver-logs/{id}")),
            bind(daemon.setting("local_temp_dir").into(), "/local_temp"),
        ]
    );
}

#[test]
fn task_does_not_see_the_output_of_another() {
    let daemon = Daemon::start();
    let other = unique_id();
    daemon.run(&execute_body(&daemon, other, "echo secret"));
    assert_eq!(daemon.stdout_of(other), "secret\n");
    let id = unique_id();
    daemon.run(&execute_body(&daemon, id, "ls /kohakuriver-logs"));
    assert_eq!(daemon.stdout_of(id), format!("{id}\n"));
}

#[test]
fn shared_and_local_directories_are_writable() {
    let daemon = Daemon::start();
    let command = "echo s >/shared/file; echo l >/local_temp/file";
    let task = daemon.run(&execute_body(&daemon, unique_id(), command));
    assert_eq!(task["exit_code"], 0);
    let shared = daemon.shared_dir().join("shared_data/file");
    assert_eq!(fs::read_to_string(shared).unwrap(), "s\n");
    let local = daemon.path("local_temp_dir").join("file");
    assert_eq!(fs::read_to_string(local).unwrap(), "l\n");
}

#[test]
fn additional_mounts_are_there_and_read_only_where_so_said() {
    let sources = tempfile::tempdir().unwrap();
    let source = |name: &str| {
        let path = sources.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), name).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mounts =
        [format!("{}:/data", source("data")), format!("{}:/frozen:ro", source("frozen"))].to_vec();
    let daemon = Daemon::builder().set("additional_mounts", mounts).start();
    let id = unique_id();
    let command = "cat /data/file /frozen/file; touch /data/new; touch /frozen/new";
    daemon.run(&execute_body(&daemon, id, command));
    assert_eq!(daemon.stdout_of(id), "datafrozen");
    assert!(sources.path().join("data/new").exists());
    assert!(!sources.path().join("frozen/new").exists());
    assert!(daemon.stderr_of(id).contains("Read-only file system"));
}

#[test]
fn mount_whose_source_is_missing_is_failed_125_naming_it() {
    let mounts = vec!["/no/such/source:/data".to_owned()];
    let daemon = Daemon::builder().set("additional_mounts", mounts).start();
    let task = daemon.run(&execute_body(&daemon, unique_id(), "true"));
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &json!(125)));
    assert!(task["message"].as_str().unwrap().contains("/no/such/source"), "{task:#}");
    assert_eq!(daemon.containers(), Vec::<String>::new());
}

// ── rights ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn privileged_setting_makes_tasks_privileged_and_adds_no_capability() {
    let daemon = Daemon::builder().set("tasks_privileged", true);
    let asked = asked(daemon, json!({}));
    assert_eq!(asked["HostConfig"]["Privileged"], true);
    assert_eq!(asked["HostConfig"]["CapAdd"], json!([]));
}

// ── network ──────────────────────────────────────────────────────────────────────────────────

/// An address far from where the Engine begins to hand them out, and most likely nobody else's.
fn reserved_address() -> String {
    // The lowest ten bits of an id only count the ids of one microsecond.
    format!("10.213.77.{}", 150 + (unique_id() >> 10) % 100)
}

#[test]
fn reserved_address_is_the_containers() {
    let daemon = Daemon::start();
    let reserved = reserved_address();
    let (_, container) = inspected(&daemon, json!({ "reserved_ip": reserved }));
    assert_eq!(container["NetworkSettings"]["Networks"][NETWORK]["IPAddress"], reserved);
}

#[test]
fn reserved_address_in_use_is_failed_with_the_engines_word_and_leaves_nothing() {
    let daemon = Daemon::start();
    let reserved = reserved_address();
    let (id, _) = inspected(&daemon, json!({ "reserved_ip": reserved }));
    let body = with(execute_body(&daemon, unique_id(), "true"), json!({ "reserved_ip": reserved }));
    let task = daemon.run(&body);
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &json!(125)));
    let message = task["message"].as_str().unwrap();
    assert!(message.contains("Address already in use"), "{message}");
    assert_eq!(daemon.containers(), [task_container(id)]);
}

#[test]
fn reserved_address_outside_the_network_is_422_naming_the_field() {
    let daemon = Daemon::start();
    let refuse = |address: &str| {
        let body =
            with(execute_body(&daemon, unique_id(), "true"), json!({ "reserved_ip": address }));
        let refused = daemon.post("/api/execute", &body).expect(422);
        assert_eq!(refused.json["detail"][0]["loc"], json!(["body", "reserved_ip"]));
    };
    refuse("10.213.78.1");
    refuse(NETWORK_GATEWAY);
    // The network's own address and its broadcast address are no container's either.
    refuse("10.213.77.0");
    refuse("10.213.77.255");
    refuse("10.213.77.300");
    refuse("--ip=1");
    assert_eq!(daemon.get("/api/tasks?all=1").json["count"], 0);
}

// ── GPUs ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn gpus_are_asked_for_as_one_device_request() {
    let asked = asked(Daemon::builder(), json!({ "required_gpus": [0, 2] }));
    let requests = asked["HostConfig"]["DeviceRequests"].as_array().unwrap();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0]["DeviceIDs"], json!(["0", "2"]));
    assert_eq!(requests[0]["Capabilities"], json!([["gpu"]]));
    // Neither a driver nor a count beside the list: the Engine takes one or the other.
    assert!(requests[0].get("Driver").is_none_or(|driver| driver == ""));
    assert!(requests[0].get("Count").is_none_or(|count| count == 0));
}

#[test]
fn gpus_on_a_machine_without_them_are_failed_125_saying_so() {
    let daemon = Daemon::start();
    let body = with(execute_body(&daemon, unique_id(), "true"), json!({ "required_gpus": [0] }));
    let task = daemon.run(&body);
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &json!(125)));
    assert!(task["message"].as_str().unwrap().contains("gpu"), "{task:#}");
    assert_eq!(daemon.containers(), Vec::<String>::new());
}

// ── names ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn strangers_container_of_the_same_name_is_left_alone_and_the_task_says_why_it_failed() {
    let daemon = Daemon::start();
    let id = unique_id();
    let name = task_container(id);
    crate::kit::docker(&["create", "--name", &name, &image("busybox"), "true"]);
    daemon.submit(&execute_body(&daemon, id, "true"));
    let task = daemon.wait_status(id, "failed");
    assert!(task["message"].as_str().unwrap().contains("not ours"), "{task:#}");
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 0));
    assert!(inspect(&name).is_some());
    crate::kit::remove_container(&name);
}
