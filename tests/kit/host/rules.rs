//! The host's rules (contract 3.1 to 3.3): what a call changes, what it is answered, and what in it
//! is against the contract.

use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Beat, FINAL, Inner, REFUSED, Registration, Report, State, UPDATED, Verdict};

const REPORT_KEYS: &[&str] =
    &["task_id", "status", "exit_code", "message", "started_at", "completed_at", "ssh_port"];

/// Serves one call: the status and the body of the answer.
pub(super) fn apply(
    inner: &Inner,
    method: &str,
    path: &str,
    body: &[u8],
    came: Instant,
) -> (u16, Value) {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        inner.state().breaches.push(format!("{method} {path}: body is no JSON"));
        return (422, json!({ "detail": "no JSON" }));
    };
    match (method, path, path.strip_prefix("/api/heartbeat/")) {
        ("POST", "/api/register", _) => {
            // Cloned out: the hook may take its time, and the host's other calls must not wait.
            let hook = inner.state().on_register.clone();
            if let Some(run) = hook {
                run(&body);
            }
            register(&mut inner.state(), body)
        }
        ("POST", "/api/update", _) => update(&mut inner.state(), body, came),
        ("PUT", _, Some(hostname)) => heartbeat(&mut inner.state(), hostname, body),
        _ => {
            inner.state().breaches.push(format!("{method} {path}: no such call at the host"));
            (404, json!({ "detail": "Not Found" }))
        }
    }
}

fn register(state: &mut State, body: Value) -> (u16, Value) {
    let Some(hostname) = body["hostname"].as_str().map(str::to_owned) else {
        state.breaches.push(format!("register without hostname: {body}"));
        return (422, json!({ "detail": "hostname" }));
    };
    // The host splits the address on ':' and calls it as it stands (contract rule 16).
    let ip = body["url"].as_str().and_then(|url| url.strip_prefix("http://"));
    let ip = ip.and_then(|rest| rest.split(':').next());
    if ip.is_none_or(|ip| ip.parse::<Ipv4Addr>().is_err()) {
        state.breaches.push(format!("registered url has no IPv4 literal: {}", body["url"]));
    }
    if !body["total_cores"].is_u64() {
        state.breaches.push(format!("total_cores is no count: {}", body["total_cores"]));
    }
    let created = !state.nodes.contains(&hostname);
    if created {
        state.nodes.push(hostname);
    }
    state.registrations.push(Registration { at: Instant::now(), body });
    let overlay = state.overlay.clone();
    (200, json!({ "message": "Runner registered.", "created": created, "overlay": overlay }))
}

fn heartbeat(state: &mut State, hostname: &str, body: Value) -> (u16, Value) {
    let known = state.nodes.iter().any(|node| node == hostname);
    let status = if known { 200 } else { 404 };
    let ids = body["running_tasks"].as_array().map(|ids| ids.iter().map(Value::as_u64).collect());
    let running_tasks: Vec<u64> = ids.unwrap_or(None).unwrap_or_else(|| {
        state.breaches.push(format!("running_tasks is no list of ids: {}", body["running_tasks"]));
        Vec::new()
    });
    if known {
        // Rule 10: a listed task that waits is running from the host's point of view.
        for id in &running_tasks {
            let task = state.tasks.get_mut(id);
            if let Some(task) = task.filter(|task| matches!(task.as_str(), "pending" | "assigning"))
            {
                *task = "running".to_owned();
            }
        }
    }
    let hostname = hostname.to_owned();
    state.beats.push(Beat { at: Instant::now(), hostname, running_tasks, status, body });
    (status, json!({ "message": if known { "ok" } else { "unknown node" } }))
}

fn update(state: &mut State, body: Value, came: Instant) -> (u16, Value) {
    let (Some(id), Some(status)) = (body["task_id"].as_u64(), body["status"].as_str()) else {
        state.breaches.push(format!("report without task_id or status: {body}"));
        return (422, json!({ "detail": "task_id, status" }));
    };
    for key in REPORT_KEYS.iter().filter(|key| body.get(key).is_none()) {
        state.breaches.push(format!("report of {id} without `{key}`: {body}"));
    }
    for key in ["started_at", "completed_at"] {
        let naive = |text: &str| text.parse::<chrono::NaiveDateTime>().is_ok();
        if body[key].as_str().is_some_and(|text| !naive(text)) {
            state.breaches.push(format!("`{key}` of {id} is no naive local time: {body}"));
        }
    }
    let is_vps = body["ssh_port"].is_u64();
    let verdict = transition(state, id, status, is_vps);
    record(state, &body, verdict, came);
    let text = if verdict == Verdict::Accepted { UPDATED } else { REFUSED };
    (200, json!({ "message": text }))
}

/// Final → non-final is refused, but for a lost VPS that runs; everything else about a known task is
/// accepted (contract 3.3). Only a VPS says that it runs with a port, if it be 0.
fn transition(state: &mut State, id: u64, status: &str, is_vps: bool) -> Verdict {
    let now = state.tasks.get(&id).map_or("assigning", String::as_str);
    let ended = FINAL.contains(&now);
    let is_back = is_vps && now == "lost" && status == "running";
    let is_resurrected = ended && !FINAL.contains(&status) && !is_back;
    if state.unknown.contains(&id) || is_resurrected {
        return Verdict::Refused;
    }
    state.tasks.insert(id, status.to_owned());
    Verdict::Accepted
}

/// Notes a report that a fault keeps from being applied.
pub(super) fn unheard(inner: &Inner, path: &str, body: &[u8], came: Instant) {
    if path == "/api/update"
        && let Ok(body) = serde_json::from_slice(body)
    {
        record(&mut inner.state(), &body, Verdict::Unheard, came);
    }
    inner.changed.notify_all();
}

fn record(state: &mut State, body: &Value, verdict: Verdict, came: Instant) {
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    state.add_report(Report {
        at: Instant::now(),
        came,
        task_id: body["task_id"].as_u64().unwrap_or_default(),
        status: text("status").unwrap_or_default(),
        exit_code: body["exit_code"].as_i64(),
        message: text("message"),
        started_at: text("started_at"),
        completed_at: text("completed_at"),
        ssh_port: body["ssh_port"].as_i64(),
        verdict,
        body: body.clone(),
    });
}
