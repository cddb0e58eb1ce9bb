//! What the README shows works as it stands there.

use std::process::Command;

use serde_json::json;

use crate::support::TestNode;

const README: &str = include_str!("../../README.md");

/// The first block of code in this language.
fn block(language: &str) -> &'static str {
    let start = format!("```{language}\n");
    let (_, rest) = README.split_once(&start).expect("the README has such a block");
    rest.split_once("```").expect("it has an end").0
}

#[test]
fn twenty_lines_of_python_verify_a_chain() {
    let node = TestNode::start(&[]);
    node.inject("", json!({"order": 1017, "names": ["Zoë", "\u{1f980}"], "note": "a\tb\"c"}));
    node.leap("");
    for number in 0..300 {
        node.inject("", json!(number));
    }
    node.leap("");
    let erased = node.post("/transactions/7/erase").json(&json!({"reason": "it must not need the data"})).send();
    assert_eq!(erased.unwrap().status(), 201);
    node.leap("");
    let run = |program: &str| Command::new("python3").args(["-c", program, &format!("{}/chain", node.url)]).output();
    let Ok(output) = run(block("python")) else {
        return println!("skipped: there is no python3");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("verified: 303 transactions"), "{text}");

    // It must be able to fail: the same with another hash function does not hold.
    let broken = block("python").replace("sha256(data)", "sha256(data + b\"x\")");
    assert!(!run(&broken).unwrap().status.success());
}

#[test]
fn every_option_and_route_of_the_readme_exists() {
    let help = Command::new(env!("CARGO_BIN_EXE_qbc")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, operation) = README.split_once("## Operation").unwrap();
    let rows = operation.lines().skip_while(|line| !line.starts_with("| option")).skip(2);
    let mut options = 0;
    for row in rows.take_while(|line| line.starts_with('|')) {
        for word in row.split(['`', ' ', ',']).filter(|word| word.starts_with("--") || word.starts_with("QBC_")) {
            assert!(help.contains(word), "the README names {word}, but the program does not");
            options += 1;
        }
    }
    assert!(options >= 20, "the table of options is where this test looks for it");

    let node = TestNode::start(&[]);
    let document = node.json("/openapi.json");
    let (_, interface) = README.split_once("## The interface").unwrap();
    let mut routes = 0;
    for row in interface.lines().filter(|line| line.starts_with("| `GET /") || line.starts_with("| `POST /")) {
        let route = row.split('`').nth(1).unwrap();
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.split('?').next().unwrap().replace("{index, hash or latest}", "{quant}");
        let operation = &document["paths"][&path][method.to_lowercase()];
        assert!(operation.is_object(), "the README names {method} {path}, but there is no such route");
        routes += 1;
    }
    assert!(routes >= 12, "the table of routes is where this test looks for it");
}
