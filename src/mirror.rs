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

pub mod source;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    access::Secret,
    cluster::{Cluster, ClusterError},
    core::{
        count::{Height, Index, Size},
        export::checkpoint_line,
        hash::Hash,
        json,
        mirror::{Compared, Following, Follows, Mirror, Seen, check_quants},
        note::VerifierKey,
        quant::Quant,
        rules::{ChainName, Rules},
        transaction::{Id, Kind, Record, Timestamp, Transaction},
        verify::{self, Checked, InForce, Verifier},
        witness::Evidence,
    },
    limits,
    node::{Import, ImportError, Node, StoreError},
    peers::{Allowed, pause},
    tls::Authorities,
    writer::{ChainHandle, MirrorStep, Refused},
};
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

/// One mirror.
struct Follower {
    record: Mutex<Mirror>,
    status: Mutex<Status>,
    /// Ends the task.
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Status {
    checked: Option<Timestamp>,
    /// Why the last round failed.
    error: Option<String>,
}

/// Why a round ended early.
enum Trouble {
    /// It is tried again later.
    Away(String),
    /// The source is not followed any more.
    Contradiction(String, Option<Evidence>),
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Trouble::Away(error.to_string())
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        Trouble::Away(format!("this node: {refused}"))
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Refused::from(error).into()
    }
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
        let (stop, mut stopped) = watch::channel(false);
        let follower = Follower { record: record.into(), status: Mutex::default(), stop, task: Mutex::default() };
        let follower = Arc::new(follower);
        self.all().insert(id, follower.clone());
        let source = Some(follower.seen().size);
        let state = if is_contradiction { Follows::Contradiction } else { Follows::Stopped };
        if let Some(chain) = self.0.node.chain(&id.to_string()) {
            chain.set_follows(if is_followed { Follows::Copying } else { state }, source);
        }
        if is_followed {
            let (inner, of, mut stopping) = (self.0.clone(), follower.clone(), self.0.stopping.clone());
            let task = tokio::spawn(async move {
                tokio::select! {
                    () = of.rounds(&inner) => {}
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                    _ = stopping.wait_for(|stopping| *stopping) => {}
                }
            });
            *follower.task.lock().expect("no holder of this lock panics") = Some(task);
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

impl Follower {
    fn record(&self) -> std::sync::MutexGuard<'_, Mirror> {
        self.record.lock().expect("no holder of this lock panics")
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().expect("no holder of this lock panics")
    }

    fn key(&self) -> VerifierKey {
        let record = self.record();
        let key = record.signer.as_ref().unwrap_or(&record.key);
        key.parse().expect("only a key is recorded")
    }

    /// The newest checkpoint that was found to continue those before. It may have been signed by the key of an earlier source.
    fn seen(&self) -> Seen {
        let note = self.record().checkpoint.clone();
        Seen::recorded(&note).expect("only a checkpoint of a chain is recorded")
    }

    /// Ends its task.
    async fn end(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().expect("no holder of this lock panics").take();
        if let Some(task) = task {
            // A task that has panicked has ended, too.
            let _ = task.await;
        }
    }

    /// Follows the source until it contradicts itself.
    async fn rounds(&self, inner: &Inner) {
        let mut failures = 0;
        loop {
            let outcome = self.round(inner).await;
            let chain = inner.node.chain(&self.record().id.to_string());
            let (state, wait) = match outcome {
                Ok(()) => {
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!(chain = self.record().name, "the source of the mirror answers again");
                    }
                    self.status().error = None;
                    // That nothing follows a frozen chain is looked at all the same: its source may break that.
                    match chain.as_ref().is_some_and(|chain| chain.has_ended()) {
                        true => (Follows::Complete, limits::MIRROR_PAUSE[1]),
                        false => (Follows::Following, limits::MIRROR_EVERY),
                    }
                }
                Err(Trouble::Away(reason)) => {
                    if failures == 0 {
                        tracing::warn!(
                            chain = self.record().name,
                            "the mirror does not go on, and is tried again: {reason}"
                        );
                    }
                    self.status().error = Some(reason);
                    failures += 1;
                    (Follows::Away, pause(limits::MIRROR_PAUSE, failures - 1))
                }
                Err(Trouble::Contradiction(reason, evidence)) => {
                    tracing::error!(
                        chain = self.record().name,
                        "the source of the mirror contradicts itself: {reason}"
                    );
                    self.contradicted(inner, reason, evidence).await;
                    (Follows::Contradiction, Duration::ZERO)
                }
            };
            if let Some(chain) = chain {
                chain.set_follows(state, Some(self.seen().size));
            }
            if state == Follows::Contradiction {
                return;
            }
            sleep(wait).await;
        }
    }

    /// Records what speaks against the source. Until that is on disk, nothing else is done.
    async fn contradicted(&self, inner: &Inner, reason: String, evidence: Option<Evidence>) {
        let record = {
            let mut record = self.record();
            evidence.into_iter().for_each(|evidence| record.keep(evidence));
            record.state = Following::Contradiction(reason);
            record.clone()
        };
        while let Err(error) = inner.node.record_mirror(record.clone()).await {
            self.status().error = Some(error.to_string());
            sleep(limits::MIRROR_EVERY).await;
        }
    }

    /// Asks the source once, and takes over all that it has signed.
    async fn round(&self, inner: &Inner) -> Result<(), Trouble> {
        let (from, anywhere, id) = {
            let record = self.record();
            (record.from.clone(), record.anywhere, record.id)
        };
        let url = from.parse().expect("only a URL of a chain is recorded");
        let source = inner.caller(anywhere).source(url, inner.token(&from));
        let newest = self.look(inner, &source).await?;
        self.status().checked = Some(inner.node.now());
        let chain = match inner.node.chain(&id.to_string()) {
            Some(chain) => chain,
            None => self.copy_start(inner, &source).await?,
        };
        inner.ensure_mirror(&source, &self.key(), &chain).await?;
        chain.set_follows(Follows::Copying, Some(newest.size));
        while chain.head().newest.index() < newest.quant {
            let _permit = inner.steps.acquire().await.expect("this semaphore is never closed");
            self.status().error = None;
            Step { follower: self, inner, source: &source, chain: &chain }.run(&newest).await?;
        }
        let head = chain.head();
        match verify::check_checkpoint(&newest.note, id, &head.newest) {
            Ok(()) => Ok(()),
            Err(detail) => Err(Trouble::Contradiction(format!("the copy is not what was signed: {detail}"), None)),
        }
    }

    /// A checkpoint of a quant, or the newest, if the key has signed it.
    async fn signed(&self, source: &Source<'_>, quant: Option<Height>) -> Result<Seen, Trouble> {
        let seen = Seen::open(&source.checkpoint(quant).await?, &self.key()).map_err(Trouble::Away)?;
        let id = self.record().id;
        if seen.chain != id {
            let detail =
                format!("the source has another chain of this name now, {}, and not {id} any more", seen.chain);
            return Err(Trouble::Away(detail));
        }
        match quant {
            Some(quant) if quant != seen.quant => {
                Err(Trouble::Away(format!("it gives the checkpoint of quant {} for that of {quant}", seen.quant)))
            }
            _ => Ok(seen),
        }
    }

    /// Looks at the source's newest checkpoint, which must continue the one that was seen before. That is recorded first.
    async fn look(&self, inner: &Inner, source: &Source<'_>) -> Result<Seen, Trouble> {
        let (now, before) = (self.signed(source, None).await?, self.seen());
        self.take_signer(inner, &now).await?;
        match before.compare(&now) {
            Compared::Same => return Ok(now),
            Compared::OnlyQuants => {}
            Compared::Contradicts => {
                let evidence = before.evidence(&now, Vec::new(), inner.node.now());
                let reason = format!(
                    "it has signed quant {} with {} transactions, and quant {} with {}, which cannot be of one history",
                    before.quant, before.size, now.quant, now.size
                );
                return Err(Trouble::Contradiction(reason, evidence));
            }
            Compared::Shorter => return Err(self.shorter(inner, &before, &now).await?),
            Compared::Longer => self.check_longer(inner, source, &before, &now).await?,
        }
        let record = {
            let mut record = self.record();
            record.checkpoint = now.note.to_string();
            record.clone()
        };
        inner.node.record_mirror(record).await?;
        Ok(now)
    }

    /// Records that another key has taken the place of the one that is known: from then on, the old one is good for nothing.
    async fn take_signer(&self, inner: &Inner, now: &Seen) -> Result<(), Trouble> {
        let Some(signer) = now.signer.as_ref().filter(|signer| **signer != self.key()) else { return Ok(()) };
        let record = Mirror { signer: Some(signer.to_string()), ..self.record().clone() };
        inner.node.record_mirror(record.clone()).await?;
        tracing::info!(
            chain = record.name,
            "the source of the mirror signs with another key, as the old one says: {signer}"
        );
        *self.record() = record;
        Ok(())
    }

    /// Has the source show that what it has signed now begins with what it had signed before.
    async fn check_longer(&self, inner: &Inner, source: &Source<'_>, before: &Seen, now: &Seen) -> Result<(), Trouble> {
        let path = source.consistency(before.size, now.size).await?;
        if before.begins(now, &path) {
            return Ok(());
        }
        let is_perfect = before.size.get().is_power_of_two();
        // What a path leaves out makes it a proof of the contradiction.
        let root = if is_perfect { source.perfect_root(before.size).await.ok() } else { None };
        let path = root.into_iter().chain(path).collect();
        let evidence = before.evidence(now, path, inner.node.now());
        let reason = format!(
            "what it has signed of {} transactions does not begin with what it had signed of {}",
            now.size, before.size
        );
        Err(Trouble::Contradiction(reason, evidence))
    }

    /// What an older checkpoint comes to, which is compared with the copy.
    async fn shorter(&self, inner: &Inner, before: &Seen, now: &Seen) -> Result<Trouble, Trouble> {
        let older = || {
            Trouble::Away(format!(
                "it shows a checkpoint of {} transactions, but has signed {} before: it is not followed back, and asked again",
                now.size, before.size
            ))
        };
        let Some(chain) = inner.node.chain(&before.chain.to_string()) else { return Ok(older()) };
        let head = chain.head();
        if now.size > head.size() || now.quant > head.newest.index() {
            return Ok(older());
        }
        let (root, quant) = inner.node.at(&chain, now.size, now.quant).await?;
        if root == now.root && quant.hash() == now.hash {
            return Ok(older());
        }
        let mut path = Vec::new();
        if before.size <= head.size() && now.size < before.size {
            path = inner.node.consistency(chain, now.size, before.size).await?;
            if now.size.get().is_power_of_two() {
                path.insert(0, root);
            }
        }
        let evidence = before.evidence(now, path, inner.node.now());
        let reason = format!(
            "it has signed {} transactions that are not the first of the {} which it had signed before",
            now.size, before.size
        );
        Ok(Trouble::Contradiction(reason, evidence))
    }

    /// Imports the chain up to its own bang: from there on it is a mirror, and goes on in steps.
    async fn copy_start(&self, inner: &Inner, source: &Source<'_>) -> Result<Arc<ChainHandle>, Trouble> {
        let (id, from, allow, name) = {
            let record = self.record();
            (record.id, record.from.clone(), record.allow_unproven_erasures, record.name.clone())
        };
        let (first, _) = source.bang(id).await?;
        let signed = self.signed(source, Some(first.index())).await?;
        let import = Import::begin(&inner.node, id, vec![self.key()], allow).await.map_err(refused)?;
        let mut import = import.as_mirror_of(from);
        let outcome = match self.send_start(source, &first, &signed, &mut import).await {
            Ok(()) => import.finish().await.map_err(refused),
            Err(trouble) => Err(trouble),
        };
        match outcome {
            Ok(imported) => {
                let cluster = &inner.cluster;
                if cluster.is_active() && cluster.group_of(&name) != Some(imported.chain.group) {
                    tracing::error!(
                        chain = name,
                        "the mirror has a name that another chain of the cluster got meanwhile"
                    );
                }
                Ok(imported.chain)
            }
            Err(trouble) => {
                if matches!(trouble, Trouble::Contradiction(..))
                    && let Err(error) = import.give_up().await
                {
                    tracing::warn!("what came of the source is not removed yet: {error}");
                }
                Err(trouble)
            }
        }
    }

    /// Sends the transactions and quants up to a chain's first own quant to an import, as an export has them.
    async fn send_start(
        &self,
        source: &Source<'_>,
        first: &Quant,
        signed: &Seen,
        import: &mut Import,
    ) -> Result<(), Trouble> {
        let (mut next, mut size) = (Height::FIRST, Size::ZERO);
        while next <= first.index() {
            let count = (first.index().get() + 1 - next.get()).min(limits::MIRROR_QUANTS);
            let quants = source.quants(next, count).await?;
            let end = quants.last().map_or(size, Quant::size);
            if end < size {
                return Err(Trouble::Away("its quants are in no order".into()));
            }
            let mut transactions = source.transactions(size, end);
            let mut lines = Vec::new();
            let mut quants = quants.iter().peekable();
            loop {
                for record in transactions.next().await? {
                    while let Some(quant) = quants.next_if(|quant| quant.size() <= size) {
                        add_quant(quant, &mut lines);
                    }
                    record.transaction.write(record.index, &mut lines);
                    lines.push(b'\n');
                    size = size.next_index().size();
                }
                while let Some(quant) = quants.next_if(|quant| quant.size() <= size) {
                    add_quant(quant, &mut lines);
                }
                import.lines(&std::mem::take(&mut lines)).await.map_err(refused)?;
                if size >= end {
                    break;
                }
            }
            next = Height::new(next.get() + count);
        }
        let mut line = checkpoint_line(&signed.note.to_string());
        line.push(b'\n');
        import.lines(&line).await.map_err(refused)
    }
}

fn add_quant(quant: &Quant, lines: &mut Vec<u8>) {
    serde_json::to_writer(&mut *lines, quant).expect("writing to memory does not fail");
    lines.push(b'\n');
}

/// Why the start of a chain was not imported.
fn refused(error: ImportError) -> Trouble {
    match error {
        ImportError::Fault { .. } => {
            Trouble::Contradiction(format!("the start of the chain does not hold: {error}"), None)
        }
        ImportError::UnprovenErasure(fault) => {
            Trouble::Away(format!("{fault} (in POST /mirrors: allow_unproven_erasures)"))
        }
        ImportError::Conflict(_) | ImportError::OtherName(_) => Trouble::Away(error.to_string()),
        ImportError::Refused(refused) => refused.into(),
    }
}

/// One step of a mirror.
struct Step<'a> {
    follower: &'a Follower,
    inner: &'a Inner,
    source: &'a Source<'a>,
    chain: &'a Arc<ChainHandle>,
}

/// What is verified and not written yet.
struct Part {
    /// Transactions and quants before it.
    at: (Size, Height),
    steps: Vec<MirrorStep>,
    ids: HashSet<Id>,
    bytes: usize,
}

impl Part {
    fn after(at: (Size, Height)) -> Part {
        Part { at, steps: Vec::new(), ids: HashSet::new(), bytes: 0 }
    }

    fn append(&mut self, transaction: Transaction) {
        self.bytes += transaction.served_bytes();
        self.ids.extend(transaction.id().cloned());
        match (self.steps.last_mut(), transaction.kind()) {
            (_, Some(Kind::Key | Kind::Freeze)) => self.steps.push(MirrorStep::Decide(transaction.into())),
            (Some(MirrorStep::Append(transactions)), _) => transactions.push(transaction),
            _ => self.steps.push(MirrorStep::Append(vec![transaction])),
        }
    }

    /// The transaction at an index, where it is of this part.
    fn transaction(&self, index: Index) -> Option<&Transaction> {
        let at = index.get().checked_sub(self.at.0.get())?;
        let appended = self.steps.iter().map(|step| match step {
            MirrorStep::Append(transactions) => transactions.as_slice(),
            MirrorStep::Decide(record) | MirrorStep::Erase { record, .. } => std::slice::from_ref(&**record),
            MirrorStep::Seal(_) => &[],
        });
        appended.flatten().nth(at as usize)
    }
}

impl Step<'_> {
    /// Goes on to the next checkpoint that the key has signed, at most to `newest`.
    async fn run(&self, newest: &Seen) -> Result<(), Trouble> {
        let head = self.chain.head();
        let from = head.newest.index().next();
        let count = (newest.quant.next().get() - from.get()).min(limits::MIRROR_QUANTS);
        let last = Height::new(from.get() + count - 1);
        let signed = match last == newest.quant {
            true => newest.clone(),
            false => self.follower.signed(self.source, Some(last)).await?,
        };
        let quants = self.source.quants(from, count).await?;
        check_quants(&head.newest, head.size(), &quants, &signed)
            .map_err(|detail| self.contradiction(&signed, detail))?;
        let in_force = InForce::new(self.chain.id, self.chain.terms());
        let verifier = Verifier::behind(head.edge.as_ref().clone(), head.newest.as_ref().clone(), in_force);
        self.take(verifier, &quants, &signed).await
    }

    /// What is served for a signed checkpoint does not lead to it. It is no proof for others: who serves it may have changed it.
    fn contradiction(&self, signed: &Seen, detail: String) -> Trouble {
        let before = self.follower.seen();
        let evidence = (before.note.text() != signed.note.text())
            .then(|| before.evidence(signed, Vec::new(), self.inner.node.now()))
            .flatten();
        Trouble::Contradiction(detail, evidence)
    }

    /// Takes over the transactions that some signed quants seal.
    async fn take(&self, mut verifier: Verifier, quants: &[Quant], signed: &Seen) -> Result<(), Trouble> {
        let start = quants.first().map_or(Height::FIRST, Quant::index);
        let mut part = Part::after((verifier.size(), start));
        let mut quants = quants.iter().peekable();
        let mut transactions = self.source.transactions(verifier.size(), signed.size);
        let wrong = |fault: verify::Fault| self.contradiction(signed, fault.to_string());
        loop {
            let records = transactions.next().await?;
            let is_end = records.is_empty();
            let in_force = verifier.in_force();
            let checked: Vec<Checked> = tokio::task::block_in_place(|| {
                records.into_iter().map(|record| Checked::new(record, in_force.as_deref())).collect()
            });
            for checked in checked {
                seal(&mut verifier, &mut quants, &mut part).map_err(wrong)?;
                let record = checked.record();
                self.check(record, &part).map_err(|detail| self.contradiction(signed, detail))?;
                let erases = self.erases(record, &part)?;
                if erases.is_some() {
                    // What it erases must stand in one place first.
                    self.settle(&mut verifier, quants.peek().copied(), &mut part, signed).await?;
                }
                verifier.checked(&checked, &mut |_| ()).map_err(wrong)?;
                let record = checked.into_record();
                match erases {
                    None => part.append(record.transaction),
                    Some(index) => {
                        part.steps.push(MirrorStep::Erase { index, record: record.transaction.into() });
                        self.settle(&mut verifier, quants.peek().copied(), &mut part, signed).await?;
                    }
                }
            }
            seal(&mut verifier, &mut quants, &mut part).map_err(wrong)?;
            self.settle(&mut verifier, quants.peek().copied(), &mut part, signed).await?;
            if is_end {
                return Ok(());
            }
        }
    }

    /// Checks what a verifier leaves to whoever has an index of the chain.
    fn check(&self, record: &Record, part: &Part) -> Result<(), String> {
        verify::check_depth(record).map_err(|fault| fault.to_string())?;
        let Some(id) = record.transaction.id() else { return Ok(()) };
        let store = self.inner.node.store();
        let lineage = &self.chain.lineage;
        let stands = tokio::task::block_in_place(|| store.transaction_with_id(lineage, id));
        match stands.map_err(|error| error.to_string())?.is_some() || part.ids.contains(id) {
            true => Err(format!("transaction {}: its id {:?} stands in the chain already", record.index, id.as_str())),
            false => Ok(()),
        }
    }

    /// The transaction whose data a record of an erasure takes away, where that is here still.
    fn erases(&self, record: &Record, part: &Part) -> Result<Option<Index>, Trouble> {
        let Some(index) = verify::erasure_of(&record.transaction).filter(|index| *index < record.index) else {
            return Ok(None);
        };
        let holds = |of: &Transaction| of.erased().is_none() && of.kind().is_none();
        let is_here = match part.transaction(index) {
            Some(of) => holds(of),
            None if !part.at.0.has(index) => false,
            None => {
                let store = self.inner.node.store();
                let text = tokio::task::block_in_place(|| store.record(&self.chain.lineage, index))?;
                holds(&Record::parse(&text).map_err(StoreError::Damaged)?.transaction)
            }
        };
        Ok(is_here.then_some(index))
    }

    /// Writes what was verified, when it is proven to be of what the key has signed. `next` is the quant that seals what comes last
    /// of it, where no quant of it does.
    async fn settle(
        &self,
        verifier: &mut Verifier,
        next: Option<&Quant>,
        part: &mut Part,
        signed: &Seen,
    ) -> Result<(), Trouble> {
        let (size, quants) = (verifier.size(), verifier.newest().map_or(Height::FIRST, |quant| quant.index().next()));
        let done = std::mem::replace(part, Part::after((size, quants)));
        if done.steps.is_empty() {
            return Ok(());
        }
        let sealed = verifier.newest().map_or(Size::ZERO, Quant::size);
        if let Some(quant) = next.filter(|_| sealed < size) {
            let path = self.source.consistency(size, quant.size()).await?;
            let (root, of) = (verifier.root(), quant.header().root);
            crate::core::merkle::check_consistency(size.get(), quant.size().get(), &path, root, of).map_err(
                |error| {
                    let detail =
                        format!("its first {size} transactions are not those of quant {}: {error}", quant.index());
                    self.contradiction(signed, detail)
                },
            )?;
        }
        self.check_erasures(verifier.take_unproven()).await?;
        Ok(self.inner.node.go_on(self.chain, done.at, done.steps).await?)
    }

    /// Checks that what comes without its data was erased by a record that a quant seals.
    async fn check_erasures(&self, unproven: BTreeSet<(Index, Index)>) -> Result<(), Trouble> {
        if self.follower.record().allow_unproven_erasures {
            return Ok(());
        }
        let key = [self.follower.key()];
        for (by, index) in unproven {
            let lacks = |detail: &str| {
                Trouble::Away(format!(
                    "transaction {index} comes without its data, as erased by transaction {by}, but {detail}. Where it was erased \
                     on the chain that this one was forked or copied from, follow it with allow_unproven_erasures"
                ))
            };
            let receipt = match self.source.receipt(by).await {
                Ok(receipt) => receipt,
                Err(error) if error.is_refusal() => {
                    return Err(lacks("no quant seals that one yet: the copy goes on when one does"));
                }
                Err(error) => return Err(error.into()),
            };
            let receipt = verify::receipt(receipt).map_err(|fault| Trouble::Away(fault.to_string()))?;
            receipt.check_signature(&key).map_err(|fault| Trouble::Away(fault.to_string()))?;
            let records = verify::erasure_of(&receipt.record.transaction) == Some(index);
            if receipt.chain != self.chain.id || receipt.record.index != by || !records {
                return Err(lacks("that one does not record it"));
            }
        }
        Ok(())
    }
}

/// Takes the quants that end where the verifier stands.
fn seal<'a>(
    verifier: &mut Verifier,
    quants: &mut std::iter::Peekable<impl Iterator<Item = &'a Quant>>,
    part: &mut Part,
) -> Result<(), verify::Fault> {
    while let Some(quant) = quants.next_if(|quant| quant.size() <= verifier.size()) {
        verifier.quant(quant.clone())?;
        part.steps.push(MirrorStep::Seal(quant.clone().into()));
    }
    Ok(())
}
