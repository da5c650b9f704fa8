//! A real `ssh` that logs into VPS: each login mode lets in whom it should and nobody else, on images
//! with and without an sshd, and a restart by the host changes nothing of that (contract 5.4, 5.5,
//! rule 14).

use std::fs;
use std::net::TcpListener;
use std::time::Instant;

use serde_json::json;

use crate::kit::{
    Daemon, FakeHost, NETWORK_GATEWAY, SOON, SshKey, Vps, assert_refused, container_exists, docker,
    image, inspect, is_free, node_of, remove_container, said, ssh_without_a_key, test_name,
    wait_until,
};

/// What the Engine says of a container's port 22.
fn mapped(vps: &Vps) -> u16 {
    let inspected = inspect(&vps.container()).unwrap();
    let bindings = &inspected["NetworkSettings"]["Ports"]["22/tcp"];
    bindings[0]["HostPort"].as_str().unwrap().parse().unwrap()
}

// ── logins ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn key_lets_its_owner_in_and_nobody_else() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let (key, other) = (SshKey::new("me@home"), SshKey::new("other"));
    for mode in ["upload", "generate", ""] {
        let vps = Vps::new();
        let port = vps.create_with(&daemon, "debian-ssh", mode, Some(&key.public()));
        assert_eq!(port, mapped(&vps));
        assert_eq!(host.wait_status(vps.id, "running", SOON).ssh_port, Some(i64::from(port)));
        vps.wait_open(&daemon);
        assert_eq!(
            said(&key.ssh(port, "id -un; cat /root/.ssh/authorized_keys")),
            format!("root\n{}", key.public())
        );
        assert_refused(&other.ssh(port, "id"));
        assert_refused(&ssh_without_a_key(port, "id"));
        assert_eq!(host.accepted_of(vps.id), ["pending", "running"]);
        daemon.control("kill", vps.id).expect(200);
        assert!(wait_until(SOON, || !container_exists(&vps.container())));
        assert!(wait_until(SOON, || is_free(port)));
        let (state, door) = (vps.state(&daemon), ["ssh", "ssh_port", "ssh_address"]);
        assert_eq!(door.map(|name| state[name].clone()), [json!("none"), json!(0), json!(null)]);
    }
}

#[test]
fn mode_none_lets_root_in_without_key_and_password() {
    let daemon = Daemon::start();
    let vps = Vps::new();
    let port = vps.create_with(&daemon, "debian-ssh", "none", None);
    vps.wait_open(&daemon);
    assert_eq!(said(&ssh_without_a_key(port, "id -un")), "root");
    // Who sets a password later closes the door, also over a restart of the container.
    said(&ssh_without_a_key(port, "echo root:secret | chpasswd"));
    assert_refused(&ssh_without_a_key(port, "id"));
    docker(&["restart", "-t", "1", &vps.container()]);
    assert!(wait_until(SOON, || vps.state(&daemon)["restarts"] == 1));
    vps.wait_open(&daemon);
    let port = vps.state(&daemon)["ssh_port"].as_u64().unwrap();
    assert_refused(&ssh_without_a_key(u16::try_from(port).unwrap(), "id"));
}

#[test]
fn mode_none_listens_where_the_node_is_registered_and_nowhere_else() {
    let daemon = Daemon::start();
    let (open, by_key) = (Vps::new(), Vps::new());
    open.create_with(&daemon, "debian-ssh", "none", None);
    by_key.create_with(&daemon, "debian-ssh", "upload", Some(&SshKey::new("me").public()));
    let address = |vps: &Vps| {
        let inspected = inspect(&vps.container()).unwrap();
        inspected["NetworkSettings"]["Ports"]["22/tcp"][0]["HostIp"].as_str().unwrap().to_owned()
    };
    assert_eq!(address(&open), "127.0.0.1");
    assert!(["0.0.0.0", "::"].contains(&address(&by_key).as_str()));
}

#[test]
fn comment_of_a_key_is_a_text_and_no_command() {
    let daemon = Daemon::start();
    let key = SshKey::new(r#"it's "$(touch /shared/x)" `touch /shared/x` \' '; touch /shared/x #"#);
    let vps = Vps::new();
    let port = vps.create_with(&daemon, "debian-ssh", "upload", Some(&key.public()));
    vps.wait_open(&daemon);
    assert_eq!(said(&key.ssh(port, "cat /root/.ssh/authorized_keys")), key.public());
    assert!(!daemon.shared_dir().join("shared_data/x").exists());
}

#[test]
fn state_goes_from_preparing_to_open() {
    let daemon = Daemon::start();
    let key = SshKey::new("me");
    let vps = Vps::new();
    vps.create_with(&daemon, "debian-repo", "upload", Some(&key.public()));
    // The package takes a while.
    assert_eq!(vps.state(&daemon)["ssh"], "preparing");
    vps.wait_open(&daemon);
}

// ── images ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn image_without_an_sshd_gets_one_from_its_package_manager_once() {
    let daemon = Daemon::start();
    let key = SshKey::new("me");
    let vps = Vps::new();
    let port = vps.create_with(&daemon, "debian-repo", "upload", Some(&key.public()));
    vps.wait_open(&daemon);
    assert_eq!(said(&key.ssh(port, "id -un; rm -r /srv/repository")), "root");
    // Without the repository it could not be installed again.
    vps.stop(&daemon);
    let port = vps.create_again(&daemon, "debian-repo");
    vps.wait_open(&daemon);
    assert_eq!(said(&key.ssh(port, "ls /srv")), "");
    let logs = docker(&["logs", &vps.container()]);
    assert!(!logs.contains("installing"), "{logs}");
}

/// Sources that refuse, and one that takes the connection and never says a word.
/// The package manager is at work: it unpacks, or has an sshd unpacked that is not set up.
const UNPACKS: &str = "ls /var/lib/dpkg/updates";
const SETS_UP: &str = "ls /usr/sbin/sshd 2>&- || true";

#[test]
fn installation_that_was_broken_off_is_done_again() {
    let daemon = Daemon::start();
    let key = SshKey::new("me");
    for (moment, is_killed) in [(UNPACKS, true), (SETS_UP, true), (UNPACKS, false)] {
        let vps = Vps::new();
        vps.create_with(&daemon, "debian-repo", "upload", Some(&key.public()));
        assert!(wait_until(SOON, || !vps.exec(moment).trim().is_empty()), "not met at work");
        if is_killed {
            docker(&["kill", &vps.container()]);
        } else {
            vps.stop(&daemon);
            vps.create_again(&daemon, "debian-repo");
        }
        vps.wait_open(&daemon);
        let port = u16::try_from(vps.state(&daemon)["ssh_port"].as_u64().unwrap()).unwrap();
        let left = format!("root\nlogin-of-{}", vps.id);
        assert_eq!(said(&key.ssh(port, "id -un; ls /etc/river-runner")), left);
        daemon.control("kill", vps.id).expect(200);
    }
}

#[test]
fn installation_that_was_broken_off_within_a_package_is_done_again() {
    // As a kill leaves it while dpkg unpacks a library that sshd needs.
    const STATUS: &str = "/var/lib/dpkg/status";
    let set = |package: &str, status: &str| {
        format!("sed -i '/^Package: {package}$/,/^$/s/^Status: .*/Status: {status}/' {STATUS}")
    };
    let lines = [
        "apt-get update".to_owned(),
        "apt-get install -y --no-install-recommends openssh-server".to_owned(),
        set("libbsd0", "install reinstreq half-installed"),
        set("libedit2", "install ok unpacked"),
        set("openssh-client", "install ok unpacked"),
        set("openssh-server", "install ok unpacked"),
        "mkdir -p /etc/river-runner".to_owned(),
        ": >/etc/river-runner/adding-sshd".to_owned(),
    ];
    let variant = Variant::of("debian-repo", &format!("RUN {}", lines.join(" && ")));
    let daemon = Daemon::start();
    let (key, vps) = (SshKey::new("me"), Vps::new());
    let more = json!({
        "registry_image": variant.0, "ssh_key_mode": "upload", "ssh_public_key": key.public()
    });
    vps.create(&daemon, "debian-repo", more).expect(200);
    vps.wait_open(&daemon);
    let port = u16::try_from(vps.state(&daemon)["ssh_port"].as_u64().unwrap()).unwrap();
    assert_eq!(said(&key.ssh(port, "id -un; dpkg --audit")), "root");
}

#[test]
fn package_manager_without_a_mirror_is_told_as_a_failure_in_time() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let mute = format!("{NETWORK_GATEWAY}:{}", listener.local_addr().unwrap().port());
    for (mirror, patience) in [("127.0.0.1:1", SOON * 2), (mute.as_str(), SOON * 9)] {
        let sources = format!("deb http://{mirror}/debian bookworm main");
        let lines = format!("RUN echo '{sources}' >/etc/apt/sources.list");
        let variant = Variant::of("debian-repo", &lines);
        let vps = Vps::new();
        let since = Instant::now();
        let more = json!({ "registry_image": variant.0, "ssh_key_mode": "none" });
        vps.create(&daemon, "debian-repo", more).expect(200);
        let told = host.wait_final(vps.id, patience);
        eprintln!("told after {:?}: {:?}", since.elapsed(), told.message);
        assert_eq!(told.status, "failed");
        let message = told.message.unwrap();
        assert!(message.contains("could not be installed"), "{message}");
        assert!(message.contains("openssh-server"), "{message}");
        assert!(wait_until(SOON, || !container_exists(&vps.container())));
    }
}

/// An image made of a test image by these lines of a Dockerfile.
struct Variant(String);

impl Variant {
    #[track_caller]
    fn of(base: &str, lines: &str) -> Variant {
        let name = test_name("variant");
        let context = tempfile::tempdir().unwrap();
        let dockerfile = format!("FROM {}\n{lines}\n", image(base));
        fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
        docker(&["build", "--quiet", "--tag", &name, context.path().to_str().unwrap()]);
        Variant(name)
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

#[test]
fn user_entrypoint_and_settings_of_the_image_do_not_matter() {
    let daemon = Daemon::start();
    let key = SshKey::new("me");
    for lines in [
        "USER worker\nWORKDIR /home/worker\nENV HOME=/home/worker",
        r#"RUN printf '#!/bin/sh\necho entry\nexec "$@"\n' >/e && chmod 755 /e
           ENTRYPOINT ["/e"]"#,
        "RUN passwd -l root && printf 'Port 2222\\nPermitRootLogin no\\nPubkeyAuthentication yes\\nAuthorizedKeysFile /nowhere\\n' >/etc/ssh/sshd_config",
    ] {
        let variant = Variant::of("debian-ssh", lines);
        let vps = Vps::new();
        let more = json!({
            "registry_image": variant.0, "ssh_key_mode": "upload", "ssh_public_key": key.public(),
        });
        let created = vps.create(&daemon, "debian-ssh", more).expect(200);
        vps.wait_open(&daemon);
        assert_eq!(said(&key.ssh(crate::kit::port_of(&created), "id -un")), "root", "{lines}");
    }
}

#[test]
fn sshd_that_refuses_its_settings_is_told_as_a_failure() {
    let host = FakeHost::start();
    let daemon = node_of(&host);
    let variant = Variant::of("debian-ssh", "RUN echo Nonsense >>/etc/ssh/sshd_config");
    let vps = Vps::new();
    let more = json!({ "registry_image": variant.0, "ssh_key_mode": "none" });
    let _ = vps.create(&daemon, "debian-ssh", more);
    let told = host.wait_final(vps.id, SOON);
    let message = told.message.unwrap_or_default();
    assert_eq!(told.status, "failed");
    assert!(
        message.contains("refuses its settings") && message.contains("sshd_config"),
        "{message}"
    );
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
}

#[test]
fn image_made_of_a_vps_does_not_let_its_former_owner_in() {
    let daemon = Daemon::start();
    let (former, owner) = (SshKey::new("former"), SshKey::new("owner"));
    let made = Variant(test_name("made-of-a-vps"));
    let (before, vps) = (Vps::new(), Vps::new());
    before.create_with(&daemon, "debian-ssh", "upload", Some(&former.public()));
    before.wait_open(&daemon);
    docker(&["commit", &before.container(), &made.0]);
    let more = json!({
        "registry_image": made.0, "ssh_key_mode": "upload", "ssh_public_key": owner.public(),
    });
    let port = crate::kit::port_of(&vps.create(&daemon, "debian-ssh", more).expect(200));
    vps.wait_open(&daemon);
    assert_eq!(said(&owner.ssh(port, "id -un")), "root");
    assert_refused(&former.ssh(port, "id"));
}

// ── restart by the host ──────────────────────────────────────────────────────────────────────

/// What a runner may have left of a VPS when the host's restart comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    /// All.
    Record,
    /// The state directory was emptied.
    Snapshot,
    /// And the snapshot knows nothing of us: an image that somebody made of the container.
    BareSnapshot,
}

const LEFT: [Left; 3] = [Left::Record, Left::Snapshot, Left::BareSnapshot];

/// The host's restart: stop, create with the same id, mode `none`, no key. Gives the new port.
#[track_caller]
fn restart(daemon: &mut Daemon, vps: &Vps, left: Left) -> u16 {
    vps.stop(daemon);
    assert!(!container_exists(&vps.container()));
    if left != Left::Record {
        daemon.stop();
        for directory in ["tasks", "untold", "ended"] {
            for file in fs::read_dir(daemon.state_dir().join(directory)).unwrap() {
                fs::remove_file(file.unwrap().path()).unwrap();
            }
        }
        daemon.restart();
    }
    if left == Left::BareSnapshot {
        bare(vps);
    }
    vps.create_again(daemon, "debian-ssh")
}

/// The same files without a label of ours.
#[track_caller]
fn bare(vps: &Vps) {
    let tags =
        docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", &vps.snapshot_repository()]);
    let tag = tags.lines().next().expect("a snapshot").to_owned();
    let name = test_name("bare");
    docker(&["create", "--name", &name, &tag]);
    let unlabelled =
        ["LABEL river-runner.login=", "LABEL river-runner.record=", "LABEL kohakuriver.node="];
    let mut commit = vec!["commit"];
    unlabelled.iter().for_each(|change| commit.extend(["--change", change]));
    commit.extend([name.as_str(), tag.as_str()]);
    docker(&commit);
    remove_container(&name);
}

#[test]
fn restart_by_the_host_keeps_a_key_and_the_keys_that_were_added() {
    let host = FakeHost::start();
    let (key, added, other) = (SshKey::new("me"), SshKey::new("added"), SshKey::new("other"));
    for left in LEFT {
        let mut daemon = node_of(&host);
        let vps = Vps::new();
        let port = vps.create_with(&daemon, "debian-ssh", "upload", Some(&key.public()));
        vps.wait_open(&daemon);
        said(&key.ssh(
            port,
            &format!("echo '{}' >>.ssh/authorized_keys; echo mine >file; sync", added.public()),
        ));
        let port = restart(&mut daemon, &vps, left);
        assert_eq!(port, mapped(&vps));
        vps.wait_open(&daemon);
        for key in [&key, &added] {
            assert_eq!(said(&key.ssh(port, "cat file")), "mine", "{left:?}");
        }
        assert_refused(&other.ssh(port, "id"));
        assert_refused(&ssh_without_a_key(port, "id"));
        let mode = if left == Left::BareSnapshot { "as in the snapshot" } else { "upload" };
        assert_eq!(vps.state(&daemon)["ssh_key_mode"], mode);
    }
}

#[test]
fn restart_by_the_host_does_not_bring_back_a_key_that_was_taken_out() {
    let mut daemon = Daemon::start();
    let (key, added) = (SshKey::new("me"), SshKey::new("added"));
    let vps = Vps::new();
    let port = vps.create_with(&daemon, "debian-ssh", "upload", Some(&key.public()));
    vps.wait_open(&daemon);
    said(&key.ssh(port, &format!("echo '{}' >.ssh/authorized_keys", added.public())));
    let port = restart(&mut daemon, &vps, Left::Record);
    vps.wait_open(&daemon);
    assert_eq!(said(&added.ssh(port, "id -un")), "root");
    assert_refused(&key.ssh(port, "id"));
}

#[test]
fn restart_by_the_host_keeps_none_where_somebody_knows_that_it_was_that() {
    let host = FakeHost::start();
    for left in LEFT {
        let mut daemon = node_of(&host);
        let vps = Vps::new();
        let port = vps.create_with(&daemon, "debian-ssh", "none", None);
        vps.wait_open(&daemon);
        said(&ssh_without_a_key(port, "echo mine >file; sync"));
        let port = restart(&mut daemon, &vps, left);
        vps.wait_open(&daemon);
        assert_eq!(vps.exec("cat /root/file"), "mine\n");
        if left == Left::BareSnapshot {
            // What this snapshot's own sshd says: our rules were never written there.
            assert_refused(&ssh_without_a_key(port, "id"));
        } else {
            assert_eq!(said(&ssh_without_a_key(port, "cat file")), "mine", "{left:?}");
        }
    }
}

#[test]
fn restart_by_the_host_opens_no_port_where_there_was_none() {
    let host = FakeHost::start();
    for left in LEFT {
        let mut daemon = node_of(&host);
        let vps = Vps::new();
        assert_eq!(vps.create_with(&daemon, "debian-ssh", "disabled", None), 0);
        vps.exec("echo mine >/root/file");
        assert_eq!(restart(&mut daemon, &vps, left), 0, "{left:?}");
        assert_eq!(vps.exec("cat /root/file"), "mine\n");
        assert_eq!(inspect(&vps.container()).unwrap()["HostConfig"]["PortBindings"], json!({}));
        assert_eq!(vps.state(&daemon)["ssh"], "none");
    }
}

#[test]
fn snapshot_that_is_not_restored_tells_the_login_all_the_same() {
    let mut daemon = Daemon::builder().set("auto_restore_on_create", false).start();
    let key = SshKey::new("me");
    let vps = Vps::new();
    vps.create_with(&daemon, "debian-ssh", "upload", Some(&key.public()));
    vps.wait_open(&daemon);
    vps.exec("echo mine >/root/file");
    let port = restart(&mut daemon, &vps, Left::Snapshot);
    vps.wait_open(&daemon);
    assert_eq!(said(&key.ssh(port, "test -e /root/file || echo new")), "new");
    assert_refused(&ssh_without_a_key(port, "id"));
}

/// A container as the reference makes it, whose sshd has its rules in its own files.
#[test]
fn vps_of_another_runner_keeps_its_own_rules() {
    let daemon = Daemon::start();
    let key = SshKey::new("me");
    let write = format!("mkdir -p /root/.ssh; echo '{}' >/root/.ssh/authorized_keys", key.public());
    let with_key = format!(
        "printf 'PasswordAuthentication no\\nPermitRootLogin yes\\n' >>/etc/ssh/sshd_config; {write}"
    );
    let none = "printf 'PasswordAuthentication yes\\nPermitRootLogin yes\\nPermitEmptyPasswords yes\\n' >>/etc/ssh/sshd_config; passwd -d root";
    for (setup, is_open) in [(with_key.as_str(), false), (none, true)] {
        let vps = Vps::new();
        let name = test_name("reference");
        docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "-p",
            "22",
            &image("debian-ssh"),
            "sh",
            "-c",
            &format!("{setup}; exec sleep 600"),
        ]);
        let written = || {
            docker(&[
                "exec",
                &name,
                "sh",
                "-c",
                "tail -n 1 /etc/ssh/sshd_config; cat /root/.ssh/authorized_keys || grep root:: /etc/shadow || true",
            ])
        };
        assert!(wait_until(SOON, || {
            let all = written();
            all.contains("Permit") && all.lines().count() > 1
        }));
        docker(&["commit", &name, &format!("{}:1700000000", vps.snapshot_repository())]);
        remove_container(&name);
        let port = vps.create_again(&daemon, "debian-ssh");
        vps.wait_open(&daemon);
        if is_open {
            assert_eq!(said(&ssh_without_a_key(port, "id -un")), "root");
        } else {
            assert_eq!(said(&key.ssh(port, "id -un")), "root");
            assert_refused(&ssh_without_a_key(port, "id"));
        }
    }
}
