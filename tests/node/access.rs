//! Who may do what: every route with every role, lists, reload, bounds, and where tokens must not be.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use qbc::core::hash;
use reqwest::{
    Method,
    blocking::{RequestBuilder, Response},
};
use serde_json::{Value, json};

use crate::{
    cluster::Nodes,
    support::{TestNode, eventually, header, problem},
};

/// An access file with a token of each role on all chains, and one of all roles on the chains `a*`.
fn file(rest: &str) -> String {
    let entry = |name: &str, roles: &str, chains: &str| {
        let digest = hash::token(name.as_bytes());
        format!("[[tokens]]\nname = \"{name}\"\nsha256 = \"{digest}\"\nroles = [{roles}]\nchains = [\"{chains}\"]\n")
    };
    let roles = ["read", "write", "operate"];
    let all: Vec<String> = roles.iter().map(|role| entry(role, &format!("\"{role}\""), "*")).collect();
    let narrow = entry("narrow", "\"read\", \"write\", \"operate\"", "a*");
    let admin = entry("admin", "\"read\", \"write\", \"operate\"", "*");
    format!("{rest}\n{}{narrow}{admin}", all.concat())
}

struct Guarded {
    node: TestNode,
    folder: tempfile::TempDir,
}

impl Guarded {
    fn start(text: &str, options: &[&str]) -> Guarded {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        fs::write(&path, text).unwrap();
        let options = [&["--access", path.to_str().unwrap(), "--log", "debug"], options].concat();
        Guarded {
            node: TestNode::open_logging(&folder.path().join("data"), &options, &folder.path().join("log")),
            folder,
        }
    }

    fn write(&self, text: &str) {
        // As an editor does it: another file takes its place.
        let (new, path) = (self.folder.path().join("new"), self.folder.path().join("access.toml"));
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn send(&self, token: Option<&str>, request: RequestBuilder) -> Response {
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
        .send()
        .unwrap()
    }

    fn bang(&self, name: &str) {
        let body = json!({"name": name, "difficulty": 0});
        let made = self.send(Some("admin"), self.node.post("/bang").json(&body));
        assert_eq!(made.status(), 201, "{}", made.text().unwrap());
    }

    fn inject(&self, chain: &str, data: Value) {
        let url = format!("/chains/{chain}/inject");
        let sent = self.send(Some("admin"), self.node.post(&url).json(&json!({ "data": data })));
        assert_eq!(sent.status(), 202);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || !self.log().contains("OpenAPI document"), "{}", self.log());
    }
}

/// What a route takes, in the words of the table: a role, or nothing where it is open.
fn needed(operation: &Value) -> Option<&str> {
    let security = operation["security"].as_array()?;
    Some(security[0]["bearer"][0].as_str().expect("the scheme has the role"))
}

fn fill(path: &str) -> String {
    let values = [("chain", "ab"), ("name", "ab"), ("mirror", "ab"), ("index", "0"), ("id", "0"), ("quant", "0")];
    let mut filled = path.to_owned();
    for (name, value) in values {
        filled = filled.replace(&format!("{{{name}}}"), value);
    }
    let filled = filled.replace("{log}", &"0".repeat(64)).replace("{level}", "0").replace("{tile}", "000");
    let filled = filled.replace("{topic}", "proofs").replace("{file}", "app.js");
    assert!(!filled.contains('{'), "{filled}: this test knows no value");
    filled
}

/// All routes of the document: method, path, and what it takes.
fn routes(node: &TestNode) -> Vec<(Method, String, Option<String>)> {
    let document = node.json("/openapi.json");
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            routes.push((method, path.clone(), needed(operation).map(str::to_owned)));
        }
    }
    assert!(routes.len() >= 60, "the document has them all");
    routes
}

/// A body that the route reads before it does anything, so that who may ask is answered 4xx all the same, or is done.
fn body(path: &str) -> Value {
    match path {
        "/bang" => json!({"name": "ab", "difficulty": 0}),
        path if path.ends_with("/fork") => json!({"name": "ac"}),
        "/mirrors" => json!({"from": "http://127.0.0.1:1/chains/ab", "key": "no key"}),
        "/discover" => json!({"host": "127.0.0.1:1"}),
        _ => json!({"nonsense": true}),
    }
}

#[test]
fn every_route_takes_its_role_and_no_other() {
    let guarded = Guarded::start(&file(""), &[]);
    guarded.bang("ab");
    guarded.bang("b");
    let node = &guarded.node;
    let open = [
        "/",
        "/livez",
        "/readyz",
        "/openapi.json",
        "/peers/hello",
        "/add-checkpoint",
        "/guide",
        "/guide/{topic}",
        "/explorer/{file}",
    ];
    for (method, path, role) in routes(node) {
        assert_eq!(role.is_none(), open.contains(&path.as_str()), "{method} {path}: {role:?}");
        // A stream without end is looked at alone.
        if path.ends_with("/events") {
            continue;
        }
        let query =
            if path == "/import" && method != "GET" { format!("?chain={}", "0".repeat(64)) } else { String::new() };
        let target = format!("{}{query}", fill(&path));
        let request = || match method.as_str() {
            "GET" => node.request(method.clone(), &target),
            _ => node.request(method.clone(), &target).json(&body(&path)),
        };
        let place = format!("{method} {target}");
        for token in [None, Some("read"), Some("write"), Some("operate"), Some("wrong"), Some("narrow")] {
            let answer = guarded.send(token, request());
            let (status, challenge) = (answer.status().as_u16(), header(&answer, "www-authenticate"));
            let is_refused = matches!(status, 401 | 403) && challenge.starts_with("Bearer ");
            // The default chain is none of those with "a"; nor is the node as a whole.
            let is_of_node = ["/discover", "/cluster/nodes/{id}"].contains(&path.as_str()) && method != "GET";
            let is_of_default = !path.contains('{') && !open.contains(&path.as_str())
                || path.starts_with("/transactions")
                || path.starts_with("/quants")
                || path.starts_with("/tile");
            let is_of_default = is_of_default
                && !["/bang", "/import", "/chains", "/discover", "/cluster", "/mirrors", "/witness", "/metrics"]
                    .contains(&path.as_str());
            let may = match (&role, token) {
                (None, _) => true,
                (Some(_), None | Some("wrong")) => false,
                (Some(_), Some("narrow")) => !(is_of_node || is_of_default || path == "/import" && method != "GET"),
                // A fork shows the past of its parent.
                (Some(role), Some(token)) => role == token && !path.ends_with("/fork"),
            };
            // Whoever sends no export is told of that before anybody knows what it is of.
            let may = may || path == "/import" && method == "POST" && matches!(token, Some("operate" | "narrow"));
            assert_eq!(!is_refused, may, "{place} with {token:?}, which takes {role:?}: {status} {challenge}");
            let expected = match token {
                _ if may => continue,
                None => (401, "Bearer realm=\"qbc\"".to_owned()),
                Some("wrong") => (401, "Bearer realm=\"qbc\", error=\"invalid_token\"".to_owned()),
                Some(_) => {
                    let role = if path.ends_with("/fork") && token == Some("operate") {
                        "read"
                    } else {
                        role.as_deref().unwrap()
                    };
                    (403, format!("Bearer realm=\"qbc\", error=\"insufficient_scope\", scope=\"{role}\""))
                }
            };
            assert_eq!((status, challenge), expected, "{place} with {token:?}");
            problem(answer, status);
        }
    }
    // Nothing was done for those who may not.
    let chains: Value = guarded.send(Some("admin"), node.get("/chains")).json().unwrap();
    let names: Vec<&str> = chains.as_array().unwrap().iter().map(|chain| chain["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ab", "ac", "b", "qbc"]);
}

#[test]
fn metrics_name_chains_only_to_whoever_may_read_them_all() {
    let guarded = Guarded::start(&file(""), &["--metrics-chains"]);
    guarded.bang("ab");
    guarded.bang("hidden");
    let read = |token| guarded.send(Some(token), guarded.node.get("/metrics")).text().unwrap();
    let all = read("read");
    assert!(all.contains("chain=\"hidden\"") && all.contains("chain=\"ab\""), "{all}");
    let narrow = read("narrow");
    assert!(narrow.contains("qbc_ready") && !narrow.contains("hidden"), "{narrow}");
}

#[test]
fn a_token_is_shown_in_one_way_and_kept_out_of_the_log() {
    let guarded = Guarded::start(&file(""), &[]);
    let node = &guarded.node;
    let ask = |value: &str| node.get("/stats").header("authorization", value).send().unwrap();
    for good in ["Bearer read", "bearer read", "BEARER  read", "Bearer read "] {
        assert_eq!(ask(good).status(), 200, "{good}");
    }
    for (wrong, invalid) in
        [("Basic cmVhZDo=", false), ("read", false), ("Bearer", true), ("Bearer re ad", true), ("Bearer readx", true)]
    {
        let answer = ask(wrong);
        let challenge = header(&answer, "www-authenticate");
        assert_eq!(challenge.contains("invalid_token"), invalid, "{wrong}: {challenge}");
        problem(answer, 401);
    }
    let twice = node.get("/stats").header("authorization", "Bearer read").header("authorization", "Bearer admin");
    problem(twice.send().unwrap(), 400);
    // No token in a URL: it would stand in logs and histories.
    assert_eq!(node.get("/stats?access_token=read").send().unwrap().status(), 401);
    assert_eq!(node.get("/livez").bearer_auth("a-secret-that-is-none").send().unwrap().status(), 200);
    problem(ask("Bearer a-secret-that-is-none"), 401);
    guarded.bang("x");
    let refused = problem(guarded.send(Some("read"), node.post("/inject").json(&json!({"data": 1}))), 403);
    assert!(
        refused["detail"].as_str().unwrap().contains("\"read\" has not the role write on the chain \"qbc\""),
        "{refused}"
    );
    eventually("the log is written", || guarded.log().contains("token=\"admin\""));
    let log = guarded.log();
    assert!(!log.contains("a-secret-that-is-none") && !log.contains("Bearer"), "{log}");
}

#[test]
fn rights_go_by_the_names_of_chains_whatever_they_are_called_by() {
    let guarded = Guarded::start(&file(""), &[]);
    ["ab", "b"].iter().for_each(|name| guarded.bang(name));
    let node = &guarded.node;
    let id = |chain: &str| {
        let chain: Value = guarded.send(Some("admin"), node.get(&format!("/chains/{chain}"))).json().unwrap();
        chain["id"].as_str().unwrap().to_owned()
    };
    let status = |path: &str| guarded.send(Some("narrow"), node.get(path)).status().as_u16();
    for (path, expected) in [
        ("/chains/ab/stats".to_owned(), 200),
        ("/chains/%61b/stats".into(), 200),
        (format!("/chains/{}/stats", id("ab")), 200),
        ("/chains/b/stats".into(), 403),
        ("/chains/%62/stats".into(), 403),
        (format!("/chains/{}/stats", id("b")), 403),
        ("/stats".into(), 403),
        // What there is none of is told to those alone who might have it.
        ("/chains/a-none/stats".into(), 404),
        ("/chains/none/stats".into(), 403),
        (format!("/chains/{}/stats", "0".repeat(64)), 403),
    ] {
        assert_eq!(status(&path), expected, "{path}");
    }
    // New chains have names that the token is for, and a fork is of a chain that it is for.
    let bang =
        |name: &str| guarded.send(Some("narrow"), node.post("/bang").json(&json!({"name": name, "difficulty": 0})));
    assert_eq!((bang("a2").status().as_u16(), bang("c").status().as_u16()), (201, 403));
    let fork = |of: &str, name: &str| {
        guarded
            .send(Some("narrow"), node.post(&format!("/chains/{of}/fork")).json(&json!({ "name": name })))
            .status()
            .as_u16()
    };
    assert_eq!((fork("ab", "a3"), fork("ab", "c"), fork("b", "a4")), (201, 403, 403));
    let mirror = |name: &str| {
        let key = node_key(node);
        let body = json!({"from": format!("http://127.0.0.1:1/chains/{name}"), "key": key});
        guarded.send(Some("narrow"), node.post("/mirrors").json(&body)).status().as_u16()
    };
    assert_eq!((mirror("a5"), mirror("c")), (409, 403));
    // Of an import the name is known when its first lines have come.
    guarded.inject("b", json!(1));
    let export = |chain: &str| {
        let mut export = Command::new(env!("CARGO_BIN_EXE_qbc"));
        export.args(["export", "--node", &node.url, "--chain", chain]).env("QBC_TOKEN", "admin");
        String::from_utf8(export.output().unwrap().stdout).unwrap()
    };
    let other = TestNode::start(&[]);
    for (name, expected) in [("c", 403), ("a6", 201)] {
        other.bang(json!({"name": name, "difficulty": 0}));
        other.inject(&format!("/chains/{name}"), json!(1));
        other.leap(&format!("/chains/{name}"));
        let mut lines = Command::new(env!("CARGO_BIN_EXE_qbc"));
        let lines = lines.args(["export", "--node", &other.url, "--chain", name]).output().unwrap().stdout;
        let id = other.json(&format!("/chains/{name}"))["id"].as_str().unwrap().to_owned();
        let import =
            node.post(&format!("/import?chain={id}")).header("content-type", "application/x-ndjson").body(lines);
        let answer = guarded.send(Some("narrow"), import);
        assert_eq!(answer.status(), expected, "{}", answer.text().unwrap());
    }
    assert!(export("ab").contains("\"ab\""), "the program shows its token");
    let imports: Value = guarded.send(Some("admin"), node.get("/import")).json().unwrap();
    assert_eq!(imports, json!([]), "nothing is kept of what was refused");
    // Lists have what may be read, and their pages lead past the rest without naming it.
    let first = guarded.send(Some("narrow"), node.get("/chains?limit=2"));
    let link = header(&first, "link");
    let names = |page: Value| -> Vec<String> {
        page.as_array().unwrap().iter().map(|chain| chain["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(link, "</chains?after=a3&limit=2>; rel=\"next\"");
    assert_eq!(names(first.json().unwrap()), ["a2", "a3"]);
    let rest = guarded.send(Some("narrow"), node.get("/chains?after=a3&limit=2"));
    assert_eq!(header(&rest, "link"), "");
    assert_eq!(names(rest.json().unwrap()), ["a6", "ab"]);
    // What everybody may see says nothing of chains.
    assert_eq!(node.json("/")["chains"], Value::Null);
}

/// The verifier key of a node.
fn node_key(node: &TestNode) -> String {
    let key = Command::new(env!("CARGO_BIN_EXE_qbc")).args(["key", "--data"]).arg(&node.data).output().unwrap();
    String::from_utf8(key.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_everybody_may_takes_no_token() {
    let guarded = Guarded::start(&file("anonymous = [\"read\"]\nanonymous_chains = [\"public-*\"]"), &[]);
    ["public-1", "b"].iter().for_each(|name| guarded.bang(name));
    let node = &guarded.node;
    let status = |path: &str| node.get(path).send().unwrap().status().as_u16();
    assert_eq!((status("/chains/public-1/stats"), status("/chains/b/stats"), status("/stats")), (200, 401, 401));
    assert_eq!(node.json("/chains").as_array().unwrap().len(), 1);
    problem(node.post("/chains/public-1/inject").json(&json!({"data": 1})).send().unwrap(), 401);
    // Whoever has a token may do that, too; a wrong one is told.
    assert_eq!(guarded.send(Some("write"), node.get("/chains/public-1/stats")).status(), 200);
    assert_eq!(guarded.send(Some("wrong"), node.get("/chains/public-1/stats")).status(), 401);
}

/// What is in force after a change of the file, on SIGHUP or without; a wrong file changes nothing; who listens is cut off.
#[test]
fn the_file_is_read_again_without_a_restart() {
    let guarded = Guarded::start(&file(""), &[]);
    let node = &guarded.node;
    let status = |token: &str| guarded.send(Some(token), node.get("/stats")).status().as_u16();
    let mut listener = BufReader::new(listen(node, "read"));
    assert_eq!(status("new"), 401);
    let new = file("").replace(&hash::token(b"write").to_string(), &hash::token(b"new").to_string());
    let new = new.replacen("\"write\"]", "\"read\"]", 1);
    guarded.write(&new);
    eventually("the new file is in force", || status("new") == 200);
    assert_eq!((status("write"), status("read")), (401, 200), "those in both files go on");
    // Wrong: the line is named, and what was in force stays.
    guarded.write(&file("anonymous = [\"nonsense\"]"));
    eventually("it is refused", || guarded.log().contains("line 1: a role is read, write or operate"));
    assert_eq!((status("new"), status("write")), (200, 401));
    // A listener whose token is taken away hears no more.
    guarded.write(&file("").replace(&hash::token(b"read").to_string(), &hash::token(b"gone").to_string()));
    let mut rest = String::new();
    listener.read_to_string(&mut rest).expect("the stream ends");
    eventually("it is taken away", || status("read") == 401);
    fs::remove_file(guarded.folder.path().join("access.toml")).unwrap();
    eventually("it is refused", || guarded.log().contains("No such file"));
    assert_eq!(status("write"), 403, "what was in force stays");
    // On SIGHUP at once.
    fs::write(guarded.folder.path().join("access.toml"), file("")).unwrap();
    let pid = node.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    eventually("it is in force", || status("read") == 200);
}

/// A connection on which the events of the default chain come, behind their head.
fn listen(node: &TestNode, token: &str) -> std::net::TcpStream {
    let mut stream = node.connect();
    let head = format!("GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

/// Of 20,000 listeners and connections a client may have one hundredth here.
#[test]
fn a_client_takes_up_no_more_than_its_share() {
    let guarded = Guarded::start(&file(""), &["--client-share", "1"]);
    let node = &guarded.node;
    // Bodies: that much, and at least one of full size, 8 MiB.
    let large = || {
        let body = json!(vec![json!({ "data": "x".repeat(300_000) }); 4]);
        guarded.send(Some("write"), node.post("/inject").json(&body))
    };
    assert_eq!(large().status(), 202);
    let head = "POST /inject HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer write";
    let head = format!("{head}\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n\r\n");
    let padding = vec![b' '; 7_800_000];
    let (mut slow, mut refused) = (Vec::new(), None);
    eventually("the room of the client is taken up", || {
        // Whichever comes last is refused, so it may take some.
        let mut stream = node.connect();
        if stream.write_all(&[head.as_bytes(), padding.as_slice()].concat()).is_ok() {
            slow.push(stream);
        }
        refused = Some(large()).filter(|answer| answer.status() != 202);
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_eq!(header(&refused, "retry-after"), "1");
    let refused = problem(refused, 429);
    assert!(refused["detail"].as_str().unwrap().contains("bytes of bodies"), "{refused}");
    drop(slow);
    eventually("what was held is given back", || large().status() == 202);
    // Connections: each is of this address, whatever it shows.
    let connections = limit_of_files() / 100;
    let mut held = Vec::new();
    let told = loop {
        let mut stream = node.connect();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        match line.starts_with("HTTP/1.1 200") {
            true => held.push(stream),
            false => break line,
        }
        assert!(held.len() <= 200, "there is no bound");
    };
    assert!(told.starts_with("HTTP/1.1 429"), "{told}");
    assert!(held.len() as u64 >= connections.min(100), "{} of {connections}", held.len());
    drop(held);
    eventually("connections that have ended count no more", || {
        node.get("/livez").send().is_ok_and(|answer| answer.status() == 200)
    });
}

/// The connections that a node has at most, whatever its own files.
fn limit_of_files() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find(|line| line.starts_with("Max open files"));
    let hard = files.and_then(|line| line.split_whitespace().nth(4)?.parse::<u64>().ok()).unwrap_or(20_000);
    hard.saturating_sub(1_200).clamp(100, 20_000)
}

#[test]
fn a_node_that_everybody_reaches_says_who_may_do_what() {
    let start = |options: &[&str]| {
        let mut node = Command::new(env!("CARGO_BIN_EXE_qbc"));
        node.args(["serve", "--ephemeral", "--port", "0"]).args(options).env_remove("QBC_OPEN");
        node.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for host in ["0.0.0.0", "::"] {
        let ended = start(&["--host", host]).wait_with_output().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{told}");
        assert!(told.contains("--access FILE") && told.contains("--open") && told.contains("qbc token"), "{told}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    fs::write(&path, file("")).unwrap();
    for options in [&["--host", "0.0.0.0", "--open"][..], &["--host", "0.0.0.0", "--access", path.to_str().unwrap()]] {
        let mut node = start(options);
        let mut line = String::new();
        BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
        assert!(line.starts_with("listening on http://0.0.0.0:"), "{line}");
    }
    // A wrong file is named with its line, before anything is begun.
    fs::write(&path, "anonymous = [\"all\"]\n").unwrap();
    let ended = start(&["--access", path.to_str().unwrap()]).wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && told.contains("access.toml is refused: line 1: "), "{told}");
}

/// The node that a client reaches decides, whoever leads the chain; and nobody from outside passes for a node.
#[test]
fn in_a_cluster_the_node_that_is_reached_decides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    // Who looks how the cluster stands shows no token.
    fs::write(&path, file("anonymous = [\"read\"]\nanonymous_chains = [\"none\"]")).unwrap();
    let nodes = Nodes::with(3, &["--access", path.to_str().unwrap()]);
    let send = |token: Option<&str>, request: RequestBuilder| match token {
        Some(token) => request.bearer_auth(token).send().unwrap(),
        None => request.send().unwrap(),
    };
    let bang = json!({"name": "ab", "difficulty": 0, "replicas": 1});
    crate::cluster::eventually("it is made", || {
        let made = send(Some("admin"), nodes.node(0).post("/bang").json(&bang));
        matches!(made.status().as_u16(), 201 | 409)
    });
    for number in 0..3 {
        let node = nodes.node(number);
        crate::cluster::eventually("each node knows the chain", || {
            send(Some("read"), node.get("/chains/ab/stats")).status() == 200
        });
        let inject = |token| send(token, node.post("/chains/ab/inject").json(&json!({"data": number})));
        assert_eq!(inject(Some("write")).status(), 202, "it is sent on to the node that keeps it");
        assert_eq!(inject(Some("read")).status(), 403);
        // Headers that nodes set for each other mean nothing from outside.
        for (name, value) in [("qbc-forwarded", "1"), ("qbc-group", "1")] {
            let forged = node.post("/chains/ab/inject").header(name, value).json(&json!({"data": "forged"}));
            assert_eq!(forged.send().unwrap().status(), 401, "{name}");
        }
        let leap = send(Some("write"), node.post("/chains/ab/leap"));
        assert_eq!(leap.status(), 201);
        let listed: Value = send(Some("narrow"), node.get("/chains")).json().unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    }
}

/// Two nodes with access files meet: what nodes tell each other takes no token.
#[test]
fn nodes_with_access_files_discover_each_other() {
    let (one, other) = (Guarded::start(&file(""), &[]), Guarded::start(&file(""), &[]));
    let meet = one.node.post("/discover").json(&json!({"host": other.node.host()}));
    assert_eq!(one.send(Some("operate"), meet).status(), 201);
    for guarded in [&one, &other] {
        let known: Value = guarded.send(Some("read"), guarded.node.get("/discover")).json().unwrap();
        assert_eq!(known.as_array().unwrap().len(), 1);
    }
}

/// A mirror shows its source a token, keeps it over a restart, and shows it nobody else.
#[test]
fn a_mirror_shows_its_source_a_token() {
    let source = Guarded::start(&file(""), &[]);
    source.bang("ab");
    source.inject("ab", json!("mirrored"));
    assert_eq!(source.send(Some("admin"), source.node.post("/chains/ab/leap")).status(), 201);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mirror = TestNode::open(&data, &[]);
    let follow = |mirror: &TestNode, token: Option<&str>| {
        let from = format!("{}/chains/ab", source.node.url);
        let mut body = json!({"from": from, "key": node_key(&source.node)});
        if let Some(token) = token {
            body["token"] = token.into();
        }
        mirror.post("/mirrors").json(&body).send().unwrap()
    };
    let told = problem(follow(&mirror, None), 422);
    assert!(told["detail"].as_str().unwrap().contains("401") && told.to_string().contains("POST /mirrors"), "{told}");
    problem(follow(&mirror, Some("a b")), 422);
    let made = follow(&mirror, Some("read"));
    assert_eq!(made.status(), 201);
    assert!(!made.text().unwrap().contains("token"));
    let has_come = |mirror: &TestNode| {
        mirror.get("/chains/ab/stats").send().unwrap().json::<Value>().is_ok_and(|stats| stats["size"] == 2)
    };
    eventually("the copy has come", || has_come(&mirror));
    assert!(!mirror.json("/mirrors").to_string().contains("token"));
    mirror.kill();
    source.inject("ab", json!("later"));
    assert_eq!(source.send(Some("admin"), source.node.post("/chains/ab/leap")).status(), 201);
    let mirror = TestNode::open(&data, &[]);
    eventually("it goes on", || mirror.json("/chains/ab/stats")["size"] == 3);
    assert!(is_private(&data.join("mirror.tokens")));
    assert_eq!(mirror.request(Method::DELETE, "/mirrors/ab").send().unwrap().status(), 204);
    assert_eq!(fs::read_to_string(data.join("mirror.tokens")).unwrap(), "{}\n");
}

fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0
}

/// Pages of an allowed site can show a token, and see that one is asked for.
#[test]
fn a_page_of_an_allowed_site_can_show_a_token() {
    let site = "https://app.example";
    let guarded = Guarded::start(&file(""), &["--cors-origin", site]);
    let preflight = guarded.node.request(Method::OPTIONS, "/inject").header("origin", site);
    let preflight = preflight
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
        .send()
        .unwrap();
    assert!(preflight.status().is_success());
    assert!(header(&preflight, "access-control-allow-headers").contains("authorization"));
    let refused = guarded.node.get("/stats").header("origin", site).send().unwrap();
    assert_eq!((refused.status().as_u16(), header(&refused, "access-control-allow-origin")), (401, site.into()));
}
