//! Moments, as microseconds since 1970 (UTC). Wall clock: they go to peers and must mean something
//! after a restart; durations inside the program use `Instant`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A moment in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(i64);

impl Stamp {
    /// The moment of the call.
    pub fn now() -> Stamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Stamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// From whole seconds since 1970.
    pub fn from_seconds(seconds: i64) -> Stamp {
        Stamp(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Time from `earlier` to this moment; zero when the clock was set back between them.
    pub fn since(self, earlier: Stamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Naive local time, `YYYY-MM-DDTHH:MM:SS.ffffff`, the only form the host can read back
    /// (contract rule 3).
    pub fn naive_local(self) -> String {
        self.utc().with_timezone(&Local).format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
    }

    /// RFC 3339 in UTC with microseconds, for rows of our own.
    pub fn rfc3339(self) -> String {
        self.utc().to_rfc3339_opts(SecondsFormat::Micros, true)
    }

    fn utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::UNIX_EPOCH)
    }
}

impl From<DateTime<Utc>> for Stamp {
    fn from(at: DateTime<Utc>) -> Stamp {
        Stamp(at.timestamp_micros())
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn local_time_for_the_host_carries_no_zone() {
        let text = Stamp::now().naive_local();
        assert_eq!(text.len(), "2026-11-24T21:12:04.123456".len());
        assert!(!text.contains(['Z', '+']));
    }
}
