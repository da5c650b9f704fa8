//! The command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    river_runner::cli::main()
}
