//! The end of what a terminal has said, for peers that come back. Pure.

use std::collections::VecDeque;

use crate::limits::TERMINAL_HISTORY_BYTES;

/// The last bytes of a text, and how many there were in all.
#[derive(Debug, Default)]
pub(super) struct History {
    kept: VecDeque<u8>,
    /// Of everything that was ever said.
    bytes: u64,
}

impl History {
    pub fn push(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        let text = text.as_bytes();
        let text = &text[text.len().saturating_sub(TERMINAL_HISTORY_BYTES)..];
        let beyond = (self.kept.len() + text.len()).saturating_sub(TERMINAL_HISTORY_BYTES);
        self.kept.drain(..beyond);
        self.kept.extend(text);
    }

    /// What was said from byte `offset` on, as far as it is kept, and the byte it begins at; it begins
    /// with a whole character. An offset that was never reached is another session's: everything then.
    pub fn since(&self, offset: u64) -> (u64, String) {
        let first = self.bytes - self.kept.len() as u64;
        let offset = if offset > self.bytes { 0 } else { offset };
        let skip = usize::try_from(offset.saturating_sub(first)).unwrap_or(usize::MAX);
        let is_inside = |byte: &u8| byte & 0xC0 == 0x80;
        let inside = self.kept.iter().skip(skip).take_while(|byte| is_inside(byte)).count();
        let skip = skip + inside;
        let bytes: Vec<u8> = self.kept.iter().skip(skip).copied().collect();
        (first + skip as u64, String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn text(text: &str) -> History {
        let mut history = History::default();
        history.push(text);
        history
    }

    #[test]
    fn everything_is_given_from_the_offset_on() {
        let mut history = text("one ");
        history.push("two");
        assert_eq!(history.since(0), (0, "one two".into()));
        assert_eq!(history.since(4), (4, "two".into()));
        assert_eq!(history.since(7), (7, String::new()));
        assert_eq!(History::default().since(0), (0, String::new()));
    }

    #[test]
    fn offset_that_was_never_reached_gives_everything() {
        assert_eq!(text("one").since(4), (0, "one".into()));
        assert_eq!(text("one").since(u64::MAX), (0, "one".into()));
    }

    #[test]
    fn text_begins_with_a_whole_character() {
        assert_eq!(text("aä€b").since(2), (3, "€b".into()));
        assert_eq!(text("aä€b").since(5), (6, "b".into()));
    }

    #[test]
    fn only_the_end_is_kept_and_where_it_begins_is_told() {
        let mut history = text("lost");
        let full = "ä".repeat(TERMINAL_HISTORY_BYTES / 2);
        history.push(&full);
        assert_eq!(history.since(0), (4, full.clone()));
        history.push("x");
        // Half of a character is gone with the first byte.
        assert_eq!(history.since(5), (6, format!("{}x", &full[2..])));
        history.push(&format!("{full}yz"));
        let (begin, kept) = history.since(0);
        assert_eq!(begin + kept.len() as u64, 4 + 2 * full.len() as u64 + 3);
        assert!(kept.ends_with("äyz") && kept.len() <= TERMINAL_HISTORY_BYTES);
    }
}
