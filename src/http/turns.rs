//! Turns of heavy work: reads of the store for answers, large bodies that are parsed, imports that are verified.
//!
//! The processors do some of it at one time, and each client has a queue of its own for its part of that. So what one client asks for,
//! however much it is, keeps another one waiting for no longer than a few pieces take.

use std::{
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::Either};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::coop,
};

use super::access::Client;
use crate::{
    access::{self, Usage, wait_for},
    limits,
    node::{Node, beside, is_large},
};

/// What is taken in turns. A clone is another handle to the same.
#[derive(Clone)]
pub struct Turns {
    reads: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
    /// KiB that parsed values may still take up.
    parsed: Arc<Semaphore>,
}

/// Places of a client, as an address and as the holder of a token, where they are counted.
pub type Places = [Option<OwnedSemaphorePermit>; 2];

/// A turn, until it is dropped.
pub struct Turn {
    _of_client: Places,
    _of_all: OwnedSemaphorePermit,
    _parsed: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub fn new() -> Turns {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let (reads, heavy) = (semaphore(access::TURNS.reads[0]), semaphore(access::TURNS.heavy[0]));
        Turns { reads, heavy, parsed: semaphore(limits::PARSED_BYTES >> 10) }
    }

    /// Waits for the client's turn to read the store.
    pub async fn to_read(&self, client: &Client) -> Turn {
        // Who is alone needs no turn of its own, but where it has to wait, whoever comes then must not wait for all of it.
        let at_once = client.is_alone().then(|| self.reads.clone().try_acquire_owned().ok()).flatten();
        match at_once {
            Some(of_all) => Turn { _of_client: Places::default(), _of_all: of_all, _parsed: None },
            // What is rarely awaited is boxed, as every request moves and stores the whole of its future.
            None => Box::pin(take(client, |usage| &usage.reads, &self.reads)).await,
        }
    }

    /// Waits until no more than its part of what the writers have before them is this client's, with `bytes` more. What is smaller than a
    /// few packets takes none.
    pub async fn to_write(&self, client: &Client, bytes: usize) -> Places {
        match bytes < limits::BODY_UNCOUNTED || client.is_alone() {
            true => Places::default(),
            false => {
                let kib = (bytes.min(limits::WRITES_AHEAD) >> 10) as u32;
                Box::pin(of_client(client, |usage| &usage.writes, kib)).await
            }
        }
    }

    /// Waits until no other stream of the client waits for memory, or for the writers with the memory that it has.
    pub async fn to_be_next(&self, client: &Client) -> Places {
        match client.is_alone() {
            true => Places::default(),
            false => of_client(client, |usage| &usage.next_lines, 1).await,
        }
    }

    /// The same to parse a text. What is small takes none.
    pub async fn to_parse(&self, client: &Client, text: &[u8]) -> Option<Turn> {
        if is_large(text) { Some(Box::pin(self.to_work(client, text)).await) } else { None }
    }

    /// The same for heavy work, with the memory that the values of the largest text in it may take up.
    pub async fn to_work(&self, client: &Client, largest: &[u8]) -> Turn {
        let turn = take(client, |usage| &usage.heavy, &self.heavy).await;
        let bytes = beside(is_large(largest), || values_bytes(largest));
        let kib = (bytes >> 10).min(limits::PARSED_BYTES >> 10) as u32;
        let parsed = self.parsed.clone().acquire_many_owned(kib).await;
        Turn { _parsed: Some(parsed.expect("it is never closed")), ..turn }
    }
}

/// Does what has a turn on threads that give way to all others, and ends the turn then, also where nobody waits any more; what needs none is
/// done at once.
pub fn aside<T: Send + 'static>(
    node: &Node,
    turn: Option<Turn>,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send {
    let Some(turn) = turn else { return Either::Left(ready(work())) };
    let work = move || {
        let done = work();
        drop(turn);
        done
    };
    Either::Right(node.aside(work).boxed())
}

/// Waits for the turn of a client.
async fn take(client: &Client, of: impl Fn(&Usage) -> &Arc<Semaphore>, all: &Arc<Semaphore>) -> Turn {
    let of_client = of_client(client, of, 1).await;
    let of_all = wait_for(Some(all), 1).await.expect("it is counted");
    Turn { _of_client: of_client, _of_all: of_all, _parsed: None }
}

/// Waits for so many places of a client.
async fn of_client(client: &Client, of: impl Fn(&Usage) -> &Arc<Semaphore>, places: u32) -> Places {
    let [address, token] = client.usages().map(|usage| usage.map(|usage| of(usage)));
    // In this order always, so that nobody waits for somebody who waits.
    [wait_for(address, places).await, wait_for(token, places).await]
}

/// Makes the task give way to others once it has done as much as `bytes` are of `at_once`, together with what it has done before.
pub fn take_steps(cx: &mut Context<'_>, bytes: usize, at_once: usize) {
    /// What tokio lets a task do before it gives way.
    const STEPS: usize = 128;
    for _ in 0..bytes * STEPS / at_once {
        // Where no step is left, what comes next waits.
        let Poll::Ready(step) = coop::poll_proceed(cx) else { break };
        step.made_progress();
    }
}

/// How much memory the values of a JSON text may take up. What stands in its strings is taken for values too.
///
/// An object is a node of a B-tree with room for 11 fields, an array has room for 4 elements at least and, where it grows, for three
/// times what it has for a moment; texts and the canonical form are as long as they are.
fn values_bytes(text: &[u8]) -> usize {
    let count = |sign| memchr::memchr_iter(sign, text).count();
    2 * text.len() + 720 * count(b'{') + 160 * count(b'[') + 96 * count(b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All turns to read that a client gets at once.
    fn reads(turns: &Turns, client: &Client) -> Vec<Turn> {
        std::iter::from_fn(|| turns.to_read(client).now_or_never()).collect()
    }

    /// Symptom: who asked for a little waited for all that others had asked for before. Cause: one queue for all reads of the store. Cure:
    /// each client has one, for its part of the turns.
    #[tokio::test]
    async fn one_client_leaves_turns_to_others() {
        let (turns, [one, other]) = (Turns::new(), [Client::one_of_many(), Client::one_of_many()]);
        let [all, of_one] = access::TURNS.reads;
        let mut held = reads(&turns, &one);
        assert_eq!(held.len(), of_one);
        let mut waiting: Vec<_> = (0..1_000).map(|_| Box::pin(turns.to_read(&one))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let others: Vec<Turn> =
            (of_one..all).map(|_| turns.to_read(&other).now_or_never().expect("it is free")).collect();
        drop(others);
        held.pop();
        assert!(waiting[0].as_mut().now_or_never().is_some(), "who waits longest is next");
    }

    /// Symptom: what one client read alone was slower by a tenth. Cause: turns that nobody else waited for. Cure: it takes what is free, and
    /// only where it has to wait it does so in its own queue, so that who comes then waits for little of it.
    #[tokio::test]
    async fn who_is_alone_takes_all_turns_but_waits_in_its_own_queue() {
        let (turns, alone, other) = (Turns::new(), Client::alone(), Client::one_of_many());
        let [all, of_one] = access::TURNS.reads;
        let mut held = reads(&turns, &alone);
        assert_eq!(held.len(), all);
        let mut waiting: Vec<_> = (0..1_000).map(|_| Box::pin(turns.to_read(&alone))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let mut next = Box::pin(turns.to_read(&other));
        assert!(next.as_mut().now_or_never().is_none());
        // Those of one client at most are before it.
        let (mut come, mut is_next) = (Vec::new(), false);
        while !is_next && held.pop().is_some() {
            waiting.retain_mut(|turn| match turn.as_mut().now_or_never() {
                Some(turn) => {
                    come.push(turn);
                    false
                }
                None => true,
            });
            is_next = next.as_mut().now_or_never().is_some();
        }
        assert!(is_next && come.len() <= of_one, "{} came before", come.len());
    }

    /// Symptom: who wrote a little waited for all large arrays that others had sent. Cause: the writers take what comes in order. Cure: of
    /// one client only little waits for them at one time.
    #[tokio::test]
    async fn little_of_one_client_waits_for_the_writers() {
        let (turns, [one, other]) = (Turns::new(), [Client::one_of_many(), Client::one_of_many()]);
        let large = turns.to_write(&one, 8 << 20).now_or_never().expect("one may always");
        let mut second = Box::pin(turns.to_write(&one, 8 << 20));
        let mut third = Box::pin(turns.to_write(&one, 5 << 10));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        for (client, bytes) in [(&one, 1_000), (&other, 8 << 20), (&Client::alone(), 8 << 20)] {
            assert!(turns.to_write(client, bytes).now_or_never().is_some(), "{bytes}");
        }
        drop(large);
        let second = second.as_mut().now_or_never().expect("it is next");
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.as_mut().now_or_never().is_some());
        let many: Vec<_> = (0..1_000).map_while(|_| turns.to_write(&one, 10 << 10).now_or_never()).collect();
        assert_eq!(many.len(), limits::WRITES_AHEAD / (10 << 10));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_would_take_up_too_much_memory_waits_for_what_is_parsed() {
        let (turns, [one, other]) = (Turns::new(), [Client::one_of_many(), Client::one_of_many()]);
        let objects = "{\"\":0},".repeat(1 << 20).into_bytes();
        let text = vec![b'x'; 8 << 20];
        let of_text = turns.to_parse(&one, &text).now_or_never().flatten().expect("there is room");
        let worst = turns.to_parse(&other, &objects).now_or_never().flatten();
        drop(worst.expect("there is room beside plain text"));
        drop(of_text);
        let worst = turns.to_parse(&one, &objects).now_or_never().flatten().expect("one may always");
        let mut second = Box::pin(turns.to_parse(&other, &objects));
        assert!(second.as_mut().now_or_never().is_none(), "both together are too much");
        assert!(turns.to_parse(&other, b"{\"data\":1}").now_or_never().expect("it is small").is_none());
        drop(worst);
        assert!(second.as_mut().now_or_never().flatten().is_some());
    }
}
