//! `qbc guide`: the guide, on a terminal through a pager.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::{Command, Stdio},
};

use anyhow::Context;
use clap::{Args, builder::PossibleValuesParser};

use super::output::{self, print};
use crate::guide::{self, CHAPTERS};

/// The exit code of a shell that does not find a command (POSIX, Shell Command Language, section 2.8.2).
const COMMAND_NOT_FOUND: i32 = 127;

/// What `qbc guide` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc guide                    the chapters
  qbc guide proofs             one of them, on a terminal through $PAGER, or less
  qbc guide format > format.md")]
pub struct GuideArgs {
    /// The chapter
    #[arg(value_parser = PossibleValuesParser::new(CHAPTERS.iter().map(|chapter| chapter.topic)))]
    topic: Option<String>,
}

/// Prints a chapter, or the list of all.
///
/// # Errors
/// Standard output takes nothing.
pub fn run(args: &GuideArgs) -> anyhow::Result<()> {
    match args.topic.as_deref().and_then(guide::chapter) {
        Some(chapter) => page(chapter.text),
        None => {
            let rows: Vec<_> =
                CHAPTERS.iter().map(|chapter| vec![chapter.topic.into(), chapter.title().into()]).collect();
            print(format!("{}\n\nqbc guide TOPIC prints one.\n", output::table(&rows)).as_bytes())
        }
    }
}

/// Shows a text: on a terminal by the user's pager, where there is one.
fn page(text: &str) -> anyhow::Result<()> {
    let pager = env::var("PAGER").ok();
    if !io::stdout().is_terminal() || pager.as_ref().is_some_and(|pager| pager.trim().is_empty()) {
        return print(text.as_bytes());
    }
    let mut command = match pager {
        // It is a command with its arguments.
        Some(pager) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &pager]);
            shell
        }
        None => Command::new("less"),
    };
    if env::var_os("LESS").is_none() {
        // As git does: quit where it fits on the screen, show colours, and leave the text there.
        command.env("LESS", "FRX");
    }
    let Ok(mut child) = command.stdin(Stdio::piped()).spawn() else { return print(text.as_bytes()) };
    // Whoever has read enough closes the pager before it has all.
    let _ = child.stdin.take().expect("it is piped").write_all(text.as_bytes());
    let status = child.wait().context("cannot wait for the pager")?;
    match status.code() {
        Some(COMMAND_NOT_FOUND) => print(text.as_bytes()),
        _ => Ok(()),
    }
}
