//! What answers take up that their clients have not taken yet: no more than is bounded, whatever is asked for and not read.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::Response,
};
use futures_util::FutureExt;
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    access::{Client, Holds, Share},
    problem::Problem,
    turns::{Turn, Turns},
};
use crate::{access::Resource, limits};

/// Where answers get room.
pub struct Answers {
    room: Arc<Semaphore>,
    /// Answers that may still be compressed.
    encoders: Arc<Semaphore>,
    share: Share,
}

/// The room of one answer, until the last of it is sent.
struct Room {
    _node: OwnedSemaphorePermit,
    _client: Holds,
}

impl Answers {
    pub fn new(share: Share) -> Answers {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Answers { room: semaphore(limits::ANSWERS_BYTES), encoders: semaphore(limits::ENCODERS), share }
    }

    /// Gives an answer room until it is sent, and a stream turns for what it reads.
    ///
    /// # Errors
    /// `503` where other answers take up all of it, `429` where those of the same client do.
    pub fn admit(&self, response: Response, client: &Client, turns: &Turns) -> Result<Response, Problem> {
        let whole = http_body::Body::size_hint(response.body()).exact();
        let bytes = match whole {
            // It has bounds of its own.
            _ if is_endless(&response) => return Ok(response),
            Some(bytes) if bytes <= limits::ANSWER_UNCOUNTED as u64 => return Ok(response),
            Some(bytes) => usize::try_from(bytes).expect("it is in memory"),
            None => limits::ANSWER_STREAMED,
        };
        let too_many = || Problem::overloaded("too many answers wait to be taken: send again later");
        let permits = u32::try_from(bytes).map_err(|_| too_many())?;
        let client_room = client.hold(Resource::AnswerBytes, bytes, self.share.of(limits::ANSWERS_BYTES))?;
        let node = self.room.clone().try_acquire_many_owned(permits).map_err(|_| too_many())?;
        let room = Arc::new(Room { _node: node, _client: client_room });
        let turns = whole.is_none().then(|| (client.clone(), turns.clone()));
        Ok(response.map(|body| Body::new(Admitted { body, room, turns, waiting: None })))
    }

    /// A place among the answers that are compressed at one time; nothing where there is none.
    pub fn encoder(&self) -> Option<OwnedSemaphorePermit> {
        self.encoders.clone().try_acquire_owned().ok()
    }
}

/// Whether an answer is a stream of events.
pub fn is_endless(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "text/event-stream")
}

/// A body each piece of which holds its room until it is sent.
struct Admitted {
    body: Body,
    room: Arc<Room>,
    /// Where each piece is read when it is asked for: whose turn that takes.
    turns: Option<(Client, Turns)>,
    waiting: Option<Waiting>,
}

/// The turn in which a piece is read.
enum Waiting {
    For(Pin<Box<dyn Future<Output = Turn> + Send>>),
    Done(#[expect(dead_code, reason = "it is held")] Turn),
}

struct Held {
    bytes: Bytes,
    _room: Arc<Room>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Admitted {
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((client, turns)) = &self.turns else { return Poll::Ready(()) };
        let waiting = self.waiting.get_or_insert_with(|| {
            let (client, turns) = (client.clone(), turns.clone());
            Waiting::For(Box::pin(async move { turns.to_read(&client).await }))
        });
        if let Waiting::For(turn) = waiting {
            match turn.poll_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(turn) => *waiting = Waiting::Done(turn),
            }
        }
        Poll::Ready(())
    }
}

impl http_body::Body for Admitted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.poll_turn(cx).is_pending() {
            return Poll::Pending;
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return Poll::Pending };
        self.waiting = None;
        let held = |bytes| Bytes::from_owner(Held { bytes, _room: self.room.clone() });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that holds something until it is dropped.
pub fn holding<T: Send + Unpin + 'static>(body: Body, held: T) -> Body {
    Body::new(Holding { body, _held: held })
}

struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;

    /// Symptom: 20 connections of HTTP/2 whose clients opened no window made a node hold 4 GiB of answers. Cause: nothing bounded what
    /// was answered and not taken. Cure: answers hold room until the last of them is sent.
    #[tokio::test]
    async fn answers_that_are_not_taken_are_bounded() {
        const MIB: usize = 1 << 20;
        let (answers, turns) = (Answers::new(Share::default()), Turns::new());
        let large = || Response::new(Body::from(vec![b'x'; MIB]));
        let (one, other) = (Client::one_of_many(), Client::one_of_many());
        let fill = |client: &Client| {
            let mut held = Vec::new();
            loop {
                match answers.admit(large(), client, &turns) {
                    Ok(response) => held.push(response),
                    Err(problem) => return (held, problem.status),
                }
            }
        };
        let (mut held, status) = fill(&one);
        let share = Share::default().of(limits::ANSWERS_BYTES) / MIB;
        assert_eq!((held.len(), status), (share, StatusCode::TOO_MANY_REQUESTS));
        let (others, status) = fill(&other);
        let rest = limits::ANSWERS_BYTES / MIB - share;
        assert_eq!((others.len(), status), (rest, StatusCode::SERVICE_UNAVAILABLE));
        assert!(answers.admit(Response::new(Body::from("small")), &one, &turns).is_ok());
        // What was handed over and is not sent yet counts still, though the body has ended.
        let mut body = held.pop().expect("there are some").into_body();
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(body.frame().await.is_none());
        drop(body);
        assert!(answers.admit(large(), &one, &turns).is_err());
        drop(piece);
        assert!(answers.admit(large(), &one, &turns).is_ok());
    }

    #[tokio::test]
    async fn a_piece_of_a_stream_is_read_in_turn() {
        let (answers, turns, client) = (Answers::new(Share::default()), Turns::new(), Client::one_of_many());
        let pieces = stream::iter([Ok::<_, axum::Error>(Bytes::from_static(b"a")), Ok(Bytes::from_static(b"b"))]);
        let response = answers.admit(Response::new(Body::from_stream(pieces)), &client, &turns).unwrap();
        let mut body = response.into_body();
        assert!(body.frame().now_or_never().is_some(), "there are turns");
        let mut taken = Vec::new();
        while let Some(turn) = turns.to_read(&client).now_or_never() {
            taken.push(turn);
        }
        assert!(body.frame().now_or_never().is_none(), "no turn is held between pieces, and none is left");
        taken.clear();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "b");
    }
}
