//! Keeps the host knowing that we live (contract 3.1, 3.2): registers, for ever if need be, then
//! beats. Makes no call to the Engine, so that a hung one never makes the node look dead.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::host::{Beat, Host, HostError};
use crate::limits::{PANIC_REST, REGISTER_PAUSE_FIRST, REGISTER_PAUSE_MAX, STACK_BYTES};
use crate::machine::topology;
use crate::machine::usage::{self, CpuMeter};
use crate::model::ids::TaskId;
use crate::model::task::TaskRecord;
use crate::model::time::Stamp;
use crate::ops::{Node, network, vps};
use crate::threads;
use crate::wire::host::{Heartbeat, Register};

/// Starts the `heartbeat` thread. The port must be listened on already: the host dispatches as soon
/// as we are registered.
///
/// # Errors
/// The thread could not be started.
pub fn start(node: &Arc<Node>, host: &Arc<Host>) -> io::Result<JoinHandle<Option<()>>> {
    let (node, host) = (Arc::clone(node), Arc::clone(host));
    let stop = node.stop.clone();
    let rest = move || stop.wait(PANIC_REST);
    threads::spawn_kept("heartbeat", STACK_BYTES, rest, move || run(&node, &host))
}

fn run(node: &Arc<Node>, host: &Arc<Host>) {
    let every = Duration::from_secs(node.settings.heartbeat_interval_seconds);
    let mut meter = CpuMeter::default();
    let mut register_pause = REGISTER_PAUSE_FIRST;
    let mut registered_at = Instant::now();
    loop {
        let begun = Instant::now();
        let pause = if host.contact.state().registered {
            match host.beat(&node.settings.hostname, &heartbeat(node, &mut meter)) {
                Ok(Beat::Acknowledged) => {
                    if host.contact.acknowledged(begun, Stamp::now()) {
                        vps::tell_again(node);
                    }
                    node.outbox.nudge();
                    every.saturating_sub(begun.elapsed())
                }
                Ok(Beat::Unknown) => {
                    log::warn!("the host does not know this node; registering again");
                    host.contact.forgotten();
                    // At once, unless it has just taken a registration: not twice an interval.
                    every.saturating_sub(registered_at.elapsed())
                }
                Err(error) => {
                    failed(host, &error);
                    every.saturating_sub(begun.elapsed())
                }
            }
        } else {
            match host.register(&registration(node, host)) {
                Ok(()) => {
                    log::info!("registered at the host");
                    if host.contact.registered(begun) {
                        vps::tell_again(node);
                    }
                    registered_at = Instant::now();
                    register_pause = REGISTER_PAUSE_FIRST;
                    // The first beat follows at once: until then the host knows no memory.
                    Duration::ZERO
                }
                Err(error) => {
                    failed(host, &error);
                    let pause = register_pause;
                    register_pause = (register_pause * 2).min(REGISTER_PAUSE_MAX);
                    pause
                }
            }
        };
        if node.stop.wait(pause) {
            return;
        }
    }
}

fn failed(host: &Host, error: &HostError) {
    let why = error.to_string();
    // Once per reason: a host that is away for a week must not fill the log.
    if host.contact.state().trouble.as_ref() != Some(&why) {
        log::warn!("host: {why}");
    }
    host.contact.failed(why);
}

fn registration(node: &Node, host: &Arc<Host>) -> Register {
    let settings = &node.settings;
    let ip = network::registered_address(settings, Some(host));
    Register {
        hostname: settings.hostname.clone(),
        url: format!("http://{ip}:{}", settings.runner_port),
        total_cores: node.topology.cores(),
        total_ram_bytes: usage::memory().map(|memory| memory.total_bytes),
        numa_topology: Some(topology::to_wire(&node.topology)),
        gpu_info: Vec::new(),
    }
}

/// Also those that are over until the host knows (design law 6), one by one: by contract.
fn running_tasks(node: &Node) -> Vec<u64> {
    let running = |record: &TaskRecord| record.counts_as_running().then_some(record.spec.id);
    let mut ids = vps::pending::ids(node);
    ids.extend(node.tasks.active(running));
    // After those: a task that comes to its end between the two is in both, not in neither.
    ids.extend(node.tasks.untold());
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(TaskId::get).collect()
}

fn heartbeat(node: &Node, meter: &mut CpuMeter) -> Heartbeat {
    let memory = usage::memory();
    let temperatures = usage::temperatures(&node.settings.sysfs_root);
    Heartbeat {
        running_tasks: running_tasks(node),
        killed_tasks: Vec::new(),
        cpu_percent: meter.sample(),
        memory_percent: memory.map(|memory| memory.used_percent()),
        memory_used_bytes: memory.map(|memory| memory.used_bytes()),
        memory_total_bytes: memory.map(|memory| memory.total_bytes),
        current_avg_temp: temperatures.as_ref().map(|degrees| degrees.average),
        current_max_temp: temperatures.as_ref().map(|degrees| degrees.highest),
        gpu_info: Vec::new(),
        vm_capable: false,
        vfio_gpus: None,
        runner_version: env!("CARGO_PKG_VERSION"),
    }
}
