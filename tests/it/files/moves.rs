//! Names moved and removed where mounts are: across them, onto them, with them inside.

use std::fs;

use super::house::House;
use crate::kit::Daemon;

/// What is mounted, as the container sees it.
fn mounts(house: &House) -> String {
    house.inside("cat /proc/mounts")
}

#[test]
fn mounts_are_neither_removed_nor_moved_nor_replaced() {
    let house = House::busybox();
    let before = mounts(&house);
    house.inside("echo x > /shared/kept; mkdir /holds; echo x > /f");
    for path in ["/shared", "/etc/hosts", "/etc", "/", "/local_temp"] {
        let removed = house.delete(&format!("{path}&recursive=true"));
        assert_eq!(removed.status, 500, "{path}: {}", removed.text());
    }
    for (from, to) in
        [("/shared", "/s"), ("/etc/hosts", "/h"), ("/f", "/etc/hosts"), ("/etc/hosts", "/holds")]
    {
        let moved = house.rename(from, to, true);
        assert_eq!(moved.status, 500, "{from} {to}: {}", moved.text());
    }
    house.write("/etc/resolv.conf", "nameserver 127.0.0.1\n").expect(200);
    assert_eq!(mounts(&house), before);
    assert_eq!(
        house.inside("cat /shared/kept; ls /etc/passwd /f; ls /holds"),
        "x\n/etc/passwd\n/f\n"
    );
    // What is in a mount is a file as any other.
    house.delete("/shared/kept").expect(200);
}

#[test]
fn files_and_trees_move_to_another_mount_and_back_whole() {
    let house = House::busybox();
    house.inside(
        "mkdir -p /d/sub; cd /d; echo one > sub/f; chmod 751 sub; chmod 640 sub/f; ln -s sub/f l; \
         mkfifo p; chown 7:8 sub/f; echo single > /single",
    );
    let look = |at: &str| {
        house.inside(&format!("cd {at} && find . | sort | xargs stat -c '%n %a %u:%g %F' && cat l"))
    };
    let before = look("/d");
    house.rename("/d", "/shared/moved", false).expect(200);
    assert_eq!(look("/shared/moved"), before);
    house.get("stat?path=/d").expect(404);
    house.rename("/shared/moved", "/back", false).expect(200);
    assert_eq!(look("/back"), before);
    assert_eq!(house.inside("ls -A /shared | grep -c . || true").trim(), "0");

    house.rename("/single", "/shared/single", false).expect(200);
    assert_eq!(house.inside("cat /shared/single; ls /single 2>&1 | wc -l"), "single\n1\n");
    // One that is there is not replaced without being told so, also across mounts.
    house.write("/single", "other").expect(200);
    house.rename("/single", "/shared/single", false).expect(409);
    house.rename("/single", "/shared/single", true).expect(200);
    assert_eq!(house.read("/shared/single"), "other");
    assert_eq!(house.inside("ls -A / | grep -c river-runner || true").trim(), "0");
}

#[test]
fn directory_of_the_image_moves_although_the_file_system_can_not() {
    let house = House::busybox();
    house.rename("/home", "/homes", false).expect(200);
    assert_eq!(house.inside("ls /homes; ls / | grep -c '^home$' || true"), "worker\n0\n");
    // Into itself it can't.
    assert_eq!(house.rename("/homes", "/homes/worker/x", false).status, 500);
    assert_eq!(house.inside("ls /homes"), "worker\n");
}

#[test]
fn moves_that_a_file_system_refuses_change_nothing() {
    let house = House::busybox();
    house.inside("mkdir -p /full/x /into/full/y; echo f > /f; echo g > /g");
    house.rename("/full", "/into", true).expect(409);
    house.rename("/f", "/g", false).expect(409);
    house.rename("/f", "/absent/g", false).expect(404);
    house.rename("/absent", "/g", true).expect(404);
    house.rename("/f", "/into/full/y", true).expect(200);
    assert_eq!(house.inside("ls /full /into/full/y; cat /g"), "/full:\nx\n\n/into/full/y:\nf\ng\n");
    house.rename("/", "/x", false).expect(500);
    house.rename("/g", "/", false).expect(409);
}

#[test]
fn file_that_two_mounts_show_is_not_lost_by_a_move_onto_itself() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("empty")).unwrap();
    fs::write(place.path().join("f"), "kept").unwrap();
    let mount = |at: &str| format!("{}:{at}", place.path().display());
    let mounts = vec![mount("/one"), mount("/two")];
    let house = House::of(Daemon::builder().set("additional_mounts", mounts).start());
    house.rename("/one/f", "/two/f", true).expect(409);
    house.rename("/one/f", "/two", true).expect(409);
    house.rename("/one/empty", "/two", true).expect(409);
    house.rename("/one", "/two/one", true).expect(500);
    assert_eq!(house.inside("cat /one/f; ls -A /one"), "keptempty\nf\n");
    house.rename("/one/f", "/two/g", false).expect(200);
    assert_eq!(house.inside("cat /one/g; ls -A /one"), "keptempty\ng\n");
}

#[test]
fn move_to_another_mount_keeps_times_and_holes() {
    let house = House::busybox();
    house.inside(
        "mkdir /d; cd /d; ln -s f l; truncate -s 300M f; echo end >> f; truncate -s 400M f; echo x > full; \
         touch -h -d '2001-02-03 04:05:06' l f full .",
    );
    let look = |at: &str| {
        house.inside(&format!("cd {at} && stat -c '%n %s %Y' . f full l && sha256sum f full"))
    };
    let before = look("/d");
    house.rename("/d", "/shared/d", false).expect(200);
    assert_eq!(look("/shared/d"), before);
    let blocks: u64 = house.inside("stat -c %b /shared/d/f").trim().parse().unwrap();
    assert!(blocks * 512 < 4 << 20, "{blocks} blocks");
    house.delete("/shared/d&recursive=true").expect(200);
}

#[test]
fn deepest_tree_moves_and_goes() {
    let house = House::busybox();
    house.inside("d=/deep; for n in $(seq 1 255); do d=$d/d; done; mkdir -p $d; echo x > $d/f");
    house.rename("/deep", "/shared/deep", false).expect(200);
    assert_eq!(house.inside("find /shared/deep | wc -l"), "257\n");
    house.delete("/shared/deep&recursive=true").expect(200);
    house.inside("d=/deep; for n in $(seq 1 300); do d=$d/d; done; mkdir -p $d");
    house.rename("/deep", "/shared/deep", false).expect(500);
    assert_eq!(house.inside("ls -A /shared; find /deep | wc -l"), "301\n");
}
