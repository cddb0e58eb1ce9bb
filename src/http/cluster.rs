//! The cluster as clients see it.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::Value;

use super::{App, extract::Query, problem::Problem};
use crate::node::NodeId;

/// How the nodes and groups of the cluster stand. A node that nobody joined is a cluster of one.
#[utoipa::path(
    get,
    path = "/cluster",
    tag = "cluster",
    responses((status = 200, description = "Nodes, groups, and what moves", body = Value))
)]
pub async fn cluster(State(app): State<App>) -> axum::Json<Value> {
    axum::Json(app.0.cluster.status().await)
}

/// Query parameters of `DELETE /cluster/nodes/{id}`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LeaveQuery {
    /// That it is dead for ever: nothing of it is waited for.
    #[serde(default)]
    lost: bool,
}

/// Takes a node out of the cluster. Its chains move first.
#[utoipa::path(
    delete,
    path = "/cluster/nodes/{id}",
    tag = "cluster",
    params(("id" = String, Path, description = "Its id, as `GET /cluster` shows it"), LeaveQuery),
    responses(
        (status = 202, description = "It is on its way: `GET /cluster` tells how far", body = Value),
        (status = 404, description = "There is no such node"),
        (status = 409, description = "It would lose what only this node keeps"),
    )
)]
pub async fn leave(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<LeaveQuery>,
) -> Result<Response, Problem> {
    let unknown = || Problem::not_found(format!("there is no node {id} in the cluster: GET /cluster lists them"));
    let node: NodeId = id.parse().map_err(|_| unknown())?;
    let cluster = &app.0.cluster;
    if !cluster.is_active() || !cluster.knowledge().nodes.contains_key(&node) {
        return Err(unknown());
    }
    cluster.leave(node, query.lost).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(cluster.status().await)).into_response())
}
