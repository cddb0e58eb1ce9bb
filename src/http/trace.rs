//! The trace that a request is part of: W3C Trace Context, <https://www.w3.org/TR/trace-context/>.
//!
//! This node makes no spans. The id of the trace stands in its log, and the headers go on as they are to a node that a request is
//! forwarded to.

use axum::http::{HeaderMap, HeaderName};

/// The header with the trace and the span of the caller (section 3.2).
pub const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems add for themselves (section 3.3).
pub const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// The id of the trace that a request is part of, if its header is valid; one that is not counts as none (section 4.3).
pub fn trace_id(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(TRACE_PARENT).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let (version, rest) = value.split_once('-')?;
    let (trace, rest) = rest.split_once('-')?;
    let (parent, rest) = rest.split_once('-')?;
    // A later version may have more behind the flags (section 3.2.4).
    let flags = match version {
        "00" => rest,
        _ => rest.split_once('-').map_or(rest, |(flags, _)| flags),
    };
    let is_id = |id: &str, digits| is_hex(id, digits) && id.bytes().any(|digit| digit != b'0');
    let is_valid = is_hex(version, 2) && version != "ff" && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2);
    is_valid.then(|| trace.to_owned())
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_valid_header_names_a_trace() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(TRACE_PARENT, HeaderValue::from_str(value).unwrap());
            });
            trace_id(&headers)
        };
        let valid = format!("00-{TRACE}-00f067aa0ba902b7-01");
        for value in [
            valid.clone(),
            format!("00-{TRACE}-00f067aa0ba902b7-ff"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-will-be-like"),
        ] {
            assert_eq!(read(&[&value]).as_deref(), Some(TRACE), "{value}");
        }
        for value in [
            "",
            "00",
            &valid[..54],
            &valid.to_uppercase(),
            &format!("{valid}-more"),
            &format!("{valid} "),
            &format!(" {valid}"),
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("0-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{TRACE}-{}-01", "0".repeat(16)),
            &format!("00-{TRACE}0-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-00f067aa0ba902b7-1"),
            &format!("00-{TRACE}-00f067aa0ba902b7-0g"),
            &format!("cc-{TRACE}-00f067aa0ba902b7-01.more"),
        ] {
            assert_eq!(read(&[value]), None, "{value:?}");
        }
        assert_eq!(read(&[&valid, &valid]), None, "of two nobody knows which holds");
        assert_eq!(read(&[]), None);
    }
}
