//! The power fails: what was synced is on disk, and of the rest any part.
//!
//! A run is recorded with strace: all writes with their bytes, all syncs, and the answers that left the node. From that a
//! [`Recording`] builds the folder as it may stand after a cut of the power at any moment:
//!
//! - A file has what its newest complete `fsync` or `fdatasync` covered. Each of its pages may have any later content
//!   that was written to it; a torn page has such a content for each of its sectors.
//! - Of the index, what was not synced may also be noise, or all of it is lost.
//! - A folder has the entries that its newest complete `fsync` covered, and those that were made, renamed or removed later
//!   up to any one of them. That a file is synced says nothing of its name: POSIX promises no more.
//!
//! Whatever the node had answered by then must be there when it is started on that folder.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    script::{self, ALL_KINDS, Asked, Done, LARGE, ON_THREE_CHAINS, Outcome, Step},
    seed,
    support::{Random, TestNode, setting},
    trace::{self, Call},
};

/// The unit that a disk writes whole.
const SECTOR: u64 = 512;
/// The unit in which the system writes files back.
const PAGE: u64 = 4096;

/// Names in a folder with what they name from then on, if anything. A rename changes two at once.
type Names = Vec<(String, Option<usize>)>;

/// A change of a file's content.
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Length(u64),
}

/// Something that happened between two lines of the trace.
struct At<T> {
    started: usize,
    ended: usize,
    what: T,
}

/// A file or a folder, whatever its name is.
#[derive(Default)]
struct Node {
    /// Of a file that was there before the run.
    base: Option<PathBuf>,
    changes: Vec<At<Change>>,
    /// Of a folder.
    entries: Vec<At<Names>>,
    is_folder: bool,
    /// When each complete sync began and ended.
    syncs: Vec<(usize, usize)>,
}

impl Node {
    /// The line before which all that had ended is durable at `moment`.
    fn durable(&self, moment: usize) -> usize {
        self.syncs.iter().filter(|(_, ended)| *ended < moment).map(|(started, _)| *started).max().unwrap_or(0)
    }
}

/// An open file.
struct Open {
    node: usize,
    at: u64,
    appends: bool,
}

/// All that a run did to its folder.
struct Recording {
    nodes: Vec<Node>,
    /// Lines at which answers began to leave, by the id of the request.
    answers: HashMap<String, usize>,
    /// Lines of the trace.
    length: usize,
    /// Lines at which something about the folder changed.
    moments: Vec<usize>,
    done: Vec<Done>,
}

/// Reads the calls of a trace in the order in which they ended.
struct Reader<'a> {
    data: &'a Path,
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    lengths: HashMap<usize, u64>,
    open: HashMap<u64, Open>,
    answers: HashMap<String, usize>,
    moments: BTreeSet<usize>,
}

impl<'a> Reader<'a> {
    /// On a folder with these contents, all of them durable.
    fn new(data: &'a Path, base: Option<&Path>) -> Reader<'a> {
        let mut reader = Reader {
            data,
            nodes: vec![Node { is_folder: true, ..Node::default() }],
            names: BTreeMap::from([(PathBuf::new(), 0)]),
            lengths: HashMap::new(),
            open: HashMap::new(),
            answers: HashMap::new(),
            moments: BTreeSet::new(),
        };
        if let Some(base) = base {
            reader.load(base, Path::new(""));
        }
        reader
    }

    fn load(&mut self, base: &Path, folder: &Path) {
        for entry in fs::read_dir(base.join(folder)).unwrap().map(|entry| entry.unwrap()) {
            let path = folder.join(entry.file_name());
            let is_folder = entry.path().is_dir();
            let node = self.make(&path, is_folder, None);
            if is_folder {
                self.load(base, &path);
            } else {
                self.nodes[node].base = Some(entry.path());
                self.lengths.insert(node, entry.metadata().unwrap().len());
            }
        }
    }

    /// A path below the data folder.
    fn below(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(self.data).ok().map(Path::to_path_buf)
    }

    /// Makes a file or a folder; without a call it was there before.
    fn make(&mut self, path: &Path, is_folder: bool, call: Option<&Call>) -> usize {
        self.nodes.push(Node { is_folder, ..Node::default() });
        let node = self.nodes.len() - 1;
        self.lengths.insert(node, 0);
        self.name(&[(path, Some(node))], call);
        node
    }

    /// Gives names in one folder to nodes, or takes them away.
    fn name(&mut self, entries: &[(&Path, Option<usize>)], call: Option<&Call>) {
        let folder = entries[0].0.parent().expect("it has a folder");
        let mut what = Vec::new();
        for (path, node) in entries {
            assert_eq!(path.parent(), Some(folder), "nothing moves to another folder");
            what.push((path.file_name().unwrap().to_str().unwrap().to_owned(), *node));
            match node {
                Some(node) => self.names.insert(path.to_path_buf(), *node),
                None => self.names.remove(*path),
            };
        }
        let (started, ended) = call.map_or((0, 0), |call| (call.started, call.ended));
        let folder = self.names[folder];
        self.nodes[folder].entries.push(At { started, ended, what });
        if call.is_none() {
            self.nodes[folder].syncs.push((1, 0));
        }
    }

    fn change(&mut self, node: usize, what: Change, call: &Call) {
        let length = self.lengths.entry(node).or_default();
        match &what {
            Change::Write { at, bytes } => *length = (*length).max(at + bytes.len() as u64),
            Change::Length(new) => *length = *new,
        }
        self.nodes[node].changes.push(At { started: call.started, ended: call.ended, what });
    }

    fn read(&mut self, call: &Call) {
        let Some(result) = call.result else { return };
        let is_ours = call.files().iter().any(|file| self.below(file).is_some());
        if !is_ours {
            self.answer(call);
            return;
        }
        if !call.arguments.contains("O_RDONLY") && call.name != "lseek" {
            self.moments.insert(call.ended);
        }
        match call.name.as_str() {
            "open" | "openat" | "creat" => self.opened(call, result),
            "mkdir" | "mkdirat" => {
                let path = self.below(&call.path(0)).unwrap();
                if path != Path::new("") {
                    self.make(&path, true, Some(call));
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let (from, to) = (self.below(&call.path(0)).unwrap(), self.below(&call.path(1)).unwrap());
                let node = self.names[&from];
                self.name(&[(&from, None), (&to, Some(node))], Some(call));
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let path = self.below(&call.path(0)).unwrap();
                self.name(&[(&path, None)], Some(call));
            }
            "lseek" => self.open.get_mut(&call.descriptor().unwrap()).expect("it is open").at = result,
            "fsync" | "fdatasync" => {
                let node = self.open[&call.descriptor().unwrap()].node;
                self.nodes[node].syncs.push((call.started, call.ended));
            }
            "ftruncate" => {
                let node = self.open[&call.descriptor().unwrap()].node;
                self.change(node, Change::Length(call.last_number()), call);
            }
            "fallocate" => {
                let node = self.open[&call.descriptor().unwrap()].node;
                let numbers = call.arguments.rsplit(", ").take(2).map(|number| number.parse::<u64>().unwrap());
                let [length, at] = numbers.collect::<Vec<_>>()[..] else { panic!("it has an offset and a length") };
                if call.arguments.contains("PUNCH_HOLE") {
                    self.change(node, Change::Write { at, bytes: vec![0; length as usize] }, call);
                } else if at + length > self.lengths[&node] {
                    self.change(node, Change::Length(at + length), call);
                }
            }
            "write" | "writev" | "pwrite64" => {
                let file = self.open.get_mut(&call.descriptor().unwrap()).expect("it is open");
                let node = file.node;
                let mut bytes = call.quoted().concat();
                bytes.truncate(result as usize);
                let at = match call.name.as_str() {
                    "pwrite64" => call.last_number(),
                    _ if file.appends => self.lengths[&node],
                    _ => file.at,
                };
                if call.name != "pwrite64" {
                    file.at = at + result;
                }
                self.change(node, Change::Write { at, bytes }, call);
            }
            other => panic!("the test does not know what {other} does to a file"),
        }
    }

    fn opened(&mut self, call: &Call, descriptor: u64) {
        let path = self.below(&call.path(0)).unwrap();
        let node = match self.names.get(&path) {
            Some(&node) => node,
            None => self.make(&path, false, Some(call)),
        };
        if call.arguments.contains("O_TRUNC") && self.lengths[&node] > 0 {
            self.change(node, Change::Length(0), call);
        }
        self.open.insert(descriptor, Open { node, at: 0, appends: call.arguments.contains("O_APPEND") });
    }

    /// What leaves through a socket may be an answer.
    fn answer(&mut self, call: &Call) {
        if !call.file.as_ref().is_some_and(|file| file.to_string_lossy().starts_with("socket:")) {
            return;
        }
        let text = String::from_utf8_lossy(&call.quoted().concat()).into_owned();
        for part in text.split("x-request-id: ").skip(1) {
            let (name, _) = part.split_once('\r').expect("a header ends");
            self.answers.entry(name.to_owned()).or_insert(call.started);
        }
    }
}

/// How much is left of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    All,
    Pages,
    Sectors,
    /// As sectors, and of the index, which is never synced, anything: noise, or nothing at all.
    Noise,
}

const RESTS: [Rest; 5] = [Rest::Nothing, Rest::Pages, Rest::Sectors, Rest::All, Rest::Noise];

impl Recording {
    /// Runs steps under strace, first one client and then three at once, on a new folder or a copy of this one.
    fn make(base: Option<(&Path, &[Done])>, first: &[Step], then: &[Step]) -> Recording {
        let folder = tempfile::tempdir().unwrap();
        let (data, trace) = (folder.path().join("data"), folder.path().join("trace"));
        // Copied before as well, so that what opening does to its files is in the trace alone.
        if let Some((base, _)) = base {
            crate::faults::copy(base, &data);
        }
        let all = format!("trace=?lseek,?sendto,?sendmsg,?mmap,{}", trace::WRITES);
        let path = trace.to_str().unwrap();
        let strace =
            [&trace::STRACE[..], &[trace::QUICK, "-y", "-xx", "-s", "40000000", "-e", &all, "-o", path]].concat();
        let node = TestNode::under(&strace, &data, &[]);
        let prefix = if base.is_some() { "again" } else { "new" };
        let mut done = base.map_or(Vec::new(), |(_, done)| done.to_vec());
        done.extend(script::run(&node, first, &format!("{prefix}-")));
        thread::scope(|scope| {
            let node = &node;
            let clients = [0, 1, 2].map(|client| {
                let name = format!("{prefix}-{client}-");
                scope.spawn(move || script::run(node, then, &name))
            });
            clients.into_iter().for_each(|client| done.extend(client.join().unwrap()));
        });
        assert!(done.iter().all(|done| matches!(done.outcome, Outcome::Acked(_))), "{done:?}");
        let mut node = node;
        assert_eq!(node.stop(), Some(0));
        let calls = trace::read(&trace);
        let maps = calls.iter().find(|call| call.name == "mmap" && call.arguments.contains("MAP_SHARED"));
        assert!(maps.is_none(), "the trace does not show what is written through {maps:?}");
        let mut reader = Reader::new(&data, base.map(|(base, _)| base));
        let mut calls: Vec<&Call> = calls.iter().collect();
        calls.sort_by_key(|call| call.ended);
        calls.iter().for_each(|call| reader.read(call));
        let length = calls.last().unwrap().ended + 1;
        let Reader { nodes, answers, moments, .. } = reader;
        let recording = Recording { nodes, answers, length, moments: moments.into_iter().collect(), done };
        recording.check(&data);
        recording
    }

    /// Asserts that the recording is true: with nothing lost, it builds the folder that the run left.
    fn check(&self, data: &Path) {
        let built = tempfile::tempdir().unwrap();
        let path = built.path().join("data");
        self.build(self.length, Rest::All, &mut Random(0), &path);
        let (expected, found) = (files(data), files(&path));
        assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        for (path, bytes) in expected {
            assert!(found[&path] == bytes, "{} is not as the run left it", path.display());
        }
        assert!(self.done.iter().all(|done| done.name.starts_with("base") || self.answers.contains_key(&done.name)));
    }

    /// Builds the folder as it may stand after a cut of the power at this line.
    fn build(&self, moment: usize, rest: Rest, random: &mut Random, data: &Path) {
        self.build_folder(0, moment, rest, random, data);
    }

    fn build_folder(&self, node: usize, moment: usize, rest: Rest, random: &mut Random, path: &Path) {
        fs::create_dir(path).unwrap();
        let folder = &self.nodes[node];
        let durable = folder.durable(moment);
        let certain = folder.entries.iter().take_while(|entry| entry.ended < durable || entry.ended == 0).count();
        let possible = folder.entries.iter().filter(|entry| entry.started < moment).count().max(certain);
        let count = match rest {
            Rest::Nothing => certain,
            Rest::All => possible,
            _ => certain + random.below((possible - certain + 1) as u64) as usize,
        };
        let mut names = BTreeMap::new();
        for (name, node) in folder.entries[..count].iter().flat_map(|entry| &entry.what) {
            match node {
                Some(node) => names.insert(name, *node),
                None => names.remove(name),
            };
        }
        for (name, node) in names {
            match self.nodes[node].is_folder {
                true => self.build_folder(node, moment, rest, random, &path.join(name)),
                false => self.build_file(node, moment, rest, random, &path.join(name)),
            }
        }
    }

    fn build_file(&self, node: usize, moment: usize, rest: Rest, random: &mut Random, path: &Path) {
        let is_index = path.iter().any(|name| name == "index");
        let node = &self.nodes[node];
        match &node.base {
            Some(base) => crate::faults::copy(base, path),
            None => drop(File::create(path).unwrap()),
        }
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let durable = node.durable(moment);
        let changes: Vec<_> = node.changes.iter().filter(|change| change.started < moment).collect();
        let certain = changes.iter().take_while(|change| change.ended < durable).count();
        // The number of changes that reached a sector: a content of any time since the sync.
        let mut reached: HashMap<u64, usize> = HashMap::new();
        let draw = |random: &mut Random| match rest {
            Rest::Nothing => certain,
            Rest::All => changes.len(),
            _ => certain + random.below((changes.len() - certain + 1) as u64) as usize,
        };
        let lengths = draw(random);
        for (number, change) in changes.iter().enumerate() {
            match &change.what {
                Change::Length(length) if number < certain.max(lengths) => file.set_len(*length).unwrap(),
                Change::Length(_) => {}
                Change::Write { at, bytes } if number < certain => file.write_all_at(bytes, *at).unwrap(),
                Change::Write { at, bytes } => {
                    let unit = if matches!(rest, Rest::Sectors | Rest::Noise) { SECTOR } else { PAGE };
                    let (start, end) = (*at, at + bytes.len() as u64);
                    for piece in start / unit..end.div_ceil(unit) {
                        if number >= *reached.entry(piece).or_insert_with(|| draw(random)) {
                            continue;
                        }
                        let (from, to) = (start.max(piece * unit), end.min((piece + 1) * unit));
                        let mut piece = bytes[(from - start) as usize..(to - start) as usize].to_vec();
                        if rest == Rest::Noise && is_index && random.below(8) == 0 {
                            piece.fill_with(|| random.below(256) as u8);
                        }
                        file.write_all_at(&piece, from).unwrap();
                    }
                }
            }
        }
    }

    /// What had been answered at this moment.
    fn done_at(&self, moment: usize) -> Vec<Done> {
        let outcome = |done: &Done| match self.answers.get(&done.name) {
            Some(&line) if line >= moment => Outcome::Unanswered,
            _ => done.outcome.clone(),
        };
        self.done.iter().map(|done| Done { outcome: outcome(done), ..done.clone() }).collect()
    }

    /// Cuts the power, and starts the node on what is left.
    fn trial(&self, moment: usize, rest: Rest, random: &mut Random) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        self.build(moment, rest, random, &data);
        if rest == Rest::Noise && random.below(4) == 0 {
            let _ = fs::remove_dir_all(data.join("index"));
        }
        let node = TestNode::open(&data, &["--log", "error"]);
        script::check(&node, &self.done_at(moment), Asked::RepeatsToo);
        script::goes_on(node);
    }

    /// Runs these trials on all processors, and fails with a list of what did not hold.
    fn trials(&self, trials: &[(usize, Rest, u64)]) {
        let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(&(moment, rest, seed)) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let trial = AssertUnwindSafe(|| self.trial(moment, rest, &mut Random(seed)));
                        if catch_unwind(trial).is_err() {
                            faults.lock().unwrap().push(format!("line {moment} of {}, {rest:?} kept", self.length));
                        }
                    }
                });
            }
        });
        let faults = faults.into_inner().unwrap();
        assert!(faults.is_empty(), "in {} trials something did not hold:\n{}", faults.len(), faults.join("\n"));
    }

    /// Trials at random moments behind a change, half of them after the first answer.
    fn some(&self, count: u64, random: &mut Random) -> Vec<(usize, Rest, u64)> {
        let first = self.answers.values().min().expect("something was answered");
        let silent = self.moments.partition_point(|moment| moment < first) as u64;
        let moments = self.moments.len() as u64;
        let moment = |random: &mut Random| {
            let number = match random.below(2) {
                0 => random.below(moments),
                _ => silent + random.below(moments - silent),
            };
            self.moments[number as usize] + 1
        };
        (0..count)
            .map(|number| (moment(random), RESTS[number as usize % RESTS.len()], random.below(u64::MAX)))
            .collect()
    }
}

/// A trial behind a change, with a rest that is drawn.
fn drawn(moment: usize, random: &mut Random) -> (usize, Rest, u64) {
    (moment + 1, RESTS[random.below(RESTS.len() as u64) as usize], random.below(u64::MAX))
}

/// All files below a folder with what they hold.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(parent) = folders.pop() {
        for path in fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => drop(files.insert(path.strip_prefix(folder).unwrap().into(), fs::read(&path).unwrap())),
            }
        }
    }
    files
}

/// A folder that a kill -9 has left.
fn used_folder(is_large: bool) -> (tempfile::TempDir, PathBuf, Vec<Done>) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = TestNode::open(&data, &[]);
    let mut done = script::run(&node, ALL_KINDS, "base-");
    if is_large {
        done.extend(script::run(&node, LARGE, "base-large-"));
    }
    node.kill();
    (folder, data, done)
}

#[test]
fn a_cut_of_the_power_loses_nothing_that_was_acknowledged() {
    if !trace::is_there() {
        return;
    }
    let mut random = Random(seed());
    let count = setting("QBC_TRIALS", 32);
    let (_folder, data, done) = used_folder(false);
    for recording in
        [Recording::make(None, ALL_KINDS, ON_THREE_CHAINS), Recording::make(Some((&data, &done)), &[], ON_THREE_CHAINS)]
    {
        println!("{} moments", recording.moments.len());
        recording.trials(&recording.some(count / 2, &mut random));
    }
}

#[test]
#[ignore = "it takes long"]
fn a_cut_of_the_power_at_any_moment_loses_nothing_that_was_acknowledged() {
    if !trace::is_there() {
        return;
    }
    let mut random = Random(seed());
    for is_large in [false, true] {
        let (_folder, data, done) = used_folder(is_large);
        let more = if is_large { LARGE } else { &[] };
        for recording in [
            Recording::make(None, &[ALL_KINDS, more].concat(), ON_THREE_CHAINS),
            Recording::make(Some((&data, &done)), more, ON_THREE_CHAINS),
        ] {
            let trials = match setting("QBC_TRIALS", 0) {
                0 => recording.moments.iter().map(|&moment| drawn(moment, &mut random)).collect(),
                count => recording.some(count, &mut random),
            };
            recording.trials(&trials);
        }
    }
}
