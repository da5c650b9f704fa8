//! The table on real directories: what a restart finds, and what it makes of files that are no
//! records.

use std::path::{Path, PathBuf};

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Counts, Loss, StoreError, Table};
use crate::limits::{ENDED_RECORD_AGE_MAX, ENDED_RECORDS_MAX, ENDED_RECORDS_SLACK};
use crate::metrics;
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::model::placement::Placement;
use crate::model::task::{
    Command, ContainerTrace, FinalStatus, ImageSource, LogFiles, Outcome, Report, TaskRecord,
    TaskSpec, Work,
};
use crate::model::time::Stamp;

fn id(number: u64) -> TaskId {
    TaskId::try_from(number).unwrap()
}

fn record(number: u64) -> TaskRecord {
    let spec = TaskSpec {
        id: id(number),
        work: Work::Command(Command {
            command: "true".into(),
            arguments: vec![],
            env: vec![("SECRET".into(), "x".into())],
            working_dir: "/shared".into(),
            logs: LogFiles {
                directory: PathBuf::from("/l"),
                stdout: PathBuf::from("/l/o"),
                stderr: PathBuf::from("/l/e"),
            },
        }),
        cores: None,
        memory_bytes: None,
        gpus: vec![],
        placement: Placement::Anywhere,
        cpuset: None,
        image: ImageSource::Environment("env".into()),
        reserved_ip: None,
    };
    TaskRecord::accepted(spec, Stamp::now(), None, "s".into(), vec![])
}

fn end(record: &mut TaskRecord) {
    let outcome = Outcome { status: FinalStatus::Completed, exit_code: Some(0), message: None };
    record.end(outcome, None, Stamp::now(), false);
    record.container = ContainerTrace::Removed;
}

#[test]
fn record_is_there_after_a_restart_as_it_was_last_updated() {
    let state = tempfile::tempdir().unwrap();
    let table = Table::open(state.path()).unwrap();
    table.insert(record(7)).unwrap();
    table.update(id(7), |record| record.phase = Phase::Running).unwrap();
    drop(table);
    let again = Table::open(state.path()).unwrap();
    assert_eq!(again.get(id(7)).unwrap().phase, Phase::Running);
}

#[test]
fn update_that_changes_nothing_writes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let table = Table::open(state.path()).unwrap();
    table.insert(record(7)).unwrap();
    let file = state.path().join("tasks/7.json");
    fs::remove_file(&file).unwrap();
    table.update(id(7), |record| record.phase).unwrap();
    assert!(!file.exists());
}

#[test]
fn update_that_can_t_be_written_leaves_the_record_as_it_was() {
    let state = tempfile::tempdir().unwrap();
    let table = Table::open(state.path()).unwrap();
    table.insert(record(7)).unwrap();
    fs::remove_dir_all(state.path().join("tasks")).unwrap();
    fs::write(state.path().join("tasks"), "in the way").unwrap();
    assert!(table.update(id(7), |record| record.phase = Phase::Running).is_err());
    assert_eq!(table.get(id(7)).unwrap().phase, Phase::Accepted);
}

#[test]
fn settled_record_leaves_memory_and_its_id_stays_taken() {
    let state = tempfile::tempdir().unwrap();
    let table = Table::open(state.path()).unwrap();
    table.insert(record(7)).unwrap();
    table.update(id(7), end).unwrap();
    table.retire(id(7)).unwrap();
    assert_eq!(table.counts().active, 0);
    assert_eq!(table.find(id(7)).unwrap().phase, Phase::Ended);
    assert!(matches!(table.insert(record(7)), Err(StoreError::Exists(_))));
    assert_eq!(table.counts().active, 0);
}

#[test]
fn record_that_still_needs_something_is_not_put_away() {
    let state = tempfile::tempdir().unwrap();
    let table = Table::open(state.path()).unwrap();
    table.insert(record(7)).unwrap();
    table.retire(id(7)).unwrap();
    assert!(table.get(id(7)).is_some());
}

#[test]
fn file_that_is_no_record_is_set_aside_and_the_others_are_read() {
    let state = tempfile::tempdir().unwrap();
    Table::open(state.path()).unwrap().insert(record(7)).unwrap();
    let tasks = state.path().join("tasks");
    fs::write(tasks.join("8.json"), "").unwrap();
    fs::write(tasks.join("9.json"), fs::read(tasks.join("7.json")).unwrap()).unwrap();
    fs::write(tasks.join("10.json.new"), "half").unwrap();
    let table = Table::open(state.path()).unwrap();
    assert_eq!(table.active(|record| Some(record.spec.id)), [id(7)]);
    assert_eq!(fs::read_dir(state.path().join("broken")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(&tasks).unwrap().count(), 1);
}

#[test]
fn records_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    Table::open(state.path()).unwrap().insert(record(7)).unwrap();
    let file = fs::metadata(state.path().join("tasks/7.json")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[test]
fn old_records_are_thrown_away_and_young_ones_stay() {
    let state = tempfile::tempdir().unwrap();
    let table = Table::open(state.path()).unwrap();
    for number in [7, 8] {
        table.insert(record(number)).unwrap();
        table.update(id(number), end).unwrap();
        table.retire(id(number)).unwrap();
    }
    let long_ago = SystemTime::now() - ENDED_RECORD_AGE_MAX - Duration::from_secs(60);
    let old = fs::File::options().write(true).open(state.path().join("ended/7.json")).unwrap();
    old.set_modified(long_ago).unwrap();
    assert_eq!(table.prune().unwrap(), 1);
    assert!(!table.is_over(id(7)) && table.is_over(id(8)));
}

#[test]
fn directory_of_a_living_table_is_refused_to_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let first = Table::open(directory.path()).unwrap();
    let refused = Table::open(directory.path()).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    drop(first);
    Table::open(directory.path()).unwrap();
}

/// Ended, its container gone, and the host not told.
fn end_untold(record: &mut TaskRecord) {
    let outcome = Outcome { status: FinalStatus::Completed, exit_code: Some(0), message: None };
    record.end(outcome, None, Stamp::now(), true);
    record.container = ContainerTrace::Removed;
}

/// A table with task 7 in it, which waits for nothing but the host.
fn with_an_untold_task(state: &Path) -> Table {
    let table = Table::open(state).unwrap();
    table.insert(record(7)).unwrap();
    table.update(id(7), end_untold).unwrap();
    table.retire(id(7)).unwrap();
    table
}

/// What lies in a directory of the state directory, in order.
fn names(state: &Path, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(state.join(directory)).unwrap().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// How the one file in `broken` ends.
#[track_caller]
fn aside(state: &Path, name: &str) -> String {
    let names = names(state, "broken");
    assert_eq!(names.len(), 1, "{names:?}");
    let (seconds, rest) = names[0].split_once('-').unwrap();
    assert!(seconds.parse::<u64>().is_ok(), "{names:?}");
    rest.strip_prefix(name).unwrap_or_else(|| panic!("{names:?}")).to_owned()
}

/// Opens a table whose task 8 has this content, and says under what it was set aside.
#[track_caller]
fn set_aside_as(content: impl AsRef<[u8]>) -> String {
    let state = tempfile::tempdir().unwrap();
    drop(Table::open(state.path()).unwrap());
    fs::write(state.path().join("tasks/8.json"), content).unwrap();
    let table = Table::open(state.path()).unwrap();
    assert_eq!(table.counts().active, 0);
    aside(state.path(), "8.json.")
}

/// The bytes of task 8's file.
fn content() -> String {
    let state = tempfile::tempdir().unwrap();
    Table::open(state.path()).unwrap().insert(record(8)).unwrap();
    fs::read_to_string(state.path().join("tasks/8.json")).unwrap()
}

#[test]
fn name_of_a_file_that_was_set_aside_says_what_is_wrong_with_it() {
    let whole = content();
    assert_eq!(set_aside_as(""), "empty");
    assert_eq!(set_aside_as(&whole[..whole.len() / 2]), "torn");
    assert_eq!(set_aside_as("\0\0\0\0"), "garbage");
    assert_eq!(set_aside_as(b"\xff\xfe"), "garbage");
    assert_eq!(set_aside_as("[]"), "garbage");
    assert_eq!(set_aside_as("{}"), "garbage");
    assert_eq!(set_aside_as(format!("{whole}{whole}")), "garbage");
    assert_eq!(set_aside_as(whole.replace("\"format\":1", "\"format\":2")), "future-version");
    assert_eq!(set_aside_as("{\"format\":2,\"all\":\"else is new\"}"), "future-version");
    assert_eq!(set_aside_as(whole.replace("\"format\":1", "\"format\":0")), "garbage");
    assert_eq!(set_aside_as(whole.replace("\"id\":8", "\"id\":9")), "wrong-id");
}

#[test]
fn record_of_a_version_that_wrote_no_format_is_read() {
    let state = tempfile::tempdir().unwrap();
    drop(Table::open(state.path()).unwrap());
    let before = content().replace("\"format\":1,", "");
    assert!(!before.contains("format"));
    fs::write(state.path().join("tasks/8.json"), before).unwrap();
    assert!(Table::open(state.path()).unwrap().get(id(8)).is_some());
}

#[test]
fn what_is_no_file_is_set_aside_unopened() {
    let state = tempfile::tempdir().unwrap();
    Table::open(state.path()).unwrap().insert(record(7)).unwrap();
    let tasks = state.path().join("tasks");
    fs::create_dir(tasks.join("5.json")).unwrap();
    fs::create_dir(tasks.join("9.json.new")).unwrap();
    // Opening it would wait for a writer.
    nix::unistd::mkfifo(&tasks.join("6.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink(tasks.join("7.json"), tasks.join("8.json")).unwrap();
    let table = Table::open(state.path()).unwrap();
    assert_eq!(table.active(|record| Some(record.spec.id)), [id(7)]);
    assert_eq!(names(state.path(), "tasks"), ["7.json"]);
    let set_aside = table.set_aside();
    assert_eq!(set_aside.count, 4);
    assert!(set_aside.newest.iter().all(|name| name.ends_with(".not-a-file")), "{set_aside:?}");
}

#[test]
fn file_that_is_larger_than_any_record_is_not_read() {
    let state = tempfile::tempdir().unwrap();
    drop(Table::open(state.path()).unwrap());
    let huge = fs::File::create(state.path().join("tasks/8.json")).unwrap();
    huge.set_len(1 << 40).unwrap();
    drop(Table::open(state.path()).unwrap());
    assert_eq!(aside(state.path(), "8.json."), "too-large");
}

#[test]
fn whole_record_under_a_name_that_is_no_id_is_set_aside() {
    let state = tempfile::tempdir().unwrap();
    drop(Table::open(state.path()).unwrap());
    fs::write(state.path().join("tasks/08.json"), content()).unwrap();
    drop(Table::open(state.path()).unwrap());
    assert_eq!(aside(state.path(), "08.json."), "wrong-id");
}

#[test]
fn second_file_of_a_name_does_not_overwrite_the_first_that_was_set_aside() {
    let state = tempfile::tempdir().unwrap();
    for content in ["{", "["] {
        drop(Table::open(state.path()).unwrap());
        fs::write(state.path().join("tasks/8.json"), content).unwrap();
    }
    assert_eq!(Table::open(state.path()).unwrap().set_aside().count, 2);
}

#[test]
fn record_that_is_over_and_broken_is_set_aside_when_it_is_asked_for() {
    let state = tempfile::tempdir().unwrap();
    let table = Table::open(state.path()).unwrap();
    fs::write(state.path().join("ended/8.json"), "{").unwrap();
    assert!(matches!(table.find(id(8)), Err(StoreError::Missing(_))));
    assert_eq!(aside(state.path(), "8.json."), "torn");
}

#[test]
fn set_aside_files_are_told_until_somebody_has_cleared_them() {
    let state = tempfile::tempdir().unwrap();
    drop(Table::open(state.path()).unwrap());
    fs::write(state.path().join("tasks/8.json"), "{").unwrap();
    drop(Table::open(state.path()).unwrap());
    // A later run, which found nothing itself.
    let table = Table::open(state.path()).unwrap();
    assert_eq!(table.set_aside().count, 1);
    assert!(table.set_aside().newest[0].ends_with("-8.json.torn"));
    fs::remove_file(state.path().join("broken").join(&table.set_aside().newest[0])).unwrap();
    assert_eq!(table.set_aside().count, 0);
}

#[test]
fn file_that_can_t_be_set_aside_is_left_and_told() {
    let state = tempfile::tempdir().unwrap();
    drop(Table::open(state.path()).unwrap());
    fs::create_dir(state.path().join("tasks/8.json")).unwrap();
    fs::remove_dir(state.path().join("broken")).unwrap();
    // A file in a directory's place refuses also root.
    fs::write(state.path().join("broken"), "in the way").unwrap();
    let table = Table::open(state.path()).unwrap();
    assert_eq!(table.set_aside().stuck, [state.path().join("tasks/8.json")]);
    assert!(matches!(table.restore(record(8)), Err(StoreError::Blocked { .. })));
    fs::remove_dir(state.path().join("tasks/8.json")).unwrap();
    assert!(table.set_aside().stuck.is_empty());
    table.restore(record(8)).unwrap();
}

#[test]
fn records_that_are_over_are_thrown_away_before_the_hour_when_they_are_too_many() {
    let state = tempfile::tempdir().unwrap();
    drop(with_an_untold_task(state.path()));
    let content = fs::read_to_string(state.path().join("untold/7.json")).unwrap();
    let ids = 8..=8 + ENDED_RECORDS_SLACK as u64;
    for number in ids.clone() {
        let file = state.path().join(format!("untold/{number}.json"));
        fs::write(file, content.replace("\"id\":7", &format!("\"id\":{number}"))).unwrap();
    }
    // What is in them does not matter here.
    for number in 0..ENDED_RECORDS_MAX as u64 {
        fs::write(state.path().join(format!("ended/{}.json", 1_000_000 + number)), "").unwrap();
    }
    let table = Table::open(state.path()).unwrap();
    assert_eq!(table.prune().unwrap(), 0);
    assert!(!table.is_crowded());
    ids.for_each(|number| table.put_away(id(number), Stamp::now()).unwrap());
    assert!(table.is_crowded());
    assert_eq!(table.prune().unwrap(), ENDED_RECORDS_SLACK + 1);
    assert!(!table.is_crowded());
}

// ── tasks that only wait for the host ────────────────────────────────────────────────────────

#[test]
fn task_that_only_waits_for_the_host_is_in_no_memory_and_still_found() {
    let state = tempfile::tempdir().unwrap();
    let table = with_an_untold_task(state.path());
    assert_eq!(table.counts(), Counts { active: 0, untold: 1 });
    assert_eq!(table.untold(), [id(7)]);
    assert_eq!(names(state.path(), "untold"), ["7.json"]);
    assert!(names(state.path(), "tasks").is_empty());
    assert_eq!(table.find(id(7)).unwrap().reports, [Report::Final]);
    assert!(matches!(table.insert(record(7)), Err(StoreError::Exists(_))));
}

#[test]
fn task_that_only_waits_for_the_host_does_so_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    drop(with_an_untold_task(state.path()));
    let table = Table::open(state.path()).unwrap();
    assert_eq!(table.counts(), Counts { active: 0, untold: 1 });
    assert_eq!(table.get(id(7)).unwrap().reports, [Report::Final]);
}

#[test]
fn task_whose_move_to_the_waiting_ones_was_lost_waits_for_the_host_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    drop(with_an_untold_task(state.path()));
    let from = state.path().join("untold/7.json");
    fs::rename(from, state.path().join("tasks/7.json")).unwrap();
    let table = Table::open(state.path()).unwrap();
    assert_eq!(table.counts(), Counts { active: 0, untold: 1 });
    assert_eq!(names(state.path(), "untold"), ["7.json"]);
}

#[test]
fn task_that_the_host_knows_of_is_over() {
    let state = tempfile::tempdir().unwrap();
    let table = with_an_untold_task(state.path());
    table.put_away(id(7), Stamp::from_seconds(5)).unwrap();
    assert_eq!(table.counts(), Counts::default());
    let record = table.find(id(7)).unwrap();
    assert_eq!(record.times.reported, Some(Stamp::from_seconds(5)));
    assert!(record.reports.is_empty());
    assert!(names(state.path(), "untold").is_empty());
}

#[test]
fn kill_of_a_task_that_waits_for_the_host_takes_its_record_back() {
    let state = tempfile::tempdir().unwrap();
    let table = with_an_untold_task(state.path());
    table.update(id(7), |record| record.reports.clear()).unwrap();
    assert_eq!(table.counts(), Counts { active: 1, untold: 0 });
    table.retire(id(7)).unwrap();
    assert_eq!(table.counts(), Counts::default());
    assert!(names(state.path(), "untold").is_empty());
    assert_eq!(table.find(id(7)).unwrap().phase, Phase::Ended);
}

#[test]
fn outcome_of_a_broken_waiting_record_is_never_taken_for_the_broken_file() {
    let state = tempfile::tempdir().unwrap();
    let table = with_an_untold_task(state.path());
    fs::write(state.path().join("untold/7.json"), "{").unwrap();
    // Whoever finds it broken is held between its loss and the move of its file: nobody reads the pipe.
    let pipe = state.path().join("lost/7.torn.new");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let outcome = || {
        let mut outcome = record(7);
        end_untold(&mut outcome);
        outcome.notes.push("made of the loss".into());
        outcome
    };
    let until = Instant::now() + Duration::from_secs(30);
    let (held, loss, ended) = std::thread::scope(|scope| {
        let finder = scope.spawn(|| table.get(id(7)));
        while table.counts().untold > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let seen = (table.counts(), table.loss(id(7)), table.end_lost(outcome()));
        // Before anything is asserted, so that a failure leaves no thread that waits for ever.
        let reader =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
        finder.join().unwrap();
        drop(reader);
        seen
    });
    assert_eq!((held, loss), (Counts { active: 1, untold: 0 }, None));
    assert!(matches!(ended, Err(StoreError::Exists(_))));
    assert_eq!(names(state.path(), "broken").len(), 1);
    assert_eq!(table.loss(id(7)), Some(Loss::Damaged("torn")));
    table.end_lost(outcome()).unwrap();
    table.retire(id(7)).unwrap();
    assert_eq!(table.get(id(7)).unwrap().notes, ["made of the loss"]);
}

#[test]
fn kill_that_comes_while_a_record_goes_to_wait_for_the_host_finds_it() {
    for _ in 0..100 {
        let state = tempfile::tempdir().unwrap();
        let table = Table::open(state.path()).unwrap();
        table.insert(record(7)).unwrap();
        table.update(id(7), end_untold).unwrap();
        std::thread::scope(|scope| {
            let retired = scope.spawn(|| table.retire(id(7)));
            let found = scope.spawn(|| table.find(id(7)));
            table.update(id(7), |record| record.reports.clear()).unwrap();
            retired.join().unwrap().unwrap();
            found.join().unwrap().unwrap();
        });
        assert_eq!(table.find(id(7)).unwrap().reports, []);
    }
}

#[test]
fn task_whose_waiting_record_was_taken_away_is_a_loss_until_it_has_an_outcome() {
    let state = tempfile::tempdir().unwrap();
    let table = with_an_untold_task(state.path());
    let before = metrics::RECORDS_BROKEN.get();
    fs::remove_file(state.path().join("untold/7.json")).unwrap();
    assert!(table.get(id(7)).is_none());
    assert!(table.update(id(7), |_| ()).is_err());
    assert_eq!(table.counts(), Counts::default());
    assert!(metrics::RECORDS_BROKEN.get() > before);
    assert_eq!(table.loss(id(7)), Some(Loss::Gone));
    assert!(matches!(table.insert(record(7)), Err(StoreError::Exists(_))));
    table.restore(record(7)).unwrap();
    assert_eq!(table.loss(id(7)), None);
    assert!(names(state.path(), "lost").is_empty());
}

#[test]
fn loss_is_known_to_the_next_life_until_the_whole_file_is_put_back() {
    let state = tempfile::tempdir().unwrap();
    drop(Table::open(state.path()).unwrap());
    fs::write(state.path().join("tasks/8.json"), "{").unwrap();
    drop(Table::open(state.path()).unwrap());
    let table = Table::open(state.path()).unwrap();
    assert_eq!((table.lost(), table.loss(id(8))), (vec![id(8)], Some(Loss::Damaged("torn"))));
    drop(table);
    fs::write(state.path().join("tasks/8.json"), content()).unwrap();
    let table = Table::open(state.path()).unwrap();
    assert!(table.lost().is_empty() && table.is_live(id(8)));
    assert!(names(state.path(), "lost").is_empty());
}

#[test]
fn file_of_a_later_version_or_of_another_task_is_no_loss() {
    for (from, to) in [("\"format\":1", "\"format\":2"), ("\"id\":8", "\"id\":9")] {
        let state = tempfile::tempdir().unwrap();
        drop(Table::open(state.path()).unwrap());
        fs::write(state.path().join("tasks/8.json"), content().replace(from, to)).unwrap();
        assert!(Table::open(state.path()).unwrap().lost().is_empty());
    }
}

#[test]
fn task_that_is_told_and_can_t_be_moved_is_not_told_again_and_moved_later() {
    let state = tempfile::tempdir().unwrap();
    let table = with_an_untold_task(state.path());
    let ended = state.path().join("ended");
    fs::remove_dir(&ended).unwrap();
    fs::write(&ended, "in the way").unwrap();
    assert!(table.put_away(id(7), Stamp::now()).is_err());
    assert!(table.trouble().is_some());
    assert!(table.untold().is_empty() && table.get(id(7)).unwrap().reports.is_empty());
    fs::remove_file(&ended).unwrap();
    table.put_away_told().unwrap();
    assert_eq!(table.trouble(), None);
    assert_eq!(table.counts(), Counts::default());
    assert!(table.is_over(id(7)));
}

#[test]
fn broken_record_of_a_task_that_waits_for_the_host_is_set_aside_when_it_is_its_turn() {
    let state = tempfile::tempdir().unwrap();
    let table = with_an_untold_task(state.path());
    fs::write(state.path().join("untold/7.json"), "").unwrap();
    assert!(table.get(id(7)).is_none());
    assert_eq!(table.counts(), Counts::default());
    assert_eq!(aside(state.path(), "7.json."), "empty");
    assert_eq!(table.loss(id(7)), Some(Loss::Damaged("empty")));
}

#[test]
fn move_that_fails_is_not_hidden_by_writes_that_work() {
    let state = tempfile::tempdir().unwrap();
    let table = Table::open(state.path()).unwrap();
    table.insert(record(7)).unwrap();
    table.insert(record(8)).unwrap();
    table.update(id(7), end).unwrap();
    let ended = state.path().join("ended");
    fs::remove_dir(&ended).unwrap();
    fs::write(&ended, "in the way").unwrap();
    assert!(table.retire(id(7)).is_err());
    table.update(id(8), |record| record.phase = Phase::Running).unwrap();
    assert!(table.trouble().is_some());
    fs::remove_file(&ended).unwrap();
    table.retire(id(7)).unwrap();
    assert_eq!(table.trouble(), None);
}

#[test]
fn refusal_of_a_directory_names_it_and_its_holder() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Table::open(directory.path()).unwrap();
    let said = Table::open(directory.path()).unwrap_err().to_string();
    assert!(said.contains(directory.path().to_str().unwrap()), "{said}");
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
}

#[test]
fn directory_that_was_left_is_had_by_a_successor_and_written_by_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let table = std::sync::Arc::new(Table::open(dir.path()).unwrap());
    table.insert(record(1)).unwrap();
    assert!(table.leave());
    let successor = Table::open(dir.path()).unwrap();
    assert!(successor.is_live(id(1)));
    // Waits for the end of its process, which is this one's.
    let late = std::sync::Arc::clone(&table);
    let writer = std::thread::spawn(move || late.insert(record(2)));
    std::thread::sleep(Duration::from_millis(100));
    assert!(!writer.is_finished());
    assert!(!dir.path().join("tasks/2.json").exists());
}
