//! The one table of figures and their budgets, and how both are printed. Nothing is measured here.

use serde_json::json;

/// What a figure may be.
#[derive(Clone, Copy)]
enum Budget {
    AtMost(f64),
    /// Of the value over its floor.
    RatioAtLeast(f64),
    /// More than its floor.
    MoreAtMost(f64),
    /// Shown because it explains a figure that has one.
    None,
}

struct Row {
    name: &'static str,
    unit: &'static str,
    /// What the value is held against; empty when there is nothing to hold it against.
    floor: &'static str,
    budget: Budget,
    /// Where the budget comes from, or what the figure is for.
    why: &'static str,
}

use Budget::{AtMost, MoreAtMost, None as Unbudgeted, RatioAtLeast};

/// Sizes in powers of ten. The Python runner's figures are those of design section 6.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { name: "binary_mb", unit: "MB", floor: "", budget: AtMost(6.0),
        why: "copied to every node; stripped" },
    Row { name: "first_answer_ms", unit: "ms", floor: "the binary printing its version", budget: AtMost(25.0),
        why: "the Python runner takes 953 ms" },

    Row { name: "restart_ms", unit: "ms", floor: "", budget: AtMost(100.0),
        why: "nobody answers between the old process and the new" },
    Row { name: "restart_worst_ms", unit: "ms", floor: "", budget: AtMost(100.0),
        why: "the longest of 20 such times" },

    Row { name: "get_4", unit: "1/s", floor: "a thread per connection on httparse", budget: RatioAtLeast(0.8),
        why: "what few connections pay for a door that many can't exhaust" },
    Row { name: "get_4_p99_ms", unit: "ms", floor: "a thread per connection on httparse", budget: AtMost(1.0),
        why: "the Python runner: 4.2 ms" },
    Row { name: "get_4_cpu_us", unit: "us", floor: "a thread per connection on httparse", budget: Unbudgeted,
        why: "the server's own CPU time for an answer, whatever its client costs" },
    Row { name: "get_4_tiny_http", unit: "1/s", floor: "tiny_http 0.12, 16 workers", budget: Unbudgeted,
        why: "the server that was not chosen" },
    Row { name: "get_64", unit: "1/s", floor: "a thread per connection on httparse", budget: RatioAtLeast(1.2),
        why: "what many connections gain by it" },
    Row { name: "get_64_p99_ms", unit: "ms", floor: "a thread per connection on httparse", budget: AtMost(3.0),
        why: "the Python runner: 4.2 ms" },
    Row { name: "get_64_cpu_us", unit: "us", floor: "a thread per connection on httparse", budget: Unbudgeted,
        why: "the server's own CPU time for an answer, whatever its client costs" },
    Row { name: "get_64_tiny_http", unit: "1/s", floor: "tiny_http 0.12, 16 workers", budget: Unbudgeted,
        why: "the server that was not chosen" },
    Row { name: "get_4_crowd", unit: "1/s", floor: "without the idle connections", budget: RatioAtLeast(0.9),
        why: "10,000 idle connections change nothing; a tenth is noise" },
    Row { name: "get_4_crowd_p99_ms", unit: "ms", floor: "without the idle connections", budget: AtMost(1.0),
        why: "as without them" },
    Row { name: "get_64_crowd", unit: "1/s", floor: "without the idle connections", budget: RatioAtLeast(0.9),
        why: "10,000 idle connections change nothing; a tenth is noise" },
    Row { name: "get_64_crowd_p99_ms", unit: "ms", floor: "without the idle connections", budget: AtMost(3.0),
        why: "as without them" },

    Row { name: "start_ms", unit: "ms", floor: "raw Engine calls", budget: Unbudgeted,
        why: "accepted to started, in all; the Python runner: 323 over 240" },
    Row { name: "engine_calls_ms", unit: "ms", floor: "raw Engine calls", budget: Unbudgeted,
        why: "the part of it that was spent in our Engine calls" },
    Row { name: "start_own_ms", unit: "ms", floor: "its four durable writes by hand", budget: AtMost(7.0),
        why: "accepted to started, less our Engine calls; the Python runner: 83" },
    Row { name: "exit_report_ms", unit: "ms", floor: "the die event at a raw reader", budget: AtMost(5.0),
        why: "from the Engine's own stamp of the end; the Python runner: 88 over 54" },

    Row { name: "idle_pss_mb", unit: "MB", floor: "", budget: AtMost(6.0),
        why: "10 s after the first heartbeat; the Python runner: 108" },
    Row { name: "idle_cpu_percent", unit: "%", floor: "", budget: AtMost(0.05),
        why: "of a core, with heartbeats; the Python runner: 0.7" },
    Row { name: "task_cpu_ms", unit: "ms", floor: "", budget: AtMost(3.0),
        why: "own CPU time of a task from request to removal; the Python runner: 98" },
    Row { name: "used_pss_mb", unit: "MB", floor: "", budget: AtMost(9.0),
        why: "after 1,000 tasks" },
    Row { name: "running_task_kb", unit: "kB", floor: "", budget: AtMost(16.0),
        why: "memory of a task while it runs, its reports delivered" },
    Row { name: "queued_task_kb", unit: "kB", floor: "", budget: AtMost(16.0),
        why: "memory of a task that was accepted and waits for an Engine that is away" },

    Row { name: "files_list", unit: "1/s", floor: "ls by docker exec", budget: RatioAtLeast(20.0),
        why: "1,000 entries as JSON" },
    Row { name: "files_list_archive", unit: "1/s", floor: "the Engine's archive call", budget: Unbudgeted,
        why: "the other way without a shell" },
    Row { name: "files_stat", unit: "1/s", floor: "stat by docker exec", budget: RatioAtLeast(20.0),
        why: "one file" },
    Row { name: "files_stat_archive", unit: "1/s", floor: "the Engine's archive call", budget: Unbudgeted,
        why: "the other way without a shell" },
    Row { name: "files_read", unit: "1/s", floor: "cat by docker exec, with the same JSON", budget: RatioAtLeast(5.0),
        why: "10 MB of text as JSON" },
    Row { name: "files_read_archive", unit: "1/s", floor: "the Engine's archive call", budget: Unbudgeted,
        why: "the other way without a shell" },
    Row { name: "files_write", unit: "1/s", floor: "cat by docker exec, with the same JSON", budget: RatioAtLeast(5.0),
        why: "10 MB of text as JSON; the Python runner can't write above 96 KiB" },
    Row { name: "files_write_archive", unit: "1/s", floor: "the Engine's archive call", budget: Unbudgeted,
        why: "the other way without a shell" },

    Row { name: "terminal_1_ms", unit: "ms", floor: "the Engine's stream", budget: MoreAtMost(0.2),
        why: "keystroke to echo, 1 open" },
    Row { name: "terminal_1_p99_ms", unit: "ms", floor: "the Engine's stream", budget: Unbudgeted,
        why: "the same, 99 of 100" },
    Row { name: "terminal_1_bulk", unit: "MB/s", floor: "the Engine's stream", budget: RatioAtLeast(0.85),
        why: "output of 1 at a time" },

    Row { name: "terminal_30_ms", unit: "ms", floor: "the Engine's stream", budget: MoreAtMost(1.0),
        why: "keystroke to echo, 30 open" },
    Row { name: "terminal_30_p99_ms", unit: "ms", floor: "the Engine's stream", budget: Unbudgeted,
        why: "the same, 99 of 100" },
    Row { name: "terminal_30_bulk", unit: "MB/s", floor: "the Engine's stream", budget: RatioAtLeast(0.85),
        why: "output of 30 at a time" },

    Row { name: "terminal_100_ms", unit: "ms", floor: "the Engine's stream", budget: MoreAtMost(1.0),
        why: "keystroke to echo, 100 open" },
    Row { name: "terminal_100_p99_ms", unit: "ms", floor: "the Engine's stream", budget: Unbudgeted,
        why: "the same, 99 of 100" },
    Row { name: "terminal_100_bulk", unit: "MB/s", floor: "the Engine's stream", budget: RatioAtLeast(0.85),
        why: "output of 100 at a time" },
    Row { name: "terminal_kb", unit: "kB", floor: "", budget: AtMost(100.0),
        why: "memory of an open terminal that was typed into" },
    Row { name: "terminal_used_kb", unit: "kB", floor: "", budget: Unbudgeted,
        why: "the same of 100 that have all written megabytes at once" },

    Row { name: "watch_ms", unit: "ms", floor: "an inotify of our own", budget: Unbudgeted,
        why: "a file's making to the message, with nothing before it for a while" },
    Row { name: "watch_kb", unit: "kB", floor: "", budget: AtMost(100.0),
        why: "memory of an open watch beside others of the same directory" },

    Row { name: "vps_create_ms", unit: "ms", floor: "raw Engine calls", budget: Unbudgeted,
        why: "create to its answer" },
    Row { name: "vps_ssh_ms", unit: "ms", floor: "raw Engine calls and the same sshd", budget: Unbudgeted,
        why: "create to the SSH server's first word, in an image that has one" },
    Row { name: "vps_snapshot_ms", unit: "ms", floor: "a raw commit", budget: Unbudgeted,
        why: "with what it lists before and removes after" },
    Row { name: "vps_restore_ms", unit: "ms", floor: "raw Engine calls, without a snapshot", budget: Unbudgeted,
        why: "create to its answer, from the newest snapshot" },

    Row { name: "backlog_start_ms", unit: "ms", floor: "", budget: Unbudgeted,
        why: "exec to the first answered request with 100,000 reports to tell" },
    Row { name: "backlog_reports", unit: "1/s", floor: "", budget: Unbudgeted,
        why: "reports told in a second to a host that answers at once" },
    Row { name: "backlog_health_ms", unit: "ms", floor: "", budget: AtMost(50.0),
        why: "GET /health meanwhile" },
    Row { name: "backlog_peak_mb", unit: "MB", floor: "", budget: Unbudgeted,
        why: "the most memory meanwhile" },
];

/// What was measured so far.
pub struct Figures {
    quick: bool,
    measured: Vec<Measured>,
}

struct Measured {
    row: &'static Row,
    value: f64,
    floor: Option<f64>,
}

impl Figures {
    pub fn new(quick: bool) -> Figures {
        Figures { quick, measured: Vec::new() }
    }

    /// A figure that stands alone.
    pub fn tell(&mut self, name: &str, value: f64) {
        self.add(name, value, None);
    }

    /// A figure beside what it is held against.
    pub fn tell_beside(&mut self, name: &str, value: f64, floor: f64) {
        self.add(name, value, Some(floor));
    }

    fn add(&mut self, name: &str, value: f64, floor: Option<f64>) {
        let row = ROWS.iter().find(|row| row.name == name).expect("a row of the table");
        let measured = Measured { row, value, floor };
        let line = json!({
            "name": row.name,
            "value": rounded(value),
            "unit": row.unit,
            "floor": floor.map(rounded),
            "ratio": measured.ratio().map(rounded),
            "budget": measured.budget(),
            "verdict": self.verdict(&measured),
            "quick": self.quick,
        });
        println!("figure {line}");
        self.measured.push(measured);
    }

    /// A quick run judges nothing.
    fn verdict(&self, measured: &Measured) -> &'static str {
        match measured.keeps_budget().filter(|_| !self.quick) {
            Some(true) => "ok",
            Some(false) => "over",
            None => "",
        }
    }

    pub fn print_table(&self) {
        if self.quick {
            println!("a quick run: it works; its figures mean nothing");
        }
        println!(
            "{:<22}{:>11}{:>11}{:>8}  {:<9}{:<6}note",
            "figure", "value", "floor", "ratio", "budget", ""
        );
        for measured in &self.measured {
            let Measured { row, value, floor } = measured;
            let text = |figure: Option<f64>| figure.map_or(String::new(), shown);
            let note = match row.floor {
                "" => row.why.to_owned(),
                floor => format!("{}; floor: {floor}", row.why),
            };
            println!(
                "{:<22}{:>11}{:>11}{:>8}  {:<9}{:<6}{note}",
                row.name,
                shown(*value),
                text(*floor),
                text(measured.ratio()),
                measured.budget(),
                self.verdict(measured),
            );
        }
    }
}

impl Measured {
    fn ratio(&self) -> Option<f64> {
        self.floor.filter(|floor| *floor > 0.0).map(|floor| self.value / floor)
    }

    fn budget(&self) -> String {
        match self.row.budget {
            AtMost(most) => format!("<= {most}"),
            RatioAtLeast(least) => format!(">= {least}x"),
            MoreAtMost(more) => format!("<= +{more}"),
            Unbudgeted => String::new(),
        }
    }

    fn keeps_budget(&self) -> Option<bool> {
        match self.row.budget {
            AtMost(most) => Some(self.value <= most),
            RatioAtLeast(least) => Some(self.ratio().is_some_and(|ratio| ratio >= least)),
            MoreAtMost(more) => Some(self.floor.is_some_and(|floor| self.value <= floor + more)),
            Unbudgeted => None,
        }
    }
}

/// The middle one; of an even count, the upper of the two.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

fn shown(figure: f64) -> String {
    if figure.abs() >= 1000.0 { format!("{figure:.0}") } else { format!("{figure:.3}") }
}
