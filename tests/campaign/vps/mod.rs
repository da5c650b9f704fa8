//! The campaign's VPS: what their users do to them, one thing after another, from the seed. `drive`
//! does it, `verdict` says what must hold.

pub mod drive;
pub mod verdict;

use std::fmt;
use std::time::Instant;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::kit::image;

/// A VPS as the schedule has it. Without SSH: that has tests of its own, and busybox has no sshd.
#[derive(Clone, Debug)]
pub struct Vps {
    pub id: u64,
    pub at_ms: u64,
    /// What is done to it, and how long after the answer to the one before.
    pub steps: Vec<(u64, Step)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// After an end of it, this is the host's restart (contract rule 14).
    Create,
    /// A file in it, past the runner.
    Write,
    Snapshot,
    Stop,
    /// A stop, and a create this long after it was sent: it need not be over.
    Restart {
        gap_ms: u64,
    },
    /// A stop, and a kill this long after it was sent.
    StopAndKill {
        gap_ms: u64,
    },
    Kill,
    Pause,
    Resume,
}

impl Vps {
    pub fn generate(dice: &mut Dice, id: u64, span_ms: u64) -> Vps {
        let at_ms = dice.between(0, span_ms / 2);
        let mut vps = Vps { id, at_ms, steps: vec![(0, Step::Create)] };
        let rounds = if dice.chance(25) { 2 } else { 1 };
        for _ in 0..rounds {
            vps.add_round(dice);
        }
        vps
    }

    /// Writes, is saved, stopped and made again.
    pub fn calm(id: u64) -> Vps {
        use Step::{Create, Snapshot, Stop, Write};
        let steps = [Create, Write, Snapshot, Write, Stop, Create];
        Vps { id, at_ms: 0, steps: steps.map(|step| (0, step)).to_vec() }
    }

    fn add_round(&mut self, dice: &mut Dice) {
        let gap_ms = dice.between(0, 400);
        let steps: &[Step] = match dice.between(0, 9) {
            0..=2 => &[Step::Write, Step::Stop, Step::Create],
            3 => &[Step::Write, Step::Snapshot, Step::Write, Step::Stop, Step::Create],
            4 => &[Step::Write, Step::Restart { gap_ms }, Step::Write],
            5 => &[Step::Write, Step::Snapshot, Step::Kill, Step::Create],
            6 => &[Step::Write, Step::StopAndKill { gap_ms }],
            7 => &[Step::Pause, Step::Resume, Step::Write, Step::Stop],
            8 => &[Step::Write, Step::Pause],
            _ => &[Step::Write, Step::Snapshot],
        };
        self.add(dice, steps);
    }

    pub fn add(&mut self, dice: &mut Dice, steps: &[Step]) {
        for step in steps {
            self.steps.push((dice.between(0, 900), *step));
        }
    }

    pub fn container(&self) -> String {
        format!("kohakuriver-vps-{}", self.id)
    }

    pub fn snapshot_repository(&self) -> String {
        format!("kohakuriver-snapshot/vps-{}", self.id)
    }

    /// As the host sends it. A restart says `none`, whatever the first create said.
    fn body(&self, is_again: bool) -> Value {
        json!({
            "task_id": self.id, "required_cores": 1, "required_gpus": [],
            "required_memory_bytes": null, "target_numa_node_id": null, "container_name": null,
            "registry_image": image("busybox"), "pull": "never",
            "ssh_key_mode": if is_again { "none" } else { "disabled" },
            "ssh_public_key": null, "ssh_port": 2222, "vps_backend": "docker",
        })
    }
}

impl fmt::Display for Vps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VPS {}", self.id)?;
        for (ms, step) in &self.steps {
            write!(f, ", +{ms} ms {step:?}")?;
        }
        Ok(())
    }
}

/// What was done to a VPS, what it was answered, and what must be true of it since.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// Whether it is to be there; `None` when an answer is missing.
    pub exists: Option<bool>,
    /// Whether it is to be paused, where it is there.
    pub paused: Option<bool>,
    /// A create was answered 200: from now on the host's are restarts.
    pub is_known: bool,
    pub creates: Vec<Instant>,
    /// A create was answered 500: it has ended, and the host was told why.
    pub failed: bool,
    /// From an answered stop or kill until the next create: nothing is reported.
    pub silences: Vec<(Instant, Option<Instant>)>,
    /// Files that must be in it.
    pub files: Vec<u64>,
    /// Those among them that a snapshot holds for sure.
    pub saved: Vec<u64>,
    pub files_written: u64,
    /// Sent, whatever came of them.
    pub kills: usize,
    pub signalled: bool,
    pub removed: bool,
    pub user_ended: bool,
    /// Stops, kills and creates with their answers, for whoever reads a breach.
    pub story: Vec<String>,
    /// Answered 200.
    pub created: usize,
    pub stopped: usize,
    pub killed: usize,
    pub snapshots: usize,
}
