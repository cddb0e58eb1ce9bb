//! The chain as a transparency log: checkpoints (C2SP tlog-checkpoint) and tiles (C2SP tlog-tiles).

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App,
    cache::{Cache, cache_headers, unchanged},
    extract::{ChainOf, Query, parse_index, path_parameter},
    openapi::{Binary, Cached, TileName},
    problem::Problem,
};
use crate::core::{
    count::{Height, Index},
    hash,
    merkle::{self, TILE_WIDTH},
    tile::{NotATile, TilePath},
};

/// Query parameters of `GET /checkpoint`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CheckpointQuery {
    /// The newest one that at least so many witnesses have cosigned, which may be older than the newest quant.
    #[param(maximum = 12)]
    cosigned: Option<u8>,
    /// That of the quant with this index, and not the newest.
    quant: Option<u64>,
}

/// The newest quant as a checkpoint that the node has signed.
///
/// Two lines sign it: one by the node's key under the checkpoint's origin, as tools for one log expect, and one under the
/// node's own name, so that the key that `qbc key` prints is good for all chains of the node. In a cluster, two more lines are
/// by the cluster's key, under the origin and under the cluster's name: whichever node serves, they check with that one key.
/// Below stand the cosignatures of witnesses (C2SP tlog-cosignature), as they come.
#[utoipa::path(
    get,
    path = "/checkpoint",
    tag = "chain",
    params(CheckpointQuery),
    responses(
        (status = 200, description = "A signed note: origin, size, root, and `quant INDEX HASH`", body = String,
            content_type = "text/plain; charset=utf-8"),
        Cached,
        (status = 404, description = "So many witnesses have not cosigned any since the node's start, or there is no such quant"),
    ),
)]
pub async fn checkpoint(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<CheckpointQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let newest = target.chain.head().newest.index();
    let note = match (query.cosigned.unwrap_or(0), query.quant.map(Height::new)) {
        (0, None) => app.0.node.checkpoint(&target.chain),
        (0, Some(quant)) if quant > newest => {
            return Err(Problem::not_found(format!("there is no quant {quant}: the newest is {newest}")));
        }
        (0, Some(quant)) => {
            let quant = app.0.node.quant(&target.chain, quant).await?;
            app.0.node.checkpoint_of(&target.chain, &quant)
        }
        (_, Some(_)) => {
            let detail = "\"cosigned\" asks for one checkpoint, and \"quant\" for another: say one of them";
            return Err(Problem::bad_request(detail));
        }
        (witnesses, None) => app.0.node.cosigned(&target.chain, witnesses.into()).ok_or_else(|| {
            Problem::not_found(format!(
                "no checkpoint has {witnesses} cosignatures of witnesses since the node's start"
            ))
        })?,
    };
    let note = note.to_string();
    let tag = format!("\"{}\"", hash::leaf(note.as_bytes()));
    Ok(unchanged(&headers, &tag, Cache::Revalidate).unwrap_or_else(|| {
        let media = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        (cache_headers(&tag, Cache::Revalidate), media, note).into_response()
    }))
}

/// A tile: up to 256 hashes of a level of the Merkle tree.
///
/// Level 0 has the leaf hashes; a hash of a higher level is the root of a complete tile below. Only what the newest
/// checkpoint covers is served.
#[utoipa::path(
    get,
    path = "/tile/{level}/{*tile}",
    tag = "chain",
    params(
        ("level" = u8, Path, description = "0 to 63", maximum = 63),
        ("tile" = TileName, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "32 bytes for each hash; immutable", body = Binary, content_type = "application/octet-stream"),
        Cached,
        (status = 400, description = "The path names no tile"),
        (status = 404, description = "The newest checkpoint does not cover it"),
    )
)]
pub async fn tile(
    State(app): State<App>,
    target: ChainOf,
    place: TilePlace,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let level = place.level.expect("this route has a level");
    let mut response = match place.check(&target, &headers)? {
        Some(unchanged) => unchanged,
        None => {
            let (number, width) = (place.path.number(), place.path.width());
            place.answer(&target, app.0.node.tile(target.chain.clone(), level, number, width).await?)
        }
    };
    response.extensions_mut().insert(Incompressible);
    Ok(response)
}

/// The leaves below a tile of level 0.
///
/// Each is two bytes with its length, big-endian, and the canonical JSON of what a leaf hash speaks for: the commitment to
/// the data, not the data.
#[utoipa::path(
    get,
    path = "/tile/entries/{*tile}",
    tag = "chain",
    params(("tile" = TileName, Path, description = "As for other tiles")),
    responses(
        (status = 200, description = "The leaves; immutable", body = Binary, content_type = "application/octet-stream"),
        Cached,
        (status = 400, description = "The path names no tile"),
        (status = 404, description = "The newest checkpoint does not cover it"),
    )
)]
pub async fn entries(
    State(app): State<App>,
    target: ChainOf,
    place: TilePlace,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(unchanged) = place.check(&target, &headers)? {
        return Ok(unchanged);
    }
    let first = place.path.number() * TILE_WIDTH as u64;
    let range = Index::new(first)..Index::new(first + place.path.width() as u64);
    let leaves = app.0.node.leaves(target.chain.clone(), range).await?;
    Ok(place.answer(&target, leaves))
}

/// Marks an answer that compression would not make smaller, since it is hashes.
#[derive(Clone, Copy)]
pub struct Incompressible;

/// The tile that a path names.
pub struct TilePlace {
    /// Its level, or nothing for the entries below level 0.
    level: Option<u8>,
    path: TilePath,
}

impl TilePlace {
    /// `304` where the client has it already.
    ///
    /// # Errors
    /// `404` where the newest quant does not cover it.
    fn check(&self, target: &ChainOf, headers: &HeaderMap) -> Result<Option<Response>, Problem> {
        let size = target.chain.head().newest.size();
        let (level, number, width) = (self.level.unwrap_or(0), self.path.number(), self.path.width());
        if !merkle::has_tile(size.get(), level, number, width) {
            return Err(Problem::not_found(format!(
                "the newest checkpoint is of {size} transactions: it has not {width} hashes in tile {number} of level {level}"
            )));
        }
        Ok(unchanged(headers, &self.tag(target), Cache::Immutable))
    }

    fn answer(&self, target: &ChainOf, bytes: impl Into<Body>) -> Response {
        let headers = cache_headers(&self.tag(target), Cache::Immutable);
        (headers, [(header::CONTENT_TYPE, "application/octet-stream")], bytes.into()).into_response()
    }

    /// What is covered by a chain's quants never changes, so that its place names the content.
    fn tag(&self, target: &ChainOf) -> String {
        let level = self.level.map_or("entries".into(), |level| level.to_string());
        format!("\"{}-{level}-{}\"", target.chain.id, self.path)
    }
}

impl FromRequestParts<App> for TilePlace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let level = match path_parameter(parts, |name| name == "level").await? {
            None => None,
            Some(text) => match parse_index(&text) {
                Some(level @ 0..=63) => Some(level as u8),
                _ => return Err(Problem::bad_request(format!("{text:?} is no level of tiles: 0 to 63 are"))),
            },
        };
        let path = path_parameter(parts, |name| name == "tile").await?.expect("routes of tiles have this parameter");
        let path = path.parse().map_err(|error: NotATile| Problem::bad_request(format!("{path:?}: {error}")))?;
        Ok(TilePlace { level, path })
    }
}
