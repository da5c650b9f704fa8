//! A call that becomes a WebSocket. The handshake is a request like all others, so that a refusal
//! reads like all others; the frames are tungstenite's.

use tungstenite::WebSocket;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocketConfig};

use super::{Client, ClientError, SWITCHING_PROTOCOLS, Stream};
use crate::limits;

impl Client {
    /// Opens a WebSocket that never blocks.
    ///
    /// # Errors
    /// The peer can't be reached, is late, refuses, or does not switch to WebSocket.
    pub fn websocket(&self, path: &str) -> Result<WebSocket<Stream>, ClientError> {
        let key = generate_key();
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\n"
        );
        let answer = self.send("GET", path, &headers, None)?;
        if answer.status != SWITCHING_PROTOCOLS {
            let status = answer.status;
            // A success that is no switch is none.
            return Err(match answer.accepted() {
                Ok(_) => ClientError::Refused { status, detail: String::new() },
                Err(refused) => refused,
            });
        }
        if answer.websocket_accept != Some(derive_accept_key(key.as_bytes())) {
            return Err(ClientError::NotHttp { target: self.target.clone() });
        }
        let (stream, early) = answer
            .body
            .into_connection()
            .into_stream()
            .map_err(|source| ClientError::Broken { source })?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(limits::CLI_MESSAGE_BYTES_MAX))
            .max_frame_size(Some(limits::CLI_MESSAGE_BYTES_MAX));
        Ok(WebSocket::from_partially_read(stream, early, Role::Client, Some(config)))
    }
}
