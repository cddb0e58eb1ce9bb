//! A fault in every single write-side system call of a run, one at a time.
//!
//! A dry run under strace lists the calls that change anything below the data folder. A trial repeats the run with a fault in
//! one of them. strace counts calls for each thread by itself, and only those that its filter of paths lets through, so a
//! call is named by its file and its number among the calls of one thread on that file. A file with a random name cannot be
//! named so: then the call's number among all of its thread counts.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    script::{self, ALL_KINDS, Asked, Done, LARGE, ON_THREE_CHAINS, Outcome, Step},
    seed,
    support::{Random, TestNode, setting, verifies},
    trace,
};

/// Where a run starts, and what it does.
struct Run {
    /// A folder at rest, and all that was acknowledged in it.
    base: Option<(tempfile::TempDir, Vec<Done>)>,
    steps: Vec<Step>,
}

/// A call that can fail.
#[derive(Clone, Debug)]
struct Target {
    call: String,
    /// Below the data folder.
    path: PathBuf,
    /// Whether its path is the same in each run.
    is_named: bool,
    /// Its number among those of its thread, on this path or on any, from 1.
    number: u32,
}

const FAULTS: [&str; 3] = ["error=EIO", "error=ENOSPC", "signal=SIGKILL"];

impl Run {
    /// From nothing.
    fn new() -> Run {
        Run { base: None, steps: ALL_KINDS.to_vec() }
    }

    /// On a folder that a kill -9 has left, of several segments if it is large.
    fn on_used_folder(is_large: bool) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let node = TestNode::open(&folder.path().join("data"), &[]);
        let mut done = script::run(&node, ALL_KINDS, "base-");
        if is_large {
            done.extend(script::run(&node, LARGE, "base-large-"));
        }
        assert!(done.iter().all(|done| matches!(done.outcome, Outcome::Acked(_))), "{done:?}");
        node.kill();
        let steps = [ON_THREE_CHAINS, if is_large { LARGE } else { &[] }].concat();
        Run { base: Some((folder, done)), steps }
    }

    /// A new copy of the folder that it starts with.
    fn folder(&self) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        if let Some((base, _)) = &self.base {
            copy(&base.path().join("data"), &data);
        }
        (folder, data)
    }

    /// All calls that change something, in their order.
    fn targets(&self) -> Vec<Target> {
        let (folder, data) = self.folder();
        let trace = folder.path().join("trace");
        let all = format!("trace={}", trace::WRITES);
        let options = [trace::QUICK, "-y", "-xx", "-s", "0", "-e", &all, "-o", trace.to_str().unwrap()];
        let strace = [&trace::STRACE[..], &options].concat();
        let mut node = TestNode::under(&strace, &data, &[]);
        script::run(&node, &self.steps, "dry-");
        assert_eq!(node.stop(), Some(0));
        let (mut on_path, mut in_thread) = (HashMap::new(), HashMap::new());
        let mut targets = Vec::new();
        for call in trace::read(&trace) {
            let all = in_thread.entry((call.thread, call.name.clone())).or_insert(0);
            *all += 1;
            let files = call.files();
            let mut counts = files.iter().map(|file| {
                let count = on_path.entry((call.thread, call.name.clone(), file.clone())).or_insert(0);
                *count += 1;
                *count
            });
            let (Some(file), Some(of_file)) = (files.first(), counts.next()) else { continue };
            counts.for_each(drop);
            let Ok(path) = file.strip_prefix(&data) else { continue };
            if call.name.starts_with("open") && call.arguments.contains("O_RDONLY") {
                continue;
            }
            let is_named = !file.file_name().unwrap().to_str().unwrap().starts_with(".tmp");
            let number = if is_named { of_file } else { *all };
            targets.push(Target { call: call.name, path: path.into(), is_named, number });
        }
        targets
    }

    /// The run with one fault, and then everything that must hold. Gives whether the fault was met.
    fn trial(&self, target: &Target, fault: &str, is_killed: bool) -> bool {
        let (folder, data) = self.folder();
        let (trace, log) = (folder.path().join("trace"), folder.path().join("log"));
        let Target { call, number, .. } = target;
        let (all, inject) = (format!("trace={call}"), format!("inject={call}:{fault}:when={number}"));
        let path = data.join(&target.path).display().to_string();
        let mut strace = trace::STRACE.to_vec();
        strace.extend(["-y", "-s", "0", "-o", trace.to_str().unwrap(), "-e", &all, "-e", &inject]);
        if target.is_named {
            strace.extend(["-P", &path]);
        }
        if fault.starts_with("error=") {
            strace.push(trace::QUICK);
        }
        let log_file = File::create(&log).unwrap();
        let mut done = self.base.as_ref().map_or(Vec::new(), |(_, done)| done.clone());
        let mut is_met = false;
        match TestNode::attempt(&strace, &data, &["--log", "error"], log_file.into()) {
            Err(status) => {
                is_met = true;
                assert!(matches!(status.code(), None | Some(1)), "it ends with {status}");
            }
            // A number among all calls would be met again by other threads, at any time.
            Ok(node) if !target.is_named => drop(node.kill()),
            Ok(mut node) => {
                done.extend(script::run(&node, &self.steps, "trial-"));
                if node.get("/livez").send().is_ok() {
                    // What it shows after a fault is what is durable.
                    script::check(&node, &done, Asked::ReadsAlone);
                    match is_killed {
                        true => drop(node.kill()),
                        // The fault may come while it closes.
                        false => is_met = node.stop() != Some(0),
                    }
                } else {
                    is_met = true;
                }
            }
        }
        let log = fs::read_to_string(log).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        is_met |= fs::read_to_string(trace).is_ok_and(|trace| trace.contains("(INJECTED)"));
        // Before that file, it is no data folder yet.
        if data.join("format").metadata().is_ok_and(|format| format.len() > 0) {
            verifies(&data);
        }
        let node = TestNode::open(&data, &["--log", "error"]);
        script::check(&node, &done, Asked::RepeatsToo);
        script::goes_on(node);
        is_met
    }

    /// Runs these trials on all processors, and fails with a list of what did not hold.
    fn trials(&self, trials: &[(Target, &str, bool)]) {
        let (next, met, faults) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some((target, fault, is_killed)) = trials.get(number) else { break };
                        if number > 0 && number.is_multiple_of(100) {
                            println!("trial {number} of {}", trials.len());
                        }
                        match catch_unwind(AssertUnwindSafe(|| self.trial(target, fault, *is_killed))) {
                            Ok(is_met) => drop(met.fetch_add(usize::from(is_met), Ordering::Relaxed)),
                            Err(_) => faults.lock().unwrap().push(format!("{target:?} {fault} killed: {is_killed}")),
                        }
                    }
                });
            }
        });
        let (met, faults) = (met.into_inner(), faults.into_inner().unwrap());
        println!("{} trials, in {met} of them the fault was met", trials.len());
        assert!(faults.is_empty(), "in {} trials something did not hold:\n{}", faults.len(), faults.join("\n"));
        // What threads do in the background differs a little from run to run.
        assert!(met * 10 >= trials.len() * 8, "too few faults were met");
    }
}

/// Copies a folder, holes as holes.
pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).stdin(Stdio::null()).status().unwrap().success());
}

/// A trial of a call, with a fault that is drawn.
fn drawn(target: Target, random: &mut Random) -> (Target, &'static str, bool) {
    (target, FAULTS[random.below(FAULTS.len() as u64) as usize], random.below(2) == 0)
}

/// A part of all trials, that has each kind of call on each kind of file before it has one twice.
fn some(targets: Vec<Target>, count: u64, random: &mut Random) -> Vec<(Target, &'static str, bool)> {
    let mut kinds: BTreeMap<(String, String), Vec<Target>> = BTreeMap::new();
    for target in targets {
        let path = target.path.display().to_string();
        // Segments, tables and lists differ in their numbers alone; a call at the start differs from one in the midst.
        let kind = path.replace(|letter: char| letter.is_ascii_digit(), "#");
        let kind = if target.is_named { kind } else { "a temporary file".into() };
        kinds.entry((format!("{} {}", target.call, target.number.min(3)), kind)).or_default().push(target);
    }
    let mut left = Vec::new();
    let mut draw = || {
        if left.is_empty() {
            left = kinds.values().collect::<Vec<_>>();
        }
        let targets = left.swap_remove(random.below(left.len() as u64) as usize);
        drawn(targets[random.below(targets.len() as u64) as usize].clone(), random)
    };
    (0..count).map(|_| draw()).collect()
}

#[test]
fn a_fault_in_some_system_calls_loses_and_invents_nothing() {
    if !trace::is_there() {
        return;
    }
    let mut random = Random(seed());
    let count = setting("QBC_TRIALS", 24);
    for run in [Run::new(), Run::on_used_folder(false)] {
        let targets = run.targets();
        println!("{} calls write", targets.len());
        run.trials(&some(targets, count / 2, &mut random));
    }
}

#[test]
#[ignore = "it takes long"]
fn a_fault_in_any_system_call_loses_and_invents_nothing() {
    if !trace::is_there() {
        return;
    }
    let mut random = Random(seed());
    for run in [Run::new(), Run::on_used_folder(false), Run::on_used_folder(true)] {
        let targets = run.targets();
        println!("{} calls write", targets.len());
        let trials: Vec<_> = match setting("QBC_TRIALS", 0) {
            0 => targets.into_iter().map(|target| drawn(target, &mut random)).collect(),
            count => some(targets, count, &mut random),
        };
        run.trials(&trials);
    }
}
