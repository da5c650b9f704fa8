//! Files as the contract's section 8 writes them.

use data_encoding::HEXLOWER;
use serde::Serialize;

/// One name of a list.
#[derive(Debug, Serialize)]
pub struct EntryView {
    pub name: String,
    pub path: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// -1 for all but files.
    pub size: i64,
    pub mtime: String,
    pub permissions: String,
}

/// A directory's names.
#[derive(Debug, Serialize)]
pub struct List {
    pub path: String,
    pub entries: Vec<EntryView>,
    pub parent: Option<String>,
    /// Ours: given back as `cursor`, it asks for the names behind these; `null` at the end.
    pub cursor: Option<String>,
}

/// A file's content.
#[derive(Debug, Serialize)]
pub struct Content {
    pub path: String,
    /// Nearly all of it, and large: [`Content::to_json`] writes it.
    #[serde(skip)]
    pub content: String,
    pub encoding: &'static str,
    /// Bytes of the file that are here.
    pub size: usize,
    pub truncated: bool,
    pub is_binary: bool,
}

/// What is told of one name.
#[derive(Debug, Serialize)]
pub struct AboutView {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub size: i64,
    pub mtime: String,
    pub permissions: String,
    pub owner: Option<String>,
    pub is_readable: bool,
    pub is_writable: bool,
    pub is_binary: bool,
}

impl Content {
    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let about = serde_json::json!(self).to_string();
        let mut json = Vec::with_capacity(self.content.len() + self.content.len() / 8 + 1024);
        json.extend_from_slice(b"{\"content\":");
        quote(&mut json, &self.content);
        json.push(b',');
        json.extend_from_slice(&about.as_bytes()[1..]);
        json
    }
}

/// Writes `text` as a JSON string (RFC 8259 7), as serde_json does, which looks at each byte alone.
fn quote(json: &mut Vec<u8>, text: &str) {
    json.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = first_special(rest) {
        let (plain, special) = rest.split_at(at);
        json.extend_from_slice(plain);
        match special[0] {
            byte @ (b'"' | b'\\') => json.extend_from_slice(&[b'\\', byte]),
            b'\n' => json.extend_from_slice(b"\\n"),
            b'\t' => json.extend_from_slice(b"\\t"),
            b'\r' => json.extend_from_slice(b"\\r"),
            0x08 => json.extend_from_slice(b"\\b"),
            0x0c => json.extend_from_slice(b"\\f"),
            byte => json.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = &special[1..];
    }
    json.extend_from_slice(rest);
    json.push(b'"');
}

/// Where the first byte is that a JSON string can't hold as it is. Eight bytes are looked at at once.
fn first_special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The highest bit of each byte below `limit`; above the first one there may be others.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = below(word, 0x20) | is(word, b'"') | is(word, b'\\');
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let is_special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    rest.iter().position(is_special).map(|at| words.len() * 8 + at)
}

/// The name that a page of a list ends with, for the next: hexadecimal, since names are any bytes.
pub fn cursor_text(name: &[u8]) -> String {
    HEXLOWER.encode(name)
}

/// Undoes [`cursor_text`]; `None` for what is none. Empty is before the first name.
pub fn cursor_of(text: &str) -> Option<Vec<u8>> {
    HEXLOWER.decode(text.as_bytes()).ok()
}

/// The nine letters of a mode; set-id bits and the sticky one are not shown.
pub fn permissions(mode: u32) -> String {
    (0..9)
        .map(|bit| if mode & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] })
        .collect()
}

/// Whether the contract counts a file of this name as binary.
pub fn is_binary_name(name: &str) -> bool {
    const EXTENSIONS: &str = " bin exe dll so dylib o a zip tar gz bz2 xz 7z rar jpg jpeg png gif bmp \
        ico webp mp3 wav ogg flac mp4 mkv avi pdf doc docx xls xlsx ppt pptx pyc pyo class jar war ";
    let extension = std::path::Path::new(name).extension().and_then(|text| text.to_str());
    extension.is_some_and(|text| {
        EXTENSIONS.split_ascii_whitespace().any(|known| text.eq_ignore_ascii_case(known))
    })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What each letter stands for, and what is none.
const VALUES: [u8; 256] = {
    let (mut values, mut at) = ([NO_VALUE; 256], 0);
    while at < ALPHABET.len() {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values
};
const NO_VALUE: u8 = 0xff;

/// Undoes base64; what is not of its alphabet is passed over. `None` if the end is missing.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let mut rest = text.as_bytes();
    // Four letters at a time, as far as there is nothing else: files are large.
    while let Some((four, behind)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = four.map(|letter| VALUES[usize::from(letter)]);
        if (a | b | c | d) == NO_VALUE {
            break;
        }
        bytes.extend([a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d]);
        rest = behind;
    }
    let (mut bits, mut letters, mut padding) = (0_u32, 0_usize, 0_usize);
    for &byte in rest {
        let value = VALUES[usize::from(byte)];
        if byte == b'=' {
            padding += 1;
            if letters >= 2 && letters + padding >= 4 {
                return Some(bytes);
            }
        }
        if value == NO_VALUE {
            continue;
        }
        padding = 0;
        bits = bits << 6 | u32::from(value);
        letters = (letters + 1) % 4;
        if letters != 1 {
            let shift = [0, 0, 4, 2][letters];
            bytes.push((bits >> shift & 0xff) as u8);
        }
    }
    (letters == 0).then_some(bytes)
}

#[cfg(test)]
mod test {
    use data_encoding::BASE64;

    use super::*;

    #[test]
    fn base64_is_undone_and_strange_letters_are_passed_over() {
        for text in ["", "f", "fo", "foo", "foob", "\0\u{7f}ÿ"] {
            assert_eq!(from_base64(&BASE64.encode(text.as_bytes())).unwrap(), text.as_bytes());
        }
        assert_eq!(from_base64("Zm\n9v*Y g==").unwrap(), b"foob");
        assert_eq!(from_base64("Zm9vYm\nFy").unwrap(), b"foobar");
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_base64(&BASE64.encode(&all)).unwrap(), all);
        assert_eq!(from_base64("Zm8"), None);
        assert_eq!(from_base64("Z==="), None);
    }

    #[test]
    fn texts_are_quoted_as_serde_json_does() {
        let all: String = (0..=0x2ff).filter_map(char::from_u32).collect();
        for start in 0..9 {
            for end in 0..9 {
                let text = format!("{}{all}{}", "x".repeat(start), "y".repeat(end));
                let mut json = Vec::new();
                quote(&mut json, &text);
                assert_eq!(json, serde_json::to_vec(&text).unwrap());
            }
        }
        // Each special byte at each place of a word, beside bytes that are nearly one.
        for special in [b'"', b'\\', 0, 0x1f] {
            for near in [special ^ 1, special.wrapping_add(1), special | 0x80] {
                for at in 0..20 {
                    let mut bytes = [near; 20];
                    bytes[at] = special;
                    let plain = |byte: u8| byte >= 0x20 && !matches!(byte, b'"' | b'\\');
                    let first = bytes.iter().position(|byte| !plain(*byte));
                    assert_eq!(first_special(&bytes), first, "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn content_is_json_with_all_its_fields() {
        let content = Content {
            path: "/a".to_owned(),
            content: "ö\n".to_owned(),
            encoding: "utf-8",
            size: 3,
            truncated: false,
            is_binary: false,
        };
        let json: serde_json::Value = serde_json::from_slice(&content.to_json()).unwrap();
        let whole = serde_json::json!({
            "path": "/a", "content": "ö\n", "encoding": "utf-8", "size": 3, "truncated": false,
            "is_binary": false
        });
        assert_eq!(json, whole);
    }

    #[test]
    fn permissions_are_nine_letters() {
        assert_eq!(permissions(0o104_755), "rwxr-xr-x");
        assert_eq!(permissions(0o640), "rw-r-----");
    }
}
