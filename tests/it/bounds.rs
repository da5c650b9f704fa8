//! Bounds (design laws 1, 6 and 7): a burst of accepts is taken and durable or refused with a word on
//! when to come again; a day's reports that the host has missed are told in order and hold up nothing.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::kit::{
    Daemon, FakeHost, Fault, SOON, execute, execute_body, read_response, unique_id, wait_until,
};

// ── a burst ──────────────────────────────────────────────────────────────────────────────────

const ACCEPTS: usize = 5_000;
/// Threads that send the burst; each has all of its connections open and asked before it reads.
const SENDERS: usize = 50;

/// What became of one of the burst.
struct Sent {
    id: u64,
    status: u16,
    retry_after: Option<String>,
}

/// One connection per task, and a request on each before the first answer is looked for.
fn send_burst(daemon: &Daemon, ids: &[u64]) -> Vec<Sent> {
    let ask = |id: u64| -> io::Result<TcpStream> {
        let body = execute_body(daemon, id, "true").to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", daemon.port()))?;
        stream.set_read_timeout(Some(SOON * 3))?;
        let head = format!(
            "POST /api/execute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        Ok(stream)
    };
    let asked: Vec<(u64, TcpStream)> =
        ids.iter().map(|&id| (id, ask(id).expect("a connection"))).collect();
    let answer = |(id, stream)| {
        let response = read_response(&mut BufReader::new(stream), "POST").expect("an answer");
        let retry_after = response.header("retry-after").map(str::to_owned);
        Sent { id, status: response.status, retry_after }
    };
    asked.into_iter().map(answer).collect()
}

/// Both ends of each connection are files, and this process has one of them.
fn allow_open_files(count: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(count.min(hard)), hard).unwrap();
}

#[test]
fn burst_of_accepts_is_durable_or_refused_with_a_time_to_come_again() {
    allow_open_files(20_000);
    // Without an Engine they stay what they were accepted as.
    let mut daemon = Daemon::builder().set("docker_host", "unix:///nowhere/docker.sock").start();
    let ids: Vec<u64> = std::iter::repeat_with(unique_id).take(ACCEPTS).collect();
    let sent: Vec<Sent> = std::thread::scope(|scope| {
        let share = ids.chunks(ACCEPTS / SENDERS);
        let daemon = &daemon;
        let senders: Vec<_> =
            share.map(|ids| scope.spawn(move || send_burst(daemon, ids))).collect();
        senders.into_iter().flat_map(|sender| sender.join().expect("a sender")).collect()
    });
    daemon.kill9();
    let (taken, refused): (Vec<Sent>, Vec<Sent>) =
        sent.into_iter().partition(|sent| sent.status == 200);
    let unclear = |sent: &&Sent| sent.status != 503 || sent.retry_after.is_none();
    let unclear: Vec<u16> = refused.iter().filter(unclear).map(|sent| sent.status).collect();
    assert!(unclear.is_empty(), "neither 200 nor 503 with Retry-After: {unclear:?}");
    assert_eq!(taken.len() + refused.len(), ACCEPTS);
    assert!(!taken.is_empty());
    eprintln!("{} taken, {} refused", taken.len(), refused.len());
    daemon.restart();
    let tasks = daemon.get("/api/tasks").expect(200).json;
    let known: HashSet<u64> =
        tasks["tasks"].as_array().unwrap().iter().filter_map(|t| t["task_id"].as_u64()).collect();
    let expected: HashSet<u64> = taken.iter().map(|sent| sent.id).collect();
    assert_eq!(known.difference(&expected).count(), 0, "refused, and there all the same");
    assert_eq!(expected.difference(&known).count(), 0, "accepted, and lost");
}

#[test]
fn beyond_the_bound_on_live_tasks_an_accept_is_503_with_a_time_to_come_again() {
    let mut daemon = Daemon::builder().set("docker_host", "unix:///nowhere/docker.sock").start();
    let template = execute(&daemon, "true");
    daemon.kill9();
    let file = |id: u64| daemon.state_dir().join("tasks").join(format!("{id}.json"));
    let record: Value = serde_json::from_slice(&fs::read(file(template)).unwrap()).unwrap();
    /// `TASKS_ACTIVE_MAX`.
    const LIVE_MAX: u64 = 20_000;
    (1..LIVE_MAX)
        .for_each(|n| fs::write(file(template + n), as_task(&record, template + n)).unwrap());
    daemon.restart();
    let refused = daemon.post("/api/execute", &execute_body(&daemon, unique_id(), "true"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.expect(503);
    let since = Instant::now();
    daemon.get("/health").expect(200);
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    daemon.control("kill", template).expect(200);
    assert!(wait_until(SOON, || daemon.task(template)["status"] == "killed"));
    let retried = || {
        let body = execute_body(&daemon, unique_id(), "true");
        daemon.post("/api/execute", &body).status == 200
    };
    assert!(wait_until(SOON, retried));
}

// ── a day without a host ─────────────────────────────────────────────────────────────────────

/// A debug build and a fake tell a few hundred a second on a busy machine; 100,000 are the matter of
/// `cargo bench --bench budgets -- backlog`.
const BACKLOG: u64 = 6_000;
/// Of all their reports, ids in memory and in the heartbeat: far below a record each.
const BACKLOG_MEMORY_KB_MAX: u64 = 6 * 1024;
const HEALTH_MEDIAN_MAX: Duration = Duration::from_millis(50);
/// Beats are a second apart in these tests, on a machine that is busy with the drain.
const BEAT_GAP_MAX: Duration = Duration::from_secs(4);
const DRAIN_PATIENCE: Duration = Duration::from_secs(90);

/// `record` as the record of another task.
fn as_task(record: &Value, id: u64) -> Vec<u8> {
    let mut record = record.clone();
    record["spec"]["id"] = json!(id);
    serde_json::to_vec(&record).unwrap()
}

/// Ids of tasks that are over and of which the host knows nothing, put into the state directory of a
/// stopped runner, as a day without a host leaves them.
fn leave_backlog(daemon: &Daemon, record: &Value, count: u64) -> Vec<u64> {
    let mut record = record.clone();
    record["reports"] = json!(["Final"]);
    let first = unique_id();
    let directory = daemon.state_dir().join("untold");
    (first..first + count)
        .inspect(|id| {
            fs::write(directory.join(format!("{id}.json")), as_task(&record, *id)).unwrap();
        })
        .collect()
}

/// The record of a task that ran, was told, and is over.
fn ended_record(daemon: &Daemon) -> Value {
    let id = execute(daemon, "exit 3");
    let file = daemon.state_dir().join("ended").join(format!("{id}.json"));
    assert!(wait_until(SOON, || file.exists()));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn backlog_of_reports_drains_in_order_and_holds_up_nothing() {
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).start();
    let record = ended_record(&daemon);
    let idle_kb = daemon.pss_kb();
    daemon.stop();
    let backlog = leave_backlog(&daemon, &record, BACKLOG);
    let (finals_before, beats_before) = (host.finals().len(), host.beats().len());
    let since = Instant::now();
    daemon.launch();
    daemon.wait_healthy();
    let started = since.elapsed();
    assert!(started < Duration::from_secs(1), "started after {started:?}");
    // A new task goes from its dispatch to its end while the others are being told.
    let fresh = execute(&daemon, "exit 4");
    assert_eq!(host.wait_final(fresh, SOON).exit_code, Some(4));
    let left = daemon.get("/health").expect(200).json["reports"]["unsent"].as_u64().unwrap();
    assert!(left > 0, "the backlog was over before the new task");
    let mut answers = Vec::new();
    let mut peak_kb = 0;
    let drained = wait_until(DRAIN_PATIENCE, || {
        let since = Instant::now();
        let told = daemon.get("/health").expect(200).json;
        answers.push(since.elapsed());
        peak_kb = peak_kb.max(daemon.pss_kb());
        sleep(Duration::from_millis(20));
        told["reports"]["unsent"] == 0
    });
    assert!(drained, "not drained in {DRAIN_PATIENCE:?}");
    eprintln!("drained {left} in {:?}, {peak_kb} kB over {idle_kb} kB", since.elapsed());
    let told: Vec<u64> = host.finals()[finals_before..].to_vec();
    let of_the_backlog: Vec<u64> = told.into_iter().filter(|&id| id != fresh).collect();
    assert_eq!(of_the_backlog, backlog);
    answers.sort();
    let median = answers[answers.len() / 2];
    assert!(median < HEALTH_MEDIAN_MAX, "/health took {median:?}");
    assert!(peak_kb < idle_kb + BACKLOG_MEMORY_KB_MAX, "{idle_kb} kB grew to {peak_kb} kB");
    let beats = &host.beats()[beats_before..];
    let gaps = beats.windows(2).map(|pair| pair[1].at - pair[0].at);
    assert!(gaps.max().unwrap() < BEAT_GAP_MAX);
    // Listed until the host knew, and not after.
    assert!(beats[0].running_tasks.len() > 1);
    let listed = || host.beats().last().unwrap().running_tasks.len();
    assert!(wait_until(SOON, || listed() == 0), "{} are listed still", listed());
    assert_eq!(fs::read_dir(daemon.state_dir().join("untold")).unwrap().count(), 0);
    let newest = daemon.get("/api/tasks?all=1").expect(200).json;
    assert!(newest["tasks"].as_array().unwrap().iter().all(|task| task["unreported"] == 0));
}

#[test]
fn task_that_waits_for_a_host_that_is_away_is_listed_shown_and_killed() {
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).start();
    let record = ended_record(&daemon);
    daemon.stop();
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    let backlog = leave_backlog(&daemon, &record, 300);
    daemon.launch();
    daemon.wait_healthy();
    let (killed, told) = (backlog[298], backlog[299]);
    let listed = daemon.get("/api/tasks").expect(200).json;
    assert_eq!((&listed["untold"], &listed["count"]), (&json!(300), &json!(100)));
    assert_eq!(daemon.task(killed)["exit_code"], 3);
    assert_eq!(daemon.task(killed)["unreported"], 1);
    daemon.control("kill", killed).expect(200);
    assert!(wait_until(SOON, || daemon.get("/api/tasks").json["untold"] == 299));
    host.heal();
    host.wait_final(told, DRAIN_PATIENCE);
    assert!(wait_until(DRAIN_PATIENCE, || daemon.get("/api/tasks").json["untold"] == 0));
    assert!(host.accepted_of(killed).is_empty());
    daemon.control("kill", told).expect(404);
}

#[test]
fn tasks_that_end_without_a_host_wait_in_their_files_and_are_told_once() {
    /// A few more than the containers that are kept.
    const TASKS: usize = 64 + 6;
    let host = FakeHost::start();
    let mut daemon = Daemon::builder().host(&host).start();
    host.wait_registered();
    host.fail_next(usize::MAX, "POST /api/update", Fault::Status(500));
    let ids = [(); TASKS].map(|()| execute(&daemon, "exit 3"));
    let waiting = || daemon.get("/health").json["tasks"]["untold"].as_u64();
    assert!(wait_until(SOON * 6, || waiting() == Some(6)), "{:?} wait", waiting());
    assert_eq!(daemon.containers().len(), 64);
    let beat = host.wait_beats(2, SOON);
    assert_eq!(beat.running_tasks.len(), TASKS);
    daemon.kill9();
    daemon.restart();
    host.heal();
    ids.iter().for_each(|&id| {
        assert_eq!(host.wait_final(id, DRAIN_PATIENCE).exit_code, Some(3));
        assert_eq!(host.accepted_of(id), ["failed"]);
    });
    assert!(wait_until(SOON * 3, || daemon.containers().is_empty()));
    assert!(wait_until(SOON, || daemon.get("/health").json["tasks"]["live"] == 0));
}
