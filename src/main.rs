//! The program `qbc`: parses the command line, runs the command, and turns its error into a sentence and an exit code.
//!
//! 0: done. 1: it failed, or what was to be verified does not hold. 2: the command line is wrong.

use std::process::ExitCode;

use qbc::cli::{self, Cli};

/// Many small allocations on several threads are most of what a request costs beside its system calls.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let json = cli.is_for_script();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cli::report(&anyhow::Error::new(error).context("cannot start the runtime"), json),
    };
    let done = runtime.block_on(cli::run(cli));
    // A read of standard input that nobody waits for any more would keep the program from ending.
    runtime.shutdown_background();
    done.map_or_else(|error| cli::report(&error, json), |()| ExitCode::SUCCESS)
}
