//! A small HTTP/1.1 client over TCP or a Unix socket, one connection for each call. Used by the
//! commands to talk to a runner, and by `doctor` to talk to the Engine. Every call has a deadline.

mod body;
mod error;
mod wire;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use body::Body;
pub use error::ClientError;

use crate::limits;
use crate::model::settings::Token;
use wire::Wire;

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
    pub target: Target,
    pub token: Option<Token>,
}

/// The head of an answer, with the body still to be read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Body,
}

impl Client {
    /// GET, with an answer of JSON.
    ///
    /// # Errors
    /// The peer can't be reached, is late, refuses, or answers something else.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send("GET", path, None)?.accepted()?.json()
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
        self.send("POST", path, Some(&body))?.accepted()?.json()
    }

    /// GET of bytes. Each read of the body waits `CLI_STREAM_TICK` at most and then fails with
    /// `WouldBlock`, so that the caller can look around and read on.
    ///
    /// # Errors
    /// The peer can't be reached, is late with the head of its answer, or refuses.
    pub fn stream(&self, path: &str) -> Result<Answer, ClientError> {
        let mut answer = self.send("GET", path, None)?.accepted()?;
        answer.body.read_in_ticks(limits::CLI_STREAM_TICK);
        Ok(answer)
    }

    fn send(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Answer, ClientError> {
        let mut wire = Wire::connect(&self.target, limits::CLI_CONNECT_PATIENCE)
            .map_err(|source| ClientError::Connect { target: self.target.clone(), source })?;
        wire.read_until(limits::CLI_ANSWER_PATIENCE);
        let broken = |source| ClientError::from_io(source, limits::CLI_ANSWER_PATIENCE);
        wire.send(&self.request(method, path, body)).map_err(broken)?;
        wire.send(body.unwrap_or_default()).map_err(broken)?;
        wire::read_head(wire, method).map_err(|fault| match fault {
            wire::HeadFault::Io(source) => broken(source),
            wire::HeadFault::NotHttp => ClientError::NotHttp { target: self.target.clone() },
        })
    }

    fn request(&self, method: &str, path: &str, body: Option<&[u8]>) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.target.host());
        head += "Connection: close\r\nAccept: */*\r\n";
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

    fn json<T: DeserializeOwned>(mut self) -> Result<T, ClientError> {
        let whole = self.body.read_whole();
        let whole =
            whole.map_err(|source| ClientError::from_io(source, limits::CLI_ANSWER_PATIENCE))?;
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
