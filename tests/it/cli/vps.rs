//! `vps` and `ssh` on real VPS; faults come from a runner made of paper.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::fake::{FakeRunner, reply};
use super::{client, interrupt, of, program, text};
use crate::kit::{Daemon, SOON, SshKey, Vps, container_exists, docker, image, inspect, wait_until};

/// Somebody with a key pair, and a place for what the program keeps.
struct Person {
    home: tempfile::TempDir,
    key: SshKey,
}

impl Person {
    fn new() -> Person {
        let (home, key) = (tempfile::tempdir().unwrap(), SshKey::new("me@home"));
        fs::create_dir(home.path().join(".ssh")).unwrap();
        fs::write(home.path().join(".ssh/id_ed25519.pub"), key.public()).unwrap();
        Person { home, key }
    }

    /// The program as this person calls it.
    fn of(&self, daemon: &Daemon, words: &[&str]) -> Command {
        let mut command = of(daemon, words);
        command.env("HOME", self.home.path()).env_remove("XDG_STATE_HOME");
        command
    }

    /// `river-runner ssh` with this person's key and nobody's configuration.
    fn ssh(&self, daemon: &Daemon, vps: &Vps, words: &[&str]) -> Output {
        let key = self.key.path();
        let id = vps.id.to_string();
        let options = ["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i"];
        let mut all = vec!["ssh", &id, "--"];
        all.extend(options);
        all.push(key.to_str().unwrap());
        all.extend(words);
        self.of(daemon, &all).output().unwrap()
    }

    fn known_hosts(&self, vps: &Vps) -> PathBuf {
        self.home.path().join(format!(".local/state/river-runner/known_hosts/{}", vps.id))
    }
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// What is said on stderr by a call that must end with this code.
#[track_caller]
fn refusal(code: i32, command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{}{said}", text(&output.stdout));
    said
}

fn create<'a>(id: &'a str, of: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words = ["vps", "create", "--id", id, "--image", of, "--pull", "never"];
    [&words[..], more].concat()
}

/// A VPS that runs without SSH.
#[track_caller]
fn desk(daemon: &Daemon, more: &[&str]) -> (Vps, String) {
    let vps = Vps::new();
    let (id, busybox) = (vps.id.to_string(), image("busybox"));
    let words = create(&id, &busybox, &[&["--no-ssh", "-q"], more].concat());
    assert_eq!(done(&mut of(daemon, &words)), format!("{id}\n"));
    (vps, id)
}

// ── on the real thing ────────────────────────────────────────────────────────────────────────

#[test]
fn vps_is_created_with_ones_own_key_logged_into_stopped_and_restored() {
    let daemon = Daemon::start();
    let (me, vps) = (Person::new(), Vps::new());
    let (id, debian) = (vps.id.to_string(), image("debian-ssh"));
    let told = done(&mut me.of(&daemon, &create(&id, &debian, &["--wait"])));
    let port = vps.state(&daemon)["ssh_port"].clone();
    assert!(told.contains(&format!("id         {id}\n")), "{told}");
    assert!(told.contains(&format!("container  {}\n", vps.container())), "{told}");
    assert!(told.contains("/.ssh/id_ed25519.pub\n"), "{told}");
    assert!(told.contains(&format!("ssh        ssh -p {port} root@127.0.0.1\n")), "{told}");
    // `--wait` has waited for it.
    assert_eq!(vps.state(&daemon)["ssh"], "open");

    let listed = done(&mut me.of(&daemon, &["vps", "list"]));
    let line = listed.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(line.contains(&format!("running  {port} open")), "{listed}");
    let listed = done(&mut me.of(&daemon, &["ps"]));
    let line = listed.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(line.contains(" vps ") && line.contains(&format!("(ssh {port} open)")), "{listed}");

    let output = me.ssh(&daemon, &vps, &["id -un; echo mine >/root/file; exit 7"]);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("root\n", Some(7)));

    let told = done(&mut me.of(&daemon, &["vps", "stop", &id]));
    assert!(told.contains(&format!("saved as {}:", vps.snapshot_repository())), "{told}");
    assert!(!container_exists(&vps.container()));
    assert!(!done(&mut me.of(&daemon, &["vps", "list"])).contains(&id));
    let listed = done(&mut me.of(&daemon, &["vps", "list", "-a"]));
    assert!(listed.lines().any(|line| line.starts_with(&id) && line.contains("stopped")));
    let said = refusal(1, &mut me.of(&daemon, &["ssh", &id]));
    assert!(said.contains(&format!("river-runner vps restore {id}")), "{said}");

    // The key and the host's key are those of before, though nobody named them.
    let told = done(&mut me.of(&daemon, &["vps", "restore", &id]));
    assert!(told.contains(&format!("from       {}:", vps.snapshot_repository())), "{told}");
    let output = me.ssh(&daemon, &vps, &["cat /root/file"]);
    assert_eq!(text(&output.stdout), "mine\n", "{}", text(&output.stderr));
    let known = fs::read_to_string(me.known_hosts(&vps)).unwrap();
    assert!(known.contains(&format!("vps-{id} ssh-")), "{known}");
}

#[test]
fn another_host_key_is_refused_unless_the_container_was_made_anew() {
    let daemon = Daemon::start();
    let (me, vps) = (Person::new(), Vps::new());
    let (id, debian) = (vps.id.to_string(), image("debian-ssh"));
    let of_debian = create(&id, &debian, &["--wait"]);
    done(&mut me.of(&daemon, &of_debian));
    assert!(me.ssh(&daemon, &vps, &["true"]).status.success());

    // As if somebody else listened at the port.
    let file = me.known_hosts(&vps);
    let known = fs::read_to_string(&file).unwrap();
    let first = known.lines().next().unwrap();
    let other = SshKey::new("other").public();
    fs::write(&file, format!("{first}\nvps-{id} {other}\n")).unwrap();
    let output = me.ssh(&daemon, &vps, &["true"]);
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("verification failed"), "{}", text(&output.stderr));

    done(&mut me.of(&daemon, &["kill", &id]));
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    done(&mut me.of(&daemon, &of_debian));
    let output = me.ssh(&daemon, &vps, &["true"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn verbs_of_tasks_work_on_a_vps() {
    let daemon = Daemon::start();
    let (vps, id) = desk(&daemon, &[]);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "mine").unwrap();
    done(of(&daemon, &["cp"]).arg(&file).arg(format!("{id}:/root/there")));
    assert_eq!(done(&mut of(&daemon, &["ls", &format!("{id}:/root")])), "there\n");
    assert_eq!(done(&mut of(&daemon, &["cp", &format!("{id}:/root/there"), "-"])), "mine");

    let mut shell = of(&daemon, &["shell", &id]);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(b"echo in$((1+1)); exit\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("in2"));

    let state = || inspect(&vps.container()).unwrap()["State"]["Status"].clone();
    done(&mut of(&daemon, &["pause", &id]));
    assert_eq!(state(), "paused");
    done(&mut of(&daemon, &["resume", &id]));
    assert_eq!(state(), "running");
    let said = refusal(1, &mut of(&daemon, &["logs", &id]));
    assert!(said.contains("has no logs") && said.contains(&vps.container()), "{said}");
    let said = refusal(1, &mut of(&daemon, &["ssh", &id]));
    assert!(said.contains("created without SSH"), "{said}");
    done(&mut of(&daemon, &["kill", &id]));
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
}

#[test]
fn snapshots_are_made_listed_deleted_and_restored_with_the_vps_limits() {
    let daemon = Daemon::builder().set("auto_snapshot_on_stop", false).start();
    let (vps, id) = desk(&daemon, &["--cores", "2", "--memory", "64M"]);
    let snapshot = || {
        let made = done(&mut of(&daemon, &["vps", "snapshot", &id, "-m", "as it was"]));
        let timestamp = made.trim().strip_prefix(&format!("{}:", vps.snapshot_repository()));
        (timestamp.unwrap().to_owned(), made.trim().to_owned())
    };
    vps.exec("echo first >/root/file");
    let (first, tag) = snapshot();
    assert_eq!(docker(&["inspect", "-f", "{{.Comment}}", &tag]).trim(), "as it was");
    vps.exec("echo second >/root/file");
    let (second, _) = snapshot();
    let (third, _) = snapshot();
    let listed = done(&mut of(&daemon, &["vps", "snapshots", &id]));
    let rows: Vec<_> = listed.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(rows, [&third, &second, &first], "{listed}");
    done(&mut of(&daemon, &["vps", "snapshots", &id, "--delete", &third]));
    refusal(1, &mut of(&daemon, &["vps", "snapshots", &id, "--delete", &third]));

    let told = done(&mut of(&daemon, &["vps", "stop", &id]));
    assert!(told.contains("no snapshot was made"), "{told}");
    let restore = ["vps", "restore", &id];
    let told = done(&mut of(&daemon, &restore));
    assert!(told.contains(&second) && told.contains("ssh        none"), "{told}");
    assert_eq!(vps.exec("cat /root/file"), "second\n");
    let limits = inspect(&vps.container()).unwrap()["HostConfig"].clone();
    assert_eq!((&limits["NanoCpus"], &limits["Memory"]), (&json!(2_000_000_000), &json!(64 << 20)));
    assert!(refusal(1, &mut of(&daemon, &restore)).contains("(status 409)"));

    done(&mut of(&daemon, &["vps", "stop", &id]));
    done(of(&daemon, &restore).args(["--snapshot", &first]));
    assert_eq!(vps.exec("cat /root/file"), "first\n");

    done(&mut of(&daemon, &["kill", &id]));
    assert!(wait_until(SOON, || !container_exists(&vps.container())));
    let told = done(&mut of(&daemon, &["vps", "snapshots", &id, "--delete", "all"]));
    assert_eq!(told, "2 deleted\n");
    let said = refusal(1, &mut of(&daemon, &restore));
    assert!(said.contains(&format!("vps create --id {id} --image")), "{said}");
}

#[test]
fn snapshot_named_as_an_image_opens_no_door_whatever_the_runner_remembers() {
    let mut daemon = Daemon::builder().set("auto_restore_on_create", false).start();
    let (vps, id) = desk(&daemon, &[]);
    done(&mut of(&daemon, &["vps", "stop", &id]));
    // The memory is gone.
    daemon.stop();
    fs::remove_dir_all(daemon.state_dir()).unwrap();
    daemon.launch();
    daemon.wait_healthy();
    let told = done(&mut of(&daemon, &["vps", "restore", &id]));
    assert!(told.contains("ssh        none"), "{told}");
    let inspected = inspect(&vps.container()).unwrap();
    assert_eq!(inspected["HostConfig"]["PortBindings"], json!({}));
}

#[test]
fn failed_set_up_is_told_with_its_reason() {
    let daemon = Daemon::start();
    let (me, vps) = (Person::new(), Vps::new());
    let (id, busybox) = (vps.id.to_string(), image("busybox"));
    let said = refusal(1, &mut me.of(&daemon, &create(&id, &busybox, &["--wait"])));
    assert!(said.contains("the image has no sshd"), "{said}");
    let said = refusal(1, &mut me.of(&daemon, &["ssh", &id]));
    assert!(said.contains("has failed") && said.contains("no sshd"), "{said}");
}

// ── faults ───────────────────────────────────────────────────────────────────────────────────

fn record(status: &str, ssh: &str) -> Value {
    json!({
        "id": "7", "status": status, "kind": "vps", "container": "kohakuriver-vps-7",
        "vps": { "ssh_key_mode": "upload", "ssh_port": 32768, "ssh": ssh, "restarts": 0 },
        "phases": { "accepted": "2026-11-24T21:12:04Z", "started": null },
    })
}

const CREATE: [&str; 7] = ["vps", "create", "--id", "7", "--image", "b", "--no-password"];

#[test]
fn person_without_a_key_is_told_what_to_choose_and_nothing_is_created() {
    let runner = FakeRunner::start(|_, caller| reply(caller, 200, &json!({})));
    let home = tempfile::tempdir().unwrap();
    let mut create = program(&["vps", "create", "--image", "b"]);
    create.env("RIVER_URL", &runner.url).env("HOME", home.path());
    let said = refusal(1, &mut create);
    for choice in ["--ssh-key", "--no-password", "--no-ssh", "id_ed25519.pub"] {
        assert!(said.contains(choice), "{said}");
    }
    assert_eq!(runner.seen.count("POST "), 0);
}

#[test]
fn create_goes_on_where_it_was_when_the_runner_comes_back() {
    let looks = AtomicU32::new(0);
    let runner = FakeRunner::start(move |request, caller| match request.path.as_str() {
        // It dies before it answers.
        "/api/vps/create" => (),
        _ if looks.fetch_add(1, Ordering::SeqCst) < 2 => {
            reply(caller, 200, &record("pending", "none"));
        }
        _ => reply(caller, 200, &record("running", "preparing")),
    });
    let output = client(&runner, &CREATE);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("ssh -p 32768 root@127.0.0.1\n"));
    assert_eq!(runner.seen.count("POST /api/vps/create"), 1);
    let order = runner.seen.wait_for("POST /api/vps/create", |request| request.body.clone());
    assert_eq!((&order["ssh_key_mode"], &order["ssh_public_key"]), (&json!("none"), &Value::Null));
}

#[test]
fn create_that_was_never_accepted_is_no_success() {
    let runner = FakeRunner::start(|request, caller| match request.path.as_str() {
        "/api/vps/create" => (),
        _ => reply(caller, 404, &json!({"detail": "task 7 is not known"})),
    });
    let output = client(&runner, &CREATE);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the connection to the runner broke"));
}

#[test]
fn ctrl_c_leaves_a_create_to_itself_and_says_so() {
    let runner = FakeRunner::start(|request, caller| match request.path.as_str() {
        "/api/vps/create" => thread::sleep(Duration::from_secs(20)),
        _ => reply(caller, 200, &record("pending", "none")),
    });
    let child = super::start(&runner, &CREATE);
    runner.seen.wait_for("POST /api/vps/create", |_| ());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(text(&output.stderr).contains("river-runner kill 7"), "{}", text(&output.stderr));
    assert!(!runner.seen.has("POST /api/kill"));
}

#[test]
fn wait_for_a_server_that_stays_silent_fails() {
    let runner = FakeRunner::start(|request, caller| match request.path.as_str() {
        "/api/vps/create" => reply(caller, 200, &json!({"success": true})),
        _ => reply(caller, 200, &record("running", "silent")),
    });
    let output = client(&runner, &[&CREATE[..], &["--wait"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no SSH server has answered"));
    // The id is printed all the same.
    assert!(text(&output.stdout).contains("id         7\n"));
}

#[test]
fn ssh_waits_while_the_server_is_set_up_and_says_when_there_is_no_ssh_here() {
    let looks = AtomicU32::new(0);
    let runner = FakeRunner::start(move |_, caller| {
        let is_early = looks.fetch_add(1, Ordering::SeqCst) < 2;
        reply(caller, 200, &record("running", if is_early { "preparing" } else { "open" }));
    });
    let home = tempfile::tempdir().unwrap();
    let mut ssh = Command::new(env!("CARGO_BIN_EXE_river-runner"));
    ssh.args(["ssh", "7"]).env("RIVER_URL", &runner.url);
    ssh.env("XDG_STATE_HOME", home.path()).env("PATH", "/nonexistent");
    let said = refusal(1, &mut ssh);
    assert!(said.contains("there is no ssh on this machine"), "{said}");
    assert_eq!(runner.seen.count("GET /api/tasks/7"), 3);
}

#[test]
fn task_is_no_vps() {
    let runner = FakeRunner::start(|request, caller| match request.method.as_str() {
        "GET" => reply(caller, 200, &super::task("7", "running", None)),
        _ => reply(caller, 404, &json!({"detail": "task 7 is not known"})),
    });
    for words in [&["ssh", "7"][..], &["vps", "stop", "7"], &["vps", "restore", "7"]] {
        let output = client(&runner, words);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stderr), "river-runner: task 7 is no VPS\n", "{words:?}");
    }
}
