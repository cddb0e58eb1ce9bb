//! What the writer is asked for, and what it answers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{ChainHandle, Progress, Step};
use crate::{
    core::{
        chain::{Expected, LeapPolicy, Tag},
        count::{Height, Index, Size},
        hash::Hash,
        mirror::Mirror,
        quant::Quant,
        rules::{ChainName, Rules},
        transaction::{Timestamp, Transaction},
        witness::{Evidence, Witnessed},
    },
    limits,
    store::{ChainNumber, Rollback, StoreError},
};

/// The states of a chain in which a write may be made.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The chain that the client speaks of, which may be a fork of the one that is changed.
    pub chain: ChainNumber,
    /// Its states.
    pub expected: Expected,
}

/// A change that is asked for. It holds all that is not deterministic: time, salt, proof of work.
pub enum Command {
    /// Makes a chain of its mined first quant.
    Bang {
        /// Its rules, its name among them.
        rules: Arc<Rules>,
        /// The chain and quant that it goes on from, if it is a fork.
        parent: Option<(ChainNumber, Height)>,
        /// The transaction that records the rules.
        transaction: Box<Transaction>,
        /// The quant that seals it.
        quant: Box<Quant>,
        /// When it leaps by itself.
        leap: LeapPolicy,
        /// Only then.
        guard: Option<Guard>,
    },
    /// Accepts transactions that meet the chain's rules.
    Inject {
        /// Where.
        chain: ChainNumber,
        /// Only then.
        guard: Option<Guard>,
        /// In this order.
        transactions: Vec<Transaction>,
        /// Whether a refused one leaves the others accepted.
        each_for_itself: bool,
    },
    /// Puts a mined quant behind the newest.
    Seal {
        /// Where.
        chain: ChainNumber,
        /// Only then.
        guard: Option<Guard>,
        /// What.
        quant: Box<Quant>,
    },
    /// Erases the data of a transaction that the chain wrote itself.
    Erase {
        /// Where.
        chain: ChainNumber,
        /// Which one.
        index: Index,
        /// Only then.
        guard: Option<Guard>,
        /// The transaction that records it.
        transaction: Box<Transaction>,
    },
    /// Changes the keys of a chain.
    Key {
        /// Where.
        chain: ChainNumber,
        /// Only then.
        guard: Option<Guard>,
        /// The transaction that records it.
        transaction: Box<Transaction>,
    },
    /// Lets nothing follow but the quant that seals it.
    Freeze {
        /// Where.
        chain: ChainNumber,
        /// Only then.
        guard: Option<Guard>,
        /// The transaction that records it.
        transaction: Box<Transaction>,
    },
    /// Changes when a chain leaps by itself.
    SetLeap {
        /// Where.
        chain: ChainNumber,
        /// The new policy.
        leap: LeapPolicy,
        /// Only then.
        guard: Option<Guard>,
    },
    /// Makes a chain a mirror of one that others keep: one that is none yet only in this state, and with an empty pool.
    SetMirror {
        /// Which one.
        chain: ChainNumber,
        /// The URL of the other.
        from: String,
        /// Its newest quant.
        newest: Hash,
    },
    /// Goes on with a mirror as its source did.
    Mirror {
        /// Where.
        chain: ChainNumber,
        /// Transactions and quants that it has before.
        at: (Size, Height),
        /// What follows, all of it verified by the one who sends it. An erasure stands alone.
        steps: Vec<MirrorStep>,
    },
    /// A step of the import of the chain with this id.
    Import(Hash, Step),
}

/// What happened next on a chain that others keep.
pub enum MirrorStep {
    /// Transactions were accepted.
    Append(Vec<Transaction>),
    /// Its keys were changed, or it was frozen, as this transaction records.
    Decide(Box<Transaction>),
    /// A quant sealed all of them.
    Seal(Box<Quant>),
    /// Data was erased that is here still.
    Erase {
        /// Of which transaction.
        index: Index,
        /// The transaction that records it.
        record: Box<Transaction>,
    },
}

/// Something of the node's own, which no other node has.
pub enum Own {
    /// Records that newer quants of the chain with this id were signed.
    SetRollback(Hash, Rollback),
    /// Records the hosts of all known nodes.
    SetNodes(Vec<String>),
    /// Records a checkpoint of another's log before its cosignature is given away.
    Cosign {
        /// Only if the newest that was cosigned of the log has this size and root.
        previous: Option<(u64, Hash)>,
        /// The checkpoint. What was kept of the log as evidence stays.
        newest: Witnessed,
    },
    /// Records what is known of a chain of others that is followed.
    SetMirror(Box<Mirror>),
    /// Forgets that a chain of others was to be followed, of which nothing is here.
    EndMirror(Hash),
    /// Keeps what shows that a log has signed two histories.
    Accuse {
        /// The log.
        origin: String,
        /// What shows it.
        evidence: Evidence,
    },
}

/// What the writer may be asked for.
pub enum Request {
    /// A change of a chain.
    Change(Command),
    /// Something of the node's own.
    Own(Own),
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        Request::Change(command)
    }
}

impl From<Own> for Request {
    fn from(own: Own) -> Self {
        Request::Own(own)
    }
}

/// A request with the way back for its outcome.
pub struct Envelope {
    /// What is to be done.
    pub request: Request,
    /// Who waits for it.
    pub reply: oneshot::Sender<Result<Outcome, Refused>>,
    /// What it takes up, given back when it is done, whether or not anybody still waits.
    pub reserved: Reserved,
}

/// What a request takes up until it is answered.
#[derive(Default)]
pub struct Reserved {
    /// Memory.
    pub memory: Option<OwnedSemaphorePermit>,
    /// Its part of what its client may have wait for the writers: of an address, and of a token.
    pub waiting: [Option<OwnedSemaphorePermit>; 2],
}

impl Reserved {
    /// What it still takes up where it goes to another node: the writers here do not wait for that.
    pub fn carried(self) -> Option<OwnedSemaphorePermit> {
        self.memory
    }
}

impl Envelope {
    /// Bytes that it adds to a batch.
    pub(super) fn bytes(&self) -> usize {
        match &self.request {
            Request::Change(command) => command.bytes(),
            Request::Own(Own::Cosign { newest, .. }) => newest.checkpoint.len(),
            Request::Own(Own::SetMirror(mirror)) => mirror.checkpoint.len(),
            Request::Own(_) => 0,
        }
    }

    /// Whether all before it must be in the log and the index when it is decided, and nothing may be decided before it is. What an
    /// erasure overwrites must stand in one place. The end of an import may replace a chain, which nothing may have changed
    /// meanwhile, and what is removed must be gone before anything is put in its place.
    pub(super) fn is_alone(&self) -> bool {
        match &self.request {
            Request::Change(Command::Mirror { steps, .. }) => {
                steps.iter().any(|step| matches!(step, MirrorStep::Erase { .. }))
            }
            Request::Change(command) => {
                matches!(command, Command::Erase { .. } | Command::Import(_, Step::Finish { .. } | Step::GiveUp))
            }
            Request::Own(_) => false,
        }
    }
}

impl Command {
    /// The chain that it is about.
    pub(super) fn chain(&self) -> Option<ChainNumber> {
        match self {
            Command::Inject { chain, .. }
            | Command::Seal { chain, .. }
            | Command::Erase { chain, .. }
            | Command::Key { chain, .. }
            | Command::Freeze { chain, .. }
            | Command::SetMirror { chain, .. }
            | Command::Mirror { chain, .. }
            | Command::SetLeap { chain, .. } => Some(*chain),
            Command::Bang { parent, .. } => parent.map(|(chain, _)| chain),
            Command::Import(..) => None,
        }
    }

    /// Whether it makes the history of its chain longer, or takes something out of it.
    pub(super) fn changes_history(&self) -> bool {
        self.is_write() && !matches!(self, Command::SetLeap { .. }) || matches!(self, Command::Mirror { .. })
    }

    /// Whether it is what a mirror does not take.
    pub(super) fn is_write(&self) -> bool {
        match self {
            Command::Inject { .. } | Command::Seal { .. } | Command::Erase { .. } => true,
            Command::Key { .. } | Command::Freeze { .. } | Command::SetLeap { .. } => true,
            Command::Bang { .. } | Command::SetMirror { .. } | Command::Mirror { .. } | Command::Import(..) => false,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Command::Inject { transactions, .. } => transactions.iter().map(Transaction::served_bytes).sum(),
            Command::Mirror { steps, .. } => steps.iter().map(MirrorStep::bytes).sum(),
            Command::Import(_, Step::Add { part, .. }) => part.bytes(),
            Command::Bang { transaction, .. } | Command::Key { transaction, .. } => transaction.served_bytes(),
            _ => 0,
        }
    }
}

impl MirrorStep {
    /// Bytes that it adds to a batch.
    pub fn bytes(&self) -> usize {
        match self {
            MirrorStep::Append(transactions) => transactions.iter().map(Transaction::served_bytes).sum(),
            MirrorStep::Seal(_) => limits::QUANT_BYTES,
            MirrorStep::Decide(record) | MirrorStep::Erase { record, .. } => record.served_bytes(),
        }
    }
}

/// What a command did.
pub enum Outcome {
    /// The new chain.
    Banged(Arc<ChainHandle>),
    /// The chain's state behind a new quant.
    Sealed(Tag),
    /// What became of each transaction; only those of `each_for_itself` can be refused here.
    Injected(Vec<Result<Placed, Refused>>),
    /// Where an erasure is recorded, a change of keys, or that the chain is frozen.
    Recorded(Placed),
    /// Whether the evidence was new.
    Accused(bool),
    /// How far an import has come, or nothing where nothing is stored of it.
    Importing(Option<Progress>),
    /// Some of an import that was given up is still there.
    Removing,
    /// It is done.
    Done,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its final index.
    pub index: Index,
    /// Its leaf hash.
    pub hash: Hash,
    /// When it was accepted.
    pub timestamp: Timestamp,
    /// Whether a transaction with the same id that came earlier is the one there.
    pub replayed: bool,
}

impl Placed {
    pub(super) fn new(index: Index, transaction: &Transaction) -> Placed {
        Placed { index, hash: transaction.hash(), timestamp: transaction.timestamp(), replayed: false }
    }

    pub(super) fn replay(index: Index, transaction: &Transaction) -> Placed {
        Placed { replayed: true, ..Placed::new(index, transaction) }
    }
}

/// Why a command changed nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// A chain of this name exists.
    #[error("a chain with the name \"{0}\" exists already")]
    NameTaken(ChainName),
    /// Somebody else was faster.
    #[error("the chain \"{chain}\" has changed: the tag of its state is \"{tag}\" now, not {expected}")]
    Moved {
        /// The chain that the client spoke of.
        chain: ChainName,
        /// What the client expected.
        expected: Expected,
        /// What is.
        tag: Tag,
    },
    /// The id names another transaction.
    #[error("the id {id:?} belongs to transaction {index}, which has other data or another signer")]
    IdTaken {
        /// The client's id.
        id: String,
        /// Of the transaction that has it.
        index: Index,
    },
    /// The id names a transaction of which only a hash is left.
    #[error(
        "the id {id:?} belongs to transaction {index}, whose data was erased: whether this is the same data can no longer be \
         compared, so it is not accepted as a repetition; other data needs another id"
    )]
    IdErased {
        /// The client's id.
        id: String,
        /// Of the transaction that has it.
        index: Index,
    },
    /// The id names two transactions of one request.
    #[error("the id {0:?} stands twice in this request, with other data or another signer")]
    IdTwice(String),
    /// What the node itself recorded stays.
    #[error(
        "transaction {0} is a record of the node itself (a bang, an erasure, a change of keys, or a freeze): only what clients injected can be erased"
    )]
    NotErasable(Index),
    /// The writers in force are others than those that it replaces.
    #[error(
        "the writers of the chain are named by transaction {since} now, so a change that replaces those of transaction {replaces} is not \
         made: look at them (GET /keys), and sign one that replaces {since}"
    )]
    KeysMoved {
        /// What the change names.
        replaces: Index,
        /// What names the writers in force.
        since: Index,
    },
    /// Everyone may write.
    #[error("everyone may write on the chain, so it has no writers to be replaced: fork it with writers (POST /fork)")]
    NoWriters,
    /// It may not write any more, or yet.
    #[error("\"signer\" is not one of this chain's writers: transaction {0} names them")]
    NotAWriter(Index),
    /// What changes keys or ends a chain has not the form of that.
    #[error("{0}")]
    Malformed(String),
    /// A chain keeps where its keys were changed.
    #[error(
        "the keys of the chain were changed {} times, which is the limit: fork it, and go on there",
        limits::KEY_CHANGES
    )]
    TooManyKeys,
    /// Nothing follows.
    #[error(
        "the chain \"{chain}\" was frozen for ever by transaction {by} and takes no writes: read it, or fork it (POST \
         /chains/{chain}/fork) and write on the fork"
    )]
    Frozen {
        /// Its name.
        chain: ChainName,
        /// The transaction that froze it.
        by: Index,
    },
    /// It came without its data, and without the record of that.
    #[error("transaction {0} is erased already; the record of that is on the chain that this one was copied from")]
    ErasedElsewhere(Index),
    /// Not all that is stored of an import was verified.
    #[error(
        "an unfinished import of this chain has stored more than this export has: send the longer one, or give that import \
         up with DELETE /import, and send this one then"
    )]
    ImportIsLonger,
    /// What is stored of the chain does not hold.
    #[error("the chain is damaged, and takes no writes: {0}")]
    Damaged(String),
    /// The chain is an older copy of what was signed.
    #[error("the chain takes no writes: {0}")]
    RolledBack(String),
    /// The chain is a copy of one that others keep.
    #[error(
        "the chain \"{chain}\" is a mirror of {from} and takes no writes: write there, or fork it (POST /chains/{chain}/fork) and \
         write on the fork"
    )]
    Mirror {
        /// Its name.
        chain: ChainName,
        /// The URL of the other.
        from: String,
    },
    /// The chain's pool is full.
    #[error("the pool of the chain holds {0} transactions, which is its limit: leap, then send again")]
    PoolFull(u64),
    /// So many at once never fit.
    #[error(
        "the pool of a chain holds at most {limit} transactions, these are {count}: send fewer at once, or as a stream of lines"
    )]
    LargerThanPool {
        /// New ones, of which all or none are accepted.
        count: u64,
        /// That of the pool.
        limit: u64,
    },
    /// The quant does not follow the newest one.
    #[error("another leap was faster: {0}")]
    Stale(String),
    /// Another checkpoint of the same log was cosigned meanwhile.
    #[error("another checkpoint of the log was faster")]
    Overtaken,
    /// What is stored of an import is being removed.
    #[error("an earlier import of this chain was given up and is being removed: send again later")]
    GivenUp,
    /// So many chains are stored in part.
    #[error(
        "{0} imports are not finished, which is the limit: GET /import lists them; finish one, or give one up with \
         DELETE /import?chain=ID, and send this one then"
    )]
    TooManyImports(usize),
    /// The node has no room for more chains.
    #[error("the node has {} chains, which is its limit: use one of them, or another node", limits::CHAINS)]
    TooManyChains,
    /// Forks of forks.
    #[error(
        "the chain is the last of {} forks of forks, which is the limit: fork one of its ancestors, or export it and \
         import it on another node",
        limits::FORK_DEPTH
    )]
    ForkedTooOften,
    /// Too much waits already.
    #[error("the node has too much to write: send again later")]
    Busy,
    /// Another node decides on the chain, the one at this host, or none at the moment.
    #[error("{}", not_leading(.0.as_deref()))]
    NotLeading(Option<String>),
    /// No majority has answered.
    #[error(
        "no majority of the chain's nodes has answered: it may still be accepted later, so send it again with the same \
         \"id\""
    )]
    NotAgreed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The store could not take it.
    #[error("{0}")]
    Store(#[from] StoreError),
}

fn not_leading(leader: Option<&str>) -> String {
    match leader {
        Some(host) => format!("this node does not lead the chain's group: {host} does"),
        None => {
            "no majority of the chain's nodes answers: nothing was accepted; send it again later, with the same \"id\""
                .into()
        }
    }
}
