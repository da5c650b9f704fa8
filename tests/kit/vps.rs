//! A VPS as the host asks for it, and a real `ssh` that logs into it.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::{Daemon, Response, SOON, docker, image, unique_id, wait_until, with};

/// One id; its snapshots go with it.
pub struct Vps {
    pub id: u64,
}

impl Vps {
    pub fn new() -> Vps {
        Vps { id: unique_id() }
    }

    pub fn container(&self) -> String {
        format!("kohakuriver-vps-{}", self.id)
    }

    pub fn snapshot_repository(&self) -> String {
        format!("kohakuriver-snapshot/vps-{}", self.id)
    }

    /// A create as the host sends it; change what your test is about.
    #[track_caller]
    pub fn body(&self, of: &str, more: Value) -> Value {
        let body = json!({
            "task_id": self.id.to_string(), "required_cores": 1, "required_gpus": [],
            "required_memory_bytes": null, "target_numa_node_id": null, "container_name": null,
            "registry_image": image(of), "pull": "never", "ssh_key_mode": "disabled",
            "ssh_public_key": null, "ssh_port": 2222, "vps_backend": "docker",
        });
        with(body, more)
    }

    #[track_caller]
    pub fn create(&self, daemon: &Daemon, of: &str, more: Value) -> Response {
        daemon.post("/api/vps/create", &self.body(of, more))
    }

    /// With this mode and key; gives the port of the reply.
    #[track_caller]
    pub fn create_with(&self, daemon: &Daemon, of: &str, mode: &str, key: Option<&str>) -> u16 {
        let login = json!({ "ssh_key_mode": mode, "ssh_public_key": key });
        port_of(&self.create(daemon, of, login).expect(200))
    }

    /// What the host's restart sends after its stop (contract rule 14).
    #[track_caller]
    pub fn create_again(&self, daemon: &Daemon, of: &str) -> u16 {
        let again = json!({ "task_id": self.id, "ssh_key_mode": "none", "ssh_public_key": null });
        port_of(&self.create(daemon, of, again).expect(200))
    }

    #[track_caller]
    pub fn stop(&self, daemon: &Daemon) {
        daemon.post(&format!("/api/vps/stop/{}", self.id), &json!({})).expect(200);
    }

    /// Its record's `vps`.
    #[track_caller]
    pub fn state(&self, daemon: &Daemon) -> Value {
        daemon.task(self.id)["vps"].clone()
    }

    /// Returns once an SSH server answers, as the runner has it.
    #[track_caller]
    pub fn wait_open(&self, daemon: &Daemon) {
        let open = wait_until(SOON * 3, || self.state(daemon)["ssh"] == "open");
        assert!(open, "{:#}", daemon.task(self.id));
    }

    #[track_caller]
    pub fn exec(&self, script: &str) -> String {
        docker(&["exec", &self.container(), "sh", "-c", script])
    }
}

impl Drop for Vps {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = Command::new("docker").args(["logs", &self.container()]).output();
            if let Ok(logs) = logs {
                eprintln!("its container: {}", String::from_utf8_lossy(&logs.stderr));
            }
        }
        // Images in use stay: containers of a failed test go with its runner.
        super::remove_container(&self.container());
        let listed =
            Command::new("docker").args(["images", "-q", &self.snapshot_repository()]).output();
        let Ok(listed) = listed else { return };
        for image in String::from_utf8_lossy(&listed.stdout).lines() {
            let _ = Command::new("docker").args(["rmi", "-f", image]).output();
        }
    }
}

#[track_caller]
pub fn port_of(created: &Response) -> u16 {
    let port = created.json["ssh_port"].as_u64().expect("a port");
    u16::try_from(port).expect("a port")
}

/// A key pair.
pub struct SshKey {
    dir: tempfile::TempDir,
}

impl SshKey {
    #[track_caller]
    pub fn new(comment: &str) -> SshKey {
        let dir = tempfile::tempdir().expect("a directory");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
            .arg(dir.path().join("key"))
            .status()
            .expect("ssh-keygen: run contrib/test.sh");
        assert!(made.success());
        SshKey { dir }
    }

    /// The line for `authorized_keys`.
    pub fn public(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("key.pub"));
        text.expect("the public key").trim().to_owned()
    }

    /// The private key's file.
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("key")
    }

    /// Runs `command` as root at this port, by this key and nothing else.
    #[track_caller]
    pub fn ssh(&self, port: u16, command: &str) -> Output {
        let key = self.dir.path().join("key");
        let key = key.to_str().expect("a plain path");
        ssh(port, &["-o", "PreferredAuthentications=publickey", "-i", key], command)
    }
}

/// Runs `command` as root at this port without any key, by an empty password at most.
#[track_caller]
pub fn ssh_without_a_key(port: u16, command: &str) -> Output {
    let no_key = "PreferredAuthentications=none,password,keyboard-interactive";
    ssh(port, &["-o", no_key, "-o", "PubkeyAuthentication=no"], command)
}

#[track_caller]
fn ssh(port: u16, options: &[&str], command: &str) -> Output {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-p", &port.to_string(), "-l", "root"]);
    for option in [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "ConnectTimeout=15",
    ] {
        ssh.args(["-o", option]);
    }
    ssh.args(options).args(["127.0.0.1", command]).stdin(Stdio::null());
    ssh.output().expect("ssh: run contrib/test.sh")
}

/// What the command said, of a login that must work.
#[track_caller]
pub fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ssh: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Of a login that sshd must refuse; no answer at all is no refusal.
#[track_caller]
pub fn assert_refused(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(255),
        "{}{stderr}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(stderr.contains("Permission denied"), "{stderr}");
}

/// Whether nobody listens at this port of the machine.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}
