//! Files in a task's container as the commands see them: the rows of `/api/fs` (contract 8).

use data_encoding::BASE64;
use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::ClientError;
use super::place::Place;
use super::runner::Runner;
use crate::limits;

/// One name in a directory, or one file by itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    #[serde(default)]
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    /// -1 where a size says nothing.
    pub size: i64,
    /// Local time of the runner's machine, as ISO 8601.
    pub mtime: String,
    /// `rwxr-xr-x`.
    pub permissions: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// Devices, FIFOs, sockets.
    #[serde(other)]
    Other,
}

/// Entries of a directory that come with one call.
#[derive(Clone, Debug, Deserialize)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// What to ask for the next page with; there is none without.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct Piece {
    pub bytes: Vec<u8>,
    /// Whether the file ends behind it.
    pub is_last: bool,
}

#[derive(Debug, Deserialize)]
struct Read {
    content: String,
    truncated: bool,
}

#[derive(Debug, Serialize)]
struct Write<'a> {
    path: &'a str,
    content: String,
    encoding: &'static str,
    create_parents: bool,
}

#[derive(Debug, Deserialize)]
struct Written {
    size: u64,
}

/// Whether a list has names that begin with a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dotted {
    Shown,
    Hidden,
}

impl Runner {
    /// What is in a directory, a page at a time.
    ///
    /// # Errors
    /// As for all rows: the runner can't be reached, is late, or refuses.
    pub fn list(
        &self,
        place: &Place,
        dotted: Dotted,
        cursor: Option<&str>,
    ) -> Result<Page, ClientError> {
        let mut query = String::new();
        if dotted == Dotted::Shown {
            query += "&show_hidden=true";
        }
        if let Some(cursor) = cursor {
            query += &format!("&cursor={}", escaped(cursor));
        }
        self.0.get(&row(place, "list", &query))
    }

    /// Some bytes of a file, from `offset` on.
    pub fn read(&self, place: &Place, offset: u64) -> Result<Piece, ClientError> {
        let limit = limits::CLI_PIECE_BYTES;
        let query = format!("&encoding=base64&offset={offset}&limit={limit}");
        let read: Read = self.0.get(&row(place, "read", &query))?;
        let bytes = BASE64.decode(read.content.as_bytes());
        let bytes = bytes.map_err(|error| ClientError::NotJson(Error::custom(error)))?;
        Ok(Piece { is_last: !read.truncated || bytes.is_empty(), bytes })
    }

    /// What a path is; a symlink is not followed.
    pub fn stat(&self, place: &Place) -> Result<Entry, ClientError> {
        self.0.get(&row(place, "stat", ""))
    }

    /// Makes a file of `bytes`, or replaces its content. Its directory must be there.
    pub fn write(&self, place: &Place, bytes: &[u8]) -> Result<u64, ClientError> {
        let patient = self.0.patient(limits::CLI_UPLOAD_PATIENCE);
        let body = Write {
            path: &place.path,
            content: BASE64.encode(bytes),
            encoding: "base64",
            create_parents: false,
        };
        let written: Written = patient.post(&format!("/api/fs/{}/write", place.id), &body)?;
        Ok(written.size)
    }

    /// Makes a directory. That it is there already is not an error.
    pub fn mkdir(&self, place: &Place) -> Result<(), ClientError> {
        let body = json!({"path": place.path, "parents": true});
        self.0.post(&format!("/api/fs/{}/mkdir", place.id), &body).map(|_: IgnoredAny| ())
    }
}

fn row(place: &Place, verb: &str, query: &str) -> String {
    format!("/api/fs/{}/{verb}?path={}{query}", place.id, escaped(&place.path))
}

/// `text` as a value of a query.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn path_of_any_characters_is_one_value_of_the_query() {
        let place = Place { id: "7".parse().unwrap(), path: "/a b\n&c=%\u{e9}+".into() };
        assert_eq!(
            row(&place, "stat", "&x=1"),
            "/api/fs/7/stat?path=/a%20b%0A%26c%3D%25%C3%A9%2B&x=1"
        );
    }
}
