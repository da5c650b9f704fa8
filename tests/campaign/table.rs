//! What a run came to, in one table.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::schedule::Kind;

/// Of one schedule, or of all.
#[derive(Default)]
pub struct Tally {
    pub schedules: usize,
    pub failed: usize,
    pub tasks: usize,
    pub accepted: usize,
    pub refused: usize,
    pub finals: usize,
    pub repeats: usize,
    pub api_kills: usize,
    /// Failed with the Engine's stop for a reason.
    pub engine_ends: usize,
    /// Long tasks that had to be stopped at the host's refusal.
    pub user_ends: usize,
    pub lost: usize,
    pub wrong: usize,
    pub contradicted: usize,
    pub leaked: usize,
    pub other: usize,
    pub injected: BTreeMap<Kind, usize>,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.schedules += other.schedules;
        self.failed += other.failed;
        self.tasks += other.tasks;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.finals += other.finals;
        self.repeats += other.repeats;
        self.api_kills += other.api_kills;
        self.engine_ends += other.engine_ends;
        self.user_ends += other.user_ends;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.contradicted += other.contradicted;
        self.leaked += other.leaked;
        self.other += other.other;
        for (kind, count) in &other.injected {
            *self.injected.entry(*kind).or_default() += count;
        }
    }

    pub fn breaches(&self) -> usize {
        self.lost + self.wrong + self.contradicted + self.leaked + self.other
    }

    pub fn print(&self, took: Duration) {
        println!("\nfaults injected");
        for kind in Kind::ALL {
            let count = self.injected.get(kind).copied().unwrap_or_default();
            println!("  {:30} {count:6}", kind.name());
        }
        println!("  {:30} {:6}", "all", self.injected.values().sum::<usize>());
        println!("\nwhat came of it");
        for (what, count) in [
            ("schedules", self.schedules),
            ("tasks submitted", self.tasks),
            ("tasks accepted", self.accepted),
            ("submissions refused (503)", self.refused),
            ("tasks killed by the API", self.api_kills),
            ("tasks ended by the Engine's end", self.engine_ends),
            ("tasks stopped for their user", self.user_ends),
            ("finals at the host", self.finals),
            ("identical repeats of finals", self.repeats),
            ("lost", self.lost),
            ("wrong", self.wrong),
            ("contradicted", self.contradicted),
            ("leaked", self.leaked),
            ("other breaches", self.other),
            ("schedules with a breach", self.failed),
        ] {
            println!("  {what:31} {count:5}");
        }
        println!("  {:30} {:6}", "seconds", took.as_secs());
    }
}
