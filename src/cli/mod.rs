//! The command line: what can be said to `river-runner`, and who does it. `main` is all there is
//! to call. `serve` is `app`'s; all other commands are clients of a runner that runs already.

mod client;
mod configuration;
mod cp;
mod doctor;
mod failure;
mod files;
mod follow;
mod logs;
mod ls;
mod place;
mod progress;
mod ps;
mod quote;
mod reach;
mod run;
mod runner;
mod setting_flags;
mod shell;
mod signals;
mod size;
mod ssh;
mod table;
mod vps;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::app::config::Loaded;
use crate::model::ids::TaskId;
use failure::Failure;
use reach::{ConfigPath, Reach};
use runner::Verb;
use setting_flags::SettingFlags;

/// Runs a cluster's tasks on this machine as Docker containers, and never loses a result.
#[derive(Debug, Parser)]
#[command(name = "river-runner", version, after_long_help = EXAMPLES, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    path: ConfigPath,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  river-runner doctor                                    is this machine ready?
  river-runner serve                                     work alone, for users of this machine
  river-runner serve --host-address 10.0.0.1             work for a cluster
  river-runner run --image busybox -- echo hello         one task, with its output and exit code
  river-runner shell 42                                  look inside of a running task
  river-runner config import runner_config.py > /etc/river-runner/runner.toml

Settings are read from /etc/river-runner/runner.toml, then from the environment (RIVER_<KEY>),
then from flags; the later one counts. `river-runner config default` explains them all.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the runner until it is told to stop
    ///
    /// Without host_address it works alone: only users of this machine hand tasks in. On SIGTERM
    /// it leaves within two seconds; containers run on, and the next start takes them over.
    Serve(SettingFlags),

    /// Run one task, show its output, end with its exit code
    ///
    /// The task's stdout and stderr come to ours as they are written. Ctrl-C kills the task; a
    /// second Ctrl-C leaves without waiting for its end. If the task never started, the exit
    /// code is 125 (126 or 127 if the image has no shell that can run) and the reason is on
    /// stderr.
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(Box<run::RunArguments>),

    /// List tasks
    Ps(ps::PsArguments),

    /// Show a task's output
    Logs(logs::LogsArguments),

    /// Open a shell in a running task
    ///
    /// bash if the image has it, else sh, on a terminal of its own. ~. at the start of a line
    /// leaves and ends the shell (~~ types a tilde there). Without a terminal on stdin the lines
    /// that come are typed, and its end is typed as Ctrl-D; for bytes there is cp. The exit code
    /// is 0 once the shell has ended, whatever it ended with, and 1 if there is no shell or the
    /// runner is lost. If only the connection is lost and the runner keeps the shell, it is come
    /// back to for up to a minute.
    #[command(after_long_help = SHELL_EXAMPLES)]
    Shell(shell::ShellArguments),

    /// List a directory in a running task
    ///
    /// One name a line, in the order of their bytes, however many there are; -l adds type (d
    /// directory, l symlink, ? neither), permissions, size and time. A file is listed by itself.
    /// On a terminal odd names are quoted as for a shell; in a pipe they are not.
    #[command(after_long_help = LS_EXAMPLES)]
    Ls(ls::LsArguments),

    /// Copy files into a running task and out of it
    ///
    /// SRC or DST is TASK:PATH, the other one a path on this machine (./7:x if it looks like a
    /// task's) or - for stdin and stdout. If DST is a directory the copy goes into it. Files
    /// arrive whole or not at all; what is replaced keeps its mode and owner. Into a task go files
    /// of up to 50 MiB; out of it, of any size. Symlinks are followed where they are named, and
    /// left out of directories, which is said and ends in exit code 1.
    #[command(after_long_help = CP_EXAMPLES)]
    Cp(cp::CpArguments),

    /// Create, list, stop and save VPS
    ///
    /// A VPS is a container that runs until it is stopped, with an SSH server in it. kill, pause,
    /// resume, shell, ls and cp work on its id as on a task's.
    #[command(subcommand)]
    Vps(vps::VpsCommand),

    /// Log into a VPS
    ///
    /// Runs this machine's ssh as root at the VPS's port, once its SSH server answers. Words
    /// after -- are ssh's: options of it, or a command to run in the VPS. The exit code is ssh's,
    /// or 1 if it was not run. Host keys are kept in a file for each VPS, in
    /// $XDG_STATE_HOME/river-runner/known_hosts (~/.local/state/...), not in
    /// ~/.ssh/known_hosts: the first key that a VPS shows is taken, and another one is refused
    /// unless its container was made anew from an image, which has no key to keep.
    #[command(after_long_help = SSH_EXAMPLES)]
    Ssh(ssh::SshArguments),

    /// Kill a task
    Kill(TaskArguments),

    /// Freeze a task: it keeps its memory and gets no CPU
    Pause(TaskArguments),

    /// Let a frozen task go on
    Resume(TaskArguments),

    /// Show, import or explain settings
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Check whether this machine is ready, and say what to do where it is not
    ///
    /// Each line is ok, warn or fail. The exit code is 1 if one is fail.
    Doctor(SettingFlags),

    /// Print the version
    Version,
}

const RUN_EXAMPLES: &str = "\
Examples:
  river-runner run --image python:3.12 --cores 4 --memory 8G -- python /shared/train.py
  river-runner run --environment base --gpu 0,1 --timings -- ./bench --size large
  river-runner run --image busybox --shell 'for i in 1 2 3; do echo $i; sleep 1; done'
  id=$(river-runner run --image busybox --detach -- sleep 60); river-runner kill $id

Words after -- reach the task as they are; nothing in them is expanded. --shell takes a text for
/bin/sh. /shared in the task is shared_data in the runner's shared_dir.";

const SHELL_EXAMPLES: &str = "\
Examples:
  river-runner shell 42                                  type exit, or ~. to leave
  echo 'ps; df /; exit' | river-runner shell 42          lines from a pipe";

const LS_EXAMPLES: &str = "\
Examples:
  river-runner ls 42:/shared
  river-runner ls -la 42:/local_temp";

const CP_EXAMPLES: &str = "\
Examples:
  river-runner cp model.yaml 42:/local_temp/          into a directory
  river-runner cp 42:/var/log/app.log .               out of the container
  river-runner cp -r 42:/results ./results            with all that is below
  tar c src | river-runner cp - 42:/tmp/src.tar       from a pipe";

const SSH_EXAMPLES: &str = "\
Examples:
  river-runner ssh 42
  river-runner ssh 42 -- uname -a
  river-runner ssh 42 -- -i ~/.ssh/other -L 8888:localhost:8888";

#[derive(Args, Debug)]
struct TaskArguments {
    /// The task's id
    id: TaskId,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the settings in force, and where each comes from
    Show(SettingFlags),

    /// Print a KohakuRiver runner_config.py as TOML
    ///
    /// Plain values are read without running Python. What is not plain is named on stderr and
    /// left out, and the exit code is 1 then. Defaults of the reference are written out.
    Import {
        /// The configuration of a Python runner
        file: PathBuf,
    },

    /// Print all settings with their defaults, each explained
    Default,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let line = CommandLine::parse();
    let path = &line.path;
    // `run` is told apart from its task by a code that programs rarely use.
    let on_failure = match &line.command {
        Command::Run(_) => run::NEVER_RAN,
        _ => 1,
    };
    let done = match line.command {
        Command::Serve(flags) => serve(flags, path),
        Command::Run(arguments) => run::run(*arguments, path),
        Command::Ps(arguments) => ps::ps(&arguments, path),
        Command::Logs(arguments) => logs::logs(&arguments, path),
        Command::Ls(arguments) => ls::ls(&arguments, path),
        Command::Cp(arguments) => cp::cp(&arguments, path),
        Command::Shell(arguments) => shell::shell(&arguments, path),
        Command::Vps(command) => vps::vps(command, path),
        Command::Ssh(arguments) => ssh::ssh(&arguments, path),
        Command::Kill(arguments) => act(Verb::Kill, &arguments, path),
        Command::Pause(arguments) => act(Verb::Pause, &arguments, path),
        Command::Resume(arguments) => act(Verb::Resume, &arguments, path),
        Command::Config(ConfigCommand::Show(flags)) => configuration::show(flags, path),
        Command::Config(ConfigCommand::Import { file }) => configuration::import(&file),
        Command::Config(ConfigCommand::Default) => configuration::default(),
        Command::Doctor(flags) => doctor::doctor(flags, path),
        Command::Version => print(concat!("river-runner ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    done.unwrap_or_else(|failure| match failure {
        Failure::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(run::READER_LEFT)
        }
        Failure::Left { code, text } => {
            say(&text);
            ExitCode::from(code)
        }
        failure => {
            say(&failure);
            ExitCode::from(on_failure)
        }
    })
}

fn serve(flags: SettingFlags, path: &ConfigPath) -> Result<ExitCode, Failure> {
    Ok(app::serve(settings_said(flags, path)?.settings))
}

/// The settings in force, once what is odd about them is said.
fn settings_said(flags: SettingFlags, path: &ConfigPath) -> Result<Loaded, Failure> {
    let loaded = path.load(flags.0)?;
    loaded.notes.iter().for_each(say);
    Ok(loaded)
}

fn act(verb: Verb, arguments: &TaskArguments, path: &ConfigPath) -> Result<ExitCode, Failure> {
    arguments.reach.runner(path)?.act(verb, arguments.id)?;
    Ok(ExitCode::SUCCESS)
}

/// A line for the person who called us, apart from what the command prints.
fn say(what: &impl std::fmt::Display) {
    use std::io::Write;
    // With stderr closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "river-runner: {what}");
}

/// Text for stdout.
fn print(text: &str) -> Result<ExitCode, Failure> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod test {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn help_names_every_command_and_the_ways_to_configure() {
        let help = CommandLine::command().render_long_help().to_string();
        for word in [
            "serve", "run", "ps", "logs", "shell", "ls", "cp", "vps", "ssh", "kill", "pause",
            "resume", "config", "doctor",
        ] {
            assert!(help.contains(&format!("  {word} ")), "{word}");
        }
        assert!(help.contains("version") && help.contains("RIVER_<KEY>"));
    }

    #[test]
    fn serve_has_a_flag_for_every_setting_but_the_secret() {
        let mut command = CommandLine::command();
        let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        assert!(help.contains("--runner-port <NUMBER>"));
        assert!(help.contains("--allow-from <LIST>"));
        assert!(!help.contains("api-token"));
    }

    #[test]
    fn everything_after_the_dashes_belongs_to_the_task() {
        let line = ["river-runner", "run", "--image", "b", "--", "ls", "--help", "-c", "x"];
        assert!(CommandLine::try_parse_from(line).is_ok());
    }
}
