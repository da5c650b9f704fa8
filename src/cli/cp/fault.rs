//! What is wrong with a copy before or beside the runner's own words.

use std::fmt;

use crate::cli::{failure::Failure, quote};
use crate::limits;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFault {
    /// Neither side is in a task.
    NoTask,
    TwoTasks,
    /// A directory without `-r`.
    Directory {
        what: String,
    },
    /// `TASK:PATH/` that is no directory.
    NoDirectory {
        what: String,
    },
    /// More than the runner takes at once.
    TooLarge {
        what: String,
    },
    /// Neither a file nor a directory.
    Special,
    /// A name that a file on the other side can't have.
    OddName,
    /// The runner has written less than it was sent.
    Short {
        sent: u64,
        written: u64,
    },
}

impl From<CopyFault> for Failure {
    fn from(fault: CopyFault) -> Failure {
        Failure::Copy(fault)
    }
}

impl fmt::Display for CopyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyFault::NoTask => f.write_str("one of the two must be TASK:PATH"),
            CopyFault::TwoTasks => f.write_str(
                "only one of the two can be TASK:PATH; from task to task: \
                 river-runner cp TASK:PATH - | river-runner cp - TASK:PATH",
            ),
            CopyFault::Directory { what } => {
                write!(f, "{} is a directory; -r copies those", quote::shown(what))
            }
            CopyFault::NoDirectory { what } => {
                write!(f, "there is no directory {}", quote::shown(what))
            }
            CopyFault::TooLarge { what } => {
                let most = limits::CLI_UPLOAD_BYTES_MAX >> 20;
                let what = quote::shown(what);
                write!(
                    f,
                    "{what} is larger than {most} MiB, the most that a runner takes; \
                     put it into the shared directory, or send it in parts (split -b {most}M)"
                )
            }
            CopyFault::Special => f.write_str("it is neither a file nor a directory"),
            CopyFault::OddName => f.write_str("no file on the other side can have this name"),
            CopyFault::Short { sent, written } => {
                write!(f, "the runner wrote {written} of {sent} bytes")
            }
        }
    }
}
