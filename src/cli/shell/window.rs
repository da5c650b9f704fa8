//! How large the terminal is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub rows: u16,
    pub columns: u16,
}

/// What programs expect of a terminal that does not tell.
const USUAL: Window = Window { rows: 24, columns: 80 };

impl Window {
    /// The size of the terminal that we write to, or read from, or the usual one.
    pub fn now() -> Window {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let sides = [stdout.as_fd(), stdin.as_fd(), stderr.as_fd()];
        sides.into_iter().find_map(size_of).unwrap_or(USUAL)
    }
}

fn size_of(side: BorrowedFd<'_>) -> Option<Window> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open as long as `side` lives, and TIOCGWINSZ writes one `winsize`,
    // which `size` is.
    let done = unsafe { libc::ioctl(side.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    let is_known = done == 0 && size.ws_row > 0 && size.ws_col > 0;
    is_known.then_some(Window { rows: size.ws_row, columns: size.ws_col })
}
