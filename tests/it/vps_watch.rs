//! What becomes of a VPS that nobody asked to end: its container dies, is stopped or removed behind our
//! back, the Engine or the runner restarts, the host has lost it (contract 5.10, 10.2).

use std::time::Duration;

use serde_json::json;

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, OwnEngine, SOON, SshKey, Vps, container_exists,
    container_status, docker, image, inspect, node_of, remove_container, said, ssh_without_a_key,
    wait_until,
};

/// Pauses of the outbox and of the Engine's event stream, after an outage of seconds.
const AFTER_AN_OUTAGE: Duration = Duration::from_secs(40);

#[track_caller]
fn port(daemon: &Daemon, vps: &Vps) -> u16 {
    u16::try_from(vps.state(daemon)["ssh_port"].as_u64().unwrap()).unwrap()
}

/// The pid of its first process, as the machine has it.
#[track_caller]
fn first_process(vps: &Vps) -> String {
    inspect(&vps.container()).unwrap()["State"]["Pid"].to_string()
}

#[track_caller]
fn kill_first_process(vps: &Vps) {
    let killed = std::process::Command::new("kill").args(["-KILL", &first_process(vps)]).status();
    assert!(killed.unwrap().success());
}

#[track_caller]
fn wait_restarts(daemon: &Daemon, vps: &Vps, at_least: u64) {
    let counted = wait_until(SOON * 2, || vps.state(daemon)["restarts"].as_u64() >= Some(at_least));
    assert!(counted, "{:#}", daemon.task(vps.id));
}

#[track_caller]
fn runs(vps: &Vps) -> bool {
    container_status(&vps.container()).as_deref() == Some("running")
}

/// The status that the host has, once `port` was reported to it.
#[track_caller]
fn wait_told(host: &FakeHost, vps: &Vps, port: u16) {
    let told = || {
        let last = host.reports_of(vps.id).into_iter().rfind(|report| report.status == "running");
        last.and_then(|report| report.ssh_port) == Some(i64::from(port))
    };
    assert!(wait_until(SOON, told), "{:#?}", host.reports_of(vps.id));
    assert_eq!(host.status_of(vps.id).as_deref(), Some("running"));
}

#[test]
fn first_process_that_is_killed_is_counted_and_its_new_port_told() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let vps = Vps::new();
    vps.create_with(&daemon, "debian-ssh", "none", None);
    vps.wait_open(&daemon);
    kill_first_process(&vps);
    wait_restarts(&daemon, &vps, 1);
    vps.wait_open(&daemon);
    let state = vps.state(&daemon);
    assert_eq!((&state["restarts"], &state["last_end"]["exit_code"]), (&json!(1), &json!(137)));
    assert_eq!(state["last_end"]["oom_killed"], false);
    let port = port(&daemon, &vps);
    wait_told(&host, &vps, port);
    assert_eq!(said(&ssh_without_a_key(port, "id -un")), "root");
    assert!(daemon.get("/metrics").text().contains("river_vps_restarts_total 1"));
    assert!(host.reports_of(vps.id).iter().all(|report| !report.is_final()));
}

#[test]
fn crash_loop_is_counted_and_ends_with_a_kill() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let vps = Vps::new();
    vps.create_with(&daemon, "debian-ssh", "none", None);
    vps.wait_open(&daemon);
    // From its next start on it ends at once.
    vps.exec("rm /usr/bin/ssh-keygen");
    kill_first_process(&vps);
    wait_restarts(&daemon, &vps, 4);
    assert_eq!(daemon.task(vps.id)["status"], "running");
    assert_eq!(vps.state(&daemon)["last_end"]["exit_code"], 97);
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    assert!(host.reports_of(vps.id).iter().all(|report| !report.is_final()));
}

#[test]
fn kill_for_memory_inside_is_noted_and_the_vps_runs_on() {
    let daemon = Daemon::start();
    let vps = Vps::new();
    let memory = json!({ "required_memory_bytes": 64 << 20, "ssh_key_mode": "none" });
    vps.create(&daemon, "debian-ssh", memory).expect(200);
    vps.wait_open(&daemon);
    // It keeps the last line, which does not end.
    let greedy = "head -c 300m /dev/zero | tail -n 1 >/dev/null; true";
    docker(&["exec", &vps.container(), "sh", "-c", greedy]);
    let noted = wait_until(SOON, || vps.state(&daemon)["oom_kills"].as_u64() > Some(0));
    assert!(noted, "{:#}", daemon.task(vps.id));
    assert!(runs(&vps));
    assert_eq!(vps.state(&daemon)["restarts"], 0);
}

#[test]
fn container_that_somebody_removes_is_told_as_stopped() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let vps = Vps::new();
    vps.create_with(&daemon, "busybox", "disabled", None);
    host.wait_status(vps.id, "running", SOON);
    remove_container(&vps.container());
    let last = host.wait_final(vps.id, SOON);
    assert_eq!((last.status.as_str(), last.exit_code), ("stopped", Some(-1)));
    assert!(last.message.unwrap().contains("removed"));
}

#[test]
fn container_that_somebody_stops_is_started_again() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let vps = Vps::new();
    vps.create_with(&daemon, "busybox", "disabled", None);
    for end in 1..=2 {
        docker(&["stop", "-t", "1", &vps.container()]);
        wait_restarts(&daemon, &vps, end);
        assert!(wait_until(SOON, || runs(&vps)));
    }
    assert_eq!(daemon.task(vps.id)["status"], "running");
    assert!(host.reports_of(vps.id).iter().all(|report| !report.is_final()));
}

#[test]
fn paused_vps_that_ends_is_paused_again_and_its_port_told_when_it_is_resumed() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let vps = Vps::new();
    let before = vps.create_with(&daemon, "debian-ssh", "none", None);
    vps.wait_open(&daemon);
    daemon.post(&format!("/api/vps/pause/{}", vps.id), &json!({})).expect(200);
    host.set_status(vps.id, "paused");
    // The Engine can't stop what is frozen; this thaws it first.
    docker(&["kill", &vps.container()]);
    wait_restarts(&daemon, &vps, 1);
    let paused = || container_status(&vps.container()).as_deref() == Some("paused");
    assert!(wait_until(SOON, paused), "{:#}", daemon.task(vps.id));
    assert_eq!(daemon.task(vps.id)["status"], "paused");
    assert_eq!(host.status_of(vps.id).as_deref(), Some("paused"));
    daemon.post(&format!("/api/vps/resume/{}", vps.id), &json!({})).expect(200);
    host.set_status(vps.id, "running");
    vps.wait_open(&daemon);
    let port = port(&daemon, &vps);
    if port != before {
        wait_told(&host, &vps, port);
    }
    assert_eq!(said(&ssh_without_a_key(port, "id -un")), "root");
}

// ── the runner restarts ──────────────────────────────────────────────────────────────────────

#[test]
fn runner_that_restarts_tells_the_host_again_and_finds_the_port_that_moved() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let (still, moved, paused) = (Vps::new(), Vps::new(), Vps::new());
    let key = SshKey::new("me");
    for vps in [&still, &moved, &paused] {
        vps.create_with(&daemon, "debian-ssh", "upload", Some(&key.public()));
    }
    for vps in [&still, &moved, &paused] {
        vps.wait_open(&daemon);
    }
    daemon.control("pause", paused.id).expect(200);
    host.set_status(paused.id, "paused");
    let told = |vps: &Vps| host.reports_of(vps.id).len();
    let (told_still, told_paused) = (told(&still), told(&paused));
    let port_before = port(&daemon, &still);
    daemon.kill9();
    docker(&["restart", "-t", "1", &moved.container()]);
    daemon.restart();
    assert!(wait_until(SOON, || told(&still) > told_still));
    let again = host.reports_of(still.id).pop().unwrap();
    assert_eq!((again.status.as_str(), again.ssh_port), ("running", Some(i64::from(port_before))));
    assert!(again.message.unwrap().contains("restart of the runner"));
    wait_restarts(&daemon, &moved, 1);
    moved.wait_open(&daemon);
    let port = port(&daemon, &moved);
    wait_told(&host, &moved, port);
    assert_eq!(said(&key.ssh(port, "id -un")), "root");
    assert_eq!(daemon.task(paused.id)["status"], "paused");
    assert_eq!(told(&paused), told_paused);
}

#[test]
fn vps_whose_record_is_lost_is_found_by_its_container() {
    let host = FakeHost::start();
    let mut daemon = node_of(&host);
    let vps = Vps::new();
    let key = SshKey::new("me");
    let port = vps.create_with(&daemon, "debian-ssh", "upload", Some(&key.public()));
    vps.wait_open(&daemon);
    said(&key.ssh(port, "echo work >/root/file"));
    let told = host.reports_of(vps.id).len();
    daemon.stop();
    std::fs::remove_file(daemon.record_path(vps.id)).unwrap();
    daemon.restart();
    assert!(wait_until(SOON, || host.reports_of(vps.id).len() > told));
    wait_told(&host, &vps, port);
    vps.wait_open(&daemon);
    // It is the same one to the host's restart, too.
    vps.stop(&daemon);
    let port = vps.create_again(&daemon, "debian-ssh");
    vps.wait_open(&daemon);
    assert_eq!(said(&key.ssh(port, "cat /root/file")), "work");
    assert_eq!(vps.state(&daemon)["ssh_key_mode"], "upload");
}

// ── the host has lost it ─────────────────────────────────────────────────────────────────────

/// Beyond the gap after which the host may have called the node dead (design law 6).
const GAP: Duration = Duration::from_secs(26);

#[test]
fn vps_that_the_host_has_lost_is_told_to_run_once_it_hears_again() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let (vps, paused) = (Vps::new(), Vps::new());
    vps.create_with(&daemon, "busybox", "disabled", None);
    paused.create_with(&daemon, "busybox", "disabled", None);
    host.wait_status(vps.id, "running", SOON);
    host.wait_status(paused.id, "running", SOON);
    daemon.control("pause", paused.id).expect(200);
    host.down();
    std::thread::sleep(GAP);
    host.set_status(vps.id, "lost");
    host.set_status(paused.id, "lost");
    host.up();
    let back = || host.status_of(vps.id).as_deref() == Some("running");
    assert!(wait_until(AFTER_AN_OUTAGE, back), "{:#?}", host.reports_of(vps.id));
    assert!(runs(&vps));
    // There is no word for a paused one that would not be taken for one that runs.
    assert_eq!(host.status_of(paused.id).as_deref(), Some("lost"));
    assert_eq!(host.reports_of(vps.id).len(), 3);
}

/// The user has killed or stopped it at the host, and that call did not reach us.
#[test]
fn vps_that_the_host_has_ended_is_saved_and_stopped_once_that_is_heard() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    // What comes before is not known to have come in unbroken contact; the first beat is sent when the
    // runner has heard of its registration.
    assert!(wait_until(SOON, || !host.beats().is_empty()));
    let vps = Vps::new();
    vps.create_with(&daemon, "debian-ssh", "none", None);
    vps.wait_open(&daemon);
    host.wait_status(vps.id, "running", SOON);
    vps.exec("echo mine >/root/file");
    host.set_status(vps.id, "killed");
    // A port that has moved is a report, which the host refuses.
    let moved = wait_until(SOON * 3, || {
        if runs(&vps) {
            kill_first_process(&vps);
        }
        std::thread::sleep(Duration::from_secs(3));
        !container_exists(&vps.container())
    });
    assert!(moved, "{:#?}", host.reports_of(vps.id));
    assert!(wait_until(SOON, || daemon.task(vps.id)["status"] == "killed"));
    assert_eq!(host.status_of(vps.id).as_deref(), Some("killed"));
    assert!(host.reports_of(vps.id).iter().all(|report| !report.is_final()));
    assert_eq!(docker(&["images", "-q", &vps.snapshot_repository()]).lines().count(), 1);
}

// ── in the way ───────────────────────────────────────────────────────────────────────────────

#[test]
fn container_of_an_earlier_vps_gives_way_and_what_it_held_is_not_lost() {
    let (host, engine) = (FakeHost::start(), EngineProxy::start());
    let mut daemon = Daemon::builder().host(&host).engine(&engine).start();
    let vps = Vps::new();
    vps.create_with(&daemon, "busybox", "disabled", None);
    vps.exec("echo mine >/root/file");
    // Its record goes with the state directory, and the create comes before anybody has looked.
    let kept = docker(&["commit", &vps.container()]);
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    daemon.stop();
    for directory in ["tasks", "untold", "ended"] {
        for file in std::fs::read_dir(daemon.state_dir().join(directory)).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    // The commit has the labels of its container, and so has what is made of it.
    docker(&["run", "-d", "--name", &vps.container(), kept.trim(), "sleep", "600"]);
    engine.on("GET", "/containers/json", Behaviour::Hang);
    daemon.restart();
    vps.create_again(&daemon, "busybox");
    engine.clear();
    engine.release();
    assert_eq!(vps.exec("cat /root/file"), "mine\n");
    assert!(inspect(&vps.container()).unwrap()["Config"]["Cmd"].to_string().contains("trap"));
    daemon.control("kill", vps.id).expect(200);
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    // Its snapshots are made of that.
    drop(vps);
    docker(&["rmi", "-f", kept.trim()]);
}

#[test]
fn container_that_is_not_ours_stays_and_the_vps_fails_by_its_name() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let vps = Vps::new();
    docker(&["run", "-d", "--name", &vps.container(), &image("busybox"), "sleep", "600"]);
    let refused = vps.create(&daemon, "busybox", json!({})).expect(500);
    let told = host.wait_final(vps.id, SOON);
    assert_eq!(told.status, "failed");
    assert!(told.message.unwrap().contains(&vps.container()));
    assert!(refused.json["detail"].as_str().unwrap().contains(&vps.container()));
    assert!(runs(&vps));
}

// ── the Engine restarts ──────────────────────────────────────────────────────────────────────

/// What ends the Engine; then it starts again.
#[track_caller]
fn vps_survives(end: fn(&mut OwnEngine)) {
    let host = FakeHost::start();
    let mut engine = OwnEngine::start(&["busybox"]);
    let daemon = Daemon::builder().host(&host).own_engine(&engine).start();
    let (vps, paused) = (Vps::new(), Vps::new());
    vps.create_with(&daemon, "busybox", "disabled", None);
    paused.create_with(&daemon, "busybox", "disabled", None);
    daemon.control("pause", paused.id).expect(200);
    end(&mut engine);
    engine.start_again();
    let status = |vps: &Vps| engine.client().container_status(&vps.container());
    let both = || {
        status(&vps).as_deref() == Some("running") && status(&paused).as_deref() == Some("paused")
    };
    let same = wait_until(AFTER_AN_OUTAGE, both);
    assert!(same, "{:?} {:?} {:#}", status(&vps), status(&paused), daemon.task(paused.id));
    assert_eq!(daemon.task(vps.id)["status"], "running");
    assert_eq!(daemon.task(paused.id)["status"], "paused");
    for vps in [&vps, &paused] {
        let restarts = || vps.state(&daemon)["restarts"].as_u64().unwrap();
        assert!(wait_until(SOON, || restarts() > 0), "{:#}", daemon.task(vps.id));
        assert!(host.reports_of(vps.id).iter().all(|report| !report.is_final()));
        daemon.control("kill", vps.id).expect(200);
        assert!(wait_until(SOON * 2, || status(vps).is_none()));
    }
}

#[test]
fn vps_runs_again_after_the_engine_was_stopped_and_started() {
    vps_survives(OwnEngine::stop);
}

#[test]
fn vps_runs_again_after_the_engine_was_killed() {
    vps_survives(OwnEngine::kill9);
}

#[test]
fn vps_runs_again_after_a_power_cut() {
    vps_survives(OwnEngine::power_cut);
}
