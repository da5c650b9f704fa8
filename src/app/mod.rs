//! Wires everything: settings first, then the floors below, and takes it down again. Called by the
//! command line, and by programs that embed a node.

pub mod config;
mod signals;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::api::ROUTES;
use crate::docker::Engine;
use crate::host::Host;
use crate::host::outbox::Outbox;
use crate::lanes::{Group, Lanes, LanesSetup, Next};
use crate::limits::{
    ARENAS_MAX, FILES_THREADS_MAX, HTTP_WORKERS, JOIN_LOOK_AGAIN, OWN_MAPPING_BYTES_MIN,
    PATIENT_THREADS_MAX, SHUTDOWN_GRACE, URGENT_WORKERS, WORKERS_PER_NODE,
};
use crate::loops;
use crate::machine::watch::FirstWrites;
use crate::machine::{addresses, topology};
use crate::model::settings::Settings;
use crate::model::time::Stamp;
use crate::model::topology::Topology;
use crate::ops::task::{finish, logs, recover};
use crate::ops::{Node, reports};
use crate::serve::access::Policy;
use crate::serve::{Access, Patience, ServeError, Server, Setup};
use crate::stop::Stop;
use crate::store::{StoreError, Table};

/// A node at work.
#[derive(Debug)]
pub struct Running {
    node: Arc<Node>,
    server: Server,
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
}

/// Runs the runner until SIGTERM or SIGINT. Containers run on.
pub fn serve(settings: Settings) -> ExitCode {
    start_log(settings.log_level);
    keep_memory_small();
    if let Err(error) = signals::keep_for_main() {
        log::error!("signals: {error}");
        return ExitCode::FAILURE;
    }
    let running = match start(settings) {
        Ok(running) => running,
        Err(error) => {
            log::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let signal = signals::wait();
    log::info!("{signal}: stopping; containers run on");
    running.stop();
    ExitCode::SUCCESS
}

/// Starts a node: it listens, finds its tasks again, and registers.
///
/// # Errors
/// What a node can't do without; nothing is left running then.
pub fn start(settings: Settings) -> Result<Running, StartError> {
    let stop = Stop::new();
    let started = start_all(settings, &stop);
    if started.is_err() {
        stop.raise();
    }
    started
}

fn start_all(settings: Settings, stop: &Stop) -> Result<Running, StartError> {
    make_directory(&settings.local_temp_dir)?;
    let tasks = Table::open(&settings.state_dir)?;
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
        exits: Default::default(),
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

    // Listen first: the host dispatches as soon as we are registered.
    let server = Server::start(server_setup(&node), ROUTES, Arc::clone(&node), stop.clone())?;
    log::info!("node {} listens on {}", node.settings.node_id, server.local_addr());
    recover::resume_all(&node);

    let mut threads =
        vec![share, loops::engine_events::start(&node)?, loops::sweep::start(&node, wanted)?];
    stop.on_raise(move || {
        let _ = reconcile_wanted.try_send(());
    });
    if let Some(host) = host {
        let changed = move |addresses| access.set_host_addresses(addresses);
        threads.extend(host.names.keep_known(stop.clone(), changed)?);
        threads.push(node.outbox.start(Arc::clone(&host), reports::ledger(&node), stop)?);
        threads.push(loops::heartbeat::start(&node, &host)?);
    } else {
        log::info!("standalone: no HOST_ADDRESS is set");
    }
    Ok(Running { node, server, threads })
}

impl Running {
    /// Where TCP is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Stops accepting, lets what runs end, and gives up on what does not within
    /// [`SHUTDOWN_GRACE`]: the records know how to go on.
    pub fn stop(self) {
        let until = Instant::now() + SHUTDOWN_GRACE;
        self.node.stop.raise();
        self.server.join(until.saturating_duration_since(Instant::now()));
        self.node.lanes.join(until);
        for thread in self.threads {
            // Without its end there is no deadline on `join`: a thread in a call to a hung peer
            // is left to the process's own end.
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(JOIN_LOOK_AGAIN);
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
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

fn server_setup(node: &Node) -> Setup {
    Setup {
        address: SocketAddr::new(node.settings.runner_bind_ip, node.settings.runner_port),
        api_socket: node.settings.api_socket.clone(),
        workers: HTTP_WORKERS,
        access: Arc::clone(&node.access),
        patience: Patience::default(),
    }
}

fn make_directory(path: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(path)
        .map_err(|source| StartError::Directory { path: path.to_owned(), source })
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

fn start_log(level: log::LevelFilter) {
    let started = env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("river_runner", level)
        .format(|out, record| {
            use std::io::Write;
            let now = chrono::Local::now().format("%H:%M:%S%.3f");
            let module = record.target().trim_start_matches("river_runner::");
            writeln!(out, "{now} | {:<5} | {module} - {}", record.level(), record.args())
        })
        .try_init();
    // An embedding program may have a logger of its own; ours then stays out of the way.
    drop(started);
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
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::Directory { source, .. } | StartError::Threads(source) => Some(source),
            StartError::Store(error) => Some(error),
            StartError::Serve(error) => Some(error),
        }
    }
}
