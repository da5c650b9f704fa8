//! A path inside a container as a peer names it: absolute, plain, and of no file system that stands
//! for the kernel or for devices (contract 8.1). Lexical only; links are the kernel's matter.

use std::fmt;
use std::path::Path;

/// `/`, or names joined by single slashes, without `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPath(String);

/// Why a text is no such path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathFault {
    Empty,
    Relative,
    /// A file system that is not for files.
    Forbidden,
    /// No file has this in its name.
    Nul,
}

/// What nobody may name, with all below.
const FORBIDDEN: [&str; 3] = ["/proc", "/sys", "/dev"];

impl GuestPath {
    /// # Errors
    /// The text is empty, relative, or names what is forbidden.
    pub fn parse(text: &str) -> Result<GuestPath, PathFault> {
        if text.is_empty() {
            return Err(PathFault::Empty);
        }
        if !text.starts_with('/') {
            return Err(PathFault::Relative);
        }
        if text.contains('\0') {
            return Err(PathFault::Nul);
        }
        let mut names = Vec::new();
        for name in text.split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        let path = GuestPath(format!("/{}", names.join("/")));
        let is_below = |root: &&str| Path::new(&path.0).starts_with(root);
        if FORBIDDEN.iter().any(|root| is_below(root)) {
            return Err(PathFault::Forbidden);
        }
        Ok(path)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The directory it is in; `None` for `/`.
    pub fn parent(&self) -> Option<GuestPath> {
        let (parent, name) = self.0.rsplit_once('/')?;
        match (parent, name) {
            (_, "") => None,
            ("", _) => Some(GuestPath("/".to_owned())),
            (parent, _) => Some(GuestPath(parent.to_owned())),
        }
    }

    /// Its last name; empty for `/`.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(_, name)| name)
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: &str) -> String {
        let parent = if self.0 == "/" { "" } else { self.0.as_str() };
        format!("{parent}/{name}")
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathFault::Empty => "the path is empty",
            PathFault::Relative => "the path must start with /",
            PathFault::Forbidden => "/proc, /sys and /dev are not for files",
            PathFault::Nul => "the path has a NUL in it",
        })
    }
}

impl std::error::Error for PathFault {}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn path_is_made_plain() {
        let plain = |text: &str| GuestPath::parse(text).unwrap().0;
        assert_eq!(plain("//a//./b/../c/"), "/a/c");
        assert_eq!(plain("/../.."), "/");
        assert_eq!(plain("/process"), "/process");
        assert_eq!(plain("/a b\n"), "/a b\n");
    }

    #[test]
    fn path_that_is_none_or_forbidden_is_refused() {
        assert_eq!(GuestPath::parse(""), Err(PathFault::Empty));
        assert_eq!(GuestPath::parse("a"), Err(PathFault::Relative));
        assert_eq!(GuestPath::parse("/a\0"), Err(PathFault::Nul));
        for path in ["/proc", "//proc/1", "/a/../sys/x", "/dev/"] {
            assert_eq!(GuestPath::parse(path), Err(PathFault::Forbidden), "{path}");
        }
    }

    #[test]
    fn path_knows_its_parent_and_name() {
        let path = GuestPath::parse("/a/b").unwrap();
        assert_eq!((path.parent().unwrap().as_str(), path.name()), ("/a", "b"));
        assert_eq!(path.parent().unwrap().parent().unwrap().as_str(), "/");
        assert_eq!(path.parent().unwrap().parent().unwrap().parent(), None);
    }
}
