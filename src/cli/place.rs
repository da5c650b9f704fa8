//! `TASK:PATH`: a place in a task's container, and what else `cp` copies from and to.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::{self, FromStr};

use crate::model::ids::TaskId;

/// A file or directory in a task's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: TaskId,
    /// Absolute. Text, because the runner's rows are JSON.
    pub path: String,
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    Task(Place),
    Here(PathBuf),
    /// `-`: our stdin or stdout.
    Standard,
}

/// The text is no `TASK:PATH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAPlace {
    NoTask,
    NotAbsolute,
    NotText,
}

impl Place {
    /// What is called `name` in this directory.
    pub fn join(&self, name: &str) -> Place {
        let path = format!("{}/{name}", self.path.trim_end_matches('/'));
        Place { id: self.id, path }
    }

    /// The last name of the path; the root has none.
    pub fn name(&self) -> Option<&str> {
        let name = self.path.trim_end_matches('/').rsplit('/').next();
        name.filter(|name| !matches!(*name, "" | "." | ".."))
    }
}

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Place, NotAPlace> {
        let (id, path) = text.split_once(':').ok_or(NotAPlace::NoTask)?;
        let id = id.parse().map_err(|_| NotAPlace::NoTask)?;
        if !path.starts_with('/') {
            return Err(NotAPlace::NotAbsolute);
        }
        Ok(Place { id, path: path.into() })
    }
}

impl Side {
    /// Reads one side. A local path that looks like a task's is written `./7:x`.
    ///
    /// # Errors
    /// It names a task, and no absolute path of text in it.
    pub fn parse(text: OsString) -> Result<Side, NotAPlace> {
        if text.as_bytes() == b"-" {
            return Ok(Side::Standard);
        }
        let before_colon = text.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        let names_a_task = before_colon.len() < text.len()
            && str::from_utf8(before_colon).is_ok_and(|id| id.parse::<TaskId>().is_ok());
        if !names_a_task {
            return Ok(Side::Here(text.into()));
        }
        text.to_str().ok_or(NotAPlace::NotText)?.parse().map(Side::Task)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.path)
    }
}

impl fmt::Display for NotAPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotAPlace::NoTask => "it must be TASK:PATH, with a task's id before the colon",
            NotAPlace::NotAbsolute => "the path behind the colon must begin with /",
            NotAPlace::NotText => "a path in a task must be UTF-8",
        })
    }
}

impl std::error::Error for NotAPlace {}

#[cfg(test)]
mod test {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn side(text: &str) -> Result<Side, NotAPlace> {
        Side::parse(text.into())
    }

    fn place(path: &str) -> Place {
        Place { id: "7".parse().unwrap(), path: path.into() }
    }

    #[test]
    fn id_and_absolute_path_are_a_place_in_a_task() {
        assert_eq!("7:/a b:c".parse(), Ok(place("/a b:c")));
        assert_eq!(side("7:/x"), Ok(Side::Task(place("/x"))));
        assert_eq!("x:/a".parse::<Place>(), Err(NotAPlace::NoTask));
        assert_eq!("7".parse::<Place>(), Err(NotAPlace::NoTask));
        assert_eq!(side("7:x"), Err(NotAPlace::NotAbsolute));
        assert_eq!(side("7:"), Err(NotAPlace::NotAbsolute));
    }

    #[test]
    fn all_else_is_here() {
        for path in ["7", "./7:/x", "a:/x", "/x:7", "07:/x", "--x", ":"] {
            assert_eq!(side(path), Ok(Side::Here(path.into())));
        }
        assert_eq!(side("-"), Ok(Side::Standard));
        let odd = OsString::from_vec(b"a\xff:x".to_vec());
        assert_eq!(Side::parse(odd.clone()), Ok(Side::Here(odd.into())));
        assert_eq!(Side::parse(OsString::from_vec(b"7:/\xff".to_vec())), Err(NotAPlace::NotText));
    }

    #[test]
    fn name_is_the_last_of_the_path() {
        assert_eq!(place("/a/b").name(), Some("b"));
        assert_eq!(place("/a/b//").name(), Some("b"));
        assert_eq!((place("/").name(), place("/a/..").name()), (None, None));
        assert_eq!(place("/").join("b").path, "/b");
        assert_eq!(place("/a/").join("b").path, "/a/b");
    }
}
