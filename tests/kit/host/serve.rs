//! The host's connections: one thread each, call after call, failing as the faults want.

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::http::{self, Head};
use super::{Fault, Hook, Inner, Moment, rules};

pub(super) fn accept(inner: &Arc<Inner>, listener: &TcpListener) {
    while let Ok((stream, _)) = listener.accept() {
        let inner = Arc::clone(inner);
        std::thread::spawn(move || {
            let number = {
                let mut state = inner.state();
                state.connections_seen += 1;
                let number = state.connections_seen;
                state.connections.insert(number, stream.try_clone().expect("a socket"));
                number
            };
            let _peer_left = serve(&inner, stream);
            inner.state().connections.remove(&number);
        });
    }
}

fn serve(inner: &Inner, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(head) = Head::read(&mut reader)? {
        let body = http::read_body(&mut reader, head.request_framing())?;
        let (method, path) = (head.word(0), head.word(1));
        let came = Instant::now();
        let call = format!("{method} {path}");
        let hooks = inner.hooks_for(&call);
        run_hooks(&hooks, Moment::Before, &body);
        let fault = inner.fault_for(&call);
        match fault {
            Some(Fault::Status(status)) => {
                rules::unheard(inner, path, &body, came);
                let text = json!({ "detail": "scripted" });
                stream.write_all(&http::json_response(status, &text))?;
                continue;
            }
            Some(Fault::Garbage) => {
                rules::unheard(inner, path, &body, came);
                stream.write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")?;
                return stream.shutdown(Shutdown::Both);
            }
            Some(Fault::Hang) => {
                rules::unheard(inner, path, &body, came);
                hang(inner, &stream)?;
            }
            Some(Fault::Slow(pause)) => std::thread::sleep(pause),
            Some(Fault::HalfAnswer | Fault::LostAnswer) | None => {}
        }
        let (status, answer) = rules::apply(inner, method, path, &body, came);
        inner.changed.notify_all();
        run_hooks(&hooks, Moment::After, &body);
        let answer = http::json_response(status, &answer);
        match fault {
            Some(Fault::HalfAnswer) => {
                stream.write_all(&answer[..answer.len() - 5])?;
                return stream.shutdown(Shutdown::Both);
            }
            Some(Fault::LostAnswer) => return stream.shutdown(Shutdown::Both),
            _ => stream.write_all(&answer)?,
        }
        if head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

fn run_hooks(hooks: &[(Moment, Hook)], moment: Moment, body: &[u8]) {
    let due = hooks.iter().filter(|(when, _)| *when == moment);
    due.for_each(|(_, run)| run(&serde_json::from_slice(body).unwrap_or_default()));
}

/// Waits until no hang is set any more; an error when the caller has left meanwhile.
fn hang(inner: &Inner, stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    loop {
        match stream.peek(&mut [0]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if !inner.state().faults.iter().any(|set| set.fault == Fault::Hang) {
            return stream.set_read_timeout(None);
        }
    }
}
