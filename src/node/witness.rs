//! A node's part as a witness of the logs of others.

use std::sync::{Arc, Mutex};

use ed25519_dalek::SigningKey;

use super::Node;
use crate::{
    core::{
        hash::{self, Hash},
        note::{Algorithm, KeyName, VerifierKey},
        transaction::Timestamp,
        witness::{self, Evidence, Refusal, Rejected, Trusted, Witnessed},
    },
    writer::{Outcome, Own, Refused},
};

/// A node's part as a witness of others.
pub(super) struct Witness {
    pub key: SigningKey,
    pub trusted: Trusted,
    /// The time of the newest cosignature that was made: none has an earlier one from then on.
    pub newest: Mutex<Option<Timestamp>>,
}

impl Witness {
    /// The time of the newest cosignature.
    pub fn newest(&self) -> Option<Timestamp> {
        *self.newest.lock().expect("no holder of this lock panics")
    }

    /// Whether a cosignature may have this time: then none has an earlier one any more.
    fn begin_at(&self, time: Timestamp) -> bool {
        let mut newest = self.newest.lock().expect("no holder of this lock panics");
        let is_in_order = newest.is_none_or(|newest| newest <= time);
        if is_in_order {
            *newest = Some(time);
        }
        is_in_order
    }
}

/// Why a checkpoint was not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum NotCosigned {
    /// It is not to be.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// It cannot be recorded.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A cosignature would have a time that cannot be.
    #[error("{0}: this witness signs nothing until its clock is set")]
    Clock(String),
}

impl Node {
    /// The key that checks the cosignatures of this node, where it is a witness.
    pub fn witness_key(&self) -> Option<VerifierKey> {
        let key = self.0.witness.as_ref()?.key.verifying_key();
        Some(VerifierKey::new(KeyName::of_witness(&key), Algorithm::Cosignature, key))
    }

    /// Cosigns a checkpoint of another's log (`add-checkpoint` of C2SP tlog-witness), and gives the signature's line. It is
    /// on disk before. No cosignature has an earlier time than one before it, whatever the clock shows.
    ///
    /// # Errors
    /// Why it does not. What proves that the log has signed two histories is kept.
    pub async fn add_checkpoint(&self, body: &[u8]) -> Result<String, NotCosigned> {
        let cosigned = self.cosign(body).await;
        self.metrics().count_cosigning(cosigned.is_ok());
        cosigned
    }

    async fn cosign(&self, body: &[u8]) -> Result<String, NotCosigned> {
        let submission = witness::Submission::parse(body)?;
        // Whoever has kept a checkpoint of this node's own may know more than an old copy of its folder.
        if let Some(chain) = submission.origin().strip_prefix("qbc/").and_then(|id| self.chain(id)) {
            self.compare(&chain, submission.note()).await?;
        }
        let unknown = || Refusal::UnknownLog(submission.origin().into());
        let witness = self.0.witness.as_ref().ok_or_else(unknown)?;
        let Witness { key, trusted, .. } = witness;
        loop {
            let before = self.witnessed(hash::origin(submission.origin()));
            let clock = self.0.clock.plausible().map_err(NotCosigned::Clock)?;
            let now = witness.newest().map_or(clock, |newest| clock.max(newest));
            let (mut note, newest) = match submission.judge(trusted, before.as_deref(), now) {
                Ok(judged) => judged,
                Err(rejected) => {
                    let Rejected { refusal, evidence } = *rejected;
                    if let Some(evidence) = evidence {
                        self.accuse(submission.origin(), evidence).await?;
                    }
                    return Err(refusal.into());
                }
            };
            if !witness.begin_at(now) {
                continue;
            }
            note.cosign(KeyName::of_witness(&key.verifying_key()), key, now.seconds());
            let line = format!("{}\n", note.signatures().last().expect("it was just cosigned"));
            let newest = Witnessed { checkpoint: note.to_string(), ..newest };
            let previous = before.map(|before| (before.size, before.root));
            match self.submit(self.0.own_group, Own::Cosign { previous, newest }).await {
                Ok(_) => return Ok(line),
                // It is judged anew by what came in between.
                Err(Refused::Overtaken) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    async fn accuse(&self, origin: &str, evidence: Evidence) -> Result<(), Refused> {
        let proven = evidence.proven;
        match self.submit(self.0.own_group, Own::Accuse { origin: origin.into(), evidence }).await? {
            Outcome::Accused(true) if proven => {
                tracing::error!(origin, "the log has signed two histories: GET /witness has both as evidence");
            }
            Outcome::Accused(true) => {
                tracing::warn!(origin, "a signed checkpoint came without a proof: GET /witness has it");
            }
            _ => {}
        }
        Ok(())
    }

    /// What this node has cosigned of a log, which the hash of its name stands for.
    pub fn witnessed(&self, log: Hash) -> Option<Arc<Witnessed>> {
        self.0.published.witnessed(log)
    }

    /// What this node has cosigned of at most `limit` logs, in the order of the hashes of their names, from behind `after`.
    pub fn all_witnessed(&self, after: Option<Hash>, limit: usize) -> Vec<(Hash, Arc<Witnessed>)> {
        self.0.published.all_witnessed(after, limit)
    }
}
