//! The frames of HTTP/2 that a client sends beside its requests (RFC 9113 section 4.1, and 10.5 on what they can be misused for).

use std::time::Instant;

use crate::limits;

/// The bytes before the first frame (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

/// Counts the frames of one connection that carry nothing of a request, and neither end one nor make room for its answer: settings,
/// pings, pieces of headers. Each makes work, and a client needs few of them.
pub struct Frames {
    /// Bytes that come before the next head.
    skipped: usize,
    head: [u8; HEAD_BYTES],
    /// Bytes of the head that have come.
    filled: usize,
    /// Such frames that may still come.
    left: u32,
    /// When that was counted.
    since: Instant,
}

/// There were too many.
#[derive(Debug, thiserror::Error)]
#[error("the client sends more than {} frames of HTTP/2 that are of no request", limits::HTTP2_CONTROL[0])]
pub struct TooMany;

impl Frames {
    /// Of a connection on which nothing has come.
    pub fn new(now: Instant) -> Frames {
        let (head, left) = ([0; HEAD_BYTES], limits::HTTP2_CONTROL[0]);
        Frames { skipped: PREFACE_BYTES, head, filled: 0, left, since: now }
    }

    /// Looks at what came.
    ///
    /// # Errors
    /// There are more than a client needs.
    pub fn see(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), TooMany> {
        while !bytes.is_empty() {
            let skipped = self.skipped.min(bytes.len());
            self.skipped -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD_BYTES - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.skipped = u32::from_be_bytes([0, a, b, c]) as usize;
                self.count(kind, flags, now)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: u8, flags: u8, now: Instant) -> Result<(), TooMany> {
        match kind {
            // What is empty ends a request, or is of none.
            DATA if self.skipped > 0 || flags & END_STREAM != 0 => return Ok(()),
            HEADERS | RST_STREAM | WINDOW_UPDATE => return Ok(()),
            _ => {}
        }
        let [most, of_second] = limits::HTTP2_CONTROL;
        if self.left == 0 {
            self.left = ((now - self.since).as_secs_f64() * f64::from(of_second)).min(most.into()) as u32;
            self.since = now;
        }
        self.left = self.left.checked_sub(1).ok_or(TooMany)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SETTINGS: u8 = 4;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], &vec![0xff; payload]].concat()
    }

    #[test]
    fn frames_of_no_request_are_counted_however_they_are_cut() {
        let [most, of_second] = limits::HTTP2_CONTROL;
        let mut end = frame(DATA, 0);
        end[4] = END_STREAM;
        let requests =
            [frame(HEADERS, 50), frame(DATA, 70_000), end, frame(WINDOW_UPDATE, 4), frame(RST_STREAM, 4)].concat();
        for size in [1, 7, 9, 10, 4_096, 1 << 20] {
            let mut now = Instant::now();
            let mut frames = Frames::new(now);
            frames.see(&[b'P'; PREFACE_BYTES], now).unwrap();
            let mut all = frame(SETTINGS, 6).repeat(most as usize - 1);
            all.extend(requests.repeat(3));
            all.extend(frame(DATA, 0));
            all.chunks(size).for_each(|piece| frames.see(piece, now).unwrap());
            assert!(frames.see(&frame(SETTINGS, 0), now).is_err(), "in pieces of {size}");
            now += Duration::from_secs(1);
            (0..of_second).for_each(|_| frames.see(&frame(SETTINGS, 0), now).unwrap());
            assert!(frames.see(&frame(SETTINGS, 0), now).is_err());
            assert!(frames.see(&requests, now).is_ok());
        }
    }
}
