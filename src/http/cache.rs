//! Answers that clients and caches keep: entity tags, `304`, and choosing among the forms of an answer (RFC 9110 sections 8.8, 12
//! and 13).

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{
    answers::Answers,
    coding::{self, CODINGS},
    extract::weighted,
    inject::text_header,
    proofs::Incompressible,
};

/// For how long an answer may be kept.
#[derive(Clone, Copy)]
pub enum Cache {
    /// For ever.
    Immutable,
    /// It never changes, unless something in it is erased: so for no longer than an erasure may take.
    Erasable,
    /// Ask each time whether it is still the same.
    Revalidate,
}

/// The headers of an answer with this tag.
pub fn cache_headers(tag: &str, cache: Cache) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, text_header(tag.into()));
    let cache = match cache {
        Cache::Immutable => "public, max-age=31536000, immutable",
        Cache::Erasable => "public, max-age=60, immutable",
        Cache::Revalidate => "no-cache",
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers
}

/// `304` where the client has the same already (`If-None-Match`, RFC 9110 section 13.1.2).
pub fn unchanged(headers: &HeaderMap, tag: &str, cache: Cache) -> Option<Response> {
    let has = lines(headers, &header::IF_NONE_MATCH).any(|line| line.trim() == "*" || tags(line).contains(&tag));
    has.then(|| (StatusCode::NOT_MODIFIED, cache_headers(tag, cache)).into_response())
}

/// Marks an answer about what is sealed: it holds on whatever node it is read.
#[derive(Clone)]
pub struct Sealed;

/// The answer, with that mark where it is so.
pub fn marked_sealed(mut response: Response, is_sealed: bool) -> Response {
    if is_sealed {
        response.extensions_mut().insert(Sealed);
    }
    response
}

/// The encodings of an answer: which one the client gets, and their tags. Each has a tag of its own, as RFC 9110 section 8.8.3.3 has
/// it.
///
/// Inside, an answer has one tag, and a chain's state has one tag, whatever its form was.
pub struct Encodings {
    is_read: bool,
    /// The tags in `If-None-Match` as they are inside, and as the client sent them.
    held: Vec<(String, String)>,
    coding: Option<&'static str>,
}

impl Encodings {
    /// As a request asks for. The tags that it sends are made those of the answers inside.
    pub fn of(request: &mut Request) -> Encodings {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        take_encoded_guards(request.headers_mut());
        let held = if is_read { take_encoded_tags(request.headers_mut()) } else { Vec::new() };
        Encodings { is_read, held, coding: coding::preferred(request.headers()) }
    }

    /// Encodes an answer, and gives it the tag of the encoding.
    pub fn write(self, response: Response, answers: &Answers) -> Response {
        let Encodings { is_read, held, coding } = self;
        let mut response = coding::compressed(response, coding, answers);
        let status = response.status();
        if !is_read || !matches!(status, StatusCode::OK | StatusCode::NOT_MODIFIED) {
            return response;
        }
        let Some(tag) = response.headers().get(header::ETAG).cloned() else { return response };
        let tag = tag.to_str().unwrap_or_default();
        let shown = match response.headers().get(header::CONTENT_ENCODING).and_then(|coding| coding.to_str().ok()) {
            Some(coding) => Some(format!("{}-{coding}\"", tag.strip_suffix('"').unwrap_or(tag))),
            None if status == StatusCode::NOT_MODIFIED => {
                // It is the client's copy that has not changed, in its encoding.
                held.into_iter().find(|(plain, _)| plain == tag).map(|(_, shown)| shown)
            }
            None => None,
        };
        if let Some(shown) = shown {
            response.headers_mut().insert(header::ETAG, text_header(shown));
        }
        // A cache must know this of small answers as well: the next state of the same may be large.
        let varies = lines(response.headers(), &header::VARY).any(|line| line.contains("accept-encoding"));
        if !varies && response.extensions().get::<Incompressible>().is_none() {
            response.headers_mut().append(header::VARY, header::ACCEPT_ENCODING.into());
        }
        if status == StatusCode::NOT_MODIFIED {
            // A body of a known length, none, would be announced as the length of what the client has.
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = Body::from_stream(stream::empty::<Result<Bytes, axum::Error>>());
        }
        response
    }
}

/// Makes the tags of encodings in `If-None-Match` those of the answers inside, and gives each beside what the client had sent. Only
/// those of encodings that the client still takes are kept.
fn take_encoded_tags(headers: &mut HeaderMap) -> Vec<(String, String)> {
    let mut held = Vec::new();
    if let Some(conditions) = joined(headers, &header::IF_NONE_MATCH).filter(|line| line.trim() != "*") {
        for tag in tags(&conditions) {
            let (plain, coding) = split_coding(tag);
            let takes = |coding| !headers.contains_key(header::ACCEPT_ENCODING) || coding::takes(headers, coding);
            if coding.is_none_or(takes) {
                held.push((plain, tag.to_owned()));
            }
        }
        let plain: Vec<&str> = held.iter().map(|(plain, _)| plain.as_str()).collect();
        let value = HeaderValue::try_from(plain.join(", ")).expect("it was a header");
        headers.insert(header::IF_NONE_MATCH, value);
    }
    held
}

/// The same of `If-Match`, where a tag names a state of a chain.
fn take_encoded_guards(headers: &mut HeaderMap) {
    if let header::Entry::Occupied(mut guards) = headers.entry(header::IF_MATCH) {
        for guard in guards.iter_mut() {
            let Ok(text) = guard.to_str() else { continue };
            let plain =
                CODINGS.iter().fold(text.to_owned(), |text, coding| text.replace(&format!("-{coding}\""), "\""));
            *guard = HeaderValue::try_from(plain).expect("it was a header");
        }
    }
}

/// A tag without the encoding that it names, and that.
fn split_coding(tag: &str) -> (String, Option<&'static str>) {
    let bare = tag.strip_suffix('"').unwrap_or(tag);
    for coding in CODINGS {
        if let Some(plain) = bare.strip_suffix(coding).and_then(|plain| plain.strip_suffix('-')) {
            return (format!("{plain}\""), Some(coding));
        }
    }
    (tag.to_owned(), None)
}

/// The entity tags of a list, in quotes, weak ones as strong ones; what is none ends it.
fn tags(list: &str) -> Vec<&str> {
    let mut tags = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let tag = rest.strip_prefix("W/").unwrap_or(rest);
        // A comma may stand within a tag.
        let end = tag.strip_prefix('"').and_then(|opaque| opaque.find('"'));
        let Some(end) = end else { return tags };
        let (tag, behind) = tag.split_at(end + 2);
        tags.push(tag);
        rest = behind;
    }
}

fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|line| line.to_str().ok())
}

/// A list that may stand on several lines (RFC 9110 section 5.3), as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.contains_key(name).then(|| lines(headers, name).collect::<Vec<_>>().join(", "))
}

/// Whether a client would rather have the first media type than the second, which it gets where it says nothing (`Accept`). Who
/// names the first and likes both the same means it.
pub fn prefers(headers: &HeaderMap, first: &str, second: &str) -> bool {
    let (first, second) = (media_weight(headers, first), media_weight(headers, second));
    first.weight > second.weight || first.weight == second.weight && first.weight > 0 && first.closeness == 3
}

/// The same where only more weight counts: many clients name all common media types at once.
pub fn insists_on(headers: &HeaderMap, first: &str, second: &str) -> bool {
    media_weight(headers, first).weight > media_weight(headers, second).weight
}

/// How much a client wants something.
#[derive(Default)]
struct Weight {
    /// How closely it is named, from 0 for not at all.
    closeness: u8,
    /// In thousandths.
    weight: u16,
}

/// The weight of a media type, by the range that names it most closely.
fn media_weight(headers: &HeaderMap, media: &str) -> Weight {
    let closeness = |range: &str| match range.strip_suffix("/*") {
        Some("*") => 1,
        Some(kind) => 2 * u8::from(media.split('/').next() == Some(kind)),
        None => 3 * u8::from(range == media),
    };
    let ranges = weighted(headers, &header::ACCEPT).into_iter();
    ranges.map(|(range, weight)| Weight { closeness: closeness(&range), weight }).fold(
        Weight::default(),
        |best, next| {
            if next.closeness > best.closeness { next } else { best }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        });
        headers
    }

    #[test]
    fn tags_are_read_from_lists() {
        assert_eq!(tags(r#""a", W/"b" ,"c,d",, "","#), [r#""a""#, r#""b""#, r#""c,d""#, r#""""#]);
        assert_eq!(tags(r#"a, "b""#), [""; 0]);
        assert_eq!(tags(r#""open"#), [""; 0]);
    }

    #[test]
    fn the_form_is_the_one_that_the_client_prefers() {
        let lines = "application/x-ndjson";
        for (accept, expected) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["application/*"], false),
            (&["text/html, */*;q=0.8"], false),
            (&[lines], true),
            (&["Application/X-NDJSON ; Q=1"], true),
            (&["application/x-ndjson, */*"], true),
            (&["application/json, application/x-ndjson"], true),
            (&["text/html", lines], true),
            (&["application/json;q=0.5", "application/x-ndjson;q=0.6"], true),
            (&["application/json", "application/x-ndjson;q=0.9"], false),
            (&["application/x-ndjson;q=0"], false),
            (&["application/x-ndjson;q=0.000, */*;q=0.1"], false),
            (&["application/json;q=0, */*"], true),
            (&["application/json;q=0, application/x-ndjson;q=0"], false),
            (&["text/html"], false),
            (&["application/x-ndjson;charset=utf-8;q=0.4, application/json;q=0.3"], true),
            (&["application/x-ndjsonish"], false),
        ] {
            let headers = headers(&header::ACCEPT, accept);
            assert_eq!(prefers(&headers, lines, "application/json"), expected, "{accept:?}");
        }
    }
}
