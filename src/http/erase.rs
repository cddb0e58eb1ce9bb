//! Erasing the data of a transaction, while all proofs stay valid.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderName, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    App,
    extract::{ChainOf, Place, expected_size, read_object},
    inject::text_header,
    problem::{Problem, ProblemDocument},
};
use crate::{
    core::{
        chain::erasure_data,
        hash::Hash,
        rules::Fault,
        transaction::{Submission, take_signed},
    },
    limits,
};

/// Why a transaction is erased.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct Erase {
    /// It is recorded on the chain, for ever: 1 to 1,024 bytes.
    reason: String,
    /// On a chain with writers: the hex Ed25519 public key of one of them.
    signer: Option<String>,
    /// Its hex signature over the canonical JSON of `{"chain": the chain's id, "data": {"index", "reason"}}`.
    signature: Option<String>,
}

/// That a transaction is erased.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Erasure {
    #[schema(example = "Transaction erased")]
    message: &'static str,
    /// The chain that records it: the one that wrote the transaction.
    chain: String,
    /// The index of the erased transaction.
    erased: u64,
    /// The index of the transaction that records it.
    index: u64,
    /// The leaf hash of that.
    #[schema(value_type = String)]
    hash: Hash,
    /// When.
    timestamp: String,
}

/// Erases data and salt of a transaction for ever, and records it as a transaction of its own.
///
/// Its leaf stays, and with it every root, receipt and checkpoint. Forks that share it lose the data too; one that was imported
/// has a copy of its own. When the answer comes, no file of the node can give the data of this chain back. What is erased already answers with the first erasure.
#[utoipa::path(
    post,
    path = "/transactions/{index}/erase",
    tag = "chain",
    params(
        ("index" = u64, Path, description = "Its index"),
        ("If-Match" = Option<String>, Header, description = "The ETag of /stats: only if nothing got in between"),
    ),
    request_body(content((Erase = "application/json"), (Erase = "application/x-www-form-urlencoded"))),
    responses(
        (status = 201, description = "It is erased", body = Erasure,
            headers(("Location", description = "The transaction that records it"))),
        (status = 200, description = "It was erased before", body = Erasure),
        (status = 404, description = "There is no such transaction", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "It is a record of the node itself", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Nothing was changed", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn erase(
    State(app): State<App>,
    target: ChainOf,
    place: Place,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let erased = place.transaction(target.chain.head().size())?;
    let expected = expected_size(request.headers())?;
    let mut fields = read_object(&app, request).await?;
    let reason = fields.remove("reason").ok_or_else(|| vec![Fault::of("reason", "is missing")])?;
    let reason = reason.as_str().filter(|reason| (1..=limits::REASON_BYTES).contains(&reason.len()));
    let length = format!("must be a string of 1 to {} bytes", limits::REASON_BYTES);
    let reason = reason.ok_or_else(|| vec![Fault::of("reason", length)])?;
    let signed = take_signed(&mut fields).map_err(|(name, detail)| vec![Fault::of(name, detail)])?;
    if let Some(name) = fields.keys().next() {
        return Err(vec![Fault::of(name, "unknown field: an erasure has a reason, and perhaps a signature")].into());
    }
    let submission = Submission { data: erasure_data(erased, reason), id: None, signed };
    let writer = target.chain.writer_of(erased);
    let Submission { data, id, signed } = &submission;
    writer.rules.check_signature(writer.id, data, id.as_ref(), signed.as_ref())?;

    let (chain, accepted) = app.0.node.erase(&target.chain, erased, expected, submission).await?;
    let erasure = Erasure {
        message: "Transaction erased",
        chain: chain.name.to_string(),
        erased,
        index: accepted.index,
        hash: accepted.hash,
        timestamp: accepted.timestamp.to_string(),
    };
    // On a chain that the route does not name, it stands at that chain's own routes.
    let prefix =
        if chain.number() == target.chain.number() { target.prefix } else { format!("/chains/{}", chain.name) };
    let location = text_header(format!("{prefix}/transactions/{}", accepted.index));
    let mut response = ([(header::LOCATION, location)], axum::Json(erasure)).into_response();
    if accepted.replayed {
        response.headers_mut().insert(HeaderName::from_static("idempotent-replayed"), text_header("true".into()));
    } else {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}
