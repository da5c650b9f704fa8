//! From file, environment and flags to checked `Settings`, remembering where each value came from.
//! Called by the command line before anything else; starts nothing and creates nothing.

mod apart;
mod check;
mod fault;
pub mod import;
mod nearest;
mod print;
mod python;
pub mod table;
pub mod value;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

pub use fault::{Fault, Note, Origin};
pub use print::{commented_defaults, in_force};

use crate::model::settings::Settings;
use table::{Row, SETTINGS, Slot, VARIABLE_PREFIX};
use value::Value;

/// Where the configuration is when nothing says otherwise; it need not exist.
pub const DEFAULT_PATH: &str = "/etc/river-runner/runner.toml";

/// Variables with our prefix that belong to the command line and are no settings.
pub const OTHER_VARIABLES: [&str; 2] = ["RIVER_CONFIG", "RIVER_URL"];

/// Everything that settings are read from. Later members win over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The machine's own name, the lowest layer together with `DOCKER_HOST`.
    pub hostname: String,
    pub file: File,
    pub variables: Vec<(OsString, OsString)>,
    /// Keys of the table with what was said for them.
    pub flags: Vec<(&'static str, String)>,
}

/// Which file is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum File {
    /// `DEFAULT_PATH`, if it is there.
    #[default]
    Default,
    /// This one, which must be there.
    Named(PathBuf),
    /// None, for callers that may not read the default one.
    Nothing,
}

/// The outcome of `load`.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub notes: Vec<Note>,
    /// Of each row of the table, in its order.
    pub origins: Vec<Origin>,
}

/// Reads all layers and checks every value.
///
/// # Errors
/// Everything that is wrong, not only the first thing.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Fault>> {
    let mut layers = Layers::default();
    layers.read_machine(sources);
    layers.below = layers.given.clone();
    match &sources.file {
        File::Named(path) => layers.read_file(path, Missing::IsAFault),
        File::Default => layers.read_file(Path::new(DEFAULT_PATH), Missing::IsEmpty),
        File::Nothing => (),
    }
    layers.read_variables(&sources.variables);
    for (key, text) in &sources.flags {
        if let Some(row) = table::row(key) {
            layers.give(row, Value::Text(text.clone()), Origin::Flag(key.replace('_', "-")));
        }
    }
    layers.finish()
}

/// What a file that is not there means.
enum Missing {
    IsAFault,
    IsEmpty,
}

/// What has been said so far, in the order of the table.
struct Layers {
    given: Vec<Option<(Value, Origin)>>,
    /// What the machine says by itself: an empty text falls back to it.
    below: Vec<Option<(Value, Origin)>>,
    faults: Vec<Fault>,
    notes: Vec<Note>,
}

impl Default for Layers {
    fn default() -> Layers {
        let nothing = vec![None; SETTINGS.len()];
        let below = nothing.clone();
        Layers { given: nothing, below, faults: Vec::new(), notes: Vec::new() }
    }
}

impl Layers {
    fn read_machine(&mut self, sources: &Sources) {
        let hostname = Value::Text(sources.hostname.clone());
        let engine = sources.variables.iter().find(|(name, _)| name == "DOCKER_HOST");
        for row in SETTINGS {
            match (row.key, engine) {
                ("hostname", _) => self.give(row, hostname.clone(), Origin::Machine),
                ("docker_host", Some((name, value))) => {
                    let value = Value::Text(value.to_string_lossy().into());
                    self.give(row, value, Origin::Variable(name.to_string_lossy().into()));
                }
                _ => (),
            }
        }
    }

    fn read_file(&mut self, path: &Path, missing: Missing) {
        let text = match (fs::read_to_string(path), missing) {
            (Ok(text), _) => text,
            (Err(error), Missing::IsEmpty) if error.kind() == io::ErrorKind::NotFound => return,
            (Err(source), _) => {
                return self.faults.push(Fault::Unreadable { path: path.into(), source });
            }
        };
        let line_of = |offset: usize| 1 + text[..offset].matches('\n').count();
        let document = match DeTable::parse(&text) {
            Ok(document) => document.into_inner(),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(span.start));
                let said = error.message().to_owned();
                return self.faults.push(Fault::Syntax { path: path.into(), line, said });
            }
        };
        for (key, value) in document {
            let origin = Origin::File { path: path.into(), line: line_of(key.span().start) };
            let written = text.get(value.span()).unwrap_or_default();
            self.read_entry(key.get_ref(), value.get_ref(), written, origin);
        }
    }

    fn read_entry(&mut self, key: &str, value: &DeValue<'_>, written: &str, origin: Origin) {
        let Some(row) = table::row(key) else {
            let nearest = nearest_key(key);
            return self.faults.push(Fault::UnknownKey { key: key.into(), origin, nearest });
        };
        match plain(value) {
            Some(value) => self.give(row, value, origin),
            None => self.faults.push(Fault::WrongValue {
                key: row.key,
                origin,
                shown: written.into(),
                allowed: value::Allowed::Form(
                    "a text, a whole number, true, false or a list of texts",
                ),
            }),
        }
    }

    fn read_variables(&mut self, variables: &[(OsString, OsString)]) {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
                continue;
            };
            let key = name[VARIABLE_PREFIX.len()..].to_ascii_lowercase();
            match (table::row(&key), value.to_str()) {
                (Some(row), Some(text)) => {
                    self.give(row, Value::Text(text.into()), Origin::Variable(name.into()));
                }
                (Some(row), None) => self.faults.push(Fault::WrongValue {
                    key: row.key,
                    origin: Origin::Variable(name.into()),
                    shown: format!("{value:?}"),
                    allowed: value::Allowed::Form("UTF-8 text"),
                }),
                (None, _) if OTHER_VARIABLES.contains(&name) => (),
                (None, _) => {
                    let nearest = nearest_key(&key);
                    self.notes.push(Note::UnknownVariable { name: name.into(), nearest });
                }
            }
        }
    }

    /// A later layer's word replaces an earlier one's.
    fn give(&mut self, row: &'static Row, value: Value, origin: Origin) {
        let Some(at) = SETTINGS.iter().position(|other| other.key == row.key) else { return };
        let falls_back = value.is_empty_text() && !row.empty_counts();
        self.given[at] = if falls_back { self.below[at].clone() } else { Some((value, origin)) };
    }

    fn finish(mut self) -> Result<Loaded, Vec<Fault>> {
        let mut settings = Settings::default();
        let mut origins = vec![Origin::Default; SETTINGS.len()];
        for (at, row) in SETTINGS.iter().enumerate() {
            let Some((value, origin)) = self.given[at].take() else { continue };
            let field = match &row.slot {
                Slot::Field(field) => field,
                Slot::Ignored { why } => {
                    self.notes.push(Note::Ignored { key: row.key, origin, why });
                    continue;
                }
            };
            match (field.set)(&mut settings, &value) {
                Ok(()) => origins[at] = origin,
                Err(allowed) => {
                    let shown = if field.secret { "what it is".into() } else { value.to_string() };
                    self.faults.push(Fault::WrongValue { key: row.key, origin, shown, allowed });
                }
            }
        }
        derive(&mut settings, &mut origins);
        self.faults.extend(contradictions(&settings));
        let everyone = settings.allow_from.iter().filter(|range| range.is_everyone());
        self.notes.extend(everyone.map(|range| Note::OpenToEveryone { range: range.to_string() }));
        if self.faults.is_empty() {
            Ok(Loaded { settings, notes: self.notes, origins })
        } else {
            Err(self.faults)
        }
    }
}

/// Fills in what nobody said and what follows from other settings.
fn derive(settings: &mut Settings, origins: &mut [Origin]) {
    let in_a_cluster = settings.host_address.is_some();
    for (row, origin) in SETTINGS.iter().zip(origins) {
        if *origin != Origin::Default {
            continue;
        }
        match row.key {
            "shared_dir" if in_a_cluster => settings.shared_dir = CLUSTER_SHARED_DIR.into(),
            "local_temp_dir" if in_a_cluster => {
                settings.local_temp_dir = CLUSTER_LOCAL_TEMP_DIR.into();
            }
            "container_tar_dir" => {
                settings.container_tar_dir = settings.shared_dir.join("kohakuriver-containers");
            }
            "node_id" => {
                settings.node_id = format!("{}:{}", settings.hostname, settings.runner_port);
            }
            _ => continue,
        }
        *origin = Origin::Derived;
    }
}

/// The reference's defaults, which hold in a cluster: host and nodes must agree on them.
pub(super) const CLUSTER_SHARED_DIR: &str = "/mnt/cluster-share";
pub(super) const CLUSTER_LOCAL_TEMP_DIR: &str = "/tmp/kohakuriver";

/// Values that are fine one by one and can't work together.
fn contradictions(settings: &Settings) -> Vec<Fault> {
    let mut faults = apart::faults(settings);
    if !settings.docker_network_subnet.contains(settings.docker_network_gateway) {
        faults.push(Fault::GatewayOutside {
            gateway: "docker_network_gateway",
            subnet: "docker_network_subnet",
        });
    }
    if !settings.vm_bridge_subnet.contains(settings.vm_bridge_gateway) {
        let (gateway, subnet) = ("vm_bridge_gateway", "vm_bridge_subnet");
        faults.push(Fault::GatewayOutside { gateway, subnet });
    }
    faults
}

/// A TOML value of one of our four kinds.
fn plain(value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::String(text) => Some(Value::Text(text.to_string())),
        DeValue::Boolean(flag) => Some(Value::Flag(*flag)),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Number)
        }
        DeValue::Array(entries) => {
            let texts = entries.iter().map(|entry| entry.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<String>>>().map(Value::List)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn nearest_key(key: &str) -> Option<&'static str> {
    nearest::nearest(&key.to_ascii_lowercase(), SETTINGS.iter().map(|row| row.key))
}

#[cfg(test)]
mod test {
    use super::*;

    /// A configuration file with `text`, and the sources that read it.
    fn with_file(text: &str) -> (tempfile::TempDir, Sources) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("runner.toml");
        fs::write(&path, text).unwrap();
        let sources =
            Sources { hostname: "node7".into(), file: File::Named(path), ..Sources::default() };
        (place, sources)
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn origin(loaded: &Loaded, key: &str) -> String {
        let at = SETTINGS.iter().position(|row| row.key == key).unwrap();
        loaded.origins[at].to_string()
    }

    fn said(faults: Vec<Fault>) -> String {
        faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nothing_said_is_standalone_with_the_machines_name() {
        let (_place, sources) = with_file("");
        let loaded = load(&sources).unwrap();
        assert_eq!(
            loaded.settings,
            Settings {
                hostname: "node7".into(),
                node_id: "node7:8001".into(),
                ..Settings::default()
            }
        );
        assert_eq!(origin(&loaded, "hostname"), "this machine");
        assert_eq!(origin(&loaded, "node_id"), "derived");
        assert_eq!(origin(&loaded, "runner_port"), "default");
    }

    #[test]
    fn file_wins_over_default_and_is_named_with_its_line() {
        let (_place, sources) = with_file("# ours\nhost_port = 1\nrunner_port = 9001\n");
        let loaded = load(&sources).unwrap();
        assert_eq!(loaded.settings.runner_port, 9001);
        assert!(origin(&loaded, "runner_port").ends_with("runner.toml:3"));
    }

    #[test]
    fn environment_wins_over_file() {
        let (_place, mut sources) = with_file("runner_port = 9001\n");
        sources.variables = variables(&[("RIVER_RUNNER_PORT", "9002")]);
        let loaded = load(&sources).unwrap();
        assert_eq!(loaded.settings.runner_port, 9002);
        assert_eq!(origin(&loaded, "runner_port"), "environment RIVER_RUNNER_PORT");
    }

    #[test]
    fn flag_wins_over_environment() {
        let (_place, mut sources) = with_file("runner_port = 9001\n");
        sources.variables = variables(&[("RIVER_RUNNER_PORT", "9002")]);
        sources.flags = vec![("runner_port", "9003".into())];
        let loaded = load(&sources).unwrap();
        assert_eq!(loaded.settings.runner_port, 9003);
        assert_eq!(origin(&loaded, "runner_port"), "--runner-port");
    }

    #[test]
    fn empty_variable_takes_back_what_the_file_says() {
        let (_place, mut sources) = with_file(
            "host_address = \"10.0.0.1\"\nhostname = \"a\"\nallow_from = [\"10.0.0.0/8\"]\n",
        );
        sources.variables = variables(&[
            ("RIVER_HOST_ADDRESS", ""),
            ("RIVER_HOSTNAME", ""),
            ("RIVER_ALLOW_FROM", ""),
        ]);
        let settings = load(&sources).unwrap().settings;
        assert_eq!(settings.host_address, None);
        assert_eq!(settings.shared_dir, Path::new("/var/lib/river-runner/shared"));
        assert_eq!(settings.hostname, "node7");
        assert_eq!(settings.allow_from, []);
    }

    #[test]
    fn host_moves_the_shared_directories_to_the_clusters_places() {
        let (_place, sources) = with_file("host_address = \"10.0.0.1\"\n");
        let loaded = load(&sources).unwrap();
        assert_eq!(loaded.settings.shared_dir, Path::new("/mnt/cluster-share"));
        assert_eq!(loaded.settings.local_temp_dir, Path::new("/tmp/kohakuriver"));
        let tarballs = Path::new("/mnt/cluster-share/kohakuriver-containers");
        assert_eq!(loaded.settings.container_tar_dir, tarballs);
        assert_eq!(origin(&loaded, "shared_dir"), "derived");
    }

    #[test]
    fn empty_api_socket_is_none() {
        let (_place, sources) = with_file("api_socket = \"\"\n");
        assert_eq!(load(&sources).unwrap().settings.api_socket, None);
    }

    #[test]
    fn engine_of_the_environment_is_taken_unless_a_setting_says_another() {
        let (_place, mut sources) = with_file("");
        sources.variables = variables(&[("DOCKER_HOST", "unix:///run/user/7/docker.sock")]);
        let socket = load(&sources).unwrap().settings.docker_socket;
        assert_eq!(socket, Path::new("/run/user/7/docker.sock"));
        sources.flags = vec![("docker_host", "unix:///run/other.sock".into())];
        let socket = load(&sources).unwrap().settings.docker_socket;
        assert_eq!(socket, Path::new("/run/other.sock"));
    }

    #[test]
    fn engine_of_the_environment_behind_tcp_is_refused_and_not_passed_over() {
        let (_place, mut sources) = with_file("");
        sources.variables = variables(&[("DOCKER_HOST", "tcp://10.0.0.1:2375")]);
        assert!(said(load(&sources).unwrap_err()).starts_with("environment DOCKER_HOST: "));
    }

    #[test]
    fn unknown_key_is_refused_with_its_line_and_the_nearest_name() {
        let (_place, sources) = with_file("\nshare_dir = \"/srv\"\n");
        let said = said(load(&sources).unwrap_err());
        assert!(said.contains("runner.toml:2: there is no setting share_dir"), "{said}");
        assert!(said.ends_with("did you mean shared_dir?"), "{said}");
    }

    #[test]
    fn unknown_variable_is_a_note_and_the_command_lines_own_are_none() {
        let (_place, mut sources) = with_file("");
        sources.variables =
            variables(&[("RIVER_HOST_ADRESS", "x"), ("RIVER_URL", "x"), ("RIVER_CONFIG", "x")]);
        let notes = load(&sources).unwrap().notes;
        assert_eq!(notes.len(), 1);
        assert!(notes[0].to_string().ends_with("did you mean RIVER_HOST_ADDRESS?"));
    }

    #[test]
    fn wrong_value_names_key_source_and_what_is_allowed() {
        let (_place, mut sources) = with_file("runner_port = 70000\n");
        sources.variables = variables(&[("RIVER_TASKS_PRIVILEGED", "perhaps")]);
        let said = said(load(&sources).unwrap_err());
        assert!(
            said.contains(
                "runner.toml:1: runner_port can't be 70000: it must be a whole number from 1 to 65535"
            ),
            "{said}"
        );
        assert!(said.contains("environment RIVER_TASKS_PRIVILEGED: tasks_privileged can't be"));
    }

    #[test]
    fn wrong_token_is_not_printed() {
        let (_place, sources) = with_file("api_token = \"open sesame\"\n");
        assert!(!said(load(&sources).unwrap_err()).contains("sesame"));
    }

    #[test]
    fn value_of_no_kind_is_refused_as_it_is_written() {
        let (_place, sources) = with_file("heartbeat_interval_seconds = 2.5\n");
        let said = said(load(&sources).unwrap_err());
        assert!(said.contains("heartbeat_interval_seconds can't be 2.5"), "{said}");
    }

    #[test]
    fn broken_toml_names_its_line() {
        let (_place, sources) = with_file("runner_port = 1\nhost_port = = 2\n");
        assert!(said(load(&sources).unwrap_err()).contains("runner.toml:2: "));
    }

    #[test]
    fn named_file_that_is_missing_is_refused() {
        let sources =
            Sources { file: File::Named("/nonexistent/runner.toml".into()), ..Sources::default() };
        assert!(matches!(load(&sources).unwrap_err()[..], [Fault::Unreadable { .. }, ..]));
    }

    #[test]
    fn keys_the_reference_leaves_unused_are_ignored_with_a_note() {
        let (_place, sources) =
            with_file("numactl_path = \"/usr/bin/numactl\"\nrunner_user = \"\"\n");
        let notes = load(&sources).unwrap().notes;
        assert!(matches!(notes[..], [Note::Ignored { key: "numactl_path", .. }]));
    }

    #[test]
    fn gateway_outside_its_network_is_refused() {
        let (_place, sources) = with_file("docker_network_subnet = \"172.31.0.0/16\"\n");
        assert!(matches!(load(&sources).unwrap_err()[..], [Fault::GatewayOutside { .. }]));
    }

    #[test]
    fn everybody_allowed_is_a_note() {
        let (_place, sources) = with_file("allow_from = [\"0.0.0.0/0\"]\n");
        assert!(matches!(load(&sources).unwrap().notes[..], [Note::OpenToEveryone { .. }]));
    }

    #[test]
    fn printed_defaults_read_back_as_the_defaults() {
        let keys = commented_defaults();
        let keys = keys.lines().filter(|line| !line.starts_with("# "));
        let keys: Vec<_> = keys.map(|line| line.strip_prefix('#').unwrap_or(line)).collect();
        let (_place, from_printed) = with_file(&keys.join("\n"));
        let (_place, from_nothing) = with_file("");
        let fields = SETTINGS.iter().filter(|row| matches!(row.slot, Slot::Field(_)));
        assert_eq!(keys.iter().filter(|line| line.contains(" = ")).count(), fields.count());
        assert_eq!(load(&from_printed).unwrap().settings, load(&from_nothing).unwrap().settings);
    }

    #[test]
    fn settings_in_force_read_back_as_they_are_and_hide_the_token() {
        let (_place, sources) =
            with_file("api_token = \"sesame\"\nallow_from = [\"10.0.0.0/8\"]\n");
        let mut loaded = load(&sources).unwrap();
        let printed = in_force(&loaded);
        assert!(!printed.contains("sesame"));
        assert!(printed.contains("# api_token is set"));
        let (_place, from_printed) = with_file(&printed);
        loaded.settings.api_token = None;
        assert_eq!(load(&from_printed).unwrap().settings, loaded.settings);
    }

    #[test]
    fn imported_file_loads() {
        let imported = import::import("HOST_ADDRESS = '10.0.0.1'\n", "runner_config.py");
        let (_place, sources) = with_file(&imported.toml);
        let settings = load(&sources).unwrap().settings;
        assert_eq!(settings.host_address.as_deref(), Some("10.0.0.1"));
        assert_eq!(settings.shared_dir, Path::new("/mnt/cluster-share"));
    }
}
