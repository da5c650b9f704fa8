//! Wires everything: settings first, then the floors below. Called by the command line only.

pub mod config;

use std::process::ExitCode;

use crate::model::settings::Settings;

/// Runs the runner until it is told to stop.
///
/// PLACEHOLDER: the rooms below are not wired yet; this body is replaced as a whole.
pub fn serve(settings: Settings) -> ExitCode {
    let Settings { runner_bind_ip, runner_port, .. } = settings;
    eprintln!("river-runner: serve is not wired yet ({runner_bind_ip}:{runner_port})");
    ExitCode::FAILURE
}
