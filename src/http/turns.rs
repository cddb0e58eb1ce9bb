//! Turns of heavy work: reads of the store for answers, large bodies that are parsed, imports that are verified.
//!
//! The processors do some of it at one time, and each client has a queue of its own for its part of that. So what one client asks for,
//! however much it is, keeps another one waiting for no longer than a few pieces take.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::Client;
use crate::{
    access::{self, wait_for},
    limits,
};

/// What is taken in turns. A clone is another handle to the same.
#[derive(Clone)]
pub struct Turns {
    all: Arc<Semaphore>,
    /// KiB that parsed values may still take up.
    parsed: Arc<Semaphore>,
}

/// A turn, until it is dropped.
pub struct Turn {
    _client: [Option<OwnedSemaphorePermit>; 2],
    _node: OwnedSemaphorePermit,
    _parsed: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub fn new() -> Turns {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Turns { all: semaphore(access::TURNS[0]), parsed: semaphore(limits::PARSED_BYTES >> 10) }
    }

    /// Waits for the client's turn.
    pub async fn take(&self, client: &Client) -> Turn {
        let [address, token] = client.usages();
        // In this order always, so that nobody waits for somebody who waits.
        let client =
            [wait_for(address.map(|usage| &usage.turns)).await, wait_for(token.map(|usage| &usage.turns)).await];
        let node = wait_for(Some(&self.all)).await.expect("it is counted");
        Turn { _client: client, _node: node, _parsed: None }
    }

    /// The same to parse so many bytes, with the memory that the values of the largest text among them may take up. What is small takes
    /// none.
    pub async fn to_parse(&self, client: &Client, bytes: usize, largest: &[u8]) -> Option<Turn> {
        if bytes < limits::CHECK_AT_ONCE {
            return None;
        }
        let turn = self.take(client).await;
        let kib = (values_bytes(largest) >> 10).min(limits::PARSED_BYTES >> 10) as u32;
        let parsed = self.parsed.clone().acquire_many_owned(kib).await;
        Some(Turn { _parsed: Some(parsed.expect("it is never closed")), ..turn })
    }
}

/// How much memory the values of a JSON text may take up. What stands in its strings is taken for values too.
///
/// An object is a node of a B-tree with room for 11 fields, an array has room for 4 elements at least and, where it grows, for three
/// times what it has for a moment; texts and the canonical form are as long as they are.
fn values_bytes(text: &[u8]) -> usize {
    let count = |sign: u8| text.iter().filter(|&&byte| byte == sign).count();
    2 * text.len() + 720 * count(b'{') + 160 * count(b'[') + 96 * count(b',')
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Symptom: who asked for a little waited for all that others had asked for before. Cause: one queue for all reads of the store. Cure:
    /// each client has one, for its part of the turns.
    #[tokio::test]
    async fn one_client_leaves_turns_to_others() {
        let (turns, [one, other]) = (Turns::new(), [Client::alone(), Client::alone()]);
        let [all, of_one] = *access::TURNS;
        let mut held: Vec<Turn> = Vec::new();
        while let Some(turn) = turns.take(&one).now_or_never() {
            held.push(turn);
        }
        assert_eq!(held.len(), of_one);
        let mut waiting: Vec<_> = (0..1_000).map(|_| Box::pin(turns.take(&one))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let others: Vec<Turn> = (of_one..all).map(|_| turns.take(&other).now_or_never().expect("it is free")).collect();
        drop(others);
        held.pop();
        assert!(waiting[0].as_mut().now_or_never().is_some(), "who waits longest is next");
    }

    #[tokio::test]
    async fn what_would_take_up_too_much_memory_waits_for_what_is_parsed() {
        let (turns, client) = (Turns::new(), Client::alone());
        let objects = "{\"\":0},".repeat(1 << 20).into_bytes();
        let worst = turns
            .to_parse(&client, objects.len(), &objects)
            .now_or_never()
            .expect("one may always")
            .expect("it is large");
        let mut second = Box::pin(turns.to_parse(&client, objects.len(), &objects));
        assert!(second.as_mut().now_or_never().is_none());
        // Plain text is many of these.
        let text = vec![b'x'; 8 << 20];
        assert!(turns.to_parse(&client, 10, b"{\"data\":1}").now_or_never().expect("it is small").is_none());
        drop(worst);
        assert!(second.as_mut().now_or_never().is_some());
        let several: Vec<_> = (0..4).map(|_| turns.to_parse(&client, text.len(), &text).now_or_never()).collect();
        assert!(several.iter().all(|turn| matches!(turn, Some(Some(_)))));
    }
}
