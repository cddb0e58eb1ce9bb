//! Headers by which a client makes a write depend on something: `If-Match`, `If-None-Match` (RFC 9110 section 13.1) and
//! `Idempotency-Key`. A write honours each of them or refuses it; none is ever passed over.

use axum::http::{HeaderMap, HeaderName, StatusCode, header};

use super::{extract::single, problem::Problem};
use crate::core::{
    chain::{Expected, Tag},
    transaction::Id,
};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const MALFORMED: &str =
    "If-Match is no list of entity tags: send the ETag of /stats as it is, in double quotes, like \"5\"";
const NEVER_WEAK: &str = "If-Match has a weak tag, W/\"…\", and a weak tag never matches (RFC 9110 section 13.1.1). The node \
     gives strong ones: a proxy has weakened it, most often by compressing the answer. Ask for /stats with \
     \"Accept-Encoding: identity\", or have the proxy leave the ETag as it is";

/// The states of the chain in which a write may be made: any that `If-Match` names. `*` and no header expect nothing.
///
/// # Errors
/// `400` where it is no list of tags, or the write has a condition that only reads have; `412` where no tag can match.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<Expected>, Problem> {
    if headers.contains_key(header::IF_NONE_MATCH) {
        return Err(Problem::bad_request(
            "If-None-Match is no condition of this write: to make it only while the chain is as you saw it, send If-Match \
             with the ETag of /stats",
        ));
    }
    let mut lines = headers.get_all(header::IF_MATCH).iter().map(|line| line.as_bytes().trim_ascii()).peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    let lines: Vec<&[u8]> = lines.collect();
    if lines == [b"*"] {
        return Ok(None);
    }
    let mut tags = Vec::new();
    for line in lines {
        tags.extend(entity_tags(line).ok_or_else(|| Problem::bad_request(MALFORMED))?);
    }
    if tags.is_empty() {
        return Err(Problem::bad_request(MALFORMED));
    }
    let strong = tags.iter().filter(|tag| !tag.is_weak);
    let ours: Vec<Tag> = strong.filter_map(|tag| str::from_utf8(tag.opaque).ok()?.parse().ok()).collect();
    Expected::any_of(ours).map(Some).ok_or_else(|| {
        let is_weakened = tags.iter().any(|tag| tag.is_weak);
        let detail = if is_weakened { NEVER_WEAK } else { "If-Match names no state that this chain can have" };
        Problem::new(StatusCode::PRECONDITION_FAILED, detail)
    })
}

struct EntityTag<'a> {
    is_weak: bool,
    opaque: &'a [u8],
}

/// The entity tags of one line, which may have commas within them; nothing where it is no list of them.
fn entity_tags(line: &[u8]) -> Option<Vec<EntityTag<'_>>> {
    let (mut tags, mut rest) = (Vec::new(), line);
    loop {
        while let Some((b' ' | b'\t' | b',', behind)) = rest.split_first() {
            rest = behind;
        }
        if rest.is_empty() {
            return Some(tags);
        }
        let is_weak = rest.starts_with(b"W/");
        let quoted = rest.strip_prefix(b"W/").unwrap_or(rest).strip_prefix(b"\"")?;
        let end = quoted.iter().position(|&byte| byte == b'"')?;
        tags.push(EntityTag { is_weak, opaque: &quoted[..end] });
        rest = quoted[end + 1..].trim_ascii_start();
        if !(rest.is_empty() || rest.starts_with(b",")) {
            return None;
        }
    }
}

/// The key of a write of one transaction. It may be quoted, as the IETF draft of the header has it, or not, as most send it.
///
/// # Errors
/// `400` where it stands twice or cannot be an id.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Id>, Problem> {
    let Some(key) = single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let bare = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    bare.parse().map(Some).map_err(|error| Problem::bad_request(format!("Idempotency-Key: {error}")))
}

/// # Errors
/// `400` where a key came with a write that has no place for one. `cure` says how that is repeated safely.
pub(super) fn refuse_key(headers: &HeaderMap, cure: &str) -> Result<(), Problem> {
    match headers.contains_key(IDEMPOTENCY_KEY) {
        true => Err(Problem::bad_request(format!("Idempotency-Key is for transactions (POST /inject): {cure}"))),
        false => Ok(()),
    }
}

/// For a write that no state of a chain can guard, since it makes what is not there yet or is about no chain.
///
/// # Errors
/// `412` where it came with `If-Match`, which holds only for what exists; `400` with `If-None-Match`.
pub(super) fn refuse_conditions(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(header::IF_MATCH) {
        let detail = "If-Match holds only for what exists and has an ETag, and this write is about nothing of that kind: send it \
            without";
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail));
    }
    match headers.contains_key(header::IF_NONE_MATCH) {
        true => Err(Problem::bad_request("If-None-Match is no condition of this write: send it without")),
        false => Ok(()),
    }
}

/// Whether something is to be made only if it does not exist (`If-None-Match: *`).
///
/// # Errors
/// As [`refuse_conditions`] for all other conditions.
pub(super) fn is_only_if_new(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut conditions = headers.get_all(header::IF_NONE_MATCH).iter();
    let only_if_new = conditions.next().is_some_and(|value| value.as_bytes().trim_ascii() == b"*");
    if only_if_new && conditions.next().is_none() && !headers.contains_key(header::IF_MATCH) {
        return Ok(true);
    }
    refuse_conditions(headers).map(|()| false)
}
