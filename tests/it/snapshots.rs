//! Snapshots of VPS (contract 1.3, 5.9) on the real Engine.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, Response, SOON, Vps, api, call, container_exists,
    container_status, docker, image, inspect, running, unique_id, wait_until,
};

/// A commit, an export, a restore on a machine that does a few of them at once.
const PATIENCE: Duration = Duration::from_secs(60);

fn path(id: u64) -> String {
    format!("/api/vps/snapshots/{id}")
}

fn desk(daemon: &Daemon, vps: &Vps) {
    vps.create(daemon, "busybox", json!({})).expect(200);
}

fn snapshot(daemon: &Daemon, vps: &Vps) -> String {
    let made = daemon.post(&path(vps.id), &json!({})).expect(200);
    made.json["tag"].as_str().expect("a tag").to_owned()
}

fn tags(daemon: &Daemon, vps: &Vps) -> Vec<String> {
    let listed = daemon.get(&path(vps.id)).expect(200).json;
    let rows = listed["snapshots"].as_array().expect("a list").clone();
    assert_eq!(listed["count"], rows.len());
    rows.iter().map(|row| row["tag"].as_str().expect("a tag").to_owned()).collect()
}

fn stop(daemon: &Daemon, vps: &Vps) {
    daemon.post(&format!("/api/vps/stop/{}", vps.id), &json!({})).expect(200);
    let name = vps.container();
    assert!(wait_until(PATIENCE, || !container_exists(&name)));
}

fn kill(daemon: &Daemon, vps: &Vps) {
    daemon.control("kill", vps.id).expect(200);
    let name = vps.container();
    assert!(wait_until(SOON, || !container_exists(&name)));
    // Then the id is free for a new one.
    assert!(wait_until(SOON, || !daemon.record_path(vps.id).exists()));
}

fn write(vps: &Vps, text: &str, file: &str) {
    docker(&["exec", &vps.container(), "sh", "-c", &format!("echo {text} >>{file}")]);
}

fn read(vps: &Vps, file: &str) -> String {
    docker(&["exec", &vps.container(), "cat", file])
}

fn image_of(reference: &str) -> Value {
    api("GET", &format!("/images/{reference}/json"), None).expect(200).json
}

fn layers(reference: &str) -> usize {
    image_of(reference)["RootFS"]["Layers"].as_array().expect("layers").len()
}

/// What an unfinished copy of this VPS's snapshots would leave.
fn leftovers(daemon: &Daemon, vps: &Vps) -> Vec<String> {
    let name = format!("name=river-runner-flatten-{}", vps.id);
    let mut left: Vec<String> =
        docker(&["ps", "-aq", "--filter", &name]).lines().map(str::to_owned).collect();
    let nameless = api("GET", "/images/json?filters=%7B%22dangling%22:%5B%22true%22%5D%7D", None);
    let copied = format!("{} ", daemon.node_id());
    for image in nameless.expect(200).json.as_array().expect("a list") {
        let label = |key: &str| image["Labels"][key].as_str().unwrap_or_default().to_owned();
        let is_deep = label("kohakuriver.task_id") == vps.id.to_string();
        if is_deep || label("river-runner.flatten").starts_with(&copied) {
            left.push(image["Id"].to_string());
        }
    }
    left
}

// ── rows ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn rows_of_an_unknown_id_and_of_a_command() {
    let daemon = Daemon::start();
    let id = unique_id();
    let none = json!({ "task_id": id, "snapshots": [], "count": 0 });
    assert_eq!(daemon.get(&path(id)).expect(200).json, none);
    daemon.post(&path(id), &json!({})).expect(404);
    daemon.get(&format!("{}/latest", path(id))).expect(404);
    daemon.delete(&format!("{}/1700000000", path(id))).expect(404);
    daemon.delete(&format!("{}/-1", path(id))).expect(404);
    daemon.delete(&format!("{}/yesterday", path(id))).expect(422);
    assert_eq!(daemon.delete(&path(id)).expect(200).json["deleted_count"], 0);
    daemon.get("/api/vps/snapshots/me").expect(422);
    let command = running(&daemon, "sleep 60");
    daemon.post(&path(command), &json!({})).expect(404);
}

#[test]
fn snapshots_are_made_listed_and_deleted_as_the_contract_says() {
    let daemon = Daemon::start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    daemon.post(&path(vps.id), &json!({ "message": 5 })).expect(422);
    daemon.post(&path(vps.id), &json!({ "message": "x".repeat(5000) })).expect(422);
    docker(&["exec", &vps.container(), "sh", "-c", "head -c 100000 /dev/urandom >/root/big"]);
    let said = json!({ "message": "mine & \"yours\" \u{e4}\nnext" });
    let made = daemon.post(&path(vps.id), &said).expect(200).json;
    let first = made["tag"].as_str().unwrap().to_owned();
    assert!(made["message"].is_string());
    assert!(first.starts_with(&format!("kohakuriver-snapshot/vps-{}:", vps.id)), "{first}");
    assert_eq!(image_of(&first)["Comment"], said["message"]);

    // No body at all, and null.
    let bodiless = daemon.try_call("POST", &path(vps.id), None).unwrap().expect(200);
    let second = bodiless.json["tag"].as_str().unwrap().to_owned();
    daemon.post(&path(vps.id), &json!({ "message": null })).expect(200);

    let listed = daemon.get(&path(vps.id)).expect(200).json;
    assert_eq!((&listed["task_id"], &listed["count"]), (&json!(vps.id), &json!(3)));
    let oldest = &listed["snapshots"][2];
    assert_eq!((&oldest["tag"], &oldest["task_id"]), (&json!(first), &json!(vps.id)));
    let timestamp = first.rsplit(':').next().unwrap().parse::<u64>().unwrap();
    assert_eq!(oldest["timestamp"], timestamp);
    assert_eq!(oldest["size"], image_of(&first)["Size"]);
    let base = image_of(&image("busybox"))["Size"].as_u64().unwrap();
    assert_eq!(oldest["unique_size"].as_u64().unwrap(), oldest["size"].as_u64().unwrap() - base);
    assert!(oldest["unique_size"].as_u64().unwrap() >= 100_000);
    assert!(oldest["created_at"].as_str().unwrap().starts_with("20"));

    let latest = daemon.get(&format!("{}/latest", path(vps.id))).expect(200).json;
    assert_eq!(latest, json!({ "task_id": vps.id, "tag": listed["snapshots"][0]["tag"] }));
    daemon.delete(&format!("{}/{timestamp}", path(vps.id))).expect(200);
    daemon.delete(&format!("{}/{timestamp}", path(vps.id))).expect(404);
    assert_eq!(tags(&daemon, &vps).len(), 2);

    // One in use, by whomever, is not counted and stays.
    let user = format!("river-test-{}", vps.id);
    docker(&["create", "--name", &user, &second, "true"]);
    let timestamp = second.rsplit(':').next().unwrap();
    let refused = daemon.delete(&format!("{}/{timestamp}", path(vps.id))).expect(404);
    assert!(refused.json["detail"].as_str().unwrap().contains("container"), "{}", refused.json);
    assert_eq!(daemon.delete(&path(vps.id)).expect(200).json["deleted_count"], 1);
    assert_eq!(tags(&daemon, &vps), [second]);
    docker(&["rm", &user]);
    assert_eq!(daemon.delete(&path(vps.id)).expect(200).json["deleted_count"], 1);
    kill(&daemon, &vps);
    daemon.post(&path(vps.id), &json!({})).expect(404);
}

#[test]
fn list_says_when_the_engine_does_not_and_costs_one_call() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    snapshot(&daemon, &vps);
    let before = engine.seen("GET /images/json").len();
    assert_eq!(tags(&daemon, &vps).len(), 1);
    assert_eq!(engine.seen("GET /images/json").len(), before + 1);
    assert!(engine.seen("GET /images/json")[before].query.contains("reference"));
    let refusal = Behaviour::Reply(500, json!({ "message": "the disk is on fire" }));
    engine.on("GET", "/images/json", refusal);
    let listed = daemon.get(&path(vps.id)).expect(200).json;
    assert_eq!((&listed["snapshots"], &listed["count"]), (&json!([]), &json!(0)));
    assert!(listed["error"].as_str().unwrap().contains("on fire"));
    daemon.get(&format!("{}/latest", path(vps.id))).expect(500);
}

#[test]
fn snapshots_at_once_do_not_collide_and_a_paused_desk_stays_paused() {
    let daemon = Daemon::builder().set("max_snapshots_per_vps", 0).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    daemon.post(&format!("/api/vps/pause/{}", vps.id), &json!({})).expect(200);
    let mut made: Vec<String> = thread::scope(|scope| {
        let callers: Vec<_> = (0..5).map(|_| scope.spawn(|| snapshot(&daemon, &vps))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), 5);
    made.reverse();
    assert_eq!(tags(&daemon, &vps), made);
    assert_eq!(container_status(&vps.container()).as_deref(), Some("paused"));
    assert_eq!(daemon.task(vps.id)["status"], "paused");
}

#[test]
fn oldest_go_and_what_is_in_use_goes_at_the_end_of_its_container() {
    let daemon = Daemon::builder().set("max_snapshots_per_vps", 2).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    write(&vps, "first", "/root/file");
    stop(&daemon, &vps);
    desk(&daemon, &vps);
    assert_eq!(read(&vps, "/root/file"), "first\n");
    let [base] = <[String; 1]>::try_from(tags(&daemon, &vps)).unwrap();
    write(&vps, "second", "/root/file");
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(snapshot(&daemon, &vps));
    }
    // The container was made from the oldest of all: it must not go, and is the only one beyond two.
    let newest = [made[2].clone(), made[1].clone()];
    assert_eq!(tags(&daemon, &vps), [&newest[..], &[base]].concat());
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || tags(&daemon, &vps) == newest));
    desk(&daemon, &vps);
    assert_eq!(read(&vps, "/root/file"), "first\nsecond\n");
    // After a stop the count is right at once: nothing is in use.
    stop(&daemon, &vps);
    assert!(wait_until(SOON, || tags(&daemon, &vps).len() == 2));
}

// ── layers ───────────────────────────────────────────────────────────────────────────────────

/// An image with everything a configuration can have, of two layers.
fn rich_image(vps: &Vps) -> String {
    let name = format!("river-test-{}", vps.id);
    docker(&["run", "--name", &name, &image("busybox"), "sh", "-c", "echo base >/root/base"]);
    let config = json!({
        "Env": ["COLOUR=deep \"blue\" $HOME", "PATH=/bin"], "User": "1000:1000",
        "WorkingDir": "/home/worker", "Cmd": ["sleep", "5"], "Entrypoint": null,
        "Labels": { "mine": "a \"b\" $c\\d" }, "ExposedPorts": { "8080/udp": {} },
        "Volumes": { "/data": {} }, "StopSignal": "SIGINT",
        "Healthcheck": { "Test": ["CMD", "true"], "Interval": 3_600_000_000_000_u64 },
    });
    let target = format!("/commit?container={name}&repo={name}&tag=rich");
    api("POST", &target, Some(&config)).expect(201);
    docker(&["rm", &name]);
    format!("{name}:rich")
}

#[test]
fn copy_into_one_layer_keeps_the_configuration() {
    let daemon = Daemon::builder().set("snapshot_layers_max", 2).start();
    let deep_daemon = Daemon::start();
    let [flat, deep] = [Vps::new(), Vps::new()];
    let rich = rich_image(&flat);
    let mut configs = Vec::new();
    for (daemon, vps) in [(&daemon, &flat), (&deep_daemon, &deep)] {
        vps.create(daemon, "busybox", json!({ "registry_image": rich })).expect(200);
        let script = "echo kept >/tmp/file; chmod 4711 /tmp/file; ln /tmp/file /tmp/link";
        docker(&["exec", &vps.container(), "sh", "-c", script]);
        let tag = snapshot(daemon, vps);
        let mut config = image_of(&tag)["Config"].clone();
        for own in ["river-runner.snapshot", "river-runner.flatten", "kohakuriver.task_id"] {
            config["Labels"].as_object_mut().unwrap().remove(own);
        }
        // Theirs alone: the tunnel's address, and the container's name.
        let env = config["Env"].as_array_mut().unwrap();
        env.retain(|entry| !entry.as_str().unwrap().starts_with("KOHAKURIVER_"));
        config["Hostname"] = json!(null);
        configs.push(config);
    }
    let tag = tags(&daemon, &flat).remove(0);
    assert_eq!((layers(&tag), layers(&tags(&deep_daemon, &deep)[0])), (1, 3));
    assert_eq!(configs[0], configs[1]);
    assert_eq!(configs[0]["StopSignal"], "SIGINT");
    assert_eq!(configs[0]["Volumes"], json!({ "/data": {} }));
    assert_eq!(leftovers(&daemon, &flat), [""; 0]);
    let row = &daemon.get(&path(flat.id)).expect(200).json["snapshots"][0];
    assert_eq!(row["unique_size"], row["size"]);

    // Without the old container it must come from the copy.
    kill(&daemon, &flat);
    desk(&daemon, &flat);
    let script = "cat /root/base /tmp/link; stat -c '%a %u %h' /tmp/file; echo $COLOUR; id -u";
    let said = docker(&["exec", &flat.container(), "sh", "-c", script]);
    assert_eq!(said, "base\nkept\n4711 1000 2\ndeep \"blue\" $HOME\n1000\n");
    for (daemon, vps) in [(&daemon, &flat), (&deep_daemon, &deep)] {
        kill(daemon, vps);
    }
    daemon.delete(&path(flat.id)).expect(200);
    deep_daemon.delete(&path(deep.id)).expect(200);
    docker(&["rmi", &rich]);
}

const BIG_BYTES: usize = 96 << 20;

/// A desk of three layers with that much in it.
fn big_desk(daemon: &Daemon, vps: &Vps) {
    desk(daemon, vps);
    let script = format!("head -c {BIG_BYTES} /dev/urandom >/root/big");
    docker(&["exec", &vps.container(), "sh", "-c", &script]);
    stop(daemon, vps);
    desk(daemon, vps);
    // A layer of nothing is none.
    write(vps, "more", "/root/small");
}

/// The most memory that it had at a time.
fn peak_kb(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn copy_passes_through_little_memory_and_ends_at_its_deadline() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).set("snapshot_layers_max", 2).start();
    let vps = Vps::new();
    big_desk(&daemon, &vps);
    let sum = docker(&["exec", &vps.container(), "md5sum", "/root/big"]);
    let before = peak_kb(&daemon);
    let flat = snapshot(&daemon, &vps);
    let after = peak_kb(&daemon);
    assert_eq!(layers(&flat), 1);
    assert!(after < before + 16 * 1024, "{before} kB, then {after} kB");
    kill(&daemon, &vps);
    desk(&daemon, &vps);
    assert_eq!(docker(&["exec", &vps.container(), "md5sum", "/root/big"]), sum);
    stop(&daemon, &vps);
    drop(daemon);

    // An Engine that takes nothing of it, when buffers are full.
    let hasty = Daemon::builder().engine(&engine).set("snapshot_layers_max", 2);
    let hasty = hasty.set("snapshot_timeout", 10).start();
    desk(&hasty, &vps);
    write(&vps, "more", "/root/small");
    stop(&hasty, &vps);
    desk(&hasty, &vps);
    write(&vps, "more", "/root/small");
    let copied = engine.calls("POST /images/create");
    engine.on("POST", "/images/create", Behaviour::Hang);
    let began = Instant::now();
    let deep = snapshot(&hasty, &vps);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!((layers(&deep), engine.calls("POST /images/create")), (3, copied + 1));
    assert_eq!(leftovers(&hasty, &vps), [""; 0]);
    // And no kill waits for it.
    thread::scope(|scope| {
        let caller = scope.spawn(|| hasty.post(&path(vps.id), &json!({})));
        engine.wait_held(1, PATIENCE);
        kill(&hasty, &vps);
        // The snapshot itself was made.
        caller.join().unwrap().expect(200);
    });
}

#[test]
fn kill_overtakes_a_commit_at_work() {
    let daemon = Daemon::start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    let script = format!("head -c {BIG_BYTES} /dev/urandom >/root/big");
    docker(&["exec", &vps.container(), "sh", "-c", &script]);
    thread::scope(|scope| {
        let caller = scope.spawn(|| daemon.post(&path(vps.id), &json!({})));
        let frozen = || container_status(&vps.container()).as_deref() == Some("paused");
        assert!(wait_until(SOON, || frozen() || caller.is_finished()));
        kill(&daemon, &vps);
        let answered = caller.join().unwrap();
        assert!([200, 500].contains(&answered.status), "{}", answered.status);
    });
    // Whether the Engine still makes it or not, what is listed is whole.
    for tag in tags(&daemon, &vps) {
        assert_eq!(layers(&tag), 2);
    }
}

/// `contrib/layers.sh` sets these for a run at the Engine's own limit.
fn number_from(variable: &str, usual: u16) -> u16 {
    std::env::var(variable).ok().map_or(usual, |text| text.parse().expect(variable))
}

#[test]
fn stops_and_restores_stay_below_the_limit_of_layers_and_lose_nothing() {
    let cycles_made = number_from("KIT_CYCLES", 25);
    let layers_max = number_from("KIT_LAYERS_MAX", 10);
    let daemon = Daemon::builder().set("snapshot_layers_max", i64::from(layers_max)).start();
    let vps = Vps::new();
    let mut most = 0;
    for cycle in 1..=cycles_made {
        desk(&daemon, &vps);
        if cycle == 1 {
            write(&vps, "made in cycle 1", "/root/first");
        }
        write(&vps, &cycle.to_string(), "/root/cycles");
        stop(&daemon, &vps);
        let kept = tags(&daemon, &vps);
        assert!((1..=3).contains(&kept.len()), "{kept:?}");
        most = most.max(layers(&kept[0]));
    }
    // It was reached, and never passed.
    assert_eq!(most, usize::from(layers_max));
    desk(&daemon, &vps);
    assert_eq!(read(&vps, "/root/first"), "made in cycle 1\n");
    let cycles: String = (1..=cycles_made).map(|cycle| format!("{cycle}\n")).collect();
    assert_eq!(read(&vps, "/root/cycles"), cycles);
    let config = inspect(&vps.container()).unwrap()["Config"].clone();
    let labels = &config["Labels"];
    assert_eq!(labels["kohakuriver.node"], daemon.node_id());
    assert_eq!(labels["kohakuriver.task_id"], vps.id.to_string());
    assert_eq!(labels["river-runner.login"], "\"disabled\"");
    assert!(labels["river-runner.record"].as_str().unwrap().contains("accepted"));
    assert_eq!(config["WorkingDir"], "/shared");
    assert_eq!(leftovers(&daemon, &vps), [""; 0]);
}

// ── whose a container is ─────────────────────────────────────────────────────────────────────

#[test]
fn container_that_somebody_made_of_a_snapshot_is_not_ours() {
    let mut daemon = Daemon::start();
    let [vps, other] = [Vps::new(), Vps::new()];
    desk(&daemon, &vps);
    let tag = snapshot(&daemon, &vps);
    let name = other.container();
    docker(&["run", "-d", "--name", &name, &tag, "sleep", "600"]);
    daemon.restart();
    let refused = other.create(&daemon, "busybox", json!({})).expect(500);
    assert!(refused.json["detail"].as_str().unwrap().contains("not ours"), "{}", refused.json);
    assert_eq!(container_status(&name).as_deref(), Some("running"));
    docker(&["rm", "-f", &name]);
}

#[test]
fn snapshot_of_another_runner_keeps_its_login_and_makes_no_unique_size_up() {
    let daemon = Daemon::start();
    let vps = Vps::new();
    // As the reference makes it: no label at all.
    let maker = format!("river-test-{}", vps.id);
    docker(&["create", "--name", &maker, &image("busybox"), "true"]);
    let tag = format!("kohakuriver-snapshot/vps-{}:1700000000", vps.id);
    docker(&["commit", "--change", "EXPOSE 22", &maker, &tag]);
    docker(&["rm", &maker]);
    let row = daemon.get(&path(vps.id)).expect(200).json["snapshots"][0].clone();
    assert_eq!((&row["tag"], &row["unique_size"]), (&json!(tag), &json!(null)));
    let wish = json!({ "ssh_key_mode": "none" });
    let _ = vps.create(&daemon, "busybox", wish);
    let task = daemon.task(vps.id);
    assert_eq!(task["vps"]["ssh_key_mode"], "as in the snapshot", "{task}");
    assert_eq!(task["vps"]["restored_from"], tag);
}

// ── what goes wrong in the middle ────────────────────────────────────────────────────────────

#[test]
fn commit_that_fails_says_why_and_prevents_no_stop() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    let refusal = Behaviour::Reply(500, json!({ "message": "no space left on device" }));
    engine.on("POST", "/commit", refusal);
    let failed = daemon.post(&path(vps.id), &json!({})).expect(500);
    assert!(failed.json["detail"].as_str().unwrap().contains("no space left"), "{}", failed.json);
    assert_eq!(daemon.task(vps.id)["status"], "running");
    stop(&daemon, &vps);
    assert!(daemon.log().contains("no snapshot before its stop"));
    engine.clear();
    assert_eq!(tags(&daemon, &vps), [""; 0]);
}

#[test]
fn stop_whose_commit_was_broken_off_is_saved_all_the_same() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    write(&vps, "mine", "/root/file");
    // Done, and the answer lost: found. Not done: made.
    for behaviour in [Behaviour::LoseReply, Behaviour::Die] {
        engine.on_nth(1, "POST", "/commit", behaviour);
        stop(&daemon, &vps);
        engine.clear();
        desk(&daemon, &vps);
        assert_eq!(read(&vps, "/root/file"), "mine\n");
    }
    assert_eq!(engine.calls("POST /commit"), 3);
    assert_eq!(tags(&daemon, &vps).len(), 2);
}

#[test]
fn commit_that_hangs_ends_at_its_deadline() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).set("snapshot_timeout", 2).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    engine.on("POST", "/commit", Behaviour::Hang);
    let failed = daemon.post(&path(vps.id), &json!({})).expect(500);
    assert!(failed.json["detail"].as_str().unwrap().contains("within 2 s"), "{}", failed.json);
    engine.clear();
    snapshot(&daemon, &vps);
}

#[test]
fn kill_overtakes_a_snapshot() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    engine.on("POST", "/commit", Behaviour::Hang);
    thread::scope(|scope| {
        let caller = scope.spawn(|| daemon.post(&path(vps.id), &json!({})));
        engine.wait_held(1, SOON);
        kill(&daemon, &vps);
        let failed = caller.join().unwrap().expect(500);
        assert!(failed.json["detail"].as_str().unwrap().contains("killed"), "{}", failed.json);
    });
    assert_eq!(daemon.wait_over(vps.id)["status"], "killed");
}

#[test]
fn kill_overtakes_the_snapshot_of_a_stop() {
    let host = FakeHost::start();
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    engine.on("POST", "/commit", Behaviour::Hang);
    thread::scope(|scope| {
        let caller = scope.spawn(|| daemon.post(&format!("/api/vps/stop/{}", vps.id), &json!({})));
        engine.wait_held(1, SOON);
        daemon.control("kill", vps.id).expect(200);
        caller.join().unwrap().expect(200);
    });
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    assert_eq!(daemon.wait_over(vps.id)["status"], "killed");
    assert!(host.reports_of(vps.id).iter().all(|report| !report.is_final()));
}

#[test]
fn slow_snapshot_blocks_nothing_else_and_a_stop_answers_in_time() {
    let host = FakeHost::start();
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().host(&host).engine(&engine).start();
    let [vps, other] = [Vps::new(), Vps::new()];
    desk(&daemon, &vps);
    write(&vps, "mine", "/root/file");
    engine.on_nth(1, "POST", "/commit", Behaviour::Hang);
    thread::scope(|scope| {
        let first = scope.spawn(|| snapshot(&daemon, &vps));
        engine.wait_held(1, SOON);
        // The second waits for the first, and the stop overtakes it.
        let second = scope.spawn(|| daemon.post(&path(vps.id), &json!({})));
        host.wait_beats(2, SOON);
        desk(&daemon, &other);
        snapshot(&daemon, &other);
        assert_eq!(tags(&daemon, &vps), [""; 0]);

        let asked = Instant::now();
        daemon.post(&format!("/api/vps/stop/{}", vps.id), &json!({})).expect(200);
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
        assert!(container_exists(&vps.container()));
        let again = scope.spawn(|| vps.create(&daemon, "busybox", json!({})));
        thread::sleep(Duration::from_millis(300));
        assert!(!again.is_finished());
        engine.release();
        let made = first.join().unwrap();
        again.join().unwrap().expect(200);
        assert_eq!(read(&vps, "/root/file"), "mine\n");
        // The stop's own is newer than the one that it waited for.
        let restored = daemon.task(vps.id)["vps"]["restored_from"].clone();
        assert!(restored.as_str().unwrap() > made.as_str(), "{restored} {made}");
        // When its turn came there was no VPS, or one that had no container yet.
        let second: Response = second.join().unwrap();
        assert!([404, 500].contains(&second.status), "{}", second.status);
    });
}

#[test]
fn runner_killed_in_the_commit_of_a_stop_goes_on_with_what_was_saved() {
    let engine = EngineProxy::start();
    let mut daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    write(&vps, "mine", "/root/file");
    engine.on_nth(1, "POST", "/commit", Behaviour::HangReply);
    thread::scope(|scope| {
        let stopping = format!("/api/vps/stop/{}", vps.id);
        let address = daemon.address();
        let caller = scope.spawn(move || call(&address, "POST", &stopping, &[], None));
        engine.wait_held(1, SOON);
        daemon.kill9();
        assert!(caller.join().unwrap().is_err());
    });
    engine.release();
    engine.clear();
    daemon.launch();
    daemon.wait_healthy();
    assert!(wait_until(PATIENCE, || !container_exists(&vps.container())));
    assert!(wait_until(SOON, || daemon.task(vps.id)["status"] == "stopped"));
    assert_eq!(engine.calls("POST /commit"), 1);
    assert_eq!(tags(&daemon, &vps).len(), 1);
    desk(&daemon, &vps);
    assert_eq!(read(&vps, "/root/file"), "mine\n");
}

#[test]
fn runner_killed_in_a_commit_leaves_the_desk_running_and_no_half_snapshot() {
    for (behaviour, made) in [(Behaviour::Hang, 0), (Behaviour::HangReply, 1)] {
        let engine = EngineProxy::start();
        let mut daemon = Daemon::builder().engine(&engine).start();
        let vps = Vps::new();
        desk(&daemon, &vps);
        write(&vps, "mine", "/root/file");
        engine.on_nth(1, "POST", "/commit", behaviour);
        thread::scope(|scope| {
            let (address, path) = (daemon.address(), path(vps.id));
            let caller = scope.spawn(move || call(&address, "POST", &path, &[], None));
            engine.wait_held(1, SOON);
            daemon.kill9();
            assert!(caller.join().unwrap().is_err());
        });
        engine.release();
        engine.clear();
        daemon.launch();
        daemon.wait_healthy();
        assert_eq!(tags(&daemon, &vps).len(), made);
        assert_eq!(container_status(&vps.container()).as_deref(), Some("running"));
        assert_eq!(daemon.task(vps.id)["status"], "running");
        snapshot(&daemon, &vps);
        assert_eq!(tags(&daemon, &vps).len(), made + 1);
        kill(&daemon, &vps);
        desk(&daemon, &vps);
        assert_eq!(read(&vps, "/root/file"), "mine\n");
    }
}

#[test]
fn desk_that_a_commit_has_frozen_does_not_count_as_paused() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    engine.on_nth(1, "POST", "/commit", Behaviour::Hang);
    thread::scope(|scope| {
        let caller = scope.spawn(|| snapshot(&daemon, &vps));
        engine.wait_held(1, SOON);
        docker(&["pause", &vps.container()]);
        reconcile(&engine);
        assert_eq!(daemon.task(vps.id)["status"], "running");
        docker(&["unpause", &vps.container()]);
        engine.release();
        caller.join().unwrap();
    });
    // Frozen by nobody of ours it does.
    docker(&["pause", &vps.container()]);
    reconcile(&engine);
    assert!(wait_until(SOON, || daemon.task(vps.id)["status"] == "paused"));
}

/// A lost event stream makes the runner compare all with what the Engine has.
fn reconcile(engine: &EngineProxy) {
    let looked = engine.calls("GET /containers/json");
    engine.cut("GET /events");
    engine.wait_calls("GET /containers/json", looked + 1, SOON);
    thread::sleep(Duration::from_millis(300));
}

#[test]
fn runner_killed_in_a_copy_leaves_a_whole_snapshot_and_nothing_else() {
    for (nth, step, behaviour) in [
        (1, "/containers/*/export", Behaviour::Hang),
        (1, "/images/create", Behaviour::Hang),
        (1, "/images/create", Behaviour::HangReply),
        (2, "/commit", Behaviour::Hang),
        (2, "/commit", Behaviour::HangReply),
    ] {
        let engine = EngineProxy::start();
        let mut daemon = Daemon::builder().engine(&engine).set("snapshot_layers_max", 2).start();
        let vps = Vps::new();
        desk(&daemon, &vps);
        write(&vps, "one", "/root/file");
        // Two layers: not copied yet.
        stop(&daemon, &vps);
        desk(&daemon, &vps);
        write(&vps, "two", "/root/file");
        let method = if step.ends_with("export") { "GET" } else { "POST" };
        engine.on_nth(nth, method, step, behaviour);
        thread::scope(|scope| {
            let (address, path) = (daemon.address(), path(vps.id));
            let caller = scope.spawn(move || call(&address, "POST", &path, &[], None));
            engine.wait_held(1, SOON);
            daemon.kill9();
            assert!(caller.join().unwrap().is_err());
        });
        engine.release();
        engine.clear();
        daemon.launch();
        daemon.wait_healthy();
        assert!(
            wait_until(SOON, || leftovers(&daemon, &vps).is_empty()),
            "{step}: {:?}\n{}",
            leftovers(&daemon, &vps),
            docker(&["ps", "-a"])
        );
        assert_eq!(tags(&daemon, &vps).len(), 2, "{step}");
        kill(&daemon, &vps);
        desk(&daemon, &vps);
        assert_eq!(read(&vps, "/root/file"), "one\ntwo\n", "{step}");
        // What was left half-way is done with the next.
        let tag = snapshot(&daemon, &vps);
        assert!(layers(&tag) <= 2, "{step}");
        assert_eq!(leftovers(&daemon, &vps), [""; 0], "{step}");
        kill(&daemon, &vps);
    }
}

#[test]
fn copy_that_fails_leaves_the_snapshot_with_its_layers() {
    let engine = EngineProxy::start();
    let daemon = Daemon::builder().engine(&engine).set("snapshot_layers_max", 2).start();
    let vps = Vps::new();
    desk(&daemon, &vps);
    stop(&daemon, &vps);
    desk(&daemon, &vps);
    write(&vps, "mine", "/root/file");
    let refusal = Behaviour::Reply(500, json!({ "message": "no space left on device" }));
    engine.on("POST", "/images/create", refusal);
    let deep = snapshot(&daemon, &vps);
    assert_eq!(layers(&deep), 3);
    engine.clear();
    // An export that breaks off must not pass for a whole one, not even if it ends well.
    for behaviour in [Behaviour::DieMidReply, Behaviour::Reply(200, json!({}))] {
        engine.on("GET", "/containers/*/export", behaviour);
        let deep = snapshot(&daemon, &vps);
        assert_eq!(layers(&deep), 3);
    }
    assert!(daemon.log().contains("export container"));
    assert!(daemon.log().contains("keeps its layers"));
    assert_eq!(leftovers(&daemon, &vps), [""; 0]);
    engine.clear();
    let flat = snapshot(&daemon, &vps);
    assert_eq!(layers(&flat), 1);
    assert_eq!(leftovers(&daemon, &vps), [""; 0]);
}
