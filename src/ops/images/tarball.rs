//! The tarballs of environments on shared storage (contract 5.7). Runs on files threads.

use std::io;
use std::path::{Path, PathBuf};

use super::ImageFault;

/// A tarball of an environment (contract 5.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tarball {
    pub path: PathBuf,
    /// Unix seconds out of its name.
    pub made_at: u64,
}

/// The newest `{lower(name)}-{digits}.tar`; no directory is no tarball.
pub(super) fn newest_tarball(directory: &Path, name: &str) -> Result<Option<Tarball>, ImageFault> {
    let fault = |source| ImageFault::Directory { directory: directory.to_owned(), source };
    let prefix = format!("{}-", name.to_lowercase());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fault)?,
    };
    let mut newest: Option<Tarball> = None;
    for entry in entries {
        let entry = entry.map_err(fault)?;
        let file_name = entry.file_name();
        let digits = file_name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".tar"))
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let Some(made_at) = digits.and_then(|digits| digits.parse().ok()) else { continue };
        if newest.as_ref().is_none_or(|newest| made_at > newest.made_at) {
            newest = Some(Tarball { path: entry.path(), made_at });
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn newest_tarball_is_the_largest_number_with_the_exact_name() {
        let directory = tempfile::tempdir().unwrap();
        for name in
            ["env-5.tar", "env-40.tar", "env-x-90.tar", "env-7.tar.gz", "env-.tar", "Env-99.tar"]
        {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let newest = newest_tarball(directory.path(), "ENV").unwrap().unwrap();
        assert_eq!((newest.made_at, newest.path.ends_with("env-40.tar")), (40, true));
    }

    #[test]
    fn missing_directory_holds_no_tarball() {
        assert!(newest_tarball(Path::new("/does/not/exist"), "env").unwrap().is_none());
    }
}
