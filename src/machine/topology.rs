//! Reads CPUs and NUMA nodes from sysfs. Never fails: a file that is missing or broken is logged
//! and its fact left out, since an agent with half a topology is better than none.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::str::FromStr;
use std::thread::available_parallelism;

use crate::machine::{kernel_text, numbered, usage};
use crate::model::cpu_list::CpuList;
use crate::model::topology::{Node, NumaNode, Topology};
use crate::wire::numa::{NumaEntry, NumaTopology};

/// CPUs of a machine that does not say (contract 3.1).
const CORES_UNKNOWN: usize = 4;

/// The machine under `sysfs_root` (`/sys`). A kernel without NUMA, or one whose nodes show no CPU
/// at all, is one node 0 with everything.
pub fn read(sysfs_root: &Path) -> Topology {
    let system = sysfs_root.join("devices/system");
    let online: CpuList = fact(&system.join("cpu/online")).unwrap_or_else(|| {
        (0..available_parallelism().map_or(CORES_UNKNOWN, NonZero::get)).collect()
    });
    let ids = numbered(&system.join("node"), "node", "");
    let nodes: BTreeMap<NumaNode, Node> = ids
        .iter()
        .map(|&id| (NumaNode(id), node(&system.join(format!("node/node{id}")), &ids, &online)))
        .collect();
    if nodes.values().all(|node| node.cpus.is_empty()) {
        return one_node(online);
    }
    Topology { online, nodes }
}

/// `numa_topology` as the host takes it: nodes with CPUs only.
pub fn to_wire(topology: &Topology) -> NumaTopology {
    topology
        .targets()
        .map(|(id, node)| {
            let cores = node.cpus.as_slice().to_vec();
            (id.0, NumaEntry { cores, memory_bytes: node.memory_bytes })
        })
        .collect()
}

fn one_node(online: CpuList) -> Topology {
    let memory_bytes = usage::memory().map(|memory| memory.total_bytes);
    let node = Node { cpus: online.clone(), memory_bytes, distances: BTreeMap::new() };
    Topology { online, nodes: BTreeMap::from([(NumaNode(0), node)]) }
}

fn node(dir: &Path, ids: &[u16], online: &CpuList) -> Node {
    let cpus = fact::<CpuList>(&dir.join("cpulist")).unwrap_or_default().intersection(online);
    let memory_bytes = fact(&dir.join("meminfo")).map(|MemTotal { bytes }| bytes);
    let distances = fact(&dir.join("distance"))
        .filter(|Distances(costs)| costs.len() == ids.len())
        .map(|Distances(costs)| ids.iter().copied().map(NumaNode).zip(costs).collect())
        .unwrap_or_default();
    Node { cpus, memory_bytes, distances }
}

/// What one file says, if it says it.
fn fact<T: FromStr>(path: &Path) -> Option<T> {
    match kernel_text(path) {
        Ok(text) => {
            let fact = text.parse().ok();
            if fact.is_none() {
                log::warn!("{} is not what the kernel writes there", path.display());
            }
            fact
        }
        Err(error) => {
            log::debug!("{}: {error}", path.display());
            None
        }
    }
}

/// `Node 0 MemTotal:  6383828 kB` among other lines.
struct MemTotal {
    bytes: u64,
}

impl FromStr for MemTotal {
    type Err = ();

    fn from_str(text: &str) -> Result<MemTotal, ()> {
        let line = text.lines().find_map(|line| line.split_once(" MemTotal:")).ok_or(())?.1;
        let kibibytes: u64 =
            line.trim().strip_suffix("kB").ok_or(())?.trim().parse().map_err(drop)?;
        Ok(MemTotal { bytes: kibibytes.checked_mul(1024).ok_or(())? })
    }
}

/// `10 21`: the cost towards each node, by number.
struct Distances(Vec<u16>);

impl FromStr for Distances {
    type Err = ();

    fn from_str(text: &str) -> Result<Distances, ()> {
        text.split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Distances)
            .map_err(drop)
    }
}

#[cfg(test)]
mod test {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    struct Sysfs(TempDir);

    impl Sysfs {
        fn with_online(cpus: &str) -> Sysfs {
            let sysfs = Sysfs(tempfile::tempdir().unwrap());
            sysfs.file("cpu/online", cpus)
        }

        fn file(self, path: &str, text: &str) -> Sysfs {
            let path = self.0.path().join("devices/system").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn node(self, id: u16, cpus: &str, kibibytes: u64, distance: &str) -> Sysfs {
            let meminfo =
                format!("Node {id} MemTotal:  {kibibytes} kB\nNode {id} MemFree:  17 kB\n");
            self.file(&format!("node/node{id}/cpulist"), cpus)
                .file(&format!("node/node{id}/meminfo"), &meminfo)
                .file(&format!("node/node{id}/distance"), distance)
        }

        fn read(&self) -> Topology {
            read(self.0.path())
        }
    }

    fn json(topology: &Topology) -> String {
        serde_json::to_string(&to_wire(topology)).unwrap()
    }

    #[test]
    fn two_nodes_have_their_cpus_memory_and_distances() {
        let sysfs = Sysfs::with_online("0-7\n")
            .node(0, "0-3\n", 4, "10 21\n")
            .node(1, "4-7\n", 8, "21 10\n");
        let topology = sysfs.read();
        assert_eq!(topology.cores(), 8);
        let far = &topology.nodes[&NumaNode(1)];
        assert_eq!(far.cpus.to_string(), "4-7");
        assert_eq!(far.memory_bytes, Some(8192));
        assert_eq!(far.distances, BTreeMap::from([(NumaNode(0), 21), (NumaNode(1), 10)]));
    }

    #[test]
    fn two_nodes_have_the_wire_form_of_the_contract() {
        let sysfs = Sysfs::with_online("0-3").node(0, "0-1", 4, "10 21").node(1, "2-3", 8, "21 10");
        assert_eq!(
            json(&sysfs.read()),
            r#"{"0":{"cores":[0,1],"memory_bytes":4096},"1":{"cores":[2,3],"memory_bytes":8192}}"#
        );
    }

    #[test]
    fn four_nodes_with_holes_keep_their_numbers() {
        let far = "10 20 30 40";
        let sysfs = Sysfs::with_online("0-7")
            .node(0, "0-1", 4, far)
            .node(2, "2-3", 4, far)
            .node(5, "4-5", 4, far)
            .node(12, "6-7", 4, far);
        let topology = sysfs.read();
        let ids: Vec<u16> = topology.nodes.keys().map(|id| id.0).collect();
        assert_eq!(ids, [0, 2, 5, 12]);
        assert_eq!(topology.nodes[&NumaNode(0)].distances[&NumaNode(12)], 40);
    }

    #[test]
    fn memory_only_node_exists_but_is_no_target_and_not_on_the_wire() {
        let sysfs = Sysfs::with_online("0-1").node(0, "0-1", 4, "10 20").node(1, "\n", 64, "20 10");
        let topology = sysfs.read();
        assert_eq!(topology.nodes[&NumaNode(1)].memory_bytes, Some(65536));
        assert_eq!(topology.targets().count(), 1);
        assert_eq!(json(&topology), r#"{"0":{"cores":[0,1],"memory_bytes":4096}}"#);
    }

    #[test]
    fn cpus_that_are_offline_belong_to_no_node() {
        let sysfs = Sysfs::with_online("0-1,3").node(0, "0-3", 4, "10");
        let topology = sysfs.read();
        assert_eq!(topology.nodes[&NumaNode(0)].cpus.to_string(), "0-1,3");
        assert_eq!(topology.cores(), 3);
    }

    #[test]
    fn kernel_without_numa_is_one_node_with_all_cpus() {
        let topology = Sysfs::with_online("0-5").read();
        assert_eq!(topology.nodes.len(), 1);
        assert_eq!(topology.nodes[&NumaNode(0)].cpus.to_string(), "0-5");
        assert!(topology.nodes[&NumaNode(0)].memory_bytes > Some(0));
    }

    #[test]
    fn broken_files_cost_their_own_fact_only() {
        let sysfs = Sysfs::with_online("0-3")
            .node(0, "0-1", 4, "10 20 30")
            .node(1, "two to three", 4, "ten")
            .file("node/node0/meminfo", "Node 0 MemTotal: lots kB\n");
        let topology = sysfs.read();
        let first = &topology.nodes[&NumaNode(0)];
        assert_eq!((first.cpus.to_string().as_str(), first.memory_bytes), ("0-1", None));
        assert!(first.distances.is_empty());
        assert!(topology.nodes[&NumaNode(1)].cpus.is_empty());
    }

    #[test]
    fn node_without_memory_figure_has_null_on_the_wire() {
        let sysfs = Sysfs::with_online("0").file("node/node0/cpulist", "0\n");
        assert_eq!(json(&sysfs.read()), r#"{"0":{"cores":[0],"memory_bytes":null}}"#);
    }

    #[test]
    fn nodes_of_which_none_shows_a_cpu_are_one_node_with_all() {
        let sysfs = Sysfs::with_online("0-3").node(0, "?", 4, "10").node(1, "!", 4, "20");
        assert_eq!(json(&sysfs.read()).matches("cores").count(), 1);
    }

    #[test]
    fn empty_root_is_still_a_machine_with_cpus() {
        let topology = read(tempfile::tempdir().unwrap().path());
        assert!(topology.cores() > 0);
        assert_eq!(topology.targets().count(), 1);
    }

    #[test]
    fn this_machine_has_cpus_and_every_one_belongs_to_a_node() {
        let topology = read(Path::new("/sys"));
        let of_nodes: CpuList =
            topology.targets().flat_map(|(_, node)| node.cpus.as_slice().to_vec()).collect();
        assert_eq!(of_nodes, topology.online);
        assert!(topology.nodes.values().all(|node| node.memory_bytes > Some(0)));
    }
}
