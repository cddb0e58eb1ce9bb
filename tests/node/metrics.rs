//! What a node tells of itself: metrics, and the lines of its log. What needs Prometheus (the package `prometheus`, with `promtool`) is
//! skipped with a message where that is absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use reqwest::{Method, Url, blocking::Client};
use serde_json::{Value, json};

use crate::{
    cluster::{self, Nodes, SECRET},
    faults::{has_strace, node_with_faults},
    support::{TestNode, eventually, header, problem},
};

/// What a node serves, parsed: each sample by its name and labels, and of each family its type and its help.
struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
    families: BTreeMap<String, (String, String)>,
}

impl Scrape {
    fn of(node: &TestNode) -> Scrape {
        let response = node.get("/metrics").send().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let text = response.text().unwrap();
        assert!(text.ends_with("\n# EOF\n"));
        let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["#", "TYPE", name, kind] => families.entry((*name).into()).or_default().0 = (*kind).into(),
                ["#", "HELP", name, help] => families.entry((*name).into()).or_default().1 = (*help).into(),
                ["#", ..] => {}
                _ => {
                    let (name, value) = line.rsplit_once(' ').unwrap();
                    let is_new = samples.insert(name.to_owned(), value.parse().unwrap()).is_none();
                    assert!(is_new, "{name} stands twice");
                }
            }
        }
        Scrape { text, samples, families }
    }

    /// A sample; 0 where there is none yet.
    fn get(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or(0.0)
    }

    /// The names that a query may have.
    fn names(&self) -> BTreeSet<String> {
        self.samples.keys().map(|sample| sample.split('{').next().unwrap().to_owned()).collect()
    }

    /// Each family as its samples are named, with its type and its help.
    fn rows(&self) -> impl Iterator<Item = (String, String, String)> {
        self.families.iter().map(|(name, (kind, help))| {
            let suffix = match kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (format!("{name}{suffix}"), kind.clone(), help.clone())
        })
    }
}

#[test]
fn a_write_in_a_cluster_is_one_sync_of_each_node() {
    const WRITES: usize = 100;
    let nodes = Nodes::start(3);
    cluster::bang(nodes.node(0), json!({"name": "synced", "difficulty": 0}));
    let leader = nodes.node(nodes.leader("synced"));
    let syncs = || nodes.running().map(|node| Scrape::of(node).get("qbc_log_sync_duration_seconds_count"));
    let before: Vec<f64> = syncs().collect();
    for number in 0..WRITES {
        let body = json!({"data": number});
        // Another one may lead for a moment where the machine is busy.
        cluster::eventually("it is accepted", || cluster::post(leader, "/chains/synced/inject", &body).0 == 202);
    }
    // A few more are of what nodes tell each other.
    let more: Vec<f64> = syncs().zip(before).map(|(after, before)| after - before).collect();
    assert!(more.iter().all(|more| *more < WRITES as f64 * 1.3), "{more:?} syncs for {WRITES} writes");
}

/// Two nodes of one cluster, one of which has all that can have metrics.
fn two_nodes() -> (TestNode, TestNode) {
    let witness = TestNode::start(&["--cosign", &vkey(&TestNode::start(&[]))]);
    let witness = format!("{}@{}", witness.json("/witness")["key"].as_str().unwrap(), witness.url);
    let one = TestNode::start(&["--secret", SECRET, "--metrics-chains", "qbc,orders-*", "--witness", &witness]);
    let other = TestNode::start(&["--secret", SECRET, "--join", &one.host()]);
    eventually("both are up", || Scrape::of(&one).get(r#"qbc_cluster_nodes{state="live"}"#) == 2.0);
    (one, other)
}

fn vkey(node: &TestNode) -> String {
    let key = Command::new(env!("CARGO_BIN_EXE_qbc")).args(["key", "--node", &node.url]).output().unwrap();
    String::from_utf8(key.stdout).unwrap().trim().to_owned()
}

/// Everything that follows from the chains that a node lists.
fn totals(node: &TestNode) -> [u64; 4] {
    let mut totals = [0; 4];
    for chain in node.pages("/chains").iter().flat_map(|page| page.as_array().unwrap()) {
        for (total, name) in totals.iter_mut().zip(["size", "length", "pooled", "bytes"]) {
            *total += chain["stats"][name].as_u64().unwrap();
        }
    }
    totals
}

fn assert_totals(node: &TestNode) {
    let scrape = Scrape::of(node);
    let names = ["qbc_stored_transactions", "qbc_stored_quants", "qbc_pool_transactions", "qbc_stored_bytes"];
    assert_eq!(names.map(|name| scrape.get(name) as u64), totals(node));
    assert_eq!(scrape.get("qbc_chains") as u64, node.json("/")["chains"].as_u64().unwrap());
}

#[test]
fn what_is_done_is_counted() {
    let node = TestNode::start(&[]);
    let before = Scrape::of(&node);
    node.inject("", json!(1));
    let two = json!([{"data": 2}, {"data": 3}]);
    assert_eq!(node.post("/inject").json(&two).send().unwrap().status(), 202);
    node.leap("");
    node.bang(json!({"name": "orders", "difficulty": 0}));
    node.inject("/chains/orders", json!("pooled"));
    assert_eq!(node.post("/chains/orders/fork").json(&json!({"name": "fork"})).send().unwrap().status(), 201);
    let erased = node.post("/transactions/1/erase").json(&json!({"reason": "a test"})).send().unwrap();
    assert_eq!(erased.status(), 201);
    assert_eq!(node.get("/chains/nothing/stats").send().unwrap().status(), 404);
    assert_eq!(node.get("/no/such/route").send().unwrap().status(), 404);
    assert_eq!(node.request(Method::from_bytes(b"BREW").unwrap(), "/stats").send().unwrap().status(), 405);
    assert_eq!(node.request(Method::HEAD, "/transactions/1").send().unwrap().status(), 200);
    let after = Scrape::of(&node);
    let requests = |route: &str, method: &str, status: u16| {
        after.get(&format!(r#"qbc_http_requests_total{{route="{route}",method="{method}",status="{status}"}}"#)) as u64
    };
    assert_eq!(requests("/inject", "POST", 202), 2);
    assert_eq!(requests("/leap", "POST", 201), 1);
    assert_eq!(requests("/chains/{chain}/inject", "POST", 202), 1);
    assert_eq!(requests("/chains/{chain}/stats", "GET", 404), 1);
    assert_eq!(requests("other", "GET", 404), 1);
    assert_eq!(requests("/stats", "other", 405), 1);
    assert_eq!(requests("/transactions/{index}", "HEAD", 200), 1);
    assert_eq!(requests("/metrics", "GET", 200), 1, "the one before");
    let times = after.get(r#"qbc_http_request_duration_seconds_count{route="/inject",method="POST"}"#);
    assert_eq!(times as u64, 2);
    assert_eq!(after.get("qbc_http_requests_in_flight") as u64, 1, "this one");
    let grown = |name: &str| (after.get(name) - before.get(name)) as u64;
    // Four injected, the record of an erasure, and the first of two chains.
    assert_eq!(grown("qbc_transactions_total"), 7);
    assert_eq!(grown("qbc_commit_transactions_sum"), 7);
    // A leap, and the first of two chains.
    assert_eq!(grown("qbc_quants_total"), 3);
    assert_eq!(grown("qbc_erasures_total"), 1);
    assert_eq!(grown("qbc_commit_duration_seconds_count"), 7, "each change for itself");
    assert!(grown("qbc_log_sync_duration_seconds_count") >= 7 && grown("qbc_log_batch_size_bytes_sum") > 0);
    assert!(after.get("qbc_process_resident_memory_bytes") > 1e6 && after.get("qbc_process_open_fds") > 3.0);
    assert_eq!((after.get("qbc_ready"), after.get("qbc_clock_plausible")), (1.0, 1.0));
    assert!(!after.text.contains("orders"), "no name of a chain is told unasked");
    assert_totals(&node);
    // A start counts what is there.
    let (data, folder) = node.kill();
    let node = TestNode::open(&data, &[]).with(folder);
    assert_totals(&node);
}

/// The first scrape that a newer Prometheus makes, an older one, vmagent, a browser and curl.
#[test]
fn who_asks_for_the_older_format_gets_it() {
    let node = TestNode::start(&[]);
    let open = "application/openmetrics-text";
    for (accept, expected) in [
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            open,
        ),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", "text/plain"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/plain"),
        ("*/*", open),
    ] {
        let response = node.get("/metrics").header("accept", accept).send().unwrap();
        let media = header(&response, "content-type");
        assert!(media.starts_with(expected), "{accept}: {media}");
        assert_eq!(response.text().unwrap().contains("# EOF"), expected == open);
    }
}

#[test]
fn chains_are_told_where_that_is_asked_for_and_no_more_than_the_limit() {
    let node = TestNode::start(&["--metrics-chains", "orders-*,qbc"]);
    for name in ["orders-1", "orders-2", "other"] {
        node.bang(json!({"name": name, "difficulty": 0}));
    }
    node.inject("/chains/orders-2", json!(1));
    let scrape = Scrape::of(&node);
    let told: Vec<&str> =
        scrape.samples.keys().filter_map(|name| name.strip_prefix("qbc_chain_transactions")).collect();
    assert_eq!(told, [r#"{chain="orders-1"}"#, r#"{chain="orders-2"}"#, r#"{chain="qbc"}"#]);
    assert_eq!(scrape.get(r#"qbc_chain_transactions{chain="orders-2"}"#), 2.0);
    assert_eq!(scrape.get(r#"qbc_chain_pool_transactions{chain="orders-2"}"#), 1.0);
    assert_eq!((scrape.get("qbc_metrics_chains_left_out"), scrape.get("qbc_metrics_chains_limit")), (0.0, 1_000.0));
    // Without a pattern it is all of them.
    let all = TestNode::start(&["--metrics-chains"]);
    assert_eq!(Scrape::of(&all).get(r#"qbc_chain_quants{chain="qbc"}"#), 1.0);
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    let words = text.split(|letter| !is_part(letter));
    words.filter(|word| word.starts_with("qbc_") && word.len() > 4).map(str::to_owned).collect()
}

#[test]
fn the_dashboard_the_alerts_and_the_guide_name_what_a_node_serves() {
    let (one, other) = two_nodes();
    eventually("the witness was asked", || Scrape::of(&one).text.contains("qbc_witness_calls_total"));
    let (one, other) = (Scrape::of(&one), Scrape::of(&other));
    let known: BTreeSet<String> = one.names().union(&other.names()).cloned().collect();
    for file in ["examples/grafana-dashboard.json", "examples/prometheus-alerts.yml"] {
        let text = fs::read_to_string(repository().join(file)).unwrap();
        let named = named(&text);
        assert!(named.len() > 20);
        let unknown: Vec<&String> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which no node serves");
    }
    let dashboard = fs::read(repository().join("examples/grafana-dashboard.json")).unwrap();
    serde_json::from_slice::<Value>(&dashboard).expect("the dashboard is JSON");
    let guide = fs::read_to_string(repository().join("src/guide/metrics.md")).unwrap();
    let told: BTreeSet<&str> = guide.lines().filter(|line| line.starts_with("| `qbc_")).collect();
    let rows = |scrape: &Scrape| -> Vec<String> {
        scrape
            .rows()
            .map(|(name, kind, help)| format!("| `{name}` | {kind} | {} |", help.trim_end_matches('.')))
            .collect()
    };
    let served: BTreeSet<String> = rows(&one).into_iter().chain(rows(&other)).collect();
    let missing: Vec<&String> = served.iter().filter(|row| !told.contains(row.as_str())).collect();
    assert!(
        missing.is_empty(),
        "the guide lacks:\n{}",
        missing.iter().map(|row| format!("{row}\n")).collect::<String>()
    );
    let gone: Vec<&&str> = told.iter().filter(|row| !served.contains(**row)).collect();
    assert!(gone.is_empty(), "the guide tells of what no node serves: {gone:#?}");
    assert!(
        named(&guide)
            .iter()
            .all(|name| known.contains(name) || served.iter().any(|row| row.contains(&format!("`{name}`"))))
    );
}

/// Whether a program is there.
fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        println!("skipped: there is no {program}");
    }
    is_there
}

#[test]
fn promtool_finds_nothing() {
    if !has("promtool") {
        return;
    }
    let (one, _other) = two_nodes();
    let plain = one.get("/metrics").header("accept", "text/plain").send().unwrap().text().unwrap();
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(plain.as_bytes()).unwrap();
    let said = check.wait_with_output().unwrap();
    let said =
        (said.status.success(), String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    assert_eq!(said, (true, String::new(), String::new()));
    let rules = repository().join("examples/prometheus-alerts.yml");
    let check = Command::new("promtool").args(["check", "rules"]).arg(rules).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&check.stdout), String::from_utf8_lossy(&check.stderr));
    assert!(check.status.success() && said.contains("SUCCESS"), "{said}");
}

/// A Prometheus that scrapes nodes each second, and looks at the rules of the repository.
struct Prometheus {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(nodes: &[&TestNode]) -> Prometheus {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let targets: Vec<&str> = nodes.iter().map(|node| node.url.trim_start_matches("http://")).collect();
        let rules = repository().join("examples/prometheus-alerts.yml");
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "qbc", "static_configs": [{ "targets": targets }]}],
        });
        let file: PathBuf = folder.path().join("prometheus.yml");
        fs::write(&file, config.to_string()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Prometheus { process, url: format!("http://127.0.0.1:{port}"), _folder: folder }
    }

    /// What it answers, once it does.
    fn api(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let client = Client::builder().no_proxy().build().unwrap();
        let url = Url::parse_with_params(&format!("{}/api/v1/{path}", self.url), query).unwrap();
        let answer = client.get(url).send().ok()?;
        Some(answer.json::<Value>().ok()?["data"].clone())
    }

    /// The first value of a query.
    fn query(&self, query: &str) -> Option<f64> {
        self.api("query", &[("query", query)])?["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_a_node_and_evaluates_the_rules() {
    if !has("prometheus") {
        return;
    }
    let node = TestNode::start(&[]);
    let prometheus = Prometheus::start(&[&node]);
    eventually("it scrapes the node", || prometheus.query(r#"up{job="qbc"}"#) == Some(1.0));
    for number in 0..10 {
        node.inject("", json!(number));
    }
    eventually("it has what was counted", || {
        prometheus.query(r#"qbc_http_requests_total{route="/inject",method="POST",status="202"}"#) == Some(10.0)
    });
    assert_eq!(prometheus.query("qbc_stored_transactions"), Some(11.0));
    let targets = prometheus.api("targets", &[]).unwrap();
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets}");
    // It has taken what was said of the names, which shows that it has read OpenMetrics.
    let told = prometheus.api("metadata", &[("metric", "qbc_process_resident_memory_bytes")]).unwrap();
    assert_eq!(told["qbc_process_resident_memory_bytes"][0]["unit"], "bytes", "{told}");
    eventually("the rules are evaluated", || {
        let rules = prometheus.api("rules", &[]).unwrap();
        let rules: Vec<&Value> =
            rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
        rules.len() > 20 && rules.iter().all(|rule| rule["health"] == "ok")
    });
    let alerts = || -> Vec<Value> {
        let alerts = prometheus.api("alerts", &[]).unwrap();
        alerts["alerts"].as_array().unwrap().clone()
    };
    let firing: Vec<Value> = alerts().into_iter().filter(|alert| alert["state"] == "firing").collect();
    assert!(firing.is_empty(), "a node that is well alarms nobody: {firing:#?}");
    // One that is gone does.
    drop(node);
    eventually("it is missed", || alerts().iter().any(|alert| alert["labels"]["alertname"] == "QbcScrapeGone"));
}

fn lines(log: &Path) -> Vec<Value> {
    let log = fs::read_to_string(log).unwrap();
    log.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

#[test]
fn both_nodes_that_a_request_passes_log_its_id_and_its_trace() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    let logs = [&first, &second].map(|data| data.with_extension("log"));
    let options = ["--secret", SECRET, "--log", "debug", "--log-json"];
    let one = TestNode::open_logging(&first, &options, &logs[0]);
    one.bang(json!({"name": "of-one", "difficulty": 0}));
    let join = ["--join", &one.host()];
    let other = TestNode::open_logging(&second, &[&options[..], &join].concat(), &logs[1]);
    eventually("the chain is known", || other.get("/chains/of-one/stats").send().unwrap().status() == 200);
    let ask = |path: &str, id: &str, parent: &str| {
        let asked = other.post(path).header("x-request-id", id).header("traceparent", parent).json(&json!({"data": 1}));
        let answer = asked.send().unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "x-request-id")), (202, id.to_owned()));
    };
    ask("/chains/of-one/inject", "traced", &parent);
    ask("/chains/of-one/inject", "not-traced", &parent.to_uppercase());
    let made = other.post("/chains/of-one/inject").json(&json!({"data": 1})).send().unwrap();
    let made = header(&made, "x-request-id");
    for (mut node, log) in [(one, &logs[0]), (other, &logs[1])] {
        assert_eq!(node.stop(), Some(0));
        let lines = lines(log);
        let line = |id: &str| {
            let line = lines.iter().find(|line| line["fields"]["request_id"] == id);
            line.unwrap_or_else(|| panic!("{} has no line of {id}", log.display()))["fields"].clone()
        };
        let traced = line("traced");
        assert_eq!((&traced["route"], &traced["method"]), (&json!("/chains/{chain}/inject"), &json!("POST")));
        assert_eq!((&traced["status"], &traced["trace_id"]), (&json!(202), &json!(TRACE)));
        assert!(traced["took"].is_string());
        assert_eq!(line("not-traced").get("trace_id"), None);
        assert_eq!(line(&made)["status"], 202, "an id that a node has made goes on, too");
    }
}

#[test]
fn a_request_that_fails_is_logged_with_its_route() {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let node = TestNode::open(&data, &[]);
    node.bang(json!({"name": "bad", "difficulty": 0}));
    node.kill();
    crate::scrub::damage(&data, 1);
    let mut node = TestNode::open_logging(&data, &["--log", "warn", "--log-json"], &log);
    problem(node.get("/chains/bad/stats").header("x-request-id", "it-failed").send().unwrap(), 503);
    let scrape = Scrape::of(&node);
    assert_eq!((scrape.get("qbc_chains_damaged"), scrape.get("qbc_ready")), (1.0, 0.0));
    assert_eq!(node.stop(), Some(0));
    let lines = lines(&log);
    let line = lines.iter().find(|line| line["fields"]["request_id"] == "it-failed").expect("it is there");
    assert_eq!((&line["level"], &line["fields"]["route"]), (&json!("WARN"), &json!("/chains/{chain}/stats")));
    assert_eq!((&line["fields"]["method"], &line["fields"]["status"]), (&json!("GET"), &json!(503)));
}

/// Symptom: the log of a node that led a group failed, and it called itself ready to take writes, and fit to lead others. Cause: only what the
/// writer wrote by itself was looked at. Cure: it looks at the log where something is not agreed.
#[test]
fn a_leader_whose_log_has_failed_takes_no_more_writes() {
    let mut nodes = Nodes::start(2);
    if !has_strace() {
        return;
    }
    let log = nodes.data(2).join("log/00000000.log").display().to_string();
    let strace =
        ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", &log, "-e", "inject=fdatasync:error=EIO:when=200+"];
    let third = nodes.add_by(&strace, &["--log", "off"]);
    nodes.settle();
    let mut names = (0..).map(|number| format!("led-{number}"));
    let chain = names.find(|name| {
        cluster::bang(nodes.node(0), json!({"name": name, "difficulty": 0}));
        nodes.leader(name) == third
    });
    let path = format!("/chains/{}/inject", chain.expect("one of them is led there"));
    let node = nodes.node(third);
    cluster::eventually("its log fails", || {
        let _ = node.post(&path).json(&json!({"data": "x"})).send();
        node.get("/readyz").send().unwrap().status() == 503
    });
    cluster::eventually("it says why", || {
        let detail = problem(node.get("/readyz").send().unwrap(), 503)["detail"].to_string();
        detail.contains("a write to the log failed: no more writes are taken until the node is started again")
    });
    // The others go on.
    let body = json!({"data": "on", "id": "on"});
    cluster::eventually("it is accepted", || cluster::post(nodes.node(0), &path, &body).0 == 202);
}

/// Symptom: the disk of a node of a cluster failed, its groups ended, and it said that it was ready. Cause: nobody looked at the
/// engines. Cure: `/readyz` names the group, and a metric counts it.
#[test]
fn a_node_whose_group_has_ended_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("second");
    let one = TestNode::start(&["--secret", SECRET]);
    let mut other = TestNode::open(&data, &["--secret", SECRET, "--join", &one.host()]);
    assert_eq!(other.stop(), Some(0));
    let Some(other) = node_with_faults(&data, &["log/00000000.log"], &["fdatasync:error=EIO:when=20+"]) else { return };
    let mut number = 0;
    eventually("it says so", || {
        number += 1;
        // What becomes of it does not matter: both nodes have to agree on the name.
        let _ = one.post("/bang").json(&json!({"name": format!("chain-{number}"), "difficulty": 0})).send();
        other.get("/readyz").send().unwrap().status() == 503
    });
    let detail = problem(other.get("/readyz").send().unwrap(), 503)["detail"].to_string();
    assert!(detail.contains("the group 0000000000000000 runs no more on this node"), "{detail}");
    let scrape = Scrape::of(&other);
    assert_eq!(scrape.get("qbc_ready"), 0.0);
    assert!(scrape.get("qbc_cluster_groups_ended") >= 1.0);
    assert_eq!(Scrape::of(&one).get("qbc_cluster_groups_ended"), 0.0);
}
