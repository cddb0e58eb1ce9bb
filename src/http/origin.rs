//! Who may come in: the hosts that requests are addressed to, and the sites whose pages send them.
//!
//! A browser sends what any page tells it to, from inside the network where the node is. Two rules keep such pages out:
//! - **A page of another site must not write.** Browsers name the page's site in `Origin`, `Referer` or `Sec-Fetch-Site`; which
//!   of them they send depends on the method and on whether the node is reached by TLS. The first that is there decides.
//! - **A page must not come under a name of its own.** Whoever owns the name `evil.example` can let it lead to this node once
//!   its page is loaded (DNS rebinding). For the browser both are one site then, and only the header `Host` tells. So the node
//!   answers to IP addresses, `localhost` and the names that its operator gave.
//!
//! What proxies add, such as `X-Forwarded-Host`, has no part in this.

use std::{
    borrow::Cow,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header},
};

use super::{
    access::{InForce, Share},
    problem::Problem,
};
use crate::limits;

/// Who may come in, as whom, and how much each may take up: the names of a node, the other sites whose pages may use it, and its clients.
#[derive(Clone, Debug, Default)]
pub struct Admitted {
    /// Its names besides `localhost`; the first is shown as an example.
    pub names: Vec<HostName>,
    /// The sites.
    pub origins: Vec<Origin>,
    /// Who may do what; everybody may do everything where there is no access file.
    pub access: Option<InForce>,
    /// How much one client may take up.
    pub share: Share,
}

impl Admitted {
    /// The host that a request is addressed to (RFC 9112 section 3.2); none where HTTP/1.0 names none.
    ///
    /// # Errors
    /// `400` where the host is missing, stands twice or is malformed; `421` where it is no name of this node.
    pub(super) fn host<'a>(&self, request: &'a Request<Body>) -> Result<Option<Authority<'a>>, Problem> {
        fn parse(text: &str) -> Result<Authority<'_>, Problem> {
            let malformed =
                || Problem::bad_request("the request's host is malformed: it is a name or an address, and a port");
            Authority::parse(text).map_err(|Malformed| malformed())
        }
        let mut headers = request.headers().get_all(header::HOST).iter();
        let named = match (headers.next(), headers.next()) {
            (_, Some(_)) => return Err(Problem::bad_request("the header Host stands twice: send one")),
            (None, None) if request.version() >= Version::HTTP_11 => {
                return Err(Problem::bad_request(
                    "the header Host is missing: HTTP/1.1 names in it whom a request is for",
                ));
            }
            (header, None) => header.map(|header| parse(header.to_str().unwrap_or_default())).transpose()?,
        };
        // A target with a host of its own takes the place of the header.
        let target = request.uri().authority().map(|target| parse(target.as_str())).transpose()?;
        match target.or(named) {
            Some(host) if !self.answers_to(&host) => Err(self.misdirected(&host)),
            host => Ok(host),
        }
    }

    fn answers_to(&self, host: &Authority) -> bool {
        let name = &host.name;
        name == "localhost" || self.names.iter().any(|own| own.0 == *name) || host.is_address()
    }

    fn misdirected(&self, host: &Authority) -> Problem {
        let name = &host.name;
        let own =
            self.names.iter().find(|own| own.0 != "localhost").map_or(String::new(), |own| format!(", {}", own.0));
        Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            format!(
                "{name:?} is not a name of this node: use its IP address, localhost{own}, or another name that it was given; \
                 if the name is right, start the node with --allow-host {name}"
            ),
        )
    }

    /// Whether a page of a site that may not use the node made a browser send this request, which is for `host`.
    pub(super) fn is_foreign(&self, headers: &HeaderMap, host: Option<&Authority>) -> bool {
        let is_admitted = |site: &Origin| self.origins.contains(site);
        let is_own = |site: &Origin| host.is_some_and(|host| site.is_of(host));
        let origins = sites(headers, &header::ORIGIN);
        if !origins.is_empty() {
            let is_ours = |site: &Origin| is_admitted(site) || is_own(site);
            return !origins.iter().all(|site| site.as_ref().is_some_and(is_ours));
        }
        let is_cross = headers.get_all(SEC_FETCH_SITE).iter().any(|site| site == "cross-site");
        let referers = sites(headers, &header::REFERER);
        // A page of one's own may have led the browser through another site.
        let is_trusted = |site: &Origin| is_admitted(site) || is_own(site) && !is_cross;
        match referers.as_slice() {
            [] => is_cross,
            referers => !referers.iter().all(|site| site.as_ref().is_some_and(is_trusted)),
        }
    }
}

/// How the site of a page is to that which it asks (W3C Fetch Metadata Request Headers, section 2.4).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The sites that a header names, each nothing where it is none, such as `null`.
fn sites(headers: &HeaderMap, name: &HeaderName) -> Vec<Option<Origin>> {
    let site = |value: &HeaderValue| {
        let url = value.to_str().ok()?;
        let start = url.find("://")? + 3;
        let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |end| start + end);
        url[..end].parse().ok()
    };
    headers.get_all(name).iter().map(site).collect()
}

/// A host and perhaps a port, as `Host` and URLs have them (RFC 3986 section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    /// In lower case, without the dot that may end it; an IPv6 address is in brackets.
    name: Cow<'a, str>,
    port: Option<u16>,
}

/// What is no host and port.
#[derive(Debug)]
pub(super) struct Malformed;

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Result<Authority<'a>, Malformed> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(Malformed)?;
                // A zone is the sender's own matter, and some clients send it.
                let address =
                    address.split('%').next().unwrap_or_default().parse::<Ipv6Addr>().map_err(|_| Malformed)?;
                (Cow::Owned(format!("[{address}]")), port)
            }
            None => {
                let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let name = name.strip_suffix('.').unwrap_or(name);
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
                if !(1..=limits::HOST_BYTES).contains(&name.len()) || !name.bytes().all(is_plain) {
                    return Err(Malformed);
                }
                let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
                (if is_lower { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) }, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return Err(Malformed),
            Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().map_err(|_| Malformed)?),
            Some(_) => return Err(Malformed),
        };
        Ok(Authority { name, port })
    }

    fn is_address(&self) -> bool {
        self.name.starts_with('[') || self.name.parse::<Ipv4Addr>().is_ok()
    }
}

/// A name by which a node is addressed. A port may follow where it is parsed, and does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
        let host = Authority::parse(text).ok().filter(|host| host.name.bytes().all(is_plain));
        host.map(|host| HostName(host.name.into_owned())).ok_or_else(|| {
            format!("{text:?} is not a host name like ledger.example (wildcards are not known, other scripts are written xn--…)")
        })
    }
}

/// A site as browsers name it (RFC 6454): `scheme://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    name: String,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// The port where a URL names none.
    fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl Origin {
    /// Whether its pages come from this host. A proxy may have taken TLS off, so the scheme says only which port is meant where
    /// none is named.
    fn is_of(&self, host: &Authority) -> bool {
        self.name == host.name && self.port == host.port.unwrap_or(self.scheme.port())
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (scheme, host) = text.split_once("://")?;
            let scheme = match scheme.to_ascii_lowercase().as_str() {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                _ => return None,
            };
            let Authority { name, port } = Authority::parse(host).ok()?;
            Some(Origin { scheme, name: name.into_owned(), port: port.unwrap_or(scheme.port()) })
        };
        parse().ok_or_else(|| format!("{text:?} is no origin like https://ledger.example"))
    }
}

/// As browsers write it.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.scheme == Scheme::Http { "http" } else { "https" };
        write!(f, "{scheme}://{}", self.name)?;
        if self.port == self.scheme.port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_as_rfc_3986_has_it() {
        for (text, name, port) in [
            ("localhost", "localhost", None),
            ("LOCALHOST.:5000", "localhost", Some(5000)),
            ("localhost:", "localhost", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]", "[::1]", None),
            ("[0:0::1]:5000", "[::1]", Some(5000)),
            ("[fe80::1%25eth0]:1", "[fe80::1]", Some(1)),
            ("a_b-c.example", "a_b-c.example", None),
        ] {
            let host = Authority::parse(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!((&*host.name, host.port), (name, port), "{text}");
        }
        let long = "x".repeat(limits::HOST_BYTES + 1);
        for text in [
            "", ".", ":80", "::1", "[::1", "[::1]80", "[::g]", "a b", "a/b", "u@a", "a:x", "a:+1", "a:65536", "a:1:2",
            "é", &long,
        ] {
            assert!(Authority::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_origin_is_normal_and_of_its_host_and_port() {
        for (text, normal) in [
            ("https://Ledger.Example:443", "https://ledger.example"),
            ("HTTP://a:80", "http://a"),
            ("http://a:443", "http://a:443"),
            ("http://[0::1]:5000", "http://[::1]:5000"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), normal);
        }
        for text in ["null", "", "a", "ftp://a", "file://", "https://", "https://a/", "https://a/b", "https://u@a"] {
            assert!(text.parse::<Origin>().is_err(), "{text:?}");
        }
        for (origin, host, same) in [
            ("http://a", "a", true),
            ("http://a", "a:80", true),
            ("https://a", "a", true),
            ("https://a", "a:443", true),
            ("https://a", "a:80", false),
            ("http://a", "a:5000", false),
            ("http://a:5000", "a", false),
            ("http://a:5000", "a:5000", true),
            ("http://b:5000", "a:5000", false),
        ] {
            let site: Origin = origin.parse().unwrap();
            assert_eq!(site.is_of(&Authority::parse(host).unwrap()), same, "{origin} and {host}");
        }
    }
}
