//! What a run came to, in one table.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fault::Kind;
use crate::verdict::Sort;

/// What is counted, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    Schedules,
    Submitted,
    Accepted,
    Refused,
    ApiKills,
    /// Failed with the Engine's stop for a reason.
    EngineEnds,
    /// Long tasks that had to be stopped at the host's refusal.
    UserEnds,
    Finals,
    Repeats,
    VpsCreated,
    VpsStopped,
    VpsKilled,
    VpsSnapshots,
    /// Files that had to be there at the end.
    VpsFiles,
    Breaches(Sort),
    BreachedSchedules,
}

impl Count {
    const ALL: &[(Count, &str)] = &[
        (Count::Schedules, "schedules"),
        (Count::Submitted, "tasks submitted"),
        (Count::Accepted, "tasks accepted"),
        (Count::Refused, "submissions refused (503)"),
        (Count::ApiKills, "tasks killed by the API"),
        (Count::EngineEnds, "tasks ended by the Engine's end"),
        (Count::UserEnds, "tasks stopped for their user"),
        (Count::Finals, "finals at the host"),
        (Count::Repeats, "identical repeats of finals"),
        (Count::VpsCreated, "VPS created, restarts among them"),
        (Count::VpsStopped, "VPS stopped"),
        (Count::VpsKilled, "VPS killed"),
        (Count::VpsSnapshots, "snapshots on demand"),
        (Count::VpsFiles, "files kept in VPS"),
        (Count::Breaches(Sort::Lost), "lost"),
        (Count::Breaches(Sort::Wrong), "wrong"),
        (Count::Breaches(Sort::Contradicted), "contradicted"),
        (Count::Breaches(Sort::Leaked), "leaked"),
        (Count::Breaches(Sort::Other), "other breaches"),
        (Count::BreachedSchedules, "schedules with a breach"),
    ];
}

/// Of one schedule, or of all.
#[derive(Default)]
pub struct Tally {
    counts: BTreeMap<Count, usize>,
    pub injected: BTreeMap<Kind, usize>,
}

impl Tally {
    pub fn count(&mut self, what: Count, more: usize) {
        *self.counts.entry(what).or_default() += more;
    }

    pub fn of(&self, what: Count) -> usize {
        self.counts.get(&what).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: &Tally) {
        for (what, more) in &other.counts {
            self.count(*what, *more);
        }
        for (kind, more) in &other.injected {
            *self.injected.entry(*kind).or_default() += more;
        }
    }

    pub fn has_breach(&self) -> bool {
        self.of(Count::BreachedSchedules) > 0
    }

    pub fn print(&self, took: Duration) {
        let row = |what: &str, count: usize| println!("  {what:33} {count:5}");
        println!("\nfaults injected");
        for kind in Kind::ALL {
            row(kind.name(), self.injected.get(kind).copied().unwrap_or_default());
        }
        row("all", self.injected.values().sum());
        println!("\nwhat came of it");
        for (what, name) in Count::ALL {
            row(name, self.of(*what));
        }
        println!("  {:33} {:5}", "seconds", took.as_secs());
    }
}
