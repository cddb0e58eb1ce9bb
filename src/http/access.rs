//! Who sends a request, whether it may, and how much it may take up.
//!
//! A client is an address, and with an access file also the token that it shows (RFC 6750). The node that a client reaches decides; other
//! nodes of the cluster answer what that one sends on, over connections on which it has shown its key and the cluster's secret. The
//! header with the token is taken off here: no handler, no other node and no line of the log gets it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    extract::FromRequestParts,
    http::{Extensions, HeaderMap, HeaderValue, Request, StatusCode, header, request::Parts},
    response::Response,
};
use http_body::{Frame, SizeHint};
use tokio::sync::watch;

use super::{
    answers::holding,
    forward::FromNode,
    problem::Problem,
    table::{Asked, Scope},
};
use crate::{
    access::{Access, Held, On, Resource, Role, TokenAt, Usage},
    limits, mine,
    node::Node,
};

/// What is in force of the access file, as it changes.
pub type InForce = watch::Receiver<Arc<Access>>;

/// The percentage of what a node has that one client may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u8);

impl Default for Share {
    fn default() -> Share {
        Share(limits::CLIENT_SHARE)
    }
}

impl std::str::FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Share, &'static str> {
        let percent = text.parse().ok().filter(|percent| (1..=100).contains(percent));
        percent.map(Share).ok_or("a share is a whole number of percent, 1 to 100")
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Share {
    /// So much of this, at least 1.
    pub fn of(self, all: usize) -> usize {
        (all / 100 * usize::from(self.0) + all % 100 * usize::from(self.0) / 100).max(1)
    }
}

/// Who sends a request.
#[derive(Clone)]
pub struct Client {
    right: Right,
    /// What its address takes up; nothing where another node of the cluster sends it on, which has counted it.
    address: Option<Arc<Usage>>,
}

#[derive(Clone)]
enum Right {
    /// Nobody has looked yet: it may do nothing.
    Unknown,
    /// There is no access file, or another node of the cluster has looked already.
    All,
    /// That of a token, or of those who show none.
    Of(Arc<Access>, Option<TokenAt>),
}

const NO_TOKEN: &str = r#"Bearer realm="qbc""#;
const INVALID_TOKEN: &str = r#"Bearer realm="qbc", error="invalid_token""#;

fn insufficient(role: Role) -> &'static str {
    match role {
        Role::Read => r#"Bearer realm="qbc", error="insufficient_scope", scope="read""#,
        Role::Write => r#"Bearer realm="qbc", error="insufficient_scope", scope="write""#,
        Role::Operate => r#"Bearer realm="qbc", error="insufficient_scope", scope="operate""#,
    }
}

impl Client {
    /// One at the address that takes up this; none for another node of the cluster. It may do nothing before its request is looked at.
    pub fn at(address: Option<Arc<Usage>>) -> Client {
        Client { right: Right::Unknown, address }
    }

    /// Finds who sends a request, and takes the token off it. The client is in the request then, for its handler.
    ///
    /// # Errors
    /// `401`: it shows a token that is unknown. `400`: it shows two.
    pub fn of(request: &mut Request<Body>, in_force: Option<&InForce>, asked: &Asked) -> Result<Client, Problem> {
        let shown = shown(request.headers_mut());
        let is_of_node = request.extensions().get::<FromNode>().is_some();
        let client = request.extensions_mut().get_mut::<Client>().expect("every connection has its client");
        client.right = match in_force.filter(|_| !is_of_node) {
            None => Right::All,
            Some(in_force) => {
                let access = in_force.borrow().clone();
                // What is open is so also to those who show a token that is no more.
                let is_open = asked.kind().is_none_or(|kind| kind.role().is_none());
                let token = match shown.and_then(|shown| find(&access, shown)) {
                    Err(_) if is_open => None,
                    token => token?,
                };
                Right::Of(access, token)
            }
        };
        Ok(client.clone())
    }

    /// The client that was found for a request with these extensions.
    pub fn in_extensions(extensions: &Extensions) -> Client {
        extensions.get::<Client>().cloned().expect("no request comes to a handler before its client is known")
    }

    /// The name of its token.
    pub fn name(&self) -> Option<&str> {
        match &self.right {
            Right::Of(access, Some(token)) => Some(access.token(*token).name.as_str()),
            _ => None,
        }
    }

    /// Whether it may do that on a chain.
    pub fn may(&self, role: Role, chain: &str) -> bool {
        self.has(role, On::Chain(chain))
    }

    /// Whether it may do that on all chains.
    pub fn may_everywhere(&self, role: Role) -> bool {
        self.has(role, On::All)
    }

    fn has(&self, role: Role, on: On) -> bool {
        match &self.right {
            Right::Unknown => false,
            Right::All => true,
            Right::Of(access, token) => access.may(*token, role, on),
        }
    }

    /// # Errors
    /// It may not do that on the chain of this name.
    pub fn ensure(&self, role: Role, chain: &str) -> Result<(), Problem> {
        self.ensure_on(role, On::Chain(chain))
    }

    /// # Errors
    /// It may not do that on all chains.
    pub fn ensure_everywhere(&self, role: Role) -> Result<(), Problem> {
        self.ensure_on(role, On::All)
    }

    /// Looks whether it may ask for this, as far as the path tells.
    ///
    /// # Errors
    /// `401`: it has to show a token. `403`: it may not.
    pub fn check(&self, asked: &Asked, node: &Node) -> Result<(), Problem> {
        let Some((rule, role)) = asked.rule().and_then(|rule| Some((rule, rule.kind.role()?))) else { return Ok(()) };
        match rule.scope {
            _ if matches!(self.right, Right::All) => Ok(()),
            Scope::Found => self.ensure_on(role, On::Any),
            // What changes the node is felt by all its chains.
            Scope::Node => self.ensure_on(role, if rule.kind.changes() { On::All } else { On::Any }),
            Scope::Chain => {
                let chain = asked.chain().unwrap_or_default();
                // Rights go by names, whatever a chain is called by; and who has none is told no name.
                let is_right = match node.chain(chain) {
                    Some(chain) => self.may(role, chain.name.as_str()),
                    None => self.may(role, chain),
                };
                if is_right { Ok(()) } else { Err(self.refusal(role, On::Chain(chain))) }
            }
        }
    }

    fn ensure_on(&self, role: Role, on: On) -> Result<(), Problem> {
        if self.has(role, on) { Ok(()) } else { Err(self.refusal(role, on)) }
    }

    /// That it may not.
    fn refusal(&self, role: Role, on: On) -> Problem {
        if !matches!(self.right, Right::Of(_, Some(_))) {
            let detail = "this takes a token: send it in the header Authorization: Bearer TOKEN";
            return Problem { challenge: Some(NO_TOKEN), ..Problem::new(StatusCode::UNAUTHORIZED, detail) };
        }
        let place = match on {
            On::Chain(chain) => format!("on the chain {chain:?}"),
            On::All => "on all chains (\"*\")".into(),
            On::Any => "on any chain".into(),
        };
        let name = self.name().unwrap_or_default();
        let detail = format!(
            "the token {name:?} has not the role {role} {place}: the node's operator can add that in its access file"
        );
        Problem { challenge: Some(insufficient(role)), ..Problem::new(StatusCode::FORBIDDEN, detail) }
    }

    /// What it takes up: of its address, and of its token.
    pub fn usages(&self) -> [Option<&Arc<Usage>>; 2] {
        let token = match &self.right {
            Right::Of(access, Some(token)) => Some(&access.token(*token).usage),
            _ => None,
        };
        [self.address.as_ref(), token]
    }

    /// Whether no other client is connected.
    pub fn is_alone(&self) -> bool {
        self.address.as_ref().is_some_and(|usage| usage.is_alone())
    }

    /// Does what seeks proofs of work in its turns, so that others get theirs.
    pub async fn mining<T>(&self, work: impl Future<Output = T>) -> T {
        let slices = self.usages().map(|usage| usage.map(|usage| usage.slices.clone()));
        mine::in_turns_of(slices, work).await
    }

    /// Takes so much of what the node has.
    ///
    /// # Errors
    /// `429`: it would be more than one client's share.
    pub fn hold(&self, resource: Resource, amount: usize, bound: usize) -> Result<Holds, Problem> {
        let hold = |usage: Option<&Arc<Usage>>| match usage {
            None => Ok(None),
            Some(usage) => usage.hold(resource, amount, bound).map(Some).ok_or_else(|| too_much(resource)),
        };
        let [address, token] = self.usages();
        Ok(Holds([hold(address)?, hold(token)?]))
    }

    /// A body that goes on only while its client may do that on a chain, or on any where none is named: that of a request breaks off, that
    /// of an answer ends.
    pub fn while_allowed(&self, body: Body, role: Role, chain: Option<String>, in_force: &InForce, end: End) -> Body {
        let Right::Of(access, token) = &self.right else { return body };
        let may = move |access: &Access, token| access.may(token, role, chain.as_deref().map_or(On::Any, On::Chain));
        let over = Box::pin(until_not(access.clone(), *token, in_force.clone(), may));
        Body::new(Allowed { body, over, end })
    }
}

/// How a body is over whose client may no more go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With an error.
    Broken,
    /// As if that were all.
    Whole,
}

/// Until whoever has this token, or none, may not do that any more.
async fn until_not(
    mut access: Arc<Access>,
    mut token: Option<TokenAt>,
    mut in_force: InForce,
    may: impl Fn(&Access, Option<TokenAt>) -> bool + Send,
) {
    // The file may have changed since the request came.
    in_force.mark_changed();
    while in_force.changed().await.is_ok() {
        let now = in_force.borrow_and_update().clone();
        let same = token.and_then(|token| now.same(&access, token));
        if same.is_none() && token.is_some() || !may(&now, same) {
            return;
        }
        (access, token) = (now, same);
    }
    // The node stops, and ends what goes on by itself.
    std::future::pending().await
}

/// The token that a request shows, which is taken off it; nothing where it shows none.
///
/// # Errors
/// `400`: there are two, and it is not said which is meant.
fn shown(headers: &mut HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Ok(None);
    }
    let is_one = headers.get_all(header::AUTHORIZATION).iter().count() == 1;
    let value = headers.remove(header::AUTHORIZATION);
    match is_one {
        true => Ok(value),
        false => Err(Problem::bad_request("the header Authorization stands twice: send one token")),
    }
}

/// # Errors
/// `401`: it is none of the access file.
fn find(access: &Access, shown: Option<HeaderValue>) -> Result<Option<TokenAt>, Problem> {
    let Some(shown) = shown else { return Ok(None) };
    let text = shown.as_bytes();
    let (scheme, token) = text.split_at(text.iter().position(|&byte| byte == b' ').unwrap_or(text.len()));
    // Another scheme is that of a proxy, or of nobody.
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(None);
    }
    let token = token.trim_ascii();
    let found = crate::access::is_token(token).then(|| access.find(token)).flatten();
    found.map(Some).ok_or_else(|| {
        let detail = "the token is none of this node's: it is cut off, or was taken out of the node's access file";
        Problem { challenge: Some(INVALID_TOKEN), ..Problem::new(StatusCode::UNAUTHORIZED, detail) }
    })
}

fn too_much(resource: Resource) -> Problem {
    let what = match resource {
        Resource::Connections => "connections",
        Resource::Requests => "requests under way",
        Resource::Listeners => "listeners to events",
        Resource::BodyBytes => "bytes of bodies",
        Resource::AnswerBytes => "bytes of answers that it does not take",
        Resource::Imports => "imports under way (GET /import lists them)",
    };
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        format!(
            "this client has too many {what} at one time, so that none are left for others: end some, or send again later"
        ),
    )
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Client::in_extensions(&parts.extensions))
    }
}

/// What a client has taken, until this is dropped.
#[derive(Default)]
pub struct Holds([Option<Held>; 2]);

impl Holds {
    /// Puts two of one client and kind together.
    pub fn merge(&mut self, other: Holds) {
        for (held, other) in self.0.iter_mut().zip(other.0) {
            match (held, other) {
                (Some(held), Some(other)) => held.merge(other),
                (held, other) => *held = other.or_else(|| held.take()),
            }
        }
    }

    /// Gives a part back.
    pub fn give_back(&mut self, amount: usize) {
        self.0.iter_mut().flatten().for_each(|held| held.give_back(amount));
    }

    /// Holds it until an answer that is not known whole yet has ended.
    pub fn until_ended(self, response: Response) -> Response {
        let is_whole = http_body::Body::size_hint(response.body()).exact().is_some();
        match is_whole || self.0.iter().all(Option::is_none) {
            true => response,
            false => response.map(|body| holding(body, self)),
        }
    }
}

/// A body whose client must be allowed to go on.
struct Allowed {
    body: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    end: End,
}

impl http_body::Body for Allowed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            // It is over for good: nobody polls again behind an error or an end.
            let broken = || Err(axum::Error::new("its sender may not go on"));
            return Poll::Ready((self.end == End::Broken).then(broken));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
impl Client {
    /// One that may do everything, at an address of its own, while others are connected.
    pub fn one_of_many() -> Client {
        let (address, all) = (Arc::<Usage>::default(), Arc::new(()));
        std::mem::forget([all.clone(), all.clone()]);
        address.present.set(all).expect("it is new");
        Client { right: Right::All, address: Some(address) }
    }

    /// The same while nobody else is connected.
    pub fn alone() -> Client {
        Client { right: Right::All, address: Some(Arc::default()) }
    }
}
