//! Our own frozen vectors of keys that change and chains that end, in `tests/corpus/chain/` (`y-keys…` hold, `n-keys…` do not) and
//! `tests/vectors/keys/`.
//!
//! They were made once, by another program that shares no code with this one, and are never made again: if this test fails, the code
//! is wrong, or the format needs another version.

use std::{fs, path::Path};

use ed25519_dalek::SigningKey;
use qbc::core::{
    export::{Export, Line, Voucher},
    note::{Algorithm, KeyName, VerifierKey},
    verify::Verifier,
};

/// The ids, so that a changed file is noticed as well.
const CHAIN: &str = "4a2d7a01a67e682cbb67346683af9c701fea15999d9ee4f8b602994c94bfa889";
const FORK: &str = "f1523058fb5ba9d8fa259c5fec22025ea6f193c034bfed38ff07d2e021622b40";

fn node(secret: u8) -> VerifierKey {
    let key = SigningKey::from_bytes(&[secret; 32]).verifying_key();
    VerifierKey::new(KeyName::of_node(&key), Algorithm::Ed25519, key)
}

fn verified(file: &str, key: Option<u8>) -> Result<(Verifier, Voucher), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    let mut export = Export::new(Verifier::new(), key.map(node).into_iter().collect());
    for line in fs::read_to_string(path).unwrap().lines() {
        let in_force = export.verifier().in_force();
        let line = Line::parse(line.as_bytes(), in_force.as_deref());
        export.take(&line, &mut |_| ()).map_err(|fault| fault.to_string())?;
    }
    export.finish().map_err(|fault| fault.to_string())
}

#[test]
fn what_was_decided_holds() {
    // The first key, and those that have taken its place.
    for key in [11, 12, 13] {
        let (verifier, voucher) = verified("corpus/chain/y-keys.ndjson", Some(key)).unwrap();
        assert_eq!(verifier.id().unwrap().to_string(), CHAIN);
        let terms = verifier.terms().unwrap();
        assert_eq!((terms.since().get(), terms.frozen().map(|index| index.get())), (5, Some(6)));
        assert_eq!(terms.keys().iter().map(|key| key.get()).collect::<Vec<_>>(), [2, 4, 5]);
        assert_eq!(voucher, Voucher::Key(node(13).name().clone()));
    }
    assert!(verified("corpus/chain/y-keys.ndjson", Some(14)).is_err());
    let (fork, _) = verified("corpus/chain/y-keys-fork-of-frozen.ndjson", None).unwrap();
    assert_eq!((fork.id().unwrap().to_string().as_str(), fork.terms().unwrap().frozen()), (FORK, None));
}

#[test]
fn what_was_not_decided_is_found() {
    for (name, fault) in [
        ("old-writer", "transaction 3: its signer is not one of the chain's writers"),
        (
            "replayed",
            "transaction 4: it replaces the writers that transaction 0 names, but those in force are named by",
        ),
        ("replaced-by-removed", "transaction 3: its signer is not one of the chain's writers"),
        ("stranger", "transaction 2: its signer is not one of the chain's writers"),
        ("unsigned", "transaction 2: it is not signed, but the chain has writers"),
        ("signed-as-data", "transaction 2: its signature is not its signer's"),
        ("no-writers-left", "transaction 2: /writers: must be an array of one or more"),
        ("null-writers", "transaction 2: /writers: must name one key at least"),
        ("with-id", "transaction 2: a transaction of the kind \"key\" has no id"),
        ("open-chain", "transaction 1: it names writers of a chain on which everyone may write"),
        ("forged-succession", "transaction 2: the key that gives way has not signed it"),
        ("signed-succession", "transaction 2: a succession has no signer but the old key"),
        ("freeze-unsigned", "transaction 2: it is not signed, but the chain has writers"),
        ("freeze-by-removed", "transaction 3: its signer is not one of the chain's writers"),
        ("transaction-behind-freeze", "transaction 3: the chain was frozen by transaction 2"),
        ("quant-behind-freeze", "quant 3: quant 2 sealed that the chain is frozen"),
        ("late-behind-last-quant", "transaction 7: the chain was frozen by transaction 6"),
    ] {
        let found = verified(&format!("corpus/chain/n-keys-{name}.ndjson"), None).err().unwrap_or_default();
        assert!(found.starts_with(fault), "{name}: {found:?}");
    }
}

/// What a chain records binds whoever verifies all of it.
#[test]
fn a_key_that_gave_way_is_good_for_nothing() {
    let stolen = verified("vectors/keys/stolen.ndjson", Some(11)).err().unwrap();
    assert_eq!(stolen, "checkpoint: the key that was named has another in its place, which has not signed it");
    assert!(verified("vectors/keys/stolen.ndjson", None).is_ok());
    let (_, voucher) = verified("vectors/keys/second.ndjson", Some(11)).unwrap();
    assert_eq!(voucher, Voucher::Key(node(12).name().clone()));
    let two = verified("vectors/keys/two.ndjson", Some(11)).err().unwrap();
    assert!(two.contains("has named two others in its place"), "{two}");
}
