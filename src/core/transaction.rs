//! A transaction: one JSON value with its identity and time, its commitment and its leaf.

use std::{fmt, ops::Range, str::FromStr};

use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{
    hash::{self, Hash},
    json,
};

/// A moment in UTC, in whole microseconds, written as RFC 3339 with six digits: `2026-11-22T11:49:07.123456Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// The last moment that can be written.
    pub const LAST: Timestamp =
        Timestamp(DateTime::from_timestamp_micros(253_402_300_799_999_999).expect("it is a moment"));

    /// From microseconds since 1970 in UTC. `None` outside of the years 0000 to 9999, which RFC 3339 cannot write.
    pub fn from_micros(micros: i64) -> Option<Self> {
        let moment = DateTime::from_timestamp_micros(micros)?;
        (0..=9999).contains(&moment.year()).then_some(Timestamp(moment))
    }

    /// Microseconds since 1970, negative before.
    pub fn micros(self) -> i64 {
        self.0.timestamp_micros()
    }

    /// Whole seconds since 1970, 0 before.
    pub fn seconds(self) -> u64 {
        self.0.timestamp().try_into().unwrap_or(0)
    }

    /// As it is written. Each transaction has it three times, and chrono takes as long for it as a hash does.
    fn to_text(self) -> [u8; 27] {
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let parts = [
            (0..4, self.0.year().unsigned_abs()),
            (5..7, self.0.month()),
            (8..10, self.0.day()),
            (11..13, self.0.hour()),
            (14..16, self.0.minute()),
            (17..19, self.0.second()),
            (20..26, self.0.timestamp_subsec_micros()),
        ];
        for (place, mut number) in parts {
            for digit in text[place].iter_mut().rev() {
                *digit += (number % 10) as u8;
                number /= 10;
            }
        }
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.to_text()).expect("digits and marks are ASCII"))
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read_time(text.as_bytes()).ok_or_else(|| format!("{text:?} is no time like 2026-11-22T11:49:07.123456Z"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.to_text()).expect("digits and marks are ASCII"))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads the one form that is written.
fn read_time(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 27] = text.try_into().ok()?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (26, b'Z')];
    if separators.iter().any(|&(at, separator)| text[at] != separator) {
        return None;
    }
    let number = |range: Range<usize>| {
        text[range]
            .iter()
            .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| 10 * number + u32::from(byte - b'0')))
    };
    let date = NaiveDate::from_ymd_opt(number(0..4)? as i32, number(5..7)?, number(8..10)?)?;
    let moment = date.and_hms_micro_opt(number(11..13)?, number(14..16)?, number(17..19)?, number(20..26)?)?;
    Some(Timestamp(moment.and_utc()))
}

/// A client's own name for a transaction: 1 to 128 printable ASCII characters without space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.len() {
            1..=128 if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Id(text.into())),
            _ => Err("an id is 1 to 128 printable ASCII characters without space"),
        }
    }
}

/// What the node itself records. Clients cannot make such transactions, so they cannot fake one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The rules of a chain, its first own transaction.
    Bang,
    /// The record that another transaction was erased.
    Erasure,
}

impl Kind {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Bang => "bang",
            Kind::Erasure => "erasure",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Kind::Bang, Kind::Erasure]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no kind of transaction: \"bang\" and \"erasure\" are"))
    }
}

/// A writer's key and its signature (Ed25519, RFC 8032), not yet checked against a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The writer's public key.
    pub signer: [u8; 32],
    /// Over the canonical JSON of `{"chain", "data", "id"?, "kind"?}`.
    pub signature: [u8; 64],
}

impl Signed {
    /// Whether the signature is the signer's over this data for this chain, as a transaction of this kind: so what a writer has
    /// signed as data is never an erasure. Keys of small order are refused, so that a signature speaks for one message only.
    pub fn verifies(&self, chain: Hash, kind: Option<Kind>, data: &[u8], id: Option<&Id>) -> bool {
        let mut message = Vec::with_capacity(data.len() + 128);
        message.extend_from_slice(b"{\"chain\":\"");
        message.extend_from_slice(&chain.to_hex());
        message.extend_from_slice(b"\",\"data\":");
        message.extend_from_slice(data);
        if let Some(id) = id {
            message.extend_from_slice(b",\"id\":");
            json::write_string(id.as_str(), &mut message);
        }
        if let Some(kind) = kind {
            write_kind(kind, &mut message);
        }
        message.push(b'}');
        VerifyingKey::from_bytes(&self.signer)
            .is_ok_and(|key| key.verify_strict(&message, &Signature::from_bytes(&self.signature)).is_ok())
    }
}

/// What a client asks to record: valid I-JSON in canonical bytes, and how the client names and signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The value's RFC 8785 bytes.
    pub data: Vec<u8>,
    /// The client's name for it.
    pub id: Option<Id>,
    /// Who wrote it.
    pub signed: Option<Signed>,
}

/// A transaction as it is recorded: everything but its place.
///
/// Its fields cannot be changed, since its hash speaks for them.
#[derive(Clone, Debug)]
pub struct Transaction {
    id: Option<Id>,
    kind: Option<Kind>,
    timestamp: Timestamp,
    commitment: Hash,
    hash: Hash,
    signed: Option<Signed>,
    /// The record as it is stored and served, from behind the number of the index on.
    tail: Vec<u8>,
    /// Where its time stands in `tail`.
    time: usize,
    /// Where its data stands in `tail`.
    data: Range<usize>,
}

impl Transaction {
    /// Records a submission at a moment. The salt must be random: it hides erased data (FORMAT: commitment).
    pub fn new(submission: Submission, kind: Option<Kind>, timestamp: Timestamp, salt: [u8; 16]) -> Self {
        let Submission { data, id, signed } = submission;
        let text = timestamp.to_text();
        let commitment = hash::commitment(&salt, &data);
        let leaf = Leaf { commitment, id: id.as_ref(), kind, signed: signed.as_ref(), timestamp: &text };
        let hash = leaf.hash();

        let mut tail = Vec::with_capacity(data.len() + 384);
        leaf.write_names(&mut tail);
        tail.extend_from_slice(b",\"timestamp\":\"");
        let time = tail.len();
        tail.extend_from_slice(&text);
        tail.push(b'"');
        leaf.write_signature(&mut tail);
        tail.extend_from_slice(b",\"data\":");
        let start = tail.len();
        tail.extend_from_slice(&data);
        let data = start..tail.len();
        tail.extend_from_slice(b",\"salt\":\"");
        let mut digits = [0; 32];
        hex::encode_to_slice(salt, &mut digits).expect("16 bytes are 32 digits");
        tail.extend_from_slice(&digits);
        tail.extend_from_slice(b"\",\"hash\":\"");
        tail.extend_from_slice(&hash.to_hex());
        tail.extend_from_slice(b"\"}");
        Transaction { id, kind, timestamp, commitment, hash, signed, tail, time, data }
    }

    /// Moves it on to a moment, where it is earlier. The data is not hashed again, so it costs little.
    pub fn delay_to(&mut self, moment: Timestamp) {
        if self.timestamp >= moment {
            return;
        }
        let text = moment.to_text();
        let leaf = Leaf {
            commitment: self.commitment,
            id: self.id.as_ref(),
            kind: self.kind,
            signed: self.signed.as_ref(),
            timestamp: &text,
        };
        (self.timestamp, self.hash) = (moment, leaf.hash());
        self.tail[self.time..self.time + text.len()].copy_from_slice(&text);
        // The record ends with the hash.
        let end = self.tail.len() - 2;
        self.tail[end - 64..end].copy_from_slice(&self.hash.to_hex());
    }

    /// Its canonical data.
    pub fn data(&self) -> &[u8] {
        &self.tail[self.data.clone()]
    }

    /// Who signed it, and how.
    pub fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }

    /// Who signed it.
    pub fn signer(&self) -> Option<[u8; 32]> {
        self.signed.as_ref().map(|signed| signed.signer)
    }

    /// The client's name for it.
    pub fn id(&self) -> Option<&Id> {
        self.id.as_ref()
    }

    /// When a node accepted it.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Its Merkle leaf hash.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Bytes of its record, but for the digits of the index.
    pub fn record_bytes(&self) -> usize {
        RECORD_START.len() + self.tail.len()
    }

    /// Appends its record at this index: the JSON object that is stored and served.
    pub fn write_record(&self, index: u64, out: &mut Vec<u8>) {
        use std::io::Write;
        out.extend_from_slice(RECORD_START);
        write!(out, "{index}").expect("writing to memory does not fail");
        out.extend_from_slice(&self.tail);
    }
}

const RECORD_START: &[u8] = b"{\"index\":";

/// The leaf hash that stands in a stored record, without parsing it: each record ends with it.
pub fn record_hash(record: &[u8]) -> Option<Hash> {
    let digits = record.strip_suffix(b"\"}")?;
    std::str::from_utf8(&digits[digits.len().checked_sub(64)?..]).ok()?.parse().ok()
}

/// The leaf of a stored record, without parsing it: what its hash speaks for, and it is checked that it does.
///
/// The parts stand in the order of [`Transaction::new`], and an erased record has its commitment in the place of its data.
/// The marks between them stand in no id, where their quotes would be escaped.
pub fn record_leaf(record: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(record).ok()?;
    let (head, commitment) = match text.split_once(",\"data\":") {
        Some((head, rest)) => {
            let (data, salt) = rest.rsplit_once(",\"salt\":\"")?;
            let salt = take_hex(salt.get(..32)?, "salt").ok()?;
            (head, hash::commitment(&salt, data.as_bytes()))
        }
        None => {
            let (head, rest) = text.split_once(",\"commitment\":\"")?;
            (head, rest.get(..64)?.parse().ok()?)
        }
    };
    let (names, rest) = head.split_once(",\"timestamp\":\"")?;
    let names = names.find(',').map_or("", |end_of_index| &names[end_of_index..]);
    let (time, signature) = rest.split_once('"')?;
    let leaf = format!("{{\"commitment\":\"{commitment}\"{names}{signature},\"timestamp\":\"{time}\"}}").into_bytes();
    (Some(hash::leaf(&leaf)) == record_hash(record)).then_some(leaf)
}

fn write_kind(kind: Kind, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"kind\":\"");
    out.extend_from_slice(kind.as_str().as_bytes());
    out.push(b'"');
}

/// What the Merkle tree commits to of a transaction.
struct Leaf<'a> {
    commitment: Hash,
    id: Option<&'a Id>,
    kind: Option<Kind>,
    signed: Option<&'a Signed>,
    timestamp: &'a [u8],
}

impl Leaf<'_> {
    fn hash(&self) -> Hash {
        let mut leaf = Vec::with_capacity(512);
        leaf.extend_from_slice(b"{\"commitment\":\"");
        leaf.extend_from_slice(&self.commitment.to_hex());
        leaf.push(b'"');
        self.write_names(&mut leaf);
        self.write_signature(&mut leaf);
        leaf.extend_from_slice(b",\"timestamp\":\"");
        leaf.extend_from_slice(self.timestamp);
        leaf.extend_from_slice(b"\"}");
        hash::leaf(&leaf)
    }

    fn write_names(&self, out: &mut Vec<u8>) {
        if let Some(id) = self.id {
            out.extend_from_slice(b",\"id\":");
            json::write_string(id.as_str(), out);
        }
        if let Some(kind) = self.kind {
            write_kind(kind, out);
        }
    }

    fn write_signature(&self, out: &mut Vec<u8>) {
        if let Some(signed) = self.signed {
            out.extend_from_slice(b",\"signature\":\"");
            out.extend_from_slice(hex::encode(signed.signature).as_bytes());
            out.extend_from_slice(b"\",\"signer\":\"");
            out.extend_from_slice(hex::encode(signed.signer).as_bytes());
            out.push(b'"');
        }
    }
}

/// A transaction as somebody serves it: its form is checked and its hash recomputed, its place is not known yet.
#[derive(Clone, Debug)]
pub struct Record {
    /// The place that it claims.
    pub index: u64,
    /// The client's name for it.
    pub id: Option<Id>,
    /// What the node recorded, absent for what clients inject.
    pub kind: Option<Kind>,
    /// Who wrote it. Not checked yet: that needs the chain.
    pub signed: Option<Signed>,
    /// When a node accepted it.
    pub timestamp: Timestamp,
    /// Its data in canonical form, or nothing if it was erased.
    pub data: Option<Vec<u8>>,
    /// The salt of its commitment, or nothing if it was erased.
    pub salt: Option<[u8; 16]>,
    /// `H(salt ‖ data)`: recomputed, or what is left of an erased one.
    pub commitment: Hash,
    /// When it was erased, if it was.
    pub erased: Option<Erased>,
    /// The leaf hash, recomputed from all of the above.
    pub hash: Hash,
}

/// That a transaction was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// When.
    pub timestamp: Timestamp,
    /// The index of the transaction that records it, in the chain that wrote the erased one.
    pub by: u64,
}

impl Record {
    /// Parses and recomputes a served transaction.
    ///
    /// # Errors
    /// A sentence that says which field is missing, unknown, malformed or does not match its hash.
    pub fn parse(text: &[u8]) -> Result<Record, String> {
        match Record::walk(text) {
            Some(record) => Ok(record),
            None => Record::from_value(json::parse(text).map_err(|error| error.to_string())?),
        }
    }

    /// The same at a fraction of the cost for one that is as nodes and exports write it; nothing where only
    /// [`Record::from_value`] can tell.
    pub fn walk(text: &[u8]) -> Option<Record> {
        Walk::over(text)
    }

    /// The same for a value that came through [`json::parse`] as a part of something larger.
    ///
    /// # Errors
    /// As [`Record::parse`].
    pub fn from_value(value: Value) -> Result<Record, String> {
        let Value::Object(mut fields) = value else {
            return Err("a transaction is an object".into());
        };
        let index = fields.remove("index").and_then(|index| index.as_u64()).ok_or("\"index\" is not a whole number")?;
        let id = take_text(&mut fields, "id")?.map(|id| id.parse::<Id>()).transpose()?;
        let kind = take_text(&mut fields, "kind")?.map(|kind| kind.parse::<Kind>()).transpose()?;
        let timestamp: Timestamp = take_text(&mut fields, "timestamp")?.ok_or("\"timestamp\" is missing")?.parse()?;
        let signed = take_signed(&mut fields).map_err(|(_, detail)| detail)?;
        let claimed: Hash = take_hash(&mut fields, "hash")?.ok_or("\"hash\" is missing")?;
        let data = fields.remove("data").map(|data| json::canonical(&data));
        let salt = take_text(&mut fields, "salt")?.map(|salt| take_hex(&salt, "salt")).transpose()?;
        let (commitment, erased) = match (&data, &salt) {
            (Some(data), Some(salt)) => (hash::commitment(salt, data), None),
            (None, None) => {
                let erased = fields.remove("erased").ok_or("there is neither \"data\" nor \"erased\"")?;
                let commitment = take_hash(&mut fields, "commitment")?.ok_or("\"commitment\" is missing")?;
                (commitment, Some(Erased::from_value(erased)?))
            }
            _ => return Err("of \"data\" and \"salt\" one is missing".into()),
        };
        // Where it stands is no part of it, and is served beside it by some routes.
        fields.retain(|name, _| name != "state" && name != "quant");
        if let Some(name) = fields.keys().next() {
            return Err(format!("{name:?} is no field of a transaction"));
        }
        let time = timestamp.to_string();
        let leaf = Leaf { commitment, id: id.as_ref(), kind, signed: signed.as_ref(), timestamp: time.as_bytes() };
        let hash = leaf.hash();
        if hash != claimed {
            return Err(format!("\"hash\" is {claimed}, but its content hashes to {hash}"));
        }
        Ok(Record { index, id, kind, signed, timestamp, data, salt, commitment, erased, hash })
    }

    /// Appends it as it is exported: canonical JSON (RFC 8785).
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        let Record { index, timestamp, commitment, hash, .. } = self;
        let wrote = "writing to memory does not fail";
        match (&self.data, &self.erased) {
            (Some(data), _) => {
                out.extend_from_slice(b"{\"data\":");
                out.extend_from_slice(data);
            }
            (None, erased) => {
                write!(out, "{{\"commitment\":\"{commitment}\"").expect(wrote);
                erased.iter().for_each(|Erased { timestamp, by }| {
                    write!(out, ",\"erased\":{{\"by\":{by},\"timestamp\":\"{timestamp}\"}}").expect(wrote);
                });
            }
        }
        write!(out, ",\"hash\":\"{hash}\"").expect(wrote);
        if let Some(id) = &self.id {
            out.extend_from_slice(b",\"id\":");
            json::write_string(id.as_str(), out);
        }
        write!(out, ",\"index\":{index}").expect(wrote);
        if let Some(kind) = self.kind {
            write!(out, ",\"kind\":\"{}\"", kind.as_str()).expect(wrote);
        }
        if let Some(salt) = &self.salt {
            write!(out, ",\"salt\":\"{}\"", hex::encode(salt)).expect(wrote);
        }
        if let Some(Signed { signer, signature }) = &self.signed {
            write!(out, ",\"signature\":\"{}\",\"signer\":\"{}\"", hex::encode(signature), hex::encode(signer))
                .expect(wrote);
        }
        write!(out, ",\"timestamp\":\"{timestamp}\"}}").expect(wrote);
    }

    /// Appends it as it is stored and served: the bytes that [`Transaction::write_record`] has written.
    pub fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        let Record { index, timestamp, commitment, hash, .. } = self;
        let leaf = Leaf {
            commitment: *commitment,
            id: self.id.as_ref(),
            kind: self.kind,
            signed: self.signed.as_ref(),
            timestamp: b"",
        };
        let wrote = "writing to memory does not fail";
        out.extend_from_slice(RECORD_START);
        write!(out, "{index}").expect(wrote);
        leaf.write_names(out);
        write!(out, ",\"timestamp\":\"{timestamp}\"").expect(wrote);
        leaf.write_signature(out);
        match (&self.data, &self.salt, &self.erased) {
            (Some(data), Some(salt), _) => {
                out.extend_from_slice(b",\"data\":");
                out.extend_from_slice(data);
                write!(out, ",\"salt\":\"{}\"", hex::encode(salt)).expect(wrote);
            }
            (_, _, Some(erased)) => write_erased(*commitment, *erased, out),
            _ => unreachable!("what has no data and no salt was erased"),
        }
        write!(out, ",\"hash\":\"{hash}\"}}").expect(wrote);
    }

    /// Its record after an erasure: everything but the data and the salt.
    pub fn write_erased(&self, erased: Erased, out: &mut Vec<u8>) {
        let (id, signed) = (self.id.clone(), self.signed.clone());
        Record { id, signed, data: None, salt: None, erased: Some(erased), ..*self }.write(out);
    }
}

/// Appends what a served transaction has in the place of its data and salt when it was erased.
pub fn write_erased(commitment: Hash, Erased { timestamp, by }: Erased, out: &mut Vec<u8>) {
    use std::io::Write;
    let erased =
        format_args!(",\"commitment\":\"{commitment}\",\"erased\":{{\"timestamp\":\"{timestamp}\",\"by\":{by}}}");
    write!(out, "{erased}").expect("writing to memory does not fail");
}

impl Erased {
    fn from_value(value: Value) -> Result<Erased, String> {
        let malformed = || "\"erased\" is no {\"timestamp\", \"by\"}".to_string();
        let Value::Object(mut fields) = value else { return Err(malformed()) };
        let timestamp = take_text(&mut fields, "timestamp")?.ok_or_else(malformed)?.parse()?;
        let by = fields.remove("by").and_then(|by| by.as_u64()).ok_or_else(malformed)?;
        if fields.is_empty() { Ok(Erased { timestamp, by }) } else { Err(malformed()) }
    }
}

/// A walk over a record in canonical JSON, as stored (`index` first) or as exported (sorted), that makes no value of it.
///
/// It saves most of the work of a verification. Whatever is unusual or wrong ends it, and [`Record::from_value`] decides: so
/// the walk accepts less, and nothing else.
#[derive(Default)]
struct Walk<'a> {
    index: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    timestamp: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
    salt: Option<&'a [u8]>,
    signer: Option<&'a [u8]>,
    signature: Option<&'a [u8]>,
    hash: Option<&'a [u8]>,
    /// Where it stands is no part of it, and is served beside it by some routes.
    state: Option<&'a [u8]>,
    quant: Option<&'a [u8]>,
}

impl<'a> Walk<'a> {
    fn over(text: &'a [u8]) -> Option<Record> {
        std::str::from_utf8(text).ok()?;
        let mut walk = Walk::default();
        let mut rest = text.strip_prefix(b"{")?;
        loop {
            let name = rest.strip_prefix(b"\"")?;
            let end = name.iter().position(|&byte| byte == b'"')?;
            let field = walk.field(&name[..end]).filter(|field| field.is_none())?;
            let value = name[end + 1..].strip_prefix(b":")?;
            let length = json::canonical_length(value, json::MAX_DEPTH - 1)?;
            *field = Some(&value[..length]);
            rest = match value[length..].split_first()? {
                (b',', rest) => rest,
                (b'}', []) => return walk.record(),
                _ => return None,
            };
        }
    }

    fn field(&mut self, name: &[u8]) -> Option<&mut Option<&'a [u8]>> {
        Some(match name {
            b"index" => &mut self.index,
            b"id" => &mut self.id,
            b"kind" => &mut self.kind,
            b"timestamp" => &mut self.timestamp,
            b"data" => &mut self.data,
            b"salt" => &mut self.salt,
            b"signer" => &mut self.signer,
            b"signature" => &mut self.signature,
            b"hash" => &mut self.hash,
            b"state" => &mut self.state,
            b"quant" => &mut self.quant,
            _ => return None,
        })
    }

    fn record(self) -> Option<Record> {
        let index = std::str::from_utf8(self.index?).ok()?.parse().ok()?;
        let id = optional(self.id, |id| id.parse::<Id>().ok())?;
        let kind = optional(self.kind, |kind| kind.parse::<Kind>().ok())?;
        let signed = match (self.signer, self.signature) {
            (None, None) => None,
            (Some(signer), Some(signature)) => Some(Signed {
                signer: take_hex(plain_text(signer)?, "signer").ok()?,
                signature: take_hex(plain_text(signature)?, "signature").ok()?,
            }),
            _ => return None,
        };
        let time = plain_text(self.timestamp?)?;
        let timestamp = time.parse().ok()?;
        let (data, salt) = (self.data?, take_hex(plain_text(self.salt?)?, "salt").ok()?);
        let commitment = hash::commitment(&salt, data);
        let leaf = Leaf { commitment, id: id.as_ref(), kind, signed: signed.as_ref(), timestamp: time.as_bytes() };
        let hash = leaf.hash();
        (plain_text(self.hash?)?.as_bytes() == hash.to_hex()).then_some(())?;
        let (data, salt, erased) = (Some(data.to_vec()), Some(salt), None);
        Some(Record { index, id, kind, signed, timestamp, data, salt, commitment, erased, hash })
    }
}

/// The characters of a JSON string that has no escapes.
fn plain_text(value: &[u8]) -> Option<&str> {
    let text = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    std::str::from_utf8(text).ok().filter(|text| !text.contains('\\'))
}

/// Nothing of nothing, and of a text what `read` makes of it.
fn optional<T>(value: Option<&[u8]>, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => read(plain_text(value)?).map(Some),
    }
}

/// Takes `signer` and `signature` out of an object: both or neither.
///
/// # Errors
/// The field at fault, and a sentence: one stands without the other, or is no lower-case hexadecimal digits of the right
/// number.
pub fn take_signed(fields: &mut Map<String, Value>) -> Result<Option<Signed>, (&'static str, String)> {
    let mut take = |name| take_text(fields, name).map_err(|detail| (name, detail));
    match (take("signer")?, take("signature")?) {
        (Some(signer), Some(signature)) => Ok(Some(Signed {
            signer: take_hex(&signer, "signer").map_err(|detail| ("signer", detail))?,
            signature: take_hex(&signature, "signature").map_err(|detail| ("signature", detail))?,
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(("signer", "\"signer\" stands without \"signature\"".into())),
        (None, Some(_)) => Err(("signature", "\"signature\" stands without \"signer\"".into())),
    }
}

/// Takes a text out of an object.
///
/// # Errors
/// The value is no text.
pub fn take_text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name:?} is not a string")),
    }
}

fn take_hash(fields: &mut Map<String, Value>, name: &str) -> Result<Option<Hash>, String> {
    let text = take_text(fields, name)?;
    text.map(|text| text.parse().map_err(|error| format!("{name:?}: {error}"))).transpose()
}

/// Bytes from lower-case hexadecimal digits, exactly as many as are needed.
///
/// # Errors
/// Other characters, or another number of them.
pub fn take_hex<const N: usize>(text: &str, name: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if !text.bytes().any(|byte| byte.is_ascii_uppercase()) => Ok(bytes),
        _ => Err(format!("{name:?} is not {} lower-case hexadecimal digits", 2 * N)),
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn time(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    fn sign(key: &SigningKey, chain: Hash, data: &Value, id: Option<&str>) -> Signed {
        let mut message = json!({"chain": chain.to_string(), "data": data});
        if let Some(id) = id {
            message["id"] = id.into();
        }
        let signature = key.sign(&json::canonical(&message)).to_bytes();
        Signed { signer: key.verifying_key().to_bytes(), signature }
    }

    #[test]
    fn only_the_canonical_text_is_a_timestamp() {
        assert_eq!(time(1_795_348_147_123_456).to_string(), "2026-11-22T11:49:07.123456Z");
        for text in ["0000-01-01T00:00:00.000000Z", "1969-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "2026-11-22",
            "2026-11-22T11:49:07Z",
            "2026-11-22T11:49:07.123Z",
            "2026-11-22T11:49:07.1234567Z",
            "2026-11-22T11:49:07.123456z",
            "2026-11-22t11:49:07.123456Z",
            "2026-11-22 11:49:07.123456Z",
            "2026-11-22T11:49:07.123456+00:00",
            "2026-11-22T12:49:07.123456+01:00",
            "2026-11-22T23:59:60.000000Z",
            "2026-11-22T24:00:00.000000Z",
            "2026-02-29T00:00:00.000000Z",
            "+2026-11-22T11:49:07.123456Z",
            "10000-01-01T00:00:00.000000Z",
            " 2026-11-22T11:49:07.123456Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        let last = 253_402_300_799_999_999;
        assert!(Timestamp::from_micros(last).is_some());
        for beyond in [i64::MIN, -62_167_219_200_000_001, last + 1, i64::MAX] {
            assert_eq!(Timestamp::from_micros(beyond), None);
        }
    }

    #[test]
    fn ids_are_printable_ascii_without_space() {
        for id in ["a", "!~\"\\{}", &"x".repeat(128)] {
            assert_eq!(id.parse::<Id>().unwrap().as_str(), id);
        }
        for id in ["", "a b", " ", "a\n", "\u{7f}", "é", "\0", &"x".repeat(129)] {
            assert!(id.parse::<Id>().is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_signature_speaks_for_one_chain_value_and_id() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let (chain, other) = (Hash::from_bytes([1; 32]), Hash::from_bytes([2; 32]));
        let id: Id = "a\"\\".parse().unwrap();
        let signed = sign(&key, chain, &json!({"b": 1}), Some(id.as_str()));
        assert!(signed.verifies(chain, None, b"{\"b\":1}", Some(&id)));
        assert!(!signed.verifies(other, None, b"{\"b\":1}", Some(&id)));
        assert!(!signed.verifies(chain, Some(Kind::Erasure), b"{\"b\":1}", Some(&id)));
        assert!(!signed.verifies(chain, None, b"{\"b\":2}", Some(&id)));
        assert!(!signed.verifies(chain, None, b"{\"b\":1}", None));
        assert!(!signed.verifies(chain, None, b"{\"b\":1}", Some(&"a".parse().unwrap())));
        assert!(!Signed { signer: [9; 32], ..signed }.verifies(chain, None, b"{\"b\":1}", Some(&id)));
    }

    /// Frozen: what the writer of an erasure signs.
    #[test]
    fn an_erasure_is_signed_with_its_kind() {
        let (key, chain) = (SigningKey::from_bytes(&[7; 32]), Hash::from_bytes([0x1a; 32]));
        let message = format!(
            "{{\"chain\":\"{}\",\"data\":{{\"index\":1,\"reason\":\"r\"}},\"kind\":\"erasure\"}}",
            "1a".repeat(32)
        );
        let sign = |message: &str| Signed {
            signer: key.verifying_key().to_bytes(),
            signature: key.sign(message.as_bytes()).to_bytes(),
        };
        let data = b"{\"index\":1,\"reason\":\"r\"}";
        let signed = sign(&message);
        assert!(signed.verifies(chain, Some(Kind::Erasure), data, None));
        assert!(!signed.verifies(chain, None, data, None) && !signed.verifies(chain, Some(Kind::Bang), data, None));
        let without = sign(&message.replace(",\"kind\":\"erasure\"", ""));
        assert!(!without.verifies(chain, Some(Kind::Erasure), data, None), "a signed value is no erasure");
    }

    /// A key of small order has signatures that verify for many messages, and S + L is a second signature for the same.
    #[test]
    fn one_message_has_one_signature() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let weak = Signed { signer: identity, signature };
        assert!(!weak.verifies(Hash::ZERO, None, b"1", None));

        let mut signed = sign(&SigningKey::from_bytes(&[7; 32]), Hash::ZERO, &json!(1), None);
        assert!(signed.verifies(Hash::ZERO, None, b"1", None));
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
        let mut carry = 0;
        for (byte, order) in signed.signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert!(!signed.verifies(Hash::ZERO, None, b"1", None));
    }

    fn submissions() -> impl Strategy<Value = (Submission, Option<Kind>, Timestamp, [u8; 16])> {
        let data = prop_oneof![
            any::<i32>().prop_map(|number| json!(number)),
            ".{0,20}"
                .prop_filter("no I-JSON", |text| !json::has_noncharacter(text))
                .prop_map(|text| json!({text: ["\\\"}", null, 0.5]})),
        ];
        let id = proptest::option::of("[!-~]{1,128}");
        let signed = proptest::option::of((any::<[u8; 32]>(), any::<[[u8; 32]; 2]>()));
        let kind = prop_oneof![Just(None), Just(Some(Kind::Bang)), Just(Some(Kind::Erasure))];
        let micros = -62_167_219_200_000_000..=253_402_300_799_999_999i64;
        (data, id, signed, kind, micros, any::<[u8; 16]>()).prop_map(|(data, id, signed, kind, micros, salt)| {
            let signed =
                signed.map(|(signer, signature)| Signed { signer, signature: signature.concat().try_into().unwrap() });
            let submission = Submission { data: json::canonical(&data), id: id.map(|id| id.parse().unwrap()), signed };
            (submission, kind, time(micros), salt)
        })
    }

    proptest! {
        #[test]
        fn times_sort_as_their_texts(a in 0..253_402_300_799_999_999i64, b in 0..253_402_300_799_999_999i64) {
            prop_assert_eq!(time(a).to_string().parse(), Ok(time(a)));
            prop_assert_eq!(time(a).cmp(&time(b)), time(a).to_string().cmp(&time(b).to_string()));
        }

        #[test]
        fn what_is_recorded_is_read_back((submission, kind, timestamp, salt) in submissions(), index in 0..1u64 << 53) {
            let transaction = Transaction::new(submission.clone(), kind, timestamp, salt);
            let mut bytes = b"before".to_vec();
            transaction.write_record(index, &mut bytes);
            let bytes = &bytes[6..];
            // Delayed, it is what it would be if it had been made then; earlier it never becomes.
            for earlier in [time(-62_167_219_200_000_000), timestamp] {
                let mut delayed = Transaction::new(submission.clone(), kind, earlier, salt);
                delayed.delay_to(timestamp);
                delayed.delay_to(earlier);
                let mut record = Vec::new();
                delayed.write_record(index, &mut record);
                prop_assert_eq!((&record[..], delayed.hash()), (bytes, transaction.hash()));
            }
            prop_assert_eq!(transaction.record_bytes() + index.to_string().len(), bytes.len());
            prop_assert_eq!(transaction.data(), &submission.data[..]);
            prop_assert_eq!(record_hash(bytes), Some(transaction.hash()));
            let leaf = record_leaf(bytes).unwrap();

            let record = Record::parse(bytes).unwrap();
            prop_assert_eq!((record.index, record.hash), (index, transaction.hash()));
            prop_assert_eq!((&record.id, record.kind), (&submission.id, kind));
            prop_assert_eq!((&record.signed, record.timestamp), (&submission.signed, timestamp));
            prop_assert_eq!(record.data.as_ref(), Some(&submission.data));
            let mut written = Vec::new();
            record.write(&mut written);
            prop_assert_eq!(&written, bytes);
            written.clear();
            record.write_canonical(&mut written);
            prop_assert_eq!(&written, &json::canonical(&json::parse(bytes).unwrap()));

            // The hash as FORMAT writes it, and the same after an erasure.
            let commitment = hash::commitment(&salt, &submission.data).to_string();
            let mut fields = json::parse(bytes).unwrap();
            let fields = fields.as_object_mut().unwrap();
            for name in ["index", "data", "salt", "hash"] {
                prop_assert!(fields.remove(name).is_some());
            }
            fields.insert("commitment".into(), commitment.into());
            prop_assert_eq!(hash::leaf(&json::canonical(&json!(fields))), transaction.hash());
            prop_assert_eq!(&leaf, &json::canonical(&json!(fields)));
            let place = bytes.windows(8).position(|window| window == b",\"data\":").unwrap();
            let erased = json!({"timestamp": timestamp.to_string(), "by": index});
            let rest = format!(",\"commitment\":{},\"erased\":{erased},\"hash\":\"{}\"}}", fields["commitment"], transaction.hash());
            prop_assert_eq!(record_leaf(&[&bytes[..place], rest.as_bytes()].concat()), Some(leaf));
            fields.insert("index".into(), index.into());
            fields.insert("hash".into(), transaction.hash().to_string().into());
            prop_assert!(Record::from_value(json!(fields)).is_err(), "an erased transaction says so");
            fields.insert("erased".into(), json!({"timestamp": timestamp.to_string(), "by": index}));
            let erased = Record::from_value(json!(fields)).unwrap();
            let mut written = Vec::new();
            erased.write(&mut written);
            prop_assert_eq!(json::parse(&written).unwrap(), json!(fields));
            prop_assert_eq!(record_hash(&written), Some(transaction.hash()));
            written.clear();
            erased.write_canonical(&mut written);
            prop_assert_eq!(written, json::canonical(&json!(fields)));
            prop_assert_eq!((erased.hash, erased.data, erased.signed), (transaction.hash(), None, submission.signed));
        }

        #[test]
        fn each_changed_byte_is_found(
            (submission, kind, timestamp, salt) in submissions(),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut bytes = Vec::new();
            Transaction::new(submission, kind, timestamp, salt).write_record(7, &mut bytes);
            let original = json::parse(&bytes).unwrap();
            let whole = bytes.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(record_leaf(&bytes).is_none_or(|leaf| Some(leaf) == record_leaf(&whole)));
            // Its place is no part of a transaction: only the tree knows it.
            if let Ok(record) = Record::parse(&bytes) {
                let mut changed = json::parse(&bytes).unwrap();
                changed["index"] = 7.into();
                prop_assert_eq!(changed, original, "{:?}", record);
            }
        }
    }

    proptest! {
        /// The walk takes every record in the two forms that a node and an export write, unless its names are rare, and of
        /// changed ones none that the gate refuses.
        #[test]
        fn the_walk_agrees_with_the_gate(
            (submission, kind, timestamp, salt) in submissions(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut stored = Vec::new();
            Transaction::new(submission, kind, timestamp, salt).write_record(7, &mut stored);
            let exported = json::canonical(&json::parse(&stored).unwrap());
            for text in [stored, exported] {
                let whole = Walk::over(&text);
                let is_rare = text.iter().any(|&byte| byte >= 0xf0 || byte == b'\\');
                prop_assert!(whole.is_some() || is_rare, "{}", String::from_utf8_lossy(&text));
                agree(&text)?;
                let at = at.index(text.len());
                for bit in 0..8 {
                    let mut flipped = text.clone();
                    flipped[at] ^= 1 << bit;
                    agree(&flipped)?;
                }
                let mut changed = text.clone();
                changed[at] = byte;
                agree(&changed)?;
                // A part of it in another place: fields twice, out of order, or missing.
                let cut = cut.index(text.len());
                let (from, to) = (cut.min(at), cut.max(at));
                changed = [&text[..from], &text[to..]].concat();
                agree(&changed)?;
                changed = [&text[..to], &text[from..]].concat();
                agree(&changed)?;
            }
        }
    }

    fn agree(text: &[u8]) -> Result<(), TestCaseError> {
        let Some(walked) = Walk::over(text) else { return Ok(()) };
        let shown = String::from_utf8_lossy(text);
        let value = json::parse(text).map_err(|error| TestCaseError::fail(format!("{shown}: {error}")))?;
        let gated = Record::from_value(value).map_err(|error| TestCaseError::fail(format!("{shown}: {error}")))?;
        prop_assert_eq!(format!("{walked:?}"), format!("{gated:?}"), "{}", shown);
        Ok(())
    }

    /// Nothing that random changes hardly ever make.
    #[test]
    fn the_walk_leaves_what_is_rare_to_the_gate() {
        let mut bytes = Vec::new();
        let submission = Submission { data: b"[1]".to_vec(), id: None, signed: None };
        Transaction::new(submission, None, time(0), [0xab; 16]).write_record(3, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        assert!(Walk::over(text.as_bytes()).is_some());
        let with = |from: &str, to: &str| text.replacen(from, to, 1);
        assert!(Walk::over(with("{", "{\"state\":\"sealed\",\"quant\":7,").as_bytes()).is_some());
        let deep = format!("{}{}", "[".repeat(json::MAX_DEPTH), "]".repeat(json::MAX_DEPTH));
        for other in [
            with("{", "{\"index\":3,"),
            with("{", "{\"state\":1,\"state\":1,"),
            with("{", "{\"note\":1,"),
            with("{", " {"),
            with("[1]", "[1.0]"),
            with("[1]", "[1 ]"),
            with("\"index\":3", "\"index\":03"),
            with("\"index\":3", "\"index\":-3"),
            with("\"index\":3", "\"index\":\"3\""),
            with("ab", "AB"),
            with("{", &format!("{{\"state\":{deep},")),
            text.clone() + "\n",
            text.clone() + "}",
        ] {
            assert!(Walk::over(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_record_has_its_fields_and_no_others() {
        let mut bytes = Vec::new();
        let id = Some("n\"1".parse().unwrap());
        let submission = Submission { data: b"null".to_vec(), id, signed: None };
        Transaction::new(submission, None, time(0), [0; 16]).write_record(3, &mut bytes);
        let record = json::parse(&bytes).unwrap();
        let with = |name: &str, value: Value| {
            let mut changed = record.clone();
            changed[name] = value;
            Record::from_value(changed)
        };
        let without = |name: &str| {
            let mut changed = record.clone();
            changed.as_object_mut().unwrap().remove(name);
            Record::from_value(changed)
        };
        assert!(without("none").is_ok() && with("state", json!("sealed")).is_ok() && with("quant", json!(1)).is_ok());
        for name in ["index", "id", "timestamp", "data", "salt", "hash"] {
            assert!(without(name).is_err(), "{name}");
        }
        for (name, value) in [
            ("index", json!(-1)),
            ("index", json!(1.5)),
            ("index", json!("3")),
            ("id", json!(1)),
            ("id", json!("n 1")),
            ("id", json!(null)),
            ("kind", json!("bang")),
            ("kind", json!("")),
            ("timestamp", json!("1970-01-01T00:00:00Z")),
            ("salt", json!("0".repeat(31))),
            ("salt", json!("0".repeat(34))),
            ("hash", json!(record["hash"].as_str().unwrap().to_uppercase())),
            ("signer", json!("00".repeat(32))),
            ("signature", json!("00".repeat(64))),
            ("commitment", json!("00".repeat(32))),
            ("erased", json!({})),
            ("note", json!(null)),
        ] {
            assert!(with(name, value.clone()).is_err(), "{name}: {value}");
        }
        assert!(Record::from_value(json!([])).is_err());
        for cut in [&b""[..], b"\"}", b"{\"hash\":\"00\"}", &bytes[..bytes.len() - 1]] {
            assert_eq!((record_hash(cut), record_leaf(cut)), (None, None));
        }
    }
}
