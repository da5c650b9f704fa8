//! The host's addresses. A name is resolved on a thread of its own (`host-names`), because a
//! resolver may take half a minute; calls and the door only read what is known.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use log::Level;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::limits::{HOST_ADDRESSES_MAX, HOST_RESOLVE_AGAIN, HOST_RESOLVE_RETRY, STACK_BYTES};
use crate::stop::Stop;
use crate::threads::{self, lock};

/// `HOST_ADDRESS` and what it stands for now.
#[derive(Debug)]
pub struct HostNames {
    address: String,
    known: Mutex<Vec<IpAddr>>,
}

impl HostNames {
    /// An address literal is known at once; a name is not until [`HostNames::keep_known`] runs.
    pub fn new(address: &str) -> HostNames {
        let literal = address.parse().into_iter().collect();
        HostNames { address: address.to_owned(), known: Mutex::new(literal) }
    }

    /// The addresses known now.
    pub fn known(&self) -> Vec<IpAddr> {
        lock(&self.known).clone()
    }

    /// Resolves now and again until `stop`, and tells `changed` the addresses each time they are
    /// others. A literal needs no thread: `changed` is called once, here.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn keep_known(
        self: &Arc<HostNames>,
        stop: Stop,
        changed: impl Fn(Vec<IpAddr>) + Send + 'static,
    ) -> io::Result<Option<JoinHandle<Option<()>>>> {
        if !self.known().is_empty() {
            changed(self.known());
            return Ok(None);
        }
        let names = Arc::clone(self);
        threads::spawn("host-names", STACK_BYTES, move || {
            let mut is_away = false;
            loop {
                let pause = match names.resolve() {
                    Ok(found) => {
                        is_away = false;
                        let before = std::mem::replace(&mut *lock(&names.known), found.clone());
                        if before != found {
                            changed(found);
                        }
                        HOST_RESOLVE_AGAIN
                    }
                    // The old addresses stay: a resolver that is away does not move the host.
                    Err(error) => {
                        // The first only: it is asked again every two seconds.
                        let level = if is_away { Level::Debug } else { Level::Warn };
                        log::log!(level, "HOST_ADDRESS {}: {error}", names.address);
                        is_away = true;
                        HOST_RESOLVE_RETRY
                    }
                };
                if stop.wait(pause) {
                    return;
                }
            }
        })
        .map(Some)
    }

    fn resolve(&self) -> io::Result<Vec<IpAddr>> {
        let mut found: Vec<IpAddr> =
            (self.address.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// Answers the HTTP client from what is known; never asks a resolver.
#[derive(Debug)]
pub struct KnownAddresses(pub Arc<HostNames>);

impl Resolver for KnownAddresses {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        const PORT_OF_HTTP: u16 = 80;
        let port = uri.port_u16().unwrap_or(PORT_OF_HTTP);
        let mut answer = self.empty();
        for address in self.0.known().into_iter().take(HOST_ADDRESSES_MAX) {
            answer.push(SocketAddr::new(address, port));
        }
        if answer.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(answer) }
    }
}
