//! `POST /import`: a chain that was made elsewhere, from its export.

use axum::{
    body::Body,
    extract::State,
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    App,
    extract::{Format, Query, format_of, next_data, take_room},
    inject::text_header,
    problem::Problem,
};
use crate::{
    core::{export::Voucher, hash::Hash, note::VerifierKey, rules::ChainName},
    limits,
    node::{Import, ImportError, Imported},
};

/// Query parameters of `POST /import`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// The id of the chain: the origin of the checkpoint in the export's last line, without `qbc/`.
    chain: Hash,
    /// The verifier key that must have signed the checkpoint, as `qbc key` prints it (`+` is `%2B` in a URL).
    key: Option<String>,
}

/// Query parameters of `DELETE /import`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GiveUpQuery {
    /// The id of the chain.
    chain: Hash,
}

/// A chain that was imported.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ImportedView {
    #[schema(example = "Chain imported")]
    message: &'static str,
    /// The chain's name, as its rules say.
    #[schema(value_type = ChainName)]
    chain: String,
    /// Its id.
    id: Hash,
    /// Quants of the export.
    quants: u64,
    /// Transactions of the export.
    transactions: u64,
    /// The name of the key that has signed the checkpoint; null where no key was named, so that it was not checked.
    #[schema(required = true)]
    signed_by: Option<String>,
}

/// Recreates a chain from its export, under its id and name, byte by byte.
///
/// Each line is verified: hashes, signatures, rules, proof of work, roots, links, and the checkpoint in the last one. Nobody sees
/// the chain before all of it holds. Where it is interrupted, the same lines sent again go on.
#[utoipa::path(
    post,
    path = "/import",
    tag = "node",
    params(ImportQuery),
    request_body(content = String, content_type = "application/x-ndjson", description = "What `qbc export` has written"),
    responses(
        (status = 201, description = "The chain is here", body = ImportedView, headers(("Location"))),
        (status = 200, description = "It was here already, with all that the export has", body = ImportedView, headers(("Location"))),
        (status = 409, description = "Another chain has its name, it is here but without all that the export has, or an earlier import had other lines"),
        (status = 422, description = "A line does not hold, which is named; nothing is kept"),
    )
)]
pub async fn import(
    State(app): State<App>,
    Query(query): Query<ImportQuery>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    if format_of(request.headers())? != Format::Lines {
        let detail = "an export is application/x-ndjson: one transaction, quant or checkpoint a line";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let key = query.key.map(|key| key.parse::<VerifierKey>()).transpose();
    let keys = key.map_err(|error| Problem::bad_request(format!("\"key\": {error}")))?;
    let _room = take_room(&app, limits::IMPORT_BYTES + limits::BODY_BYTES)?;
    let mut body = request.into_body();
    let outcome = match Import::begin(&app.0.node, query.chain, Vec::from_iter(keys)).await {
        Ok(mut import) => match run(&mut body, &mut import).await? {
            Err(error @ ImportError::Fault { .. }) => import.give_up().await.and(Err(error)),
            outcome => outcome,
        },
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // Some clients look for an answer only when all is sent.
        while next_data(&mut body).await.is_ok_and(|data| data.is_some()) {}
    }
    Ok(answer(outcome?))
}

/// Imports the body in pieces of whole lines. The inner error is the import's, the outer one that of a body that broke off.
async fn run(body: &mut Body, import: &mut Import) -> Result<Result<Imported, ImportError>, Problem> {
    let mut lines = Vec::new();
    // Where the last whole line ends. Only what is new is looked through: else bytes that drip in would be costly.
    let mut whole = 0;
    while let Some(data) = next_data(body).await? {
        if let Some(end) = data.iter().rposition(|&byte| byte == b'\n') {
            whole = lines.len() + end + 1;
        }
        lines.extend_from_slice(&data);
        if lines.len() < limits::IMPORT_BYTES {
            continue;
        }
        if whole == 0 {
            if lines.len() > limits::IMPORT_BYTES + limits::BODY_BYTES {
                let detail = format!("a line has at most {} bytes", limits::BODY_BYTES);
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
            }
            continue;
        }
        let rest = lines.split_off(whole);
        whole = 0;
        if let Err(error) = import.lines(&lines).await {
            return Ok(Err(error));
        }
        lines = rest;
    }
    Ok(match import.lines(&lines).await {
        Ok(()) => import.finish().await,
        Err(error) => Err(error),
    })
}

fn answer(imported: Imported) -> Response {
    let Imported { chain, quants, transactions, was_here, voucher } = imported;
    let location = text_header(format!("/chains/{}", chain.name));
    let view = ImportedView {
        message: if was_here { "Chain is here already" } else { "Chain imported" },
        chain: chain.name.to_string(),
        id: chain.id,
        quants,
        transactions,
        signed_by: match voucher {
            Voucher::Key(name) => Some(name.to_string()),
            Voucher::Nobody | Voucher::Unchecked => None,
        },
    };
    let status = if was_here { StatusCode::OK } else { StatusCode::CREATED };
    (status, [(header::LOCATION, location)], axum::Json(view)).into_response()
}

/// Removes what an interrupted import has stored.
#[utoipa::path(
    delete,
    path = "/import",
    tag = "node",
    params(GiveUpQuery),
    responses(
        (status = 204, description = "Nothing of an unfinished import of this chain is here"),
        (status = 409, description = "It is being imported at the moment"),
    )
)]
pub async fn give_up(State(app): State<App>, Query(query): Query<GiveUpQuery>) -> Result<StatusCode, Problem> {
    app.0.node.give_up_import(query.chain).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Fault { .. } => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            ImportError::Conflict(detail) => Problem::new(StatusCode::CONFLICT, detail),
            ImportError::Refused(refused) => refused.into(),
        }
    }
}
