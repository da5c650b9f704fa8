//! Which runner a command talks to: what it says itself, else what the configuration says.

use std::env;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::client::{Client, Target};
use super::runner::Runner;
use crate::app::config::{self, Fault, File, Loaded, Sources};
use crate::limits;
use crate::machine;
use crate::model::settings::{Settings, Token};

/// Flags of all commands that talk to a runner.
#[derive(Args, Clone, Debug)]
pub struct Reach {
    /// The runner: http://HOST:PORT or unix:///PATH [environment: RIVER_URL; default: the
    /// configured api_socket, else the configured port on this machine]
    #[arg(long, value_name = "URL", help_heading = "Runner")]
    url: Option<String>,

    /// The runner's api_token, if it wants one [environment: RIVER_API_TOKEN]
    #[arg(long, value_name = "TOKEN", help_heading = "Runner")]
    token: Option<String>,
}

/// Where the configuration is, from `--config` or `RIVER_CONFIG`.
#[derive(Args, Clone, Debug)]
pub struct ConfigPath {
    /// Configuration file, which must exist [environment: RIVER_CONFIG; default:
    /// /etc/river-runner/runner.toml if it is there]
    #[arg(long, short = 'c', global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Reach {
    /// The runner that these flags, the environment and the configuration mean.
    pub fn runner(&self, path: &ConfigPath) -> Result<Runner, Failure> {
        let url = self.url.clone().or_else(|| variable("RIVER_URL"));
        let token = self.token.clone().or_else(|| variable("RIVER_API_TOKEN"));
        let token = token.map(Token::new);
        if let Some(url) = url {
            let target = url.parse().map_err(|_| Failure::Url(url))?;
            return Ok(runner(target, token));
        }
        let settings = load_as_client(path)?;
        let target = target(&settings);
        Ok(runner(target, token.or(settings.api_token)))
    }
}

impl ConfigPath {
    /// The layers below `flags`.
    pub fn sources(&self, flags: Vec<(&'static str, String)>) -> Sources {
        let hostname = machine::hostname().unwrap_or_default();
        let path = self.config.clone().or_else(|| env::var_os("RIVER_CONFIG").map(PathBuf::from));
        let file = path.map_or(File::Default, File::Named);
        Sources { hostname, file, variables: env::vars_os().collect(), flags }
    }

    /// The configuration as a runner started now would see it.
    pub fn load(&self, flags: Vec<(&'static str, String)>) -> Result<Loaded, Failure> {
        config::load(&self.sources(flags)).map_err(Failure::Config)
    }
}

fn runner(target: Target, token: Option<Token>) -> Runner {
    Runner(Client::new(target, token, limits::CLI_ANSWER_PATIENCE))
}

/// The configuration as somebody sees it who only wants to find the runner: a default file that
/// they may not read (it holds a token) is as good as none.
fn load_as_client(path: &ConfigPath) -> Result<Settings, Failure> {
    let sources = path.sources(Vec::new());
    let loaded = match config::load(&sources) {
        Err(faults) if sources.file == File::Default && faults.iter().all(is_forbidden) => {
            config::load(&Sources { file: File::Nothing, ..sources })
        }
        loaded => loaded,
    };
    Ok(loaded.map_err(Failure::Config)?.settings)
}

fn is_forbidden(fault: &Fault) -> bool {
    let Fault::Unreadable { source, .. } = fault else { return false };
    source.kind() == io::ErrorKind::PermissionDenied
}

/// The socket if it is there, else the port.
fn target(settings: &Settings) -> Target {
    match &settings.api_socket {
        Some(socket) if socket.exists() => Target::Unix(socket.clone()),
        Some(_) | None => own_port(settings),
    }
}

/// The runner's TCP side as this machine reaches it.
pub fn own_port(settings: &Settings) -> Target {
    let host = match settings.runner_bind_ip {
        IpAddr::V4(any) if any.is_unspecified() => "127.0.0.1".into(),
        IpAddr::V6(any) if any.is_unspecified() => "::1".into(),
        bound => bound.to_string(),
    };
    Target::Tcp { host, port: settings.runner_port }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn port_is_called_on_loopback_unless_it_is_bound_elsewhere() {
        let mut settings = Settings::default();
        assert_eq!(own_port(&settings).to_string(), "http://127.0.0.1:8001");
        settings.runner_bind_ip = "10.0.0.7".parse().unwrap();
        assert_eq!(own_port(&settings).to_string(), "http://10.0.0.7:8001");
        settings.runner_bind_ip = "::".parse().unwrap();
        assert_eq!(own_port(&settings).to_string(), "http://[::1]:8001");
    }

    #[test]
    fn socket_that_is_there_is_preferred() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("api.sock");
        let settings = Settings { api_socket: Some(socket.clone()), ..Settings::default() };
        assert_eq!(target(&settings), own_port(&settings));
        std::fs::write(&socket, "").unwrap();
        assert_eq!(target(&settings), Target::Unix(socket));
    }
}
