//! The chain that is followed, as its source serves it: claims, each bounded in size and time, none of them believed here.
//!
//! Redirects are not followed, and nothing of what is answered is passed on but its status: whoever may start a mirror is not to
//! read other hosts through it.

use std::{collections::VecDeque, fmt, io, net::IpAddr, str::FromStr};

use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    access::Secret,
    core::{
        count::{Height, Index, Size},
        elements::Elements,
        hash::Hash,
        json,
        merkle::TILE_WIDTH,
        quant::Quant,
        rules::ChainName,
        transaction::Record,
        verify,
    },
    limits,
    peers::{self, Allowed, ReadError},
    tls::{Authorities, distrust},
};

/// The URL of a chain at its source: `https://ledger.example/chains/orders`. One without a chain is of the default chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainUrl {
    url: Url,
    /// Whether a chain was named.
    pub names_chain: bool,
}

impl ChainUrl {
    /// The same for another chain.
    pub fn with_chain(mut self, chain: &ChainName) -> ChainUrl {
        let mut segments = self.url.path_segments_mut().expect("an http URL has a path");
        segments.pop().push(chain.as_str());
        drop(segments);
        self.names_chain = true;
        self
    }

    /// The chain's name.
    pub fn chain(&self) -> &str {
        self.url.path().rsplit('/').next().unwrap_or_default()
    }

    fn route(&self, route: &[&str]) -> Url {
        let mut url = self.url.clone();
        url.path_segments_mut().expect("an http URL has a path").extend(route);
        url
    }
}

impl fmt::Display for ChainUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str())
    }
}

impl FromStr for ChainUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<ChainUrl, String> {
        let wrong = || format!("{text:?} is no URL of a node or of a chain, like https://ledger.example/chains/orders");
        let is_plain = |url: &Url| {
            let bare = url.query().is_none() && url.fragment().is_none();
            bare && url.username().is_empty() && url.password().is_none() && url.has_host()
        };
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && is_plain(url));
        let mut url = url.filter(|url| url.as_str().len() <= limits::MIRROR_URL_BYTES).ok_or_else(wrong)?;
        let path: Vec<String> = url.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let named = match &path[..] {
            [.., chains, name] if chains == "chains" => Some(name),
            _ => None,
        };
        if let Some(name) = named {
            name.parse::<ChainName>().map_err(|error| format!("{text:?}: the chain's name {error}"))?;
        }
        let names_chain = named.is_some();
        let mut segments = url.path_segments_mut().expect("an http URL has a path");
        segments.clear().extend(&path);
        if !names_chain {
            segments.extend(["chains", ChainName::DEFAULT]);
        }
        drop(segments);
        Ok(ChainUrl { url, names_chain })
    }
}

/// What calls sources.
pub struct Caller {
    client: Client,
    /// The networks that it may call; nothing where an operator has named the source.
    allowed: Option<Allowed>,
}

impl Caller {
    /// Of sources in these networks, or of any, whose certificates are of the system's authorities or of these.
    pub fn new(allowed: Option<Allowed>, trusted: &Authorities) -> Caller {
        let client = peers::build(trusted, |builder| {
            let builder = builder.connect_timeout(limits::LINK_TIMEOUT).read_timeout(limits::MIRROR_IDLE);
            match &allowed {
                Some(allowed) => peers::only_to(allowed, builder),
                None => builder,
            }
        });
        Caller { client, allowed }
    }

    /// The source of a chain.
    pub fn source(&self, url: ChainUrl, token: Option<Secret>) -> Source<'_> {
        Source { caller: self, url, token }
    }
}

/// A chain at its source.
pub struct Source<'a> {
    caller: &'a Caller,
    url: ChainUrl,
    /// What is shown to it.
    token: Option<Secret>,
}

/// Why something cannot be had of a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It answers with an error.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// It does not answer, or not as a node does.
    #[error("{0}")]
    Other(String),
}

impl SourceError {
    /// Whether there is no such thing at the source.
    pub fn is_not_found(&self) -> bool {
        matches!(self, SourceError::Status(StatusCode::NOT_FOUND))
    }

    /// Whether it is the fault of what was asked for.
    pub fn is_refusal(&self) -> bool {
        matches!(self, SourceError::Status(status) if status.is_client_error())
    }
}

fn other(text: impl Into<String>) -> SourceError {
    SourceError::Other(text.into())
}

#[derive(Deserialize)]
struct Proof {
    path: Vec<Hash>,
}

impl Source<'_> {
    /// The URL of the chain.
    pub fn url(&self) -> &ChainUrl {
        &self.url
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, SourceError> {
        let address = self.url.url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        if let (Some(allowed), Some(address)) = (&self.caller.allowed, address)
            && !allowed.contains(address)
        {
            return Err(other(OUTSIDE));
        }
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        };
        let response = request.send().await.map_err(|error| other(class(&error)))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(other(match self.token {
                Some(_) => {
                    format!("it answers {status}: the token has not, or has no more, the role read on the chain there")
                }
                None => {
                    format!("it answers {status}: give its token, in \"token\" of POST /mirrors or as --mirror-token")
                }
            })),
            status => Err(SourceError::Status(status)),
        }
    }

    /// The whole of a small answer.
    async fn get(&self, url: Url, bytes: usize) -> Result<Vec<u8>, SourceError> {
        let response = self.send(self.caller.client.get(url).timeout(limits::MIRROR_CALL)).await?;
        peers::read(response, bytes).await.map_err(|error| match error {
            ReadError::TooLong => other(format!("an answer of it has more than {bytes} bytes")),
            ReadError::Broken(error) => other(class(&error)),
        })
    }

    async fn json<T: DeserializeOwned>(&self, url: Url, bytes: usize) -> Result<T, SourceError> {
        let body = self.get(url, bytes).await?;
        serde_json::from_slice(&body).map_err(|_| other("an answer of it is not that of a node"))
    }

    /// The newest checkpoint, or that of a quant: a note.
    pub async fn checkpoint(&self, quant: Option<Height>) -> Result<Vec<u8>, SourceError> {
        let mut url = self.url.route(&["checkpoint"]);
        if let Some(quant) = quant {
            url.set_query(Some(&format!("quant={quant}")));
        }
        self.get(url, limits::WITNESS_BYTES).await
    }

    /// So many quants from one on, without their transactions. Their hashes and their work hold.
    pub async fn quants(&self, from: Height, count: u64) -> Result<Vec<Quant>, SourceError> {
        let mut url = self.url.route(&["chain"]);
        url.set_query(Some(&format!("from={from}&limit={count}&transactions=false")));
        let bytes = (count as usize + 1) * limits::QUANT_BYTES;
        let values: Vec<Value> = self.json(url, bytes).await?;
        if values.len() as u64 != count {
            return Err(other(format!("it gives {} quants where {count} were asked for", values.len())));
        }
        let quants = values.into_iter().map(verify::quant).collect::<Result<Vec<_>, _>>();
        quants.map_err(|detail| other(format!("a quant of it does not hold: {detail}")))
    }

    /// The first quant of the chain with this id, and the transaction that it seals last, which is the chain's bang.
    pub async fn bang(&self, id: Hash) -> Result<(Quant, Record), SourceError> {
        let url = self.url.route(&["quants", &id.to_string()]);
        let body = self.get(url, limits::RULES_BYTES + limits::BODY_BYTES).await?;
        let wrong = |detail: String| other(format!("the chain's first quant: {detail}"));
        let Ok(Value::Object(mut fields)) = json::parse(&body) else { return Err(wrong("it is no object".into())) };
        let Some(Value::Array(mut transactions)) = fields.remove("transactions") else {
            return Err(wrong("it has no transactions".into()));
        };
        let quant = verify::quant(Value::Object(fields)).map_err(wrong)?;
        let bang = transactions.pop().ok_or_else(|| wrong("it has no transaction".into()))?;
        let bang = Record::from_value(bang).map_err(wrong)?;
        match quant.hash() == id {
            true => Ok((quant, bang)),
            false => Err(wrong(format!("its hash is {}, not the chain's id", quant.hash()))),
        }
    }

    /// The path from one size to a larger one.
    pub async fn consistency(&self, from: Size, to: Size) -> Result<Vec<Hash>, SourceError> {
        let mut url = self.url.route(&["consistency"]);
        url.set_query(Some(&format!("from={from}&to={to}")));
        self.json::<Proof>(url, limits::MIRROR_PROOF_BYTES).await.map(|proof| proof.path)
    }

    /// The receipt of a transaction.
    pub async fn receipt(&self, index: Index) -> Result<Value, SourceError> {
        let url = self.url.route(&["transactions", &index.to_string(), "receipt"]);
        let body = self.get(url, limits::MIRROR_PROOF_BYTES).await?;
        json::parse(&body).map_err(|_| other("a receipt of it is no JSON"))
    }

    /// The root of its first `size` transactions, a power of 2: it is that of one tile.
    pub async fn perfect_root(&self, size: Size) -> Result<Hash, SourceError> {
        let levels = size.get().trailing_zeros();
        let level = levels.saturating_sub(1) / 8;
        let width = 1_usize << (levels - 8 * level);
        let name = if width == TILE_WIDTH { "000".into() } else { format!("000.p/{width}") };
        let url = self.url.route(&[&["tile", &level.to_string()], &name.split('/').collect::<Vec<_>>()[..]].concat());
        let body = self.get(url, TILE_WIDTH * size_of::<Hash>()).await?;
        let (hashes, []) = body.as_chunks() else { return Err(other("a tile of it is malformed")) };
        if hashes.len() != width {
            return Err(other("a tile of it is malformed"));
        }
        let hashes: Vec<Hash> = hashes.iter().map(|hash| Hash::from_bytes(*hash)).collect();
        Ok(crate::core::merkle::perfect_root(&hashes))
    }

    /// The transactions from one size to another, to be read one piece after the other.
    pub fn transactions(&self, from: Size, to: Size) -> Transactions<'_> {
        Transactions { source: self, next: from, to, page: None }
    }
}

const OUTSIDE: &str = "it is outside the networks that this node may call: its option --discover-allow sets them";

/// What is told of a call that failed.
fn class(error: &reqwest::Error) -> String {
    if let Some(reason) = distrust(error) {
        return format!("it is not asked: {reason}");
    }
    let io = peers::cause::<io::Error>(error).map(io::Error::kind);
    match io {
        _ if error.is_timeout() || io == Some(io::ErrorKind::TimedOut) => "it does not answer in time".into(),
        Some(io::ErrorKind::ConnectionRefused) => "it does not answer: connection refused".into(),
        _ if peers::is_outside(error) => OUTSIDE.into(),
        _ if error.is_connect() => "it does not answer: no connection".into(),
        _ => "the connection broke, or it does not speak HTTP".into(),
    }
}

/// Transactions on their way.
pub struct Transactions<'a> {
    source: &'a Source<'a>,
    next: Size,
    to: Size,
    page: Option<Page>,
}

struct Page {
    response: Response,
    items: Items,
    /// How many transactions are to come of it.
    left: u64,
}

impl Transactions<'_> {
    /// The next transactions, of [`limits::IMPORT_BYTES`] or little more; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Record>, SourceError> {
        if self.next == self.to {
            return Ok(Vec::new());
        }
        // A source that drips holds up nobody for long.
        let texts = timeout(limits::MIRROR_CALL, self.piece()).await;
        let texts = texts.map_err(|_| other("it does not send its transactions in time"))??;
        tokio::task::block_in_place(|| texts.iter().map(|text| Record::parse(text)).collect::<Result<Vec<_>, _>>())
            .map_err(|detail| other(format!("a transaction of it does not hold: {detail}")))
    }

    async fn piece(&mut self) -> Result<Vec<Vec<u8>>, SourceError> {
        let mut page = match self.page.take() {
            Some(page) => page,
            None => {
                let left = (self.to.get() - self.next.get()).min(limits::PAGE_LIMIT);
                let mut url = self.source.url.route(&["transactions"]);
                url.set_query(Some(&format!("from={}&limit={left}", self.next)));
                let response = self.source.send(self.source.caller.client.get(url)).await?;
                Page { response, items: Items::default(), left }
            }
        };
        let (mut texts, mut bytes) = (Vec::new(), 0);
        while bytes < limits::IMPORT_BYTES && page.left > 0 {
            if let Some(text) = page.items.pop() {
                bytes += text.len();
                (page.left, self.next) = (page.left - 1, self.next.next_index().size());
                texts.push(text);
                continue;
            }
            let chunk = page.response.chunk().await.map_err(|error| other(class(&error)))?;
            let chunk = chunk.ok_or_else(|| other("it gives fewer transactions than it has signed"))?;
            page.items.add(&chunk)?;
        }
        self.page = Some(page).filter(|page| page.left > 0);
        Ok(texts)
    }
}

/// Takes an array of objects apart as it comes.
#[derive(Default)]
struct Items {
    elements: Elements,
    ready: VecDeque<Vec<u8>>,
    open: Vec<u8>,
}

impl Items {
    fn pop(&mut self) -> Option<Vec<u8>> {
        self.ready.pop_front()
    }

    fn add(&mut self, mut chunk: &[u8]) -> Result<(), SourceError> {
        let no_array = || other("a page of its transactions is no array of objects");
        while !chunk.is_empty() {
            let part = self.elements.next(chunk).map_err(|_| no_array())?;
            let element = &chunk[part.element];
            self.open.extend_from_slice(if self.open.is_empty() { element.trim_ascii_start() } else { element });
            chunk = &chunk[part.used..];
            if self.open.first().is_some_and(|first| *first != b'{') {
                return Err(no_array());
            }
            if self.open.len() > limits::BODY_BYTES {
                return Err(other(format!("a transaction of it has more than {} bytes", limits::BODY_BYTES)));
            }
            if part.is_end {
                self.ready.push_back(std::mem::take(&mut self.open));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_named_by_its_url_or_is_the_default_one() {
        for (text, url) in [
            ("http://localhost:5000", "http://localhost:5000/chains/qbc"),
            ("http://localhost:5000/", "http://localhost:5000/chains/qbc"),
            ("https://a.example/chains/b/", "https://a.example/chains/b"),
            ("https://a.example/ledger", "https://a.example/ledger/chains/qbc"),
            ("https://a.example/ledger/chains/b", "https://a.example/ledger/chains/b"),
        ] {
            let parsed: ChainUrl = text.parse().unwrap();
            assert_eq!(parsed.to_string(), url);
            assert_eq!(parsed.chain(), url.rsplit('/').next().unwrap());
            assert_eq!(parsed.with_chain(&"c".parse().unwrap()).chain(), "c");
        }
        for text in
            ["", "localhost:5000", "ftp://a", "http://a?x", "http://a#x", "http://u:p@a", "http://a/chains/B%20c"]
        {
            assert!(text.parse::<ChainUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_array_is_taken_apart_wherever_it_is_cut() {
        let items = [r#"{"a":"]}\"\\"}"#, r#"{"b":[{"c":[1,"{"]}]}"#, "{}"];
        let whole = format!("[{}]\n", items.join(", "));
        for size in 1..whole.len() {
            let mut parts = Items::default();
            whole.as_bytes().chunks(size).for_each(|chunk| parts.add(chunk).unwrap());
            let found: Vec<_> = std::iter::from_fn(|| parts.pop()).collect();
            assert_eq!(found, items.map(|item| item.as_bytes().to_vec()), "{size}");
        }
        for wrong in ["{}", "[1]", "x"] {
            assert!(Items::default().add(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let mut endless = Items::default();
        endless.add(b"[{\"a\":\"").unwrap();
        let chunk = vec![b'a'; 1 << 20];
        assert!((0..9).map(|_| endless.add(&chunk)).any(|added| added.is_err()));
    }
}
