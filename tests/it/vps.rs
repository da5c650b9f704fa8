//! VPS in Docker (contract 1.2, 5.4) on the real Engine.

use serde_json::json;

use crate::kit::{
    Daemon, EngineProxy, FakeHost, SOON, SshKey, Vps, container_exists, docker, inspect, wait_until,
};

#[test]
fn desk_without_ssh_runs_until_it_is_stopped_and_comes_back_as_it_was() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let vps = Vps::new();
    let made = vps.create(&daemon, "busybox", json!({})).expect(200);
    let name = vps.container();
    assert_eq!(made.json, json!({ "success": true, "ssh_port": 0, "container_name": name }));
    let running = host.wait_status(vps.id, "running", SOON);
    assert_eq!(running.ssh_port, Some(0));
    vps.create(&daemon, "busybox", json!({})).expect(409);
    docker(&["exec", &name, "sh", "-c", "echo mine >/root/file"]);

    daemon.post(&format!("/api/vps/stop/{}", vps.id), &json!({})).expect(200);
    assert!(wait_until(SOON, || !container_exists(&name)));
    daemon.post(&format!("/api/vps/stop/{}", vps.id), &json!({})).expect(404);

    // The host's restart: the same id, mode `none`, no key.
    let again = json!({ "task_id": vps.id, "ssh_key_mode": "none" });
    let made = vps.create(&daemon, "busybox", again).expect(200);
    assert_eq!(made.json["ssh_port"], 0);
    assert_eq!(docker(&["exec", &name, "cat", "/root/file"]), "mine\n");
    let inspected = inspect(&name).unwrap();
    assert_eq!(inspected["HostConfig"]["PortBindings"], json!({}));
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || !container_exists(&name)));
    assert!(host.reports_of(vps.id).iter().all(|report| !report.is_final()));
}

/// Found by the fault campaign: who was refused a second create waited for the first one's end.
#[test]
fn create_of_a_live_id_is_refused_and_nobody_waits_for_it() {
    let daemon = Daemon::builder().start();
    let vps = Vps::new();
    vps.create(&daemon, "busybox", json!({})).expect(200);
    for _ in 0..3 {
        vps.create(&daemon, "busybox", json!({})).expect(409);
    }
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    assert!(wait_until(SOON, || daemon.log().contains("killed, exit code")));
    assert!(!daemon.log().contains("answered 500"), "{}", daemon.log());
}

/// Found by the fault campaign: nobody answered the create, for as long as its caller had patience.
#[test]
fn create_whose_vps_is_killed_before_its_container_is_asked_for_is_answered() {
    let engine = EngineProxy::start();
    let mut daemon = Daemon::builder().engine(&engine).start();
    daemon.wait_healthy();
    engine.down();
    let vps = Vps::new();
    std::thread::scope(|scope| {
        let created = scope.spawn(|| vps.create(&daemon, "busybox", json!({})));
        assert!(wait_until(SOON, || daemon.get("/api/tasks").json["count"] == 1));
        daemon.control("kill", vps.id).expect(200);
        let answer = created.join().expect("an answer").expect(500);
        assert!(answer.json["detail"].to_string().contains("killed"), "{}", answer.json);
    });
}

#[test]
fn create_whose_vps_the_host_has_ended_meanwhile_is_answered() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    daemon.wait_healthy();
    // The second is sent when the first was answered: a refusal counts from then on.
    assert!(wait_until(SOON, || host.beats().len() >= 2));
    engine.down();
    let vps = Vps::new();
    host.set_status(vps.id, "killed");
    let answer = vps.create(&daemon, "busybox", json!({})).expect(500);
    assert!(!answer.json["detail"].is_null(), "{}", answer.json);
}

#[test]
fn create_that_makes_no_sense_is_refused_and_the_host_is_told() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let key = SshKey::new("").public();
    let cut = &key[..key.len() - 8];
    let long = format!("{key} {}", "x".repeat(200_000));
    for (more, field) in [
        (json!({ "ssh_key_mode": "telnet" }), "ssh_key_mode"),
        (json!({ "ssh_key_mode": "upload" }), "ssh_public_key"),
        (
            json!({ "ssh_key_mode": "generate", "ssh_public_key": "ssh-ed25519 x" }),
            "ssh_public_key",
        ),
        (json!({ "ssh_key_mode": "", "ssh_public_key": "a\nb" }), "ssh_public_key"),
        // sshd would not know it.
        (json!({ "ssh_key_mode": "upload", "ssh_public_key": cut }), "ssh_public_key"),
        // No shell would start with it.
        (json!({ "ssh_key_mode": "upload", "ssh_public_key": long }), "ssh_public_key"),
    ] {
        let vps = Vps::new();
        let refused = vps.create(&daemon, "busybox", more).expect(422);
        assert_eq!(refused.json["detail"][0]["loc"][1], field);
        let told = host.wait_final(vps.id, SOON);
        assert_eq!(told.status, "failed");
        let message = told.message.unwrap_or_default();
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
        assert!(!container_exists(&vps.container()));
    }
}

#[test]
fn image_without_sshd_and_package_manager_fails_with_its_reason() {
    let host = FakeHost::start();
    let daemon = Daemon::builder().host(&host).start();
    let vps = Vps::new();
    let _ = vps.create(&daemon, "busybox", json!({ "ssh_key_mode": "none" }));
    let told = host.wait_final(vps.id, SOON);
    assert_eq!(told.status, "failed");
    assert!(told.message.as_deref().unwrap_or_default().contains("no sshd"), "{:?}", told.message);
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
}
