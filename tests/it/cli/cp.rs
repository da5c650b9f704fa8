//! `cp` between this machine and a real task; faults come from a runner made of paper.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::fake::{FakeRunner, reply};
use super::pty::Pty;
use super::{client, interrupt, of, start, status_of, text};
use crate::kit::{Daemon, SOON, execute_body, image, running, unique_id, wait_until, with};

/// Waits for its files to be there.
const SLEEP: &str = "sleep 300";

#[track_caller]
fn copied(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

fn random(bytes: usize) -> Vec<u8> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    random
}

/// What the task sees as `/shared`.
fn shared(daemon: &Daemon) -> std::path::PathBuf {
    daemon.shared_dir().join("shared_data")
}

/// A task that runs in this image.
fn running_in(daemon: &Daemon, name: &str, command: &str) -> u64 {
    let body = execute_body(daemon, unique_id(), command);
    let id = daemon.submit(&with(body, json!({ "registry_image": image(name) })));
    daemon.wait_status(id, "running");
    id
}

// ── on the real thing ────────────────────────────────────────────────────────────────────────

#[test]
fn file_of_twelve_mib_and_an_odd_name_goes_in_and_comes_back_as_it_was() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    let place = tempfile::tempdir().unwrap();
    let (name, bytes) = ("a  b\nc", random(12 << 20));
    let file = place.path().join(name);
    fs::write(&file, &bytes).unwrap();
    copied(of(&daemon, &["cp"]).arg(&file).arg(format!("{id}:/shared")));
    assert!(fs::read(shared(&daemon).join(name)).unwrap() == bytes, "damaged on its way in");
    fs::remove_file(&file).unwrap();
    copied(of(&daemon, &["cp"]).arg(format!("{id}:/shared/{name}")).arg(place.path()));
    assert!(fs::read(&file).unwrap() == bytes, "damaged on its way out");
}

#[test]
fn largest_file_that_a_runner_takes_goes_in_and_comes_back_as_it_was() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    let place = tempfile::tempdir().unwrap();
    let bytes = random(50 << 20);
    let file = place.path().join("large");
    fs::write(&file, &bytes).unwrap();
    copied(of(&daemon, &["cp"]).arg(&file).arg(format!("{id}:/tmp/large")));
    let output = copied(&mut of(&daemon, &["cp", &format!("{id}:/tmp/large"), "-"]));
    assert!(output.stdout == bytes, "damaged");
}

#[test]
fn person_sees_how_far_a_long_copy_is_and_nothing_of_it_stays() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("long");
    fs::write(&file, random(12 << 20)).unwrap();
    for (from, to, seen) in [
        (file.display().to_string(), format!("{id}:/tmp/long"), "12 MiB on their way".to_owned()),
        (format!("{id}:/tmp/long"), file.display().to_string(), "8 of 12 MiB".to_owned()),
    ] {
        let mut pty = Pty::start(&of(&daemon, &["cp", &from, &to]));
        assert_eq!(pty.wait_end().code(), Some(0));
        pty.wait_shown(&seen, 1);
        // The line is taken away.
        assert!(wait_until(SOON, || pty.shown().ends_with("\r\u{1b}[K")), "{:?}", pty.shown());
    }
}

#[test]
fn stdin_and_stdout_are_files_too() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    let bytes = random(100_000);
    let mut command = of(&daemon, &["cp", "-", &format!("{id}:/tmp/piped")]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(status_of(child).success());
    let output = copied(&mut of(&daemon, &["cp", &format!("{id}:/tmp/piped"), "-"]));
    assert!(output.stdout == bytes);
}

#[test]
fn file_that_is_not_there_is_said_and_leaves_nothing() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    let place = tempfile::tempdir().unwrap();
    let output =
        of(&daemon, &["cp", &format!("{id}:/no/such")]).arg(place.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("(status 404)"), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn task_that_is_not_known_is_said() {
    let daemon = Daemon::start();
    let id = unique_id();
    for words in [["cp", "7:/x", "/dev/null"], ["cp", "/etc/hostname", "7:/x"]] {
        let words = words.map(|word| word.replace("7:", &format!("{id}:")));
        let output = of(&daemon, &words.each_ref().map(String::as_str)).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("(status 404)"), "{}", text(&output.stderr));
    }
}

#[test]
fn what_the_containers_user_may_not_is_refused_both_ways() {
    let daemon = Daemon::start();
    let id = running_in(&daemon, "debian-worker", SLEEP);
    let place = tempfile::tempdir().unwrap();
    let secret = format!("{id}:/etc/shadow");
    let out = of(&daemon, &["cp", &secret]).arg(place.path()).output().unwrap();
    let into = of(&daemon, &["cp", "/etc/hostname", &format!("{id}:/etc/")]).output().unwrap();
    for output in [out, into] {
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("(status 403)"), "{}", text(&output.stderr));
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn tree_goes_in_and_comes_back_without_its_links_and_says_so() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("a b/empty")).unwrap();
    fs::write(tree.join("a b/.hidden"), "hidden").unwrap();
    fs::write(tree.join("top"), "top").unwrap();
    symlink("/etc/passwd", tree.join("link")).unwrap();

    let into = of(&daemon, &["cp", "-r"]).arg(&tree).arg(format!("{id}:/tmp/copy")).output();
    let into = into.unwrap();
    assert_eq!(into.status.code(), Some(1));
    assert!(text(&into.stderr).contains("tree/link is left out"), "{}", text(&into.stderr));

    let back = place.path().join("back");
    copied(of(&daemon, &["cp", "-r", &format!("{id}:/tmp/copy")]).arg(&back));
    assert_eq!(fs::read(back.join("a b/.hidden")).unwrap(), b"hidden");
    assert_eq!(fs::read(back.join("top")).unwrap(), b"top");
    assert!(back.join("a b/empty").is_dir());
    assert!(fs::symlink_metadata(back.join("link")).is_err());
}

#[test]
fn file_that_is_replaced_keeps_its_mode_and_a_new_one_gets_the_tasks() {
    let daemon = Daemon::start();
    let id = running(&daemon, "echo x > /tmp/x; chmod 750 /tmp/x; touch /shared/made; sleep 300");
    assert!(wait_until(SOON, || shared(&daemon).join("made").exists()));
    let place = tempfile::tempdir().unwrap();
    let old = place.path().join("old");
    fs::write(&old, "a longer text").unwrap();
    fs::set_permissions(&old, PermissionsExt::from_mode(0o604)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

    copied(of(&daemon, &["cp", &format!("{id}:/tmp/x")]).arg(&old));
    assert_eq!((fs::read(&old).unwrap().as_slice(), mode(&old)), (b"x\n".as_slice(), 0o604));
    copied(of(&daemon, &["cp", &format!("{id}:/tmp/x")]).arg(place.path()));
    assert_eq!(mode(&place.path().join("x")) & 0o700, 0o700);
}

#[test]
fn device_is_written_to_and_stays_one() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    copied(&mut of(&daemon, &["cp", &format!("{id}:/etc/passwd"), "/dev/null"]));
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn directory_by_itself_wants_the_flag() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    let out = of(&daemon, &["cp", &format!("{id}:/tmp"), "/tmp"]).output().unwrap();
    let into = of(&daemon, &["cp", "/tmp", &format!("{id}:/tmp")]).output().unwrap();
    for output in [out, into] {
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("-r copies those"), "{}", text(&output.stderr));
    }
}

#[test]
fn directory_that_was_meant_must_be_there() {
    let daemon = Daemon::start();
    let id = running(&daemon, SLEEP);
    let words = ["cp", "/etc/hostname", &format!("{id}:/tmp/none/")];
    let output = of(&daemon, &words).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = format!("river-runner: there is no directory {id}:/tmp/none/\n");
    assert_eq!(text(&output.stderr), said);
}

// ── faults ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn file_that_is_too_large_is_refused_before_anything_is_sent() {
    let runner = FakeRunner::start(|_, caller| reply(caller, 404, &json!({"detail": "none"})));
    let place = tempfile::tempdir().unwrap();
    let large = place.path().join("large");
    File::create(&large).unwrap().set_len((50 << 20) + 1).unwrap();
    let output = client(&runner, &["cp", large.to_str().unwrap(), "7:/x"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("is larger than 50 MiB, the most that a runner takes"), "{said}");
    assert!(!runner.seen.has("POST "));
}

#[test]
fn copy_between_two_of_a_kind_says_what_to_do() {
    let runner = FakeRunner::start(|_, caller| reply(caller, 404, &json!({"detail": "none"})));
    let two = client(&runner, &["cp", "7:/a", "8:/b"]);
    assert!(text(&two.stderr).contains("cp TASK:PATH - | river-runner cp - TASK:PATH"));
    let none = client(&runner, &["cp", "a", "b"]);
    assert_eq!(text(&none.stderr), "river-runner: one of the two must be TASK:PATH\n");
    assert_eq!(client(&runner, &["cp", "7:a", "b"]).status.code(), Some(2));
}

/// A runner with one file, of which the first piece comes and no more.
fn stuck() -> FakeRunner {
    let (keep, kept) = std::sync::mpsc::channel::<std::net::TcpStream>();
    let (keep, kept) = (std::sync::Mutex::new(keep), std::sync::Mutex::new(kept));
    FakeRunner::start(move |request, caller| {
        let _held = &kept;
        if request.path.starts_with("/api/fs/7/stat") {
            let file = json!({"path": "/f", "type": "file", "size": 9, "permissions": "rw-r--r--",
                              "mtime": "2026-11-24T21:11:08"});
            reply(caller, 200, &file);
        } else if request.path.contains("offset=0") {
            let piece = json!({"path": "/f", "content": "eHh4", "encoding": "base64", "size": 3,
                               "truncated": true});
            reply(caller, 200, &piece);
        } else {
            // Open and silent until the test ends.
            keep.lock().unwrap().send(caller.try_clone().unwrap()).unwrap();
        }
    })
}

#[test]
fn copy_that_is_interrupted_leaves_the_old_file_and_nothing_else() {
    let runner = stuck();
    let place = tempfile::tempdir().unwrap();
    let old = place.path().join("f");
    fs::write(&old, "old").unwrap();
    let child = start(&runner, &["cp", "7:/f", old.to_str().unwrap()]);
    runner.seen.wait_for("GET /api/fs/7/read?path=/f&encoding=base64&offset=3", |_| ());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    interrupt(&child);
    assert_eq!(status_of(child).code(), Some(130));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    assert_eq!(fs::read(&old).unwrap(), b"old");
}

#[test]
fn names_that_lead_out_of_the_copy_are_left_out() {
    let runner = FakeRunner::start(|request, caller| {
        if request.path.starts_with("/api/fs/7/stat") {
            let directory = json!({"path": "/d", "type": "directory", "size": 9,
                                   "permissions": "rwxr-xr-x", "mtime": "2026-11-24T21:11:08"});
            return reply(caller, 200, &directory);
        }
        if request.path.starts_with("/api/fs/7/list") {
            let entry = |name: &str| {
                json!({"name": name, "path": name, "type": "file", "size": 3,
                       "permissions": "rw-r--r--", "mtime": "2026-11-24T21:11:08"})
            };
            let entries = ["../out", "..", ".", "", "a/b", "good"].map(entry);
            return reply(caller, 200, &json!({"path": "/d", "entries": entries, "parent": "/"}));
        }
        let piece = json!({"path": "/f", "content": "eHh4", "encoding": "base64", "size": 3,
                           "truncated": false});
        reply(caller, 200, &piece);
    });
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    let output = client(&runner, &["cp", "-r", "7:/d", copy.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let names = |path: &Path| -> Vec<_> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names(place.path()), ["copy"]);
    assert_eq!(names(&copy), ["good"]);
    assert_eq!(text(&output.stderr).matches("is left out").count(), 5);
}
