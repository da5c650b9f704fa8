//! The campaign's command line.

use crate::fault::Kind;

pub const USAGE: &str = "\
campaign [--seed N] [--runs N] [--minutes M] [--only KIND] [--jobs J] [--first] [--show SEED]
  --seed N     the first schedule's seed, the next has N + 1 (1)
  --runs N     schedules (30)
  --minutes M  begin none after this time (4 where neither --runs nor --minutes is given); it fails
               when that leaves fewer than half of --runs
  --only KIND  this kind of fault alone
  --jobs J     schedules at a time, each with an Engine of its own (2)
  --first      stop at the first breach
  --show SEED  print the schedule and run nothing";

/// What is run where nothing is said: `cargo test` without arguments runs this too, and it must have
/// an end.
const RUNS: u64 = 30;
const MINUTES: u64 = 4;

/// What `cargo test` says to every test program when it looks for tests by name, or how to show them.
const OF_CARGO_TEST: &[&str] = &[
    "--list",
    "--exact",
    "--ignored",
    "--include-ignored",
    "--skip",
    "--test-threads",
    "--nocapture",
    "--no-capture",
    "--show-output",
    "--quiet",
    "-q",
    "--format",
    "--color",
];

/// Whether this is a call of `cargo test NAME` and the like, which does not mean us.
pub fn are_for_tests_by_name(words: &[String]) -> bool {
    let is_of_cargo = |word: &String| {
        let word = word.split('=').next().unwrap_or_default();
        OF_CARGO_TEST.contains(&word)
    };
    words.first().is_some_and(|word| !word.starts_with('-')) || words.iter().any(is_of_cargo)
}

pub struct Arguments {
    pub seed: u64,
    pub runs: u64,
    /// How many schedules were asked for, where not just for a time. Fewer than half of them fail.
    pub runs_wanted: Option<u64>,
    pub minutes: Option<u64>,
    pub only: Option<Kind>,
    pub jobs: u64,
    pub stops_at_first: bool,
    pub show: Option<u64>,
}

impl Arguments {
    pub fn read(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let (mut runs, mut minutes) = (None, None);
        let mut read = Arguments {
            seed: 1,
            runs: RUNS,
            runs_wanted: None,
            minutes: None,
            only: None,
            jobs: 2,
            stops_at_first: false,
            show: None,
        };
        while let Some(word) = words.next() {
            if word == "--first" {
                read.stops_at_first = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("what {word}?"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{word}: {value}?"));
            match word.as_str() {
                "--seed" => read.seed = number()?,
                "--runs" => runs = Some(number()?),
                "--minutes" => minutes = Some(number()?),
                "--jobs" => read.jobs = number()?.max(1),
                "--show" => read.show = Some(number()?),
                "--only" => read.only = Some(kind(&value)?),
                _ => return Err(format!("{word}?")),
            }
        }
        read.minutes = minutes.or(runs.is_none().then_some(MINUTES));
        read.runs_wanted = runs.or(minutes.is_none().then_some(RUNS));
        read.runs = runs.unwrap_or(if minutes.is_some() { u64::MAX } else { RUNS });
        Ok(read)
    }
}

fn kind(name: &str) -> Result<Kind, String> {
    let found = Kind::ALL.iter().find(|kind| kind.name() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("no kind {name}; there are {}", names.join(", "))
    })
}
