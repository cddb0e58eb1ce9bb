//! A whole chain or a receipt, recomputed from nothing but what is served; the first fault is named with its place.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    count::{Height, Index, Size},
    hash::Hash,
    json,
    merkle::{self, Edge, Tile},
    note::{Checkpoint, KeyName, Note, NoteError, VerifierKey},
    quant::{Quant, QuantFields},
    rules::Rules,
    succession::{self, Succession},
    terms::{KeyChange, Terms},
    transaction::{Erased, Id, Kind, Record, Transaction, take_text},
};
use crate::limits;

/// The first fault that was found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {detail}")]
pub struct Fault {
    /// Such as `transaction 17` or `quant 3`.
    pub place: String,
    /// What does not hold.
    pub detail: String,
}

impl Fault {
    /// A fault of a transaction.
    pub fn of_transaction(index: Index, detail: impl ToString) -> Fault {
        Fault { place: format!("transaction {index}"), detail: detail.to_string() }
    }

    /// A fault of a quant.
    pub fn of_quant(index: Height, detail: impl ToString) -> Fault {
        Fault { place: format!("quant {index}"), detail: detail.to_string() }
    }
}

/// Recomputes a chain from its first transaction on: each transaction in order, and each quant behind the transactions that
/// it seals.
#[derive(Clone)]
pub struct Verifier {
    edge: Edge,
    newest: Option<Quant>,
    /// A fork changes it at its bang.
    current: Option<Arc<InForce>>,
    /// The rules of a bang that no quant has sealed yet.
    bang: Option<Rules>,
    /// None where the caller has an index of them.
    ids: Option<HashSet<Id>>,
    /// The chain itself and those that it was forked from, each with the index of its bang.
    makers: Vec<(Index, Hash)>,
    /// Transactions seen without their data.
    erased: u64,
    /// Those whose erasure was not seen to be recorded: the index of the transaction that is said to record it, and that of the
    /// erased one.
    unproven: BTreeSet<(Index, Index)>,
    /// Of keys that sign checkpoints, as the chain records them.
    successions: Vec<Succession>,
}

/// The chain that a transaction belongs to, as far as it is checked against it.
pub struct InForce {
    id: Hash,
    terms: Terms,
}

/// What names a state of the terms of a chain: the chain, and the transaction that names its writers.
type Token = (Hash, Index);

impl InForce {
    /// The chain with this id, on these terms.
    pub fn new(id: Hash, terms: Terms) -> InForce {
        InForce { id, terms }
    }

    fn token(&self) -> Token {
        (self.id, self.terms.since())
    }
}

/// A transaction that was checked as far as that needs no other: this part of the work can be done in any order.
pub struct Checked {
    record: Record,
    /// The terms that it was found to meet.
    meets: Option<Token>,
}

impl Checked {
    /// Checks a transaction against rules that will probably be in force when its turn comes. Where it breaks them, or they
    /// are not in force then, [`Verifier::checked`] decides.
    pub fn new(record: Record, in_force: Option<&InForce>) -> Checked {
        let meets = in_force
            .filter(|of| record.transaction.kind().is_none() && check_rules(of, &record).is_ok())
            .map(InForce::token);
        Checked { record, meets }
    }

    /// The transaction.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The same, taken out.
    pub fn into_record(self) -> Record {
        self.record
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier::new()
    }
}

impl Verifier {
    /// A verifier that has seen nothing.
    pub fn new() -> Self {
        Verifier {
            edge: Edge::new(),
            newest: None,
            current: None,
            bang: None,
            ids: Some(HashSet::new()),
            makers: Vec::new(),
            erased: 0,
            unproven: BTreeSet::new(),
            successions: Vec::new(),
        }
    }

    /// A verifier that leaves it to the caller, who has an index of all ids, to see that none stands twice: then its memory does
    /// not grow with the chain, and a clone costs nothing.
    pub fn without_ids() -> Self {
        Verifier { ids: None, ..Verifier::new() }
    }

    /// The same behind what a chain has, which was verified before: the edge of its tree, pooled transactions included, its newest
    /// quant, its id and its terms.
    pub fn behind(edge: Edge, newest: Quant, in_force: InForce) -> Self {
        let current = Some(Arc::new(in_force));
        Verifier { edge, newest: Some(newest), current, ..Verifier::without_ids() }
    }

    /// The root over all transactions seen.
    pub fn root(&self) -> Hash {
        self.edge.root()
    }

    /// Takes out those without their data whose erasure was not seen to be recorded: the index of the transaction that is said to
    /// record it, and that of the erased one.
    pub fn take_unproven(&mut self) -> BTreeSet<(Index, Index)> {
        std::mem::take(&mut self.unproven)
    }

    /// Transactions that were seen without their data.
    pub fn erased(&self) -> u64 {
        self.erased
    }

    /// Those of them whose erasure was not seen to be recorded: its record may be behind what was seen, or on the chain that
    /// this one was forked or copied from.
    pub fn unrecorded(&self) -> u64 {
        self.unproven.len() as u64
    }

    /// Looks for the records of erasures that were not seen on the chains that this one was forked from: the record is on the
    /// chain that wrote the erased transaction. `is_recorded` gets the id of that chain, the index of the transaction that is
    /// said to record it, and that of the erased one.
    ///
    /// # Errors
    /// Those of `is_recorded`.
    pub fn look_for_erasures<E>(
        &mut self,
        mut is_recorded: impl FnMut(Hash, Index, Index) -> Result<bool, E>,
    ) -> Result<(), E> {
        let own = self.id();
        for (by, index) in self.unproven.clone() {
            let maker = self.makers.iter().rev().find(|&&(bang, _)| bang <= index).map(|&(_, id)| id);
            if let Some(writer) = maker.filter(|maker| Some(*maker) != own)
                && is_recorded(writer, by, index)?
            {
                self.unproven.remove(&(by, index));
            }
        }
        Ok(())
    }

    /// Checks that each transaction without its data was seen to be erased by a record of that: otherwise anybody could take
    /// data away and call it erased.
    ///
    /// # Errors
    /// The first transaction of which that was not seen.
    pub fn check_erasures(&self) -> Result<(), Fault> {
        let first = self.unproven.iter().map(|&(by, index)| (index, by)).min();
        let Some((index, by)) = first else { return Ok(()) };
        let size = self.size();
        let lacks = match size.has(by) {
            true => format!("transaction {by} does not record that"),
            false => format!("what is here ends before that, at {size} transactions"),
        };
        let detail = format!(
            "it comes without its data, as erased by transaction {by}, but {lacks}: perhaps the data was taken away. Where the \
             record is still pooled, leap and export again (qbc export --leap); where it is on a chain that this one was forked \
             or copied from, allow that with --allow-unproven-erasures"
        );
        Err(Fault::of_transaction(index, detail))
    }

    /// Transactions seen.
    pub fn size(&self) -> Size {
        Size::new(self.edge.size())
    }

    /// The newest quant seen.
    pub fn newest(&self) -> Option<&Quant> {
        self.newest.as_ref()
    }

    /// The id of the chain that was seen.
    pub fn id(&self) -> Option<Hash> {
        self.current.as_ref().map(|current| current.id)
    }

    /// The rules in force at the end of what was seen.
    pub fn rules(&self) -> Option<&Rules> {
        self.terms().map(|terms| &**terms.rules())
    }

    /// The terms in force at the end of what was seen.
    pub fn terms(&self) -> Option<&Terms> {
        self.current.as_ref().map(|current| &current.terms)
    }

    /// The successions of keys that sign checkpoints, as the chain records them.
    pub fn successions(&self) -> &[Succession] {
        &self.successions
    }

    /// What the next transaction is checked against, unless a bang comes first.
    pub fn in_force(&self) -> Option<Arc<InForce>> {
        self.current.clone()
    }

    /// Takes the next transaction.
    ///
    /// # Errors
    /// It is not at its place, or breaks the rules that hold there.
    pub fn transaction(&mut self, record: &Record) -> Result<(), Fault> {
        self.take(record, None, &mut |_| ())
    }

    /// The same for one that was checked before, with the tiles of the Merkle tree that it completes.
    ///
    /// # Errors
    /// As [`Verifier::transaction`].
    pub fn checked(&mut self, checked: &Checked, tiles: &mut impl FnMut(Tile)) -> Result<(), Fault> {
        self.take(&checked.record, checked.meets, tiles)
    }

    fn take(&mut self, record: &Record, meets: Option<Token>, tiles: &mut impl FnMut(Tile)) -> Result<(), Fault> {
        let index = self.size().next_index();
        let fault = |detail: String| Err(Fault::of_transaction(index, detail));
        if record.index != index {
            return fault(format!("it says that it is transaction {}", record.index));
        }
        if self.bang.is_some() {
            return fault("it follows a bang within one quant, which seals the bang alone".into());
        }
        let check = |checked: Result<(), String>| checked.map_err(|detail| Fault::of_transaction(index, detail));
        match (record.transaction.kind(), &self.current) {
            (Some(Kind::Bang), _) => self.bang = Some(self.check_bang(record)?),
            (_, None) => return fault("a chain starts with its bang".into()),
            (kind, Some(current)) => {
                let terms = current.terms.after(current.id, index, &record.transaction);
                let terms = terms.map_err(|error| Fault::of_transaction(index, error))?;
                match kind {
                    None if meets == Some(current.token()) => {}
                    None => check(check_rules(current, record))?,
                    Some(Kind::Erasure) => check(check_erasure_record(current, record))?,
                    Some(_) => {
                        let terms = terms.expect("these kinds change the terms");
                        if let Some(Ok(KeyChange::Signer(succession))) = record.transaction.data().map(KeyChange::parse)
                        {
                            self.successions.push(*succession);
                        }
                        self.current = Some(Arc::new(InForce { id: current.id, terms }));
                    }
                }
            }
        }
        if let (Some(id), Some(ids)) = (record.transaction.id(), &mut self.ids)
            && !ids.insert(id.clone())
        {
            return fault(format!("its id {:?} stands in the chain already", id.as_str()));
        }
        self.count_erased(record);
        self.edge.push(record.transaction.hash(), tiles);
        Ok(())
    }

    /// An erased transaction says which one records that. It may be wrong without anybody's fault: the record of it may be on
    /// the chain that this one was forked or copied from. So [`Verifier::check_erasures`] is for the caller to ask.
    fn count_erased(&mut self, record: &Record) {
        if let Some(erased) = erasure_of(&record.transaction) {
            self.unproven.remove(&(record.index, erased));
        }
        if let Some(Erased { by, .. }) = record.transaction.erased() {
            self.erased += 1;
            self.unproven.insert((by, record.index));
        }
    }

    fn check_bang(&self, record: &Record) -> Result<Rules, Fault> {
        let fault = |detail: String| Fault::of_transaction(record.index, detail);
        if self.size() != self.newest.as_ref().map_or(Size::ZERO, Quant::size) {
            return Err(fault("a bang stands between the transactions of one quant".into()));
        }
        let data = record.transaction.data().ok_or_else(|| fault("a bang cannot be erased".into()))?;
        let data = json::parse(data).map_err(|error| fault(error.to_string()))?;
        let rules = Rules::from_value(&data)
            .map_err(|faults| fault(format!("its rules are no rules: {}: {}", faults[0].pointer, faults[0].detail)))?;
        let parent = rules.fork_of().map(|of| (of.chain, of.index, of.hash));
        let shared = self.current.as_ref().zip(self.newest.as_ref());
        if parent != shared.map(|(current, quant)| (current.id, quant.index(), quant.hash())) {
            return Err(fault("\"fork_of\" does not name the quant that it follows".into()));
        }
        Ok(rules)
    }

    /// Takes the quant that seals the transactions seen since the quant before.
    ///
    /// # Errors
    /// It does not follow the quant before, or its root is not that of the transactions.
    pub fn quant(&mut self, quant: Quant) -> Result<(), Fault> {
        let index = self.newest.as_ref().map_or(Height::FIRST, |quant| quant.index().next());
        let fault = |detail: String| Err(Fault::of_quant(index, detail));
        if let (Some(newest), Some(terms), None) = (&self.newest, self.terms(), &self.bang)
            && terms.has_ended(newest.size())
        {
            return fault(format!("quant {} sealed that the chain is frozen: nothing follows that", newest.index()));
        }
        quant.check_follows(self.newest.as_ref()).map_err(|error| Fault::of_quant(index, error))?;
        if quant.size() != self.size() {
            return fault(format!("\"size\" is {}, but there are {} transactions", quant.size(), self.size()));
        }
        let root = self.edge.root();
        if quant.header().root != root {
            return fault(format!("\"root\" is {}, but the transactions' root is {root}", quant.header().root));
        }
        if let Some(rules) = self.bang.take() {
            let bang = quant.size().last().expect("a bang was just seen");
            let terms = match self.terms() {
                Some(shared) => shared.bang(rules.into(), bang),
                None => Terms::of_bang(rules.into(), bang),
            };
            self.current = Some(Arc::new(InForce { id: quant.hash(), terms }));
            self.makers.push((bang, quant.hash()));
        }
        let Some(rules) = self.rules() else {
            return fault("a chain starts with its bang".into());
        };
        if quant.header().difficulty != rules.difficulty() {
            let detail =
                format!("\"difficulty\" is {}, the rules say {}", quant.header().difficulty, rules.difficulty());
            return fault(detail);
        }
        self.newest = Some(quant);
        Ok(())
    }
}

/// What is nested deeper could be stored, but some of what is served around it could not be read any more.
///
/// # Errors
/// It is.
pub fn check_depth(record: &Record) -> Result<(), Fault> {
    let Some(data) = record.transaction.data() else { return Ok(()) };
    let is_deep = || json::parse(data).is_ok_and(|value| json::depth(&value) > limits::DATA_DEPTH);
    if json::canonical_length(data, limits::DATA_DEPTH).is_some() || !is_deep() {
        return Ok(());
    }
    let detail = format!("its data is nested more than {} deep", limits::DATA_DEPTH);
    Err(Fault::of_transaction(record.index, detail))
}

/// The transaction that an erasure records.
pub fn erasure_of(transaction: &Transaction) -> Option<Index> {
    let data = transaction.data().filter(|_| transaction.kind() == Some(Kind::Erasure))?;
    json::parse(data).ok()?.get("index")?.as_u64().map(Index::new)
}

fn check_erasure_record(InForce { id, terms }: &InForce, record: &Record) -> Result<(), String> {
    let Record { index, transaction } = record;
    let data = transaction.data().ok_or("the record of an erasure cannot be erased")?;
    let erased = erasure_of(transaction).filter(|erased| erased < index);
    erased.ok_or("it is the record of an erasure, but names no earlier transaction")?;
    terms
        .rules()
        .check_signature(*id, transaction.kind(), data, transaction.id(), transaction.signed())
        .map_err(|refusal| refusal.recorded())
}

fn check_rules(InForce { id, terms }: &InForce, Record { transaction, .. }: &Record) -> Result<(), String> {
    let (rules, signed) = (terms.rules(), transaction.signed());
    let outcome = match transaction.data() {
        Some(data) => {
            let value = || json::parse(data).expect("what is canonical can be read");
            rules.check_recorded(*id, data, transaction.id(), signed, value)
        }
        // Only the commitment is left: what the data was cannot be checked against the rules, nor can its signature.
        None => rules.check_writer(signed),
    };
    outcome.map_err(|refusal| refusal.recorded())
}

/// A receipt that holds: this transaction is in the tree of this quant.
#[derive(Debug)]
pub struct Receipt {
    /// The chain that it names. That the quant belongs to this chain is proven by a signature alone: see
    /// [`Receipt::check_signature`].
    pub chain: Hash,
    /// The transaction.
    pub record: Record,
    /// The quant.
    pub quant: Quant,
    /// The checkpoint of exactly that quant. Its signatures are not checked yet. Older receipts have none.
    pub checkpoint: Option<Note>,
}

impl Receipt {
    /// Checks that one of these keys, of the node or of witnesses, has signed the receipt's checkpoint, and gives its name. This
    /// proves that the quant is one of the chain that the receipt names, as far as one trusts the holder of the key.
    ///
    /// # Errors
    /// There is no checkpoint, or none of the keys has signed it.
    pub fn check_signature(&self, keys: &[VerifierKey]) -> Result<KeyName, Fault> {
        let fault = |detail: String| Fault { place: "the receipt's checkpoint".into(), detail };
        let missing = "it is missing, so no key can prove whose chain the receipt is of: get the receipt again";
        let note = self.checkpoint.as_ref().ok_or_else(|| fault(missing.into()))?;
        check_signature(note, keys, &[]).map_err(fault)
    }
}

/// Checks a receipt offline: hashes, proof of work, the inclusion proof (RFC 9162 section 2.1.3.2), and that its checkpoint says
/// the same. Whose chain it is of is proven by [`Receipt::check_signature`] alone.
///
/// # Errors
/// The first part that is missing, malformed or does not hold.
pub fn receipt(value: Value) -> Result<Receipt, Fault> {
    let fault = |detail: String| Fault { place: "receipt".into(), detail };
    let Value::Object(mut fields) = value else {
        return Err(fault("it is no JSON object".into()));
    };
    let mut take = |name: &str| fields.remove(name).ok_or_else(|| fault(format!("{name:?} is missing")));
    let chain: Hash = parse("chain", take("chain")?)?;
    let record = Record::from_value(take("transaction")?)
        .map_err(|detail| Fault { place: "the receipt's transaction".into(), detail })?;
    let quant = quant(take("quant")?).map_err(|detail| Fault { place: "the receipt's quant".into(), detail })?;
    let path: Vec<Hash> = parse("path", take("path")?)?;
    let (index, size) = (record.index.get(), quant.size().get());
    merkle::check_inclusion(record.transaction.hash(), index, size, &path, quant.header().root)
        .map_err(|error| Fault { place: "the receipt's path".into(), detail: error.to_string() })?;
    let unsound = |detail: String| Fault { place: "the receipt's checkpoint".into(), detail };
    let checkpoint = take_text(&mut fields, "checkpoint").map_err(fault)?;
    let checkpoint = checkpoint.map(|text| Note::parse(text.as_bytes())).transpose();
    let checkpoint = checkpoint.map_err(|error| unsound(error.to_string()))?;
    if let Some(note) = &checkpoint {
        check_checkpoint(note, chain, &quant).map_err(unsound)?;
    }
    match fields.keys().next() {
        Some(name) => Err(fault(format!("{name:?} is no field of a receipt"))),
        None => Ok(Receipt { chain, record, quant, checkpoint }),
    }
}

/// Checks that a checkpoint speaks for a chain as it stands at one of its quants. Its signatures are not checked.
///
/// # Errors
/// What it says instead.
pub fn check_checkpoint(note: &Note, chain: Hash, quant: &Quant) -> Result<(), String> {
    let claimed = Checkpoint::parse(note.text()).map_err(|error| error.to_string())?;
    let expected = Checkpoint::new(chain, quant);
    if claimed.origin() != expected.origin() {
        return Err(format!("it is of {}, but the chain is {}", claimed.origin(), expected.origin()));
    }
    if claimed != expected {
        let (claimed, expected) = (claimed.to_string(), expected.to_string());
        return Err(format!("it says {:?}, but the chain up to here has {:?}", lines(&claimed), lines(&expected)));
    }
    Ok(())
}

/// Size, root and quant of a checkpoint's text.
fn lines(text: &str) -> Vec<&str> {
    text.lines().skip(1).collect()
}

/// The name of the first of these keys that is found to have signed a note. In the place of a key stands the one that has taken it, as
/// the note itself shows, or `recorded` does.
///
/// # Errors
/// None has, or a signature in the name of one of them is not its own.
pub fn check_signature(note: &Note, keys: &[VerifierKey], recorded: &[Succession]) -> Result<KeyName, String> {
    let successions = [succession::shown(note), recorded.to_vec()].concat();
    let keys = succession::follow(keys, &successions).map_err(|error| error.to_string())?;
    match note.verify(&keys) {
        Ok(signed) => Ok(signed[0].key.name().clone()),
        Err(NoteError::Unsigned) if keys.iter().any(|key| successions.iter().any(|of| of.successor() == key.key())) => {
            Err("the key that was named has another in its place, which has not signed it".into())
        }
        Err(NoteError::Unsigned) => Err("the key that was named has not signed it".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A quant as it is served, without its transactions; hash and proof of work are recomputed.
///
/// # Errors
/// A sentence that names the field.
pub fn quant(value: Value) -> Result<Quant, String> {
    let fields: QuantFields = serde_json::from_value(value).map_err(|error| error.to_string())?;
    Quant::try_from(fields).map_err(|error| error.to_string())
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, value: Value) -> Result<T, Fault> {
    serde_json::from_value(value)
        .map_err(|error| Fault { place: "receipt".into(), detail: format!("{name:?}: {error}") })
}

/// Whether an object is a quant rather than a transaction: both stand in an export.
pub fn is_quant(fields: &Map<String, Value>) -> bool {
    fields.contains_key("root")
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::core::{
        chain::{Chain, bang_header, bang_transaction},
        quant::Header,
        rules::ForkOf,
        transaction::{Signed, Submission, Timestamp, Transaction},
    };

    #[derive(Clone, Debug)]
    enum Step {
        /// Injects a value, with an id and a signature or without.
        Inject {
            data: Value,
            named: bool,
            signed: bool,
        },
        Leap,
        /// Leaps, and goes on as a fork of the newest quant.
        Fork,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let data = prop_oneof![Just(json!(null)), "[a\"\\\\é]{0,4}".prop_map(|text| json!({"b": [text], "a": 1}))];
        let inject = (data, any::<bool>(), any::<bool>());
        let inject = inject.prop_map(|(data, named, signed)| Step::Inject { data, named, signed });
        proptest::collection::vec(prop_oneof![6 => inject, 2 => Just(Step::Leap), 1 => Just(Step::Fork)], 0..30)
    }

    /// A chain, made with the functions that a node makes it with, and what it serves.
    struct Node {
        chain: Chain,
        key: SigningKey,
        /// Transactions and quants, each quant behind what it seals.
        export: Vec<Vec<u8>>,
        leaves: Vec<Hash>,
    }

    impl Node {
        fn new() -> Node {
            let rules = Rules::from_value(&json!({"name": "c0", "difficulty": 1})).ok().unwrap();
            let bang = bang_transaction(&rules, Node::time(0), [0; 16]);
            let quant = mined(bang_header(&rules, &bang, None, Node::time(0)));
            let chain = Chain::bang(Arc::new(rules), &bang, Edge::new(), quant, 0, &mut |_| ());
            let key = SigningKey::from_bytes(&[5; 32]);
            let mut node = Node { chain, key, export: Vec::new(), leaves: Vec::new() };
            node.serve(&bang);
            node.serve_quant();
            node
        }

        fn of(steps: &[Step]) -> Node {
            let mut node = Node::new();
            for step in steps {
                match step {
                    Step::Inject { data, named, signed } => node.inject(data, *named, *signed),
                    Step::Leap => node.leap(),
                    Step::Fork => {
                        node.leap();
                        node.fork();
                    }
                }
            }
            node
        }

        fn time(tick: usize) -> Timestamp {
            Timestamp::from_micros(1_795_348_147_000_000 + tick as i64).unwrap()
        }

        fn serve(&mut self, transaction: &Transaction) {
            let mut record = Vec::new();
            transaction.write(Index::new(self.leaves.len() as u64), &mut record);
            self.export.push(record);
            self.leaves.push(transaction.hash());
        }

        fn serve_quant(&mut self) {
            self.export.push(serde_json::to_vec(&*self.chain.head.newest).unwrap());
        }

        fn submission(&self, data: &Value, named: bool, signed: bool) -> Submission {
            let id = named.then(|| format!("id\"{}\\", self.leaves.len()));
            let mut message = json!({"chain": self.chain.id.to_string(), "data": data});
            if let Some(id) = &id {
                message["id"] = id.as_str().into();
            }
            let signature = self.key.sign(&json::canonical(&message)).to_bytes();
            let signed = signed.then(|| Signed { signer: self.key.verifying_key().to_bytes(), signature });
            Submission { data: json::canonical(data), id: id.map(|id| id.parse().unwrap()), signed }
        }

        fn inject(&mut self, data: &Value, named: bool, signed: bool) {
            let submission = self.submission(data, named, signed);
            self.chain.rules().check(self.chain.id, &submission, data).unwrap();
            self.record(Transaction::new(
                submission,
                None,
                Node::time(self.leaves.len()),
                [self.leaves.len() as u8; 16],
            ));
        }

        /// Adds a transaction without a look at the rules.
        fn record(&mut self, transaction: Transaction) {
            self.chain.inject(&transaction, 0, &mut |_| ());
            self.serve(&transaction);
        }

        fn leap(&mut self) {
            let header = self.chain.head.cut(self.chain.rules().difficulty(), Node::time(self.leaves.len()));
            self.chain.seal(mined(header));
            self.serve_quant();
        }

        fn fork(&mut self) {
            let at = self.chain.head.newest.clone();
            let of = ForkOf { chain: self.chain.id, index: at.index(), hash: at.hash() };
            let rules = self.chain.rules().fork(format!("c{}", at.index()).parse().unwrap(), of);
            let edge = (*self.chain.head.edge).clone();
            let bang = bang_transaction(&rules, Node::time(self.leaves.len()), [0; 16]);
            let quant = mined(bang_header(&rules, &bang, Some((&at, edge.clone())), Node::time(0)));
            self.chain = Chain::bang(Arc::new(rules), &bang, edge, quant, 0, &mut |_| ());
            self.serve(&bang);
            self.serve_quant();
        }

        fn receipt(&self, index: u64) -> Value {
            let quant = &*self.chain.head.newest;
            let tiles = |_, _, _| Ok::<_, Infallible>(self.leaves.clone());
            let Ok(path) = merkle::prove_inclusion(index, quant.size().get(), tiles);
            let is_record = |line: &Value| !is_quant(line.as_object().unwrap());
            let records = self.export.iter().map(|line| json::parse(line).unwrap()).filter(is_record);
            let record = records.collect::<Vec<_>>().swap_remove(index as usize);
            json!({"chain": self.chain.id, "transaction": record, "quant": quant, "path": path})
        }
    }

    fn mined(header: Header) -> Quant {
        header.mine(0..u64::MAX).unwrap()
    }

    fn verified(export: &[Vec<u8>]) -> Result<Verifier, Fault> {
        let mut verifier = Verifier::new();
        for (line, text) in export.iter().enumerate() {
            let broken = |detail: String| Fault { place: format!("line {line}"), detail };
            let value = json::parse(text).map_err(|error| broken(error.to_string()))?;
            if value.as_object().is_some_and(is_quant) {
                verifier.quant(quant(value).map_err(broken)?)?;
            } else {
                verifier.transaction(&Record::from_value(value).map_err(broken)?)?;
            }
        }
        Ok(verifier)
    }

    /// The first fault of a chain that has a fault.
    fn fault(export: &[Vec<u8>]) -> String {
        verified(export).err().expect("nothing was found").to_string()
    }

    fn is_same(a: &[u8], b: &[u8]) -> bool {
        json::parse(a).is_ok_and(|a| json::parse(b).is_ok_and(|b| a == b))
    }

    proptest! {
        #[test]
        fn what_a_node_makes_verifies(steps in steps()) {
            let node = Node::of(&steps);
            let verifier = verified(&node.export).map_err(|fault| TestCaseError::fail(fault.to_string()))?;
            prop_assert_eq!(verifier.size(), node.chain.head.size());
            prop_assert_eq!(verifier.id(), Some(node.chain.id));
            prop_assert_eq!(verifier.newest(), Some(&*node.chain.head.newest));
            prop_assert_eq!(verifier.rules().unwrap().to_value(), node.chain.rules().to_value());
        }

        #[test]
        fn each_changed_byte_is_found(
            steps in steps(),
            line in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut export = Node::of(&steps).export;
            let line = line.index(export.len());
            let original = export[line].clone();
            export[line][at.index(original.len())] ^= 1 << bit;
            let changed = &export[line];
            prop_assert!(
                is_same(&original, changed) || verified(&export).is_err(),
                "{} passed for {}", String::from_utf8_lossy(changed), String::from_utf8_lossy(&original)
            );
        }

        #[test]
        fn lines_cannot_be_left_out_doubled_or_swapped(steps in steps(), line in any::<prop::sample::Index>()) {
            let export = Node::of(&steps).export;
            let line = line.index(export.len());
            let mut doubled = export.clone();
            doubled.insert(line, export[line].clone());
            prop_assert!(verified(&doubled).is_err());
            if line + 1 < export.len() {
                let mut swapped = export.clone();
                swapped.swap(line, line + 1);
                prop_assert!(verified(&swapped).is_err());
            }
            // The newest quant can be withheld with all that is behind it, and what it sealed looks pooled.
            if export[line + 1..].iter().any(|later| is_quant(json::parse(later).unwrap().as_object().unwrap())) {
                let mut shorter = export;
                shorter.remove(line);
                prop_assert!(verified(&shorter).is_err());
            }
        }

        #[test]
        fn a_receipt_proves_all_but_the_name_of_its_chain(
            steps in steps(),
            index in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let node = Node::of(&steps);
            let value = node.receipt(index.index(node.chain.head.newest.size().get() as usize) as u64);
            let text = json::canonical(&value);
            let held = receipt(json::parse(&text).unwrap()).map_err(|fault| TestCaseError::fail(fault.to_string()))?;
            prop_assert_eq!((held.chain, &held.quant), (node.chain.id, &*node.chain.head.newest));

            let mut changed = text.clone();
            changed[at.index(text.len())] ^= 1 << bit;
            if let Ok(mut changed) = json::parse(&changed) && receipt(changed.clone()).is_ok() {
                changed["chain"] = json!(node.chain.id);
                prop_assert_eq!(changed, value);
            }
        }
    }

    /// A node that keeps no rules, or a foreign one that lies, can build a tree without a fault: the rules still tell.
    #[test]
    fn the_rules_of_a_chain_are_checked_again() {
        let node = |rules: Value, transaction: &dyn Fn(&Node) -> Transaction| {
            let mut node = Node::new();
            let of = node.chain.head.newest.clone();
            let of = ForkOf { chain: node.chain.id, index: of.index(), hash: of.hash() };
            let rules = node.chain.rules().fork("ruled".parse().unwrap(), of).amend(rules.as_object().unwrap().clone());
            node.chain.terms = Terms::of_bang(Arc::new(rules.ok().unwrap()), Index::new(0));
            node.fork();
            let transaction = transaction(&node);
            node.record(transaction);
            node.leap();
            node.export
        };
        let made = |submission: Submission| Transaction::new(submission, None, Node::time(9), [9; 16]);
        let key = hex::encode(SigningKey::from_bytes(&[5; 32]).verifying_key().to_bytes());
        let other = hex::encode(SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes());
        let good = node(json!({"writers": [key]}), &|node| made(node.submission(&json!(1), true, true)));
        assert!(verified(&good).is_ok());
        for (rules, signed, detail) in [
            (json!({"max_bytes": 2}), false, "transaction 2: its data has 3 bytes, the rules allow 2"),
            (json!({"schema": {"type": "string"}}), false, "transaction 2: its data breaks the schema at \"\""),
            (json!({"writers": [key]}), false, "transaction 2: it is not signed, but the chain has writers"),
            (json!({"writers": [other]}), true, "transaction 2: its signer is not one of the chain's writers"),
        ] {
            let found = fault(&node(rules, &|node| made(node.submission(&json!(100), true, signed))));
            assert!(found.starts_with(detail), "{found}");
        }
        let forged =
            node(json!({}), &|node| made(Submission { data: b"2".to_vec(), ..node.submission(&json!(1), true, true) }));
        assert_eq!(fault(&forged), "transaction 2: its signature is not its signer's");
    }

    /// A signature over a value of the same shape, without the kind, is none of an erasure.
    #[test]
    fn the_signature_of_an_erasure_is_checked_with_its_kind() {
        for (kind, is_valid) in [(true, true), (false, false)] {
            let mut node = Node::of(&[Step::Inject { data: json!(1), named: false, signed: false }]);
            let data = json!({"index": 1, "reason": "r"});
            let mut message = json!({"chain": node.chain.id.to_string(), "data": data});
            if kind {
                message["kind"] = "erasure".into();
            }
            let signature = node.key.sign(&json::canonical(&message)).to_bytes();
            let signed = Some(Signed { signer: node.key.verifying_key().to_bytes(), signature });
            let submission = Submission { data: json::canonical(&data), id: None, signed };
            node.record(Transaction::new(submission, Some(Kind::Erasure), Node::time(9), [9; 16]));
            node.leap();
            assert_eq!(verified(&node.export).is_ok(), is_valid);
        }
    }

    #[test]
    fn bangs_stand_alone_and_name_their_parent() {
        let mut node = Node::new();
        node.inject(&json!(1), false, false);
        let bang = |fork_of: Value| {
            let rules = Rules::from_value(&json!({"name": "x", "difficulty": 1, "fork_of": fork_of})).ok().unwrap();
            bang_transaction(&rules, Node::time(9), [1; 16])
        };
        let here = |node: &Node| {
            let quant = &node.chain.head.newest;
            json!({"chain": node.chain.id, "index": quant.index(), "hash": quant.hash()})
        };
        let with = |node: Node, transactions: Vec<Transaction>| {
            let mut node = node;
            transactions.into_iter().for_each(|transaction| node.record(transaction));
            node.leap();
            fault(&node.export)
        };
        let fork = bang(here(&node));
        assert!(with(node, vec![fork]).contains("between the transactions of one quant"));
        let node = Node::of(&[Step::Leap]);
        let fork = bang(here(&node));
        assert!(with(node, vec![fork.clone(), fork]).contains("follows a bang within one quant"));
        assert!(with(Node::new(), vec![bang(Value::Null)]).contains("\"fork_of\""));
        let elsewhere = json!({"chain": Hash::ZERO, "index": 0, "hash": Node::new().chain.head.newest.hash()});
        assert!(with(Node::new(), vec![bang(elsewhere)]).contains("\"fork_of\""));
        let submission = Submission { data: b"{\"name\":\"X\"}".to_vec(), id: None, signed: None };
        let nonsense = Transaction::new(submission, Some(Kind::Bang), Node::time(9), [1; 16]);
        assert!(with(Node::new(), vec![nonsense]).contains("its rules are no rules: /name"));

        let new = Node::new().export;
        assert!(fault(&Node::of(&[Step::Leap]).export[2..]).contains("\"index\" is 1, but 0 is next"));
        let mut records = Vec::new();
        Transaction::new(Submission { data: b"1".to_vec(), id: None, signed: None }, None, Node::time(0), [0; 16])
            .write(Index::new(0), &mut records);
        assert!(fault(&[records]).contains("starts with its bang"));
        assert!(verified(&new[..1]).is_ok_and(|verifier| verifier.id().is_none()), "no quant, no chain");
    }

    #[test]
    fn an_id_stands_in_a_chain_once() {
        let mut node = Node::new();
        for data in [1, 2] {
            let submission =
                Submission { id: Some("same".parse().unwrap()), ..node.submission(&json!(data), false, false) };
            node.record(Transaction::new(submission, None, Node::time(data), [data as u8; 16]));
            node.leap();
        }
        assert_eq!(fault(&node.export), "transaction 2: its id \"same\" stands in the chain already");
    }

    /// Whoever serves an erased transaction can leave out its data, but nothing else.
    #[test]
    fn an_erased_transaction_keeps_the_chain_valid() {
        let mut node = Node::of(&[Step::Inject { data: json!("secret"), named: true, signed: true }, Step::Leap]);
        let mut record = json::parse(&node.export[2]).unwrap();
        let fields = record.as_object_mut().unwrap();
        let salt = hex::decode(fields.remove("salt").unwrap().as_str().unwrap()).unwrap();
        let data = json::canonical(&fields.remove("data").unwrap());
        let commitment = crate::core::hash::commitment(&salt.try_into().unwrap(), &data);
        fields.insert("commitment".into(), json!(commitment));
        fields.insert("erased".into(), json!({"timestamp": Node::time(9).to_string(), "by": 2}));
        node.export[2] = json::canonical(&record);
        assert!(verified(&node.export).is_ok());
        record["commitment"] = json!(Hash::ZERO);
        node.export[2] = json::canonical(&record);
        assert!(fault(&node.export).contains("hashes to"));

        // Erased or not, what stands in a chain with writers was signed by one of them.
        let rules = Rules::from_value(&json!({"name": "a", "writers": [hex::encode(node.key.verifying_key())]}));
        let whole = Record::from_value(json::parse(&Node::new().export[0]).unwrap()).unwrap();
        let by = Erased { timestamp: Node::time(9), by: Index::new(2) };
        let erased = Record { transaction: whole.transaction.erase(by), ..whole };
        assert!(
            check_rules(
                &InForce::new(Hash::ZERO, Terms::of_bang(Arc::new(rules.ok().unwrap()), Index::new(0))),
                &erased
            )
            .is_err_and(|detail| detail.contains("not signed"))
        );
    }

    #[test]
    fn a_receipt_has_all_its_parts() {
        let node = Node::of(&[Step::Inject { data: json!(1), named: false, signed: false }, Step::Leap]);
        let whole = node.receipt(1);
        assert!(receipt(whole.clone()).is_ok());
        for field in ["chain", "transaction", "quant", "path"] {
            let mut part = whole.clone();
            part.as_object_mut().unwrap().remove(field);
            assert!(receipt(part).is_err_and(|fault| fault.to_string().contains(field)));
            let mut part = whole.clone();
            part[field] = json!(1);
            assert!(receipt(part).is_err_and(|fault| fault.to_string().contains(field)));
        }
        assert!(receipt(json!([])).is_err());
        let mut longer = whole;
        longer["path"].as_array_mut().unwrap().push(json!(Hash::ZERO));
        assert!(receipt(longer).is_err_and(|fault| fault.place == "the receipt's path"));
    }
}
