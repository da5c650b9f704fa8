//! Where a task stands, and what a verb may do there: a pure table with every pair written out.
//!
//! ```text
//! Accepted ─► Creating ─► Starting ─► Running ⇄ Paused
//!     └───────────┴───────────┴──────────┴─────────┴──► Ended
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far a task has come. What is written before an effect says that the effect may have
/// happened: `Creating` means that a container may exist, `Starting` that it may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// On disk; its image is being made available.
    Accepted,
    Creating,
    Starting,
    Running,
    Paused,
    Ended,
}

/// What is wanted of a task, independent of how far it is: a kill overtakes a slow start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    Run,
    /// By `/api/kill`.
    Killed,
    /// By `/api/vps/stop`.
    Stopped,
    /// The host had ended the task before it ran (design law 6), or the create of a VPS was answered with
    /// an error.
    Withdrawn,
}

/// What a caller asks of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Kill,
    Pause,
    Resume,
}

/// A verb that may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the Engine.
    Go,
    /// No container can exist: writing the record is the whole effect.
    EndHere,
    /// It is so already; answer success.
    AlreadySo,
}

/// A verb that makes no sense in this phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The container does not run yet.
    NotStarted,
    /// The task is over, or on its way out.
    Over,
}

/// What `verb` does to a task in `phase` of which `wanted` is wanted.
pub fn decide(phase: Phase, wanted: Wanted, verb: Verb) -> Result<Verdict, Denied> {
    use Phase::{Accepted, Creating, Ended, Paused, Running, Starting};
    match (verb, wanted, phase) {
        (Verb::Kill, _, Ended) => Err(Denied::Over),
        (Verb::Kill, Wanted::Killed | Wanted::Withdrawn, _) => Ok(Verdict::AlreadySo),
        // A kill overtakes a stop, and its snapshot.
        (Verb::Kill, Wanted::Stopped, _) => Ok(Verdict::Go),
        (Verb::Kill, Wanted::Run, Accepted) => Ok(Verdict::EndHere),
        (Verb::Kill, Wanted::Run, Creating | Starting | Running | Paused) => Ok(Verdict::Go),

        (Verb::Pause | Verb::Resume, _, Ended) => Err(Denied::Over),
        (Verb::Pause | Verb::Resume, Wanted::Killed | Wanted::Stopped | Wanted::Withdrawn, _) => {
            Err(Denied::Over)
        }
        (Verb::Pause | Verb::Resume, Wanted::Run, Accepted | Creating | Starting) => {
            Err(Denied::NotStarted)
        }

        (Verb::Pause, Wanted::Run, Running) => Ok(Verdict::Go),
        (Verb::Pause, Wanted::Run, Paused) => Ok(Verdict::AlreadySo),
        (Verb::Resume, Wanted::Run, Paused) => Ok(Verdict::Go),
        (Verb::Resume, Wanted::Run, Running) => Ok(Verdict::AlreadySo),
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denied::NotStarted => "its container has not started yet",
            Denied::Over => "it has ended",
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn kill_before_any_container_ends_the_task_on_paper() {
        assert_eq!(decide(Phase::Accepted, Wanted::Run, Verb::Kill), Ok(Verdict::EndHere));
    }

    #[test]
    fn kill_while_a_container_may_exist_asks_the_engine() {
        assert_eq!(decide(Phase::Creating, Wanted::Run, Verb::Kill), Ok(Verdict::Go));
        assert_eq!(decide(Phase::Paused, Wanted::Run, Verb::Kill), Ok(Verdict::Go));
    }

    #[test]
    fn second_kill_is_no_error_until_the_task_has_ended() {
        assert_eq!(decide(Phase::Running, Wanted::Killed, Verb::Kill), Ok(Verdict::AlreadySo));
        assert_eq!(decide(Phase::Ended, Wanted::Killed, Verb::Kill), Err(Denied::Over));
    }

    #[test]
    fn pause_is_denied_before_the_start_and_idempotent_after() {
        assert_eq!(decide(Phase::Starting, Wanted::Run, Verb::Pause), Err(Denied::NotStarted));
        assert_eq!(decide(Phase::Paused, Wanted::Run, Verb::Pause), Ok(Verdict::AlreadySo));
        assert_eq!(decide(Phase::Running, Wanted::Run, Verb::Resume), Ok(Verdict::AlreadySo));
    }

    #[test]
    fn pause_of_a_task_being_killed_is_denied() {
        assert_eq!(decide(Phase::Running, Wanted::Killed, Verb::Pause), Err(Denied::Over));
    }
}
