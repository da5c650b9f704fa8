//! One line on the terminal that tells how far an image is, and goes away by itself.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

use crate::threads::lock;

/// The line. It is drawn on stderr, and only if that is a terminal.
#[derive(Debug)]
pub struct ProgressLine {
    is_terminal: bool,
    shown: Mutex<String>,
}

impl ProgressLine {
    pub fn on_stderr() -> ProgressLine {
        ProgressLine { is_terminal: io::stderr().is_terminal(), shown: Mutex::default() }
    }

    /// Whether anybody would see it.
    pub fn is_visible(&self) -> bool {
        self.is_terminal
    }

    /// Shows `text` in place of what was shown.
    pub fn show(&self, text: &str) {
        // A terminal would obey control characters in what an image's registry says.
        let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
        let mut shown = lock(&self.shown);
        if self.is_terminal && *shown != text {
            // Back to the first column, the text, and nothing behind it.
            let _ = write!(io::stderr(), "\r{text}\x1b[K");
            *shown = text;
        }
    }

    /// Makes room for output.
    pub fn clear(&self) {
        self.show("");
    }
}
