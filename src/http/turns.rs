//! Turns of heavy work: reads of the store for answers, large bodies that are parsed, imports that are verified.
//!
//! The processors do some of it at one time, and each client has a queue of its own for its part of that. So what one client asks for,
//! however much it is, keeps another one waiting for no longer than a few pieces take.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::Client;
use crate::{access, limits};

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
        let client = [of(address.map(|usage| &usage.turns)).await, of(token.map(|usage| &usage.turns)).await];
        let node = of(Some(&self.all)).await.expect("it was named");
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

async fn of(semaphore: Option<&Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    match semaphore {
        None => None,
        Some(semaphore) => Some(semaphore.clone().acquire_owned().await.expect("it is never closed")),
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
