//! `--config FILE`: the options of a node in a file (TOML), and `qbc config check`.
//!
//! Names, kinds and bounds are those of the command line, of which all of this is made: what `serve` takes, the file takes. A setting of the
//! file becomes an argument at the end of the command line, unless that, or a variable, says the same option or one that excludes it.

use std::{
    any::TypeId,
    ffi::OsString,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ClientArgs,
    output::print_line,
    serve::{self, ServeArgs},
};
use crate::http::Share;

/// The option that names the file. It is no setting.
const CONFIG: &str = "config";

/// What `qbc config` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc config check /etc/qbc.toml   what would be in force, and from where; or exit 1, and the line
  qbc --config /etc/qbc.toml       start a node with it
  QBC_CONFIG=/etc/qbc.toml qbc --port 5001

Options count before variables, and variables before the file.

The file has the options of serve by their names:
  port = 5001
  leap-every = \"1s\"
  allow-host = [\"ledger.example\", \"ledger.internal\"]
  log-json = true")]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check a configuration, and print all that would be in force
    Check {
        /// The file
        #[arg(env = "QBC_CONFIG")]
        file: PathBuf,
    },
}

/// Runs `qbc config`.
///
/// # Errors
/// The file cannot be read, or is wrong: with its line.
pub fn run(args: ConfigArgs) -> anyhow::Result<()> {
    let ConfigCommand::Check { file } = args.command;
    let configuration = Configuration::read(&file).map_err(anyhow::Error::msg)?;
    let mut command = serve_command();
    let said = command.try_get_matches_from_mut([""; 0]).map_err(|error| anyhow!("{}", reason(&error)))?;
    let arguments = configuration.arguments(&command, &said);
    let matches = command.try_get_matches_from_mut(arguments);
    let matches = matches.map_err(|error| anyhow!("{}: {}", file.display(), reason(&error)))?;
    for option in options(&command) {
        let id = option.get_id().as_str();
        let (Some(values), Some(source)) = (matches.get_raw(id), matches.value_source(id)) else { continue };
        let origin = match source {
            ValueSource::CommandLine => file.display().to_string(),
            ValueSource::EnvVariable => option.get_env().unwrap_or_default().to_string_lossy().into_owned(),
            _ => "default".into(),
        };
        let values: Vec<String> = values.map(|value| written(option, &value.to_string_lossy())).collect();
        let value = match option.get_action() {
            ArgAction::Append => format!("[{}]", values.join(", ")),
            _ => values.concat(),
        };
        print_line(format_args!("{} = {value}  # {origin}", name(option)))?;
    }
    let args = ServeArgs::from_arg_matches(&matches).map_err(|error| anyhow!("{}", reason(&error)))?;
    serve::check(&args).map_err(|error| anyhow!("a node does not start with {}: {error:#}", file.display()))
}

/// A value as it stands in the file.
fn written(option: &Arg, value: &str) -> String {
    match kind(option) {
        _ if option.is_hide_env_values_set() => "\"(a secret)\"".into(),
        Kind::Flag | Kind::Number => value.into(),
        // What is escaped in JSON is escaped in the same way in TOML.
        Kind::Text => serde_json::to_string(value).expect("a text is JSON"),
    }
}

/// What a configuration says.
#[derive(Clone, PartialEq, Eq)]
pub struct Configuration {
    settings: Vec<Setting>,
}

#[derive(Clone, PartialEq, Eq)]
struct Setting {
    name: String,
    /// As arguments of the command line; none for a flag that is not set.
    arguments: Vec<String>,
}

impl Configuration {
    /// Reads a file, and checks each of its settings.
    ///
    /// # Errors
    /// What is wrong, with the file and the line.
    pub fn read(file: &Path) -> Result<Configuration, String> {
        let text = fs::read_to_string(file);
        let text = text.map_err(|error| format!("cannot read the configuration {}: {error}", file.display()))?;
        let line = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let at = |offset: usize, detail: &str| format!("{}:{}: {detail}", file.display(), line(offset));
        let table = DeTable::parse(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            at(start, error.message().lines().next().unwrap_or("this is no TOML"))
        })?;
        let command = serve_command();
        let setting = |(key, value): (&Spanned<_>, &Spanned<DeValue>)| {
            let key: &Spanned<std::borrow::Cow<str>> = key;
            let name: &str = key.get_ref();
            let setting = setting(&command, name, value.get_ref());
            setting.map_err(|detail| at(key.span().start, &detail))
        };
        let settings = table.get_ref().iter().map(setting).collect::<Result<_, _>>()?;
        Ok(Configuration { settings })
    }

    /// The arguments that say the same to a command, where it takes them and neither the command line nor a variable says otherwise.
    pub fn arguments(&self, command: &Command, said: &ArgMatches) -> Vec<String> {
        let is_said = |option: &&Arg| {
            let source = said.value_source(option.get_id().as_str());
            matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        };
        let said: Vec<&Arg> = options(command).filter(is_said).collect();
        let counts = |option: &Arg| {
            said.iter().all(|said| {
                let excludes = |one: &Arg, other: &Arg| {
                    command.get_arg_conflicts_with(one).iter().any(|excluded| excluded.get_id() == other.get_id())
                };
                said.get_id() != option.get_id() && !excludes(said, option) && !excludes(option, said)
            })
        };
        let settings = self.settings.iter().filter(|setting| {
            let option = options(command).find(|option| name(option) == setting.name);
            option.is_some_and(counts)
        });
        settings.flat_map(|setting| setting.arguments.iter().cloned()).collect()
    }

    /// Whether it has what nobody else is to read.
    pub fn holds_secret(&self) -> bool {
        let command = serve_command();
        let is_secret = |setting: &Setting| {
            options(&command).any(|option| name(option) == setting.name && option.is_hide_env_values_set())
        };
        self.settings.iter().any(is_secret)
    }

    /// The names of the settings that another configuration has otherwise.
    pub fn differences(&self, other: &Configuration) -> Vec<String> {
        let not_in = |one: &Configuration, other: &Configuration| {
            let changed = one.settings.iter().filter(|setting| !other.settings.contains(setting));
            changed.map(|setting| setting.name.clone()).collect::<Vec<_>>()
        };
        let mut names = [not_in(self, other), not_in(other, self)].concat();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The configuration that the command line names, if it does, and the command line with what that says.
///
/// # Errors
/// What is wrong with the configuration.
pub fn completed(
    command: &Command,
    matches: &ArgMatches,
    mut arguments: Vec<OsString>,
) -> anyhow::Result<Option<(PathBuf, Vec<OsString>)>> {
    let (command, matches) = match matches.subcommand() {
        None => (command, matches),
        Some((name, behind)) => (command.find_subcommand(name).expect("it was parsed"), behind),
    };
    let Ok(Some(file)) = matches.try_get_one::<PathBuf>(CONFIG) else { return Ok(None) };
    let configuration = Configuration::read(file).map_err(anyhow::Error::msg)?;
    arguments.extend(configuration.arguments(command, matches).into_iter().map(OsString::from));
    Ok(Some((file.clone(), arguments)))
}

/// One setting of the file, checked by itself.
fn setting(command: &Command, key: &str, value: &DeValue) -> Result<Setting, String> {
    let option = options(command).find(|option| name(option) == key).ok_or_else(|| unknown(command, key))?;
    let texts = texts(option, value).map_err(|detail| format!("{key} takes {detail}"))?;
    let arguments: Vec<String> = match kind(option) {
        Kind::Flag => texts.iter().filter(|text| *text == "true").map(|_| format!("--{key}")).collect(),
        _ => texts.iter().map(|text| format!("--{key}={text}")).collect(),
    };
    let alone = command.clone().mut_args(|option| option.env(Resettable::Reset));
    match alone.try_get_matches_from(&arguments) {
        // These need others, which are known when all is put together.
        Err(error) if !matches!(error.kind(), ErrorKind::ArgumentConflict | ErrorKind::MissingRequiredArgument) => {
            Err(format!("{key}: {}", reason(&error)))
        }
        _ => Ok(Setting { name: key.into(), arguments }),
    }
}

/// Why the command line is not taken, without the value, which may be a secret.
pub fn reason(error: &clap::Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    let text = error.to_string();
    source.unwrap_or_else(|| text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default().into())
}

fn unknown(command: &Command, key: &str) -> String {
    let flat = key.to_lowercase().replace('_', "-");
    let flat = flat.strip_prefix("qbc-").unwrap_or(&flat);
    let same = options(command).map(name).find(|name| *name == flat).map(str::to_owned);
    let near = || {
        let error = command.clone().try_get_matches_from([format!("--{flat}")]).err()?;
        let near = match error.get(ContextKind::SuggestedArg)? {
            ContextValue::String(near) => near,
            ContextValue::Strings(near) => near.first()?,
            _ => return None,
        };
        Some(near.trim_start_matches('-').to_owned())
    };
    match same.or_else(near) {
        Some(near) => format!("there is no setting {key:?}: do you mean {near:?}?"),
        None => format!("there is no setting {key:?}: `qbc serve --help` has the names, without their dashes"),
    }
}

/// What an option takes in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Number,
    Text,
}

fn kind(option: &Arg) -> Kind {
    let is = |types: &[TypeId]| types.iter().any(|of| option.get_value_parser().type_id() == *of);
    if is(&[TypeId::of::<bool>()]) {
        Kind::Flag
    } else if is(&[
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<NonZero<u32>>(),
        TypeId::of::<NonZero<u64>>(),
        TypeId::of::<NonZero<usize>>(),
        TypeId::of::<Share>(),
    ]) {
        Kind::Number
    } else {
        Kind::Text
    }
}

/// The values of a setting as they stand on a command line, or what it takes instead.
fn texts(option: &Arg, value: &DeValue) -> Result<Vec<String>, String> {
    let one = |value: &DeValue| {
        let expected = match (kind(option), value) {
            (Kind::Flag, DeValue::Boolean(value)) => return Ok(value.to_string()),
            (Kind::Flag, _) => "true or false",
            (Kind::Number, DeValue::Integer(number)) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => return Ok(number.to_string()),
                Err(_) => "a whole number",
            },
            (Kind::Number, _) => "a whole number",
            (Kind::Text, DeValue::String(text)) => return Ok(text.to_string()),
            (Kind::Text, _) => "a text in quotes",
        };
        Err(format!("{expected}, and this is {}", described(value)))
    };
    match (option.get_action(), value) {
        (ArgAction::Append, DeValue::Array(values)) => {
            let values = values.iter().map(|value| one(value.get_ref()));
            values.collect::<Result<_, _>>().map_err(|detail| format!("a list, of which each is {detail}"))
        }
        (ArgAction::Append, value) => {
            let text =
                one(value).map_err(|_| format!("a list of texts, or one text, and this is {}", described(value)))?;
            Ok(vec![text])
        }
        (_, value) => one(value).map(|text| vec![text]),
    }
}

fn described(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The command whose options the file has.
fn serve_command() -> Command {
    let serve = ServeArgs::augment_args(Command::new("serve")).no_binary_name(true).disable_help_flag(true);
    // Of the options of a client this one is that of a node, too.
    let client = ClientArgs::augment_args(Command::new("client"));
    let shared = client.get_arguments().filter(|option| name(option) == "ca").cloned();
    serve.args(shared.collect::<Vec<_>>())
}

/// The options that can be settings.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|option| !name(option).is_empty() && name(option) != CONFIG)
}

fn name(option: &Arg) -> &str {
    option.get_long().unwrap_or_default()
}
