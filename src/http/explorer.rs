//! The explorer: a page for browsers, which uses nothing but the public interface. Its files are part of the program, and name each
//! other relative to the page, so that they work behind any proxy.

use axum::{
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response},
};

use super::{
    cache::{Cache, cache_headers, unchanged},
    extract::Place,
    openapi::Cached,
    problem::Problem,
};
use crate::core::hash;

/// A file of the explorer.
struct File {
    name: &'static str,
    media: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($media:literal: $($name:literal)*) => {
        [$(File { name: $name, media: $media, text: include_str!(concat!("explorer/", $name)) }),*]
    };
}

static PAGE: [File; 1] = files!("text/html; charset=utf-8": "index.html");
static STYLE: [File; 1] = files!("text/css; charset=utf-8": "style.css");
static ICON: [File; 1] = files!("image/svg+xml": "icon.svg");
static SCRIPTS: [File; 13] = files!("text/javascript; charset=utf-8":
    "api.js" "app.js" "chain.js" "chains.js" "cluster.js" "dom.js" "forms.js" "guide.js" "plot.js" "receipt.js" "records.js" "search.js"
    "verify.js");

/// What a browser may do with the page: run its own scripts, and ask its own node. Whatever a chain holds, it is never run: text
/// cannot become markup, since no script may write any (`require-trusted-types-for`).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const GUARDS: [(HeaderName, &str); 3] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

impl File {
    /// Another version of the program has other files under the same names: so a browser asks each time.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", hash::leaf(self.text.as_bytes()));
        let answer = unchanged(headers, &tag, Cache::Revalidate).unwrap_or_else(|| {
            (cache_headers(&tag, Cache::Revalidate), [(header::CONTENT_TYPE, self.media)], self.text).into_response()
        });
        (GUARDS, answer).into_response()
    }
}

/// The page.
pub fn page(headers: &HeaderMap) -> Response {
    PAGE[0].answer(headers)
}

/// A file that the explorer's page consists of.
#[utoipa::path(
    get,
    path = "/explorer/{file}",
    tag = "node",
    params(("file" = String, Path, description = "Its name, as the page has it")),
    responses(
        (status = 200, description = "The file",
            headers(("Content-Security-Policy"), ("Referrer-Policy"), ("X-Content-Type-Options")),
            content((String = "text/javascript"), (String = "text/css"), (String = "image/svg+xml"))),
        Cached,
    )
)]
pub async fn file(place: Place, headers: HeaderMap) -> Result<Response, Problem> {
    let mut files = SCRIPTS.iter().chain(&STYLE).chain(&ICON);
    let file = files.find(|file| file.name == place.0);
    let file =
        file.ok_or_else(|| Problem::not_found(format!("the explorer has no file {:?}: its page is GET /", place.0)))?;
    Ok(file.answer(&headers))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// A file that is not listed would be missed by browsers only.
    #[test]
    fn all_files_are_served() {
        let files = PAGE.iter().chain(&STYLE).chain(&ICON).chain(&SCRIPTS);
        let listed: BTreeSet<String> = files.map(|file| file.name.to_owned()).collect();
        let folder = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/explorer")).unwrap();
        let there = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(listed, there);
    }

    /// Nothing comes from elsewhere, and nothing is where the policy would stop it.
    #[test]
    fn files_name_no_other_host_and_have_no_inline_code() {
        for File { name, text, .. } in PAGE.iter().chain(&STYLE).chain(&ICON).chain(&SCRIPTS) {
            let foreign: Vec<&str> = text.split(['"', '\'', '(', '`']).filter(|part| part.contains("://")).collect();
            let namespaces = ["http://www.w3.org/2000/svg"];
            assert!(foreign.iter().all(|part| namespaces.contains(part)), "{name}: {foreign:?}");
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=",
                "=\"/",
                "javascript:",
            ] {
                assert!(!text.contains(sink), "{name} has {sink}");
            }
        }
    }
}
