//! A WebSocket to the runner that waits for what comes.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tungstenite::{Message, WebSocket};

/// Longer than anything takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Socket(WebSocket<TcpStream>);

impl Socket {
    pub fn open(address: SocketAddr, path: &str) -> Socket {
        let stream = TcpStream::connect(address).expect("the runner listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let (socket, _) =
            tungstenite::client(format!("ws://{address}{path}"), stream).expect("a WebSocket");
        Socket(socket)
    }

    pub fn send(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).expect("the runner reads");
    }

    /// The next message; the runner sends nothing but JSON.
    pub fn next(&mut self) -> Value {
        loop {
            match self.0.read().expect("a message within the patience") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no message but {other:?}"),
            }
        }
    }
}
