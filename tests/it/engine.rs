//! Every call of the Engine room against the real Engine: what it does, what a second time does,
//! and what the Engine says no to. Each test makes its own image from the machine's busybox and
//! takes everything away again, also when it fails.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use chrono::Utc;
use river_runner::docker::{
    ContainerState, DockerError, EXIT_CODE_LABEL, Engine, EngineEvent, EngineHealth, LogTail,
    Removal, Volumes, socket_from_env, watch_ends,
};
use river_runner::stop::Stop;
use river_runner::wire::docker::{
    CreateContainer, CreateNetwork, EndpointConfig, EndpointIpamConfig, HostConfig, Ipam, IpamPool,
    LogConfig, NetworkingConfig, Nothing, PortBinding,
};

use crate::kit::docker;

/// Far more than any of these takes; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one test makes at the Engine. All of it bears `prefix`.
struct Bench {
    engine: Engine,
    prefix: String,
    image: String,
    label: String,
}

impl Bench {
    fn new(story: &str) -> Bench {
        static BENCHES: AtomicU32 = AtomicU32::new(0);
        let number = BENCHES.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("river-it-{}-{number}-{story}", std::process::id());
        let socket = socket_from_env(std::env::var("DOCKER_HOST").ok().as_deref()).unwrap();
        let bench = Bench {
            engine: Engine::new(socket),
            image: format!("{prefix}:1"),
            label: format!("river.it={prefix}"),
            prefix,
        };
        bench.import_busybox();
        bench
    }

    /// An image of busybox, a shell, and `/etc/passwd` with a link to it.
    fn import_busybox(&self) {
        let root = tempfile::tempdir().unwrap();
        let script = r#"
            mkdir bin etc tmp && cp /bin/busybox bin/ && cd bin
            for name in sh sleep tail cat; do ln -s busybox $name; done
            cd .. && echo 'root:x:0:0:root:/:/bin/sh' > etc/passwd && ln -s passwd etc/link
            tar -c . | docker import - "$1""#;
        let made = Command::new("sh")
            .args(["-ec", script, "sh", &self.image])
            .current_dir(&root)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }

    fn shell(&self, script: &str) -> CreateContainer {
        let (key, value) = self.label.split_once('=').unwrap();
        CreateContainer {
            image: self.image.clone(),
            cmd: vec!["/bin/sh".into(), "-c".into(), script.into()],
            labels: [(key.to_owned(), value.to_owned())].into(),
            ..CreateContainer::default()
        }
    }

    fn start(&self, what: &str, body: &CreateContainer) -> String {
        let name = self.name(what);
        self.engine.create_container(&name, body).unwrap();
        self.engine.start_container(&name).unwrap();
        name
    }

    /// The event stream of this test's containers, standing.
    fn watch(&self) -> (Stop, Receiver<EngineEvent>) {
        let (stop, (tell, told)) = (Stop::new(), channel());
        watch_ends(&self.engine, &self.label, &stop, move |event| {
            let _ = tell.send(event);
        })
        .unwrap();
        assert!(matches!(told.recv_timeout(PATIENCE), Ok(EngineEvent::Connected)));
        (stop, told)
    }

    fn wait_until_exited(&self, name: &str) {
        let started = Instant::now();
        while self.engine.inspect_container(name).unwrap().running {
            assert!(started.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let script = r#"
            docker ps -aq --filter "name=^/$1" | xargs -r docker rm -fv
            docker network ls -q --filter "name=^$1" | xargs -r docker network rm
            docker images --format '{{.Repository}}:{{.Tag}}' | grep "^$1" | xargs -r docker rmi"#;
        let _ = Command::new("sh")
            .args(["-c", script, "sh", &self.prefix])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

#[test]
fn an_engine_that_answers_is_well_and_tells_about_its_machine() {
    let bench = Bench::new("about");
    assert_eq!(bench.engine.health(), EngineHealth::Unknown);
    bench.engine.probe().unwrap();
    let about = bench.engine.about().unwrap();
    let EngineHealth::Ok { version, api } = bench.engine.health() else { panic!("not well") };
    assert_eq!((version, api), (about.version, about.api));
    assert!(about.cores > 0 && about.memory_bytes > 0 && about.root_dir.is_absolute());
    assert!(bench.engine.call_time_total() > Duration::ZERO);
}

#[test]
fn a_container_lives_from_create_to_remove_and_second_times_are_answers() {
    let bench = Bench::new("life");
    let engine = &bench.engine;
    let name = bench.name("c");
    let created = engine.create_container(&name, &bench.shell("sleep 60")).unwrap();
    assert!(engine.create_container(&name, &bench.shell("true")).unwrap_err().is_conflict());
    let container = engine.inspect_container(&name).unwrap();
    assert_eq!((container.state, container.pid), (ContainerState::Created, None));
    assert_eq!((container.name, container.id), (name.clone(), created.id));
    assert_eq!((container.started_at, container.finished_at), (None, None));

    engine.start_container(&name).unwrap();
    engine.start_container(&name).unwrap();
    let container = engine.inspect_container(&name).unwrap();
    assert_eq!(container.state, ContainerState::Running);
    assert!(container.pid.is_some() && container.started_at.is_some());
    assert!(container.addresses["bridge"].is_ipv4());

    engine.pause_container(&name).unwrap();
    assert!(engine.pause_container(&name).unwrap_err().is_conflict());
    assert!(engine.inspect_container(&name).unwrap().paused);
    engine.unpause_container(&name).unwrap();
    let removed = engine.remove_container(&name, Removal::Ended, Volumes::Remove);
    assert!(removed.unwrap_err().is_conflict());

    engine.kill_container(&name, "KILL").unwrap();
    bench.wait_until_exited(&name);
    assert!(engine.kill_container(&name, "KILL").unwrap_err().is_conflict());
    let container = engine.inspect_container(&name).unwrap();
    assert_eq!((container.exit_code, container.oom_killed), (137, false));

    engine.remove_container(&name, Removal::Ended, Volumes::Remove).unwrap();
    assert!(engine.inspect_container(&name).unwrap_err().is_missing());
    let removed = engine.remove_container(&name, Removal::Forced, Volumes::Keep);
    assert!(removed.unwrap_err().is_missing());
}

#[test]
fn a_stop_with_grace_kills_what_ignores_it_and_a_second_stop_is_no_error() {
    let bench = Bench::new("stop");
    let name = bench.start("c", &bench.shell("trap '' TERM; while :; do sleep 1; done"));
    let started = Instant::now();
    bench.engine.stop_container(&name, Duration::from_secs(1)).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    bench.engine.stop_container(&name, Duration::from_secs(1)).unwrap();
    assert_eq!(bench.engine.inspect_container(&name).unwrap().exit_code, 137);
}

#[test]
fn an_end_is_told_with_its_code_its_time_and_its_labels() {
    let bench = Bench::new("event");
    let (stop, told) = bench.watch();
    let before = Utc::now();
    let container = bench.start("c", &bench.shell("exit 7"));
    let Ok(EngineEvent::Ended { id, name, exit_code, at, labels }) = told.recv_timeout(PATIENCE)
    else {
        panic!("no end")
    };
    assert_eq!((name.as_str(), exit_code), (container.as_str(), Some(7)));
    assert_eq!(id, bench.engine.inspect_container(&container).unwrap().id);
    assert!(before <= at && at <= Utc::now());
    assert_eq!(labels["river.it"], bench.prefix);
    stop.raise();
}

#[test]
fn the_end_of_a_container_without_our_label_is_not_told() {
    let bench = Bench::new("quiet");
    let (stop, told) = bench.watch();
    let foreign = CreateContainer { labels: [].into(), ..bench.shell("exit 1") };
    let foreign = bench.start("foreign", &foreign);
    bench.wait_until_exited(&foreign);
    let ours = bench.start("ours", &bench.shell("exit 2"));
    let Ok(EngineEvent::Ended { name, .. }) = told.recv_timeout(PATIENCE) else { panic!("no end") };
    assert_eq!(name, ours);
    stop.raise();
}

/// Why [`EXIT_CODE_LABEL`] exists. When this fails the Engine has mended it.
#[test]
fn a_label_called_like_the_exit_code_falsifies_the_event() {
    let bench = Bench::new("liar");
    let (stop, told) = bench.watch();
    let mut body = bench.shell("exit 3");
    body.labels.insert(EXIT_CODE_LABEL.into(), "0".into());
    let name = bench.start("c", &body);
    let end = told.recv_timeout(PATIENCE);
    assert!(matches!(end, Ok(EngineEvent::Ended { exit_code: Some(0), .. })));
    assert_eq!(bench.engine.inspect_container(&name).unwrap().exit_code, 3);
    stop.raise();
}

#[test]
fn a_kill_for_memory_shows_in_the_inspect_after_the_event() {
    let bench = Bench::new("oom");
    let (stop, told) = bench.watch();
    let mut body = bench.shell("until test -e /go; do sleep 0.1; done; exec tail /dev/zero");
    body.host_config.memory = 16 * 1024 * 1024;
    let name = bench.start("c", &body);
    // Only when the start is answered does the Engine listen for such kills.
    docker(&["exec", &name, "sh", "-c", ": > /go"]);
    let mut ended = None;
    let mut kills = 0;
    // The kill itself is told, too, before the end or after it.
    while ended.is_none() || kills == 0 {
        match told.recv_timeout(PATIENCE).expect("the kill and the end") {
            EngineEvent::OutOfMemory { name: killed, .. } => {
                assert_eq!(killed, name);
                kills += 1;
            }
            EngineEvent::Ended { exit_code, .. } => ended = Some(exit_code),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended, Some(Some(137)));
    assert!(bench.engine.inspect_container(&name).unwrap().oom_killed);
    stop.raise();
}

#[test]
fn the_tail_of_a_log_keeps_the_newest_bytes_of_each_output() {
    let bench = Bench::new("log");
    let name = bench.start("c", &bench.shell("echo one; echo two; echo bad >&2"));
    bench.wait_until_exited(&name);
    let tail = bench.engine.container_log_tail(&name, 4096).unwrap();
    assert_eq!(
        (tail.stdout.as_slice(), tail.stderr.as_slice()),
        (&b"one\ntwo\n"[..], &b"bad\n"[..])
    );
    let tail = bench.engine.container_log_tail(&name, 4).unwrap();
    assert_eq!((tail.stdout.as_slice(), tail.stderr.as_slice()), (&b"two\n"[..], &b"bad\n"[..]));
    assert!(bench.engine.container_log_tail("river-it-none", 4).unwrap_err().is_missing());
}

#[test]
fn a_log_that_cannot_be_read_is_empty() {
    let bench = Bench::new("nolog");
    let mut body = bench.shell("echo one");
    body.host_config.log_config = Some(LogConfig { kind: "none".into(), ..LogConfig::default() });
    let name = bench.start("c", &body);
    assert_eq!(bench.engine.container_log_tail(&name, 4096).unwrap(), LogTail::default());
}

#[test]
fn a_file_of_a_container_that_never_ran_is_read_through_links_and_within_bounds() {
    let bench = Bench::new("archive");
    let engine = &bench.engine;
    let name = bench.name("c");
    engine.create_container(&name, &bench.shell("true")).unwrap();
    let passwd = b"root:x:0:0:root:/:/bin/sh\n";
    let read = |path: &str| engine.read_container_file(&name, path, passwd.len()).unwrap();
    assert_eq!(read("/etc/passwd").as_deref(), Some(&passwd[..]));
    assert_eq!(read("/etc/link").as_deref(), Some(&passwd[..]));
    assert_eq!(read("/etc/shadow"), None);
    assert_eq!(read("/etc"), None);
    let short = engine.read_container_file(&name, "/etc/passwd", passwd.len() - 1);
    assert!(matches!(short, Err(DockerError::TooLarge { .. })));

    let stat = engine.stat_container_path(&name, "/etc/link").unwrap().unwrap();
    assert_eq!((stat.is_link(), stat.link_target.as_str()), (true, "/etc/passwd"));
    assert!(engine.stat_container_path(&name, "/etc").unwrap().unwrap().is_directory());
    assert_eq!(engine.stat_container_path(&name, "/none").unwrap(), None);
}

#[test]
fn a_list_by_label_holds_ours_in_every_state_and_nothing_else() {
    let bench = Bench::new("list");
    let engine = &bench.engine;
    engine.create_container(&bench.name("created"), &bench.shell("true")).unwrap();
    let running = bench.start("running", &bench.shell("sleep 60"));
    let foreign = CreateContainer { labels: [].into(), ..bench.shell("true") };
    engine.create_container(&bench.name("foreign"), &foreign).unwrap();
    let listed = engine.list_containers(&bench.label).unwrap();
    assert_eq!(listed.len(), 2);
    let row = listed.iter().find(|row| row.names == [format!("/{running}")]).unwrap();
    assert_eq!((row.state, row.image.as_str()), (ContainerState::Running, bench.image.as_str()));
    assert_eq!(row.labels["river.it"], bench.prefix);
}

#[test]
fn a_create_from_an_image_that_is_not_here_is_missing() {
    let bench = Bench::new("noimage");
    let body = CreateContainer { image: bench.name("none"), ..bench.shell("true") };
    assert!(bench.engine.create_container(&bench.name("c"), &body).unwrap_err().is_missing());
}

#[test]
fn a_start_without_the_executable_is_refused_with_the_engines_words() {
    let bench = Bench::new("noexec");
    let body = CreateContainer { cmd: vec!["/no/such".into()], ..bench.shell("") };
    bench.engine.create_container(&bench.name("c"), &body).unwrap();
    let error = bench.engine.start_container(&bench.name("c")).unwrap_err();
    assert!(error.said().is_some_and(|said| said.contains("/no/such")), "{error}");
    assert!(!error.is_engine_trouble());
}

#[test]
fn an_image_gets_a_second_name_and_loses_it_again() {
    let bench = Bench::new("tag");
    let engine = &bench.engine;
    let image = engine.inspect_image(&bench.image).unwrap();
    assert!(image.size_bytes > 0 && image.created.is_some());
    engine.tag_image(&image.id, &bench.prefix, "2").unwrap();
    let second = format!("{}:2", bench.prefix);
    let listed = engine.list_images().unwrap();
    let row = listed.iter().find(|row| row.id == image.id).unwrap();
    assert!(row.repo_tags.contains(&second) && row.repo_tags.contains(&bench.image));
    engine.remove_image(&second).unwrap();
    assert!(engine.inspect_image(&second).unwrap_err().is_missing());
    assert!(engine.remove_image(&second).unwrap_err().is_missing());
    assert!(engine.inspect_image(&bench.image).is_ok());
}

#[test]
fn an_image_in_use_is_a_conflict_to_remove() {
    let bench = Bench::new("inuse");
    bench.start("c", &bench.shell("sleep 60"));
    assert!(bench.engine.remove_image(&bench.image).unwrap_err().is_conflict());
}

#[test]
fn a_saved_image_loads_under_its_name_with_progress() {
    let bench = Bench::new("load");
    let saved = Command::new("docker").args(["save", &bench.image]).output().unwrap().stdout;
    bench.engine.remove_image(&bench.image).unwrap();
    let mut sent_bytes = 0;
    let loaded = bench
        .engine
        .load_image(
            &mut saved.as_slice(),
            PATIENCE,
            &mut |progress| sent_bytes = progress.done_bytes,
            &Stop::new(),
        )
        .unwrap();
    assert_eq!((loaded.references, sent_bytes), (vec![bench.image.clone()], saved.len() as u64));
    assert!(bench.engine.inspect_image(&bench.image).is_ok());
}

#[test]
fn an_archive_of_noise_is_refused_not_broken() {
    let bench = Bench::new("noise");
    let noise = vec![7; 8 * 1024 * 1024];
    let loaded =
        bench.engine.load_image(&mut noise.as_slice(), PATIENCE, &mut |_| {}, &Stop::new());
    assert!(matches!(loaded, Err(DockerError::Refused { .. })), "{loaded:?}");
}

#[test]
fn a_pull_from_a_registry_out_of_reach_says_so() {
    let bench = Bench::new("pull");
    let pulled =
        bench.engine.pull_image("127.0.0.1:1/river/none", PATIENCE, &mut |_| {}, &Stop::new());
    let error = pulled.unwrap_err();
    assert!(error.said().is_some_and(|said| said.contains("refused")), "{error}");
}

#[test]
fn a_container_has_its_fixed_address_and_published_port_in_a_network_of_ours() {
    let bench = Bench::new("net");
    let engine = &bench.engine;
    let network = bench.name("n");
    let pool = IpamPool {
        subnet: "10.213.47.0/24".into(),
        gateway: "10.213.47.1".into(),
        auxiliary_addresses: [("host".into(), "10.213.47.254".into())].into(),
    };
    let spec = CreateNetwork {
        name: network.clone(),
        check_duplicate: true,
        driver: "bridge".into(),
        ipam: Ipam { config: vec![pool.clone()], ..Ipam::default() },
        ..CreateNetwork::default()
    };
    let id = engine.create_network(&spec).unwrap();
    assert!(engine.create_network(&spec).unwrap_err().is_conflict());
    let seen = engine.inspect_network(&network).unwrap();
    assert_eq!((seen.id, seen.driver.as_str(), seen.pools), (id, "bridge", vec![pool]));

    let end = EndpointIpamConfig { ipv4_address: "10.213.47.9".into() };
    let name = bench.start(
        "c",
        &CreateContainer {
            exposed_ports: [("22/tcp".into(), Nothing {})].into(),
            host_config: HostConfig {
                network_mode: network.clone(),
                port_bindings: [(
                    "22/tcp".into(),
                    vec![PortBinding { host_ip: "127.0.0.1".into(), host_port: String::new() }],
                )]
                .into(),
                ..HostConfig::default()
            },
            networking_config: Some(NetworkingConfig {
                endpoints_config: [(network.clone(), EndpointConfig { ipam_config: Some(end) })]
                    .into(),
            }),
            ..bench.shell("sleep 60")
        },
    );
    let container = engine.inspect_container(&name).unwrap();
    assert_eq!(container.addresses[&network].to_string(), "10.213.47.9");
    assert!(container.ports["22/tcp"][0].host_port.parse::<u16>().unwrap() > 0);

    assert!(engine.remove_network(&network).is_err());
    engine.remove_container(&name, Removal::Forced, Volumes::Remove).unwrap();
    engine.remove_network(&network).unwrap();
    assert!(engine.inspect_network(&network).unwrap_err().is_missing());
}
