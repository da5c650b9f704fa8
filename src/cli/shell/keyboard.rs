//! Our stdin as the shell's input: a terminal in raw mode, or a pipe. The terminal's own mode is
//! put back when this is dropped, so also after a panic.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::str;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, read, tcgetpgrp};

use super::escape::{Escape, Typed};
use crate::limits;

/// Where input comes from.
#[derive(Debug)]
pub struct Keyboard {
    stdin: io::Stdin,
    /// Of a terminal only.
    terminal: Option<Terminal>,
    /// The beginning of a character whose rest has not come.
    held: Vec<u8>,
}

#[derive(Debug)]
struct Terminal {
    escape: Escape,
    /// As it was before we touched it.
    usual: Termios,
    is_raw: bool,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    Text(String),
    /// The person at the terminal wants to leave.
    Leave,
    End,
}

impl Keyboard {
    /// # Errors
    /// The terminal does not tell its mode.
    pub fn of_stdin() -> io::Result<Keyboard> {
        let stdin = io::stdin();
        let terminal = if stdin.is_terminal() {
            let usual = tcgetattr(&stdin)?;
            Some(Terminal { escape: Escape::new(), usual, is_raw: false })
        } else {
            None
        };
        Ok(Keyboard { stdin, terminal, held: Vec::new() })
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// From now on every key reaches the shell as it is. Nothing to do for a pipe.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn make_raw(&mut self) -> io::Result<()> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        let mut raw = terminal.usual.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&self.stdin, SetArg::TCSANOW, &raw)?;
        terminal.is_raw = true;
        Ok(())
    }

    /// Puts the terminal's own mode back. Returns whether there was something to put back.
    pub fn restore(&mut self) -> bool {
        let Some(terminal) = &mut self.terminal else { return false };
        let was_raw = std::mem::take(&mut terminal.is_raw);
        // In the background the terminal is another program's, and setting it would stop us.
        let is_ours = tcgetpgrp(&self.stdin).is_ok_and(|group| group == getpgrp());
        if was_raw && is_ours {
            // A terminal that is gone has no mode.
            let _ = tcsetattr(&self.stdin, SetArg::TCSANOW, &terminal.usual);
        }
        was_raw
    }

    /// What there is, once poll says that there is something.
    ///
    /// # Errors
    /// Stdin can't be read.
    pub fn read(&mut self) -> io::Result<Input> {
        // Not through the standard library's buffer, which poll does not know of.
        let mut bytes = [0; limits::CLI_INPUT_BYTES];
        let count = read(&self.stdin, &mut bytes)?;
        if count == 0 {
            return Ok(Input::End);
        }
        let typed = match &mut self.terminal {
            Some(terminal) => terminal.escape.typed(&bytes[..count]),
            None => Typed::PassOn(bytes[..count].to_vec()),
        };
        match typed {
            Typed::Leave => Ok(Input::Leave),
            Typed::PassOn(bytes) => {
                self.held.extend(bytes);
                Ok(Input::Text(take_text(&mut self.held)))
            }
        }
    }
}

impl AsFd for Keyboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Takes all whole characters out of `bytes`, and replaces what is none: messages are text. The
/// beginning of a character stays.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut taken = 0;
    loop {
        match str::from_utf8(&bytes[taken..]) {
            Ok(rest) => {
                text.push_str(rest);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let valid = &bytes[taken..taken + error.valid_up_to()];
                text.push_str(str::from_utf8(valid).unwrap_or_default());
                taken += error.valid_up_to();
                let Some(wrong) = error.error_len() else {
                    bytes.drain(..taken);
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                taken += wrong;
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn character_in_two_pieces_stays_whole() {
        let mut bytes = b"a\xc3".to_vec();
        assert_eq!(take_text(&mut bytes), "a");
        bytes.push(0xa9);
        assert_eq!(take_text(&mut bytes), "\u{e9}");
        assert!(bytes.is_empty());
    }

    #[test]
    fn what_is_no_text_is_replaced_and_holds_nothing_up() {
        let mut bytes = b"a\xffb\xc3(\xf0\x9f".to_vec();
        assert_eq!(take_text(&mut bytes), "a\u{fffd}b\u{fffd}(");
        assert_eq!(bytes, b"\xf0\x9f");
    }
}
