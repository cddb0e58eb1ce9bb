//! Completions: the shell asks the program itself, which knows its commands and asks the node for the names of chains.
//!
//! `qbc completions SHELL` prints what makes the shell do that. Whatever goes wrong meanwhile, the shell sees no candidates, and no error:
//! somebody is typing.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::ValueHint;
use clap_complete::{
    ArgValueCandidates, ArgValueCompleter, CompleteEnv, CompletionCandidate, engine,
    env::{self as shells, EnvCompleter, Shells},
};
use reqwest::Url;
use serde::Deserialize;

use super::{Nodes, cluster::Status, command_line, connection::Connection, output::print, parse_nodes, tls};
use crate::core::rules::ChainName;

/// With the name of a shell in it, the program completes the command line that follows `--`.
const VARIABLE: &str = "QBC_COMPLETE";

/// How long a node may take: somebody waits with a finger on a key.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names of chains that are shown at most.
const CHAINS: usize = 200;

/// The options that name a chain which is there.
const OF_CHAINS: &[&str] = &["chain", "stop"];

const SHELLS: Shells<'static> = Shells(&[&Bash, &shells::Elvish, &shells::Fish, &shells::Powershell, &shells::Zsh]);

/// Prints what a shell has to read once, so that it asks this program for completions.
///
/// # Errors
/// Standard output takes nothing.
pub fn print_script(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let completer = SHELLS.completer(&shell.to_string()).context("clap knows no completions for this shell")?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "qbc", "qbc", "qbc", &mut script)?;
    print(&script)
}

/// Answers a shell, if one asks: then nothing else is to be done.
pub fn answer() -> Option<ExitCode> {
    env::var_os(VARIABLE).filter(|shell| !shell.is_empty())?;
    let words: Vec<OsString> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let complete = CompleteEnv::with_factory(|| with_candidates(&words)).var(VARIABLE).shells(SHELLS);
    let _ = complete.try_complete(env::args_os(), env::current_dir().ok().as_deref());
    Some(ExitCode::SUCCESS)
}

/// The command line, with what it knows of the values of its options.
fn with_candidates(words: &[OsString]) -> clap::Command {
    let words: Vec<String> = joined(words).into_iter().map(|word| word.text).collect();
    let program = command_line();
    let commands: Vec<String> = program.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let program = with_chains(program, &words);
    let asked = words.clone();
    program
        .mut_subcommand("verify", |verify| verify.mut_arg("target", |target| target.value_hint(ValueHint::AnyPath)))
        .mut_subcommand("man", |man| {
            let commands = move || commands.iter().map(CompletionCandidate::new).collect::<Vec<_>>();
            man.mut_arg("command", |command| command.add(ArgValueCandidates::new(commands)))
        })
        .mut_subcommand("cluster", |cluster| {
            cluster.mut_subcommand("leave", |leave| {
                leave.mut_arg("id", |id| id.add(ArgValueCandidates::new(move || nodes(&asked))))
            })
        })
}

/// A command and those below it, with the names of chains wherever one is to be named.
fn with_chains(mut command: clap::Command, words: &[String]) -> clap::Command {
    let below: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in below {
        command = command.mut_subcommand(name, |command| with_chains(command, words));
    }
    command.mut_args(|argument| match OF_CHAINS.contains(&argument.get_id().as_str()) {
        false => argument,
        true => {
            let words = words.to_owned();
            argument.add(ArgValueCompleter::new(move |begun: &OsStr| chains(&words, begun)))
        }
    })
}

/// The names of the node's chains that begin so. What is no name of a chain no shell gets to see, whoever answers.
fn chains(words: &[String], begun: &OsStr) -> Vec<CompletionCandidate> {
    #[derive(Deserialize)]
    struct Listed {
        name: String,
    }
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let listed: Vec<Listed> = ask(words, |node| {
        let mut url = node.node_url(&["chains"]);
        url.query_pairs_mut().append_pair("limit", &CHAINS.to_string());
        if let Some(before) = before(begun) {
            url.query_pairs_mut().append_pair("after", &before);
        }
        url
    });
    let names = listed.into_iter().filter(|chain| chain.name.starts_with(begun));
    names.filter(|chain| chain.name.parse::<ChainName>().is_ok()).map(|chain| chain.name.into()).collect()
}

/// A text right before all names that begin so, since the list of chains is asked for behind a text.
fn before(begun: &str) -> Option<String> {
    let last = begun.chars().next_back()?;
    let begun = begun.strip_suffix(last)?;
    // Names have nothing as large as ~.
    Some(format!("{begun}{}~", char::from_u32(u32::from(last).checked_sub(1)?)?))
}

/// The ids of the cluster's nodes.
fn nodes(words: &[String]) -> Vec<CompletionCandidate> {
    let status: Option<Status> = ask(words, |node| node.node_url(&["cluster"]));
    let nodes = status.into_iter().flat_map(|status| status.nodes);
    let candidate = |(id, host): (String, String)| CompletionCandidate::new(id).help(Some(host.into()));
    nodes.map(|node| (node.id, node.host)).filter(|(id, _)| hex::decode(id).is_ok()).map(candidate).collect()
}

/// What the node says that a command line names, or nothing.
fn ask<T: Default + serde::de::DeserializeOwned>(words: &[String], url: impl FnOnce(&Connection) -> Url) -> T {
    let ask = || -> anyhow::Result<T> {
        let option = |name: &str, variable: &str| said(words, name).or_else(|| env::var(variable).ok());
        let nodes = option("node", "QBC_NODE").unwrap_or_else(|| super::DEFAULT_NODE.into());
        let Nodes(nodes) = parse_nodes(&nodes).map_err(anyhow::Error::msg)?;
        let token = option("token", "QBC_TOKEN").map(|token| token.parse()).transpose().map_err(anyhow::Error::msg)?;
        let trusted = tls::read_authorities(option("ca", "QBC_CA").as_deref().map(Path::new))?;
        let node = Connection::new(nodes, None, trusted, token.as_ref(), true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let request = node.get(url(&node)).timeout(PATIENCE);
        runtime.block_on(async { tokio::time::timeout(PATIENCE, node.ask(request)).await? })
    };
    ask().unwrap_or_default()
}

/// What a command line says for an option: the last of it counts.
fn said(words: &[String], option: &str) -> Option<String> {
    let option = format!("--{option}");
    let behind = words.windows(2).enumerate().filter(|(_, pair)| pair[0] == option).map(|(at, pair)| (at, &*pair[1]));
    let within =
        words.iter().enumerate().filter_map(|(at, word)| Some((at, word.strip_prefix(&format!("{option}="))?)));
    behind.chain(within).max_by_key(|(at, _)| *at).map(|(_, value)| value.to_owned())
}

/// A word of a command line, of how many that bash has made of it.
struct Word {
    text: String,
    pieces: usize,
}

/// The words as they were typed: bash cuts them at each `:` and `=`, which it makes words of their own.
fn joined(words: &[OsString]) -> Vec<Word> {
    let mut joined: Vec<Word> = Vec::new();
    let is_cut = |text: &str| !text.is_empty() && text.chars().all(|char| matches!(char, ':' | '='));
    let mut goes_on = false;
    for word in words {
        let text = word.to_string_lossy();
        match joined.last_mut() {
            Some(last) if goes_on || is_cut(&text) => {
                last.text += &text;
                last.pieces += 1;
            }
            _ => joined.push(Word { text: text.clone().into_owned(), pieces: 1 }),
        }
        goes_on = is_cut(&text);
    }
    joined
}

/// Bash as clap asks it, but with words as they were typed.
struct Bash;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        shells::Bash.name()
    }

    fn is(&self, name: &str) -> bool {
        shells::Bash.is(name)
    }

    fn write_registration(
        &self,
        var: &str,
        name: &str,
        bin: &str,
        completer: &str,
        buf: &mut dyn io::Write,
    ) -> Result<(), io::Error> {
        shells::Bash.write_registration(var, name, bin, completer, buf)
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        folder: Option<&Path>,
        buf: &mut dyn io::Write,
    ) -> Result<(), io::Error> {
        let variable = |name: &str| env::var(name).unwrap_or_default();
        // The one that is completed, with what bash has cut off before it: that is not to be written again.
        let cut = variable("_CLAP_COMPLETE_INDEX").parse().unwrap_or(0);
        let mut upto = joined(&words[..words.len().min(cut + 1)]);
        let completed = words.get(cut).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        let last = upto.pop().filter(|word| word.pieces > 1).map_or(completed.clone(), |word| word.text);
        let before = last.strip_suffix(&completed).unwrap_or_default().to_owned();
        let index = upto.len();
        let texts = upto.into_iter().map(|word| word.text).chain([last]).map(OsString::from).collect();
        let candidates = engine::complete(command, texts, index, folder)?;
        let values = candidates.iter().map(|candidate| candidate.get_value().to_string_lossy());
        let values: Vec<String> =
            values.map(|value| value.strip_prefix(&before).unwrap_or(&value).to_owned()).collect();
        buf.write_all(values.join(&variable("_CLAP_IFS")).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn words_that_bash_has_cut_are_whole_again() {
        let texts = |cut: &[&str]| joined(&words(cut)).into_iter().map(|word| word.text).collect::<Vec<_>>();
        let cut = ["qbc", "--node", "http", ":", "//localhost", ":", "5000", "--chain", "=", "or"];
        assert_eq!(texts(&cut), ["qbc", "--node", "http://localhost:5000", "--chain=or"]);
        assert_eq!(texts(&["qbc", "--chain", ""]), ["qbc", "--chain", ""]);
    }

    #[test]
    fn the_last_option_counts() {
        let words = ["qbc", "--node", "1", "--node=2", "stats", "--node", "3"].map(str::to_owned);
        assert_eq!(said(&words, "node").as_deref(), Some("3"));
        assert_eq!(said(&words[..4], "node").as_deref(), Some("2"));
        assert_eq!(said(&words, "ca"), None);
    }

    #[test]
    fn names_are_listed_from_a_text_right_before_them() {
        assert_eq!(before(""), None);
        for (begun, name) in [("or", "or"), ("or", "orders"), ("a.", "a.0"), ("a-", "a--"), ("0", "0")] {
            let before = before(begun).unwrap();
            assert!(before.as_str() < name && !before.starts_with(begun), "{before} {name}");
        }
        assert!(before("or").unwrap().as_str() > "oq-zzzz");
    }
}
