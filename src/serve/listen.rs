//! The sockets the door listens on: TCP, and a file for local users. Opened before the door's
//! thread starts, so that a port in use is an error of the start.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};

use super::ServeError;
use super::conn::{Peer, Socket};
use crate::limits::HTTP_BACKLOG;

/// Group members may connect, others not.
const SOCKET_MODE: u32 = 0o660;

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens on TCP, and says where when `address` left the port open.
    pub fn tcp(address: SocketAddr) -> Result<(Listener, SocketAddr), ServeError> {
        let open = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            socket::listen(&listener, backlog())?;
            let local_addr = listener.local_addr()?;
            Ok((Listener::Tcp(listener), local_addr))
        };
        open().map_err(|source| ServeError::Address { address, source })
    }

    /// Listens on a socket file. One that nobody answers any more is replaced.
    pub fn unix(path: &Path) -> Result<Listener, ServeError> {
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
                Err(error) => return Err(failed(error)),
                Ok(_) => return Err(ServeError::SocketInUse { path: path.to_owned() }),
            },
        }
        let listener = open_unix(path).map_err(failed)?;
        Ok(Listener::Unix(listener, path.to_owned()))
    }

    /// The next connection and who is there, with the socket non-blocking and without Nagle's wait.
    pub fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let peer = Peer::Address(address.ip().to_canonical());
                Ok((Socket::new(stream.into()), peer))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Socket::new(stream.into()), Peer::Local))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // While it still listens, so that nobody's newer file is taken away.
        if let Listener::Unix(_, path) = self {
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

fn backlog() -> Backlog {
    Backlog::new(HTTP_BACKLOG).unwrap_or(Backlog::MAXCONN)
}

#[cfg(test)]
mod test {
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
}
