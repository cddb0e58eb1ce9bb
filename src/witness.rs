//! The log's side of cosigning: each new quant of each chain is shown to the witnesses (C2SP tlog-witness,
//! `add-checkpoint`), and their cosignatures stand below the checkpoint from then on.
//!
//! Nothing waits for a witness. It is asked for the newest quant only, for one at a time of each chain, and for a bounded
//! number of chains at once. One that does not answer is left alone for a while. What it answers is checked against its
//! key, and what does not hold goes nowhere. Cosignatures are kept in memory alone: after a restart they are asked for again.
//!
//! A witness that has more of a chain than there is here, or another history, is asked for its checkpoint: if this node's own key or
//! its cluster's has signed that, and what the other nodes have does not explain it, then the data folder is an older copy, and the
//! chain takes no more writes.
//!
//! An operator names the address of a witness, so it may be anywhere; redirects are not followed.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{DATE, HeaderMap, RETRY_AFTER},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    core::{
        count::Size,
        hash,
        note::{Algorithm, KeyName, Note, Signature, VerifierKey},
        quant::Quant,
        transaction::Timestamp,
        witness::Submission,
    },
    limits,
    node::Node,
    peers::{self, ReadError, pause},
    store::ChainNumber,
    tls::Authorities,
    writer::ChainHandle,
};

/// A witness: where it is asked, and the key that checks its cosignatures. Parsed from `KEY@URL`.
#[derive(Clone, Debug)]
pub struct Witness {
    key: VerifierKey,
    url: Url,
}

impl FromStr for Witness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, url) = text.rsplit_once('@').ok_or("a witness is its key, @ and its URL")?;
        let key: VerifierKey = key.parse().map_err(|error| format!("{key:?} is no key: {error}"))?;
        if key.algorithm() != Algorithm::Cosignature {
            return Err(format!("{key} is no key of a witness: \"qbc key --witness\" prints that of a node"));
        }
        let parsed = Url::parse(url).ok().filter(|url| {
            let is_plain = url.query().is_none() && url.fragment().is_none();
            matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain
        });
        let mut url = parsed.ok_or_else(|| format!("{url:?} is no URL like https://witness.example"))?;
        url.path_segments_mut().expect("an http URL has a path").pop_if_empty().push("add-checkpoint");
        Ok(Witness { key, url })
    }
}

/// The key's name.
impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.key.name(), f)
    }
}

/// Has all chains cosigned by these witnesses until `shutdown` says that the node stops. Their certificates are of the system's
/// authorities or of the `trusted` ones. `sealed` tells of new quants; `asked` is
/// told when each witness has answered for all chains, or is away.
pub async fn run(
    node: Node,
    witnesses: Vec<Witness>,
    trusted: Authorities,
    mut sealed: mpsc::UnboundedReceiver<Arc<ChainHandle>>,
    asked: oneshot::Sender<()>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut queues: Vec<Queue> = witnesses.into_iter().map(Queue::of).collect();
    let count = |witness: &Witness, outcome, calls| {
        node.metrics().count_witness_call(&witness.to_string(), outcome, calls);
    };
    for queue in &queues {
        ["cosigned", "refused", "away"].into_iter().for_each(|outcome| count(&queue.witness, outcome, 0));
    }
    // A cosignature from before the node's start is not kept.
    for (_, chain) in node.chains(None, usize::MAX) {
        let Ok(chain) = chain else { continue };
        queues.iter_mut().for_each(|queue| queue.add(&chain));
    }
    let client = client(&trusted);
    let mut calls = JoinSet::new();
    let mut asked = Some(asked);
    loop {
        let now = Instant::now();
        for (at, queue) in queues.iter_mut().enumerate() {
            while let Some((chain, size)) = queue.next(now) {
                let (node, client, witness) = (node.clone(), client.clone(), queue.witness.clone());
                calls.spawn(async move {
                    let call = Call { node, client, witness, chain: chain.clone() };
                    (at, chain, call.ask(size).await)
                });
            }
        }
        if queues.iter().all(Queue::is_through)
            && let Some(asked) = asked.take()
        {
            // Whoever waited for it may have gone on.
            let _ = asked.send(());
        }
        let wake = queues.iter().filter_map(|queue| queue.wakes_at(now)).min();
        tokio::select! {
            Some(chain) = sealed.recv() => queues.iter_mut().for_each(|queue| queue.add(&chain)),
            Some(done) = calls.join_next() => {
                let (at, chain, answer) = done.expect("a call of a witness does not panic");
                count(&queues[at].witness, answer.outcome(), 1);
                queues[at].done(&chain, answer);
            }
            () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            _ = shutdown.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// What one witness is to be asked for.
struct Queue {
    witness: Arc<Witness>,
    due: VecDeque<Arc<ChainHandle>>,
    /// Chains that it refused, and when they are due again, in this order.
    refused: VecDeque<(Instant, Arc<ChainHandle>)>,
    chains: HashMap<ChainNumber, Asked>,
    under_way: usize,
    /// Calls in a row that it did not answer.
    failures: u32,
    /// When it is called again after one that it did not answer.
    resumes: Instant,
}

/// How one witness stands to one chain.
#[derive(Default)]
struct Asked {
    /// The size that it has cosigned, as far as known. It says so itself where that is wrong.
    size: Size,
    state: State,
    /// Whether a refusal was logged since the last cosignature.
    is_told: bool,
    /// Whether it stands among the refused ones.
    is_refused: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// In the queue.
    Due,
    UnderWay,
    /// Another quant came while it is asked.
    UnderWayAndDue,
}

/// What became of a call.
enum Answer {
    /// It has cosigned the checkpoint of this size.
    Cosigned { size: Size, is_newest: bool },
    /// It would not, for this reason.
    Refused(String),
    /// It did not answer as a witness does.
    Away {
        reason: String,
        /// The time for which it asks to be left alone, if it does.
        retry_after: Option<Duration>,
    },
}

impl Answer {
    fn outcome(&self) -> &'static str {
        match self {
            Answer::Cosigned { .. } => "cosigned",
            Answer::Refused(_) => "refused",
            Answer::Away { .. } => "away",
        }
    }
}

impl Queue {
    fn of(witness: Witness) -> Queue {
        Queue {
            witness: Arc::new(witness),
            due: VecDeque::new(),
            refused: VecDeque::new(),
            chains: HashMap::new(),
            under_way: 0,
            failures: 0,
            resumes: Instant::now(),
        }
    }

    /// Takes a chain up that has a new quant.
    fn add(&mut self, chain: &Arc<ChainHandle>) {
        if chain.damage().is_some() {
            return;
        }
        let asked = self.chains.entry(chain.number()).or_default();
        match asked.state {
            State::Idle => {
                asked.state = State::Due;
                self.due.push_back(chain.clone());
            }
            State::UnderWay => asked.state = State::UnderWayAndDue,
            State::Due | State::UnderWayAndDue => {}
        }
    }

    /// The next chain to ask for, if one may be asked for now, and the size from which it is shown. While the witness is away,
    /// one call finds out whether it is back.
    fn next(&mut self, now: Instant) -> Option<(Arc<ChainHandle>, Size)> {
        while self.refused.front().is_some_and(|(due, _)| *due <= now) {
            let (_, chain) = self.refused.pop_front().expect("it was just seen");
            self.chains.entry(chain.number()).or_default().is_refused = false;
            self.add(&chain);
        }
        let at_once = if self.failures == 0 { limits::WITNESS_CALLS } else { 1 };
        if self.under_way >= at_once || now < self.resumes {
            return None;
        }
        let chain = self.due.pop_front()?;
        let asked = self.chains.get_mut(&chain.number()).expect("what is due is known");
        asked.state = State::UnderWay;
        self.under_way += 1;
        Some((chain, asked.size))
    }

    /// Whether nothing is to be asked for now.
    fn is_through(&self) -> bool {
        self.under_way == 0 && (self.due.is_empty() || self.failures > 0)
    }

    /// When something is due that is not yet.
    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let resumes = (!self.due.is_empty() && self.resumes > now).then_some(self.resumes);
        resumes.into_iter().chain(self.refused.front().map(|(due, _)| *due)).min()
    }

    fn done(&mut self, chain: &Arc<ChainHandle>, answer: Answer) {
        let witness = self.witness.clone();
        self.under_way -= 1;
        let asked = self.chains.get_mut(&chain.number()).expect("what was asked for is known");
        let is_due = std::mem::take(&mut asked.state) == State::UnderWayAndDue;
        match answer {
            Answer::Cosigned { size, is_newest } => {
                (asked.size, asked.is_told) = (size, false);
                if std::mem::take(&mut self.failures) > 0 {
                    tracing::info!(%witness, "the witness answers again");
                }
                if is_due || !is_newest {
                    self.add(chain);
                }
            }
            Answer::Refused(reason) => {
                self.failures = 0;
                if !std::mem::replace(&mut asked.is_told, true) {
                    tracing::warn!(%witness, chain = %chain.name, "the witness does not cosign the chain: {reason}");
                }
                if !std::mem::replace(&mut asked.is_refused, true) {
                    self.refused.push_back((Instant::now() + limits::WITNESS_REFUSED_PAUSE, chain.clone()));
                }
                if is_due {
                    self.add(chain);
                }
            }
            Answer::Away { reason, retry_after } => {
                if self.failures == 0 {
                    tracing::warn!(%witness, "the witness does not answer, and is asked again later: {reason}");
                }
                // Of several calls at one time, none takes back what another was told.
                let pause = pause(limits::WITNESS_PAUSE, self.failures).max(retry_after.unwrap_or_default());
                self.resumes = self.resumes.max(Instant::now() + pause);
                self.failures = self.failures.saturating_add(1);
                self.add(chain);
            }
        }
    }
}

/// One witness asked for one chain.
struct Call {
    node: Node,
    client: Client,
    witness: Arc<Witness>,
    chain: Arc<ChainHandle>,
}

impl Call {
    /// Shows the newest quant as the continuation of what the witness has: of `known` transactions, or of as many as it says.
    async fn ask(&self, known: Size) -> Answer {
        let mut old = known;
        // Where others show the same chain to the witness, its size may change between two calls.
        for _ in 0..3 {
            let quant = self.chain.head().newest;
            let note = self.node.sign(&self.chain, &quant);
            if old > quant.size() {
                old = Size::ZERO;
            }
            let proof = match self.node.consistency(self.chain.clone(), old, quant.size()).await {
                Ok(proof) => proof,
                Err(error) => return Answer::Refused(error.to_string()),
            };
            let submission = Submission::new(old.get(), proof, note.clone()).expect("the node's own checkpoint is one");
            let (status, retry_after, body) = match self.send(submission.to_string()).await {
                Ok(answered) => answered,
                Err(reason) => return Answer::Away { reason, retry_after: None },
            };
            match status {
                StatusCode::OK => return self.accept(&quant, &note, &body),
                StatusCode::CONFLICT => match body.strip_suffix('\n').and_then(|size| size.parse().ok()) {
                    Some(size) if size <= quant.size() => old = size,
                    Some(size) => {
                        let (index, here) = (quant.index(), quant.size());
                        let reason = format!("it has cosigned {size} transactions, but quant {index} has only {here}");
                        let refused = self.contradicted(reason).await;
                        // Another node of the cluster may have shown it what had not come here yet.
                        if self.chain.check_writable().is_err() || self.chain.head().newest.size() < size {
                            return refused;
                        }
                        old = size;
                    }
                    None => return Answer::Refused(format!("it answers 409 with {:?}", shortened(&body))),
                },
                status @ StatusCode::UNPROCESSABLE_ENTITY => {
                    return self.contradicted(format!("{status}: {:?}", shortened(&body))).await;
                }
                status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    return Answer::Refused(format!("{status}: {:?}", shortened(&body)));
                }
                status => return Answer::Away { reason: status.to_string(), retry_after },
            }
        }
        Answer::Away { reason: "its size changes from call to call".into(), retry_after: None }
    }

    /// The witness has more than this node, or another history. Its word alone stops nothing: what this node itself has signed
    /// does.
    async fn contradicted(&self, reason: String) -> Answer {
        let compared = match self.cosigned().await {
            Ok(note) => self.node.compare(&self.chain, &note).await.map_err(|error| error.to_string()),
            Err(error) => Err(format!("its own checkpoint cannot be had: {error}")),
        };
        Answer::Refused(compared.map_or_else(|detail| format!("{reason}; {detail}"), |()| reason.clone()))
    }

    /// The newest checkpoint of the chain that it has cosigned, as a QBC node serves it.
    async fn cosigned(&self) -> Result<Note, String> {
        let origin = KeyName::of_chain(self.chain.id);
        let mut url = self.witness.url.clone();
        let log = hash::origin(origin.as_str()).to_string();
        url.path_segments_mut().expect("an http URL has a path").pop().extend(["witness", &log, "checkpoint"]);
        let response = self.client.get(url).send().await.map_err(|error| chain_of(&error))?;
        match response.status() {
            StatusCode::OK => Note::parse(read(response).await?.as_bytes()).map_err(|error| error.to_string()),
            status => Err(status.to_string()),
        }
    }

    /// The status and body of its answer and when to call again, or why there is none.
    async fn send(&self, body: String) -> Result<(StatusCode, Option<Duration>, String), String> {
        let response = self.client.post(self.witness.url.clone()).body(body).send().await;
        let response = response.map_err(|error| chain_of(&error))?;
        Ok((response.status(), retry_after(response.headers(), self.node.now()), read(response).await?))
    }

    /// Takes the witness's own cosignature out of its answer, and passes over what others may have signed.
    fn accept(&self, quant: &Quant, note: &Note, body: &str) -> Answer {
        let key = &self.witness.key;
        let is_own = |line: &Signature| line.name() == key.name() && line.id() == key.id();
        let Some(line) = body.lines().filter_map(|line| line.parse().ok()).find(is_own) else {
            return Answer::Refused("its answer has no cosignature of its key".into());
        };
        let mut cosigned = Note::new(note.text()).expect("it is the text of a note");
        cosigned.add(line.clone());
        match cosigned.verify(std::slice::from_ref(key)) {
            Err(error) => Answer::Refused(format!("its cosignature is dropped: {error}")),
            Ok(verified) if verified[0].time == Some(0) => Answer::Refused("its cosignature names no time".into()),
            Ok(_) => {
                self.node.add_cosignature(&self.chain, quant.index(), note.text(), line);
                let is_newest = self.chain.head().newest.index() == quant.index();
                Answer::Cosigned { size: quant.size(), is_newest }
            }
        }
    }
}

fn client(trusted: &Authorities) -> Client {
    peers::build(trusted, |builder| builder.timeout(limits::WITNESS_TIMEOUT))
}

/// The time for which an answer asks to be left alone (`Retry-After`, RFC 9110 section 10.2.3), as seconds or as a date, which is
/// compared with the date of the answer where that has one, so that clocks may differ.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text(RETRY_AFTER)?;
    let wait = if !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit()) {
        after.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let sent = text(DATE).and_then(parse_date).unwrap_or_else(|| now.seconds() as i64);
        Duration::from_secs(parse_date(after)?.saturating_sub(sent).try_into().unwrap_or(0))
    };
    Some(wait.min(limits::WITNESS_RETRY_AFTER))
}

/// Seconds since 1970 of a date in one of the three forms that HTTP has had (RFC 9110 section 5.6.7).
fn parse_date(text: &str) -> Option<i64> {
    let forms = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let date = forms.iter().find_map(|form| chrono::NaiveDateTime::parse_from_str(text, form).ok())?;
    Some(date.and_utc().timestamp())
}

async fn read(response: Response) -> Result<String, String> {
    let body = peers::read(response, limits::WITNESS_BYTES).await.map_err(|error| match error {
        ReadError::TooLong => "its answer is too long".into(),
        ReadError::Broken(error) => chain_of(&error),
    })?;
    String::from_utf8(body).map_err(|_| "its answer is no text".into())
}

/// What an answer says, as much as a line of the log may have.
fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

/// An error with its causes, of which only the last says what is wrong.
fn chain_of(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
