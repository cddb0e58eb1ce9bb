//! Where results go: standard output, for a person or for a script, and the files that a user names.
//!
//! A result that cannot be written is an error: the command that had it did not do what it was asked for.

use std::{
    env,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufWriter, IsTerminal, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use tokio::{io::Interest, net::unix::pipe::Sender};

use super::pretty::{Printer, Style};

/// Symbolic links that are followed one after the other, as Linux does.
const LINKS: usize = 40;

/// Whether the program was started without a standard output (`>&-`).
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Rust's runtime opens /dev/null in place of what is closed, and afterwards nobody can tell it from a /dev/null that was
/// asked for.
#[ctor::ctor]
fn look_before_the_runtime() {
    IS_CLOSED.store(io::stdout().as_fd().try_clone_to_owned().is_err(), Ordering::Relaxed);
}

/// Standard output, without the runtime's indulgence: it takes a write to a descriptor that cannot be written for a success.
///
/// # Errors
/// It is closed.
pub fn stdout() -> io::Result<File> {
    if IS_CLOSED.load(Ordering::Relaxed) {
        return Err(io::Error::other("it is closed"));
    }
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Writes to standard output. A closed pipe is a bare [`io::Error`], which ends the program quietly.
pub fn print(bytes: &[u8]) -> anyhow::Result<()> {
    stdout().and_then(|mut out| out.write_all(bytes)).map_err(|error| of_stdout(error.into()))
}

/// An error that may be one of writing to standard output, with that said. A closed pipe stays as it is.
pub fn of_stdout(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<io::Error>() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => anyhow!("cannot write to standard output: {error}"),
        _ => error,
    }
}

/// A line on standard output.
pub fn print_line(line: impl std::fmt::Display) -> anyhow::Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// A line on standard error. Where nobody can read it, nothing else is lost.
pub fn tell(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What the program itself has to say, in the shape of a node's problem documents (RFC 9457).
pub fn problem(title: &str, detail: &str) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        r#type: &'a str,
        title: &'a str,
        detail: &'a str,
    }
    serde_json::to_string(&Document { r#type: "about:blank", title, detail }).expect("texts are JSON")
}

/// Prints JSON as it came, or indented for a person, and a line end.
pub fn print_json(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = JsonOutput::value();
    out.write(bytes.trim_ascii())?;
    out.finish()
}

/// Prints a value as JSON.
pub fn print_value(value: &impl Serialize) -> anyhow::Result<()> {
    print_json(&serde_json::to_vec(value)?)
}

/// JSON on its way to standard output: as it came for a pipe or a file, and shown well on a terminal.
pub struct JsonOutput {
    /// `None` where the bytes go as they are.
    printer: Option<Printer>,
    ends_line: bool,
}

impl JsonOutput {
    /// For one value.
    pub fn value() -> JsonOutput {
        JsonOutput::with(style())
    }

    /// For one value a line.
    pub fn lines() -> JsonOutput {
        JsonOutput::with(Style { indent: false, ..style() })
    }

    fn with(style: Style) -> JsonOutput {
        let printer = (style.indent || style.colours || io::stdout().is_terminal()).then(|| Printer::new(style));
        JsonOutput { printer, ends_line: false }
    }

    /// Prints a piece.
    pub fn write(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        if let Some(last) = piece.last() {
            self.ends_line = *last == b'\n';
        }
        match &mut self.printer {
            None => print(piece),
            Some(printer) => {
                let mut shown = Vec::with_capacity(2 * piece.len());
                printer.take(piece, &mut shown);
                print(&shown)
            }
        }
    }

    /// Ends the last line, unless that is done.
    pub fn finish(self) -> anyhow::Result<()> {
        if self.ends_line { Ok(()) } else { print(b"\n") }
    }
}

/// Whether standard output may have colours (<https://no-color.org>, <https://bixense.com/clicolors>).
pub fn has_colours() -> bool {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_forced = env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
    !is_set("NO_COLOR") && (is_forced || (io::stdout().is_terminal() && !is_dumb()))
}

/// Whether the terminal can only print.
pub fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// How JSON is shown on standard output.
fn style() -> Style {
    Style { indent: io::stdout().is_terminal(), colours: has_colours() }
}

/// A text of others as a line that no terminal takes for a command: control characters, and those that change the direction of writing,
/// as JSON escapes them.
pub fn harmless(text: &str) -> String {
    let is_harmful = |char: char| {
        let turns =
            matches!(char, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        char.is_control() || turns
    };
    text.chars().fold(String::with_capacity(text.len()), |mut line, char| {
        match is_harmful(char) {
            true => line += &format!("\\u{:04x}", u32::from(char)),
            false => line.push(char),
        }
        line
    })
}

/// Rows with their columns below each other.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Waits until nobody reads standard output any more, where that shows: in a pipe or a socket. Else it waits for ever.
pub async fn reader_gone() {
    // Unchecked, since writes to it go on to block; it is only watched here.
    if let Ok(out) = stdout().and_then(Sender::from_file_unchecked)
        && out.ready(Interest::ERROR).await.is_ok_and(|ready| ready.is_error())
    {
        return;
    }
    std::future::pending().await
}

/// Whether a path that a user named is standard output: `-`, /dev/stdout, or the file that it goes to.
pub fn is_stdout(path: &Path) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let own = stdout().and_then(|out| out.metadata()).map(place);
    path == Path::new("-") || fs::metadata(path).is_ok_and(|metadata| own.is_ok_and(|own| own == place(metadata)))
}

/// Writes a file that a user named. A regular one, also behind symbolic links, gets its name when all is written, in place of
/// the one before; what else has a name (a device, a pipe) is written to as it stands, and never replaced.
///
/// # Errors
/// Those of `write`, and why the file cannot be written. Of a regular file nothing is left then.
pub fn write_file<T>(path: &Path, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let cannot = || format!("cannot write {}", path.display());
    let before = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found.with_context(cannot)?),
    };
    let is_in_place = match &before {
        Some(metadata) if metadata.is_dir() => bail!("{}: it is a folder", cannot()),
        Some(metadata) if metadata.file_type().is_socket() => bail!("{}: it is a socket", cannot()),
        Some(metadata) => !metadata.is_file(),
        None => false,
    };
    match target(path).filter(|_| !is_in_place) {
        None => {
            // Behind what another descriptor has written to it.
            let file = OpenOptions::new().append(true).open(path).with_context(cannot)?;
            let mut out = BufWriter::new(file);
            let result = write(&mut out).and_then(|result| Ok(out.flush().map(|()| result)?));
            result.map_err(|error| named(error, cannot))
        }
        Some(target) => {
            let folder = target.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            if !folder.is_dir() {
                bail!("{}: there is no folder {}", cannot(), folder.display());
            }
            // As of any new file: the user's mask takes from it.
            let permissions = before.map_or(Permissions::from_mode(0o666), |before| before.permissions());
            let part = tempfile::Builder::new()
                .prefix(target.file_name().with_context(cannot)?)
                .suffix(".part")
                .permissions(permissions.clone())
                .tempfile_in(folder)
                .with_context(cannot)?;
            let mut out = BufWriter::new(part);
            let result = write(&mut out).map_err(|error| named(error, cannot))?;
            let part = out.into_inner().map_err(|error| anyhow!("{}: {}", cannot(), error.error()))?;
            if target.exists() {
                part.as_file().set_permissions(permissions).with_context(cannot)?;
            }
            part.as_file().sync_all().with_context(cannot)?;
            part.persist(&target).map_err(|error| error.error).with_context(cannot)?;
            Ok(result)
        }
    }
}

/// A closed pipe with a name is not that of standard output, and no reason to end quietly.
fn named(error: anyhow::Error, cannot: impl Fn() -> String) -> anyhow::Error {
    match error.downcast::<io::Error>() {
        Ok(error) => anyhow!("{}: {error}", cannot()),
        Err(other) => other,
    }
}

/// The name behind all symbolic links, whether there is a file of that name yet or not. None where it is the name of an open
/// file of a process.
fn target(path: &Path) -> Option<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..LINKS {
        let parent = target.parent().unwrap_or(Path::new("")).to_path_buf();
        if fs::canonicalize(&parent).is_ok_and(|parent| parent.starts_with("/proc")) {
            return None;
        }
        match fs::read_link(&target) {
            Ok(link) => target = parent.join(link),
            Err(_) => break,
        }
    }
    Some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_others_commands_no_terminal() {
        assert_eq!(harmless("a\u{1b}[31m\n\u{9b}é\u{202e}"), "a\\u001b[31m\\u000a\\u009bé\\u202e");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [vec!["a".into(), "bé".into(), "c".into()], vec!["long".into(), "b".into()]];
        assert_eq!(table(&rows), "a     bé  c\nlong  b");
    }

    #[test]
    fn a_failed_write_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "before").unwrap();
        let failed = write_file(&path, |out| {
            out.write_all(b"half")?;
            bail!("it fails") as anyhow::Result<()>
        });
        assert_eq!(failed.unwrap_err().to_string(), "it fails");
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
