//! The rows of files on real containers (contract 8, design D7): what they answer, whose rights they
//! have, and that no path or link leads out.

mod hard;
mod house;
mod moves;
mod races;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use self::house::House;
use crate::kit::{Daemon, with};

#[test]
fn file_is_written_read_listed_moved_and_deleted() {
    let house = House::busybox();
    let written = house.post("write", json!({"path": "/w//a/../b/f", "content": "héllo"}));
    let expected = json!({"path": "/w/b/f", "size": 6, "success": true});
    assert_eq!(written.expect(200).json, expected);
    assert_eq!(house.inside("cat /w/b/f; stat -c %a:%U /w/b/f").trim(), "héllo644:root");
    assert_eq!(house.read("/w/b/f"), "héllo");

    let list = house.get("list?path=/w/b").expect(200).json;
    let entry = &list["entries"][0];
    assert_eq!((&list["parent"], &entry["path"]), (&json!("/w"), &json!("/w/b/f")));
    assert_eq!((&entry["type"], &entry["size"]), (&json!("file"), &json!(6)));
    assert_eq!(entry["permissions"], "rw-r--r--");
    assert_eq!(entry["mtime"].as_str().map(str::len), Some("2026-11-24T21:11:08".len()));

    house.post("mkdir", json!({"path": "/w/b", "parents": false})).expect(409);
    house.post("mkdir", json!({"path": "/w/d"})).expect(200);
    // An existing directory is moved into, if that is what `overwrite` says.
    let into = json!({"source": "/w/b/f", "destination": "/w/d"});
    house.post("rename", into.clone()).expect(409);
    house.post("rename", with(into.clone(), json!({"overwrite": true}))).expect(200);
    house.post("rename", into).expect(404);
    assert_eq!(house.read("/w/d/f"), "héllo");
    house.post("write", json!({"path": "/w/g", "content": "g"})).expect(200);
    let onto = json!({"source": "/w/g", "destination": "/w/d/f"});
    house.post("rename", onto.clone()).expect(409);
    house.post("rename", with(onto, json!({"overwrite": true}))).expect(200);
    assert_eq!(house.get("stat?path=/w/d/f").expect(200).json["owner"], "root");

    house.delete("/w").expect(400);
    house.delete("/w&recursive=true").expect(200);
    house.delete("/w").expect(200);
    house.get("stat?path=/w").expect(404);
    assert_eq!(house.inside("ls -a / | grep unfinished || true"), "");
}

#[test]
fn calls_that_make_no_sense_are_refused_before_the_task_is_looked_up() {
    let daemon = Daemon::builder().start();
    let status = |row: &str| daemon.get(&format!("/api/fs/7/{row}")).status;
    for path in ["", "a", "/proc", "//proc/1", "/a/../sys", "/dev/null"] {
        assert_eq!(status(&format!("read?path={path}")), 400, "{path:?}");
    }
    assert_eq!(status("read?path=/a&encoding=latin"), 422);
    assert_eq!(status("read?path=/a&limit=x"), 422);
    let missing = daemon.get("/api/fs/7/read").expect(422).json;
    assert_eq!(missing["detail"][0]["type"], "missing");
    assert_eq!(missing["detail"][0]["loc"], json!(["query", "path"]));
    assert_eq!(status("list?cursor=x"), 422);
    assert_eq!(status("list?show_hidden=perhaps"), 422);
    assert_eq!(status("delete?path=/a&recursive=perhaps"), 405);
    assert_eq!(status("read?path=/a"), 404);
    let bad = json!({"path": "/a", "content": "Zg", "encoding": "base64"});
    daemon.post("/api/fs/7/write", &bad).expect(400);
}

#[test]
fn links_pipes_and_devices_lead_nowhere_and_hold_nobody() {
    let house = House::busybox();
    fs::write(house.daemon.path("outside"), "host").unwrap();
    let outside = house.daemon.path("outside");
    house.inside(&format!(
        "mkdir /e; cd /e; ln -s {} absolute; ln -s ../../../../..{} relative; \
         ln -s /proc/self/root magic; ln -s /proc proc; ln -s /sys sys; ln -s /dev dev; \
         mkfifo pipe; mknod zero c 1 5; ln -s /dev/shm shm; ln -s loop loop",
        outside.display(),
        outside.display()
    ));
    for name in ["absolute", "relative", "absent"] {
        assert_eq!(house.get(&format!("read?path=/e/{name}")).status, 404, "{name}");
    }
    assert_eq!(house.get("read?path=/e/loop").status, 400);
    for path in
        ["proc/1/environ", "proc/version", "sys/kernel/uevent_seqnum", "dev/zero", "pipe", "zero"]
    {
        assert_eq!(house.get(&format!("read?path=/e/{path}")).status, 400, "{path}");
    }
    assert!(house.get("read?path=/e/magic/etc/hostname").status >= 400);
    for path in ["/e/proc/x", "/e/dev/x", "/e/shm/x", "/e/pipe", "/e/zero"] {
        let written = house.post("write", json!({"path": path, "content": "x"}));
        assert_eq!(written.status, 400, "{path}");
    }
    // A link to nothing here: its directory is not in the container.
    house.post("write", json!({"path": "/e/relative", "content": "x"})).expect(500);
    assert_eq!(fs::read_to_string(outside).unwrap(), "host");
    assert_eq!(house.get("list?path=/e/pipe").status, 400);
    house.delete("/e&recursive=true").expect(200);
}

#[test]
fn reads_are_cut_where_asked_and_bytes_come_as_base64() {
    let house = House::busybox();
    house.inside(r"printf 'aé' > /t; printf '\377\000' > /b");
    let cut = house.get("read?path=/t&limit=2").expect(200).json;
    assert_eq!((&cut["content"], &cut["truncated"]), (&json!("a"), &json!(true)));
    assert_eq!(cut["is_binary"], false);
    assert_eq!(house.get("read?path=/t&offset=1").expect(200).json["content"], "é");
    assert_eq!(house.get("read?path=/t&limit=-5").expect(200).json["size"], 0);
    let bytes = house.get("read?path=/b").expect(200).json;
    let expected = json!({"path": "/b", "content": "/wA=", "encoding": "base64", "size": 2,
        "truncated": false, "is_binary": true});
    assert_eq!(bytes, expected);
}

#[test]
fn long_directory_is_listed_page_by_page() {
    let house = House::busybox();
    house.inside("mkdir /m; cd /m; for i in $(seq 1 1500); do : > f$i; done; : > .hidden");
    let first = house.get("list?path=/m").expect(200).json;
    assert_eq!(first["entries"].as_array().map(Vec::len), Some(1000));
    let cursor = first["cursor"].as_str().expect("more");
    let rest = house.get(&format!("list?path=/m&cursor={cursor}")).expect(200).json;
    assert_eq!(rest["entries"].as_array().map(Vec::len), Some(500));
    assert_eq!(rest["cursor"], Value::Null);
    let mut names: Vec<_> = [first, rest]
        .iter()
        .flat_map(|list| list["entries"].as_array().unwrap().clone())
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.is_sorted());
    names.dedup();
    assert_eq!(names.len(), 1500);
    let hidden = house.get("list?path=/m&show_hidden=true").expect(200).json;
    assert_eq!(hidden["entries"][0]["name"], ".hidden");
}

#[test]
fn files_are_made_and_refused_as_the_containers_user() {
    let house = House::of_image("debian-worker");
    house.post("write", json!({"path": "/tmp/f", "content": "x"})).expect(200);
    assert_eq!(house.inside("stat -c %u:%g:%a /tmp/f").trim(), "4321:4321:644");
    house.post("write", json!({"path": "/etc/f", "content": "x"})).expect(403);
    house.get("read?path=/etc/shadow").expect(403);
    house.delete("/etc/passwd").expect(403);
    let secret = house.daemon.shared_dir().join("shared_data/secret");
    fs::write(&secret, "host").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    house.get("read?path=/shared/secret").expect(403);
    house.post("write", json!({"path": "/shared/secret", "content": "x"})).expect(403);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "host");
}

#[test]
fn user_that_is_only_a_number_has_that_numbers_rights() {
    let house = House::of_image("debian-numeric");
    house.post("write", json!({"path": "/tmp/f", "content": "x"})).expect(200);
    assert_eq!(house.inside("stat -c %u:%g /tmp/f").trim(), "1234:1234");
    assert_eq!(house.get("stat?path=/tmp/f").expect(200).json["owner"], Value::Null);
    house.post("mkdir", json!({"path": "/var/x"})).expect(403);
    house.get("list?path=/root").expect(403);
}

#[test]
fn written_file_keeps_its_mode_and_links_and_mounts_stay() {
    let house = House::busybox();
    house.inside("echo old > /s; chmod 750 /s; ln -s /s /l; echo h > /h1; ln /h1 /h2");
    house.post("write", json!({"path": "/s", "content": "new"})).expect(200);
    assert_eq!(house.inside("stat -c %a /s").trim(), "750");
    house.post("write", json!({"path": "/l", "content": "linked"})).expect(200);
    assert_eq!(house.inside("readlink /l; cat /s").trim(), "/s\nlinked");
    house.post("write", json!({"path": "/h1", "content": "both"})).expect(200);
    assert_eq!(house.inside("cat /h2").trim(), "both");
    // Mounted into the container by the Engine: no other file can take its place.
    house
        .post("write", json!({"path": "/etc/hosts", "content": "127.0.0.1 localhost\n"}))
        .expect(200);
    assert_eq!(house.inside("cat /etc/hosts").trim(), "127.0.0.1 localhost");
}

#[test]
fn paused_container_is_served_and_an_ended_one_is_not() {
    let house = House::busybox();
    house.daemon.control("pause", house.id).expect(200);
    house.post("write", json!({"path": "/p", "content": "paused"})).expect(200);
    assert_eq!(house.read("/p"), "paused");
    house.daemon.control("resume", house.id).expect(200);
    house.daemon.control("kill", house.id).expect(200);
    house.daemon.wait_over(house.id);
    house.get("read?path=/p").expect(400);
}

#[test]
fn write_of_fifty_megabytes_is_taken_and_one_byte_more_is_not() {
    let house = House::busybox();
    let mut content = "x".repeat(50 * 1024 * 1024);
    house.post("write", json!({"path": "/big", "content": content})).expect(200);
    content.push('x');
    house.post("write", json!({"path": "/big2", "content": content})).expect(413);
    assert_eq!(house.inside("stat -c %s /big").trim(), "52428800");
    house.get("stat?path=/big2").expect(404);
}
