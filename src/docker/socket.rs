//! The Engine's Unix socket: where it is, a connect with a deadline, and ureq's way onto it
//! (design D3). Called by `call` for every request and by raw streams. Knows no HTTP.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, SockFlag, SockType, UnixAddr};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};

use crate::limits;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// `DOCKER_HOST` names something that is no Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAUnixSocket {
    pub docker_host: String,
}

/// The Engine's socket by the value of `DOCKER_HOST`; absent or empty is the usual place.
///
/// # Errors
/// The value is not `unix://` and an absolute path.
pub fn socket_from_env(docker_host: Option<&str>) -> Result<PathBuf, NotAUnixSocket> {
    let host = docker_host.unwrap_or_default();
    if host.is_empty() {
        return Ok(PathBuf::from(DEFAULT_SOCKET));
    }
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err(NotAUnixSocket { docker_host: host.to_owned() }),
    }
}

/// Connects within `deadline`. An Engine that has stopped accepting lets its backlog run full, and
/// a plain connect would then wait for ever.
///
/// # Errors
/// The kernel's reason; `TimedOut` when the backlog stayed full.
pub fn connect(path: &Path, deadline: Duration) -> io::Result<UnixStream> {
    let fd = socket::socket(
        socket::AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let stream = UnixStream::from(fd);
    // A Unix connect honours the send timeout.
    stream.set_write_timeout(Some(deadline.max(limits::ENGINE_TIMEOUT_STEP)))?;
    let address = UnixAddr::new(path)?;
    let until = Instant::now() + deadline;
    loop {
        match socket::connect(stream.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EINTR) if Instant::now() < until => {}
            Err(Errno::EAGAIN | Errno::EINTR) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// Makes connections for one agent.
#[derive(Clone, Debug)]
pub(super) struct EngineConnector {
    pub socket: PathBuf,
    pub buffer_bytes: usize,
    /// Raised when the Engine stops reading a request's body. It has usually said why, so the
    /// transport then swallows what is left and goes on to the answer; whoever makes the body
    /// looks here and ends it. `None`: a failed write is a failure.
    pub body_unwanted: Option<Arc<AtomicBool>>,
}

/// A connect that failed, in the shape that goes through ureq and comes out recognisable.
#[derive(Debug)]
pub(super) struct ConnectFailed(pub io::Error);

impl<In: Transport> Connector<In> for EngineConnector {
    type Out = EngineTransport;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _chained: Option<In>,
    ) -> Result<Option<EngineTransport>, ureq::Error> {
        let deadline = (*details.timeout.after).min(limits::ENGINE_CONNECT_DEADLINE);
        let stream = connect(&self.socket, deadline)
            .map_err(|error| ureq::Error::Other(Box::new(ConnectFailed(error))))?;
        let stream = Arc::new(ShutDown(stream));
        (details.register_shutdown)(Arc::downgrade(&stream) as Weak<dyn ShutdownHandle>)?;
        Ok(Some(EngineTransport {
            stream,
            buffers: LazyBuffers::new(self.buffer_bytes, self.buffer_bytes),
            read_timeout: None,
            write_timeout: None,
            body_unwanted: self.body_unwanted.clone(),
        }))
    }
}

/// The stream as another thread may end it.
#[derive(Debug)]
struct ShutDown(UnixStream);

impl ShutdownHandle for ShutDown {
    fn shutdown(&self) {
        // An error means that it is closed already.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// One connection as ureq drives it.
#[derive(Debug)]
pub(super) struct EngineTransport {
    stream: Arc<ShutDown>,
    buffers: LazyBuffers,
    /// What the kernel has been told.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    body_unwanted: Option<Arc<AtomicBool>>,
}

impl Transport for EngineTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let wait = Wait::new(timeout.for_write());
        let mut stream = &self.stream.0;
        let mut output = &self.buffers.output()[..amount];
        while !output.is_empty() {
            wait.arm(&mut self.write_timeout, |limit| stream.set_write_timeout(limit))?;
            match stream.write(output) {
                Ok(written) => output = &output[written..],
                Err(error) if is_retry(&error) => {}
                Err(error) => match &self.body_unwanted {
                    Some(unwanted) if is_closed(&error) => {
                        unwanted.store(true, Ordering::Relaxed);
                        return Ok(());
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let wait = Wait::new(timeout.for_read());
        let mut stream = &self.stream.0;
        loop {
            wait.arm(&mut self.read_timeout, |limit| stream.set_read_timeout(limit))?;
            match stream.read(self.buffers.input_append_buf()) {
                Ok(read) => {
                    self.buffers.input_appended(read);
                    return Ok(read > 0);
                }
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// True only while the Engine has neither closed the connection nor said anything unasked.
    fn is_open(&mut self) -> bool {
        let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        socket::recv(self.stream.0.as_raw_fd(), &mut [0], peek) == Err(Errno::EAGAIN)
    }
}

/// How long one transmit or await may take.
struct Wait {
    until: Option<Instant>,
    reason: ureq::Timeout,
}

impl Wait {
    fn new(timeout: NextTimeout) -> Wait {
        let after = (!timeout.after.is_not_happening()).then_some(*timeout.after);
        Wait { until: after.map(|after| Instant::now() + after), reason: timeout.reason }
    }

    /// Makes the next blocking call end in time, by a kernel timeout in whole steps.
    fn arm(
        &self,
        armed: &mut Option<Duration>,
        set: impl Fn(Option<Duration>) -> io::Result<()>,
    ) -> Result<(), ureq::Error> {
        let limit = match self.until {
            None => None,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ureq::Error::Timeout(self.reason));
                }
                Some(whole_steps(left))
            }
        };
        if limit != *armed {
            set(limit)?;
            *armed = limit;
        }
        Ok(())
    }
}

fn whole_steps(left: Duration) -> Duration {
    let steps = left.as_nanos().div_ceil(limits::ENGINE_TIMEOUT_STEP.as_nanos());
    limits::ENGINE_TIMEOUT_STEP.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// The peer is gone or no longer reads.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof
    )
}

/// There is one Engine and it has no address; ureq wants one all the same.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

impl fmt::Display for ConnectFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connect failed")
    }
}

impl std::error::Error for ConnectFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for NotAUnixSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DOCKER_HOST is {:?}; only unix:// and an absolute path are served",
            self.docker_host
        )
    }
}

impl std::error::Error for NotAUnixSocket {}

#[cfg(test)]
mod test {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn docker_host_unset_or_empty_is_the_usual_socket() {
        assert_eq!(socket_from_env(None), Ok(PathBuf::from("/var/run/docker.sock")));
        assert_eq!(socket_from_env(Some("")), Ok(PathBuf::from("/var/run/docker.sock")));
    }

    #[test]
    fn docker_host_of_a_unix_socket_is_honoured() {
        assert_eq!(socket_from_env(Some("unix:///run/d.sock")), Ok(PathBuf::from("/run/d.sock")));
    }

    #[test]
    fn docker_host_of_another_kind_is_refused_with_its_value() {
        let refused = socket_from_env(Some("tcp://10.0.0.1:2375")).unwrap_err();
        assert!(refused.to_string().contains("tcp://10.0.0.1:2375"));
        assert!(socket_from_env(Some("unix://relative")).is_err());
    }

    #[test]
    fn a_kernel_timeout_is_rounded_up_to_whole_steps() {
        assert_eq!(whole_steps(Duration::from_micros(9_999_873)), Duration::from_secs(10));
        assert_eq!(whole_steps(Duration::from_nanos(1)), limits::ENGINE_TIMEOUT_STEP);
        assert_eq!(whole_steps(limits::ENGINE_TIMEOUT_STEP), limits::ENGINE_TIMEOUT_STEP);
    }

    #[test]
    fn a_full_backlog_times_the_connect_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full.sock");
        let listener = UnixListener::bind(&path).unwrap();
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let started = Instant::now();
        let error = connect(&path, Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_socket_path_longer_than_the_kernel_takes_is_an_error() {
        assert!(connect(Path::new(&"x".repeat(300)), Duration::from_secs(1)).is_err());
    }
}
