//! The sockets the door listens on: TCP, and a file for local users. Opened before the door's
//! thread starts, so that a port in use is an error of the start; or taken from a service manager,
//! which keeps them open while one runner follows another.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr,
    sockopt,
};
use nix::sys::stat::{Mode, fchmod};

use super::ServeError;
use super::conn::{Peer, Socket};
use crate::limits::HTTP_BACKLOG;

/// Group members may connect, others not.
const SOCKET_MODE: u32 = 0o660;

/// What a server listens on. Connections wait in the kernel from the opening on, so it is opened
/// before whatever a start takes its time for.
#[derive(Debug)]
pub struct Sockets {
    pub(super) listeners: Vec<Listener>,
    /// Where TCP is listened on.
    pub(super) local_addr: SocketAddr,
}

/// A listening socket that a service manager passed, with the name it gave it.
#[derive(Debug)]
pub struct Passed {
    pub name: String,
    pub socket: OwnedFd,
}

/// Why a passed socket is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassedFault {
    /// It is no stream socket, or does not listen.
    NotListening,
    /// Neither TCP nor a socket file: whoever reaches it could not be told from others.
    Family,
    /// The host and the containers are told another port.
    Port { listens: u16, wanted: u16 },
    /// Users of this machine look for us elsewhere.
    File { listens: PathBuf, wanted: PathBuf },
}

impl Sockets {
    /// Listens on TCP, and on a socket file if there is to be one.
    ///
    /// # Errors
    /// An address or socket file that can't be had.
    pub fn open(address: SocketAddr, api_socket: Option<&Path>) -> Result<Sockets, ServeError> {
        Sockets::open_or_take(address, api_socket, Vec::new(), |_| false)
    }

    /// Takes the `passed` sockets, and opens what is not among them. What another process still has
    /// is tried again for as long as `again` says so, which is also where it is waited.
    ///
    /// # Errors
    /// As [`Sockets::open`], or a passed socket does not fit the settings.
    pub fn open_or_take(
        address: SocketAddr,
        api_socket: Option<&Path>,
        passed: Vec<Passed>,
        mut again: impl FnMut(&ServeError) -> bool,
    ) -> Result<Sockets, ServeError> {
        let (mut listeners, mut local_addr, mut has_file) = (Vec::new(), None, false);
        for Passed { name, socket } in passed {
            let taken = Listener::take(socket, address.port(), api_socket);
            let listener = taken.map_err(|fault| ServeError::Passed { name, fault })?;
            match listener.local_addr() {
                Some(listened) => local_addr = local_addr.or(Some(listened)),
                None => has_file = true,
            }
            listeners.push(listener);
        }
        let local_addr = match local_addr {
            Some(local_addr) => local_addr,
            None => {
                let (tcp, local_addr) = insist(|| Listener::tcp(address), &mut again)?;
                listeners.push(tcp);
                local_addr
            }
        };
        if let Some(path) = api_socket.filter(|_| !has_file) {
            listeners.push(insist(|| Listener::unix(path), &mut again)?);
        }
        Ok(Sockets { listeners, local_addr })
    }
}

/// Tries until it works, fails for another reason than somebody who has it, or `again` says no.
fn insist<T>(
    mut open: impl FnMut() -> Result<T, ServeError>,
    again: &mut impl FnMut(&ServeError) -> bool,
) -> Result<T, ServeError> {
    loop {
        match open() {
            Err(error) if error.is_in_use() && again(&error) => {}
            outcome => return outcome,
        }
    }
}

#[derive(Debug)]
pub(super) struct Listener {
    socket: Listening,
    origin: Origin,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Whose the socket is, and with it what is done at the end.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// Nobody listens on it after us.
    Opened,
    /// The same, and the file goes with it.
    OpenedFile(PathBuf),
    /// The service manager has it too, and gives it to whoever follows us.
    Passed,
}

impl Listener {
    /// Listens on TCP, and says where when `address` left the port open.
    fn tcp(address: SocketAddr) -> Result<(Listener, SocketAddr), ServeError> {
        let open = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            socket::listen(&listener, backlog())?;
            let local_addr = listener.local_addr()?;
            let socket = Listening::Tcp(listener);
            Ok((Listener { socket, origin: Origin::Opened }, local_addr))
        };
        open().map_err(|source| ServeError::Address { address, source })
    }

    /// Listens on a socket file. One that nobody answers any more is replaced.
    fn unix(path: &Path) -> Result<Listener, ServeError> {
        let failed = |source| ServeError::SocketFile { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(there) if !there.file_type().is_socket() => {
                return Err(ServeError::NoSocketFile { path: path.to_owned() });
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                // It went away between the two looks.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
                Ok(_) => return Err(ServeError::SocketInUse { path: path.to_owned() }),
            },
        }
        let listener = open_unix(path).map_err(failed)?;
        let socket = Listening::Unix(listener);
        Ok(Listener { socket, origin: Origin::OpenedFile(path.to_owned()) })
    }

    /// Takes a passed socket. Its mode, if it is a file, was the service manager's to choose.
    fn take(socket: OwnedFd, port: u16, file: Option<&Path>) -> Result<Listener, PassedFault> {
        let is_stream = socket::getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream);
        if !is_stream || socket::getsockopt(&socket, sockopt::AcceptConn) != Ok(true) {
            return Err(PassedFault::NotListening);
        }
        let unusable = |_| PassedFault::NotListening;
        let name: SockaddrStorage =
            socket::getsockname(socket.as_raw_fd()).map_err(|_| PassedFault::NotListening)?;
        let socket = match name.family() {
            Some(AddressFamily::Inet | AddressFamily::Inet6) => {
                let listener = TcpListener::from(socket);
                let listens = listener.local_addr().map_err(unusable)?.port();
                if port != 0 && listens != port {
                    return Err(PassedFault::Port { listens, wanted: port });
                }
                listener.set_nonblocking(true).map_err(unusable)?;
                Listening::Tcp(listener)
            }
            Some(AddressFamily::Unix) => {
                let listener = UnixListener::from(socket);
                let name = listener.local_addr().map_err(unusable)?;
                let listens = name.as_pathname().ok_or(PassedFault::Family)?;
                if let Some(wanted) = file.filter(|wanted| !is_one_file(listens, wanted)) {
                    let (listens, wanted) = (listens.to_owned(), wanted.to_owned());
                    return Err(PassedFault::File { listens, wanted });
                }
                listener.set_nonblocking(true).map_err(unusable)?;
                Listening::Unix(listener)
            }
            _ => return Err(PassedFault::Family),
        };
        Ok(Listener { socket, origin: Origin::Passed })
    }

    /// Where TCP is listened on; a socket file has no address.
    fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(_) => None,
        }
    }

    /// Whether callers who have connected and were not accepted wait for whoever follows us, instead
    /// of being reset when we close.
    pub fn outlives_us(&self) -> bool {
        self.origin == Origin::Passed
    }

    /// Lets nobody else connect, so that those who have can all be accepted before we close, which would
    /// reset them. Packets to a port are dropped: whoever knocks between here and the close knocks
    /// again a second later, as after any lost packet. A socket file is taken away.
    pub fn invite_no_more(&mut self) -> io::Result<()> {
        match (&self.socket, &self.origin) {
            (Listening::Tcp(listener), Origin::Opened) => drop_packets(listener),
            (_, Origin::OpenedFile(path)) => {
                let gone = fs::remove_file(path);
                // At the close the path may be somebody else's.
                self.origin = Origin::Opened;
                gone
            }
            (_, Origin::Opened | Origin::Passed) => Ok(()),
        }
    }

    /// The next connection and who is there, with the socket non-blocking and without Nagle's wait.
    pub fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let peer = Peer::Address(address.ip().to_canonical());
                Ok((Socket::new(stream.into()), peer))
            }
            Listening::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Socket::new(stream.into()), Peer::Local))
            }
        }
    }
}

/// The same file, perhaps by two paths (`/run`, `/var/run`).
fn is_one_file(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    one == other || matches!((identity(one), identity(other)), (Ok(a), Ok(b)) if a == b)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // While it still listens, so that nobody's newer file is taken away.
        if let Origin::OpenedFile(path) = &self.origin {
            let _ = fs::remove_file(path);
        }
    }
}

fn open_unix(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The file is made with the socket's own mode, so that it is never open to all, not even
    // between the next two lines; the umask may have taken more away.
    fchmod(&fd, Mode::from_bits_truncate(SOCKET_MODE))?;
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket::listen(&fd, backlog())?;
    Ok(UnixListener::from(fd))
}

/// Has the kernel drop what arrives at `listener` itself; its connections are not touched.
fn drop_packets(listener: &TcpListener) -> io::Result<()> {
    // "Accept 0 bytes", the shortest filter there is (socket(7), SO_ATTACH_FILTER).
    let mut nothing =
        [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: nothing.len() as u16, filter: nothing.as_mut_ptr() };
    // SAFETY: the kernel reads `program` and the one instruction it points to, both alive here.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn backlog() -> Backlog {
    Backlog::new(HTTP_BACKLOG).unwrap_or(Backlog::MAXCONN)
}

#[cfg(test)]
mod test {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(matches!(Listener::unix(&path), Err(ServeError::SocketInUse { .. })));
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::unix(&path), Err(ServeError::NoSocketFile { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn port_in_use_is_an_error() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = Listener::tcp(first.local_addr().unwrap());
        assert!(matches!(second, Err(ServeError::Address { .. })));
    }

    fn take(socket: impl Into<OwnedFd>, port: u16) -> Result<Listener, PassedFault> {
        Listener::take(socket.into(), port, None)
    }

    #[test]
    fn passed_listener_is_taken_on_its_port_only() {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let fits = listener();
        let wanted = port(&fits);
        assert!(take(fits, wanted).unwrap().outlives_us());
        let other = listener();
        let listens = port(&other);
        assert_eq!(take(other, 1).unwrap_err(), PassedFault::Port { listens, wanted: 1 });
    }

    #[test]
    fn passed_socket_that_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(take(connected, 0).unwrap_err(), PassedFault::NotListening);
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(take(datagrams, 0).unwrap_err(), PassedFault::NotListening);
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(take(file, 0).unwrap_err(), PassedFault::NotListening);
    }

    #[test]
    fn passed_socket_without_a_file_is_refused_since_no_mode_guards_it() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("river-listen-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        assert_eq!(take(listener, 0).unwrap_err(), PassedFault::Family);
    }

    #[test]
    fn nobody_connects_after_the_last_invitation_and_who_has_is_still_accepted() {
        let (mut listener, address) = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut early = std::net::TcpStream::connect(address).unwrap();
        listener.invite_no_more().unwrap();
        let late = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        let (socket, _) = listener.accept().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(listener);
        // Its bytes are not dropped.
        early.write_all(b"late words").unwrap();
        let mut conn = [0; 16];
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(nix::unistd::read(&socket, &mut conn).unwrap(), b"late words".len());
    }

    #[test]
    fn socket_file_is_away_before_its_last_caller_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let mut listener = Listener::unix(&path).unwrap();
        let _early = UnixStream::connect(&path).unwrap();
        listener.invite_no_more().unwrap();
        assert!(UnixStream::connect(&path).is_err());
        let successor = Listener::unix(&path).unwrap();
        assert!(listener.accept().is_ok());
        drop(listener);
        assert!(UnixStream::connect(&path).is_ok());
        drop(successor);
    }

    #[test]
    fn passed_socket_file_stays_when_its_listener_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let taken = Listener::take(listener.into(), 0, Some(&path)).unwrap();
        drop(taken);
        assert!(path.exists());
    }

    #[test]
    fn port_that_becomes_free_meanwhile_is_had() {
        let mut first = Some(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = first.as_ref().unwrap().local_addr().unwrap();
        let again = |_: &ServeError| first.take().is_some();
        let sockets = Sockets::open_or_take(address, None, Vec::new(), again).unwrap();
        assert_eq!(sockets.local_addr, address);
    }
}
