//! Mirrors: chains of others that this node follows.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use super::{
    App,
    access::Client,
    extract::{Place, read_object, refuse_more},
    inject::text_header,
    preconditions::{refuse_conditions, refuse_key},
    problem::Problem,
};
use crate::{
    access::{Role, Secret},
    core::{
        note::VerifierKey,
        rules::{ChainName, Fault},
    },
    mirror::{MirrorError, MirrorView, Wanted, source::ChainUrl},
};

/// A chain of others to follow.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct Follow {
    /// The URL of a node or of a chain, such as `https://ledger.example/chains/orders`.
    from: String,
    /// The chain, where the URL does not say; the default chain where nothing does.
    #[schema(nullable = false)]
    chain: Option<ChainName>,
    /// The key that signs its checkpoints, as `qbc key` prints it there.
    key: String,
    /// A token of the source that has the role read on the chain, where the source asks for one. It is shown to nobody else.
    #[schema(nullable = false, write_only)]
    token: Option<String>,
    /// Whether transactions may come without their data though no record of their erasure is on the chain; false where it is not said.
    #[schema(nullable = false)]
    allow_unproven_erasures: Option<bool>,
}

fn take_text(fields: &mut Map<String, Value>, name: &str, meaning: &str) -> Result<String, Vec<Fault>> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(vec![Fault::of(name, format!("must be a string: {meaning}"))]),
        None => Err(vec![Fault::of(name, format!("is missing: {meaning}"))]),
    }
}

fn take_wanted(mut fields: Map<String, Value>) -> Result<Wanted, Vec<Fault>> {
    let from = take_text(&mut fields, "from", "the URL of a node or of a chain")?;
    let mut from: ChainUrl = from.parse().map_err(|error| vec![Fault::of("from", error)])?;
    let key = take_text(&mut fields, "key", "the key that signs there, as \"qbc key\" prints it")?;
    let key = key.parse::<VerifierKey>().map_err(|error| vec![Fault::of("key", error.to_string())])?;
    if let Some(chain) = fields.remove("chain") {
        let chain = chain.as_str().and_then(|chain| chain.parse::<ChainName>().ok());
        let chain = chain.ok_or_else(|| vec![Fault::of("chain", "must be the name of a chain")])?;
        if from.names_chain && from.chain() != chain.as_str() {
            return Err(vec![Fault::of("chain", format!("is another one than that of \"from\", {}", from.chain()))]);
        }
        from = from.with_chain(&chain);
    }
    let allow = fields.remove("allow_unproven_erasures").unwrap_or(Value::Bool(false));
    let allow_unproven_erasures =
        allow.as_bool().ok_or_else(|| vec![Fault::of("allow_unproven_erasures", "must be true or false")])?;
    let token = match fields.remove("token") {
        None => None,
        Some(token) => {
            let token = token.as_str().ok_or("must be a string").and_then(str::parse::<Secret>);
            Some(token.map_err(|detail| vec![Fault::of("token", detail)])?)
        }
    };
    refuse_more(&fields, "a mirror has from, chain, key, token and allow_unproven_erasures")?;
    Ok(Wanted { from, key, allow_unproven_erasures, anywhere: false, token })
}

/// Follows a chain of others, whose node is not trusted: everything is verified, and its checkpoints must be signed by the key and
/// continue each other.
///
/// The copy has the chain's own name and id, and takes no writes. It comes in the background, and what the source seals follows within
/// seconds. A source that contradicts itself is not followed any more.
#[utoipa::path(
    post,
    path = "/mirrors",
    tag = "node",
    request_body = Follow,
    responses(
        (status = 201, description = "The chain is followed from now on", body = MirrorView, headers(("Location"))),
        (status = 200, description = "It was followed already", body = MirrorView, headers(("Location"))),
        (status = 409, description = "Another chain has its name, it is here and has gone another way, or it is followed from elsewhere"),
        (status = 422, description = "The source does not answer as a node does, may not be called, or the key has not signed"),
        (status = 429, description = "Too many chains are followed"),
    )
)]
pub async fn follow(State(app): State<App>, client: Client, request: Request<Body>) -> Result<Response, Problem> {
    refuse_conditions(request.headers())?;
    refuse_key(request.headers(), "to follow a chain twice does no harm")?;
    let wanted = take_wanted(read_object(&app, request).await?)?;
    // The copy has this name: a source that calls its chain otherwise is refused.
    client.ensure(Role::Operate, wanted.from.chain())?;
    let (view, is_new) = app.0.mirrors.follow(&wanted).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let location = text_header(format!("/chains/{}", view.chain));
    Ok((status, [(header::LOCATION, location)], axum::Json(view)).into_response())
}

/// The chains of others that this node follows or has followed, how far each lags, and the evidence against their sources.
///
/// Evidence that is `proven` convicts whoever has the key, offline: both notes are signed, and they cannot be of one history.
#[utoipa::path(
    get,
    path = "/mirrors",
    tag = "node",
    responses((status = 200, description = "The mirrors, by the chains' names", body = [MirrorView]))
)]
pub async fn mirrors(State(app): State<App>, client: Client) -> axum::Json<Vec<MirrorView>> {
    let mut mirrors = app.0.mirrors.list();
    mirrors.retain(|mirror| client.may(Role::Read, &mirror.chain));
    axum::Json(mirrors)
}

/// Follows a chain no more. The copy stays: it can be read, and takes no writes still, until it is followed again.
#[utoipa::path(
    delete,
    path = "/mirrors/{mirror}",
    tag = "node",
    params(("mirror" = String, Path, description = "The chain's name, or its id")),
    responses(
        (status = 204, description = "It is not followed any more"),
        (status = 404, description = "There is no such mirror"),
    )
)]
pub async fn stop(
    State(app): State<App>,
    client: Client,
    place: Place,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let is_it = |mirror: &MirrorView| mirror.id.is_some_and(|id| id.to_string() == place.0);
    let named = app.0.mirrors.list().into_iter().find(is_it).map(|mirror| mirror.chain);
    client.ensure(Role::Operate, named.as_ref().unwrap_or(&place.0))?;
    refuse_conditions(&headers)?;
    refuse_key(&headers, "to stop a mirror twice does no harm")?;
    app.0.mirrors.stop(&place.0).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<MirrorError> for Problem {
    fn from(error: MirrorError) -> Self {
        let detail = error.to_string();
        match error {
            MirrorError::Source(_) => Problem::unprocessable(detail.clone(), vec![Fault::of("from", detail)]),
            MirrorError::Conflict(_) => Problem::new(StatusCode::CONFLICT, detail),
            MirrorError::Unknown(_) => Problem::not_found(detail),
            MirrorError::TooMany => Problem::new(StatusCode::TOO_MANY_REQUESTS, detail),
            MirrorError::Refused(refused) => refused.into(),
            MirrorError::Cluster(error) => error.into(),
        }
    }
}
