//! Whether the Engine ended a task by its own end: it was stopped, restarted or killed, or the
//! machine lost power. Asked by `finish` of an exit code that such an end makes, and of a container
//! that is gone; never of a task that ended by itself. Asked too of a success that nobody saw, which
//! such an Engine may have invented. How it is known: contrib/design/0004.

use chrono::{DateTime, Utc};

use crate::docker::{Container, DockerError, Memory};
use crate::model::phase::Wanted;
use crate::model::task::{TaskRecord, Times};
use crate::model::time::Stamp;
use crate::ops::Node;

/// What an Engine writes that finds a container dead of which it knows no code: after a power cut.
const UNKNOWN_EXIT_CODE: i64 = 255;

/// 128 + HUP, INT, QUIT, KILL, TERM: a stopping Engine sends the image's stop signal, usually TERM,
/// then KILL.
const STOP_SIGNAL_EXIT_CODES: [i64; 5] = [129, 130, 131, 137, 143];

/// Whether the Engine's end was the end of the container with this id, which ended with `code`
/// (`None`: nobody knows).
///
/// # Errors
/// There is no Engine that is there to stay; the outcome has to wait for it.
pub fn is_by_the_engine(
    node: &Node,
    record: &TaskRecord,
    code: Option<i64>,
    container: &str,
) -> Result<bool, DockerError> {
    if record.wanted != Wanted::Run || !may_be_by_the_engine(code) {
        return Ok(false);
    }
    // The Engine is asked for what was before now; by a clock that was set back the container's
    // start is not.
    if Stamp::now() < latest_sign_of_a_start(&record.times) {
        return Ok(false);
    }
    let facts = node.engine.about()?;
    let memory = node.engine.remembers(container, facts.time)?;
    let gone = node.engine.gone().map(|at| Stamp::from(DateTime::<Utc>::from(at)));
    let was_gone_since = gone.is_some_and(|at| record.times.started.is_some_and(|s| s < at));
    Ok(has_outlived_an_engine(memory, was_gone_since)
        && ends_with_the_engine(code, memory, facts.live_restore))
}

/// Whether the exit code 0 of a container whose end nobody saw is none: after a power cut an Engine
/// may write that of one whose end it does not know, with a time within its own start.
///
/// # Errors
/// There is no Engine that is there to stay; the outcome has to wait for it.
pub fn is_success_invented(node: &Node, container: &Container) -> Result<bool, DockerError> {
    let (Some(started), Some(finished)) = (container.started_at, container.finished_at) else {
        return Ok(false);
    };
    let Some(engine_started) = node.engine.started() else { return Ok(false) };
    let facts = node.engine.about()?;
    // By a clock that was set back the times say nothing, and the memory hides the start.
    let is_in_order = started <= finished && finished <= facts.time;
    if !is_in_order || finished < engine_started {
        return Ok(false);
    }
    Ok(node.engine.remembers(&container.id, facts.time)?.has_no_trace())
}

/// When the container was last known to start, or to be about to.
fn latest_sign_of_a_start(times: &Times) -> Stamp {
    let signs = [times.image_ready, times.created, times.first_output, times.started];
    signs.into_iter().flatten().fold(times.accepted, Stamp::max)
}

fn may_be_by_the_engine(code: Option<i64>) -> bool {
    code.is_none_or(|code| code == UNKNOWN_EXIT_CODE || STOP_SIGNAL_EXIT_CODES.contains(&code))
}

/// The Engine was started after the container: it does not remember its start and forgets nothing,
/// or no Engine was there at a time since.
fn has_outlived_an_engine(memory: Memory, was_gone_since: bool) -> bool {
    !memory.start && (memory.is_whole || was_gone_since)
}

/// Without live restore no container survives its Engine: the next one ends what still runs. With
/// it, a container dies of the machine's end only, of which nobody has seen anything.
fn ends_with_the_engine(code: Option<i64>, memory: Memory, live_restore: bool) -> bool {
    !live_restore || (code == Some(UNKNOWN_EXIT_CODE) && !memory.end)
}

#[cfg(test)]
mod test {
    use super::*;

    const NOTHING: Memory = Memory { start: false, end: false, is_whole: true };

    #[test]
    fn code_of_a_programs_own_is_never_the_engines() {
        assert!(
            [0, 1, 3, 125, 127, 134, 139].iter().all(|code| !may_be_by_the_engine(Some(*code)))
        );
        assert!(may_be_by_the_engine(Some(137)) && may_be_by_the_engine(Some(143)));
        assert!(may_be_by_the_engine(Some(255)) && may_be_by_the_engine(None));
    }

    #[test]
    fn engine_that_has_seen_the_start_or_may_have_forgotten_it_is_not_to_blame() {
        assert!(has_outlived_an_engine(NOTHING, false));
        assert!(!has_outlived_an_engine(Memory { start: true, ..NOTHING }, true));
        assert!(!has_outlived_an_engine(Memory { is_whole: false, ..NOTHING }, false));
        assert!(has_outlived_an_engine(Memory { is_whole: false, ..NOTHING }, true));
    }

    #[test]
    fn with_live_restore_only_an_end_that_nobody_saw_is_the_engines() {
        assert!(ends_with_the_engine(Some(137), NOTHING, false));
        assert!(!ends_with_the_engine(Some(137), NOTHING, true));
        assert!(ends_with_the_engine(Some(255), NOTHING, true));
        assert!(!ends_with_the_engine(Some(255), Memory { end: true, ..NOTHING }, true));
    }
}
