//! A Unix socket before the real Engine that changes nothing until it is told to: bytes pass as
//! they are, streaming, keep-alive and hijacked connections included, and a caller that leaves is
//! noticed by the Engine. Rules make single calls misbehave. Without an Engine behind it (`fake`)
//! every answer is scripted.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::docker;
use super::http::{self, Framing, Head};

/// Bodies up to this length are kept in [`Call::body`]; longer ones only pass.
const BODY_KEPT_BYTES_MAX: u64 = 256 * 1024;
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
        let thread = std::thread::spawn(move || accept(&inner, &ours));
        *listening = Some(Listening { listener, thread });
    }

    // ── what it saw ────────────────────────────────────────────────────────────────────────

    /// How many such calls came: `calls("POST /containers/*/start")`.
    pub fn calls(&self, call: &str) -> usize {
        self.seen(call).len()
    }

    /// Such calls in order of arrival. `"* *"` would be no path: see [`EngineProxy::all_calls`].
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
            left = still_there(caller);
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

// ── connections ──────────────────────────────────────────────────────────────────────────────

fn accept(inner: &Arc<Inner>, listener: &UnixListener) {
    while let Ok((caller, _)) = listener.accept() {
        let inner = Arc::clone(inner);
        std::thread::spawn(move || {
            let number = {
                let mut state = inner.state();
                state.connections_seen += 1;
                let number = state.connections_seen;
                let ends = vec![caller.try_clone().expect("a socket")];
                state.connections.insert(number, Connection { ends, serving: None });
                number
            };
            // Either peer may leave at any time; the other is told by the end of its connection.
            let _left = serve(&inner, number, caller);
            if let Some(connection) = inner.state().connections.remove(&number) {
                connection.end();
            }
        });
    }
}

fn serve(inner: &Inner, number: u64, mut caller: UnixStream) -> io::Result<()> {
    let mut from_caller = BufReader::new(Gated { inner, stream: caller.try_clone()?, other: None });
    let mut engine: Option<Engine> = None;
    while let Some(head) = Head::read(&mut from_caller)? {
        let (method, framing) = (head.word(0).to_owned(), head.request_framing());
        let (path, query) = path_and_query(head.word(1));
        // A short body is read now, to be shown; a long or unbounded one streams.
        let short = match framing {
            Framing::Length(bytes) if bytes <= BODY_KEPT_BYTES_MAX => {
                http::read_body(&mut from_caller, framing)?
            }
            _ => Vec::new(),
        };
        let streams = framing != Framing::Empty && short.is_empty();
        let body = serde_json::from_slice(&short).unwrap_or(Value::Null);
        if let Some(connection) = inner.state().connections.get_mut(&number) {
            connection.serving = Some((method.clone(), path.clone()));
        }
        let call = Call { at: Instant::now(), method: method.clone(), path, query, body };
        let behaviour = inner.note(call);
        match &behaviour {
            Some(Behaviour::Hang) => inner.hold(&caller)?,
            Some(Behaviour::Slow(pause)) => std::thread::sleep(*pause),
            Some(Behaviour::Before(run)) => run(),
            Some(Behaviour::Die) => return Ok(()),
            Some(Behaviour::Garbage) => {
                return caller.write_all(b"\0\xff\x16 no HTTP at all\r\n\r\n");
            }
            Some(Behaviour::Reply(status, body)) => {
                if streams {
                    http::copy_body(&mut from_caller, framing, &mut io::sink())?;
                }
                caller.write_all(&http::json_response(*status, body))?;
                continue;
            }
            Some(Behaviour::Stream(lines)) => return stream_lines(&caller, lines),
            Some(
                Behaviour::HangReply
                | Behaviour::HangMidReply
                | Behaviour::LoseReply
                | Behaviour::DieMidReply
                | Behaviour::After(_),
            )
            | None => {}
        }
        if engine.is_none() {
            let Some(upstream) = &inner.upstream else {
                let message = format!("the fake Engine has no rule for {}", head.first_line);
                caller.write_all(&http::json_response(404, &json!({ "message": message })))?;
                continue;
            };
            engine = Some(Engine::connect(inner, number, upstream, &caller)?);
        }
        let engine = engine.as_mut().expect("connected above");
        engine.stream.write_all(&head.raw)?;
        engine.stream.write_all(&short)?;
        let ended = std::thread::scope(|scope| {
            // The Engine may answer while it still reads, so a streamed body has its own thread.
            let body = streams.then(|| {
                let mut to = engine.stream.try_clone().expect("a socket");
                let from = &mut from_caller;
                scope.spawn(move || http::copy_body(from, framing, &mut to))
            });
            let ended = pass_reply(inner, &method, engine, &mut caller, behaviour.as_ref());
            if let Some(body) = body {
                // Answered before all was read: the rest has no reader, so the connection ends.
                if !matches!(ended, Ok(After::NextCall)) || !body.is_finished() {
                    settle(&body, &caller, &engine.stream);
                }
                body.join().expect("body thread")?;
            }
            ended
        })?;
        match ended {
            After::NextCall => {}
            After::Close => return Ok(()),
            After::Hijacked => return pipe_both(inner, from_caller, caller, engine),
        }
    }
    Ok(())
}

/// Gives a streamed body a moment to end by itself, then ends it by ending the connection.
fn settle<T>(
    body: &std::thread::ScopedJoinHandle<'_, T>,
    caller: &UnixStream,
    engine: &UnixStream,
) {
    if !super::wait_until(Duration::from_secs(1), || body.is_finished()) {
        let _ = caller.shutdown(Shutdown::Both);
        let _ = engine.shutdown(Shutdown::Both);
    }
}

/// The connection to the Engine that belongs to one connection of a caller.
struct Engine<'a> {
    stream: UnixStream,
    reader: BufReader<Gated<'a>>,
}

impl<'a> Engine<'a> {
    fn connect(
        inner: &'a Inner,
        number: u64,
        upstream: &Path,
        caller: &UnixStream,
    ) -> io::Result<Engine<'a>> {
        let stream = http::connect_unix(upstream)?;
        if let Some(connection) = inner.state().connections.get_mut(&number) {
            connection.ends.push(stream.try_clone()?);
        }
        let other = Some(caller.try_clone()?);
        let reader = BufReader::new(Gated { inner, stream: stream.try_clone()?, other });
        Ok(Engine { stream, reader })
    }
}

/// What follows an answered call.
enum After {
    NextCall,
    Close,
    Hijacked,
}

/// Passes the Engine's reply to the caller, in the way that the rule wants.
fn pass_reply(
    inner: &Inner,
    method: &str,
    engine: &mut Engine<'_>,
    caller: &mut UnixStream,
    behaviour: Option<&Behaviour>,
) -> io::Result<After> {
    let head = loop {
        let Some(head) = Head::read(&mut engine.reader)? else { return Ok(After::Close) };
        match head.status()? {
            101 | 200.. => break head,
            _informational => caller.write_all(&head.raw)?,
        }
    };
    match behaviour {
        Some(Behaviour::After(run)) => run(),
        Some(Behaviour::HangReply) => inner.hold(caller)?,
        Some(Behaviour::LoseReply) => {
            read_reply_body(&head, method, engine)?;
            return Ok(After::Close);
        }
        Some(Behaviour::DieMidReply) => {
            let half = half_of(&head, method, engine)?;
            caller.write_all(&half.0)?;
            return Ok(After::Close);
        }
        Some(Behaviour::HangMidReply) => {
            let (first, second) = half_of(&head, method, engine)?;
            caller.write_all(&first)?;
            inner.hold(caller)?;
            caller.write_all(&second)?;
            return Ok(After::NextCall);
        }
        _ => {}
    }
    caller.write_all(&head.raw)?;
    if head.status()? == 101 {
        return Ok(After::Hijacked);
    }
    let framing = head.response_framing(method)?;
    http::copy_body(&mut engine.reader, framing, caller)?;
    let closes = head.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    Ok(if closes || framing == Framing::UntilClose { After::Close } else { After::NextCall })
}

/// The reply's body as on the wire; of a hijack or a stream without an end nothing.
fn read_reply_body(head: &Head, method: &str, engine: &mut Engine<'_>) -> io::Result<Vec<u8>> {
    let mut wire = Vec::new();
    if head.status()? != 101 {
        http::copy_body(&mut engine.reader, head.response_framing(method)?, &mut wire)?;
    }
    Ok(wire)
}

/// The whole reply, cut in the middle of its body, or of its head when it has none.
fn half_of(head: &Head, method: &str, engine: &mut Engine<'_>) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let body = read_reply_body(head, method, engine)?;
    let middle = if body.is_empty() { head.raw.len() / 2 } else { head.raw.len() + body.len() / 2 };
    let mut first = [head.raw.as_slice(), &body].concat();
    let second = first.split_off(middle);
    Ok((first, second))
}

fn stream_lines(mut caller: &UnixStream, lines: &[Value]) -> io::Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    caller.write_all(head.as_bytes())?;
    for line in lines {
        let line = format!("{line}\n");
        caller.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
    }
    while still_there(caller).is_ok() {
        std::thread::sleep(HELD_LOOK);
    }
    Ok(())
}

/// After an upgrade: bytes both ways, each direction with its own end.
fn pipe_both(
    inner: &Inner,
    mut from_caller: BufReader<Gated<'_>>,
    caller: UnixStream,
    engine: &mut Engine<'_>,
) -> io::Result<()> {
    let mut to_engine = engine.stream.try_clone()?;
    let mut to_caller = caller;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = http::copy_body(&mut from_caller, Framing::UntilClose, &mut to_engine);
            inner.gate();
            // Only this direction: the end of a terminal's input is not the end of its output.
            let _ = to_engine.shutdown(Shutdown::Write);
        });
        let ended = http::copy_body(&mut engine.reader, Framing::UntilClose, &mut to_caller);
        inner.gate();
        // The Engine has closed or the caller has left: nothing is left for either.
        let _ = to_caller.shutdown(Shutdown::Both);
        let _ = engine.stream.shutdown(Shutdown::Both);
        ended
    })
}

/// A socket whose reads stop while the proxy is paused, and end when the other peer has left.
struct Gated<'a> {
    inner: &'a Inner,
    stream: UnixStream,
    other: Option<UnixStream>,
}

impl Read for Gated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut fds = vec![PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        if let Some(other) = &self.other {
            // No events: the hang-up of a peer that closed both ways is always told.
            fds.push(PollFd::new(other.as_fd(), PollFlags::empty()));
        }
        poll(&mut fds, PollTimeout::NONE)?;
        if fds[0].revents().is_none_or(|events| events.is_empty()) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.inner.gate();
        self.stream.read(buffer)
    }
}

/// An error when the peer has closed both ways or its socket was shut.
fn still_there(stream: &UnixStream) -> io::Result<()> {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    match fds[0].revents() {
        Some(events) if !events.is_empty() => Err(io::ErrorKind::ConnectionAborted.into()),
        _ => Ok(()),
    }
}
