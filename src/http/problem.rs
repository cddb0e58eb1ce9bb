//! Errors as the client sees them: problem documents (RFC 9457).

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;

use super::forward::NOT_LEADING;
use crate::{
    core::{
        json::JsonError,
        rules::{Fault, Refusal},
    },
    node::StoreError,
    peers::DiscoverError,
    writer::Refused,
};

/// A refused request. Nothing was changed by it.
#[derive(Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong and what cures it, in a sentence.
    pub detail: String,
    /// Where a JSON value is at fault.
    pub errors: Vec<Fault>,
    /// Whether another node of the cluster is to be asked, since this one does not lead the chain.
    pub not_leading: bool,
    /// How to authenticate (RFC 9110 section 11.6.1), where that is not by a signature of a writer.
    pub challenge: Option<&'static str>,
}

/// The document (RFC 9457 section 3.1). The type is always `about:blank`, so the title is that of the status.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Always `about:blank`: the status tells the kind.
    r#type: &'static str,
    /// The HTTP status in words.
    title: &'a str,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What is wrong and what cures it.
    detail: &'a str,
    /// Where a JSON value is at fault.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Fault],
}

impl Problem {
    /// A problem without places.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into(), errors: Vec::new(), not_leading: false, challenge: None }
    }

    /// `400`: the request is not what it says to be.
    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    /// `404`: there is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// `422`: valid JSON of the wrong shape.
    pub fn unprocessable(detail: impl Into<String>, errors: Vec<Fault>) -> Problem {
        Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// `503`: the node has too much to do.
    pub fn overloaded(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// The document as JSON.
    pub fn into_document(self) -> Vec<u8> {
        let document = ProblemDocument {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        serde_json::to_vec(&document).expect("a problem is JSON")
    }

    /// The problem of one line of a stream, which is JSON by itself.
    pub fn of_line(error: JsonError) -> Problem {
        let JsonError { pointer, column, detail, .. } = error;
        let told =
            format!("the line cannot be read as I-JSON (RFC 7493): {detail} (column {column}, pointer {pointer:?})");
        Problem { errors: vec![Fault { pointer, detail }], ..Problem::bad_request(told) }
    }

    /// What is wrong in a sentence that has the places, too.
    pub fn with_places(&self) -> String {
        let places = summary(&self.errors);
        let is_told = self.errors.iter().all(|fault| self.detail.contains(&fault.detail));
        match is_told {
            true => self.detail.clone(),
            false => format!("{}: {places}", self.detail),
        }
    }

    /// The same with each pointer below `place`.
    pub fn within(mut self, place: &str) -> Problem {
        let is_told = self.detail == summary(&self.errors);
        for fault in &mut self.errors {
            fault.pointer.insert_str(0, place);
        }
        if is_told {
            self.detail = summary(&self.errors);
        }
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let (status, not_leading, challenge) = (self.status, self.not_leading, self.challenge);
        let body = self.into_document();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if let Some(challenge) = challenge.or((status == StatusCode::UNAUTHORIZED).then_some("QBC-Ed25519")) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if not_leading {
            headers.insert(NOT_LEADING, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        let detail = format!("the body cannot be read as I-JSON (RFC 7493): {error}");
        let errors = vec![Fault { pointer: error.pointer, detail: error.detail }];
        Problem { errors, ..Problem::new(StatusCode::BAD_REQUEST, detail) }
    }
}

impl From<Vec<Fault>> for Problem {
    fn from(errors: Vec<Fault>) -> Self {
        Problem::unprocessable(summary(&errors), errors)
    }
}

/// Faults in a sentence. The empty pointer is that of the whole body.
fn summary(faults: &[Fault]) -> String {
    match faults {
        [Fault { pointer, detail }] if pointer.is_empty() => format!("the body: {detail}"),
        [Fault { pointer, detail }] => format!("{pointer}: {detail}"),
        _ => {
            let places: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
            format!("{} fields are wrong: {}", faults.len(), places.join(", "))
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let at = |field, status, detail: String| Problem { status, ..vec![Fault::of(field, detail)].into() };
        match refusal {
            Refusal::TooLarge { bytes, max } => at(
                "data",
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the data has {bytes} bytes in canonical form, this chain accepts at most {max}"),
            ),
            Refusal::Schema(faults) => {
                Problem::unprocessable("the data does not meet the chain's schema", faults).within("/data")
            }
            Refusal::Unsigned => at(
                "signer",
                StatusCode::UNAUTHORIZED,
                "this chain accepts only what one of its writers has signed: add \"signer\" and \"signature\"".into(),
            ),
            Refusal::NotAWriter => {
                at("signer", StatusCode::FORBIDDEN, "\"signer\" is not one of this chain's writers".into())
            }
            Refusal::BadSignature => at(
                "signature",
                StatusCode::FORBIDDEN,
                "\"signature\" is not the signer's Ed25519 signature over the canonical JSON of {\"chain\": the chain's id, \
                 \"data\", and \"id\" if there is one}, and of an erasure, a change of keys or a \
                 freeze also \"kind\": \"erasure\", \"key\" or \"freeze\""
                    .into(),
            ),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::NameTaken(_)
            | Refused::IdTaken { .. }
            | Refused::IdErased { .. }
            | Refused::IdTwice(_)
            | Refused::NotErasable(_)
            | Refused::ErasedElsewhere(_)
            | Refused::ImportIsLonger
            | Refused::Overtaken
            | Refused::Stale(_)
            | Refused::KeysMoved { .. }
            | Refused::NoWriters
            | Refused::TooManyKeys
            | Refused::Frozen { .. }
            | Refused::Mirror { .. }
            | Refused::GivenUp => StatusCode::CONFLICT,
            Refused::Moved { .. } => StatusCode::PRECONDITION_FAILED,
            Refused::PoolFull(_) | Refused::TooManyImports(_) => StatusCode::TOO_MANY_REQUESTS,
            Refused::LargerThanPool { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::TooManyChains => StatusCode::INSUFFICIENT_STORAGE,
            Refused::ForkedTooOften | Refused::Malformed(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refused::NotAWriter(_) => StatusCode::FORBIDDEN,
            Refused::Busy | Refused::Stopping | Refused::NotLeading(_) | Refused::NotAgreed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refused::Damaged(_) | Refused::RolledBack(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refused::Store(StoreError::Full) => StatusCode::INSUFFICIENT_STORAGE,
            Refused::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let not_leading = matches!(refused, Refused::NotLeading(_));
        Problem { not_leading, ..Problem::new(status, refused.to_string()) }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Refused::Store(error).into()
    }
}

impl From<DiscoverError> for Problem {
    fn from(error: DiscoverError) -> Self {
        Problem::unprocessable(error.to_string(), vec![Fault::of("host", error.to_string())])
    }
}
