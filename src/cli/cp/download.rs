//! From a task to this machine.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::landing::Landing;
use super::{Copy, CopyFault};
use crate::cli::failure::Failure;
use crate::cli::files::{Dotted, Entry, Kind, Piece};
use crate::cli::place::Place;
use crate::cli::quote;

/// The mode of a new file where the task's says nothing; the umask takes its part, as ever.
const USUAL_MODE: u32 = 0o666;

impl Copy {
    /// Takes a file or a directory to `to`, or into it if it is a directory.
    pub(super) fn take(&mut self, from: &Place, to: &Path) -> Result<(), Failure> {
        let entry = self.runner.stat(from)?;
        let target = match from.name() {
            Some(name) if to.is_dir() => to.join(name),
            Some(_) | None => to.into(),
        };
        match entry.kind {
            Kind::Directory if self.recursive => self.take_tree(from, &target),
            Kind::Directory => Err(CopyFault::Directory { what: from.to_string() }.into()),
            // What a symlink leads to is found out by reading it.
            Kind::File | Kind::Symlink | Kind::Other => self.take_file(from, &entry, &target),
        }
    }

    pub(super) fn take_to_stdout(&self, from: &Place) -> Result<(), Failure> {
        let first = self.runner.read(from, 0)?;
        self.download(from, first, None, &mut io::stdout(), Failure::Output)
    }

    /// Copies a file's bytes in pieces, of which the first is there; `size` is for those who watch.
    fn download(
        &self,
        from: &Place,
        first: Piece,
        size: Option<u64>,
        sink: &mut dyn Write,
        failed: impl Fn(io::Error) -> Failure,
    ) -> Result<(), Failure> {
        let (mut piece, mut offset) = (first, 0);
        loop {
            self.progress.clear();
            sink.write_all(&piece.bytes).map_err(&failed)?;
            offset += piece.bytes.len() as u64;
            if piece.is_last {
                return sink.flush().map_err(&failed);
            }
            self.progress.show(&how_far(&from.to_string(), offset, size));
            piece = self.runner.read(from, offset)?;
        }
    }

    fn take_file(&self, from: &Place, entry: &Entry, target: &Path) -> Result<(), Failure> {
        let failed = |source| Failure::Unwritable { path: target.into(), source };
        let (mode, size) = match entry.kind {
            Kind::File => (mode(&entry.permissions), u64::try_from(entry.size).ok()),
            Kind::Directory | Kind::Symlink | Kind::Other => (USUAL_MODE, None),
        };
        // Before anything is touched here: the runner may refuse.
        let first = self.runner.read(from, 0)?;
        let mut landing = Landing::open(target, mode, &self.unfinished).map_err(failed)?;
        self.download(from, first, size, &mut landing, failed)?;
        landing.finish().map_err(failed)
    }

    /// Symlinks stay out: where they lead is known only inside the task.
    fn take_tree(&mut self, from: &Place, target: &Path) -> Result<(), Failure> {
        match fs::create_dir(target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && target.is_dir() => (),
            made => made.map_err(|source| Failure::Unwritable { path: target.into(), source })?,
        }
        let mut cursor: Option<String> = None;
        loop {
            let page = self.runner.list(from, Dotted::Shown, cursor.as_deref())?;
            for entry in &page.entries {
                let place = from.join(&entry.name);
                if let Err(failure) = self.take_entry(&place, entry, target) {
                    self.leave_out(&place.to_string(), failure)?;
                }
            }
            match page.cursor {
                Some(next) if !page.entries.is_empty() => cursor = Some(next),
                Some(_) | None => return Ok(()),
            }
        }
    }

    fn take_entry(&mut self, place: &Place, entry: &Entry, into: &Path) -> Result<(), Failure> {
        // Whoever answers for the task may not choose where we write.
        let is_odd = entry.name.contains(['/', '\0']) || place.name() != Some(&entry.name);
        if is_odd {
            return Err(CopyFault::OddName.into());
        }
        let target = into.join(&entry.name);
        match entry.kind {
            Kind::File => self.take_file(place, entry, &target),
            Kind::Directory => self.take_tree(place, &target),
            Kind::Symlink | Kind::Other => Err(CopyFault::Special.into()),
        }
    }
}

/// One line for those who watch.
fn how_far(what: &str, done: u64, size: Option<u64>) -> String {
    let (what, done_mib) = (quote::shown(what), done >> 20);
    match size {
        Some(size) if size >= done => {
            format!("{what}: {done_mib} of {} MiB", size.div_ceil(1 << 20))
        }
        Some(_) | None => format!("{what}: {done_mib} MiB"),
    }
}

/// `rwxr-xr-x` as the number it is.
fn mode(permissions: &str) -> u32 {
    if permissions.len() != 9 {
        return USUAL_MODE;
    }
    permissions.bytes().fold(0, |mode, letter| mode << 1 | u32::from(letter != b'-'))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn permissions_are_read_back_as_a_mode() {
        assert_eq!(mode("rwxr-xr-x"), 0o755);
        assert_eq!(mode("rw-------"), 0o600);
        assert_eq!(mode("what"), USUAL_MODE);
    }
}
