//! The machine's CPUs and NUMA nodes as a plain value. `machine::topology` reads it once at start;
//! `model::placement` decides on it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

use crate::model::cpu_list::CpuList;

/// A NUMA node's number as the kernel and the host write it. Numbers may have holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NumaNode(pub u16);

/// What the machine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// CPUs that are online, of all nodes.
    pub online: CpuList,
    /// Every node, those without CPUs too (memory expanders, nodes whose CPUs are all offline).
    pub nodes: BTreeMap<NumaNode, Node>,
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Online CPUs; none makes the node no target for a task.
    pub cpus: CpuList,
    /// `None` where the kernel does not say.
    pub memory_bytes: Option<u64>,
    /// Relative cost of memory on each node, 10 being local. Empty where the kernel does not say.
    pub distances: BTreeMap<NumaNode, u16>,
}

impl Topology {
    /// Logical CPUs online.
    pub fn cores(&self) -> usize {
        self.online.len()
    }

    /// The nodes a task may be sent to: those with CPUs, by number.
    pub fn targets(&self) -> impl Iterator<Item = (NumaNode, &Node)> {
        self.nodes.iter().filter(|(_, node)| !node.cpus.is_empty()).map(|(&id, node)| (id, node))
    }
}

impl fmt::Display for NumaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
