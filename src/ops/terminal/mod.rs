//! A terminal in a task's container: the shell that is there, on the Engine's raw stream. Called by
//! `api::terminal`, on the session's own thread. Knows no peer: what it says is text, what it is told
//! are bytes.

mod history;
pub mod leftovers;
mod named;
mod shell;
mod terminals;
mod turns;

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

pub use named::{Name, Named, Seat};
pub use terminals::Terminals;

use self::history::History;
use self::shell::Shell;
use self::turns::Turn;
use super::{Node, OpError};
use crate::docker::Hijack;
use crate::limits::TERMINAL_PIECE_BYTES;
use crate::model::ids::TaskId;
use crate::wire::api::terminal::whole_characters;

/// A shell and its stream. Dropping it ends the shell and all of its session.
#[derive(Debug)]
pub struct Terminal {
    /// Before the shell, for it ends in this order.
    stream: Hijack,
    shell: Shell,
    piece: Box<[u8]>,
    /// Bytes at the beginning of `piece` that are no whole character yet.
    held: usize,
    /// How many bytes of `piece` were given out by the last read.
    given: usize,
    /// Of one that may come back.
    history: Option<History>,
}

/// Rows and columns, none of them zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    pub rows: u16,
    pub cols: u16,
}

/// What a read gives.
#[derive(Debug)]
pub enum Said<'t> {
    /// Whole characters; what is none has become U+FFFD.
    Text(Cow<'t, str>),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

/// Opens one.
///
/// # Errors
/// The task does not run or is paused, its image has no shell, the Engine refuses or hangs, or too
/// many are being opened.
pub fn open(node: &Arc<Node>, id: TaskId) -> Result<Terminal, OpError> {
    let turn = Turn::take(node)?;
    let (shell, stream) = Shell::start(node, id)?;
    drop(turn);
    let piece = vec![0; TERMINAL_PIECE_BYTES].into();
    Ok(Terminal { stream, shell, piece, held: 0, given: 0, history: None })
}

impl Terminal {
    /// The next output that is here.
    ///
    /// # Errors
    /// The stream broke.
    pub fn read(&mut self) -> io::Result<Said<'_>> {
        let rest = self.given..self.given + self.held;
        self.piece.copy_within(rest, 0);
        self.given = 0;
        let whole = loop {
            match self.stream.read(&mut self.piece[self.held..]) {
                Ok(0) if self.held == 0 => return Ok(Said::End),
                // The rest of the character does not come any more.
                Ok(0) => break self.held,
                Ok(count) => {
                    self.held += count;
                    let whole = whole_characters(&self.piece[..self.held]);
                    if whole > 0 {
                        break whole;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Said::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        (self.given, self.held) = (whole, self.held - whole);
        let text = String::from_utf8_lossy(&self.piece[..whole]);
        if let Some(history) = &mut self.history {
            history.push(&text);
        }
        Ok(Said::Text(text))
    }

    /// Gives the shell as much of `input` as it takes; that is gone from it then.
    ///
    /// # Errors
    /// The stream broke.
    pub fn give(&mut self, input: &mut Vec<u8>) -> io::Result<()> {
        let mut given = 0;
        while given < input.len() {
            match self.stream.write(&input[given..]) {
                Ok(count) => given += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Its last output is still to be read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => given = input.len(),
                Err(error) => return Err(error),
            }
        }
        input.drain(..given);
        Ok(())
    }

    /// Sets the window's size.
    pub fn resize(&mut self, size: WindowSize) {
        self.shell.resize(size);
    }

    /// Whether the shell has ended, as it has when its output ends, unless the Engine has gone. Waits
    /// a moment for it.
    pub fn has_ended(&self) -> bool {
        self.shell.has_ended()
    }

    /// Whether the container has ended too: it takes its shells with it.
    pub fn has_lost_its_container(&self) -> bool {
        self.shell.has_lost_its_container()
    }

    /// Tells the shell and its jobs that nobody is there any more. They have until the drop.
    pub fn hang_up(&mut self) {
        self.shell.hang_up();
    }

    /// What was said from byte `offset` on, as far as it is kept: the byte it begins at, and the text.
    fn said_since(&mut self, offset: u64) -> (u64, String) {
        self.history.as_ref().map_or((0, String::new()), |history| history.since(offset))
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.stream.shut();
    }
}
