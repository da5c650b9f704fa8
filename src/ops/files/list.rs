//! The entries of a directory in the order of their names' bytes, a page at a time.

use std::collections::BinaryHeap;
use std::ffi::CString;

use nix::dir::Dir;

use super::stat::{About, Kind};
use super::{FileFault, Place, as_path, reopen};
use crate::limits::LIST_ENTRIES_MAX;
use crate::model::guest_path::GuestPath;

/// One entry.
#[derive(Debug)]
pub struct Entry {
    /// Bytes that are no UTF-8 are shown as U+FFFD.
    pub name: String,
    /// What is told of the entry itself, not of what a link leads to.
    pub about: About,
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The last name's bytes, if there are names behind it.
    pub cursor: Option<Vec<u8>>,
}

/// The first entries behind the name `cursor`. Only a page of names is kept.
///
/// # Errors
/// It is no directory, or can't be read.
pub fn list(
    place: &Place<'_>,
    path: &GuestPath,
    show_hidden: bool,
    cursor: &[u8],
) -> Result<Page, FileFault> {
    let held = place.directory(path.as_path())?;
    let mut directory = Dir::from_fd(reopen(&held, libc::O_RDONLY)?.into())?;
    // The last name is on top: it goes when an earlier one comes.
    let mut first: BinaryHeap<CString> = BinaryHeap::new();
    let mut has_more = false;
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.to_bytes();
        let is_hidden = bytes.starts_with(b".") && !show_hidden;
        if bytes == b"." || bytes == b".." || is_hidden || bytes <= cursor {
            continue;
        }
        let is_full = first.len() == LIST_ENTRIES_MAX;
        has_more |= is_full;
        if is_full && first.peek().is_some_and(|last| last.as_c_str() < name) {
            continue;
        }
        if is_full {
            first.pop();
        }
        first.push(name.to_owned());
    }
    let names = first.into_sorted_vec();
    let cursor = names.last().filter(|_| has_more).map(|name| name.to_bytes().to_vec());
    let seen = |name: &CString| {
        // Gone since it was listed, it is not listed.
        let stat = place.stat(&held, as_path(name)).ok()?;
        Some(Entry { name: name.to_string_lossy().into_owned(), about: About::of(&stat) })
    };
    Ok(Page { entries: names.iter().filter_map(seen).collect(), cursor })
}

impl Entry {
    /// Bytes for files, -1 for all else (contract 8.3).
    pub fn size(&self) -> i64 {
        if self.about.kind == Kind::File { self.about.size_bytes } else { -1 }
    }
}
