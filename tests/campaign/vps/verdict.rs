//! What must hold of a VPS: first that it comes to rest as it is wanted, then what it holds, and what
//! the host has heard.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::drive::{self, exec};
use super::{Note, Vps};
use crate::kit::{Report, Verdict, call};
use crate::strike::REFUSAL;
use crate::table::{Count, Tally};
use crate::verdict::{Breach, IN_FLIGHT, Sort};
use crate::world::World;

/// As long as everything else may take.
const REST_MAX: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What a snapshot of ours carries, first its timestamp.
const LABEL_SNAPSHOT: &str = "river-runner.snapshot";

/// Waits until every VPS is as it is wanted, looks into those that run, and takes all of them down.
pub fn settle(world: &World<'_>) {
    let is_over = Instant::now() + REST_MAX;
    for vps in &world.schedule.vps {
        let mut restless = not_at_rest(world, vps);
        while restless.is_some() && Instant::now() < is_over {
            std::thread::sleep(LOOK_AGAIN);
            restless = not_at_rest(world, vps);
        }
        match restless {
            Some((sort, what)) => found(world, vps, sort, &what),
            None => look_into(world, vps),
        }
    }
    for vps in &world.schedule.vps {
        let end = if vps.id % 2 == 0 { drive::stop } else { drive::kill };
        while !end(world, vps) && Instant::now() < is_over {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

fn found(world: &World<'_>, vps: &Vps, sort: Sort, what: &str) {
    let what = format!("{vps}: {what}; {}", story(world, vps));
    world.notes().vps_breaches.push(Breach::new(sort, what));
}

/// Why it is not yet, or never, as it must be.
fn not_at_rest(world: &World<'_>, vps: &Vps) -> Option<(Sort, String)> {
    let note = world.notes().vps[&vps.id].clone();
    let Ok(listed) = call(&world.address, "GET", "/api/tasks", &[], None) else {
        return Some((Sort::Other, "the runner does not answer".to_owned()));
    };
    let rows = listed.json["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = rows.iter().find(|row| row["task_id"] == vps.id);
    let name = vps.container();
    let state = match world.client.try_api("GET", &format!("/containers/{name}/json"), None) {
        Ok(found) if found.status == 404 => Value::Null,
        Ok(found) if found.status == 200 => found.json["State"].clone(),
        _ => return Some((Sort::Other, "the Engine does not answer".to_owned())),
    };
    let Some(row) = row else {
        if !state.is_null() {
            return Some((Sort::Leaked, format!("over, and its container is there: {state}")));
        }
        let is_told = world.host.reports_of(vps.id).iter().any(is_heard_end);
        let must_be_told = (note.exists == Some(true) || note.failed) && !note.user_ended;
        let what = "neither there nor reported".to_owned();
        return (must_be_told && !is_told).then_some((Sort::Lost, what));
    };
    if note.exists == Some(false) {
        return Some((Sort::Wrong, format!("still there after its end: {}", row["status"])));
    }
    let is_paused = row["status"] == "paused";
    if !is_paused && row["status"] != "running" {
        return Some((Sort::Wrong, format!("is {}, and its container {state}", row["status"])));
    }
    if state["Running"] != true || state["Paused"] != is_paused {
        return Some((Sort::Wrong, format!("is {}, its container {state}", row["status"])));
    }
    if note.paused.is_some_and(|wanted| wanted != is_paused) && !note.user_ended {
        return Some((Sort::Wrong, format!("is {} unasked", row["status"])));
    }
    let at_host = world.host.status_of(vps.id);
    let is_known_to_run = is_paused || at_host.as_deref() == Some("running") || note.user_ended;
    let what = format!("runs, at the host it is {at_host:?}");
    (!is_known_to_run || row["unreported"] != 0).then_some((Sort::Lost, what))
}

/// What is at rest: an end that nobody asked for has a reason, and no file is missing.
fn look_into(world: &World<'_>, vps: &Vps) {
    let (note, was_refused) = {
        let notes = world.notes();
        (notes.vps[&vps.id].clone(), notes.engine_refused)
    };
    let name = vps.container();
    let state = world.client.try_api("GET", &format!("/containers/{name}/json"), None);
    let state = state.ok().filter(|found| found.status == 200);
    let Some(state) = state.map(|found| found.json["State"].clone()) else {
        let ends = world.host.reports_of(vps.id);
        let Some(end) = ends.iter().rfind(|report| is_heard_end(report)) else { return };
        if note.exists == Some(true) || note.failed {
            let message = end.message.as_deref().unwrap_or_default();
            let is_explained = match end.status.as_str() {
                "stopped" => note.removed,
                "failed" => was_refused && message.contains(REFUSAL),
                _ => false,
            };
            if !is_explained && !note.user_ended {
                found(world, vps, Sort::Wrong, "ended for no reason");
            }
        }
        return;
    };
    // A snapshot that the Engine refuses does not keep a VPS from being stopped (contract 5.9).
    let is_excused = note.removed || note.user_ended || was_refused;
    if state["Paused"] == true || is_excused {
        return;
    }
    for file in &note.files {
        let code = exec(world, vps, &format!("test -e /root/file-{file}"));
        if code != Some(0) {
            found(world, vps, Sort::Lost, &format!("file {file} is not in it: {code:?}"));
        }
    }
}

/// What is left of snapshots, when all VPS are gone: whole images with a name, which the runner removes.
pub fn snapshots(world: &World<'_>) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for image in images(world) {
        let tags = tags_of(&image);
        if tags.is_empty() {
            breaches.push(Breach::new(Sort::Leaked, format!("a nameless image: {image}")));
        }
        for tag in tags {
            let Some(timestamp) = tag.strip_prefix("kohakuriver-snapshot/vps-") else { continue };
            let timestamp = timestamp.split_once(':').map(|(_, timestamp)| timestamp);
            let label = image["Labels"][LABEL_SNAPSHOT].as_str().unwrap_or_default();
            if label.split(' ').next() != timestamp {
                breaches.push(Breach::new(Sort::Wrong, format!("snapshot {tag} of {label:?}")));
            }
        }
    }
    for vps in &world.schedule.vps {
        let path = format!("/api/vps/snapshots/{}", vps.id);
        let removed = call(&world.address, "DELETE", &path, &[], None);
        if !removed.as_ref().is_ok_and(|removed| removed.status == 200) {
            breaches.push(Breach::new(Sort::Other, format!("DELETE {path}: {removed:?}")));
        }
        let repository = vps.snapshot_repository();
        for tag in images(world).iter().flat_map(tags_of) {
            if tag.starts_with(&repository) {
                breaches.push(Breach::new(Sort::Leaked, format!("{tag} is not removed")));
            }
        }
    }
    breaches
}

/// All images of the Engine.
pub fn images(world: &World<'_>) -> Vec<Value> {
    let listed = world.client.try_api("GET", "/images/json", None);
    let listed = listed.map(|listed| listed.json).unwrap_or_default();
    listed.as_array().cloned().unwrap_or_default()
}

fn tags_of(image: &Value) -> Vec<String> {
    let tags = image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
    tags.filter(|tag| !tag.starts_with("<none>")).map(str::to_owned).collect()
}

/// What the host has heard, when all is over.
pub fn judge(world: &World<'_>, vps: &Vps, note: &Note, tally: &mut Tally) -> Vec<Breach> {
    for (what, more) in [
        (Count::VpsCreated, note.created),
        (Count::VpsStopped, note.stopped),
        (Count::VpsKilled, note.killed),
        (Count::VpsSnapshots, note.snapshots),
        (Count::VpsFiles, note.files.len()),
    ] {
        tally.count(what, more);
    }
    let reports = world.host.reports_of(vps.id);
    let mut breaches = Vec::new();
    let mut found = |sort, what: String| {
        breaches.push(Breach::new(sort, format!("{vps}: {what}; {}", story(world, vps))));
    };
    for report in &reports {
        let silence = note.silences.iter().find(|(from, until)| {
            report.came > *from + IN_FLIGHT && until.is_none_or(|until| report.came < until)
        });
        if let Some((from, _)) = silence {
            let after = report.came - *from;
            found(Sort::Contradicted, format!("`{}` came {after:?} after its end", report.status));
        }
        if report.status == "running" && report.ssh_port != Some(0) {
            found(Sort::Wrong, format!("runs with port {:?}", report.ssh_port));
        }
        if !matches!(report.status.as_str(), "pending" | "running" | "failed" | "stopped") {
            found(Sort::Wrong, format!("`{}` is no word for a VPS", report.status));
        }
    }
    for pair in reports.windows(2) {
        let began =
            note.creates.iter().any(|at| pair[0].came <= *at + IN_FLIGHT && *at <= pair[1].came);
        let is_back = pair[1].status == "pending" && pair[0].status != "pending";
        if is_back && !began {
            found(Sort::Contradicted, format!("`pending` after `{}`", pair[0].status));
        }
        if pair[0].is_final() && pair[0].status != pair[1].status && !began {
            let (first, second) = (&pair[0].status, &pair[1].status);
            found(Sort::Contradicted, format!("`{second}` after `{first}`"));
        }
    }
    breaches
}

fn is_heard_end(report: &Report) -> bool {
    matches!(report.status.as_str(), "failed" | "stopped") && report.verdict == Verdict::Accepted
}

/// What a reader of a breach wants to know.
fn story(world: &World<'_>, vps: &Vps) -> String {
    let note = world.notes().vps[&vps.id].clone();
    let mut story = format!("exists {:?}, paused {:?}", note.exists, note.paused);
    for (is, word) in [
        (note.signalled, "signalled"),
        (note.removed, "removed"),
        (note.user_ended, "user ended it"),
    ] {
        if is {
            story.push_str(&format!(", {word}"));
        }
    }
    for line in &note.story {
        story.push_str(&format!("\n      {line}"));
    }
    for r in world.host.reports_of(vps.id) {
        let at = r.came.saturating_duration_since(world.begin).as_millis();
        let message = r.message.as_deref().unwrap_or_default();
        let (status, port, verdict) = (&r.status, r.ssh_port, r.verdict);
        story.push_str(&format!("\n      {at} ms {status} {port:?} {message:?} {verdict:?}"));
    }
    story
}
