//! `POST /inject`: one transaction, an array, a form, or a stream of lines.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{task::consume_budget, time::timeout};

use super::{
    App,
    chains::{ReceiptView, Stage, receipt_json},
    extract::{
        ChainOf, Format, Query, Room, Rooms, format_of, next_data, parse_form, read_whole, refuse_more, take_field,
        take_signature,
    },
    openapi::{Guard, OneOrMany, PublicKey, Signature},
    preconditions::{IDEMPOTENCY_KEY, expected, idempotency_key},
    problem::{Problem, ProblemDocument},
    turns::aside,
};
use crate::{
    cluster::agreement_timeout,
    core::{
        chain::Tag,
        count::Index,
        hash::Hash,
        json,
        rules::{ChainName, Fault},
        transaction::{Id, Submission, Timestamp},
    },
    limits,
    node::{Accepted, Node, beside},
    writer::{ChainHandle, Placed, Refused, Reserved},
};

/// Query parameters of `POST /inject`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InjectQuery {
    /// `leap`: answer when a quant has sealed what was sent, with its receipt.
    #[param(inline)]
    wait: Option<Wait>,
    /// With `wait=leap`: seconds to wait at most, 30 where it is not said.
    #[param(minimum = 0, maximum = 3600)]
    timeout: Option<f64>,
}

#[derive(Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Wait {
    Leap,
}

impl InjectQuery {
    /// How long to wait for a leap, if at all.
    fn wait(&self) -> Result<Option<Duration>, Problem> {
        match (self.wait, self.timeout) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Problem::bad_request("\"timeout\" says how long to wait: add wait=leap")),
            (Some(Wait::Leap), None) => Ok(Some(limits::WAIT_DEFAULT)),
            (Some(Wait::Leap), Some(seconds)) => Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|wait| *wait <= limits::WAIT_LIMIT)
                .map(Some)
                .ok_or_else(|| {
                    Problem::bad_request(format!(
                        "\"timeout\" is a number of seconds up to {}",
                        limits::WAIT_LIMIT.as_secs()
                    ))
                }),
        }
    }
}

/// A transaction to add.
#[derive(utoipa::ToSchema)]
#[schema(as = Inject)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document; the gate of core::json reads it")]
pub struct InjectBody {
    /// Any JSON value.
    data: Value,
    /// The client's own name for it, for exact retries.
    #[schema(nullable = false)]
    id: Option<Id>,
    /// The writer. It stands with `signature` or not at all.
    #[schema(nullable = false)]
    signer: Option<PublicKey>,
    /// The writer's signature over the canonical JSON of `{"chain", "data", "id"?}`.
    #[schema(nullable = false)]
    signature: Option<Signature>,
}

/// A form that adds a transaction.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes the body in the OpenAPI document")]
pub struct InjectForm {
    /// The data: a text, whatever it looks like.
    data: String,
    /// The client's own name for it, for exact retries.
    #[schema(nullable = false)]
    id: Option<Id>,
    /// The writer. It stands with `signature` or not at all.
    #[schema(nullable = false)]
    signer: Option<PublicKey>,
    /// The writer's signature over the canonical JSON of `{"chain", "data", "id"?}`.
    #[schema(nullable = false)]
    signature: Option<Signature>,
}

/// Bodies and answers of which an array has several.
type Injects = OneOrMany<InjectBody>;
type Receipts = OneOrMany<ReceiptView>;
type Acceptances = OneOrMany<Acceptance<'static>>;

/// What becomes of transactions that are sent without waiting.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes an answer in the OpenAPI document")]
pub enum Outcome<'a> {
    One(Acceptance<'a>),
    Many(Vec<Acceptance<'a>>),
    Lines(Summary),
}

/// That a transaction is on disk.
#[derive(utoipa::ToSchema)]
pub struct Acceptance<'a> {
    #[schema(example = "Transaction submission successful")]
    message: &'static str,
    /// The chain's name.
    #[schema(value_type = ChainName)]
    chain: &'a str,
    /// The transaction's final place.
    index: u64,
    #[schema(value_type = Option<Id>, nullable = false)]
    id: Option<&'a str>,
    /// Its leaf hash.
    hash: Hash,
    /// When it was accepted first.
    timestamp: Timestamp,
    /// `pooled`, or `sealed` where it is repeated.
    #[schema(value_type = Stage)]
    state: &'static str,
    /// In an array: `true` where an earlier request did it.
    #[schema(nullable = false)]
    replayed: Option<bool>,
}

impl Acceptance<'_> {
    /// Appends it as JSON. It is what most requests are answered, and serde_json looks at each byte of each text. Names of chains
    /// need no escapes.
    fn write(&self, out: &mut Vec<u8>) {
        let Acceptance { message, chain, index, id, hash, timestamp, state, replayed } = self;
        let mut digits = itoa::Buffer::new();
        let index = digits.format(*index);
        let parts = [r#"{"message":""#, message, r#"","chain":""#, chain, r#"","index":"#, index];
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        if let Some(id) = id {
            out.extend_from_slice(br#","id":"#);
            json::write_string(id, out);
        }
        let (hash, timestamp) = (hash.to_hex(), timestamp.digits());
        let parts: [&[u8]; 6] =
            [br#","hash":""#, &hash, br#"","timestamp":""#, &timestamp, br#"","state":""#, state.as_bytes()];
        parts.iter().for_each(|part| out.extend_from_slice(part));
        let end: &[u8] = if *replayed == Some(true) { br#"","replayed":true}"# } else { br#""}"# };
        out.extend_from_slice(end);
    }
}

/// Acceptances that are written while others wait.
const AT_ONCE: usize = 100;

/// As many as most acceptances have, with the line end behind them.
const ACCEPTANCE_BYTES: usize = 320;

fn acceptance<'a>(chain: &'a ChainHandle, accepted: &'a Accepted, is_array: bool) -> Acceptance<'a> {
    // Only what is sent again can be sealed already.
    let sealed = accepted.replayed && chain.head().newest.size().has(accepted.index);
    Acceptance {
        message: "Transaction submission successful",
        chain: chain.name.as_str(),
        index: accepted.index.get(),
        id: accepted.id.as_ref().map(Id::as_str),
        hash: accepted.hash,
        timestamp: accepted.timestamp,
        state: if sealed { "sealed" } else { "pooled" },
        // The header says it of a request as a whole.
        replayed: (is_array && accepted.replayed).then_some(true),
    }
}

/// Adds transactions to the pool.
///
/// The body is one object, an array of them (all or none is accepted), a form `data=…&id=…` (the data is then a text), or
/// `application/x-ndjson` with one object a line (each for itself, committed as it comes). The answer comes when the
/// transactions are on disk. The same `id` with the same data answers with the first acceptance; the header
/// `Idempotency-Key` is another way to give it.
#[utoipa::path(
    post,
    path = "/inject",
    tag = "chain",
    params(
        InjectQuery,
        Guard,
        ("Idempotency-Key" = Option<String>, Header, nullable = false, pattern = r#"^([!-~]{1,128}|"[!-~]{1,128}")$"#,
            description = "Another way to give the id"),
    ),
    request_body(description = "`application/jsonl` and `application/ndjson` are other names of `application/x-ndjson`", content(
        (Injects = "application/json"),
        (String = "application/x-ndjson"),
        (InjectForm = "application/x-www-form-urlencoded"),
    )),
    responses(
        (status = 202, description = "On disk, in the pool: an array for an array, a summary for lines", body = Outcome,
            headers(("Location"), ("ETag"), ("Idempotent-Replayed"))),
        (status = 201, description = "Sealed (`wait=leap`): the receipt, an array for an array", body = Receipts,
            headers(("Location"), ("ETag"), ("Idempotent-Replayed"))),
        (status = 401, description = "This chain accepts only what one of its writers has signed"),
        (status = 403, description = "None of the chain's writers has signed it, or a page of another site asked for it"),
        (status = 409, description = "The id belongs to other data"),
        (status = 413, description = "The body, or the data of a transaction, is too large"),
        (status = 422, description = "It breaks the chain's rules or has not the shape of a transaction; lines: all were refused",
            content((ProblemDocument = "application/problem+json"), (Summary = "application/json"))),
        (status = 429, description = "The pool is full",
            content((ProblemDocument = "application/problem+json"), (Summary = "application/json"))),
        (status = 503, description = "The node has too much to do or cannot write, or the chain is damaged",
            content((ProblemDocument = "application/problem+json"), (Summary = "application/json"))),
        (status = 504, description = "On disk, but not sealed in time (`wait=leap`)", body = Acceptances,
            headers(("Location"), ("ETag"), ("Idempotent-Replayed"))),
        (status = 507, description = "The disk is full",
            content((ProblemDocument = "application/problem+json"), (Summary = "application/json"))),
    )
)]
pub fn inject(
    State(app): State<App>,
    target: ChainOf,
    Query(query): Query<InjectQuery>,
    request: Request<Body>,
) -> impl Future<Output = Result<Response, Problem>> + Send {
    let (parts, body) = request.into_parts();
    // No `async fn`, which would store all of these twice.
    async move {
        let wait = query.wait()?;
        let format = format_of(&parts.headers)?;
        know_writers(&app, &target.chain).await?;
        if format == Format::Lines {
            // Boxed, as every request moves and stores the whole of its future, and that of a stream is large.
            return Box::pin(inject_lines(&app, target.chain, wait, &parts, body)).await;
        }
        let expected = expected(&parts.headers)?;
        let rooms = Rooms::of(&app, &parts.extensions);
        let body = read_whole(&rooms, body).await?;
        let (turn, bytes) = (rooms.turn(&body.bytes).await, body.bytes.len());
        let (node, chain, text) = (app.0.node.clone(), target.chain.clone(), body.bytes);
        let parse = move || {
            let value = match format {
                Format::Form => Value::Object(parse_form(&text)?),
                _ => json::parse(&text)?,
            };
            let is_array = value.is_array();
            let submissions = submissions(&node, &chain, value, &parts.headers)?;
            Ok::<_, Problem>((node.record(&chain, submissions), is_array))
        };
        let (transactions, is_array) = aside(&app.0.node, turn, parse).await?;
        let waiting = rooms.to_write(bytes).await;
        let reserved = Reserved { memory: body.room.map(|room| room.node), waiting };
        let accepted = app.0.node.inject(&target.chain, transactions, expected, reserved).await?;
        answer(&app, &target, accepted, is_array, wait).await
    }
}

/// Waits, where another node leads a chain with writers, until this one knows who they are by now.
async fn know_writers(app: &App, chain: &ChainHandle) -> Result<(), Problem> {
    if app.0.cluster.is_active() && !app.0.node.leads(chain.group) && chain.rules().writers().is_some() {
        Box::pin(app.0.cluster.linearize(chain.group, agreement_timeout())).await?;
    }
    Ok(())
}

async fn answer(
    app: &App,
    target: &ChainOf,
    accepted: Vec<Accepted>,
    is_array: bool,
    wait: Option<Duration>,
) -> Result<Response, Problem> {
    let chain = &target.chain;
    let (first, last) =
        (accepted[0].index, accepted.iter().map(|accepted| accepted.index).max().expect("there is a first"));
    let replayed = accepted.iter().all(|accepted| accepted.replayed);
    let (status, body) = match wait {
        None => (StatusCode::ACCEPTED, None),
        Some(wait) => Box::pin(receipts(app, chain, &accepted, last, wait, is_array)).await,
    };
    let body = body.unwrap_or_else(|| {
        let describe = |accepted| {
            let mut text = Vec::with_capacity(ACCEPTANCE_BYTES);
            acceptance(chain, accepted, is_array).write(&mut text);
            text
        };
        beside(accepted.len() > AT_ONCE, || list(accepted.iter().map(describe).collect(), is_array))
    });
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let location = [&target.prefix, "/transactions/", itoa::Buffer::new().format(first.get())].concat();
    headers.insert(header::LOCATION, text_header(location));
    let next = Tag::of_size(last.size());
    // What is sent again may have been followed by much else, and what was sealed was followed by a leap at least.
    let is_replayed = accepted.iter().any(|accepted| accepted.replayed);
    let newest = (is_replayed || status == StatusCode::CREATED).then(|| chain.head().tag());
    // A node that does not lead may not have it itself yet.
    let newest = newest.filter(|newest| newest.size() >= next.size());
    let tag = newest.filter(|newest| is_replayed || newest.size() == next.size()).unwrap_or(next);
    headers.insert(header::ETAG, tag_header(tag));
    if replayed {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The receipts of what was accepted, once a quant has sealed `last`; none where that takes too long, or where they cannot be read:
/// it is accepted all the same.
async fn receipts(
    app: &App,
    chain: &Arc<ChainHandle>,
    accepted: &[Accepted],
    last: Index,
    wait: Duration,
    is_array: bool,
) -> (StatusCode, Option<Vec<u8>>) {
    let (mut head, mut stopping) = (chain.watch(), app.0.stopping.clone());
    let sealed = tokio::select! {
        sealed = timeout(wait, head.wait_for(|head| head.newest.size().has(last))) => sealed.is_ok(),
        _ = stopping.wait_for(|stopping| *stopping) => false,
    };
    if !sealed {
        return (StatusCode::GATEWAY_TIMEOUT, None);
    }
    let mut receipts = Vec::with_capacity(accepted.len());
    for accepted in accepted {
        let Ok(mut receipt) = receipt_json(app, chain.clone(), accepted.index).await else {
            return (StatusCode::ACCEPTED, None);
        };
        if is_array && accepted.replayed {
            receipt.pop();
            receipt.extend_from_slice(b",\"replayed\":true}");
        }
        receipts.push(receipt);
    }
    (StatusCode::CREATED, Some(list(receipts, is_array)))
}

pub(super) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

pub(super) fn text_header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("names and numbers are visible ASCII")
}

/// The tag of a chain's state as an `ETag`.
pub(super) fn tag_header(tag: Tag) -> HeaderValue {
    text_header(format!("\"{tag}\""))
}

/// One JSON value, or an array of them.
fn list(mut values: Vec<Vec<u8>>, is_array: bool) -> Vec<u8> {
    if is_array {
        let mut out = vec![b'['];
        out.extend(values.join(&b','));
        out.push(b']');
        out
    } else {
        values.swap_remove(0)
    }
}

/// All transactions of a body, checked by the chain's rules.
fn submissions(
    node: &Node,
    chain: &ChainHandle,
    value: Value,
    headers: &HeaderMap,
) -> Result<Vec<Submission>, Problem> {
    let key = idempotency_key(headers)?;
    match value {
        Value::Array(values) if key.is_some() && values.len() != 1 => {
            Err(Problem::bad_request("Idempotency-Key names one transaction: in an array give each its own \"id\""))
        }
        Value::Array(values) if values.is_empty() => {
            Err(vec![Fault { pointer: String::new(), detail: "an array holds at least one transaction".into() }].into())
        }
        Value::Array(values) if values.len() > limits::ARRAY_TRANSACTIONS => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "an array holds at most {} transactions: send more as a stream of lines",
                limits::ARRAY_TRANSACTIONS
            ),
        )),
        Value::Array(values) => {
            let submissions = values.into_iter().enumerate();
            submissions
                .map(|(at, value)| {
                    submission(node, chain, value, key.clone()).map_err(|problem| problem.within(&format!("/{at}")))
                })
                .collect()
        }
        value => Ok(vec![submission(node, chain, value, key)?]),
    }
}

fn submission(node: &Node, chain: &ChainHandle, value: Value, key: Option<Id>) -> Result<Submission, Problem> {
    let Value::Object(mut fields) = value else {
        let detail = "a transaction to add is an object {\"data\": …}".into();
        return Err(vec![Fault { pointer: String::new(), detail }].into());
    };
    let data = take_field(&mut fields, "data")?;
    let id = take_id(&mut fields, key)?;
    let signed = take_signature(&mut fields)?;
    refuse_more(&fields, "a transaction to add has data, id, signer and signature")?;
    if json::depth(&data) > limits::DATA_DEPTH {
        let detail = format!("is nested more than {} deep", limits::DATA_DEPTH);
        return Err(Problem { status: StatusCode::BAD_REQUEST, ..vec![Fault::of("data", detail)].into() });
    }
    let submission = Submission { data: json::canonical(&data), id, signed };
    match chain.rules().check(chain.id, &submission, &data) {
        // It is answered with the first.
        Err(_) if submission.id.is_some() && beside(true, || node.has_accepted(chain, &submission))? => Ok(submission),
        checked => Ok(checked.map(|()| submission)?),
    }
}

fn take_id(fields: &mut Map<String, Value>, key: Option<Id>) -> Result<Option<Id>, Problem> {
    let id = match fields.remove("id") {
        None => return Ok(key),
        Some(Value::String(id)) => id.parse::<Id>().map_err(|error| vec![Fault::of("id", error)])?,
        Some(_) => return Err(vec![Fault::of("id", "must be a string")].into()),
    };
    if key.is_some_and(|key| key != id) {
        return Err(vec![Fault::of("id", "differs from the header Idempotency-Key")].into());
    }
    Ok(Some(id))
}

/// What became of a stream of lines.
#[derive(Default, Serialize, utoipa::ToSchema)]
pub struct Summary {
    /// Lines that are on disk now, and were not before.
    accepted: u64,
    /// Lines that repeat what was accepted before.
    replayed: u64,
    /// Lines that are not.
    refused: u64,
    /// The first index of a line that was accepted, now or before; null where none was.
    #[schema(required = true)]
    first: Option<u64>,
    /// The last index of a line that was accepted, now or before; null where none was.
    #[schema(required = true)]
    last: Option<u64>,
    /// The first refused lines.
    #[schema(max_items = 100)]
    errors: Vec<LineError>,
}

/// A line that was refused.
#[derive(Serialize, utoipa::ToSchema)]
pub struct LineError {
    /// Counted from 1.
    line: u64,
    /// The HTTP status that it would have got alone.
    status: u16,
    /// What is wrong with it.
    detail: String,
}

async fn inject_lines(
    app: &App,
    chain: Arc<ChainHandle>,
    wait: Option<Duration>,
    parts: &Parts,
    mut body: Body,
) -> Result<Response, Problem> {
    if wait.is_some() {
        return Err(Problem::bad_request("wait=leap is for one transaction or an array, not for a stream of lines"));
    }
    for name in [header::IF_MATCH, header::IF_NONE_MATCH, IDEMPOTENCY_KEY] {
        if parts.headers.contains_key(&name) {
            return Err(Problem::bad_request(format!(
                "{name} is for one transaction or an array, not for a stream of lines"
            )));
        }
    }
    let mut stream = Stream::new(app, Rooms::of(app, &parts.extensions), chain);
    let mut lines = Lines::default();
    let ended = loop {
        // What has come is committed before more is waited for.
        let data = match next_data(&mut body).now_or_never() {
            Some(data) => data,
            None => {
                stream.flush().await;
                next_data(&mut body).await
            }
        };
        match data {
            Ok(Some(data)) => lines.feed(&data, &mut stream).await,
            Ok(None) => break Ok(()),
            Err(problem) => break Err(problem),
        }
    };
    if ended.is_ok() {
        lines.end(&mut stream).await;
    }
    stream.finish().await;
    if let Err(problem) = ended {
        let Summary { accepted, replayed, refused, .. } = stream.summary;
        let detail = format!(
            "{}; before that {accepted} lines were accepted, {replayed} had been before, and {refused} were refused",
            problem.detail
        );
        return Err(Problem { detail, ..problem });
    }
    Ok(stream.answer())
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Default)]
struct Lines {
    /// The start of a line whose end has not come yet.
    started: Vec<u8>,
    room: Option<Room>,
    /// Why the line is refused already. The rest of it is passed over.
    refused: Option<Problem>,
}

impl Lines {
    async fn feed(&mut self, data: &Bytes, stream: &mut Stream<'_>) {
        let mut rest = &data[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, behind) = (&rest[..end], &rest[end + 1..]);
            if self.started.is_empty() && self.refused.is_none() {
                stream.line(line, None).await;
            } else {
                self.keep(&stream.rooms, line);
                self.end(stream).await;
            }
            rest = behind;
        }
        self.keep(&stream.rooms, rest);
    }

    fn keep(&mut self, rooms: &Rooms, part: &[u8]) {
        if self.refused.is_some() || part.is_empty() {
            return;
        }
        if self.started.len() + part.len() > limits::BODY_BYTES {
            let detail = format!("a line has at most {} bytes", limits::BODY_BYTES);
            self.refused = Some(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        } else {
            match rooms.take(part.len()) {
                Ok(room) => {
                    self.started.extend_from_slice(part);
                    match &mut self.room {
                        Some(whole) => whole.merge(room),
                        none => *none = Some(room),
                    }
                    return;
                }
                Err(problem) => self.refused = Some(problem),
            }
        }
        (self.started, self.room) = (Vec::new(), None);
    }

    async fn end(&mut self, stream: &mut Stream<'_>) {
        let Lines { started, refused, room } = std::mem::take(self);
        if let Some(problem) = refused {
            stream.number += 1;
            stream.refuse(stream.number, &problem);
        } else if !started.is_empty() {
            stream.line(&started, room).await;
        }
    }
}

type Placements = Pin<Box<dyn Future<Output = Result<Vec<Result<Placed, Refused>>, Refused>> + Send>>;

/// Waits for what others hold, too; where it does not come at once, behind what gives back what this one holds itself.
///
/// Symptom: streams to a node that does not lead stood still, and all bodies were answered `503`. Cause: each held memory for what it had
/// sent on, looked at no answer to that, and waited for more memory, or for one that waited for it.
async fn behind<T>(own: impl Future<Output = ()>, wait: impl Future<Output = T>) -> T {
    let mut wait = pin!(wait);
    match wait.as_mut().now_or_never() {
        Some(done) => done,
        None => {
            own.await;
            wait.await
        }
    }
}

/// Lines on their way to the writer.
struct Stream<'a> {
    app: &'a App,
    rooms: Arc<Rooms>,
    chain: Arc<ChainHandle>,
    /// Lines seen.
    number: u64,
    group: Group,
    /// Groups that were sent, in this order, and are not committed yet.
    sent: VecDeque<(Vec<u64>, Placements)>,
    summary: Summary,
    /// The status of the first refused line.
    first_refusal: Option<StatusCode>,
}

/// Lines that are sent together.
#[derive(Default)]
struct Group {
    numbers: Vec<u64>,
    submissions: Vec<Submission>,
    bytes: usize,
}

impl<'a> Stream<'a> {
    fn new(app: &'a App, rooms: Rooms, chain: Arc<ChainHandle>) -> Self {
        Stream {
            app,
            rooms: rooms.into(),
            chain,
            number: 0,
            group: Group::default(),
            sent: VecDeque::new(),
            summary: Summary::default(),
            first_refusal: None,
        }
    }

    /// Takes a line, and gives back what it took up.
    async fn line(&mut self, line: &[u8], room: Option<Room>) {
        // Many lines come at once, and none is waited for.
        consume_budget().await;
        self.number += 1;
        if line.trim_ascii().is_empty() {
            return;
        }
        let turn = self.rooms.turn(line).await;
        let (node, chain) = (self.app.0.node.clone(), self.chain.clone());
        let parse = move |line: &[u8]| submission(&node, &chain, json::parse(line).map_err(Problem::of_line)?, None);
        let submission = match turn {
            None => parse(line),
            turn => {
                let line = line.to_vec();
                aside(&self.app.0.node, turn, move || parse(&line)).await
            }
        };
        // Who waits for room must hold none.
        drop(room);
        match submission {
            Err(problem) => self.refuse(self.number, &problem),
            Ok(submission) => {
                self.group.bytes += line.len();
                self.group.numbers.push(self.number);
                self.group.submissions.push(submission);
                if self.group.numbers.len() >= limits::STREAM_LINES || self.group.bytes >= limits::STREAM_BYTES {
                    self.flush().await;
                }
            }
        }
    }

    fn refuse(&mut self, line: u64, problem: &Problem) {
        self.summary.refused += 1;
        self.first_refusal.get_or_insert(problem.status);
        // What the writer refuses is known later than what is no JSON, so an earlier line may come behind a later one.
        let errors = &mut self.summary.errors;
        let place = errors.partition_point(|error| error.line < line);
        if place < limits::STREAM_ERRORS {
            let (status, detail) = (problem.status.as_u16(), problem.with_places());
            errors.insert(place, LineError { line, status, detail });
            errors.truncate(limits::STREAM_ERRORS);
        }
    }

    /// Sends the lines that have come to the writer, and waits where too many groups are on their way.
    async fn flush(&mut self) {
        let Group { numbers, submissions, bytes } = std::mem::take(&mut self.group);
        if numbers.is_empty() {
            return;
        }
        let (rooms, room) = (self.rooms.clone(), self.app.0.room.clone());
        let reserve = async move {
            let bytes = bytes.min(limits::BODIES_BYTES);
            let _next = rooms.to_be_next().await;
            let memory = room.acquire_many_owned(bytes as u32).await;
            let memory = Some(memory.expect("the room for bodies is never closed"));
            // In this order, as whole bodies have their memory first, too.
            Reserved { memory, waiting: rooms.to_write(bytes).await }
        };
        let reserved = behind(self.settle_all(), reserve).await;
        let node = &self.app.0.node;
        let transactions = beside(bytes >= limits::CHECK_AT_ONCE, || node.record(&self.chain, submissions));
        match node.inject_each(&self.chain, transactions, reserved).await {
            Ok(placements) => self.sent.push_back((numbers, Box::pin(placements))),
            Err(refused) => self.refuse_all(&numbers, refused),
        }
        if self.sent.len() > limits::STREAM_AHEAD {
            self.settle().await;
        }
    }

    fn refuse_all(&mut self, lines: &[u64], refused: Refused) {
        let problem = refused.into();
        for &line in lines {
            self.refuse(line, &problem);
        }
    }

    /// Waits for the oldest group that was sent.
    async fn settle(&mut self) {
        let Some((numbers, placements)) = self.sent.pop_front() else { return };
        let placements = match placements.await {
            Ok(placements) => placements,
            Err(refused) => return self.refuse_all(&numbers, refused),
        };
        for (&line, placed) in numbers.iter().zip(placements) {
            match placed {
                Ok(Placed { index, replayed, .. }) => {
                    *if replayed { &mut self.summary.replayed } else { &mut self.summary.accepted } += 1;
                    let (index, Summary { first, last, .. }) = (index.get(), &mut self.summary);
                    *first = Some(first.map_or(index, |first| index.min(first)));
                    *last = Some(last.map_or(index, |last| index.max(last)));
                }
                Err(refused) => self.refuse(line, &refused.into()),
            }
        }
    }

    async fn settle_all(&mut self) {
        while !self.sent.is_empty() {
            self.settle().await;
        }
    }

    async fn finish(&mut self) {
        self.flush().await;
        self.settle_all().await;
    }

    fn answer(self) -> Response {
        let has_none = self.summary.accepted + self.summary.replayed == 0;
        let none_for_overload = self
            .first_refusal
            .filter(|status| has_none && (status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS));
        let status = match none_for_overload {
            Some(status) => status,
            None if has_none && self.summary.refused > 0 => StatusCode::UNPROCESSABLE_ENTITY,
            None => StatusCode::ACCEPTED,
        };
        let mut response = (status, axum::Json(&self.summary)).into_response();
        if status == StatusCode::ACCEPTED {
            // What is sent again may have been followed by much else.
            let last = self.summary.last.filter(|_| self.summary.replayed == 0);
            let tag = last.map_or_else(|| self.chain.head().tag(), |last| Tag::of_size(Index::new(last).size()));
            response.headers_mut().insert(header::ETAG, tag_header(tag));
        }
        if none_for_overload.is_some() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn who_waits_for_room_gives_back_first_what_it_holds_itself() {
        let room = Arc::new(Semaphore::new(2));
        let take = |places| room.clone().acquire_many_owned(places);
        let held = take(1).now_or_never().expect("there is room");
        let mut own = pin!(async move { drop(held) });
        let taken = behind(async { panic!("it looks at nothing where there is room") }, take(1)).now_or_never();
        drop(taken.expect("there is room"));
        assert!(behind(own.as_mut(), take(2)).now_or_never().is_some());
    }
}
