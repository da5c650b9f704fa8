//! The thread that writes the log. A log can hang: a file on a share that is gone, a pipe that nobody
//! reads. Then only this thread does; whoever logs goes on, and lines are lost and counted (design
//! law 5). Lines come out in the order in which they were logged.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::log_file::LogFile;
use crate::limits::{LOG_LINES_WAITING_MAX, LOG_OPEN_DEADLINE, LOG_PATIENCE, STACK_BYTES};
use crate::metrics;
use crate::threads;

/// The way to the thread, for whoever logs and for who rotates.
#[derive(Clone, Debug)]
pub struct LogThread {
    orders: Sender<Order>,
    /// The last line found no room: the next does not wait for any.
    is_full: Arc<AtomicBool>,
}

enum Order {
    Line(Box<[u8]>),
    /// Open the file anew and tell how that went.
    Reopen(Sender<io::Result<()>>),
    /// Tell that everything before this is written.
    Flush(Sender<()>),
}

enum Target {
    File(LogFile),
    Stderr(File),
}

impl LogThread {
    /// Opens the file at `path`, or stderr, and starts the thread. It ends with the process.
    ///
    /// # Errors
    /// The file can't be opened, or not in [`LOG_OPEN_DEADLINE`]; or there is no thread to be had.
    pub fn start(path: Option<PathBuf>) -> io::Result<LogThread> {
        let (orders, to_do) = bounded(LOG_LINES_WAITING_MAX);
        let (tell, opened) = bounded(1);
        threads::spawn("log", STACK_BYTES, move || {
            let open = || match path {
                Some(path) => LogFile::open(&path).map(Target::File),
                // Not by `io::stderr`, whose lock would be held for as long as the pipe hangs.
                None => Ok(Target::Stderr(File::from(io::stderr().as_fd().try_clone_to_owned()?))),
            };
            match open() {
                Ok(target) => {
                    let _ = tell.send(Ok(()));
                    write_all(&to_do, target);
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        })?;
        opened.recv_timeout(LOG_OPEN_DEADLINE).unwrap_or_else(|_| Err(hangs()))?;
        Ok(LogThread { orders, is_full: Arc::default() })
    }

    /// Opens the file anew, and waits for that for [`LOG_PATIENCE`]. Stderr has nothing to be opened.
    ///
    /// # Errors
    /// It can't be opened and the log goes on in the old one; or it hangs, and is opened when it does
    /// not any more.
    pub fn reopen(&self) -> io::Result<()> {
        let (tell, told) = bounded(1);
        if !self.order(Order::Reopen(tell), LOG_PATIENCE) {
            return Err(hangs());
        }
        told.recv_timeout(LOG_PATIENCE).unwrap_or_else(|_| Err(hangs()))
    }

    /// Waits until what was logged is written, for [`LOG_PATIENCE`] at most.
    pub fn flush(&self) {
        let (tell, told) = bounded(1);
        if self.order(Order::Flush(tell), Duration::ZERO) {
            let _ = told.recv_timeout(LOG_PATIENCE);
        }
    }

    /// False if there was no room for it.
    fn order(&self, order: Order, patience: Duration) -> bool {
        let order = match self.orders.try_send(order) {
            Ok(()) => {
                self.is_full.store(false, Ordering::Relaxed);
                return true;
            }
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => order,
        };
        if self.is_full.load(Ordering::Relaxed) {
            return false;
        }
        let had_room = self.orders.send_timeout(order, patience).is_ok();
        self.is_full.store(!had_room, Ordering::Relaxed);
        had_room
    }
}

impl Write for LogThread {
    /// Hands one formatted line over.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.order(Order::Line(line.into()), LOG_PATIENCE) {
            metrics::LOG_LINES_LOST.up();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(to_do: &Receiver<Order>, mut target: Target) {
    for order in to_do {
        match (order, &mut target) {
            // It counts by itself what its disk does not take.
            (Order::Line(line), Target::File(file)) => drop(file.write(&line)),
            (Order::Line(line), Target::Stderr(stderr)) => {
                if stderr.write_all(&line).is_err() {
                    metrics::LOG_LINES_LOST.up();
                }
            }
            (Order::Reopen(tell), Target::File(file)) => drop(tell.send(file.reopen())),
            (Order::Reopen(tell), Target::Stderr(_)) => drop(tell.send(Ok(()))),
            (Order::Flush(tell), _) => drop(tell.send(())),
        }
    }
}

fn hangs() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
}
