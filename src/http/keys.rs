//! Writers that name others in their place, and the end of a chain.

use axum::{
    body::Body,
    extract::State,
    http::Request,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    App,
    access::Client,
    extract::{ChainOf, read_object, refuse_more, take_field, take_signature},
    openapi::{Guard, PublicKey, Signature},
    preconditions::{expected, refuse_key},
    problem::Problem,
    record::{recorded, take_reason},
};
use crate::{
    core::{
        chain::Tag,
        count::Index,
        hash::Hash,
        quant::Quant,
        rules::{ChainName, Fault, Rules},
        terms::{WritersChange, freeze_data},
        transaction::{Kind, Submission, Timestamp},
    },
    writer::Refused,
};

/// The keys of a chain.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ChainKeys)]
pub struct KeysView {
    /// The chain.
    #[schema(value_type = ChainName)]
    chain: String,
    /// Its id, which a writer signs.
    id: Hash,
    /// Those who may write, or null for everyone.
    #[schema(value_type = Option<Vec<PublicKey>>, required = true)]
    writers: Value,
    /// The index of the transaction that names them: the bang, or one of the kind `key`. The next change replaces it.
    since: u64,
    /// The indexes of all transactions by which keys were changed, in their order.
    changes: Vec<u64>,
    /// The verifier keys that sign the checkpoints of all chains here, the newest of the cluster or of the node first.
    signers: Vec<String>,
    /// Those before them, from the first on.
    replaced: Vec<ReplacedKey>,
}

/// A verifier key that has another in its place.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ReplacedKey {
    /// The key.
    key: String,
    /// When it said so.
    #[schema(value_type = Timestamp)]
    time: String,
    /// What it has signed, as it stands in checkpoints.
    succession: String,
}

/// The keys of the chain, and where they were changed.
#[utoipa::path(
    get,
    path = "/keys",
    tag = "chain",
    responses((status = 200, description = "The keys", body = KeysView))
)]
pub async fn keys(State(app): State<App>, target: ChainOf) -> Response {
    let terms = target.chain.terms();
    let (signers, replaced) = app.0.node.keys();
    let replaced = replaced.into_iter().map(|(key, succession)| ReplacedKey {
        key: key.to_string(),
        time: succession.time().to_string(),
        succession: succession.to_string(),
    });
    let keys = KeysView {
        chain: target.chain.name.to_string(),
        id: target.chain.id,
        writers: terms.rules().to_value()["writers"].take(),
        since: terms.since().get(),
        changes: terms.keys().iter().map(|key| key.get()).collect(),
        signers: signers.iter().map(ToString::to_string).collect(),
        replaced: replaced.collect(),
    };
    axum::Json(keys).into_response()
}

/// Other writers for a chain.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct ChangeWriters {
    /// The index of the transaction that names those who write until now: `since` of `GET /keys`.
    replaces: u64,
    /// All who may write from then on.
    #[schema(min_items = 1)]
    writers: Vec<PublicKey>,
    /// One of those who write until now.
    #[schema(nullable = false)]
    signer: Option<PublicKey>,
    /// Its signature over the canonical JSON of `{"chain": the chain's id, "data": {"replaces", "writers"}, "kind": "key"}`.
    #[schema(nullable = false)]
    signature: Option<Signature>,
}

/// That a chain has other writers.
#[derive(Serialize, utoipa::ToSchema)]
pub struct WritersChanged {
    #[schema(example = "Writers changed")]
    message: &'static str,
    /// The chain.
    #[schema(value_type = ChainName)]
    chain: String,
    /// The index of the transaction that records it, which the next change replaces.
    index: u64,
    /// The leaf hash of that.
    hash: Hash,
    /// When.
    #[schema(value_type = Timestamp)]
    timestamp: String,
}

/// Lets other writers take the place of those that a chain has: from the transaction on that records it, they write, and no others.
///
/// One of the writers signs it. Of two changes that were signed at one time, one is made: each says what it replaces. The same again
/// answers with the first.
#[utoipa::path(
    post,
    path = "/keys",
    tag = "chain",
    params(Guard),
    request_body(content((ChangeWriters = "application/json"))),
    responses(
        (status = 201, description = "They write from now on", body = WritersChanged, headers(("Location"))),
        (status = 200, description = "They do since an earlier request", body = WritersChanged,
            headers(("Location"), ("Idempotent-Replayed"))),
        (status = 401, description = "None of the chain's writers has signed it"),
        (status = 403, description = "The signer is none of the chain's writers, or a page of another site asked for it"),
        (status = 409, description = "It replaces other writers than those in force, everyone may write, or the chain is frozen"),
    )
)]
pub async fn change_writers(
    State(app): State<App>,
    target: ChainOf,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let expected = expected(request.headers())?;
    refuse_key(request.headers(), "the same change again answers with the first")?;
    let mut fields = read_object(&app, request).await?;
    let replaces = take_field(&mut fields, "replaces")?.as_u64().map(Index::new);
    let replaces = replaces.ok_or_else(|| vec![Fault::of("replaces", "must be the index of a transaction")])?;
    let writers = take_field(&mut fields, "writers")?;
    let signed = take_signature(&mut fields)?;
    refuse_more(&fields, "a change has replaces, writers, signer and signature")?;
    let terms = target.chain.terms();
    Rules::clone(terms.rules()).with_writers(&writers)?;
    let submission = Submission { data: WritersChange { replaces, writers }.data(), id: None, signed };
    if terms.rules().writers().is_none() {
        return Err(Refused::NoWriters.into());
    }
    // What replaces others may be a repetition.
    if terms.since() == replaces {
        let Submission { data, signed, .. } = &submission;
        terms.rules().check_signature(target.chain.id, Some(Kind::Key), data, None, signed.as_ref())?;
    }
    let accepted = app.0.node.change_writers(&target.chain, expected, submission).await?;
    let changed = WritersChanged {
        message: "Writers changed",
        chain: target.chain.name.to_string(),
        index: accepted.index.get(),
        hash: accepted.hash,
        timestamp: accepted.timestamp.to_string(),
    };
    let tag = if accepted.replayed { target.chain.head().tag() } else { Tag::of_size(accepted.index.size()) };
    Ok(recorded(&target.prefix, &accepted, tag, &changed))
}

/// Why a chain is frozen.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct Freeze {
    /// It is recorded on the chain, for ever: 1 to 1,024 bytes.
    #[schema(min_length = 1, max_length = 1024)]
    reason: String,
    /// On a chain with writers: one of them. It stands with `signature` or not at all.
    #[schema(nullable = false)]
    signer: Option<PublicKey>,
    /// Its signature over the canonical JSON of `{"chain": the chain's id, "data": {"reason"}, "kind": "freeze"}`.
    #[schema(nullable = false)]
    signature: Option<Signature>,
}

/// That a chain is frozen.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Frozen {
    #[schema(example = "Chain frozen")]
    message: &'static str,
    /// The chain.
    #[schema(value_type = ChainName)]
    chain: String,
    /// The index of the transaction that records it: the last of the chain.
    index: u64,
    /// The leaf hash of that.
    hash: Hash,
    /// When.
    #[schema(value_type = Timestamp)]
    timestamp: String,
    /// The quant that seals it: the last of the chain.
    #[schema(value_type = crate::core::quant::QuantFields)]
    quant: Quant,
}

/// Ends a chain for ever: no transaction and no quant follows, and whoever verifies the chain sees that none may.
///
/// What is pooled is sealed with it. It cannot be taken back, and data of the chain cannot be erased any more. Forks go on. What is
/// frozen already answers with the first.
#[utoipa::path(
    post,
    path = "/freeze",
    tag = "chain",
    params(Guard),
    request_body(content((Freeze = "application/json"))),
    responses(
        (status = 201, description = "It is frozen", body = Frozen, headers(("Location"))),
        (status = 200, description = "It was frozen before", body = Frozen, headers(("Location"), ("Idempotent-Replayed"))),
        (status = 401, description = "This chain is frozen only if one of its writers has signed it"),
        (status = 403, description = "None of the chain's writers has signed it, or a page of another site asked for it"),
        (status = 409, description = "It is a mirror"),
    )
)]
pub async fn freeze(
    State(app): State<App>,
    client: Client,
    target: ChainOf,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let expected = expected(request.headers())?;
    refuse_key(request.headers(), "what is frozen already answers with the first")?;
    let mut fields = read_object(&app, request).await?;
    let reason = take_reason(&mut fields)?;
    let signed = take_signature(&mut fields)?;
    refuse_more(&fields, "a freeze has a reason, and perhaps a signature")?;
    let (chain, terms) = (&target.chain, target.chain.terms());
    let submission = Submission { data: freeze_data(&reason), id: None, signed };
    if terms.frozen().is_none() {
        let Submission { data, signed, .. } = &submission;
        terms.rules().check_signature(chain.id, Some(Kind::Freeze), data, None, signed.as_ref())?;
    }
    let (accepted, quant) = client.mining(app.0.node.freeze(chain, expected, submission)).await?;
    let frozen = Frozen {
        message: "Chain frozen",
        chain: chain.name.to_string(),
        index: accepted.index.get(),
        hash: accepted.hash,
        timestamp: accepted.timestamp.to_string(),
        quant,
    };
    Ok(recorded(&target.prefix, &accepted, chain.head().tag(), &frozen))
}
