//! What a node records on a chain when it is asked to (an erasure, other writers, a freeze): what these requests have in common, and their
//! answers.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    extract::take_field,
    inject::{IDEMPOTENT_REPLAYED, tag_header, text_header},
};
use crate::{
    core::{chain::Tag, rules::Fault},
    limits,
    node::Accepted,
};

/// Takes the reason out of a body: it is recorded for ever.
///
/// # Errors
/// It is missing, or too long or empty.
pub fn take_reason(fields: &mut Map<String, Value>) -> Result<String, Vec<Fault>> {
    let reason = take_field(fields, "reason")?;
    let reason = reason.as_str().filter(|reason| (1..=limits::REASON_BYTES).contains(&reason.len()));
    let length = format!("must be a string of 1 to {} bytes", limits::REASON_BYTES);
    reason.map(str::to_owned).ok_or_else(|| vec![Fault::of("reason", length)])
}

/// The answer: `201` where the record is new, `200` where it repeats what stands there. `prefix` is that of the routes of its chain; `tag`
/// is the state of the chain that the request names.
pub fn recorded(prefix: &str, accepted: &Accepted, tag: Tag, body: &impl Serialize) -> Response {
    let location = text_header(format!("{prefix}/transactions/{}", accepted.index));
    let headers = [(header::LOCATION, location), (header::ETAG, tag_header(tag))];
    let mut response = (headers, axum::Json(body)).into_response();
    if accepted.replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, text_header("true".into()));
    } else {
        *response.status_mut() = StatusCode::CREATED;
    }
    response
}
