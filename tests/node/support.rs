//! A node as a test needs it: the real program on a free port, killed by its id when the test ends, and an audit that
//! recomputes all that is public.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use qbc::core::{
    hash::Hash,
    json, merkle,
    transaction::Record,
    verify::{self, Verifier},
};
use reqwest::{
    Method,
    blocking::{Client, RequestBuilder, Response},
};
use serde_json::{Map, Value, json};

/// A running node.
pub struct TestNode {
    process: Child,
    /// Such as `http://127.0.0.1:40001`; `https://…` of a node with TLS, whose client trusts what the node's `--ca` names.
    pub url: String,
    /// Its data folder.
    pub data: PathBuf,
    client: Client,
    /// Gives the answers of the node that its OpenAPI document does not list, when it has ended.
    unlisted: Option<JoinHandle<Vec<String>>>,
    _folder: Option<tempfile::TempDir>,
}

impl TestNode {
    /// On a new data folder of its own.
    pub fn start(options: &[&str]) -> TestNode {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut node = TestNode::open(&folder.path().join("data"), options);
        node._folder = Some(folder);
        node
    }

    /// On this data folder.
    pub fn open(data: &Path, options: &[&str]) -> TestNode {
        TestNode::spawn(&[], data, options, Stdio::piped())
    }

    /// On this data folder, started by another program, which becomes the node.
    pub fn under(program: &[&str], data: &Path, options: &[&str]) -> TestNode {
        TestNode::spawn(program, data, options, Stdio::inherit())
    }

    /// On this data folder, with its log in a file.
    pub fn open_logging(data: &Path, options: &[&str], log: &Path) -> TestNode {
        TestNode::spawn(&[], data, options, File::create(log).expect("it can be made").into())
    }

    fn spawn(program: &[&str], data: &Path, options: &[&str], log: Stdio) -> TestNode {
        TestNode::attempt(program, data, options, log)
            .unwrap_or_else(|status| panic!("the node does not start: {status}"))
    }

    /// The same where it may fail: then how it ended, before it took requests.
    pub fn attempt(program: &[&str], data: &Path, options: &[&str], log: Stdio) -> Result<TestNode, ExitStatus> {
        let words = [program, &[env!("CARGO_BIN_EXE_qbc")]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        // By the environment, so that options can say otherwise.
        command.env("QBC_PORT", "0").env("QBC_LOG", "warn");
        command.args(["serve", "--data"]).arg(data).args(options);
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the program starts");
        let unlisted = process.stderr.take().map(|log| thread::spawn(|| pass_on(log)));
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line).expect("it is text");
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            return Err(process.wait().expect("it ends"));
        };
        let client = trusting(options.windows(2).find(|option| option[0] == "--ca").map(|option| option[1]));
        Ok(TestNode { url: url.into(), process, data: data.into(), client, unlisted, _folder: None })
    }

    /// The same node, that keeps the folder which [`TestNode::kill`] gave.
    pub fn with(mut self, folder: Option<tempfile::TempDir>) -> TestNode {
        self._folder = folder;
        self
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// `localhost:PORT`, or `https://localhost:PORT`.
    pub fn host(&self) -> String {
        self.url.trim_start_matches("http://").replace("127.0.0.1", "localhost")
    }

    /// Ends it at once (kill -9), and gives the folder to open again.
    pub fn kill(mut self) -> (PathBuf, Option<tempfile::TempDir>) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
        (self.data.clone(), self._folder.take())
    }

    /// Asks it to end in order (SIGTERM).
    pub fn terminate(&self) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        self.url.rsplit_once('/').expect("it is a URL").1
    }

    /// Whether it takes connections.
    pub fn is_listening(&self) -> bool {
        TcpStream::connect(self.address()).is_ok()
    }

    /// Ends it in order (SIGTERM), and gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.terminate();
        self.wait()
    }

    /// Waits until it has ended, and gives its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.process.wait().expect("it ends").code()
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    pub fn patch(&self, path: &str) -> RequestBuilder {
        self.client.patch(format!("{}{path}", self.url))
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// POST of a body as it stands, with this content type.
    pub fn post_text(&self, path: &str, media: &str, body: impl Into<Vec<u8>>) -> Response {
        self.post(path).header("content-type", media).body(body.into()).send().expect("it answers")
    }

    /// A POST of a body as it stands, with this content type, to be sent.
    pub fn post_body(&self, path: &str, media: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        self.post(path).header("content-type", media).body(body.into())
    }

    /// A connection that speaks no HTTP by itself.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time above zero");
        stream
    }

    /// Sends a request head as it stands, so that no client tidies its path, and gives all that comes back.
    pub fn raw(&self, method: &str, path: &[u8]) -> String {
        let mut stream = self.connect();
        let head =
            [method.as_bytes(), b" ", path, b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"].concat();
        stream.write_all(&head).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers and closes");
        String::from_utf8(answer).expect("it is text")
    }

    /// The index that the next transaction of a chain will get.
    pub fn size(&self, chain: &str) -> u64 {
        self.json(&format!("{chain}/stats"))["size"].as_u64().expect("it is a number")
    }

    /// A page and all that its `Link` headers lead to.
    pub fn pages(&self, path: &str) -> Vec<Value> {
        let mut pages = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let response = self.get(&path).send().expect("it answers");
            let status = response.status();
            assert!(status == 200, "GET {path}: {status} {}", response.text().unwrap_or_default());
            next = response.headers().get("link").map(|link| {
                let link = link.to_str().expect("it is ASCII");
                link.strip_prefix('<')
                    .and_then(|link| link.strip_suffix(">; rel=\"next\""))
                    .expect("it is a link")
                    .to_owned()
            });
            pages.push(response.json().expect("it is JSON"));
        }
        pages
    }

    /// The JSON of a successful GET.
    pub fn json(&self, path: &str) -> Value {
        let response = self.get(path).send().expect("it answers");
        assert!(
            response.status().is_success(),
            "GET {path}: {} {}",
            response.status(),
            response.text().unwrap_or_default()
        );
        response.json().expect("it is JSON")
    }

    /// Injects one value into a chain's pool (`""` is the default chain, else `/chains/NAME`), and gives its index.
    pub fn inject(&self, chain: &str, data: Value) -> u64 {
        let response = self.post(&format!("{chain}/inject")).json(&json!({ "data": data })).send().expect("it answers");
        assert_eq!(response.status(), 202);
        response.json::<Value>().expect("it is JSON")["index"].as_u64().expect("it is a number")
    }

    pub fn leap(&self, chain: &str) -> Value {
        let response = self.post(&format!("{chain}/leap")).send().expect("it answers");
        assert_eq!(response.status(), 201);
        response.json().expect("it is JSON")
    }

    pub fn bang(&self, body: Value) -> Value {
        let response = self.post("/bang").json(&body).send().expect("it answers");
        assert_eq!(response.status(), 201, "{}", response.text().unwrap_or_default());
        response.json().expect("it is JSON")
    }

    /// Recomputes everything that the node shows of a chain: quants, transactions, pool, figures, every receipt of up to 50
    /// transactions, and consistency from every quant to the newest.
    pub fn audit(&self, chain: &str) {
        let quants = self.json(&format!("{chain}/chain"));
        let (verifier, roots) = recompute(&quants);
        let newest = verifier.newest().expect("a chain has a quant").clone();
        let pool = self.json(&format!("{chain}/pool?limit=10000"));
        let stats = self.json(&format!("{chain}/stats"));
        assert_eq!(stats["id"], verifier.id().unwrap().to_string());
        assert_eq!(stats["hash"], newest.hash().to_string());
        assert_eq!(stats["root"], newest.header().root.to_string());
        assert_eq!(stats["length"], quants.as_array().unwrap().len());
        assert_eq!(stats["size"], newest.size().get() + pool["count"].as_u64().unwrap());
        assert_eq!(stats["pooled"], pool["count"]);
        let bytes = self.bytes_of_transactions(chain);
        // What an erasure took away counts on, and what it left is not the same.
        let is_erased = |transaction: &Value| transaction.get("erased").is_some();
        let erased = verifier.erased() > 0 || pool["transactions"].as_array().expect("an array").iter().any(is_erased);
        assert!(erased || stats["bytes"] == bytes, "{} and {bytes}", stats["bytes"]);

        let size = newest.size().get();
        for index in (0..size).step_by((size as usize / 50).max(1)) {
            let receipt = self.json(&format!("{chain}/transactions/{index}/receipt"));
            let receipt = verify::receipt(json::parse(receipt.to_string().as_bytes()).unwrap()).unwrap();
            assert_eq!(receipt.record.index.get(), index);
            assert_eq!(receipt.chain, verifier.id().unwrap());
        }
        for (size, root) in roots {
            let proof = self.json(&format!("{chain}/consistency?from={size}&to={}", newest.size()));
            let path: Vec<_> = serde_json::from_value(proof["path"].clone()).unwrap();
            merkle::check_consistency(size, newest.size().get(), &path, root, newest.header().root).unwrap();
        }
    }

    fn bytes_of_transactions(&self, chain: &str) -> u64 {
        let (mut bytes, mut from) = (0, 0);
        loop {
            let page = self.get(&format!("{chain}/transactions?from={from}&limit=10000")).send().expect("it answers");
            let text = page.text().expect("it is text");
            let text = text.trim_end();
            let count = serde_json::from_str::<Vec<Value>>(text).expect("it is an array").len() as u64;
            if count == 0 {
                return bytes;
            }
            // Without the brackets and the commas between.
            bytes += text.len() as u64 - 2 - (count - 1);
            from += count;
        }
    }
}

/// Recomputes a chain as `GET /chain` serves it, and gives each quant's size and root as well.
pub fn recompute(quants: &Value) -> (Verifier, Vec<(u64, Hash)>) {
    let mut verifier = Verifier::new();
    let mut roots = Vec::new();
    for quant in quants.as_array().expect("a chain is an array") {
        let mut quant: Map<String, Value> = quant.as_object().expect("a quant is an object").clone();
        for record in quant.remove("transactions").expect("they come with it").as_array().expect("an array") {
            verifier.transaction(&Record::parse(record.to_string().as_bytes()).unwrap()).unwrap();
        }
        let quant = verify::quant(Value::Object(quant)).unwrap();
        roots.push((quant.size().get(), quant.header().root));
        verifier.quant(quant).unwrap();
    }
    (verifier, roots)
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let unlisted = self.unlisted.take().map(|log| log.join().expect("reading a log does not panic"));
        assert!(thread::panicking() || unlisted.is_none_or(|lines| lines.is_empty()), "see the node's log above");
    }
}

/// Passes a node's log on, and gives what a debug build says of its OpenAPI document: that it does not list an answer.
fn pass_on(log: ChildStderr) -> Vec<String> {
    let lines = BufReader::new(log).lines().map_while(Result::ok);
    lines.inspect(|line| eprintln!("{line}")).filter(|line| line.contains("OpenAPI document")).collect()
}

/// A client that trusts the certificates in a file, if one is named.
pub fn trusting(file: Option<&str>) -> Client {
    let pem = file.map(|file| std::fs::read(file).expect("it can be read"));
    let read = |pem: Vec<u8>| reqwest::Certificate::from_pem_bundle(&pem).expect("it is PEM");
    let builder = Client::builder().timeout(Duration::from_secs(60)).no_proxy();
    builder.tls_certs_merge(pem.map(read).unwrap_or_default()).build().expect("a client")
}

/// All files below a folder that hold a text, one a line.
pub fn files_with(folder: &Path, text: &str) -> String {
    let mut grep = Command::new("grep");
    grep.env("LC_ALL", "C").args(["-rlaF", "-e", text]).arg(folder);
    let output = grep.output().expect("grep runs");
    // A segment that is prepared meanwhile gets another name.
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.lines().all(|line| line.ends_with("No such file or directory")), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asserts that `qbc verify` finds no fault in a folder.
pub fn verifies(data: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_qbc")).arg("verify").arg(data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Asserts that a response is a problem document with this status, and gives it.
pub fn problem(response: Response, status: u16) -> Value {
    let (got, kind) = (response.status(), response.headers().get("content-type").cloned());
    let text = response.text().expect("it is text");
    assert_eq!(got, status, "{text}");
    assert_eq!(kind.expect("it has a type"), "application/problem+json", "{text}");
    let problem: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(problem["status"], status);
    assert!(
        problem["title"].is_string() && problem["type"].is_string() && !problem["detail"].as_str().unwrap().is_empty()
    );
    problem
}

/// A header of a response, empty where it has none.
pub fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map(|value| value.to_str().expect("it is ASCII").to_owned()).unwrap_or_default()
}

/// Tries until it holds, or panics after a generous time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Random numbers that a seed repeats (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// A number from 0 up to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
