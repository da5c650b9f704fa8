//! Does to a VPS what its schedule says, and keeps in mind what must be true of it then.

use std::io::ErrorKind;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Note, Step, Vps};
use crate::kit::{Response, call, wait_until};
use crate::world::World;

/// Between two tries of a user.
const TRY_AGAIN: Duration = Duration::from_millis(400);
const TRIES_MAX: usize = 12;
/// The rest of one: `exec` in a container that ends meanwhile.
const EXEC_PATIENCE: Duration = Duration::from_secs(5);

/// The answer to a call that the runner's end has met half done.
const STOPPING: &str = "the runner is stopping";

const CREATE: &str = "/api/vps/create";

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Status(u16),
    /// Nothing came to the runner.
    NotSent,
    /// Done or not.
    Nothing,
}

pub fn run(world: &World<'_>, vps: &Vps) {
    world.wait_for(vps.at_ms);
    for &(after_ms, step) in &vps.steps {
        sleep(Duration::from_millis(after_ms));
        match step {
            Step::Create => create(world, vps),
            Step::Write => write(world, vps),
            Step::Snapshot => snapshot(world, vps),
            Step::Stop => drop(stop(world, vps)),
            Step::Restart { gap_ms } => std::thread::scope(|scope| {
                scope.spawn(|| stop(world, vps));
                sleep(Duration::from_millis(gap_ms));
                create(world, vps);
            }),
            Step::StopAndKill { gap_ms } => std::thread::scope(|scope| {
                scope.spawn(|| stop(world, vps));
                sleep(Duration::from_millis(gap_ms));
                kill(world, vps);
            }),
            Step::Kill => drop(kill(world, vps)),
            Step::Pause => freeze(world, vps, "pause"),
            Step::Resume => freeze(world, vps, "resume"),
        }
    }
}

/// Tries until there is an answer that a user takes for one.
fn create(world: &World<'_>, vps: &Vps) {
    let mut was_unsure = false;
    // As the host does before it asks for a restart; what its user ended stays so.
    let is_over = matches!(world.host.status_of(vps.id).as_deref(), Some("stopped" | "failed"));
    if is_over && !note(world, vps, |note| note.user_ended) {
        world.host.set_status(vps.id, "assigning");
    }
    for _ in 0..TRIES_MAX {
        let sent = Instant::now();
        let before = note(world, vps, |note| {
            note.creates.push(sent);
            for (_, until) in &mut note.silences {
                until.get_or_insert(sent);
            }
            note.clone()
        });
        let body = vps.body(before.is_known);
        let said = send(world, vps, "POST", CREATE, Some(&body));
        note(world, vps, |note| match said {
            Said::Status(200) => {
                note.created += 1;
                note.failed = false;
                (note.exists, note.paused, note.is_known) = (Some(true), Some(false), true);
            }
            // Accepted, and over.
            Said::Status(500) => (note.exists, note.failed) = (Some(false), true),
            // Of this create, whose answer was lost, or of one before it.
            Said::Status(409) if was_unsure && before.exists != Some(true) => {
                (note.exists, note.paused) = (before.exists.map(|_| true), Some(false));
            }
            Said::Nothing => (note.exists, note.paused) = (None, None),
            Said::Status(_) | Said::NotSent => {}
        });
        match said {
            Said::Status(200 | 500) => return,
            // There is one, and nobody has asked it to go.
            Said::Status(409) if before.exists == Some(true) || was_unsure => return,
            Said::Status(status @ (400..=408 | 410..=499)) => {
                return world.breach(format!("VPS {}: create was answered {status}", vps.id));
            }
            Said::Status(_) | Said::NotSent => {}
            Said::Nothing => was_unsure = true,
        }
        sleep(TRY_AGAIN);
    }
}

/// Whether it is over for sure: stopped, or not there.
pub fn stop(world: &World<'_>, vps: &Vps) -> bool {
    let before = note(world, vps, |note| note.clone());
    let path = format!("/api/vps/stop/{}", vps.id);
    let said = send(world, vps, "POST", &path, Some(&json!({})));
    note(world, vps, |note| {
        // A create that was sent meanwhile may have come after it.
        let is_last = note.creates.len() == before.creates.len();
        match said {
            Said::Status(200) => {
                note.stopped += 1;
                if is_last {
                    note.exists = Some(false);
                    note.silences.push((Instant::now(), None));
                } else if note.exists != Some(true) || note.created == before.created {
                    note.exists = None;
                }
                // A kill meanwhile cuts its snapshot short.
                if !note.removed && note.kills == before.kills {
                    note.saved.clone_from(&before.files);
                }
            }
            Said::Status(404) | Said::NotSent => {}
            Said::Status(_) | Said::Nothing => note.exists = None,
        }
    });
    matches!(said, Said::Status(200 | 404))
}

/// As [`stop`]; what was not saved is lost.
pub fn kill(world: &World<'_>, vps: &Vps) -> bool {
    note(world, vps, |note| note.kills += 1);
    let body = json!({ "task_id": vps.id, "container_name": vps.container() });
    let said = send(world, vps, "POST", "/api/kill", Some(&body));
    note(world, vps, |note| {
        if !matches!(said, Said::NotSent | Said::Status(404)) {
            note.files.clone_from(&note.saved);
        }
        match said {
            Said::Status(200) => {
                note.killed += 1;
                note.exists = Some(false);
                note.silences.push((Instant::now(), None));
            }
            Said::Status(404) | Said::NotSent => {}
            Said::Status(_) | Said::Nothing => note.exists = None,
        }
    });
    matches!(said, Said::Status(200 | 404))
}

fn freeze(world: &World<'_>, vps: &Vps, verb: &str) {
    let path = format!("/api/vps/{verb}/{}", vps.id);
    let said = send(world, vps, "POST", &path, Some(&json!({})));
    note(world, vps, |note| match said {
        Said::Status(200) => note.paused = Some(verb == "pause"),
        Said::Status(404 | 409) | Said::NotSent => {}
        Said::Status(_) | Said::Nothing => note.paused = None,
    });
}

fn snapshot(world: &World<'_>, vps: &Vps) {
    let before = note(world, vps, |note| note.clone());
    let path = format!("/api/vps/snapshots/{}", vps.id);
    let said = send(world, vps, "POST", &path, Some(&json!({})));
    if said == Said::Status(200) {
        note(world, vps, |note| {
            note.snapshots += 1;
            if !note.removed {
                note.saved.clone_from(&before.files);
            }
        });
    }
}

/// Only where it runs for sure: what an unanswered create has made may not have begun.
fn write(world: &World<'_>, vps: &Vps) {
    let (is_sure, number) = note(world, vps, |note| {
        note.files_written += 1;
        (note.exists == Some(true), note.files_written)
    });
    if is_sure && exec(world, vps, &format!("echo {number} >/root/file-{number}")) == Some(0) {
        note(world, vps, |note| note.files.push(number));
    }
}

/// The exit code of a shell's command in the container.
pub fn exec(world: &World<'_>, vps: &Vps, script: &str) -> Option<i64> {
    let name = vps.container();
    let body = json!({ "Cmd": ["sh", "-c", script] });
    let path = format!("/containers/{name}/exec");
    let made = world.client.try_api("POST", &path, Some(&body)).ok()?;
    let id = made.json["Id"].as_str()?;
    let body = json!({ "Detach": true });
    world.client.try_api("POST", &format!("/exec/{id}/start"), Some(&body)).ok()?;
    let mut code = None;
    let _ = wait_until(EXEC_PATIENCE, || {
        let state = world.client.try_api("GET", &format!("/exec/{id}/json"), None);
        code = state.ok().and_then(|state| state.json["ExitCode"].as_i64());
        code.is_some()
    });
    code
}

fn note<T>(world: &World<'_>, vps: &Vps, change: impl FnOnce(&mut Note) -> T) -> T {
    change(world.notes().vps.get_mut(&vps.id).expect("a VPS of the schedule"))
}

fn send(
    world: &World<'_>,
    vps: &Vps,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Said {
    let sent = world.begin.elapsed().as_millis();
    let answer = call(&world.address, method, path, &[], body);
    let said =
        match &answer {
            // A create is withdrawn then, be it on disk already; of other calls it is not known.
            Ok(Response { status: 503, json, .. }) if json["detail"] == STOPPING => {
                if path == CREATE { Said::NotSent } else { Said::Nothing }
            }
            Ok(response) => Said::Status(response.status),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Said::NotSent,
            Err(_) => Said::Nothing,
        };
    let read = world.begin.elapsed().as_millis();
    let why = answer.ok().filter(|answer| answer.status != 200).map(|answer| answer.json);
    let why = why.map(|json| format!(" {json}")).unwrap_or_default();
    let what = path.trim_start_matches("/api/").to_owned();
    let line = format!("{sent} to {read} ms {what}: {said:?}{why}");
    note(world, vps, |note| note.story.push(line));
    said
}
