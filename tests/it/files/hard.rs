//! Names, kinds and disks that go wrong elsewhere.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde_json::{Value, json};

use super::house::House;
use crate::kit::{Daemon, SOON, SmallDisk, docker, task_container, wait_until};

#[test]
fn names_of_any_bytes_are_listed_read_moved_and_removed() {
    let house = House::busybox();
    house.inside(
        r#"mkdir /n; cd /n; echo space > 'a b'; echo line > "$(printf 'c\nd')"; \
           echo bytes > "$(printf 'e\377')"; echo quote > "it's \"q\"""#,
    );
    let list = house.get("list?path=/n").expect(200).json;
    let names: Vec<_> = list["entries"].as_array().unwrap().iter().map(|e| &e["name"]).collect();
    assert_eq!(names, [&json!("a b"), &json!("c\nd"), &json!("e\u{fffd}"), &json!("it's \"q\"")]);
    assert_eq!(house.read("/n/a%20b"), "space\n");
    assert_eq!(house.read("/n/c%0Ad"), "line\n");
    assert_eq!(house.read("/n/it's%20%22q%22"), "quote\n");
    // Shown with a replacement, found by it, and written back under its own bytes.
    let path = "/n/e\u{fffd}";
    assert_eq!(house.read("/n/e%EF%BF%BD"), "bytes\n");
    assert_eq!(house.get("stat?path=/n/e%EF%BF%BD").expect(200).json["size"], 6);
    house.write(path, "new").expect(200);
    assert_eq!(house.inside(r#"cat "/n/$(printf 'e\377')"; ls /n | wc -l"#), "new4\n");
    house.rename(path, "/n/plain", false).expect(200);
    assert_eq!(house.read("/n/plain"), "new");
    // Of two that look the same none is meant.
    house.inside(r#"cd /n; echo 1 > "$(printf 'e\377')"; echo 2 > "$(printf 'e\376')""#);
    house.get("read?path=/n/e%EF%BF%BD").expect(404);
    house.delete("/n&recursive=true").expect(200);
}

#[test]
fn list_goes_on_behind_names_of_any_bytes() {
    let house = House::busybox();
    house.inside(
        r#"mkdir /m; cd /m; for i in $(seq 1 1200); do : > "$(printf 'f%s\377' $i)"; done"#,
    );
    let first = house.get("list?path=/m").expect(200).json;
    let cursor = first["cursor"].as_str().expect("more");
    let rest = house.get(&format!("list?path=/m&cursor={cursor}")).expect(200).json;
    assert_eq!(rest["entries"].as_array().map(Vec::len), Some(200));
    assert_eq!(rest["cursor"], Value::Null);
}

#[test]
fn container_without_any_program_has_every_row() {
    let house = House::bare();
    house.write("/a/b", "text").expect(200);
    assert_eq!(house.read("/a/b"), "text");
    house.post("mkdir", json!({ "path": "/c/d" })).expect(200);
    house.rename("/a/b", "/c/d/e", false).expect(200);
    let stat = house.get("stat?path=/c/d/e").expect(200).json;
    assert_eq!((&stat["size"], &stat["owner"]), (&json!(4), &json!("root")));
    let list = house.get("list").expect(200).json;
    let names: Vec<_> = list["entries"].as_array().unwrap().iter().map(|e| &e["name"]).collect();
    assert!(names.contains(&&json!("c")) && !names.contains(&&json!("bin")), "{names:?}");
    house.delete("/c&recursive=true").expect(200);
}

#[test]
fn sockets_are_told_of_and_not_opened() {
    let house = House::busybox();
    let path = house.daemon.shared_dir().join("shared_data/socket");
    let _socket = UnixListener::bind(path).unwrap();
    let stat = house.get("stat?path=/shared/socket").expect(200).json;
    assert_eq!(stat["type"], "other");
    house.get("read?path=/shared/socket").expect(400);
    house.write("/shared/socket", "x").expect(400);
    house.delete("/shared/socket").expect(200);
}

#[test]
fn kernels_files_are_refused_where_they_are_mounted_elsewhere() {
    let mounts = vec!["/proc:/p", "/sys:/s", "/dev:/d", "/sys/fs/cgroup:/c"];
    let house = House::of(Daemon::builder().set("additional_mounts", mounts).start());
    for path in ["/p/version", "/p/1/root/etc/passwd", "/s/kernel/uevent_seqnum", "/p/1/environ"] {
        let read = house.get(&format!("read?path={path}"));
        assert!([400, 403].contains(&read.status), "{path}: {}", read.text());
    }
    for path in ["/p", "/s", "/p/1/root", "/p/self/cwd"] {
        let list = house.get(&format!("list?path={path}"));
        assert!([400, 403].contains(&list.status), "{path}: {}", list.text());
    }
    assert_eq!(house.get("read?path=/d/null").status, 400);
    for path in ["/p/sys/kernel/hostname", "/s/x", "/d/null", "/p/1/root/tmp/x"] {
        assert!([400, 403].contains(&house.write(path, "x").status), "{path}");
    }
    assert!(house.delete("/p/1/root/tmp&recursive=true").status >= 400);
}

#[test]
fn program_that_runs_is_replaced_and_runs_on() {
    let house = House::busybox();
    house.inside("cp /bin/busybox /bin/busybox-own; (/bin/busybox-own sleep 600 >/dev/null 2>&1 </dev/null &)");
    house.write("/bin/busybox-own", "text").expect(200);
    assert_eq!(house.read("/bin/busybox-own"), "text");
    let seen =
        house.inside("stat -c %a /bin/busybox-own; ls -l /proc/[0-9]*/exe | grep -c own.*deleted");
    assert_eq!(seen, "755\n1\n");
}

#[test]
fn full_disk_keeps_the_old_content() {
    let mut daemon = Daemon::builder().stopped();
    std::fs::create_dir_all(daemon.shared_dir().join("shared_data")).unwrap();
    let disk = SmallDisk::over(&daemon.shared_dir().join("shared_data"), 4 << 20, 100);
    daemon.launch();
    daemon.wait_healthy();
    let house = House::of(daemon);
    house.write("/shared/f", "old").expect(200);
    let refused = house.write("/shared/f", &"x".repeat(8 << 20)).expect(500);
    let detail = refused.json["detail"].as_str().unwrap();
    assert!(detail.contains("/shared/f") && detail.contains("No space left"), "{detail}");
    assert_eq!(house.read("/shared/f"), "old");
    assert_eq!(house.inside("ls -A /shared"), "f\n");
    // One with another name too is written in place.
    house.inside("ln /shared/f /shared/g");
    house.write("/shared/f", &"x".repeat(8 << 20)).expect(500);
    assert_eq!(
        house.inside("cat /shared/f /shared/g; df /shared | tail -1 | awk '$3 > 100'"),
        "oldold"
    );
    house.write("/shared/f", "n").expect(200);
    assert_eq!(house.inside("cat /shared/f /shared/g"), "nn");
    drop(house);
    drop(disk);
}

#[test]
fn list_of_users_that_is_no_file_is_not_opened() {
    let house = House::busybox();
    house.inside(
        "rm /etc/passwd; mkfifo /etc/passwd; echo x > /f; \
         (: > /etc/passwd; echo > /shared/woken) >/dev/null 2>&1 </dev/null & sleep 1",
    );
    assert_eq!(house.get("stat?path=/f").expect(200).json["owner"], Value::Null);
    // Nothing may be run in it to look: the Engine reads the list for that.
    let woken = house.daemon.shared_dir().join("shared_data/woken");
    assert!(!wait_until(Duration::from_secs(1), || woken.exists()));
}

#[test]
fn piece_behind_every_end_is_empty() {
    let house = House::busybox();
    house.write("/f", "text").expect(200);
    for offset in ["4", "5", "17592186044416", "9223372036854775807", "18446744073709551615"] {
        let read = house.get(&format!("read?path=/f&offset={offset}")).expect(200).json;
        assert_eq!((&read["size"], &read["truncated"]), (&json!(0), &json!(false)), "{offset}");
    }
}

#[test]
fn path_that_is_too_long_is_refused_without_being_told_back() {
    let house = House::busybox();
    for path in ["/a".repeat(4 << 20), "a/".repeat(4 << 20)] {
        let refused = house.write(&path, "x").expect(400);
        assert!(refused.body.len() < 8 << 10, "{} bytes", refused.body.len());
    }
    assert!(house.daemon.rss_kb() < 100 << 10, "{} KiB", house.daemon.rss_kb());
}

#[test]
fn bad_values_are_refused_by_name() {
    let house = House::busybox();
    let long = format!("/{}", "n".repeat(300));
    assert_eq!(house.write(&long, "x").status, 400);
    assert_eq!(house.get(&format!("stat?path=/{}", "a/".repeat(3000))).status, 400);
    assert_eq!(house.get("read?path=/etc").status, 400);
    assert_eq!(house.write("/etc", "x").status, 500);
    assert_eq!(house.write("/etc/passwd/x", "x").status, 409);
    for body in [
        json!({ "content": "x" }),
        json!({ "path": "/x" }),
        json!({ "path": 5, "content": "x" }),
        json!({ "path": "/x", "content": null }),
        json!({ "path": "/x", "content": "x", "encoding": "rot13" }),
        json!({ "path": "/x", "content": "x", "create_parents": "perhaps" }),
    ] {
        let refused = house.post("write", body.clone()).expect(422);
        assert!(refused.json["detail"][0]["loc"].is_array(), "{body}");
    }
    let no_parent = json!({ "path": "/no/such/f", "content": "x", "create_parents": false });
    house.post("write", no_parent).expect(500);
    house.get("stat?path=/no").expect(404);
    house.post("rename", json!({ "source": "/x" })).expect(422);
    house.post("rename", json!({ "source": "/x", "destination": "x" })).expect(400);
    house.post("mkdir", json!({ "path": "/etc/passwd" })).expect(409);
    house.post("mkdir", json!({ "path": "/no/such", "parents": false })).expect(500);
    assert_eq!(house.inside("ls -A / | grep -e '^x$' -e unfinished || true"), "");
}

/// Whether the file system of the container's directory makes files that have no name.
fn knows_nameless_files(house: &House, directory: &str) -> bool {
    let container = task_container(house.id);
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &container]);
    let directory = format!("/proc/{}/root{directory}", pid.trim());
    File::options().write(true).custom_flags(libc::O_TMPFILE).open(directory).is_ok()
}

#[test]
fn runner_killed_in_a_write_leaves_the_old_content_and_nothing_else() {
    let mut house = House::busybox();
    for directory in ["/", "/shared/"] {
        let path = &format!("{directory}f");
        house.write(path, "old").expect(200);
        // Before the new file has any content, and before it takes the name.
        for call in ["fchown", "renameat"] {
            let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL"));
            house.daemon.with_strace(&["-e", &trace, "-e", &inject]);
            house.daemon.restart();
            let row = format!("/api/fs/{}/write", house.id);
            let body = json!({ "path": path, "content": "new".repeat(1 << 20) });
            house.daemon.try_call("POST", &row, Some(&body)).expect_err("a killed runner");
            assert_eq!(house.daemon.wait_exit(SOON), (None, Some(9)), "{call}");
            house.daemon.without_strace();
            house.daemon.restart();
            assert_eq!(house.read(path), "old", "{call}");
            let left = house.inside(&format!("ls -A {directory} | grep -c unfinished || true"));
            // It has a name of its own just before it takes the other, and where it must have one.
            let has_name = call == "renameat" || !knows_nameless_files(&house, directory);
            assert_eq!(left.trim(), if has_name { "1" } else { "0" }, "{call}");
            house.inside(&format!("rm -f {directory}.river-runner-*.unfinished"));
        }
        house.write(path, "new").expect(200);
        assert_eq!(house.read(path), "new");
    }
}

#[test]
fn files_are_replaced_whole_where_none_can_be_without_a_name() {
    let mut house = House::busybox();
    let refusal = ["-P", ".", "-e", "trace=openat", "-e", "inject=openat:error=EOPNOTSUPP"];
    house.daemon.with_strace(&refusal);
    house.daemon.restart();
    house.write("/w/f", "old").expect(200);
    let old = house.inside("stat -c %i /w/f");
    house.inside("chmod 640 /w/f");
    house.write("/w/f", "new").expect(200);
    assert_eq!(house.inside("cat /w/f; stat -c :%a /w/f; ls -A /w"), "new:640\nf\n");
    assert_ne!(house.inside("stat -c %i /w/f"), old);
    let trace = std::fs::read_to_string(house.daemon.strace_path()).unwrap();
    let refused = |line: &&str| line.contains("O_TMPFILE") && line.contains("INJECTED");
    assert_eq!(trace.lines().filter(refused).count(), 2, "{trace}");
}
