//! What one can read of a chain, its leaps and its forks.

use std::{ops::Range, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    App,
    access::Client,
    cache::{Cache, cache_headers, insists_on, marked_sealed, prefers, unchanged},
    extract::{ChainOf, IsHead, LINES, Place, Query, parse_index, read_object},
    inject::{tag_header, text_header},
    nodes::{ChainView, NAME_IS_KEY, take_leap, take_name},
    openapi::{Cached, Guard, NameForm, PublicKey, Salt, Signature},
    preconditions::{expected, refuse_key},
    problem::Problem,
};
use crate::{
    access::Role,
    core::{
        chain::Head,
        count::{Height, Index, Size},
        hash::{Hash, leaf},
        json,
        mirror::Follows,
        proof::TlogProof,
        quant::{Quant, QuantFields},
        rules::{ChainName, Fault, ForkOf},
        transaction::{Id, Record, Timestamp},
    },
    limits,
    node::{ChainReader, Node, Receipt, StoreError, beside, is_large},
    scrub,
    writer::{ChainHandle, Mirrored},
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
    params(Guard),
    responses(
        (status = 201, description = "The new quant", body = Leaped, headers(("Location"), ("ETag"))),
        (status = 409, description = "Another leap was faster"),
    )
)]
pub async fn leap(
    State(app): State<App>,
    client: Client,
    target: ChainOf,
    IsHead(is_head): IsHead,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // A HEAD must not change anything, and is no way to ask for a leap.
    if is_head {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "a leap is a GET or a POST");
        return Ok(([(header::ALLOW, "GET, POST")], problem).into_response());
    }
    let expected = expected(&headers)?;
    refuse_key(
        &headers,
        "guard a leap with If-Match and the ETag of /stats, and of two with one tag only one is made",
    )?;
    let (quant, tag) = client.mining(app.0.node.leap(&target.chain, expected)).await?;
    let location = text_header(format!("{}/quants/{}", target.prefix, quant.index()));
    let leaped = Leaped { message: "block creation successful", quant: quant.into() };
    Ok((StatusCode::CREATED, [(header::LOCATION, location), (header::ETAG, tag_header(tag))], axum::Json(leaped))
        .into_response())
}

/// Mines a quant from all that is pooled: the same as GET, for those who think that it should be a POST.
#[utoipa::path(
    post,
    path = "/leap",
    tag = "chain",
    params(Guard),
    responses(
        (status = 201, description = "The new quant", body = Leaped, headers(("Location"), ("ETag"))),
        (status = 409, description = "Another leap was faster"),
        (status = 422, description = "It has a body that says something"),
    )
)]
pub async fn leap_by_post(
    app: State<App>,
    client: Client,
    target: ChainOf,
    is_head: IsHead,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    // Some clients send something where there is nothing to say.
    let body = axum::body::to_bytes(body, limits::LEAP_BODY_BYTES).await.ok();
    let said = |body: &[u8]| body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<u8>>();
    if !body.is_some_and(|body| matches!(&said(&body)[..], b"" | b"{}" | b"null")) {
        let detail = "a leap takes no body: If-Match guards it, and the chain's rules and PATCH say the rest";
        return Err(Problem::unprocessable(detail, Vec::new()));
    }
    leap(app, client, target, is_head, headers).await
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
        (status = 200, description = "The quants", content(([ListedQuant] = "application/json"), (String = "application/x-ndjson"))),
    )
)]
pub async fn chain(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<ChainQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let length = target.chain.head().newest.index().next().get();
    let end = query.limit.map_or(length, |limit| query.from.saturating_add(limit).min(length));
    let (shape, media) = match LINES.into_iter().find(|lines| prefers(&headers, lines, "application/json")) {
        Some(lines) => (Shape::Lines, lines),
        None => (Shape::Array, "application/json"),
    };
    let quants = query.from.min(end)..end;
    let stream =
        ChainStream::open(&app.0.node, &target.chain, quants, query.transactions.unwrap_or(true), shape).await?;
    let headers = [(header::CONTENT_TYPE, media), (header::VARY, "accept, accept-encoding")];
    Ok((headers, stream.into_body(app.0.node.clone())).into_response())
}

/// A quant with its transactions.
#[derive(utoipa::ToSchema)]
#[schema(as = Quant)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which comes as it is stored")]
pub struct QuantView {
    #[serde(flatten)]
    quant: QuantFields,
    /// The transactions that it seals, in order.
    transactions: Vec<TransactionView>,
}

/// A quant of a chain that is read whole.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which comes as it is stored")]
pub struct ListedQuant {
    #[serde(flatten)]
    quant: QuantFields,
    /// The transactions that it seals, in order. Absent with `transactions=false`.
    #[schema(nullable = false)]
    transactions: Option<Vec<TransactionView>>,
}

/// A transaction as it is served.
#[derive(utoipa::ToSchema)]
#[schema(as = Transaction)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which comes as it is stored")]
pub struct TransactionView {
    /// Its final place in the chain, from 0.
    index: u64,
    /// The client's own name for it.
    #[schema(nullable = false)]
    id: Option<Id>,
    /// What the node recorded: the rules, an erasure, a change of keys, or that the chain is frozen. Absent for what clients inject.
    #[schema(nullable = false)]
    kind: Option<Kind>,
    /// When a node accepted it.
    timestamp: Timestamp,
    /// The writer's signature.
    #[schema(nullable = false)]
    signature: Option<Signature>,
    /// The writer.
    #[schema(nullable = false)]
    signer: Option<PublicKey>,
    /// Any JSON value. Absent where it was erased.
    #[schema(required = false)]
    data: Value,
    /// Hashed before the data. Absent where it was erased.
    #[schema(nullable = false)]
    salt: Option<Salt>,
    /// What is left of erased data: the hash of salt and data.
    #[schema(nullable = false)]
    commitment: Option<Hash>,
    /// When it was erased, and which transaction records that.
    #[schema(nullable = false)]
    erased: Option<ErasedView>,
    /// The Merkle leaf hash.
    hash: Hash,
}

/// What the node itself records.
#[derive(utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which comes as it is stored")]
pub enum Kind {
    Bang,
    Erasure,
    Key,
    Freeze,
}

/// A transaction, and where it stands.
#[derive(utoipa::ToSchema)]
#[schema(as = PlacedTransaction)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which comes as it is stored")]
pub struct PlacedView {
    #[serde(flatten)]
    transaction: TransactionView,
    state: Stage,
    /// The quant that seals it, null while it is pooled.
    #[schema(required = true)]
    quant: Option<u64>,
}

/// How far a transaction has come.
#[derive(utoipa::ToSchema)]
#[schema(as = State)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which comes as it is stored")]
pub enum Stage {
    /// On disk; no quant covers it yet.
    Pooled,
    /// A quant covers it.
    Sealed,
}

/// That a transaction was erased.
#[derive(utoipa::ToSchema)]
#[schema(as = Erased)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which comes as it is stored")]
pub struct ErasedView {
    /// When.
    timestamp: Timestamp,
    /// The index of the transaction that records it, on the chain that wrote the erased one.
    by: u64,
}

/// One quant with its transactions.
#[utoipa::path(
    get,
    path = "/quants/{quant}",
    tag = "chain",
    params(("quant" = String, Path, description = "Its index, its hash, or `latest`",
        pattern = r"^(latest|0|[1-9]\d{0,19}|[0-9a-f]{64})$")),
    responses(
        (status = 200, description = "The quant; immutable but for `latest`", body = QuantView),
        Cached,
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
    let quant = app.0.node.quant(&target.chain, index).await?;
    let is_sealed = place.0 != "latest";
    let cache = if is_sealed { Cache::Erasable } else { Cache::Revalidate };
    let tag = match target.chain.erasures() {
        0 => format!("\"{}\"", quant.hash()),
        erasures => format!("\"{}-{erasures}\"", quant.hash()),
    };
    if let Some(unchanged) = unchanged(&headers, &tag, cache) {
        return Ok(marked_sealed(unchanged, is_sealed));
    }
    let stream =
        ChainStream::open(&app.0.node, &target.chain, index.get()..index.next().get(), true, Shape::One).await?;
    let body = stream.into_body(app.0.node.clone());
    let response = (cache_headers(&tag, cache), [(header::CONTENT_TYPE, "application/json")], body).into_response();
    Ok(marked_sealed(response, is_sealed))
}

async fn find_quant(app: &App, chain: &Arc<ChainHandle>, place: &str, newest: Height) -> Result<Height, Problem> {
    if place == "latest" {
        return Ok(newest);
    }
    if let Ok(hash) = place.parse::<Hash>() {
        let index = app.0.node.quant_with_hash(chain, hash).await?;
        return index.ok_or_else(|| Problem::not_found(format!("the chain has no quant with the hash {hash}")));
    }
    match parse_index(place).map(Height::new) {
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
    whole: Range<Index>,
    (start, end): (String, &'static str),
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)?;
    let from = query.from.map_or(whole.start, Index::new).clamp(whole.start, whole.end);
    let to = Index::new(from.get().saturating_add(limit)).min(whole.end);
    let piece = move |chain: &ChainReader, from: Index, mut piece: Vec<u8>| {
        let next = chain.records(from..to, b',', limits::CHUNK_BYTES, &mut piece)?;
        piece.extend_from_slice(if next < to { "," } else { end }.as_bytes());
        Ok((Bytes::from(piece), next))
    };
    let read = move |chain: &ChainReader| piece(chain, from, start.into_bytes());
    let (first, next) = app.0.node.read(&target.chain, read).await?;
    let body = if next == to {
        Body::from(first)
    } else {
        let (node, chain) = (app.0.node.clone(), target.chain.clone());
        let rest = stream::try_unfold(next, move |next| {
            let (node, chain) = (node.clone(), chain.clone());
            async move {
                match next < to {
                    true => node.read(&chain, move |chain| piece(chain, next, Vec::new())).await.map(Some),
                    false => Ok(None),
                }
            }
        });
        Body::from_stream(stream::once(async { Ok::<_, StoreError>(first) }).chain(rest))
    };
    let link = next_link(&target.prefix, route, (to < whole.end && limit > 0).then_some(to), query.limit);
    Ok((link, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn next_link(prefix: &str, route: &str, next: Option<Index>, limit: Option<u64>) -> HeaderMap {
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
        (status = 200, description = "The transactions", body = [TransactionView], headers(("Link"))),
    )
)]
pub async fn transactions(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let whole = Size::ZERO.next_index()..target.chain.head().size().next_index();
    page(&app, &target, "transactions", &query, whole, ("[".into(), "]")).await
}

/// A page of the pool.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which comes as it is stored")]
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
        (status = 200, description = "The pool", body = Pool, headers(("Link"))),
    )
)]
pub async fn pool(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let head = target.chain.head();
    let start = format!("{{\"count\":{},\"transactions\":[", head.pooled());
    let pooled = head.newest.size().next_index()..head.size().next_index();
    page(&app, &target, "pool", &query, pooled, (start, "]}")).await
}

/// One transaction, with where it stands.
#[utoipa::path(
    get,
    path = "/transactions/{index}",
    tag = "chain",
    params(("index" = u64, Path, description = "Its index")),
    responses(
        (status = 200, description = "The transaction", body = PlacedView),
        Cached,
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
    params(("id" = Id, Path, description = "The id that the client gave")),
    responses(
        (status = 200, description = "The transaction", body = PlacedView),
        Cached,
    )
)]
pub async fn transaction_by_id(
    State(app): State<App>,
    target: ChainOf,
    place: Place,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = place.0.parse::<Id>().map_err(Problem::bad_request)?;
    let index = app.0.node.transaction_with_id(&target.chain, id).await?;
    let index =
        index.ok_or_else(|| Problem::not_found(format!("the chain has no transaction with the id {:?}", place.0)))?;
    transaction_at(&app, &target.chain, index, &headers).await
}

async fn transaction_at(
    app: &App,
    chain: &Arc<ChainHandle>,
    index: Index,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let is_sealed = chain.head().newest.size().has(index);
    let read = app.0.node.read(chain, move |chain| {
        let quant = is_sealed.then(|| chain.quant_of(index)).transpose()?;
        let record = chain.record(index)?;
        let read = is_sealed.then(|| Record::parse(&record)).transpose();
        let read = read.map_err(|detail| StoreError::Damaged(format!("transaction {index}: {detail}")))?;
        // What is erased stays so, and the chain's own records are never erased.
        let is_final =
            read.is_some_and(|read| read.transaction.kind().is_some() || read.transaction.erased().is_some());
        Ok((leaf(&record), quant, is_final, record))
    });
    let (hash, quant, is_final, mut record) = read.await?;
    let state = if is_sealed { "sealed" } else { "pooled" };
    let tag = format!("\"{hash}-{state}\"");
    let cache = if is_final { Cache::Immutable } else { Cache::Revalidate };
    if let Some(unchanged) = unchanged(headers, &tag, cache) {
        return Ok(marked_sealed(unchanged, is_sealed));
    }
    let quant = quant.map_or("null".into(), |quant| quant.to_string());
    record.pop();
    record.extend_from_slice(format!(",\"state\":\"{state}\",\"quant\":{quant}}}").as_bytes());
    let response = (cache_headers(&tag, cache), [(header::CONTENT_TYPE, "application/json")], record).into_response();
    Ok(marked_sealed(response, is_sealed))
}

/// The proof that a transaction is in a chain, checkable offline.
#[derive(utoipa::ToSchema)]
#[schema(as = Receipt)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document, which is put together of what is stored")]
pub struct ReceiptView {
    /// The chain's id.
    chain: Hash,
    /// The transaction.
    transaction: TransactionView,
    /// The quant that seals it, without its transactions.
    quant: QuantFields,
    /// The inclusion proof (RFC 9162 section 2.1.3) of its hash at its index in the tree of `quant.size` and `quant.root`.
    path: Vec<Hash>,
    /// The checkpoint of exactly that quant: a signed note, with the cosignatures that the node has of it.
    checkpoint: String,
    /// In the array that answers an inject: `true` where an earlier request did it.
    #[schema(nullable = false)]
    replayed: Option<bool>,
}

/// The receipt of a sealed transaction.
///
/// `Accept: text/plain` gives it as a C2SP tlog-proof, whose `extra` is the leaf.
#[utoipa::path(
    get,
    path = "/transactions/{index}/receipt",
    tag = "chain",
    params(("index" = u64, Path, description = "Its index")),
    responses(
        (status = 200, description = "The receipt; `text/plain` is a C2SP tlog-proof",
            content((ReceiptView = "application/json"), (String = "text/plain; charset=utf-8"))),
        Cached,
        (status = 409, description = "It is pooled still"),
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
    if !head.newest.size().has(index) {
        let detail = format!("transaction {index} is still pooled: it has a receipt after the next leap");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let (media, body) = match insists_on(&headers, "text/plain", "application/json") {
        true => ("text/plain; charset=utf-8", tlog_proof(&app, target.chain, index).await?.into_bytes()),
        false => ("application/json", receipt_json(&app, target.chain, index).await?),
    };
    let tag = format!("\"{}\"", beside(is_large(&body), || leaf(&body)));
    let mut response = unchanged(&headers, &tag, Cache::Revalidate).unwrap_or_else(|| {
        (cache_headers(&tag, Cache::Revalidate), [(header::CONTENT_TYPE, media)], body).into_response()
    });
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    Ok(marked_sealed(response, true))
}

/// The receipt of a sealed transaction as a C2SP tlog-proof.
async fn tlog_proof(app: &App, chain: Arc<ChainHandle>, index: Index) -> Result<String, Problem> {
    let Receipt { record, path, checkpoint, .. } = app.0.node.receipt(chain, index).await?;
    let leaf = Record::parse(&record).map(|record| record.transaction.leaf());
    let leaf = leaf.map_err(|detail| StoreError::Damaged(format!("transaction {index}: {detail}")))?;
    Ok(TlogProof { leaf: Some(leaf), index: index.get(), path, checkpoint }.to_string())
}

/// The receipt of a sealed transaction as JSON.
pub(super) async fn receipt_json(app: &App, chain: Arc<ChainHandle>, index: Index) -> Result<Vec<u8>, Problem> {
    let id = chain.id;
    let Receipt { record, quant, path, checkpoint } = app.0.node.receipt(chain, index).await?;
    let quant = serde_json::to_vec(&quant).expect("a quant is JSON");
    let path = serde_json::to_vec(&path).expect("hashes are JSON");
    let start = format!("{{\"chain\":\"{id}\",\"transaction\":");
    let mut receipt = [start.as_bytes(), &record, b",\"quant\":", &quant, b",\"path\":", &path].concat();
    receipt.extend_from_slice(b",\"checkpoint\":");
    json::write_string(&checkpoint.to_string(), &mut receipt);
    receipt.push(b'}');
    Ok(receipt)
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
        Cached,
    )
)]
pub async fn consistency(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<ConsistencyQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let head = target.chain.head();
    let (from, to) = (Size::new(query.from), query.to.map_or(head.newest.size(), Size::new));
    if from > to {
        return Err(Problem::bad_request(format!("\"from\" is {from}, which is above \"to\", {to}")));
    }
    if to > head.size() {
        return Err(Problem::not_found(format!("the chain has {} transactions, it never had {to}", head.size())));
    }
    let cache = if query.to.is_some() { Cache::Immutable } else { Cache::Revalidate };
    let tag = format!("\"{}-{from}-{to}\"", target.chain.id);
    let is_sealed = query.to.is_some() && to <= head.newest.size();
    if let Some(unchanged) = unchanged(&headers, &tag, cache) {
        return Ok(marked_sealed(unchanged, is_sealed));
    }
    let path = app.0.node.consistency(target.chain, from, to).await?;
    let proof = axum::Json(Consistency { from: from.get(), to: to.get(), path });
    Ok(marked_sealed((cache_headers(&tag, cache), proof).into_response(), is_sealed))
}

/// How large a chain is.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Its name.
    #[schema(value_type = ChainName)]
    chain: String,
    /// The hash of its first own quant.
    id: Hash,
    /// Quants.
    length: u64,
    /// Transactions, pooled ones included.
    size: u64,
    /// Transactions that no quant covers yet.
    pooled: u64,
    /// The newest quant's hash.
    hash: Hash,
    /// The newest quant's Merkle root.
    root: Hash,
    /// Bytes of all transactions as they were accepted.
    bytes: u64,
    /// When all of it was read again and held, since the node started; null if it was not yet.
    #[schema(required = true)]
    scrubbed: Option<ScrubbedView>,
    /// What does not hold in what is stored of it: then it takes no writes. Null where all holds.
    #[schema(required = true)]
    damage: Option<String>,
    /// Runs of its transactions that were damaged on this node's disk and were healed from other nodes, since the node started.
    healed: u64,
    /// That newer quants of it were signed than it has, as of a restored older data folder: then it takes no writes. Null where
    /// nothing speaks for that.
    #[schema(required = true)]
    rollback: Option<String>,
    /// The index of the transaction that froze it for ever: then it takes no writes. Null where it goes on.
    #[schema(required = true)]
    frozen: Option<u64>,
    /// How it stands to the chain of others that it is a mirror of: then it takes no writes. Null where it is none.
    #[schema(required = true)]
    mirror: Option<MirroredView>,
}

/// How a mirror stands to its source; `GET /mirrors` says more.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Mirrored)]
pub struct MirroredView {
    /// The URL of the chain at its source.
    from: String,
    /// Whether it is followed.
    state: Follows,
    /// Transactions that are missing here of the newest checkpoint that was seen of the source, or null where none was since the
    /// node's start.
    #[schema(required = true)]
    lag: Option<u64>,
}

/// That all of a chain was read again and held.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Scrubbed)]
pub struct ScrubbedView {
    /// The chain's size then.
    size: u64,
    /// When it was done.
    #[schema(value_type = Timestamp)]
    timestamp: String,
}

impl Stats {
    /// Of a chain as it stands now.
    pub fn of(chain: &ChainHandle) -> Stats {
        Stats::at(chain, &chain.head())
    }

    fn at(chain: &ChainHandle, head: &Head) -> Stats {
        Stats {
            chain: chain.name.to_string(),
            id: chain.id,
            length: head.newest.index().next().get(),
            size: head.size().get(),
            pooled: head.pooled(),
            hash: head.newest.hash(),
            root: head.newest.header().root,
            bytes: head.bytes,
            scrubbed: scrub::last(chain)
                .map(|done| ScrubbedView { size: done.size.get(), timestamp: done.timestamp.to_string() }),
            damage: chain.damage(),
            healed: chain.healed(),
            rollback: chain.rollback(),
            frozen: chain.frozen().map(Index::get),
            mirror: chain.mirror().map(|Mirrored { from, state, source }| {
                let lag = source.map(|size| size.get().saturating_sub(head.newest.size().get()));
                MirroredView { from, state, lag }
            }),
        }
    }
}

/// How large the chain is. The ETag guards writes (`If-Match`).
///
/// It speaks for the chain: that `scrubbed` is newer does not change it.
#[utoipa::path(
    get,
    path = "/stats",
    tag = "chain",
    responses((status = 200, description = "The figures", body = Stats), Cached)
)]
pub async fn stats(target: ChainOf, headers: HeaderMap) -> Response {
    let head = target.chain.head();
    let (stats, tag) = (Stats::at(&target.chain, &head), format!("\"{}\"", head.tag()));
    // The tag speaks for the chain; damage is found, and the source of a mirror goes on, without a change of it.
    let holds = stats.damage.is_none() && stats.rollback.is_none() && stats.mirror.is_none();
    let unchanged = unchanged(&headers, &tag, Cache::Revalidate).filter(|_| holds);
    unchanged.unwrap_or_else(|| (cache_headers(&tag, Cache::Revalidate), axum::Json(stats)).into_response())
}

/// A chain that goes on from a quant of another.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document; core::rules reads it")]
pub struct Fork {
    /// The new chain's name.
    name: ChainName,
    /// The quant to go on from, the newest where it is not said.
    #[schema(nullable = false)]
    at: Option<u64>,
    /// Zero bits of each quant's hash; the parent's where it is not said, as for all that follow.
    #[schema(nullable = false, maximum = 48)]
    difficulty: Option<u8>,
    /// A JSON Schema (2020-12) that injected data must meet, or null for any data.
    #[schema(schema_with = super::openapi::json_schema)]
    schema: Option<Value>,
    /// The largest canonical data accepted.
    #[schema(nullable = false, minimum = 1, maximum = 4194304)]
    max_bytes: Option<u64>,
    /// Those who may write, or null for everyone.
    #[schema(min_items = 1)]
    writers: Option<Vec<PublicKey>>,
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
    params(Guard),
    request_body(content((Fork = "application/json"), (NameForm = "application/x-www-form-urlencoded"))),
    responses(
        (status = 201, description = "The new chain", body = ChainView, headers(("Location"))),
        (status = 409, description = "The name is taken"),
    )
)]
pub async fn fork(
    State(app): State<App>,
    client: Client,
    target: ChainOf,
    request: Request<Body>,
) -> Result<Response, Problem> {
    // Whoever may read the fork reads its past, which is the parent's.
    client.ensure(Role::Read, target.chain.name.as_str())?;
    let guard = target.chain.guard(expected(request.headers())?);
    refuse_key(request.headers(), NAME_IS_KEY)?;
    let mut fields = read_object(&app, request).await?;
    let name = take_name(&mut fields)?;
    client.ensure(Role::Operate, name.as_str())?;
    let leap = take_leap(&mut fields)?.unwrap_or_default();
    let newest = target.chain.head().newest;
    let at =
        match fields.remove("at") {
            None => newest.index(),
            Some(at) => at.as_u64().map(Height::new).filter(|&at| at <= newest.index()).ok_or_else(|| {
                vec![Fault::of("at", format!("must be the index of a quant, 0 to {}", newest.index()))]
            })?,
        };
    // Where the quant was made by an ancestor, it is the ancestor that is forked: its rules hold there.
    let parent = target.chain.maker_of(at);
    let (quant, id, rules) = app.0.node.fork_point(&parent, at).await?;
    let of = ForkOf { chain: id, index: at, hash: quant.hash() };
    let rules = rules.fork(name, of).amend(fields)?;
    let (name, group) = (rules.name().clone(), parent.group);
    let make = app.0.node.bang(rules, Some((parent, quant)), leap, guard, None);
    let chain = client.mining(super::nodes::make_in_cluster(&app, name, group, make)).await?;
    Ok(ChainView::created(&app, &chain).await)
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
    chain: Arc<ChainHandle>,
    /// Quants that are still to come.
    quants: Range<u64>,
    /// Transactions before them.
    size: Size,
    with_transactions: bool,
    shape: Shape,
    /// Transactions of the newest quant that are still to come, where it came with any.
    open: Option<Range<Index>>,
    begun: bool,
    ended: bool,
}

impl ChainStream {
    async fn open(
        node: &Node,
        chain: &Arc<ChainHandle>,
        quants: Range<u64>,
        with_transactions: bool,
        shape: Shape,
    ) -> Result<Self, StoreError> {
        let size = match quants.start.checked_sub(1) {
            Some(before) if !quants.is_empty() => node.quant(chain, Height::new(before)).await?.size(),
            _ => Size::ZERO,
        };
        Ok(ChainStream {
            chain: chain.clone(),
            quants,
            size,
            with_transactions,
            shape,
            open: None,
            begun: false,
            ended: false,
        })
    }

    /// A store that fails halfway breaks the connection: half a chain must not look like a whole one.
    fn into_body(self, node: Node) -> Body {
        Body::from_stream(stream::try_unfold(self, move |mut state| {
            let node = node.clone();
            async move {
                if state.ended {
                    return Ok::<_, StoreError>(None);
                }
                let chain = state.chain.clone();
                node.read(&chain, move |chain| {
                    let mut piece = Vec::with_capacity(limits::CHUNK_BYTES + limits::CHUNK_BYTES / 4);
                    while piece.len() < limits::CHUNK_BYTES && !state.ended {
                        state.advance(chain, &mut piece)?;
                    }
                    Ok(Some((Bytes::from(piece), state)))
                })
                .await
            }
        }))
    }

    /// Adds the next quant's header, some of its transactions, or the end.
    fn advance(&mut self, chain: &ChainReader, out: &mut Vec<u8>) -> Result<(), StoreError> {
        if let Some(transactions) = self.open.take() {
            return self.add_transactions(chain, transactions, out);
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
        let quant: Quant = chain.quant(Height::new(index))?;
        serde_json::to_writer(&mut *out, &quant).expect("writing to memory does not fail");
        if self.with_transactions {
            out.pop();
            out.extend_from_slice(b",\"transactions\":[");
            self.open = Some(self.size.next_index()..quant.size().next_index());
        } else {
            self.end_quant(out);
        }
        self.size = quant.size();
        Ok(())
    }

    fn add_transactions(
        &mut self,
        chain: &ChainReader,
        transactions: Range<Index>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        if transactions.is_empty() {
            out.extend_from_slice(b"]}");
            self.end_quant(out);
            return Ok(());
        }
        let room = limits::CHUNK_BYTES.saturating_sub(out.len());
        let next = chain.records(transactions.clone(), b',', room, out)?;
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
