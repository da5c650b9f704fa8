//! The fault campaign: seeded schedules of faults against the built runner, a real Engine and a
//! fake host, and after each what must hold. contrib/campaign.sh runs it; a seed that failed makes
//! the same schedule again.

#[path = "../kit/mod.rs"]
mod kit;

mod arguments;
mod dice;
mod drive;
mod fault;
mod reap;
mod runner;
mod schedule;
mod settle;
mod strike;
mod table;
mod tasks;
mod verdict;
mod vps;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arguments::Arguments;
use schedule::Schedule;
use table::{Count, Tally};
use verdict::{Breach, Sort};
use world::{Idle, Place, World, locked};

/// Lines of the runner's log that a breach shows.
const LOG_LINES_SHOWN: usize = 60;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if arguments::are_for_tests_by_name(&words) {
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::read(words.into_iter()) {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("{what}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = arguments.show {
        print!("{}", Schedule::generate(seed, arguments.only));
        return ExitCode::SUCCESS;
    }
    reap::adopt_orphans();
    let begin = Instant::now();
    let tally = run_all(&arguments, begin);
    tally.print(begin.elapsed());
    let schedules = tally.of(Count::Schedules) as u64;
    if let Some(wanted) = arguments.runs_wanted
        && schedules < wanted
    {
        println!("only {schedules} of {wanted} schedules ran in the time");
        // A slow machine is no fault; a run that looked at little is no proof.
        if schedules < wanted.div_ceil(2) {
            return ExitCode::FAILURE;
        }
    }
    if schedules == 0 {
        println!("no schedule ran");
        return ExitCode::FAILURE;
    }
    if tally.has_breach() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Every job takes the next seed until all are run or the time is over.
fn run_all(arguments: &Arguments, begin: Instant) -> Tally {
    let next = AtomicU64::new(0);
    let gave_up = AtomicBool::new(false);
    let total: Mutex<Tally> = Mutex::default();
    let is_time_over =
        || arguments.minutes.is_some_and(|m| begin.elapsed() >= Duration::from_secs(m * 60));
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                let mut place = Place::make();
                while !gave_up.load(Ordering::SeqCst) && !is_time_over() {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= arguments.runs {
                        break;
                    }
                    let seed = arguments.seed.wrapping_add(number);
                    let schedule = Schedule::generate(seed, arguments.only);
                    let tally = run_one(&mut place, &schedule, arguments);
                    locked(&total).add(&tally);
                    if arguments.stops_at_first && tally.has_breach() {
                        gave_up.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn run_one(place: &mut Place, schedule: &Schedule, arguments: &Arguments) -> Tally {
    let begin = Instant::now();
    let mut tally = Tally::default();
    tally.count(Count::Schedules, 1);
    let mut log = String::new();
    let done = catch_unwind(AssertUnwindSafe(|| play(place, schedule, &mut tally, &mut log)));
    let breaches = match done {
        Ok(breaches) => breaches,
        Err(panic) => {
            // Whatever it was, the next schedule begins on sound ground.
            place.renew_engine();
            vec![Breach::new(Sort::Other, format!("panicked: {}", text_of(&*panic)))]
        }
    };
    reap::reap_orphans();
    for breach in &breaches {
        tally.count(Count::Breaches(breach.sort), 1);
    }
    tally.count(Count::BreachedSchedules, usize::from(!breaches.is_empty()));
    report(schedule, &tally, &breaches, &log, begin.elapsed(), arguments);
    tally
}

/// Plays one schedule on its stage and judges it.
fn play(
    place: &mut Place,
    schedule: &Schedule,
    tally: &mut Tally,
    log: &mut String,
) -> Vec<Breach> {
    let wanted = match place.idle {
        Some(idle) => idle,
        None => {
            let idle = fresh_runner(place);
            *place.idle.insert(idle)
        }
    };
    let world = World::make(place, schedule);
    world.runner.launch(&mut locked(&world.daemon));
    std::thread::scope(|scope| {
        scope.spawn(|| drive::supervise(&world));
        let done = catch_unwind(AssertUnwindSafe(|| {
            drive::run(&world);
            settle::heal(&world);
            vps::verdict::settle(&world);
            settle::settle(&world);
        }));
        world.runner.set_over();
        if let Err(panic) = done {
            world.breach(format!("panicked: {}", text_of(&*panic)));
        }
    });
    let snapshots = vps::verdict::snapshots(&world);
    let leaks = settle::leaks(&world, wanted);
    stop(&world);
    *log = world.log();
    let mut breaches = verdict::judge(&world, tally);
    breaches.extend(snapshots);
    breaches.extend(leaks.into_iter().map(|what| Breach::new(Sort::Leaked, what)));
    breaches
}

/// What a runner has that has run one task and has nothing to do.
fn fresh_runner(place: &mut Place) -> Idle {
    let schedule = Schedule::calm();
    let world = World::make(place, &schedule);
    world.runner.launch(&mut locked(&world.daemon));
    locked(&world.daemon).wait_healthy();
    let jump = chrono::TimeDelta::days(3);
    world.set_clock(jump.num_nanoseconds().expect("three days"));
    drive::run(&world);
    vps::verdict::settle(&world);
    settle::settle(&world);
    // Otherwise a jump would be counted and be none.
    let told = world.host.reports_of(schedule.tasks[0].id).pop().expect("a report");
    // The start is the runner's own time, the end the Engine's.
    let started = told.started_at.and_then(|at| at.parse::<chrono::NaiveDateTime>().ok());
    let ahead = started.expect("a time") - chrono::Local::now().naive_local();
    assert!((ahead - jump).abs() < chrono::TimeDelta::minutes(5), "a clock set ahead: {ahead}");
    let idle = settle::idle(&locked(&world.daemon), None);
    let mut breaches = std::mem::take(&mut world.notes().breaches);
    let of_vps = std::mem::take(&mut world.notes().vps_breaches);
    let of_snapshots = vps::verdict::snapshots(&world);
    breaches.extend(of_vps.into_iter().chain(of_snapshots).map(|breach| breach.what));
    assert!(breaches.is_empty(), "without any fault: {breaches:#?}\n{}", world.log());
    idle
}

/// SIGTERM to the idle runner: it ends within 2 s, with exit code 0.
fn stop(world: &World<'_>) {
    let mut daemon = locked(&world.daemon);
    if daemon.has_exited() {
        return;
    }
    match catch_unwind(AssertUnwindSafe(|| daemon.stop())) {
        Ok(took) if took <= kit::STOP_MAX => {}
        Ok(took) => world.breach(format!("SIGTERM at the end took {took:?}")),
        Err(panic) => world.breach(format!("SIGTERM at the end: {}", text_of(&*panic))),
    }
}

/// One line, and all that is known when it went wrong.
fn report(
    schedule: &Schedule,
    tally: &Tally,
    breaches: &[Breach],
    log: &str,
    took: Duration,
    arguments: &Arguments,
) {
    let kinds: Vec<String> = schedule
        .kinds
        .iter()
        .map(|kind| format!("{}×{}", kind.name(), tally.injected.get(kind).unwrap_or(&0)))
        .collect();
    let mut text = format!(
        "seed {:<12} {:4.1} s  {} tasks  {} VPS  {}  {}\n",
        schedule.seed,
        took.as_secs_f32(),
        schedule.tasks.len(),
        schedule.vps.len(),
        if breaches.is_empty() { "ok    " } else { "BREACH" },
        kinds.join(" + "),
    );
    if !breaches.is_empty() {
        for breach in breaches {
            text.push_str(&format!("  {:?}: {}\n", breach.sort, breach.what));
        }
        text.push_str(&format!("{schedule}"));
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        text.push_str(&format!("  the runner's last words:\n    {}\n", shown.join("\n    ")));
        let only = arguments.only.map_or(String::new(), |only| format!(" --only {}", only.name()));
        let seed = schedule.seed;
        text.push_str(&format!("  again: contrib/campaign.sh --seed {seed} --runs 1{only}\n"));
    }
    // One write, so that two jobs do not mix their lines.
    print!("{text}");
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
    text.unwrap_or_else(|| "without a word".to_owned())
}
