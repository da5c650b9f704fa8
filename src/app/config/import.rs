//! `config import`: a KohakuRiver `runner_config.py` as our TOML. The reference's defaults are
//! written out where they were not set, since some of ours differ (standalone).

use std::fmt;
use std::fmt::Write;

use super::python::{self, Assignment, Literal, Why};
use super::table::{self, Accessor, Row, SETTINGS, Slot};
use super::value::{Allowed, Value};
use super::{CLUSTER_LOCAL_TEMP_DIR, CLUSTER_SHARED_DIR};
use crate::model::settings::Settings;

/// What came of a file.
#[derive(Debug)]
pub struct Imported {
    pub toml: String,
    /// Settings that were left out because their value can't be known. The result is not complete
    /// while there is one.
    pub unread: Vec<Unread>,
}

/// A setting whose value was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub name: String,
    pub line: usize,
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    NotPlain(Why),
    NotAllowed { shown: String, allowed: Allowed },
}

/// Settings that the reference doesn't have.
const OURS: [&str; 10] = [
    "state_dir",
    "hostname",
    "node_id",
    "docker_host",
    "api_socket",
    "api_token",
    "allow_from",
    "allow_hosts",
    "loopback",
    "sysfs_root",
];

/// Translates `source`, a Python module called `name`.
pub fn import(source: &str, name: &str) -> Imported {
    let assignments = python::assignments(source);
    let reference = reference_defaults();
    let mut imported = Imported { toml: heading(name), unread: Vec::new() };
    for row in SETTINGS.iter().filter(|row| !OURS.contains(&row.key)) {
        // The last assignment is the one that counts.
        let said = assignments.iter().rev().find(|said| said.name == row.key.to_ascii_uppercase());
        match (&row.slot, said) {
            (Slot::Field(field), Some(said)) => imported.push_said(row, field, said),
            (Slot::Field(field), None) => {
                let value = if row.key == EMPTY_IS_DERIVED {
                    Value::Text(String::new())
                } else {
                    (field.get)(&reference)
                };
                imported.push_line(row, &value, "the reference's default");
            }
            (Slot::Ignored { why }, Some(said)) => {
                let line = said.line;
                let _ = writeln!(imported.toml, "# {} (line {line}) is left out: {why}", row.key);
            }
            (Slot::Ignored { .. }, None) => (),
        }
    }
    for said in assignments.iter().filter(|said| is_unknown_setting(&said.name)) {
        let Assignment { name, line, .. } = said;
        let _ = writeln!(imported.toml, "# {name} (line {line}) is no setting of the runner");
    }
    imported
}

/// Its empty default means "below shared_dir", and stays so.
const EMPTY_IS_DERIVED: &str = "container_tar_dir";

fn heading(name: &str) -> String {
    // The name goes into a comment: nothing in it may end the line.
    format!("# From {}, by `river-runner config import`.\n", name.escape_debug())
}

fn reference_defaults() -> Settings {
    Settings {
        host_address: Some("127.0.0.1".into()),
        shared_dir: CLUSTER_SHARED_DIR.into(),
        local_temp_dir: CLUSTER_LOCAL_TEMP_DIR.into(),
        ..Settings::default()
    }
}

/// The reference reads upper-case names only.
fn is_unknown_setting(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let known = table::row(&name.to_ascii_lowercase()).is_some_and(|row| !OURS.contains(&row.key));
    upper == name && name.starts_with(|first: char| first.is_ascii_alphabetic()) && !known
}

impl Imported {
    fn push_said(&mut self, row: &Row, field: &Accessor, said: &Assignment) {
        let read = match &said.value {
            Ok(literal) => checked(row, field, literal),
            Err(why) => Err(Reason::NotPlain(*why)),
        };
        match read {
            Ok(value) => self.push_line(row, &value, &format!("line {}", said.line)),
            Err(reason) => {
                let unread = Unread { name: said.name.clone(), line: said.line, reason };
                let _ = writeln!(self.toml, "# {} is not set: {unread}", row.key);
                self.unread.push(unread);
            }
        }
    }

    fn push_line(&mut self, row: &Row, value: &Value, origin: &str) {
        let line = format!("{} = {value}", row.key);
        let _ = writeln!(self.toml, "{line:<50} # {origin}");
    }
}

fn checked(row: &Row, field: &Accessor, literal: &Literal) -> Result<Value, Reason> {
    let value = value_of(literal).ok_or(Reason::NotPlain(Why::NotPlain))?;
    if row.key == EMPTY_IS_DERIVED && value.is_empty_text() {
        return Ok(value);
    }
    match (field.set)(&mut Settings::default(), &value) {
        Ok(()) => Ok(value),
        Err(allowed) => Err(Reason::NotAllowed { shown: value.to_string(), allowed }),
    }
}

fn value_of(literal: &Literal) -> Option<Value> {
    match literal {
        Literal::Text(text) => Some(Value::Text(text.clone())),
        Literal::Number(number) => Some(Value::Number(*number)),
        Literal::Flag(flag) => Some(Value::Flag(*flag)),
        Literal::Nothing => Some(Value::Text(String::new())),
        Literal::List(entries) => {
            let texts = entries.iter().map(|entry| match entry {
                Literal::Text(text) => Some(text.clone()),
                Literal::Number(_) | Literal::Flag(_) | Literal::Nothing | Literal::List(_) => None,
            });
            texts.collect::<Option<Vec<String>>>().map(Value::List)
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {} ", self.line, self.name)?;
        match &self.reason {
            Reason::NotPlain(why) => write!(f, "was not read: {why}"),
            Reason::NotAllowed { shown, allowed } => {
                write!(f, "can't be {shown}: it must be {allowed}")
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const REALISTIC: &str = r#"
"""Runner configuration."""
from kohakuriver.models.enums import LogLevel
from kohakuengine import Config

# Network
RUNNER_BIND_IP: str = "0.0.0.0"
RUNNER_PORT: int = 8011
HOST_ADDRESS: str = '10.9.0.1'   # the head node
HOST_PORT = 8000

BASE = "/srv/river"
SHARED_DIR: str = BASE + "/shared"
LOCAL_TEMP_DIR = (
    "/scratch"
    "/river"
)
CONTAINER_TAR_DIR: str = ""
NUMACTL_PATH: str = "/usr/bin/numactl"
TASKS_PRIVILEGED: bool = False
ADDITIONAL_MOUNTS: list[str] = [
    "/data:/data:ro",
    '/scratch:/scratch',  # fast
]
DOCKER_IMAGE_SYNC_TIMEOUT: int = 30 * 60
MAX_SNAPSHOTS_PER_VPS = 5
TUNNEL_CLIENT_PATH = None
LOG_LEVEL: LogLevel = LogLevel.DEBUG
VM_IMAGES_DIR = os.path.join("/var", "vm")
OVERLAY_MTU = "large"
FAVOURITE_COLOUR = "green"


def config_gen():
    SHARED_DIR = "/wrong"
    return Config.from_globals()
"#;

    fn entry(imported: &Imported, key: &str) -> Option<toml::Value> {
        imported.toml.parse::<toml::Table>().unwrap().get(key).cloned()
    }

    #[test]
    fn realistic_file_becomes_toml_with_its_values() {
        let imported = import(REALISTIC, "runner_config.py");
        assert_eq!(entry(&imported, "runner_port"), Some(8011.into()));
        assert_eq!(entry(&imported, "host_address"), Some("10.9.0.1".into()));
        assert_eq!(entry(&imported, "shared_dir"), Some("/srv/river/shared".into()));
        assert_eq!(entry(&imported, "local_temp_dir"), Some("/scratch/river".into()));
        assert_eq!(entry(&imported, "docker_image_sync_timeout"), Some(1800.into()));
        assert_eq!(entry(&imported, "log_level"), Some("debug".into()));
        assert_eq!(
            entry(&imported, "additional_mounts"),
            Some(vec!["/data:/data:ro", "/scratch:/scratch"].into())
        );
    }

    #[test]
    fn values_that_are_not_plain_or_not_allowed_are_named_and_left_out() {
        let imported = import(REALISTIC, "runner_config.py");
        let unread = imported.unread.iter().map(|unread| (unread.line, &*unread.name));
        let unread: Vec<_> = unread.collect();
        assert_eq!(unread, [(29, "VM_IMAGES_DIR"), (30, "OVERLAY_MTU")]);
        assert_eq!(entry(&imported, "vm_images_dir"), None);
        assert!(imported.toml.contains("# FAVOURITE_COLOUR (line 31) is no setting"));
        assert!(imported.toml.contains("# numactl_path (line 19) is left out: "));
    }

    #[test]
    fn log_file_that_the_reference_never_read_is_taken_at_its_word() {
        let imported = import("RUNNER_LOG_FILE = '/var/log/r.log'", "runner_config.py");
        assert_eq!(entry(&imported, "runner_log_file"), Some("/var/log/r.log".into()));
        let imported = import("", "runner_config.py");
        assert_eq!(entry(&imported, "runner_log_file"), Some("".into()));
    }

    #[test]
    fn empty_file_is_the_reference_with_all_its_defaults() {
        let imported = import("", "runner_config.py");
        assert_eq!(imported.unread, []);
        assert_eq!(entry(&imported, "host_address"), Some("127.0.0.1".into()));
        assert_eq!(entry(&imported, "shared_dir"), Some("/mnt/cluster-share".into()));
        assert_eq!(entry(&imported, "local_temp_dir"), Some("/tmp/kohakuriver".into()));
        assert_eq!(entry(&imported, "container_tar_dir"), Some("".into()));
        assert_eq!(entry(&imported, "api_socket"), None);
    }

    #[test]
    fn name_with_a_line_end_stays_in_its_comment() {
        let imported = import("", "a\nloopback = false\n");
        assert_eq!(entry(&imported, "loopback"), None);
    }
}
