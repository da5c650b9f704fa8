//! `ls`: names in a directory of a task's container.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;

use super::client::ClientError;
use super::failure::Failure;
use super::files::{Dotted, Entry, Kind};
use super::place::Place;
use super::reach::{ConfigPath, Reach};
use super::{print, quote};

#[derive(Args, Clone, Debug)]
pub struct LsArguments {
    /// A directory in a task's container, such as 42:/shared
    #[arg(value_name = "TASK:PATH")]
    place: Place,

    /// Also names that begin with a dot
    #[arg(long, short = 'a')]
    all: bool,

    /// Also type, permissions, size and time of the last change
    #[arg(long, short = 'l')]
    long: bool,

    #[command(flatten)]
    reach: Reach,
}

/// How a line looks.
#[derive(Clone, Copy)]
struct Look {
    is_long: bool,
    is_terminal: bool,
}

/// Prints one name a line, page by page.
pub fn ls(arguments: &LsArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let runner = arguments.reach.runner(path)?;
    let place = &arguments.place;
    let dotted = if arguments.all { Dotted::Shown } else { Dotted::Hidden };
    let look = Look { is_long: arguments.long, is_terminal: io::stdout().is_terminal() };
    let mut cursor: Option<String> = None;
    loop {
        let page = match runner.list(place, dotted, cursor.as_deref()) {
            Ok(page) => page,
            Err(error @ ClientError::Refused { status: 400, .. }) => {
                // It may be no directory, and then it is the one line.
                let Ok(entry) = runner.stat(place) else { return Err(error.into()) };
                if entry.kind == Kind::Directory {
                    return Err(error.into());
                }
                let entry = Entry { name: place.path.clone(), ..entry };
                return print(&lines(&[entry], look));
            }
            Err(error) => return Err(error.into()),
        };
        print(&lines(&page.entries, look))?;
        // A page without entries can't lead anywhere.
        match page.cursor {
            Some(next) if !page.entries.is_empty() => cursor = Some(next),
            Some(_) | None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn lines(entries: &[Entry], look: Look) -> String {
    let size = |entry: &Entry| if entry.size < 0 { "-".into() } else { entry.size.to_string() };
    let width = entries.iter().map(|entry| size(entry).len()).max().unwrap_or_default();
    let mut text = String::new();
    for entry in entries {
        if look.is_long {
            let kind = letter(entry.kind);
            let mtime = entry.mtime.replace('T', " ");
            text += &format!("{kind}{} {:>width$} {mtime} ", entry.permissions, size(entry));
        }
        // For a program a name is the bytes up to the line's end; a terminal would obey some.
        text += &if look.is_terminal { quote::shown(&entry.name) } else { entry.name.clone() };
        text.push('\n');
    }
    text
}

fn letter(kind: Kind) -> char {
    match kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Other => '?',
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn entries() -> Vec<Entry> {
        serde_json::from_value(serde_json::json!([
            {"name": "a b", "path": "/a b", "type": "directory", "size": -1,
             "mtime": "2026-11-24T21:11:08", "permissions": "rwxr-xr-x"},
            {"name": "c\x1b[2J", "path": "/c", "type": "file", "size": 1234,
             "mtime": "2026-11-24T21:11:09", "permissions": "rw-r--r--"},
        ]))
        .unwrap()
    }

    #[test]
    fn program_gets_names_as_they_are() {
        let look = Look { is_long: false, is_terminal: false };
        assert_eq!(lines(&entries(), look), "a b\nc\x1b[2J\n");
    }

    #[test]
    fn terminal_gets_names_that_do_nothing_to_it() {
        let look = Look { is_long: false, is_terminal: true };
        assert_eq!(lines(&entries(), look), "'a b'\n$'c\\033[2J'\n");
    }

    #[test]
    fn long_lines_are_aligned() {
        let look = Look { is_long: true, is_terminal: false };
        assert_eq!(
            lines(&entries(), look),
            "drwxr-xr-x    - 2026-11-24 21:11:08 a b\n\
             -rw-r--r-- 1234 2026-11-24 21:11:09 c\x1b[2J\n"
        );
    }
}
