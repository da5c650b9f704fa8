//! `ls` in a real task.

use std::fs;

use super::pty::Pty;
use super::{of, program, text};
use crate::kit::{Daemon, running, unique_id};

/// A task that has these files in its `/shared/dir`.
fn task_with(daemon: &Daemon, names: &[&str]) -> u64 {
    let directory = daemon.shared_dir().join("shared_data/dir");
    fs::create_dir_all(&directory).unwrap();
    for name in names {
        fs::write(directory.join(name), "four").unwrap();
    }
    running(daemon, "sleep 300")
}

#[test]
fn names_are_listed_one_a_line_and_with_a_flag_the_dotted_ones() {
    let daemon = Daemon::start();
    let id = task_with(&daemon, &["b", "a b", ".c"]);
    let place = format!("{id}:/shared/dir");
    let plain = of(&daemon, &["ls", &place]).output().unwrap();
    assert_eq!((text(&plain.stdout).as_str(), plain.status.code()), ("a b\nb\n", Some(0)));
    let all = of(&daemon, &["ls", "-a", &place]).output().unwrap();
    assert_eq!(text(&all.stdout), ".c\na b\nb\n");
}

#[test]
fn long_lines_tell_type_permissions_size_and_time() {
    let daemon = Daemon::start();
    let id = task_with(&daemon, &["a"]);
    let output = of(&daemon, &["ls", "-l", &format!("{id}:/shared")]).output().unwrap();
    let said = text(&output.stdout);
    assert!(said.lines().any(|line| line.starts_with("drwx") && line.ends_with(" dir")), "{said}");
    let output = of(&daemon, &["ls", "-l", &format!("{id}:/shared/dir/a")]).output().unwrap();
    let said = text(&output.stdout);
    assert!(said.starts_with("-rw-r--r-- 4 20") && said.ends_with(" /shared/dir/a\n"), "{said}");
}

#[test]
fn directory_of_more_than_a_page_is_listed_whole() {
    let daemon = Daemon::start();
    let names: Vec<_> = (0..2345).map(|number| format!("{number:04}")).collect();
    let id = task_with(&daemon, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let output = of(&daemon, &["ls", &format!("{id}:/shared/dir")]).output().unwrap();
    assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), names);
}

#[test]
fn terminal_is_shown_names_that_do_nothing_to_it() {
    let daemon = Daemon::start();
    let id = task_with(&daemon, &["a\n\x1b[2Jb"]);
    let mut pty = Pty::start(&of(&daemon, &["ls", &format!("{id}:/shared/dir")]));
    assert_eq!(pty.wait_end().code(), Some(0));
    pty.wait_shown_alone("$'a\\n\\033[2Jb'\r\n");
}

#[test]
fn runner_is_reached_by_its_socket_too() {
    let daemon = Daemon::start();
    let id = task_with(&daemon, &["a"]);
    let mut by_socket = program(&["ls", &format!("{id}:/shared/dir")]);
    by_socket.env("RIVER_URL", format!("unix://{}", daemon.api_socket().display()));
    assert_eq!(text(&by_socket.output().unwrap().stdout), "a\n");
}

#[test]
fn what_is_not_there_is_said() {
    let daemon = Daemon::start();
    let id = task_with(&daemon, &[]);
    for place in [format!("{id}:/no/such"), format!("{}:/", unique_id())] {
        let output = of(&daemon, &["ls", &place]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("(status 404)"), "{}", text(&output.stderr));
    }
}
