//! The vectors of others for the schema of a chain: the required tests of draft 2020-12 in JSON-Schema-Test-Suite.
//!
//! They are found in the folder that `QBC_VECTORS` names, else in `../shared/vectors`; where there is none, the test says
//! so and checks nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use qbc::core::{
    hash::Hash,
    json,
    rules::{Refusal, Rules},
    transaction::Submission,
};
use serde_json::{Value, json};

/// Cases whose schema a chain refuses, by file and description. All of them need a document from elsewhere, and a schema
/// makes no node fetch anything; the folder `optional` (formats among others) is not read at all.
const REMOTE: &[(&str, &[&str])] = &[
    (
        "dynamicRef.json",
        &[
            "strict-tree schema, guards against misspelled properties",
            "tests for implementation dynamic anchor and reference link",
            "$ref and $dynamicAnchor are independent of order - $defs first",
            "$ref and $dynamicAnchor are independent of order - $ref first",
            "$ref to $dynamicRef finds detached $dynamicAnchor",
        ],
    ),
    (
        "refRemote.json",
        &[
            "remote ref",
            "fragment within remote ref",
            "anchor within remote ref",
            "ref within remote ref",
            "base URI change",
            "base URI change - change folder",
            "base URI change - change folder in subschema",
            "root ref in remote ref",
            "remote ref with ref to defs",
            "Location-independent identifier in remote ref",
            "retrieved nested refs resolve relative to their URI not $id",
            "remote HTTP ref with different $id",
            "remote HTTP ref with different URN $id",
            "remote HTTP ref with nested absolute ref",
            "$ref to $ref finds detached $anchor",
        ],
    ),
    (
        "vocabulary.json",
        &[
            "schema that uses custom metaschema with with no validation vocabulary",
            "ignore unrecognized optional vocabulary",
        ],
    ),
];

fn is_remote(file: &str, description: &str) -> bool {
    REMOTE.iter().any(|(remote, descriptions)| *remote == file && descriptions.contains(&description))
}

fn files() -> Option<Vec<(String, Value)>> {
    let vectors = env::var_os("QBC_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), PathBuf::from);
    if !vectors.exists() {
        println!("skipped: no test vectors in {}", vectors.display());
        return None;
    }
    let folder = fs::read_dir(vectors.join("JSON-Schema-Test-Suite/tests/draft2020-12")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, json::parse(&fs::read(path).unwrap()).unwrap())
    };
    Some(files.map(read).collect())
}

/// Whether a value meets the rules.
fn takes(rules: &Rules, value: &Value) -> bool {
    let submission = Submission { data: json::canonical(value), id: None, signed: None };
    match rules.check(Hash::ZERO, &submission, value) {
        Ok(()) => true,
        Err(Refusal::Schema(faults)) => {
            assert!(!faults.is_empty(), "a refusal says why");
            false
        }
        Err(other) => panic!("{value}: {other:?}"),
    }
}

#[test]
fn json_schema_test_suite() {
    let Some(files) = files() else { return };
    let (mut passed, mut skipped) = (0, 0);
    for (file, cases) in files {
        for case in cases.as_array().unwrap() {
            let description = case["description"].as_str().unwrap();
            let tests = case["tests"].as_array().unwrap();
            let rules = match Rules::from_value(&json!({"name": "t", "schema": case["schema"]})) {
                Ok(rules) => rules,
                Err(_) if is_remote(&file, description) => {
                    skipped += tests.len();
                    continue;
                }
                Err(faults) => panic!("{file}: {description}: {faults:?}"),
            };
            assert!(
                !is_remote(&file, description),
                "{file}: {description}: taken, but it needs a document from elsewhere"
            );
            for test in tests {
                let name = test["description"].as_str().unwrap();
                assert_eq!(takes(&rules, &test["data"]), test["valid"], "{file}: {description}: {name}");
                passed += 1;
            }
        }
    }
    println!("JSON-Schema-Test-Suite, draft 2020-12: {passed} passed, {skipped} skipped for a remote document");
    assert_eq!((passed, skipped), (1250, 49), "the suite has 1299 required tests");
}
