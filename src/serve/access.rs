//! Who may call (design D13): one pure decision over the caller and the policy, and the shared
//! policy it is made with. Asked by the desk before a body is read. Resolves no names: addresses
//! are handed in.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use super::conn::Peer;
use super::route::Audience;
use crate::limits::{DENIED_KEPT_MAX, DENIED_PATH_BYTES_MAX};
use crate::metrics;
use crate::model::settings::Cidr;
use crate::threads::{lock, unpoisoned};

/// Whom the operator lets in.
#[derive(Clone, Default)]
pub struct Policy {
    /// The cluster's host, as its name resolves now.
    pub host_addresses: Vec<IpAddr>,
    /// This machine's own addresses; they count as loopback.
    pub own_addresses: Vec<IpAddr>,
    pub allow_from: Vec<Cidr>,
    /// This machine's name: callers may use it in `Host`.
    pub hostname: String,
    /// Further names in `Host`, and names whose web pages may call.
    pub allow_hosts: Vec<String>,
    /// Whether callers on this machine are let in over TCP.
    pub loopback: bool,
    /// Lets its bearer in from anywhere.
    pub token: Option<String>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("host_addresses", &self.host_addresses)
            .field("own_addresses", &self.own_addresses)
            .field("allow_from", &self.allow_from)
            .field("hostname", &self.hostname)
            .field("allow_hosts", &self.allow_hosts)
            .field("loopback", &self.loopback)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .finish()
    }
}

impl Policy {
    fn is_this_machine(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.own_addresses.contains(&address)
    }

    fn knows_address(&self, address: IpAddr) -> bool {
        (self.loopback && self.is_this_machine(address))
            || self.host_addresses.contains(&address)
            || self.allow_from.iter().any(|range| covers(range, address))
    }

    fn knows_token(&self, bearer: Option<&str>) -> bool {
        match (&self.token, bearer) {
            (Some(token), Some(bearer)) => same(token.as_bytes(), bearer.as_bytes()),
            (None, _) | (_, None) => false,
        }
    }

    /// Addresses and fixed names can't be pointed at us by somebody else's name server.
    fn knows_host(&self, authority: &str) -> bool {
        let Some(name) = host_of(authority) else { return false };
        let known = name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || name.eq_ignore_ascii_case(&self.hostname)
            || self.allow_hosts.iter().any(|known| name.eq_ignore_ascii_case(known));
        // An unset name of this machine is not the name of nobody.
        known && !name.is_empty()
    }

    fn knows_origin(&self, origin: &str, authority: Option<&str>) -> bool {
        let Some((_, page)) = origin.split_once("://") else { return false };
        let named =
            |name: &str| self.allow_hosts.iter().any(|known| name.eq_ignore_ascii_case(known));
        authority.is_some_and(|ours| page.eq_ignore_ascii_case(ours))
            || host_of(page).is_some_and(named)
    }
}

/// What a request says about who sent it.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    pub peer: Peer,
    /// `Host`, or the authority of an absolute target.
    pub host: Option<&'a str>,
    pub origin: Option<&'a str>,
    /// What follows `Bearer ` in `Authorization`.
    pub bearer: Option<&'a str>,
}

/// Why a caller is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    Address,
    HostName,
    Origin,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denial::Address => "Forbidden: this address may not call the runner (ALLOW_FROM)",
            Denial::HostName => "Forbidden: not a name of the runner in Host (ALLOW_HOSTS)",
            Denial::Origin => "Forbidden: not a page of the runner in Origin (ALLOW_HOSTS)",
        })
    }
}

/// The decision. Local users passed the socket file's mode; workloads are checked by their handler.
///
/// # Errors
/// The first reason to refuse.
pub fn decide(policy: &Policy, caller: &Caller<'_>, audience: Audience) -> Result<(), Denial> {
    let address = match (audience, caller.peer) {
        (Audience::Workload, _) | (Audience::Users, Peer::Local) => return Ok(()),
        (Audience::Users, Peer::Address(address)) => address.to_canonical(),
    };
    if !policy.knows_address(address) && !policy.knows_token(caller.bearer) {
        return Err(Denial::Address);
    }
    // A browser on an allowed machine runs anybody's pages: those must not call (D13).
    if caller.host.is_some_and(|host| !policy.knows_host(host)) {
        return Err(Denial::HostName);
    }
    if caller.origin.is_some_and(|origin| !policy.knows_origin(origin, caller.host)) {
        return Err(Denial::Origin);
    }
    Ok(())
}

/// Whether `address` lies in `range`. Families never mix.
pub fn covers(range: &Cidr, address: IpAddr) -> bool {
    let differing = match (range.base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            (base.to_bits() ^ address.to_bits()).leading_zeros()
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            (base.to_bits() ^ address.to_bits()).leading_zeros()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    differing >= u32::from(range.prefix)
}

/// The name in `name:port`, `name` or `[address]:port`; a final dot is no part of it.
fn host_of(authority: &str) -> Option<&str> {
    if let Some(rest) = authority.strip_prefix('[') {
        return Some(rest.split_once(']')?.0);
    }
    let name = authority.split_once(':').map_or(authority, |(name, _)| name);
    Some(name.strip_suffix('.').unwrap_or(name))
}

/// Compares in a time that depends on the given text's length only.
fn same(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = secret.len() ^ given.len();
    for (at, byte) in given.iter().enumerate() {
        let expected = secret.get(at).copied().unwrap_or_default();
        difference |= usize::from(std::hint::black_box(byte ^ expected));
    }
    difference == 0
}

/// Callers from one address that were refused.
#[derive(Clone, Debug)]
pub struct Denied {
    pub address: IpAddr,
    pub times: u64,
    /// The path of the last of them, cut short.
    pub path: String,
    pub last: SystemTime,
    pub why: Denial,
}

/// The policy in force and whom it has turned away.
#[derive(Debug, Default)]
pub struct Access {
    policy: RwLock<Policy>,
    denied: Mutex<Vec<Denied>>,
}

impl Access {
    /// Starts with `policy` and nobody turned away.
    pub fn new(policy: Policy) -> Access {
        let host_addresses = plain(policy.host_addresses);
        let own_addresses = plain(policy.own_addresses);
        let policy = Policy { host_addresses, own_addresses, ..policy };
        Access { policy: RwLock::new(policy), denied: Mutex::default() }
    }

    /// The host's name resolves to these now.
    pub fn set_host_addresses(&self, addresses: Vec<IpAddr>) {
        self.policy_mut().host_addresses = plain(addresses);
    }

    /// The machine has these addresses now.
    pub fn set_own_addresses(&self, addresses: Vec<IpAddr>) {
        self.policy_mut().own_addresses = plain(addresses);
    }

    /// The most recently refused addresses, last first.
    pub fn denied(&self) -> Vec<Denied> {
        let mut denied = self.denied_mut().clone();
        denied.sort_by_key(|entry| std::cmp::Reverse(entry.last));
        denied
    }

    /// Whether the caps per address are not for this caller: this machine and the host, which
    /// speaks for all its users.
    pub(super) fn is_exempt(&self, peer: Peer) -> bool {
        let policy = self.policy();
        match peer {
            Peer::Local => true,
            Peer::Address(address) => {
                policy.is_this_machine(address) || policy.host_addresses.contains(&address)
            }
        }
    }

    /// [`decide`] with the policy in force; a refusal is counted and remembered.
    pub(super) fn check(
        &self,
        caller: &Caller<'_>,
        audience: Audience,
        path: &str,
    ) -> Result<(), Denial> {
        let decision = decide(&self.policy(), caller, audience);
        if let (Err(why), Peer::Address(address)) = (decision, caller.peer) {
            metrics::HTTP_DENIED.up();
            self.remember(address.to_canonical(), path, why);
        }
        decision
    }

    fn remember(&self, address: IpAddr, path: &str, why: Denial) {
        // Targets are ASCII, so that any cut is between characters.
        let path = path.get(..DENIED_PATH_BYTES_MAX).unwrap_or(path).to_owned();
        let entry = Denied { address, times: 1, path, last: SystemTime::now(), why };
        let mut denied = self.denied_mut();
        if let Some(known) = denied.iter_mut().find(|known| known.address == address) {
            *known = Denied { times: known.times + 1, ..entry };
            return;
        }
        if denied.len() == DENIED_KEPT_MAX {
            let oldest = (0..denied.len()).min_by_key(|at| denied[*at].last).unwrap_or_default();
            denied.swap_remove(oldest);
        }
        denied.push(entry);
    }

    fn policy(&self) -> RwLockReadGuard<'_, Policy> {
        unpoisoned(self.policy.read())
    }

    fn policy_mut(&self) -> RwLockWriteGuard<'_, Policy> {
        unpoisoned(self.policy.write())
    }

    fn denied_mut(&self) -> MutexGuard<'_, Vec<Denied>> {
        lock(&self.denied)
    }
}

fn plain(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.into_iter().map(|address| address.to_canonical()).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn policy() -> Policy {
        Policy {
            host_addresses: vec![address("192.0.2.10")],
            own_addresses: vec![address("192.0.2.1")],
            allow_from: vec![range("198.51.100.0", 24), range("2001:db8::", 32)],
            hostname: "node7".into(),
            allow_hosts: vec!["river.example".into()],
            loopback: true,
            token: Some("sesame".into()),
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(base: &str, prefix: u8) -> Cidr {
        Cidr { base: address(base), prefix }
    }

    fn from(peer: &str) -> Caller<'static> {
        let peer = Peer::Address(address(peer));
        Caller { peer, host: Some("192.0.2.1:8001"), origin: None, bearer: None }
    }

    fn users(caller: &Caller<'_>) -> Result<(), Denial> {
        decide(&policy(), caller, Audience::Users)
    }

    #[test]
    fn known_addresses_are_let_in_and_others_are_not() {
        assert_eq!(users(&from("127.0.0.1")), Ok(()));
        assert_eq!(users(&from("127.9.9.9")), Ok(()));
        assert_eq!(users(&from("::1")), Ok(()));
        assert_eq!(users(&from("::ffff:127.0.0.1")), Ok(()));
        assert_eq!(users(&from("192.0.2.1")), Ok(()));
        assert_eq!(users(&from("192.0.2.10")), Ok(()));
        assert_eq!(users(&from("::ffff:192.0.2.10")), Ok(()));
        assert_eq!(users(&from("198.51.100.255")), Ok(()));
        assert_eq!(users(&from("2001:db8:ffff::1")), Ok(()));
        assert_eq!(users(&from("198.51.101.0")), Err(Denial::Address));
        assert_eq!(users(&from("172.30.0.5")), Err(Denial::Address));
        assert_eq!(users(&from("2001:db9::1")), Err(Denial::Address));
    }

    #[test]
    fn workload_rows_are_open_to_any_address() {
        assert_eq!(decide(&policy(), &from("172.30.0.5"), Audience::Workload), Ok(()));
    }

    #[test]
    fn closed_loopback_leaves_the_host_even_on_this_machine() {
        let closed = Policy { loopback: false, ..policy() };
        let local = from("127.0.0.1");
        assert_eq!(decide(&closed, &local, Audience::Users), Err(Denial::Address));
        assert_eq!(decide(&closed, &from("192.0.2.1"), Audience::Users), Err(Denial::Address));
        let host_here = Policy { host_addresses: vec![address("127.0.0.1")], ..closed };
        assert_eq!(decide(&host_here, &local, Audience::Users), Ok(()));
    }

    #[test]
    fn token_lets_in_from_anywhere_if_it_is_the_whole_one() {
        let with = |bearer| Caller { bearer: Some(bearer), ..from("172.30.0.5") };
        assert_eq!(users(&with("sesame")), Ok(()));
        assert_eq!(users(&with("sesam")), Err(Denial::Address));
        assert_eq!(users(&with("sesames")), Err(Denial::Address));
        assert_eq!(users(&with("")), Err(Denial::Address));
        let unset = Policy { token: None, ..policy() };
        assert_eq!(decide(&unset, &with(""), Audience::Users), Err(Denial::Address));
    }

    #[test]
    fn local_user_needs_nothing_else() {
        let caller =
            Caller { peer: Peer::Local, host: Some("anything"), origin: None, bearer: None };
        assert_eq!(users(&caller), Ok(()));
    }

    #[test]
    fn host_is_an_address_or_a_name_of_ours() {
        let named = |host| users(&Caller { host, ..from("127.0.0.1") });
        assert_eq!(named(None), Ok(()));
        assert_eq!(named(Some("localhost:8001")), Ok(()));
        assert_eq!(named(Some("[::1]:8001")), Ok(()));
        assert_eq!(named(Some("203.0.113.9")), Ok(()));
        assert_eq!(named(Some("NODE7:8001")), Ok(()));
        assert_eq!(named(Some("river.example.")), Ok(()));
        assert_eq!(named(Some("evil.example:8001")), Err(Denial::HostName));
        assert_eq!(named(Some("localhost.evil.example")), Err(Denial::HostName));
        assert_eq!(named(Some("")), Err(Denial::HostName));
        assert_eq!(named(Some("[::1")), Err(Denial::HostName));
    }

    #[test]
    fn origin_is_the_called_one_or_a_configured_name() {
        let page = |origin| {
            users(&Caller {
                host: Some("localhost:8001"),
                origin: Some(origin),
                ..from("127.0.0.1")
            })
        };
        assert_eq!(page("http://localhost:8001"), Ok(()));
        assert_eq!(page("https://river.example"), Ok(()));
        assert_eq!(page("http://localhost:3000"), Err(Denial::Origin));
        assert_eq!(page("http://evil.example"), Err(Denial::Origin));
        assert_eq!(page("null"), Err(Denial::Origin));
    }

    #[test]
    fn range_of_no_bits_covers_its_family_only() {
        assert!(covers(&range("0.0.0.0", 0), address("203.0.113.9")));
        assert!(!covers(&range("0.0.0.0", 0), address("::1")));
        assert!(covers(&range("192.0.2.1", 32), address("192.0.2.1")));
        assert!(!covers(&range("192.0.2.1", 32), address("192.0.2.0")));
    }

    #[test]
    fn denied_addresses_are_remembered_up_to_a_limit() {
        let access = Access::new(policy());
        for last in 0..=DENIED_KEPT_MAX {
            let caller = from(&format!("172.30.0.{last}"));
            let _ = access.check(&caller, Audience::Users, &"/x".repeat(DENIED_PATH_BYTES_MAX));
            let _ = access.check(&caller, Audience::Users, "/api/execute");
        }
        let denied = access.denied();
        assert_eq!(denied.len(), DENIED_KEPT_MAX);
        assert_eq!(denied[0].address, address("172.30.0.16"));
        assert_eq!((denied[0].times, denied[0].path.as_str()), (2, "/api/execute"));
    }

    #[test]
    fn host_address_that_changed_counts_at_once() {
        let access = Access::new(policy());
        access.set_host_addresses(vec![address("::ffff:203.0.113.9")]);
        let check = |peer| access.check(&from(peer), Audience::Users, "/");
        assert_eq!(check("203.0.113.9"), Ok(()));
        assert_eq!(check("192.0.2.10"), Err(Denial::Address));
    }

    #[test]
    fn token_is_not_printed() {
        assert!(!format!("{:?}", policy()).contains("sesame"));
    }
}
