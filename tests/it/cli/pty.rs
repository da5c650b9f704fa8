//! A person at a terminal: the program has a pty for stdin, stdout, stderr and its controlling
//! terminal, and we see its mode and what it shows.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::status_of;
use crate::kit::{SOON, wait_until};

pub struct Pty {
    keys: File,
    /// Kept open, so that the mode can be seen after the program's end.
    terminal: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
    child: Option<Child>,
}

impl Pty {
    /// Starts the program with a terminal of 30 rows and 100 columns.
    pub fn start(command: &Command) -> Pty {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let terminal = || Stdio::from(pty.slave.try_clone().unwrap());
        // `setsid` makes it the controlling terminal and becomes the program, with the same pid.
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(name, value),
                None => setsid.env_remove(name),
            };
        }
        setsid.stdin(terminal()).stdout(terminal()).stderr(terminal());
        let child = setsid.spawn().unwrap();
        let keys = File::from(pty.master);
        let (mut screen, shown) = (keys.try_clone().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let into = Arc::clone(&shown);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = screen.read(&mut bytes) {
                into.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Pty { keys, terminal: pty.slave, shown, child: Some(child) }
    }

    pub fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until `text` is on the screen, `count` times.
    #[track_caller]
    pub fn wait_shown(&self, text: &str, count: usize) {
        let shown = wait_until(SOON, || self.shown().matches(text).count() >= count);
        assert!(shown, "no {text:?} in {:?}", self.shown());
    }

    /// Waits until `text` and nothing else is on the screen.
    #[track_caller]
    pub fn wait_shown_alone(&self, text: &str) {
        let _ = wait_until(SOON, || self.shown().len() >= text.len());
        assert_eq!(self.shown(), text);
    }

    /// Whether keys go to the program as they are.
    pub fn is_raw(&self) -> bool {
        let flags = tcgetattr(&self.terminal).unwrap().local_flags;
        !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    #[track_caller]
    pub fn wait_raw(&self) {
        assert!(wait_until(SOON, || self.is_raw()), "not raw: {:?}", self.shown());
    }

    /// The kernel tells the program of it.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is ours, and TIOCSWINSZ reads one `winsize`.
        let done =
            unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0);
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for the program's end; its terminal must be as it was.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let status = status_of(self.child.take().unwrap());
        assert!(!self.is_raw(), "the terminal is still raw");
        status
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
