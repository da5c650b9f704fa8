//! From the words after `run` to the body of `POST /api/execute` (contract 1.1).

use std::collections::BTreeMap;
use std::env;
use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, ValueEnum};
use serde::Serialize;

use super::super::{quote, size};
use crate::model::ids::TaskId;
use crate::model::script::WORKING_DIR_DEFAULT;

/// What is asked for.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("source").required(true))]
pub struct Wish {
    /// Image from a registry or of this machine, such as busybox or ghcr.io/me/tool:2
    #[arg(long, value_name = "NAME", group = "source")]
    pub image: Option<String>,

    /// Environment of the cluster (a tarball in shared storage)
    #[arg(long, value_name = "NAME", group = "source")]
    pub environment: Option<String>,

    /// When the image is fetched from its registry
    #[arg(long, value_enum, default_value = "missing")]
    pub pull: Pull,

    /// CPU cores the task may use; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cores: u32,

    /// Memory limit, such as 512M or 2GiB
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,

    /// Environment variable, as KEY=VALUE, or KEY to hand on ours (repeatable)
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE", value_parser = variable)]
    pub variables: Vec<(String, String)>,

    /// NUMA node whose cores and memory the task gets
    #[arg(long, value_name = "NODE")]
    pub numa_node: Option<u16>,

    /// GPUs by their index, such as 0,1
    #[arg(long = "gpu", value_name = "LIST", value_delimiter = ',')]
    pub gpus: Vec<u16>,

    /// Working directory in the container
    #[arg(long, value_name = "PATH", default_value = WORKING_DIR_DEFAULT)]
    pub workdir: String,

    /// Shell text to run as it is, in place of words after --
    #[arg(long, value_name = "TEXT", conflicts_with = "words")]
    pub shell: Option<String>,

    /// The command and its arguments, each kept as one word
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "shell")]
    pub words: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// Each time; the newest is run
    Always,
    /// If this machine does not have it
    Missing,
    /// Not at all
    Never,
}

/// The body of `POST /api/execute`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Order {
    pub task_id: TaskId,
    pub command: String,
    pub arguments: [String; 0],
    pub env_vars: BTreeMap<String, String>,
    pub required_cores: u32,
    pub required_gpus: Vec<u16>,
    pub required_memory_bytes: Option<u64>,
    pub target_numa_node_id: Option<u16>,
    pub container_name: Option<String>,
    pub registry_image: Option<String>,
    pub working_dir: String,
    pub stdout_path: String,
    pub stderr_path: String,
    pub pull: Pull,
}

impl Wish {
    /// The order for this wish on a runner whose shared directory is `shared_dir`.
    pub fn order(self, id: TaskId, shared_dir: &str) -> Order {
        Order {
            task_id: id,
            command: self.shell.unwrap_or_else(|| quote::join(&self.words)),
            arguments: [],
            env_vars: self.variables.into_iter().collect(),
            required_cores: self.cores,
            required_gpus: self.gpus,
            required_memory_bytes: self.memory,
            target_numa_node_id: self.numa_node,
            container_name: self.environment,
            registry_image: self.image,
            working_dir: self.workdir,
            stdout_path: format!("{shared_dir}/logs/{id}/stdout.log"),
            stderr_path: format!("{shared_dir}/logs/{id}/stderr.log"),
            pull: self.pull,
        }
    }
}

/// An id that no other task has: milliseconds since 1970, then 20 random bits. Below 2^62 until
/// the year 2109.
pub fn new_id() -> TaskId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The standard library's hash keys are random in every process and differ at each call.
    let noise = RandomState::new().hash_one(now.subsec_nanos()) & 0xF_FFFF;
    let milliseconds = (now.as_millis() as u64) & ((1 << 42) - 1);
    TaskId::try_from((milliseconds << 20) | noise | 1).expect("62 bits, the lowest of them set")
}

pub fn memory(text: &str) -> Result<u64, String> {
    size::parse(text).ok_or_else(|| size::FORM.into())
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, env::var(text).ok()),
    };
    if key.is_empty() {
        return Err("the name before = is missing".into());
    }
    match value {
        Some(value) => Ok((key.into(), value)),
        None => Err(format!("{key} is not set here: give it a value, as {key}=VALUE")),
    }
}

#[cfg(test)]
mod test {
    use std::collections::HashSet;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        wish: Wish,
    }

    fn order(words: &[&str]) -> Order {
        let line = Line::try_parse_from([&["run"], words].concat()).unwrap();
        line.wish.order("7".parse().unwrap(), "/srv/share")
    }

    #[test]
    fn words_are_quoted_and_paths_lie_in_the_shared_directory() {
        let order = order(&["--image", "busybox", "--", "echo", "a b"]);
        assert_eq!(order.command, "echo 'a b'");
        assert_eq!(order.stdout_path, "/srv/share/logs/7/stdout.log");
        assert_eq!(order.stderr_path, "/srv/share/logs/7/stderr.log");
        assert_eq!(order.registry_image.as_deref(), Some("busybox"));
        assert_eq!((order.container_name, order.pull), (None, Pull::Missing));
    }

    #[test]
    fn shell_text_is_passed_as_it_is() {
        assert_eq!(order(&["--image", "b", "--shell", "a && b > c"]).command, "a && b > c");
    }

    #[test]
    fn limits_and_variables_are_handed_on() {
        let order = order(&[
            "--environment",
            "base",
            "--cores",
            "4",
            "--memory",
            "512M",
            "--env",
            "A=1=2",
            "--gpu",
            "0,1",
            "--numa-node",
            "1",
            "--",
            "true",
        ]);
        assert_eq!(order.required_cores, 4);
        assert_eq!(order.required_memory_bytes, Some(512 << 20));
        assert_eq!(order.env_vars["A"], "1=2");
        assert_eq!(order.required_gpus, [0, 1]);
        assert_eq!(order.target_numa_node_id, Some(1));
        assert_eq!(order.container_name.as_deref(), Some("base"));
    }

    #[test]
    fn image_or_environment_and_a_command_must_be_said() {
        assert!(Line::try_parse_from(["run", "--", "true"]).is_err());
        assert!(Line::try_parse_from(["run", "--image", "b"]).is_err());
        assert!(
            Line::try_parse_from(["run", "--image", "b", "--environment", "e", "--", "x"]).is_err()
        );
        assert!(Line::try_parse_from(["run", "--image", "b", "--shell", "x", "--", "y"]).is_err());
    }

    #[test]
    fn ids_differ_and_are_the_wires_kind() {
        let ids: HashSet<u64> = (0..100).map(|_| new_id().get()).collect();
        assert!(ids.len() > 95);
        assert!(ids.iter().all(|id| *id > 1 << 53));
    }
}
