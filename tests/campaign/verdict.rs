//! What must hold after a schedule, whatever it was (design laws 1, 2, 3, 6 and 10).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fault::Kind;
use crate::kit::{NETWORK, Report};
use crate::settle::{is_heard_final, needs_final};
use crate::strike::REFUSAL;
use crate::table::{Count, Tally};
use crate::tasks::Task;
use crate::vps;
use crate::world::{Answer, Notes, Span, TaskNote, World, locked};

/// A report that was on its way when the kill was answered is read by the host a moment later.
pub const IN_FLIGHT: Duration = Duration::from_millis(100);
/// dockerd goes on ending containers for a moment after it has answered again.
const OUTAGE_ECHO: Duration = Duration::from_secs(5);

/// How a message names the Engine's stop.
const ENGINE_STOPPED: &str = "Docker Engine was stopped";
/// What the Engine's end gives to a container: SIGKILL, SIGTERM, and "nobody saw it".
const ENGINE_CODES: &[i64] = &[137, 143, 255];

/// A breach and which sum of the table it belongs to.
#[derive(Debug)]
pub struct Breach {
    pub sort: Sort,
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// Accepted, and without an outcome.
    Lost,
    /// An outcome, output or number of runs that nothing explains.
    Wrong,
    /// Two outcomes, or a report after the last word.
    Contradicted,
    /// Something is there that should be gone.
    Leaked,
    Other,
}

impl Breach {
    pub fn new(sort: Sort, what: impl Into<String>) -> Breach {
        Breach { sort, what: what.into() }
    }
}

/// Looks at everything while the Engine and the host still stand; the runner has been stopped.
pub fn judge(world: &World<'_>, tally: &mut Tally) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut notes = world.notes();
    breaches.append(&mut notes.vps_breaches);
    for task in &world.schedule.tasks {
        let note = &notes.tasks[&task.id];
        let judged = Judged { world, notes: &notes, task, note };
        judged.judge(&mut breaches, tally);
    }
    for (kind, count) in &notes.injected {
        *tally.injected.entry(*kind).or_default() += count;
    }
    breaches.extend(notes.breaches.iter().map(|what| Breach::new(Sort::Other, what)));
    let of_vps = notes.vps.clone();
    drop(notes);
    for vps in &world.schedule.vps {
        breaches.extend(vps::verdict::judge(world, vps, &of_vps[&vps.id], tally));
    }
    let contract = world.host.take_breaches();
    breaches.extend(contract.into_iter().map(|what| Breach::new(Sort::Wrong, what)));
    leftovers(world, &mut breaches);
    foreign(world, &mut breaches);
    let log = world.log();
    for line in log.lines().filter(|line| line.contains("panicked")) {
        breaches.push(Breach::new(Sort::Other, line));
    }
    breaches
}

struct Judged<'a, 'w> {
    world: &'a World<'w>,
    notes: &'a Notes,
    task: &'a Task,
    note: &'a TaskNote,
}

impl Judged<'_, '_> {
    fn judge(&self, breaches: &mut Vec<Breach>, tally: &mut Tally) {
        let reports = self.world.host.reports_of(self.task.id);
        let finals: Vec<&Report> = reports.iter().filter(|r| is_heard_final(r)).collect();
        let outcomes = different(&finals);
        for (what, more) in [
            (Count::Submitted, usize::from(self.note.submitted.is_some())),
            (Count::Accepted, usize::from(self.note.answer == Answer::Accepted)),
            (Count::Refused, self.note.refusals),
            (Count::Finals, usize::from(!finals.is_empty())),
            (Count::Repeats, finals.len() - outcomes.len()),
            (Count::ApiKills, usize::from(self.note.killed.is_some())),
            (Count::EngineEnds, usize::from(finals.iter().any(|said| names_engine_stop(said)))),
            (Count::UserEnds, usize::from(self.is_strictly_user_ended())),
        ] {
            tally.count(what, more);
        }

        let mut found = |sort, what: String| {
            let what = format!("{}: {what}; {}", self.task, self.story(&reports));
            breaches.push(Breach::new(sort, what));
        };
        let record = self.record();
        let exists = record.is_some() || !reports.is_empty() || self.runs() > 0;
        match self.note.answer {
            Answer::NotSent if exists => {
                found(Sort::Other, "exists although it was never sent".to_owned());
            }
            Answer::Refused(status) if exists => {
                found(Sort::Wrong, format!("exists although it was refused with {status}"));
            }
            Answer::Accepted if record.is_none() => {
                found(Sort::Lost, "accepted, and there is no record".to_owned());
            }
            _ => {}
        }
        if outcomes.len() > 1 {
            found(Sort::Contradicted, format!("{} different outcomes", outcomes.len()));
        }
        // What was neither accepted nor refused for sure is whole or absent.
        let may_be_silent =
            self.note.killed.is_some() || self.note.kill_unsure || self.note.user_ended || !exists;
        if finals.is_empty() && (needs_final(self.note) || !may_be_silent) {
            found(Sort::Lost, "no outcome at the host".to_owned());
        }
        if let Some(first) = finals.first() {
            let late = reports.iter().find(|r| !r.is_final() && r.came > first.came);
            if let Some(late) = late {
                found(Sort::Contradicted, format!("`{}` came after the final", late.status));
            }
            if let Some(wrong) = self.wrong(first) {
                found(Sort::Wrong, wrong);
            }
        }
        if let Some(killed) = self.note.killed
            && let Some(late) = reports.iter().find(|r| r.came > killed + IN_FLIGHT)
        {
            let after = late.came - killed;
            found(Sort::Contradicted, format!("`{}` came {after:?} after the kill", late.status));
        }
        if self.is_strictly_user_ended() && !finals.is_empty() {
            found(Sort::Contradicted, "its user had ended it, and it was reported".to_owned());
        }
        if self.is_strictly_user_ended() && self.task.stdout() == self.had_stdout() {
            found(Sort::Wrong, "its user had ended it, and it ran to its end".to_owned());
        }
        if record.as_ref().is_some_and(|record| record["phase"] != "Ended") {
            found(Sort::Lost, "its record is not over".to_owned());
        }
        if self.runs() > 1 {
            found(Sort::Wrong, format!("it ran {} times", self.runs()));
        }
        for what in self.bad_output(finals.first().copied()) {
            found(Sort::Wrong, what);
        }
    }

    /// Why this outcome is not one that the task may have.
    fn wrong(&self, said: &Report) -> Option<String> {
        if self.is_natural(said) {
            return (self.runs() != 1)
                .then(|| format!("ended by itself with {} runs", self.runs()));
        }
        if said.status == "completed" || said.status == "killed_oom" {
            return Some(format!("reported {} {:?}", said.status, said.exit_code));
        }
        if said.status != "failed" {
            return Some(format!("reported {}", said.status));
        }
        let message = said.message.as_deref().unwrap_or_default();
        if message.is_empty() {
            return Some(format!("reported failed {:?} without a word", said.exit_code));
        }
        let signalled = matches!(said.exit_code, Some(129..=159));
        if self.note.removed && (said.exit_code.is_none() || said.exit_code == Some(137)) {
            return None;
        }
        if self.note.signalled && signalled {
            return None;
        }
        if self.meets(&self.notes.engine_outages) {
            if !message.contains(ENGINE_STOPPED) {
                return Some(format!("does not name the Engine's stop: {message:?}"));
            }
            let is_its_own = said.exit_code.is_none_or(|code| ENGINE_CODES.contains(&code));
            return (!is_its_own)
                .then(|| format!("{:?} is no code of the Engine's", said.exit_code));
        }
        if self.meets(&self.notes.logs_full) {
            return None;
        }
        if self.notes.engine_refused && message.contains(REFUSAL) {
            let is_refused_start = said.exit_code == Some(125) && self.runs() == 0;
            return (!is_refused_start).then(|| format!("ended by a refusal: {message:?}"));
        }
        Some(format!("reported failed {:?} {message:?}", said.exit_code))
    }

    fn is_natural(&self, said: &Report) -> bool {
        let status = if self.task.code == 0 { "completed" } else { "failed" };
        said.status == status && said.exit_code == Some(self.task.code)
    }

    /// Whether one of these came between the task's submission and the report of its end.
    fn meets(&self, spans: &[Span]) -> bool {
        let Some(begin) = self.note.submitted else { return false };
        let reports = self.world.host.reports_of(self.task.id);
        let end = reports.iter().find(|r| is_heard_final(r)).map_or_else(Instant::now, |r| r.came);
        spans.iter().any(|span| span.begin <= end && span.end + OUTAGE_ECHO >= begin)
    }

    /// Only where nothing else kept the runner from knowing.
    fn is_strictly_user_ended(&self) -> bool {
        let is_long = matches!(self.task.shape, crate::tasks::Shape::Long { ms } if ms > 1500);
        self.note.user_ended && is_long && self.world.schedule.kinds == [Kind::UserEnds]
    }

    fn had_stdout(&self) -> String {
        let path = self.world.logs.join(self.task.id.to_string()).join("stdout.log");
        fs::read_to_string(path).unwrap_or_default()
    }

    fn runs(&self) -> usize {
        let mark = fs::read_to_string(self.world.marks.join(self.task.id.to_string()));
        mark.map_or(0, |lines| lines.lines().count())
    }

    fn bad_output(&self, said: Option<&Report>) -> Vec<String> {
        let logs = self.world.logs.join(self.task.id.to_string());
        let mut files = vec![
            (logs.join("stdout.log"), self.task.stdout()),
            (logs.join("stderr.log"), self.task.stderr()),
        ];
        if let Some(own) = self.task.own_file() {
            let path = self.world.marks.join(format!("{}.own", self.task.id));
            files.push((path, own.to_owned()));
        }
        let was_full = self.meets(&self.notes.logs_full);
        let is_whole = !was_full && said.is_some_and(|said| self.is_natural(said));
        let compare = |(path, wanted): &(std::path::PathBuf, String)| {
            let had = fs::read(path).unwrap_or_default();
            // What did not fit is missing in the middle too: the task writes on.
            let is_good = match (is_whole, was_full) {
                (true, _) => had == wanted.as_bytes(),
                (false, true) => is_part(&had, wanted.as_bytes()),
                (false, false) => wanted.as_bytes().starts_with(&had),
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            (!is_good).then(|| {
                let (had, wanted) = (had.len(), wanted.len());
                format!("{name} is not what it wrote: {had} bytes, {wanted} are right")
            })
        };
        files.iter().filter_map(compare).collect()
    }

    fn record(&self) -> Option<Value> {
        let name = format!("{}.json", self.task.id);
        let read = |under: &str| fs::read(self.world.state_dir.join(under).join(&name)).ok();
        let content = read("tasks").or_else(|| read("untold")).or_else(|| read("ended"))?;
        Some(serde_json::from_slice(&content).unwrap_or(Value::Null))
    }

    /// What a reader of a breach wants to know first.
    fn story(&self, reports: &[Report]) -> String {
        let begin = self.world.begin;
        let at = |instant: Instant| instant.saturating_duration_since(begin).as_millis();
        let mut story = match self.note.submitted {
            Some(submitted) => format!("submitted at {} ms", at(submitted)),
            None => "not submitted".to_owned(),
        };
        story.push_str(&format!(", {:?}, ran {}", self.note.answer, self.runs()));
        if let Some(killed) = self.note.killed {
            story.push_str(&format!(", killed at {} ms", at(killed)));
        }
        for (is, word) in [
            (self.note.kill_unsure, "kill unanswered"),
            (self.note.signalled, "signalled"),
            (self.note.removed, "removed"),
            (self.note.user_ended, "user ended it"),
        ] {
            if is {
                story.push_str(&format!(", {word}"));
            }
        }
        for r in reports {
            let code = r.exit_code.map_or(String::new(), |code| format!(" {code}"));
            let message = r.message.as_deref().unwrap_or_default();
            let (status, verdict) = (&r.status, r.verdict);
            story.push_str(&format!(
                "\n      {} ms {status}{code} {message:?} {verdict:?}",
                at(r.came)
            ));
        }
        story
    }
}

fn names_engine_stop(said: &Report) -> bool {
    said.message.as_deref().is_some_and(|message| message.contains(ENGINE_STOPPED))
}

/// The outcomes among these finals, each once.
fn different(finals: &[&Report]) -> Vec<(String, Option<i64>, Option<String>)> {
    let mut outcomes = Vec::new();
    for said in finals {
        let outcome = (said.status.clone(), said.exit_code, said.message.clone());
        if !outcomes.contains(&outcome) {
            outcomes.push(outcome);
        }
    }
    outcomes
}

/// Whether `part` is `whole` with some bytes left out.
fn is_part(part: &[u8], whole: &[u8]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|byte| rest.any(|other| other == byte))
}

fn leftovers(world: &World<'_>, breaches: &mut Vec<Breach>) {
    let mut leaked = |what: String| breaches.push(Breach::new(Sort::Leaked, what));
    let containers = world.containers();
    if !containers.is_empty() {
        leaked(format!("containers {containers:?}"));
    }
    match world.client.try_api("GET", &format!("/networks/{NETWORK}"), None) {
        Ok(network) => {
            let ends = network.json["Containers"].as_object().map_or(0, serde_json::Map::len);
            if ends > 0 {
                leaked(format!("{ends} network endpoints: {}", network.json["Containers"]));
            }
        }
        Err(error) => leaked(format!("the Engine does not answer: {error}")),
    }
    for name in ["tasks", "untold", "broken", "lost"] {
        let left = names_in(&world.state_dir.join(name));
        if !left.is_empty() {
            leaked(format!("{name}/ holds {left:?}"));
        }
    }
    let left: Vec<String> = names_in(&world.state_dir.join("ended"))
        .into_iter()
        .filter(|name| !name.ends_with(".json"))
        .collect();
    if !left.is_empty() {
        leaked(format!("ended/ holds {left:?}"));
    }
    let left = names_in(&world.local_temp);
    if !left.is_empty() {
        leaked(format!("LOCAL_TEMP_DIR holds {left:?}"));
    }
    if let Some(beat) = world.host.beats().last()
        && !beat.running_tasks.is_empty()
    {
        leaked(format!("the last heartbeat still lists {:?}", beat.running_tasks));
    }
}

/// A stranger's container lives as it was made; only the Engine's own end may have ended it.
fn foreign(world: &World<'_>, breaches: &mut Vec<Breach>) {
    let had_outage = !world.notes().engine_outages.is_empty();
    // One without an id was never made: the Engine was on its way out.
    for foreign in locked(&world.foreign).iter().filter(|foreign| !foreign.id.is_empty()) {
        let path = format!("/containers/{}/json", foreign.name);
        let found = world.client.try_api("GET", &path, None);
        let found = found.map(|found| found.json).unwrap_or_default();
        let is_untouched =
            found["Id"] == foreign.id.as_str() && (had_outage || found["State"]["Running"] == true);
        if !is_untouched {
            let what = format!("foreign container: {}, {}", found["Id"], found["State"]);
            breaches.push(Breach::new(Sort::Wrong, what));
        }
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
