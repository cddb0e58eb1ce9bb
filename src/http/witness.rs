//! The node as a witness of others' logs: C2SP tlog-witness.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    App,
    chains::page_limit,
    extract::{Place, Query, Rooms, read_whole},
    inject::text_header,
    problem::Problem,
};
use crate::{
    core::{
        hash::Hash,
        witness::{Refusal, Witnessed},
    },
    limits,
    node::NotCosigned,
};

/// Cosigns a checkpoint of a log that the operator has named (`--cosign`), if it continues what was cosigned before.
///
/// The body, the answers and their statuses are those of C2SP tlog-witness. A checkpoint that contradicts the one before is
/// kept as evidence against the log. One of a chain of this node itself, signed by its own key, which the chain does not have,
/// shows that the node runs on an older copy of its data folder: then the chain takes no more writes (`503`).
#[utoipa::path(
    post,
    path = "/add-checkpoint",
    tag = "node",
    request_body(content = String, content_type = "text/plain", description = "`old SIZE`, the consistency proof from that \
        size in base64, a hash a line, an empty line, and the signed checkpoint"),
    responses(
        (status = 200, description = "The cosignature: a signature line of a note. What it speaks for is on disk", body = String,
            content_type = "text/plain; charset=utf-8"),
        (status = 400, description = "The body is malformed, or the old size above the checkpoint's"),
        (status = 403, description = "No known key of the log has signed it"),
        (status = 404, description = "This log is not cosigned"),
        (status = 409, description = "Another size was cosigned last: this one", body = String, content_type = "text/x.tlog.size"),
        (status = 422, description = "It is not shown to continue what was cosigned"),
        (status = 503, description = "It is of a chain of this node, which has lost it, or the witness's clock cannot be right"),
    )
)]
pub async fn add_checkpoint(State(app): State<App>, request: Request<Body>) -> Result<Response, Problem> {
    let rooms = Rooms::of(&app, request.extensions());
    let body = read_whole(&rooms, request.into_body()).await?;
    if body.bytes.len() > limits::WITNESS_BYTES {
        let detail = format!("a checkpoint with its proof has at most {} bytes", limits::WITNESS_BYTES);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    match app.0.node.add_checkpoint(&body.bytes).await {
        Ok(line) => Ok(([(header::CONTENT_TYPE, NOTE)], line).into_response()),
        Err(NotCosigned::Refusal(Refusal::Moved(size))) => {
            let media = [(header::CONTENT_TYPE, "text/x.tlog.size")];
            // The mark keeps the body from being taken for an error without a document.
            let mut response = (StatusCode::CONFLICT, media, format!("{size}\n")).into_response();
            response.extensions_mut().insert(OwnBody);
            Ok(response)
        }
        Err(NotCosigned::Refusal(refusal)) => Err(Problem::new(status_of(&refusal), refusal.to_string())),
        Err(NotCosigned::Refused(refused)) => Err(refused.into()),
        Err(error @ NotCosigned::Clock(_)) => Err(Problem::overloaded(error.to_string())),
    }
}

/// Marks an error whose body is not a problem document, since a standard says so.
#[derive(Clone, Copy)]
pub struct OwnBody;

const NOTE: &str = "text/plain; charset=utf-8";

fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Malformed(_) | Refusal::Shrinks { .. } => StatusCode::BAD_REQUEST,
        Refusal::UnknownLog(_) => StatusCode::NOT_FOUND,
        Refusal::Untrusted(_) => StatusCode::FORBIDDEN,
        Refusal::Moved(_) => StatusCode::CONFLICT,
        Refusal::Inconsistent { .. } | Refusal::WrongEmptyRoot => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// Query parameters of `GET /witness`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WitnessQuery {
    /// Only logs whose names have a hash behind this one.
    after: Option<Hash>,
    /// How many, 100 where it is not said.
    #[param(maximum = 10000)]
    limit: Option<u64>,
}

/// What this node has cosigned.
#[derive(Serialize, utoipa::ToSchema)]
pub struct WitnessView<'a> {
    /// The key that checks its cosignatures (C2SP tlog-cosignature), or null where it cosigns none.
    #[schema(required = true)]
    key: Option<String>,
    /// The logs, in the order of the hashes of their names.
    #[schema(value_type = Vec<Witnessed>)]
    logs: &'a [&'a Witnessed],
}

/// The logs that this node has cosigned as a witness, and the evidence against them. The next page is in the header `Link`.
///
/// Evidence that is `proven` convicts the log, offline, to whoever has its key: both notes are signed, and either they have
/// two roots for one size, or `proof` (RFC 9162 section 2.1.4) leads to the second's root from another root than the first's.
#[utoipa::path(
    get,
    path = "/witness",
    tag = "node",
    params(WitnessQuery),
    responses((status = 200, description = "The logs", body = WitnessView, headers(("Link"))))
)]
pub async fn witness(State(app): State<App>, Query(query): Query<WitnessQuery>) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)? as usize;
    let logs = app.0.node.all_witnessed(query.after, limit + 1);
    let (mut bytes, mut shown) = (0, 0);
    for (_, log) in logs.iter().take(limit) {
        // Notes can be large, so a page may end before its limit.
        if bytes > limits::PAGE_BYTES {
            break;
        }
        let evidence = log.evidence.iter().map(|evidence| evidence.first.len() + evidence.second.len());
        bytes += log.checkpoint.len() + evidence.sum::<usize>();
        shown += 1;
    }
    let mut headers = HeaderMap::new();
    if shown > 0 && shown < logs.len() {
        let (last, _) = &logs[shown - 1];
        headers.insert(header::LINK, text_header(format!("</witness?after={last}&limit={limit}>; rel=\"next\"")));
    }
    let logs: Vec<&Witnessed> = logs[..shown].iter().map(|(_, log)| &**log).collect();
    let key = app.0.node.witness_key().map(|key| key.to_string());
    Ok((headers, axum::Json(WitnessView { key, logs: &logs })).into_response())
}

/// The newest checkpoint of a log that this node has cosigned, with the cosignature.
#[utoipa::path(
    get,
    path = "/witness/{log}/checkpoint",
    tag = "node",
    params(("log" = Hash, Path, description = "The SHA-256 hash of the log's name, in hexadecimal digits")),
    responses(
        (status = 200, description = "A signed note", body = String, content_type = "text/plain; charset=utf-8"),
        (status = 404, description = "None was cosigned"),
    )
)]
pub async fn cosigned(State(app): State<App>, place: Place) -> Result<Response, Problem> {
    let log = place.0.parse().ok().and_then(|log| app.0.node.witnessed(log));
    let log = log.ok_or_else(|| Problem::not_found("no checkpoint of a log with this hash was cosigned"))?;
    let headers = [(header::CONTENT_TYPE, NOTE), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, log.checkpoint.clone()).into_response())
}
