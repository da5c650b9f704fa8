//! `numa_topology` of the register call (contract section 6).

use std::collections::BTreeMap;

use serde::Serialize;

/// JSON writes the keys as strings of digits, as the host needs them.
pub type NumaTopology = BTreeMap<u16, NumaEntry>;

/// One node that has CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumaEntry {
    pub cores: Vec<usize>,
    pub memory_bytes: Option<u64>,
}
