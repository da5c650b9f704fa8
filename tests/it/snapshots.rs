//! Snapshots of VPS (contract 1.3, 5.9) on the real Engine: their rows, how many are kept, and whose they
//! are.

mod commits;
mod layers;
mod overtaken;

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Daemon, EngineProxy, SOON, Vps, api, container_exists, container_status, docker,
    image, running, unique_id, wait_until,
};

/// A commit, an export, a restore on a machine that does a few of them at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// What takes a moment to be saved.
const BIG_BYTES: usize = 96 << 20;

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
