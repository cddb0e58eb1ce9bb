//! The program `qbc`: parses the command line, runs the command, and turns its error into a sentence and an exit code.
//!
//! 0: done. 1: it failed, or what was to be verified does not hold. 2: the command line is wrong.

use std::{io, process::ExitCode};

use qbc::cli::{self, Cli, Usage};

/// Many small allocations on several threads are most of what a request costs beside its system calls.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::from_command_line();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let done = runtime.block_on(cli::run(cli));
    // A read of standard input that nobody waits for any more would keep the program from ending.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn report(error: &anyhow::Error) -> ExitCode {
    // Errors of the network are wrapped, so a bare broken pipe is that of our own output: `qbc chain | head`.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    cli::print_notice(format_args!("error: {error:#}"));
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}
