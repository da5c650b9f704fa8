//! `/ws/fs/{task_id}/watch`: what a session of `ops::watch` tells, in the contract's words.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFlags;

use crate::limits::{SHARED_STORAGE_DEADLINE, WATCH_POLL_ENTRIES_MAX};
use crate::model::ids::TaskId;
use crate::ops::Node;
use crate::ops::watch::{
    self, Change, ChangeKind, Note, RemoteTrouble, TreeSession, Unwatched, Why,
};
use crate::serve::session::{Message, Socket, Source, Turn};
use crate::serve::{Answer, Call, Reply, Session};
use crate::wire::api::watch::{Said, is_ping};

const CONTAINER_ENDED: &str = "the container has ended";

/// `GET /ws/fs/{task_id}/watch?paths=` (contract 2.2).
pub fn open(node: &Arc<Node>, call: Call) -> Answer {
    let Ok(id) = call.param("task_id").parse::<TaskId>() else {
        return Reply::detail(403, "the task id is no number").into();
    };
    let list = call.query("paths").unwrap_or_default().to_owned();
    let node = Arc::clone(node);
    Answer::Session(Session::new("watch", move |socket| match watch::open(&node, id, &list) {
        Ok(watch) => relay(socket, watch.paths, &watch.session, watch.inside.process.as_fd()),
        // The close stays the ordinary one: browsers come back after any other.
        Err(fault) => say(socket, &error(fault.to_string())),
    }))
}

/// Says that `paths` are watched, and then what `watch` tells, until the peer leaves, the runner
/// stops or the container ends: `container` is readable then.
pub fn relay(
    socket: &mut Socket,
    paths: Vec<String>,
    watch: &TreeSession,
    container: BorrowedFd<'_>,
) {
    while !watch.is_begun()
        && watch.scanning_for().is_none_or(|time| time < SHARED_STORAGE_DEADLINE)
    {
        let until = Instant::now() + SHARED_STORAGE_DEADLINE;
        let mut begun = [
            Source::new(container, PollFlags::POLLIN),
            Source::new(watch.as_fd(), PollFlags::POLLIN),
        ];
        if matches!(socket.wait(&mut begun, Some(until)), Turn::PeerLeft | Turn::Stopping) {
            return;
        }
        if !begun[0].ready.is_empty() {
            return say(socket, &error(CONTAINER_ENDED));
        }
    }
    say(socket, &Said::Watching { paths, method: "inotify" });
    let mut stuck_is_told = false;
    loop {
        while let Some(message) = socket.receive() {
            if matches!(message, Message::Text(text) if is_ping(&text)) {
                say(socket, &Said::Pong);
            }
        }
        while !socket.is_clogged()
            && let Some(note) = watch.take()
        {
            let is_last = matches!(note, Note::NoRights(_));
            say(socket, &said(note));
            if is_last {
                return;
            }
        }
        let is_scanning = watch.scanning_for();
        if !stuck_is_told && is_scanning.is_some_and(|time| time > SHARED_STORAGE_DEADLINE) {
            stuck_is_told = true;
            say(socket, &error("a directory does not answer; those after it are not watched yet"));
        }
        let look_again = Instant::now() + SHARED_STORAGE_DEADLINE;
        // A peer that is slow leaves the notes in the session's own bounded queue.
        let notes = if socket.is_clogged() { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut sources =
            [Source::new(container, PollFlags::POLLIN), Source::new(watch.as_fd(), notes)];
        let turn = socket.wait(&mut sources, is_scanning.map(|_| look_again));
        if matches!(turn, Turn::PeerLeft | Turn::Stopping) {
            return;
        }
        if !sources[0].ready.is_empty() {
            return say(socket, &error(CONTAINER_ENDED));
        }
    }
}

fn say(socket: &mut Socket, said: &Said) {
    match serde_json::to_string(said) {
        Ok(text) => socket.send_text(text),
        Err(error) => log::error!("watch: {error}"),
    }
}

/// A note as the peer reads it.
pub fn said(note: Note) -> Said {
    match note {
        Note::Change(Change { kind, path, is_dir }) => {
            Said::Change { event: event(kind), path: shown(&path), is_dir }
        }
        Note::Missed => {
            error("changes may have been missed: too many at once; all is looked at again")
        }
        Note::Lost => error("changes were lost: they came faster than they were taken"),
        Note::BaseGone(path) => {
            let path = shown(&path);
            error(format!("{path} was removed, moved or unmounted and is not watched any more"))
        }
        Note::Remote { path, trouble } => error(remote(&path, trouble)),
        Note::NoRights(errno) => {
            let why = errno.desc();
            error(format!(
                "directories can't be read with the rights of the container's user: {why}"
            ))
        }
        Note::Unwatched(unwatched) => error(not_watched(&unwatched)),
    }
}

fn error(message: impl Into<String>) -> Said {
    Said::Error { message: message.into() }
}

fn event(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Create => "CREATE",
        ChangeKind::Modify => "MODIFY",
        ChangeKind::Delete => "DELETE",
        ChangeKind::Move => "MOVE",
    }
}

fn not_watched(Unwatched { first, count, why }: &Unwatched) -> String {
    let named: Vec<String> = first.iter().map(|path| shown(path)).collect();
    let others = match count - first.len() {
        0 => String::new(),
        others => format!(" and {others} others"),
    };
    let why = match why {
        Why::SessionBudget => "this session watches as many directories as it may".to_owned(),
        Why::NodeBudget => "this node watches as many directories as it may".to_owned(),
        Why::Busy => "all threads that read directories are busy".to_owned(),
        Why::KernelView => "it shows the kernel's own state".to_owned(),
        Why::Refused(Errno::ENOSPC) => {
            "the system's limit on watches is reached (fs.inotify.max_user_watches)".to_owned()
        }
        Why::Refused(error) => error.desc().to_owned(),
    };
    format!("not watched, with all below: {}{others}: {why}", named.join(", "))
}

fn remote(path: &Path, trouble: RemoteTrouble) -> String {
    let path = shown(path);
    match trouble {
        RemoteTrouble::Silent => {
            format!("{path} does not answer: what other machines change there is told when it does")
        }
        RemoteTrouble::Failed(error) => {
            let why = error.desc();
            format!("what other machines change in {path} is not told, it can't be read: {why}")
        }
        RemoteTrouble::TooLarge => format!(
            "what other machines change in {path} is told of {WATCH_POLL_ENTRIES_MAX} entries only: \
             it has more"
        ),
        RemoteTrouble::NoRoom => format!(
            "what other machines change in {path} is not told: as many network directories are \
             looked at as may be"
        ),
    }
}

/// Bytes outside UTF-8 are replaced.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_not_watched_is_named_and_counted() {
        let first = vec!["/a".into(), "/b".into()];
        let unwatched = Unwatched { first, count: 5, why: Why::SessionBudget };
        let expected = "not watched, with all below: /a, /b and 3 others: \
                        this session watches as many directories as it may";
        assert_eq!(said(Note::Unwatched(unwatched)), error(expected));
    }

    #[test]
    fn name_outside_utf8_is_shown_with_replacements() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/w/\xff")).into();
        let change = Change { kind: ChangeKind::Move, path, is_dir: true };
        let expected = Said::Change { event: "MOVE", path: "/w/\u{fffd}".into(), is_dir: true };
        assert_eq!(said(Note::Change(change)), expected);
    }
}
