//! The layers of snapshots: copied into one before the Engine has too many, at whatever moment that is
//! cut short.

use std::thread;
use std::time::Instant;

use serde_json::json;

use super::{
    BIG_BYTES, PATIENCE, desk, image_of, kill, layers, leftovers, path, read, snapshot, stop, tags,
    write,
};
use crate::kit::{
    Behaviour, Daemon, EngineProxy, SOON, Vps, api, call, docker, image, inspect, wait_until,
};

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
