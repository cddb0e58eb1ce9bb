//! References to the node's own paths, as a client behind a proxy can follow them.
//!
//! A proxy that serves the node below a path of its own, such as `/qbc/`, and strips that path, sends clients elsewhere by each
//! `Location: /transactions/5`. Where it says what it has stripped (`X-Forwarded-Prefix`), that is put before. Where it does
//! not, but shows that there is a proxy (`Forwarded` of RFC 7239, `X-Forwarded-…`, `Via`), references are relative to the request
//! (RFC 3986 section 4.2), and so right below whatever path the client sees.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, header},
};

use crate::limits;

/// How references are written in the answer to one request.
pub enum References {
    /// Without a proxy, as absolute paths.
    Direct,
    /// Absolute paths below this one.
    Below(String),
    /// Relative to this path, which was asked for.
    RelativeTo(String),
}

const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

impl References {
    /// As the request's headers ask for.
    pub fn of(request: &Request<Body>) -> References {
        let headers = request.headers();
        let is_forwarded = |name: &HeaderName| {
            name.as_str().starts_with("x-forwarded-") || name == header::FORWARDED || name == header::VIA
        };
        if !headers.keys().any(is_forwarded) {
            return References::Direct;
        }
        match prefix(headers) {
            Some(prefix) => References::Below(prefix.to_owned()),
            None => References::RelativeTo(request.uri().path().to_owned()),
        }
    }

    /// Writes the references of an answer anew.
    pub fn write(&self, headers: &mut HeaderMap) {
        if matches!(self, References::Direct) {
            return;
        }
        for name in [header::LOCATION, header::LINK] {
            let Some(text) = headers.get(&name).and_then(|value| value.to_str().ok()) else { continue };
            // A link stands in angle brackets (RFC 8288).
            let (bracket, path) = text.split_at(usize::from(text.starts_with('<')));
            if !path.starts_with('/') {
                continue;
            }
            let reference = match self {
                References::Direct => path.to_owned(),
                References::Below(prefix) => format!("{prefix}{path}"),
                References::RelativeTo(from) => relative(from, path),
            };
            let value = HeaderValue::try_from(format!("{bracket}{reference}"));
            headers.insert(name, value.expect("the parts of paths are visible ASCII"));
        }
    }
}

/// The path that a proxy has stripped, without a slash at its end. One that is doubtful is none: it must not lead to another
/// host (`//…`), nor out of itself.
fn prefix(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(PREFIX).iter();
    let prefix = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let mut segments = prefix.split('/');
    let is_path = segments.next() == Some("") && segments.all(|segment| !matches!(segment, "" | "." | ".."));
    (is_path && prefix.len() <= limits::PREFIX_BYTES && prefix.bytes().all(is_plain)).then_some(prefix)
}

/// The reference that leads from one path to another, both absolute.
fn relative(from: &str, to: &str) -> String {
    let folder = &from[..from.rfind('/').map_or(0, |slash| slash + 1)];
    let same = folder.bytes().zip(to.bytes()).take_while(|(from, to)| from == to).count();
    let shared = folder[..same].rfind('/').map_or(0, |slash| slash + 1);
    let up = folder[shared..].matches('/').count();
    format!("{}{}", "../".repeat(up), &to[shared..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_reference_leads_there() {
        for (from, to, expected) in [
            ("/inject", "/transactions/5", "transactions/5"),
            ("/chains/a/inject", "/chains/a/transactions/5", "transactions/5"),
            (
                "/chains/a/transactions",
                "/chains/a/transactions?from=5>; rel=\"next\"",
                "transactions?from=5>; rel=\"next\"",
            ),
            ("/chains/a/transactions/1/erase", "/chains/a/transactions/6", "../6"),
            ("/chains/ab/fork", "/chains/a", "../a"),
            ("/chains/%61/inject", "/chains/a/transactions/5", "../a/transactions/5"),
            ("/bang", "/chains/a", "chains/a"),
            ("/inject/", "/transactions/5", "../transactions/5"),
            ("*", "/transactions/5", "/transactions/5"),
        ] {
            assert_eq!(relative(from, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn only_a_plain_path_is_a_prefix() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(PREFIX, HeaderValue::from_str(value).unwrap());
            });
            prefix(&headers).map(str::to_owned)
        };
        for (value, expected) in [("/qbc", "/qbc"), ("/a/b-c_d.e~f/", "/a/b-c_d.e~f"), ("/", ""), ("", "")] {
            assert_eq!(read(&[value]).as_deref(), Some(expected), "{value}");
        }
        let long = format!("/{}", "x".repeat(limits::PREFIX_BYTES));
        for value in [
            "qbc",
            "//evil.example",
            "/a//b",
            "/..",
            "/a/../b",
            "/.",
            "http://evil.example",
            "/a b",
            "/a>;x",
            "/a,/b",
            "/%2e%2e",
            "/\\evil",
            &long,
        ] {
            assert_eq!(read(&[value]), None, "{value}");
        }
        assert_eq!(read(&["/a", "/b"]), None, "of two nobody knows which comes first");
        assert_eq!(read(&[]), None);
    }
}
