//! One connection of a caller through the proxy: call after call, in the way that the rules want.

use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::super::http::{self, Framing, Head};
use super::super::wait_until;
use super::{Behaviour, Call, Connection, HELD_LOOK, Inner, path_and_query};

/// Bodies up to this length are kept in [`Call::body`]; longer ones only pass.
const BODY_KEPT_BYTES_MAX: u64 = 256 * 1024;

pub(super) fn accept(inner: &Arc<Inner>, listener: &UnixListener) {
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
    if !wait_until(Duration::from_secs(1), || body.is_finished()) {
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
        inner.date_socket_like(upstream);
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
pub(super) fn still_there(stream: &UnixStream) -> io::Result<()> {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    match fds[0].revents() {
        Some(events) if !events.is_empty() => Err(io::ErrorKind::ConnectionAborted.into()),
        _ => Ok(()),
    }
}
