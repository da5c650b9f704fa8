//! What can go wrong with an Engine call. The Engine's status number decides, never its text; the
//! text is kept for people.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use crate::limits;

/// A failed Engine call. `call` is the call's name as in the log: `start container`.
#[derive(Debug)]
pub enum DockerError {
    /// Nobody listens on the socket, or we may not use it.
    Connect { socket: PathBuf, source: io::Error },
    /// The Engine answered no. `status` is HTTP's; 200 where a stream that had begun well ended
    /// with an error (pull, load).
    Refused { call: &'static str, status: u16, said: String },
    /// No whole answer within `after`. The effect may still come.
    TimedOut { call: &'static str, after: Duration },
    /// The connection ended inside the call. The effect may have come.
    Broken { call: &'static str, source: io::Error },
    /// The answer is not what an Engine says.
    Garbage { call: &'static str, source: Box<dyn Error + Send + Sync> },
    /// The answer, or the file asked for, is larger than the caller takes.
    TooLarge { call: &'static str, bytes_max: usize },
    /// What the caller calls a name can't be one. The Engine was not asked.
    BadName { call: &'static str },
    /// The Engine's range of API versions and ours do not meet.
    Foreign { api_min: String, api_max: String },
    /// Too many calls are in flight already. The Engine was not asked.
    Busy { call: &'static str },
    /// Our own stop flag ended the call.
    Stopped { call: &'static str },
}

impl DockerError {
    /// The thing named in the call does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, DockerError::Refused { status: 404, .. })
    }

    /// The thing is not in a state for this: the name is taken, it does not run, it is in use.
    pub fn is_conflict(&self) -> bool {
        matches!(self, DockerError::Refused { status: 409, .. })
    }

    /// The Engine as such, or our load on it, is in trouble, not this call: the same call is worth
    /// making again later. Whatever it was to do may have been done.
    pub fn is_engine_trouble(&self) -> bool {
        match self {
            DockerError::Connect { .. }
            | DockerError::TimedOut { .. }
            | DockerError::Broken { .. }
            | DockerError::Busy { .. }
            | DockerError::Stopped { .. } => true,
            DockerError::Refused { status, .. } => matches!(status, 502..=504),
            DockerError::Garbage { .. }
            | DockerError::TooLarge { .. }
            | DockerError::BadName { .. }
            | DockerError::Foreign { .. } => false,
        }
    }

    /// It says nothing about the effect: the Engine's trouble, or an answer that nobody can read. Of a
    /// create and a start, whose effect must not be missed: the caller looks what is before it makes
    /// the call again. Elsewhere an unreadable answer is final, or it would be asked for for ever.
    pub fn is_unclear(&self) -> bool {
        self.is_engine_trouble() || matches!(self, DockerError::Garbage { .. })
    }

    /// Time ran out. The effect may still come.
    pub fn is_timeout(&self) -> bool {
        matches!(self, DockerError::TimedOut { .. })
    }

    /// The Engine's own words, where it said something.
    pub fn said(&self) -> Option<&str> {
        match self {
            DockerError::Refused { said, .. } => Some(said),
            _ => None,
        }
    }
}

/// Cuts the Engine's text to what we keep, between characters.
pub(super) fn cut_said(mut said: String) -> String {
    let mut end = said.len().min(limits::ENGINE_SAID_BYTES_MAX);
    while !said.is_char_boundary(end) {
        end -= 1;
    }
    said.truncate(end);
    said
}

impl fmt::Display for DockerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DockerError::Connect { socket, .. } => {
                write!(f, "no Docker Engine at {}", socket.display())
            }
            DockerError::Refused { call, status, said } => {
                write!(f, "the Engine refused to {call} ({status}): {said}")
            }
            DockerError::TimedOut { call, after } => {
                write!(f, "the Engine did not {call} within {} s", after.as_secs_f32())
            }
            DockerError::Broken { call, .. } => {
                write!(f, "the connection to the Engine broke ({call})")
            }
            DockerError::Garbage { call, .. } => {
                write!(f, "the Engine's answer is unreadable ({call})")
            }
            DockerError::TooLarge { call, bytes_max } => {
                write!(f, "more than {bytes_max} bytes ({call})")
            }
            DockerError::BadName { call } => write!(f, "not a name Docker can have ({call})"),
            DockerError::Foreign { api_min, api_max } => {
                write!(f, "the Engine speaks API {api_min} to {api_max}, which we do not")
            }
            DockerError::Busy { call } => write!(f, "too many Engine calls in flight ({call})"),
            DockerError::Stopped { call } => write!(f, "stopped ({call})"),
        }
    }
}

impl Error for DockerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            DockerError::Connect { source, .. } | DockerError::Broken { source, .. } => {
                Some(source)
            }
            DockerError::Garbage { source, .. } => Some(&**source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn refused(status: u16) -> DockerError {
        DockerError::Refused { call: "start container", status, said: String::new() }
    }

    #[test]
    fn only_the_status_number_decides_what_a_refusal_means() {
        assert!(refused(404).is_missing() && !refused(404).is_conflict());
        assert!(refused(409).is_conflict() && !refused(409).is_engine_trouble());
        assert!(refused(503).is_engine_trouble() && !refused(500).is_engine_trouble());
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let said = "ä".repeat(limits::ENGINE_SAID_BYTES_MAX);
        let cut = cut_said(format!("x{said}"));
        assert_eq!(cut.len(), limits::ENGINE_SAID_BYTES_MAX - 1);
    }
}
