//! The container network, where it is not there yet.

use std::time::Duration;

use crate::kit::{
    Behaviour, Daemon, EngineProxy, FakeHost, SOON, api, execute_body, test_name, unique_id,
};

/// A network that the runner is to make; removed at the end, when nothing is on it any more.
struct Network {
    name: String,
}

impl Drop for Network {
    fn drop(&mut self) {
        api("DELETE", &format!("/networks/{}", self.name), None);
    }
}

#[test]
fn network_wanted_by_a_task_and_by_the_start_at_once_is_made_once() {
    let network = Network { name: test_name("net") };
    // One of 256 ranges, so that tests of two checkouts don't overlap.
    let range = format!("10.214.{}", std::process::id() % 256);
    let engine = EngineProxy::start();
    // Both have looked for it by then.
    engine.on("POST", "/networks/create", Behaviour::Slow(Duration::from_millis(500)));
    let host = FakeHost::start();
    let daemon = Daemon::builder()
        .host(&host)
        .engine(&engine)
        .set("docker_network_name", network.name.as_str())
        .set("docker_network_subnet", format!("{range}.0/24"))
        .set("docker_network_gateway", format!("{range}.1"))
        .start();
    let id = unique_id();
    daemon.post("/api/execute", &execute_body(&daemon, id, "true")).expect(200);
    assert_eq!(host.wait_final(id, SOON).status, "completed");
    assert_eq!(engine.calls("POST /networks/create"), 1);
}
