//! Chains as a whole, other nodes, and the node's own state.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    App,
    chains::{Stats, page_limit},
    extract::{ChainOf, Query, read_object, read_whole},
    inject::text_header,
    problem::{Problem, ProblemDocument},
};
use crate::{
    core::{
        chain::LeapPolicy,
        hash::Hash,
        json,
        rules::{ChainName, Fault, Rules},
    },
    limits,
    peers::{Hello, MAX_HELLO, PeerView},
    writer::{ChainHandle, Health},
};

/// A chain to make.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document; core::rules reads it")]
pub struct Bang {
    /// `[a-z0-9][a-z0-9._-]{0,62}`.
    name: String,
    /// Zero bits of each quant's hash, 0 to 48; 12 where it is not said.
    difficulty: Option<u8>,
    /// A JSON Schema (2020-12) that injected data must meet, or null.
    schema: Option<Value>,
    /// The largest canonical data accepted; 1 MiB where it is not said.
    max_bytes: Option<u64>,
    /// Hex Ed25519 public keys of those who may write, or null for everyone.
    writers: Option<Vec<String>>,
    /// When it leaps by itself; by hand where it is not said.
    leap: Option<LeapPolicy>,
    /// Nodes that carry it: 1, until nodes carry chains together.
    replicas: Option<u64>,
}

/// A chain.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Chain)]
pub struct ChainView {
    /// Its name.
    name: String,
    /// The hash of its first own quant.
    #[schema(value_type = String)]
    id: Hash,
    /// Its rules, as they stand in its bang.
    rules: Value,
    /// When it leaps by itself.
    leap: LeapPolicy,
    /// Nodes that carry it.
    replicas: u64,
    /// How large it is.
    stats: Stats,
}

/// A chain that could not be loaded, as it stands in the list of all.
#[derive(Serialize)]
struct LostChain<'a> {
    name: &'a str,
    damage: &'a str,
}

impl ChainView {
    fn of(chain: &ChainHandle) -> ChainView {
        ChainView {
            name: chain.name.to_string(),
            id: chain.id,
            rules: chain.rules.to_value(),
            leap: chain.leap_policy(),
            replicas: 1,
            stats: Stats::of(chain),
        }
    }

    /// `201` with the new chain.
    pub fn created(chain: &ChainHandle) -> Response {
        let location = text_header(format!("/chains/{}", chain.name));
        (StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(ChainView::of(chain))).into_response()
    }
}

/// Takes the name of a chain to make out of a body.
///
/// # Errors
/// `422` where it is missing or no name.
pub fn take_name(fields: &mut Map<String, Value>) -> Result<ChainName, Problem> {
    let name = fields.remove("name").ok_or_else(|| vec![Fault::of("name", "is missing")])?;
    let name = name.as_str().ok_or_else(|| vec![Fault::of("name", "must be a string")])?;
    Ok(name.parse().map_err(|error| vec![Fault::of("name", error)])?)
}

/// Takes the leap policy out of a body; null is a policy that never leaps by itself.
///
/// # Errors
/// `422` where it is malformed or out of bounds.
pub fn take_leap(fields: &mut Map<String, Value>) -> Result<Option<LeapPolicy>, Problem> {
    let fields = match fields.remove("leap") {
        None => return Ok(None),
        Some(Value::Null) => return Ok(Some(LeapPolicy::default())),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(vec![Fault::of("leap", "must be an object, or null to leap by hand only")].into()),
    };
    let (least, most) = (limits::LEAP_EVERY_MIN.as_millis() as u64, limits::LEAP_EVERY_MAX.as_millis() as u64);
    let mut policy = LeapPolicy::default();
    let mut faults = Vec::new();
    for (name, value) in fields {
        let (field, least, most) = match name.as_str() {
            "every_ms" => (&mut policy.every_ms, least, most),
            "transactions" => (&mut policy.transactions, 1, u64::MAX),
            _ => {
                faults.push(Fault::of(&name, "unknown field: a leap policy has every_ms and transactions"));
                continue;
            }
        };
        *field = value.as_u64().filter(|number| (least..=most).contains(number));
        if field.is_none() && !value.is_null() {
            faults.push(Fault::of(&name, format!("must be a whole number from {least} to {most}")));
        }
    }
    if faults.is_empty() { Ok(Some(policy)) } else { Err(Problem::from(faults).within("/leap")) }
}

fn take_replicas(fields: &mut Map<String, Value>) -> Result<(), Problem> {
    match fields.remove("replicas") {
        None => Ok(()),
        Some(replicas) if replicas == 1 => Ok(()),
        Some(_) => Err(vec![Fault::of("replicas", "must be 1: nodes do not carry chains together yet")].into()),
    }
}

/// Makes a chain.
#[utoipa::path(
    post,
    path = "/bang",
    tag = "node",
    request_body = Bang,
    responses(
        (status = 201, description = "The chain", body = ChainView, headers(("Location", description = "The chain"))),
        (status = 409, description = "The name is taken", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Nothing was changed", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn bang(State(app): State<App>, request: Request<Body>) -> Result<Response, Problem> {
    let mut fields = read_object(&app, request).await?;
    let name = take_name(&mut fields)?;
    let leap = take_leap(&mut fields)?.unwrap_or_default();
    take_replicas(&mut fields)?;
    let rules = Rules::new(name).amend(fields)?;
    let chain = app.0.node.bang(rules, None, leap).await?;
    Ok(ChainView::created(&chain))
}

/// Query parameters of `GET /chains`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChainsQuery {
    /// Only chains with a name behind this one.
    after: Option<String>,
    /// How many, 100 where it is not said.
    #[param(maximum = 10000)]
    limit: Option<u64>,
}

/// A page of the node's chains, by name. The next page is in the header `Link`.
#[utoipa::path(
    get,
    path = "/chains",
    tag = "node",
    params(ChainsQuery),
    responses((status = 200, description = "The chains", body = [ChainView], headers(("Link", description = "The next page"))))
)]
pub async fn chains(State(app): State<App>, Query(query): Query<ChainsQuery>) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)? as usize;
    let chains = app.0.node.chains(query.after.as_deref(), limit + 1);
    let mut body = vec![b'['];
    let mut last = None;
    for (name, chain) in chains.iter().take(limit) {
        // Rules can be large, so a page may end before its limit.
        if body.len() > limits::PAGE_BYTES {
            break;
        }
        if last.is_some() {
            body.push(b',');
        }
        let written = match chain {
            Ok(chain) => serde_json::to_writer(&mut body, &ChainView::of(chain)),
            Err(damage) => serde_json::to_writer(&mut body, &LostChain { name: name.as_str(), damage }),
        };
        written.expect("writing to memory does not fail");
        last = Some(name);
    }
    body.push(b']');
    let mut headers = HeaderMap::new();
    if let Some(last) = last.filter(|&last| chains.last().is_some_and(|(name, _)| name != last)) {
        headers.insert(header::LINK, text_header(format!("</chains?after={last}&limit={limit}>; rel=\"next\"")));
    }
    Ok((headers, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// One chain.
#[utoipa::path(
    get,
    path = "/chains/{chain}",
    tag = "node",
    params(("chain" = String, Path, description = "Its name, or its id")),
    responses(
        (status = 200, description = "The chain", body = ChainView),
        (status = 404, description = "There is none", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn get_chain(target: ChainOf) -> axum::Json<ChainView> {
    axum::Json(ChainView::of(&target.chain))
}

/// What may change of a chain: all that is no rule.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct Patch {
    /// When it leaps by itself, or null for by hand only.
    leap: Option<LeapPolicy>,
    /// Nodes that carry it: 1, until nodes carry chains together.
    replicas: Option<u64>,
}

/// Changes what is no rule of a chain. For other rules, fork it.
#[utoipa::path(
    patch,
    path = "/chains/{chain}",
    tag = "node",
    params(("chain" = String, Path, description = "Its name")),
    request_body = Patch,
    responses(
        (status = 200, description = "The chain as it is now", body = ChainView),
        (status = "4XX", description = "Nothing was changed", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn patch_chain(State(app): State<App>, target: ChainOf, request: Request<Body>) -> Result<Response, Problem> {
    let mut fields = read_object(&app, request).await?;
    let leap = take_leap(&mut fields)?;
    take_replicas(&mut fields)?;
    if let Some(name) = fields.keys().next() {
        let detail =
            "cannot be changed: leap and replicas can; rules never change, but a fork can have others (POST …/fork)";
        return Err(vec![Fault::of(name, detail)].into());
    }
    if let Some(leap) = leap {
        app.0.node.set_leap(&target.chain, leap).await?;
    }
    Ok(axum::Json(ChainView::of(&target.chain)).into_response())
}

/// A node to meet.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct Discover {
    /// Such as `localhost:5001` or `https://ledger.example`.
    host: String,
}

/// Meets another node: both list each other, and tell each other whom they know.
#[utoipa::path(
    post,
    path = "/discover",
    tag = "node",
    request_body(content((Discover = "application/json"), (Discover = "application/x-www-form-urlencoded"))),
    responses(
        (status = 201, description = "The live nodes", body = [PeerView]),
        (status = 422, description = "It does not answer, or may not be called", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn discover(State(app): State<App>, request: Request<Body>) -> Result<Response, Problem> {
    let mut fields = read_object(&app, request).await?;
    let host = fields.remove("host").ok_or_else(|| vec![Fault::of("host", "is missing")])?;
    let host = host.as_str().ok_or_else(|| vec![Fault::of("host", "must be a string such as \"localhost:5001\"")])?;
    if let Some(name) = fields.keys().next() {
        return Err(vec![Fault::of(name, "unknown field: a node to meet has a host")].into());
    }
    let live = app.0.peers.discover(host).await?;
    let known = app.0.peers.known().borrow().clone();
    app.0.node.set_nodes(known).await?;
    Ok((StatusCode::CREATED, axum::Json(live)).into_response())
}

/// The live nodes known to this one, itself not counted.
#[utoipa::path(get, path = "/discover", tag = "node", responses((status = 200, description = "The live nodes", body = [PeerView])))]
pub async fn discovered(State(app): State<App>) -> axum::Json<Vec<PeerView>> {
    axum::Json(app.0.peers.live())
}

/// Who this node is and whom it knows. Nodes call it.
#[utoipa::path(get, path = "/peers/hello", tag = "node", responses((status = 200, description = "This node", body = Hello)))]
pub async fn hello(State(app): State<App>) -> axum::Json<Hello> {
    axum::Json(app.0.peers.hello())
}

/// Another node says who it is; it is called back, and listed if it answers as the same. Nodes call it.
#[utoipa::path(
    post,
    path = "/peers/hello",
    tag = "node",
    request_body = Hello,
    responses(
        (status = 200, description = "This node", body = Hello),
        (status = 422, description = "The caller cannot be called back", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn greet(State(app): State<App>, request: Request<Body>) -> Result<axum::Json<Hello>, Problem> {
    let body = read_whole(&app, request.into_body()).await?;
    if body.bytes.len() > MAX_HELLO {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a hello has at most {MAX_HELLO} bytes")));
    }
    let hello = serde_json::from_value(json::parse(&body.bytes)?).map_err(|_| {
        let detail =
            "the body is not a hello: an object with the strings host, id and version, and the array nodes of strings";
        Problem::unprocessable(detail, Vec::new())
    })?;
    Ok(axum::Json(app.0.peers.greet(hello).await?))
}

/// That it answers.
#[derive(Serialize, utoipa::ToSchema)]

pub struct Status {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether the program runs.
#[utoipa::path(get, path = "/livez", tag = "node", responses((status = 200, description = "It does", body = Status)))]
pub async fn livez() -> axum::Json<Status> {
    axum::Json(Status { status: "ok" })
}

/// Whether the node takes reads and writes.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "node",
    responses(
        (status = 200, description = "It does", body = Status),
        (status = 503, description = "It takes no writes, or a chain is damaged, which it names", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn readyz(State(app): State<App>) -> Result<axum::Json<Status>, Problem> {
    match app.0.node.health() {
        Health::Ready => match app.0.node.damages().as_slice() {
            [] => Ok(axum::Json(Status { status: "ok" })),
            damages => {
                let name = |(name, detail): &(ChainName, String)| format!("the chain \"{name}\" is damaged: {detail}");
                let names: Vec<String> = damages.iter().map(name).collect();
                Err(Problem::overloaded(format!("{}; the others go on", names.join("; "))))
            }
        },
        Health::Full => Err(Problem::overloaded("the disk is full: writes are refused until space is freed")),
        Health::Failed(detail) => {
            Err(Problem::overloaded(format!("{detail}: no more writes are taken until the node is started again")))
        }
    }
}

/// All routes as OpenAPI 3.1.
#[utoipa::path(get, path = "/openapi.json", tag = "node", responses((status = 200, description = "The document", body = Value)))]
pub async fn openapi(State(app): State<App>) -> Response {
    let document = app.0.document.get().expect("the router sets it before it serves").clone();
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// What this is, and where everything else is.
#[utoipa::path(get, path = "/", tag = "node", responses((status = 200, description = "The index", body = Value)))]
pub async fn index(State(app): State<App>) -> axum::Json<Value> {
    axum::Json(json!({
        "name": "qbc",
        "version": env!("CARGO_PKG_VERSION"),
        "id": app.0.node.id(),
        "chains": app.0.node.chain_count(),
        "try": {
            "POST /inject": "add a transaction: {\"data\": any JSON}",
            "GET /leap": "mine what is pooled into a quant",
            "GET /chain": "the whole chain",
            "GET /events?from=0": "the same as it grows, without end",
            "GET /transactions/1/receipt": "the proof that a transaction is in the chain",
            "POST /bang": "make a chain of your own: {\"name\": …}, used at /chains/{name}/…",
            "GET /chains": "all chains",
            "GET /stats": "how large the chain is",
            "POST /discover": "meet another node: {\"host\": \"localhost:5001\"}",
            "GET /openapi.json": "all of it"
        }
    }))
}
