//! Where on the machine a task runs: its CPU set, its memory node, its CPU limit. Pure; the door
//! asks before it accepts a task, and the create call carries the answer (design D11), so there is
//! no moment in which a task runs elsewhere.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::model::topology::{NumaNode, Topology};

/// Which CPUs and memory a task asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    #[default]
    Anywhere,
    On(NumaNode),
}

/// The answer, ready for the create call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// `None` leaves the task on all CPUs and all memory.
    pub cpuset: Option<Cpuset>,
    /// CPUs' worth of time; `None` is no limit.
    pub cores: Option<NonZeroU32>,
    /// Something the operator should read in the log, no reason to refuse.
    pub note: Option<Note>,
}

/// The Engine's `CpusetCpus` and `CpusetMems`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpuset {
    pub cpus: String,
    pub mems: String,
}

/// What is odd about a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The limit never bites: the CPU set is smaller.
    CoresExceedNode { cores: u32, node: NumaNode, node_cores: usize },
}

/// Why there is no seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unseatable {
    /// The number is no NUMA node number at all.
    NotANode { asked: i64 },
    /// This machine has no such node.
    NoSuchNode { asked: NumaNode, targets: Vec<NumaNode> },
    /// The node is memory only, or its CPUs are offline.
    NodeWithoutCpus { asked: NumaNode, targets: Vec<NumaNode> },
    /// More CPUs than are online.
    TooManyCores { asked: i64, online: usize },
}

impl Placement {
    /// The number of the target node, if there is one.
    pub fn node(self) -> Option<u16> {
        match self {
            Placement::Anywhere => None,
            Placement::On(NumaNode(id)) => Some(id),
        }
    }
}

impl TryFrom<Option<i64>> for Placement {
    type Error = Unseatable;

    /// From `target_numa_node_id` as it is on the wire.
    fn try_from(raw: Option<i64>) -> Result<Placement, Unseatable> {
        let Some(asked) = raw else { return Ok(Placement::Anywhere) };
        let id = u16::try_from(asked).map_err(|_| Unseatable::NotANode { asked })?;
        Ok(Placement::On(NumaNode(id)))
    }
}

/// Finds the seat of a task that wants `placement` and `required_cores` (0 or less: no limit).
///
/// # Errors
/// The node does not exist or has no CPUs, or the machine has fewer CPUs than asked for.
pub fn seat(
    topology: &Topology,
    placement: Placement,
    required_cores: i64,
) -> Result<Seat, Unseatable> {
    let cores = cores(topology, required_cores)?;
    let Placement::On(id) = placement else {
        return Ok(Seat { cpuset: None, cores, note: None });
    };
    let targets = || topology.targets().map(|(target, _)| target).collect();
    let Some(node) = topology.nodes.get(&id) else {
        return Err(Unseatable::NoSuchNode { asked: id, targets: targets() });
    };
    if node.cpus.is_empty() {
        return Err(Unseatable::NodeWithoutCpus { asked: id, targets: targets() });
    }
    let node_cores = node.cpus.len();
    let note = cores
        .map(NonZeroU32::get)
        .filter(|&cores| cores as usize > node_cores)
        .map(|cores| Note::CoresExceedNode { cores, node: id, node_cores });
    let cpuset = Cpuset { cpus: node.cpus.to_string(), mems: id.to_string() };
    Ok(Seat { cpuset: Some(cpuset), cores, note })
}

fn cores(topology: &Topology, asked: i64) -> Result<Option<NonZeroU32>, Unseatable> {
    let online = topology.cores();
    match u32::try_from(asked.max(0)) {
        Ok(cores) if cores as usize <= online => Ok(NonZeroU32::new(cores)),
        _ => Err(Unseatable::TooManyCores { asked, online }),
    }
}

impl Unseatable {
    /// The request field at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Unseatable::NotANode { .. }
            | Unseatable::NoSuchNode { .. }
            | Unseatable::NodeWithoutCpus { .. } => "target_numa_node_id",
            Unseatable::TooManyCores { .. } => "required_cores",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::CoresExceedNode { cores, node, node_cores } => {
                write!(f, "{cores} cores asked for on NUMA node {node}, which has {node_cores}")
            }
        }
    }
}

impl fmt::Display for Unseatable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unseatable::NotANode { asked } => write!(f, "{asked} is no NUMA node number"),
            Unseatable::NoSuchNode { asked, targets } => {
                write!(f, "no NUMA node {asked}; this machine has {}", list(targets))
            }
            Unseatable::NodeWithoutCpus { asked, targets } => {
                write!(
                    f,
                    "NUMA node {asked} has no CPUs online; those with CPUs: {}",
                    list(targets)
                )
            }
            Unseatable::TooManyCores { asked, online } => {
                write!(f, "{asked} cores asked for; this machine has {online}")
            }
        }
    }
}

fn list(nodes: &[NumaNode]) -> String {
    nodes.iter().map(NumaNode::to_string).collect::<Vec<_>>().join(", ")
}

impl std::error::Error for Unseatable {}

#[cfg(test)]
mod test {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::topology::Node;

    /// Nodes 0 and 2 with CPUs (a hole at 1), node 3 memory only.
    fn machine() -> Topology {
        let node = |cpus: &str| Node {
            cpus: cpus.parse().unwrap(),
            memory_bytes: Some(1 << 30),
            distances: BTreeMap::new(),
        };
        let nodes = [(0, node("0-3,8")), (2, node("4-7")), (3, node(""))];
        Topology {
            online: "0-8".parse().unwrap(),
            nodes: nodes.into_iter().map(|(id, node)| (NumaNode(id), node)).collect(),
        }
    }

    fn on(id: u16) -> Placement {
        Placement::On(NumaNode(id))
    }

    #[test]
    fn task_for_anywhere_has_no_cpuset() {
        let seat = seat(&machine(), Placement::Anywhere, 1).unwrap();
        assert_eq!(seat.cpuset, None);
        assert_eq!(seat.cores, NonZeroU32::new(1));
    }

    #[test]
    fn task_for_a_node_gets_all_its_cpus_and_its_memory() {
        let seat = seat(&machine(), on(0), 5).unwrap();
        assert_eq!(seat.cpuset, Some(Cpuset { cpus: "0-3,8".into(), mems: "0".into() }));
        assert_eq!(seat.note, None);
    }

    #[test]
    fn node_in_a_hole_of_the_numbering_is_refused_naming_the_others() {
        let refused = seat(&machine(), on(1), 1).unwrap_err();
        assert_eq!(refused.field(), "target_numa_node_id");
        assert_eq!(refused.to_string(), "no NUMA node 1; this machine has 0, 2");
    }

    #[test]
    fn memory_only_node_is_refused() {
        let targets = vec![NumaNode(0), NumaNode(2)];
        let refused = seat(&machine(), on(3), 1).unwrap_err();
        assert_eq!(refused, Unseatable::NodeWithoutCpus { asked: NumaNode(3), targets });
    }

    #[test]
    fn node_numbers_outside_u16_are_refused_and_none_is_anywhere() {
        assert_eq!(Placement::try_from(None), Ok(Placement::Anywhere));
        assert_eq!(Placement::try_from(Some(65535)), Ok(on(65535)));
        let beyond = Placement::try_from(Some(65536)).unwrap_err();
        assert_eq!(beyond, Unseatable::NotANode { asked: 65536 });
        let below = Placement::try_from(Some(-1)).unwrap_err();
        assert_eq!(below.field(), "target_numa_node_id");
    }

    #[test]
    fn all_cores_of_the_machine_are_a_seat_and_one_more_is_not() {
        assert_eq!(seat(&machine(), Placement::Anywhere, 9).unwrap().cores, NonZeroU32::new(9));
        let refused = seat(&machine(), Placement::Anywhere, 10).unwrap_err();
        assert_eq!(refused, Unseatable::TooManyCores { asked: 10, online: 9 });
        assert_eq!(refused.field(), "required_cores");
        assert!(seat(&machine(), Placement::Anywhere, i64::MAX).is_err());
    }

    #[test]
    fn zero_or_fewer_cores_are_no_limit() {
        assert_eq!(seat(&machine(), on(2), 0).unwrap().cores, None);
        assert_eq!(seat(&machine(), on(2), i64::MIN).unwrap().cores, None);
    }

    #[test]
    fn more_cores_than_the_node_has_is_noted_not_refused() {
        let exact = seat(&machine(), on(2), 4).unwrap();
        assert_eq!(exact.note, None);
        let beyond = seat(&machine(), on(2), 5).unwrap();
        let note = Note::CoresExceedNode { cores: 5, node: NumaNode(2), node_cores: 4 };
        assert_eq!(beyond.note, Some(note));
    }
}
