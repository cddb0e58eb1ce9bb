//! TLS: what clients of many kinds see of it, and nodes of each other.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::{
    support::{TestNode, eventually, problem, trusting},
    witness::{log_with_key, named, node_key},
};

const SECRET: &str = "5ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4";

/// An authority with a folder in which its certificates are.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Authority of a test");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { issuer, folder: tempfile::tempdir().unwrap() };
        fs::write(authority.path("ca.crt"), authority.issuer.pem()).unwrap();
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }

    /// Writes `NAME.crt` and `NAME.key` of this machine, valid for so many days from now.
    fn sign(&self, name: &str, days: i64) {
        let mut params = CertificateParams::new(["localhost".into(), "127.0.0.1".into()]).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let day = Duration::from_secs(86_400);
        params.not_after =
            rcgen::date_time_ymd(1970, 1, 1) + now + day * 100 - day * u32::try_from(100 - days).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.crt")), certificate.pem()).unwrap();
        write_key(&self.path(&format!("{name}.key")), &key.serialize_pem());
    }

    /// Options of a node with TLS that trusts this authority.
    fn options(&self, name: &str) -> Vec<String> {
        let mut options = vec!["--tls-cert".into(), self.text(&format!("{name}.crt"))];
        options.extend(["--tls-key".into(), self.text(&format!("{name}.key"))]);
        options.extend(["--ca".into(), self.text("ca.crt")]);
        options
    }

    /// A node with TLS.
    pub fn node(&self, more: &[&str]) -> TestNode {
        self.sign("node", 90);
        TestNode::start(&words(&self.options("node"), more))
    }
}

fn words<'a>(options: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    options.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

fn write_key(path: &Path, pem: &str) {
    fs::write(path, pem).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs a program of others; nothing where it is not there.
fn run(program: &str, args: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    if output.is_err() {
        eprintln!("skipped: {program} is not installed");
    }
    output.ok()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn who_trusts_the_authority_is_served_and_nobody_else_asks() {
    let authority = Authority::new();
    let node = authority.node(&[]);
    assert!(node.url.starts_with("https://127.0.0.1:"), "{}", node.url);
    node.inject("", json!({"a": 1}));
    let answer = node.post("/inject").json(&json!({"data": 2})).send().unwrap();
    assert_eq!(answer.headers()["location"], "/transactions/2");
    assert_eq!(node.json("/readyz"), json!({"status": "ok"}));
    node.leap("");
    node.audit("");
    let refused = trusting(None).get(format!("{}/stats", node.url)).send().unwrap_err();
    assert!(format!("{refused:?}").contains("UnknownIssuer"), "{refused:?}");
    // A page of the node itself may write, whatever the scheme.
    let own = node.post("/leap").header("origin", &node.url).send().unwrap();
    assert_eq!(own.status(), 201);
    problem(node.post("/leap").header("origin", "https://evil.example").send().unwrap(), 403);
}

#[test]
fn clients_of_many_kinds() {
    let authority = Authority::new();
    let node = authority.node(&[]);
    let (ca, inject, url) = (authority.text("ca.crt"), format!("{}/inject", node.url), node.url.clone());
    let mut size = node.size("");
    let mut added = |output: Option<Output>, expected: &str| {
        let Some(output) = output else { return };
        let text = told(&output);
        assert!(output.status.success() && text.contains(expected), "{text}");
        size += 1;
        assert_eq!(node.size(""), size, "{text}");
    };
    let json = ["--json", r#"{"data":{"by":"curl"}}"#];
    for (options, version) in [
        (&["--http1.1"][..], "http/1.1 202"),
        (&["--http2"], "http/2 202"),
        (&["--http2", "--tls-max", "1.2"], "http/2 202"),
        (&["--tls-max", "1.2"], "http/2 202"),
        (&["--http2", "--tlsv1.3"], "http/2 202"),
    ] {
        let written = ["-sS", "--cacert", &ca, "-o", "/dev/null", "-w", "http/%{http_version} %{http_code}", &inject];
        added(run("curl", &[&written, options, &json].concat()), version);
    }
    let python = format!(
        "import requests\nr = requests.post('{inject}', json={{'data': 1}}, verify='{ca}')\nprint(r.status_code, r.json()['state'])"
    );
    match run("python3", &["-c", "import requests"]) {
        Some(output) if output.status.success() => added(run("python3", &["-c", &python]), "202 pooled"),
        _ => eprintln!("skipped: Python has no requests"),
    }
    let httpie = ["--ignore-stdin", "--verify", &ca, "POST", &inject, "data=1"];
    added(run("http", &httpie), "pooled");
    let node_https = format!(
        "const https = require('https'), fs = require('fs');\n\
         const r = https.request('{inject}', {{method: 'POST', ca: fs.readFileSync('{ca}'), \
         headers: {{'content-type': 'application/json'}}}}, a => console.log(a.httpVersion, a.statusCode));\n\
         r.end('{{\"data\": 1}}');"
    );
    added(run("node", &["-e", &node_https]), "1.1 202");
    let node_http2 = format!(
        "const http2 = require('http2'), fs = require('fs');\n\
         const c = http2.connect('{url}', {{ca: fs.readFileSync('{ca}')}});\n\
         const r = c.request({{':method': 'POST', ':path': '/inject', 'content-type': 'application/json'}});\n\
         r.on('response', h => {{ console.log(h[':status']); }}); r.on('end', () => c.close()); r.resume();\n\
         r.end('{{\"data\": 1}}');"
    );
    added(run("node", &["-e", &node_http2]), "202");
    let go = format!(
        "package main\nimport (\"crypto/tls\"; \"crypto/x509\"; \"fmt\"; \"net/http\"; \"os\"; \"strings\")\n\
         func main() {{\n pem, _ := os.ReadFile(\"{ca}\")\n pool := x509.NewCertPool()\n pool.AppendCertsFromPEM(pem)\n\
         c := http.Client{{Transport: &http.Transport{{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{{RootCAs: pool}}}}}}\n\
         r, err := c.Post(\"{inject}\", \"application/json\", strings.NewReader(`{{\"data\": 1}}`))\n\
         if err != nil {{ panic(err) }}\n fmt.Println(r.Proto, r.StatusCode)\n}}\n"
    );
    fs::write(authority.path("main.go"), go).unwrap();
    added(run("go", &["run", &authority.text("main.go")]), "HTTP/2.0 202");
}

/// One request by curl over HTTP/2: the status, and all that was told. Nothing where curl is absent.
fn http2(authority: &Authority, args: &[&str]) -> Option<(String, String)> {
    let fixed = ["-sS", "-i", "--http2", "--max-time", "60", "--cacert", &authority.text("ca.crt")];
    let output = run("curl", &[&fixed, args].concat())?;
    let text = told(&output);
    Some((text.split(' ').nth(1).unwrap_or_default().to_owned(), text))
}

#[test]
fn what_holds_for_http_1_holds_for_http_2() {
    let authority = Authority::new();
    let node = authority.node(&["--allow-host", "ledger.example"]);
    let ask = |path: &str, args: &[&str]| http2(&authority, &[args, &[&format!("{}{path}", node.url)]].concat());
    let Some((status, text)) = ask("/", &[]) else { return };
    assert!(status == "200" && text.starts_with("HTTP/2"), "{text}");
    let status = |path: &str, args: &[&str]| ask(path, args).unwrap().0;
    // Hosts and sites, as the header Host has them.
    assert_eq!(status("/stats", &["-H", "Host: ledger.example"]), "200");
    assert_eq!(status("/stats", &["-H", "Host: evil.example"]), "421");
    assert_eq!(status("/stats?consistency=local", &["-H", "Host: evil.example"]), "421");
    assert_eq!(status("/leap", &["-H", "Sec-Fetch-Site: cross-site"]), "403");
    assert_eq!(status("/leap", &["-H", &format!("Origin: {}", node.url)]), "201");
    assert_eq!(status("/nowhere", &[]), "404");
    assert_eq!(status("/stats", &["-X", "DELETE"]), "405");
    assert_eq!(status("/chain", &["-I"]), "200");
    // What is refused before its body is read is answered all the same.
    let large = authority.path("large");
    fs::write(&large, vec![b' '; 20 << 20]).unwrap();
    let body = format!("@{}", large.display());
    let (refused, text) = ask("/inject", &["-H", "content-type: application/json", "--data-binary", &body]).unwrap();
    assert_eq!(refused, "413", "{text}");
    assert!(text.contains("application/problem+json") && !text.to_lowercase().contains("\nconnection:"), "{text}");
    // A long answer, and one without end.
    let lines = format!("{{\"data\":\"{}\"}}\n", "x".repeat(1_000)).repeat(5_000);
    fs::write(&large, lines).unwrap();
    let streamed = ["-H", "content-type: application/x-ndjson", "--data-binary", &body];
    assert_eq!(status("/inject", &streamed), "202");
    assert_eq!(status("/leap", &[]), "201");
    let (got, text) = ask("/chain", &[]).unwrap();
    assert!(got == "200" && text.len() > 5_000_000, "{}", text.len());
    let events = ask("/events?from=0", &["--max-time", "2"]).unwrap().1;
    assert!(events.contains("event: transaction") && events.contains("event: quant"), "{events:.2000}");
    assert_eq!(status("/stats", &["-H", &format!("X-Large: {}", "x".repeat(60_000))]), "200");
    node.audit("");
}

/// Sends this on a new connection, and gives all that comes back.
fn raw(node: &TestNode, bytes: &[u8]) -> Vec<u8> {
    let mut stream = node.connect();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn who_speaks_the_wrong_one_is_told() {
    let authority = Authority::new();
    let node = authority.node(&[]);
    for request in [
        &b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"POST /inject HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{\"data\":1",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = String::from_utf8(raw(&node, request)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    assert_eq!(node.size(""), 1, "nothing of it was taken");
    // The program itself passes it on.
    let plain = node.url.replace("https://", "http://");
    let qbc = |args: &[&str]| told(&run(env!("CARGO_BIN_EXE_qbc"), args).unwrap());
    assert!(qbc(&["--node", &plain, "stats"]).contains("https://"));
    assert!(qbc(&["--node", &node.url, "stats"]).contains("--ca"));
    let ca = authority.text("ca.crt");
    for args in [
        &["--node", &node.url, "--ca", &ca, "stats"][..],
        &["inject", "1", "--node", &node.url, "--ca", &ca],
        &["--node", &node.url, "--ca", &ca, "verify"],
        &["verify", &node.url, "--ca", &ca],
        &["bench", "--seconds", "1", "--connections", "2", "--node", &node.url, "--ca", &ca],
    ] {
        let output = run(env!("CARGO_BIN_EXE_qbc"), args).unwrap();
        assert!(output.status.success(), "{args:?}: {}", told(&output));
    }

    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let plain = TestNode::open_logging(&folder.path().join("data"), &["--log", "debug"], &log);
    let refused = trusting(Some(&ca)).get(format!("https://{}/stats", plain.address())).send().unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    eventually("it is told in the log", || fs::read_to_string(&log).unwrap().contains("--tls-cert"));
    assert_eq!(plain.json("/readyz"), json!({"status": "ok"}));
}

#[test]
fn what_is_old_or_weak_is_refused() {
    let authority = Authority::new();
    let node = authority.node(&[]);
    let connects = |options: &[&str]| {
        let fixed = ["s_client", "-connect", node.address(), "-servername", "localhost"];
        run("openssl", &[&fixed, options].concat()).map(|output| (output.status.success(), told(&output)))
    };
    let Some((is_well, text)) = connects(&[]) else { return };
    assert!(is_well && text.contains("TLSv1.3"), "{text}");
    let weakest = |cipher: &'static str| ["-tls1_2", "-cipher", cipher];
    assert!(connects(&weakest("ECDHE")).unwrap().0);
    for options in [
        &["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        // Without forward secrecy, without authenticated encryption, without authentication, without encryption, and older.
        &weakest("kRSA:@SECLEVEL=0"),
        &weakest("AES128-SHA:AES256-SHA:ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0"),
        &weakest("aNULL:@SECLEVEL=0"),
        &weakest("eNULL:@SECLEVEL=0"),
        &weakest("3DES:RC4:@SECLEVEL=0"),
    ] {
        let (is_well, text) = connects(options).unwrap();
        assert!(!is_well, "{options:?}: {text}");
    }
    assert_eq!(node.json("/readyz"), json!({"status": "ok"}));
}

#[test]
fn wrong_files_are_named_with_their_cure() {
    let authority = Authority::new();
    authority.sign("a", 90);
    authority.sign("b", 90);
    let start = |certificate: &str, key: &str| {
        let (certificate, key) = (authority.text(certificate), authority.text(key));
        let args = ["serve", "--ephemeral", "--port", "0", "--tls-cert", &certificate, "--tls-key", &key];
        let output = run(env!("CARGO_BIN_EXE_qbc"), &args).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{}", told(&output));
        told(&output)
    };
    let has = |told: String, parts: &[&str]| assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    has(start("a.crt", "b.key"), &["a.crt", "b.key", "not that of the certificate"]);
    has(start("a.key", "a.key"), &["a.key", "no certificate"]);
    has(start("a.crt", "a.crt"), &["a.crt"]);
    has(start("none.crt", "a.key"), &["none.crt", "cannot read"]);
    has(start("a.crt", "none.key"), &["none.key", "cannot read"]);
    fs::write(authority.path("empty"), "").unwrap();
    has(start("empty", "a.key"), &["empty", "BEGIN CERTIFICATE"]);
    write_key(&authority.path("none"), "hello");
    has(start("a.crt", "none"), &["none", "BEGIN PRIVATE KEY"]);
    write_key(
        &authority.path("locked.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    has(start("a.crt", "locked.key"), &["locked.key", "passphrase"]);
    let key = authority.path("b.key");
    for mode in [0o644, 0o604, 0o660, 0o666] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        has(start("b.crt", "b.key"), &["b.key", "chmod 600"]);
    }
    let half = run(env!("CARGO_BIN_EXE_qbc"), &["serve", "--tls-cert", &authority.text("a.crt")]).unwrap();
    assert_eq!(half.status.code(), Some(2));
    has(told(&half), &["--tls-key"]);
    let no_scheme = ["--port", "0", "--ephemeral", "--advertise", "http://localhost:1"];
    let options = authority.options("a");
    let output = run(env!("CARGO_BIN_EXE_qbc"), &[&["serve"], &words(&options, &no_scheme)[..]].concat()).unwrap();
    has(told(&output), &["--advertise", "https://"]);
    let wrong = run(env!("CARGO_BIN_EXE_qbc"), &["stats", "--ca", &authority.text("a.key")]).unwrap();
    has(told(&wrong), &["a.key", "--ca", "no certificate"]);
}

/// The end of the certificate that a node shows to a new connection, by its serial number.
fn serial(node: &TestNode) -> Option<String> {
    let output = run("openssl", &["s_client", "-connect", node.address()])?;
    let mut parse = Command::new("openssl");
    parse.args(["x509", "-noout", "-serial"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut parse = parse.spawn().unwrap();
    parse.stdin.take().unwrap().write_all(&output.stdout).unwrap();
    Some(String::from_utf8(parse.wait_with_output().unwrap().stdout).unwrap())
}

fn hang_up(node: &TestNode) {
    let pid = node.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

#[test]
fn a_certificate_is_replaced_without_a_gap() {
    let authority = Authority::new();
    authority.sign("node", 90);
    let log = authority.path("log");
    let options = authority.options("node");
    let node = TestNode::open_logging(&authority.path("data"), &words(&options, &["--log", "info"]), &log);
    let Some(first) = serial(&node) else { return };
    let logged = |text: &str| fs::read_to_string(&log).unwrap().contains(text);

    // A connection that is there all the time, with an answer that goes on.
    let mut events = node.get("/events?from=0").send().unwrap();
    let mut line = [0; 64];
    events.read_exact(&mut line).unwrap();

    // The key alone: a wrong pair is refused, and the old one stays in force.
    authority.sign("other", 90);
    fs::copy(authority.path("other.key"), authority.path("node.key")).unwrap();
    hang_up(&node);
    eventually("the wrong pair is told", || logged("the old one stays in force"));
    assert!(logged("not that of the certificate"));
    assert_eq!(serial(&node).unwrap(), first);

    // Injects without end meanwhile, each on a connection of its own.
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let injects = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let client = trusting(Some(&authority.text("ca.crt")));
                let sent = client.post(format!("{}/inject", node.url)).json(&json!({"data": 1})).send();
                assert_eq!(sent.unwrap().status(), 202);
                count += 1;
            }
            count
        });
        fs::copy(authority.path("other.crt"), authority.path("node.crt")).unwrap();
        hang_up(&node);
        eventually("the new one is shown", || serial(&node).unwrap() != first);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(injects.join().unwrap() > 0);
    });
    assert!(logged("is in force"));
    node.inject("", json!("after"));
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"after\"") {
        let read = events.read(&mut line).unwrap();
        assert!(read > 0, "the connection of before goes on");
        seen.extend_from_slice(&line[..read]);
    }
}

#[test]
fn the_end_of_a_certificate_is_told_before_it_comes() {
    let authority = Authority::new();
    for (days, expected) in
        [(5, Some("expires at")), (13, Some("expires at")), (20, None), (-2, Some("has expired at"))]
    {
        authority.sign("node", days);
        let log = authority.path("log");
        let options = authority.options("node");
        let folder = tempfile::tempdir().unwrap();
        let node = TestNode::open_logging(&folder.path().join("data"), &words(&options, &[]), &log);
        let client = reqwest::blocking::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        let ready: Value = client.get(format!("{}/readyz", node.url)).send().unwrap().json().unwrap();
        let warning = ready["warnings"][0].as_str();
        assert_eq!(warning.is_some(), expected.is_some(), "{days}: {ready}");
        if let Some(expected) = expected {
            assert!(warning.unwrap().contains(expected) && warning.unwrap().contains("SIGHUP"), "{ready}");
            eventually("it is in the log", || fs::read_to_string(&log).unwrap().contains(expected));
        }
    }
}

#[test]
fn handshakes_that_stall_hold_nobody_up() {
    let authority = Authority::new();
    let node = authority.node(&[]);
    let stalled: Vec<TcpStream> = (0..500)
        .map(|number| {
            let mut stream = node.connect();
            // Nothing, the begin of a record, or a whole head of one whose rest does not come.
            stream.write_all(&[22, 3, 1, 2, 0, 1][..number % 4 * 2]).unwrap();
            stream
        })
        .collect();
    for number in 0..20 {
        node.inject("", json!(number));
    }
    assert_eq!(node.size(""), 21);
    for mut stream in stalled {
        let mut rest = Vec::new();
        // Within the time limit of the socket, which is longer.
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is closed"),
        }
    }
    node.audit("");
}

#[test]
fn a_flood_on_one_connection_ends_it_alone() {
    let authority = Authority::new();
    let node = authority.node(&[]);
    // Requests of HTTP/2 that are taken back as soon as they are sent (rapid reset), frame by frame: GET / of HPACK's own table.
    let script = format!(
        "import socket, ssl, struct\n\
         context = ssl.create_default_context(cafile='{}')\n\
         context.set_alpn_protocols(['h2'])\n\
         s = context.wrap_socket(socket.create_connection(('127.0.0.1', {})), server_hostname='localhost')\n\
         s.settimeout(30)\n\
         frame = lambda kind, flags, stream, body: struct.pack('>I', len(body))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + body\n\
         head = bytes([0x82, 0x87, 0x84, 0x41, 9]) + b'localhost'\n\
         told = b''\n\
         try:\n\
         \x20   s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + frame(4, 0, 0, b''))\n\
         \x20   for n in range(20000):\n\
         \x20       s.sendall(frame(1, 5, 2 * n + 1, head) + frame(3, 0, 2 * n + 1, struct.pack('>I', 8)))\n\
         except OSError: pass\n\
         try:\n\
         \x20   while (got := s.recv(65536)): told += got\n\
         except OSError: pass\n\
         print('ended', b'too_many' in told, frame(7, 0, 0, b'')[3:5] in told)",
        authority.text("ca.crt"),
        node.address().rsplit_once(':').unwrap().1
    );
    if let Some(output) = run("python3", &["-c", &script]) {
        assert!(output.status.success() && told(&output).contains("ended True True"), "{}", told(&output));
    }
    node.inject("", json!(1));
    node.audit("");
}

fn discover(node: &TestNode, host: &str) -> reqwest::blocking::Response {
    node.post("/discover").json(&json!({"host": host})).send().unwrap()
}

fn lists(node: &TestNode, other: &TestNode) -> bool {
    let known = node.json("/discover");
    known.as_array().unwrap().iter().any(|peer| peer["host"] == other.host().as_str())
}

#[test]
fn nodes_with_and_without_tls_discover_each_other() {
    let authority = Authority::new();
    let (first, second) = (authority.node(&[]), authority.node(&[]));
    let ca = authority.text("ca.crt");
    let plain = TestNode::start(&["--ca", &ca]);
    assert_eq!(discover(&first, &second.host()).status(), 201);
    assert!(lists(&first, &second) && lists(&second, &first));
    // Without a scheme, both are tried.
    let bare = first.host().replace("https://", "");
    assert_eq!(discover(&plain, &bare).status(), 201);
    assert!(lists(&plain, &first) && lists(&first, &plain));
    eventually("all three know each other", || lists(&plain, &second) && lists(&second, &plain));
    // One that does not trust them says how it would, and what it was told is tried.
    let stranger = TestNode::start(&[]);
    let refused = problem(discover(&stranger, &first.host()), 422);
    assert!(refused["detail"].as_str().unwrap().contains("--ca"), "{refused}");
    let insisted = problem(discover(&plain, &first.host().replace("https://", "http://")), 422);
    assert!(insisted["detail"].as_str().unwrap().contains("https://"), "{insisted}");
}

#[test]
fn mirrors_and_witnesses_are_reached_by_tls() {
    let authority = Authority::new();
    let source = authority.node(&[]);
    let run = |args: &[&str]| told(&run(env!("CARGO_BIN_EXE_qbc"), args).unwrap());
    let ca = authority.text("ca.crt");
    let key = run(&["key", "--node", &source.url, "--ca", &ca]);
    let key = key.split_whitespace().find(|word| word.contains('+')).expect("a key").to_owned();
    source.bang(json!({"name": "orders", "difficulty": 0}));
    source.inject("/chains/orders", json!("mirrored"));
    source.leap("/chains/orders");
    let mirror = TestNode::start(&["--ca", &ca]);
    let wanted = json!({"from": format!("{}/chains/orders", source.url), "key": key});
    let answer = mirror.post("/mirrors").json(&wanted).send().unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().unwrap());
    let has_it = || mirror.get("/chains/orders/stats").send().unwrap().json::<Value>().unwrap()["size"] == 2;
    eventually("the mirror has it", has_it);
    let distrustful = TestNode::start(&[]);
    let refused = distrustful.post("/mirrors").json(&wanted).send().unwrap();
    assert!(refused.status().is_client_error() || refused.status().is_server_error());
    assert!(refused.text().unwrap().contains("--ca"));

    let witness = authority.node(&["--cosign", &node_key(1).to_string()]);
    let log = log_with_key(1, &["--ca", &ca, "--witness", &named(&witness)]);
    log.leap("");
    let is_cosigned = || log.get("/checkpoint?cosigned=1").send().unwrap().status() == 200;
    eventually("the witness has cosigned", is_cosigned);
}

/// Passes connections on to a node, and keeps all that goes by.
struct Recorder {
    port: u16,
    to: Arc<Mutex<String>>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn new() -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, seen) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(Vec::new())));
        let recorder = Recorder { port, to: to.clone(), seen: seen.clone() };
        thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let Ok(called) = TcpStream::connect(&*to.lock().unwrap()) else { continue };
                for (from, to) in [(caller.try_clone(), called.try_clone()), (Ok(called), Ok(caller))] {
                    let (from, to, seen) = (from.unwrap(), to.unwrap(), seen.clone());
                    thread::spawn(move || pass_on(from, to, &seen));
                }
            }
        });
        recorder
    }

    fn has_seen(&self, text: &str) -> bool {
        self.seen.lock().unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        seen.lock().unwrap().extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Three nodes of a cluster, the last of them behind a recorder: the nodes, and what it has seen of a marked transaction that went
/// through each of them.
fn recorded(options: &[String], folder: &Path) -> (Vec<TestNode>, Recorder) {
    let recorder = Recorder::new();
    let scheme = if options.is_empty() { "" } else { "https://" };
    let advertised = format!("{scheme}localhost:{}", recorder.port);
    let mut nodes: Vec<TestNode> = Vec::new();
    for number in 0..3 {
        let first = nodes.first().map(TestNode::host);
        let mut more = vec!["--secret", SECRET];
        more.extend(first.iter().flat_map(|host| ["--join", host]));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let port = address.port().to_string();
        more.extend(["--port", &port]);
        if number == 2 {
            *recorder.to.lock().unwrap() = address.to_string();
            more.extend(["--advertise", &advertised]);
        }
        nodes.push(TestNode::open(&folder.join(number.to_string()), &words(options, &more)));
    }
    eventually("all three are live", || {
        let nodes = nodes[0].json("/cluster")["nodes"].clone();
        nodes.as_array().unwrap().iter().filter(|node| node["state"] == "live").count() == 3
    });
    let marked = json!({"name": "marked", "difficulty": 0, "replicas": 3});
    eventually("the chain is made", || nodes[0].post("/bang").json(&marked).send().unwrap().status() == 201);
    for node in &nodes {
        eventually("it takes a write", || {
            let body = json!({"data": "the-marked-payload", "id": node.url});
            node.post("/chains/marked/inject").json(&body).send().unwrap().status() == 202
        });
        // What is not carried but sent on.
        eventually("it takes a leap", || node.post("/chains/marked/leap").send().unwrap().status() == 201);
        assert!(node.json("/chains").to_string().contains("marked"));
    }
    (nodes, recorder)
}

#[test]
fn who_listens_between_nodes_hears_nothing() {
    let authority = Authority::new();
    authority.sign("node", 90);
    let folder = tempfile::tempdir().unwrap();
    let (nodes, recorder) = recorded(&authority.options("node"), &folder.path().join("tls"));
    assert!(recorder.seen.lock().unwrap().len() > 10_000, "the cluster speaks through it");
    for text in ["the-marked-payload", "marked", "HTTP/1.1", "qbc-link 1"] {
        assert!(!recorder.has_seen(text), "{text}");
    }
    assert!(nodes.iter().all(|node| node.json("/readyz").get("warnings").is_none()));
    drop(nodes);
    // The same without TLS, so that this test is known to see what is there.
    let (_nodes, recorder) = recorded(&[], &folder.path().join("plain"));
    assert!(recorder.has_seen("the-marked-payload") && recorder.has_seen("qbc-link 1"));
}

/// Symptom: none could switch TLS on, since nodes know each other by hosts without it. Cure: a node tells the others where it is.
#[test]
fn a_cluster_gets_tls_node_by_node_and_all_at_once() {
    let authority = Authority::new();
    authority.sign("node", 90);
    let (options, folder) = (authority.options("node"), tempfile::tempdir().unwrap());
    let data = |number: usize| folder.path().join(number.to_string());
    let ca = authority.text("ca.crt");
    let first = TestNode::open(&data(0), &["--secret", SECRET, "--ca", &ca]);
    let second = TestNode::open(&data(1), &["--secret", SECRET, "--ca", &ca, "--join", &first.host()]);
    let ports = [&first, &second].map(|node| node.address().rsplit_once(':').unwrap().1.to_owned());
    let works = |one: &TestNode, other: &TestNode, name: &str| {
        eventually("a chain is made at one node and seen at the other", || {
            let made = one.post("/bang").json(&json!({"name": name, "difficulty": 0})).send().unwrap();
            made.status() == 201 || made.status() == 409
        });
        eventually("it is written at the other", || {
            other.post(&format!("/chains/{name}/inject")).json(&json!({"data": 1, "id": "x"})).send().unwrap().status()
                == 202
        });
    };
    works(&first, &second, "plain");
    // One of them: it says that what goes to the other is not encrypted. What comes from there is.
    let (data_0, _) = first.kill();
    let first = TestNode::open(&data_0, &words(&options, &["--port", &ports[0]]));
    works(&first, &second, "mixed");
    eventually("the open way is told", || first.json("/readyz")["warnings"].to_string().contains("not encrypted"));
    let nodes = || second.json("/cluster")["nodes"].to_string();
    eventually("the new host is known", || nodes().contains("https://"));
    // Both at once, which know each other by other hosts than they have then.
    let (data_1, _) = second.kill();
    let second = TestNode::open(&data_1, &words(&options, &["--port", &ports[1]]));
    works(&second, &first, "encrypted");
    eventually("nothing is left to tell", || first.json("/readyz").get("warnings").is_none());
    // Without TLS nobody joins it by a host that has TLS, and is told why.
    let third = folder.path().join("2");
    let third = third.to_str().unwrap();
    let bare = first.host().replace("https://", "");
    let args = ["serve", "--data", third, "--port", "0", "--secret", SECRET, "--join", &bare];
    let refused = run(env!("CARGO_BIN_EXE_qbc"), &args).unwrap();
    assert!(!refused.status.success() && told(&refused).contains("https://"), "{}", told(&refused));
    let host = first.host();
    let args =
        [&args[..6], &["5ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec5", "--join", &host]].concat();
    let refused = run(env!("CARGO_BIN_EXE_qbc"), &args).unwrap();
    assert!(!refused.status.success() && told(&refused).contains("secret"), "{}", told(&refused));
}
