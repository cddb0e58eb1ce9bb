//! Keys of nodes and clusters that give way to others, so that whoever knows an old one learns the new one, offline.
//!
//! The key that signs until then signs who does from then on: its **succession**. It is good for all chains that the old key signs, and
//! stands
//!
//! - in notes, as a signature line in the old key's name of a type of its own (C2SP signed-note, signature type 0xff), which all who do
//!   not know it pass over: so it goes wherever a checkpoint goes;
//! - on chains, as the data of a transaction of the kind `key`: so it is seen by all, at one place in the order of the chain.
//!
//! Of a key there is one succession. Who shows two of them is believed in nothing.

use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde_json::{Value, json};

use super::{
    hash, json,
    note::{Algorithm, KeyName, Note, NoteError, Signature, VerifierKey},
    transaction::{Timestamp, take_hex},
};

/// What a succession's message, and the id of its line, begin with.
const FORM: &str = "qbc/succession/v1";

/// C2SP signed-note: a signature type without an identifier of its own, which a longer one follows.
const OTHER_TYPE: u8 = 0xff;

/// Whose checkpoints a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Those of one node.
    Node,
    /// Those of all nodes of a cluster.
    Cluster,
}

impl Role {
    /// The name under which a key signs in this role.
    pub fn name(self, key: &VerifyingKey) -> KeyName {
        match self {
            Role::Node => KeyName::of_node(key),
            Role::Cluster => KeyName::of_cluster(key),
        }
    }

    /// The role and the key that a name says.
    fn parse(name: &str) -> Option<(Role, VerifyingKey)> {
        let (role, digits) = match (name.strip_prefix("qbc/node/"), name.strip_prefix("qbc/cluster/")) {
            (Some(digits), _) => (Role::Node, digits),
            (_, Some(digits)) => (Role::Cluster, digits),
            _ => return None,
        };
        let key = VerifyingKey::from_bytes(&take_hex(digits, "key").ok()?).ok()?;
        Some((role, key))
    }
}

/// That a key has another in its place. In hand, it is signed by the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    role: Role,
    old: VerifyingKey,
    new: VerifyingKey,
    time: Timestamp,
    signature: [u8; 64],
}

impl Succession {
    /// The old key says which one takes its place, at this moment.
    ///
    /// # Panics
    /// The moment is before 1970.
    pub fn sign(role: Role, old: &SigningKey, new: VerifyingKey, time: Timestamp) -> Succession {
        assert!(time.micros() >= 0, "a succession is of a time since 1970");
        let message = message(role, &old.verifying_key(), &new, time);
        Succession { role, old: old.verifying_key(), new, time, signature: old.sign(&message).to_bytes() }
    }

    /// The succession, if the old key has signed it. Keys of small order are refused, so that a signature speaks for one message only.
    fn checked(self) -> Option<Succession> {
        let message = message(self.role, &self.old, &self.new, self.time);
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature);
        self.old.verify_strict(&message, &signature).is_ok().then_some(self)
    }

    /// The key that gives way.
    pub fn old(&self) -> &VerifyingKey {
        &self.old
    }

    /// The key in its place.
    pub fn successor(&self) -> &VerifyingKey {
        &self.new
    }

    /// When the old key signed that, as its holder says.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// As a line of a note.
    pub fn line(&self) -> Signature {
        let bytes = [&self.new.as_bytes()[..], &self.time.micros().to_be_bytes(), &self.signature].concat();
        let name = self.role.name(&self.old);
        let id = line_id(&name, &self.old);
        Signature::new(name, id, bytes)
    }

    /// Reads a line of a note; nothing where it is of another kind, or does not hold.
    pub fn of_line(line: &Signature) -> Option<Succession> {
        let (role, old) = Role::parse(line.name().as_str())?;
        if line.id() != line_id(line.name(), &old) {
            return None;
        }
        let (new, rest) = line.bytes().split_first_chunk::<32>()?;
        let (time, signature) = rest.split_first_chunk::<8>()?;
        let (new, time) = (VerifyingKey::from_bytes(new).ok()?, Timestamp::from_micros(i64::from_be_bytes(*time))?);
        Succession { role, old, new, time, signature: signature.try_into().ok()? }.checked()
    }

    /// The canonical data of the transaction that records it.
    pub fn data(&self) -> Vec<u8> {
        let [from, to] = [&self.old, &self.new].map(|key| self.role.name(key).as_str().to_owned());
        let signature = hex::encode(self.signature);
        json::canonical(&json!({"from": from, "signature": signature, "time": self.time.to_string(), "to": to}))
    }

    /// Reads the data of a transaction.
    ///
    /// # Errors
    /// It has not the form, or the old key has not signed it.
    pub fn parse(data: &Value) -> Result<Succession, String> {
        let malformed = || "its data is no {\"from\", \"signature\", \"time\", \"to\"}".to_owned();
        let fields = data.as_object().filter(|fields| fields.len() == 4).ok_or_else(malformed)?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str).ok_or_else(malformed);
        let key = |name: &str| text(name).and_then(|name| Role::parse(name).ok_or_else(malformed));
        let ((role, old), (new_role, new)) = (key("from")?, key("to")?);
        let (time, signature) = (text("time")?.parse()?, take_hex(text("signature")?, "signature")?);
        let said = Succession { role, old, new, time, signature };
        let holds = said.checked().filter(|_| role == new_role);
        holds.ok_or_else(|| "the key that gives way has not signed it".into())
    }
}

/// A line of its own, as in a file.
impl std::fmt::Display for Succession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.line().fmt(f)
    }
}

impl FromStr for Succession {
    type Err = String;

    fn from_str(line: &str) -> Result<Succession, String> {
        let line: Signature = line.parse().map_err(|error: NoteError| error.to_string())?;
        Succession::of_line(&line).ok_or_else(|| "it is no succession that its old key has signed".into())
    }
}

fn message(role: Role, old: &VerifyingKey, new: &VerifyingKey, time: Timestamp) -> Vec<u8> {
    format!("{FORM}\n{}\n{}\n{time}\n", role.name(old), role.name(new)).into_bytes()
}

fn line_id(name: &KeyName, old: &VerifyingKey) -> u32 {
    hash::key_id(name.as_str(), &[&[OTHER_TYPE], FORM.as_bytes()].concat(), old.as_bytes())
}

/// The successions that a note shows.
pub fn shown(note: &Note) -> Vec<Succession> {
    note.signatures().iter().filter_map(Succession::of_line).collect()
}

/// A key and those in its place, one after the other, as far as successions lead.
///
/// # Errors
/// A key has two.
pub fn heirs(key: &VerifierKey, successions: &[Succession]) -> Result<Vec<VerifierKey>, NoteError> {
    let mut heirs = vec![key.clone()];
    if key.algorithm() != Algorithm::Ed25519 {
        return Ok(heirs);
    }
    loop {
        let last = heirs.last().expect("it begins with one");
        let mut next = successions.iter().filter(|succession| succession.old == *last.key());
        let Some(first) = next.next() else { return Ok(heirs) };
        if next.any(|other| other.new != first.new) {
            return Err(NoteError::TwoSuccessors(last.name().clone()));
        }
        // Under another name, such as the origin of one chain, the new key signs, too.
        let is_by_role = *last.name() == first.role.name(&first.old);
        let name = if is_by_role { first.role.name(&first.new) } else { last.name().clone() };
        let heir = VerifierKey::new(name, Algorithm::Ed25519, first.new);
        if heirs.contains(&heir) {
            return Ok(heirs);
        }
        heirs.push(heir);
    }
}

/// The keys that sign in the place of those that are known, each once.
///
/// # Errors
/// A key has two successors.
pub fn follow(keys: &[VerifierKey], successions: &[Succession]) -> Result<Vec<VerifierKey>, NoteError> {
    let mut followed = Vec::with_capacity(keys.len());
    for key in keys {
        let last = heirs(key, successions)?.pop().expect("it has the key at least");
        if !followed.contains(&last) {
            followed.push(last);
        }
    }
    Ok(followed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::hash::Hash;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn time() -> Timestamp {
        "2026-11-27T16:00:00.000000Z".parse().unwrap()
    }

    fn succession(role: Role, old: u8, new: u8) -> Succession {
        Succession::sign(role, &key(old), key(new).verifying_key(), time())
    }

    fn verifier(name: KeyName, number: u8) -> VerifierKey {
        VerifierKey::new(name, Algorithm::Ed25519, key(number).verifying_key())
    }

    fn of_node(number: u8) -> VerifierKey {
        verifier(KeyName::of_node(&key(number).verifying_key()), number)
    }

    /// Frozen: what is signed, and how it is written.
    #[test]
    fn a_succession_has_one_form() {
        let [old, new] = [1, 2].map(|number| hex::encode(key(number).verifying_key().as_bytes()));
        let message = format!("qbc/succession/v1\nqbc/node/{old}\nqbc/node/{new}\n2026-11-27T16:00:00.000000Z\n");
        let signature = key(1).sign(message.as_bytes()).to_bytes();
        let made = succession(Role::Node, 1, 2);
        let data = format!(
            "{{\"from\":\"qbc/node/{old}\",\"signature\":\"{}\",\"time\":\"2026-11-27T16:00:00.000000Z\",\"to\":\"qbc/node/{new}\"}}",
            hex::encode(signature)
        );
        assert_eq!(String::from_utf8(made.data()).unwrap(), data);
        assert_eq!(Succession::parse(&json::parse(data.as_bytes()).unwrap()), Ok(made.clone()));
        assert_eq!(
            made.to_string(),
            "\u{2014} qbc/node/8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c ZYz5QoE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOUAAZhRCb8QAD75V2Gpix4jbeC1qNlqsUzL/l6i1r2HftSBxg3ssfhmxazfjsVm/9Gz6/jNc0odim9rWjuO+iRafdKDO6+KccP"
        );
        assert_eq!(made.to_string().parse(), Ok(made));
    }

    #[test]
    fn each_changed_bit_is_found() {
        for role in [Role::Node, Role::Cluster] {
            let made = succession(role, 1, 2);
            let line = made.line();
            for at in 0..line.bytes().len() * 8 {
                let mut bytes = line.bytes().to_vec();
                bytes[at / 8] ^= 1 << (at % 8);
                let changed = Signature::new(line.name().clone(), line.id(), bytes);
                assert_eq!(Succession::of_line(&changed), None, "{at}");
            }
            let renamed = Signature::new(role.name(&key(3).verifying_key()), line.id(), line.bytes().to_vec());
            assert_eq!(Succession::of_line(&renamed), None);
            let other = Signature::new(line.name().clone(), line.id() ^ 1, line.bytes().to_vec());
            assert_eq!(Succession::of_line(&other), None);
            // What a cluster's key says is nothing of a node.
            let mut data = json::parse(&made.data()).unwrap();
            for name in ["from", "to"] {
                let swapped = match data[name].as_str().unwrap().strip_prefix("qbc/node/") {
                    Some(digits) => format!("qbc/cluster/{digits}"),
                    None => data[name].as_str().unwrap().replace("qbc/cluster/", "qbc/node/"),
                };
                data[name] = swapped.into();
                assert!(Succession::parse(&data).is_err());
            }
        }
    }

    #[test]
    fn old_keys_lead_to_the_newest() {
        let all = [succession(Role::Node, 2, 3), succession(Role::Node, 1, 2), succession(Role::Cluster, 9, 8)];
        let origin = KeyName::of_chain(Hash::ZERO);
        let known = [of_node(1), verifier(origin.clone(), 1), of_node(3), of_node(7)];
        assert_eq!(follow(&known, &all), Ok(vec![of_node(3), verifier(origin, 3), of_node(7)]));
        let cosigner = VerifierKey::new(
            KeyName::of_witness(&key(1).verifying_key()),
            Algorithm::Cosignature,
            key(1).verifying_key(),
        );
        assert_eq!(follow(std::slice::from_ref(&cosigner), &all), Ok(vec![cosigner]));
        // In a circle nobody is the last, and of two nobody knows which.
        let circle = [succession(Role::Node, 1, 2), succession(Role::Node, 2, 1)];
        assert_eq!(follow(&[of_node(1)], &circle), Ok(vec![of_node(2)]));
        let two = [succession(Role::Node, 1, 2), succession(Role::Node, 1, 3)];
        assert!(matches!(follow(&[of_node(1)], &two), Err(NoteError::TwoSuccessors(_))));
        let twice = [succession(Role::Node, 1, 2), succession(Role::Node, 1, 2)];
        assert_eq!(follow(&[of_node(1)], &twice), Ok(vec![of_node(2)]));
    }

    /// Whoever knows nothing of successions passes over their lines.
    #[test]
    fn a_line_disturbs_nobody() {
        let mut note = Note::new("log\n1\n").unwrap();
        note.sign(KeyName::of_node(&key(2).verifying_key()), &key(2));
        note.add(succession(Role::Node, 1, 2).line());
        let read = Note::parse(note.to_string().as_bytes()).unwrap();
        assert_eq!((read.verify(&[of_node(2)]).unwrap().len(), shown(&read).len()), (1, 1));
        assert_eq!(read.verify(&[of_node(1)]), Err(NoteError::Unsigned));
        let followed = follow(&[of_node(1)], &shown(&read)).unwrap();
        assert_eq!(read.verify(&followed).unwrap().len(), 1);
    }
}
