//! Waits beside a VPS: shows how far it is, lives through a restart of the runner, and heeds Ctrl-C.

use std::thread;
use std::time::{Duration, Instant};

use crate::cli::failure::Failure;
use crate::cli::progress::ProgressLine;
use crate::cli::runner::{Runner, Task};
use crate::cli::signals::Signals;
use crate::limits;
use crate::model::ids::TaskId;

pub struct Attendant<'a> {
    runner: &'a Runner,
    id: TaskId,
    progress: ProgressLine,
    /// Held back, if leaving needs a word; otherwise they just end us.
    signals: Option<Signals>,
}

impl Attendant<'_> {
    pub fn of(runner: &Runner, id: TaskId) -> Attendant<'_> {
        Attendant { runner, id, progress: ProgressLine::on_stderr(), signals: None }
    }

    /// One that says at Ctrl-C that the VPS is there all the same. To be made before any thread.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn holding_signals(runner: &Runner, id: TaskId) -> Result<Attendant<'_>, Failure> {
        let signals = Signals::hold().map_err(|errno| Failure::Output(errno.into()))?;
        Ok(Attendant { signals: Some(signals), ..Attendant::of(runner, id) })
    }

    /// Shows what the VPS does.
    pub fn show(&self, what: &str) {
        self.progress.show(&format!("VPS {} {what}", self.id));
    }

    /// Makes room for output.
    pub fn clear(&self) {
        self.progress.clear();
    }

    /// Shows how far the image is, if anybody would see it.
    pub fn look(&self) {
        if self.progress.is_visible()
            && let Ok(task) = self.runner.task(self.id)
        {
            self.show_start_of(&task);
        }
    }

    fn show_start_of(&self, task: &Task) {
        self.show(task.progress.as_deref().unwrap_or("is being created"));
    }

    /// Looks at the record again and again until `judge` has something; a runner that is away for a
    /// moment is waited for.
    ///
    /// # Errors
    /// `judge`'s, the runner's, or a signal has come.
    pub fn until<T>(
        &self,
        judge: impl Fn(&Task) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let mut lost_since: Option<Instant> = None;
        loop {
            match self.runner.task(self.id) {
                Ok(task) => {
                    lost_since = None;
                    if let Some(found) = judge(&task)? {
                        return Ok(found);
                    }
                    if task.phases.started.is_none() {
                        self.show_start_of(&task);
                    }
                }
                Err(error) => {
                    let since = *lost_since.get_or_insert_with(Instant::now);
                    if !error.may_pass() || since.elapsed() > limits::CLI_LOST_PATIENCE {
                        return Err(error.into());
                    }
                }
            }
            self.pause(limits::CLI_PROGRESS_TICK)?;
        }
    }

    fn pause(&self, duration: Duration) -> Result<(), Failure> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.heed_signals()?;
            thread::sleep(limits::CLI_SIGNAL_TICK);
        }
        Ok(())
    }

    /// # Errors
    /// A signal has come.
    pub fn heed_signals(&self) -> Result<(), Failure> {
        let code = self.signals.as_ref().and_then(Signals::pending_exit_code);
        let Some(code) = code else { return Ok(()) };
        self.clear();
        let id = self.id;
        let text = format!("VPS {id} is left to itself; `river-runner kill {id}` ends it");
        Err(Failure::Left { code, text })
    }
}
