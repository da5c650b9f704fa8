//! From this machine to a task.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::{Copy, CopyFault};
use crate::cli::client::ClientError;
use crate::cli::failure::Failure;
use crate::cli::files::{Dotted, Kind};
use crate::cli::place::Place;
use crate::cli::quote;
use crate::limits;

impl Copy {
    /// Brings a file or a directory to `to`, or into it if it is a directory.
    pub(super) fn bring(&mut self, from: &Path, to: &Place) -> Result<(), Failure> {
        let metadata = fs::metadata(from).map_err(|source| unreadable(from, source))?;
        if metadata.is_dir() && !self.recursive {
            return Err(CopyFault::Directory { what: from.display().to_string() }.into());
        }
        let is_into = self.is_directory(to)?;
        let target = match (from.file_name(), is_into) {
            (Some(name), true) => to.join(name.to_str().ok_or(CopyFault::OddName)?),
            (_, _) => to.clone(),
        };
        if metadata.is_dir() {
            return self.bring_tree(from, &target);
        }
        if to.path.ends_with('/') && !is_into {
            return Err(CopyFault::NoDirectory { what: to.to_string() }.into());
        }
        self.bring_file(from, &target)
    }

    pub(super) fn bring_stdin(&mut self, to: &Place) -> Result<(), Failure> {
        let bytes = read_whole(&mut io::stdin()).map_err(Failure::Input)?;
        let bytes = bytes.ok_or(CopyFault::TooLarge { what: "stdin".into() })?;
        self.write(to, &bytes)
    }

    fn bring_file(&mut self, from: &Path, to: &Place) -> Result<(), Failure> {
        let failed = |source| unreadable(from, source);
        let too_large = || CopyFault::TooLarge { what: from.display().to_string() };
        let mut file = File::open(from).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > limits::CLI_UPLOAD_BYTES_MAX {
            return Err(too_large().into());
        }
        let bytes = read_whole(&mut file).map_err(failed)?.ok_or_else(too_large)?;
        self.write(to, &bytes)
    }

    fn write(&mut self, to: &Place, bytes: &[u8]) -> Result<(), Failure> {
        let sent = bytes.len() as u64;
        if sent > limits::CLI_PIECE_BYTES {
            let what = quote::shown(&to.to_string());
            self.progress.show(&format!("{what}: {} MiB on their way", sent >> 20));
        }
        let written = self.runner.write(to, bytes)?;
        if written == sent { Ok(()) } else { Err(CopyFault::Short { sent, written }.into()) }
    }

    /// Symlinks stay out: here they may lead anywhere.
    fn bring_tree(&mut self, from: &Path, to: &Place) -> Result<(), Failure> {
        let entries = fs::read_dir(from).map_err(|source| unreadable(from, source))?;
        self.runner.mkdir(to)?;
        for entry in entries {
            let entry = entry.map_err(|source| unreadable(from, source))?;
            if let Err(failure) = self.bring_entry(&entry, to) {
                self.leave_out(&entry.path().to_string_lossy(), failure)?;
            }
        }
        Ok(())
    }

    fn bring_entry(&mut self, entry: &fs::DirEntry, into: &Place) -> Result<(), Failure> {
        let path = entry.path();
        let kind = entry.file_type().map_err(|source| unreadable(&path, source))?;
        let name = entry.file_name();
        let target = into.join(name.to_str().ok_or(CopyFault::OddName)?);
        if kind.is_dir() {
            self.bring_tree(&path, &target)
        } else if kind.is_file() {
            self.bring_file(&path, &target)
        } else {
            Err(CopyFault::Special.into())
        }
    }

    /// Whether a place in a task is a directory, if need be behind a symlink.
    fn is_directory(&self, place: &Place) -> Result<bool, Failure> {
        match self.runner.stat(place) {
            Ok(entry) => Ok(match entry.kind {
                Kind::Directory => true,
                Kind::Symlink => self.runner.list(place, Dotted::Hidden, None).is_ok(),
                Kind::File | Kind::Other => false,
            }),
            // A task that is not known says so again when it is written to.
            Err(ClientError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// All bytes, or `None` if they are too many.
fn read_whole(from: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let count = from.take(limits::CLI_UPLOAD_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((count as u64 <= limits::CLI_UPLOAD_BYTES_MAX).then_some(bytes))
}

fn unreadable(path: &Path, source: io::Error) -> Failure {
    Failure::Unreadable { path: path.into(), source }
}
