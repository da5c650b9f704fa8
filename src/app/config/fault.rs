//! What is wrong with a configuration, and what is only worth a word. Made by `load`; printed by
//! the command line.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::value::Allowed;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Made of other settings, as its row's paragraph says.
    Derived,
    /// Asked of the operating system.
    Machine,
    File {
        path: PathBuf,
        line: usize,
    },
    Variable(String),
    Flag(String),
}

/// A reason not to start.
#[derive(Debug)]
pub enum Fault {
    Unreadable {
        path: PathBuf,
        source: io::Error,
    },
    Syntax {
        path: PathBuf,
        line: usize,
        said: String,
    },
    UnknownKey {
        key: String,
        origin: Origin,
        nearest: Option<&'static str>,
    },
    WrongValue {
        key: &'static str,
        origin: Origin,
        shown: String,
        allowed: Allowed,
    },
    GatewayOutside {
        gateway: &'static str,
        subnet: &'static str,
    },
    /// Containers could reach what lies there.
    Exposed {
        what: &'static str,
        path: PathBuf,
        within: &'static str,
        open: PathBuf,
    },
    /// A directory that containers write would lie among the records.
    AmongRecords {
        what: &'static str,
        path: PathBuf,
        state_dir: PathBuf,
    },
}

/// Something the operator should hear of; the configuration works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    UnknownVariable { name: String, nearest: Option<&'static str> },
    Ignored { key: &'static str, origin: Origin, why: &'static str },
    OpenToEveryone { range: String },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Derived => f.write_str("derived"),
            Origin::Machine => f.write_str("this machine"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "--{name}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreadable { path, source } => {
                write!(f, "{}: can't be read: {source}", path.display())
            }
            Fault::Syntax { path, line, said } => write!(f, "{}:{line}: {said}", path.display()),
            Fault::UnknownKey { key, origin, nearest } => {
                write!(f, "{origin}: there is no setting {key}{}", DidYouMean(*nearest))
            }
            Fault::WrongValue { key, origin, shown, allowed } => {
                write!(f, "{origin}: {key} can't be {shown}: it must be {allowed}")
            }
            Fault::GatewayOutside { gateway, subnet } => {
                write!(f, "{gateway} must be an address in {subnet}")
            }
            Fault::Exposed { what, path, within, open } => write!(
                f,
                "{what} ({}) must not lie in {within} ({}): containers get at what is there",
                path.display(),
                open.display()
            ),
            Fault::AmongRecords { what, path, state_dir } => write!(
                f,
                "{what} ({}) must not lie in state_dir ({}), except in its shared or local: \
                 containers can write there, and records lie around it",
                path.display(),
                state_dir.display()
            ),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Fault::Unreadable { source, .. } => Some(source),
            Fault::Syntax { .. }
            | Fault::UnknownKey { .. }
            | Fault::WrongValue { .. }
            | Fault::GatewayOutside { .. }
            | Fault::Exposed { .. }
            | Fault::AmongRecords { .. } => None,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::UnknownVariable { name, nearest } => {
                write!(f, "environment {name} is no setting and has no effect")?;
                match nearest {
                    Some(key) => {
                        write!(f, "; did you mean {}?", super::table::variable_of(key))
                    }
                    None => Ok(()),
                }
            }
            Note::Ignored { key, origin, why } => write!(f, "{origin}: {key} is ignored: {why}"),
            Note::OpenToEveryone { range } => {
                write!(f, "allow_from holds {range}: everybody who reaches the port may run tasks")
            }
        }
    }
}

struct DidYouMean(Option<&'static str>);

impl fmt::Display for DidYouMean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, "; did you mean {key}?"),
            None => f.write_str("; `river-runner config default` lists them all"),
        }
    }
}
