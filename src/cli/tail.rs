//! `qbc tail`: a chain as it grows, a line for each transaction, without end.
//!
//! It reads the node's events (WHATWG HTML, section 9.2) and resumes behind the last one that it printed, so that a lost
//! connection or a node that is started again neither loses nor repeats a line.

use std::{mem, time::Duration};

use anyhow::{anyhow, ensure};
use clap::Args;
use reqwest::{Response, StatusCode, header};
use tokio::time::{sleep, timeout};

use super::{
    connection::{Connection, problem},
    output::{JsonOutput, reader_gone},
    read::append,
};
use crate::limits;

/// The node sends something more often than this, if only a comment.
const SILENCE: Duration = Duration::from_secs(3 * limits::EVENTS_HEARTBEAT.as_secs());

/// Before the first attempt to connect again; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause between attempts to connect again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Bytes of one event: data in canonical form and what stands around it are smaller.
const MAX_EVENT: usize = 2 * limits::MAX_BYTES_LIMIT as usize;

/// What `qbc tail` takes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qbc tail                                 each new transaction as a line of JSON, until Ctrl-C
  qbc tail --from 0                        all of the chain, and then what is new
  qbc --chain orders tail | jq .data
  qbc tail --quants | jq 'select(.root)'   only the quants: they have a \"root\"

A lost connection is made again, and nothing is missing or printed twice.")]
pub struct TailArgs {
    /// Begin with this transaction, 0 being the first [default: only what is new]
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Print quants too, each behind the transactions that it seals
    #[arg(long)]
    quants: bool,
}

/// Prints a chain's transactions as they come, until it is interrupted or nobody reads them any more.
///
/// # Errors
/// The node cannot be reached in the beginning, or it says that the chain has no such place.
pub async fn run(node: &Connection, args: TailArgs) -> anyhow::Result<()> {
    tokio::select! {
        ended = print_all(node, args) => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        // A chain where nothing happens would show it to no write.
        () = reader_gone() => Ok(()),
    }
}

async fn print_all(node: &Connection, args: TailArgs) -> anyhow::Result<()> {
    let mut out = JsonOutput::lines();
    follow(node, args.from, async |heard| match heard {
        Heard::Events(events) => {
            let is_printed = |event: &&Event| event.kind == "transaction" || (event.kind == "quant" && args.quants);
            let lines = events.iter().filter(is_printed).flat_map(|event| [event.data.as_slice(), b"\n"]);
            out.write(&lines.collect::<Vec<_>>().concat())
        }
        Heard::Lost(reason) => {
            node.note("note", &format!("the connection is lost ({reason}): connecting again"));
            Ok(())
        }
        Heard::Connected => {
            node.note("note", "connected again");
            Ok(())
        }
    })
    .await
}

/// What is heard of a chain.
pub enum Heard {
    /// What has happened on it, in order.
    Events(Vec<Event>),
    /// That nothing more comes, and why. The connection is made again.
    Lost(String),
    /// That the connection is there again, and nothing was missed.
    Connected,
}

/// Something that has happened on a chain.
pub struct Event {
    /// `transaction`, `quant`, or what later versions of a node tell.
    pub kind: String,
    /// As JSON.
    pub data: Vec<u8>,
}

/// Follows a chain, from the transaction `from` on or from now on, across connections that are lost. It waits for the listener, which so
/// slows down what comes.
///
/// # Errors
/// The node cannot be reached in the beginning, or it says what no other attempt would cure; and those of the listener.
pub async fn follow(
    node: &Connection,
    from: Option<u64>,
    mut hear: impl AsyncFnMut(Heard) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut url = node.chain_url(&["events"]);
    append(&mut url, &[("from", from)]);
    let mut response = node.send(node.get(url)).await?;
    let mut events = Events::default();
    loop {
        ensure!(
            response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "text/event-stream"),
            "the answer is not that of a QBC node"
        );
        let lost = read(response, &mut events, &mut hear).await?;
        hear(Heard::Lost(lost)).await?;
        response = connect_again(node, &events.id).await?;
        hear(Heard::Connected).await?;
    }
}

/// Passes on what comes, and tells why no more does. An error is one that a new connection would not cure.
async fn read(
    mut response: Response,
    events: &mut Events,
    hear: &mut impl AsyncFnMut(Heard) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    loop {
        let Ok(chunk) = timeout(SILENCE, response.chunk()).await else {
            return Ok(format!("nothing came for {SILENCE:?}"));
        };
        match chunk {
            Ok(Some(chunk)) => hear(Heard::Events(events.take(&chunk)?)).await?,
            Ok(None) => return Ok("the node ended it".into()),
            Err(error) => return Ok(error.to_string()),
        }
    }
}

/// Tries until the node answers.
async fn connect_again(node: &Connection, id: &str) -> anyhow::Result<Response> {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(2 * pause);
        let request = node.get(node.chain_url(&["events"])).header("Last-Event-ID", id);
        match timeout(SILENCE, node.send_any(request)).await {
            Ok(Ok(response)) if response.status().is_success() => return Ok(response),
            Ok(Ok(response)) if !is_passing(response.status()) => return Err(problem(response).await),
            _ => {}
        }
    }
}

/// Whether the same request may be answered otherwise later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// Server-sent events, taken as they come, in pieces cut anywhere.
#[derive(Default)]
struct Events {
    /// Of the last event that was whole.
    id: String,
    /// Of the event that is coming.
    next_id: String,
    kind: String,
    data: Vec<u8>,
    line: Vec<u8>,
}

impl Events {
    /// The events that are whole now.
    fn take(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            ensure!(self.line.len() + self.data.len() <= MAX_EVENT, "the node sends an event that no chain can have");
            if self.line.ends_with(b"\n") {
                let line = mem::take(&mut self.line);
                events.extend(self.take_line(line.trim_ascii_end())?);
            }
        }
        Ok(events)
    }

    /// A field, or the empty line behind an event.
    fn take_line(&mut self, line: &[u8]) -> anyhow::Result<Option<Event>> {
        if line.is_empty() {
            self.id.clone_from(&self.next_id);
            let event = Event { kind: mem::take(&mut self.kind), data: mem::take(&mut self.data) };
            return Ok(Some(event).filter(|event| !event.kind.is_empty()));
        }
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || str::from_utf8(value).map_err(|_| anyhow!("the node sends events that are no UTF-8"));
        match &line[..colon] {
            b"id" => self.next_id = text()?.into(),
            b"event" => self.kind = text()?.into(),
            b"data" => self.data.extend_from_slice(text()?.as_bytes()),
            // A comment, or a field for others.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 1000\nid: 2.1\n\n: beat\n\nid: 3.1\nevent: transaction\ndata: {\"a\":\"b: c\"}\n\n\
        id: 3.2\r\nevent: quant\r\ndata:{\"root\":1}\r\n\r\nid: 4.2\nevent: other\ndata: x\n\nid: 5.2\nevent: transaction\n";

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        for at in 0..STREAM.len() {
            let mut events = Events::default();
            let (start, rest) = STREAM.as_bytes().split_at(at);
            let taken = [events.take(start).unwrap(), events.take(rest).unwrap()].into_iter().flatten();
            let taken: Vec<_> = taken.map(|event| (event.kind, String::from_utf8(event.data).unwrap())).collect();
            let expected = [("transaction", r#"{"a":"b: c"}"#), ("quant", r#"{"root":1}"#), ("other", "x")];
            assert_eq!(taken, expected.map(|(kind, data)| (kind.to_owned(), data.to_owned())), "cut at {at}");
            assert_eq!(events.id, "4.2", "the id of an event that is not whole does not count");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut events = Events::default();
        let chunk = vec![b'x'; MAX_EVENT / 2];
        assert!(events.take(&chunk).is_ok() && events.take(&chunk).is_ok());
        assert!(events.take(b"x").is_err());
    }
}
