//! What the runner counts about itself: process-wide counters and gauges, shown by `GET /metrics`.
//! One table; adding a figure is adding a row.

use std::sync::atomic::{AtomicU64, Ordering};

/// A figure that other threads change without a lock.
#[derive(Debug)]
pub struct Figure(AtomicU64);

impl Figure {
    /// One more.
    pub fn up(&self) {
        self.add(1);
    }

    /// One fewer (gauges only). Never below zero.
    pub fn down(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether a figure only grows (`Counter`) or also falls (`Gauge`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// One row of the table as `/metrics` prints it.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub figure: &'static Figure,
}

macro_rules! figures {
    ($($constant:ident $kind:ident $name:literal $help:literal;)*) => {
        $(#[doc = $help] pub static $constant: Figure = Figure(AtomicU64::new(0));)*
        /// All figures, in the order of the table.
        pub static ROWS: &[Row] = &[
            $(Row { name: $name, kind: Kind::$kind, help: $help, figure: &$constant },)*
        ];
    };
}

figures! {
    // threads
    THREADS_LIVE Gauge "river_threads" "Threads of the runner alive now.";
    THREAD_PANICS Counter "river_thread_panics_total" "Threads that ended by a panic.";
    // log
    LOG_LINES_LOST Counter "river_log_lines_lost_total" "Lines that the log did not take.";
    // serve
    HTTP_CONNECTIONS Gauge "river_http_connections" "HTTP connections open now.";
    HTTP_PARKED Gauge "river_http_parked" "Callers waiting for a slow order now.";
    HTTP_STREAMS Gauge "river_http_streams" "Streams open now.";
    SESSIONS Gauge "river_sessions" "WebSockets open now.";
    SESSIONS_OPENED Counter "river_sessions_total" "WebSockets opened.";
    HTTP_REQUESTS Counter "river_http_requests_total" "Requests handed to a handler.";
    HTTP_REFUSED Counter "river_http_refused_total" "Requests answered by the door with an error.";
    HTTP_DENIED Counter "river_http_denied_total" "Requests of callers that are not allowed.";
    HTTP_OVERLOADS Counter "river_http_overloads_total" "Connections or requests turned away by a limit.";
    HTTP_PANICS Counter "river_http_panics_total" "Handlers that panicked.";
    HTTP_ACCEPT_PAUSES Counter "river_http_accept_pauses_total" "Times accepting rested for want of file descriptors.";
    // docker
    ENGINE_CALLS Counter "river_engine_calls_total" "Calls made to the Docker Engine.";
    ENGINE_CALL_MICROSECONDS Counter "river_engine_call_microseconds_total" "Wall time spent in Engine calls, in microseconds.";
    ENGINE_CALLS_IN_FLIGHT Gauge "river_engine_calls_in_flight" "Engine calls under way now.";
    ENGINE_CALL_FAULTS Counter "river_engine_call_faults_total" "Engine calls without a usable answer: no connection, deadline, broken or garbage.";
    ENGINE_CALLS_REPEATED Counter "river_engine_calls_repeated_total" "Engine calls made again because a kept connection had died.";
    ENGINE_CALLS_BUSY Counter "river_engine_calls_busy_total" "Engine calls refused by our own bound on calls in flight.";
    ENGINE_ENDS Counter "river_engine_ends_total" "Ends of containers told by the event stream.";
    ENGINE_EVENTS_LOST Counter "river_engine_event_stream_losses_total" "Times the event stream was lost after it stood.";
    ENGINE_EVENTS_UNREAD Counter "river_engine_event_lines_unread_total" "Lines of the event stream that could not be read.";
    // lanes
    LANE_PANICS Counter "river_lane_panics_total" "Jobs of lanes and pools that ended by a panic.";
    LANE_REFUSALS Counter "river_lane_refusals_total" "Orders refused because a lane, or the set of lanes, was full.";
    LANE_LOST_RESUMES Counter "river_lane_lost_resumes_total" "Parked lanes that nobody resumed.";
    POOL_REFUSALS Counter "river_pool_refusals_total" "Work refused because a pool's queue was full.";
    // store
    RECORD_WRITES Counter "river_record_writes_total" "Task records made durable.";
    RECORDS_BROKEN Counter "river_records_set_aside_total" "Files in the state directory that were no records, or gone.";
    RECORDS_REBUILT Counter "river_records_rebuilt_total" "Records rebuilt from a container.";
    // host
    HOST_CALLS Counter "river_host_calls_total" "Calls to the host.";
    HOST_CALLS_FAILED Counter "river_host_calls_failed_total" "Calls to the host without an answer.";
    REPORTS_ANSWERED Counter "river_reports_answered_total" "Status reports the host has answered.";
    REPORTS_SET_ASIDE Counter "river_reports_set_aside_total" "Status reports the host called malformed.";
    // watch
    WATCHES_HELD Gauge "river_watches" "Directories watched now, for all sessions together.";
    WATCH_POLLED Gauge "river_watch_polled" "Directories on network file systems that are read again and again for watches.";
    WATCH_CHANGES_LOST Counter "river_watch_changes_lost_total" "Changes of files not told to a session because its queue was full, or times the kernel's queue was.";
    // ops
    TERMINALS Gauge "river_terminals" "Terminals open now, those without a peer included.";
    TERMINALS_KEPT Gauge "river_terminals_kept" "Terminals that wait for their peer to come back.";
    SNAPSHOTS_MADE Counter "river_snapshots_made_total" "Snapshots of VPS that were made.";
    SNAPSHOTS_FLATTENED Counter "river_snapshots_flattened_total" "Snapshots of VPS that were copied into one layer.";
    VPS_RESTARTS Counter "river_vps_restarts_total" "Containers of VPS that ended without anybody's asking.";
    VPS_OOM_KILLS Counter "river_vps_oom_kills_total" "Processes in VPS that the kernel killed for memory.";
    TASKS_ENDED Counter "river_tasks_ended_total" "Tasks that have ended.";
}
