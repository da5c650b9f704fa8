//! Where this machine is: its own addresses (the door counts them as loopback) and the one the host
//! reaches it by. Takes addresses, never names: resolving blocks and is the caller's business.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;

/// Every address of every interface, loopback included.
///
/// # Errors
/// The kernel refused the list.
pub fn own() -> io::Result<BTreeSet<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|socket| IpAddr::V4(socket.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|socket| IpAddr::V6(socket.ip())))
    });
    Ok(addresses.collect())
}

/// The address to register under (contract 3.1 and rule 16, always IPv4): what we bind to, or if
/// that is every address, the one that the way to the host leaves from, or else 127.0.0.1.
pub fn registered(bind_ip: IpAddr, host: Option<SocketAddr>) -> Ipv4Addr {
    match bind_ip {
        IpAddr::V4(bound) if !bound.is_unspecified() => bound,
        _ => host.and_then(towards).unwrap_or(Ipv4Addr::LOCALHOST),
    }
}

/// Connecting a UDP socket sends nothing; it only makes the kernel choose a route.
fn towards(peer: SocketAddr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(peer).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(local) => Some(local),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn peer(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn own_addresses_include_loopback() {
        assert!(own().unwrap().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn runner_bound_to_one_address_registers_that() {
        let bound = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(registered(bound.into(), peer("127.0.0.1:8000")), bound);
    }

    #[test]
    fn runner_bound_to_all_registers_the_address_towards_the_host() {
        let loopback = registered(ANY, peer("127.9.9.9:8000"));
        assert!(loopback.is_loopback());
    }

    #[test]
    fn runner_bound_to_all_without_a_way_to_a_host_registers_loopback() {
        assert_eq!(registered(ANY, None), Ipv4Addr::LOCALHOST);
        assert_eq!(registered(ANY, peer("[2001:db8::1]:8000")), Ipv4Addr::LOCALHOST);
    }

    #[test]
    fn runner_bound_to_a_v6_address_still_registers_v4() {
        assert_eq!(registered("::".parse().unwrap(), None), Ipv4Addr::LOCALHOST);
    }
}
