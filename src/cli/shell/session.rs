//! The runner's side of a terminal: messages over a WebSocket (contract 2.1). Never blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, Utf8Bytes, WebSocket};

use super::window::Window;
use crate::cli::client::{ClientError, Stream};
use crate::cli::runner::Runner;

/// An open terminal.
#[derive(Debug)]
pub struct Session {
    socket: WebSocket<Stream>,
    /// Whether the connection did not take all we have said.
    is_unsent: bool,
    heard_at: Instant,
}

/// What the runner says.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Heard {
    Output {
        data: String,
    },
    /// The session goes on at this byte of its output; as many before it were not kept.
    Attached {
        offset: u64,
        lost: u64,
    },
    /// Why there is no terminal, or no more.
    Error {
        data: String,
    },
    #[serde(skip)]
    Goodbye(Goodbye),
    /// A newer runner's message.
    #[serde(other)]
    Unknown,
}

/// How the runner ended the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    pub code: u16,
    pub reason: String,
}

/// What we say.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Said<'a> {
    Input { data: &'a str },
    Resize { rows: u16, cols: u16 },
}

impl Session {
    /// # Errors
    /// The runner can't be reached or refuses. That there is no such task it says later.
    pub fn open(runner: &Runner, row: &str) -> Result<Session, ClientError> {
        let socket = runner.0.websocket(row)?;
        Ok(Session { socket, is_unsent: false, heard_at: Instant::now() })
    }

    pub fn input(&mut self, text: &str) -> Result<(), ClientError> {
        // An empty one would be ignored.
        if text.is_empty() { Ok(()) } else { self.say(&Said::Input { data: text }) }
    }

    pub fn resize(&mut self, window: Window) -> Result<(), ClientError> {
        self.say(&Said::Resize { rows: window.rows, cols: window.columns })
    }

    /// Whether something waits for the connection: say no more then.
    pub fn is_unsent(&self) -> bool {
        self.is_unsent
    }

    /// What to poll the connection for.
    pub fn interest(&self) -> PollFlags {
        if self.is_unsent { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// How long ago the runner was heard last; it pings every 20 s.
    pub fn quiet_for(&self) -> Duration {
        self.heard_at.elapsed()
    }

    /// The next message if it is there. Answers pings.
    pub fn hear(&mut self) -> Result<Option<Heard>, ClientError> {
        loop {
            let message = match self.socket.read() {
                Ok(message) => message,
                Err(error) if is_quiet(&error) => return Ok(None),
                Err(error) => return Err(broken(error)),
            };
            self.heard_at = Instant::now();
            match message {
                Message::Text(text) => {
                    // What we can't read is a newer runner's, too.
                    return Ok(Some(serde_json::from_str(&text).unwrap_or(Heard::Unknown)));
                }
                Message::Close(frame) => {
                    let goodbye = frame.map_or(
                        Goodbye { code: CloseCode::Status.into(), reason: String::new() },
                        |frame| Goodbye {
                            code: frame.code.into(),
                            reason: frame.reason.as_str().to_owned(),
                        },
                    );
                    return Ok(Some(Heard::Goodbye(goodbye)));
                }
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => (),
            }
        }
    }

    /// Hands on what the connection takes now.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        match self.socket.flush() {
            Ok(()) => self.is_unsent = false,
            Err(error) if is_quiet(&error) => self.is_unsent = true,
            Err(error) => return Err(broken(error)),
        }
        Ok(())
    }

    /// Says that we leave and do not come back.
    pub fn say_goodbye(&mut self) -> Result<(), ClientError> {
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        match self.socket.close(Some(goodbye)) {
            Ok(()) => self.flush(),
            Err(error) if is_quiet(&error) => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }

    fn say(&mut self, said: &Said<'_>) -> Result<(), ClientError> {
        let text = serde_json::to_string(said).map_err(ClientError::NotJson)?;
        match self.socket.write(Message::text(text)) {
            Ok(()) => self.flush(),
            // It is kept, and goes with the next flush.
            Err(error) if is_quiet(&error) => {
                self.is_unsent = true;
                Ok(())
            }
            Err(error) => Err(broken(error)),
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

fn is_quiet(error: &Error) -> bool {
    matches!(error, Error::Io(source) if source.kind() == io::ErrorKind::WouldBlock)
}

fn broken(error: Error) -> ClientError {
    let source = match error {
        Error::Io(source) => source,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::UnexpectedEof.into(),
        other => io::Error::other(other),
    };
    ClientError::Broken { source }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn messages_are_the_contracts() {
        let said = |said: &Said<'_>| serde_json::to_string(said).unwrap();
        assert_eq!(said(&Said::Input { data: "\u{3}" }), r#"{"type":"input","data":"\u0003"}"#);
        assert_eq!(
            said(&Said::Resize { rows: 24, cols: 80 }),
            r#"{"type":"resize","rows":24,"cols":80}"#
        );
        let heard = |text: &str| serde_json::from_str::<Heard>(text).unwrap();
        assert_eq!(heard(r#"{"type":"output","data":"x"}"#), Heard::Output { data: "x".into() });
        assert_eq!(heard(r#"{"type":"error","data":"x"}"#), Heard::Error { data: "x".into() });
        let attached = r#"{"type":"attached","session":"x","offset":7,"lost":0}"#;
        assert_eq!(heard(attached), Heard::Attached { offset: 7, lost: 0 });
        assert_eq!(heard(r#"{"type":"new","field":[1]}"#), Heard::Unknown);
    }
}
