//! What handlers take out of a request.

use std::{convert::Infallible, error::Error, iter, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, RawPathParams},
    http::{Extensions, HeaderMap, HeaderName, Request, StatusCode, header, request::Parts},
};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, value::MapDeserializer};
use serde_json::{Map, Value};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use utoipa::{IntoParams, openapi::path::Parameter};

use super::{
    App,
    access::{Client, Holds},
    coding::Undecodable,
    problem::Problem,
    turns::{Places, Turn, aside},
};
use crate::{
    access::Resource,
    core::{
        count::{Index, Size},
        hash::Hash,
        json,
        rules::{ChainName, Fault},
        transaction::{Signed, take_signed},
    },
    limits,
    writer::{ChainHandle, Refused},
};

/// Query parameters; malformed ones are a `400`, and so are unknown ones on every route, see [`super::check_query`].
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + IntoParams, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if parts.uri.query().is_none() {
            // Most requests have none, and need not pay for telling what is wrong with one.
            let nothing = MapDeserializer::<_, serde::de::value::Error>::new(iter::empty::<(&str, &str)>());
            if let Ok(query) = T::deserialize(nothing) {
                return Ok(Query(query));
            }
        }
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        query.map(|query| Query(query.0)).map_err(|rejection| {
            let reason = rejection.source().map(ToString::to_string).unwrap_or_default();
            wrong_parameter(&T::into_params(|| None), &reason)
        })
    }
}

/// What is wrong with a query, in the words of its parameters. serde's reason, `NAME: …` or ``missing field `NAME` ``, is
/// needed for the name, and speaks for itself where it is that of a type of ours.
fn wrong_parameter(parameters: &[Parameter], reason: &str) -> Problem {
    let missing = reason.rsplit_once("missing field `").and_then(|(_, name)| name.strip_suffix('`'));
    let (name, reason) = missing.map(|name| (name, "")).or_else(|| reason.split_once(": ")).unwrap_or(("", reason));
    let Some(parameter) = parameters.iter().find(|parameter| parameter.name == name) else {
        return Problem::bad_request("the query does not have the form name=value&name=value");
    };
    if missing.is_some() {
        let meaning = parameter.description.as_deref().unwrap_or_default().trim_end_matches('.');
        return Problem::bad_request(format!("the query parameter {name:?} is missing: {meaning}"));
    }
    let schema = serde_json::to_value(&parameter.schema).expect("a schema is JSON");
    let is = |kind: &str| match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|one| one == kind),
        one => one == kind,
    };
    let choices = [&schema].into_iter().chain(schema["oneOf"].as_array().into_iter().flatten());
    let choices = choices.flat_map(|schema| schema["enum"].as_array().into_iter().flatten());
    let choices: Vec<String> = choices.filter(|choice| !choice.is_null()).map(Value::to_string).collect();
    let wanted = if !choices.is_empty() {
        choices.join(" or ")
    } else if is("integer") {
        format!("a whole number from 0 to {}", schema["maximum"].as_u64().unwrap_or(u64::MAX))
    } else if is("number") {
        "a number".into()
    } else if is("boolean") {
        "true or false".into()
    } else {
        return Problem::bad_request(format!("the query parameter {name:?} is wrong: {reason}"));
    };
    Problem::bad_request(format!("the query parameter {name:?} must be {wanted}"))
}

/// Whether the request is a HEAD, which handlers see as a GET.
pub struct IsHead(pub bool);

/// Marks a request as a HEAD.
#[derive(Clone)]
pub struct Head;

impl<S: Sync> FromRequestParts<S> for IsHead {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(IsHead(parts.extensions.get::<Head>().is_some()))
    }
}

/// Marks a request that reads a chain, in its client's turn.
#[derive(Clone)]
pub struct InTurn;

/// The chain that a route speaks of: the one that its path names, or the default.
pub struct ChainOf {
    /// The chain.
    pub chain: Arc<ChainHandle>,
    /// What stands before its routes: nothing, or `/chains/{name}`.
    pub prefix: String,
    /// In which the handler reads it.
    _turn: Option<Turn>,
}

impl FromRequestParts<App> for ChainOf {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        // What is rarely awaited is boxed, as every request moves and stores the whole of its future.
        let named = path_parameter(parts, |name| name == CHAIN).await?;
        let name = named.as_deref().unwrap_or(ChainName::DEFAULT);
        let Some(chain) = app.0.node.chain(name) else { return Err(Box::pin(no_chain(app, name)).await) };
        if let Some(detail) = chain.difference() {
            return Err(Refused::Damaged(detail).into());
        }
        let prefix = named.as_ref().map(|_| format!("/chains/{}", chain.name)).unwrap_or_default();
        let turn = match parts.extensions.get::<InTurn>() {
            Some(InTurn) => Some(app.0.turns.to_read(&Client::in_extensions(&parts.extensions)).await),
            None => None,
        };
        Ok(ChainOf { chain, prefix, _turn: turn })
    }
}

async fn no_chain(app: &App, name: &str) -> Problem {
    if let Some(detail) = app.0.node.lost(name) {
        let cure = "the others go on; restore the data folder from a copy to have this one back";
        return Problem::overloaded(format!("the chain {name:?} is damaged: {detail}; {cure}"));
    }
    let is_one = name.parse::<ChainName>().is_ok() || name.parse::<Hash>().is_ok();
    let elsewhere = if is_one { app.0.peers.who_has(name).await } else { None };
    Problem::not_found(match elsewhere {
        Some(host) => {
            format!("there is no chain {name:?} on this node, but {host} has one: {}/chains/{name}", host.url())
        }
        None => format!("there is no chain {name:?}: GET /chains lists them, POST /bang makes one"),
    })
}

/// The parameter of a path within a chain: the index or id of a transaction, the index or hash of a quant.
pub struct Place(pub String);

impl Place {
    /// As the index of a transaction of a chain of `size`.
    ///
    /// # Errors
    /// `400` where it is no number, `404` where the chain has no such transaction.
    pub fn transaction(&self, size: Size) -> Result<Index, Problem> {
        let index = parse_index(&self.0)
            .map(Index::new)
            .ok_or_else(|| Problem::bad_request(format!("{:?} is not the index of a transaction", self.0)))?;
        if size.has(index) {
            return Ok(index);
        }
        Err(Problem::not_found(format!("there is no transaction {index}: the chain has {size}, counted from 0")))
    }
}

/// A whole number without sign or leading zeros.
pub fn parse_index(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|index| index.to_string() == text)
}

impl FromRequestParts<App> for Place {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let place = path_parameter(parts, |name| name != CHAIN).await?;
        Ok(Place(place.expect("routes of a place have one more parameter")))
    }
}

/// The path parameter that names a chain.
const CHAIN: &str = "chain";

/// The first parameter of a path whose name is meant.
///
/// # Errors
/// `400` where the path is no UTF-8.
pub async fn path_parameter(parts: &mut Parts, is_it: impl Fn(&str) -> bool) -> Result<Option<String>, Problem> {
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let params = params.map_err(|_| Problem::bad_request("the path is not UTF-8 where its %-escapes are decoded"))?;
    Ok(params.iter().find(|(name, _)| is_it(name)).map(|(_, value)| value.to_owned()))
}

/// A whole body, and the room that it takes up until that is dropped.
pub struct Whole {
    /// The body.
    pub bytes: Bytes,
    /// What it takes up.
    pub room: Option<Room>,
}

/// Room for a body that is in memory, until it is dropped.
pub struct Room {
    /// Of the node's memory.
    pub node: OwnedSemaphorePermit,
    /// Of what its sender may take up of that.
    client: Holds,
}

impl Room {
    /// Puts the room of two parts of a body together.
    pub fn merge(&mut self, other: Room) {
        self.node.merge(other.node);
        self.client.merge(other.client);
    }

    /// Gives a part back.
    pub fn give_back(&mut self, bytes: usize) {
        drop(self.node.split(bytes));
        self.client.give_back(bytes);
    }
}

/// Where room is had for the body of one request.
pub struct Rooms {
    app: App,
    client: Client,
    /// Bytes that one client may take up.
    share: usize,
}

impl Rooms {
    /// For the body of a request with these extensions.
    pub fn of(app: &App, extensions: &Extensions) -> Rooms {
        // One body of full size is nobody refused.
        let share = app.0.admitted.share.of(limits::BODIES_BYTES).max(limits::BODY_BYTES);
        Rooms { app: app.clone(), client: Client::in_extensions(extensions), share }
    }

    /// Waits for the client's turn to parse a text, where that is large.
    pub async fn turn(&self, text: &[u8]) -> Option<Turn> {
        self.app.0.turns.to_parse(&self.client, text).await
    }

    /// Waits until so much of this client's may wait for the writers.
    pub async fn to_write(&self, bytes: usize) -> Places {
        self.app.0.turns.to_write(&self.client, bytes).await
    }

    /// Waits until no other stream of this client waits for room, or for the writers with the room that it has.
    pub async fn to_be_next(&self) -> Places {
        self.app.0.turns.to_be_next(&self.client).await
    }

    /// The same as [`Rooms::turn`] for what is done with lines, one after the other, however many they are.
    pub async fn turn_of_lines(&self, lines: &[u8]) -> Turn {
        let largest = lines.split(|&byte| byte == b'\n').max_by_key(|line| line.len()).unwrap_or_default();
        self.app.0.turns.to_work(&self.client, largest).await
    }

    /// Takes room for `bytes`, at once or not at all.
    ///
    /// # Errors
    /// `503` where the bodies of other requests take it up, `429` where those of the same client do.
    pub fn take(&self, bytes: usize) -> Result<Room, Problem> {
        let client = self.client.hold(Resource::BodyBytes, bytes, self.share)?;
        Ok(Room { client, ..self.take_uncounted(bytes)? })
    }

    /// The same for a body that nobody need count for its client: there are no more of them than requests under way.
    fn take_uncounted(&self, bytes: usize) -> Result<Room, Problem> {
        let bytes = u32::try_from(bytes).expect("a body is bounded far below 4 GiB");
        let node = self.app.0.room.clone().try_acquire_many_owned(bytes);
        let node = node.map_err(|_| Problem::overloaded("too many large requests at one time: send again later"))?;
        Ok(Room { node, client: Holds::default() })
    }
}

/// Reads a whole body of bounded size in bounded time.
///
/// # Errors
/// `413`, `408`, `429`, `503`, or `400` where the connection broke.
pub async fn read_whole(rooms: &Rooms, mut body: Body) -> Result<Whole, Problem> {
    let declared = http_body::Body::size_hint(&body).lower();
    if declared > limits::BODY_BYTES as u64 {
        return Err(too_large());
    }
    let Some(first) = next_data(&mut body).await? else {
        return Ok(Whole { bytes: Bytes::new(), room: None });
    };
    if first.len() as u64 == declared && first.len() <= limits::BODY_UNCOUNTED {
        let room = rooms.take_uncounted(first.len())?;
        return Ok(Whole { bytes: first, room: Some(room) });
    }
    let mut room = rooms.take(first.len())?;
    if first.len() as u64 == declared {
        return Ok(Whole { bytes: first, room: Some(room) });
    }
    let mut bytes = Vec::with_capacity((declared as usize).clamp(first.len(), limits::BYTES_AT_ONCE.max(first.len())));
    bytes.extend_from_slice(&first);
    while let Some(data) = next_data(&mut body).await? {
        if bytes.len() + data.len() > limits::BODY_BYTES {
            return Err(too_large());
        }
        room.merge(rooms.take(data.len())?);
        bytes.extend_from_slice(&data);
    }
    Ok(Whole { bytes: bytes.into(), room: Some(room) })
}

fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("a body has at most {} bytes; more go as a stream of lines (application/x-ndjson)", limits::BODY_BYTES),
    )
}

/// The next bytes of a body, or nothing at its end.
///
/// # Errors
/// `408` where nothing comes for too long, `400` where the connection broke.
pub async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        // What is there already needs no timer.
        let frame = match body.frame().now_or_never() {
            Some(frame) => Ok(frame),
            None => Box::pin(timeout(limits::BODY_TIMEOUT, body.frame())).await,
        };
        match frame {
            Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body stopped coming")),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                let mut causes = iter::successors(Some(&error as &dyn Error), |&error| error.source());
                let undecodable = causes.find_map(|error| error.downcast_ref::<Undecodable>());
                let broken = || "the body broke off before its end, or its chunks are malformed".into();
                return Err(Problem::bad_request(undecodable.map_or_else(broken, ToString::to_string)));
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`, or any `application/…+json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `application/x-ndjson`, or another of [`LINES`]: one JSON value a line.
    Lines,
}

/// The media types of lines of JSON: none is registered, and each of these is in use.
pub const LINES: [&str; 5] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/x-jsonlines",
];

/// The format that the header `Content-Type` names.
///
/// # Errors
/// `415` that names the formats.
pub fn format_of(headers: &HeaderMap) -> Result<Format, Problem> {
    let header = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = header.split(';').next().unwrap_or_default().trim();
    if media == "application/json" {
        return Ok(Format::Json);
    }
    match media.to_ascii_lowercase().as_str() {
        "application/json" => Ok(Format::Json),
        "application/x-www-form-urlencoded" => Ok(Format::Form),
        media if LINES.contains(&media) => Ok(Format::Lines),
        media if media.starts_with("application/") && media.ends_with("+json") => Ok(Format::Json),
        "" => Err(unsupported("the body has no Content-Type")),
        _ => Err(unsupported(&format!("the body's Content-Type is {header:?}"))),
    }
}

fn unsupported(what: &str) -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!(
            "{what}: send JSON with the header \"Content-Type: application/json\", as curl does with --json, or the fields of a form"
        ),
    )
}

/// The fields of a form, each a text.
///
/// # Errors
/// `415` where it is JSON that curl calls a form, `422` where a field stands twice, `400` where it is no UTF-8.
pub fn parse_form(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if matches!(body.trim_ascii_start().first(), Some(b'{' | b'[' | b'"')) {
        return Err(unsupported("the body looks like JSON, but its Content-Type says that it is a form"));
    }
    let mut fields = Map::new();
    for (name, value) in parse_pairs(body)? {
        if fields.contains_key(&name) {
            return Err(vec![Fault::of(&name, "stands twice in the form")].into());
        }
        fields.insert(name, Value::String(value));
    }
    Ok(fields)
}

/// The pairs of a form (WHATWG URL, application/x-www-form-urlencoded parsing), but that bytes which are no UTF-8 are
/// refused and not replaced, and so are noncharacters.
pub fn parse_pairs(body: &[u8]) -> Result<Vec<(String, String)>, Problem> {
    let decode = |part: &[u8], what: &str| {
        let spaced: Vec<u8> = part.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        let text = String::from_utf8(percent_encoding::percent_decode(&spaced).collect());
        let invalid = |_| Problem::bad_request(format!("{what} is not UTF-8 where its %-escapes are decoded"));
        match text.map_err(invalid)? {
            text if json::has_noncharacter(&text) => {
                Err(Problem::bad_request(format!("{what} has {}", json::NONCHARACTER)))
            }
            text => Ok(text),
        }
    };
    let pairs = body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let split = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
            let name = decode(&pair[..split], "a name in the form or query")?;
            let value = decode(pair.get(split + 1..).unwrap_or_default(), &format!("the value of {name:?}"))?;
            Ok((name, value))
        })
        .collect()
}

/// A JSON object or a form as a body.
///
/// # Errors
/// As [`read_whole`], [`format_of`] and [`json::parse`]; `422` where it is no object.
pub async fn read_object(app: &App, request: Request<Body>) -> Result<Map<String, Value>, Problem> {
    let format = format_of(request.headers())?;
    let rooms = Rooms::of(app, request.extensions());
    let body = read_whole(&rooms, request.into_body()).await?;
    match format {
        Format::Form => parse_form(&body.bytes),
        Format::Lines => Err(unsupported("this route takes one object")),
        Format::Json => match parse(app, &rooms, body.bytes).await? {
            Value::Object(fields) => Ok(fields),
            _ => Err(vec![Fault { pointer: String::new(), detail: "must be a JSON object".into() }].into()),
        },
    }
}

/// Parses a body in its client's turn.
async fn parse(app: &App, rooms: &Rooms, text: Bytes) -> Result<Value, Problem> {
    let turn = rooms.turn(&text).await;
    Ok(aside(&app.0.node, turn, move || json::parse(&text)).await?)
}

/// Takes a field that must be there out of a body.
///
/// # Errors
/// It is missing.
pub fn take_field(fields: &mut Map<String, Value>, name: &'static str) -> Result<Value, Vec<Fault>> {
    fields.remove(name).ok_or_else(|| vec![Fault::of(name, "is missing")])
}

/// Takes the signature of a writer out of a body, if there is one.
///
/// # Errors
/// It is malformed, or only half of it is there.
pub fn take_signature(fields: &mut Map<String, Value>) -> Result<Option<Signed>, Vec<Fault>> {
    take_signed(fields).map_err(|(name, detail)| vec![Fault::of(name, detail)])
}

/// Refuses what is left of a body when all that is known was taken; `known` says in a sentence what that is.
///
/// # Errors
/// There is another field.
pub fn refuse_more(fields: &Map<String, Value>, known: &str) -> Result<(), Vec<Fault>> {
    match fields.keys().next() {
        None => Ok(()),
        Some(name) => Err(vec![Fault::of(name, format!("unknown field: {known}"))]),
    }
}

/// The elements of a header that lists what the client takes, in lower case, with their weights in thousandths (RFC 9110
/// section 12.4.2), from all its lines. What is malformed is passed over.
pub fn weighted(headers: &HeaderMap, name: &HeaderName) -> Vec<(String, u16)> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    let weigh = |element: &str| {
        let mut parts = element.split(';').map(|part| part.trim().to_ascii_lowercase());
        let value = parts.next().filter(|value| !value.is_empty())?;
        let weight = match parts.find_map(|part| part.strip_prefix("q=").map(str::to_owned)) {
            Some(weight) => weight.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight))?,
            None => 1.0,
        };
        Some((value, (weight * 1_000.0) as u16))
    };
    lines.flat_map(|line| line.split(',')).filter_map(weigh).collect()
}

/// A header that may stand once.
///
/// # Errors
/// `400` where it stands twice or is no visible ASCII.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request(format!("the header {name} stands twice")));
    }
    value.to_str().map(Some).map_err(|_| Problem::bad_request(format!("the header {name} is no ASCII text")))
}
