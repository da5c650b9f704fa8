//! `doctor`: is this machine ready for a runner? One line for each finding, with the remedy where
//! something is wrong. Looks only; changes nothing but a probe file that it removes again.

mod engine;
mod hardware;
mod limits;
mod network;
mod places;

use std::fmt;
use std::process::ExitCode;

use super::failure::Failure;
use super::print;
use super::reach::ConfigPath;
use super::setting_flags::SettingFlags;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Ok,
    /// The runner works, worse than it could.
    Warn,
    /// The runner can't do its work.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    grade: Grade,
    subject: &'static str,
    found: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, found: impl Into<String>) -> Finding {
        Finding { grade: Grade::Ok, subject, found: found.into(), remedy: None }
    }

    fn warn(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let remedy = Some(remedy.into());
        Finding { grade: Grade::Warn, subject, found: found.into(), remedy }
    }

    fn fail(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let remedy = Some(remedy.into());
        Finding { grade: Grade::Fail, subject, found: found.into(), remedy }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "fail",
        };
        writeln!(f, "{grade:<5} {:<15} {}", self.subject, self.found)?;
        match &self.remedy {
            Some(remedy) => writeln!(f, "      {:<15} -> {remedy}", ""),
            None => Ok(()),
        }
    }
}

/// Checks everything and prints it as it is found. Exits with 1 if something fails.
pub fn doctor(flags: SettingFlags, path: &ConfigPath) -> Result<ExitCode, Failure> {
    let loaded = path.load(flags.0)?;
    let settings = &loaded.settings;
    let mut worst_is_fail = false;
    let mut tell = |findings: Vec<Finding>| -> Result<(), Failure> {
        for finding in findings {
            worst_is_fail |= finding.grade == Grade::Fail;
            print(&finding.to_string())?;
        }
        Ok(())
    };
    let notes = loaded.notes.iter();
    tell(
        notes
            .map(|note| Finding::warn("configuration", note.to_string(), "set it right"))
            .collect(),
    )?;
    tell(engine::findings(&settings.docker_socket))?;
    tell(places::findings(settings))?;
    tell(network::findings(settings))?;
    tell(limits::findings())?;
    tell(hardware::findings(&settings.sysfs_root))?;
    Ok(if worst_is_fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
