//! A transaction: one JSON value with its identity and time, its commitment and its leaf.

use std::{fmt, ops::Range, str::FromStr};

use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{
    count::Index,
    hash::{self, Hash, hex_digits},
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

    /// As it is written: RFC 3339 in UTC with microseconds. chrono's own writer takes ten times as long, which shows where each
    /// transaction is written.
    pub fn digits(self) -> [u8; 27] {
        let (date, time) = (self.0.date_naive(), self.0.time());
        let parts = [
            (0..4, date.year() as u32),
            (5..7, date.month()),
            (8..10, date.day()),
            (11..13, time.hour()),
            (14..16, time.minute()),
            (17..19, time.second()),
            (20..26, time.nanosecond() / 1_000),
        ];
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (place, mut number) in parts {
            for digit in text[place].iter_mut().rev() {
                *digit += (number % 10) as u8;
                number /= 10;
            }
        }
        text
    }

    /// Whole seconds since 1970, 0 before.
    pub fn seconds(self) -> u64 {
        self.0.timestamp().try_into().unwrap_or(0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.digits()).expect("digits are text"))
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
        serializer.serialize_str(str::from_utf8(&self.digits()).expect("digits are text"))
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
    /// That a key gives way to another: those of the writers, or the one that signs checkpoints.
    Key,
    /// That nothing follows any more.
    Freeze,
}

impl Kind {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Bang => "bang",
            Kind::Erasure => "erasure",
            Kind::Key => "key",
            Kind::Freeze => "freeze",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Kind::Bang, Kind::Erasure, Kind::Key, Kind::Freeze].into_iter().find(|kind| kind.as_str() == text).ok_or_else(
            || format!("{text:?} is no kind of transaction: \"bang\", \"erasure\", \"key\" and \"freeze\" are"),
        )
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

/// A transaction: everything but its place.
///
/// Its fields cannot be changed one by one, since its hash speaks for them.
#[derive(Clone, Debug)]
pub struct Transaction {
    id: Option<Id>,
    kind: Option<Kind>,
    signed: Option<Signed>,
    timestamp: Timestamp,
    commitment: Hash,
    hash: Hash,
    payload: Payload,
}

/// What can be erased of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// It is there.
    Whole {
        /// Canonical JSON.
        data: Vec<u8>,
        /// It hides the data in the commitment.
        salt: [u8; 16],
    },
    /// It was erased: the commitment is left.
    Erased(Erased),
}

/// That a transaction was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// When.
    pub timestamp: Timestamp,
    /// The index of the transaction that records it, in the chain that wrote the erased one.
    pub by: Index,
}

impl Transaction {
    /// Records a submission at a moment. The salt must be random: it hides erased data (FORMAT: commitment).
    pub fn new(submission: Submission, kind: Option<Kind>, timestamp: Timestamp, salt: [u8; 16]) -> Self {
        let Submission { data, id, signed } = submission;
        let commitment = hash::commitment(&salt, &data);
        Transaction::of(id, kind, signed, timestamp, commitment, Payload::Whole { data, salt })
    }

    /// Its hash is computed; the commitment must be that of the payload.
    fn of(
        id: Option<Id>,
        kind: Option<Kind>,
        signed: Option<Signed>,
        timestamp: Timestamp,
        commitment: Hash,
        payload: Payload,
    ) -> Self {
        let mut transaction = Transaction { id, kind, signed, timestamp, commitment, hash: Hash::ZERO, payload };
        transaction.hash = hash::leaf(&transaction.leaf());
        transaction
    }

    /// Moves it on to a moment, where it is earlier. The data is not hashed again, so it costs little.
    pub fn delay_to(&mut self, moment: Timestamp) {
        if self.timestamp < moment {
            self.timestamp = moment;
            self.hash = hash::leaf(&self.leaf());
        }
    }

    /// Its canonical data, unless it was erased.
    pub fn data(&self) -> Option<&[u8]> {
        match &self.payload {
            Payload::Whole { data, .. } => Some(data),
            Payload::Erased(_) => None,
        }
    }

    /// The salt of its commitment, unless it was erased.
    pub fn salt(&self) -> Option<&[u8; 16]> {
        match &self.payload {
            Payload::Whole { salt, .. } => Some(salt),
            Payload::Erased(_) => None,
        }
    }

    /// When and by what it was erased, if it was.
    pub fn erased(&self) -> Option<Erased> {
        match self.payload {
            Payload::Whole { .. } => None,
            Payload::Erased(erased) => Some(erased),
        }
    }

    /// The same without its payload.
    pub fn erase(self, erased: Erased) -> Transaction {
        Transaction { payload: Payload::Erased(erased), ..self }
    }

    /// What the node recorded, nothing for what clients inject.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Who signed it, and how. Not checked: that needs the chain.
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

    /// `H(salt ‖ data)`.
    pub fn commitment(&self) -> Hash {
        self.commitment
    }

    /// Its Merkle leaf hash.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// About how many bytes it is served as.
    pub fn served_bytes(&self) -> usize {
        // The names, the time, the salt and the hash; and the key and the signature with their names.
        const FIELDS: usize = 192;
        const SIGNED: usize = 220;
        let id = self.id.as_ref().map_or(0, |id| id.as_str().len());
        FIELDS + id + self.data().map_or(0, <[u8]>::len) + self.signed.as_ref().map_or(0, |_| SIGNED)
    }

    /// What the Merkle tree commits to (FORMAT: leaf): canonical JSON (RFC 8785).
    pub fn leaf(&self) -> Vec<u8> {
        let mut leaf = Vec::with_capacity(512);
        leaf.push(b'{');
        self.write_commitment(&mut leaf);
        self.write_id(&mut leaf);
        self.write_kind(&mut leaf);
        self.write_signature(&mut leaf);
        self.write_time(&mut leaf);
        leaf.push(b'}');
        leaf
    }

    /// Appends it as it is served at this index.
    pub fn write(&self, index: Index, out: &mut Vec<u8>) {
        self.write_head(index, out);
        self.write_payload(out);
        self.write_end(out);
    }

    /// Appends it as it is served, without what can be erased, which comes to `payload`.
    pub fn write_apart(&self, index: Index, text: &mut Vec<u8>, payload: &mut Vec<u8>) {
        self.write_head(index, text);
        self.write_payload(match self.payload {
            Payload::Whole { .. } => payload,
            Payload::Erased(_) => text,
        });
        self.write_end(text);
    }

    fn write_head(&self, index: Index, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"index\":");
        write_number(index, out);
        self.write_id(out);
        self.write_kind(out);
        self.write_time(out);
        self.write_signature(out);
        if let Payload::Whole { .. } = self.payload {
            out.extend_from_slice(DATA);
        }
    }

    fn write_payload(&self, out: &mut Vec<u8>) {
        match &self.payload {
            Payload::Whole { data, salt } => {
                out.extend_from_slice(data);
                write_field(",\"salt\":\"", hex_digits(salt).as_flattened(), out);
            }
            Payload::Erased(erased) => write_erased(self.commitment, *erased, out),
        }
    }

    fn write_end(&self, out: &mut Vec<u8>) {
        write_field(",\"hash\":\"", &self.hash.to_hex(), out);
        out.push(b'}');
    }

    /// Appends it as it is exported: canonical JSON (RFC 8785).
    pub fn write_canonical(&self, index: Index, out: &mut Vec<u8>) {
        out.push(b'{');
        match &self.payload {
            Payload::Whole { data, .. } => {
                out.extend_from_slice(&DATA[1..]);
                out.extend_from_slice(data);
            }
            Payload::Erased(Erased { timestamp, by }) => {
                self.write_commitment(out);
                out.extend_from_slice(b",\"erased\":{\"by\":");
                write_number(*by, out);
                write_field(",\"timestamp\":\"", &timestamp.digits(), out);
                out.push(b'}');
            }
        }
        write_field(",\"hash\":\"", &self.hash.to_hex(), out);
        self.write_id(out);
        out.extend_from_slice(b",\"index\":");
        write_number(index, out);
        self.write_kind(out);
        if let Some(salt) = self.salt() {
            write_field(",\"salt\":\"", hex_digits(salt).as_flattened(), out);
        }
        self.write_signature(out);
        self.write_time(out);
        out.push(b'}');
    }

    fn write_commitment(&self, out: &mut Vec<u8>) {
        write_field("\"commitment\":\"", &self.commitment.to_hex(), out);
    }

    fn write_id(&self, out: &mut Vec<u8>) {
        if let Some(id) = &self.id {
            out.extend_from_slice(b",\"id\":");
            json::write_string(id.as_str(), out);
        }
    }

    fn write_kind(&self, out: &mut Vec<u8>) {
        if let Some(kind) = self.kind {
            write_kind(kind, out);
        }
    }

    fn write_time(&self, out: &mut Vec<u8>) {
        write_field(",\"timestamp\":\"", &self.timestamp.digits(), out);
    }

    fn write_signature(&self, out: &mut Vec<u8>) {
        if let Some(Signed { signer, signature }) = &self.signed {
            write_field(",\"signature\":\"", hex_digits(signature).as_flattened(), out);
            write_field(",\"signer\":\"", hex_digits(signer).as_flattened(), out);
        }
    }
}

/// What stands before the data of a served transaction.
pub const DATA: &[u8] = b",\"data\":";

/// Bytes of a served transaction from behind its payload on: its hash.
pub const END_BYTES: usize = ",\"hash\":\"\"}".len() + 64;

/// Appends what a served transaction has in the place of its data and salt when it was erased.
pub fn write_erased(commitment: Hash, Erased { timestamp, by }: Erased, out: &mut Vec<u8>) {
    write_field(",\"commitment\":\"", &commitment.to_hex(), out);
    write_field(",\"erased\":{\"timestamp\":\"", &timestamp.digits(), out);
    out.extend_from_slice(b",\"by\":");
    write_number(by, out);
    out.push(b'}');
}

fn write_kind(kind: Kind, out: &mut Vec<u8>) {
    write_field(",\"kind\":\"", kind.as_str().as_bytes(), out);
}

/// A field whose value is a string without escapes; `name` ends with its opening quote.
fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value);
    out.push(b'"');
}

fn write_number(number: Index, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number.get()).as_bytes());
}

/// The leaf hash that stands in a served transaction, without parsing it: each ends with it.
pub fn record_hash(served: &[u8]) -> Option<Hash> {
    let digits = served.strip_suffix(b"\"}")?;
    std::str::from_utf8(&digits[digits.len().checked_sub(64)?..]).ok()?.parse().ok()
}

/// A transaction as somebody serves it: its form is checked and its hash recomputed, its place is not known yet.
#[derive(Clone, Debug)]
pub struct Record {
    /// The place that it claims.
    pub index: Index,
    /// What stands there.
    pub transaction: Transaction,
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
        let index = fields.remove("index").and_then(|index| index.as_u64()).map(Index::new);
        let index = index.ok_or("\"index\" is not a whole number")?;
        let id = take_text(&mut fields, "id")?.map(|id| id.parse::<Id>()).transpose()?;
        let kind = take_text(&mut fields, "kind")?.map(|kind| kind.parse::<Kind>()).transpose()?;
        let timestamp: Timestamp = take_text(&mut fields, "timestamp")?.ok_or("\"timestamp\" is missing")?.parse()?;
        let signed = take_signed(&mut fields).map_err(|(_, detail)| detail)?;
        let claimed: Hash = take_hash(&mut fields, "hash")?.ok_or("\"hash\" is missing")?;
        let data = fields.remove("data").map(|data| json::canonical(&data));
        let salt = take_text(&mut fields, "salt")?.map(|salt| take_hex(&salt, "salt")).transpose()?;
        let (commitment, payload) = match (data, salt) {
            (Some(data), Some(salt)) => (hash::commitment(&salt, &data), Payload::Whole { data, salt }),
            (None, None) => {
                let erased = fields.remove("erased").ok_or("there is neither \"data\" nor \"erased\"")?;
                let commitment = take_hash(&mut fields, "commitment")?.ok_or("\"commitment\" is missing")?;
                (commitment, Payload::Erased(Erased::from_value(erased)?))
            }
            _ => return Err("of \"data\" and \"salt\" one is missing".into()),
        };
        // Where it stands is no part of it, and is served beside it by some routes.
        fields.retain(|name, _| name != "state" && name != "quant");
        if let Some(name) = fields.keys().next() {
            return Err(format!("{name:?} is no field of a transaction"));
        }
        let transaction = Transaction::of(id, kind, signed, timestamp, commitment, payload);
        let hash = transaction.hash;
        if hash != claimed {
            return Err(format!("\"hash\" is {claimed}, but its content hashes to {hash}"));
        }
        Ok(Record { index, transaction })
    }
}

impl Erased {
    fn from_value(value: Value) -> Result<Erased, String> {
        let malformed = || "\"erased\" is no {\"timestamp\", \"by\"}".to_string();
        let Value::Object(mut fields) = value else { return Err(malformed()) };
        let timestamp = take_text(&mut fields, "timestamp")?.ok_or_else(malformed)?.parse()?;
        let by = fields.remove("by").and_then(|by| by.as_u64()).map(Index::new).ok_or_else(malformed)?;
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
        let timestamp = plain_text(self.timestamp?)?.parse().ok()?;
        let (data, salt) = (self.data?, take_hex(plain_text(self.salt?)?, "salt").ok()?);
        let (commitment, data) = (hash::commitment(&salt, data), data.to_vec());
        let transaction = Transaction::of(id, kind, signed, timestamp, commitment, Payload::Whole { data, salt });
        let is_it = plain_text(self.hash?)?.as_bytes() == transaction.hash.to_hex();
        is_it.then_some(Record { index, transaction })
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
        let kind = prop_oneof![
            Just(None),
            Just(Some(Kind::Bang)),
            Just(Some(Kind::Erasure)),
            Just(Some(Kind::Key)),
            Just(Some(Kind::Freeze)),
        ];
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
        fn what_is_recorded_is_read_back((submission, kind, timestamp, salt) in submissions(), index in (0..1u64 << 53).prop_map(Index::new)) {
            let transaction = Transaction::new(submission.clone(), kind, timestamp, salt);
            let mut bytes = b"before".to_vec();
            transaction.write(index, &mut bytes);
            let bytes = &bytes[6..];
            // Delayed, it is what it would be if it had been made then; earlier it never becomes.
            for earlier in [time(-62_167_219_200_000_000), timestamp] {
                let mut delayed = Transaction::new(submission.clone(), kind, earlier, salt);
                delayed.delay_to(timestamp);
                delayed.delay_to(earlier);
                let mut record = Vec::new();
                delayed.write(index, &mut record);
                prop_assert_eq!((&record[..], delayed.hash()), (bytes, transaction.hash()));
            }
            let about = transaction.served_bytes();
            prop_assert!(bytes.len().abs_diff(about) < 192, "{} is not about {about}", bytes.len());
            prop_assert_eq!(transaction.data(), Some(&submission.data[..]));
            prop_assert_eq!(record_hash(bytes), Some(transaction.hash()));
            let leaf = transaction.leaf();
            let (mut text, mut payload) = (Vec::new(), Vec::new());
            transaction.write_apart(index, &mut text, &mut payload);
            let (start, end) = text.split_at(text.len() - END_BYTES);
            prop_assert_eq!([start, &payload, end].concat(), bytes);
            prop_assert!(start.ends_with(DATA));

            let Record { index: read_index, transaction: read } = Record::parse(bytes).unwrap();
            prop_assert_eq!((read_index, read.hash()), (index, transaction.hash()));
            prop_assert_eq!((read.id(), read.kind()), (submission.id.as_ref(), kind));
            prop_assert_eq!((read.signed(), read.timestamp()), (submission.signed.as_ref(), timestamp));
            prop_assert_eq!(read.data(), Some(&submission.data[..]));
            let mut written = Vec::new();
            read.write(index, &mut written);
            prop_assert_eq!(&written, bytes);
            written.clear();
            read.write_canonical(index, &mut written);
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
            let without = [&bytes[..place], rest.as_bytes()].concat();
            prop_assert_eq!(Record::parse(&without).unwrap().transaction.leaf(), leaf);
            (text, payload) = (Vec::new(), Vec::new());
            let gone = transaction.clone().erase(Erased { timestamp, by: index });
            gone.write_apart(index, &mut text, &mut payload);
            prop_assert_eq!((json::parse(&text).unwrap(), payload.len()), (json::parse(&without).unwrap(), 0));
            fields.insert("index".into(), json!(index));
            fields.insert("hash".into(), transaction.hash().to_string().into());
            prop_assert!(Record::from_value(json!(fields)).is_err(), "an erased transaction says so");
            fields.insert("erased".into(), json!({"timestamp": timestamp.to_string(), "by": index}));
            let erased = Record::from_value(json!(fields)).unwrap().transaction;
            let mut written = Vec::new();
            erased.write(index, &mut written);
            prop_assert_eq!(json::parse(&written).unwrap(), json!(fields));
            prop_assert_eq!(record_hash(&written), Some(transaction.hash()));
            written.clear();
            erased.write_canonical(index, &mut written);
            prop_assert_eq!(written, json::canonical(&json!(fields)));
            prop_assert_eq!((erased.hash(), erased.data(), erased.signed()), (transaction.hash(), None, submission.signed.as_ref()));
        }

        #[test]
        fn each_changed_byte_is_found(
            (submission, kind, timestamp, salt) in submissions(),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut bytes = Vec::new();
            Transaction::new(submission, kind, timestamp, salt).write(Index::new(7), &mut bytes);
            let original = json::parse(&bytes).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
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
            Transaction::new(submission, kind, timestamp, salt).write(Index::new(7), &mut stored);
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
        Transaction::new(submission, None, time(0), [0xab; 16]).write(Index::new(3), &mut bytes);
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
        Transaction::new(submission, None, time(0), [0; 16]).write(Index::new(3), &mut bytes);
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
            assert_eq!((record_hash(cut), Record::parse(cut).is_err()), (None, true));
        }
    }
}
