//! Puts the calling thread on its task's NUMA node. Session threads do this before they touch
//! their buffers, so that the memory comes from that node too. (Lane workers pin themselves.)

use std::io;

use crate::model::placement::Placement;
use crate::model::topology::Topology;
use crate::threads;

/// Binds the calling thread to the CPUs of `placement`. Anywhere, or a node that is gone or has no
/// CPUs (a task recovered on a changed machine), leaves the thread as it is.
///
/// # Errors
/// The kernel refused the CPU set.
pub fn to(topology: &Topology, placement: Placement) -> io::Result<()> {
    let Placement::On(id) = placement else { return Ok(()) };
    match topology.nodes.get(&id) {
        Some(node) if !node.cpus.is_empty() => threads::pin(node.cpus.as_slice()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod test {
    use std::path::Path;

    use super::*;
    use crate::machine::topology;
    use crate::model::topology::NumaNode;

    fn affinity_after(placement: Placement) -> (Vec<usize>, Topology) {
        let topology = topology::read(Path::new("/sys"));
        let seen = topology.clone();
        let pinned = threads::spawn("pin-to", 64 * 1024, move || {
            to(&topology, placement).unwrap();
            threads::affinity().unwrap()
        });
        (pinned.unwrap().join().unwrap().unwrap(), seen)
    }

    #[test]
    fn thread_pinned_to_a_node_runs_on_the_nodes_cpus_only() {
        let (now, topology) = affinity_after(Placement::On(NumaNode(0)));
        let cpus = topology.nodes[&NumaNode(0)].cpus.as_slice();
        assert!(now.iter().all(|cpu| cpus.contains(cpu)), "{now:?}");
    }

    #[test]
    fn thread_pinned_to_a_node_that_is_gone_stays_as_it_was() {
        let (now, _) = affinity_after(Placement::On(NumaNode(9999)));
        assert_eq!(now, threads::affinity().unwrap());
    }
}
