//! Why a command could not do its work.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::client::ClientError;
use super::cp::CopyFault;
use super::follow::FollowError;
use super::vps::VpsFault;
use crate::app::config::Fault;

#[derive(Debug)]
pub enum Failure {
    /// All that is wrong with the configuration.
    Config(Vec<Fault>),
    /// A URL that can't be called.
    Url(String),
    Client(ClientError),
    /// A file that was named can't be read.
    Unreadable {
        path: PathBuf,
        source: io::Error,
    },
    /// A file that was to be written can't be.
    Unwritable {
        path: PathBuf,
        source: io::Error,
    },
    Copy(CopyFault),
    Vps(VpsFault),
    /// A signal told us to leave: our exit code, and what is left undone.
    Left {
        code: u8,
        text: String,
    },
    /// Stdin can't be read, or its terminal is gone.
    Input(io::Error),
    /// The runner has no terminal for us; its words.
    Terminal(String),
    /// The runner closed a terminal whose shell had not ended.
    Hangup {
        code: u16,
        reason: String,
    },
    /// Stdout is closed or full, or the process may not have what it needs.
    Output(io::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(error)
    }
}

impl From<VpsFault> for Failure {
    fn from(fault: VpsFault) -> Failure {
        Failure::Vps(fault)
    }
}

impl From<FollowError> for Failure {
    fn from(error: FollowError) -> Failure {
        match error {
            FollowError::Runner(error) => Failure::Client(error),
            FollowError::Sink(error) => Failure::Output(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Config(faults) => {
                f.write_str("the configuration is not usable")?;
                faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
            Failure::Url(url) => {
                write!(f, "{url} is no runner's URL: it must be http://HOST:PORT or unix:///PATH")
            }
            Failure::Client(error) => error.fmt(f),
            Failure::Unreadable { path, source } => {
                write!(f, "{}: can't be read: {source}", path.display())
            }
            Failure::Unwritable { path, source } => {
                write!(f, "{}: can't be written: {source}", path.display())
            }
            Failure::Copy(fault) => fault.fmt(f),
            Failure::Vps(fault) => f.write_str(&without_controls(&fault.to_string())),
            Failure::Left { text, .. } => f.write_str(text),
            Failure::Input(error) => write!(f, "input can't be read: {error}"),
            Failure::Terminal(text) => f.write_str(&without_controls(text)),
            Failure::Hangup { code, reason } if reason.is_empty() => {
                write!(f, "the runner closed the terminal (code {code})")
            }
            Failure::Hangup { code, reason } => {
                let reason = without_controls(reason);
                write!(f, "the runner closed the terminal: {reason} (code {code})")
            }
            Failure::Output(error) => write!(f, "output can't be written: {error}"),
        }
    }
}

/// A terminal would obey control characters in what a container may have a say in.
fn without_controls(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}
