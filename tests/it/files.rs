//! The rows of files on real containers (contract 8, design D7): what they answer, whose rights they
//! have, and that no path or link leads out.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::kit::{
    Daemon, Response, docker, execute_body, image, running, task_container, unique_id, with,
};

/// A task's container, and a runner to ask.
struct House {
    daemon: Daemon,
    id: u64,
}

impl House {
    fn busybox() -> House {
        let daemon = Daemon::builder().start();
        let id = running(&daemon, "sleep 600");
        House { daemon, id }
    }

    fn of_image(name: &str) -> House {
        let daemon = Daemon::builder().start();
        let body = execute_body(&daemon, unique_id(), "sleep 600");
        let id = daemon.submit(&with(body, json!({ "registry_image": image(name) })));
        daemon.wait_status(id, "running");
        House { daemon, id }
    }

    fn get(&self, row: &str) -> Response {
        self.daemon.get(&format!("/api/fs/{}/{row}", self.id))
    }

    fn post(&self, row: &str, body: Value) -> Response {
        self.daemon.post(&format!("/api/fs/{}/{row}", self.id), &body)
    }

    fn delete(&self, path: &str) -> Response {
        self.daemon.delete(&format!("/api/fs/{}/delete?path={path}", self.id))
    }

    #[track_caller]
    fn read(&self, path: &str) -> String {
        let read = self.get(&format!("read?path={path}")).expect(200);
        read.json["content"].as_str().expect("a text").to_owned()
    }

    #[track_caller]
    fn inside(&self, script: &str) -> String {
        docker(&["exec", &task_container(self.id), "sh", "-c", script])
    }
}

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
    // An existing directory is moved into.
    house.post("rename", json!({"source": "/w/b/f", "destination": "/w/d"})).expect(200);
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
    assert_eq!(status("read"), 422);
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
    for name in ["absolute", "relative", "loop", "absent"] {
        assert_eq!(house.get(&format!("read?path=/e/{name}")).status, 404, "{name}");
    }
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
    let relative = house.post("write", json!({"path": "/e/relative", "content": "x"}));
    assert!(relative.status == 200 || relative.status == 404, "{}", relative.text());
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
    let secret = house.daemon.shared_dir().join("shared").join("secret");
    fs::create_dir_all(secret.parent().unwrap()).unwrap();
    fs::write(&secret, "host").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let read = house.get("read?path=/shared/secret");
    assert!(read.status == 403 || read.status == 404, "{}", read.text());
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
