//! Where the log goes: stderr, or a file that is opened anew on SIGHUP, so that it can be renamed
//! under us (logrotate) without losing a line. A disk that is full costs lines, which are counted,
//! and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::metrics;

/// Its group may read it; lines name commands and images of users.
const MODE: u32 = 0o640;

/// The log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// The last line was written in part: what follows begins on a line of its own.
    is_torn: bool,
}

impl LogFile {
    /// Opens the file for appending, made if need be with mode 0640.
    ///
    /// # Errors
    /// It can't be opened: a directory that is not there, rights, something else than a file.
    pub fn open(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile { path: path.to_owned(), file: open(path)?, is_torn: false })
    }

    /// Opens the file at its path anew.
    ///
    /// # Errors
    /// It can't be opened; the log goes on in the old one.
    pub fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.is_torn) = (open(&self.path)?, false);
        Ok(())
    }
}

impl Write for LogFile {
    /// Writes one formatted line, whatever becomes of it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_torn = self.is_torn;
        let whole = if is_torn { [b"\n", line].concat() } else { line.to_vec() };
        // One call: a line is never mixed with another's, and appending is the kernel's.
        let written = self.file.write(&whole).unwrap_or(0);
        if written < whole.len() {
            metrics::LOG_LINES_LOST.up();
            self.is_torn = is_torn || written > 0;
        } else {
            self.is_torn = false;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe without a reader would hold us for ever: non-blocking, it is an error.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no ordinary file"))
    }
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn file_is_made_for_owner_and_group_and_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for line in ["first\n", "second\n"] {
            LogFile::open(&path).unwrap().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn renamed_file_gets_lines_until_the_reopening_and_the_new_one_those_after() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"first\n").unwrap();
        fs::rename(&path, &old).unwrap();
        log.write_all(b"second\n").unwrap();
        log.reopen().unwrap();
        log.write_all(b"third\n").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "first\nsecond\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "third\n");
    }

    #[test]
    fn reopening_that_fails_leaves_the_old_file_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let (inside, moved) = (directory.path().join("a"), directory.path().join("b"));
        fs::create_dir(&inside).unwrap();
        let mut log = LogFile::open(&inside.join("log")).unwrap();
        fs::rename(&inside, &moved).unwrap();
        log.reopen().unwrap_err();
        log.write_all(b"still\n").unwrap();
        assert_eq!(fs::read_to_string(moved.join("log")).unwrap(), "still\n");
    }

    #[test]
    fn device_or_directory_is_no_log_file() {
        assert!(LogFile::open(Path::new("/dev/full")).is_err());
        assert!(LogFile::open(Path::new("/tmp")).is_err());
    }
}
