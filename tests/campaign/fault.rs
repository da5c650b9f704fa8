//! The kinds of faults, and what one of a kind is when the dice have said when and how hard.

use std::time::Duration;

use crate::dice::Dice;
use crate::kit::{Fault, Moment};

/// Declares the kinds with their names on the command line and in the table.
macro_rules! kinds {
    ($($kind:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($kind,)* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    RunnerKilled = "runner-killed",
    RunnerKilledAtStateCall = "runner-killed-at-state-call",
    RunnerKilledAtEngineCall = "runner-killed-at-engine-call",
    RunnerKilledAtHostCall = "runner-killed-at-host-call",
    RunnerTerminated = "runner-terminated",
    HostDown = "host-down",
    HostSlow = "host-slow",
    Host500 = "host-500",
    HostForgets = "host-forgets",
    HostGarbage = "host-garbage",
    HostHalfAnswer = "host-half-answer",
    HostLostAnswer = "host-lost-answer",
    HostHangs = "host-hangs",
    HostMarksLost = "host-marks-lost",
    UserEnds = "user-ends",
    EngineHangs = "engine-hangs",
    EngineRestarted = "engine-restarted",
    EngineKilled = "engine-killed",
    PowerCut = "power-cut",
    EngineAway = "engine-away",
    EngineCallHangs = "engine-call-hangs",
    EngineCallLost = "engine-call-lost",
    EngineCallCut = "engine-call-cut",
    EngineCallGarbage = "engine-call-garbage",
    EngineCallSlow = "engine-call-slow",
    EngineCall500 = "engine-call-500",
    StateDirFull = "state-dir-full",
    LogDirFull = "log-dir-full",
    ContainerKilled = "container-killed",
    ContainerRemoved = "container-removed",
    ForeignContainer = "foreign-container",
    ClockJumps = "clock-jumps",
    ApiKill = "api-kill",
    ApiPause = "api-pause",
}

#[derive(Clone, Copy, Debug)]
pub enum Action {
    KillRunner,
    TerminateRunner,
    HostDown {
        ms: u64,
    },
    HostFails {
        fault: Fault,
        ms: u64,
    },
    /// Down long enough for the host to mark all it knows as lost.
    HostMarksLost {
        ms: u64,
    },
    /// The task whose report comes as the nth from now has been ended by its user.
    UserEnds {
        nth: usize,
    },
    KillAtHostCall {
        call: &'static str,
        nth: usize,
        moment: Moment,
    },
    HangEngine {
        ms: u64,
    },
    RestartEngine,
    KillEngine {
        ms: u64,
    },
    CutPower {
        ms: u64,
    },
    EngineAway {
        ms: u64,
    },
    EngineCall {
        method: &'static str,
        path: &'static str,
        nth: usize,
        how: EngineFault,
        ms: u64,
    },
    FillStateDir {
        ms: u64,
    },
    FillLogDir {
        ms: u64,
    },
    KillContainer {
        signal: &'static str,
    },
    RemoveContainer,
    MakeForeign,
    JumpClock {
        seconds: i64,
    },
}

/// What happens to one call to the Engine.
#[derive(Clone, Copy, Debug)]
pub enum EngineFault {
    KillRunnerBefore,
    KillRunnerAfter,
    Hang,
    HangReply,
    LoseReply,
    CutReply,
    Die,
    Garbage,
    Slow,
    Refuse,
}

/// Calls of the life of a task or a VPS. Not `/events`: its answer has no end that could be lost or cut.
const ENGINE_CALLS: &[(&str, &str)] = &[
    ("POST", "/containers/create"),
    ("POST", "/containers/*/start"),
    ("DELETE", "/containers/*"),
    ("GET", "/containers/*/json"),
    ("GET", "/containers/json"),
    ("GET", "/networks/*"),
    ("GET", "/_ping"),
    ("POST", "/commit"),
    ("POST", "/containers/*/stop"),
    ("GET", "/images/json"),
];
/// Those of them that only a VPS's end or a snapshot makes.
pub const VPS_CALLS: &[&str] = &["/commit", "/containers/*/stop"];
/// Those that a runner makes once, or every few seconds.
const RARE_CALLS: &[&str] =
    &["/containers/json", "/networks/*", "/_ping", "/commit", "/containers/*/stop"];
const HOST_CALLS: &[&str] = &["POST /api/update", "PUT /api/heartbeat", "POST /api/register"];
/// Not SIGSTOP: Docker does not tell it, and the task only waits.
const SIGNALS: &[&str] = &["KILL", "KILL", "TERM", "INT", "USR1"];
/// An hour, a day, and back to shortly after 1970.
const JUMPS_S: &[i64] = &[3600, -3600, 86_400, -86_400, -1_700_000_000];

/// How often this kind strikes in one schedule.
pub fn times(dice: &mut Dice, kind: Kind) -> u64 {
    match kind {
        Kind::RunnerKilled | Kind::ClockJumps | Kind::ContainerKilled => dice.between(1, 3),
        Kind::RunnerTerminated | Kind::ContainerRemoved => dice.between(1, 2),
        Kind::RunnerKilledAtEngineCall | Kind::RunnerKilledAtHostCall => dice.between(1, 2),
        Kind::EngineCallHangs
        | Kind::EngineCallLost
        | Kind::EngineCallCut
        | Kind::EngineCallGarbage
        | Kind::EngineCallSlow
        | Kind::EngineCall500 => dice.between(1, 3),
        _ => 1,
    }
}

/// One fault of this kind; not of those that are a schedule's own ([`Schedule`](crate::schedule::Schedule)).
pub fn action(dice: &mut Dice, kind: Kind) -> Action {
    let ms = dice.between(300, 3000);
    // Longer than the pause between two heartbeats: one of them meets it.
    let host = |fault: Fault| Action::HostFails { fault, ms: ms + 800 };
    match kind {
        Kind::RunnerKilled => Action::KillRunner,
        Kind::RunnerTerminated => Action::TerminateRunner,
        Kind::RunnerKilledAtEngineCall => {
            let how = *dice.pick(&[EngineFault::KillRunnerBefore, EngineFault::KillRunnerAfter]);
            engine_call(dice, how, ms)
        }
        Kind::RunnerKilledAtHostCall => {
            let moment = *dice.pick(&[Moment::Before, Moment::After]);
            let call: &str = dice.pick::<&str>(HOST_CALLS);
            // A life of the runner registers once.
            let nth = if call.contains("register") { 1 } else { small(dice) };
            Action::KillAtHostCall { call, nth, moment }
        }
        Kind::HostDown => Action::HostDown { ms },
        Kind::HostSlow => host(Fault::Slow(Duration::from_millis(dice.between(50, 1500)))),
        Kind::Host500 => host(Fault::Status(500)),
        Kind::HostForgets => host(Fault::Status(404)),
        Kind::HostGarbage => host(Fault::Garbage),
        Kind::HostHalfAnswer => host(Fault::HalfAnswer),
        Kind::HostLostAnswer => host(Fault::LostAnswer),
        Kind::HostHangs => host(Fault::Hang),
        // The first reports are the long task's: only such a one shows that it was stopped.
        Kind::UserEnds => Action::UserEnds { nth: *dice.pick(&[1, 1, 2, 2, 3, 4]) },
        Kind::EngineHangs => Action::HangEngine { ms: dice.between(500, 4000) },
        Kind::EngineRestarted => Action::RestartEngine,
        Kind::EngineKilled => Action::KillEngine { ms },
        Kind::PowerCut => Action::CutPower { ms },
        Kind::EngineAway => Action::EngineAway { ms },
        Kind::EngineCallHangs => {
            let how = *dice.pick(&[EngineFault::Hang, EngineFault::HangReply]);
            engine_call(dice, how, ms)
        }
        Kind::EngineCallLost => {
            let how = *dice.pick(&[EngineFault::LoseReply, EngineFault::Die]);
            engine_call(dice, how, ms)
        }
        Kind::EngineCallCut => engine_call(dice, EngineFault::CutReply, ms),
        Kind::EngineCallGarbage => engine_call(dice, EngineFault::Garbage, ms),
        Kind::EngineCallSlow => engine_call(dice, EngineFault::Slow, ms),
        Kind::EngineCall500 => engine_call(dice, EngineFault::Refuse, ms),
        Kind::StateDirFull => Action::FillStateDir { ms },
        Kind::LogDirFull => Action::FillLogDir { ms },
        Kind::ContainerKilled => Action::KillContainer { signal: dice.pick::<&str>(SIGNALS) },
        Kind::ContainerRemoved => Action::RemoveContainer,
        Kind::ForeignContainer => Action::MakeForeign,
        Kind::ClockJumps => Action::JumpClock { seconds: *dice.pick(JUMPS_S) },
        Kind::RunnerKilledAtStateCall | Kind::ApiKill | Kind::ApiPause | Kind::HostMarksLost => {
            unreachable!("no action of its own")
        }
    }
}

fn engine_call(dice: &mut Dice, how: EngineFault, ms: u64) -> Action {
    let (method, path) = *dice.pick(ENGINE_CALLS);
    let nth = if RARE_CALLS.contains(&path) { 1 } else { small(dice) };
    Action::EngineCall { method, path, nth, how, ms }
}

fn small(dice: &mut Dice) -> usize {
    usize::try_from(dice.between(1, 4)).expect("small")
}
