//! The HTTP interface: all routes in one place, and what holds for each of them.

mod access;
mod answers;
mod cache;
mod chains;
mod cluster;
mod coding;
mod erase;
mod events;
mod explorer;
mod extract;
mod forward;
mod forwarded;
mod guide;
mod import;
mod inject;
mod keys;
mod line_end;
mod metrics;
mod mirrors;
mod nodes;
mod openapi;
mod origin;
mod preconditions;
mod problem;
mod proofs;
mod record;
mod server;
mod table;
mod trace;
mod turns;
mod unread;
mod witness;

use std::{
    any::Any,
    collections::HashSet,
    convert::Infallible,
    future::ready,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderName, HeaderValue, Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, future::Either};
use hyper::body::Incoming;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any as AnyValue, CorsLayer};
use utoipa_axum::routes;

pub use access::{InForce, Share};
pub use metrics::{OfRoute, Requests, ShownChains};
pub use origin::{Admitted, HostName, Origin};
pub use server::Limits;

use crate::{
    access::{Resource, Role},
    cluster::{Cluster, agreement_timeout},
    core::transaction::Timestamp,
    limits,
    mirror::Mirrors,
    node::Node,
    peers::Peers,
    tls,
};
use access::{Client, End, Holds};
use answers::Answers;
use cache::{Encodings, Sealed};
use forward::{About, FromNode, Way};
use forwarded::References;
use problem::Problem;
use table::{
    Asked,
    Kind::{Between, Listen, Open, Operate, Read, Write},
    Listed, Scope, Table,
};
use turns::Turns;

/// What all handlers share. A clone is another handle to the same.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The content of [`App`].
struct Shared {
    node: Node,
    cluster: Cluster,
    /// Sends requests to other nodes of the cluster.
    others: forward::Client,
    peers: Peers,
    mirrors: Mirrors,
    /// Bytes that request bodies may still take up.
    room: Arc<Semaphore>,
    /// Compressed bodies that may still be decoded at one time.
    decoders: Arc<Semaphore>,
    /// Where answers get room.
    answers: Answers,
    /// In which clients do heavy work.
    turns: Turns,
    /// What is kept for those who listen to chains.
    events: events::Feeds,
    /// The node's names, and the sites whose pages may use it.
    admitted: Admitted,
    /// The OpenAPI document, once the routes are there of which it is made.
    document: OnceLock<Document>,
    /// What requests and connections count.
    requests: Requests,
    /// The chains that have metrics of their own.
    shown_chains: ShownChains,
    /// When the node was started.
    started: Timestamp,
    /// Whether the node stops, which ends all waiting.
    stopping: watch::Receiver<bool>,
}

/// The OpenAPI document.
struct Document {
    json: Bytes,
    /// Its routes.
    routes: matchit::Router<Listed>,
    /// What it lists, with which a debug build compares what is answered.
    answers: HashSet<String>,
}

impl App {
    /// A node with its part in a cluster, its peers and its mirrors, under these names and for the pages of these sites, with metrics of
    /// these chains, until `stopping` says that the node stops.
    pub fn new(
        node: Node,
        cluster: Cluster,
        peers: Peers,
        mirrors: Mirrors,
        admitted: Admitted,
        shown_chains: ShownChains,
        stopping: watch::Receiver<bool>,
    ) -> App {
        let room = Arc::new(Semaphore::new(limits::BODIES_BYTES));
        let decoders = Arc::new(Semaphore::new(limits::DECODERS));
        let (answers, turns) = (Answers::new(admitted.share), Turns::new());
        let events = events::Feeds::new();
        let document = OnceLock::new();
        let (requests, started) = (Requests::default(), node.now());
        let others = forward::Client::new(cluster.clone());
        App(Arc::new(Shared {
            node,
            cluster,
            others,
            peers,
            mirrors,
            room,
            decoders,
            answers,
            turns,
            events,
            admitted,
            document,
            requests,
            shown_chains,
            started,
            stopping,
        }))
    }
}

/// The routes of one chain.
fn chain_routes() -> Table {
    Table::new()
        .on_chain(Write, routes!(inject::inject))
        .on_chain(Write, routes!(chains::leap, chains::leap_by_post))
        .on_chain(Read, routes!(chains::chain))
        .on_chain(Read, routes!(chains::quant))
        .on_chain(Read, routes!(chains::transactions))
        .on_chain(Read, routes!(chains::transaction))
        .on_chain(Read, routes!(chains::transaction_by_id))
        .on_chain(Read, routes!(chains::receipt))
        .on_chain(Read, routes!(chains::consistency))
        .on_chain(Read, routes!(proofs::checkpoint))
        .on_chain(Read, routes!(proofs::tile))
        .on_chain(Read, routes!(proofs::entries))
        .on_chain(Read, routes!(chains::pool))
        .on_chain(Read, routes!(chains::stats))
        .on_chain(Operate, routes!(chains::fork))
        .on_chain(Operate, routes!(erase::erase))
        .on_chain(Read, routes!(keys::keys))
        .on_chain(Operate, routes!(keys::change_writers))
        .on_chain(Operate, routes!(keys::freeze))
        .on_chain(Listen, routes!(events::events))
}

/// The routes of the node.
fn node_routes() -> Table {
    Table::new()
        .on_node(Open, routes!(nodes::index))
        .on_found(Operate, routes!(nodes::bang))
        .on_found(Operate, routes!(import::import, import::give_up))
        .on_found(Read, routes!(import::imports))
        .on_found(Read, routes!(nodes::chains))
        .on_chain(Read, routes!(nodes::get_chain))
        .on_chain(Operate, routes!(nodes::patch_chain))
        .on_node(Operate, routes!(nodes::discover))
        .on_node(Read, routes!(nodes::discovered))
        .on_node(Open, routes!(nodes::hello))
        .on_node(Between, routes!(nodes::greet))
        .on_found(Read, routes!(nodes::has_chain))
        .on_node(Read, routes!(cluster::cluster))
        .on_node(Operate, routes!(cluster::leave))
        .on_found(Operate, routes!(mirrors::follow))
        .on_found(Read, routes!(mirrors::mirrors))
        .on_found(Operate, routes!(mirrors::stop))
        .on_node(Between, routes!(witness::add_checkpoint))
        .on_node(Read, routes!(witness::witness))
        .on_node(Read, routes!(witness::cosigned))
        .on_node(Open, routes!(explorer::file))
        .on_node(Open, routes!(guide::chapters))
        .on_node(Open, routes!(guide::chapter))
        .on_node(Open, routes!(nodes::livez))
        .on_node(Open, routes!(nodes::readyz))
        .on_node(Read, routes!(metrics::metrics))
        .on_node(Open, routes!(nodes::openapi))
}

/// Serves the interface of a node, by TLS where it has that, until `shutdown` says that the node stops; then finishes the requests under
/// way, for a bounded time.
pub async fn serve(
    listener: TcpListener,
    tls: Option<tls::Server>,
    app: App,
    bounds: Limits,
    shutdown: watch::Receiver<bool>,
) {
    let cluster = app.0.cluster.clone();
    let connections = app.0.requests.connections.clone();
    app.0.requests.connections_limit.set(bounds.connections as i64);
    let interface = Arc::new(Interface::new(app));
    let answer = move |request| interface.clone().answer(request);
    server::serve(listener, tls, answer, Some(cluster), bounds, connections, shutdown).await;
}

/// All routes, those of a chain for the default chain as well.
fn all_routes() -> Table {
    node_routes().and("", chain_routes()).and(openapi::NESTED, chain_routes())
}

/// What answers the requests for all routes.
fn router(app: App) -> Router {
    let (routes, document, rules) = all_routes().into_parts();
    app.0.document.get_or_init(|| {
        // The router's paths, before the document has those of OpenAPI.
        let routes = openapi::listed(&document, &rules);
        let document = openapi::finish(document, &rules);
        let json = document.to_json().expect("the document is JSON");
        // utoipa's names of these formats are none of the OpenAPI Format Registry.
        let json = json.replace(r#""u-int"#, r#""uint"#).into();
        Document { json, routes, answers: openapi::answers(&document) }
    });
    routes.fallback(no_route).with_state(app)
}

async fn no_route(request: Request<Body>) -> Problem {
    Problem::not_found(format!("there is no route {}: GET /openapi.json lists all", request.uri().path()))
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!("a handler panicked: {}", text.unwrap_or("without a text"));
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a fault of this node; its log says more").into_response()
}

fn cors(origins: Vec<Origin>) -> CorsLayer {
    let is_admitted = move |origin: &HeaderValue, _: &_| {
        origin.to_str().is_ok_and(|text| text.parse().is_ok_and(|origin: Origin| origins.contains(&origin)))
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_admitted))
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        // The wildcard does not stand for `Authorization` (WHATWG Fetch, section 3.3.5).
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(AnyValue)
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The routes with what holds for each of them: the request's id, no other host's requests, no writes from pages of other sites,
/// nothing for those who may not, no slash at the end, no unknown query parameter, a body decoded and read or the connection closed after it, panics
/// answered, references that a proxy's clients can follow, every error a problem document, a line end behind JSON, a line in
/// the log, and answers compressed.
///
/// It stands around the router as a whole: axum puts a layer around each route, and clones and boxes each of them for every
/// request.
struct Interface {
    app: App,
    router: Router,
    /// Where pages of other sites may use the node.
    cors: Option<CorsLayer>,
}

/// What is known of a request that is let in.
struct LetIn {
    client: Client,
    /// Until it is answered.
    holds: Holds,
    /// Whether what is at hand is enough for it.
    is_local_enough: bool,
}

impl Interface {
    fn new(app: App) -> Interface {
        let origins = &app.0.admitted.origins;
        let cors = (!origins.is_empty()).then(|| cors(origins.clone()));
        Interface { router: router(app.clone()), cors, app }
    }

    /// From the outside in: compression comes last, since it changes bodies only, with the choice of the coding and the tags of
    /// its encodings; then what observes and shapes answers (problems, request ids, the log), then what answers (foreign pages,
    /// panics, routes).
    ///
    /// Every request moves and stores the whole of its future. What a block captures is stored once in it, the arguments of an `async fn`
    /// twice; so what handles each request is a block, or is done before it.
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> impl Future<Output = Response> + Send {
        let (mut request, unread) = unread::lend(request);
        async move {
            let is_head = request.method() == Method::HEAD;
            let encodings = Encodings::of(&mut request);
            let id = request_id(&request);
            let trace_id = trace::trace_id(request.headers());
            let path = tracing::enabled!(tracing::Level::DEBUG).then(|| request.uri().path().to_owned());
            let asked = self.asked(&request);
            let mut under_way =
                self.app.0.requests.begin(asked.template, asked.counted(request.method()), request.method());
            let listed = cfg!(debug_assertions).then(|| (request.method().clone(), asked.path));
            let references = References::of(&request);
            if self.app.0.cluster.is_active() {
                // Where another node answers, its log has the same id.
                request.headers_mut().insert(REQUEST_ID, id.clone());
            }
            let is_of_client = request.extensions().get::<FromNode>().is_none();
            let let_in = self.let_in(&mut request, &asked);
            let token = request.extensions().get::<Client>().and_then(Client::name).map(str::to_owned);
            let response = match let_in {
                Err(problem) => Box::pin(self.refused(request, problem)).await,
                Ok(LetIn { client, holds, is_local_enough }) => {
                    let response = match self.app.0.cluster.is_active() {
                        true => Box::pin(self.in_cluster(request, About::of(&asked), is_local_enough)).await,
                        false => self.here(request).await,
                    };
                    holds.until_ended(self.while_it_may_listen(response, &client, &asked))
                }
            };
            let response = if is_of_client { forward::as_told(response) } else { response };
            let is_finished = response.extensions().get::<forward::Forwarded>().is_some();
            let mut response = if is_finished { response } else { line_end::add(as_problem(response)) };
            if let Some((method, path)) = listed
                && !openapi::has(&self.document().answers, &method, path, &response)
            {
                let (status, media) = (response.status().as_u16(), response.headers().get(header::CONTENT_TYPE));
                tracing::error!(%method, path, status, ?media, "the OpenAPI document does not list this answer");
            }
            references.write(response.headers_mut());
            unread.announce(&mut response);
            let took = under_way.answer(response.status());
            let (request_id, status) = (id.to_str().unwrap_or_default(), response.status().as_u16());
            let (route, method) = (under_way.route(), under_way.method());
            // A wait for a leap that took too long is no failure of the node, and of a full disk the writer tells once.
            let is_told = matches!(response.status(), StatusCode::GATEWAY_TIMEOUT | StatusCode::INSUFFICIENT_STORAGE);
            match response.status().is_server_error() && !is_told {
                true => {
                    tracing::warn!(request_id, route, method, path, status, token, ?took, trace_id, "a request failed")
                }
                false => tracing::debug!(request_id, route, method, path, status, token, ?took, trace_id),
            }
            response.headers_mut().insert(REQUEST_ID, id);
            let response = encodings.write(response, &self.app.0.answers);
            if is_head { without_body(response) } else { response }
        }
    }

    /// Lets a request in, if its client may ask for that, and has not too much under way. Its client is in it then with its right.
    ///
    /// # Errors
    /// Why not.
    fn let_in(&self, request: &mut Request<Body>, asked: &Asked) -> Result<LetIn, Problem> {
        let Shared { cluster, node, admitted, .. } = &*self.app.0;
        if cluster.is_active() {
            forward::distrust(request);
        }
        self.admit(request, asked)?;
        let client = Client::of(request, admitted.access.as_ref(), asked)?;
        client.check(asked, node)?;
        let holds = self.begin(&client, asked)?;
        self.bound(request, &client, asked);
        let is_local_enough = forward::take_consistency(request)?;
        check_query(request, asked)?;
        Ok(LetIn { client, holds, is_local_enough })
    }

    /// Counts a request that begins.
    ///
    /// # Errors
    /// `429`: its client has too much under way.
    fn begin(&self, client: &Client, asked: &Asked) -> Result<Holds, Problem> {
        let share = self.app.0.admitted.share;
        match asked.kind() {
            Some(Listen) => client.hold(Resource::Listeners, 1, share.of(limits::LISTENERS)),
            _ => client.hold(Resource::Requests, 1, share.of(limits::REQUESTS)),
        }
    }

    /// Has a request's body end early where its client may no more send it, and has it take a turn where it reads a chain.
    fn bound(&self, request: &mut Request<Body>, client: &Client, asked: &Asked) {
        if asked.rule().is_some_and(|rule| (rule.kind, rule.scope) == (Read, Scope::Chain)) {
            request.extensions_mut().insert(extract::InTurn);
        }
        let role = asked.kind().and_then(table::Kind::role);
        // What is small is whole when it is looked at.
        if let (Some(in_force), Some(role), false) = (&self.app.0.admitted.access, role, forward::is_small(request)) {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = client.while_allowed(body, role, self.name_of(asked), in_force, End::Broken);
        }
    }

    /// The answer of which others hear no more than their token allows, also where that changes.
    fn while_it_may_listen(&self, response: Response, client: &Client, asked: &Asked) -> Response {
        match self.app.0.admitted.access.as_ref().filter(|_| asked.kind() == Some(Listen)) {
            None => response,
            Some(in_force) => {
                response.map(|body| client.while_allowed(body, Role::Read, self.name_of(asked), in_force, End::Whole))
            }
        }
    }

    /// The name of the chain that a request is about, whatever it calls it by.
    fn name_of(&self, asked: &Asked) -> Option<String> {
        let chain = asked.chain()?;
        Some(self.app.0.node.chain(chain).map_or_else(|| chain.to_owned(), |chain| chain.name.to_string()))
    }

    /// The answer of this node, or of the one that can give it.
    async fn in_cluster(&self, mut request: Request<Body>, about: About, is_local_enough: bool) -> Response {
        let about = &about;
        let Shared { cluster, node, others, .. } = &*self.app.0;
        let until = agreement_timeout();
        // What is sealed can be told without a leader, so none is waited for as long.
        let mut soon = about.may_be_sealed().then(|| Instant::now() + limits::ELECTION[1]);
        loop {
            match forward::way(cluster, node, &request, about, is_local_enough, soon.unwrap_or(until)).await {
                Err(_) if soon.take().is_some() => {
                    if let Some(response) = self.of_sealed(forward::again(&request), about).await {
                        return response;
                    }
                }
                Err(problem) => return problem.into_response(),
                Ok(Way::Here) => {
                    let (taken, again) = forward::Again::of(request, about);
                    let response = self.here(taken).await;
                    let is_taken = !response.headers().contains_key(forward::NOT_LEADING);
                    match again {
                        Some(again) if !is_taken && Instant::now() < until => {
                            tokio::time::sleep(limits::HEARTBEAT).await;
                            request = again.request();
                        }
                        _ => return response,
                    }
                }
                Ok(Way::Local(lag)) => return lag.told(self.here(request).await),
                Ok(Way::There(host, group)) => {
                    return forward::send(others, cluster, host, group, request, until).await;
                }
            }
        }
    }

    /// The answer about what is sealed, of this node or another one that has it, though nobody is known to lead.
    async fn of_sealed(&self, request: Request<Body>, about: &About) -> Option<Response> {
        let Shared { cluster, node, others, .. } = &*self.app.0;
        let Some(group) = about.kept_here(node) else {
            return forward::ask_keepers(others, cluster, about, request.into_parts().0).await;
        };
        let lag = cluster.lag(group);
        let response = self.here(request).await;
        response.extensions().get::<Sealed>().is_some().then(|| lag.told(response))
    }

    /// The answer of this node. A HEAD is asked as a GET, so that its answer has the same headers.
    fn here(&self, mut request: Request<Body>) -> impl Future<Output = Response> + Send {
        // Nobody reads the body of a GET.
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let client = reads.then(|| Client::in_extensions(request.extensions()));
        if request.method() == Method::HEAD {
            *request.method_mut() = Method::GET;
            request.extensions_mut().insert(extract::Head);
        }
        let request = if reads { Ok(request) } else { coding::decoded(&self.app.0.decoders, request) };
        let response = match (request, &self.cors) {
            (Err(problem), _) => Either::Left(ready(coding::refused(problem))),
            (Ok(request), None) => Either::Right(Either::Left(routed(&self.router, request))),
            (Ok(request), Some(cors)) => {
                let routed = |request| routed(&self.router, request);
                Either::Right(Either::Right(across_sites(cors, request, routed).boxed()))
            }
        };
        response.map(|response| {
            let Some(client) = client else { return response };
            let Shared { answers, turns, .. } = &*self.app.0;
            answers.admit(response, &client, turns).unwrap_or_else(IntoResponse::into_response)
        })
    }

    /// The answer to a request that is refused before any route is asked. Pages of other sites see it only with the headers that say so.
    async fn refused(&self, request: Request<Body>, problem: Problem) -> Response {
        match &self.cors {
            None => problem.into_response(),
            Some(cors) => across_sites(cors, request, |_| ready(problem.into_response())).await,
        }
    }

    fn document(&self) -> &Document {
        self.app.0.document.get().expect("the router sets it before it serves")
    }

    /// What a request asks for.
    fn asked(&self, request: &Request<Body>) -> Asked<'_> {
        let Shared { cluster, admitted, .. } = &*self.app.0;
        Asked::of(&self.document().routes, request, admitted.access.is_some() || cluster.is_active())
    }

    /// Refuses what is refused whoever asks for it.
    fn admit(&self, request: &Request<Body>, asked: &Asked) -> Result<(), Problem> {
        let admitted = &self.app.0.admitted;
        let host = admitted.host(request)?;
        // Where there is no route, the method says it.
        let changes = asked.kind().map_or(!request.method().is_safe(), table::Kind::changes);
        if changes && admitted.is_foreign(request.headers(), host.as_ref()) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "a page of another site asked for this write: allow the site with --cors-origin if that is wanted",
            ));
        }
        let path = request.uri().path();
        let bare = path.trim_end_matches('/');
        if !bare.is_empty() && bare != path {
            let is_route = self.document().routes.at(bare).is_ok();
            let cure = if is_route { format!(": ask for {bare}") } else { String::new() };
            return Err(Problem::not_found(format!("there is no route {path}, no route ends with a slash{cure}")));
        }
        Ok(())
    }
}

/// Checks the names of query parameters.
///
/// # Errors
/// `400` for one that the route does not have, or that stands twice.
fn check_query(request: &Request<Body>, asked: &Asked) -> Result<(), Problem> {
    let Some(query) = request.uri().query().filter(|query| !query.is_empty()) else { return Ok(()) };
    let Some(known) = asked.listed.map(|listed| &listed.parameters) else { return Ok(()) };
    let mut seen = HashSet::new();
    for (name, _) in extract::parse_pairs(query.as_bytes())? {
        if !known.contains(&name) {
            let names = match known.as_slice() {
                [] => "none".into(),
                known => known.join(", "),
            };
            return Err(Problem::bad_request(format!("there is no query parameter {name:?}: this route has {names}")));
        }
        if !seen.insert(name.clone()) {
            return Err(Problem::bad_request(format!("the query parameter {name:?} stands twice: send it once")));
        }
    }
    Ok(())
}

/// The router's answer, also where a handler panics.
fn routed(router: &Router, request: Request<Body>) -> impl Future<Output = Response> + Send + use<> {
    // It is always ready, and calls no handler before it is polled.
    let answer = AssertUnwindSafe(router.clone().call(request));
    answer.catch_unwind().map(|answer| answer.map_or_else(panicked, |Ok(answer)| answer))
}

/// An answer, with what pages of other sites need that may use the node.
async fn across_sites<F: Future<Output = Response> + Send>(
    cors: &CorsLayer,
    request: Request<Body>,
    answer: impl FnOnce(Request<Body>) -> F + Send,
) -> Response {
    let mut answer = Some(answer);
    let answer = service_fn(move |request| {
        let answer = answer.take().expect("it is asked once");
        answer(request).map(Ok::<_, Infallible>)
    });
    let Ok(response) = cors.layer(answer).oneshot(request).await;
    response
}

/// The answer to a HEAD: the length is that of the body that is left out (RFC 9110 section 8.6).
fn without_body(mut response: Response) -> Response {
    let length = response.body().size_hint().exact();
    if let Some(length) = length.filter(|_| !response.headers().contains_key(header::CONTENT_LENGTH)) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response.map(|_| Body::empty())
}

/// The client's id of the request, or a new one.
fn request_id(request: &Request<Body>) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID);
    let usable =
        |id: &&HeaderValue| id.len() <= 128 && id.as_bytes().iter().all(u8::is_ascii_graphic) && !id.is_empty();
    given.filter(usable).cloned().unwrap_or_else(new_request_id)
}

fn new_request_id() -> HeaderValue {
    let mut digits = [0; 32];
    hex::encode_to_slice(rand::random::<[u8; 16]>(), &mut digits).expect("16 bytes are 32 digits");
    HeaderValue::from_bytes(&digits).expect("hexadecimal digits are visible ASCII")
}

/// Makes a problem document of an error that has no body of its own, such as `405`.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    let has_body = response.extensions().get::<witness::OwnBody>().is_some();
    if !(status.is_client_error() || status.is_server_error()) || has_body {
        return response;
    }
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if kind.starts_with(b"application/") {
        return response;
    }
    let detail = match status {
        StatusCode::METHOD_NOT_ALLOWED => "this route has other methods: the header Allow names them",
        _ => "the request cannot be answered",
    };
    let mut problem = Problem::new(status, detail).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    /// What a route is without its rule nobody knows: not who may call it, nor whether a page of another site may.
    #[test]
    fn every_route_has_its_rule() {
        let (_, mut document, rules) = all_routes().into_parts();
        let mut count = 0;
        for (path, item) in &mut document.paths.paths {
            for (method, _) in openapi::operations(item) {
                let rule = rules.get(&(path.clone(), method.clone()));
                let rule = rule.unwrap_or_else(|| panic!("{method} {path} has no rule"));
                let of_default = path.strip_prefix(openapi::NESTED).filter(|route| !route.is_empty());
                if let Some(route) = of_default {
                    assert_eq!(rules.get(&(route.to_owned(), method)), Some(rule), "{path}");
                }
                count += 1;
            }
        }
        assert_eq!(count, rules.len(), "a rule is of no route");
    }

    /// Its connection goes on, and the client is told.
    #[tokio::test]
    async fn a_handler_that_panics_is_answered() {
        // Before there is a future that could be polled.
        fn panics() -> std::future::Ready<&'static str> {
            panic!("it is meant to")
        }
        let request = Request::get("/").body(Body::empty()).unwrap();
        let response = routed(&Router::new().route("/", get(panics)), request).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
