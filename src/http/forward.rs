//! Requests that another node of the cluster answers: writes go to the node that leads the chain, and reads of a chain that is not
//! kept here to one that has it. What is kept here is read here, when this node has all that was acknowledged before.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts},
    response::IntoResponse,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::time::{sleep, timeout};
use tower::Service;

use super::{
    problem::Problem,
    table::{Asked, Kind},
};
use crate::{
    cluster::{Cluster, ClusterError, Lag, link},
    limits,
    node::{Group, Node},
    tls::Stream,
};

/// Set on requests that another node has sent on: they are not sent on again.
pub const FORWARDED: HeaderName = HeaderName::from_static("qbc-forwarded");
/// On requests of another node of the cluster: the group of a chain that this one is to make.
pub const GROUP: HeaderName = HeaderName::from_static("qbc-group");
/// On an answer of a node that was asked to write, and does not lead: the request changed nothing.
pub const NOT_LEADING: HeaderName = HeaderName::from_static("qbc-not-leading");
/// Whether reads may be of what is at hand.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("consistency");

/// Marks an answer that another node has finished.
#[derive(Clone, Copy)]
pub struct Forwarded;

/// Headers of one connection (RFC 9110 section 7.6.1), and what the next one says itself.
const OF_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::TE,
    header::UPGRADE,
    header::EXPECT,
    header::TRAILER,
];

/// Marks a request that another node of the cluster has sent: it came on a connection on which that node has shown its key and the
/// cluster's secret, and its client was looked at there.
#[derive(Clone, Copy)]
pub struct FromNode;

/// Takes out of a request what only other nodes of the cluster may say in it.
pub fn distrust(request: &mut Request<Body>) {
    if request.extensions().get::<FromNode>().is_none() {
        request.headers_mut().remove(FORWARDED);
        request.headers_mut().remove(GROUP);
    }
}

/// An answer without what only other nodes of the cluster make something of.
pub fn as_told(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().remove(NOT_LEADING);
    response
}

/// Sends requests to other nodes of the cluster, on connections on which both have authenticated each other.
#[derive(Clone)]
pub struct Client(legacy::Client<Dialler, Body>);

impl Client {
    pub fn new(cluster: Cluster) -> Client {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        // Well before the other node would close it.
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(limits::HEAD_TIMEOUT / 2);
        Client(builder.build(Dialler(cluster)))
    }

    /// What another node answers to a GET, of what it has itself; nothing where it does not.
    pub async fn ask(&self, host: &str, target: String) -> Option<serde_json::Value> {
        let request = Request::get(format!("{}{target}", link::url(host))).header(FORWARDED, "1");
        let request = request.body(Body::empty()).ok()?;
        let asked = async {
            let answer = self.0.request(request).await.ok().filter(|answer| answer.status().is_success())?;
            serde_json::from_slice(&answer.into_body().collect().await.ok()?.to_bytes()).ok()
        };
        timeout(limits::AGREEMENT_TIMEOUT, asked).await.ok()?
    }
}

/// A request without a body that asks for what is sealed, once more.
pub fn again(request: &Request<Body>) -> Request<Body> {
    let mut again = Request::new(Body::empty());
    (*again.method_mut(), *again.uri_mut()) = (request.method().clone(), request.uri().clone());
    (*again.headers_mut(), *again.extensions_mut()) = (request.headers().clone(), request.extensions().clone());
    again
}

/// What any node answers that keeps the chain and has what is asked for, where nobody is known to lead.
pub async fn ask_keepers(client: &Client, cluster: &Cluster, about: &About, request: Parts) -> Option<Response<Body>> {
    let group = cluster.group_of(about.chain.as_ref()?)?;
    let request = &request;
    let asked = cluster.keepers(group).into_iter().map(|host| async move {
        let sent = sent_on(request, &host, Body::empty())?;
        let answer = timeout(limits::AGREEMENT_TIMEOUT, client.0.request(sent)).await.ok()?.ok()?;
        answer.headers().contains_key(CONSISTENCY).then(|| answered(answer))
    });
    let answers = asked.collect::<FuturesUnordered<_>>().filter_map(std::future::ready);
    std::pin::pin!(answers).next().await
}

/// Opens connections to other nodes of the cluster.
#[derive(Clone)]
struct Dialler(Cluster);

impl Service<Uri> for Dialler {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let cluster = self.0.clone();
        Box::pin(async move {
            let url = to.to_string();
            let url = url.trim_end_matches('/');
            cluster.connect_http(url.strip_prefix("http://").unwrap_or(url)).await.map(TokioIo::new)
        })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Where a request is answered.
pub enum Way {
    /// Here.
    Here,
    /// Here, of what is at hand.
    Local(Lag),
    /// By the node at this host, or by the one that leads this group by then.
    There(String, Group),
}

impl Lag {
    /// An answer of what is at hand, which says how old that may be: entries that are not applied yet, and whole seconds since the leader
    /// was heard.
    pub fn told(self, mut response: Response<Body>) -> Response<Body> {
        let value = format!("local; lag={}; age={}", self.entries, self.age.as_secs());
        response.headers_mut().insert(CONSISTENCY, value.try_into().expect("these are numbers"));
        response
    }
}

/// What a request is about: a chain, which part of it, and whether it is written.
#[derive(Clone)]
pub struct About {
    chain: Option<String>,
    part: String,
    writes: bool,
}

impl About {
    /// As the table of routes has it.
    pub fn of(asked: &Asked) -> About {
        let writes = asked.kind().is_some_and(Kind::changes);
        About { chain: asked.chain().map(str::to_owned), part: asked.part().to_owned(), writes }
    }

    fn is_inject(&self) -> bool {
        self.chain.is_some() && self.part == "inject"
    }

    /// Whether it may be about what is sealed, which whoever has it can tell.
    pub fn may_be_sealed(&self) -> bool {
        !self.writes && self.chain.is_some() && ["quants", "transactions", "consistency"].contains(&self.part.as_str())
    }

    /// The group of the chain, where that is kept on this node, and as the others have it.
    pub fn kept_here(&self, node: &Node) -> Option<Group> {
        let chain = node.chain(self.chain.as_ref()?)?;
        chain.difference().is_none().then_some(chain.group)
    }

    /// The group that keeps the chain, whether it is kept here, whether it is about what is sealed, and whether it goes to the leader
    /// to write. None where this node knows no such chain.
    fn find(&self, cluster: &Cluster, node: &Node) -> Option<(Group, bool, bool, bool)> {
        let chain = self.chain.as_ref()?;
        let local = node.chain(chain);
        let group = local.as_ref().map(|chain| chain.group).or_else(|| cluster.group_of(chain))?;
        let is_here = local.is_some_and(|chain| chain.difference().is_none());
        // What is kept here is checked here, and the node carries it to the one that leads.
        let writes = self.writes && !(self.is_inject() && is_here);
        Some((group, is_here, self.part == "tile" || self.is_inject(), writes))
    }
}

/// Takes the query parameter `consistency`, which every read has, and the header of that name. Says whether what is at hand is
/// enough.
///
/// # Errors
/// It says something else than `local`.
pub fn take_consistency(request: &mut Request<Body>) -> Result<bool, Problem> {
    let wrong = || Problem::bad_request("consistency is \"local\", or is not said");
    let by_header = match request.headers().get(CONSISTENCY) {
        None => false,
        Some(value) if value == "local" => true,
        Some(_) => return Err(wrong()),
    };
    let Some(query) = request.uri().query().filter(|query| query.contains("consistency=")) else {
        return Ok(by_header);
    };
    let is_it = |pair: &&str| pair.starts_with("consistency=");
    if query.split('&').filter(is_it).any(|pair| pair != "consistency=local") {
        return Err(wrong());
    }
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    let (path, rest) = (request.uri().path(), rest.join("&"));
    let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{rest}") };
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| Problem::bad_request("the query is malformed"))?;
    Ok(true)
}

/// Where a request is to be answered. It is waited until then for a leader.
///
/// # Errors
/// `503`: nobody who could is reached.
pub fn way<'a>(
    cluster: &'a Cluster,
    node: &Node,
    request: &Request<Body>,
    about: &About,
    is_local_enough: bool,
    until: Instant,
) -> impl Future<Output = Result<Way, Problem>> + Send + use<'a> {
    let found = about.find(cluster, node);
    let is_forwarded = request.headers().contains_key(FORWARDED);
    // A chain that is new may be unknown here for a moment: all nodes agree on which there are, and this one may lag.
    let is_unknown = about.chain.is_some() && found.is_none() && !is_forwarded && !is_local_enough;
    let unknown = is_unknown.then(|| (about.clone(), node.clone()));
    async move {
        let found = match unknown {
            Some((about, node)) => {
                let newest = cluster.linearize(Group::META, until).await;
                match about.find(cluster, &node) {
                    // It may have been made while this node was away.
                    None if newest.is_err() => return Err(unknown_here()),
                    found => found,
                }
            }
            None => found,
        };
        match found {
            Some((group, is_here, is_tile, writes)) => {
                let is_sealed = is_tile && is_here;
                way_of(cluster, group, (is_here, writes, is_sealed), is_forwarded, is_local_enough, until).await
            }
            None => Ok(Way::Here),
        }
    }
}

async fn way_of(
    cluster: &Cluster,
    group: Group,
    (is_here, writes, is_sealed): (bool, bool, bool),
    is_forwarded: bool,
    is_local_enough: bool,
    until: Instant,
) -> Result<Way, Problem> {
    if is_forwarded {
        if !writes && is_here && !is_sealed {
            cluster.linearize(group, until).await?;
        }
        return Ok(Way::Here);
    }
    if writes || !is_here {
        return to_leader(cluster, group, until).await;
    }
    if is_local_enough {
        return Ok(Way::Local(cluster.lag(group)));
    }
    // What is sealed never changes, and a tile is of what is sealed; the newest quant is not sealed for ever.
    if !is_sealed {
        cluster.linearize(group, until).await?;
    }
    Ok(Way::Here)
}

/// To the node that leads a group.
///
/// # Errors
/// `503`: nobody does.
pub async fn to_leader(cluster: &Cluster, group: Group, until: Instant) -> Result<Way, Problem> {
    let leader = cluster.leader(group, until).await.ok_or_else(nobody)?;
    if leader == cluster.me() {
        return Ok(Way::Here);
    }
    cluster.host_of(leader).map(|host| Way::There(host, group)).ok_or_else(nobody)
}

fn unanswered() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the node that leads the chain has not answered: a write may have been accepted all the same, so send it again with the \
         same \"id\"",
    )
}

fn unknown_here() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "this node knows no such chain, and no majority of the cluster's nodes answers, which may know it: nothing was changed; \
         send again later",
    )
}

fn nobody() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no majority of the nodes that keep the chain answers: nothing was changed; send again later",
    )
}

/// A small write that is made here, kept as it is read: where this node turns out to lead no more, somebody else is to get it.
pub struct Again {
    parts: Parts,
    body: Arc<Mutex<Vec<u8>>>,
}

impl Again {
    /// Of a request that may be sent on. An inject is no such one: [`Node`] carries what it cannot decide on.
    pub fn of(request: Request<Body>, about: &About) -> (Request<Body>, Option<Again>) {
        let is_asked = !request.headers().contains_key(FORWARDED) && about.writes && !about.is_inject();
        if !is_asked || !is_small(&request) {
            return (request, None);
        }
        let (parts, body) = request.into_parts();
        let again = Again { parts: parts.clone(), body: Arc::default() };
        let kept = again.body.clone();
        let body = body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                kept.lock().expect("no holder of this lock panics").extend_from_slice(data);
            }
            frame
        });
        (Request::from_parts(parts, Body::new(body)), Some(again))
    }

    /// The request once more.
    pub fn request(self) -> Request<Body> {
        let body = std::mem::take(&mut *self.body.lock().expect("no holder of this lock panics"));
        Request::from_parts(self.parts, Body::from(body))
    }
}

/// Whether a request is known to be small enough to be kept.
pub fn is_small(request: &Request<Body>) -> bool {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    http_body::Body::is_end_stream(request.body()) || length.is_some_and(|length: usize| length <= limits::FORWARD_KEPT)
}

/// Has another node answer. A small request is sent again until then where nobody has taken it.
pub async fn send(
    client: &Client,
    cluster: &Cluster,
    mut host: String,
    group: Group,
    request: Request<Body>,
    until: Instant,
) -> Response<Body> {
    let is_small = is_small(&request);
    let (parts, body) = request.into_parts();
    let (kept, mut streamed) = match is_small {
        true => match body.collect().await {
            Ok(body) => (Some(body.to_bytes()), None),
            Err(_) => return Problem::bad_request("the body broke off").into_response(),
        },
        false => (None, Some(body)),
    };
    loop {
        let body = match (&kept, streamed.take()) {
            (Some(kept), _) => Body::from(kept.clone()),
            (None, Some(body)) => body,
            (None, None) => return nobody().into_response(),
        };
        let Some(sent) = sent_on(&parts, &host, body) else { return nobody().into_response() };
        let answer = tokio::select! {
            answer = client.0.request(sent) => answer,
            // What is streamed breaks with its connection.
            () = cluster.until_silent(&host, until), if kept.is_some() => return unanswered().into_response(),
        };
        let is_taken = match &answer {
            Ok(answer) => !answer.headers().contains_key(NOT_LEADING),
            Err(error) => !error.is_connect(),
        };
        if !is_taken && kept.is_some() && Instant::now() < until {
            sleep(limits::HEARTBEAT).await;
            if let Some(leader) = cluster.leader(group, until).await
                && let Some(at) = cluster.host_of(leader)
            {
                host = at;
            }
            continue;
        }
        return match answer {
            Ok(answer) => answered(answer),
            Err(error) if error.is_connect() => nobody().into_response(),
            Err(_) => unanswered().into_response(),
        };
    }
}

/// A request as it is sent on to the node at this host; nothing where that is no host.
fn sent_on(parts: &Parts, host: &str, body: Body) -> Option<Request<Body>> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut sent = Request::new(body);
    *sent.uri_mut() = format!("{}{target}", link::url(host)).parse().ok()?;
    (*sent.method_mut(), *sent.headers_mut()) = (parts.method.clone(), forwarded(&parts.headers));
    Some(sent)
}

fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut to = headers.clone();
    OF_CONNECTION.iter().for_each(|name| drop(to.remove(name)));
    // What the other node answers is passed on as it is, and compressed here.
    to.remove(header::ACCEPT_ENCODING);
    to.remove(header::CONTENT_LENGTH);
    // Whoever is reached decides who may do what: what shows that goes no further.
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].iter().for_each(|name| drop(to.remove(name)));
    to.insert(FORWARDED, HeaderValue::from_static("1"));
    to
}

fn answered(answer: Response<Incoming>) -> Response<Body> {
    let mut response = answer.map(Body::new);
    let headers = response.headers_mut();
    OF_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    headers.remove(NOT_LEADING);
    headers.remove(header::DATE);
    response.extensions_mut().insert(Forwarded);
    response
}

impl From<ClusterError> for Problem {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Refused(reason) => Problem::new(StatusCode::CONFLICT, reason),
            ClusterError::Unavailable(reason) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason),
            ClusterError::Store(error) => error.into(),
        }
    }
}
