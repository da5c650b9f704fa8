//! Watch sessions over real WebSockets, on directories of this machine: what a peer hears, and what
//! is left when it goes. The end of a pipe stands for the container's end.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use river_runner::api::watch::relay;
use river_runner::machine::identity::Identity;
use river_runner::machine::tree_watch::{RunJob, TreeWatches};
use river_runner::metrics::WATCHES_HELD;
use river_runner::serve::access::Policy;
use river_runner::serve::{
    Access, Answer, Call, Patience, Route, Server, Session, Setup, Sockets, socket,
};
use river_runner::stop::Stop;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

const SOON: Duration = Duration::from_secs(20);

/// What rows see.
struct Ward {
    watches: TreeWatches,
    dir: PathBuf,
    user: Identity,
    /// Readable when `life` has been dropped.
    container: UnixStream,
    life: Mutex<Option<UnixStream>>,
}

static ROUTES: &[Route<Ward>] = &[socket("/ws/fs/{task_id}/watch", open)];

fn open(ward: &Arc<Ward>, _call: Call) -> Answer {
    let ward = Arc::clone(ward);
    Answer::Session(Session::new("watch", move |socket| {
        let dir = fs::File::open(&ward.dir).unwrap().into();
        let run: RunJob = Arc::new(|job| {
            thread::spawn(job);
            true
        });
        let watch =
            ward.watches.open(vec![("/shared".into(), dir)], ward.user.clone(), run).unwrap();
        relay(socket, vec!["/shared".into()], &watch, ward.container.as_fd());
    }))
}

struct House {
    address: SocketAddr,
    ward: Arc<Ward>,
    dir: tempfile::TempDir,
    stop: Stop,
    server: Option<Server>,
}

impl House {
    fn new() -> House {
        House::of(Identity { uid: 0, gid: 0, groups: Vec::new() })
    }

    fn of(user: Identity) -> House {
        let (stop, dir) = (Stop::new(), tempfile::tempdir().unwrap());
        let (container, life) = UnixStream::pair().unwrap();
        let (watches, life) = (TreeWatches::new(&stop), Mutex::new(Some(life)));
        let ward = Arc::new(Ward { watches, dir: dir.path().into(), user, container, life });
        let policy = Policy { loopback: true, ..Policy::default() };
        let setup = Setup {
            sockets: Sockets::open("127.0.0.1:0".parse().unwrap(), None).unwrap(),
            workers: 4,
            access: Arc::new(Access::new(policy)),
            patience: Patience::default(),
        };
        let server = Server::start(setup, ROUTES, Arc::clone(&ward), stop.clone()).unwrap();
        House { address: server.local_addr(), ward, dir, stop, server: Some(server) }
    }

    fn connect(&self) -> Peer {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let url = format!("ws://{}/ws/fs/7/watch?paths=/shared", self.address);
        Peer(tungstenite::client(url, stream).unwrap().0)
    }

    /// A peer that has heard `watching`.
    fn watcher(&self) -> Peer {
        let mut peer = self.connect();
        let watching = json!({"type": "watching", "paths": ["/shared"], "method": "inotify"});
        assert_eq!(peer.hear(), watching);
        peer
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.raise();
        drop(self.server.take());
    }
}

struct Peer(WebSocket<TcpStream>);

impl Peer {
    fn hear(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn hear_until(&mut self, last: &Value) -> Vec<Value> {
        let begun = Instant::now();
        let mut all = vec![self.hear()];
        while all.last() != Some(last) {
            assert!(begun.elapsed() < SOON, "never heard {last}: {all:?}");
            all.push(self.hear());
        }
        all
    }
}

fn change(event: &str, path: &str, is_dir: bool) -> Value {
    json!({"type": "change", "event": event, "path": path, "is_dir": is_dir})
}

fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !true_now() {
        assert!(begun.elapsed() < SOON, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn session_that_has_not_the_rights_to_read_says_so_and_ends() {
    // The kernel has no such user.
    let house = House::of(Identity { uid: u32::MAX, gid: 0, groups: Vec::new() });
    let mut peer = house.connect();
    assert_eq!(peer.hear()["type"], "watching");
    let message = peer.hear();
    assert_eq!(message["type"], "error", "{message}");
    assert!(message["message"].as_str().unwrap().contains("rights"), "{message}");
    let Message::Close(Some(close)) = peer.0.read().unwrap() else { panic!("no close") };
    assert_eq!(u16::from(close.code), 1000);
}

/// One test for all that counts: the gauge is the whole process's.
#[test]
fn watch_session_tells_changes_until_its_container_ends_and_leaves_nothing() {
    let house = House::new();
    let mut peer = house.watcher();
    until("it is watched", || WATCHES_HELD.get() > 0);
    for nonsense in ["", "{", "[1]", r#"{"type":"pong"}"#] {
        peer.0.send(Message::text(nonsense)).unwrap();
    }
    peer.0.send(Message::binary(vec![0xff])).unwrap();
    peer.0.send(Message::text(r#"{"type":"ping"}"#)).unwrap();
    assert_eq!(peer.hear(), json!({"type": "pong"}));
    let at = |name: &str| house.dir.path().join(name);
    fs::write(at("a"), "text").unwrap();
    fs::rename(at("a"), at("b")).unwrap();
    fs::create_dir_all(at("d/e")).unwrap();
    fs::write(at("d/e/f"), "").unwrap();
    let heard = peer.hear_until(&change("CREATE", "/shared/d/e/f", false));
    let first = [
        change("CREATE", "/shared/a", false),
        change("MODIFY", "/shared/a", false),
        change("MOVE", "/shared/a", false),
        change("MOVE", "/shared/b", false),
        change("CREATE", "/shared/d", true),
    ];
    assert_eq!(heard[..5], first);
    fs::remove_file(at("b")).unwrap();
    peer.hear_until(&change("DELETE", "/shared/b", false));
    drop(house.ward.life.lock().unwrap().take());
    peer.hear_until(&json!({"type": "error", "message": "the container has ended"}));
    let Message::Close(Some(close)) = peer.0.read().unwrap() else { panic!("no close") };
    assert_eq!(u16::from(close.code), 1000);
    until("its watches are gone", || WATCHES_HELD.get() == 0);

    // Peers that vanish without a word leave nothing; a burst is told whole to one that stays.
    let house = House::new();
    let mut stays = house.watcher();
    until("it is watched", || WATCHES_HELD.get() == 1);
    // Each session's thread holds the ward, and with it goes all that it opened.
    let alone = Arc::strong_count(&house.ward);
    for _ in 0..200 {
        drop(house.watcher());
    }
    until("their sessions have gone", || Arc::strong_count(&house.ward) <= alone);
    assert_eq!(WATCHES_HELD.get(), 1);
    for n in 0..20_000 {
        fs::write(house.dir.path().join(n.to_string()), "").unwrap();
    }
    let mut told = 0;
    while told < 20_000 {
        let heard = stays.hear();
        assert_eq!(heard["type"], "change", "{heard}");
        told += usize::from(heard["event"] == "CREATE");
    }
    drop(stays);
    until("no watch is left", || WATCHES_HELD.get() == 0);
}
