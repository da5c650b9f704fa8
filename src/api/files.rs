//! Rows of files inside a container (contract 8): calls read, answers written, errors left to
//! `fault`. The work is `ops::files`'s, on a files thread.

use std::sync::Arc;
use std::time::Instant;

use data_encoding::BASE64;
use serde_json::json;

use super::fault::{Fault, task_id_in_path};
use super::query::{flag, number};
use crate::limits::{FILES_DEADLINE, HTTP_ECHO_BYTES_MAX, READ_BYTES_MAX, WRITE_BYTES_MAX};
use crate::model::guest_path::GuestPath;
use crate::model::ids::TaskId;
use crate::model::time::Stamp;
use crate::ops::files::stat::Kind;
use crate::ops::files::{self, FileFault, Place, within};
use crate::ops::files_thread::hand_to_files_thread;
use crate::ops::{Node, OpError, inside};
use crate::serve::{Answer, Call, Reply};
use crate::wire::api::fields::{Fields, Invalid, boolean, string};
use crate::wire::api::files::{
    AboutView, Content, EntryView, List, cursor_of, cursor_text, from_base64, is_binary_name,
    permissions,
};

/// `GET list`.
pub fn list(node: &Arc<Node>, call: Call) -> Answer {
    let given = || -> Result<_, Fault> {
        let path = guest_path(call.query("path").unwrap_or("/"))?;
        let text = call.query("cursor").unwrap_or_default();
        let cursor = cursor_of(text).ok_or_else(|| {
            let msg = "must be the cursor of an earlier list";
            Invalid::value("query", "cursor", msg, text.into())
        })?;
        Ok((task_id(&call)?, path, flag(&call, "show_hidden")?, cursor))
    };
    let (id, path, show_hidden, cursor) = match given() {
        Ok(given) => given,
        Err(fault) => return Reply::from(fault).into(),
    };
    answer(node, call, id, path, move |place, path| {
        let page = files::list::list(place, path, show_hidden, &cursor)?;
        let entries = page.entries.into_iter().map(|entry| EntryView {
            path: path.join(&entry.name),
            size: entry.size(),
            name: entry.name,
            kind: kind(entry.about.kind),
            mtime: mtime(entry.about.changed),
            permissions: permissions(entry.about.mode),
        });
        let list = List {
            path: path.as_str().to_owned(),
            entries: entries.collect(),
            parent: path.parent().map(|parent| parent.as_str().to_owned()),
            cursor: page.cursor.as_deref().map(cursor_text),
        };
        Ok(Reply::json(200, &list))
    })
}

/// `GET read`.
pub fn read(node: &Arc<Node>, call: Call) -> Answer {
    let given = || -> Result<_, Fault> {
        let path = path_in_query(&call)?;
        let as_text = is_text(call.query("encoding").unwrap_or("utf-8"), "query")?;
        let limit =
            call.query("limit").unwrap_or("10485760").trim().parse::<i64>().map_err(|_| {
                let input = call.query("limit").unwrap_or_default();
                Invalid::value("query", "limit", "must be a whole number", input.into())
            })?;
        let limit = usize::try_from(limit).unwrap_or(0).min(READ_BYTES_MAX);
        Ok((task_id(&call)?, path, as_text, limit, number(&call, "offset")?))
    };
    let (id, path, as_text, limit, offset) = match given() {
        Ok(given) => given,
        Err(fault) => return Reply::from(fault).into(),
    };
    answer(node, call, id, path, move |place, path| {
        let piece = files::read::read(place, path, offset, limit)?;
        let (bytes, truncated) = (piece.bytes, piece.truncated);
        let text = if as_text { text_of(bytes, truncated) } else { Err(bytes) };
        let path = path.as_str().to_owned();
        let content = match text {
            Ok(content) => {
                let size = content.len();
                Content { path, content, encoding: "utf-8", size, truncated, is_binary: false }
            }
            Err(bytes) => {
                let (content, size) = (BASE64.encode(&bytes), bytes.len());
                Content { path, content, encoding: "base64", size, truncated, is_binary: as_text }
            }
        };
        Ok(Reply::bytes(200, "application/json", content.to_json()))
    })
}

/// `POST write`.
pub fn write(node: &Arc<Node>, call: Call) -> Answer {
    let given = || -> Result<_, Fault> {
        let mut fields = Fields::of_body(call.body())?;
        let path = fields.need("path", string);
        let content = fields.need_text("content");
        let encoding = fields.or("encoding", "utf-8".to_owned(), string);
        let parents = fields.or("create_parents", true, boolean);
        fields.done(())?;
        let as_text = is_text(&encoding, "body")?;
        let path = guest_path(&path)?;
        let fault = |fault| OpError::File { path: path.as_str().to_owned(), fault };
        let bytes = match as_text {
            true => content.into_bytes(),
            false => from_base64(&content).ok_or_else(|| fault(FileFault::NotBase64))?,
        };
        if bytes.len() > WRITE_BYTES_MAX {
            return Err(fault(FileFault::TooLarge).into());
        }
        Ok((task_id(&call)?, path, bytes, parents))
    };
    let (id, path, bytes, parents) = match given() {
        Ok(given) => given,
        Err(fault) => return Reply::from(fault).into(),
    };
    answer(node, call, id, path, move |place, path| {
        files::write::write(place, path, &bytes, parents)?;
        let done = json!({ "path": path.as_str(), "size": bytes.len(), "success": true });
        Ok(Reply::json(200, &done))
    })
}

/// `POST mkdir`.
pub fn mkdir(node: &Arc<Node>, call: Call) -> Answer {
    let given = || -> Result<_, Fault> {
        let mut fields = Fields::of_body(call.body())?;
        let path = fields.need("path", string);
        let parents = fields.or("parents", true, boolean);
        fields.done(())?;
        let path = guest_path(&path)?;
        Ok((task_id(&call)?, path, parents))
    };
    let (id, path, parents) = match given() {
        Ok(given) => given,
        Err(fault) => return Reply::from(fault).into(),
    };
    answer(node, call, id, path, move |place, path| {
        files::directory::make(place, path, parents)?;
        let done = json!({ "message": "Directory created.", "path": path.as_str() });
        Ok(Reply::json(200, &done))
    })
}

/// `POST rename`.
pub fn rename(node: &Arc<Node>, call: Call) -> Answer {
    let given = || -> Result<_, Fault> {
        let mut fields = Fields::of_body(call.body())?;
        let source = fields.need("source", string);
        let destination = fields.need("destination", string);
        let overwrite = fields.or("overwrite", false, boolean);
        fields.done(())?;
        let (source, destination) = (guest_path(&source)?, guest_path(&destination)?);
        Ok((task_id(&call)?, source, destination, overwrite))
    };
    let (id, source, destination, overwrite) = match given() {
        Ok(given) => given,
        Err(fault) => return Reply::from(fault).into(),
    };
    answer(node, call, id, source, move |place, source| {
        files::rename::rename(place, source, &destination, overwrite)?;
        let done = json!({
            "message": "Renamed.",
            "source": source.as_str(),
            "destination": destination.as_str(),
        });
        Ok(Reply::json(200, &done))
    })
}

/// `DELETE delete`.
pub fn delete(node: &Arc<Node>, call: Call) -> Answer {
    let given = || -> Result<_, Fault> {
        let path = path_in_query(&call)?;
        Ok((task_id(&call)?, path, flag(&call, "recursive")?))
    };
    let (id, path, recursive) = match given() {
        Ok(given) => given,
        Err(fault) => return Reply::from(fault).into(),
    };
    answer(node, call, id, path, move |place, path| {
        files::remove::remove(place, path, recursive)?;
        Ok(Reply::json(200, &json!({ "message": "Deleted.", "path": path.as_str() })))
    })
}

/// `GET stat`.
pub fn stat(node: &Arc<Node>, call: Call) -> Answer {
    let given = || -> Result<_, Fault> {
        let path = path_in_query(&call)?;
        Ok((task_id(&call)?, path))
    };
    let (id, path) = match given() {
        Ok(given) => given,
        Err(fault) => return Reply::from(fault).into(),
    };
    answer(node, call, id, path, move |place, path| {
        let (about, owner) = files::stat::stat(place, path)?;
        let about = AboutView {
            path: path.as_str().to_owned(),
            kind: kind(about.kind),
            size: about.size_bytes,
            mtime: mtime(about.changed),
            permissions: permissions(about.mode),
            owner,
            is_readable: true,
            is_writable: true,
            is_binary: about.kind == Kind::File && is_binary_name(path.name()),
        };
        Ok(Reply::json(200, &about))
    })
}

/// Parks the call, has `work` done on a files thread and answers with what comes of it.
fn answer(
    node: &Arc<Node>,
    call: Call,
    id: TaskId,
    path: GuestPath,
    work: impl FnOnce(&Place<'_>, &GuestPath) -> Result<Reply, FileFault> + Send + 'static,
) -> Answer {
    let late = OpError::TimedOut { what: "the container's file system", after: FILES_DEADLINE };
    let (answer, responder) = call.park_for(FILES_DEADLINE, Fault::from(late).in_reserve());
    let until = Instant::now() + FILES_DEADLINE;
    let then = Arc::clone(node);
    hand_to_files_thread(
        node,
        move || {
            let inside = inside::enter(&then, id)?;
            let done = within(&inside, &path, until, |place| work(place, &path));
            // Its mounts go before its process does: what was done last may not have been done to them.
            if inside.has_ended() { Err(OpError::NotRunning(id)) } else { done }
        },
        move |done| {
            let reply = done.and_then(|done| done).map_err(Fault::from);
            responder.respond(reply.unwrap_or_else(Reply::from));
        },
    );
    answer
}

fn task_id(call: &Call) -> Result<TaskId, Fault> {
    task_id_in_path(call.param("task_id"))
}

fn path_in_query(call: &Call) -> Result<GuestPath, Fault> {
    let Some(path) = call.query("path") else {
        return Err(Invalid::missing("query", "path").into());
    };
    guest_path(path)
}

fn guest_path(text: &str) -> Result<GuestPath, Fault> {
    GuestPath::parse(text).map_err(|fault| {
        let path = text.chars().take(HTTP_ECHO_BYTES_MAX).collect();
        OpError::File { path, fault: FileFault::Path(fault) }.into()
    })
}

/// Whether the encoding is that of text; the other is base64.
fn is_text(encoding: &str, place: &'static str) -> Result<bool, Fault> {
    match encoding {
        "utf-8" => Ok(true),
        "base64" => Ok(false),
        other => {
            let msg = "Input should be 'utf-8' or 'base64'";
            Err(Invalid::value(place, "encoding", msg, other.into()).into())
        }
    }
}

/// The bytes as text, without the part of a letter where the limit cut it.
fn text_of(bytes: Vec<u8>, is_cut: bool) -> Result<String, Vec<u8>> {
    String::from_utf8(bytes).or_else(|error| {
        let fault = error.utf8_error();
        let mut bytes = error.into_bytes();
        if !is_cut || fault.error_len().is_some() || fault.valid_up_to() == 0 {
            return Err(bytes);
        }
        bytes.truncate(fault.valid_up_to());
        String::from_utf8(bytes).map_err(|error| error.into_bytes())
    })
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Other => "other",
    }
}

/// Naive local time, whole seconds.
fn mtime(seconds: i64) -> String {
    let mut text = Stamp::from_seconds(seconds).naive_local();
    text.truncate(text.len() - ".ffffff".len());
    text
}
