//! Cuts the Engine's endless answers (events, progress) into lines of bounded length. Pure.

use std::io::{self, Read};

use crate::limits;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than the bound; its bytes are gone, the next line is fine.
    Overlong,
}

/// The line under way.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    overlong: bool,
}

impl Lines {
    /// Takes the next piece and hands on every line that ends in it. Empty lines are passed over.
    pub fn feed(&mut self, piece: &[u8], mut on: impl FnMut(Line)) {
        let mut parts = piece.split(|byte| *byte == b'\n');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.push(part);
            self.end(&mut on);
        }
        self.push(last);
    }

    /// The stream has ended; a last line without an end counts.
    pub fn finish(&mut self, mut on: impl FnMut(Line)) {
        self.end(&mut on);
    }

    fn push(&mut self, part: &[u8]) {
        if self.line.len() + part.len() > limits::ENGINE_LINE_BYTES_MAX {
            self.overlong = true;
            self.line = Vec::new();
        }
        if !self.overlong {
            self.line.extend_from_slice(part);
        }
    }

    fn end(&mut self, on: &mut impl FnMut(Line)) {
        if self.overlong {
            on(Line::Overlong);
        } else if !self.line.trim_ascii().is_empty() {
            on(Line::Whole(self.line.trim_ascii()));
        }
        self.line.clear();
        self.overlong = false;
    }
}

/// Reads `stream` to its end, line by line.
///
/// # Errors
/// The stream's own.
pub(super) fn each_line(stream: &mut dyn Read, mut on: impl FnMut(Line)) -> io::Result<()> {
    let mut lines = Lines::default();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece)? {
            0 => break,
            bytes => lines.feed(&piece[..bytes], &mut on),
        }
    }
    lines.finish(on);
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut on = |line: Line| {
            seen.push(match line {
                Line::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Line::Overlong => "(overlong)".to_owned(),
            });
        };
        let mut lines = Lines::default();
        for piece in pieces {
            lines.feed(piece, &mut on);
        }
        lines.finish(on);
        seen
    }

    #[test]
    fn lines_cut_anywhere_come_out_whole() {
        assert_eq!(cut(&[b"{\"a\"", b":1}\r\n{", b"}\n"]), ["{\"a\":1}", "{}"]);
    }

    #[test]
    fn a_last_line_without_an_end_counts() {
        assert_eq!(cut(&[b"one\ntwo"]), ["one", "two"]);
    }

    #[test]
    fn empty_lines_are_passed_over() {
        assert_eq!(cut(&[b"\n\r\n \none\n\n"]), ["one"]);
    }

    #[test]
    fn a_line_of_the_longest_length_passes_and_one_byte_more_does_not() {
        let longest = vec![b'x'; limits::ENGINE_LINE_BYTES_MAX];
        assert_eq!(cut(&[&longest, b"\nnext\n"])[1], "next");
        assert_eq!(cut(&[&longest, b"x", b"yy\nnext\n"]), ["(overlong)", "next"]);
    }
}
