//! Hostile loads: what strangers can do to a node at full rate, beside a client that means well.
//!
//! A load comes from other addresses, and with another token, than the good client, which injects with ids, reads what it has
//! injected, and connects anew. Checked is for each load:
//!
//! - the 99th percentiles of the good client stay below 10 times those that it has on the same node without the load, as medians of some
//!   rounds (in the long run alone: other tests run beside the short part);
//! - the node takes up no more memory than [`limits::memory`] adds up;
//! - what was acknowledged is there once, at its index, also when the node was killed under the load and started again;
//! - when the load is over, the node has no connection and no file open that it had not before.

mod attacker;
mod good;
mod http2;
mod loads;

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use qbc::{core::hash, limits};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use serde_json::json;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};

use crate::support::{TestNode, eventually, setting};
use attacker::Attacker;
use good::{Good, Measured};
use loads::{LOADS, Load, is_ready};

/// The tokens of the good client and of the attackers: both may do everything.
const GOOD: &str = "good-token";
const BAD: &str = "bad-token";
/// The chain of the good client, and that of the attackers.
const CHAIN: &str = "good";
const LOAD: &str = "load";

/// The long run, or the short part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Long,
    Short,
}

/// Times that the good client may take under load of what it takes without.
const TIMES: f64 = 10.0;
/// Chains that the attackers may make in a run.
const CHAINS: usize = 20_000;
/// Below this nobody minds, and it is hardly measured, in seconds.
const FLOOR: f64 = 0.001;

/// A node with tokens and, if wanted, TLS.
struct Target {
    node: Option<TestNode>,
    folder: tempfile::TempDir,
    options: Vec<String>,
    tls: Option<Arc<ClientConfig>>,
    export: (Vec<u8>, String),
}

impl Target {
    fn start(over_tls: bool) -> Target {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let entry = |token: &str| {
            let digest = hash::token(token.as_bytes());
            let roles = "[\"read\", \"write\", \"operate\"]";
            format!("[[tokens]]\nname = \"{token}\"\nsha256 = \"{digest}\"\nroles = {roles}\nchains = [\"*\"]\n")
        };
        fs::write(path("access.toml"), [entry(GOOD), entry(BAD)].concat()).unwrap();
        let mut options = vec!["--access".to_owned(), path("access.toml")];
        let tls = over_tls.then(|| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["localhost".into(), "127.0.0.1".into()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            fs::write(path("node.crt"), certificate.pem()).unwrap();
            fs::write(path("node.key"), key.serialize_pem()).unwrap();
            Command::new("chmod").args(["600", &path("node.key")]).status().unwrap();
            for (option, file) in [("--tls-cert", "node.crt"), ("--tls-key", "node.key"), ("--ca", "node.crt")] {
                options.extend([option.to_owned(), path(file)]);
            }
            trusting(certificate.der().clone())
        });
        let export = export();
        let mut target = Target { node: None, folder, options, tls, export };
        target.open();
        let good = target.good();
        for name in [CHAIN, LOAD] {
            ask(&good, "/bang", json!({"name": name, "difficulty": 0}).to_string(), 201);
        }
        let many: Vec<_> = (0..1_000).map(|at| json!({"data": at})).collect();
        ask(&good, &format!("/chains/{CHAIN}/inject"), json!(many).to_string(), 202);
        ask(&good, &format!("/chains/{CHAIN}/leap"), String::new(), 201);
        for _ in 0..8 {
            let large = json!({"data": "x".repeat(1_000_000)}).to_string();
            ask(&good, &format!("/chains/{LOAD}/inject"), large, 202);
        }
        ask(&good, &format!("/chains/{LOAD}/leap"), String::new(), 201);
        target
    }

    /// Starts the node, also after it was killed.
    fn open(&mut self) {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        self.node =
            Some(TestNode::open(&self.folder.path().join("data"), &[&options[..], &["--log", "error"]].concat()));
    }

    fn node(&self) -> &TestNode {
        self.node.as_ref().expect("it runs")
    }

    fn address(&self) -> SocketAddr {
        self.node().address().parse().expect("it is an address")
    }

    fn good(&self) -> Good {
        Good::new(self.address(), self.tls.clone())
    }

    /// A number of the process from `/proc/PID/status`.
    fn status(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.node().pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
        line.split_ascii_whitespace().nth(1).unwrap().parse().expect("it is a number")
    }

    /// Bytes of memory that it took up at most since it was last asked to forget that.
    fn most_memory(&self) -> usize {
        self.status("VmHWM") << 10
    }

    fn forget_most_memory(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.node().pid()), "5").unwrap();
    }

    fn sockets(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.node().pid())).unwrap().flatten();
        open.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
            .count()
    }
}

/// A client's configuration that trusts one certificate.
fn trusting(certificate: CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    // Each handshake is to be a whole one.
    config.resumption = rustls::client::Resumption::disabled();
    config.into()
}

/// The export of a chain of another node, and its id.
fn export() -> (Vec<u8>, String) {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "exported", "difficulty": 0}));
    let many: Vec<_> = (0..5_000).map(|at| json!({"data": {"n": at, "text": "x".repeat(100)}})).collect();
    assert_eq!(node.post("/chains/exported/inject").json(&many).send().unwrap().status(), 202);
    node.leap("/chains/exported");
    let id = node.json("/chains/exported")["id"].as_str().unwrap().to_owned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    let output = command.args(["export", "--node", &node.url, "--chain", "exported"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.stdout, id)
}

fn ask(good: &Good, path: &str, body: String, expected: u16) {
    let (status, answer) = good.connect().unwrap().ask("POST", path, body.as_bytes()).unwrap();
    assert_eq!(status, expected, "{path}: {}", String::from_utf8_lossy(&answer));
}

/// What became of one load.
struct Found {
    quiet: Measured,
    loaded: Measured,
    held: usize,
    done: u64,
    memory: usize,
}

/// One round of a load: the good client without it, and with it.
fn round(target: &Target, good: &Good, load: &'static Load, scale: Scale, time: Duration, sources: usize) -> Found {
    let never = AtomicBool::new(false);
    let quiet = good.measure(time, &never);
    let sockets = target.sockets();
    target.forget_most_memory();
    let (over, is_over) = watch::channel(false);
    let attacker = Attacker::new(target.address(), target.tls.clone(), sources, scale, target.export.clone(), is_over);
    let runtime = of_attackers();
    let attack = attacker.clone();
    let applied = runtime.spawn(async move { load.apply(&attack).await });
    let processors = thread::available_parallelism().map_or(1, Into::into);
    let most = limits::memory(processors, load.connections[scale as usize], CHAINS);
    // More than that must not be taken from whatever else runs on this machine.
    let guard = Guard::new(target.node().pid(), most);
    let since = Instant::now();
    while !is_ready(load, &attacker) && since.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(20));
    }
    let loaded = good.measure(time, &never);
    let (held, done) = (attacker.held.load(Ordering::Relaxed), attacker.done.load(Ordering::Relaxed));
    let is_reached = is_ready(load, &attacker);
    let memory = target.most_memory();
    over.send(true).unwrap();
    runtime.block_on(applied).unwrap();
    drop(runtime);
    assert!(is_reached, "{}: only {held} connections were held", load.name);
    drop(guard);
    assert!(memory < most, "{}: {} MiB of memory, more than {} MiB", load.name, memory >> 20, most >> 20);
    eventually(&format!("{}: its connections are closed", load.name), || target.sockets() <= sockets + 4);
    Found { quiet, loaded, held, done, memory }
}

/// What runs the attackers. In truth they have machines of their own, so here they take only what the node and the good client leave them.
fn of_attackers() -> Runtime {
    let lower = || thread_priority::set_current_thread_priority(thread_priority::ThreadPriority::Min).unwrap();
    Builder::new_multi_thread().enable_all().on_thread_start(lower).build().unwrap()
}

/// Ends a process that takes up more memory than it may.
struct Guard(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Guard {
    fn new(pid: u32, most: usize) -> Guard {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let watch = move || {
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
                let pages = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
                let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
                if pages * 4_096 > most {
                    println!("the node takes up more than {} MiB of memory, and is ended", most >> 20);
                    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
                    return;
                }
            }
        };
        Guard(is_over, Some(thread::spawn(watch)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().expect("it is dropped once").join().expect("it does not panic");
    }
}

/// Starts the node again after it was killed while a load went on, and gives how much that was acknowledged is lost.
fn killed(target: &mut Target, good: &Good, load: &'static Load, scale: Scale) -> usize {
    let (over, is_over) = watch::channel(false);
    let attacker = Attacker::new(target.address(), target.tls.clone(), 1, scale, target.export.clone(), is_over);
    let runtime = of_attackers();
    let applied = runtime.spawn(async move { load.apply(&attacker).await });
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| good.measure(Duration::from_secs(60), &stop));
        thread::sleep(Duration::from_millis(700));
        target.node.take().expect("it runs").kill();
        stop.store(true, Ordering::Relaxed);
    });
    over.send(true).unwrap();
    runtime.block_on(applied).unwrap();
    target.open();
    let again = Good::new(target.address(), target.tls.clone());
    *again.acked.lock().unwrap() = good.acked.lock().unwrap().clone();
    again.lost()
}

/// The loads that were asked for: all, or those with a text in their name.
fn wanted() -> impl Iterator<Item = &'static Load> {
    let part = std::env::var("QBC_LOAD").unwrap_or_default();
    LOADS.iter().filter(move |load| load.name.contains(&part))
}

#[test]
fn a_good_client_goes_on_beside_each_hostile_load() {
    let mut targets = [false, true].map(Target::start);
    let goods = [&targets[0], &targets[1]].map(Target::good);
    for load in wanted() {
        let at = usize::from(load.over_tls);
        let since = Instant::now();
        let found = round(&targets[at], &goods[at], load, Scale::Short, Duration::from_millis(300), 1);
        let (injects, memory) = (found.loaded.injects.len(), found.memory >> 20);
        println!("{}: {injects} injects, {memory} MiB, {} done, {:?}", load.name, found.done, since.elapsed());
        assert!(injects > 0, "{}: the good client gets nowhere: {:?}", load.name, found.loaded.failures);
        assert!(found.loaded.failures.is_empty(), "{}: {:?}", load.name, found.loaded.failures);
    }
    for (at, target) in targets.iter_mut().enumerate() {
        assert_eq!(goods[at].lost(), 0, "what was acknowledged is there once");
        let last = wanted().filter(|load| usize::from(load.over_tls) == at).last();
        assert_eq!(last.map_or(0, |load| killed(target, &goods[at], load, Scale::Short)), 0, "also after kill -9");
    }
}

#[test]
#[ignore = "the long run: some minutes, alone on its machine"]
fn all_hostile_loads_beside_a_good_client() {
    rlimit::increase_nofile_limit(u64::MAX).expect("the limit of files can be raised up to the hard one");
    let (rounds, time) = (setting("QBC_ROUNDS", 3), Duration::from_secs(setting("QBC_SECONDS", 4)));
    println!(
        "| load | held | done | p99 quiet, ms: inject, read, connect | under load | ratio | memory, MiB | acked | lost |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut missed = Vec::new();
    for load in wanted() {
        let mut target = Target::start(load.over_tls);
        let good = target.good();
        let mut rows = Vec::new();
        for number in 0..rounds {
            // Once all of it from one address.
            let sources = if number == 0 { 1 } else { 8 };
            rows.push(round(&target, &good, load, Scale::Long, time, sources));
        }
        let acked = good.acked.lock().unwrap().len();
        let lost = good.lost() + killed(&mut target, &good, load, Scale::Long);
        let median = |of: &dyn Fn(&Found) -> f64| {
            let mut all: Vec<f64> = rows.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let each = |of: &dyn Fn(&Found, usize) -> f64| [0, 1, 2].map(|kind| median(&|found| of(found, kind)));
        let quiet = each(&|found, kind| found.quiet.p99()[kind]);
        let loaded = each(&|found, kind| found.loaded.p99()[kind]);
        let ratio = each(&|found, kind| found.loaded.p99()[kind] / found.quiet.p99()[kind].max(FLOOR));
        let (held, done) = rows.iter().fold((0, 0), |(held, done), row| (held.max(row.held), done + row.done));
        let memory = rows.iter().map(|row| row.memory).max().unwrap_or_default() >> 20;
        let shown = |values: [f64; 3], times: f64| values.map(|value| format!("{:.1}", value * times)).join(", ");
        println!(
            "| {} | {held} | {done} | {} | {} | {} | {memory} | {acked} | {lost} |",
            load.name,
            shown(quiet, 1e3),
            shown(loaded, 1e3),
            shown(ratio, 1.0)
        );
        let failures: Vec<&String> = rows.iter().flat_map(|row| &row.loaded.failures).collect();
        if lost > 0 || !failures.is_empty() || ratio.iter().any(|&ratio| ratio >= TIMES) {
            missed.push(format!("{}: ratios {ratio:.1?}, {lost} lost, {:?}", load.name, failures.first()));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
