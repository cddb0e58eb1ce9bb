//! `POST /import`: a chain that was made elsewhere, from its export.

use std::{mem, pin::pin};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    App,
    access::Client,
    extract::{Format, Query, Room, Rooms, format_of, next_data},
    inject::text_header,
    preconditions::{refuse_conditions, refuse_key},
    problem::Problem,
};
use crate::{
    access::{Resource, Role},
    core::{chain::LeapPolicy, export::Voucher, hash::Hash, note::VerifierKey, rules::ChainName},
    limits,
    node::{Import, ImportError, ImportState, Imported, Unfinished},
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
    /// Whether transactions may come without their data though the record of their erasure is not in the export, as it is where
    /// it is on the chain that this one was forked from; false where it is not said.
    #[serde(default, alias = "allow-unproven-erasures")]
    #[param(required = false)]
    allow_unproven_erasures: bool,
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
    /// When the chain leaps by itself here. What the export says of that is taken over, though nobody has signed it.
    leap: LeapPolicy,
}

/// An import that is not finished.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Import)]
pub struct ImportView {
    /// The id that the chain will have.
    #[schema(value_type = String)]
    id: Hash,
    /// The chain's name, once it was read.
    name: Option<String>,
    /// Quants that are stored.
    quants: u64,
    /// Transactions that are stored.
    size: u64,
    /// Their bytes.
    bytes: u64,
    /// `running` while somebody sends it, `interrupted` where nobody does, `removing` when it was given up.
    state: &'static str,
    /// When something was stored of it last: RFC 3339, UTC, six digits.
    last_activity: Option<String>,
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
        (status = 403, description = "The chain has a name that the token is not for; nothing is kept"),
        (status = 422, description = "A line does not hold, which is named; nothing is kept"),
        (status = 429, description = "Too many imports are not finished"),
    )
)]
pub async fn import(
    State(app): State<App>,
    client: Client,
    Query(query): Query<ImportQuery>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    if format_of(request.headers())? != Format::Lines {
        let detail = "an export is application/x-ndjson: one transaction, quant or checkpoint a line";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    refuse_conditions(request.headers())?;
    refuse_key(request.headers(), "an import goes on by itself where the same export is sent again")?;
    let key = query.key.map(|key| key.parse::<VerifierKey>()).transpose();
    let keys = key.map_err(|error| Problem::bad_request(format!("\"key\": {error}")))?;
    if let Some(chain) = app.0.node.chain(&query.chain.to_string()) {
        client.ensure(Role::Operate, chain.name.as_str())?;
    }
    // What others may have under way at one time, one client leaves them.
    let _held = client.hold(Resource::Imports, 1, app.0.admitted.share.of(limits::IMPORTS))?;
    let rooms = Rooms::of(&app, request.extensions());
    let mut body = request.into_body();
    let begun = Import::begin(&app.0.node, query.chain, Vec::from_iter(keys), query.allow_unproven_erasures).await;
    let begun = begun.map(|import| import.of_names(move |name| client.may(Role::Operate, name.as_str())));
    let outcome = match begun {
        Ok(mut import) => match run(&rooms, &mut body, &mut import).await? {
            Err(error @ (ImportError::Fault { .. } | ImportError::UnprovenErasure(_) | ImportError::OtherName(_))) => {
                let _turn = rooms.turn_of_lines(&[]).await;
                import.give_up().await.and(Err(error))
            }
            outcome => outcome,
        },
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // Some clients look for an answer only when all is sent.
        while next_data(&mut body).await.is_ok_and(|data| data.is_some()) {}
    }
    let imported = outcome?;
    let (cluster, chain) = (&app.0.cluster, &imported.chain);
    if cluster.is_active() && !cluster.reserve(chain.name.as_str(), chain.group).await? {
        let known = cluster.group_of(chain.name.as_str());
        if known != Some(chain.group) {
            tracing::error!(chain = %chain.name, "the imported chain has a name that another of the cluster got meanwhile");
        }
    }
    Ok(answer(imported))
}

/// Imports the body in pieces of whole lines. The inner error is the import's, the outer one that of a body that broke off.
async fn run(rooms: &Rooms, body: &mut Body, import: &mut Import) -> Result<Result<Imported, ImportError>, Problem> {
    let mut lines = Lines::default();
    loop {
        let data = {
            let mut next = pin!(next_data(body));
            match timeout(limits::IMPORT_PAUSE, &mut next).await {
                Ok(data) => data?,
                // While nothing comes, no memory is kept from others for lines that can be stored.
                Err(_) => {
                    if let Err(error) = lines.import(rooms, import).await {
                        return Ok(Err(error));
                    }
                    next.await?
                }
            }
        };
        let Some(data) = data else { break };
        lines.add(rooms, &data)?;
        if lines.bytes.len() >= limits::IMPORT_BYTES
            && let Err(error) = lines.import(rooms, import).await
        {
            return Ok(Err(error));
        }
    }
    // What the writer does alone for it, too, comes in turn.
    let _turn = rooms.turn_of_lines(&lines.bytes).await;
    Ok(match import.lines(&lines.bytes).await {
        Ok(()) => import.finish().await,
        Err(error) => Err(error),
    })
}

/// What has come of a body and is not imported yet, with the room that it takes up.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where the last whole line ends.
    whole: usize,
    room: Option<Room>,
}

impl Lines {
    /// Only what is new is looked through: else bytes that drip in would be costly.
    fn add(&mut self, rooms: &Rooms, data: &[u8]) -> Result<(), Problem> {
        if let Some(end) = data.iter().rposition(|&byte| byte == b'\n') {
            self.whole = self.bytes.len() + end + 1;
        }
        if self.whole == 0 && self.bytes.len() + data.len() > limits::BODY_BYTES {
            let detail = format!("a line has at most {} bytes", limits::BODY_BYTES);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        let room = rooms.take(data.len())?;
        match &mut self.room {
            Some(all) => all.merge(room),
            none => *none = Some(room),
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Imports the whole lines. What they took up is free then.
    async fn import(&mut self, rooms: &Rooms, import: &mut Import) -> Result<(), ImportError> {
        let whole = mem::take(&mut self.whole);
        if whole == 0 {
            return Ok(());
        }
        let rest = self.bytes.split_off(whole);
        let lines = mem::replace(&mut self.bytes, rest);
        let turn = rooms.turn_of_lines(&lines).await;
        import.lines(&lines).await?;
        drop(turn);
        if let Some(room) = &mut self.room {
            room.give_back(whole);
        }
        Ok(())
    }
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
        leap: chain.leap_policy(),
    };
    let status = if was_here { StatusCode::OK } else { StatusCode::CREATED };
    (status, [(header::LOCATION, location)], axum::Json(view)).into_response()
}

/// The imports that are not finished: those that somebody sends, and what interrupted ones have stored.
///
/// One of which nothing was stored for a time (`--import-age`) is given up.
#[utoipa::path(
    get,
    path = "/import",
    tag = "node",
    responses((status = 200, description = "The imports, in the order of their ids", body = [ImportView]))
)]
pub async fn imports(State(app): State<App>, client: Client) -> Result<Response, Problem> {
    let may_see = |import: &Unfinished| match &import.name {
        Some(name) => client.may(Role::Read, name),
        None => client.may_everywhere(Role::Read),
    };
    let view = |import: Unfinished| ImportView {
        id: import.id,
        name: import.name,
        quants: import.quants,
        size: import.size,
        bytes: import.bytes,
        state: match import.state {
            ImportState::Running => "running",
            ImportState::Interrupted => "interrupted",
            ImportState::Removing => "removing",
        },
        last_activity: import.active.map(|active| active.to_string()),
    };
    let imports: Vec<ImportView> = app.0.node.imports().await?.into_iter().filter(may_see).map(view).collect();
    Ok(axum::Json(imports).into_response())
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
pub async fn give_up(
    State(app): State<App>,
    client: Client,
    Query(query): Query<GiveUpQuery>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let import = app.0.node.imports().await?.into_iter().find(|import| import.id == query.chain);
    match import.and_then(|import| import.name) {
        Some(name) => client.ensure(Role::Operate, &name)?,
        None => client.ensure_everywhere(Role::Operate)?,
    }
    refuse_conditions(&headers)?;
    refuse_key(&headers, "to give up an import twice does no harm")?;
    app.0.node.give_up_import(query.chain).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Fault { .. } | ImportError::UnprovenErasure(_) => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
            ImportError::OtherName(_) => Problem::new(StatusCode::FORBIDDEN, error.to_string()),
            ImportError::Conflict(detail) => Problem::new(StatusCode::CONFLICT, detail),
            ImportError::Refused(refused) => refused.into(),
        }
    }
}
