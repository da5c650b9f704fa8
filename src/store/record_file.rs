//! What a record looks like as a file, and what is wrong with a file that is none. Reading believes
//! nothing: it never waits for a peer, follows no link, and has a bound.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::limits::RECORD_BYTES_MAX;
use crate::model::ids::TaskId;
use crate::model::task::TaskRecord;

/// The version of the files we write. A file without one is of the first, which did not say it.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    #[serde(flatten)]
    record: &'a TaskRecord,
}

/// Read before the rest: of a later version nothing else is known.
#[derive(Deserialize)]
struct Head {
    #[serde(default = "first_format")]
    format: u32,
}

fn first_format() -> u32 {
    FORMAT
}

/// What is wrong with a file in a record's place. Its word ends the name of the file that was set
/// aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Empty,
    /// Its end is missing.
    Torn,
    /// Not JSON, or not of a record.
    Garbage,
    /// Written by a later version of this program.
    FutureVersion,
    /// The record of another task than its name says, or a name that is no id.
    WrongId,
    /// A directory, a link, a pipe, a device.
    NotAFile,
    /// Longer than any record.
    TooLarge,
    /// The file system does not give it.
    Unreadable,
}

impl Flaw {
    pub fn word(self) -> &'static str {
        match self {
            Flaw::Empty => "empty",
            Flaw::Torn => "torn",
            Flaw::Garbage => "garbage",
            Flaw::FutureVersion => "future-version",
            Flaw::WrongId => "wrong-id",
            Flaw::NotAFile => "not-a-file",
            Flaw::TooLarge => "too-large",
            Flaw::Unreadable => "unreadable",
        }
    }
}

/// A file that is no record, and what exactly is wrong, for the log.
#[derive(Debug)]
pub struct Flawed {
    pub flaw: Flaw,
    detail: String,
}

impl Flawed {
    pub fn new(flaw: Flaw, detail: impl ToString) -> Flawed {
        Flawed { flaw, detail: detail.to_string() }
    }
}

impl fmt::Display for Flawed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.flaw.word(), self.detail)
    }
}

/// Why there is no record.
#[derive(Debug)]
pub enum Unread {
    Missing,
    Flawed(Flawed),
    /// The system had no file descriptor or memory left: this says nothing about the file.
    Refused(io::Error),
}

/// The bytes of `record`'s file.
///
/// # Errors
/// A path in it is no UTF-8.
pub fn encode(record: &TaskRecord) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Written { format: FORMAT, record })
}

/// Reads the record of task `id`; `None` is a name that is no id.
///
/// # Errors
/// See [`Unread`].
pub fn read(path: &Path, id: Option<TaskId>) -> Result<TaskRecord, Unread> {
    let content = content_of(path)?;
    let record = parse(&content).map_err(Unread::Flawed)?;
    match id {
        Some(id) if id == record.spec.id => Ok(record),
        _ => {
            let detail = format!("it holds task {}", record.spec.id);
            Err(Unread::Flawed(Flawed::new(Flaw::WrongId, detail)))
        }
    }
}

fn content_of(path: &Path) -> Result<Vec<u8>, Unread> {
    // Looked at before it is opened: to open a device can have effects.
    if !fs::symlink_metadata(path).map_err(not_read)?.is_file() {
        return Err(Unread::Flawed(Flawed::new(Flaw::NotAFile, "no regular file")));
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = file.map_err(not_read)?;
    let bytes = file.metadata().map_err(not_read)?.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(Unread::Flawed(Flawed::new(Flaw::TooLarge, format!("{bytes} bytes"))));
    }
    // It may have grown since.
    read_up_to(file, bytes, RECORD_BYTES_MAX).map_err(not_read)
}

fn read_up_to(file: File, expected: u64, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    file.take(bytes_max).read_to_end(&mut content)?;
    Ok(content)
}

fn not_read(error: io::Error) -> Unread {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => Unread::Missing,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR) => {
            Unread::Refused(error)
        }
        // It became a link, or a socket, after we looked.
        Some(Errno::ELOOP | Errno::ENXIO) => Unread::Flawed(Flawed::new(Flaw::NotAFile, error)),
        _ => Unread::Flawed(Flawed::new(Flaw::Unreadable, error)),
    }
}

fn parse(content: &[u8]) -> Result<TaskRecord, Flawed> {
    if content.is_empty() {
        return Err(Flawed::new(Flaw::Empty, "0 bytes"));
    }
    let Head { format } = serde_json::from_slice(content).map_err(flawed)?;
    if format != FORMAT {
        let flaw = if format > FORMAT { Flaw::FutureVersion } else { Flaw::Garbage };
        let detail = format!("format {format}; this version knows {FORMAT}");
        return Err(Flawed::new(flaw, detail));
    }
    serde_json::from_slice(content).map_err(flawed)
}

fn flawed(error: serde_json::Error) -> Flawed {
    Flawed::new(if error.is_eof() { Flaw::Torn } else { Flaw::Garbage }, error)
}
