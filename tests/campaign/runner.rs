//! The runner as a process that several threads may start, kill and reap.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kit::Daemon;
use crate::world::locked;

/// Which process is the runner, so that any thread may kill it and none kills another.
#[derive(Default)]
pub struct Runner {
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    pid: Option<Pid>,
    killed: bool,
    terminated: Option<Instant>,
    /// Set when the schedule is over: nobody starts it again.
    is_over: bool,
}

/// How a life of the runner ended.
pub struct End {
    /// We have sent SIGKILL.
    pub killed: bool,
    /// How long before the end we have sent SIGTERM.
    pub terminated: Option<Duration>,
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl Runner {
    /// SIGKILL. False when it was not alive.
    pub fn kill(&self) -> bool {
        let mut life = locked(&self.life);
        life.killed |= life.pid.is_some();
        life.pid.is_some_and(|pid| kill(pid, Signal::SIGKILL) != Err(Errno::ESRCH))
    }

    /// SIGTERM. False when it was not alive.
    pub fn terminate(&self) -> bool {
        let mut life = locked(&self.life);
        if life.pid.is_some() {
            life.terminated.get_or_insert_with(Instant::now);
        }
        life.pid.is_some_and(|pid| kill(pid, Signal::SIGTERM) != Err(Errno::ESRCH))
    }

    pub fn launch(&self, daemon: &mut Daemon) {
        let mut life = locked(&self.life);
        daemon.launch();
        *life = Life { pid: Some(Pid::from_raw(daemon.pid())), ..Life::default() };
    }

    /// Reaps the process if it has ended. Under the lock: until then its number is nobody else's.
    pub fn reap(&self, daemon: &mut Daemon) -> Option<End> {
        let mut life = locked(&self.life);
        life.pid?;
        if !daemon.has_exited() {
            return None;
        }
        let (code, signal) = daemon.wait_exit(Duration::ZERO);
        life.pid = None;
        let terminated = life.terminated.map(|since| since.elapsed());
        Some(End { killed: life.killed, terminated, code, signal })
    }

    pub fn is_over(&self) -> bool {
        locked(&self.life).is_over
    }

    pub fn set_over(&self) {
        locked(&self.life).is_over = true;
    }
}
