//! `qbc man`: manual pages, made from what `--help` says.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context;
use clap::Args;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{
    Usage,
    output::{print, print_line, write_file},
};

/// What `qbc man` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc man                      the page of the program: on a terminal as man shows it
  qbc man verify
  qbc man cluster leave        of a command of a command
  qbc man verify > qbc-verify.1
  qbc man --dir ~/.local/share/man/man1    all pages, where man finds them")]
pub struct ManArgs {
    /// The command, and the command of that where it has some
    #[arg(value_name = "COMMAND")]
    pub(super) command: Vec<String>,
    /// Write the pages of all commands to this folder, each as qbc-COMMAND.1
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints a page of the command line, or writes all of them.
///
/// # Errors
/// There is no such command, or the pages cannot be written.
pub fn run(args: &ManArgs, program: clap::Command) -> anyhow::Result<()> {
    let program = built(program);
    if let Some(folder) = &args.dir {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let written = write_all(&program, None, folder)?;
        return print_line(format_args!("{written} pages are in {}", folder.display()));
    }
    let (mut command, mut parent) = (&program, None);
    for name in &args.command {
        let found = command.find_subcommand(name);
        let unknown = || Usage(format!("{name:?} is no command of {}: {0} --help lists them", name_of(command, ' ')));
        (command, parent) = (found.ok_or_else(unknown)?, Some(command));
    }
    show(&page(command, parent)?)
}

/// With the full names of its commands, and no `help` among them.
fn built(program: clap::Command) -> clap::Command {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    program
}

/// Shows a page: on a terminal by man, where there is one.
fn show(page: &[u8]) -> anyhow::Result<()> {
    if io::stdout().is_terminal()
        && let Ok(mut man) = Command::new("man").args(["-l", "-"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn()
    {
        // Whoever has read enough closes it before it has all.
        let _ = man.stdin.take().expect("it is piped").write_all(page);
        if man.wait().context("cannot wait for man")?.success() {
            return Ok(());
        }
    }
    print(page)
}

fn write_all(command: &clap::Command, parent: Option<&clap::Command>, folder: &Path) -> anyhow::Result<usize> {
    let page = page(command, parent)?;
    let path = folder.join(format!("{}.1", name_of(command, '-')));
    write_file(&path, |out| Ok(out.write_all(&page)?))?;
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|below| write_all(below, Some(command), folder)).try_fold(1, |sum, written| Ok(sum + written?))
}

/// The name of a command with those that it belongs to, such as qbc-verify.
fn name_of(command: &clap::Command, separator: char) -> String {
    command.get_bin_name().unwrap_or("qbc").replace(' ', &separator.to_string())
}

/// The page of a command, in roff (man(7)).
fn page(command: &clap::Command, parent: Option<&clap::Command>) -> anyhow::Result<Vec<u8>> {
    let name = name_of(command, '-');
    let man = Man::new(command.clone().display_name(&name));
    // Without a date, so that the page of a version is always the same.
    let (title, version) = (name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    let mut page = format!(".TH {title} 1 \"\" \"qbc {version}\" \"QBC Manual\"\n").into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut end = Roff::new();
    // They stand as they are, and behind them what is to be noted.
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (examples, notes) = after.split_once("\n\n").unwrap_or((&after, ""));
    if let Some(examples) = examples.strip_prefix("Examples:\n") {
        end.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.lines() {
            end.text([roman(line.trim_start())]);
        }
        end.control("fi", []);
    }
    for (place, note) in notes.split("\n\n").filter(|note| !note.is_empty()).enumerate() {
        match place {
            0 => end.control("SH", ["NOTES"]),
            _ => end.control("PP", []),
        };
        for line in note.lines() {
            end.text([roman(line)]);
        }
    }
    end.control("SH", ["EXIT STATUS"]);
    for (code, what) in [
        ("0", "It is done."),
        ("1", "It failed, or what was to be checked does not hold."),
        ("2", "The command line is wrong."),
    ] {
        end.control("TP", []).text([bold(code)]).text([roman(what)]);
    }
    end.control("SH", ["SEE ALSO"]);
    let below = command.get_subcommands().filter(|command| !command.is_hide_set()).map(|command| name_of(command, '-'));
    let others = parent.map(|parent| name_of(parent, '-')).into_iter().chain(below).chain(["qbc-guide".into()]);
    let mut others: Vec<String> = others.filter(|other| *other != name).collect();
    others.dedup();
    let last = others.len() - 1;
    for (place, other) in others.iter().enumerate() {
        let end_of_line = if place == last { "(1)" } else { "(1)," };
        end.text([bold(other), roman(end_of_line)]);
    }
    end.to_writer(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::super::command_line;
    use super::*;

    #[test]
    fn every_command_has_a_page_with_all_that_its_help_says() {
        let program = built(command_line());
        let page = |command| String::from_utf8(page(command, Some(&program)).unwrap()).unwrap();
        for command in program.get_subcommands() {
            let page = page(command);
            for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                let option = option.replace('-', "\\-");
                assert!(page.contains(&format!("\\-\\-{option}")), "{} --{option}", command.get_name());
            }
            let sections = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"];
            for section in sections {
                let is_there = page.lines().any(|line| line.trim_end().replace('"', "") == format!(".SH {section}"));
                assert!(is_there, "{} {section}: {page}", command.get_name());
            }
        }
    }
}
