//! The KohakuRiver host as a runner sees it (contract 3): register, heartbeat, update. It keeps
//! the host's rules, records everything, and can be made to fail in every way a host fails.
//! What breaks the contract on the runner's side fails the test when the fake is dropped.

mod rules;
mod serve;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{SOON, free_port, wait_until};

/// The host's texts for a status report; both come with 200 (contract 3.3).
pub const UPDATED: &str = "Task status updated successfully.";
pub const REFUSED: &str = "Task ID not recognized or invalid state transition.";

const FINAL: &[&str] = &["completed", "failed", "killed", "killed_oom", "lost", "stopped"];

/// How the host fails while a fault is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status and applies nothing.
    Status(u16),
    /// Answers bytes that are no HTTP and applies nothing.
    Garbage,
    /// Applies the call, answers half of the body and closes.
    HalfAnswer,
    /// Applies the call and closes without a byte: the reply is lost, the effect is not.
    LostAnswer,
    /// Applies and answers after this long.
    Slow(Duration),
    /// Applies nothing and answers nothing until the fault is lifted or the caller leaves.
    Hang,
}

/// When a hook of [`FakeHost::on_nth`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The call has come and the host has done nothing yet.
    Before,
    /// The host has done it and has not answered yet.
    After,
}

/// What became of a report at the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Applied; the sender has been told unless the fault was about the answer.
    Accepted,
    /// Answered with [`REFUSED`].
    Refused,
    /// A fault kept the host from applying it.
    Unheard,
}

/// One `POST /api/update`.
#[derive(Clone, Debug)]
pub struct Report {
    pub at: Instant,
    /// When the host had read it, before a fault made it late.
    pub came: Instant,
    pub task_id: u64,
    pub status: String,
    pub exit_code: Option<i64>,
    pub message: Option<String>,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    pub ssh_port: Option<i64>,
    pub verdict: Verdict,
    pub body: Value,
}

impl Report {
    pub fn is_final(&self) -> bool {
        FINAL.contains(&self.status.as_str())
    }
}

/// One `PUT /api/heartbeat/{hostname}`.
#[derive(Clone, Debug)]
pub struct Beat {
    pub at: Instant,
    pub hostname: String,
    pub running_tasks: Vec<u64>,
    /// What it was answered; 404 asks the runner to register.
    pub status: u16,
    pub body: Value,
}

/// One `POST /api/register`.
#[derive(Clone, Debug)]
pub struct Registration {
    pub at: Instant,
    pub body: Value,
}

/// A host on a fixed port of 127.0.0.1.
pub struct FakeHost {
    inner: Arc<Inner>,
    listening: Mutex<Option<Listening>>,
}

struct Inner {
    port: u16,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tasks: HashMap<u64, String>,
    unknown: Vec<u64>,
    nodes: Vec<String>,
    reports: Vec<Report>,
    /// Where in `reports` those of a task are: a test may have a hundred thousand.
    reports_by_task: HashMap<u64, Vec<usize>>,
    beats: Vec<Beat>,
    registrations: Vec<Registration>,
    breaches: Vec<String>,
    faults: Vec<SetFault>,
    struck: usize,
    nth: Vec<NthHook>,
    overlay: Value,
    on_register: Option<Hook>,
    /// Open connections, so that `down` can end them.
    connections: HashMap<u64, TcpStream>,
    connections_seen: u64,
}

/// Called with the body of a call before the host acts on it.
type Hook = Arc<dyn Fn(&Value) + Send + Sync>;

struct NthHook {
    /// A prefix, as of a fault.
    call: String,
    moment: Moment,
    /// Calls that still pass before the hook runs.
    left: usize,
    run: Hook,
}

struct SetFault {
    /// `POST /api/update` and the like; `None` is every call. A prefix, for the host name in it.
    call: Option<String>,
    fault: Fault,
    /// How often it still strikes.
    left: usize,
}

struct Listening {
    listener: TcpListener,
    thread: JoinHandle<()>,
}

impl FakeHost {
    /// A host that is up, knows no node, and takes every task id that it hears of as its own.
    pub fn start() -> FakeHost {
        let host = FakeHost {
            inner: Arc::new(Inner {
                port: free_port(),
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            listening: Mutex::new(None),
        };
        host.up();
        host
    }

    pub fn port(&self) -> u16 {
        self.inner.port
    }

    // ── what it heard ──────────────────────────────────────────────────────────────────────

    /// Every report of this task in order of arrival, also those refused or met by a fault.
    pub fn reports_of(&self, id: u64) -> Vec<Report> {
        self.inner.state().reports_of(id).cloned().collect()
    }

    /// Tasks of all final reports that were accepted, in order of arrival.
    pub fn finals(&self) -> Vec<u64> {
        let accepted = |r: &&Report| r.verdict == Verdict::Accepted && r.is_final();
        self.inner.state().reports.iter().filter(accepted).map(|r| r.task_id).collect()
    }

    /// The statuses of [`FakeHost::reports_of`] that were accepted, in order.
    pub fn accepted_of(&self, id: u64) -> Vec<String> {
        let accepted = |report: &Report| report.verdict == Verdict::Accepted;
        self.reports_of(id).into_iter().filter(accepted).map(|report| report.status).collect()
    }

    pub fn beats(&self) -> Vec<Beat> {
        self.inner.state().beats.clone()
    }

    pub fn registrations(&self) -> Vec<Registration> {
        self.inner.state().registrations.clone()
    }

    /// The first accepted final report of this task; fails the test when none comes in time.
    #[track_caller]
    pub fn wait_final(&self, id: u64, patience: Duration) -> Report {
        self.wait_report(id, patience, Report::is_final)
    }

    /// The first accepted report of this task with this status.
    #[track_caller]
    pub fn wait_status(&self, id: u64, status: &str, patience: Duration) -> Report {
        self.wait_report(id, patience, |report| report.status == status)
    }

    #[track_caller]
    fn wait_report(&self, id: u64, patience: Duration, is: impl Fn(&Report) -> bool) -> Report {
        let is = |r: &Report| r.verdict == Verdict::Accepted && is(r);
        let found =
            self.inner.wait(patience, |state| state.reports_of(id).find(|r| is(r)).cloned());
        match found {
            Some(report) => report,
            None => {
                panic!("no such report of {id} in {patience:?}; had {:#?}", self.reports_of(id))
            }
        }
    }

    /// Returns once a node has registered.
    #[track_caller]
    pub fn wait_registered(&self) -> Registration {
        let found = self.inner.wait(SOON, |state| state.registrations.first().cloned());
        found.expect("no node registered in time")
    }

    /// Returns once `more` heartbeats came after this call, with the last of them.
    #[track_caller]
    pub fn wait_beats(&self, more: usize, patience: Duration) -> Beat {
        let want = self.inner.state().beats.len() + more;
        let found = self.inner.wait(patience, |state| state.beats.get(want - 1).cloned());
        found.unwrap_or_else(|| panic!("fewer than {more} heartbeats in {patience:?}"))
    }

    /// How many connections there have been.
    pub fn connections_seen(&self) -> u64 {
        self.inner.state().connections_seen
    }

    // ── what it knows ──────────────────────────────────────────────────────────────────────

    /// The state the host has for this task; `None` before its first report.
    pub fn status_of(&self, id: u64) -> Option<String> {
        self.inner.state().tasks.get(&id).cloned()
    }

    /// Gives the task this state at the host, as a user's kill does (the runner is not told).
    pub fn set_status(&self, id: u64, status: &str) {
        self.inner.state().tasks.insert(id, status.to_owned());
    }

    /// From now on the host does not know this task: its reports are refused.
    pub fn forget_task(&self, id: u64) {
        let mut state = self.inner.state();
        state.tasks.remove(&id);
        state.unknown.push(id);
    }

    /// From now on the host knows no node: heartbeats are answered 404 until one registers.
    pub fn forget_nodes(&self) {
        self.inner.state().nodes.clear();
    }

    /// The `overlay` object of later register answers (contract 3.1); null at first.
    pub fn set_overlay(&self, overlay: Value) {
        self.inner.state().overlay = overlay;
    }

    /// Runs this with the body of every registration, before the host acts on it.
    pub fn on_register(&self, run: impl Fn(&Value) + Send + Sync + 'static) {
        self.inner.state().on_register = Some(Arc::new(run));
    }

    /// Runs this at the `nth` call from now on, the first being 1, that begins like `call`.
    pub fn on_nth(
        &self,
        nth: usize,
        call: &str,
        moment: Moment,
        run: impl Fn(&Value) + Send + Sync + 'static,
    ) {
        let hook = NthHook { call: call.to_owned(), moment, left: nth - 1, run: Arc::new(run) };
        self.inner.state().nth.push(hook);
    }

    // ── how it fails ───────────────────────────────────────────────────────────────────────

    /// Every call meets this fault until [`FakeHost::heal`].
    pub fn fail(&self, fault: Fault) {
        self.inner.add_fault(SetFault { call: None, fault, left: usize::MAX });
    }

    /// Calls that begin like `call` (`POST /api/update`) meet this fault, the next `times` times.
    pub fn fail_next(&self, times: usize, call: &str, fault: Fault) {
        self.inner.add_fault(SetFault { call: Some(call.to_owned()), fault, left: times });
    }

    /// How many calls have met a fault.
    pub fn struck(&self) -> usize {
        self.inner.state().struck
    }

    /// Lifts this fault, wherever it was set; others stay.
    pub fn lift(&self, fault: Fault) {
        self.inner.state().faults.retain(|set| set.fault != fault);
        self.inner.changed.notify_all();
    }

    /// Lifts all faults and hooks; calls that hang go on and are served.
    pub fn heal(&self) {
        let mut state = self.inner.state();
        state.faults.clear();
        state.nth.clear();
        drop(state);
        self.inner.changed.notify_all();
    }

    /// The host is gone: nothing listens and open connections are cut.
    pub fn down(&self) {
        let Some(Listening { listener, thread }) = self.listening().take() else { return };
        // Wakes the thread in accept.
        let _ = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        thread.join().expect("host's accept thread");
        drop(listener);
        for connection in self.inner.state().connections.values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// The host is back on the same port, with all it knew.
    pub fn up(&self) {
        let mut listening = self.listening();
        if listening.is_some() {
            return;
        }
        let address = SocketAddr::from(([127, 0, 0, 1], self.inner.port));
        let mut bound = TcpListener::bind(address);
        let _ = wait_until(SOON, || {
            if bound.is_err() {
                bound = TcpListener::bind(address);
            }
            bound.is_ok()
        });
        let listener = bound.unwrap_or_else(|error| panic!("host's port {address}: {error}"));
        let ours = listener.try_clone().expect("a listener");
        let inner = Arc::clone(&self.inner);
        let thread = std::thread::spawn(move || serve::accept(&inner, &ours));
        *listening = Some(Listening { listener, thread });
    }

    /// What the runner sent against the contract so far. Taking it is for tests of the fake:
    /// what is not taken fails the test at the end.
    pub fn take_breaches(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.state().breaches)
    }

    fn listening(&self) -> MutexGuard<'_, Option<Listening>> {
        self.listening.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        self.heal();
        self.down();
        let breaches = self.take_breaches();
        assert!(
            std::thread::panicking() || breaches.is_empty(),
            "against the contract: {breaches:#?}"
        );
    }
}

impl State {
    fn add_report(&mut self, report: Report) {
        self.reports_by_task.entry(report.task_id).or_default().push(self.reports.len());
        self.reports.push(report);
    }

    /// In order of arrival.
    fn reports_of(&self, id: u64) -> impl Iterator<Item = &Report> {
        let places = self.reports_by_task.get(&id).into_iter().flatten();
        places.map(|&place| &self.reports[place])
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<T>(&self, patience: Duration, find: impl Fn(&State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + patience;
        let mut state = self.state();
        loop {
            if let Some(found) = find(&state) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            state = match self.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn add_fault(&self, fault: SetFault) {
        self.state().faults.push(fault);
    }

    /// The fault that strikes this call, used up by one.
    fn fault_for(&self, call: &str) -> Option<Fault> {
        let mut state = self.state();
        let strikes = |set: &&mut SetFault| {
            set.left > 0 && set.call.as_ref().is_none_or(|prefix| call.starts_with(prefix))
        };
        let set = state.faults.iter_mut().find(strikes)?;
        set.left -= 1;
        let fault = set.fault;
        state.struck += 1;
        Some(fault)
    }

    /// The hooks whose turn this call is, each with its moment, taken off the list.
    fn hooks_for(&self, call: &str) -> Vec<(Moment, Hook)> {
        let mut due = Vec::new();
        self.state().nth.retain_mut(|hook| {
            if !call.starts_with(&hook.call) {
                return true;
            }
            if hook.left == 0 {
                due.push((hook.moment, Arc::clone(&hook.run)));
                return false;
            }
            hook.left -= 1;
            true
        });
        due
    }
}
