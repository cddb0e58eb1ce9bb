//! Data folders of earlier versions, as they were left when their nodes stopped: they are read by every later version.
//!
//! `tests/corpus/folder/` has them, with all public bytes that their nodes served (tiles in hexadecimal digits). **They are never
//! regenerated**: where the form of a folder changes, one of the new form is laid beside them, and the old ones stay. Those of form 1:
//!
//! - `alone-1.tar.gz`: a node alone; two chains with rules, ids, a large transaction, an erasure, empty quants, a fork, and a pool.
//! - `cluster-1.tar.gz`: three nodes of a cluster; a chain of three replicas and its fork, and a chain of one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{TestNode, eventually, files_with, header, verifies};

/// What a node served, by path.
type Public = BTreeMap<String, String>;

/// Unpacks folders, and gives what each of their nodes served.
fn unpack(name: &str, to: &Path) -> BTreeMap<String, Public> {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/corpus/folder/{name}-1.tar.gz"));
    assert!(Command::new("tar").arg("-xzf").arg(packed).arg("-C").arg(to).status().unwrap().success());
    serde_json::from_slice(&fs::read(to.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// Asserts that a node serves the same as then.
fn serves(node: &TestNode, public: &Public) {
    for (path, then) in public {
        let answer = node.get(path).send().unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let now = answer.bytes().unwrap();
        let now = if path.contains("/tile/") { hex::encode(&now) } else { String::from_utf8(now.into()).unwrap() };
        assert_eq!(now, *then, "{path}");
    }
}

/// Asserts that the receipts that were saved are good for whoever knows the key.
fn receipts_hold(folder: &Path, public: &Public, key: &[&str]) {
    let qbc = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_qbc")).args(arguments).output().unwrap();
    let key = String::from_utf8(qbc(key).stdout).unwrap();
    let receipts = public.iter().filter(|(path, _)| path.ends_with("/receipt"));
    for (number, (path, receipt)) in receipts.enumerate() {
        let file = folder.join(format!("receipt{number}.json"));
        fs::write(&file, receipt).unwrap();
        let verified = qbc(&["verify", file.to_str().unwrap(), "--key", key.trim_end()]);
        assert!(verified.status.success(), "{path}: {}", String::from_utf8_lossy(&verified.stderr));
    }
}

/// Asserts that what was accepted then is not accepted again, and that writes go on.
fn goes_on(node: &TestNode, chain: &str, id: &str) {
    let chain = format!("/chains/{chain}");
    let send = |body: Value| node.post(&format!("{chain}/inject")).json(&body).send().unwrap();
    let again = send(json!({"data": {"number": 1, "of": &chain[8..]}, "id": format!("{id}-1")}));
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replayed").as_str()), (202, "true"));
    assert_eq!(again.json::<Value>().unwrap()["index"], 2);
    assert_eq!(send(json!({"data": "another", "id": format!("{id}-pooled")})).status(), 409);
    let erased = node.json(&format!("{chain}/transactions/4"));
    assert!(erased["data"].is_null() && erased["erased"].is_object(), "{erased}");
    let size = node.size(&chain);
    assert_eq!(send(json!({"data": "new", "id": "new"})).json::<Value>().unwrap()["index"], size);
    assert_eq!(node.leap(&chain)["size"], size + 1);
    node.audit(&chain);
}

#[test]
fn the_folder_of_a_node_is_read_by_later_versions() {
    let folder = tempfile::tempdir().unwrap();
    let public = &unpack("alone", folder.path())["alone"];
    let data = folder.path().join("alone");
    assert_eq!(files_with(&data, "Jane Roe"), "");
    receipts_hold(folder.path(), public, &["key", "--data", data.to_str().unwrap()]);
    verifies(&data);
    serves(&TestNode::open(&data, &[]), public);
    // From the log alone.
    fs::remove_dir_all(data.join("index")).unwrap();
    let mut node = TestNode::open(&data, &[]);
    serves(&node, public);
    goes_on(&node, "orders", "o");
    goes_on(&node, "plain", "p");
    node.audit("/chains/forked");
    assert_eq!(node.stop(), Some(0));
    verifies(&data);
}

#[test]
fn the_folders_of_a_cluster_are_read_by_later_versions() {
    let folder = tempfile::tempdir().unwrap();
    let public = unpack("cluster", folder.path());
    let data: Vec<PathBuf> = (0..3).map(|number| folder.path().join(format!("cluster{number}"))).collect();
    for data in &data {
        assert_eq!(files_with(data, "Jane Roe"), "");
        let key = ["key", "--cluster", "--data", data.to_str().unwrap()];
        ["0", "1", "2"].iter().for_each(|node| receipts_hold(folder.path(), &public[*node], &key));
        verifies(data);
    }
    // They run at other places than then, all of them, and find each other by one.
    let first = TestNode::open(&data[0], &[]);
    let host = first.host();
    let mut nodes = vec![first];
    nodes.extend(data[1..].iter().map(|data| TestNode::open(data, &["--join", &host])));
    for node in &nodes {
        eventually("the cluster is in order", || {
            let status = node.json("/cluster");
            let all = |of: &str, holds: fn(&Value) -> bool| status[of].as_array().unwrap().iter().all(holds);
            let in_order = |group: &Value| {
                let replicas = group["replicas"].as_array().unwrap();
                !group["leader"].is_null() && replicas.iter().all(|replica| replica["lag"] == 0)
            };
            all("nodes", |node| node["state"] == "live") && all("groups", in_order)
        });
    }
    for (number, node) in nodes.iter().enumerate() {
        serves(node, &public[&number.to_string()]);
        serves(node, &public["any"]);
    }
    goes_on(&nodes[2], "shared", "s");
    goes_on(&nodes[0], "single", "e");
    nodes[1].audit("/chains/branch");
    for node in &mut nodes {
        assert_eq!(node.stop(), Some(0));
        verifies(&node.data.clone());
    }
}
