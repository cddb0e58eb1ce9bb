//! The guide, for readers and for pages that show it.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{extract::Place, problem::Problem};
use crate::guide::{self, CHAPTERS};

/// A chapter of the guide.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ListedChapter {
    /// The word by which it is asked for.
    topic: &'static str,
    /// Its heading.
    title: &'static str,
}

/// The chapters of the guide, in the order in which they are read.
#[utoipa::path(get, path = "/guide", tag = "node", responses((status = 200, description = "The chapters", body = [ListedChapter])))]
pub async fn chapters() -> axum::Json<Vec<ListedChapter>> {
    let listed = |chapter: &guide::Chapter| ListedChapter { topic: chapter.topic, title: chapter.title() };
    axum::Json(CHAPTERS.iter().map(listed).collect())
}

/// A chapter of the guide, in Markdown.
#[utoipa::path(
    get,
    path = "/guide/{topic}",
    tag = "node",
    params(("topic" = String, Path, description = "The chapter's topic, as `GET /guide` lists it")),
    responses((status = 200, description = "The chapter", body = String, content_type = "text/markdown"))
)]
pub async fn chapter(place: Place) -> Result<Response, Problem> {
    let chapter = guide::chapter(&place.0).ok_or_else(|| {
        let topics: Vec<&str> = CHAPTERS.iter().map(|chapter| chapter.topic).collect();
        Problem::not_found(format!("the guide has no chapter {:?}: it has {}", place.0, topics.join(", ")))
    })?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], chapter.text).into_response())
}
