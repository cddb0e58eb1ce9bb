//! What strace tells of a program: which system calls it made on files, in which order, and with which bytes.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The system calls that change files or folders, or make their changes durable. A `?` passes over what this machine
/// does not have.
pub const WRITES: &str = "?write,?pwrite64,?writev,?pwritev,?pwritev2,?fsync,?fdatasync,?sync_file_range,?ftruncate,\
    ?truncate,?fallocate,?openat,?open,?creat,?rename,?renameat,?renameat2,?unlink,?unlinkat,?mkdir,?mkdirat,?rmdir,\
    ?link,?linkat,?symlink,?symlinkat,?copy_file_range,?sendfile,?splice";

/// The start of a command that traces a program with its threads.
pub const STRACE: [&str; 4] = ["strace", "-D", "-f", "-qq"];

/// Stops the program at the calls that are asked for, and not at each one: it is four times as fast. A signal does not come then.
pub const QUICK: &str = "--seccomp-bpf";

/// Whether there is strace, and it may trace.
pub fn is_there() -> bool {
    let mut probe = Command::new(STRACE[0]);
    probe.args(["-f", "-qq", QUICK, "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let is_there = probe.status().is_ok_and(|status| status.success());
    if !is_there {
        println!("skipped: there is no strace, it is older than 5.3, or it may not trace");
    }
    is_there
}

/// One call.
#[derive(Debug)]
pub struct Call {
    pub thread: u32,
    /// The lines of the trace at which it began and ended.
    pub started: usize,
    pub ended: usize,
    pub name: String,
    /// The file of its first descriptor, where it is told.
    pub file: Option<PathBuf>,
    /// The text between the brackets.
    pub arguments: String,
    /// What it gave, where it came back without an error.
    pub result: Option<u64>,
}

impl Call {
    /// The quoted arguments.
    pub fn quoted(&self) -> Vec<Vec<u8>> {
        let mut rest = &self.arguments[..];
        let mut all = Vec::new();
        while let Some((_, behind)) = rest.split_once('"') {
            let (text, behind) = behind.split_once('"').expect("a quote ends");
            assert!(!behind.starts_with("..."), "the trace leaves out bytes of {}", self.name);
            all.push(unescaped(text));
            rest = behind;
        }
        all
    }

    /// A quoted path.
    pub fn path(&self, at: usize) -> PathBuf {
        String::from_utf8(self.quoted()[at].clone()).expect("paths of the test are UTF-8").into()
    }

    /// The files that it names, by descriptor or by path.
    pub fn files(&self) -> Vec<PathBuf> {
        let is_by_path = ["open", "creat", "rename", "unlink", "mkdir", "rmdir", "link", "symlink", "truncate"];
        match is_by_path.iter().any(|name| self.name.starts_with(name)) {
            true => (0..self.quoted().len()).map(|at| self.path(at)).collect(),
            false => self.file.clone().into_iter().collect(),
        }
    }

    /// The number of its first descriptor.
    pub fn descriptor(&self) -> Option<u64> {
        let digits = self.arguments.split(|letter: char| !letter.is_ascii_digit()).next()?;
        digits.parse().ok()
    }

    /// The last argument, a number.
    pub fn last_number(&self) -> u64 {
        let text = self.arguments.rsplit(", ").next().expect("there is one");
        text.parse().unwrap_or_else(|_| panic!("no number ends {}({})", self.name, self.arguments))
    }
}

/// The bytes of a quoted text, all of them written as `\xNN`.
fn unescaped(text: &str) -> Vec<u8> {
    let digits: String = text.split("\\x").collect();
    hex::decode(&digits).unwrap_or_else(|_| panic!("not all is escaped: {text}"))
}

/// Reads a trace that was made with `-f -y -xx`. A call that never came back has no result, and ends with the trace.
pub fn read(path: &Path) -> Vec<Call> {
    let text = fs::read_to_string(path).unwrap();
    let mut calls = Vec::new();
    let mut open: HashMap<u32, (usize, String)> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let (thread, rest) = line.split_once(' ').expect("a line starts with a thread");
        let (thread, rest) = (thread.parse().expect("it is a number"), rest.trim_start());
        if rest.starts_with("---") || rest.starts_with("+++") {
            continue;
        }
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (number, start.to_owned()));
        } else if let Some((_, end)) = rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            let (started, start) = open.remove(&thread).expect("it was begun");
            calls.push(parse(thread, started, number, &format!("{start}{end}")));
        } else {
            calls.push(parse(thread, number, number, rest));
        }
    }
    let end = text.lines().count();
    calls.extend(
        open.into_iter().map(|(thread, (started, start))| parse(thread, started, end, &format!("{start}) = ?"))),
    );
    calls
}

fn parse(thread: u32, started: usize, ended: usize, text: &str) -> Call {
    let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("no call: {text}"));
    let (arguments, result) = rest.rsplit_once(") ").unwrap_or_else(|| panic!("no end: {text}"));
    let result = result.trim_start().strip_prefix("= ").expect("it says what it gave");
    let digits = result.split(|letter: char| !letter.is_ascii_digit()).next().expect("there is a first part");
    let is_descriptor = arguments.starts_with(|letter: char| letter.is_ascii_digit());
    let file = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).filter(|_| is_descriptor);
    Call {
        thread,
        started,
        ended,
        name: name.into(),
        // What is no file, such as a socket, has a name that is no path.
        file: file.map(|(path, _)| String::from_utf8_lossy(&unescaped(path)).into_owned().into()),
        result: digits.parse().ok(),
        arguments: arguments.into(),
    }
}
