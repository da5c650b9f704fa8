//! The real Engine, seen from the tests: its API for questions and clean-up, its command line where
//! a test wants a second client. Never what a test asserts *with* the runner's own code.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

use super::http::{self, Address, Response};

/// The network of every daemon in these tests. Its own name and a range that Docker does not hand
/// out, so that an installed runner's network stays out of it. contrib/test.sh removes it.
pub const NETWORK: &str = "river-test-net";
pub const NETWORK_SUBNET: &str = "10.213.77.0/24";
pub const NETWORK_GATEWAY: &str = "10.213.77.1";

/// What tests/images/build.sh puts before each name: a registry that refuses at once.
const IMAGE_PREFIX: &str = "127.0.0.1:1/river-test/";

/// The full reference of a test image, by the name of its directory in tests/images. Fails the test if it was not built.
#[track_caller]
pub fn image(name: &str) -> String {
    static FOUND: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let reference = format!("{IMAGE_PREFIX}{name}:latest");
    let mut found = FOUND.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let found = found.get_or_insert_default();
    if !found.contains(&reference) {
        assert!(
            image_exists(&reference),
            "test image {reference} is missing: run contrib/test.sh (or tests/images/build.sh)"
        );
        found.insert(reference.clone());
    }
    reference
}

/// The machine's Engine.
pub fn machine() -> Client {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    Client::new(host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock"))
}

/// The socket of the machine's Engine.
pub fn socket() -> PathBuf {
    machine().socket
}

/// One Engine, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The socket as a `DOCKER_HOST`.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// One call. Fails the test if no Engine answers.
    #[track_caller]
    pub fn api(&self, method: &str, target: &str, body: Option<&Value>) -> Response {
        match self.try_api(method, target, body) {
            Ok(response) => response,
            Err(error) => panic!("no Docker Engine answers ({error}): run contrib/test.sh"),
        }
    }

    pub fn try_api(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> io::Result<Response> {
        http::call(&Address::Unix(self.socket.clone()), method, target, &[], body)
    }

    /// Runs the `docker` command and returns what it wrote to stdout. Fails the test if it fails.
    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker")
            .env("DOCKER_HOST", self.docker_host())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("docker command: run contrib/test.sh");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {arguments:?}: {}\n{stderr}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `docker inspect` says; `None` when there is no such container.
    #[track_caller]
    pub fn inspect(&self, container: &str) -> Option<Value> {
        let response = self.api("GET", &format!("/containers/{container}/json"), None);
        if response.status == 404 { None } else { Some(response.expect(200).json) }
    }

    /// `created`, `running`, `paused`, `exited`, … or `None` when there is no such container.
    #[track_caller]
    pub fn container_status(&self, container: &str) -> Option<String> {
        let status = self.inspect(container)?["State"]["Status"].as_str().map(str::to_owned);
        assert!(status.is_some(), "container {container} has no status");
        status
    }

    /// Names, without the leading slash, of all containers carrying this label, ended ones too.
    #[track_caller]
    pub fn containers_labelled(&self, label: &str, value: &str) -> Vec<String> {
        names(&self.api("GET", &labelled(label, value), None).expect(200).json)
    }

    /// Ends and removes all containers carrying this label. For clean-up, also of a failed test:
    /// what goes wrong is said and does not panic.
    pub fn remove_labelled(&self, label: &str, value: &str) {
        match self.try_api("GET", &labelled(label, value), None) {
            Ok(listed) => names(&listed.json).iter().for_each(|name| self.remove_container(name)),
            Err(error) => eprintln!("containers with {label}={value} may be left behind: {error}"),
        }
    }

    /// Ends and removes a container, whatever its state; no error if it is not there.
    pub fn remove_container(&self, container: &str) {
        let target = format!("/containers/{container}?force=1&v=1");
        if let Err(error) = self.try_api("DELETE", &target, None) {
            eprintln!("container {container} may be left behind: {error}");
        }
    }

    #[track_caller]
    pub fn image_exists(&self, reference: &str) -> bool {
        self.api("GET", &format!("/images/{reference}/json"), None).status == 200
    }

    /// Makes the tests' network unless it is there.
    #[track_caller]
    pub fn ensure_network(&self) {
        let body = json!({
            "Name": NETWORK,
            "CheckDuplicate": true,
            "Driver": "bridge",
            "IPAM": { "Config": [{ "Subnet": NETWORK_SUBNET, "Gateway": NETWORK_GATEWAY }] },
            "Labels": { "river.test": "1" },
        });
        let response = self.api("POST", "/networks/create", Some(&body));
        assert!(matches!(response.status, 201 | 409), "network: {}", response.text());
    }
}

/// One call to the machine's Engine. Fails the test if none answers.
#[track_caller]
pub fn api(method: &str, target: &str, body: Option<&Value>) -> Response {
    machine().api(method, target, body)
}

/// Runs the `docker` command and returns what it wrote to stdout. Fails the test if it fails.
#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    machine().docker(arguments)
}

/// What `docker inspect` says; `None` when there is no such container.
#[track_caller]
pub fn inspect(container: &str) -> Option<Value> {
    machine().inspect(container)
}

#[track_caller]
pub fn container_exists(container: &str) -> bool {
    inspect(container).is_some()
}

/// `created`, `running`, `paused`, `exited`, … or `None` when there is no such container.
#[track_caller]
pub fn container_status(container: &str) -> Option<String> {
    machine().container_status(container)
}

/// Ends and removes a container, whatever its state; no error if it is not there.
pub fn remove_container(container: &str) {
    machine().remove_container(container);
}

#[track_caller]
pub fn image_exists(reference: &str) -> bool {
    machine().image_exists(reference)
}

/// Makes the tests' network on the machine's Engine. Once per process: two creations at a time
/// would give two networks of one name.
#[track_caller]
pub fn ensure_network() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| machine().ensure_network());
}

fn labelled(label: &str, value: &str) -> String {
    let filters = json!({ "label": [format!("{label}={value}")] });
    format!("/containers/json?all=1&filters={}", percent_encoded(&filters))
}

fn names(listed: &Value) -> Vec<String> {
    let containers = listed.as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |container: &Value| {
        let name = container["Names"][0].as_str().or(container["Id"].as_str());
        name.map(|name| name.trim_start_matches('/').to_owned())
    };
    containers.iter().filter_map(name).collect()
}

fn percent_encoded(value: &Value) -> String {
    let mut encoded = String::new();
    for byte in value.to_string().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
