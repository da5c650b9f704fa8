//! The runner as a process: its signals, its log, its service manager, and an end within two
//! seconds whatever hangs. The main thread does nothing that can block; the node is started and
//! stopped on threads of their own.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::log_thread::LogThread;
use super::signals::{Signals, Woken};
use super::supervisor::{Notices, Supervisor};
use super::{Running, StartError, pulse, start_on};
use crate::limits::{ARENAS_MAX, OWN_MAPPING_BYTES_MIN, SHUTDOWN_DEADLINE, STACK_BYTES};
use crate::model::settings::Settings;
use crate::ops::Node;
use crate::serve::Passed;
use crate::stop::Stop;
use crate::threads::{self, lock};

/// Runs the runner until SIGTERM or SIGINT. Containers run on. Only for a process of our own: its
/// signals, its environment and its log are taken.
pub fn serve(settings: Settings) -> ExitCode {
    // SAFETY: the command line has opened nothing that it keeps, and no thread but one that may hang in
    // the look at a path.
    let supervisor = unsafe { Supervisor::take() };
    keep_memory_small();
    // Before any thread, so that none takes a signal.
    let signals = match Signals::hold() {
        Ok(signals) => Arc::new(signals),
        Err(error) => return refuse(&format!("signals: {error}")),
    };
    let log = match start_log(&settings) {
        Ok(log) => log,
        Err(why) => return refuse(&why),
    };
    let Supervisor { notices, watchdog, sockets } = match supervisor {
        Ok(supervisor) => supervisor,
        Err(error) => return refuse(&format!("the service manager: {error}")),
    };
    let life = Life {
        signals,
        log: log.clone(),
        has_log_file: settings.runner_log_file.is_some(),
        notices: Arc::new(notices),
        watchdog,
        stop: Stop::new(),
        stage: Arc::default(),
        node: OnceLock::new(),
    };
    life.begin(settings, sockets);
    let code = life.lead();
    log.flush();
    if let Some(node) = life.node.get() {
        node.tasks.leave();
    }
    code
}

/// What the main thread knows.
struct Life {
    signals: Arc<Signals>,
    log: LogThread,
    has_log_file: bool,
    notices: Arc<Notices>,
    watchdog: Option<Duration>,
    stop: Stop,
    stage: Arc<Mutex<Stage>>,
    /// Once it has started.
    node: OnceLock<Arc<Node>>,
}

/// How far the node is, told by the threads that start and stop it.
#[derive(Default)]
enum Stage {
    #[default]
    Starting,
    Started(Box<Running>),
    Failed(StartError),
    /// The main thread has taken it in.
    Noticed,
    Stopped,
}

impl Life {
    /// Starts the node on a thread of its own: what it opens may hang, and signals must not wait.
    fn begin(&self, settings: Settings, sockets: Vec<Passed>) {
        let (stop, stage, signals) =
            (self.stop.clone(), Arc::clone(&self.stage), Arc::clone(&self.signals));
        let start = move || {
            let started = start_on(settings, sockets, &stop);
            *lock(&stage) = match started {
                Ok(running) => Stage::Started(Box::new(running)),
                Err(error) => Stage::Failed(error),
            };
            signals.ring();
        };
        if let Err(error) = threads::spawn("start", STACK_BYTES, start) {
            *lock(&self.stage) = Stage::Failed(StartError::Threads(error));
            self.signals.ring();
        }
    }

    /// Acts on signals and on what the other threads tell, until the end.
    fn lead(&self) -> ExitCode {
        let mut leave_by = None;
        let mut running = None;
        loop {
            match self.signals.wait(leave_by) {
                Woken::Reopen => self.reopen_log(running.is_some()),
                Woken::Leave(signal) if leave_by.is_some() => {
                    log::warn!("{signal} again: leaving at once");
                    return ExitCode::SUCCESS;
                }
                Woken::Leave(signal) => {
                    log::info!("{signal}: stopping; containers run on");
                    leave_by = Some(Instant::now() + SHUTDOWN_DEADLINE);
                    self.stop.raise();
                    if let Some(running) = running.take() {
                        self.end(running);
                    }
                }
                Woken::Rung => match std::mem::replace(&mut *lock(&self.stage), Stage::Noticed) {
                    Stage::Started(started) => {
                        let _ = self.node.set(Arc::clone(&started.node));
                        if leave_by.is_some() {
                            self.end(started);
                        } else {
                            self.tell_ready(&started);
                            running = Some(started);
                        }
                    }
                    Stage::Failed(StartError::Stopped) => return ExitCode::SUCCESS,
                    Stage::Failed(_) if leave_by.is_some() => return ExitCode::SUCCESS,
                    Stage::Failed(error) => return self.refuse(&error),
                    Stage::Stopped => return ExitCode::SUCCESS,
                    Stage::Starting | Stage::Noticed => {}
                },
                Woken::Late => {
                    log::warn!(
                        "something hangs: leaving without it; the records know how to go on"
                    );
                    return ExitCode::SUCCESS;
                }
            }
        }
    }

    fn tell_ready(&self, running: &Running) {
        if !self.notices.are_wanted() {
            return;
        }
        self.notices.say_ready(&pulse::status(&running.node));
        let (node, door) = (&running.node, running.server.pulse());
        let notices = Arc::clone(&self.notices);
        if let Err(error) = pulse::start(node, door, notices, self.watchdog, self.stop.clone()) {
            log::error!("the service manager will hear no more: {error}");
        }
    }

    /// Stops the node on a thread of its own, so that a second signal is heard meanwhile.
    fn end(&self, running: Box<Running>) {
        let (stage, signals) = (Arc::clone(&self.stage), Arc::clone(&self.signals));
        let notices = Arc::clone(&self.notices);
        let stopping = threads::spawn("stop", STACK_BYTES, move || {
            notices.say("STOPPING=1");
            running.let_go();
            *lock(&stage) = Stage::Stopped;
            signals.ring();
        });
        if let Err(error) = stopping {
            // Its records know how to go on; waiting here could hang.
            log::error!("stopping without a thread: {error}");
            *lock(&self.stage) = Stage::Stopped;
            self.signals.ring();
        }
    }

    fn reopen_log(&self, is_ready: bool) {
        // Before it is ready, the start is what the manager waits for.
        if is_ready {
            self.notices.say_reloading();
        }
        match self.has_log_file.then(|| self.log.reopen()) {
            Some(Ok(())) => log::info!("SIGHUP: log file opened anew"),
            Some(Err(error)) => log::error!("SIGHUP: log file stays as it was: {error}"),
            None => log::info!("SIGHUP: there is no log file to open anew"),
        }
        if is_ready {
            self.notices.say_ready("");
        }
    }

    fn refuse(&self, error: &StartError) -> ExitCode {
        log::error!("{error}");
        // Whoever has typed the command looks here, not into the file.
        if self.has_log_file {
            say(&error.to_string());
        }
        ExitCode::FAILURE
    }
}

/// Says why there is no start.
fn refuse(why: &str) -> ExitCode {
    say(why);
    ExitCode::FAILURE
}

fn say(what: &str) {
    use std::io::Write;
    // With stderr closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "river-runner: {what}");
}

/// Starts the log, to a file if one is set.
fn start_log(settings: &Settings) -> Result<LogThread, String> {
    let path = settings.runner_log_file.clone();
    let log = LogThread::start(path.clone()).map_err(|error| match &path {
        Some(path) => format!("RUNNER_LOG_FILE {}: {error}", path.display()),
        None => format!("the log: {error}"),
    })?;
    // A log that is kept says the day too; a service manager's has it.
    let clock = if path.is_some() { "%Y-%m-%d %H:%M:%S%.3f" } else { "%H:%M:%S%.3f" };
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(log::LevelFilter::Warn)
        .filter_module("river_runner", settings.log_level)
        .format(move |out, record| {
            use std::io::Write;
            let now = chrono::Local::now().format(clock);
            let module = record.target().trim_start_matches("river_runner::");
            writeln!(out, "{now} | {:<5} | {module} - {}", record.level(), record.args())
        });
    builder.target(env_logger::Target::Pipe(Box::new(log.clone())));
    // An embedding program may have a logger of its own; ours then stays out of the way.
    drop(builder.try_init());
    Ok(log)
}

/// The C library keeps freed memory for later: per thread, and whole megabytes once a large body has
/// passed. Of a daemon that idles for days the machine wants it back (after a burst of 4 MB bodies
/// 112 MB stayed, with this 4.5).
fn keep_memory_small() {
    // SAFETY: mallopt only sets parameters of the allocator; no thread but this one runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
        // Given explicitly, so that it does not grow with what is freed.
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES_MIN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, OWN_MAPPING_BYTES_MIN);
    }
}
