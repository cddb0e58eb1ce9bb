//! Checkpoints, tiles and the node's key: what a stranger needs who trusts nothing but a signature.

use std::{
    convert::Infallible,
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use qbc::core::{
    hash::{self, Hash},
    json as gate,
    merkle::{self, TILE_WIDTH},
    note::{Checkpoint, Note, VerifierKey, hash_to_base64},
    tile::TilePath,
    verify,
};
use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::support::{TestNode, header, problem};

/// A client that has the verifier key, and reads nothing but checkpoints and tiles.
struct Client<'a> {
    node: &'a TestNode,
    /// `""`, or `/chains/NAME`.
    chain: &'a str,
    key: VerifierKey,
}

impl<'a> Client<'a> {
    fn new(node: &'a TestNode, chain: &'a str) -> Self {
        Client { node, chain, key: key(node).parse().unwrap() }
    }

    fn get(&self, path: &str) -> Response {
        self.node.get(&format!("{}{path}", self.chain)).send().expect("it answers")
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        let response = self.get(path);
        assert_eq!(response.status(), 200, "{path}");
        response.bytes().unwrap().into()
    }

    fn checkpoint(&self) -> Checkpoint {
        let note = Note::parse(&self.bytes("/checkpoint")).unwrap();
        note.verify(std::slice::from_ref(&self.key)).unwrap();
        Checkpoint::parse(note.text()).unwrap()
    }

    fn tile(&self, level: u8, number: u64, width: usize) -> Vec<Hash> {
        let bytes = self.bytes(&format!("/tile/{level}/{}", TilePath::new(number, width)));
        assert_eq!(bytes.len(), 32 * width);
        bytes.chunks_exact(32).map(|hash| Hash::from_bytes(hash.try_into().unwrap())).collect()
    }

    /// Reads exactly what the proof needs.
    fn source(&self) -> impl FnMut(u8, u64, usize) -> Result<Vec<Hash>, Infallible> {
        |level, number, width| Ok(self.tile(level, number, width))
    }

    fn entries(&self, number: u64, width: usize) -> Vec<Vec<u8>> {
        let bundle = self.bytes(&format!("/tile/entries/{}", TilePath::new(number, width)));
        let (mut rest, mut entries) = (bundle.as_slice(), Vec::new());
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (entry, behind) = behind.split_at(u16::from_be_bytes(*length).into());
            entries.push(entry.to_vec());
            rest = behind;
        }
        entries
    }

    fn proves(&self, checkpoint: &Checkpoint, index: u64) {
        let (size, root) = (checkpoint.size(), checkpoint.root());
        let number = index / TILE_WIDTH as u64;
        let width = (size - number * TILE_WIDTH as u64).min(TILE_WIDTH as u64);
        let entry = &self.entries(number, width as usize)[(index % TILE_WIDTH as u64) as usize];
        let Ok(path) = merkle::prove_inclusion(index, size, self.source());
        merkle::check_inclusion(hash::leaf(entry), index, size, &path, root).unwrap();
        assert!(merkle::check_inclusion(hash::leaf(b"{}"), index, size, &path, root).is_err());
    }

    fn proves_growth(&self, older: &Checkpoint, newer: &Checkpoint) {
        let Ok(path) = merkle::prove_consistency(older.size(), newer.size(), self.source());
        merkle::check_consistency(older.size(), newer.size(), &path, older.root(), newer.root()).unwrap();
    }
}

fn qbc(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbc"));
    command.args(args).env_remove("QBC_NODE").env_remove("QBC_CHAIN").env_remove("QBC_DATA");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

fn refused(output: Output) -> String {
    assert!(!output.status.success() && output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

/// What `qbc key` prints of a running node.
fn key(node: &TestNode) -> String {
    printed(qbc(&["key", "--node", &node.url], ""))
}

/// Injects small transactions until the chain has this size.
fn grow(node: &TestNode, chain: &str, size: u64) {
    let lines: String = (node.size(chain)..size).map(|number| format!("{{\"data\":{number}}}\n")).collect();
    let response = node.post_text(&format!("{chain}/inject"), "application/x-ndjson", lines);
    assert_eq!((response.status().as_u16(), node.size(chain)), (202, size));
}

#[test]
fn a_client_proves_all_from_a_checkpoint_and_tiles() {
    let node = TestNode::start(&[]);
    let client = Client::new(&node, "");
    let mut checkpoints = vec![client.checkpoint()];
    for size in [2, 255, 256, 257, 511, 512, 513] {
        grow(&node, "", size);
        let quant = node.leap("");
        let checkpoint = client.checkpoint();
        assert_eq!(checkpoint.size(), size);
        let (index, hash) = checkpoint.quant().unwrap();
        assert_eq!((json!(index), json!(hash)), (quant["index"].clone(), quant["hash"].clone()));
        let Ok(root) = merkle::root(size, client.source());
        assert_eq!(root, checkpoint.root());
        for index in [0, 1, 254, 255, 256, size - 1].into_iter().filter(|&index| index < size) {
            client.proves(&checkpoint, index);
        }
        for older in &checkpoints {
            client.proves_growth(older, &checkpoint);
        }
        checkpoints.push(checkpoint);
    }
    assert_eq!(checkpoints[0].quant().unwrap().0.get(), 0);
}

#[test]
fn entries_are_the_leaves_and_not_the_data() {
    let node = TestNode::start(&[]);
    let client = Client::new(&node, "");
    let writer =
        json!({"data": {"secret": "x".repeat(300_000), "salt": ",\"data\":,\"salt\":\""}, "id": "a\",\"data\":b"});
    assert_eq!(node.post("/inject").json(&writer).send().unwrap().status(), 202);
    grow(&node, "", 259);
    node.leap("");
    let leaves: Vec<Vec<u8>> = [client.entries(0, 256), client.entries(1, 3)].concat();
    let hashes = [client.tile(0, 0, 256), client.tile(0, 1, 3)].concat();
    let records = node.json("/transactions?limit=1000");
    assert_eq!(leaves.len(), 259);
    for ((leaf, hash), record) in leaves.iter().zip(hashes).zip(records.as_array().unwrap()) {
        assert_eq!((hash::leaf(leaf), json!(hash)), (hash, record["hash"].clone()));
        let leaf: Value = serde_json::from_slice(leaf).unwrap();
        assert_eq!((&leaf["id"], &leaf["kind"]), (&record["id"], &record["kind"]));
        assert_eq!(leaf["timestamp"], record["timestamp"]);
        assert!(leaf["commitment"].is_string() && leaf["data"].is_null() && leaf["salt"].is_null());
    }
}

/// A client may hold any earlier checkpoint, so each width up to the present one is served, and nothing beyond: what is
/// pooled is in the tree, but no signature covers it.
#[test]
fn tiles_end_where_the_checkpoint_ends() {
    let node = TestNode::start(&[]);
    let client = Client::new(&node, "");
    grow(&node, "", 300);
    node.leap("");
    grow(&node, "", 700);
    let status = |path: &str| client.get(path).status().as_u16();
    let whole = client.tile(0, 0, 256);
    for width in [1, 2, 17, 255] {
        assert_eq!(client.tile(0, 0, width), whole[..width]);
        assert_eq!(client.entries(0, width).len(), width);
    }
    assert_eq!(client.tile(0, 1, 1), client.tile(0, 1, 44)[..1]);
    assert_eq!(client.tile(1, 0, 1), [merkle::perfect_root(&whole)]);
    for beyond in [
        "/tile/0/001.p/45",
        "/tile/0/001",
        "/tile/0/002.p/1",
        "/tile/1/000.p/2",
        "/tile/1/000",
        "/tile/2/000.p/1",
        "/tile/8/000.p/1",
        "/tile/63/000.p/1",
        "/tile/0/x018/x446/x744/x073/x709/x551/615",
        "/tile/63/x018/x446/x744/x073/x709/x551/615",
        "/tile/entries/001",
        "/tile/entries/001.p/45",
        "/tile/entries/x018/x446/x744/x073/x709/x551/615.p/255",
    ] {
        assert_eq!(status(beyond), 404, "{beyond}");
    }
    assert_eq!((status("/tile/0/001.p/44"), status("/tile/entries/001.p/44")), (200, 200));
    node.leap("");
    assert_eq!((status("/tile/0/001"), status("/tile/0/002.p/188"), status("/tile/1/000.p/2")), (200, 200, 200));
    problem(client.get("/tile/0/002.p/189"), 404);
}

#[test]
fn a_path_that_names_no_tile_is_refused() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "other", "difficulty": 0}));
    for path in [
        "/tile/0/0",
        "/tile/0/0000",
        "/tile/0/x000",
        "/tile/0/x000/001",
        "/tile/0/001/001",
        "/tile/0/000.p/0",
        "/tile/0/000.p/256",
        "/tile/0/000.p/01",
        "/tile/0/000.p",
        "/tile/0//000",
        "/tile/0/-01",
        "/tile/0/+01",
        "/tile/0/%30%30",
        "/tile/0/000%00",
        "/tile/0/..%2f..",
        "/tile/00/000.p/1",
        "/tile/64/000.p/1",
        "/tile/-1/000.p/1",
        "/tile/a/000.p/1",
        "/tile/256/000.p/1",
        "/tile/0/%ff",
        "/tile/Entries/000.p/1",
        "/tile/entries/0",
        "/tile/entries/000.p/1000",
        "/tile/0/x018/x446/x744/x073/x709/x551/616",
        &format!("/tile/0/{}000", "x000/".repeat(1000)),
    ] {
        for prefix in ["", "/chains/qbc", "/chains/other"] {
            let answer = node.raw("GET", format!("{prefix}{path}").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400 "), "{prefix}{path}: {answer}");
            assert!(answer.contains("application/problem+json"), "{answer}");
        }
    }
    for path in [
        "/tile",
        "/tile/",
        "/tile/0",
        "/tile/0/",
        "/tile/0/000/",
        "/tile/0/000.p/",
        "/tile/entries",
        "/tile/entries/",
        "/chains/none/tile/0/000.p/1",
    ] {
        let answer = node.raw("GET", path.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    for path in ["/checkpoint", "/tile/0/000.p/1", "/tile/entries/000.p/1"] {
        let answer = node.raw("POST", path.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 405 "), "{path}: {answer}");
    }
    node.audit("");
}

#[test]
fn tiles_are_kept_for_ever_and_checkpoints_asked_for_anew() {
    let node = TestNode::start(&[]);
    grow(&node, "", 300);
    node.leap("");
    let get = |path: &str, tag: &str| {
        node.get(path).header("accept-encoding", "gzip").header("if-none-match", tag).send().unwrap()
    };
    for (path, encoding) in [("/tile/0/000", ""), ("/tile/entries/000", "gzip"), ("/tile/0/001.p/44", "")] {
        let response = get(path, "\"none\"");
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-type"), "application/octet-stream");
        assert_eq!(header(&response, "cache-control"), "public, max-age=31536000, immutable");
        assert_eq!(header(&response, "content-encoding"), encoding, "hashes cannot be made smaller, leaves can");
        let tag = header(&response, "etag");
        let again = get(path, &tag);
        assert_eq!((again.status().as_u16(), header(&again, "etag")), (304, tag));
        assert!(again.bytes().unwrap().is_empty());
    }
    let tags = ["/tile/0/000", "/tile/1/000.p/1", "/tile/0/000.p/1", "/tile/entries/000", "/tile/entries/000.p/1"]
        .map(|path| header(&get(path, ""), "etag"));
    assert!((1..tags.len()).all(|at| !tags[..at].contains(&tags[at])), "{tags:?}");

    let response = get("/checkpoint", "");
    assert_eq!(header(&response, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(header(&response, "cache-control"), "no-cache");
    let tag = header(&response, "etag");
    assert_eq!(get("/checkpoint", &tag).status(), 304);
    assert_eq!(response.text().unwrap(), get("/checkpoint", "").text().unwrap(), "one state has one checkpoint");
    node.leap("");
    assert_eq!(get("/checkpoint", &tag).status(), 200, "an empty quant is a new checkpoint too");
}

#[test]
fn a_fork_has_the_tiles_of_its_parent() {
    let node = TestNode::start(&[]);
    grow(&node, "", 257);
    node.leap("");
    let parent = Client::new(&node, "");
    let shared = parent.checkpoint();
    let made = node.post("/fork").json(&json!({"name": "branch"})).send().unwrap();
    assert_eq!(made.status(), 201);
    for (chain, size) in [("", 520), ("/chains/branch", 600)] {
        grow(&node, chain, size);
        node.leap(chain);
    }
    let fork = Client::new(&node, "/chains/branch");
    assert_eq!(fork.tile(0, 0, 256), parent.tile(0, 0, 256));
    assert_eq!(fork.tile(0, 1, 1), parent.tile(0, 1, 1));
    assert_ne!(fork.tile(0, 1, 256), parent.tile(0, 1, 256));
    for client in [&parent, &fork] {
        let checkpoint = client.checkpoint();
        client.proves_growth(&shared, &checkpoint);
        for index in [0, 255, 256, 257, 511, 512, checkpoint.size() - 1] {
            client.proves(&checkpoint, index);
        }
    }
    let origins = [shared.origin(), parent.checkpoint().origin(), fork.checkpoint().origin()].map(str::to_owned);
    assert!(origins[0] == origins[1] && origins[1] != origins[2], "{origins:?}");
    assert_eq!(origins[2], format!("qbc/{}", node.json("/chains/branch")["id"].as_str().unwrap()));
}

/// The whole tree of tiles has a third level from 65,536 transactions on.
#[test]
fn many_tiles_prove_as_few_do() {
    let node = TestNode::start(&[]);
    let client = Client::new(&node, "");
    grow(&node, "", 65_535);
    node.leap("");
    let before = client.checkpoint();
    grow(&node, "", 65_800);
    node.leap("");
    let checkpoint = client.checkpoint();
    client.proves_growth(&before, &checkpoint);
    for index in [0, 65_279, 65_280, 65_535, 65_536, 65_799] {
        client.proves(&checkpoint, index);
    }
    assert_eq!(client.tile(2, 0, 1), [merkle::perfect_root(&client.tile(1, 0, 256))]);
    foreign_client(&node, "", &key(&node), &before, &[0, 255, 256, 65_535, 65_536, 65_799]);
}

/// Go's own implementation of signed notes and tiles, which the transparency log of Go's modules is read with.
#[test]
fn a_foreign_client_agrees() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "other", "difficulty": 0}));
    let url = node.url.as_str();
    for chain in ["", "/chains/other"] {
        let older = Client::new(&node, chain).checkpoint();
        for size in [2, 256, 300, 513] {
            grow(&node, chain, size);
            node.leap(chain);
            if !foreign_client(&node, chain, &key(&node), &older, &[0, size / 2, size - 1]) {
                return;
            }
        }
    }
    // Under the origin of the chain, its key is another, and good for this chain alone.
    let other = printed(qbc(&["key", "--node", url, "--chain", "other"], ""));
    let older = Client::new(&node, "/chains/other").checkpoint();
    assert!(other.starts_with(older.origin()), "{other}");
    foreign_client(&node, "/chains/other", &other, &older, &[1]);

    // It must be able to fail.
    let forged = Checkpoint::parse(
        &older.to_string().replace(&hash_to_base64(&older.root()), &"A".repeat(43)).replace("AAA\n", "AAA=\n"),
    );
    let forged = forged.unwrap();
    for (key, older) in [(&key(&TestNode::start(&[])), &older), (&other, &forged)] {
        let output = go(&node, "/chains/other", key, older, &[1]).unwrap();
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert!(!go(&node, "", &other, &older, &[1]).unwrap().status.success(), "the key of another chain");
}

/// Whether there is a foreign client; then it agrees.
fn foreign_client(node: &TestNode, chain: &str, key: &str, older: &Checkpoint, indexes: &[u64]) -> bool {
    let Some(output) = go(node, chain, key, older, indexes) else {
        println!("skipped: apt-get install golang-go golang-golang-x-mod-dev brings a foreign client");
        return false;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("1 signatures by ") && text.contains(&format!(" {} entries", indexes.len())), "{text}");
    true
}

/// Runs the client in Go, where Debian's packages of it are installed.
fn go(node: &TestNode, chain: &str, key: &str, older: &Checkpoint, indexes: &[u64]) -> Option<Output> {
    const MODULES: &str = "/usr/share/gocode";
    let go = |command: &mut Command| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        command.envs([("GO111MODULE", "off"), ("GOPATH", MODULES), ("GOFLAGS", "")]).env("GOCACHE", cache).output()
    };
    if !Path::new(MODULES).join("src/golang.org/x/mod/sumdb/tlog").is_dir() {
        return None;
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/tlog.go");
    let mut command = Command::new("go");
    command.arg("run").arg(program).args([&format!("{}{chain}", node.url), key]);
    command.args([older.size().to_string(), hash_to_base64(&older.root())]);
    go(command.args(indexes.iter().map(u64::to_string))).ok()
}

#[test]
fn one_key_checks_all_chains_of_a_node() {
    let node = TestNode::start(&[]);
    node.bang(json!({"name": "other", "difficulty": 0}));
    let data = node.data.to_str().unwrap();
    let key = key(&node);
    assert_eq!(printed(qbc(&["key", "--data", data], "")), key, "while the node runs");
    let id = node.json("/peers/hello")["id"].as_str().unwrap().to_owned();
    assert!(key.starts_with(&format!("qbc/node/{id}+")), "{key}");
    let told: Value = serde_json::from_str(&printed(qbc(&["key", "--data", data, "--json"], ""))).unwrap();
    assert_eq!(told, json!({"id": id, "key": key}));
    let known: [VerifierKey; 1] = [key.parse().unwrap()];
    for chain in ["", "/chains/other", "/chains/qbc"] {
        let note =
            Note::parse(node.get(&format!("{chain}/checkpoint")).send().unwrap().text().unwrap().as_bytes()).unwrap();
        assert_eq!(note.verify(&known).unwrap().len(), 1);
        let origin = Checkpoint::parse(note.text()).unwrap().origin().to_owned();
        let names: Vec<&str> = note.signatures().iter().map(|signature| signature.name().as_str()).collect();
        assert_eq!(names, [origin.as_str(), known[0].name().as_str()], "the recommended name comes first");
        let name = chain.strip_prefix("/chains/").unwrap_or("qbc");
        let of_chain = printed(qbc(&["key", "--node", &node.url, "--chain", name], ""));
        assert!(note.verify(&[of_chain.parse().unwrap()]).is_ok() && of_chain.starts_with(&origin));
    }
    let both = refused(qbc(&["key", "--data", data, "--chain", "other"], ""));
    assert!(both.contains("--node"), "{both}");
    assert!(refused(qbc(&["key", "--data", "/nonexistent"], "")).contains("/nonexistent"));
}

#[test]
fn a_node_signs_with_the_key_that_it_was_given() {
    // The key of Go's example, in both forms.
    let secret = "810a1402d5146c8d84f2443330f54080ebf98ee17d9c74f6252fc5d5c7283173";
    let (go, folder) = (
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz",
        tempfile::tempdir().unwrap(),
    );
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let import = |file: &str, data: &str, input: &str| qbc(&["key", "--import", file, "--data", data], input);

    let first = printed(import("-", &place("a"), &format!("{go}\n")));
    assert!(first.ends_with("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"), "the public key of the example: {first}");
    let path = place("secret");
    fs::write(&path, format!("{secret}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let exposed = refused(import(&path, &place("b"), ""));
    assert!(exposed.contains("chmod 600") && !folder.path().join("b").exists(), "{exposed}");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let second = printed(import(&path, &place("b"), ""));
    assert_eq!(second, first);

    let mode = |folder: &str| fs::metadata(Path::new(folder).join("node.key")).unwrap().permissions().mode() & 0o777;
    for data in ["a", "b"] {
        let data = place(data);
        assert_eq!(mode(&data), 0o600);
        assert!(refused(import("-", &data, secret)).contains("new folder"), "a key is never replaced");
        let mut node = TestNode::open(Path::new(&data), &[]);
        assert_eq!(key(&node), first);
        assert!(refused(import("-", &data, secret)).contains("in use"));
        node.stop();
        assert!(refused(import("-", &data, secret)).contains("new folder"));
        assert_eq!(printed(qbc(&["key", "--data", &data], "")), first);
    }
    for (wrong, input) in
        [("-", ""), ("-", "00"), ("-", &secret.to_uppercase()), ("-", &go[12..]), ("/nonexistent", "")]
    {
        let told = refused(import(wrong, &place("c"), input));
        assert!(!told.contains(input) || input.len() < 3, "a secret is not repeated: {told}");
        assert!(!folder.path().join("c").exists());
    }
    fs::create_dir(place("d")).unwrap();
    fs::write(folder.path().join("d/letter"), "dear").unwrap();
    assert!(refused(import("-", &place("d"), secret)).contains("not empty"));
}

#[test]
fn a_key_that_others_can_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let key = data.join("node.key");
    for (mode, told) in [(0o600, false), (0o644, true), (0o660, true)] {
        if mode != 0o600 {
            fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        }
        TestNode::open_logging(&data, &[], &log).stop();
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(text.contains("chmod 600") && text.contains("node.key"), told, "{mode:o}: {text}");
    }
}

/// A receipt held for whatever chain somebody had written into it. The signed note of its quant tells whose chain it is.
#[test]
fn a_receipt_carries_the_signed_checkpoint_of_its_quant() {
    let node = TestNode::start(&[]);
    grow(&node, "", 5);
    node.leap("");
    let made = node.post("/fork").json(&json!({"name": "branch"})).send().unwrap();
    assert_eq!(made.status(), 201);
    grow(&node, "", 9);
    node.leap("");
    grow(&node, "/chains/branch", 12);
    node.leap("/chains/branch");
    let (known, other) = ([key(&node).parse().unwrap()], [key(&TestNode::start(&[])).parse().unwrap()]);
    for (chain, indexes) in [("", 0..9), ("/chains/branch", 0..12)] {
        let stats = node.json(&format!("{chain}/stats"));
        for index in indexes {
            let text = node.json(&format!("{chain}/transactions/{index}/receipt"));
            let receipt = verify::receipt(gate::parse(text.to_string().as_bytes()).unwrap()).unwrap();
            let checkpoint = Checkpoint::parse(receipt.checkpoint.as_ref().unwrap().text()).unwrap();
            assert_eq!(checkpoint.origin(), format!("qbc/{}", stats["id"].as_str().unwrap()));
            assert_eq!(
                checkpoint.quant(),
                Some((receipt.quant.index(), receipt.quant.hash())),
                "of exactly that quant"
            );
            assert_eq!(
                (checkpoint.size(), checkpoint.root()),
                (receipt.quant.size().get(), receipt.quant.header().root)
            );
            receipt.check_signature(&known).unwrap();
            receipt.check_signature(&other).unwrap_err();
            assert_eq!(node.json(&format!("{chain}/transactions/{index}/receipt")), text, "signatures stay the same");
        }
    }
}

/// A reader of C2SP tlog-proof, signed-note and tlog-checkpoint that is written from their specifications, with RFC 6962 below
/// it and nothing of the program: the leaf, if the proof is that of this key, name and tree.
fn read_tlog_proof(proof: &str, key: &str) -> Option<(u64, Vec<u8>)> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use sha2::{Digest, Sha256};
    let sha = |parts: &[&[u8]]| -> Vec<u8> { Sha256::digest(parts.concat()).to_vec() };
    let decode = |text: &str| BASE64_STANDARD.decode(text).ok();

    let (head, note) = proof.split_once("\n\n")?;
    let mut lines = head.lines();
    (lines.next()? == "c2sp.org/tlog-proof@v1").then_some(())?;
    let leaf = decode(lines.next()?.strip_prefix("extra ")?)?;
    let index: u64 = lines.next()?.strip_prefix("index ")?.parse().ok()?;
    let path: Vec<Vec<u8>> = lines.map(decode).collect::<Option<_>>()?;

    // signed-note: the key hash is SHA-256(name, newline, type, key), its first four bytes.
    let (name, rest) = key.split_once('+')?;
    let content = decode(rest.split_once('+')?.1)?;
    let key_hash = sha(&[name.as_bytes(), b"\n", &content]);
    let (text, signatures) = note.rsplit_once("\n\n")?;
    let text = format!("{text}\n");
    let line = signatures.lines().find_map(|line| line.strip_prefix(&format!("\u{2014} {name} ")))?;
    let signature = decode(line)?;
    (signature[..4] == key_hash[..4] && content[0] == 1).then_some(())?;
    let public = ed25519_dalek::VerifyingKey::from_bytes(content[1..].try_into().ok()?).ok()?;
    let signature = ed25519_dalek::Signature::from_slice(&signature[4..]).ok()?;
    public.verify_strict(text.as_bytes(), &signature).ok()?;
    let mut lines = text.lines().skip(1);
    let (size, root): (u64, _) = (lines.next()?.parse().ok()?, decode(lines.next()?)?);

    // RFC 6962 section 2.1.1, by its recursion: PATH(m, D[n]), from the leaf's sibling up.
    fn climb(m: u64, n: u64, leaf: &[u8], path: &[Vec<u8>], sha: &dyn Fn(&[&[u8]]) -> Vec<u8>) -> Option<Vec<u8>> {
        if n == 1 {
            return path.is_empty().then(|| sha(&[b"\0", leaf]));
        }
        let k = n.next_power_of_two() / 2;
        let (last, path) = path.split_last()?;
        Some(match m < k {
            true => sha(&[b"\x01", &climb(m, k, leaf, path, sha)?, last]),
            false => sha(&[b"\x01", last, &climb(m - k, n - k, leaf, path, sha)?]),
        })
    }
    (index < size && climb(index, size, &leaf, &path, &sha)? == root).then_some((index, leaf))
}

#[test]
fn a_receipt_is_a_tlog_proof_for_whoever_asks_for_text() {
    let node = TestNode::start(&[]);
    let get = |path: &str, accept: &[&str]| {
        let request = accept.iter().fold(node.get(path), |request, accept| request.header("accept", *accept));
        request.send().unwrap()
    };
    let of_chain = printed(qbc(&["key", "--node", &node.url, "--chain", "qbc"], ""));
    let (of_node, other) = (key(&node), key(&TestNode::start(&[])));
    for size in [2, 3, 7, 8, 300] {
        grow(&node, "", size);
        node.leap("");
        for index in [0, 1, size / 2, size - 1] {
            let response = get(&format!("/transactions/{index}/receipt"), &["text/plain"]);
            assert_eq!(header(&response, "content-type"), "text/plain; charset=utf-8");
            let proof = response.text().unwrap();
            let record = node.json(&format!("/transactions/{index}"));
            for key in [&of_node, &of_chain] {
                let (found, leaf) = read_tlog_proof(&proof, key).unwrap_or_else(|| panic!("{proof}"));
                assert_eq!((found, json!(hash::leaf(&leaf))), (index, record["hash"].clone()));
            }
            // It must be able to fail.
            let forged = proof.replace(&format!("\nindex {index}\n"), &format!("\nindex {}\n", index ^ 1));
            assert_eq!(read_tlog_proof(&forged, &of_node), None);
            assert_eq!(read_tlog_proof(&proof, &other), None);
        }
    }

    // Negotiation, which never ends in an error.
    let (text, json) = ("text/plain; charset=utf-8", "application/json");
    for (accept, media) in [
        (&[][..], json),
        (&["*/*"], json),
        (&["text/plain, */*"], json),
        (&["text/plain, */*;q=0.1"], text),
        (&["application/json;q=0.5, text/plain;q=0.6"], text),
        (&["application/json;q=0.5", "text/plain;q=0.6"], text),
        (&["application/json, text/plain;q=0.9"], json),
        (&["TEXT/Plain"], text),
        (&["text/*"], text),
        (&["text/plain;q=0, */*"], json),
        (&["text/plain;q=0"], json),
        (&["application/json;q=0, text/*;q=0.2"], text),
        (&["text/plain;charset=utf-8"], text),
        (&["image/png"], json),
        (&["text/html,application/xhtml+xml,*/*;q=0.8"], json),
    ] {
        let response = get("/transactions/1/receipt", accept);
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, media.into()), "{accept:?}");
        let vary = header(&response, "vary").to_ascii_lowercase();
        assert!(vary.split(',').any(|name| name.trim() == "accept"), "{vary}");
        let tag = header(&response, "etag");
        let again =
            node.get("/transactions/1/receipt").header("accept", accept.join(", ")).header("if-none-match", tag);
        let again = again.send().unwrap();
        assert_eq!(again.status(), 304, "{accept:?}");
        assert!(header(&again, "vary").to_ascii_lowercase().contains("accept"));
    }
    let tags = [&["text/plain"][..], &[]].map(|accept| header(&get("/transactions/1/receipt", accept), "etag"));
    assert_ne!(tags[0], tags[1]);
    node.inject("", json!("pooled"));
    problem(get("/transactions/300/receipt", &["text/plain"]), 409);
}
