//! The vectors of others for the JSON gate: nst/JSONTestSuite, and the inputs and outputs of RFC 8785's author.
//!
//! They are found in the folder that `QBC_VECTORS` names, else in `../shared/vectors`; where there is none, the tests
//! say so and check nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use qbc::core::json;

/// The files of a folder of the vectors, by name; `None` where the vectors are missing.
fn files(folder: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let vectors = env::var_os("QBC_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), PathBuf::from);
    if !vectors.exists() {
        println!("skipped: no test vectors in {}", vectors.display());
        return None;
    }
    let entries = fs::read_dir(vectors.join(folder)).unwrap().map(Result::unwrap);
    Some(entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect())
}

/// What is accepted comes back equal, and its canonical form is a fixed point.
fn comes_back_equal(value: &serde_json::Value, name: &str) {
    let canonical = json::canonical(value);
    assert_eq!(&json::parse(&canonical).unwrap(), value, "{name}");
}

#[test]
fn json_test_suite() {
    let Some(files) = files("JSONTestSuite/test_parsing") else {
        return;
    };
    assert!(files.len() > 300, "only {} files", files.len());
    for (name, text) in files {
        match (name.as_bytes()[0], json::parse(&text)) {
            (b'n', Ok(value)) => panic!("{name} was accepted as {value}"),
            // JSON takes these, and I-JSON does not.
            (b'y', Err(error)) => {
                let stricter = ["has this name already", json::NONCHARACTER];
                assert!(stricter.iter().any(|detail| error.detail.contains(detail)), "{name}: {error}");
            }
            (b'y' | b'i', Ok(value)) => comes_back_equal(&value, &name),
            (b'n' | b'i', Err(error)) => assert!(error.line > 0 && error.column > 0, "{name}: {error:?}"),
            _ => panic!("{name} is of no known kind"),
        }
    }
}

#[test]
fn canonicalization_of_rfc_8785() {
    let (Some(inputs), Some(outputs)) =
        (files("json-canonicalization/testdata/input"), files("json-canonicalization/testdata/output"))
    else {
        return;
    };
    assert_eq!(inputs.len(), 6);
    for (name, mut text) in inputs {
        if name == "values.json" {
            let error = json::parse(&text).expect_err("one of its numbers has a digit more than a double");
            assert_eq!(error.pointer, "/numbers/0");
            text = String::from_utf8(text).unwrap().replace("333333333.33333329", "333333333.3333333").into_bytes();
        }
        let (_, output) = outputs.iter().find(|(output, _)| *output == name).expect("each input has its output");
        let value = json::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(String::from_utf8(json::canonical(&value)), String::from_utf8(output.clone()), "{name}");
        comes_back_equal(&value, &name);
    }
}
