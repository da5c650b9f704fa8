//! NUMA nodes and GPUs, as far as the system shows them without any vendor's library.

use std::fs;
use std::path::Path;

use super::Finding;

pub fn findings(sysfs_root: &Path) -> Vec<Finding> {
    let gpus = fs::read_dir(PROC_GPUS).map_or(0, |entries| entries.flatten().count());
    vec![numa(sysfs_root), gpu(gpus, Path::new(CONTROL_DEVICE).exists())]
}

const PROC_GPUS: &str = "/proc/driver/nvidia/gpus";
const CONTROL_DEVICE: &str = "/dev/nvidiactl";

fn numa(sysfs_root: &Path) -> Finding {
    let nodes = fs::read_dir(sysfs_root.join("devices/system/node"));
    let is_node = |name: &str| {
        let digits = name.strip_prefix("node").unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let count = nodes.map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_node)).count()
    });
    match count {
        0 => Finding::warn(
            "numa",
            format!("no nodes in {}", sysfs_root.display()),
            "tasks can't be bound to a node; is sysfs mounted there?",
        ),
        1 => Finding::ok("numa", "1 node"),
        count => Finding::ok("numa", format!("{count} nodes")),
    }
}

fn gpu(gpus: usize, control_device_is_there: bool) -> Finding {
    match (gpus, control_device_is_there) {
        (0, _) => Finding::ok("gpus", "none"),
        (gpus, true) => Finding::ok("gpus", format!("{gpus} NVIDIA")),
        (gpus, false) => Finding::warn(
            "gpus",
            format!("{gpus} NVIDIA, but {CONTROL_DEVICE} is missing"),
            "load the driver's devices: nvidia-modprobe -u -c 0",
        ),
    }
}

#[cfg(test)]
mod test {
    use super::super::Grade;
    use super::*;

    #[test]
    fn nodes_are_counted_and_other_entries_are_not() {
        let root = tempfile::tempdir().unwrap();
        for name in ["node0", "node1", "node", "nodes", "power"] {
            fs::create_dir_all(root.path().join("devices/system/node").join(name)).unwrap();
        }
        assert_eq!(numa(root.path()).found, "2 nodes");
    }

    #[test]
    fn machine_without_nodes_is_a_warning() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(numa(root.path()).grade, Grade::Warn);
    }

    #[test]
    fn gpus_without_their_device_are_a_warning() {
        assert_eq!(gpu(0, false).grade, Grade::Ok);
        assert_eq!(gpu(8, true).found, "8 NVIDIA");
        assert_eq!(gpu(8, false).grade, Grade::Warn);
    }
}
