//! One connection: its socket, whose it is and the bytes read but not yet used. Owned by exactly
//! one place at a time: the lobby, a job, a stream. Sockets never block; who has to wait says
//! until when.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{self, MsgFlags, Shutdown};
use nix::sys::time::TimeSpec;

use super::Patience;
use crate::limits::{HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_PER_ADDRESS_MAX};
use crate::metrics;
use crate::threads::lock;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address in its plain form: `::ffff:a.b.c.d` is `a.b.c.d`.
    Address(IpAddr),
    /// A local user whom the socket file's mode let in.
    Local,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(f),
            Peer::Local => f.write_str("local"),
        }
    }
}

/// A non-blocking stream socket of either family.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Takes a socket that is non-blocking already.
    pub fn new(fd: OwnedFd) -> Socket {
        Socket(fd)
    }

    /// What has arrived; 0 is the end.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        retry(|| socket::recv(self.0.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT))
    }

    /// Hands the kernel as much as it takes now.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        retry(|| socket::sendmsg::<()>(self.0.as_raw_fd(), parts, &[], flags, None))
    }

    /// Sends all of `head` and `body`.
    ///
    /// # Errors
    /// `TimedOut` when the peer takes nothing for `stall` or not all within `deadline`.
    pub fn send_all(&self, head: &[u8], body: &[u8], patience: &Patience) -> io::Result<()> {
        let end = Instant::now() + patience.write_deadline;
        let mut sent = 0;
        while sent < head.len() + body.len() {
            let head_left = head.get(sent..).unwrap_or_default();
            let body_left = &body[sent.saturating_sub(head.len())..];
            match self.send(&[IoSlice::new(head_left), IoSlice::new(body_left)]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let stall = Instant::now() + patience.write_stall;
                    if !self.wait(PollFlags::POLLOUT, stall.min(end))? {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready for `what`, has failed, or `until` has come (false).
    pub fn wait(&self, what: PollFlags, until: Instant) -> io::Result<bool> {
        wait(&mut [PollFd::new(self.0.as_fd(), what)], until)
    }

    /// Tells the peer that nothing more comes. Failing means that it knows already.
    pub fn end_writing(&self) {
        let _ = socket::shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for any of `fds`; false when `until` came first.
pub(super) fn wait(fds: &mut [PollFd<'_>], until: Instant) -> io::Result<bool> {
    retry(|| {
        let left = until.saturating_duration_since(Instant::now());
        ppoll(fds, Some(TimeSpec::from_duration(left)), None)
    })
    .map(|ready| ready > 0)
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// A connection and what was read ahead on it.
#[derive(Debug)]
pub(super) struct Conn {
    pub socket: Socket,
    pub peer: Peer,
    /// Bytes of the next request, as far as they have come.
    pub read: Vec<u8>,
    /// How many of `read` were searched for the end of the head.
    pub scanned: usize,
    /// Whether a request has come on it: one that never asked has just connected.
    pub has_asked: bool,
    /// Whether the lobby's epoll set knows the socket.
    pub watched: bool,
    _pass: Pass,
}

impl Conn {
    pub fn new(socket: Socket, peer: Peer, pass: Pass) -> Box<Conn> {
        let (has_asked, watched) = (false, false);
        Box::new(Conn {
            socket,
            peer,
            read: Vec::new(),
            scanned: 0,
            has_asked,
            watched,
            _pass: pass,
        })
    }

    /// Appends what has arrived, through `scratch`; 0 is the end. Memory is taken for what came.
    pub fn receive(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.receive(scratch)?;
        if self.read.is_empty() {
            self.read = scratch[..count].to_vec();
        } else {
            self.read.extend_from_slice(&scratch[..count]);
        }
        Ok(count)
    }
}

/// How many connections there are, in all and of each address.
#[derive(Debug, Default)]
pub(super) struct Census {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Census {
    /// Counts one more connection; `None` when a limit is reached. `exempt` addresses have only the
    /// total.
    pub fn admit(self: &Arc<Census>, peer: Peer, exempt: bool) -> Option<Pass> {
        let key = match peer {
            Peer::Address(address) if !exempt => Some(network(address)),
            Peer::Address(_) | Peer::Local => None,
        };
        let mut counts = self.counts();
        if counts.total >= HTTP_CONNECTIONS_MAX {
            return None;
        }
        if let Some(address) = key {
            let of_address = counts.by_address.entry(address).or_default();
            if *of_address >= HTTP_CONNECTIONS_PER_ADDRESS_MAX {
                return None;
            }
            *of_address += 1;
        }
        counts.total += 1;
        metrics::HTTP_CONNECTIONS.up();
        Some(Pass { census: Arc::clone(self), key })
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.counts().total == 0
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }
}

/// The holder of an IPv6 address holds its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => IpAddr::V6((six.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// A connection's place in the census, given back when it closes.
#[derive(Debug)]
pub(super) struct Pass {
    census: Arc<Census>,
    key: Option<IpAddr>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        metrics::HTTP_CONNECTIONS.down();
        let mut counts = self.census.counts();
        counts.total -= 1;
        let Some(address) = self.key else { return };
        if let Some(count) = counts.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn address_at_its_limit_is_turned_away_until_one_leaves() {
        let census = Arc::new(Census::default());
        let peer = Peer::Address("192.0.2.1".parse().unwrap());
        let mut passes: Vec<Pass> = (0..HTTP_CONNECTIONS_PER_ADDRESS_MAX)
            .map(|_| census.admit(peer, false).unwrap())
            .collect();
        assert!(census.admit(peer, false).is_none());
        passes.pop();
        assert!(census.admit(peer, false).is_some());
    }

    #[test]
    fn exempt_address_has_only_the_total() {
        let census = Arc::new(Census::default());
        let peer = Peer::Address("127.0.0.1".parse().unwrap());
        let passes: Vec<Pass> =
            (0..HTTP_CONNECTIONS_MAX).map(|_| census.admit(peer, true).unwrap()).collect();
        assert!(census.admit(Peer::Local, true).is_none());
        drop(passes);
        assert!(census.admit(Peer::Local, true).is_some());
    }

    #[test]
    fn six_addresses_of_one_network_share_a_limit() {
        let census = Arc::new(Census::default());
        let peer = |last: u16| Peer::Address(format!("2001:db8::{last:x}").parse().unwrap());
        let limit = u16::try_from(HTTP_CONNECTIONS_PER_ADDRESS_MAX).unwrap();
        let passes: Vec<Pass> =
            (0..limit).map(|last| census.admit(peer(last), false).unwrap()).collect();
        assert!(census.admit(peer(limit), false).is_none());
        assert_eq!(passes.len(), usize::from(limit));
    }
}
