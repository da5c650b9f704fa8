//! The container network: made at need, and known as it really is (contract 5.11).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::Node;
use crate::docker::DockerError;
use crate::host::Host;
use crate::machine::addresses;
use crate::model::settings::{Settings, Subnet};
use crate::threads::lock;
use crate::wire::docker::{CreateNetwork, Ipam, IpamPool};

/// The default network as the Engine has it; unknown until the Engine was asked.
#[derive(Debug, Default)]
pub struct NetworkState {
    facts: Mutex<Option<NetworkFacts>>,
    /// Held over the calls that look for the network and make it, unlike any other lock: of two
    /// makers at a time one is refused (the pools overlap) before the other's network is there to
    /// be found, and its task would fail. The calls are quick ones with their deadlines.
    making: Mutex<()>,
}

/// What containers on it see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFacts {
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    /// It existed with other values than the configured ones; what is true is above.
    pub differs: bool,
}

/// Makes the network if it is missing and learns what it is.
///
/// # Errors
/// The Engine refused or is away.
pub fn ensure(node: &Node) -> Result<NetworkFacts, DockerError> {
    let settings = &node.settings;
    let name = &settings.docker_network_name;
    let _maker = lock(&node.network.making);
    let network = match node.engine.inspect_network(name) {
        Err(error) if error.is_missing() => {
            log::info!("making network {name} ({})", settings.docker_network_subnet);
            match node.engine.create_network(&wanted(settings)) {
                // Somebody else was quicker: then it is there.
                Err(error) if !error.is_conflict() => return Err(error),
                Ok(_) | Err(_) => node.engine.inspect_network(name)?,
            }
        }
        other => other?,
    };
    let pool = network.pools.iter().find_map(|pool| {
        Some((pool.subnet.parse::<Subnet>().ok()?, pool.gateway.parse::<Ipv4Addr>().ok()))
    });
    let facts = match pool {
        Some((subnet, gateway)) => NetworkFacts {
            subnet,
            gateway: gateway.unwrap_or(settings.docker_network_gateway),
            differs: subnet != settings.docker_network_subnet
                || gateway != Some(settings.docker_network_gateway),
        },
        None => NetworkFacts {
            subnet: settings.docker_network_subnet,
            gateway: settings.docker_network_gateway,
            differs: true,
        },
    };
    let before = lock(&node.network.facts).replace(facts.clone());
    if facts.differs && before.as_ref() != Some(&facts) {
        log::warn!(
            "network {name} is {} with gateway {}, not as configured; used as it is",
            facts.subnet,
            facts.gateway
        );
    }
    Ok(facts)
}

/// A bridge with one pool, as contract 5.11 lists it.
fn wanted(settings: &Settings) -> CreateNetwork {
    CreateNetwork {
        name: settings.docker_network_name.clone(),
        check_duplicate: true,
        driver: "bridge".to_owned(),
        ipam: Ipam {
            config: vec![IpamPool {
                subnet: settings.docker_network_subnet.to_string(),
                gateway: settings.docker_network_gateway.to_string(),
                ..IpamPool::default()
            }],
            ..Ipam::default()
        },
        ..CreateNetwork::default()
    }
}

/// The network as last seen, asking the Engine only the first time.
///
/// # Errors
/// The Engine refused or is away.
pub fn known_or_ensured(node: &Node) -> Result<NetworkFacts, DockerError> {
    let known = lock(&node.network.facts).clone();
    known.map_or_else(|| ensure(node), Ok)
}

/// The network as last seen; what is configured while the Engine was never reached.
pub fn known(node: &Node) -> NetworkFacts {
    lock(&node.network.facts).clone().unwrap_or(NetworkFacts {
        subnet: node.settings.docker_network_subnet,
        gateway: node.settings.docker_network_gateway,
        differs: false,
    })
}

/// The address of this node by which the host reaches it (contract rule 16).
pub fn registered_address(settings: &Settings, host: Option<&Arc<Host>>) -> Ipv4Addr {
    let known = host.and_then(|host| host.names.known().first().copied());
    let host = known.map(|address| SocketAddr::new(address, settings.host_port));
    addresses::registered(settings.runner_bind_ip, host)
}
