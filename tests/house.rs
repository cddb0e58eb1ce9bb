//! House rules: what each part of the code may name. They keep the directions between the modules.

use std::{fs, path::Path};

/// A name, why it is kept to some places, and the places below `src/`.
const RULES: &[(&str, &str, &[&str])] = &[
    ("fjall", "the engine of the index can be replaced where only one file names it", &["store/"]),
    ("xxh3", "one part says what the log's checksums are", &["log.rs", "log/"]),
    ("axum::", "HTTP stays at the rim; the bench has a bare server to compare with", &["http/", "cli/load.rs"]),
    (
        "reqwest",
        "three files call others: nodes, witnesses, and sources of mirrors; and clients call this one",
        &["peers.rs", "witness.rs", "mirror/source.rs", "cli/"],
    ),
    ("rustls", "one file says what TLS is", &["tls.rs"]),
    ("x509_parser", "one file says what TLS is", &["tls.rs"]),
    (
        "openraft",
        "the engine of agreement can be replaced where only few files name it",
        &["cluster/engine.rs", "cluster/net.rs"],
    ),
    (
        "prometheus_client",
        "what is counted has its names in one place, and what is asked for in another",
        &["metrics.rs", "http/metrics.rs", "http/metrics/"],
    ),
    ("sha2::", "one file says how things are hashed", &["core/hash.rs"]),
    ("println!", "it panics where nobody takes the line: cli::output has what does not", &[]),
    ("jsonschema", "one file says what a schema is", &["core/schema.rs"]),
    ("ratatui", "what draws the screen can be replaced where few files name it", &["cli/watch.rs", "cli/watch/"]),
    ("anyhow", "the library has typed errors", &["cli/", "main.rs"]),
    (
        "rand::",
        "what is not deterministic is in a command before it reaches the writer; nonces, ids of groups and the secret of a \
         cluster are no part of a chain",
        &["node.rs", "node/sign.rs", "node/write.rs", "http/mod.rs", "cluster.rs", "cluster/", "cli/"],
    ),
    (
        "SystemTime",
        "what is not deterministic is in a command before it reaches the writer",
        &["clock.rs", "http/httpdate/"],
    ),
    ("Utc::now", "one file reads the clock, whatever it shows", &["cli/"]),
    (
        "tokio",
        "the core is pure",
        &[
            "access.rs",
            "http/",
            "cli/",
            "cluster.rs",
            "cluster/",
            "leap.rs",
            "mine.rs",
            "mirror.rs",
            "mirror/",
            "node.rs",
            "node/",
            "peers.rs",
            "scrub.rs",
            "threads.rs",
            "tls.rs",
            "witness.rs",
            "writer.rs",
            "writer/",
            "main.rs",
        ],
    ),
    ("std::fs", "the core is pure", &["log.rs", "log/", "store.rs", "store/", "cli/"]),
];

/// Which modules of the crate a part may use.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("core/", &["core", "limits"]),
    ("log.rs", &[]),
    ("log/", &[]),
    ("metrics.rs", &[]),
    ("store.rs", &["core", "limits", "log", "metrics"]),
    ("store/", &["core", "limits", "log"]),
    ("writer.rs", &["core", "limits", "metrics", "store"]),
    ("writer/", &["core", "limits", "store"]),
    ("access.rs", &["core", "limits"]),
    ("clock.rs", &["core", "limits"]),
    ("threads.rs", &[]),
    ("mine.rs", &["access", "core", "limits", "threads"]),
    ("node.rs", &["core", "limits", "metrics", "store", "writer", "mine", "clock"]),
    ("node/", &["access", "core", "limits", "metrics", "store", "threads", "writer", "mine"]),
    ("tls.rs", &["core", "limits"]),
    ("cluster.rs", &["cluster", "core", "limits", "store", "tls", "writer", "node"]),
    ("cluster/", &["cluster", "core", "limits", "node", "store", "tls", "writer"]),
    ("leap.rs", &["core", "limits", "writer", "node"]),
    ("scrub.rs", &["core", "limits", "store", "writer", "node"]),
    ("peers.rs", &["core", "limits", "clock", "tls"]),
    ("witness.rs", &["core", "limits", "peers", "store", "tls", "writer", "node"]),
    ("mirror.rs", &["access", "cluster", "core", "limits", "peers", "tls", "writer", "node"]),
    ("mirror/source.rs", &["access", "core", "limits", "peers", "tls"]),
    ("mirror/", &["core", "limits", "node", "peers", "writer"]),
    ("guide.rs", &["guide"]),
    (
        "http/",
        &[
            "access", "cluster", "core", "guide", "http", "limits", "metrics", "mine", "mirror", "peers", "scrub",
            "tls", "writer", "node",
        ],
    ),
    (
        "cli/",
        &[
            "access", "cli", "clock", "cluster", "core", "guide", "http", "leap", "limits", "mirror", "node", "peers",
            "scrub", "store", "tls", "witness",
        ],
    ),
];

/// The code of each file below `src/` that has any, without its comments and its tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.ends_with("tests.rs") || path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap().lines();
            let code: Vec<&str> = code.filter(|line| !line.trim_start().starts_with("//")).collect();
            sources.push((path.strip_prefix(&root).unwrap().display().to_string(), code.join("\n")));
        }
    }
    assert!(sources.len() > 20, "the sources are where this test looks for them");
    sources
}

#[test]
fn each_name_stays_where_it_belongs() {
    for (file, code) in sources() {
        for (name, reason, places) in RULES {
            let allowed = places.iter().any(|place| file.starts_with(place));
            assert!(allowed || !code.contains(name), "src/{file} names {name}: {reason}");
        }
    }
}

#[test]
fn modules_use_each_other_in_one_direction() {
    for (file, code) in sources() {
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(part, _)| file.starts_with(part)) else { continue };
        // One `use crate::{…}` block lists modules in one line, or at one level of indentation; others stand behind `crate::` at once.
        for rest in code.split("crate::").skip(1) {
            let modules: Vec<&str> = match rest.strip_prefix('{') {
                Some(block) if block.lines().next().is_some_and(|line| line.contains('}')) => {
                    let end = block.find("};").expect("a list of modules ends");
                    block[..end].split(", ").collect()
                }
                Some(block) => block
                    .lines()
                    .take_while(|line| !line.starts_with("};"))
                    .filter_map(|line| line.strip_prefix("    "))
                    .filter(|line| !line.starts_with([' ', '}']))
                    .collect(),
                None => vec![rest],
            };
            for module in modules {
                let name =
                    module.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next().unwrap();
                assert!(
                    allowed.contains(&name) || name.is_empty(),
                    "src/{file} uses crate::{name}, which stands above it"
                );
            }
        }
    }
}
