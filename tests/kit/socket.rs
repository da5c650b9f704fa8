//! A WebSocket to the runner, as the host opens one: what a test waits for comes within a bound, or
//! the test fails.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

/// No honest message in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The far end of a session.
#[derive(Debug)]
pub struct Socket(WebSocket<TcpStream>);

impl Socket {
    /// Opens one that must be accepted.
    #[track_caller]
    pub fn open(address: SocketAddr, path: &str) -> Socket {
        Socket::try_open(address, path)
            .unwrap_or_else(|status| panic!("{path}: the handshake was refused with {status}"))
    }

    /// Opens one, or gives the status of the refusal.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn try_open(address: SocketAddr, path: &str) -> Result<Socket, u16> {
        let stream = TcpStream::connect(address).expect("the runner listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        // The host's client takes no larger message (contract rule 5).
        let config = WebSocketConfig::default().max_message_size(Some(1024 * 1024));
        let url = format!("ws://{address}{path}");
        match tungstenite::client::client_with_config(url, stream, Some(config)) {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub fn send_json(&mut self, message: &Value) {
        self.send(Message::text(message.to_string()));
    }

    pub fn send(&mut self, message: Message) {
        self.0.send(message).expect("the runner takes it");
    }

    /// Puts it before the kernel's buffer; the runner may have gone.
    pub fn try_send(&mut self, message: Message) -> bool {
        self.0.send(message).is_ok()
    }

    /// The next message that is no ping.
    #[track_caller]
    pub fn next(&mut self) -> Message {
        // Pings come for ever.
        let until = Instant::now() + PATIENCE;
        loop {
            match self.0.read() {
                Ok(Message::Ping(_) | Message::Pong(_)) if Instant::now() < until => {}
                Ok(message) => return message,
                Err(error) => panic!("no message: {error}"),
            }
        }
    }

    /// The next message, which is JSON.
    #[track_caller]
    pub fn next_json(&mut self) -> Value {
        match self.next() {
            Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("no text but {other:?}"),
        }
    }

    /// The code that the runner closes with, after whatever it still says.
    #[track_caller]
    pub fn wait_close(&mut self) -> u16 {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.0.read() {
                Ok(Message::Close(frame)) => {
                    return frame.map_or(1005, |frame| frame.code.into());
                }
                Ok(_) => {}
                Err(error) => panic!("it ended without a goodbye: {error}"),
            }
        }
        panic!("it does not end");
    }

    /// Waits for the end, with a goodbye or without.
    #[track_caller]
    pub fn wait_end(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.0.read().is_ok() {
            assert!(Instant::now() < until, "it does not end");
        }
    }

    /// Says goodbye with a code; the runner's is still to come.
    pub fn say_goodbye(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        self.0.close(Some(frame)).expect("an open socket");
    }

    /// Says goodbye, and waits for the runner's.
    pub fn leave(mut self) {
        self.0.close(None).expect("an open socket");
        while self.0.read().is_ok() {}
    }

    /// Bytes past all framing.
    ///
    /// # Errors
    /// The runner has gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// The connection below.
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }
}
