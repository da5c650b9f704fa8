//! How the node is, from what is known without asking anybody (design law 5).

use std::net::IpAddr;

use super::network::{self, NetworkFacts};
use super::{Node, shared_dir};
use crate::docker::EngineHealth;
use crate::limits::{ASIDE_NAMES_MAX, DENIED_SHOWN};
use crate::metrics;
use crate::serve::access::{Denial, Denied};
use crate::store::SetAside;

/// What an operator should know and mend, a sentence each; empty when all is well.
pub fn warnings(node: &Node) -> Vec<String> {
    let mut warnings = Vec::new();
    match node.engine.health() {
        EngineHealth::Ok { .. } | EngineHealth::Unknown => {}
        trouble => warnings.push(format!("Docker Engine: {trouble}")),
    }
    if let Some(host) = &node.host
        && let Some(trouble) = host.contact.state().trouble
    {
        warnings.push(format!("host: {trouble}"));
    }
    if let Some(trouble) = node.tasks.trouble() {
        warnings.push(format!("state directory: {trouble}"));
    }
    warnings.extend(set_aside(&node.tasks.set_aside()));
    if let Some(trouble) = shared_dir::trouble(node) {
        warnings.push(format!("SHARED_DIR {}: {trouble}", node.settings.shared_dir.display()));
    }
    let network = network::known(node);
    if network.differs {
        warnings.push(format!(
            "network {} is {} with gateway {}, not as configured",
            node.settings.docker_network_name, network.subnet, network.gateway
        ));
    }
    let counted = [
        (metrics::REPORTS_SET_ASIDE.get(), "status reports were refused as malformed by the host"),
        (metrics::THREAD_PANICS.get(), "threads ended by a panic"),
        (
            metrics::LOG_LINES_LOST.get(),
            "lines were not taken by the log file or stderr; is the disk full, or does it hang?",
        ),
    ];
    for (count, what) in counted.into_iter().filter(|(count, _)| *count > 0) {
        warnings.push(format!("{count} {what}"));
    }
    let lately = |denied: &&Denied| denied.last.elapsed().is_ok_and(|ago| ago < DENIED_SHOWN);
    let denied = node.access.denied();
    warnings.extend(denied.iter().filter(lately).map(|denied| turned_away(denied, &network)));
    warnings
}

/// Names the newest few; each name ends in what is wrong with the file.
fn set_aside(aside: &SetAside) -> Vec<String> {
    let directory = aside.directory.display();
    let mut warnings = Vec::new();
    if aside.count > 0 {
        warnings.push(format!(
            "{} files in the place of task records are no records and lie in {directory}, the \
             newest: {}; to end this warning delete them or move them away; to try one again move it \
             back to tasks/ID.json and restart",
            aside.count,
            aside.newest.join(", "),
        ));
    }
    if !aside.stuck.is_empty() {
        let few: Vec<String> = aside
            .stuck
            .iter()
            .take(ASIDE_NAMES_MAX)
            .map(|path| path.display().to_string())
            .collect();
        warnings.push(format!(
            "{} files in the place of task records are no records and can't be moved to \
             {directory}: remove {}",
            aside.stuck.len(),
            few.join(", "),
        ));
    }
    warnings
}

/// The remedy is the reason's: a container is never one to let in.
fn turned_away(denied: &Denied, network: &NetworkFacts) -> String {
    let Denied { address, times, path, why, .. } = denied;
    let is_container = match address {
        IpAddr::V4(address) => network.subnet.has_member(*address),
        IpAddr::V6(_) => false,
    };
    let remedy = match why {
        Denial::Address if is_container => "it is a container's, and containers may not call",
        Denial::Address => "if it may call, add it to ALLOW_FROM",
        Denial::HostName | Denial::Origin => {
            "if that is a name of this node, add it to ALLOW_HOSTS"
        }
    };
    format!("{address} was turned away {times} times, last at {path} ({why}); {remedy}")
}

/// Figures that are counted by looking, for `/metrics`.
pub fn gauges(node: &Node) -> Vec<(&'static str, &'static str, u64)> {
    let lanes = node.lanes.gauge();
    let tasks = node.tasks.counts();
    let count = |n: usize| n as u64;
    vec![
        (
            "river_tasks_live",
            "Tasks that still need something.",
            count(tasks.active + tasks.untold),
        ),
        (
            "river_tasks_untold",
            "Live tasks that are over and only wait for the host.",
            count(tasks.untold),
        ),
        ("river_outbox_tasks", "Tasks with an unsent report.", count(node.outbox.waiting())),
        ("river_lanes", "Lanes with an order.", count(lanes.lanes)),
        ("river_lane_workers_busy", "Lane workers at work.", count(lanes.workers_busy)),
        ("river_uptime_seconds", "Seconds since the start.", node.started.elapsed().as_secs()),
    ]
}

#[cfg(test)]
mod test {
    use std::time::SystemTime;

    use super::*;

    fn remedy(address: &str, why: Denial) -> String {
        let network = NetworkFacts {
            subnet: "172.30.0.0/16".parse().unwrap(),
            gateway: "172.30.0.1".parse().unwrap(),
            differs: false,
        };
        let denied = Denied {
            address: address.parse().unwrap(),
            times: 2,
            path: "/health".to_owned(),
            last: SystemTime::now(),
            why,
        };
        turned_away(&denied, &network).rsplit_once("; ").unwrap().1.to_owned()
    }

    #[test]
    fn stranger_turned_away_comes_with_the_setting_that_lets_him_in() {
        assert!(remedy("192.0.2.7", Denial::Address).ends_with("ALLOW_FROM"));
        assert!(remedy("127.0.0.1", Denial::HostName).ends_with("ALLOW_HOSTS"));
        assert!(remedy("127.0.0.1", Denial::Origin).ends_with("ALLOW_HOSTS"));
    }

    #[test]
    fn container_turned_away_is_not_advised_to_be_let_in() {
        assert!(!remedy("172.30.0.9", Denial::Address).contains("ALLOW_FROM"));
    }
}
