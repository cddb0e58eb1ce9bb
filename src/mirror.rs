//! Mirrors: this node follows chains of others, which it does not trust, and keeps copies that take no writes.
//!
//! Each mirror goes on in rounds. A round asks the source for its newest checkpoint. It must be signed by the key that the operator
//! has named, and continue the one that was seen before: that is recorded before anything of it is followed. Then the copy goes on in steps,
//! each to a signed checkpoint: the quants must lead to it, and so each of their roots is signed; the transactions are taken
//! in pieces, each of which is proven to be of such a root before it is written. So the copy is right at each moment, whatever the
//! source does and whenever the node stops, and nothing of it takes more memory than some pieces. What is not sealed is never taken.
//!
//! An erasure is carried over when the quant that seals its record comes. Data that is missing is accepted with that record alone, or
//! where the operator has said so.
//!
//! What the source serves is *away* where it cannot be had or is malformed: it is asked again. It *contradicts* where two signed
//! checkpoints are not of one history, or where what is served for a signed checkpoint does not lead to it: then nothing more is
//! taken, and what shows it is kept.

mod follower;
pub mod source;
mod step;

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
    sync::{Arc, Mutex},
};

use serde::Serialize;
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};

use crate::{
    access::Secret,
    cluster::{Cluster, ClusterError},
    core::{
        hash::Hash,
        json,
        mirror::{Following, Follows, Mirror, Seen},
        note::VerifierKey,
        rules::{ChainName, Rules},
        transaction::Timestamp,
        verify,
        witness::Evidence,
    },
    limits,
    node::{Node, StoreError},
    peers::{Allowed, pause},
    tls::Authorities,
    writer::{ChainHandle, Refused},
};
use follower::{Follower, Trouble};
use source::{Caller, ChainUrl, Source, SourceError};

/// What is to be followed.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The chain at its source.
    pub from: ChainUrl,
    /// The key that signs its checkpoints.
    pub key: VerifierKey,
    /// Whether data may be missing without the record of its erasure.
    pub allow_unproven_erasures: bool,
    /// Whether the source may be in any network.
    pub anywhere: bool,
    /// What is shown to the source, where it asks for a token.
    pub token: Option<Secret>,
}

/// Parsed from `URL=KEY`, as an operator names it at the node's start.
impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        let (from, key) =
            text.split_once('=').ok_or("a mirror is the URL of its source, = and the key that signs there")?;
        let key = key.parse().map_err(|error| format!("{key:?} is no key: {error}"))?;
        Ok(Wanted { from: from.parse()?, key, allow_unproven_erasures: false, anywhere: true, token: None })
    }
}

/// Why a chain is not followed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The source cannot be followed.
    #[error("the source cannot be followed: {0}")]
    Source(String),
    /// It does not go with what is here.
    #[error("{0}")]
    Conflict(String),
    /// There is no such mirror.
    #[error("{0}")]
    Unknown(String),
    /// Too many are followed.
    #[error(
        "this node has {} mirrors, which is its limit: stop one that has no copy yet, or use another node",
        limits::MIRRORS
    )]
    TooMany,
    /// The node could not write, or its cluster not agree.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The cluster does not agree.
    #[error("{0}")]
    Cluster(#[from] ClusterError),
}

impl From<StoreError> for MirrorError {
    fn from(error: StoreError) -> Self {
        Refused::from(error).into()
    }
}

/// A mirror as it is shown.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Mirror)]
pub struct MirrorView {
    /// The chain's name.
    #[schema(value_type = ChainName)]
    pub chain: String,
    /// The chain's id; null until the source has answered once, where it was named at the node's start.
    #[schema(required = true)]
    pub id: Option<Hash>,
    /// The URL of the chain at its source.
    pub from: String,
    /// The verifier key that signs its checkpoints, as it was named.
    pub key: String,
    /// The one that has taken its place, if one has.
    #[schema(required = true)]
    pub signer: Option<String>,
    /// How it stands.
    pub state: Follows,
    /// Transactions that are sealed here.
    pub size: u64,
    /// Quants that are here.
    pub quants: u64,
    /// Transactions of the newest checkpoint that was seen.
    #[schema(required = true)]
    pub source_size: Option<u64>,
    /// Quants up to that checkpoint.
    #[schema(required = true)]
    pub source_quants: Option<u64>,
    /// Transactions that are missing here of those.
    #[schema(required = true)]
    pub lag: Option<u64>,
    /// When the source has answered last with a checkpoint that holds, since the node's start.
    #[schema(value_type = Option<Timestamp>, required = true)]
    pub checked: Option<String>,
    /// Why it does not go on.
    #[schema(required = true)]
    pub error: Option<String>,
    /// Whether data may be missing without the record of its erasure.
    pub allow_unproven_erasures: bool,
    /// The newest checkpoint that was seen and continues those before: a note that the key has signed.
    #[schema(required = true)]
    pub checkpoint: Option<String>,
    /// What speaks against the source.
    pub evidence: Vec<Evidence>,
}

/// How the mirrors of a node stand.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How many there are in each state.
    pub states: HashMap<Follows, usize>,
    /// Transactions that the one lacks which lags most.
    pub lag: u64,
    /// Pieces of evidence against sources.
    pub evidence: usize,
}

/// How a mirror stands that is to be followed or not, whose chain has ended or not, whose last round failed or not, and that lacks
/// something or not.
fn standing(following: &Following, is_complete: bool, is_away: bool, lags: bool) -> Follows {
    match following {
        Following::Stopped => Follows::Stopped,
        Following::Contradiction(_) => Follows::Contradiction,
        Following::Yes if is_complete => Follows::Complete,
        Following::Yes if is_away => Follows::Away,
        Following::Yes if lags => Follows::Copying,
        Following::Yes => Follows::Following,
    }
}

/// All mirrors of a node. A clone is another handle to the same.
#[derive(Clone)]
pub struct Mirrors(Arc<Inner>);

struct Inner {
    node: Node,
    cluster: Cluster,
    /// Calls sources in the allowed networks, and those that the operator has named.
    guarded: Caller,
    anywhere: Caller,
    /// Held by whoever takes transactions over.
    steps: Semaphore,
    all: Mutex<BTreeMap<Hash, Arc<Follower>>>,
    /// The tokens that sources are shown, by the URLs of the chains. They are in no answer, and in no record of the log.
    tokens: Mutex<BTreeMap<String, Secret>>,
    /// Those that were named at the start and have not begun, by their URLs, with what the last attempt said.
    named: Mutex<BTreeMap<String, (Wanted, Option<String>)>>,
    /// One is begun or ended at a time.
    turn: tokio::sync::Mutex<()>,
    stopping: watch::Receiver<bool>,
}

impl Mirrors {
    /// Goes on with the mirrors that the node has, and begins those that are named, until `stopping` says that the node stops. The
    /// certificates of their sources are of the system's authorities or of the `trusted` ones.
    ///
    /// # Errors
    /// The store is damaged.
    pub async fn start(
        node: Node,
        cluster: Cluster,
        allowed: Allowed,
        trusted: &Authorities,
        named: Vec<Wanted>,
        stopping: watch::Receiver<bool>,
    ) -> Result<Mirrors, StoreError> {
        let (kept, tokens) = (node.mirrors().await?, node.source_tokens().await?);
        let mirrors = Mirrors(Arc::new(Inner {
            node,
            cluster,
            guarded: Caller::new(Some(allowed), trusted),
            anywhere: Caller::new(None, trusted),
            steps: Semaphore::new(limits::MIRROR_STEPS),
            all: Mutex::default(),
            tokens: tokens.into(),
            named: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            stopping,
        }));
        for record in kept {
            mirrors.run(record);
        }
        for wanted in named {
            mirrors.name(wanted);
        }
        Ok(mirrors)
    }

    /// Begins a mirror that is named at the start, when its source answers.
    fn name(&self, wanted: Wanted) {
        let from = wanted.from.to_string();
        self.named().insert(from.clone(), (wanted.clone(), None));
        let (mirrors, mut stopping) = (self.clone(), self.0.stopping.clone());
        tokio::spawn(async move {
            let begin = async {
                let mut failures = 0;
                loop {
                    match mirrors.follow(&wanted).await {
                        Ok(_) => break,
                        Err(error) => {
                            if failures == 0 {
                                tracing::warn!(from, "the mirror cannot begin, and is tried again: {error}");
                            }
                            if let Some((_, told)) = mirrors.named().get_mut(&from) {
                                *told = Some(error.to_string());
                            }
                        }
                    }
                    sleep(pause(limits::MIRROR_PAUSE, failures)).await;
                    failures += 1;
                }
                mirrors.named().remove(&from);
            };
            tokio::select! {
                () = begin => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        });
    }

    fn named(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Wanted, Option<String>)>> {
        self.0.named.lock().expect("no holder of this lock panics")
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<Hash, Arc<Follower>>> {
        self.0.all.lock().expect("no holder of this lock panics")
    }

    /// Follows a chain of others, and says whether that is new. The copy comes in the background.
    ///
    /// # Errors
    /// It is not followed.
    pub async fn follow(&self, wanted: &Wanted) -> Result<(MirrorView, bool), MirrorError> {
        let _turn = self.0.turn.lock().await;
        let (from, key) = (wanted.from.to_string(), wanted.key.to_string());
        let known = self.all().values().find(|follower| follower.record().from == from).cloned();
        if let Some(known) = known
            && known.record().state == Following::Yes
        {
            let record = known.record().clone();
            let is_key = record.key == key || record.signer.as_ref() == Some(&key);
            return match is_key && record.allow_unproven_erasures == wanted.allow_unproven_erasures {
                true => {
                    // Sources change their tokens.
                    if wanted.token.is_some() {
                        self.0.keep_token(&from, wanted.token.clone()).await?;
                    }
                    Ok((self.view(&known), false))
                }
                false => Err(MirrorError::Conflict(format!(
                    "{from} is followed already, in another way: DELETE /mirrors/{} first",
                    record.name
                ))),
            };
        }
        if self.0.node.signs_with(&wanted.key) {
            let detail = "the key is this node's own, or its cluster's: a node does not follow itself";
            return Err(MirrorError::Conflict(detail.into()));
        }
        let token = wanted.token.clone().or_else(|| self.0.token(&from));
        let source = self.0.caller(wanted.anywhere).source(wanted.from.clone(), token.clone());
        let said = |error: SourceError| MirrorError::Source(error.to_string());
        let note = source.checkpoint(None).await.map_err(said)?;
        let seen = Seen::open(&note, &wanted.key).map_err(MirrorError::Source)?;
        let record = self.begin(wanted, &source, &seen).await?;
        self.0.keep_token(&from, token).await?;
        self.0.node.record_mirror(record.clone()).await?;
        tracing::info!(chain = record.name, from, "a chain is followed");
        let follower = self.run(record);
        Ok((self.view(&follower), true))
    }

    /// What is to be recorded of a new mirror, or of one that goes on, where nothing stands in its way.
    async fn begin(&self, wanted: &Wanted, source: &Source<'_>, seen: &Seen) -> Result<Mirror, MirrorError> {
        let conflict = |detail: String| Err(MirrorError::Conflict(detail));
        let known = self.all().get(&seen.chain).map(|follower| follower.record().clone());
        let (name, checkpoint, evidence) = match known {
            Some(Mirror { state: Following::Yes, name, from, .. }) => {
                return conflict(format!("the chain is followed from {from} already: DELETE /mirrors/{name} first"));
            }
            Some(Mirror { state: Following::Contradiction(reason), name, .. }) => {
                return conflict(format!(
                    "the chain was followed, and its source contradicts itself: {reason}; GET /mirrors has what shows it. To \
                     follow it all the same, DELETE /mirrors/{name} first"
                ));
            }
            // What was seen holds on, whoever tells of the chain from now on.
            Some(Mirror { state: Following::Stopped, name, checkpoint, evidence, .. }) => (name, checkpoint, evidence),
            None if self.all().len() >= limits::MIRRORS => return Err(MirrorError::TooMany),
            None => (self.check_new(source, seen).await?, seen.note.to_string(), Vec::new()),
        };
        let (here, from) = (self.0.node.chain(&seen.chain.to_string()), wanted.from.to_string());
        if let Some(chain) = here {
            self.0.ensure_mirror(source, &wanted.key, &chain).await.map_err(|trouble| match trouble {
                Trouble::Away(detail) | Trouble::Contradiction(detail, _) => MirrorError::Conflict(detail),
            })?;
        }
        Ok(Mirror {
            id: seen.chain,
            name,
            from,
            key: wanted.key.to_string(),
            signer: seen.signer.as_ref().filter(|signer| **signer != wanted.key).map(VerifierKey::to_string),
            anywhere: wanted.anywhere,
            allow_unproven_erasures: wanted.allow_unproven_erasures,
            state: Following::Yes,
            checkpoint,
            evidence,
        })
    }

    /// Finds the name of a chain that was not followed before, and that the copy may have it.
    async fn check_new(&self, source: &Source<'_>, seen: &Seen) -> Result<String, MirrorError> {
        let (_, bang) = source.bang(seen.chain).await.map_err(|error| MirrorError::Source(error.to_string()))?;
        let rules = bang.transaction.data().and_then(|data| json::parse(data).ok());
        let rules = rules.and_then(|rules| Rules::from_value(&rules).ok());
        let rules = rules.ok_or_else(|| MirrorError::Source("the chain's bang has no rules".into()))?;
        let name = rules.name().clone();
        if name.as_str() != source.url().chain() {
            let said = source.url().chain();
            return Err(MirrorError::Source(format!(
                "the chain that it serves as {said:?} is called \"{name}\" by its rules"
            )));
        }
        let Inner { node, cluster, .. } = &*self.0;
        let cure = "follow it with another node, or export and import this node's chain elsewhere";
        match node.chain(name.as_str()) {
            Some(chain) if chain.id == seen.chain || chain.is_untouched_default() => {}
            Some(chain) => {
                let detail = format!(
                    "the chain is called \"{name}\", and this node has another one of that name, whose id is {}: {cure}",
                    chain.id
                );
                return Err(MirrorError::Conflict(detail));
            }
            None if node.lost(name.as_str()).is_some() => return Err(Refused::NameTaken(name).into()),
            None => {}
        }
        if cluster.is_active() && node.chain(&seen.chain.to_string()).is_none() {
            let group = node.own_group();
            if cluster.group_of(name.as_str()) != Some(group) && !cluster.reserve(name.as_str(), group).await? {
                let detail =
                    format!("the chain is called \"{name}\", and the cluster has another one of that name: {cure}");
                return Err(MirrorError::Conflict(detail));
            }
        }
        Ok(name.to_string())
    }

    /// Follows a chain no more. Its copy stays, and takes no writes still. `chain` is its name or its id.
    ///
    /// # Errors
    /// It is not followed, or that cannot be recorded.
    pub async fn stop(&self, chain: &str) -> Result<(), MirrorError> {
        let _turn = self.0.turn.lock().await;
        let is_it = |record: &Mirror| record.name == chain || record.id.to_string() == chain;
        let follower = self.all().values().find(|follower| is_it(&follower.record())).cloned();
        let unknown = || MirrorError::Unknown(format!("there is no mirror {chain:?}: GET /mirrors lists them"));
        let follower = follower.ok_or_else(unknown)?;
        let stopped = Mirror { state: Following::Stopped, ..follower.record().clone() };
        follower.end().await;
        self.0.keep_token(&stopped.from, None).await?;
        match self.0.node.chain(&stopped.id.to_string()) {
            Some(chain) => {
                self.0.node.record_mirror(stopped.clone()).await?;
                chain.set_follows(Follows::Stopped, None);
                *follower.record() = stopped;
            }
            None => {
                self.0.node.forget_mirror(stopped.id).await?;
                self.all().remove(&stopped.id);
                if self.0.cluster.is_active() {
                    self.0.cluster.release(&stopped.name, self.0.node.own_group()).await;
                }
            }
        }
        Ok(())
    }

    /// All mirrors, by the chains' names.
    pub fn list(&self) -> Vec<MirrorView> {
        let followers: Vec<Arc<Follower>> = self.all().values().cloned().collect();
        let mut views: Vec<MirrorView> = followers.iter().map(|follower| self.view(follower)).collect();
        let named = self.named();
        views.extend(named.values().map(|(wanted, error)| MirrorView {
            chain: wanted.from.chain().into(),
            id: None,
            from: wanted.from.to_string(),
            key: wanted.key.to_string(),
            signer: None,
            state: Follows::Away,
            size: 0,
            quants: 0,
            source_size: None,
            source_quants: None,
            lag: None,
            checked: None,
            error: error.clone(),
            allow_unproven_erasures: wanted.allow_unproven_erasures,
            checkpoint: None,
            evidence: Vec::new(),
        }));
        views.sort_by(|one, other| (&one.chain, &one.from).cmp(&(&other.chain, &other.from)));
        views
    }

    /// How many mirrors stand in each way, how many transactions the one that lags most lacks, and the pieces of evidence.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        for follower in self.all().values() {
            let (seen, is_away) = (follower.seen(), follower.status().error.is_some());
            let record = follower.record();
            let chain = self.0.node.chain(&record.name).filter(|chain| chain.id == record.id);
            let is_complete = chain.as_ref().is_some_and(|chain| chain.has_ended());
            let head = chain.map(|chain| chain.head());
            let (size, quants) =
                head.map_or((0, 0), |head| (head.newest.size().get(), head.newest.index().next().get()));
            let state = standing(&record.state, is_complete, is_away, quants < seen.quant.next().get());
            *figures.states.entry(state).or_default() += 1;
            figures.lag = figures.lag.max(seen.size.get().saturating_sub(size));
            figures.evidence += record.evidence.len();
        }
        *figures.states.entry(Follows::Away).or_default() += self.named().len();
        figures
    }

    /// What an operator should look at: the mirrors whose source contradicts itself.
    pub fn warnings(&self) -> Vec<String> {
        let warning = |follower: &Arc<Follower>| {
            let record = follower.record();
            let Following::Contradiction(reason) = &record.state else { return None };
            let (name, from) = (&record.name, &record.from);
            Some(format!("the mirror \"{name}\" of {from} is stopped, since its source contradicts itself: {reason}"))
        };
        self.all().values().filter_map(warning).collect()
    }

    fn view(&self, follower: &Follower) -> MirrorView {
        let record = follower.record().clone();
        let (checked, error) = {
            let status = follower.status();
            (status.checked, status.error.clone())
        };
        let head = self.0.node.chain(&record.id.to_string()).map(|chain| chain.head());
        let (size, quants) = head.map_or((0, 0), |head| (head.newest.size().get(), head.newest.index().next().get()));
        let seen = follower.seen();
        let (source_size, source_quants) = (seen.size.get(), seen.quant.next().get());
        let is_complete = self.0.node.chain(&record.id.to_string()).is_some_and(|chain| chain.has_ended());
        let state = standing(&record.state, is_complete, error.is_some(), quants < source_quants);
        let reason = match record.state {
            Following::Contradiction(reason) => Some(reason),
            _ => error,
        };
        MirrorView {
            chain: record.name,
            id: Some(record.id),
            from: record.from,
            key: record.key,
            signer: record.signer,
            state,
            size,
            quants,
            source_size: Some(source_size),
            source_quants: Some(source_quants),
            lag: Some(source_size.saturating_sub(size)),
            checked: checked.map(|checked| checked.to_string()),
            error: reason,
            allow_unproven_erasures: record.allow_unproven_erasures,
            checkpoint: Some(record.checkpoint),
            evidence: record.evidence,
        }
    }

    /// Takes a mirror up, and follows its source if it is to be followed.
    fn run(&self, record: Mirror) -> Arc<Follower> {
        let (id, is_followed) = (record.id, record.state == Following::Yes);
        let is_contradiction = matches!(record.state, Following::Contradiction(_));
        let follower = Arc::new(Follower::new(record));
        self.all().insert(id, follower.clone());
        let source = Some(follower.seen().size);
        let state = if is_contradiction { Follows::Contradiction } else { Follows::Stopped };
        if let Some(chain) = self.0.node.chain(&id.to_string()) {
            chain.set_follows(if is_followed { Follows::Copying } else { state }, source);
        }
        if is_followed {
            follower.start(self.0.clone());
        }
        follower
    }
}

impl Inner {
    fn token(&self, from: &str) -> Option<Secret> {
        self.tokens.lock().expect("no holder of this lock panics").get(from).cloned()
    }

    /// Keeps the token for a source, or none any more. One is begun or ended at a time, so nobody else writes meanwhile.
    async fn keep_token(&self, from: &str, token: Option<Secret>) -> Result<(), StoreError> {
        let mut tokens = self.tokens.lock().expect("no holder of this lock panics").clone();
        let before = match token.clone() {
            Some(token) => tokens.insert(from.to_owned(), token),
            None => tokens.remove(from),
        };
        if before == token {
            return Ok(());
        }
        self.node.keep_source_tokens(tokens.clone()).await?;
        *self.tokens.lock().expect("no holder of this lock panics") = tokens;
        Ok(())
    }

    fn caller(&self, anywhere: bool) -> &Caller {
        if anywhere { &self.anywhere } else { &self.guarded }
    }

    /// Makes a chain that is here a mirror, where it has nothing that its source does not have.
    async fn ensure_mirror(
        &self,
        source: &Source<'_>,
        key: &VerifierKey,
        chain: &Arc<ChainHandle>,
    ) -> Result<(), Trouble> {
        let (head, from) = (chain.head(), source.url().to_string());
        match chain.mirror() {
            Some(mirror) if mirror.from == from => return Ok(()),
            Some(_) => return Ok(self.node.make_mirror(chain, from, head.newest.hash()).await?),
            None => {}
        }
        let name = &chain.name;
        if self.cluster.is_active()
            && self.cluster.replicas(chain.group).await.is_some_and(|replicas| replicas.len() > 1)
        {
            let detail =
                format!("the chain \"{name}\" is here already, and kept on several nodes: a mirror is kept on one");
            return Err(Trouble::Away(detail));
        }
        if head.pooled() > 0 {
            let detail = format!(
                "the chain \"{name}\" is here already, with {} transactions of its own in its pool, which the source does not have",
                head.pooled()
            );
            return Err(Trouble::Away(detail));
        }
        let note = match source.checkpoint(Some(head.newest.index())).await {
            Err(error) if error.is_not_found() => None,
            note => Some(Seen::open(&note?, key).map_err(Trouble::Away)?),
        };
        let is_prefix =
            note.is_some_and(|signed| verify::check_checkpoint(&signed.note, chain.id, &head.newest).is_ok());
        if !is_prefix {
            let detail = format!(
                "the chain \"{name}\" is here already, and its newest quant {} is not one of the source's: the two have gone \
                 different ways",
                head.newest.index()
            );
            return Err(Trouble::Away(detail));
        }
        Ok(self.node.make_mirror(chain, from, head.newest.hash()).await?)
    }
}
