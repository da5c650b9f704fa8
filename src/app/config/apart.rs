//! Keeps the records, the local socket and the log out of the reach of containers (design D6): whoever can
//! write there could invent outcomes or start tasks as root.

use std::fs;
use std::path::{Path, PathBuf};

use crossbeam_channel::bounded;

use super::fault::Fault;
use crate::limits::{PATH_LOOK_DEADLINE, STACK_BYTES};
use crate::model::settings::Settings;
use crate::threads;

/// Names in `state_dir` that the store never uses, so that the standalone directories may be there.
const LENT_NAMES: [&str; 2] = ["shared", "local"];

/// What in `settings` lies where it must not.
pub fn faults(settings: &Settings) -> Vec<Fault> {
    let mut faults = Vec::new();
    let open = open_to_containers(settings);
    let own = [&settings.api_socket, &settings.runner_log_file].into_iter().flatten();
    let paths =
        [&settings.state_dir].into_iter().chain(own).chain(open.iter().map(|(_, path)| path));
    let mut real = all_real(paths.cloned().collect()).into_iter();
    let state_dir = real.next().unwrap_or_else(|| settings.state_dir.clone());
    let socket = settings.api_socket.as_ref().and_then(|_| real.next());
    let log_file = settings.runner_log_file.as_ref().and_then(|_| real.next());
    for (name, open) in open.iter().map(|(name, _)| *name).zip(real) {
        if state_dir.starts_with(&open) {
            let path = state_dir.clone();
            faults.push(Fault::Exposed { what: "state_dir", path, within: name, open });
            continue;
        }
        if let Some(path) = socket.clone().filter(|socket| socket.starts_with(&open)) {
            let open = open.clone();
            faults.push(Fault::Exposed { what: "api_socket", path, within: name, open });
        }
        if let Some(path) = log_file.clone().filter(|file| file.starts_with(&open)) {
            let open = open.clone();
            faults.push(Fault::Exposed { what: "runner_log_file", path, within: name, open });
        }
        let lent = LENT_NAMES.iter().any(|lent| open.starts_with(state_dir.join(lent)));
        if open.starts_with(&state_dir) && !lent {
            let state_dir = state_dir.clone();
            faults.push(Fault::AmongRecords { what: name, path: open, state_dir });
        }
    }
    faults
}

/// Directories of this machine that containers are given. Read-only mounts count: records hold
/// other users' environment.
fn open_to_containers(settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    let mut open = vec![
        ("shared_dir", settings.shared_dir.clone()),
        ("local_temp_dir", settings.local_temp_dir.clone()),
    ];
    let sources = settings.additional_mounts.iter().filter_map(|mount| mount.split(':').next());
    open.extend(sources.map(|source| ("additional_mounts", source.into())));
    open
}

/// Each of `paths` as [`real`] has it. One below a mount that hangs stays as it is written: a share that
/// is away is no reason not to start (design law 5), and is looked at by nobody but this thread.
fn all_real(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut found = Vec::with_capacity(paths.len());
    while found.len() < paths.len() {
        let rest = paths[found.len()..].to_vec();
        let (tell, told) = bounded(rest.len());
        let look = move || rest.iter().try_for_each(|path| tell.send(real(path)));
        if threads::spawn("paths", STACK_BYTES, look).is_ok() {
            while let Ok(path) = told.recv_timeout(PATH_LOOK_DEADLINE) {
                found.push(path);
            }
        }
        // The one at which it hangs, or all if there is no thread to be had.
        found.extend(paths.get(found.len()).cloned());
    }
    found
}

/// `path` without symbolic links, as far as it exists already.
fn real(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(found), Ok(rest)) = (fs::canonicalize(ancestor), path.strip_prefix(ancestor)) {
            // Joining nothing would add a slash.
            return if rest.as_os_str().is_empty() { found } else { found.join(rest) };
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod test {
    use super::*;

    fn settings(state_dir: &Path, shared_dir: &Path) -> Settings {
        Settings {
            state_dir: state_dir.into(),
            shared_dir: shared_dir.into(),
            ..Settings::default()
        }
    }

    #[test]
    fn defaults_are_apart() {
        assert!(faults(&Settings::default()).is_empty());
    }

    #[test]
    fn log_file_that_containers_can_write_is_refused() {
        let log_file = Some("/srv/share/runner.log".into());
        let exposed = Settings {
            runner_log_file: log_file,
            ..settings("/var/state".as_ref(), "/srv/share".as_ref())
        };
        let refused = faults(&exposed);
        assert!(matches!(refused[..], [Fault::Exposed { what: "runner_log_file", .. }]));
    }

    #[test]
    fn state_in_the_shared_directory_is_refused() {
        let refused = faults(&settings("/srv/share/state".as_ref(), "/srv/share".as_ref()));
        assert!(matches!(
            refused[..],
            [Fault::Exposed { what: "state_dir", within: "shared_dir", .. }]
        ));
    }

    #[test]
    fn state_that_is_the_shared_directory_is_refused() {
        let refused = faults(&settings("/srv/share".as_ref(), "/srv/share".as_ref()));
        assert!(matches!(refused[..], [Fault::Exposed { .. }]));
    }

    #[test]
    fn directory_beside_with_a_longer_name_is_not_inside() {
        assert!(faults(&settings("/srv/share-state".as_ref(), "/srv/share".as_ref())).is_empty());
    }

    #[test]
    fn shared_directory_among_the_records_is_refused_but_not_under_a_lent_name() {
        let refused = faults(&settings("/srv/state".as_ref(), "/srv/state/tasks".as_ref()));
        assert!(matches!(refused[..], [Fault::AmongRecords { what: "shared_dir", .. }]));
        assert!(faults(&settings("/srv/state".as_ref(), "/srv/state/shared".as_ref())).is_empty());
    }

    #[test]
    fn state_behind_a_symbolic_link_into_the_shared_directory_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let shared = place.path().join("shared");
        fs::create_dir(&shared).unwrap();
        std::os::unix::fs::symlink(&shared, place.path().join("link")).unwrap();
        let refused = faults(&settings(&place.path().join("link/state"), &shared));
        assert!(matches!(refused[..], [Fault::Exposed { .. }]));
    }

    #[test]
    fn socket_in_a_directory_that_containers_write_is_refused() {
        let exposed = Settings {
            api_socket: Some("/var/lib/river-runner/local/api.sock".into()),
            ..Settings::default()
        };
        assert!(matches!(faults(&exposed)[..], [Fault::Exposed { what: "api_socket", .. }]));
    }

    #[test]
    fn mount_that_shows_the_records_is_refused_also_read_only() {
        let exposed =
            Settings { additional_mounts: vec!["/var:/host:ro".into()], ..Settings::default() };
        let refused = faults(&exposed);
        assert!(refused.iter().any(|fault| matches!(
            fault,
            Fault::Exposed { what: "state_dir", within: "additional_mounts", .. }
        )));
    }
}
