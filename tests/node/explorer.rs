//! The explorer: how it is served, and what it does in a real Chromium. Each test of the page is skipped where there is no `chromedriver`.
//! The pictures that it takes are in `target/tmp/explorer`.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use crate::{
    cluster::Nodes,
    examples::key,
    support::{TestNode, header, problem},
    tls::Authority,
    witness::{log_with_key, named, node_key},
};

/// Keys, as WebDriver names them (section 17.4.2).
const ENTER: char = '\u{e007}';
const TAB: char = '\u{e004}';

/// The one browser at a time: it takes as much of a machine as all else.
static ONE: Mutex<()> = Mutex::new(());

/// A browser, driven by `chromedriver`, which ends with it. The protocol (W3C WebDriver) is JSON over HTTP, and these tests need six of
/// its commands: a crate for it would have all of the program's dependencies built anew, for the features that it asks of them.
struct Browser {
    driver: Child,
    /// The URL of the session at the driver.
    session: String,
    http: reqwest::blocking::Client,
    _one: MutexGuard<'static, ()>,
}

impl Browser {
    /// None, and a message, where there is none.
    fn start() -> Option<Browser> {
        let one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = driver else {
            println!("skipped: there is no chromedriver (Debian: chromium-driver)");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("started successfully on port")).expect("it says where it listens");
        thread::spawn(move || lines.for_each(drop));
        let port = line.trim_end_matches('.').rsplit(' ').next().unwrap();
        let http = reqwest::blocking::Client::builder().timeout(Duration::from_secs(120)).no_proxy().build().unwrap();
        let session = format!("http://127.0.0.1:{port}/session");
        let mut browser = Browser { driver, session, http, _one: one };
        // A sandbox of its own needs rights that containers do not give, and their /dev/shm is small.
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"];
        let capabilities = json!({
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let session = browser.command("", json!({"capabilities": {"alwaysMatch": capabilities}}));
        browser.session += &format!("/{}", session["sessionId"].as_str().expect("it has an id"));
        Some(browser)
    }

    /// A command of the protocol, and what it gives.
    #[track_caller]
    fn command(&self, name: &str, parameters: Value) -> Value {
        let answer = self.http.post(format!("{}{name}", self.session)).json(&parameters).send().expect("it answers");
        let (status, mut body) = (answer.status(), answer.json::<Value>().expect("it is JSON"));
        assert!(status.is_success(), "{name} {parameters}: {body}");
        body["value"].take()
    }

    /// A command of Chromium's own protocol.
    fn set(&self, name: &str, parameters: Value) {
        self.command("/goog/cdp/execute", json!({"cmd": name, "params": parameters}));
    }

    fn go(&self, url: &str) {
        self.command("/url", json!({"url": url}));
    }

    /// Types into an element, as by keyboard.
    fn keys(&self, selector: &str, text: &str) {
        let found = self.command("/element", json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|one| one.values().next()?.as_str()).expect("it has an id").to_owned();
        self.command(&format!("/element/{id}/value"), json!({"text": text}));
    }

    fn show(&self, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.set("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.set("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Opens a place of the explorer of a node, and waits until its heading is this.
    fn open(&self, node: &str, place: &str, heading: &str) {
        self.go("about:blank");
        self.go(&format!("{node}/{place}"));
        self.shows("main h1", heading);
    }

    /// What a script returns.
    #[track_caller]
    fn js(&self, script: &str) -> Value {
        self.command("/execute/sync", json!({"script": script, "args": []}))
    }

    /// The text of an element, empty where there is none.
    fn text(&self, selector: &str) -> String {
        let text = self.js(&format!("return document.querySelector({})?.textContent ?? ''", json!(selector)));
        text.as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn until(&self, what: &str, script: &str) {
        let start = Instant::now();
        while self.js(script) != json!(true) {
            let page = self.text("body");
            assert!(start.elapsed() < Duration::from_secs(60), "in vain: {what}\n{script}\n{page}\n{:?}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until an element has a text.
    #[track_caller]
    fn shows(&self, selector: &str, text: &str) {
        let script = format!(
            "return [...document.querySelectorAll({})].some((one) => one.textContent.includes({}))",
            json!(selector),
            json!(text)
        );
        self.until(&format!("{selector} shows {text:?}"), &script);
    }

    /// Writes into the field of this label, in the form of this heading, as a person does.
    fn write(&self, form: &str, label: &str, text: &str) {
        let script = format!(
            "const form = [...document.querySelectorAll('form')].find((form) => form.querySelector('h2')?.textContent === {});\
             const label = [...form.querySelectorAll('label')].find((label) => label.firstChild.textContent === {});\
             const field = document.getElementById(label.htmlFor);\
             if (field.type === 'checkbox') field.click(); else field.value = {};",
            json!(form),
            json!(label),
            json!(text)
        );
        self.js(&script);
    }

    /// Sends the form of this heading.
    fn send(&self, form: &str) {
        let script = format!(
            "[...document.querySelectorAll('form')].find((form) => form.querySelector('h2')?.textContent === {})\
             .querySelector('button.primary, button.danger').click()",
            json!(form)
        );
        self.js(&script);
    }

    /// What stands at the field of this label: its fault.
    #[track_caller]
    fn faults(&self, label: &str, fault: &str) {
        let script = format!(
            "return [...document.querySelectorAll('.field')].some((field) =>\
               field.querySelector('label').firstChild.textContent === {} && field.querySelector('.fault').textContent.includes({})\
               && field.querySelector('[aria-invalid=true]') !== null)",
            json!(label),
            json!(fault)
        );
        self.until(&format!("{label} has the fault {fault:?}"), &script);
    }

    fn press(&self, selector: &str) {
        self.js(&format!("document.querySelector({}).click()", json!(selector)));
    }

    /// The errors that the console has had since the last call; not that an answer of the node was one.
    fn log(&self) -> Vec<String> {
        let lines = self.command("/se/log", json!({"type": "browser"}));
        let errors = lines.as_array().unwrap().iter().filter(|line| line["level"] == "SEVERE");
        let texts = errors.map(|line| line["message"].as_str().unwrap().to_owned());
        texts.filter(|text| !text.contains("Failed to load resource")).collect()
    }

    /// Keeps a picture for those who look.
    fn picture(&self, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("explorer");
        fs::create_dir_all(&folder).unwrap();
        let picture = self.http.get(format!("{}/screenshot", self.session)).send().unwrap().json::<Value>().unwrap();
        let picture = BASE64.decode(picture["value"].as_str().expect("it is base64")).unwrap();
        fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session; without one the driver has none.
        let _ = self.http.delete(&self.session).send();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// A proxy in front of a node that serves it below `/ledger/`, and that asks for a token where one is given, but not for the page.
fn proxy(node: &TestNode, token: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}/ledger", listener.local_addr().unwrap().port());
    let node = node.url.trim_start_matches("http://").to_owned();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let node = node.clone();
            thread::spawn(move || pass_on(client, &node, token));
        }
    });
    url
}

/// One request and its answer; none is an error of the test, since a browser closes what it does not need.
fn pass_on(mut client: TcpStream, node: &str, token: Option<&str>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let small = head.to_ascii_lowercase();
    let is_page = small.starts_with("get /ledger/ http") && small.contains("accept: text/html")
        || head.starts_with("GET /ledger/explorer/");
    let refused = token.filter(|token| !is_page && !head.contains(&format!("Bearer {token}\r\n")));
    if !head.contains(" /ledger/") || refused.is_some() {
        let body = r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"send a token"}"#;
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Type: application/problem+json\r\nConnection: close";
        return client.write_all(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok();
    }
    let length = small.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let head = head.replacen(" /ledger/", " /", 1).replace("Connection: keep-alive", "Connection: close");
    let mut upstream = TcpStream::connect(node).ok()?;
    upstream.write_all(head.as_bytes()).and_then(|()| upstream.write_all(&body)).ok()?;
    let mut piece = [0; 4096];
    loop {
        let read = upstream.read(&mut piece).ok().filter(|&read| read > 0);
        let Some(read) = read else { return client.shutdown(Shutdown::Both).ok() };
        client.write_all(&piece[..read]).ok()?;
    }
}

const FIREFOX: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

#[test]
fn browsers_get_the_page_and_everyone_else_the_index() {
    let node = TestNode::start(&[]);
    for (accept, is_page) in [
        (None, false),
        (Some("*/*"), false),
        (Some("application/json"), false),
        (Some("text/html, application/json"), false),
        (Some("text/html, */*"), false),
        (Some("text/html;q=0.5, application/json"), false),
        (Some("text/html;q=0"), false),
        (Some("text/html"), true),
        (Some("text/*"), true),
        (Some("application/json;q=0.5, text/html;q=0.6"), true),
        (Some(FIREFOX), true),
    ] {
        let request = node.get("/");
        let request = accept.into_iter().fold(request, |request, accept| request.header("accept", accept));
        let answer = request.send().unwrap();
        let media = if is_page { "text/html; charset=utf-8" } else { "application/json" };
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, media.into()), "{accept:?}");
        assert!(header(&answer, "vary").split(", ").any(|name| name == "accept"), "{accept:?}");
        assert_eq!(answer.text().unwrap().starts_with("<!doctype html>"), is_page, "{accept:?}");
    }
}

#[test]
fn files_are_cached_by_their_content_and_guarded() {
    let node = TestNode::start(&[]);
    let page = node.get("/").header("accept", FIREFOX).send().unwrap().text().unwrap();
    let named: Vec<&str> = page.split('"').filter(|part| part.starts_with("explorer/")).collect();
    assert_eq!(named.len(), 3, "{named:?}");
    let page = ("/".to_owned(), "text/html; charset=utf-8");
    let files = named.iter().map(|name| {
        let media = match name.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        (format!("/{name}"), media)
    });
    for (path, media) in files.chain([page]) {
        let ask = || node.get(&path).header("accept", FIREFOX);
        let answer = ask().send().unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, media.into()), "{path}");
        assert_eq!(header(&answer, "cache-control"), "no-cache");
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "referrer-policy"), "no-referrer");
        let policy = header(&answer, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        let again = ask().header("if-none-match", header(&answer, "etag")).send().unwrap();
        assert_eq!((again.status().as_u16(), again.text().unwrap()), (304, String::new()), "{path}");
    }
    let nothing = problem(node.get("/explorer/..%2Fmod.rs").send().unwrap(), 404);
    assert!(nothing["detail"].as_str().unwrap().contains("the explorer has no file"), "{nothing}");
}

#[test]
fn many_chains_are_listed_a_page_at_a_time() {
    let Some(browser) = Browser::start() else { return };
    let node = TestNode::start(&[]);
    for number in 0..120 {
        node.bang(json!({"name": format!("chain-{number:03}"), "difficulty": 0}));
    }
    browser.open(&node.url, "", "Chains");
    browser.shows(".figures dd", "121");
    assert_eq!(browser.js("return document.querySelectorAll('tbody tr').length"), 50);
    let hash = node.json("/chains/chain-000/stats")["hash"].clone();
    assert_eq!(browser.js("return document.querySelector('tbody .hash').title"), hash);

    // They grow before one's eyes, and the plots with them.
    for value in 0..5 {
        node.inject("/chains/chain-000", json!(value));
    }
    browser.until("its size", "return document.querySelector('tbody tr').cells[4].textContent === '6'");
    browser.until("a plot", "return document.querySelector('.plot-line').getAttribute('d').length > 0");
    browser.picture("chains");

    // Who has come to a link by keyboard stays there while all is drawn anew.
    browser.js("window.link = document.querySelector('tbody a[href=\"#/chains/chain-007\"]'); link.focus()");
    browser.until("the rows are new", "return !link.isConnected");
    assert_eq!(browser.js("return document.activeElement.textContent"), "chain-007");

    browser.js("[...document.querySelectorAll('a')].find((link) => link.textContent === 'Next page').click()");
    browser.shows("tbody tr", "chain-050");
    browser.js(
        "document.getElementById('from-name').value = 'chain-1'; document.querySelector('main form button').click()",
    );
    browser.shows("tbody tr:first-child", "chain-100");
    assert_eq!(browser.log(), [""; 0]);
}

#[test]
fn a_chain_is_live_and_its_forks_are_drawn() {
    let Some(browser) = Browser::start() else { return };
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "orders", "difficulty": 0, "schema": {"type": "object"}}));
    browser.open(&node.url, "#/chains/orders", "orders");
    browser.shows(".heading [role=status]", "live");
    browser.js("window.isTheSamePage = true");

    node.inject("/chains/orders", json!({"order": 1017}));
    browser.shows("tbody tr", "{\"order\":1017}");
    browser.shows(".figures div:nth-child(2) dd", "1");
    let quant = node.leap("/chains/orders");
    browser.until(
        "the quant",
        &format!("return [...document.querySelectorAll('.hash')].some((one) => one.title === {})", quant["hash"]),
    );
    browser.shows(".facts", "0 zero bits");
    browser.shows("details summary", "JSON Schema");
    browser.shows("main", "1 node");

    // A flood is drawn at its end, and what passed by is counted.
    let lines = "{\"data\":{\"flood\":true}}\n".repeat(5_000);
    assert_eq!(node.post_text("/chains/orders/inject", "application/x-ndjson", lines).status(), 202);
    browser.shows("tbody tr:first-child", "5,001");
    browser.shows(".heading", "came faster than they are shown");
    assert!(browser.js("return document.querySelectorAll('tr').length").as_u64().unwrap() < 60);
    browser.picture("live");

    // Nothing comes while it is paused, and all after it.
    browser.press("button[aria-pressed]");
    node.inject("/chains/orders", json!({"order": "paused"}));
    browser.shows(".figures dd", "5,003");
    assert!(!browser.text("main").contains("\"paused\""));
    browser.press("button[aria-pressed]");
    browser.shows("tbody tr:first-child", "{\"order\":\"paused\"}");

    browser.js("location.hash = '#/chains/orders/pool'");
    browser.shows("main", "5,001 transactions that no quant covers yet");
    let fork = |chain: &str, body: Value| {
        assert_eq!(node.post(&format!("/chains/{chain}/fork")).json(&body).send().unwrap().status(), 201);
    };
    fork("orders", json!({"name": "orders-eu", "at": 1}));
    fork("orders-eu", json!({"name": "orders-eu-test"}));
    fork("orders", json!({"name": "orders-old", "at": 0}));
    browser.js("location.hash = '#/chains/orders-eu/forks'");
    for name in ["orders", "orders-eu", "orders-eu-test", "orders-old"] {
        browser.shows(".tree a", name);
    }
    assert_eq!(browser.js("return document.querySelectorAll('.tree .branch').length"), 4);
    assert_eq!(browser.js("return document.querySelectorAll('.tree .branch.current').length"), 1);
    assert_eq!(browser.js("return window.isTheSamePage"), true);
    browser.picture("forks");
    assert_eq!(browser.log(), [""; 0]);
}

#[test]
fn a_receipt_is_verified_in_the_page_and_each_flipped_bit_breaks_its_step() {
    let Some(browser) = Browser::start() else { return };
    let witness = TestNode::start(&["--cosign", &node_key(7).to_string()]);
    let node = log_with_key(7, &["--witness", &named(&witness)]);
    let writer = SigningKey::from_bytes(&[9; 32]);
    let signer = hex::encode(writer.verifying_key().as_bytes());
    let chain = node.bang(json!({"name": "orders", "difficulty": 8, "writers": [signer]}));
    let data = json!({"names": ["Zoë", "\u{1f980}"], "order": 1017, "total": 19.5, "zero": 1e-7});
    for number in 0..5 {
        let id = format!("order-{number}");
        let signed = json!({"chain": chain["id"], "data": data, "id": id});
        let signature = hex::encode(writer.sign(&qbc::core::json::canonical(&signed)).to_bytes());
        let body = json!({"data": data, "id": id, "signer": signer, "signature": signature});
        assert_eq!(node.post("/chains/orders/inject").json(&body).send().unwrap().status(), 202);
    }
    node.leap("/chains/orders");
    crate::support::eventually("it is cosigned", || {
        node.get("/chains/orders/checkpoint?quant=1&cosigned=1").send().unwrap().status() != 404
            && node.json("/chains/orders/transactions/3/receipt")["checkpoint"]
                .as_str()
                .unwrap()
                .contains("qbc/witness/")
    });

    browser.open(&node.url, "#/chains/orders/transactions/3", "Transaction 3");
    browser.shows(".json", "\"Zoë\"");
    browser.shows(".verdict.good", "The receipt holds");
    let steps = "return [...document.querySelectorAll('.steps li')].map((step) => `${step.querySelector('strong').textContent} ${step.className}`)";
    let whole = [
        "Data noted",
        "Commitment noted",
        "Leaf holds",
        "Writer holds",
        "Path holds",
        "Quant holds",
        "Work holds",
        "Checkpoint holds",
        "Signature holds",
        "Signature holds",
        "Cosignature holds",
    ];
    assert_eq!(browser.js(steps), json!(whole));
    let hash = node.json("/chains/orders/transactions/3")["hash"].clone();
    let bytes = browser.js("return [...document.querySelectorAll('.steps li')][2].querySelectorAll('code')[1].textContent.replaceAll(' ', '')");
    assert_eq!(bytes, hash, "each step has its bytes");

    // What is flipped breaks what depends on it, and nothing else.
    for (flip, broken) in [
        ("data", &["Leaf", "Writer", "Path"][..]),
        ("salt", &["Leaf", "Path"]),
        ("time", &["Leaf", "Path"]),
        ("path", &["Path"]),
        ("root", &["Path", "Quant", "Work", "Checkpoint"]),
        ("checkpoint", &["Checkpoint", "Signature", "Signature", "Cosignature"]),
        ("signature", &["Signature", "Signature", "Cosignature"]),
    ] {
        browser.js(&format!("document.getElementById('flip').value = '{flip}'; document.querySelector('.receipt .buttons button').click()"));
        browser.shows(".verdict.bad", "It does not hold");
        browser.shows(
            ".verdict",
            browser.js(&format!("return document.querySelector('#flip [value={flip}]').textContent")).as_str().unwrap(),
        );
        let found = browser
            .js("return [...document.querySelectorAll('.steps .breaks strong')].map((name) => name.textContent)");
        // A hash with another root has its zero bits by chance.
        let found: Vec<&str> = found.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let without_luck = |names: &[&str]| {
            names.iter().filter(|name| **name != "Work").map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(without_luck(&found), without_luck(broken), "{flip}");
        assert_eq!(
            browser.js("return document.querySelectorAll('.steps [open]').length"),
            1,
            "{flip}: the first that breaks is open"
        );
    }
    browser.picture("receipt-broken");
    browser.js("[...document.querySelectorAll('button')].find((button) => button.textContent === 'Restore').click()");
    browser.shows(".verdict.good", "The receipt holds");

    // A key from elsewhere settles whose chain it is.
    let trust = |key: &str| {
        let script = format!(
            "const key = document.getElementById('trusted-key'); key.value = {}; key.dispatchEvent(new Event('change'))",
            json!(key)
        );
        browser.js(&script);
    };
    trust(&node_key(7).to_string());
    browser.shows(".verdict.good", "It is signed by the key that you entered");
    trust(&node_key(8).to_string());
    browser.shows(".verdict", "But the key that you entered has not signed it");
    trust("no key");
    browser.shows("#key-hint", "This is no verifier key");
    browser.picture("receipt");

    // Without Ed25519 it says what it did not check.
    browser.js("SubtleCrypto.prototype.importKey = () => Promise.reject(new DOMException('', 'NotSupportedError'))");
    trust("");
    browser.shows(".steps .open", "This browser has no Ed25519");
    assert_eq!(browser.js("return document.querySelectorAll('.steps .open').length"), 4);

    // What is erased keeps its receipt; and the quant leads on to its transactions and its checkpoint.
    node.inject("", json!({"name": "somebody"}));
    node.leap("");
    assert_eq!(node.post("/transactions/1/erase").json(&json!({"reason": "asked for"})).send().unwrap().status(), 201);
    browser.open(&node.url, "#/chains/qbc/transactions/1", "Transaction 1");
    browser.shows(".verdict.good", "The receipt holds");
    browser.shows("main", "were removed for ever");
    browser.open(&node.url, "#/chains/orders/quants/1", "Quant 1");
    browser.shows("dd", node.json("/chains/orders/quants/1")["root"].as_str().unwrap());
    browser.shows("pre", "qbc/witness/");
    assert_eq!(browser.js("return document.querySelectorAll('tbody tr').length"), 5);
    assert_eq!(browser.log(), [""; 0]);
}

#[test]
fn search_finds_by_index_id_hash_and_name() {
    let Some(browser) = Browser::start() else { return };
    let node = TestNode::start(&[]);
    let chain = node.bang(json!({"name": "orders", "difficulty": 0}));
    let id = "order/1017%?#";
    assert_eq!(node.post("/chains/orders/inject").json(&json!({"data": 1, "id": id})).send().unwrap().status(), 202);
    let quant = node.leap("/chains/orders");
    browser.open(&node.url, "#/chains/orders", "orders");
    let search = |text: &str| {
        browser.js("document.activeElement.blur()");
        // As by keyboard: the key leads to the field, from wherever one is.
        browser.keys("body", "/");
        assert_eq!(browser.js("return document.activeElement.id"), "query");
        browser.js("document.activeElement.value = ''");
        browser.keys("#query", &format!("{text}{ENTER}"));
    };
    for (text, heading) in [(id, "Transaction 1"), (quant["hash"].as_str().unwrap(), "Quant 1"), ("qbc", "qbc")] {
        search(text);
        browser.shows("main h1", heading);
        browser
            .until("the heading has the focus", "return document.activeElement === document.querySelector('main h1')");
        browser.js("location.hash = '#/chains/orders'");
        browser.shows("main h1", "orders");
    }
    // The id of a chain is the hash of its first own quant.
    search(chain["id"].as_str().unwrap());
    browser.shows("main li", "Chain with this id");
    browser.shows("main li", "Quant of orders with this hash");
    search("1");
    browser.shows("main li", "Transaction 1 of orders");
    browser.shows("main li", "Quant 1 of orders");
    search("nothing-of-this");
    browser.shows("main", "Neither is there a chain");
    assert_eq!(browser.log(), [""; 0]);
}

#[test]
fn what_is_done_by_hand_is_done_or_its_fault_stands_at_the_field() {
    let Some(browser) = Browser::start() else { return };
    let node = TestNode::start(&[]);
    browser.open(&node.url, "#/new", "New chain");
    for (label, text) in [
        ("Name", "A b"),
        ("Difficulty", "99"),
        ("Schema", "{\"type\": \"objet\"}"),
        ("Writers", "zz"),
        ("Leap after", "1"),
    ] {
        browser.write("Bang", label, text);
    }
    browser.send("Bang");
    browser.faults("Name", "a chain's name has 1 to 63 characters");
    browser.until("the focus is there", "return document.activeElement.name === 'name'");
    browser.write("Bang", "Name", "orders");
    browser.send("Bang");
    browser.faults("Leap after", "must be 10 to");
    browser.write("Bang", "Leap after", "");
    browser.send("Bang");
    for (label, fault) in
        [("Difficulty", "0 to 48"), ("Schema", "/type: not a usable JSON Schema"), ("Writers", "/0: must be")]
    {
        browser.faults(label, fault);
    }
    browser.picture("faults");
    for (label, text) in [("Difficulty", "0"), ("Schema", ""), ("Writers", "")] {
        browser.write("Bang", label, text);
    }
    browser.write("Bang", "Schema", "{\"type\": ");
    browser.send("Bang");
    browser.faults("Schema", "This is no JSON");
    for (label, text) in [
        ("Name", "orders"),
        ("Difficulty", "0"),
        ("Schema", "{\"type\": \"object\"}"),
        ("Writers", ""),
        ("Leap after", ""),
    ] {
        browser.write("Bang", label, text);
    }
    browser.send("Bang");
    browser.shows(".alert.good", "Made orders");
    browser.send("Bang");
    browser.shows(".alert.bad", "a chain with the name \"orders\" exists already");

    browser.js("location.hash = '#/chains/orders/write'");
    browser.shows("main h1", "orders");
    browser.write("Inject", "Data", "{\"total\": 12345678901234567890}");
    browser.write("Inject", "Id", "order-1");
    browser.send("Inject");
    browser.faults("Data", "/total: ");
    browser.write("Inject", "Data", "{\"total\": \"12345678901234567890\"}");
    browser.write("Inject", "Id", "a b");
    browser.send("Inject");
    browser.faults("Id", "printable ASCII");
    browser.write("Inject", "Id", "order-1");
    browser.send("Inject");
    browser.shows(".alert.good", "Accepted as transaction 1");
    assert_eq!(
        node.json("/chains/orders/transactions/by-id/order-1")["data"],
        json!({"total": "12345678901234567890"})
    );

    browser.send("Leap");
    browser.shows(".alert.good", "Made quant 1");
    browser.write("Fork", "Name", "orders-eu");
    browser.write("Fork", "At quant", "77");
    browser.send("Fork");
    browser.faults("At quant", "must be the index of a quant");
    browser.write("Fork", "At quant", "1");
    browser.send("Fork");
    browser.shows(".alert.good", "Made orders-eu");

    browser.write("Erase", "Transaction", "1");
    browser.write("Erase", "Reason", "asked for");
    browser.send("Erase");
    browser.faults("It cannot be undone, and I want it", "Tick this");
    assert!(node.json("/chains/orders/transactions/1")["erased"].is_null(), "not without being sure");
    browser.write("Erase", "It cannot be undone, and I want it", "");
    browser.send("Erase");
    browser.shows(".alert.good", "Erased, as transaction 2 of orders records");
    assert_eq!(node.json("/chains/orders/transactions/1")["erased"]["by"], 2);
    assert_eq!(browser.log(), [""; 0]);
}

#[test]
fn the_cluster_is_drawn_and_what_is_in_danger_stands_at_the_top() {
    let Some(browser) = Browser::start() else { return };
    let mut cluster = Nodes::start(3);
    let url = cluster.nodes[0].as_ref().unwrap().url.clone();
    cluster.nodes[0].as_ref().unwrap().bang(json!({"name": "orders", "difficulty": 0, "replicas": 3}));
    browser.open(&url, "#/cluster", "Cluster");
    assert_eq!(browser.js("return document.querySelectorAll('.ring .node.good').length"), 3);
    browser.shows("td", "follower");
    browser
        .until("plots", "return [...document.querySelectorAll('.plot-line')].every((line) => line.getAttribute('d'))");
    browser.until("no danger", "return document.getElementById('alerts').textContent === ''");
    browser.picture("cluster");

    cluster.nodes[2].take().unwrap().kill();
    browser.shows("#alerts", "The node ");
    browser.until("it is drawn", "return document.querySelectorAll('.ring .node.good').length === 2");
    browser.picture("cluster-in-danger");
    browser.open(&url, "#/chains/orders", "orders");
    browser.shows("td", "leader");
    browser.shows("#alerts", "The node ");
    assert_eq!(browser.log(), [""; 0]);
}

#[test]
fn mirrors_and_witnesses_are_shown() {
    let Some(browser) = Browser::start() else { return };
    let log = log_with_key(7, &[]);
    log.leap("");
    log.bang(json!({"name": "orders", "difficulty": 0}));
    let other = TestNode::start(&["--cosign", &node_key(7).to_string()]);
    let body = json!({"from": log.url, "chain": "orders", "key": node_key(7).to_string()});
    let answer = other.post("/mirrors").json(&body).send().unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().unwrap());
    browser.open(&other.url, "#/cluster", "Cluster");
    browser.shows("td", "following");
    browser.shows("pre", "qbc/witness/");
    browser.open(&other.url, "#/chains/orders", "orders");
    browser.shows(".alert", "A mirror of ");
    assert_eq!(browser.log(), [""; 0]);
}

#[test]
fn a_token_is_asked_for_kept_for_the_tab_and_sent_with_all_that_is_asked_below_any_path() {
    let Some(browser) = Browser::start() else { return };
    let node = TestNode::start(&[]);
    let url = proxy(&node, Some("s3cret"));
    browser.go(&format!("{url}/#/chains/qbc"));
    browser.until("the dialog", "return document.getElementById('access').open");
    browser
        .js("document.getElementById('bearer').value = 's3cret'; document.querySelector('#access .primary').click()");
    browser.shows("main h1", "qbc");
    browser.shows(".heading [role=status]", "live");
    node.inject("", json!("behind the proxy"));
    browser.shows("tbody tr", "behind the proxy");
    browser.js("location.hash = '#/guide/proofs'");
    browser.shows("main h1", "Proofs");
    assert_eq!(
        browser.js("return [localStorage.length, sessionStorage.getItem('qbc-token'), document.cookie]"),
        json!([0, "s3cret", ""])
    );
    // Another tab has none.
    let tab = browser.command("/window/new", json!({"type": "tab"}));
    browser.command("/window", json!({"handle": tab["handle"]}));
    browser.go(&format!("{url}/#/"));
    browser.until("the dialog of another tab", "return document.getElementById('access').open");
}

#[test]
fn what_a_chain_holds_is_shown_and_never_run() {
    let Some(browser) = Browser::start() else { return };
    let node = TestNode::start(&[]);
    let evil =
        "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>\"'><svg onload=window.hacked=1>\u{202e}";
    let id = "\"><img/src=x/onerror=window.hacked=1>&<!--";
    let data =
        json!({"__proto__": {"hacked": 1}, evil: [evil, {"constructor": evil}], "javascript:window.hacked=1": null});
    node.bang(json!({"name": "hostile", "difficulty": 0, "max_bytes": 4 << 20}));
    let chain = "/chains/hostile";
    let body = json!({"data": data, "id": id});
    assert_eq!(node.post(&format!("{chain}/inject")).json(&body).send().unwrap().status(), 202);
    // As large as data can be: one text, and a million values.
    let large = [json!("<b>".repeat((4 << 20) / 3 - 10)), json!(vec![1; 1_000_000])];
    let large = large.map(|data| node.inject(chain, data));
    node.leap(chain);
    for place in ["", "/transactions", "/quants/1", "/pool", "/write"] {
        browser.open(
            &node.url,
            &format!("#/chains/hostile{place}"),
            if place == "/quants/1" { "Quant 1" } else { "hostile" },
        );
    }
    browser.open(&node.url, "#/chains/hostile/transactions/1", "Transaction 1");
    browser.shows(".verdict.good", "The receipt holds");
    let shown = browser.text(".json");
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), data, "it is shown as it is");
    browser.shows("dd", id);
    browser.picture("hostile");
    for index in large {
        browser.open(&node.url, &format!("#/chains/hostile/transactions/{index}"), "Transaction");
        browser.shows(".verdict.good", "The receipt holds");
        browser.shows("button", "Show more");
        assert!(browser.text("main").len() < 300_000);
    }
    for place in
        [format!("#/search/hostile/{evil}"), format!("#/chains/{evil}"), "#/chains/%ff".into(), "#/__proto__".into()]
    {
        browser.go(&format!("{}/{}", node.url, place.replace(' ', "%20")));
        browser.until(
            "an answer",
            "return document.querySelector('main h1') !== null && !document.body.classList.contains('loading')",
        );
    }
    assert_eq!(browser.js("return [window.hacked ?? null, ({}).hacked ?? null, document.querySelectorAll('main img, main script').length]"), json!([null, null, 0]));
    // The policy holds: no script may come in, by whatever way.
    let refused =
        "const one = document.createElement('div'); try { one.innerHTML = '<b>'; return false } catch { return true }";
    assert_eq!(browser.js(refused), true);
    let errors = browser.log();
    assert!(errors.iter().all(|error| error.contains("TrustedHTML")), "{errors:?}");
}

#[test]
fn long_chains_are_read_a_page_at_a_time() {
    let Some(browser) = Browser::start() else { return };
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "long", "difficulty": 0}));
    for _ in 0..300 {
        let lines = "{\"data\":{\"order\":1,\"total\":\"19.90\"}}\n".repeat(100);
        assert_eq!(node.post_text("/chains/long/inject", "application/x-ndjson", lines).status(), 202);
        node.leap("/chains/long");
    }
    for (place, heading) in [
        ("#/chains/long", "long"),
        ("#/chains/long/transactions", "long"),
        ("#/chains/long/transactions?from=15000", "long"),
        ("#/chains/long/quants", "long"),
        ("#/chains/long/quants/7", "Quant 7"),
        ("#/chains/long/transactions/20000", "Transaction 20,000"),
    ] {
        browser.open(&node.url, place, heading);
        let read = "return performance.getEntriesByType('resource').filter((one) => !one.name.includes('/explorer/')).reduce((sum, one) => sum + one.decodedBodySize, 0)";
        let read = browser.js(read).as_u64().unwrap();
        assert!(read < 150_000, "{place} reads {read} bytes");
        assert!(browser.js("return document.querySelectorAll('tr').length").as_u64().unwrap() < 120, "{place}");
    }
    browser.open(&node.url, "#/chains/long/transactions", "long");
    browser.shows("tbody tr:first-child", "30,000");
    browser.js("[...document.querySelectorAll('.pager a')].find((link) => link.textContent === 'Older').click()");
    browser.shows("tbody tr:first-child", "29,950");
    browser.js("document.getElementById('go').value = '123'; document.querySelector('.pager button').click()");
    browser.shows("tbody tr:last-child", "123");
    assert_eq!(browser.log(), [""; 0]);
}

/// The rules of axe-core that it calls serious or critical, on each page: light and wide, dark and as narrow as a phone.
#[test]
fn an_accessibility_checker_finds_nothing_serious_and_nothing_is_cut_off() {
    let Some(browser) = Browser::start() else { return };
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/explorer/node_modules/axe-core/axe.min.js");
    let axe = fs::read_to_string(&path).ok();
    if axe.is_none() {
        println!("skipped in part: there is no {} (.ci/run fetches it)", path.display());
    }
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "orders", "difficulty": 0, "leap": {"transactions": 3}}));
    for number in 0..5 {
        node.inject("/chains/orders", json!({"order": number, "note": "a rather long note ".repeat(20)}));
    }
    assert_eq!(node.post("/chains/orders/fork").json(&json!({"name": "orders-eu"})).send().unwrap().status(), 201);
    assert_eq!(
        node.post("/chains/orders/transactions/2/erase").json(&json!({"reason": "asked for"})).send().unwrap().status(),
        201
    );
    let places = [
        ("#/", "Chains"),
        ("#/new", "New chain"),
        ("#/chains/orders", "orders"),
        ("#/chains/orders/transactions", "orders"),
        ("#/chains/orders/quants", "orders"),
        ("#/chains/orders/pool", "orders"),
        ("#/chains/orders/forks", "orders"),
        ("#/chains/orders/write", "orders"),
        ("#/chains/orders/transactions/1", "Transaction 1"),
        ("#/chains/orders/transactions/2", "Transaction 2"),
        ("#/chains/orders/quants/1", "Quant 1"),
        ("#/cluster", "Cluster"),
        ("#/guide", "Guide"),
        ("#/guide/interface", "The interface"),
        ("#/search/orders/1", "Search"),
        ("#/nowhere", "Not found"),
    ];
    for (width, scheme) in [(1280, "light"), (360, "dark")] {
        browser.show(width, scheme);
        for (place, heading) in places {
            browser.open(&node.url, place, heading);
            let cut = browser.js("return document.documentElement.scrollWidth - innerWidth");
            assert!(cut.as_i64().unwrap() <= 0, "{place} is {cut} pixels too wide for {width}");
            browser.picture(&format!("{scheme}{}", place.replace(['#', '/'], "-")));
            let Some(axe) = &axe else { continue };
            browser.js(axe);
            let run = "return axe.run().then(({violations}) => violations\
                .filter(({impact}) => ['serious', 'critical'].includes(impact)).map(({id, nodes}) => `${id}: ${nodes[0].html}`))";
            let found = browser.js(run);
            assert_eq!(found, json!([]), "{place} in {scheme}");
        }
    }
    // By keyboard: the first stop leads past the head of the page.
    browser.open(&node.url, "#/", "Chains");
    browser.keys("body", &TAB.to_string());
    assert_eq!(browser.js("return document.activeElement.textContent"), "Skip to the content");
    assert_eq!(browser.log(), [""; 0]);
}

#[test]
fn all_of_it_comes_by_tls_and_http_2() {
    let Some(browser) = Browser::start() else { return };
    let authority = Authority::new();
    let node = authority.node(&[]);
    browser.open(&node.url, "#/chains/qbc/write", "qbc");
    browser.write("Inject", "Data", "\"by TLS\"");
    browser.send("Inject");
    browser.shows(".alert.good", "");
    browser.js("location.hash = '#/chains/qbc'");
    browser.shows(".heading [role=status]", "live");
    browser.shows("tbody tr", "by TLS");
    let used = "return [...new Set(['navigation', 'resource'].flatMap((kind) => performance.getEntriesByType(kind))\
        .filter((one) => one.nextHopProtocol).map((one) => one.nextHopProtocol))]";
    assert_eq!(browser.js(used), json!(["h2"]));
    assert_eq!(browser.log(), [""; 0]);
}

/// A site of one page, which has nothing but the client in JavaScript: its URL, and the page is served as long as the test runs.
fn site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let module = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/client.mjs")).unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut head = String::new();
            let _ = BufReader::new(&client).read_line(&mut head);
            let (media, body) = match head.starts_with("GET /client.mjs ") {
                true => ("text/javascript", module.as_str()),
                false => ("text/html", "<!doctype html><title>A page</title>"),
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\n", body.len());
            // A browser closes what it does not need.
            let _ = client.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes());
        }
    });
    url
}

#[test]
fn the_client_in_javascript_runs_in_a_page_of_an_allowed_site() {
    let Some(browser) = Browser::start() else { return };
    let site = site();
    let node = TestNode::start(&["--cors-origin", &site, "--leap-every", "100ms"]);
    browser.go(&site);
    let told = |node: &TestNode, key: &str| {
        let script = format!(
            "window.told = null; import('./client.mjs').then(async ({{ record, verify }}) => {{\
               const receipt = await record({0}, {{ total: '19.90' }}, 'order-1017');\
               const forged = await verify(receipt.replace('19.90', '9.90'), {1}).catch((error) => error.message);\
               return [await verify(receipt, {1}), forged];\
             }}).catch((error) => `${{error}}`).then((told) => (window.told = told))",
            json!(node.url),
            json!(key),
        );
        browser.js(&script);
        browser.until("the client is done", "return window.told !== null");
        browser.js("return window.told")
    };
    let forged = "the receipt does not hold: the transaction has another hash";
    assert_eq!(told(&node, &key(&node)), json!([{"total": "19.90"}, forged]));
    let other = key(&TestNode::start(&[]));
    assert_eq!(told(&node, &other), "Error: the receipt does not hold: the key has not signed its checkpoint");
    assert_eq!(node.size(""), 2);
}
