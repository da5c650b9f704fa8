//! The service manager that started us (systemd or one that speaks its protocol), by hand: what it
//! says in the environment, the sockets it passes, and the datagrams in which it is told how we
//! are. No manager is no error: then nobody is told.

use std::env;
use std::fmt;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::time::{ClockId, clock_gettime};

use crate::limits::{SUPERVISOR_DEADLINE, SUPERVISOR_SOCKETS_MAX};
use crate::serve::Passed;

/// The first passed descriptor; the others follow it (`sd_listen_fds(3)`).
const FIRST_SOCKET: RawFd = 3;

/// Everything that a service manager says in the environment.
const VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// What the manager gave us.
#[derive(Debug, Default)]
pub struct Supervisor {
    pub notices: Notices,
    /// It ends us if it hears nothing for so long.
    pub watchdog: Option<Duration>,
    pub sockets: Vec<Passed>,
}

/// What the manager said makes no sense.
#[derive(Debug)]
pub enum SupervisorError {
    Variable {
        name: &'static str,
        value: String,
    },
    /// It announced a descriptor that is not there.
    NoSocket {
        descriptor: RawFd,
    },
    NotifySocket(io::Error),
}

impl Supervisor {
    /// Reads the environment and takes it away, so that no child of ours believes to be meant.
    ///
    /// # Errors
    /// See [`SupervisorError`]: working without what was meant would hide the mistake.
    ///
    /// # Safety
    /// No other thread uses the environment, and nothing has opened or taken descriptors from 3 on that the
    /// environment announces.
    pub unsafe fn take() -> Result<Supervisor, SupervisorError> {
        let said = VARIABLES.map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
        for name in VARIABLES {
            // SAFETY: no other thread uses the environment, says our caller.
            unsafe { env::remove_var(name) };
        }
        let [notify, watchdog, watchdog_pid, listen, listen_pid, names] = said;
        let mut supervisor = Supervisor::default();
        if let Some(value) = watchdog
            && is_meant("WATCHDOG_PID", watchdog_pid.as_deref())?.unwrap_or(true)
        {
            let micros = number("WATCHDOG_USEC", &value)?;
            supervisor.watchdog =
                Some(Duration::from_micros(micros)).filter(|every| !every.is_zero());
        }
        if let Some(value) = listen
            && is_meant("LISTEN_PID", listen_pid.as_deref())?.unwrap_or(false)
        {
            let count = number("LISTEN_FDS", &value)?;
            let count =
                RawFd::try_from(count).ok().filter(|count| *count <= SUPERVISOR_SOCKETS_MAX);
            let count = count.ok_or(SupervisorError::Variable { name: "LISTEN_FDS", value })?;
            let names = names.unwrap_or_default();
            let mut names = names.split(':').filter(|name| !name.is_empty());
            for descriptor in FIRST_SOCKET..FIRST_SOCKET + count {
                let name = names.next().map_or_else(|| descriptor.to_string(), str::to_owned);
                // SAFETY: the manager announced it for us, and our caller knows of no other owner.
                let socket = unsafe { adopt(descriptor) }?;
                supervisor.sockets.push(Passed { name, socket });
            }
        }
        // Last: a socket of ours could have the number of an announced one that is not there.
        if let Some(name) = notify {
            supervisor.notices = Notices::to(&name).map_err(SupervisorError::NotifySocket)?;
        }
        Ok(supervisor)
    }
}

/// Whether the process that `value` names is this one; `None` if it names none.
fn is_meant(name: &'static str, value: Option<&str>) -> Result<Option<bool>, SupervisorError> {
    let pid = value.map(|value| number(name, value)).transpose()?;
    Ok(pid.map(|pid| pid == u64::from(process::id())))
}

fn number(name: &'static str, value: &str) -> Result<u64, SupervisorError> {
    value.parse().map_err(|_| SupervisorError::Variable { name, value: value.to_owned() })
}

/// Takes a descriptor over, closed for our children.
///
/// # Safety
/// Nobody else in this process owns it.
unsafe fn adopt(descriptor: RawFd) -> Result<OwnedFd, SupervisorError> {
    // SAFETY: borrowed for the one call, which fails for a descriptor that is not open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    match fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        // SAFETY: it is open, and ours alone as our caller says.
        Ok(_) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        Err(_) => Err(SupervisorError::NoSocket { descriptor }),
    }
}

/// The way to the manager (`sd_notify(3)`).
#[derive(Debug, Default)]
pub struct Notices {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// `READY=1` was not taken. Unlike a status it can't be left out: the manager waits for it, and
    /// ends a start or a reload that never tells.
    owes_ready: AtomicBool,
}

impl Notices {
    /// `name` is a path, or after an `@` a name without a file.
    fn to(name: &str) -> io::Result<Notices> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
            None => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that hangs must not hang us.
        socket.set_write_timeout(Some(SUPERVISOR_DEADLINE))?;
        Ok(Notices { to: Some((socket, address)), owes_ready: AtomicBool::new(false) })
    }

    /// Whether somebody listens.
    pub fn are_wanted(&self) -> bool {
        self.to.is_some()
    }

    /// Says `lines` (`KEY=value`, one a line). False if they were not taken.
    pub fn say(&self, lines: &str) -> bool {
        let Some((socket, address)) = &self.to else { return true };
        let sent = socket.send_to_addr(lines.as_bytes(), address);
        if let Err(error) = &sent {
            log::debug!("the service manager was not told {lines:?}: {error}");
        }
        sent.is_ok()
    }

    /// Says that we are ready, and `more`. What is not taken is owed: see [`Notices::pay`].
    pub fn say_ready(&self, more: &str) {
        let told = self.say(&format!("READY=1\n{more}"));
        self.owes_ready.store(!told, Ordering::SeqCst);
    }

    /// Says that we are ready if that is still owed.
    pub fn pay(&self) {
        if self.owes_ready.load(Ordering::SeqCst) {
            self.say_ready("");
        }
    }

    /// Says that a reload has begun (`Type=notify-reload` wants the moment; other types don't mind).
    /// `READY=1` ends it.
    pub fn say_reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }
}

impl fmt::Display for SupervisorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SupervisorError::Variable { name, value } => write!(f, "{name} can't be {value:?}"),
            SupervisorError::NoSocket { descriptor } => {
                write!(f, "LISTEN_FDS announces descriptor {descriptor}, which is not open")
            }
            SupervisorError::NotifySocket(error) => write!(f, "NOTIFY_SOCKET: {error}"),
        }
    }
}

impl std::error::Error for SupervisorError {}
