//! What the campaign's tasks are: commands whose exit code and output are known to the byte. Each
//! writes one line to a marker file as the first thing it does, so that a second run shows.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::kit::{execute_body_below, with};

/// Where a task finds the markers: a mount of its own, as every other directory may be full.
pub const MARKS: &str = "/marks";

/// Exit codes that others give too: a refused start, and 128 + SIGKILL, SIGTERM or SIGINT.
const CODES_WITH_A_MEANING: &[i64] = &[125, 126, 127, 130, 137, 143, 255];

#[derive(Clone, Debug)]
pub enum Shape {
    Quick,
    Long {
        ms: u64,
    },
    /// Numbers from 1, a line each; 150,000 are 1 MB.
    Much {
        lines: u64,
    },
    Stderr {
        lines: u64,
    },
    /// Its variables come through, whatever is in them.
    Environment,
    WorkingDir,
    /// Redirects its output itself, to a file beside its marker.
    OwnRedirection,
    /// Leaves a child behind, whose output must not come.
    Background,
    /// One program and words: the runner makes it the container's first process.
    Program,
}

/// A task as the schedule has it.
#[derive(Clone, Debug)]
pub struct Task {
    pub id: u64,
    pub at_ms: u64,
    pub shape: Shape,
    pub code: i64,
    /// Verbs of the API and how long after the submission.
    pub verbs: Vec<(u64, Verb)>,
    /// Whether the host tries again, under the same key, when it got no answer.
    pub insists: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Kill,
    Pause,
    Resume,
}

impl Verb {
    pub fn word(self) -> &'static str {
        match self {
            Verb::Kill => "kill",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
        }
    }
}

const VARIABLES: &[(&str, &str)] = &[("PLAIN", "x"), ("ODD", "a b'\"$HOME`\\ é=\t;")];

impl Task {
    pub fn generate(dice: &mut Dice, id: u64, span_ms: u64) -> Task {
        let shape = match dice.between(0, 11) {
            0..=2 => Shape::Quick,
            3..=5 => Shape::Long { ms: dice.between(300, 4000) },
            6 => Shape::Much { lines: dice.between(1, 150_000) },
            7 => Shape::Stderr { lines: dice.between(1, 500) },
            8 => Shape::Environment,
            9 if dice.chance(50) => Shape::WorkingDir,
            9 => Shape::OwnRedirection,
            10 => Shape::Background,
            _ => Shape::Program,
        };
        let code = if dice.chance(50) { 0 } else { code(dice) };
        let at_ms = dice.between(0, span_ms * 4 / 5);
        Task { id, at_ms, shape, code, verbs: Vec::new(), insists: dice.chance(50) }
    }

    pub fn command(&self) -> String {
        let code = self.code;
        let mark = format!("echo {} >>{MARKS}/{}; ", self.id, self.id);
        let what = match &self.shape {
            Shape::Quick => format!("echo out-{}; exit {code}", self.id),
            Shape::Long { ms } => {
                let (seconds, rest) = (ms / 1000, ms % 1000);
                format!("echo begin; sleep {seconds}.{rest:03}; echo end; exit {code}")
            }
            Shape::Much { lines } => format!("seq 1 {lines}; exit {code}"),
            Shape::Stderr { lines } => format!("seq 1 {lines} >&2; echo out; exit {code}"),
            Shape::Environment => {
                format!("printf '%s\\n' \"$PLAIN\" \"$ODD\" \"$KOHAKURIVER_TASK_ID\"; exit {code}")
            }
            Shape::WorkingDir => format!("pwd; exit {code}"),
            Shape::OwnRedirection => format!(
                "{{ echo inner; echo error >&2; }} >{MARKS}/{}.own 2>&1; echo outer; exit {code}",
                self.id
            ),
            Shape::Background => format!("(sleep 300; echo late) & echo front; exit {code}"),
            Shape::Program => return format!("sh {MARKS}/{}.sh 'one word' two", self.id),
        };
        mark + &what
    }

    /// The script that [`Shape::Program`] runs.
    pub fn script(&self) -> Option<String> {
        let (id, code) = (self.id, self.code);
        matches!(self.shape, Shape::Program).then(|| {
            format!(
                "echo {id} >>{MARKS}/{id}\nprintf '%s\\n' \"$@\"\necho wrong >&2\nexit {code}\n"
            )
        })
    }

    pub fn stdout(&self) -> String {
        match &self.shape {
            Shape::Quick => format!("out-{}\n", self.id),
            Shape::Long { .. } => "begin\nend\n".to_owned(),
            Shape::Much { lines } => numbers(*lines),
            Shape::Stderr { .. } => "out\n".to_owned(),
            Shape::Environment => {
                let values: Vec<&str> = VARIABLES.iter().map(|(_, value)| *value).collect();
                format!("{}\n{}\n", values.join("\n"), self.id)
            }
            Shape::WorkingDir => format!("{MARKS}\n"),
            Shape::OwnRedirection => "outer\n".to_owned(),
            Shape::Background => "front\n".to_owned(),
            Shape::Program => "one word\ntwo\n".to_owned(),
        }
    }

    pub fn stderr(&self) -> String {
        match &self.shape {
            Shape::Stderr { lines } => numbers(*lines),
            Shape::Program => "wrong\n".to_owned(),
            _ => String::new(),
        }
    }

    /// What it wrote beside its marker.
    pub fn own_file(&self) -> Option<&'static str> {
        matches!(self.shape, Shape::OwnRedirection).then_some("inner\nerror\n")
    }

    /// The dispatch as the host sends it; `logs` is the directory of all tasks' output.
    pub fn body(&self, logs: &Path) -> Value {
        let variables: BTreeMap<&str, &str> = VARIABLES.iter().copied().collect();
        let body = execute_body_below(logs, self.id, &self.command());
        let body = with(body, json!({ "env_vars": variables }));
        match self.shape {
            Shape::WorkingDir => with(body, json!({ "working_dir": MARKS })),
            _ => body,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} {:?}, exit {}", self.id, self.shape, self.code)?;
        if self.insists {
            f.write_str(", host insists")?;
        }
        for (ms, verb) in &self.verbs {
            write!(f, ", {} +{ms} ms", verb.word())?;
        }
        Ok(())
    }
}

fn code(dice: &mut Dice) -> i64 {
    loop {
        let code = i64::try_from(dice.between(1, 255)).expect("a byte");
        if !CODES_WITH_A_MEANING.contains(&code) {
            return code;
        }
    }
}

fn numbers(count: u64) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}
