//! Contract 5.2 (CPU) and 6, design D11: cores and NUMA nodes, on this machine and on machines
//! that are only a tree of sysfs files.

use std::fs;

use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Builder, Daemon, EngineProxy, FakeHost, Response, execute_body, inspect,
    task_container, unique_id, with,
};

/// Two nodes of two CPUs.
const TWO_NODES: &[(u32, &str)] = &[(0, "0-1"), (1, "2-3")];
/// Four nodes with holes in the numbering, one of them memory only.
const FOUR_NODES: &[(u32, &str)] = &[(0, "0-1,8"), (2, "2-3"), (4, ""), (6, "4-7")];

/// A machine in sysfs: its online CPUs, and the CPUs of each node. The files are those of a real
/// machine, shortened to what is read.
fn sysfs(online: &str, nodes: &[(u32, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let write = |path: String, text: String| {
        let path = root.path().join("devices/system").join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("sysfs directory");
        fs::write(path, text).expect("sysfs file");
    };
    write("cpu/online".to_owned(), format!("{online}\n"));
    for (id, cpus) in nodes {
        write(format!("node/node{id}/cpulist"), format!("{cpus}\n"));
        let meminfo = format!("Node {id} MemTotal:       1048576 kB\nNode {id} MemFree: 1 kB\n");
        write(format!("node/node{id}/meminfo"), meminfo);
    }
    root
}

/// A runner that is told it is there.
fn on(root: &tempfile::TempDir) -> Builder {
    Daemon::builder().set("sysfs_root", root.path().to_str().expect("a plain path"))
}

fn body_with(daemon: &Daemon, fields: Value) -> Value {
    with(execute_body(daemon, unique_id(), "sleep 1000"), fields)
}

/// A 422 that names this field; returns its text.
#[track_caller]
fn refused_for(response: Response, field: &str) -> String {
    let refused = response.expect(422);
    let fault = &refused.json["detail"][0];
    assert_eq!(fault["loc"], json!(["body", field]));
    fault["msg"].as_str().expect("a text").to_owned()
}

#[track_caller]
fn refuse_node(daemon: &Daemon, node: Value) -> String {
    let body = body_with(daemon, json!({ "target_numa_node_id": node }));
    refused_for(daemon.post("/api/execute", &body), "target_numa_node_id")
}

// ── this machine ─────────────────────────────────────────────────────────────────────────────

#[test]
fn task_without_a_target_has_no_cpuset_and_one_with_a_target_has() {
    let daemon = Daemon::start();
    let cpusets = |target: Value| {
        let id = daemon.submit(&body_with(&daemon, json!({ "target_numa_node_id": target })));
        daemon.wait_status(id, "running");
        let container = inspect(&task_container(id)).unwrap();
        ["CpusetCpus", "CpusetMems"].map(|key| container["HostConfig"][key].clone())
    };
    assert_eq!(cpusets(Value::Null), [json!(""), json!("")]);
    let cpus = fs::read_to_string("/sys/devices/system/node/node0/cpulist").unwrap();
    assert_eq!(cpusets(json!(0)), [json!(cpus.trim()), json!("0")]);
}

#[test]
fn task_on_a_node_runs_on_its_cpus_and_memory_and_knows_it() {
    // The machine's first CPU alone is a node, so that being on it shows.
    let root = sysfs("0-1", &[(0, "0"), (1, "1")]);
    let daemon = on(&root).start();
    let id = unique_id();
    let command = "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status | tr -d '\\t'; \
                   echo $KOHAKURIVER_TARGET_NUMA_NODE";
    let body = with(execute_body(&daemon, id, command), json!({ "target_numa_node_id": 0 }));
    daemon.run(&body);
    assert_eq!(daemon.stdout_of(id), "Cpus_allowed_list:0\nMems_allowed_list:0\n0\n");
}

#[test]
fn node_that_this_machine_does_not_have_is_422_naming_those_it_has() {
    let daemon = Daemon::start();
    let text = refuse_node(&daemon, json!(7));
    assert_eq!(text, "no NUMA node 7; this machine has 0");
    assert_eq!(daemon.get("/api/tasks?all=1").json["count"], 0);
}

#[test]
fn node_that_is_no_node_number_is_422() {
    let daemon = Daemon::start();
    refuse_node(&daemon, json!(-1));
    refuse_node(&daemon, json!(65_536));
    refuse_node(&daemon, json!("zero"));
    refuse_node(&daemon, json!(0.5));
}

#[test]
fn all_cores_of_this_machine_are_taken_and_one_more_is_422() {
    let daemon = Daemon::start();
    let cores = std::thread::available_parallelism().unwrap().get();
    let id = daemon.submit(&body_with(&daemon, json!({ "required_cores": cores })));
    daemon.wait_status(id, "running");
    let limit = inspect(&task_container(id)).unwrap()["HostConfig"]["NanoCpus"].clone();
    assert_eq!(limit, json!(cores * 1_000_000_000));
    let body = body_with(&daemon, json!({ "required_cores": cores + 1 }));
    let text = refused_for(daemon.post("/api/execute", &body), "required_cores");
    assert!(text.contains(&format!("this machine has {cores}")), "{text}");
}

// ── other machines ───────────────────────────────────────────────────────────────────────────

#[test]
fn two_node_machine_asks_for_the_cpus_and_the_memory_of_the_target() {
    let root = sysfs("0-3", TWO_NODES);
    let proxy = EngineProxy::start();
    proxy.on("POST", "/containers/create", Behaviour::Reply(500, json!({ "message": "seen" })));
    let daemon = on(&root).engine(&proxy).start();
    daemon.run(&body_with(&daemon, json!({ "target_numa_node_id": 1, "required_cores": 4 })));
    let asked = &proxy.seen("POST /containers/create")[0].body;
    assert_eq!(asked["HostConfig"]["CpusetCpus"], "2-3");
    assert_eq!(asked["HostConfig"]["CpusetMems"], "1");
    // More than the node has is no reason to refuse: the limit just never bites.
    assert_eq!(asked["HostConfig"]["NanoCpus"], 4_000_000_000_u64);
    let environment = asked["Env"].as_array().unwrap();
    assert!(environment.contains(&json!("KOHAKURIVER_TARGET_NUMA_NODE=1")));
}

#[test]
fn memory_node_that_the_engine_does_not_have_is_failed_125_with_its_words() {
    let root = sysfs("0-1", &[(0, "0"), (1, "1")]);
    let daemon = on(&root).start();
    let task = daemon.run(&body_with(&daemon, json!({ "target_numa_node_id": 1 })));
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &json!(125)));
    assert!(task["message"].as_str().unwrap().contains("memory nodes"), "{task:#}");
    assert_eq!(daemon.containers(), Vec::<String>::new());
}

#[test]
fn two_node_machine_refuses_a_third() {
    let root = sysfs("0-3", TWO_NODES);
    let daemon = on(&root).start();
    assert_eq!(refuse_node(&daemon, json!(2)), "no NUMA node 2; this machine has 0, 1");
}

#[test]
fn hole_in_the_numbering_and_a_node_of_memory_only_are_422() {
    let root = sysfs("0-8", FOUR_NODES);
    let daemon = on(&root).start();
    assert_eq!(refuse_node(&daemon, json!(1)), "no NUMA node 1; this machine has 0, 2, 6");
    let text = refuse_node(&daemon, json!(4));
    assert_eq!(text, "NUMA node 4 has no CPUs online; those with CPUs: 0, 2, 6");
    let body = body_with(&daemon, json!({ "required_cores": 10 }));
    let text = refused_for(daemon.post("/api/execute", &body), "required_cores");
    assert_eq!(text, "10 cores asked for; this machine has 9");
}

#[test]
fn nodes_are_registered_by_number_with_their_cores_and_memory() {
    let root = sysfs("0-8", FOUR_NODES);
    let host = FakeHost::start();
    let _daemon = on(&root).host(&host).start();
    let registered = host.wait_registered().body;
    assert_eq!(registered["total_cores"], 9);
    let node = |cores: Value| json!({ "cores": cores, "memory_bytes": 1_u64 << 30 });
    assert_eq!(
        registered["numa_topology"],
        json!({
            "0": node(json!([0, 1, 8])),
            "2": node(json!([2, 3])),
            "6": node(json!([4, 5, 6, 7])),
        })
    );
}
