//! How the node is, from what is known without asking anybody (design law 5).

use super::Node;
use super::network;
use crate::docker::EngineHealth;
use crate::metrics;

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
    let network = network::known(node);
    if network.differs {
        warnings.push(format!(
            "network {} is {} with gateway {}, not as configured",
            node.settings.docker_network_name, network.subnet, network.gateway
        ));
    }
    let counted = [
        (metrics::REPORTS_SET_ASIDE.get(), "status reports were refused as malformed by the host"),
        (metrics::RECORDS_BROKEN.get(), "task records could not be read and were set aside"),
        (metrics::THREAD_PANICS.get(), "threads ended by a panic"),
    ];
    for (count, what) in counted.into_iter().filter(|(count, _)| *count > 0) {
        warnings.push(format!("{count} {what}"));
    }
    warnings.extend(node.access.denied().into_iter().map(|denied| {
        format!(
            "{} was turned away {} times ({}), last at {}; if it may call, add it to ALLOW_FROM",
            denied.address, denied.times, denied.why, denied.path
        )
    }));
    warnings
}

/// Figures that are counted by looking, for `/metrics`.
pub fn gauges(node: &Node) -> Vec<(&'static str, &'static str, u64)> {
    let lanes = node.lanes.gauge();
    let count = |n: usize| n as u64;
    vec![
        ("river_tasks_live", "Tasks that still need something.", count(node.tasks.live_count())),
        ("river_outbox_tasks", "Tasks with an unsent report.", count(node.outbox.waiting())),
        ("river_lanes", "Lanes with an order.", count(lanes.lanes)),
        ("river_lane_workers_busy", "Lane workers at work.", count(lanes.workers_busy)),
        ("river_uptime_seconds", "Seconds since the start.", node.started.elapsed().as_secs()),
    ]
}
