//! A node as its operator has it: its configuration, what is told to systemd, health checks, the doctor, a proxy in front, and folders of
//! other versions.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cluster::Nodes,
    support::{TestNode, eventually},
    tls::Authority,
};

fn qbc(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qbc")).args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn write(folder: &Path, content: &str) -> PathBuf {
    let file = folder.join("qbc.toml");
    fs::write(&file, content).unwrap();
    file
}

/// What `qbc config check` prints, by the settings' names, or its error.
fn checked(content: &str, variables: &[(&str, &str)]) -> Result<BTreeMap<String, String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), content);
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    command.args(["config", "check"]).arg(&file).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let printed = text(&output.stdout).replace(file.to_str().unwrap(), "FILE");
    match output.status.code() {
        Some(0) => Ok(printed
            .lines()
            .map(|line| line.split_once(" = ").unwrap())
            .map(|(name, value)| (name.into(), value.into()))
            .collect()),
        Some(1) => Err(text(&output.stderr).replace(file.to_str().unwrap(), "FILE")),
        code => panic!("{code:?}: {}", text(&output.stderr)),
    }
}

#[test]
fn a_configuration_says_what_flags_say() {
    let content = "
        # The node of the harbour office.
        port = 5_001
        leap-every = \"1s\"
        allow-host = [\"ledger.example\", \"b.example\"]
        discover-allow = \"private\"
        log-json = true
        client-share = 80
        log = \"warn,qbc::http=debug\"
        ephemeral = false
        secret = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"
    ";
    let all = checked(content, &[("QBC_LEAP_EVERY", "2s")]).unwrap();
    let of = |name: &str| all.get(name).map_or("", String::as_str);
    assert_eq!(of("port"), "5001  # FILE");
    assert_eq!(of("allow-host"), "[\"ledger.example\", \"b.example\"]  # FILE");
    assert_eq!(of("log-json"), "true  # FILE");
    assert_eq!(of("ephemeral"), "false  # default");
    assert_eq!(of("leap-every"), "\"2s\"  # QBC_LEAP_EVERY");
    assert_eq!(of("host"), "\"127.0.0.1\"  # default");
    assert_eq!(of("secret"), "\"(a secret)\"  # FILE");
}

#[test]
fn what_is_wrong_in_a_configuration_is_named_with_its_line() {
    let wrong = |content: &str, expected: &[&str]| {
        let error = checked(content, &[]).expect_err(content);
        assert!(expected.iter().all(|part| error.contains(part)), "{content:?}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    };
    wrong("port = 1\nprot = 5001", &["FILE:2: there is no setting \"prot\"", "do you mean \"port\"?"]);
    wrong("\nQBC_LEAP_EVERY = \"1s\"", &["FILE:2:", "do you mean \"leap-every\"?"]);
    wrong("config = \"other.toml\"", &["FILE:1: there is no setting \"config\""]);
    wrong("entirely-other = 1", &["FILE:1:", "qbc serve --help"]);
    wrong("port = \"5001\"", &["FILE:1: port takes a whole number, and this is a text"]);
    wrong("port = 70000", &["FILE:1: port: ", "70000"]);
    wrong("port = 1.5", &["a number with a point"]);
    wrong("leap-every = 1", &["FILE:1: leap-every takes a text in quotes, and this is a whole number"]);
    wrong("leap-every = \"1 day\"", &["FILE:1: leap-every: ", "500ms, 1s, 2m or 1h"]);
    wrong("log-json = \"yes\"", &["log-json takes true or false"]);
    wrong(
        "allow-host = [\"a.example\", 7]",
        &["allow-host takes a list, of which each is a text in quotes", "a whole number"],
    );
    wrong("client-share = \"80\"", &["client-share takes a whole number"]);
    wrong("log = \"warning\"", &["FILE:1: log: \"warning\" is no level"]);
    wrong("mining-threads = 100000", &["from 1 to 1024"]);
    wrong("advertise = \"x:y:z\"", &["HOST:PORT"]);
    wrong("access = \"nowhere.toml\"", &["a node does not start with FILE", "nowhere.toml"]);
    wrong("host = \"0.0.0.0\"", &["a node does not start with FILE", "--access"]);
    wrong("allow-host = 7", &["allow-host takes a list"]);
    wrong("port = [1]", &["this is a list"]);
    wrong("[node]\nport = 1", &["FILE:1: there is no setting \"node\""]);
    wrong("port = 1\nport = 2", &["FILE:2:", "duplicate"]);
    wrong("port 5001", &["FILE:1:"]);
    wrong("data = \"x\"\nephemeral = true", &["FILE: ", "cannot be used with"]);
    // A secret that is none is not repeated.
    let error = checked("secret = \"not-so-secret\"", &[]).unwrap_err();
    assert!(error.contains("FILE:1: secret: ") && !error.contains("not-so"), "{error}");
    let missing = qbc(&["config", "check", "/nowhere/qbc.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("cannot read the configuration /nowhere/qbc.toml"));
}

#[test]
fn flags_count_before_variables_and_those_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file =
        write(folder.path(), "leap-every = \"10ms\"\nallow-host = [\"a.example\"]\ndata = \"not/here\"\nport = 1\n");
    // TestNode says the port by a variable, and the data folder by a flag.
    let node = TestNode::start(&["--config", file.to_str().unwrap()]);
    node.inject("", json!(1));
    eventually("it leaps by itself", || node.json("/stats")["pooled"] == 0);
    let of = |host: &str| node.get("/stats").header("host", host).send().unwrap().status().as_u16();
    assert_eq!((of("a.example"), of("b.example")), (200, 421));
    drop(node);
    // A flag takes the place of all that the file says of the option.
    let node = TestNode::start(&["--config", file.to_str().unwrap(), "--allow-host", "b.example"]);
    let of = |host: &str| node.get("/stats").header("host", host).send().unwrap().status().as_u16();
    assert_eq!((of("a.example"), of("b.example")), (421, 200));
    // What excludes it, too: the file has a data folder.
    let start = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
        command.args(arguments).env("QBC_CONFIG", &file).env("QBC_LOG", "warn");
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        line
    };
    assert!(start(&["--ephemeral", "--port", "0"]).starts_with("listening on"));
    // A wrong one starts no node.
    write(folder.path(), "leap-evry = \"1s\"");
    let refused = qbc(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));
    assert!(
        text(&refused.stderr).contains("qbc.toml:1: there is no setting \"leap-evry\": do you mean \"leap-every\"?")
    );
    assert!(!Path::new("not/here").exists());
}

#[test]
fn on_sighup_the_filter_of_the_log_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let (file, log) = (write(folder.path(), "log = \"warn\""), folder.path().join("log"));
    let data = folder.path().join("data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    command.args(["serve", "--port", "0", "--data"]).arg(&data).arg("--config").arg(&file);
    command.env_remove("QBC_LOG").stdout(std::process::Stdio::piped()).stderr(fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let says = |what: &str| fs::read_to_string(&log).unwrap().contains(what);
    let hang_up = || {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    assert!(!says("INFO"));
    write(folder.path(), "log = \"info\"\nmax-pool = 5");
    hang_up();
    eventually("it is read again", || says("was read again"));
    assert!(says("in force only when the node is started again: max-pool"));
    write(folder.path(), "log = 7");
    hang_up();
    eventually("it is refused", || says("all stays as it is") && says("qbc.toml:1: log takes a text"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn systemd_is_told_what_the_node_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut said = String::new();
    let mut until = |what: &str| {
        while !said.lines().any(|line| line == what) {
            let mut bytes = [0; 4_096];
            let length =
                socket.recv(&mut bytes).unwrap_or_else(|error| panic!("in vain for {what}: {error} after {said}"));
            said += &format!("{}\n", text(&bytes[..length]));
        }
        said.split_off(0)
    };
    let place = format!("NOTIFY_SOCKET={}", path.display());
    let data = folder.path().join("data");
    let mut node = TestNode::under(&["env", &place, "WATCHDOG_USEC=200000"], &data, &[]);
    let started = until("READY=1");
    assert!(!started.contains("STOPPING"), "{started}");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    assert!(Command::new("kill").args(["-HUP", &node.pid().to_string()]).status().unwrap().success());
    let reloaded = until("RELOADING=1");
    assert!(reloaded.contains("MONOTONIC_USEC="), "{reloaded}");
    until("READY=1");
    assert_eq!(node.stop(), Some(0));
    until("STOPPING=1");
}

#[test]
fn the_unit_for_systemd_is_right_and_hardened() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/qbc.service");
    let Ok(analyzed) =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=20"]).arg(&unit).output()
    else {
        return println!("skipped: there is no systemd-analyze");
    };
    // A known exposure of at most 2.0 of 10.
    assert!(analyzed.status.success(), "{}{}", text(&analyzed.stdout), text(&analyzed.stderr));
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("qbc.service");
    let content = fs::read_to_string(unit).unwrap().replace("/usr/local/bin/qbc", env!("CARGO_BIN_EXE_qbc"));
    fs::write(&copy, content).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&copy).output().unwrap();
    assert!(verified.status.success() && !text(&verified.stderr).contains("qbc.service"), "{}", text(&verified.stderr));
}

#[test]
fn health_is_an_exit_code() {
    let node = TestNode::start(&[]);
    let health = |options: &[&str]| qbc(&[&["--node", &node.url, "health"], options].concat());
    let ready = health(&[]);
    assert_eq!((ready.status.code(), text(&ready.stdout).as_str()), (Some(0), "ready\n"));
    assert_eq!(text(&health(&["--live"]).stdout), "alive\n");
    let document: Value = serde_json::from_slice(&health(&["--json"]).stdout).unwrap();
    assert_eq!(document["status"], "ok");
    let url = node.url.clone();
    drop(node);
    let gone = qbc(&["--node", &url, "health"]);
    assert_eq!((gone.status.code(), gone.stdout.len()), (Some(1), 0));
    assert!(text(&gone.stderr).contains("no node answers"));
}

/// What the doctor finds wrong, by what it is about, and its exit code.
fn wrong(arguments: &[&str]) -> (Vec<(String, String)>, i32) {
    let output = qbc(&[&["doctor", "--json"], arguments].concat());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = found["findings"].as_array().unwrap().iter();
    let wrong = found.filter(|finding| finding["state"] == "wrong").map(|finding| {
        assert!(!text(&finding["cure"]).is_empty());
        (text(&finding["about"]), text(&finding["detail"]))
    });
    // A test may run where all is in memory.
    (wrong.filter(|(about, _)| about != "file system").collect(), output.status.code().unwrap())
}

#[test]
fn the_doctor_says_what_is_wrong_with_a_node() {
    let mut node = TestNode::start(&[]);
    let (data, port) = (node.data.to_str().unwrap().to_owned(), node.url.rsplit_once(':').unwrap().1.to_owned());
    let of_node = ["--data", &data, "--port", &port];
    assert_eq!(wrong(&of_node).0, []);
    let has = |found: &[(String, String)], about: &str, detail: &str| {
        found.iter().any(|(of, told)| of == about && told.contains(detail))
    };
    // Another port: a process has the folder, but does not answer there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (found, code) = wrong(&["--data", &data, "--port", &free]);
    assert!(code == 1 && has(&found, "node", "nothing answers"), "{found:?}");
    // At rest, with all of its faults.
    assert_eq!(node.stop(), Some(0));
    assert_eq!(wrong(&of_node).0, []);
    let key = node.data.join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().port().to_string();
    let (found, code) = wrong(&["--data", &data, "--port", &busy]);
    assert!(code == 1 && has(&found, "secrets", "node.key") && has(&found, "port", "--port"), "{found:?}");
    drop(taken);
    // It is told to people as well.
    let told = qbc(&["doctor", "--data", &data, "--port", &free]);
    assert_eq!(told.status.code(), Some(1));
    assert!(text(&told.stdout).contains("WRONG  secrets: ") && text(&told.stdout).contains("-> chmod 600 "));
    assert!(text(&told.stderr).contains("one thing is wrong") || text(&told.stderr).contains("things are wrong"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(node.data.join("format"), "qbc-data 5\n").unwrap();
    let (found, _) = wrong(&of_node);
    assert!(has(&found, "folder", "a newer version"), "{found:?}");
    // A configuration with a secret that others can read.
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &format!("secret = \"{}\"", "ab".repeat(32)));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (found, _) = wrong(&["--data", "not/here", "--port", &free, "--config", file.to_str().unwrap()]);
    assert!(has(&found, "configuration", "others can read"), "{found:?}");
    assert!(!Path::new("not/here").exists());
}

#[test]
fn the_doctor_says_when_another_node_answers() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    drop(taken);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    TestNode::open(&data, &[]).stop();
    let other = TestNode::start(&["--port", &port]);
    let (found, _) = wrong(&["--data", data.to_str().unwrap(), "--port", &port]);
    assert_eq!(found, [], "another node answers there, which is noted");
    let output = qbc(&["doctor", "--data", data.to_str().unwrap(), "--port", &port]);
    assert!(text(&output.stdout).contains("but none uses the folder"), "{}", text(&output.stdout));
    drop(other);
    // It answers, with a certificate that nobody has told the doctor to trust.
    let authority = Authority::new();
    let node = authority.node(&[]);
    let of_node = ["--data", node.data.to_str().unwrap(), "--node", &node.url];
    let (found, _) = wrong(&of_node);
    assert!(found.len() == 1 && found[0].0 == "tls" && found[0].1.contains("is not asked: "), "{found:?}");
    let ca = authority.text("ca.crt");
    assert_eq!(wrong(&[&of_node[..], &["--ca", &ca]].concat()).0, []);
}

#[test]
fn the_doctor_says_what_is_wrong_with_a_cluster() {
    let mut nodes = Nodes::start(3);
    let ask = |nodes: &Nodes| {
        let (data, node) = (nodes.data(0), nodes.node(0).url.clone());
        wrong(&["--data", data.to_str().unwrap(), "--node", &node]).0
    };
    eventually("all is well", || ask(&nodes).is_empty());
    nodes.kill(2);
    eventually("one is missed", || {
        ask(&nodes).iter().any(|(about, detail)| {
            about == "cluster" && (detail.ends_with("is suspect") || detail.ends_with("is down"))
        })
    });
}

#[test]
fn a_folder_of_a_newer_form_is_refused_and_left_as_it_is() {
    let mut node = TestNode::start(&[]);
    node.inject("", json!(1));
    assert_eq!(node.stop(), Some(0));
    fs::write(node.data.join("format"), "qbc-data 5\n").unwrap();
    let content = |folder: &Path| {
        let listed =
            Command::new("find").arg(folder).args(["-type", "f", "-exec", "sha256sum", "{}", "+"]).output().unwrap();
        let mut lines: Vec<String> = text(&listed.stdout).lines().map(str::to_owned).collect();
        lines.sort();
        assert!(lines.len() > 4);
        lines
    };
    let before = content(&node.data);
    let data = node.data.to_str().unwrap();
    let backup = node.data.with_extension("backup");
    for command in [
        &["serve", "--port", "0", "--data", data][..],
        &["verify", data],
        &["backup", "--data", data, backup.to_str().unwrap()],
    ] {
        let refused = qbc(command);
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{error}");
        assert!(
            ["qbc-data 5", "a newer version", "start that version again"].iter().all(|part| error.contains(part)),
            "{error}"
        );
    }
    assert_eq!(content(&node.data), before);
    fs::write(node.data.join("format"), "qbc-data 4\n").unwrap();
    assert_eq!(TestNode::open(&node.data.clone(), &[]).size(""), 2);
}

#[test]
fn an_index_of_another_version_is_made_anew() {
    let mut node = TestNode::start(&[]);
    node.inject("", json!(1));
    node.leap("");
    assert_eq!(node.stop(), Some(0));
    // What says of which version of its engine it is.
    let index = node.data.join("index");
    let version =
        fs::read_dir(&index).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.ends_with("version"));
    fs::write(version.expect("the engine says its version"), "another").unwrap();
    let opened = TestNode::open(&node.data.clone(), &[]);
    assert_eq!(opened.size(""), 2);
    opened.audit("");
}

/// A proxy passes events on as they come, and whoever is behind it is taken for the host that it asked for.
#[test]
fn a_node_works_behind_the_proxy_of_the_example() {
    let node = TestNode::start(&["--allow-host", "ledger.example"]);
    let site = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let example = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/Caddyfile")).unwrap();
    let example = example.replace("ledger.example {", &format!("http://ledger.example:{} {{", site.port()));
    let example = example.replace("localhost:5000", node.url.trim_start_matches("http://"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Caddyfile");
    fs::write(&file, format!("{{\n\tadmin off\n}}\n{example}")).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file).env("HOME", folder.path());
    let Ok(mut proxy) = command.stderr(std::process::Stdio::null()).spawn() else {
        return println!("skipped: there is no caddy");
    };
    struct Ended<'a>(&'a mut std::process::Child);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let _ended = Ended(&mut proxy);
    let client = reqwest::blocking::Client::builder().no_proxy().resolve("ledger.example", site).build().unwrap();
    let url = format!("http://ledger.example:{}", site.port());
    eventually("the proxy answers", || {
        client.get(format!("{url}/livez")).send().is_ok_and(|answer| answer.status() == 200)
    });
    let answer = client.post(format!("{url}/inject")).json(&json!({"data": "by the proxy"})).send().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (202, "transactions/1"));
    // Each event comes while the answer goes on.
    let events = client.get(format!("{url}/events?from=0")).send().unwrap();
    let mut lines = BufReader::new(Box::new(events) as Box<dyn Read>).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("by the proxy")));
    for number in 0..3 {
        node.inject("", json!(format!("event {number}")));
        assert!(lines.any(|line| line.contains(&format!("event {number}"))));
    }
}
