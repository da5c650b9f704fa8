//! A terminal's messages as the peer writes and reads them (contract 2.1). Called by `api::terminal`.
//! Knows no policy: what can't be read is nothing.

use serde::{Deserialize, Serialize};

/// What a client says and we heed. Everything else is ignored: other types, other shapes, no JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FromClient {
    Input {
        #[serde(default)]
        data: String,
    },
    Resize {
        rows: u16,
        cols: u16,
    },
}

/// What we say. `Attached` is for clients only that gave their session a name, and their first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ToClient<'a> {
    Output {
        data: &'a str,
    },
    Error {
        data: &'a str,
    },
    /// The output that follows begins at byte `offset` of the session's, in UTF-8; `lost` bytes between
    /// it and the one that was asked for are not kept any more.
    Attached {
        session: &'a str,
        offset: u64,
        lost: u64,
    },
}

impl FromClient {
    /// The message in a text frame, if it is one that means something: input of at least a byte, a
    /// size of at least one cell.
    pub fn read(text: &str) -> Option<FromClient> {
        match serde_json::from_str(text).ok()? {
            FromClient::Input { data } if data.is_empty() => None,
            FromClient::Resize { rows: 0, .. } | FromClient::Resize { cols: 0, .. } => None,
            message => Some(message),
        }
    }
}

/// The longest beginning of `bytes` that does not end inside a character. At most three bytes are
/// held back; bytes that can't become a character are not, so that garbage is told at once.
pub fn whole_characters(bytes: &[u8]) -> usize {
    let lead = bytes.iter().rev().take(4).position(|byte| byte & 0xC0 != 0x80);
    let Some(behind) = lead else { return bytes.len() };
    let start = bytes.len() - 1 - behind;
    match std::str::from_utf8(&bytes[start..]) {
        // No error length: what is there is right as far as it goes.
        Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => start,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_input_with_bytes_and_sizes_with_cells_mean_something() {
        let input = FromClient::Input { data: "ä".into() };
        assert_eq!(FromClient::read(r#"{"type":"input","data":"ä","more":1}"#), Some(input));
        let size = FromClient::Resize { rows: 24, cols: 80 };
        assert_eq!(FromClient::read(r#"{"cols":80,"type":"resize","rows":24}"#), Some(size));
        for nothing in [
            "",
            "[]",
            "7",
            "{}",
            r#"{"type":"ping"}"#,
            r#"{"type":"input"}"#,
            r#"{"type":"input","data":""}"#,
            r#"{"type":"input","data":7}"#,
            r#"{"type":"resize","rows":0,"cols":80}"#,
            r#"{"type":"resize","rows":24,"cols":0}"#,
            r#"{"type":"resize","rows":-1,"cols":80}"#,
            r#"{"type":"resize","rows":24}"#,
        ] {
            assert_eq!(FromClient::read(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn acknowledgement_is_output_of_nothing() {
        let text = serde_json::to_string(&ToClient::Output { data: "" }).unwrap();
        assert_eq!(text, r#"{"type":"output","data":""}"#);
    }

    #[test]
    fn text_cut_anywhere_is_whole_again_when_the_rest_comes() {
        let text = "aä€😀z".repeat(3);
        for cut in 0..=text.len() {
            let whole = whole_characters(&text.as_bytes()[..cut]);
            assert!(text.is_char_boundary(whole) && cut - whole < 4, "{cut}");
            assert!(!text.is_char_boundary(cut) || whole == cut, "{cut}");
        }
    }

    #[test]
    fn bytes_that_become_no_character_are_not_held_back() {
        for garbage in [&b"\xff"[..], b"a\x80\x80\x80\x80", b"\xc0", b"\xed\xa0", b"\xe2\x28"] {
            assert_eq!(whole_characters(garbage), garbage.len(), "{garbage:?}");
        }
    }
}
