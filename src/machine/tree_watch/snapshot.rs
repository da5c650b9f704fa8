//! What lies in a directory to a small depth, and how that differs from what lay there before.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstatat};

use super::{Change, ChangeKind};
use crate::limits::{WATCH_POLL_DEPTH, WATCH_POLL_ENTRIES_MAX};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Directory,
    /// Seconds and nanoseconds of its last change, and its size.
    File(i64, i64, i64),
}

#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// By the way from the directory that was read.
    entries: BTreeMap<PathBuf, Seen>,
    /// Directories of which all entries are known.
    whole: HashSet<PathBuf>,
    /// There are more than may be kept.
    pub is_cut: bool,
}

impl Snapshot {
    /// Reads; may hang with the file system. Does not follow symlinks or enter mounts.
    pub fn take(root: &OwnedFd) -> Result<Snapshot, Errno> {
        let mut snapshot = Snapshot::default();
        let mut planned = VecDeque::from([(PathBuf::new(), 1)]);
        while let Some((at, depth)) = planned.pop_front() {
            match snapshot.read(root, &at) {
                Ok(below) if depth < WATCH_POLL_DEPTH => {
                    planned.extend(below.into_iter().map(|path| (path, depth + 1)));
                }
                Ok(_) => {}
                Err(error) if depth == 1 => return Err(error),
                // It went meanwhile, or is another's: what was known of it stays.
                Err(_) => {}
            }
            if snapshot.is_cut {
                break;
            }
        }
        Ok(snapshot)
    }

    /// Reads one directory, and returns those in it.
    fn read(&mut self, root: &OwnedFd, at: &Path) -> Result<Vec<PathBuf>, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        let place = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        let mut dir = Dir::from_fd(openat2(root, place, how)?)?;
        let fd = dir.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        let mut below = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if self.entries.len() >= WATCH_POLL_ENTRIES_MAX {
                self.is_cut = true;
                return Ok(below);
            }
            // A directory is not asked for more: it may be the place of a mount that hangs.
            let seen = match entry.file_type() {
                Some(Type::Directory) => Seen::Directory,
                _ => match look(&fd, name) {
                    Ok(seen) => seen,
                    Err(Errno::ENOENT) => continue,
                    Err(error) => return Err(error),
                },
            };
            let path = at.join(name);
            if seen == Seen::Directory {
                below.push(path.clone());
            }
            self.entries.insert(path, seen);
        }
        self.whole.insert(at.to_owned());
        Ok(below)
    }

    /// Takes the place of `old`, and tells the difference, as far as both know: deletions first,
    /// what was in a directory before the directory; then the others from above.
    pub fn succeed(&mut self, old: Snapshot) -> Vec<Change> {
        let (mut gone, mut made) = (HashSet::new(), HashSet::new());
        let (mut deleted, mut changed) = (Vec::new(), Vec::new());
        let above = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
        let change = |kind, path: &Path, seen: Seen| Change {
            kind,
            path: path.to_owned(),
            is_dir: seen == Seen::Directory,
        };
        for (path, was) in &old.entries {
            let parent = above(path);
            let is_gone = match self.entries.get(path) {
                Some(now) => (*now == Seen::Directory) != (*was == Seen::Directory),
                None => gone.contains(&parent) || self.whole.contains(&parent),
            };
            if is_gone {
                gone.insert(path.clone());
                deleted.push(change(ChangeKind::Delete, path, *was));
            }
        }
        for (path, now) in &self.entries {
            match old.entries.get(path).filter(|_| !gone.contains(path)) {
                Some(was) if was == now => {}
                Some(_) => changed.push(change(ChangeKind::Modify, path, *now)),
                None => {
                    let parent = above(path);
                    if made.contains(&parent) || gone.contains(path) || old.whole.contains(&parent)
                    {
                        made.insert(path.clone());
                        changed.push(change(ChangeKind::Create, path, *now));
                    }
                }
            }
        }
        self.inherit(old, &gone);
        deleted.reverse();
        deleted.append(&mut changed);
        deleted
    }

    /// Keeps what was known of directories that could not be read this time.
    fn inherit(&mut self, old: Snapshot, gone: &HashSet<PathBuf>) {
        let room = (2 * WATCH_POLL_ENTRIES_MAX).saturating_sub(self.entries.len());
        let kept = old.entries.into_iter().filter(|(path, _)| !gone.contains(path));
        let kept: Vec<_> =
            kept.filter(|(path, _)| !self.entries.contains_key(path)).take(room + 1).collect();
        if kept.len() > room {
            return;
        }
        self.entries.extend(kept);
        self.whole.extend(old.whole.into_iter().filter(|path| !gone.contains(path)));
    }
}

fn look(dir: &OwnedFd, name: &OsStr) -> Result<Seen, Errno> {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_NO_AUTOMOUNT)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    Ok(match kind == SFlag::S_IFDIR {
        true => Seen::Directory,
        false => Seen::File(stat.st_mtime, stat.st_mtime_nsec, stat.st_size),
    })
}

#[cfg(test)]
mod test {
    use std::fs;

    use super::*;

    fn snapshot(dir: &Path) -> Snapshot {
        Snapshot::take(&fs::File::open(dir).unwrap().into()).unwrap()
    }

    fn brief(changes: Vec<Change>) -> Vec<String> {
        let brief = |change: Change| {
            let slash = if change.is_dir { "/" } else { "" };
            format!("{:?} {}{slash}", change.kind, change.path.display())
        };
        changes.into_iter().map(brief).collect()
    }

    #[test]
    fn difference_is_told_in_the_order_that_it_can_have_had() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("old/deep")).unwrap();
        fs::write(at("old/deep/file"), "").unwrap();
        fs::write(at("stays"), "").unwrap();
        fs::write(at("kind"), "").unwrap();
        let before = snapshot(dir.path());
        fs::remove_dir_all(at("old")).unwrap();
        fs::create_dir_all(at("new/a/too/deep")).unwrap();
        fs::write(at("stays"), "longer").unwrap();
        fs::remove_file(at("kind")).unwrap();
        fs::create_dir(at("kind")).unwrap();
        let mut after = snapshot(dir.path());
        let expected = [
            "Delete old/deep/file",
            "Delete old/deep/",
            "Delete old/",
            "Delete kind",
            "Create kind/",
            "Create new/",
            "Create new/a/",
            "Create new/a/too/",
            "Modify stays",
        ];
        assert_eq!(brief(after.succeed(before)), expected);
        assert_eq!(brief(snapshot(dir.path()).succeed(after)), [""; 0]);
    }

    #[test]
    fn directory_that_could_not_be_read_once_is_no_deletion_of_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/file"), "").unwrap();
        let before = snapshot(dir.path());
        let mut unread = snapshot(dir.path());
        unread.whole.remove(Path::new("a"));
        unread.entries.remove(Path::new("a/file"));
        assert_eq!(brief(unread.succeed(before)), [""; 0]);
        fs::write(dir.path().join("a/second"), "").unwrap();
        fs::remove_file(dir.path().join("a/file")).unwrap();
        let mut after = snapshot(dir.path());
        assert_eq!(brief(after.succeed(unread)), ["Delete a/file", "Create a/second"]);
    }

    #[test]
    fn beyond_its_bound_it_tells_only_what_it_knows() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..=WATCH_POLL_ENTRIES_MAX {
            fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        let before = snapshot(dir.path());
        assert!(before.is_cut);
        fs::write(dir.path().join("one more"), "").unwrap();
        let mut after = snapshot(dir.path());
        assert_eq!(brief(after.succeed(before)), [""; 0]);
        assert!(after.entries.len() <= 2 * WATCH_POLL_ENTRIES_MAX);
    }
}
