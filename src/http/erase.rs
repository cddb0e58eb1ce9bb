//! Erasing the data of a transaction, while all proofs stay valid.

use axum::{body::Body, extract::State, http::Request, response::Response};
use serde::Serialize;

use super::{
    App,
    extract::{ChainOf, Place, read_object, refuse_more, take_signature},
    openapi::{Guard, PublicKey, Signature},
    preconditions::{expected, refuse_key},
    problem::Problem,
    record::{recorded, take_reason},
};
use crate::core::{
    chain::{Tag, erasure_data},
    hash::Hash,
    rules::ChainName,
    transaction::{Kind, Submission, Timestamp},
};

/// Why a transaction is erased.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct Erase {
    /// It is recorded on the chain, for ever: 1 to 1,024 bytes.
    #[schema(min_length = 1, max_length = 1024)]
    reason: String,
    /// On a chain with writers: one of them. It stands with `signature` or not at all.
    #[schema(nullable = false)]
    signer: Option<PublicKey>,
    /// Its signature over the canonical JSON of `{"chain": the chain's id, "data": {"index", "reason"}, "kind": "erasure"}`.
    #[schema(nullable = false)]
    signature: Option<Signature>,
}

/// A form that says why a transaction is erased.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct EraseForm {
    /// It is recorded on the chain, for ever: 1 to 1,024 bytes.
    #[schema(min_length = 1, max_length = 1024)]
    reason: String,
    /// On a chain with writers: one of them. It stands with `signature` or not at all.
    #[schema(nullable = false)]
    signer: Option<PublicKey>,
    /// Its signature over the canonical JSON of `{"chain": the chain's id, "data": {"index", "reason"}, "kind": "erasure"}`.
    #[schema(nullable = false)]
    signature: Option<Signature>,
}

/// That a transaction is erased.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Erasure {
    #[schema(example = "Transaction erased")]
    message: &'static str,
    /// The chain that records it: the one that wrote the transaction.
    #[schema(value_type = ChainName)]
    chain: String,
    /// The index of the erased transaction.
    erased: u64,
    /// The index of the transaction that records it.
    index: u64,
    /// The leaf hash of that.
    hash: Hash,
    /// When.
    #[schema(value_type = Timestamp)]
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
        Guard,
    ),
    request_body(content((Erase = "application/json"), (EraseForm = "application/x-www-form-urlencoded"))),
    responses(
        (status = 201, description = "It is erased", body = Erasure,
            headers(("Location"))),
        (status = 200, description = "It was erased before", body = Erasure,
            headers(("Location"), ("Idempotent-Replayed"))),
        (status = 401, description = "This chain takes only erasures that one of its writers has signed"),
        (status = 403, description = "None of the chain's writers has signed it, or a page of another site asked for it"),
        (status = 409, description = "It is a record of the node itself"),
    )
)]
pub async fn erase(
    State(app): State<App>,
    target: ChainOf,
    place: Place,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let erased = place.transaction(target.chain.head().size())?;
    let expected = expected(request.headers())?;
    refuse_key(request.headers(), "what is erased already answers with the first erasure")?;
    let mut fields = read_object(&app, request).await?;
    let reason = take_reason(&mut fields)?;
    let signed = take_signature(&mut fields)?;
    refuse_more(&fields, "an erasure has a reason, and perhaps a signature")?;
    let submission = Submission { data: erasure_data(erased, &reason), id: None, signed };
    let writer = target.chain.writer_of(erased);
    let Submission { data, id, signed } = &submission;
    writer.rules().check_signature(writer.id, Some(Kind::Erasure), data, id.as_ref(), signed.as_ref())?;

    let (chain, accepted) = app.0.node.erase(&target.chain, erased, expected, submission).await?;
    let erasure = Erasure {
        message: "Transaction erased",
        chain: chain.name.to_string(),
        erased: erased.get(),
        index: accepted.index.get(),
        hash: accepted.hash,
        timestamp: accepted.timestamp.to_string(),
    };
    // On a chain that the route does not name, it stands at that chain's own routes.
    let is_own = chain.number() == target.chain.number();
    let prefix = if is_own { target.prefix } else { format!("/chains/{}", chain.name) };
    // The state of the chain that the request names, which an erasure on another one does not change.
    let is_newest = is_own && !accepted.replayed;
    let tag = if is_newest { Tag::of_size(accepted.index.size()) } else { target.chain.head().tag() };
    Ok(recorded(&prefix, &accepted, tag, &erasure))
}
