//! What the guide says of the interface is what the program has.

use std::{collections::BTreeSet, process::Command};

use qbc::guide;
use serde_json::json;

use crate::support::{TestNode, header, problem};

fn chapter(topic: &str) -> &'static str {
    guide::chapter(topic).expect("the guide has this chapter").text
}

#[test]
fn thirty_lines_of_python_verify_a_chain() {
    let (_, program) = chapter("format").split_once("cat > verify.py <<'END'\n").expect("the chapter has a verifier");
    let (program, _) = program.split_once("\nEND\n").expect("it has an end");
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
    let Ok(output) = run(program) else {
        return println!("skipped: there is no python3");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("verified: 303 transactions"), "{text}");

    // It must be able to fail: the same with another hash function does not hold.
    let broken = program.replace("sha256(data)", "sha256(data + b\"x\")");
    assert!(broken != program && !run(&broken).unwrap().status.success());
}

#[test]
fn every_option_of_the_guide_exists() {
    let help = Command::new(env!("CARGO_BIN_EXE_qbc")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let rows = chapter("operation").lines().skip_while(|line| !line.starts_with("| option")).skip(2);
    let mut options = BTreeSet::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        for word in row.split(['`', ' ', ',']).filter(|word| word.starts_with("--") || word.starts_with("QBC_")) {
            assert!(help.contains(word), "the guide names {word}, but the program does not");
            options.insert(word);
        }
    }
    assert!(options.len() >= 20, "the table of options is where this test looks for it");
    let all = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2);
    for option in all.map(|word| word.trim_matches(|letter: char| letter != '-' && !letter.is_ascii_alphanumeric())) {
        let is_told = options.contains(option) || option == "--help" || option == "--version";
        assert!(is_told, "the program has {option}, but the guide's table does not");
    }
}

#[test]
fn the_guide_has_the_routes_of_the_node() {
    let node = TestNode::start(&[]);
    let document = node.json("/openapi.json");
    let mut told = BTreeSet::new();
    let rows = chapter("interface").lines().filter(|line| line.starts_with("| `"));
    for code in rows.filter_map(|row| row.split(" | ").next()).flat_map(|cell| cell.split('`')) {
        let Some((method, path)) = code.split_once(' ').filter(|(_, path)| path.starts_with('/')) else { continue };
        let path = path.split('?').next().unwrap().replace("{index, hash or latest}", "{quant}");
        let operation = &document["paths"][&path][method.to_lowercase()];
        assert!(operation.is_object(), "the guide names {method} {path}, but there is no such route");
        told.insert((path, method.to_lowercase()));
    }
    // The routes of a named chain are those of the default one, and nodes alone ask for the routes below /peers.
    let is_own = |path: &str| path.starts_with("/chains/{chain}/") || path.starts_with("/peers/");
    for (path, methods) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| !is_own(path)) {
        for method in methods.as_object().unwrap().keys().filter(|name| *name != "parameters") {
            assert!(told.contains(&(path.clone(), method.clone())), "the guide does not name {method} {path}");
        }
    }
}

#[test]
fn a_node_serves_the_guide() {
    let node = TestNode::start(&[]);
    let listed = node.json("/guide");
    let topics: Vec<&str> = listed.as_array().unwrap().iter().map(|one| one["topic"].as_str().unwrap()).collect();
    assert_eq!(topics, guide::CHAPTERS.iter().map(|chapter| chapter.topic).collect::<Vec<_>>());
    for chapter in guide::CHAPTERS {
        let served = node.get(&format!("/guide/{}", chapter.topic)).send().unwrap();
        assert_eq!(
            (served.status().as_u16(), header(&served, "content-type")),
            (200, "text/markdown; charset=utf-8".into())
        );
        assert_eq!(served.text().unwrap(), chapter.text);
    }
    let unknown = problem(node.get("/guide/nothing").send().unwrap(), 404);
    assert!(unknown["detail"].as_str().unwrap().contains("proofs"), "{unknown}");
}
