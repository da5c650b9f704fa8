//! What a container does while a row works in it, and many rows at once.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;

use super::house::House;
use crate::kit::{Daemon, HungShare, SOON, inspect, task_container, wait_until};

/// How long links are swapped under the rows, at least; and at most, on a machine that is busy.
const RACE: Duration = Duration::from_secs(4);
const RACE_MAX: Duration = Duration::from_secs(40);

/// What a row waits for, and what the door and a loaded machine take besides.
const TOLD_WITHIN: Duration = Duration::from_secs(50 + 5);
const FILES_THREADS: usize = 8;

#[test]
fn links_that_are_swapped_meanwhile_lead_nowhere_else() {
    let house = House::busybox();
    let outside = house.daemon.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), "host").unwrap();
    // `d` is in turns a directory, a link to where the host has one, and one to the kernel's view.
    house.inside(&format!(
        "mkdir -p /e/real {0} && echo inside > {0}/f && cd /e && echo real > real/f && \
         cp -r real d && ln -s {0} host && ln -s /proc/1/root{0} magic && \
         (while :; do mv d was; mv host d; sleep 0.01; mv d host; mv magic d; mv d magic; \
         mv was d; sleep 0.01; done \
          >/dev/null 2>&1 </dev/null &)",
        outside.display()
    ));
    let since = Instant::now();
    let is_over = AtomicBool::new(false);
    let mut seen = [0; 2];
    scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) && since.elapsed() < RACE_MAX {
                let _ = house.write("/e/d/g", "written");
                let _ = house.rename("/e/d/g", "/e/d/h", true);
                let _ = house.delete("/e/d/h");
                let _ = house.delete("/e/host/x&recursive=true");
            }
        });
        let want_more = |seen: &[u32; 2]| seen.iter().any(|times| *times < 10);
        while since.elapsed() < RACE || (want_more(&seen) && since.elapsed() < RACE_MAX) {
            let read = house.get("read?path=/e/d/f");
            match read.status {
                200 => {
                    let content = read.json["content"].as_str().unwrap();
                    assert!(["real\n", "inside\n"].contains(&content), "{content}");
                    seen[usize::from(content == "inside\n")] += 1;
                }
                status => assert!([400, 403, 404].contains(&status), "{}", read.text()),
            }
            let list = house.get("list?path=/e/d");
            assert!([200, 400, 403, 404].contains(&list.status), "{}", list.text());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
    // A tree is removed while what is in it is swapped.
    for _ in 0..20 {
        let _ = house.delete("/e/d&recursive=true");
        house.inside("mkdir -p /e/d; cp /e/real/f /e/d/f 2>/dev/null; true");
    }
    let names: Vec<_> =
        fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, [outside.join("f")]);
    assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "host");
}

#[test]
fn readers_see_a_file_that_is_written_as_it_was_or_as_it_is() {
    let house = House::busybox();
    const BYTES: usize = 1 << 20;
    house.write("/f", &"a".repeat(BYTES)).expect(200);
    scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..20 {
                let letter = ["b", "a"][round % 2];
                house.write("/f", &letter.repeat(BYTES)).expect(200);
            }
        });
        while !writer.is_finished() {
            let content = house.read("/f");
            let first = content.as_bytes()[0];
            assert_eq!(content.len(), BYTES);
            assert!(content.bytes().all(|byte| byte == first));
        }
    });
    assert_eq!(house.inside("ls -A / | grep -c river-runner || true").trim(), "0");
}

#[test]
fn many_large_writes_at_once_are_taken_or_told_to_come_again() {
    let house = House::busybox();
    let content = "x".repeat(30 << 20);
    let threads = house.daemon.threads();
    let mut taken = 0;
    scope(|scope| {
        let (house, content) = (&house, &content);
        let write = |number: usize| {
            let path = format!("/big{number}");
            move || house.post("write", json!({ "path": path, "content": content }))
        };
        let calls: Vec<_> = (0..8).map(|number| scope.spawn(write(number))).collect();
        // Small calls are served beside them.
        while calls.iter().any(|call| !call.is_finished()) {
            house.get("stat?path=/etc/passwd").expect(200);
            // Two bodies, their texts, and their bytes.
            assert!(house.daemon.rss_kb() < 500 << 10, "{} KiB", house.daemon.rss_kb());
        }
        for call in calls {
            let answer = call.join().unwrap();
            taken += usize::from(answer.status == 200);
            assert!(answer.status == 200 || answer.status == 503, "{}", answer.text());
            assert_eq!(answer.status == 503, answer.header("retry-after").is_some());
        }
    });
    assert!(taken >= 4, "{taken}");
    let written = house.inside(r"find / -xdev -name 'big*' -size +30719k | wc -l");
    assert_eq!(written.trim(), taken.to_string());
    assert!(wait_until(SOON, || house.daemon.rss_kb() < 60 << 10), "{}", house.daemon.rss_kb());
    assert!(wait_until(SOON, || house.daemon.threads() <= threads));
}

#[test]
fn rows_of_a_container_that_ends_meanwhile_say_so() {
    let daemon = Daemon::start();
    let house = House::of(daemon);
    house.inside("mkdir /many; cd /many; for i in $(seq 1 500); do : > $i; done");
    scope(|scope| {
        let calls: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut last = 200;
                    while last == 200 {
                        let list = house.get("list?path=/many");
                        assert!([200, 400, 404].contains(&list.status), "{}", list.text());
                        last = list.status;
                    }
                })
            })
            .collect();
        house.daemon.control("kill", house.id).expect(200);
        calls.into_iter().for_each(|call| call.join().unwrap());
    });
    house.daemon.wait_over(house.id);
}

#[test]
fn link_with_dots_leads_on_whatever_is_renamed_on_the_machine() {
    let house = House::busybox();
    house.inside("mkdir -p /e/real /e/a; echo real > /e/real/f; ln -s ../../e/a/../real /e/a/l");
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    fs::write(&one, "").unwrap();
    let is_over = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                fs::rename(&one, &two).and_then(|()| fs::rename(&two, &one)).unwrap();
            }
        });
        let statuses: Vec<_> = (0..1000).map(|_| house.get("read?path=/e/a/l/f").status).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    });
}

#[test]
fn answers_that_nobody_takes_are_bounded() {
    let house = House::busybox();
    house.inside("head -c 10485760 /dev/zero > /zeros");
    // Each zero has six letters in JSON.
    let request =
        format!("GET /api/fs/{}/read?path=/zeros HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", house.id);
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let mut caller = TcpStream::connect(house.daemon.socket_address()).unwrap();
            caller.write_all(request.as_bytes()).unwrap();
            caller
        })
        .collect();
    // All have been answered once the threads have nothing to do.
    let is_done = || !house.daemon.thread_names().iter().any(|name| name.starts_with("files"));
    assert!(wait_until(3 * RACE_MAX, is_done));
    let rss = house.daemon.rss_kb();
    assert!(rss < 400 << 10, "{rss} KiB");
    house.get("stat?path=/zeros").expect(200);
    drop(callers);
}

/// Mounts a share that hangs in the container's own view of its files.
fn hung_share_in(house: &House, path: &'static str) -> HungShare {
    house.inside(&format!("mkdir {path}; [ -e /dev/fuse ] || mknod /dev/fuse c 10 229"));
    let container = inspect(&task_container(house.id)).unwrap();
    let view = File::open(format!("/proc/{}/ns/mnt", container["State"]["Pid"])).unwrap();
    let mount = move || {
        // A thread that shares its working directory with others can't change its view.
        unshare(CloneFlags::CLONE_FS).unwrap();
        setns(view, CloneFlags::CLONE_NEWNS).unwrap();
        HungShare::over(Path::new(path))
    };
    spawn(mount).join().unwrap()
}

#[test]
fn rows_of_a_share_that_hangs_are_told_so_in_time_and_what_waited_is_not_done_later() {
    let house = House::busybox();
    let share = hung_share_in(&house, "/hang");
    let threads = house.daemon.threads();
    scope(|scope| {
        let stuck: Vec<_> =
            (0..FILES_THREADS).map(|_| scope.spawn(|| house.delete("/hang/x"))).collect();
        let files = || house.daemon.thread_names();
        let are_stuck =
            || files().iter().filter(|name| name.starts_with("files")).count() >= FILES_THREADS;
        assert!(wait_until(SOON, are_stuck));
        let since = Instant::now();
        let late = scope.spawn(|| house.write("/f", "late"));
        while !late.is_finished() {
            house.daemon.get("/health").expect(200);
            sleep(Duration::from_millis(200));
        }
        late.join().unwrap().expect(503);
        assert!(since.elapsed() < TOLD_WITHIN, "{:?}", since.elapsed());
        stuck.into_iter().for_each(|call| drop(call.join().unwrap().expect(503)));
        share.heal();
    });
    house.write("/g", "new").expect(200);
    house.get("stat?path=/f").expect(404);
    assert!(wait_until(SOON, || house.daemon.threads() <= threads));
}

#[test]
fn row_that_waits_while_its_container_ends_says_so() {
    let house = House::busybox();
    let share = hung_share_in(&house, "/hang");
    scope(|scope| {
        let stuck = scope.spawn(|| house.delete("/hang/x"));
        sleep(Duration::from_millis(500));
        house.daemon.control("kill", house.id).expect(200);
        house.daemon.wait_over(house.id);
        share.heal();
        let answer = stuck.join().unwrap();
        assert!([400, 404].contains(&answer.status), "{} {}", answer.status, answer.text());
    });
}
