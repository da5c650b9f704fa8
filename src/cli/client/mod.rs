//! A small HTTP/1.1 client over TCP or a Unix socket, one connection for each call. Used by the
//! commands to talk to a runner, and by `doctor` to talk to the Engine. Every call has a deadline.

mod body;
mod connection;
mod error;
mod websocket;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use body::Body;
pub use connection::Stream;
pub use error::ClientError;

use crate::limits;
use crate::model::settings::Token;
use connection::Connection;

/// The status of a connection that is no longer HTTP's.
const SWITCHING_PROTOCOLS: u16 = 101;

/// Where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// The text is no URL that can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATarget;

/// A peer and the token shown to it.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    token: Option<Token>,
    /// Until an answer is complete, or a stream begins.
    patience: Duration,
}

/// The head of an answer, with the body still to be read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// What the peer made of the key, in an answer to a WebSocket's handshake.
    websocket_accept: Option<String>,
    pub body: Body,
}

impl Client {
    /// A client of `target` that waits `patience` for each answer.
    pub fn new(target: Target, token: Option<Token>, patience: Duration) -> Client {
        Client { target, token, patience }
    }

    /// The same client, waiting `patience` for each answer.
    pub fn patient(&self, patience: Duration) -> Client {
        Client { patience, ..self.clone() }
    }

    /// GET, with an answer of JSON.
    ///
    /// # Errors
    /// The peer can't be reached, is late, refuses, or answers something else.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send("GET", path, "", None)?.accepted()?.json(self.patience)
    }

    /// POST of JSON, with an answer of JSON.
    ///
    /// # Errors
    /// The peer can't be reached, is late, refuses, or answers something else.
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::NotJson)?;
        self.send("POST", path, "", Some(&body))?.accepted()?.json(self.patience)
    }

    /// DELETE, with an answer of JSON.
    ///
    /// # Errors
    /// The peer can't be reached, is late, refuses, or answers something else.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send("DELETE", path, "", None)?.accepted()?.json(self.patience)
    }

    /// The machine that the peer is on, as this one reaches it.
    pub fn machine(&self) -> &str {
        match &self.target {
            Target::Unix(_) => "127.0.0.1",
            Target::Tcp { host, .. } => host,
        }
    }

    /// GET of bytes. Each read of the body waits `CLI_STREAM_TICK` at most and then fails with
    /// `WouldBlock`, so that the caller can look around and read on.
    ///
    /// # Errors
    /// The peer can't be reached, is late with the head of its answer, or refuses.
    pub fn stream(&self, path: &str) -> Result<Answer, ClientError> {
        let mut answer = self.send("GET", path, "", None)?.accepted()?;
        answer.body.read_in_ticks(limits::CLI_STREAM_TICK);
        Ok(answer)
    }

    /// `headers` are whole lines, in place of those that only a plain request has.
    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError> {
        let mut connection = Connection::connect(&self.target, limits::CLI_CONNECT_PATIENCE)
            .map_err(|source| ClientError::Connect { target: self.target.clone(), source })?;
        connection.read_until(self.patience);
        let broken = |source| ClientError::from_io(source, self.patience);
        connection.send(&self.request(method, path, headers, body)).map_err(broken)?;
        connection.send(body.unwrap_or_default()).map_err(broken)?;
        connection::read_head(connection, method).map_err(|fault| match fault {
            connection::HeadFault::Io(source) => broken(source),
            connection::HeadFault::NotHttp => ClientError::NotHttp { target: self.target.clone() },
        })
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: Option<&[u8]>) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.target.host());
        head += if headers.is_empty() { "Connection: close\r\nAccept: */*\r\n" } else { headers };
        head += concat!("User-Agent: river-runner/", env!("CARGO_PKG_VERSION"), "\r\n");
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {}\r\n", token.reveal());
        }
        if let Some(body) = body {
            head +=
                &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        head.into_bytes()
    }
}

impl Answer {
    /// The answer itself if it is a success.
    fn accepted(mut self) -> Result<Answer, ClientError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let said = self.body.read_whole().unwrap_or_default();
        Err(ClientError::Refused { status: self.status, detail: error::detail(&said) })
    }

    fn json<T: DeserializeOwned>(mut self, patience: Duration) -> Result<T, ClientError> {
        let whole = self.body.read_whole();
        let whole = whole.map_err(|source| ClientError::from_io(source, patience))?;
        serde_json::from_slice(&whole).map_err(ClientError::NotJson)
    }
}

impl Target {
    /// What stands in the `Host` header.
    fn host(&self) -> String {
        match self {
            Target::Unix(_) => "localhost".into(),
            Target::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Target::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

impl std::str::FromStr for Target {
    type Err = NotATarget;

    /// `http://HOST[:PORT]` or `unix:///PATH`.
    fn from_str(url: &str) -> Result<Target, NotATarget> {
        if let Some(path) = url.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Target::Unix(path)) } else { Err(NotATarget) };
        }
        let authority = url.strip_prefix("http://").ok_or(NotATarget)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = match authority.strip_prefix('[').and_then(|it| it.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(NotATarget);
        }
        let port = port.map_or(Ok(80), str::parse).map_err(|_| NotATarget)?;
        Ok(Target::Tcp { host: host.into(), port })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Unix(path) => write!(f, "unix://{}", path.display()),
            Target::Tcp { .. } => write!(f, "http://{}", self.host()),
        }
    }
}

/// Whether a read found nothing yet, within its tick.
pub fn is_quiet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Until when a read may wait.
#[derive(Clone, Copy, Debug)]
enum Patience {
    Until(std::time::Instant),
    Tick(Duration),
}

#[cfg(test)]
mod test {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use serde_json::{Value, json};

    use super::*;

    /// A peer that answers the first caller with `answer` and hangs up, and a client of it.
    fn peer(answer: &'static str) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut caller, _) = listener.accept().unwrap();
            let _ = caller.read(&mut [0; 4096]);
            let _ = caller.write_all(answer.as_bytes());
        });
        let target = Target::Tcp { host: "127.0.0.1".into(), port };
        Client::new(target, None, Duration::from_secs(5))
    }

    fn get(answer: &'static str) -> Result<Value, ClientError> {
        peer(answer).get("/")
    }

    #[test]
    fn body_is_read_by_its_length_its_chunks_or_to_the_end() {
        let whole = json!({"a": 1});
        let counted = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}and more";
        assert_eq!(get(counted).unwrap(), whole);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3;x=y\r\n{\"a\r\n5\r\n\": 1}\r\n0\r\n\r\n";
        assert_eq!(get(chunked).unwrap(), whole);
        assert_eq!(get("HTTP/1.0 200 OK\r\n\r\n{\"a\": 1}").unwrap(), whole);
    }

    #[test]
    fn body_that_ends_too_early_is_not_taken_for_whole() {
        let short = get("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\": 1}");
        assert!(matches!(short, Err(ClientError::Broken { .. })));
        let short = get("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"a\": 1}");
        assert!(matches!(short, Err(ClientError::Broken { .. })));
    }

    #[test]
    fn chunk_size_that_is_no_number_is_refused() {
        let odd = get("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n");
        assert!(matches!(odd, Err(ClientError::Broken { .. })));
    }

    #[test]
    fn answer_that_announces_another_is_passed_over() {
        let both = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(get(both).unwrap(), json!({}));
    }

    #[test]
    fn refusal_carries_the_peers_own_text() {
        let refused =
            get("HTTP/1.1 409 Conflict\r\nContent-Length: 17\r\n\r\n{\"detail\":\"seen\"}");
        assert_eq!(refused.unwrap_err().to_string(), "seen (status 409)");
    }

    #[test]
    fn refusal_of_a_field_names_it() {
        let said = error::detail(
            br#"{"detail":[{"type":"missing","loc":["body","command"],"msg":"Field required"}]}"#,
        );
        assert_eq!(said, "command: Field required");
    }

    #[test]
    fn refusal_is_one_line_that_does_nothing_to_a_terminal() {
        assert_eq!(error::detail(br#"{"detail":"no /a\n\u001b[2Jb"}"#), "no /a  [2Jb");
    }

    #[test]
    fn peer_that_does_not_speak_http_is_told_apart() {
        assert!(matches!(get("SSH-2.0-OpenSSH\r\n"), Err(ClientError::NotHttp { .. })));
    }

    #[test]
    fn peer_that_is_not_there_is_named_with_the_remedy() {
        let client =
            Client::new(Target::Unix("/nonexistent/api.sock".into()), None, Duration::from_secs(5));
        let said = client.get::<Value>("/").unwrap_err().to_string();
        assert!(said.contains("unix:///nonexistent/api.sock") && said.contains("serve"), "{said}");
    }

    #[test]
    fn peer_that_stays_silent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target::Tcp { host: "127.0.0.1".into(), port };
        let client = Client::new(target, None, Duration::from_millis(50));
        assert!(matches!(client.get::<Value>("/"), Err(ClientError::TimedOut { .. })));
    }

    #[test]
    fn urls_are_read_and_others_refused() {
        let read = |url: &str| url.parse::<Target>().map(|target| target.to_string());
        assert_eq!(read("http://10.0.0.1:8001/"), Ok("http://10.0.0.1:8001".into()));
        assert_eq!(read("http://node"), Ok("http://node:80".into()));
        assert_eq!(read("http://[fd00::1]:8001"), Ok("http://[fd00::1]:8001".into()));
        assert_eq!(read("unix:///run/x.sock"), Ok("unix:///run/x.sock".into()));
        assert_eq!(read("https://node"), Err(NotATarget));
        assert_eq!(read("http://node/path"), Err(NotATarget));
        assert_eq!(read("http://:8001"), Err(NotATarget));
        assert_eq!(read("unix://run/x.sock"), Err(NotATarget));
    }
}
