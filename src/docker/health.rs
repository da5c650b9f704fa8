//! What the last calls said about the Engine. Pure: `call` tells it, `/health` reads it, and
//! nobody calls the Engine to find out (design law 5).

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::{Instant, SystemTime};

/// The Engine as the last calls found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineHealth {
    /// Nothing has been asked yet, or the connection broke and nothing since.
    Unknown,
    /// It answers. `version` is its own (`20.10.24`), `api` is what we speak with it.
    Ok { version: String, api: ApiVersion },
    /// It takes connections and answers none. `since` is the start of the first unanswered call.
    Unresponsive { since: SystemTime },
    /// No connection can be made.
    Unreachable { since: SystemTime, why: io::ErrorKind },
}

impl fmt::Display for EngineHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineHealth::Unknown => f.write_str("nothing is known yet"),
            EngineHealth::Ok { version, api } => write!(f, "version {version}, API {api}"),
            EngineHealth::Unresponsive { since } => {
                write!(f, "takes connections and answers none for {} s", age_seconds(*since))
            }
            EngineHealth::Unreachable { since, why } => {
                write!(f, "can't be reached for {} s: {why}", age_seconds(*since))
            }
        }
    }
}

fn age_seconds(since: SystemTime) -> u64 {
    since.elapsed().unwrap_or_default().as_secs()
}

/// A version of the Engine's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

/// The text is no API version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAVersion;

/// The oldest we speak: filters, health and everything else we use are there.
const API_MIN: ApiVersion = ApiVersion { major: 1, minor: 24 };
/// The newest whose answers we have read the description of. An Engine that is newer is spoken to
/// in this version.
const API_MAX: ApiVersion = ApiVersion { major: 1, minor: 47 };

impl ApiVersion {
    /// The version to speak with an Engine that speaks from `oldest` to `newest`.
    pub(super) fn meet(oldest: ApiVersion, newest: ApiVersion) -> Option<ApiVersion> {
        let api = newest.min(API_MAX);
        (api >= oldest && api >= API_MIN).then_some(api)
    }
}

/// What was agreed with the Engine when it was last asked for its version.
#[derive(Clone, Debug)]
pub(super) struct Agreement {
    pub version: String,
    pub api: ApiVersion,
    /// The Engine's newest as it writes it; another text means another Engine.
    pub api_newest: String,
}

/// Memory of the last calls.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub agreement: Option<Agreement>,
    answered: Option<Instant>,
    trouble: Option<Trouble>,
    /// When nobody listened last: no Engine was there at all.
    gone: Option<SystemTime>,
}

#[derive(Debug)]
enum Trouble {
    Unresponsive { since: SystemTime },
    Unreachable { since: SystemTime, why: io::ErrorKind },
}

impl Seen {
    /// The Engine said something, be it no. `api_newest` is what it says of itself in every
    /// answer's head; another one than before means that it was replaced behind our back.
    pub fn answered(&mut self, api_newest: Option<&str>) {
        self.answered = Some(Instant::now());
        self.trouble = None;
        self.agreement.take_if(|known| api_newest.is_some_and(|api| api != known.api_newest));
    }

    /// A call that began at `started` ran out of time. That speaks against the Engine only if it
    /// has answered nothing since: one container's lock can hang calls while all others are fine.
    pub fn timed_out(&mut self, started: Instant) {
        if self.trouble.is_none() && self.answered.is_none_or(|at| at <= started) {
            let since = SystemTime::now() - started.elapsed();
            self.trouble = Some(Trouble::Unresponsive { since });
        }
    }

    /// No connection. Whoever answers next may be another Engine.
    pub fn unreachable(&mut self, why: io::ErrorKind) {
        let since = match self.trouble {
            Some(Trouble::Unreachable { since, .. } | Trouble::Unresponsive { since }) => since,
            None => SystemTime::now(),
        };
        if matches!(why, io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) {
            self.gone = Some(SystemTime::now());
        }
        self.trouble = Some(Trouble::Unreachable { since, why });
        self.agreement = None;
    }

    /// The connection broke inside a call: the Engine is probably going away.
    pub fn broken(&mut self) {
        self.agreement = None;
    }

    pub fn gone(&self) -> Option<SystemTime> {
        self.gone
    }

    pub fn health(&self) -> EngineHealth {
        match (&self.trouble, &self.agreement) {
            (Some(Trouble::Unresponsive { since }), _) => {
                EngineHealth::Unresponsive { since: *since }
            }
            (Some(Trouble::Unreachable { since, why }), _) => {
                EngineHealth::Unreachable { since: *since, why: *why }
            }
            (None, Some(agreement)) => {
                EngineHealth::Ok { version: agreement.version.clone(), api: agreement.api }
            }
            (None, None) => EngineHealth::Unknown,
        }
    }
}

impl FromStr for ApiVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<ApiVersion, NotAVersion> {
        let (major, minor) = text.split_once('.').ok_or(NotAVersion)?;
        let number = |text: &str| text.parse::<u16>().map_err(|_| NotAVersion);
        Ok(ApiVersion { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for NotAVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an API version")
    }
}

impl std::error::Error for NotAVersion {}

#[cfg(test)]
mod test {
    use super::*;

    fn meet(oldest: &str, newest: &str) -> Option<String> {
        let api = ApiVersion::meet(oldest.parse().unwrap(), newest.parse().unwrap());
        api.map(|api| api.to_string())
    }

    fn agreed() -> Seen {
        let agreement = Agreement {
            version: "20.10.24".into(),
            api: "1.41".parse().unwrap(),
            api_newest: "1.41".into(),
        };
        Seen { agreement: Some(agreement), ..Seen::default() }
    }

    #[test]
    fn the_version_spoken_is_the_newest_that_both_know() {
        assert_eq!(meet("1.12", "1.41").as_deref(), Some("1.41"));
        assert_eq!(meet("1.44", "1.99").as_deref(), Some("1.47"));
    }

    #[test]
    fn engines_outside_our_range_are_not_spoken_to() {
        assert_eq!(meet("1.12", "1.23"), None);
        assert_eq!(meet("1.48", "1.60"), None);
        assert_eq!(meet("1.12", "1.24").as_deref(), Some("1.24"));
        assert_eq!(meet("1.47", "1.60").as_deref(), Some("1.47"));
    }

    #[test]
    fn a_newer_minor_version_is_newer_by_number_not_by_text() {
        assert!("1.9".parse::<ApiVersion>().unwrap() < "1.41".parse().unwrap());
    }

    #[test]
    fn a_timed_out_call_says_nothing_once_another_call_was_answered() {
        let mut seen = agreed();
        let started = Instant::now();
        seen.answered(Some("1.41"));
        seen.timed_out(started);
        assert!(matches!(seen.health(), EngineHealth::Ok { .. }));
    }

    #[test]
    fn a_timed_out_call_with_no_answer_since_makes_the_engine_unresponsive() {
        let mut seen = agreed();
        seen.answered(Some("1.41"));
        seen.timed_out(Instant::now());
        assert!(matches!(seen.health(), EngineHealth::Unresponsive { .. }));
        seen.answered(Some("1.41"));
        assert!(matches!(seen.health(), EngineHealth::Ok { .. }));
    }

    #[test]
    fn an_answer_of_another_version_makes_the_agreement_void() {
        let mut seen = agreed();
        seen.answered(None);
        seen.answered(Some("1.41"));
        assert!(seen.agreement.is_some());
        seen.answered(Some("1.43"));
        assert!(seen.agreement.is_none());
    }

    #[test]
    fn unreachable_counts_from_the_first_failure_and_forgets_the_agreement() {
        let mut seen = agreed();
        seen.unreachable(io::ErrorKind::ConnectionRefused);
        let first = seen.health();
        seen.unreachable(io::ErrorKind::ConnectionRefused);
        assert_eq!(seen.health(), first);
        seen.answered(Some("1.41"));
        assert_eq!(seen.health(), EngineHealth::Unknown);
    }
}
