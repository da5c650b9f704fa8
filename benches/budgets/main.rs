//! What the runner costs, against what the design allows it (design section 6). Started by
//! `cargo bench --bench budgets -- [NAME…] [--quick]`: each figure is a line `figure {…}` on stdout
//! as soon as it is known, and a table follows at the end. Floors are taken in the same run,
//! interleaved with what is held against them; figures are medians.
//!
//! The runner is the built binary, started as a child with directories, port and network of its
//! own; its host is in this process; its Engine is the machine's. Everything made is removed.
//! `--quick` only shows that every measurement still runs: its figures mean nothing.

mod backlog;
mod budget;
mod engine;
mod exec;
mod files;
mod get;
mod host;
mod http;
mod life;
mod load;
mod peers;
mod place;
mod restart;
mod runner;
mod socket;
mod start;
mod tasks;
mod terminal;
mod vps;
mod watch;

use std::process::ExitCode;

use budget::Figures;
use place::Place;

/// A group of figures that are measured together.
struct Group {
    name: &'static str,
    what: &'static str,
    run: fn(&Place, &mut Figures),
}

const GROUPS: &[Group] = &[
    Group { name: "binary", what: "the size of the binary", run: start::binary },
    Group { name: "start", what: "exec to the first answered request", run: start::first_answer },
    Group { name: "restart", what: "one runner follows another", run: restart::gap },
    Group { name: "get", what: "small GETs, beside two other servers", run: get::run },
    Group {
        name: "tasks",
        what: "start and end of a task, beside raw Engine calls",
        run: tasks::run,
    },
    Group { name: "life", what: "memory and CPU: idle, and after many tasks", run: life::run },
    Group { name: "running", what: "memory of tasks that run", run: life::running_task },
    Group {
        name: "queued",
        what: "memory of tasks that wait for the Engine",
        run: life::queued_task,
    },
    Group { name: "files", what: "files in a container, beside docker exec", run: files::run },
    Group { name: "terminal", what: "terminals, beside the Engine's stream", run: terminal::run },
    Group { name: "watch", what: "changes of files, beside inotify", run: watch::run },
    Group { name: "vps", what: "VPS and snapshots, beside raw Engine calls", run: vps::run },
    Group { name: "backlog", what: "the reports of a day without a host", run: backlog::run },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [peer, kind] = &words[..]
        && peer == peers::PEER
    {
        peers::serve(kind);
        return ExitCode::SUCCESS;
    }
    let mut quick = false;
    let mut names = Vec::new();
    for word in &words {
        match word.as_str() {
            "--quick" => quick = true,
            // Cargo's own.
            "--bench" => {}
            name if GROUPS.iter().any(|group| group.name == name) => names.push(name),
            _ => return usage(word),
        }
    }
    let place = Place::take(quick);
    let mut figures = Figures::new(quick);
    for group in GROUPS.iter().filter(|group| names.is_empty() || names.contains(&group.name)) {
        eprintln!("{}: {}", group.name, group.what);
        (group.run)(&place, &mut figures);
    }
    drop(place);
    figures.print_table();
    ExitCode::SUCCESS
}

fn usage(word: &str) -> ExitCode {
    eprintln!("`{word}` is neither --quick nor one of:");
    for group in GROUPS {
        eprintln!("  {:<8} {}", group.name, group.what);
    }
    ExitCode::FAILURE
}
