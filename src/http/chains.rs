//! What one can read of a chain, its leaps and its forks.

use std::{ops::Range, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    App,
    extract::{ChainOf, LINES, Place, Query, expected_size, parse_index, read_object, weighted},
    inject::text_header,
    nodes::{ChainView, take_leap, take_name},
    problem::{Problem, ProblemDocument},
};
use crate::{
    core::{
        hash::Hash,
        quant::{Quant, QuantFields},
        rules::{Fault, ForkOf},
        transaction::Id,
    },
    limits,
    node::{Node, Receipt},
    store::{Lineage, Store, StoreError},
    writer::{ChainHandle, in_force_at},
};

/// A quant that was just mined.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Leaped {
    #[schema(example = "block creation successful")]
    message: &'static str,
    #[serde(flatten)]
    quant: QuantFields,
}

/// Mines a quant from all that is pooled.
///
/// It takes as long as the chain's difficulty demands, and ends with the connection. An empty pool gives an empty quant.
#[utoipa::path(
    get,
    path = "/leap",
    tag = "chain",
    params(("If-Match" = Option<String>, Header, description = "The ETag of /stats: only if nothing got in between")),
    responses(
        (status = 201, description = "The new quant", body = Leaped,
            headers(("Location", description = "The quant"), ("ETag", description = "Transactions that it covers in all"))),
        (status = "4XX", description = "Nothing was changed", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn leap(
    State(app): State<App>,
    target: ChainOf,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // A HEAD must not change anything, and is no way to ask for a leap.
    if method == Method::HEAD {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "a leap is a GET or a POST");
        return Ok(([(header::ALLOW, "GET, POST")], problem).into_response());
    }
    let quant = app.0.node.leap(&target.chain, expected_size(&headers)?).await?;
    let location = text_header(format!("{}/quants/{}", target.prefix, quant.index()));
    let tag = text_header(format!("\"{}\"", quant.size()));
    let leaped = Leaped { message: "block creation successful", quant: quant.into() };
    Ok((StatusCode::CREATED, [(header::LOCATION, location), (header::ETAG, tag)], axum::Json(leaped)).into_response())
}

/// Mines a quant from all that is pooled: the same as GET, for those who think that it should be a POST.
#[utoipa::path(
    post,
    path = "/leap",
    tag = "chain",
    params(("If-Match" = Option<String>, Header, description = "The ETag of /stats: only if nothing got in between")),
    responses(
        (status = 201, description = "The new quant", body = Leaped),
        (status = "4XX", description = "Nothing was changed", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn leap_by_post(
    app: State<App>,
    target: ChainOf,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    leap(app, target, method, headers).await
}

/// Query parameters of `GET /chain`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChainQuery {
    /// The first quant, 0 where it is not said.
    #[serde(default)]
    from: u64,
    /// How many quants, all where it is not said.
    limit: Option<u64>,
    /// Whether each quant comes with its transactions, true where it is not said.
    transactions: Option<bool>,
}

/// The whole chain, streamed: an array of quants with their transactions.
///
/// `Accept: application/x-ndjson` gives a quant a line.
#[utoipa::path(
    get,
    path = "/chain",
    tag = "chain",
    params(ChainQuery),
    responses(
        (status = 200, description = "The quants", content(([QuantView] = "application/json"), (String = "application/x-ndjson"))),
        (status = "4XX", description = "The request is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn chain(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<ChainQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let length = target.chain.head().newest.index() + 1;
    let end = query.limit.map_or(length, |limit| query.from.saturating_add(limit).min(length));
    let accepted = weighted(&headers, &header::ACCEPT);
    let weight = |media: &str| accepted.iter().find(|(name, _)| name == media).map_or(0, |&(_, weight)| weight);
    // Whoever names lines at all, and likes nothing better, wants them.
    let lines = LINES.into_iter().find(|media| weight(media) > 0 && weight(media) >= weight("application/json"));
    let (shape, media) = match lines {
        Some(media) => (Shape::Lines, media),
        None => (Shape::Array, "application/json"),
    };
    let quants = query.from.min(end)..end;
    let stream =
        ChainStream::open(&app.0.node, &target.chain, quants, query.transactions.unwrap_or(true), shape).await?;
    Ok(([(header::CONTENT_TYPE, media)], stream.into_body(app.0.node.clone())).into_response())
}

/// A quant with its transactions.
#[derive(Serialize, utoipa::ToSchema)]
pub struct QuantView {
    #[serde(flatten)]
    quant: QuantFields,
    /// The transactions that it seals, in order.
    transactions: Vec<TransactionView>,
}

/// A transaction as it is served.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Transaction)]
pub struct TransactionView {
    /// Its final place in the chain, from 0.
    index: u64,
    /// The client's own name for it.
    id: Option<String>,
    /// `bang` for the record of the rules, `erasure` for that of an erasure, absent for what clients inject.
    kind: Option<String>,
    /// When a node accepted it: RFC 3339, UTC, six digits.
    timestamp: String,
    /// The writer's hex Ed25519 signature.
    signature: Option<String>,
    /// The writer's hex Ed25519 public key.
    signer: Option<String>,
    /// Any JSON value. Absent where it was erased.
    data: Option<Value>,
    /// 32 hex digits, hashed before the data. Absent where it was erased.
    salt: Option<String>,
    /// What is left of erased data: the hash of salt and data.
    #[schema(value_type = Option<String>)]
    commitment: Option<Hash>,
    /// When it was erased, and which transaction records that.
    erased: Option<ErasedView>,
    /// The Merkle leaf hash.
    hash: String,
}

/// That a transaction was erased.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Erased)]
pub struct ErasedView {
    /// When: RFC 3339, UTC, six digits.
    timestamp: String,
    /// The index of the transaction that records it, on the chain that wrote the erased one.
    by: u64,
}

/// One quant with its transactions.
#[utoipa::path(
    get,
    path = "/quants/{quant}",
    tag = "chain",
    params(("quant" = String, Path, description = "Its index, its hash, or `latest`")),
    responses(
        (status = 200, description = "The quant; immutable but for `latest`", body = QuantView),
        (status = 404, description = "There is none", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn quant(
    State(app): State<App>,
    target: ChainOf,
    place: Place,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let newest = target.chain.head().newest;
    let index = find_quant(&app, &target.chain, &place.0, newest.index()).await?;
    let lineage = target.chain.lineage.clone();
    let quant = app.0.node.read(move |store| store.quant(&lineage, index)).await?;
    let cache = if place.0 == "latest" { Cache::Revalidate } else { Cache::Erasable };
    let tag = match target.chain.erasures() {
        0 => format!("\"{}\"", quant.hash()),
        erasures => format!("\"{}-{erasures}\"", quant.hash()),
    };
    if let Some(unchanged) = unchanged(&headers, &tag, cache) {
        return Ok(unchanged);
    }
    let stream = ChainStream::open(&app.0.node, &target.chain, index..index + 1, true, Shape::One).await?;
    Ok((cache_headers(&tag, cache), [(header::CONTENT_TYPE, "application/json")], stream.into_body(app.0.node.clone()))
        .into_response())
}

async fn find_quant(app: &App, chain: &Arc<ChainHandle>, place: &str, newest: u64) -> Result<u64, Problem> {
    if place == "latest" {
        return Ok(newest);
    }
    if let Ok(hash) = place.parse::<Hash>() {
        let lineage = chain.lineage.clone();
        let index = app.0.node.read(move |store| store.quant_with_hash(&lineage, hash)).await?;
        return index.ok_or_else(|| Problem::not_found(format!("the chain has no quant with the hash {hash}")));
    }
    match parse_index(place) {
        Some(index) if index <= newest => Ok(index),
        Some(index) => Err(Problem::not_found(format!("there is no quant {index}: the newest is {newest}"))),
        None => Err(Problem::bad_request(format!("{place:?} names no quant: give its index, its hash, or \"latest\""))),
    }
}

/// Query parameters of pages of transactions.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The first index.
    from: Option<u64>,
    /// How many, 100 where it is not said.
    #[param(maximum = 10000)]
    limit: Option<u64>,
}

/// The limit of a page.
///
/// # Errors
/// `400` where it is too large.
pub(super) fn page_limit(limit: Option<u64>) -> Result<u64, Problem> {
    match limit {
        Some(limit) if limit > limits::PAGE_LIMIT => Err(Problem::bad_request(format!(
            "\"limit\" is at most {}: follow the Link to the next page",
            limits::PAGE_LIMIT
        ))),
        limit => Ok(limit.unwrap_or(limits::PAGE_DEFAULT)),
    }
}

/// One page of records between `start` and `end`, with the `Link` to the next. A large page is streamed.
async fn page(
    app: &App,
    target: &ChainOf,
    route: &str,
    query: &PageQuery,
    whole: Range<u64>,
    (start, end): (String, &'static str),
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)?;
    let from = query.from.unwrap_or(whole.start).clamp(whole.start, whole.end);
    let to = from.saturating_add(limit).min(whole.end);
    let piece = move |store: &Store, lineage: &Lineage, from: u64, mut piece: Vec<u8>| {
        let next = store.records(lineage, from..to, b',', limits::CHUNK_BYTES, &mut piece)?;
        piece.extend_from_slice(if next < to { "," } else { end }.as_bytes());
        Ok((Bytes::from(piece), next))
    };
    let lineage = target.chain.lineage.clone();
    let (first, next) = app.0.node.read(move |store| piece(store, &lineage, from, start.into_bytes())).await?;
    let body = if next == to {
        Body::from(first)
    } else {
        let (node, lineage) = (app.0.node.clone(), target.chain.lineage.clone());
        let rest = stream::try_unfold(next, move |next| {
            let (node, lineage) = (node.clone(), lineage.clone());
            async move {
                match next < to {
                    true => node.read(move |store| piece(store, &lineage, next, Vec::new())).await.map(Some),
                    false => Ok(None),
                }
            }
        });
        Body::from_stream(stream::once(async { Ok::<_, StoreError>(first) }).chain(rest))
    };
    let link = next_link(&target.prefix, route, (to < whole.end && limit > 0).then_some(to), query.limit);
    Ok((link, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn next_link(prefix: &str, route: &str, next: Option<u64>, limit: Option<u64>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(next) = next {
        let limit = limit.unwrap_or(limits::PAGE_DEFAULT);
        headers
            .insert(header::LINK, text_header(format!("<{prefix}/{route}?from={next}&limit={limit}>; rel=\"next\"")));
    }
    headers
}

/// A page of transactions, pooled ones included.
///
/// The next page is in the header `Link`.
#[utoipa::path(
    get,
    path = "/transactions",
    tag = "chain",
    params(PageQuery),
    responses(
        (status = 200, description = "The transactions", body = [TransactionView], headers(("Link", description = "The next page"))),
        (status = "4XX", description = "The request is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn transactions(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let whole = 0..target.chain.head().size();
    page(&app, &target, "transactions", &query, whole, ("[".into(), "]")).await
}

/// A page of the pool.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Pool {
    /// How many transactions are pooled.
    count: u64,
    /// Those of this page.
    transactions: Vec<TransactionView>,
}

/// The transactions that no quant covers yet.
#[utoipa::path(
    get,
    path = "/pool",
    tag = "chain",
    params(PageQuery),
    responses(
        (status = 200, description = "The pool", body = Pool, headers(("Link", description = "The next page"))),
        (status = "4XX", description = "The request is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn pool(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let head = target.chain.head();
    let start = format!("{{\"count\":{},\"transactions\":[", head.pooled());
    page(&app, &target, "pool", &query, head.newest.size()..head.size(), (start, "]}")).await
}

/// One transaction, with where it stands.
#[utoipa::path(
    get,
    path = "/transactions/{index}",
    tag = "chain",
    params(("index" = u64, Path, description = "Its index")),
    responses(
        (status = 200, description = "The transaction, with `state` (`pooled` or `sealed`) and `quant`", body = TransactionView),
        (status = 404, description = "There is none", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn transaction(
    State(app): State<App>,
    target: ChainOf,
    place: Place,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let index = place.transaction(target.chain.head().size())?;
    transaction_at(&app, &target.chain, index, &headers).await
}

/// One transaction by the client's own name for it.
#[utoipa::path(
    get,
    path = "/transactions/by-id/{id}",
    tag = "chain",
    params(("id" = String, Path, description = "The id that the client gave")),
    responses(
        (status = 200, description = "The transaction, with `state` (`pooled` or `sealed`) and `quant`", body = TransactionView),
        (status = 404, description = "There is none", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn transaction_by_id(
    State(app): State<App>,
    target: ChainOf,
    place: Place,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = place.0.parse::<Id>().map_err(Problem::bad_request)?;
    let lineage = target.chain.lineage.clone();
    let index = app.0.node.read(move |store| store.transaction_with_id(&lineage, &id)).await?;
    // The store may show an id a moment before its transaction, which only the published head makes visible.
    let index = index.filter(|&index| index < target.chain.head().size());
    let index =
        index.ok_or_else(|| Problem::not_found(format!("the chain has no transaction with the id {:?}", place.0)))?;
    transaction_at(&app, &target.chain, index, &headers).await
}

async fn transaction_at(
    app: &App,
    chain: &Arc<ChainHandle>,
    index: u64,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let sealed = index < chain.head().newest.size();
    let lineage = chain.lineage.clone();
    let read = move |store: &Store| {
        let quant = if sealed { Some(store.quant_of(&lineage, index)?) } else { None };
        Ok((store.record(&lineage, index)?, quant))
    };
    let (mut record, quant) = app.0.node.read(read).await?;
    let state = if sealed { "sealed" } else { "pooled" };
    let tag = format!("\"{}-{state}\"", crate::core::hash::leaf(&record));
    if let Some(unchanged) = unchanged(headers, &tag, Cache::Revalidate) {
        return Ok(unchanged);
    }
    let quant = quant.map_or("null".into(), |quant| quant.to_string());
    record.pop();
    record.extend_from_slice(format!(",\"state\":\"{state}\",\"quant\":{quant}}}").as_bytes());
    Ok((cache_headers(&tag, Cache::Revalidate), [(header::CONTENT_TYPE, "application/json")], record).into_response())
}

/// The proof that a transaction is in a chain, checkable offline.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Receipt)]
pub struct ReceiptView {
    /// The chain's id.
    chain: String,
    /// The transaction.
    transaction: TransactionView,
    /// The quant that seals it, without its transactions.
    quant: QuantFields,
    /// The inclusion proof (RFC 9162 section 2.1.3) of its hash at its index in the tree of `quant.size` and `quant.root`.
    path: Vec<String>,
}

/// The receipt of a sealed transaction.
#[utoipa::path(
    get,
    path = "/transactions/{index}/receipt",
    tag = "chain",
    params(("index" = u64, Path, description = "Its index")),
    responses(
        (status = 200, description = "The receipt", body = ReceiptView),
        (status = 404, description = "There is no such transaction", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "It is pooled still", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn receipt(
    State(app): State<App>,
    target: ChainOf,
    place: Place,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let head = target.chain.head();
    let index = place.transaction(head.size())?;
    if index >= head.newest.size() {
        let detail = format!("transaction {index} is still pooled: it has a receipt after the next leap");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let body = receipt_json(&app, target.chain, index).await?;
    // The quant's hash is a part of the receipt, and the receipt depends on nothing else that could change.
    let tag = format!("\"{}\"", crate::core::hash::leaf(&body));
    if let Some(unchanged) = unchanged(&headers, &tag, Cache::Revalidate) {
        return Ok(unchanged);
    }
    Ok((cache_headers(&tag, Cache::Revalidate), [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The receipt of a sealed transaction as JSON.
pub(super) async fn receipt_json(app: &App, chain: Arc<ChainHandle>, index: u64) -> Result<Vec<u8>, Problem> {
    let id = chain.id;
    let Receipt { record, quant, path } = app.0.node.receipt(chain, index).await?;
    let quant = serde_json::to_vec(&quant).expect("a quant is JSON");
    let path = serde_json::to_vec(&path).expect("hashes are JSON");
    let start = format!("{{\"chain\":\"{id}\",\"transaction\":");
    Ok([start.as_bytes(), &record, b",\"quant\":", &quant, b",\"path\":", &path, b"}"].concat())
}

/// Query parameters of `GET /consistency`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConsistencyQuery {
    /// The older size.
    from: u64,
    /// The newer size, that of the newest quant where it is not said.
    to: Option<u64>,
}

/// The proof that the chain only grew between two sizes.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Consistency {
    /// The older size.
    from: u64,
    /// The newer size.
    to: u64,
    /// The consistency proof (RFC 9162 section 2.1.4).
    #[schema(value_type = Vec<String>)]
    path: Vec<Hash>,
}

/// The proof that the chain of `to` transactions begins with its first `from`.
#[utoipa::path(
    get,
    path = "/consistency",
    tag = "chain",
    params(ConsistencyQuery),
    responses(
        (status = 200, description = "The proof", body = Consistency),
        (status = "4XX", description = "The request is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn consistency(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<ConsistencyQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let head = target.chain.head();
    let (from, to) = (query.from, query.to.unwrap_or(head.newest.size()));
    if from > to {
        return Err(Problem::bad_request(format!("\"from\" is {from}, which is above \"to\", {to}")));
    }
    if to > head.size() {
        return Err(Problem::not_found(format!("the chain has {} transactions, it never had {to}", head.size())));
    }
    let cache = if query.to.is_some() { Cache::Immutable } else { Cache::Revalidate };
    let tag = format!("\"{}-{from}-{to}\"", target.chain.id);
    if let Some(unchanged) = unchanged(&headers, &tag, cache) {
        return Ok(unchanged);
    }
    let path = app.0.node.consistency(target.chain, from, to).await?;
    Ok((cache_headers(&tag, cache), axum::Json(Consistency { from, to, path })).into_response())
}

/// How large a chain is.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Its name.
    chain: String,
    /// The hash of its first own quant.
    #[schema(value_type = String)]
    id: Hash,
    /// Quants.
    length: u64,
    /// Transactions, pooled ones included.
    size: u64,
    /// Transactions that no quant covers yet.
    pooled: u64,
    /// The newest quant's hash.
    #[schema(value_type = String)]
    hash: Hash,
    /// The newest quant's Merkle root.
    #[schema(value_type = String)]
    root: Hash,
    /// Bytes of all transactions as they were accepted.
    bytes: u64,
    /// When all of it was read again and held, since the node started.
    scrubbed: Option<ScrubbedView>,
    /// What does not hold in what is stored of it: then it takes no writes.
    damage: Option<String>,
}

/// That all of a chain was read again and held.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Scrubbed)]
pub struct ScrubbedView {
    /// The chain's size then.
    size: u64,
    /// When it was done: RFC 3339, UTC, six digits.
    timestamp: String,
}

impl Stats {
    /// Of a chain as it stands now.
    pub fn of(chain: &ChainHandle) -> Stats {
        let head = chain.head();
        Stats {
            chain: chain.name.to_string(),
            id: chain.id,
            length: head.newest.index() + 1,
            size: head.size(),
            pooled: head.pooled(),
            hash: head.newest.hash(),
            root: head.newest.header().root,
            bytes: head.bytes,
            scrubbed: chain
                .scrubbed()
                .map(|done| ScrubbedView { size: done.size, timestamp: done.timestamp.to_string() }),
            damage: chain.damage().map(str::to_owned),
        }
    }
}

/// How large the chain is. The ETag guards writes (`If-Match`).
#[utoipa::path(
    get,
    path = "/stats",
    tag = "chain",
    responses((status = 200, description = "The figures", body = Stats,
        headers(("ETag", description = "The index that the next transaction gets"))))
)]
pub async fn stats(target: ChainOf) -> Response {
    let stats = Stats::of(&target.chain);
    ([(header::ETAG, text_header(format!("\"{}\"", stats.size)))], axum::Json(stats)).into_response()
}

/// A chain that goes on from a quant of another.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document; core::rules reads it")]
pub struct Fork {
    /// The new chain's name.
    name: String,
    /// The quant to go on from, the newest where it is not said.
    at: Option<u64>,
    /// Zero bits of each quant's hash, 0 to 48; the parent's where it is not said, as for all that follow.
    difficulty: Option<u8>,
    /// A JSON Schema (2020-12) that injected data must meet, or null.
    schema: Option<Value>,
    /// The largest canonical data accepted.
    max_bytes: Option<u64>,
    /// Hex Ed25519 public keys of those who may write, or null.
    writers: Option<Vec<String>>,
    /// When it leaps by itself; by hand where it is not said.
    leap: Option<crate::core::chain::LeapPolicy>,
}

/// Makes a chain that shares this one's quants up to one of them, and goes on alone from there.
///
/// It costs the same whatever the chain holds.
#[utoipa::path(
    post,
    path = "/fork",
    tag = "chain",
    request_body = Fork,
    responses(
        (status = 201, description = "The new chain", body = ChainView, headers(("Location", description = "The chain"))),
        (status = 409, description = "The name is taken", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Nothing was changed", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn fork(State(app): State<App>, target: ChainOf, request: Request<Body>) -> Result<Response, Problem> {
    let mut fields = read_object(&app, request).await?;
    let name = take_name(&mut fields)?;
    let leap = take_leap(&mut fields)?.unwrap_or_default();
    let newest = target.chain.head().newest;
    let at = match fields.remove("at") {
        None => newest.index(),
        Some(at) => at
            .as_u64()
            .filter(|&at| at <= newest.index())
            .ok_or_else(|| vec![Fault::of("at", format!("must be the index of a quant, 0 to {}", newest.index()))])?,
    };
    // Where the quant was made by an ancestor, it is the ancestor that is forked: its rules hold there.
    let parent = target.chain.maker_of(at);
    let of = parent.clone();
    let read = move |store: &Store| Ok((store.quant(&of.lineage, at)?, in_force_at(store, &of, at)?));
    let (quant, (id, rules)) = app.0.node.read(read).await?;
    let of = ForkOf { chain: id, index: at, hash: quant.hash() };
    let rules = rules.fork(name, of).amend(fields)?;
    let chain = app.0.node.bang(rules, Some((parent, quant)), leap).await?;
    Ok(ChainView::created(&chain))
}

/// For how long an answer may be kept.
#[derive(Clone, Copy)]
pub(super) enum Cache {
    /// For ever.
    Immutable,
    /// It never changes, unless something in it is erased: so for no longer than an erasure may take.
    Erasable,
    /// Ask each time whether it is still the same.
    Revalidate,
}

pub(super) fn cache_headers(tag: &str, cache: Cache) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, text_header(tag.into()));
    let cache = match cache {
        Cache::Immutable => "public, max-age=31536000, immutable",
        Cache::Erasable => "public, max-age=60, immutable",
        Cache::Revalidate => "no-cache",
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers
}

/// `304` where the client has the same already (`If-None-Match`, RFC 9110 section 13.1.2).
pub(super) fn unchanged(headers: &HeaderMap, tag: &str, cache: Cache) -> Option<Response> {
    let has = headers.get(header::IF_NONE_MATCH)?.to_str().ok()?;
    let same = has.split(',').map(str::trim).any(|has| has == "*" || has.strip_prefix("W/").unwrap_or(has) == tag);
    same.then(|| (StatusCode::NOT_MODIFIED, cache_headers(tag, cache)).into_response())
}

/// How quants stand in an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Array,
    Lines,
    One,
}

/// Quants on their way to a client, in pieces of bounded size.
struct ChainStream {
    lineage: Arc<Lineage>,
    /// Quants that are still to come.
    quants: Range<u64>,
    /// Transactions before them.
    size: u64,
    with_transactions: bool,
    shape: Shape,
    /// Transactions of the newest quant that are still to come, where it came with any.
    open: Option<Range<u64>>,
    begun: bool,
    ended: bool,
}

impl ChainStream {
    async fn open(
        node: &Node,
        chain: &ChainHandle,
        quants: Range<u64>,
        with_transactions: bool,
        shape: Shape,
    ) -> Result<Self, StoreError> {
        let lineage = chain.lineage.clone();
        let size = match quants.start.checked_sub(1) {
            Some(before) if !quants.is_empty() => node.read(move |store| store.quant(&lineage, before)).await?.size(),
            _ => 0,
        };
        let lineage = chain.lineage.clone();
        Ok(ChainStream { lineage, quants, size, with_transactions, shape, open: None, begun: false, ended: false })
    }

    /// A store that fails halfway breaks the connection: half a chain must not look like a whole one.
    fn into_body(self, node: Node) -> Body {
        Body::from_stream(stream::try_unfold(self, move |mut state| {
            let node = node.clone();
            async move {
                if state.ended {
                    return Ok::<_, StoreError>(None);
                }
                node.read(move |store| {
                    let mut piece = Vec::with_capacity(limits::CHUNK_BYTES + limits::CHUNK_BYTES / 4);
                    while piece.len() < limits::CHUNK_BYTES && !state.ended {
                        state.advance(store, &mut piece)?;
                    }
                    Ok(Some((Bytes::from(piece), state)))
                })
                .await
            }
        }))
    }

    /// Adds the next quant's header, some of its transactions, or the end.
    fn advance(&mut self, store: &Store, out: &mut Vec<u8>) -> Result<(), StoreError> {
        if let Some(transactions) = self.open.take() {
            return self.add_transactions(store, transactions, out);
        }
        let Some(index) = self.quants.next() else {
            if self.shape == Shape::Array {
                out.extend_from_slice(if self.begun { b"]" } else { b"[]" });
            }
            self.ended = true;
            return Ok(());
        };
        if self.shape == Shape::Array {
            out.push(if self.begun { b',' } else { b'[' });
        }
        self.begun = true;
        let quant: Quant = store.quant(&self.lineage, index)?;
        serde_json::to_writer(&mut *out, &quant).expect("writing to memory does not fail");
        if self.with_transactions {
            out.pop();
            out.extend_from_slice(b",\"transactions\":[");
            self.open = Some(self.size..quant.size());
        } else {
            self.end_quant(out);
        }
        self.size = quant.size();
        Ok(())
    }

    fn add_transactions(
        &mut self,
        store: &Store,
        transactions: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        if transactions.is_empty() {
            out.extend_from_slice(b"]}");
            self.end_quant(out);
            return Ok(());
        }
        let room = limits::CHUNK_BYTES.saturating_sub(out.len());
        let next = store.records(&self.lineage, transactions.clone(), b',', room, out)?;
        if next < transactions.end {
            out.push(b',');
        }
        self.open = Some(next..transactions.end);
        Ok(())
    }

    fn end_quant(&self, out: &mut Vec<u8>) {
        if self.shape == Shape::Lines {
            out.push(b'\n');
        }
    }
}
