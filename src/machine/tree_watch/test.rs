//! The watches on plain directories, through the real inotify.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::MutexGuard;
use std::thread;
use std::time::Instant;

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// The gauge and the kernel's figures are the whole process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Bench {
    _alone: MutexGuard<'static, ()>,
    stop: Stop,
    watches: TreeWatches,
    dir: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

fn root() -> Identity {
    Identity { uid: 0, gid: 0, groups: Vec::new() }
}

fn bench() -> Bench {
    let stop = Stop::new();
    let watches = TreeWatches::new(&stop);
    Bench { _alone: lock(&ALONE), stop, watches, dir: tempfile::tempdir().unwrap() }
}

impl Bench {
    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Watches the bench's directory as `/w`, when its scan is over.
    fn open(&self) -> TreeSession {
        let session = self.open_unscanned();
        settle(&session);
        session
    }

    fn open_unscanned(&self) -> TreeSession {
        let fd = fs::File::open(self.dir.path()).unwrap().into();
        let run: RunJob = Arc::new(|job| threads::spawn("job", STACK_BYTES, job).is_ok());
        self.watches.open(vec![("/w".into(), fd)], root(), run).unwrap()
    }

    /// The kernel's own count of the watches.
    fn kernel_watches(&self) -> usize {
        let inner = self.watches.inner().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&inner.inotify.as_fd());
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        info.lines().filter(|line| line.starts_with("inotify ")).count()
    }
}

fn settle(session: &TreeSession) {
    until("the scan is over", || session.scanning_for().is_none());
}

fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !true_now() {
        assert!(begun.elapsed() < SOON, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn brief(note: Note) -> String {
    match note {
        Note::Change(Change { kind, path, is_dir }) => {
            format!("{kind:?} {}{}", path.display(), if is_dir { "/" } else { "" })
        }
        other => format!("{other:?}"),
    }
}

/// All notes up to and including `last`.
fn told(session: &TreeSession, last: &str) -> Vec<String> {
    let mut all = Vec::new();
    until(last, || {
        while let Some(note) = session.take() {
            all.push(brief(note));
        }
        all.iter().any(|note| note == last)
    });
    all
}

#[test]
fn each_kind_of_change_is_told_with_path_and_kind() {
    let bench = bench();
    let session = bench.open();
    fs::write(bench.path("file"), "text").unwrap();
    fs::rename(bench.path("file"), bench.path("name")).unwrap();
    fs::remove_file(bench.path("name")).unwrap();
    fs::create_dir(bench.path("dir")).unwrap();
    fs::remove_dir(bench.path("dir")).unwrap();
    let expected = [
        "Create /w/file",
        "Modify /w/file",
        "Move /w/file",
        "Move /w/name",
        "Delete /w/name",
        "Create /w/dir/",
        "Delete /w/dir/",
    ];
    assert_eq!(told(&session, "Delete /w/dir/"), expected);
}

#[test]
fn files_in_directories_made_at_once_are_all_told() {
    let bench = bench();
    let session = bench.open();
    for round in 0..20 {
        fs::create_dir_all(bench.path(&format!("{round}/b/c"))).unwrap();
        for file in 0..20 {
            fs::write(bench.path(&format!("{round}/b/c/{file}")), "").unwrap();
        }
    }
    let mut missing: HashSet<String> =
        (0..400).map(|n| format!("Create /w/{}/b/c/{}", n / 20, n % 20)).collect();
    let mut told_once = HashSet::new();
    until("all are told", || {
        while let Some(note) = session.take() {
            let note = brief(note);
            missing.remove(&note);
            assert!(!note.starts_with("Create") || told_once.insert(note.clone()), "{note} again");
        }
        missing.is_empty()
    });
    settle(&session);
    fs::write(bench.path("7/b/c/late"), "").unwrap();
    told(&session, "Create /w/7/b/c/late");
}

#[test]
fn renamed_directory_is_told_at_its_new_path_and_one_moved_out_no_more() {
    let bench = bench();
    let outside = tempfile::tempdir_in(bench.dir.path().parent().unwrap()).unwrap();
    fs::create_dir_all(bench.path("a/deep")).unwrap();
    let session = bench.open();
    fs::rename(bench.path("a"), bench.path("b")).unwrap();
    fs::write(bench.path("b/deep/file"), "").unwrap();
    assert_eq!(
        told(&session, "Create /w/b/deep/file"),
        ["Move /w/a/", "Move /w/b/", "Create /w/b/deep/file"]
    );
    fs::create_dir(bench.path("a")).unwrap();
    told(&session, "Create /w/a/");
    settle(&session);
    fs::rename(bench.path("b"), outside.path().join("b")).unwrap();
    until("its watches are gone", || bench.kernel_watches() == 2);
    fs::write(outside.path().join("b/deep/unheard"), "").unwrap();
    fs::write(bench.path("a/heard"), "").unwrap();
    assert_eq!(told(&session, "Create /w/a/heard"), ["Move /w/b/", "Create /w/a/heard"]);
}

#[test]
fn deleted_tree_leaves_no_watches_and_a_moved_base_is_told() {
    let bench = bench();
    fs::create_dir_all(bench.path("a/b/c")).unwrap();
    let session = bench.open();
    assert_eq!(bench.kernel_watches(), 4);
    fs::remove_dir_all(bench.path("a")).unwrap();
    assert_eq!(
        told(&session, "Delete /w/a/"),
        ["Delete /w/a/b/c/", "Delete /w/a/b/", "Delete /w/a/"]
    );
    until("they are gone", || bench.kernel_watches() == 1);
    let elsewhere = bench.dir.path().with_extension("moved");
    fs::rename(bench.dir.path(), &elsewhere).unwrap();
    told(&session, "BaseGone(\"/w\")");
    until("nothing is watched", || bench.kernel_watches() == 0);
    fs::remove_dir(elsewhere).unwrap();
}

#[test]
fn symlinks_are_told_and_not_followed() {
    let bench = bench();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), bench.path("before")).unwrap();
    let session = bench.open();
    std::os::unix::fs::symlink(outside.path(), bench.path("after")).unwrap();
    told(&session, "Create /w/after");
    settle(&session);
    assert_eq!(bench.kernel_watches(), 1);
}

#[test]
fn sessions_share_watches_and_the_last_takes_them_along() {
    let bench = bench();
    let held_before = crate::metrics::WATCHES_HELD.get();
    fs::create_dir_all(bench.path("a/b")).unwrap();
    let mut sessions: Vec<_> = (0..20).map(|_| bench.open()).collect();
    assert_eq!(bench.kernel_watches(), 3);
    assert_eq!(crate::metrics::WATCHES_HELD.get(), held_before + 3);
    fs::write(bench.path("a/b/file"), "").unwrap();
    for session in &sessions {
        told(session, "Create /w/a/b/file");
    }
    sessions.truncate(1);
    fs::write(bench.path("a/b/other"), "").unwrap();
    told(&sessions[0], "Create /w/a/b/other");
    sessions.clear();
    assert_eq!(bench.kernel_watches(), 0);
    assert_eq!(crate::metrics::WATCHES_HELD.get(), held_before);
}

#[test]
fn sessions_opened_and_dropped_at_once_lose_no_watch_of_one_that_stays() {
    let bench = bench();
    for dir in 0..50 {
        fs::create_dir_all(bench.path(&format!("{dir}/b"))).unwrap();
    }
    let stays = thread::scope(|scope| {
        scope.spawn(|| (0..200).for_each(|_| drop(bench.open_unscanned())));
        (0..20).for_each(|_| drop(bench.open()));
        bench.open()
    });
    until("only those of one are left", || bench.kernel_watches() == 101);
    for dir in 0..50 {
        fs::write(bench.path(&format!("{dir}/b/file")), "").unwrap();
        told(&stays, &format!("Create /w/{dir}/b/file"));
    }
}

#[test]
fn full_kernel_queue_is_told_and_all_is_looked_at_again() {
    let bench = bench();
    let session = bench.open();
    // The shared thread waits for this lock, while the kernel's queue fills up.
    let held = lock(&session.inner.state);
    fs::create_dir(bench.path("dir")).unwrap();
    for n in 0..20_000 {
        let path = bench.path(&n.to_string());
        fs::write(&path, "").unwrap();
        fs::remove_file(path).unwrap();
    }
    fs::rename(bench.path("dir"), bench.path("moved")).unwrap();
    drop(held);
    told(&session, "Missed");
    settle(&session);
    fs::write(bench.path("moved/file"), "").unwrap();
    told(&session, "Create /w/moved/file");
    until("nothing but these is watched", || bench.kernel_watches() == 2);
}

#[test]
fn full_queue_of_a_slow_session_is_told_once_and_holds_up_no_other() {
    let bench = bench();
    let (slow, quick) = (bench.open(), bench.open());
    let mut heard = 0;
    for n in 0..crate::limits::WATCH_NOTES_MAX / 2 + 100 {
        let path = bench.path(&n.to_string());
        fs::write(&path, "").unwrap();
        fs::remove_file(path).unwrap();
        heard += std::iter::from_fn(|| quick.take()).count();
    }
    fs::write(bench.path("end"), "").unwrap();
    told(&quick, "Create /w/end");
    assert!(heard > 0);
    let all: Vec<_> = std::iter::from_fn(|| slow.take()).collect();
    assert_eq!(all.iter().filter(|note| **note == Note::Lost).count(), 1);
    assert_eq!(all.last(), Some(&Note::Lost));
    fs::write(bench.path("after"), "").unwrap();
    told(&slow, "Create /w/after");
}

#[test]
fn repeated_writes_of_one_file_are_told_as_few() {
    let bench = bench();
    let session = bench.open();
    let file = fs::File::create(bench.path("file")).unwrap();
    for _ in 0..10_000 {
        std::io::Write::write_all(&mut &file, b"x").unwrap();
    }
    fs::write(bench.path("end"), "").unwrap();
    let all = told(&session, "Create /w/end");
    assert!((3..5_000).contains(&all.len()), "{} notes", all.len());
}

#[test]
fn directories_nobody_can_read_are_told_as_not_watched() {
    let bench = bench();
    let fd = fs::File::open(bench.dir.path()).unwrap().into();
    let session = bench.watches.open(vec![("/w".into(), fd)], root(), Arc::new(|_| false)).unwrap();
    let why = Why::Busy;
    let unwatched = Unwatched { first: vec![Path::new("/w").into()], count: 1, why };
    assert_eq!(session.take(), Some(Note::Unwatched(unwatched)));
}

#[test]
fn threads_are_asked_for_without_the_rights_of_the_scans_user() {
    const DIRECTORIES: usize = 15_000;
    let bench = bench();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bench.dir.path(), readable).unwrap();
    (0..DIRECTORIES).for_each(|n| fs::create_dir(bench.path(&n.to_string())).unwrap());
    let asked_as: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&asked_as);
    let run: RunJob = Arc::new(move |job| {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let rights = status.lines().filter(|line| line.starts_with("Uid:"));
        lock(&told).extend(rights.map(|line| line.split_whitespace().last().unwrap().to_owned()));
        threads::spawn("job", STACK_BYTES, job).is_ok()
    });
    let fd = fs::File::open(bench.dir.path()).unwrap().into();
    let user = Identity { uid: 4321, gid: 4321, groups: Vec::new() };
    let session = bench.watches.open(vec![("/w".into(), fd)], user, run).unwrap();
    settle(&session);
    let asked_as = lock(&asked_as);
    assert!(asked_as.len() > 1, "one slice: nobody was asked by a scan");
    assert!(asked_as.iter().all(|uid| uid == "0"), "{asked_as:?}");
    assert_eq!(bench.kernel_watches(), DIRECTORIES + 1);
}

#[test]
fn directory_that_is_removed_is_told_although_it_is_held() {
    let bench = bench();
    let session = bench.open();
    fs::remove_dir(bench.dir.path()).unwrap();
    told(&session, "BaseGone(\"/w\")");
    until("nothing is watched", || bench.kernel_watches() == 0);
}

#[test]
fn directory_replaced_behind_a_full_queue_leaves_no_watch_of_the_old_one() {
    let bench = bench();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(bench.path("dir")).unwrap();
    let session = bench.open();
    let held = lock(&session.inner.state);
    for n in 0..20_000 {
        let path = bench.path(&n.to_string());
        fs::write(&path, "").unwrap();
        fs::remove_file(path).unwrap();
    }
    fs::rename(bench.path("dir"), elsewhere.path().join("dir")).unwrap();
    fs::create_dir(bench.path("dir")).unwrap();
    drop(held);
    told(&session, "Missed");
    settle(&session);
    fs::write(elsewhere.path().join("dir/file"), "").unwrap();
    fs::write(bench.path("dir/last"), "").unwrap();
    let notes = told(&session, "Create /w/dir/last");
    assert!(!notes.iter().any(|note| note.contains("dir/file")), "{notes:?}");
    drop(session);
    assert_eq!(bench.kernel_watches(), 0);
}

#[test]
fn deleted_directory_that_somebody_works_in_leaves_no_watch_after_its_session() {
    let bench = bench();
    fs::create_dir(bench.path("dir")).unwrap();
    let session = bench.open();
    let _works_in_it = fs::File::open(bench.path("dir")).unwrap();
    fs::remove_dir(bench.path("dir")).unwrap();
    told(&session, "Delete /w/dir/");
    fs::create_dir(bench.path("dir")).unwrap();
    told(&session, "Create /w/dir/");
    settle(&session);
    fs::write(bench.path("dir/file"), "").unwrap();
    told(&session, "Create /w/dir/file");
    drop(session);
    assert_eq!(bench.kernel_watches(), 0);
}

#[test]
fn directory_renamed_over_one_that_somebody_works_in_leaves_no_watch_after_its_session() {
    let bench = bench();
    fs::create_dir(bench.path("new")).unwrap();
    fs::create_dir(bench.path("old")).unwrap();
    let session = bench.open();
    let _works_in_it = fs::File::open(bench.path("old")).unwrap();
    fs::rename(bench.path("new"), bench.path("old")).unwrap();
    told(&session, "Move /w/old/");
    fs::write(bench.path("old/file"), "").unwrap();
    told(&session, "Create /w/old/file");
    until("the replaced one is not watched", || bench.kernel_watches() == 2);
    fs::write(bench.path("old/second"), "").unwrap();
    told(&session, "Create /w/old/second");
    drop(session);
    assert_eq!(bench.kernel_watches(), 0);
}
