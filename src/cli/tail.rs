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
        ended = follow(node, args) => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        // A chain where nothing happens would show it to no write.
        () = reader_gone() => Ok(()),
    }
}

async fn follow(node: &Connection, args: TailArgs) -> anyhow::Result<()> {
    let mut url = node.chain_url(&["events"]);
    if let Some(from) = args.from {
        url.query_pairs_mut().append_pair("from", &from.to_string());
    }
    let mut response = node.send(node.get(url)).await?;
    let mut events = Events::new(args.quants);
    loop {
        ensure!(
            response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "text/event-stream"),
            "the answer is not that of a QBC node"
        );
        let lost = copy(response, &mut events).await?;
        node.note("note", &format!("the connection is lost ({lost}): connecting again"));
        response = connect_again(node, &events.id).await?;
        node.note("note", "connected again");
    }
}

/// Prints what comes, and tells why no more does. An error is one that a new connection would not cure.
async fn copy(mut response: Response, events: &mut Events) -> anyhow::Result<String> {
    let mut out = JsonOutput::lines();
    loop {
        let Ok(chunk) = timeout(SILENCE, response.chunk()).await else {
            return Ok(format!("nothing came for {SILENCE:?}"));
        };
        match chunk {
            Ok(Some(chunk)) => out.write(&events.take(&chunk)?)?,
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
struct Events {
    quants: bool,
    /// Of the last event that was whole.
    id: String,
    /// Of the event that is coming.
    next_id: String,
    kind: String,
    data: Vec<u8>,
    line: Vec<u8>,
}

impl Events {
    fn new(quants: bool) -> Events {
        let (id, next_id, kind) = Default::default();
        Events { quants, id, next_id, kind, data: Vec::new(), line: Vec::new() }
    }

    /// The lines to print.
    fn take(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut out = Vec::new();
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            ensure!(self.line.len() + self.data.len() <= MAX_EVENT, "the node sends an event that no chain can have");
            if self.line.ends_with(b"\n") {
                let line = mem::take(&mut self.line);
                self.take_line(line.trim_ascii_end(), &mut out)?;
            }
        }
        Ok(out)
    }

    /// A field, or the empty line behind an event.
    fn take_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
        if line.is_empty() {
            self.id.clone_from(&self.next_id);
            let (kind, data) = (mem::take(&mut self.kind), mem::take(&mut self.data));
            if kind == "transaction" || (kind == "quant" && self.quants) {
                out.extend_from_slice(&data);
                out.push(b'\n');
            }
            return Ok(());
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 1000\nid: 2.1\n\n: beat\n\nid: 3.1\nevent: transaction\ndata: {\"a\":\"b: c\"}\n\n\
        id: 3.2\r\nevent: quant\r\ndata:{\"root\":1}\r\n\r\nid: 4.2\nevent: other\ndata: x\n\nid: 5.2\nevent: transaction\n";

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        for (quants, expected) in [(false, "{\"a\":\"b: c\"}\n"), (true, "{\"a\":\"b: c\"}\n{\"root\":1}\n")] {
            for at in 0..STREAM.len() {
                let mut events = Events::new(quants);
                let (start, rest) = STREAM.as_bytes().split_at(at);
                let printed = [events.take(start).unwrap(), events.take(rest).unwrap()].concat();
                assert_eq!(String::from_utf8(printed).unwrap(), expected, "cut at {at}");
                assert_eq!(events.id, "4.2", "the id of an event that is not whole does not count");
            }
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut events = Events::new(false);
        let chunk = vec![b'x'; MAX_EVENT / 2];
        assert!(events.take(&chunk).is_ok() && events.take(&chunk).is_ok());
        assert!(events.take(b"x").is_err());
    }
}
