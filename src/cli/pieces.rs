//! Long inputs in pieces: cut where one text ends and the next begins, worked on by all cores, and taken in their order.

use std::{
    collections::VecDeque,
    io::{BufRead, Read},
    num::NonZero,
    sync::{
        Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use anyhow::ensure;

use crate::{core::elements, limits};

/// Some texts that follow each other.
#[derive(Default)]
pub struct Piece {
    bytes: Vec<u8>,
    /// Where each text ends.
    ends: Vec<usize>,
}

impl Piece {
    /// The texts in their order.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    /// How many texts there are.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= limits::CHUNK_BYTES
    }

    /// Ends the text whose bytes were added last.
    fn end_text(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Takes texts that another has between separators, but for a separator at the end.
    pub fn split(bytes: Vec<u8>, separator: u8) -> Piece {
        let separators = bytes.iter().enumerate().filter(|(_, byte)| **byte == separator).map(|(at, _)| at + 1);
        let mut ends: Vec<usize> = separators.collect();
        if ends.last().copied().unwrap_or(0) < bytes.len() {
            ends.push(bytes.len());
        }
        Piece { bytes, ends }
    }
}

/// Reads the next lines, each with its end. An empty piece is the end of the input. A line that is longer than any of a node is
/// cut, so that it cannot be read as what it says to be.
///
/// # Errors
/// The input cannot be read.
pub fn next_lines(input: &mut impl BufRead) -> anyhow::Result<Piece> {
    let mut piece = Piece::default();
    while !piece.is_full() {
        if input.take(limits::BODY_BYTES as u64).read_until(b'\n', &mut piece.bytes)? == 0 {
            break;
        }
        piece.end_text();
    }
    Ok(piece)
}

/// The elements of one JSON array.
pub struct Elements<R> {
    input: R,
    elements: elements::Elements,
}

impl<R: BufRead> Elements<R> {
    /// Of the array that the input starts with.
    pub fn new(input: R) -> Self {
        Elements { input, elements: elements::Elements::default() }
    }

    /// Reads the next elements. An empty piece is the end of the input.
    ///
    /// # Errors
    /// It is no array, ends too early, or an element is longer than any that a node has.
    pub fn next_piece(&mut self) -> anyhow::Result<Piece> {
        let (mut piece, mut is_done) = (Piece::default(), false);
        while !is_done {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                ensure!(self.elements.is_complete(), "the JSON is cut short");
                break;
            }
            let mut used = 0;
            while used < buffer.len() && !is_done {
                let part = self.elements.next(&buffer[used..])?;
                piece.bytes.extend_from_slice(&buffer[used..][part.element]);
                used += part.used;
                if part.is_end {
                    piece.end_text();
                    is_done = piece.is_full();
                }
            }
            self.input.consume(used);
            let open = piece.bytes.len() - piece.ends.last().copied().unwrap_or(0);
            ensure!(open <= limits::BODY_BYTES, "an element of the array is longer than any that a node has");
        }
        Ok(piece)
    }
}

/// Does work on all cores, a bounded number of pieces at a time, and takes the results in the order of the pieces.
///
/// # Errors
/// The first of `next` or `take` in that order: of what stands behind it nothing is taken.
pub fn in_order<T: Send, U: Send>(
    mut next: impl FnMut() -> anyhow::Result<Option<T>>,
    work: impl Fn(T) -> U + Sync,
    mut take: impl FnMut(U) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let (jobs, queue) = sync_channel::<(T, SyncSender<U>)>(2 * workers);
    let queue = Mutex::new(queue);
    let (queue, work) = (&queue, &work);
    thread::scope(|scope| {
        // It ends with this closure, and with it the workers.
        let jobs = jobs;
        for _ in 0..workers {
            scope.spawn(move || serve(queue, work));
        }
        let (mut waiting, mut ended) = (VecDeque::new(), None);
        loop {
            while ended.is_none() && waiting.len() < 2 * workers {
                match next() {
                    Ok(Some(piece)) => {
                        let (done, result) = sync_channel(1);
                        jobs.send((piece, done)).expect("the workers wait for jobs until all are sent");
                        waiting.push_back(result);
                    }
                    Ok(None) => ended = Some(Ok(())),
                    Err(error) => ended = Some(Err(error)),
                }
            }
            match waiting.pop_front() {
                Some(result) => take(result.recv().expect("a worker does not panic"))?,
                None => return ended.expect("it is read until it ends"),
            }
        }
    })
}

fn serve<T, U>(queue: &Mutex<Receiver<(T, SyncSender<U>)>>, work: &impl Fn(T) -> U) {
    loop {
        let job = queue.lock().expect("no holder of this lock panics").recv();
        let Ok((piece, done)) = job else { return };
        // Nobody waits for it any more where an earlier one was at fault.
        let _ = done.send(work(piece));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use anyhow::bail;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// All elements, read through a buffer of so many bytes.
    fn elements(text: &str, buffer: usize) -> anyhow::Result<Vec<String>> {
        let mut elements = Elements::new(BufReader::with_capacity(buffer, Cursor::new(text)));
        let mut all = Vec::new();
        loop {
            let piece = elements.next_piece()?;
            if piece.count() == 0 {
                return Ok(all);
            }
            all.extend(piece.texts().map(|text| String::from_utf8_lossy(text).into_owned()));
        }
    }

    #[test]
    fn an_array_is_cut_between_its_elements() {
        for buffer in [1, 2, 7, 1000] {
            let text = " [ {\"a\":[1,\"]\"],\"b\\\"\":\"\\\\\"}, \"x,]\\\"\" ,[[],{}],1] \n";
            let found = elements(text, buffer).unwrap();
            assert_eq!(found, ["{\"a\":[1,\"]\"],\"b\\\"\":\"\\\\\"}", " \"x,]\\\"\" ", "[[],{}]", "1"], "{buffer}");
            for empty in ["[]", " [ ] "] {
                assert!(elements(empty, buffer).unwrap().is_empty());
            }
            assert_eq!(
                elements("[,1,]", buffer).unwrap(),
                ["", "1", ""],
                "what is no element is for its reader to refuse"
            );
            for bad in ["", "{}", "[", "[1", "[\"]", "[1]1", "[1}]", "[[1]", "x"] {
                assert!(elements(bad, buffer).is_err(), "{bad}");
            }
        }
    }

    proptest! {
        #[test]
        fn elements_are_those_of_another_parser(texts in prop::collection::vec("[\\[\\]{},\"\\\\a ]{0,6}", 0..5), buffer in 1..9usize) {
            let array = serde_json::to_string(&texts).unwrap();
            let found = elements(&array, buffer).unwrap();
            let read: Vec<Value> = found.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!(serde_json::to_value(texts).unwrap(), Value::Array(read));
        }
    }

    #[test]
    fn lines_are_bounded_and_in_their_order() {
        let text = format!("a\n\n{}\nlast", "x".repeat(limits::CHUNK_BYTES));
        let mut input = Cursor::new(&text);
        let mut lines = Vec::new();
        loop {
            let piece = next_lines(&mut input).unwrap();
            if piece.count() == 0 {
                break;
            }
            lines.extend(piece.texts().map(<[u8]>::to_vec));
        }
        assert_eq!(lines.concat(), text.as_bytes());
        assert_eq!(lines.len(), 4);
        let mut long = Cursor::new(vec![b'x'; limits::BODY_BYTES + 5]);
        let piece = next_lines(&mut long).unwrap();
        assert_eq!(piece.texts().next().unwrap().len(), limits::BODY_BYTES);
    }

    #[test]
    fn results_come_in_order_and_the_first_fault_ends_it() {
        let run = |fails_at: u32, ends_at: u32| {
            let (mut next, mut taken) = (0, Vec::new());
            let done = in_order(
                || {
                    next += 1;
                    if next > ends_at {
                        bail!("the input ends");
                    }
                    Ok((next <= 500).then_some(next))
                },
                |number| {
                    // Later ones are often done earlier.
                    thread::sleep(std::time::Duration::from_micros(u64::from(number % 3) * 50));
                    number
                },
                |number| {
                    taken.push(number);
                    if number == fails_at { bail!("{number} is at fault") } else { Ok(()) }
                },
            );
            (taken, done.map_err(|error| error.to_string()))
        };
        assert_eq!(run(501, 501), ((1..=500).collect(), Ok(())));
        assert_eq!(run(77, 78), ((1..=77).collect(), Err("77 is at fault".into())));
        assert_eq!(run(501, 90), ((1..=90).collect(), Err("the input ends".into())));
    }
}
