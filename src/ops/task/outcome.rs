//! How a task ended, in the words that its user reads: pure. `execute` asks about what the Engine
//! refused to start, `finish` about what ran; exit codes are those of the `docker` command
//! (contract 5.3).

use std::path::Path;

use crate::docker::DockerError;
use crate::limits::MESSAGE_QUOTE_CHARS_MAX;
use crate::model::script::REFUSED_EXIT_CODE;
use crate::model::task::{FinalStatus, Outcome};
use crate::model::time::Stamp;
use crate::store::Loss;

/// The Engine found the program and may not run it.
const NOT_EXECUTABLE_EXIT_CODE: i64 = 126;
/// The Engine did not find the program.
const NOT_FOUND_EXIT_CODE: i64 = 127;
/// 128 + SIGKILL: by us, by the kernel's OOM killer, or by somebody on the machine.
const KILLED_EXIT_CODE: i64 = 137;
/// 128 + SIGTERM.
const TERMINATED_EXIT_CODE: i64 = 143;

/// The outcome of a task killed through the API.
pub fn killed(exit_code: Option<i64>) -> Outcome {
    Outcome {
        status: FinalStatus::Killed,
        exit_code,
        message: Some("killed by request".to_owned()),
    }
}

/// The outcome of a task that the host had ended before it ran, or of a VPS whose create was answered
/// with an error since the runner stopped.
pub fn withdrawn() -> Outcome {
    Outcome {
        status: FinalStatus::Killed,
        exit_code: None,
        message: Some("ended before it ran, by the host or as the runner stopped".to_owned()),
    }
}

/// The outcome of a task without an exit code: `message` tells the user why.
pub fn failed(message: String) -> Outcome {
    Outcome { status: FinalStatus::Failed, exit_code: None, message: Some(message) }
}

/// The outcome of a task that ran within a start that the Engine's own end cut short.
pub fn lost() -> Outcome {
    failed(
        "the Docker Engine was stopped or restarted just as it started the task: it ran, and how it \
         ended was lost"
            .to_owned(),
    )
}

/// The outcome of a task whose record was lost, and its end with it.
pub fn record_lost(loss: Loss, aside: &Path) -> Outcome {
    let aside = match loss {
        Loss::Gone => String::new(),
        Loss::Damaged(_) => format!("; the file is set aside in {}", aside.display()),
    };
    failed(format!("{loss}: how it ended is not known{aside}"))
}

/// The outcome of a task whose container the Engine refused to create or start.
pub fn refused_by_engine(error: &DockerError) -> Outcome {
    let said = error.said().unwrap_or_default();
    let message = if said.contains("\"/bin/sh\"") || said.contains("/bin/sh: no such file") {
        format!("the image has no /bin/sh, which runs the command: {error}")
    } else {
        error.to_string()
    };
    Outcome { exit_code: Some(refusal_code(said)), ..failed(message) }
}

/// How a container ended, with what is needed to name the outcome.
#[derive(Debug, Default)]
pub struct Ending {
    /// `None`: nobody knows it; the container is gone, or lost its end with the machine's power.
    pub code: Option<i64>,
    pub at: Option<Stamp>,
    pub oom_killed: bool,
    /// What the Engine's log holds: what was said before the output was redirected.
    pub said: String,
    /// The Engine's own word on a container that it could not run.
    pub engine_error: String,
    /// The Engine's own end ended it.
    pub engine_stopped: bool,
}

/// Exit code to status and message (contract 5.3 and its better rules).
pub fn outcome_of(ending: &Ending) -> Outcome {
    let Some(code) = ending.code else {
        return failed(if ending.engine_stopped {
            "the Docker Engine was stopped or restarted while the task ran, and how it ended was \
             lost"
                .to_owned()
        } else {
            "its container was removed, not by the runner, before its exit code was known"
                .to_owned()
        });
    };
    if ending.engine_stopped {
        return ended_with_the_engine(code, ending.oom_killed);
    }
    let status = match (code, ending.oom_killed) {
        (0, _) => FinalStatus::Completed,
        (KILLED_EXIT_CODE, true) => FinalStatus::KilledOom,
        _ => FinalStatus::Failed,
    };
    let mut message = match (code, ending.oom_killed) {
        (0, _) => return Outcome { status, exit_code: Some(0), message: None },
        (KILLED_EXIT_CODE, true) => "exit code 137: out of memory, it reached its limit".to_owned(),
        (KILLED_EXIT_CODE, false) => {
            "exit code 137: killed (SIGKILL), not by the runner and not for memory".to_owned()
        }
        (TERMINATED_EXIT_CODE, _) => "exit code 143: terminated (SIGTERM)".to_owned(),
        (code, true) => format!("exit code {code}; a process of it was killed for memory"),
        (code, false) => format!("exit code {code}"),
    };
    for more in [&ending.engine_error, &ending.said] {
        if !more.is_empty() {
            message.push_str(": ");
            message.extend(more.chars().take(MESSAGE_QUOTE_CHARS_MAX));
        }
    }
    Outcome { status, exit_code: Some(code), message: Some(message) }
}

/// Whatever the code looks like, and though a process of it may have been killed for memory before:
/// the Engine's end was the task's.
fn ended_with_the_engine(code: i64, oom_killed: bool) -> Outcome {
    let memory =
        if oom_killed { "; before that a process of it was killed for memory" } else { "" };
    let message = format!(
        "exit code {code}: the Docker Engine was stopped or restarted while the task ran, and \
         ended it{memory}"
    );
    Outcome { exit_code: Some(code), ..failed(message) }
}

/// 127 not found, 126 not executable, else 125 (contract 5.3). The Engine has one status number for
/// all three; its words are all there is, and the `docker` command goes by them too.
fn refusal_code(said: &str) -> i64 {
    let about_exec = said.contains("exec") || said.contains("starting container process");
    if about_exec
        && (said.contains("executable file not found")
            || said.contains("no such file or directory"))
    {
        NOT_FOUND_EXIT_CODE
    } else if about_exec && (said.contains("permission denied") || said.contains("is a directory"))
    {
        NOT_EXECUTABLE_EXIT_CODE
    } else {
        REFUSED_EXIT_CODE
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn outcome(code: i64, oom_killed: bool) -> Outcome {
        outcome_of(&Ending { code: Some(code), oom_killed, ..Ending::default() })
    }

    #[test]
    fn success_has_no_message() {
        assert_eq!(outcome(0, false).message, None);
        assert_eq!(outcome(0, true).status, FinalStatus::Completed);
    }

    #[test]
    fn killed_oom_is_137_with_a_word_of_memory_and_nothing_else() {
        assert_eq!(outcome(137, true).status, FinalStatus::KilledOom);
        assert_eq!(outcome(137, false).status, FinalStatus::Failed);
        assert_eq!(outcome(1, true).status, FinalStatus::Failed);
        assert!(outcome(1, true).message.unwrap().contains("memory"));
    }

    #[test]
    fn end_of_the_engine_is_no_kill_for_memory_and_names_the_engine() {
        let ending = Ending { code: Some(137), oom_killed: true, ..Ending::default() };
        let Outcome { status, exit_code, message } =
            outcome_of(&Ending { engine_stopped: true, ..ending });
        assert_eq!((status, exit_code), (FinalStatus::Failed, Some(137)));
        assert!(message.unwrap().contains("Docker Engine was stopped"));
    }

    #[test]
    fn failure_quotes_what_the_engines_log_holds_and_no_more_than_500_characters() {
        let ending = Ending { code: Some(2), said: "ö".repeat(2000), ..Ending::default() };
        let message = outcome_of(&ending).message.unwrap();
        assert_eq!(message.chars().filter(|c| *c == 'ö').count(), MESSAGE_QUOTE_CHARS_MAX);
    }

    #[test]
    fn container_that_is_gone_fails_without_a_code() {
        let outcome = outcome_of(&Ending::default());
        assert_eq!((outcome.status, outcome.exit_code), (FinalStatus::Failed, None));
    }

    #[test]
    fn refusal_gets_the_code_of_the_docker_command() {
        let runc =
            "OCI runtime create failed: container_linux.go: starting container process caused: ";
        assert_eq!(
            refusal_code(&format!(
                "{runc}exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown"
            )),
            127
        );
        assert_eq!(
            refusal_code(&format!(
                "{runc}exec: \"x\": executable file not found in $PATH: unknown"
            )),
            127
        );
        assert_eq!(refusal_code(&format!("{runc}exec: \"/x\": permission denied: unknown")), 126);
        assert_eq!(
            refusal_code(
                "invalid mount config for type \"bind\": bind source path does not exist: /x"
            ),
            125
        );
    }
}
