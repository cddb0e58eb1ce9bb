//! Every block of commands in the README and the guide is run as a reader would run it: in order, in a fresh folder for each document.
//! The first word after the fence is the language, and GitHub shows no more than that:
//!
//! - `sh`: commands of one shell. Each must succeed, and so must the requests of curl and httpie, unless what they print is compared.
//! - `sh terminal N`: a command that has a terminal for itself until Ctrl-C, which ends what ran there before. It is ready when it has
//!   written a line, or has ended well.
//! - `sh elsewhere`: commands for another machine, or for its root. They are not run, but bash must understand them.
//! - `text`, right after a block of `sh`: what that block prints; `…` stands for anything. Other such blocks are pictures and forms,
//!   and so are `toml`, `json` and `yaml`.
//!
//! Ports 5000 to 5009 are replaced by free ones, and what cargo would build by the program that is tested.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use qbc::guide::CHAPTERS;

const README: &str = include_str!("../README.md");

/// After which a command hangs, as nobody would wait.
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn every_command_of_the_readme_and_the_guide_works() {
    let documents = CHAPTERS.iter().map(|chapter| (chapter.topic, chapter.text)).chain([("README", README)]);
    let failures: Vec<String> = thread::scope(|scope| {
        let runs: Vec<_> = documents
            .map(|(name, text)| scope.spawn(move || run(text).err().map(|failure| format!("{name}: {failure}"))))
            .collect();
        runs.into_iter().filter_map(|run| run.join().expect("a run does not panic")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn what_does_not_work_is_noticed() {
    for (text, part) in [
        ("```sh\ntrue\nfalse\ntrue\n```\n", "line 1"),
        ("```sh\ntrue\n```\n\n```sh\nfalse | true\n```\n", "line 5"),
        ("```sh\nqbc nonsense\n```\n", "nonsense"),
        (
            "```sh terminal 1\nqbc --ephemeral\n```\n```sh\ncurl localhost:5000/stats\ncurl localhost:5000/nowhere\n```\n",
            "line 4",
        ),
        ("```sh\ncargo build\n```\n", "cargo build"),
        ("```sh terminal 1\nqbc --port nonsense\n```\n", "nonsense"),
        ("```sh\necho one\n```\n\n```text\ntwo\n```\n", "line 5"),
        ("```sh\necho one; echo two\n```\n\n```text\none\n```\n", "line 5"),
        ("```sh\necho one two\n```\n```text\n… one two\n```\n", "line 4"),
        ("```sh\ntrue\n```\n```sh elsewhere\nqbc \"--port 5000\n```\n", "line 4"),
        ("```bash\ntrue\n```\n", "line 1"),
        ("```sh\ntrue\n", "line 1"),
    ] {
        let failure = run(text).expect_err(text);
        assert!(failure.contains(part), "{text} {failure}");
    }
    for text in [
        "```sh\necho one two three\n```\n\n```text\none … three\n```\n",
        "```sh\nA=1\n```\n```sh\ntest $A = 1\n```\n",
        "```sh elsewhere\nfalse\n```\n```toml\n]\n```\n```json\n]\n```\n```yaml\n]\n```\n",
        "```sh terminal 1\nqbc --ephemeral\n```\n```sh\nqbc leap\n```\n```sh terminal 1\nqbc\n```\n```sh\nqbc stats\n```\n",
    ] {
        run(text).unwrap();
    }
}

#[test]
fn the_readme_is_short_and_its_links_lead_somewhere() {
    assert!(README.lines().count() <= 200);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let links = README.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    let files: Vec<&str> = links.filter(|link| !link.contains("://")).collect();
    assert!(files.len() > 10, "links are where this test looks for them");
    for link in files {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{link}: {error}"));
        let is_there = text.lines().any(|line| line.trim_start_matches("## ").eq_ignore_ascii_case(heading));
        assert!(heading.is_empty() || is_there, "{link}");
    }
    for chapter in CHAPTERS {
        assert!(README.contains(&format!("(src/guide/{}.md)", chapter.topic)), "it does not lead to {}", chapter.topic);
    }
}

/// A fenced block of a document.
struct Block<'a> {
    /// Of its fence.
    line: usize,
    info: &'a str,
    text: String,
}

/// The blocks that are run or compared, and those that would be passed over by mistake.
fn blocks(document: &str) -> Result<Vec<Block<'_>>, String> {
    let mut blocks = Vec::new();
    let mut lines = document.lines().zip(1..);
    while let Some((fence, line)) = lines.next() {
        let Some(info) = fence.trim_start().strip_prefix("```") else { continue };
        let mut text = String::new();
        loop {
            match lines.next() {
                None => return Err(format!("line {line}: the block has no end")),
                Some((end, _)) if end.trim() == "```" => break,
                Some((content, _)) => text.extend([content, "\n"]),
            }
        }
        blocks.push(Block { line, info, text });
    }
    Ok(blocks)
}

/// Runs the blocks of a document.
fn run(document: &str) -> Result<(), String> {
    let reader = Reader::new();
    let document = reader.with_free_ports(document);
    let mut shell = reader.shell();
    let mut terminals: BTreeMap<&str, Terminal> = BTreeMap::new();
    // What the block before has printed, where the document says what that is.
    let mut printed: Option<String> = None;
    let mut blocks = blocks(&document)?.into_iter().peekable();
    while let Some(Block { line, info, text }) = blocks.next() {
        let at = |failure: String| format!("line {line}: {failure}\n{text}");
        let before = printed.take();
        match info.split(' ').collect::<Vec<_>>()[..] {
            ["sh"] => {
                let end = line + text.lines().count() + 1;
                let is_compared = blocks.peek().is_some_and(|next| next.info == "text" && next.line <= end + 2);
                printed = Some(shell.run(&text, is_compared).map_err(at)?).filter(|_| is_compared);
            }
            ["sh", "terminal", name] => {
                if let Some(before) = terminals.remove(name) {
                    before.interrupt().map_err(at)?;
                }
                terminals.insert(name, reader.terminal(&text).map_err(at)?);
            }
            ["sh", "elsewhere"] => understood(&text).map_err(at)?,
            ["toml" | "json" | "yaml"] => {}
            ["text"] => match before {
                Some(printed) if !is_like(&printed, &text) => {
                    return Err(at(format!("the commands print\n{printed}\nbut the document says")));
                }
                _ => {}
            },
            _ => return Err(at(format!("nobody knows what a block {info:?} is"))),
        }
    }
    terminals.into_values().try_for_each(Terminal::interrupt)
}

/// Whether a text is what a pattern says, in which `…` stands for anything.
fn is_like(text: &str, pattern: &str) -> bool {
    let (mut rest, mut parts) = (text.trim_end(), pattern.trim_end().split('…'));
    match rest.strip_prefix(parts.next().unwrap_or_default()) {
        Some(after) => rest = after,
        None => return false,
    }
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Who reads a document, with a folder of their own and what is installed.
struct Reader {
    folder: tempfile::TempDir,
    /// Programs, and what the commands write beside their folder.
    tools: tempfile::TempDir,
    ports: Vec<u16>,
}

impl Reader {
    fn new() -> Reader {
        // All are taken at one time, so that they differ. They are none that the kernel gives to clients, who would have them while a node
        // is stopped.
        let first = 10_000 + rand::random::<u16>() % 20_000;
        let listeners: Vec<_> =
            (first..32_768).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(10).collect();
        let ports = listeners.iter().map(|listener| listener.local_addr().expect("it has one").port()).collect();
        let folder = || tempfile::tempdir().expect("a temporary folder can be made");
        let reader = Reader { folder: folder(), tools: folder(), ports };
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_qbc"), reader.tools.path().join("qbc"))
            .expect("it can be linked");
        reader.install(
            "cargo",
            r#"case "$*" in
                 test) ;; # It is what runs this.
                 "run --release") exec qbc ;;
                 "run --release -- "*) shift 3; exec qbc "$@" ;;
                 *) echo "the test of the documents knows no cargo $*" >&2; exit 1 ;;
               esac"#,
        );
        let curl = installed("curl").expect("there is curl");
        reader.install("curl", &format!("exec '{}' ${{STRICT:+--fail}} \"$@\"", curl.display()));
        // It would take a standard input that is no terminal for a body.
        match installed("http") {
            Some(http) => {
                let script = format!("exec '{}' --ignore-stdin ${{STRICT:+--check-status}} \"$@\"", http.display());
                reader.install("http", &script);
            }
            None => {
                eprintln!("skipped: httpie is not installed");
                reader.install("http", "");
            }
        }
        reader
    }

    fn install(&self, name: &str, script: &str) {
        let path = self.tools.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("it can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }

    /// The document with the ports of this reader in place of 5000 to 5009.
    fn with_free_ports(&self, document: &str) -> String {
        let mut parts = document.split("500");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let digit = part.chars().next().and_then(|letter| letter.to_digit(10));
            let is_number = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric());
            match digit.filter(|_| !is_number(part.chars().nth(1)) && !is_number(text.chars().last())) {
                Some(digit) => text.extend([self.ports[digit as usize].to_string().as_str(), &part[1..]]),
                None => text.extend(["500", part]),
            }
        }
        text
    }

    /// A shell in the folder that ends at the first command that fails.
    fn bash(&self, errors: &Path) -> Command {
        let mut command = Command::new("bash");
        let path = std::env::var("PATH").expect("there is one");
        command.current_dir(&self.folder).env("PATH", format!("{}:{path}", self.tools.path().display()));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QBC_")) {
            command.env_remove(name);
        }
        let port = self.ports[0].to_string();
        command.env("QBC_NODE", format!("http://localhost:{port}")).env("QBC_PORT", port).env("QBC_LOG", "warn");
        command.args(["-eu", "-o", "pipefail"]).process_group(0).stdout(Stdio::piped());
        command.stderr(File::create(errors).expect("it can be made"));
        command
    }

    fn shell(&self) -> Shell {
        let errors = self.tools.path().join("errors");
        let mut process = self.bash(&errors).stdin(Stdio::piped()).spawn().expect("there is bash");
        let lines = lines(&mut process);
        Shell {
            process,
            lines,
            errors,
            script: self.tools.path().join("script"),
            output: self.tools.path().join("output"),
        }
    }

    /// Runs a command in a terminal, and waits until it is ready.
    fn terminal(&self, text: &str) -> Result<Terminal, String> {
        let errors = self.tools.path().join("errors of a terminal");
        let mut process = self.bash(&errors).args(["-c", text]).stdin(Stdio::null()).spawn().expect("there is bash");
        let lines = lines(&mut process);
        let mut terminal = Terminal { process };
        match lines.recv_timeout(PATIENCE) {
            Ok(_) => Ok(terminal),
            Err(mpsc::RecvTimeoutError::Timeout) => Err("it prints nothing, and does not end".into()),
            Err(mpsc::RecvTimeoutError::Disconnected) => match terminal.process.wait().expect("it ends") {
                status if status.success() => Ok(terminal),
                status => Err(format!("{status}: {}", fs::read_to_string(errors).unwrap_or_default())),
            },
        }
    }
}

/// Looks whether bash understands commands, and runs none of them.
fn understood(text: &str) -> Result<(), String> {
    let output = Command::new("bash").args(["-n", "-c", text]).output().expect("there is bash");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Where a program is installed.
fn installed(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The lines that a process prints, read on until it closes its output.
fn lines(process: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let output = BufReader::new(process.stdout.take().expect("it is piped"));
    // Nobody may take them any more, but the process must be able to write them.
    thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    receiver
}

/// The shell in which the blocks without a terminal of their own run, one after the other.
struct Shell {
    process: Child,
    lines: Receiver<String>,
    errors: PathBuf,
    script: PathBuf,
    output: PathBuf,
}

impl Shell {
    /// Runs commands, and gives what they print. Answers that are errors are failures, unless what is printed is compared.
    fn run(&mut self, text: &str, is_compared: bool) -> Result<String, String> {
        fs::write(&self.script, text).expect("it can be written");
        let (script, output) = (self.script.display(), self.output.display());
        let strict = if is_compared { "" } else { "yes" };
        let line = format!("export STRICT={strict}\n. '{script}' > '{output}' < /dev/null\necho done\n");
        let done = self.process.stdin.as_mut().expect("it is piped").write_all(line.as_bytes()).is_ok()
            && self.lines.recv_timeout(PATIENCE).is_ok();
        let printed = fs::read_to_string(&self.output).unwrap_or_default();
        match done {
            true => Ok(printed),
            false => {
                let errors = fs::read_to_string(&self.errors).unwrap_or_default();
                Err(format!("a command fails, or does not end. It prints\n{printed}\nand says\n{errors}"))
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// A terminal with what runs in it.
struct Terminal {
    process: Child,
}

impl Terminal {
    /// Ctrl-C: what runs ends, and has nothing to complain of.
    fn interrupt(mut self) -> Result<(), String> {
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            signal("INT", &self.process);
        }
        let status = self.process.wait().expect("it ends");
        // Programs that know no other end die of it.
        let is_fine = status.success() || std::os::unix::process::ExitStatusExt::signal(&status) == Some(2);
        if is_fine { Ok(()) } else { Err(format!("what ran in the terminal ends with {status}")) }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Sends a signal to a process and to those that it started.
fn signal(name: &str, process: &Child) {
    let group = format!("-{}", process.id());
    let sent = Command::new("kill").args(["-s", name, "--", &group]).stderr(Stdio::null()).status();
    sent.expect("there is kill");
}

/// Ends a process, with those that it started.
fn end(process: &mut Child) {
    if process.try_wait().is_ok_and(|status| status.is_none()) {
        signal("KILL", process);
    }
    let _ = process.wait();
}
