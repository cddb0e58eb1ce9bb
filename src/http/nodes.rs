//! Chains as a whole, other nodes, and the node's own state.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    App, REQUEST_ID,
    access::Client,
    cache::insists_on,
    chains::{Stats, page_limit},
    explorer,
    extract::{ChainOf, Place, Query, Rooms, read_object, read_whole, refuse_more, take_field},
    forward::{self, Way},
    inject::text_header,
    openapi::{Cached, Guard, NameForm, PublicKey},
    preconditions::{expected, is_only_if_new, refuse_conditions, refuse_key},
    problem::Problem,
    trace::{TRACE_PARENT, TRACE_STATE},
};
use crate::{
    access::Role,
    cluster::{ClusterError, agreement_timeout},
    core::{
        chain::LeapPolicy,
        count::Index,
        hash::Hash,
        json,
        rules::{ChainName, Fault, Rules},
    },
    limits,
    node::Group,
    peers::{Hello, MAX_HELLO, PeerView},
    writer::{ChainHandle, Health, Refused},
};

/// A chain to make.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document; core::rules reads it")]
pub struct Bang {
    /// Its name.
    name: ChainName,
    /// Zero bits of each quant's hash; 12 where it is not said.
    #[schema(nullable = false, maximum = 48)]
    difficulty: Option<u8>,
    /// A JSON Schema (2020-12) that injected data must meet, or null for any data.
    #[schema(schema_with = super::openapi::json_schema)]
    schema: Option<Value>,
    /// The largest canonical data accepted; 1 MiB where it is not said.
    #[schema(nullable = false, minimum = 1, maximum = 4194304)]
    max_bytes: Option<u64>,
    /// Those who may write, or null for everyone.
    #[schema(min_items = 1)]
    writers: Option<Vec<PublicKey>>,
    /// When it leaps by itself; by hand where it is not said.
    leap: Option<LeapPolicy>,
    /// On how many nodes of the cluster it is kept: 1, 3 or 5. Without it 3 where there are so many, else 1.
    #[schema(schema_with = super::openapi::replicas)]
    replicas: Option<u64>,
}

/// A chain.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Chain)]
pub struct ChainView {
    /// Its name.
    #[schema(value_type = ChainName)]
    name: String,
    /// The hash of its first own quant.
    id: Hash,
    /// Its rules, as they stand in its bang; but the writers are those in force.
    #[schema(value_type = RulesView)]
    rules: Value,
    /// The index of the transaction that froze it for ever, or null.
    #[schema(required = true)]
    frozen: Option<u64>,
    /// When it leaps by itself.
    leap: LeapPolicy,
    /// On how many nodes it is kept; in a cluster, `GET /chains/{chain}` says on which, with role and size of each.
    replicas: Value,
    /// How large it is.
    stats: Stats,
}

/// The rules of a chain. They never change, but that the writers may name others in their place.
#[derive(utoipa::ToSchema)]
#[schema(as = Rules)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document; core::rules writes it")]
pub struct RulesView {
    /// The chain's name.
    name: ChainName,
    /// Zero bits of each quant's hash.
    #[schema(maximum = 48)]
    difficulty: u8,
    /// A JSON Schema (2020-12) that injected data meets, or null for any data.
    #[schema(schema_with = super::openapi::json_schema, required = true)]
    schema: Option<Value>,
    /// The largest canonical data accepted.
    max_bytes: u64,
    /// Those who may write, or null for everyone.
    #[schema(required = true)]
    writers: Option<Vec<PublicKey>>,
    /// The quant of another chain that this one goes on from, or null.
    #[schema(required = true)]
    fork_of: Option<ForkOfView>,
}

/// A quant of another chain.
#[derive(utoipa::ToSchema)]
#[schema(as = ForkOf)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document; core::rules writes it")]
pub struct ForkOfView {
    /// That chain's id.
    chain: Hash,
    /// The quant's index.
    index: u64,
    /// The quant's hash.
    hash: Hash,
}

/// A chain in the list of all.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum ListedChain<'a> {
    /// A chain.
    Loaded(Box<ChainView>),
    /// One that could not be loaded.
    Lost {
        /// Its name.
        #[schema(value_type = ChainName)]
        name: &'a str,
        /// What does not hold in what is stored of it.
        damage: &'a str,
    },
}

impl ChainView {
    fn of(chain: &ChainHandle, replicas: usize) -> ChainView {
        ChainView {
            name: chain.name.to_string(),
            id: chain.id,
            rules: chain.rules().to_value(),
            frozen: chain.frozen().map(Index::get),
            leap: chain.leap_policy(),
            replicas: replicas.into(),
            stats: Stats::of(chain),
        }
    }

    /// With the nodes of a cluster that keep it.
    async fn in_cluster(app: &App, chain: &ChainHandle) -> ChainView {
        let cluster = &app.0.cluster;
        let replicas = if cluster.is_active() { cluster.replicas(chain.group).await } else { None };
        let replicas = replicas.map_or_else(|| cluster.replica_counts()(chain.group).into(), Value::from);
        ChainView { replicas, ..ChainView::of(chain, 1) }
    }

    /// `201` with the new chain.
    pub async fn created(app: &App, chain: &ChainHandle) -> Response {
        let location = text_header(format!("/chains/{}", chain.name));
        let view = ChainView::in_cluster(app, chain).await;
        (StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(view)).into_response()
    }
}

/// Takes the name of a chain to make out of a body.
///
/// # Errors
/// `422` where it is missing or no name.
pub fn take_name(fields: &mut Map<String, Value>) -> Result<ChainName, Problem> {
    let name = take_field(fields, "name")?;
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
    let mut policy = LeapPolicy::default();
    let mut faults = Vec::new();
    for (name, value) in fields {
        let field = match name.as_str() {
            "every_ms" => &mut policy.every_ms,
            "transactions" => &mut policy.transactions,
            _ => {
                faults.push(Fault::of(&name, "unknown field: a leap policy has every_ms and transactions"));
                continue;
            }
        };
        *field = value.as_u64();
        if field.is_none() && !value.is_null() {
            faults.push(Fault::of(&name, "must be a whole number"));
        }
    }
    if !faults.is_empty() {
        return Err(Problem::from(faults).within("/leap"));
    }
    policy.check()?;
    Ok(Some(policy))
}

/// Takes out of a body on how many nodes a chain is to be kept.
fn take_replicas(fields: &mut Map<String, Value>) -> Result<Option<u8>, Problem> {
    let wrong = || vec![Fault::of("replicas", "must be 1, 3 or 5: on so many nodes the chain is kept")];
    match fields.remove("replicas") {
        None => Ok(None),
        Some(replicas) => {
            let replicas = replicas.as_u64().filter(|replicas| [1, 3, 5].contains(replicas)).ok_or_else(wrong)?;
            Ok(Some(replicas as u8))
        }
    }
}

/// Has the node make a chain that leads the group in which it is to be kept.
async fn bang_in_cluster(
    app: &App,
    headers: &HeaderMap,
    body: Map<String, Value>,
    replicas: Option<u8>,
    rules: Rules,
    leap: LeapPolicy,
) -> Result<Response, Problem> {
    let cluster = &app.0.cluster;
    let asked = headers.get(forward::GROUP).and_then(|group| group.to_str().ok()?.parse::<Group>().ok());
    let group = match asked {
        Some(group) => group,
        None => {
            if cluster.group_of(rules.name().as_str()).is_some() {
                return Err(Refused::NameTaken(rules.name().clone()).into());
            }
            cluster.place(replicas).map_err(|error| match error {
                ClusterError::Refused(reason) => Problem::from(vec![Fault::of("replicas", reason)]),
                other => other.into(),
            })?
        }
    };
    let until = agreement_timeout();
    if let Way::There(host, group) = forward::to_leader(cluster, group, until).await? {
        if asked.is_some() {
            return Err(Refused::NotLeading(Some(host)).into());
        }
        let json = serde_json::to_vec(&body).expect("it was JSON");
        let mut request = Request::post("/bang").body(Body::from(json.clone())).expect("it has no other parts");
        let sent = request.headers_mut();
        sent.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        sent.insert(header::CONTENT_LENGTH, json.len().into());
        sent.insert(forward::GROUP, text_header(group.to_string()));
        for name in [REQUEST_ID, TRACE_PARENT, TRACE_STATE] {
            if let Some(value) = headers.get(&name) {
                sent.insert(name, value.clone());
            }
        }
        return Ok(forward::send(&app.0.others, cluster, host, group, request, until).await);
    }
    let name = rules.name().clone();
    let chain = make_in_cluster(app, name, group, app.0.node.bang(rules, None, leap, None, Some(group))).await?;
    Ok(ChainView::created(app, &chain).await)
}

/// Makes a chain whose name the whole cluster knows first.
pub(super) async fn make_in_cluster(
    app: &App,
    name: ChainName,
    group: Group,
    make: impl Future<Output = Result<Arc<ChainHandle>, Refused>>,
) -> Result<Arc<ChainHandle>, Problem> {
    let cluster = &app.0.cluster;
    if !cluster.is_active() {
        return Ok(make.await?);
    }
    if !cluster.reserve(name.as_str(), group).await? {
        return Err(Refused::NameTaken(name).into());
    }
    let made = make.await;
    // Where it is not known whether it was made, the name stays: sent again, it is made, or found.
    if let Err(refused) = &made
        && !matches!(refused, Refused::NotAgreed | Refused::NameTaken(_))
    {
        cluster.release(name.as_str(), group).await;
    }
    Ok(made?)
}

/// How a chain is made once although its making is sent twice.
pub(super) const NAME_IS_KEY: &str = "a chain is made once, since its name is unique: sent again it is answered 409, and GET /chains/NAME shows the chain";

/// Makes a chain.
#[utoipa::path(
    post,
    path = "/bang",
    tag = "node",
    params(("If-None-Match" = Option<String>, Header, nullable = false, pattern = r"^\*$",
        description = "`*`: then a name that is taken is answered `412`")),
    request_body(content((Bang = "application/json"), (NameForm = "application/x-www-form-urlencoded"))),
    responses(
        (status = 201, description = "The chain", body = ChainView, headers(("Location"))),
        (status = 409, description = "The name is taken"),
    )
)]
pub async fn bang(State(app): State<App>, client: Client, request: Request<Body>) -> Result<Response, Problem> {
    let only_if_new = is_only_if_new(request.headers())?;
    refuse_key(request.headers(), NAME_IS_KEY)?;
    let headers = request.headers().clone();
    let mut fields = read_object(&app, request).await?;
    let body = app.0.cluster.is_active().then(|| fields.clone());
    let name = take_name(&mut fields)?;
    client.ensure(Role::Operate, name.as_str())?;
    let leap = take_leap(&mut fields)?.unwrap_or_default();
    let replicas = take_replicas(&mut fields)?;
    let rules = Rules::new(name).amend(fields)?;
    if let Some(body) = body {
        let made = client.mining(bang_in_cluster(&app, &headers, body, replicas, rules, leap)).await;
        return made.map_err(|problem| match problem.status {
            StatusCode::CONFLICT if only_if_new => Problem::new(StatusCode::PRECONDITION_FAILED, problem.detail),
            _ => problem,
        });
    }
    if replicas.is_some_and(|replicas| replicas > 1) {
        let detail = "this node is alone: join others to it first (qbc --join), or keep the chain on 1";
        return Err(vec![Fault::of("replicas", detail)].into());
    }
    match client.mining(app.0.node.bang(rules, None, leap, None, None)).await {
        Ok(chain) => Ok(ChainView::created(&app, &chain).await),
        Err(error @ Refused::NameTaken(_)) if only_if_new => {
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
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
    responses((status = 200, description = "The chains", body = [ListedChain], headers(("Link"))))
)]
pub async fn chains(
    State(app): State<App>,
    client: Client,
    Query(query): Query<ChainsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)? as usize;
    if app.0.cluster.is_active() && !headers.contains_key(forward::FORWARDED) {
        return chains_of_cluster(&app, &client, query.after.as_deref(), limit).await;
    }
    let chains = app.0.node.chains_if(query.after.as_deref(), limit + 1, |name| client.may(Role::Read, name.as_str()));
    let replicas = app.0.cluster.replica_counts();
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
        let listed = match chain {
            Ok(chain) => ListedChain::Loaded(Box::new(ChainView::of(chain, replicas(chain.group)))),
            Err(damage) => ListedChain::Lost { name: name.as_str(), damage },
        };
        serde_json::to_writer(&mut body, &listed).expect("writing to memory does not fail");
        last = Some(name);
    }
    body.push(b']');
    let mut headers = HeaderMap::new();
    if let Some(last) = last.filter(|&last| chains.last().is_some_and(|(name, _)| name != last)) {
        headers.insert(header::LINK, text_header(format!("</chains?after={last}&limit={limit}>; rel=\"next\"")));
    }
    Ok((headers, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The next chains of all of the cluster, whoever may see them: each node lists those that it keeps. They are no more than `count`.
async fn next_of_cluster(app: &App, after: Option<&str>, count: usize) -> BTreeMap<String, Value> {
    let mut chains: BTreeMap<String, Value> = BTreeMap::new();
    let replicas = app.0.cluster.replica_counts();
    for (name, chain) in app.0.node.chains(after, count) {
        let listed = match &chain {
            Ok(chain) => ListedChain::Loaded(Box::new(ChainView::of(chain, replicas(chain.group)))),
            Err(damage) => ListedChain::Lost { name: name.as_str(), damage },
        };
        chains.insert(name.to_string(), serde_json::to_value(&listed).expect("it is JSON"));
    }
    let (hosts, _) = app.0.cluster.hosts();
    let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
    let asked = hosts.iter().map(|host| app.0.others.ask(host, format!("/chains?limit={count}{after}")));
    for others in futures_util::future::join_all(asked).await.into_iter().flatten() {
        for chain in others.as_array().cloned().unwrap_or_default() {
            if let Some(name) = chain["name"].as_str() {
                chains.entry(name.to_owned()).or_insert(chain);
            }
        }
    }
    // Of what is behind the page of one node, another may not have told yet.
    chains.into_iter().take(count).collect()
}

/// A page of all chains of the cluster that a client may see.
async fn chains_of_cluster(app: &App, client: &Client, after: Option<&str>, limit: usize) -> Result<Response, Problem> {
    // Those that the client may not see count for nothing, so the next ones are looked for until the page is full.
    let (mut chains, mut after) = (BTreeMap::new(), after.map(str::to_owned));
    while chains.len() <= limit {
        let mut next = next_of_cluster(app, after.as_deref(), limit + 1).await;
        let is_end = next.len() <= limit;
        after = next.keys().next_back().cloned();
        next.retain(|name, _| client.may(Role::Read, name));
        chains.append(&mut next);
        if is_end {
            break;
        }
    }
    let is_more = chains.len() > limit;
    let page: Vec<&Value> = chains.values().take(limit).collect();
    let mut headers = HeaderMap::new();
    if let Some(last) = chains.keys().take(limit).next_back().filter(|_| is_more) {
        headers.insert(header::LINK, text_header(format!("</chains?after={last}&limit={limit}>; rel=\"next\"")));
    }
    Ok((headers, axum::Json(page)).into_response())
}

/// One chain.
#[utoipa::path(
    get,
    path = "/chains/{chain}",
    tag = "node",
    params(("chain" = String, Path, description = "Its name, or its id")),
    responses(
        (status = 200, description = "The chain", body = ChainView),
    )
)]
pub async fn get_chain(State(app): State<App>, target: ChainOf) -> axum::Json<ChainView> {
    axum::Json(ChainView::in_cluster(&app, &target.chain).await)
}

/// What may change of a chain: all that is no rule.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct Patch {
    /// When it leaps by itself, or null for by hand only.
    leap: Option<LeapPolicy>,
    /// On how many nodes of the cluster it is kept: 1, 3 or 5. Without it 3 where there are so many, else 1.
    #[schema(schema_with = super::openapi::replicas)]
    replicas: Option<u64>,
}

/// Changes what is no rule of a chain. For other rules, fork it.
#[utoipa::path(
    patch,
    path = "/chains/{chain}",
    tag = "node",
    params(("chain" = String, Path, description = "Its name, or its id"), Guard),
    request_body = Patch,
    responses(
        (status = 200, description = "The chain as it is now", body = ChainView),
        (status = 409, description = "It is a mirror: it never leaps by itself, and is kept on one node"),
    )
)]
pub async fn patch_chain(State(app): State<App>, target: ChainOf, request: Request<Body>) -> Result<Response, Problem> {
    let expected = expected(request.headers())?;
    refuse_key(request.headers(), "to change a chain twice in the same way does no harm, and If-Match guards it")?;
    let mut fields = read_object(&app, request).await?;
    let leap = take_leap(&mut fields)?;
    let replicas = take_replicas(&mut fields)?;
    if let Some(name) = fields.keys().next() {
        let detail =
            "cannot be changed: leap and replicas can; rules never change, but a fork can have others (POST …/fork)";
        return Err(vec![Fault::of(name, detail)].into());
    }
    // What is refused changes nothing.
    if let Some(replicas) = replicas {
        if target.chain.mirror().is_some() {
            return Err(Problem::new(StatusCode::CONFLICT, "the chain is a mirror, which is kept on one node"));
        }
        app.0.cluster.check_replicas(target.chain.group, replicas).map_err(not_so_many)?;
    }
    match (leap, expected) {
        (Some(leap), expected) => app.0.node.set_leap(&target.chain, leap, expected).await?,
        // The guard is answered though nothing is to change.
        (None, Some(expected)) => target.chain.check_expected(&expected, &target.chain.head())?,
        (None, None) => {}
    }
    if let Some(replicas) = replicas.filter(|_| app.0.cluster.is_active()) {
        app.0.cluster.set_replicas(target.chain.group, replicas).await.map_err(not_so_many)?;
    }
    Ok(axum::Json(ChainView::in_cluster(&app, &target.chain).await).into_response())
}

fn not_so_many(error: ClusterError) -> Problem {
    match error {
        ClusterError::Refused(reason) => vec![Fault::of("replicas", reason)].into(),
        other => other.into(),
    }
}

/// A node to meet.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct Discover {
    /// Such as `localhost:5001` or `https://ledger.example`.
    host: String,
}

/// A form with a node to meet.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct DiscoverForm {
    /// Such as `localhost:5001` or `https://ledger.example`.
    host: String,
}

/// Meets another node: both list each other, and tell each other whom they know.
#[utoipa::path(
    post,
    path = "/discover",
    tag = "node",
    request_body(content((Discover = "application/json"), (DiscoverForm = "application/x-www-form-urlencoded"))),
    responses(
        (status = 201, description = "The live nodes", body = [PeerView]),
        (status = 422, description = "It does not answer, or may not be called"),
    )
)]
pub async fn discover(State(app): State<App>, request: Request<Body>) -> Result<Response, Problem> {
    refuse_conditions(request.headers())?;
    refuse_key(request.headers(), "to meet a node twice does no harm")?;
    let mut fields = read_object(&app, request).await?;
    let host = take_field(&mut fields, "host")?;
    let host = host.as_str().ok_or_else(|| vec![Fault::of("host", "must be a string such as \"localhost:5001\"")])?;
    refuse_more(&fields, "a node to meet has a host")?;
    let live = app.0.peers.discover(host).await?;
    app.0.node.record_nodes(&app.0.peers.known()).await?;
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
        (status = 422, description = "The caller cannot be called back"),
    )
)]
pub async fn greet(State(app): State<App>, request: Request<Body>) -> Result<axum::Json<Hello>, Problem> {
    let rooms = Rooms::of(&app, request.extensions());
    let body = read_whole(&rooms, request.into_body()).await?;
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

/// A chain that this node has.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Kept {
    /// Its name.
    name: String,
    /// The hash of its first own quant.
    #[schema(value_type = String)]
    id: Hash,
}

/// Whether this node has a chain. Nodes call it when they are asked for one that they do not have; it asks no other node.
#[utoipa::path(
    get,
    path = "/peers/chains/{name}",
    tag = "node",
    params(("name" = String, Path, description = "The chain's name, or its id")),
    responses(
        (status = 200, description = "It has", body = Kept),
        (status = 404, description = "It has not"),
    )
)]
pub async fn has_chain(State(app): State<App>, client: Client, place: Place) -> Result<axum::Json<Kept>, Problem> {
    let chain = app.0.node.chain(&place.0);
    client.ensure(Role::Read, chain.as_ref().map_or(&place.0, |chain| chain.name.as_str()))?;
    let chain = chain.ok_or_else(|| Problem::not_found(format!("there is no chain {:?}", place.0)))?;
    Ok(axum::Json(Kept { name: chain.name.to_string(), id: chain.id }))
}

/// That it answers.
#[derive(Serialize, utoipa::ToSchema)]

pub struct Status {
    #[schema(example = "ok")]
    status: &'static str,
    /// What an operator should look at although all goes on, such as a chain whose newest time lies in the future.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Whether the program runs.
#[utoipa::path(get, path = "/livez", tag = "node", responses((status = 200, description = "It does", body = Status)))]
pub async fn livez() -> axum::Json<Status> {
    axum::Json(Status { status: "ok", warnings: Vec::new() })
}

/// Whether the node takes reads and writes.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "node",
    responses(
        (status = 200, description = "It does", body = Status),
        (status = 503, description = "It takes no writes, or a chain does not, which it names"),
    )
)]
pub async fn readyz(State(app): State<App>, client: Client) -> Result<axum::Json<Status>, Problem> {
    check_ready(&app, |chain| client.may(Role::Read, chain.as_str())).map_err(Problem::overloaded)?;
    let warnings = match client.may_everywhere(Role::Read) {
        true => [app.0.node.warnings(), app.0.mirrors.warnings(), app.0.cluster.warnings()].concat(),
        false => Vec::new(),
    };
    Ok(axum::Json(Status { status: "ok", warnings }))
}

/// Whether the node takes reads and writes of all its chains.
///
/// # Errors
/// Why not, with the names of chains that may be told.
pub(super) fn check_ready(app: &App, may_tell: impl Fn(&ChainName) -> bool) -> Result<(), String> {
    match app.0.node.health() {
        Health::Ready => {}
        Health::Full => return Err("the disk is full: writes are refused until space is freed".into()),
        Health::Failed(detail) => {
            return Err(format!("{detail}: no more writes are taken until the node is started again"));
        }
    }
    let ended = app.0.cluster.ended().into_iter().map(|(group, detail)| {
        format!("the group {group} runs no more on this node until that is started again: {detail}")
    });
    let leaderless = app.0.cluster.leaderless().into_iter().map(|group| match group {
        Group::META => "no majority of the cluster's nodes answers, so no chain can be made".into(),
        group => format!("no majority of the nodes of the group {group} answers, so its chains take no writes"),
    });
    let name = |what: &'static str| {
        let may_tell = &may_tell;
        move |(name, detail): (ChainName, String)| match may_tell(&name) {
            true => format!("the chain \"{name}\" {what}: {detail}"),
            false => format!("a chain {what}"),
        }
    };
    let damaged = app.0.node.damages().into_iter().map(name("is damaged"));
    let rolled_back = app.0.node.rollbacks().into_iter().map(name("takes no writes"));
    match ended.chain(leaderless).chain(damaged).chain(rolled_back).collect::<Vec<String>>().as_slice() {
        [] => Ok(()),
        reasons => Err(format!("{}; the others go on", reasons.join("; "))),
    }
}

/// All routes as OpenAPI 3.1.
#[utoipa::path(get, path = "/openapi.json", tag = "node", responses((status = 200, description = "The document", body = Object)))]
pub async fn openapi(State(app): State<App>) -> Response {
    let document = app.0.document.get().expect("the router sets it before it serves").json.clone();
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// What this is, and where everything else is: for browsers the explorer, a page.
#[utoipa::path(
    get,
    path = "/",
    tag = "node",
    responses(
        (status = 200, description = "The index, or for who would rather have `text/html` the explorer",
            headers(("Content-Security-Policy"), ("Referrer-Policy"), ("X-Content-Type-Options")),
            content((Object = "application/json"), (String = "text/html"))),
        Cached,
    )
)]
pub async fn index(State(app): State<App>, client: Client, headers: HeaderMap) -> Response {
    let mut response = match insists_on(&headers, "text/html", "application/json") {
        true => explorer::page(&headers),
        false => axum::Json(listed(&app, &client)).into_response(),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    response
}

fn listed(app: &App, client: &Client) -> Value {
    let chains = client.may_everywhere(Role::Read).then(|| app.0.node.chain_count());
    json!({
        "name": "qbc",
        "version": env!("CARGO_PKG_VERSION"),
        "id": app.0.node.id(),
        "chains": chains,
        "try": {
            "POST /inject": "add a transaction: {\"data\": any JSON}",
            "GET /leap": "mine what is pooled into a quant",
            "GET /chain": "the whole chain",
            "GET /events?from=0": "the same as it grows, without end",
            "GET /transactions/1/receipt": "the proof that a transaction is in the chain",
            "POST /bang": "make a chain of your own: {\"name\": …}, used at /chains/{name}/…",
            "GET /chains": "all chains",
            "GET /stats": "how large the chain is",
            "GET /metrics": "what the node does, for Prometheus",
            "POST /discover": "meet another node: {\"host\": \"localhost:5001\"}",
            "GET /guide": "how to use it, chapter by chapter",
            "GET /openapi.json": "all of it"
        }
    })
}
