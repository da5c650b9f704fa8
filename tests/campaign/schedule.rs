//! What happens when: tasks, VPS and faults, made from a seed and from nothing else, so that a seed is
//! enough to make it happen again.

use std::fmt;

use crate::dice::Dice;
use crate::fault::{Action, Kind, VPS_CALLS, action, times};
use crate::tasks::{Shape, Task, Verb};
use crate::vps::{Step, Vps};

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
    pub vps: Vec<Vps>,
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

impl Schedule {
    /// `only`: this kind alone.
    pub fn generate(seed: u64, only: Option<Kind>) -> Schedule {
        let mut dice = Dice::new(seed);
        let kinds = kinds(&mut dice, only);
        let span_ms = dice.between(2500, 5500);
        let mut schedule = Schedule {
            seed,
            tasks: tasks(&mut dice, seed, span_ms),
            vps: all_vps(seed, span_ms),
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
            vps: vec![Vps::calm((1 << 60) - 2)],
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
                let all = u64::try_from(self.tasks.len() + self.vps.len()).expect("few");
                self.state_call = Some(dice.between(1, STATE_CALLS_PER_TASK * all));
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
            if let Action::EngineCall { path, .. } = action
                && VPS_CALLS.contains(&path)
            {
                self.make_one_stop(dice);
            }
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

    /// For faults of calls that only a VPS's stop makes.
    fn make_one_stop(&mut self, dice: &mut Dice) {
        if self.vps.is_empty() {
            self.vps.push(Vps {
                id: vps_base(self.seed),
                at_ms: 0,
                steps: vec![(0, Step::Create)],
            });
        }
        let vps = self.vps.first_mut().expect("a VPS");
        vps.add(dice, &[Step::Create, Step::Write, Step::Stop, Step::Create]);
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

/// Of dice of their own: the seed's tasks and faults are the same with and without them.
fn all_vps(seed: u64, span_ms: u64) -> Vec<Vps> {
    let mut dice = Dice::new(!seed);
    let count = match dice.between(1, 100) {
        1..=15 => 0,
        16..=70 => 1,
        _ => 2,
    };
    (0..count).map(|number| Vps::generate(&mut dice, vps_base(seed) + number, span_ms)).collect()
}

/// Behind the tasks.
fn vps_base(seed: u64) -> u64 {
    (1 << 60) | ((Dice::new(seed).next() & 0xffff_ffff) << 8) | 0x80
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
        for vps in &self.vps {
            writeln!(f, "  {:5} ms  {vps}", vps.at_ms)?;
        }
        for Timed { at_ms, action, .. } in &self.actions {
            writeln!(f, "  {at_ms:5} ms  {action:?}")?;
        }
        Ok(())
    }
}
