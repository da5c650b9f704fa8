//! Ports that must be free, and the host that must answer.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::Finding;
use crate::cli::client::{Client, Target};
use crate::cli::reach::own_port;
use crate::cli::runner::{Health, Runner};
use crate::limits;
use crate::model::settings::Settings;

pub fn findings(settings: &Settings) -> Vec<Finding> {
    let running = running(own_port(settings), settings);
    let mut findings = vec![port(settings, running.as_ref())];
    // What the runner itself is not content with.
    let warnings = running.iter().flat_map(|health| &health.warnings);
    findings.extend(warnings.map(|text| Finding::warn("runner", text, "see GET /health")));
    if let Some(socket) = &settings.api_socket {
        findings.push(api_socket(socket, settings));
    }
    findings.push(match &settings.host_address {
        Some(address) => host(address, settings.host_port),
        None => Finding::ok("host", "none: this node works alone"),
    });
    findings
}

fn port(settings: &Settings, running: Option<&Health>) -> Finding {
    let address = SocketAddr::new(settings.runner_bind_ip, settings.runner_port);
    let error = match TcpListener::bind(address) {
        Ok(_) => return Finding::ok("runner_port", format!("{address} is free")),
        Err(error) => error,
    };
    match (error.kind(), running) {
        (io::ErrorKind::AddrInUse, Some(Health { version, .. })) => {
            Finding::ok("runner_port", format!("{address} is served by river-runner {version}"))
        }
        (io::ErrorKind::AddrInUse, None) => Finding::fail(
            "runner_port",
            format!("{address} is taken by another program"),
            "end that program (ss -ltnp shows it) or set runner_port",
        ),
        (io::ErrorKind::AddrNotAvailable, _) => Finding::fail(
            "runner_port",
            format!("{} is no address of this machine", settings.runner_bind_ip),
            "set runner_bind_ip to 0.0.0.0 or an address that `ip addr` shows",
        ),
        _ => Finding::fail(
            "runner_port",
            format!("{address} can't be opened: {error}"),
            "run as root or set runner_port to 1024 or more",
        ),
    }
}

fn api_socket(path: &Path, settings: &Settings) -> Finding {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Finding::fail(
            "api_socket",
            format!("{shown} is something else than a socket"),
            "move it away or set api_socket",
        ),
        Ok(_) => match running(Target::Unix(path.into()), settings) {
            Some(Health { version, .. }) => {
                Finding::ok("api_socket", format!("{shown} is served by river-runner {version}"))
            }
            None => Finding::ok("api_socket", format!("{shown} is left over, and replaced")),
        },
        Err(_) => Finding::ok("api_socket", format!("{shown} is free")),
    }
}

/// What a runner of ours says that answers there.
fn running(target: Target, settings: &Settings) -> Option<Health> {
    let client = Client::new(target, settings.api_token.clone(), limits::DOCTOR_PATIENCE);
    Runner(client).health().ok()
}

fn host(address: &str, port: u16) -> Finding {
    let shown = format!("{address}:{port}");
    let remedy = "check host_address and host_port, that the host runs, and the firewalls between";
    let addresses = match (address, port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Finding::fail("host", format!("{shown}: {error}"), remedy),
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, limits::CLI_CONNECT_PATIENCE) {
            Ok(_) => return Finding::ok("host", format!("{shown} answers")),
            Err(error) => last = error,
        }
    }
    Finding::fail("host", format!("{shown}: {last}"), remedy)
}

#[cfg(test)]
mod test {
    use std::net::Ipv4Addr;

    use super::super::Grade;
    use super::*;

    fn on_port(runner_port: u16) -> Settings {
        let runner_bind_ip = Ipv4Addr::LOCALHOST.into();
        Settings { runner_port, runner_bind_ip, ..Settings::default() }
    }

    #[test]
    fn port_taken_by_a_stranger_fails_and_by_a_runner_is_fine() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = on_port(stranger.local_addr().unwrap().port());
        assert_eq!(port(&settings, None).grade, Grade::Fail);
        let health = serde_json::from_str(r#"{"version": "0.1.0", "shared_dir": "/s"}"#).unwrap();
        assert_eq!(port(&settings, Some(&health)).grade, Grade::Ok);
        drop(stranger);
        assert_eq!(port(&settings, None).grade, Grade::Ok);
    }

    #[test]
    fn address_of_another_machine_fails() {
        let elsewhere =
            Settings { runner_bind_ip: "192.0.2.1".parse().unwrap(), ..Settings::default() };
        assert!(port(&elsewhere, None).found.contains("no address of this machine"));
    }

    #[test]
    fn host_that_refuses_fails_with_its_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().port();
        assert_eq!(host("127.0.0.1", open).grade, Grade::Ok);
        drop(listener);
        let refused = host("127.0.0.1", open);
        assert_eq!(refused.grade, Grade::Fail);
        assert!(refused.found.starts_with(&format!("127.0.0.1:{open}")));
    }
}
