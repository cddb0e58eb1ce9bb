//! A node as the client commands see it: its URLs, its answers, and what went wrong in one sentence.

use std::{fmt, io, str::FromStr, time::Duration};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::runtime::Handle;

use super::output;
use crate::{
    access::Secret,
    core::{hash::Hash, rules::ChainName},
    peers::trusting,
    tls::{Authorities, distrust},
};

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an error that are read.
const MAX_PROBLEM: usize = 1 << 20;

/// A node, and the chain on it that is worked on.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    node: Url,
    /// Nodes that can answer the same where that one is away.
    others: Vec<Url>,
    chain: Option<ChainRef>,
    /// What is shown to the node.
    pub token: Option<Secret>,
    trusted: Authorities,
    /// Whether a script listens.
    pub json: bool,
}

/// A chain as a user names it: by its name or its id.
#[derive(Clone, Debug)]
pub struct ChainRef(String);

impl ChainRef {
    /// As it stands in a URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<ChainName> for ChainRef {
    fn from(name: ChainName) -> ChainRef {
        ChainRef(name.to_string())
    }
}

impl FromStr for ChainRef {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ChainRef, &'static str> {
        match text.parse::<Hash>() {
            Ok(_) => Ok(ChainRef(text.into())),
            Err(_) => text.parse::<ChainName>().map(ChainRef::from),
        }
    }
}

/// That a node answered with an error: in words for people, and as it came for scripts.
#[derive(Debug)]
pub struct Refusal {
    text: String,
    /// The problem document (RFC 9457).
    pub document: Box<RawValue>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// What the node's errors name, and the commands that do the same.
const COMMANDS: &[(&str, &str)] = &[
    ("POST /bang", "`qbc bang`"),
    ("POST /import", "`qbc import`"),
    ("GET /mirrors", "`qbc mirror`"),
    ("DELETE /mirrors/", "`qbc mirror --stop` "),
    ("GET /chains", "`qbc chains`"),
    ("GET /stats", "`qbc stats`"),
    ("GET /pool", "`qbc pool`"),
    ("GET /chain", "`qbc chain`"),
    ("GET /leap", "`qbc leap`"),
    ("POST /leap", "`qbc leap`"),
    ("POST /inject", "`qbc inject`"),
    ("POST /discover", "`qbc discover`"),
    ("GET /discover", "`qbc discover`"),
    ("POST …/fork", "`qbc fork`"),
    ("POST /fork", "`qbc fork`"),
    ("send it in the header Authorization: Bearer TOKEN", "say it with QBC_TOKEN or --token"),
    ("add \"signer\" and \"signature\"", "add --signer and --signature"),
];

/// A node has no certificate that is trusted.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Untrusted(String);

/// An error as the node tells it (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<ProblemError>,
}

#[derive(Deserialize)]
struct ProblemError {
    pointer: String,
    detail: String,
}

impl Connection {
    /// Of the node at the first of these URLs, or at the next one where that is away, with a certificate of the system's authorities or
    /// of these. It does not connect yet.
    pub fn new(
        nodes: Vec<Url>,
        chain: Option<ChainRef>,
        trusted: Authorities,
        token: Option<&Secret>,
        json: bool,
    ) -> Self {
        let shown = token.map(bearer);
        let headers: HeaderMap = shown.iter().map(|shown| (AUTHORIZATION, shown.clone())).collect();
        let client = trusting(&trusted, || {
            let client = Client::builder().user_agent(concat!("qbc/", env!("CARGO_PKG_VERSION")));
            client.default_headers(headers.clone()).connect_timeout(CONNECT_TIMEOUT)
        });
        let mut nodes = nodes.into_iter();
        let node = nodes.next().expect("there is at least one node");
        Connection { client, node, others: nodes.collect(), chain, token: token.cloned(), trusted, json }
    }

    /// The node at another URL, and the chain that is named there, if any is.
    pub fn at(&self, node: Url, chain: Option<ChainRef>) -> Self {
        Connection { node, others: Vec::new(), chain: chain.or_else(|| self.chain.clone()), ..self.clone() }
    }

    /// The same node or nodes, and another chain.
    pub fn on(&self, chain: ChainRef) -> Self {
        Connection { chain: Some(chain), ..self.clone() }
    }

    /// The node's URL.
    pub fn url(&self) -> &Url {
        &self.node
    }

    /// Certificates that are trusted beside those of the system's authorities.
    pub fn trusted(&self) -> &Authorities {
        &self.trusted
    }

    /// The chain that is named, if any is.
    pub fn chain(&self) -> Option<&ChainRef> {
        self.chain.as_ref()
    }

    /// Whether a chain is named, and not just the default one meant.
    pub fn names_chain(&self) -> bool {
        self.chain.is_some()
    }

    /// The URL of a route of the node.
    pub fn node_url(&self, route: &[&str]) -> Url {
        let mut url = self.node.clone();
        url.path_segments_mut().expect("an http URL has a path").pop_if_empty().extend(route);
        url
    }

    /// The URL of a route of the chain.
    pub fn chain_url(&self, route: &[&str]) -> Url {
        match &self.chain {
            Some(chain) => self.node_url(&[&["chains", chain.as_str()], route].concat()),
            None => self.node_url(route),
        }
    }

    /// The URL of the chain itself.
    pub fn url_of_chain(&self) -> Url {
        self.node_url(&["chains", self.chain.as_ref().map_or(ChainName::DEFAULT, ChainRef::as_str)])
    }

    /// A line for whoever watches, on standard error.
    pub fn note(&self, kind: &str, detail: &str) {
        match self.json {
            true => output::tell(output::problem(kind, detail)),
            false => output::tell(format_args!("{kind}: {detail}")),
        }
    }

    /// A `GET`.
    pub fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    /// A `POST`.
    pub fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    /// A `DELETE`.
    pub fn delete(&self, url: Url) -> RequestBuilder {
        self.client.delete(url)
    }

    /// A `PATCH`.
    pub fn patch(&self, url: Url) -> RequestBuilder {
        self.client.request(Method::PATCH, url)
    }

    /// Sends a request and reads the JSON that answers it.
    ///
    /// # Errors
    /// There is no answer, one that is no success, or one that no QBC node gives.
    pub async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let body = self.send(request).await?.bytes().await.context("the connection broke")?;
        read_answer(&body)
    }

    /// Sends a request and gives its answer, whatever its status is.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn send_any(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let (again, mut answer) = (request.try_clone(), request.send().await);
        for other in &self.others {
            // Where nobody was reached, nothing was sent. A body that is read as it is sent cannot be sent again.
            let Some(again) = again.as_ref().and_then(RequestBuilder::try_clone) else { break };
            if !answer.as_ref().is_err_and(reqwest::Error::is_connect) {
                break;
            }
            let mut again = again.build().context("the request")?;
            let path =
                again.url().path().strip_prefix(self.node.path().trim_end_matches('/')).unwrap_or_default().to_owned();
            let query = again.url().query().map(str::to_owned);
            let mut url = other.clone();
            url.set_path(&format!("{}{path}", other.path().trim_end_matches('/')));
            url.set_query(query.as_deref());
            *again.url_mut() = url;
            answer = self.client.execute(again).await;
        }
        answer.map_err(|error| {
            let node = self.node.as_str().trim_end_matches('/');
            if let Some(reason) = distrust(&error) {
                Untrusted(format!("the node at {node} is not asked: {reason}")).into()
            } else if error.is_connect() {
                let detail = "is a node running there? Start one with `qbc`, or name another with --node";
                anyhow!("no node answers at {node} ({}): {detail}", root_cause(&error))
            } else {
                anyhow!("the connection to {node} failed: {}", root_cause(&error))
            }
        })
    }

    /// Sends a request and gives its answer.
    ///
    /// # Errors
    /// There is no answer, or one that is no success.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = self.send_any(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(problem(response).await) }
    }
}

/// How a token is shown. What prints headers does not print it.
fn bearer(token: &Secret) -> HeaderValue {
    let mut shown = HeaderValue::try_from(format!("Bearer {}", token.reveal())).expect("a token is visible ASCII");
    shown.set_sensitive(true);
    shown
}

/// Reads the JSON of an answer.
///
/// # Errors
/// It is another's.
pub fn read_answer<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).context("the answer is not that of a QBC node")
}

/// What an answer that is no success says.
pub async fn problem(response: Response) -> anyhow::Error {
    let (status, url) = (response.status(), response.url().clone());
    match read_some(response, MAX_PROBLEM).await {
        Ok(body) => describe(status, &url, &body),
        Err(error) => error.context(format!("{url} answers {status}")),
    }
}

fn describe(status: StatusCode, url: &Url, body: &[u8]) -> anyhow::Error {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        return anyhow!("{url} answers {status}, and not as a QBC node does");
    };
    let mut places = String::new();
    let text = problem.detail.unwrap_or(problem.title);
    // A single place is in the sentence already, as a rule.
    for ProblemError { pointer, detail } in problem.errors.iter().filter(|error| !text.contains(&error.detail)) {
        places += &format!("\n  {}: {detail}", if pointer.is_empty() { "all of it" } else { pointer });
    }
    // The node's words reach a terminal: no control character may.
    let is_harmless = |&char: &char| !char.is_control() || char == '\n';
    let text: String = text.chars().chain(places.chars()).filter(is_harmless).collect();
    let in_commands = |text: String, (route, command): &(&str, &str)| text.replace(route, command);
    let text = COMMANDS.iter().fold(text, in_commands);
    let document = serde_json::from_slice(body).expect("a part of it was read as JSON");
    Refusal { text: format!("the node answers {}: {text}", status.as_u16()), document }.into()
}

async fn read_some(mut response: Response, bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.context("the connection broke")? {
        body.extend_from_slice(&chunk);
        if body.len() > bytes {
            break;
        }
    }
    Ok(body)
}

fn root_cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// The body of an answer, to be read on a thread that may block.
pub struct Body {
    response: Response,
    chunk: Bytes,
    runtime: Handle,
}

impl Body {
    /// Must be made where the runtime is; must not be read there.
    pub fn new(response: Response, runtime: Handle) -> Self {
        Body { response, chunk: Bytes::new(), runtime }
    }
}

impl io::Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.response.chunk()).map_err(io::Error::other)? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let part = self.chunk.split_to(self.chunk.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_is_not_named_is_that_of_the_bare_routes() {
        let node: Url = "http://localhost:5000".parse().unwrap();
        let connection = |chain: Option<&str>| {
            let chain = chain.map(|chain| chain.parse().unwrap());
            Connection::new(vec![node.clone()], chain, Authorities::default(), None, false)
        };
        assert_eq!(connection(None).chain_url(&["leap"]).as_str(), "http://localhost:5000/leap");
        assert_eq!(connection(Some("a.b")).chain_url(&["leap"]).as_str(), "http://localhost:5000/chains/a.b/leap");
    }

    #[test]
    fn a_problem_is_told_with_its_places() {
        let body = br#"{"type":"about:blank","title":"T","status":422,"detail":"no\u001b[31m","errors":[{"pointer":"/data","detail":"bad"}]}"#;
        let url: Url = "http://localhost:5000/inject".parse().unwrap();
        let told = describe(StatusCode::UNPROCESSABLE_ENTITY, &url, body).to_string();
        assert_eq!(told, "the node answers 422: no[31m\n  /data: bad");
        let other = describe(StatusCode::NOT_FOUND, &url, b"<html>").to_string();
        assert_eq!(other, "http://localhost:5000/inject answers 404 Not Found, and not as a QBC node does");
    }
}
