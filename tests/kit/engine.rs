//! A Unix socket before the real Engine that changes nothing until it is told to: bytes pass as
//! they are, streaming, keep-alive and hijacked connections included, and a caller that leaves is
//! noticed by the Engine. Rules make single calls misbehave. Without an Engine behind it (`fake`)
//! every answer is scripted.

mod pass;

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use serde_json::Value;

use super::{OwnEngine, docker};

/// How often a held call looks whether it is released or its caller has left.
const HELD_LOOK: Duration = Duration::from_millis(10);

/// What happens to a call that a rule matches.
#[derive(Clone)]
pub enum Behaviour {
    /// The Engine never gets the call, until `release`; then it passes.
    Hang,
    /// The Engine does it, and its reply is held back until `release`.
    HangReply,
    /// The Engine does it; half of its reply passes, the rest after `release`.
    HangMidReply,
    /// The Engine never gets the call; the connection is closed.
    Die,
    /// The Engine does it; the connection is closed without a byte of its reply.
    LoseReply,
    /// The Engine does it; the connection is closed after half of its reply.
    DieMidReply,
    /// The Engine never gets the call; this is the answer.
    Reply(u16, Value),
    /// The Engine never gets the call; this is an answer of lines that stays open, as `/events`
    /// does, until `cut` or the end.
    Stream(Vec<Value>),
    /// The Engine never gets the call; the answer is no HTTP.
    Garbage,
    /// The call passes after this long.
    Slow(Duration),
    /// Runs this when the call has come, then passes it on.
    Before(Arc<dyn Fn() + Send + Sync>),
    /// The Engine does it; this runs when its reply has begun, before the caller sees any of it.
    After(Arc<dyn Fn() + Send + Sync>),
}

/// One request that came to the proxy.
#[derive(Clone, Debug)]
pub struct Call {
    pub at: Instant,
    pub method: String,
    /// Without the version prefix and the query.
    pub path: String,
    pub query: String,
    /// Null when there was none, or a long or streamed one.
    pub body: Value,
}

/// The proxy. Its socket disappears with it.
pub struct EngineProxy {
    inner: Arc<Inner>,
    listening: Mutex<Option<Listening>>,
    /// Holds the socket.
    _dir: tempfile::TempDir,
}

struct Listening {
    listener: UnixListener,
    thread: JoinHandle<()>,
}

struct Inner {
    socket: PathBuf,
    /// `None`: nothing but rules answers.
    upstream: Option<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    calls: Vec<Call>,
    paused: bool,
    /// Calls held by a hang carry the number of the release they wait for.
    releases: u64,
    held: usize,
    connections: HashMap<u64, Connection>,
    connections_seen: u64,
}

struct Rule {
    method: String,
    path: String,
    behaviour: Behaviour,
    /// `Some(n)`: only the nth matching call after the rule was made.
    only: Option<usize>,
    seen: usize,
}

/// Ends of an open connection, and the call it serves now.
struct Connection {
    ends: Vec<UnixStream>,
    serving: Option<(String, String)>,
}

impl EngineProxy {
    /// Before the machine's Engine.
    pub fn start() -> EngineProxy {
        EngineProxy::before(Some(docker::socket()))
    }

    /// Before an Engine of the test's own.
    pub fn before_own(engine: &OwnEngine) -> EngineProxy {
        EngineProxy::before(Some(engine.client().socket().to_owned()))
    }

    /// With no Engine behind it: a call without a rule is answered 404.
    pub fn fake() -> EngineProxy {
        EngineProxy::before(None)
    }

    fn before(upstream: Option<PathBuf>) -> EngineProxy {
        let dir = tempfile::Builder::new().prefix("engine-").tempdir().expect("a directory");
        let proxy = EngineProxy {
            inner: Arc::new(Inner {
                socket: dir.path().join("docker.sock"),
                upstream,
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            listening: Mutex::new(None),
            _dir: dir,
        };
        proxy.up();
        proxy
    }

    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// The socket as a `DOCKER_HOST`.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.inner.socket.display())
    }

    // ── rules ──────────────────────────────────────────────────────────────────────────────

    /// Every such call behaves so from now on. In `path`, without version prefix and query, a
    /// segment `*` is any one segment: `/containers/*/start`. The newest rule wins.
    pub fn on(&self, method: &str, path: &str, behaviour: Behaviour) -> &EngineProxy {
        self.add_rule(method, path, behaviour, None)
    }

    /// Only the `nth` such call from now on behaves so, the first being 1.
    pub fn on_nth(
        &self,
        nth: usize,
        method: &str,
        path: &str,
        behaviour: Behaviour,
    ) -> &EngineProxy {
        self.add_rule(method, path, behaviour, Some(nth))
    }

    fn add_rule(
        &self,
        method: &str,
        path: &str,
        behaviour: Behaviour,
        only: Option<usize>,
    ) -> &EngineProxy {
        let (method, path) = (method.to_owned(), path.to_owned());
        self.inner.state().rules.push(Rule { method, path, behaviour, only, seen: 0 });
        self
    }

    /// Forgets all rules. Held calls stay held until `release`.
    pub fn clear(&self) {
        self.inner.state().rules.clear();
    }

    /// Lets all calls go on that a rule holds now. Later ones are held again.
    pub fn release(&self) {
        self.inner.state().releases += 1;
        self.inner.changed.notify_all();
    }

    /// Nothing passes in either direction, on any connection, until `resume_all`: a hung Engine.
    pub fn pause_all(&self) {
        self.inner.state().paused = true;
    }

    pub fn resume_all(&self) {
        self.inner.state().paused = false;
        self.inner.changed.notify_all();
    }

    /// Closes the connections that are serving such a call now: `cut("GET /events")`.
    pub fn cut(&self, call: &str) {
        for connection in self.inner.state().connections.values() {
            let serving = connection.serving.as_ref();
            if serving.is_some_and(|(method, path)| matches(call, method, path)) {
                connection.end();
            }
        }
    }

    /// The Engine is gone: no socket, and open connections are closed.
    pub fn down(&self) {
        let Some(Listening { listener, thread }) = self.listening().take() else { return };
        std::fs::remove_file(&self.inner.socket).expect("the socket's file");
        // Wakes the thread in accept.
        let _ = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        thread.join().expect("proxy's accept thread");
        self.inner.state().connections.values().for_each(Connection::end);
    }

    /// The Engine is back on the same socket.
    pub fn up(&self) {
        let mut listening = self.listening();
        if listening.is_some() {
            return;
        }
        let listener = UnixListener::bind(&self.inner.socket).expect("proxy's socket");
        let ours = listener.try_clone().expect("a listener");
        let inner = Arc::clone(&self.inner);
        let thread = std::thread::spawn(move || pass::accept(&inner, &ours));
        *listening = Some(Listening { listener, thread });
    }

    // ── what it saw ────────────────────────────────────────────────────────────────────────

    /// How many such calls came: `calls("POST /containers/*/start")`.
    pub fn calls(&self, call: &str) -> usize {
        self.seen(call).len()
    }

    /// Such calls in order of arrival.
    pub fn seen(&self, call: &str) -> Vec<Call> {
        let is = |seen: &&Call| matches(call, &seen.method, &seen.path);
        self.inner.state().calls.iter().filter(is).cloned().collect()
    }

    pub fn all_calls(&self) -> Vec<Call> {
        self.inner.state().calls.clone()
    }

    /// Returns once at least `count` such calls have come, also held ones; fails the test when
    /// they don't come in time.
    #[track_caller]
    pub fn wait_calls(&self, call: &str, count: usize, patience: Duration) {
        let came = super::wait_until(patience, || self.calls(call) >= count);
        assert!(came, "{} of {count} `{call}` in {patience:?}", self.calls(call));
    }

    /// How many calls are held by a hang now.
    pub fn held(&self) -> usize {
        self.inner.state().held
    }

    /// Returns once at least `count` calls are held: only then does `release` let them all go.
    #[track_caller]
    pub fn wait_held(&self, count: usize, patience: Duration) {
        let held = super::wait_until(patience, || self.held() >= count);
        assert!(held, "{} of {count} calls held in {patience:?}", self.held());
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.inner.state().connections.len()
    }

    fn listening(&self) -> MutexGuard<'_, Option<Listening>> {
        self.listening.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.clear();
        self.down();
        self.resume_all();
    }
}

impl Connection {
    fn end(&self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The runner reads from its Engine's socket when that was started: from ours, of the real one.
    fn date_socket_like(&self, upstream: &Path) {
        let Ok(made) = std::fs::symlink_metadata(upstream).and_then(|found| found.modified())
        else {
            return;
        };
        let made = made.duration_since(UNIX_EPOCH).expect("a time after 1970");
        let made = TimeSpec::from_duration(made);
        // It may be down again.
        let _ = utimensat(AT_FDCWD, &self.socket, &made, &made, UtimensatFlags::NoFollowSymlink);
    }

    /// Waits until nothing is paused.
    fn gate(&self) {
        let mut state = self.state();
        while state.paused {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Notes the call and finds what a rule wants of it.
    fn note(&self, call: Call) -> Option<Behaviour> {
        let mut state = self.state();
        let mut wanted = None;
        for rule in &mut state.rules {
            if rule.method != call.method || !path_matches(&rule.path, &call.path) {
                continue;
            }
            rule.seen += 1;
            if rule.only.is_none_or(|nth| nth == rule.seen) {
                wanted = Some(rule.behaviour.clone());
            }
        }
        state.calls.push(call);
        wanted
    }

    /// Holds a call until the next `release`; an error when its caller has left before.
    fn hold(&self, caller: &UnixStream) -> io::Result<()> {
        let mut state = self.state();
        let release = state.releases + 1;
        state.held += 1;
        let mut left = Ok(());
        while state.releases < release && left.is_ok() {
            state = match self.changed.wait_timeout(state, HELD_LOOK) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
            left = pass::still_there(caller);
        }
        state.held -= 1;
        left
    }
}

fn matches(call: &str, method: &str, path: &str) -> bool {
    let (want_method, want_path) = call.split_once(' ').expect("`METHOD /path`");
    want_method == method && path_matches(want_path, path)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let mut wanted = pattern.split('/');
    let mut had = path.split('/');
    loop {
        match (wanted.next(), had.next()) {
            (None, None) => return true,
            (Some(want), Some(have)) if want == "*" || want == have => {}
            _ => return false,
        }
    }
}

/// `/v1.41/containers/json?all=1` is `/containers/json` and `all=1`.
fn path_and_query(target: &str) -> (String, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let version = path.strip_prefix("/v").and_then(|rest| rest.split_once('/'));
    let path = match version {
        Some((number, rest)) if number.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("/{rest}")
        }
        _ => path.to_owned(),
    };
    (path, query.to_owned())
}
