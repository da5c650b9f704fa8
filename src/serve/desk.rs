//! What the door and the workers share: from bytes on a connection to a request that may run. Both
//! come here with a connection that has new bytes, and get a job, or the connection has been
//! seated, answered or closed. Never blocks.

use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use nix::sys::eventfd::EventFd;

use super::Patience;
use super::access::{Access, Caller};
use super::body::CONTINUE;
use super::call::{decode, decode_query};
use super::conn::Conn;
use super::head::{self, Framing, Head, Scan};
use super::large::LargeBodies;
use super::line::{Lane, Line};
use super::lobby::{Lobby, Seat, Stage};
use super::refusal::Refusal;
use super::reply::{After, Manner, Reply};
use super::route::{Audience, Found, Pace, Row, Table};
use super::upgrade;
use crate::limits::HTTP_DOOR_BODY_BYTES_MAX;
use crate::metrics;

/// A request that may run: its row is known, its caller allowed, its announced body not too large.
#[derive(Debug)]
pub(super) struct Request {
    pub head: Head,
    pub row: Row,
    pub params: Vec<(&'static str, String)>,
    pub query: Vec<(String, String)>,
}

impl Request {
    /// How it is answered when it was read whole.
    pub fn manner(&self) -> Manner {
        let after = if self.head.keep_alive { After::KeepAlive } else { After::Close };
        manner(&self.head, after)
    }

    /// Length of head and body if it is one the door collects.
    fn small_bytes(&self) -> Option<usize> {
        match self.head.framing {
            Framing::Length(length) => usize::try_from(length)
                .ok()
                .filter(|length| *length <= HTTP_DOOR_BODY_BYTES_MAX)
                .map(|length| self.head.bytes + length),
            Framing::Chunked => None,
        }
    }

    /// Reserved workers never wait for a peer: with a body still to come nothing is urgent.
    fn lane(&self) -> Lane {
        match self.row.pace {
            Pace::Urgent if self.small_bytes().is_some() => Lane::Urgent,
            Pace::Urgent | Pace::Quick | Pace::Slow => Lane::Ordinary,
        }
    }
}

/// What the head came to.
struct Admitted {
    row: Row,
    params: Vec<(&'static str, String)>,
    query: Vec<(String, String)>,
}

/// A connection with a request for a worker.
#[derive(Debug)]
pub(super) struct Job {
    pub conn: Box<Conn>,
    pub request: Box<Request>,
}

/// Everything shared between the door, the workers, streams and responders.
#[derive(Debug)]
pub(super) struct Desk {
    pub lobby: Lobby,
    pub line: Line<Job>,
    pub table: Table,
    pub access: Arc<Access>,
    pub patience: Patience,
    /// No connection is kept after its answer: those who go on are to find whoever follows us.
    pub leaving: AtomicBool,
    /// Nobody new is let in: the door empties the house.
    pub stopping: AtomicBool,
    /// Readable from the moment of the stop on.
    pub stop_bell: EventFd,
    /// Whether the door has been asked to look after the lobby, and what wakes it for that.
    pub door_helps: AtomicBool,
    pub help_bell: EventFd,
    /// Ordinary workers that are not on the bench, and how many of them are enough.
    pub attending: AtomicUsize,
    pub attending_enough: usize,
    /// Workers alive, streams and WebSockets open.
    pub workers: AtomicUsize,
    pub streams: AtomicUsize,
    pub sessions: AtomicUsize,
    pub large_bodies: LargeBodies,
    /// How often the door has come round, for whoever asks whether it still does.
    pub door_turns: AtomicU64,
}

impl Desk {
    /// Goes on with what `conn` has read. A request begun earlier keeps its `deadline`.
    pub fn advance(&self, mut conn: Box<Conn>, mut deadline: Option<Instant>) -> Option<Job> {
        loop {
            skip_blank_lines(&mut conn);
            if conn.read.is_empty() {
                let deadline = Instant::now() + self.patience.idle;
                self.lobby.seat(conn, Stage::Head, deadline);
                return None;
            }
            let scanned = match head::scan(&conn.read, conn.scanned) {
                Ok(Scan::Whole { bytes }) => head::parse(&conn.read[..bytes]),
                Ok(Scan::Partial) => {
                    conn.scanned = conn.read.len();
                    let deadline = deadline.unwrap_or_else(|| Instant::now() + self.patience.head);
                    self.lobby.seat(conn, Stage::Head, deadline);
                    return None;
                }
                Err(error) => Err(error),
            };
            conn.scanned = 0;
            conn.has_asked = true;
            let head = match scanned {
                Ok(head) => head,
                Err(error) => {
                    self.refuse(conn, &Refusal::Head(error), Manner::CONFUSED);
                    return None;
                }
            };
            match self.admit(&conn, &head) {
                Ok(Admitted { row, params, query }) => {
                    let request = Box::new(Request { head, row, params, query });
                    return self.collect(conn, request, deadline);
                }
                Err(refusal) => {
                    let manner = manner_of_refusal(&head, &refusal);
                    conn.read.drain(..head.bytes);
                    conn = self.refuse(conn, &refusal, manner)?;
                    deadline = None;
                }
            }
        }
    }

    /// Waits in the lobby for the rest of a small body; then the request is a job.
    pub fn collect(
        &self,
        conn: Box<Conn>,
        mut request: Box<Request>,
        deadline: Option<Instant>,
    ) -> Option<Job> {
        let missing = request.small_bytes().is_some_and(|bytes| conn.read.len() < bytes);
        if !missing {
            return Some(Job { conn, request });
        }
        if std::mem::take(&mut request.head.expects_continue)
            && conn.read.len() == request.head.bytes
            && !matches!(conn.socket.send(&[IoSlice::new(CONTINUE)]), Ok(sent) if sent == CONTINUE.len())
        {
            return None;
        }
        let deadline = deadline.unwrap_or_else(|| Instant::now() + self.patience.head);
        self.lobby.seat(conn, Stage::Body(request), deadline);
        None
    }

    /// Does what a seated connection waited for. A job comes of it if that was a request's end.
    pub fn attend(&self, seat: Seat, scratch: &mut [u8]) -> Option<Job> {
        let Seat { mut conn, stage, deadline } = seat;
        match stage {
            Stage::Head => {
                let begun = !conn.read.is_empty();
                receive(&mut conn, scratch)?;
                self.advance(conn, begun.then_some(deadline))
            }
            Stage::Body(request) => {
                receive(&mut conn, scratch)?;
                self.collect(conn, request, Some(deadline))
            }
            // Only the peer's end shows here; whoever works on the order needs no caller.
            Stage::Parked { .. } => None,
            Stage::Answering { bytes, sent, after } => {
                let conn = self.lobby.send_rest(conn, bytes, sent, after)?;
                self.advance(conn, None)
            }
            Stage::Lingering { bytes_left } => {
                let bytes_left = bytes_left.checked_sub(receive(&mut conn, scratch)?)?;
                conn.read.clear();
                self.lobby.seat(conn, Stage::Lingering { bytes_left }, deadline);
                None
            }
        }
    }

    /// Goes on with a request whose bytes have come since the connection was seated; without any the
    /// connection is closed.
    pub fn attend_or_close(&self, seat: Seat, scratch: &mut [u8]) -> Option<Job> {
        let Seat { mut conn, stage: Stage::Head, .. } = seat else { return None };
        match conn.receive(scratch) {
            Ok(0) | Err(_) => None,
            Ok(_) => self.advance(conn, None),
        }
    }

    /// Puts `job` in the line; if that is full the caller is told.
    pub fn enqueue(&self, job: Job) {
        let lane = job.request.lane();
        let Err(job) = self.line.push(job, lane) else { return self.lobby.kick() };
        metrics::HTTP_OVERLOADS.up();
        let refusal = if self.is_stopping() { Refusal::Stopping } else { Refusal::Busy };
        self.refuse(job.conn, &refusal, manner(&job.request.head, After::Linger));
    }

    /// Asks the door to see to it that the lobby is attended to, once until it has done so.
    pub fn ask_for_help(&self) {
        if !self.door_helps.swap(true, Ordering::SeqCst)
            && let Err(error) = self.help_bell.write(1)
        {
            log::error!("the door can't be asked for help: {error}");
        }
    }

    /// Answers for the door itself. The connection comes back if it goes on.
    pub fn refuse(&self, conn: Box<Conn>, refusal: &Refusal, manner: Manner) -> Option<Box<Conn>> {
        metrics::HTTP_REFUSED.up();
        self.lobby.answer(conn, refusal.reply().encode(manner), manner.after)
    }

    /// Answers a call that was parked, from whatever thread, and lets its connection go on.
    pub fn answer_parked(&self, conn: Box<Conn>, reply: Reply, manner: Manner) {
        let manner = self.until_stop(manner);
        let Some(conn) = self.lobby.answer(conn, reply.encode(manner), manner.after) else {
            return;
        };
        if let Some(job) = self.advance(conn, None) {
            self.enqueue(job);
        }
    }

    /// `manner`, but for a runner that stops and keeps no connection.
    pub fn until_stop(&self, manner: Manner) -> Manner {
        match manner.after {
            After::KeepAlive if self.leaving.load(Ordering::Relaxed) => {
                Manner { after: After::Close, ..manner }
            }
            After::KeepAlive | After::Close | After::Linger => manner,
        }
    }

    /// Ends the door, which lets everybody out and then dismisses the workers, and the streams.
    pub fn stop(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        self.stopping.store(true, Ordering::SeqCst);
        if let Err(error) = self.stop_bell.write(1) {
            log::error!("the stop can't be told to the door: {error}");
        }
    }

    /// Ends the workers when their line is empty.
    pub fn dismiss(&self) {
        self.line.close();
        self.lobby.kick_all(self.workers.load(Ordering::Relaxed));
    }

    /// Whether no request is on its way through here: half read, at work, or half answered. Parked
    /// ones don't count, they wait for others.
    pub fn is_quiet(&self) -> bool {
        self.at_rest_while(|| self.line.is_empty() && self.lobby.is_quiet())
    }

    /// Whether nobody is here but workers without work, and stays so if nobody is let in.
    pub fn is_empty(&self) -> bool {
        self.at_rest_while(|| self.line.is_empty() && self.lobby.is_empty())
    }

    /// Whether all workers rest while `is_so`. It is asked before and after: a worker that is awake
    /// may have a connection in its hands, which it seats before it rests.
    fn at_rest_while(&self, is_so: impl Fn() -> bool) -> bool {
        let at_rest = || {
            let workers = self.workers.load(Ordering::SeqCst);
            self.lobby.resting() + self.line.resting() == workers
        };
        is_so() && at_rest() && is_so()
    }

    /// Whether the runner is on its way out.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Decides by the head alone: first who is calling, then what, then how.
    fn admit(&self, conn: &Conn, head: &Head) -> Result<Admitted, Refusal> {
        let bytes = conn.read.as_slice();
        let found = self.table.find(head.method, head.path.text(bytes));
        let path = head.path.text(bytes);
        let audience = match &found {
            Found::Row(row, _) => row.audience,
            Found::OtherMethods(_) | Found::Nothing => Audience::Users,
        };
        let mut origins = head.fields(bytes, "Origin");
        let first = origins.next();
        let caller = Caller {
            peer: conn.peer,
            host: head.host.map(|host| host.text(bytes)),
            // Browsers send one. Of two, neither is believed: no page has an empty one.
            origin: origins.next().map_or(first, |_| Some("")),
            bearer: head.field(bytes, "Authorization").and_then(bearer),
        };
        self.access.check(&caller, audience, path).map_err(Refusal::Denied)?;
        let (row, params) = match found {
            Found::Row(row, params) => (*row, params),
            Found::OtherMethods(allow) => return Err(Refusal::OtherMethods { allow }),
            Found::Nothing if path.starts_with("/ws/") => return Err(Refusal::NoSuchSocket),
            Found::Nothing => return Err(Refusal::NotFound),
        };
        if row.is_socket && head.bodiless {
            return Err(Refusal::OtherMethods { allow: row.allow_text().to_owned() });
        }
        if row.is_socket {
            upgrade::key(head, bytes).map_err(Refusal::NoUpgrade)?;
        }
        let limit_bytes = row.body_bytes_max;
        match head.framing {
            Framing::Length(0) => {}
            Framing::Length(length) if length > limit_bytes as u64 => {
                return Err(Refusal::BodyTooLarge { limit_bytes });
            }
            Framing::Length(_) | Framing::Chunked => {
                if !head.field(bytes, "Content-Type").is_none_or(is_json) {
                    return Err(Refusal::ContentType);
                }
            }
        }
        let params = params.into_iter().map(|(name, value)| Some((name, decode(value, b'+')?)));
        let params = params.collect::<Option<_>>().ok_or(Refusal::Coding)?;
        let query = head.query.map_or("", |query| query.text(bytes));
        let query = decode_query(query).ok_or(Refusal::Coding)?;
        Ok(Admitted { row, params, query })
    }
}

/// How many bytes came, if the peer is still there.
fn receive(conn: &mut Conn, scratch: &mut [u8]) -> Option<usize> {
    match conn.receive(scratch) {
        Ok(0) => None,
        Ok(count) => Some(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}

/// Old clients send an empty line after a body (RFC 9112 2.2).
fn skip_blank_lines(conn: &mut Conn) {
    if conn.scanned == 0 {
        let blank = conn.read.chunks(2).take_while(|pair| *pair == b"\r\n").count();
        conn.read.drain(..2 * blank);
    }
}

fn manner(head: &Head, after: After) -> Manner {
    Manner { bodiless: head.bodiless, old_version: head.old_version, after }
}

/// A refused request leaves the connection usable if nothing of it is left to read and the caller
/// is welcome at all.
fn manner_of_refusal(head: &Head, refusal: &Refusal) -> Manner {
    let welcome = !matches!(refusal, Refusal::Denied(_) | Refusal::NoSuchSocket);
    let whole = head.framing == Framing::Length(0);
    let after = if whole && welcome && head.keep_alive { After::KeepAlive } else { After::Linger };
    manner(head, after)
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then_some(token.trim_start())
}

/// `application/json` or `anything/…+json`, with parameters. What a web page can send to a
/// stranger without being asked is none of these (design D13).
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let suffix = kind.len().checked_sub("+json".len()).and_then(|at| kind.get(at..));
    kind.eq_ignore_ascii_case("application/json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn json_types_are_told_from_what_forms_send() {
        assert!(is_json("application/json"));
        assert!(is_json("Application/JSON; charset=utf-8"));
        assert!(is_json("application/merge-patch+json"));
        assert!(!is_json("text/plain"));
        assert!(!is_json("text/plain; a=application/json"));
        assert!(!is_json("application/x-www-form-urlencoded"));
        assert!(!is_json("é+jso"));
        assert!(!is_json(""));
    }

    #[test]
    fn bearer_is_found_in_any_case_of_its_scheme() {
        assert_eq!(bearer("bearer abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
    }
}
