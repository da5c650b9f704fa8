//! Wires everything: settings first, then the floors below, and takes it down again. Called by the
//! command line, and by programs that embed a node.

pub mod config;
mod log_file;
mod log_thread;
mod process;
mod pulse;
mod signals;
mod supervisor;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::api::ROUTES;
use crate::docker::Engine;
use crate::host::Host;
use crate::host::outbox::Outbox;
use crate::lanes::{Group, Lanes, LanesSetup, Next};
use crate::limits::{
    FILES_THREADS_MAX, HTTP_DRAIN, HTTP_STREAMS_LEAVE, HTTP_WORKERS, JOIN_LOOK_AGAIN,
    PATIENT_THREADS_MAX, SHUTDOWN_GRACE, SHUTDOWN_SETTLE, START_LOOK_AGAIN, START_PATIENCE,
    URGENT_WORKERS, WORKERS_PER_NODE,
};
use crate::loops;
use crate::machine::first_writes::FirstWrites;
use crate::machine::tree_watch::TreeWatches;
use crate::machine::{addresses, topology};
use crate::model::settings::Settings;
use crate::model::time::Stamp;
use crate::model::topology::Topology;
use crate::ops::task::{finish, logs, recover};
use crate::ops::vps::VpsDesk;
use crate::ops::{Node, reports, vps};
use crate::serve::access::Policy;
use crate::serve::{self, Access, Passed, ServeError, Server, Setup, Sockets};
use crate::stop::Stop;
use crate::store::{StoreError, Table};

pub use process::serve;

/// A node at work.
#[derive(Debug)]
pub struct Running {
    node: Arc<Node>,
    server: Server,
    door_stop: Stop,
    outbox: Option<JoinHandle<Option<()>>>,
    threads: Vec<JoinHandle<Option<()>>>,
}

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError {
    Directory {
        path: PathBuf,
        source: io::Error,
    },
    Store(StoreError),
    Serve(ServeError),
    /// The operating system refused a thread.
    Threads(io::Error),
    /// It was told to stop before it was through.
    Stopped,
}

/// Starts a node: it listens, finds its tasks again, and registers.
///
/// # Errors
/// What a node can't do without; nothing is left running then.
pub fn start(settings: Settings) -> Result<Running, StartError> {
    start_on(settings, Vec::new(), &Stop::new())
}

/// The same on sockets that a service manager has `passed`. A `stop` that goes up meanwhile ends the
/// start, or is the first half of [`Running::stop`].
fn start_on(settings: Settings, passed: Vec<Passed>, stop: &Stop) -> Result<Running, StartError> {
    let door_stop = Stop::new();
    let started = start_all(settings, passed, stop, &door_stop);
    if started.is_err() {
        stop.raise();
        door_stop.raise();
    }
    started
}

fn start_all(
    settings: Settings,
    passed: Vec<Passed>,
    stop: &Stop,
    door_stop: &Stop,
) -> Result<Running, StartError> {
    // First of all: from here on callers wait instead of being refused.
    let mut patience = StartPatience::new(stop);
    let address = SocketAddr::new(settings.runner_bind_ip, settings.runner_port);
    let api_socket = settings.api_socket.as_deref();
    let sockets =
        Sockets::open_or_take(address, api_socket, passed, |error| patience.wait_for(error))?;
    make_directory(&settings.local_temp_dir)?;
    let tasks = loop {
        match Table::open(&settings.state_dir) {
            Err(error @ StoreError::InUse { .. }) if patience.wait_for(&error) => {}
            opened => break opened?,
        }
    };
    if stop.is_raised() {
        return Err(StartError::Stopped);
    }
    let topology = topology::read(&settings.sysfs_root);

    // The lanes' flag job needs the node, and the node holds the lanes.
    let home: Arc<OnceLock<Weak<Node>>> = Arc::default();
    let on_flag = {
        let home = Arc::clone(&home);
        Arc::new(move |id| match home.get().and_then(Weak::upgrade) {
            Some(node) => finish::settle(&node, id),
            None => Next::Done,
        })
    };
    let lanes = Lanes::start(lanes_setup(&topology), on_flag, stop.clone())?;
    let first_writes = {
        let home = Arc::clone(&home);
        let seen = move |id| {
            if let Some(node) = home.get().and_then(Weak::upgrade) {
                logs::written(&node, id, Stamp::now());
            }
        };
        FirstWrites::start(seen, stop)
    };
    let first_writes = first_writes
        .inspect_err(|error| log::warn!("no first-output times: inotify: {error}"))
        .ok();
    let host = settings
        .host_address
        .as_ref()
        .map(|address| Arc::new(Host::new(address, settings.host_port)));
    let access = Arc::new(Access::new(policy(&settings)));
    let (reconcile_wanted, wanted) = crossbeam_channel::bounded(1);
    let (doors_wanted, doors) = crossbeam_channel::bounded(1);
    let node = Arc::new(Node {
        engine: Engine::new(settings.docker_socket.clone()),
        engine_facts: Default::default(),
        tasks,
        lanes,
        host: host.clone(),
        outbox: Arc::new(Outbox::default()),
        images: Default::default(),
        network: Default::default(),
        shared_dir: Default::default(),
        events: Default::default(),
        first_writes,
        insides: Default::default(),
        terminals: Default::default(),
        tree_watches: TreeWatches::new(stop),
        exits: Default::default(),
        vps: VpsDesk::new(doors_wanted),
        access: Arc::clone(&access),
        kept: Default::default(),
        reconcile_wanted: reconcile_wanted.clone(),
        stop: stop.clone(),
        started: Instant::now(),
        topology,
        settings,
    });
    let _ = home.set(Arc::downgrade(&node));
    let share = loops::shared_dir::start(&node)?;

    // The door first: the host dispatches as soon as we are registered.
    let setup = server_setup(&node, sockets);
    let server = Server::start(setup, ROUTES, Arc::clone(&node), door_stop.clone())?;
    {
        let node = Arc::downgrade(&node);
        door_stop.on_raise(move || {
            if let Some(node) = node.upgrade() {
                node.events.close();
            }
        });
    }
    log::info!("node {} listens on {}", node.settings.node_id, server.local_addr());
    {
        let node = Arc::downgrade(&node);
        stop.on_raise(move || {
            if let Some(node) = node.upgrade() {
                node.terminals.wake();
            }
        });
    }
    recover::resume_all(&node);

    let mut threads =
        vec![share, loops::engine_events::start(&node)?, loops::sweep::start(&node, wanted)?];
    threads.push(loops::doors::start(&node, doors)?);
    let doors_wanted = node.vps.doors_wanted.clone();
    stop.on_raise(move || {
        let _ = doors_wanted.try_send(());
    });
    stop.on_raise(move || {
        let _ = reconcile_wanted.try_send(());
    });
    let mut outbox = None;
    if let Some(host) = host {
        let changed = move |addresses| access.set_host_addresses(addresses);
        threads.extend(host.names.keep_known(stop.clone(), changed)?);
        outbox = Some(node.outbox.start(Arc::clone(&host), reports::ledger(&node), stop)?);
        threads.push(loops::heartbeat::start(&node, &host)?);
    } else {
        log::info!("standalone: no HOST_ADDRESS is set");
    }
    Ok(Running { node, server, door_stop: door_stop.clone(), outbox, threads })
}

impl Running {
    /// Where TCP is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Lets what runs end, and gives up on what does not within [`SHUTDOWN_GRACE`]: the records
    /// know how to go on.
    pub fn stop(self) {
        let until = Instant::now() + SHUTDOWN_GRACE;
        self.let_go();
        // Without its end there is no deadline on `join`: a thread in a call to a hung peer is left
        // to the process's own end.
        for thread in self.threads.into_iter().chain(self.outbox) {
            if join_until(&thread, until) {
                let _ = thread.join();
            }
        }
    }

    /// The part of a stop that callers, tasks and the host would miss. First the lanes and the
    /// outbox finish what they are at, while callers are served as before: what is accepted then is
    /// on disk, and the next start begins with it. Then the door closes, when nothing is under way,
    /// so that the time without one is short.
    fn let_go(&self) {
        let settled = Instant::now() + SHUTDOWN_SETTLE;
        self.node.stop.raise();
        self.node.lanes.join(settled);
        if let Some(outbox) = &self.outbox {
            join_until(outbox, settled);
        }
        // Of those who wait for a VPS nobody can hear more.
        vps::leave::close(&self.node);
        self.server.settle(settled.saturating_duration_since(Instant::now()));
        self.door_stop.raise();
        let until = Instant::now() + HTTP_DRAIN + HTTP_STREAMS_LEAVE;
        self.server.join(HTTP_DRAIN + HTTP_STREAMS_LEAVE);
        while !self.node.terminals.none_is_kept() && Instant::now() < until {
            std::thread::sleep(JOIN_LOOK_AGAIN);
        }
    }
}

/// True if it has ended by then.
fn join_until(thread: &JoinHandle<Option<()>>, until: Instant) -> bool {
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(JOIN_LOOK_AGAIN);
    }
    thread.is_finished()
}

/// How long a start waits for what a predecessor still has.
struct StartPatience<'s> {
    until: Instant,
    stop: &'s Stop,
    has_told: bool,
}

impl StartPatience<'_> {
    fn new(stop: &Stop) -> StartPatience<'_> {
        StartPatience { until: Instant::now() + START_PATIENCE, stop, has_told: false }
    }

    /// Pauses; false when it is over.
    fn wait_for(&mut self, what: &dyn fmt::Display) -> bool {
        if !self.has_told {
            log::warn!("{what}; waiting {} s for it", START_PATIENCE.as_secs_f32());
            self.has_told = true;
        }
        Instant::now() < self.until && !self.stop.wait(START_LOOK_AGAIN)
    }
}

fn lanes_setup(topology: &Topology) -> LanesSetup {
    let groups = topology
        .targets()
        .map(|(id, node)| Group {
            node: Some(id.0),
            cpus: node.cpus.as_slice().to_vec(),
            workers: WORKERS_PER_NODE,
        })
        .collect();
    LanesSetup {
        groups,
        urgent_workers: URGENT_WORKERS,
        patient_threads_max: PATIENT_THREADS_MAX,
        files_threads_max: FILES_THREADS_MAX,
    }
}

fn policy(settings: &Settings) -> Policy {
    if settings.allow_from.iter().any(|range| range.prefix == 0) {
        log::warn!("ALLOW_FROM lets everybody in: anybody who reaches the port can run tasks");
    }
    Policy {
        // Filled in when they are known; see `HostNames::keep_known` and the sweep.
        host_addresses: Vec::new(),
        own_addresses: addresses::own().unwrap_or_default().into_iter().collect(),
        allow_from: settings.allow_from.clone(),
        hostname: settings.hostname.clone(),
        allow_hosts: settings.allow_hosts.clone(),
        loopback: settings.loopback,
        token: settings.api_token.as_ref().map(|token| token.reveal().to_owned()),
    }
}

fn server_setup(node: &Node, sockets: Sockets) -> Setup {
    Setup {
        sockets,
        workers: HTTP_WORKERS,
        access: Arc::clone(&node.access),
        patience: serve::Patience::default(),
    }
}

fn make_directory(path: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(path)
        .map_err(|source| StartError::Directory { path: path.to_owned(), source })
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> StartError {
        StartError::Store(error)
    }
}

impl From<ServeError> for StartError {
    fn from(error: ServeError) -> StartError {
        StartError::Serve(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::Threads(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Directory { path, source } => {
                write!(f, "directory {}: {source}", path.display())
            }
            StartError::Store(error) => write!(f, "STATE_DIR: {error}"),
            StartError::Serve(error) => match error.source() {
                Some(source) => write!(f, "{error}: {source}"),
                None => error.fmt(f),
            },
            StartError::Threads(error) => write!(f, "threads: {error}"),
            StartError::Stopped => f.write_str("stopped while it started"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::Directory { source, .. } | StartError::Threads(source) => Some(source),
            StartError::Store(error) => Some(error),
            StartError::Serve(error) => Some(error),
            StartError::Stopped => None,
        }
    }
}
