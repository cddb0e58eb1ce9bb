//! What this node signs: checkpoints of its chains, and which keys do that.

use std::sync::{Arc, RwLock};

use ed25519_dalek::SigningKey;

use super::{InCluster, Node};
use crate::{
    core::{
        chain::{Expected, Tag},
        count::{Height, Size},
        note::{Algorithm, Checkpoint, KeyName, Note, Signature, VerifierKey},
        quant::Quant,
        succession::{Role, Succession},
        terms::KeyChange,
        transaction::{Kind, Submission, Transaction},
        witness::Cosigned,
    },
    limits,
    store::{Rollback, StoreError, key::Signers},
    writer::{ChainHandle, Command, Own, Refused, checked_transaction, key_change},
};

/// How many of the successions of the key that signs checkpoints are recorded on a chain, once that was looked at.
#[derive(Default)]
struct RecordedSuccessions(tokio::sync::Mutex<Option<usize>>);

/// What witnesses have cosigned of a chain since the node's start.
#[derive(Default)]
struct Cosignatures(RwLock<Cosigned>);

impl Node {
    /// The names under which checkpoints of all chains are signed here, and their keys: the cluster's, where the node is in one, and
    /// the node's own, with the one before it while that signs, too.
    fn signers(&self) -> impl Iterator<Item = (KeyName, &SigningKey)> {
        let cluster = self.0.cluster.get().map(|InCluster { key, .. }| (Role::Cluster, key));
        let Signers { current, previous, .. } = &self.0.signers;
        let own = [Some(current), previous.as_ref()].into_iter().flatten().map(|key| (Role::Node, key));
        cluster.into_iter().chain(own).map(|(role, key)| (role.name(&key.verifying_key()), key))
    }

    /// How the keys that sign here came to be those: of the cluster, and of the node.
    fn successions(&self) -> [&[Succession]; 2] {
        let cluster = self.0.cluster.get().map(|cluster| cluster.successions.as_slice());
        [cluster.unwrap_or_default(), &self.0.signers.successions]
    }

    /// The keys that sign checkpoints of all chains here, the first of which is [`Node::verifier_key`]; and those before them, each
    /// with what shows who has taken its place.
    pub fn keys(&self) -> (Vec<VerifierKey>, Vec<(VerifierKey, Succession)>) {
        let signing = self.signers().map(|(name, key)| VerifierKey::new(name, Algorithm::Ed25519, key.verifying_key()));
        let roles = [Role::Cluster, Role::Node].into_iter().zip(self.successions());
        let earlier = roles.flat_map(|(role, successions)| {
            successions
                .iter()
                .map(move |of| (VerifierKey::new(role.name(of.old()), Algorithm::Ed25519, *of.old()), of.clone()))
        });
        (signing.collect(), earlier.collect())
    }

    /// Whether checkpoints are signed here with the secret part of this key, or were.
    pub fn signs_with(&self, key: &VerifierKey) -> bool {
        let (signing, earlier) = self.keys();
        signing.iter().chain(earlier.iter().map(|(key, _)| key)).any(|own| own.key() == key.key())
    }

    /// The key that checks the checkpoints of all chains, whichever node serves them: the cluster's, where the node is in one, else
    /// the node's own.
    pub fn verifier_key(&self) -> VerifierKey {
        let (name, key) = self.signers().next().expect("a node signs");
        VerifierKey::new(name, Algorithm::Ed25519, key.verifying_key())
    }

    /// A quant of a chain as a checkpoint, signed under its origin and under the signer's own name, by the
    /// cluster's key, where the node is in one, and by the node's own.
    pub fn sign(&self, chain: &ChainHandle, quant: &Quant) -> Note {
        self.sign_text(chain, &Checkpoint::new(chain.id, quant).to_string())
    }

    fn sign_text(&self, chain: &ChainHandle, text: &str) -> Note {
        let mut note = Note::new(text).expect("a checkpoint is a note's text");
        for (name, key) in self.signers() {
            note.sign(KeyName::of_chain(chain.id), key);
            note.sign(name, key);
        }
        for successions in self.successions() {
            let first = successions.len().saturating_sub(limits::SUCCESSION_LINES);
            successions[first..].iter().for_each(|succession| note.add(succession.line()));
        }
        note
    }

    /// Records on a chain, before it goes on, that the key which signs its checkpoints has taken the place of another: where the chain
    /// is older than that, and does not say so yet. Gives the state of the chain then, if anything was recorded.
    pub(super) async fn record_successions(
        &self,
        chain: &ChainHandle,
        expected: Option<&Expected>,
    ) -> Result<Option<Tag>, Refused> {
        let [of_cluster, own] = self.successions();
        let successions = if self.0.cluster.get().is_some() { of_cluster } else { own };
        if successions.is_empty() {
            return Ok(None);
        }
        let recorded = chain.remembered::<RecordedSuccessions>();
        let mut recorded = recorded.0.lock().await;
        let mut done = match *recorded {
            Some(done) => done,
            None => self.recorded_successions(chain, successions).await?,
        };
        let mut tag = None;
        while done < successions.len() {
            let submission = Submission { data: successions[done].data(), id: None, signed: None };
            let transaction = Transaction::new(submission, Some(Kind::Key), self.time_in(chain), rand::random()).into();
            let guard = if tag.is_none() { chain.guard(expected.cloned()) } else { None };
            let placed = match self.decide(chain, Command::Key { chain: chain.number(), guard, transaction }).await {
                Ok(placed) => placed,
                // Checkpoints show it all the same.
                Err(Refused::TooManyKeys) => break,
                Err(refused) => return Err(refused),
            };
            tracing::info!(chain = %chain.name, record = %placed.index, "the chain says which key signs its checkpoints");
            (tag, done) = (Some(Tag::of_size(placed.index.size())), done + 1);
        }
        *recorded = Some(done);
        Ok(tag)
    }

    /// How many successions a chain says already, or need not say, since it was made later.
    async fn recorded_successions(&self, chain: &ChainHandle, successions: &[Succession]) -> Result<usize, StoreError> {
        let (lineage, keys) = (chain.lineage.clone(), chain.terms().keys().clone());
        let successions = successions.to_vec();
        self.read_store(move |store| {
            let made = checked_transaction(store, &lineage, lineage.bang_place().transaction)?.timestamp();
            let earlier = successions.iter().rposition(|succession| succession.time() < made).map_or(0, |at| at + 1);
            for key in keys.iter().rev() {
                if let KeyChange::Signer(said) = key_change(store, &lineage, *key)?
                    && let Some(at) =
                        successions.iter().position(|of| (of.old(), of.successor()) == (said.old(), said.successor()))
                {
                    return Ok(earlier.max(at + 1));
                }
            }
            Ok(earlier)
        })
        .await
    }

    /// Compares a chain with a note of somebody else. If that is a checkpoint which this node's own key or its cluster's has signed,
    /// of a quant that the chain does not have, then the data folder is an older copy, or all of the cluster's are: that is recorded,
    /// and the chain takes no more writes until the operator accepts it.
    ///
    /// # Errors
    /// It takes none, or its quant cannot be read.
    pub async fn compare(&self, chain: &Arc<ChainHandle>, note: &Note) -> Result<(), Refused> {
        let origin = KeyName::of_chain(chain.id);
        let (signing, earlier) = self.keys();
        let all = signing.into_iter().chain(earlier.into_iter().map(|(key, _)| key));
        let names = |key: VerifierKey| [VerifierKey::new(origin.clone(), Algorithm::Ed25519, *key.key()), key];
        let mut keys: Vec<VerifierKey> = Vec::new();
        // The one before the current key may be among both.
        all.flat_map(names).for_each(|key| {
            if !keys.contains(&key) {
                keys.push(key)
            }
        });
        let Ok(checkpoint) = Checkpoint::parse(note.text()) else { return Ok(()) };
        let is_own = checkpoint.origin() == origin.as_str() && note.verify(&keys).is_ok();
        let Some((quant, hash)) = checkpoint.quant().filter(|_| is_own) else { return Ok(()) };
        let lags = || quant > chain.head().newest.index();
        if lags()
            && let Some(cluster) = self.0.cluster.get()
            && !cluster.carrier.catch_up(chain.group).await
        {
            // Others may have it. A node that was started again does not know at first that it has it itself.
            return Ok(());
        }
        if !lags() && self.quant(chain, quant).await?.hash() == hash {
            return Ok(());
        }
        let found = Rollback { quant, hash, size: Size::new(checkpoint.size()), accepted: false };
        self.take_rollback(chain, Some(found)).await;
        chain.check_sound()
    }

    /// Takes up that a newer quant of a chain was signed, or that the operator accepts what is known of that.
    pub(super) async fn take_rollback(&self, chain: &ChainHandle, found: Option<Rollback>) {
        let accepted = self.0.accept_rollback.iter().any(|name| name == "*" || name == chain.name.as_str());
        // From now on it holds, even where it cannot be recorded: the next start may find it again.
        let Some(rollback) = chain.add_rollback(found, accepted) else { return };
        match rollback.accepted {
            true => {
                tracing::warn!(chain = %chain.name, "a rollback is accepted, and the chain takes writes: {rollback}")
            }
            false => tracing::error!(chain = %chain.name, "the chain takes no writes: {rollback}"),
        }
        if let Err(error) = self.submit(self.0.own_group, Own::SetRollback(chain.id, rollback)).await {
            tracing::warn!(chain = %chain.name, "that newer quants were signed is not recorded: {error}");
        }
    }

    /// The newest quant of a chain as a checkpoint, with the cosignatures that it has by now.
    pub fn checkpoint(&self, chain: &ChainHandle) -> Note {
        self.checkpoint_of(chain, &chain.head().newest)
    }

    /// A quant of a chain as a checkpoint, with the cosignatures that the node has of it.
    pub fn checkpoint_of(&self, chain: &ChainHandle, quant: &Quant) -> Note {
        self.with_cosignatures(chain, quant.index(), &Checkpoint::new(chain.id, quant).to_string())
    }

    /// The newest checkpoint of a chain that this many witnesses have cosigned since the node's start.
    pub fn cosigned(&self, chain: &ChainHandle, witnesses: usize) -> Option<Note> {
        let newest = |cosigned: &Cosigned| cosigned.newest(witnesses).map(|(quant, text)| (quant, text.to_owned()));
        let cosignatures = chain.remembered::<Cosignatures>();
        let (quant, text) = newest(&cosignatures.0.read().expect("no holder of this lock panics"))?;
        Some(self.with_cosignatures(chain, quant, &text))
    }

    fn with_cosignatures(&self, chain: &ChainHandle, quant: Height, text: &str) -> Note {
        let key = (chain.number().0, quant, self.0.cluster.get().is_some());
        let signed = self.0.notes.get(&key).unwrap_or_else(|| {
            let note = Arc::new(self.sign_text(chain, text));
            self.0.notes.insert(key, note.clone());
            note
        });
        let mut note = Note::clone(&signed);
        let cosignatures = chain.remembered::<Cosignatures>();
        let cosigned = cosignatures.0.read().expect("no holder of this lock panics");
        cosigned.of(text).iter().for_each(|cosignature| note.add(cosignature.clone()));
        note
    }

    /// Adds a witness's cosignature, which must hold, of the checkpoint of a quant, which has this text.
    pub fn add_cosignature(&self, chain: &ChainHandle, quant: Height, text: &str, cosignature: Signature) {
        let cosignatures = chain.remembered::<Cosignatures>();
        cosignatures.0.write().expect("no holder of this lock panics").add(quant, text, cosignature);
    }
}
