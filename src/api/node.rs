//! Rows about the node itself: health, metrics, events. None of them asks the Engine or the host
//! (design law 5); they tell what the last calls said.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::query;
use crate::docker::EngineHealth;
use crate::limits::EVENTS_WAIT;
use crate::metrics::{self, Kind};
use crate::model::phase::Phase;
use crate::model::time::Stamp;
use crate::ops::events::{Event, Page};
use crate::ops::{Node, health as ops};
use crate::serve::{Answer, Call, Reply, Stream, StreamOut, Woken};

/// `GET /health`: always 200 while we answer at all; `status` says how we are.
pub fn health(node: &Arc<Node>, _call: Call) -> Answer {
    let engine = node.engine.health();
    let warnings = ops::warnings(node);
    let is_well = warnings.is_empty() && matches!(engine, EngineHealth::Ok { .. });
    let phases = node.tasks.active(|record| Some((record.phase, record.reports.len())));
    let untold = node.tasks.counts().untold;
    let ended = phases.iter().filter(|(phase, _)| *phase == Phase::Ended).count();
    let unsent: usize = phases.iter().map(|(_, reports)| reports).sum();
    let aside = node.tasks.set_aside();
    Reply::json(
        200,
        &json!({
            "status": if is_well { "ok" } else { "degraded" },
            "version": env!("CARGO_PKG_VERSION"),
            "hostname": node.settings.hostname,
            "node_id": node.settings.node_id,
            "uptime_seconds": node.started.elapsed().as_secs(),
            "engine": engine_word(&engine),
            "engine_detail": engine.to_string(),
            "host": host(node),
            "tasks": {
                "live": phases.len() + untold,
                "running": phases.len() - ended,
                "untold": untold,
            },
            "reports": {
                "unsent": unsent + untold,
                "set_aside": metrics::REPORTS_SET_ASIDE.get(),
            },
            "records_set_aside": aside.count,
            "records_set_aside_newest": aside.newest,
            "records_stuck": aside.stuck,
            "shared_dir": node.settings.shared_dir,
            "warnings": warnings,
        }),
    )
    .into()
}

fn engine_word(engine: &EngineHealth) -> &'static str {
    match engine {
        EngineHealth::Unknown => "unknown",
        EngineHealth::Ok { .. } => "ok",
        EngineHealth::Unresponsive { .. } => "unresponsive",
        EngineHealth::Unreachable { .. } => "unreachable",
    }
}

fn host(node: &Node) -> Value {
    let Some(host) = &node.host else { return json!({ "mode": "standalone" }) };
    let contact = host.contact.state();
    json!({
        "mode": "cluster",
        "registered": contact.registered,
        "last_acknowledged": contact.last_acknowledged.map(Stamp::rfc3339),
        "trouble": contact.trouble,
    })
}

/// `GET /metrics`: Prometheus text, format 0.0.4.
pub fn metrics(node: &Arc<Node>, _call: Call) -> Answer {
    let mut text = String::new();
    for row in metrics::ROWS {
        let kind = match row.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        row_of(&mut text, row.name, kind, row.help, row.figure.get());
    }
    for (name, help, value) in ops::gauges(node) {
        row_of(&mut text, name, "gauge", help, value);
    }
    Reply::bytes(200, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes()).into()
}

fn row_of(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

/// `GET /api/events?since=&follow=`: newline-delimited JSON. The last line is the cursor for the
/// next call; a reader that was overrun is told how many events it missed.
pub fn events(node: &Arc<Node>, call: Call) -> Answer {
    let asked =
        query::number(&call, "since").and_then(|since| Ok((since, query::flag(&call, "follow")?)));
    let (since, follow) = match asked {
        Ok(asked) => asked,
        Err(fault) => return Reply::from(fault).into(),
    };
    if !follow {
        let page = node.events.since(since, Duration::ZERO);
        return Reply::bytes(200, NDJSON, lines(&page)).into();
    }
    let node = Arc::clone(node);
    Answer::Stream(Stream::new(NDJSON, move |out: &mut StreamOut| {
        let mut since = since;
        loop {
            let page = node.events.since(since, EVENTS_WAIT);
            since = page.last;
            if page.events.is_empty() {
                // Nothing was written: a reader that has left is noticed here only.
                if out.pause(Duration::ZERO) != Woken::Elapsed {
                    return;
                }
            } else if out.write_all(&lines(&page)).is_err() {
                return;
            }
        }
    }))
}

const NDJSON: &str = "application/x-ndjson";

fn lines(page: &Page) -> Vec<u8> {
    let mut values = Vec::with_capacity(page.events.len() + 2);
    if page.missed > 0 {
        values.push(json!({ "missed": page.missed }));
    }
    values.extend(page.events.iter().map(event));
    values.push(json!({ "cursor": page.last }));
    values.iter().flat_map(|value| format!("{value}\n").into_bytes()).collect()
}

fn event(event: &Event) -> Value {
    json!({
        "number": event.number,
        "at": event.at.rfc3339(),
        "id": event.task.to_string(),
        "event": event.what,
    })
}
