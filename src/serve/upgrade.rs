//! From an HTTP request to a WebSocket (RFC 6455 4.2). The desk asks whether the request is one
//! before its handler runs; the answer's head is written here. Negotiates no extension and no
//! sub-protocol (contract 2).

use tungstenite::handshake::derive_accept_key;

use super::head::{Framing, Head};
use super::reply::{put, status_line};

/// The one version there is.
pub(super) const VERSION: &str = "13";

/// Base64 of the 16 bytes that a key is.
const KEY_CHARS: usize = 24;

/// Why a request to a row of WebSockets is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoUpgrade {
    /// An ordinary request.
    Missing,
    Version,
    Key,
    Body,
}

/// The request's key, if it asks for a WebSocket. `bytes` is what the head was parsed from.
pub(super) fn key<'a>(head: &Head, bytes: &'a [u8]) -> Result<&'a str, NoUpgrade> {
    let asks = |name: &str, word: &str| {
        let lines = head.fields(bytes, name);
        let mut words = lines.flat_map(|line| line.split(',')).map(str::trim);
        words.any(|said| said.eq_ignore_ascii_case(word))
    };
    if head.old_version
        || head.bodiless
        || !asks("Upgrade", "websocket")
        || !asks("Connection", "Upgrade")
    {
        return Err(NoUpgrade::Missing);
    }
    if head.framing != Framing::Length(0) {
        return Err(NoUpgrade::Body);
    }
    let only = |name: &str| {
        let mut values = head.fields(bytes, name);
        values.next().filter(|_| values.next().is_none())
    };
    if only("Sec-WebSocket-Version") != Some(VERSION) {
        return Err(NoUpgrade::Version);
    }
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let is_key = |key: &&str| {
        let digits = key.strip_suffix("==");
        key.len() == KEY_CHARS && digits.is_some_and(|digits| digits.bytes().all(is_base64))
    };
    only("Sec-WebSocket-Key").filter(is_key).ok_or(NoUpgrade::Key)
}

/// What makes the connection a WebSocket.
pub(super) fn accept(key: &str) -> Vec<u8> {
    let mut head = status_line(101);
    put(&mut head, "Upgrade", "websocket");
    put(&mut head, "Connection", "Upgrade");
    put(&mut head, "Sec-WebSocket-Accept", &derive_accept_key(key.as_bytes()));
    head.extend_from_slice(b"\r\n");
    head
}
