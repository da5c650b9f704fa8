//! `config show`, `config import` and `config default`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use super::failure::Failure;
use super::reach::ConfigPath;
use super::setting_flags::SettingFlags;
use super::{print, say, settings_said};
use crate::app::config::{self, import};

/// Prints what a runner started now, with these flags, would use.
pub fn show(flags: SettingFlags, path: &ConfigPath) -> Result<ExitCode, Failure> {
    print(&config::in_force(&settings_said(flags, path)?))
}

/// Prints `file`, a `runner_config.py`, as TOML. What was not read is said on stderr, and the
/// exit code tells that the result is not complete.
pub fn import(file: &Path) -> Result<ExitCode, Failure> {
    let source = fs::read_to_string(file)
        .map_err(|source| Failure::Unreadable { path: file.into(), source })?;
    let imported = import::import(&source, &file.display().to_string());
    for unread in &imported.unread {
        say(unread);
    }
    print(&imported.toml)?;
    Ok(if imported.unread.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints all settings with their defaults.
pub fn default() -> Result<ExitCode, Failure> {
    print(&config::commented_defaults())
}
