//! What happens when: tasks and faults, made from a seed and from nothing else, so that a seed is
//! enough to make it happen again.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::kit::{Fault, Moment};
use crate::tasks::{Shape, Task, Verb};

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

/// One schedule of this many is of the kind that takes 45 s.
const MARKS_LOST_ONE_OF: u64 = 12;
/// The host calls a node dead after 30 s of silence (contract 3.2).
const MARKS_LOST_AFTER_MS: u64 = 32_000;
const MARKS_LOST_TASK_MS: u64 = 38_000;

#[derive(Clone, Debug)]
pub struct Schedule {
    pub seed: u64,
    pub kinds: Vec<Kind>,
    pub tasks: Vec<Task>,
    pub actions: Vec<Timed>,
    /// The call on the state directory, counted from its start, at which the runner is killed.
    pub state_call: Option<u64>,
    /// How long a runner that died stays dead.
    pub rest_ms: u64,
}

#[derive(Clone, Debug)]
pub struct Timed {
    pub at_ms: u64,
    pub kind: Kind,
    pub action: Action,
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

/// Calls of the life of a task. Not `/events`: its answer has no end that could be lost or cut.
const ENGINE_CALLS: &[(&str, &str)] = &[
    ("POST", "/containers/create"),
    ("POST", "/containers/*/start"),
    ("DELETE", "/containers/*"),
    ("GET", "/containers/*/json"),
    ("GET", "/containers/json"),
    ("GET", "/networks/*"),
    ("GET", "/_ping"),
];
/// Those that a runner makes once, or every few seconds.
const RARE_CALLS: &[&str] = &["/containers/json", "/networks/*", "/_ping"];
const HOST_CALLS: &[&str] = &["POST /api/update", "PUT /api/heartbeat", "POST /api/register"];
/// Calls on the state directory from a task's dispatch to its end: any of all of them may be the last.
const STATE_CALLS_PER_TASK: u64 = 40;
/// Faults that prove nothing unless a task runs.
const KINDS_UNDER_A_TASK: &[Kind] = &[
    Kind::ContainerKilled,
    Kind::ContainerRemoved,
    Kind::ForeignContainer,
    Kind::EngineRestarted,
    Kind::EngineKilled,
    Kind::PowerCut,
    Kind::UserEnds,
];
/// Not SIGSTOP: Docker does not tell it, and the task only waits.
const SIGNALS: &[&str] = &["KILL", "KILL", "TERM", "INT", "USR1"];
/// An hour, a day, and back to shortly after 1970.
const JUMPS_S: &[i64] = &[3600, -3600, 86_400, -86_400, -1_700_000_000];

impl Schedule {
    /// `only`: this kind alone.
    pub fn generate(seed: u64, only: Option<Kind>) -> Schedule {
        let mut dice = Dice::new(seed);
        let kinds = kinds(&mut dice, only);
        let span_ms = dice.between(2500, 5500);
        let mut schedule = Schedule {
            seed,
            tasks: tasks(&mut dice, seed, span_ms),
            actions: Vec::new(),
            state_call: None,
            rest_ms: dice.between(0, 1200),
            kinds,
        };
        for kind in schedule.kinds.clone() {
            schedule.add(&mut dice, kind, span_ms);
        }
        schedule.tasks.sort_by_key(|task| task.at_ms);
        schedule.actions.sort_by_key(|timed| timed.at_ms);
        schedule
    }

    /// One task and no fault. The clock may be set, so that it is known to work.
    pub fn calm() -> Schedule {
        let task = Task::generate(&mut Dice::new(0), (1 << 60) - 1, 0);
        let task = Task { shape: Shape::Quick, ..task };
        Schedule {
            seed: 0,
            kinds: vec![Kind::ClockJumps],
            tasks: vec![task],
            actions: Vec::new(),
            state_call: None,
            rest_ms: 0,
        }
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    fn add(&mut self, dice: &mut Dice, kind: Kind, span_ms: u64) {
        match kind {
            Kind::RunnerKilledAtStateCall => {
                let tasks = u64::try_from(self.tasks.len()).expect("few");
                self.state_call = Some(dice.between(1, STATE_CALLS_PER_TASK * tasks));
                return;
            }
            Kind::ApiKill => return self.add_kills(dice),
            Kind::ApiPause => return self.add_pauses(dice),
            Kind::HostMarksLost => return self.add_marks_lost(dice),
            _ => {}
        }
        if KINDS_UNDER_A_TASK.contains(&kind) {
            self.make_one_long(dice);
        }
        for _ in 0..times(dice, kind) {
            let action = action(dice, kind);
            // What waits for its call is there from the start.
            let at_ms = match action {
                Action::EngineCall { .. }
                | Action::KillAtHostCall { .. }
                | Action::UserEnds { .. } => 0,
                // When the long one runs.
                Action::KillContainer { .. } | Action::RemoveContainer | Action::MakeForeign => {
                    dice.between(800, 2500)
                }
                Action::RestartEngine | Action::KillEngine { .. } | Action::CutPower { .. } => {
                    dice.between(1200, 3000)
                }
                _ => dice.between(100, span_ms),
            };
            self.actions.push(Timed { at_ms, kind, action });
        }
    }

    /// For faults that need a container that runs.
    fn make_one_long(&mut self, dice: &mut Dice) {
        let shape = Shape::Long { ms: dice.between(2500, 4000) };
        let task = self.tasks.first_mut().expect("a task");
        (task.shape, task.at_ms) = (shape, 0);
        // The runner may not answer yet: one try would often be none.
        task.insists = true;
    }

    fn add_kills(&mut self, dice: &mut Dice) {
        for task in &mut self.tasks {
            if dice.chance(50) {
                task.verbs.push((dice.between(0, 1500), Verb::Kill));
            }
        }
    }

    fn add_pauses(&mut self, dice: &mut Dice) {
        for task in &mut self.tasks {
            if dice.chance(60) {
                task.shape = Shape::Long { ms: dice.between(1500, 3000) };
                let at_ms = dice.between(400, 1500);
                task.verbs.push((at_ms, Verb::Pause));
                task.verbs.push((at_ms + dice.between(0, 1500), Verb::Resume));
            }
        }
    }

    /// The tasks of the first seconds are told to the host, those after them are not, and all that
    /// run longer than its absence are marked lost.
    fn add_marks_lost(&mut self, dice: &mut Dice) {
        let at_ms = dice.between(800, 2000);
        for task in &mut self.tasks {
            if dice.chance(50) {
                task.shape = Shape::Long { ms: MARKS_LOST_TASK_MS };
            }
        }
        let action = Action::HostMarksLost { ms: MARKS_LOST_AFTER_MS };
        self.actions.push(Timed { at_ms, kind: Kind::HostMarksLost, action });
    }
}

fn kinds(dice: &mut Dice, only: Option<Kind>) -> Vec<Kind> {
    if let Some(only) = only {
        return vec![only];
    }
    if dice.between(1, MARKS_LOST_ONE_OF) == 1 {
        return vec![Kind::HostMarksLost];
    }
    let count = match dice.between(1, 100) {
        1..=45 => 1,
        46..=80 => 2,
        _ => 3,
    };
    let mut kinds: Vec<Kind> = Vec::new();
    while kinds.len() < count {
        let kind = *dice.pick(Kind::ALL);
        let has_company = |of: &[Kind]| of.contains(&kind) && kinds.iter().any(|k| of.contains(k));
        // One hand at a time on the Engine's process.
        let engine = [Kind::EngineHangs, Kind::EngineRestarted, Kind::EngineKilled, Kind::PowerCut];
        if kind != Kind::HostMarksLost && !kinds.contains(&kind) && !has_company(&engine) {
            kinds.push(kind);
        }
    }
    kinds
}

fn tasks(dice: &mut Dice, seed: u64, span_ms: u64) -> Vec<Task> {
    // Above 2^53, like the host's, and nobody else's.
    let base = (1 << 60) | ((Dice::new(seed).next() & 0xffff_ffff) << 8);
    (0..dice.between(3, 9)).map(|number| Task::generate(dice, base + number, span_ms)).collect()
}

fn times(dice: &mut Dice, kind: Kind) -> u64 {
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

fn action(dice: &mut Dice, kind: Kind) -> Action {
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

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        writeln!(f, "seed {}: {}", self.seed, kinds.join(", "))?;
        writeln!(f, "  a runner that died is started again after {} ms", self.rest_ms)?;
        if let Some(nth) = self.state_call {
            writeln!(f, "  killed as it enters its {nth}. call on the state directory")?;
        }
        for task in &self.tasks {
            writeln!(f, "  {:5} ms  {task}", task.at_ms)?;
        }
        for Timed { at_ms, action, .. } in &self.actions {
            writeln!(f, "  {at_ms:5} ms  {action:?}")?;
        }
        Ok(())
    }
}
