//! Networks: look at, create, remove. Called by `ops` at start and for the overlay.

use std::collections::BTreeMap;

use super::ask::Ask;
use super::names::checked_name;
use super::{DockerError, Engine};
use crate::wire::docker as wire;

/// A network as the Engine has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub id: String,
    pub name: String,
    pub driver: String,
    /// Subnet, gateway (empty where the Engine chose it and has not said) and taken addresses.
    pub pools: Vec<wire::IpamPool>,
    /// Driver options, such as `com.docker.network.bridge.name`.
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    /// Looks at one network.
    pub fn inspect_network(&self, name: &str) -> Result<Network, DockerError> {
        const CALL: &str = "inspect network";
        let name = checked_name(CALL, name)?;
        let inspect: wire::NetworkInspect =
            self.ask(&Ask::get(CALL, format!("/networks/{name}")))?.json()?;
        let wire::NetworkInspect { id, name, driver, ipam, options, labels } = inspect;
        Ok(Network { id, name, driver, pools: ipam.config, options, labels })
    }

    /// Creates a network and returns its id.
    ///
    /// # Errors
    /// Conflict: the name is taken. Refused with 403 or 500: the subnet overlaps another.
    pub fn create_network(&self, spec: &wire::CreateNetwork) -> Result<String, DockerError> {
        let ask = Ask::post("create network", "/networks/create".to_owned()).json(spec)?;
        let created: wire::CreatedNetwork = self.ask(&ask)?.json()?;
        Ok(created.id)
    }

    /// Removes a network.
    ///
    /// # Errors
    /// Refused with 403: containers are in it.
    pub fn remove_network(&self, name: &str) -> Result<(), DockerError> {
        const CALL: &str = "remove network";
        let name = checked_name(CALL, name)?;
        self.ask(&Ask::delete(CALL, format!("/networks/{name}")))?.done();
        Ok(())
    }
}
