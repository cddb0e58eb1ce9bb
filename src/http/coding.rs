//! Content codings (RFC 9110 section 8.4.1): which one an answer gets, and what clients compressed.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::{
    BoxError,
    body::{Body, BodyDataStream, Bytes},
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header},
    response::IntoResponse,
};
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use http_body::{Frame, SizeHint};
use tokio::{
    io::AsyncRead,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::consume_budget,
};
use tokio_util::io::{ReaderStream, StreamReader};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::compression::{CompressionLayer, Predicate, predicate::SizeAbove};

use super::{
    answers::{Answers, is_endless},
    extract::weighted,
    problem::Problem,
    proofs::Incompressible,
    turns::take_steps,
};
use crate::{limits, node::beside};

/// What `Accept-Encoding` names, and compression makes (see `tower_http` in Cargo.toml). The later ones are the better ones.
pub const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// The length from which an answer is compressed.
const COMPRESSED_BYTES: u64 = 1024;

/// The coding that the client likes best, or none where that is to leave the answer as it is.
pub fn preferred(headers: &HeaderMap) -> Option<&'static str> {
    if !headers.contains_key(header::ACCEPT_ENCODING) {
        return None;
    }
    let accepted = weighted(headers, &header::ACCEPT_ENCODING);
    // Of equal ones the last.
    let weights = CODINGS.map(|coding| (weight_of(&accepted, coding), coding));
    let (weight, coding) = weights.into_iter().max_by_key(|&(weight, _)| weight).expect("there are some");
    (weight > 0 && weight >= listed(&accepted, "identity").unwrap_or(0)).then_some(coding)
}

/// An answer in this coding, where that is worth it. One that could be compressed says that it varies.
///
/// Symptom: `406` in place of the status of a write that was done. Cause: the layer that compresses answers so where nothing
/// is acceptable. Cure: it is never asked for what it cannot give; such a client gets the answer as it is.
pub fn compressed(response: Response<Body>, coding: Option<&'static str>, answers: &Answers) -> Response<Body> {
    let is_large = SizeAbove::new(COMPRESSED_BYTES).should_compress(&response);
    // An encoder would keep events until there are more, and its window for each listener.
    if !is_large || is_endless(&response) || response.extensions().get::<Incompressible>().is_some() {
        return response;
    }
    let size = http_body::Body::size_hint(response.body()).exact();
    let is_large = size.is_none_or(|bytes| bytes > limits::CHECK_AT_ONCE as u64);
    // What clients do not take keeps memory for that, and without it an answer is as good.
    let encoder = coding.and_then(|_| answers.encoder());
    let mut accepting = Request::new(());
    if let Some(coding) = coding.filter(|_| encoder.is_some()) {
        accepting.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(coding));
    }
    let mut response = Some(response);
    let answer = service_fn(|_| ready(Ok::<_, Infallible>(response.take().expect("it is asked once"))));
    let compressed = CompressionLayer::new().layer(answer).oneshot(accepting).now_or_never();
    let Ok(response) = compressed.expect("it waits for the answer alone, which is there");
    response.map(|body| match encoder {
        None => Body::new(body),
        Some(encoder) => Body::new(Compressed { body: Body::new(body), is_large, _encoder: encoder }),
    })
}

/// A body that is compressed as it is asked for, which takes long enough to hold others up where it is large.
struct Compressed {
    body: Body,
    is_large: bool,
    _encoder: OwnedSemaphorePermit,
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let is_large = self.is_large;
        beside(is_large, || Pin::new(&mut self.body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the client accepts a coding.
pub fn takes(headers: &HeaderMap, coding: &str) -> bool {
    weight_of(&weighted(headers, &header::ACCEPT_ENCODING), coding) > 0
}

fn weight_of(accepted: &[(String, u16)], coding: &str) -> u16 {
    listed(accepted, coding).or_else(|| listed(accepted, "*")).unwrap_or(0)
}

fn listed(accepted: &[(String, u16)], name: &str) -> Option<u16> {
    accepted.iter().find(|(coding, _)| bare(coding) == name).map(|&(_, weight)| weight)
}

/// `x-gzip` is another name of `gzip` (RFC 9110 section 8.4.1.3).
fn bare(coding: &str) -> &str {
    if coding == "x-gzip" { "gzip" } else { coding }
}

/// A request whose `Content-Encoding` is decoded as its body is read, so that whoever bounds the body bounds what was decoded.
///
/// # Errors
/// `415` where the coding is none of ours, `503` where too many bodies are decoded at one time.
pub fn decoded(decoders: &Arc<Semaphore>, request: Request<Body>) -> Result<Request<Body>, Problem> {
    let lines = request.headers().get_all(header::CONTENT_ENCODING).into_iter();
    let codings = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(|coding| {
        let coding = String::from_utf8_lossy(coding).trim().to_ascii_lowercase();
        bare(&coding).to_owned()
    });
    let codings: Vec<String> = codings.filter(|coding| !coding.is_empty() && coding != "identity").collect();
    // Without a body there is nothing to decode.
    if codings.is_empty() || http_body::Body::is_end_stream(request.body()) {
        return Ok(request);
    }
    let coding = match codings.as_slice() {
        [coding] => CODINGS.into_iter().find(|known| known == coding),
        _ => None,
    };
    let Some(coding) = coding else { return Err(unsupported(&codings)) };
    let (mut parts, body) = request.into_parts();
    let source = StreamReader::new(body.into_data_stream().map_err(io::Error::other as fn(_) -> _));
    let decoder = decoder(coding, source);
    let place = match coding {
        "gzip" => None,
        _ => Some(decoders.clone().try_acquire_owned().map_err(|_| {
            let detail = "too many compressed requests at one time: send again later, or with gzip, or uncompressed";
            Problem::overloaded(detail)
        })?),
    };
    parts.headers.remove(header::CONTENT_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    let pieces = pieces(coding, decoder).map(move |piece| {
        let _held = &place;
        piece
    });
    Ok(Request::from_parts(parts, Body::from_stream(pieces)))
}

type Source = StreamReader<stream::MapErr<BodyDataStream, fn(axum::Error) -> io::Error>, Bytes>;

/// What stands behind the end of compressed data is data of another member, or an error: nothing is passed over.
fn decoder(coding: &str, source: Source) -> Pin<Box<dyn AsyncRead + Send>> {
    match coding {
        "gzip" => {
            let mut decoder = GzipDecoder::new(source);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        "br" => {
            let mut decoder = BrotliDecoder::new(source);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        _ => {
            let mut decoder = ZstdDecoder::with_params(source, &[DParameter::window_log_max(limits::ZSTD_WINDOW)]);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
    }
}

fn pieces(
    coding: &'static str,
    decoder: Pin<Box<dyn AsyncRead + Send>>,
) -> impl Stream<Item = Result<Bytes, BoxError>> {
    ReaderStream::with_capacity(decoder, limits::DECODED_BYTES).then(move |piece| async move {
        // A few bytes can become very many, and none of them is waited for.
        poll_fn(|cx| {
            take_steps(cx, limits::DECODED_BYTES, limits::BYTES_AT_ONCE);
            Poll::Ready(())
        })
        .await;
        consume_budget().await;
        piece.map_err(|error| match error.get_ref().is_some_and(|inner| inner.is::<axum::Error>()) {
            true => error.into(),
            false => Undecodable(coding).into(),
        })
    })
}

/// That a body is not in the coding that its `Content-Encoding` names.
#[derive(Debug, thiserror::Error)]
#[error("the body is not what its Content-Encoding says: it is corrupt or cut short as {0}")]
pub struct Undecodable(&'static str);

fn unsupported(codings: &[String]) -> Problem {
    let detail = format!(
        "the body's Content-Encoding is {:?}: send it with one of gzip, br and zstd, or uncompressed without this header",
        codings.join(", ")
    );
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
}

/// The answer to a body that [`decoded`] refused. A `415` names what is taken (RFC 9110 section 15.5.16).
pub fn refused(problem: Problem) -> Response<Body> {
    let mut response = problem.into_response();
    if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, br, zstd"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (header::ACCEPT_ENCODING, HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn an_acceptable_coding_is_chosen_or_none() {
        for (lines, chosen) in [
            (&["*;q=0"][..], None),
            (&["identity;q=0"], None),
            (&["identity;q=0, *;q=0"], None),
            (&["gzip;q=0", "*;q=0"], None),
            (&["gzip;q=0.2", "br;q=0.9, zstd;q=0"], Some("br")),
            (&["*"], Some("zstd")),
            (&["zstd;q=0, *;q=0.1"], Some("br")),
            (&["X-GZIP"], Some("gzip")),
            (&["gzip ; Q=0.5 , identity;q=0.6"], None),
            (&["identity, gzip"], Some("gzip")),
            (&["gzip;q=0.001"], Some("gzip")),
            (&["gzip;q=0.000"], None),
            (&["gzip;q=2", "br;q=-1", "zstd;q=nan", "", ",;,", "rot13", ";q=1"], None),
        ] {
            assert_eq!(preferred(&accepting(lines)), chosen, "{lines:?}");
        }
    }

    #[test]
    fn encodings_are_taken_or_not() {
        for (accept, gzip) in [
            (&["gzip"][..], true),
            (&["br", "GZIP;q=0.1"], true),
            (&["*"], true),
            (&["gzip;q=0, *"], false),
            (&["*;q=0, gzip"], true),
            (&["identity"], false),
            (&[""], false),
        ] {
            assert_eq!(takes(&accepting(accept), "gzip"), gzip, "{accept:?}");
        }
    }
}
