//! The hostile loads: what each does, on how many connections.

use std::{
    io,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use super::{
    CHAIN, LOAD,
    attacker::{Attacker, exchange, request, sip},
    http2,
};

/// One hostile load.
pub struct Load {
    pub name: &'static str,
    pub over_tls: bool,
    /// Connections in the long run, and in the short part.
    pub connections: [usize; 2],
    /// Whether it is measured only when nearly all of them are held.
    pub holds: bool,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    SlowHeads,
    LargeHeads,
    SlowBodies,
    /// Of what path, and in what coding.
    Unread(&'static str, &'static str),
    Connects,
    HandshakesStall,
    HandshakesGarbage,
    Handshakes,
    WrongTokens,
    Listeners,
    SlowListeners,
    ImportsValid,
    ImportsBroken,
    ImportsHuge,
    Body(Body),
    Injects,
    Forks,
    Bangs,
    Reads,
    Http2(http2::Abuse),
}

/// What a large body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Array,
    Text,
    Nested,
    Objects,
    Gzip,
    Zstd,
}

const fn held(name: &'static str, connections: [usize; 2], kind: Kind) -> Load {
    Load { name, over_tls: false, connections, holds: true, kind }
}

const fn flood(name: &'static str, connections: [usize; 2], kind: Kind) -> Load {
    Load { name, over_tls: false, connections, holds: false, kind }
}

const fn by_tls(load: Load) -> Load {
    Load { over_tls: true, ..load }
}

pub const LOADS: &[Load] = &[
    held("heads byte by byte", [10_000, 300], Kind::SlowHeads),
    by_tls(held("heads byte by byte, by TLS", [4_000, 50], Kind::SlowHeads)),
    held("large heads that do not end", [4_000, 50], Kind::LargeHeads),
    held("bodies byte by byte", [10_000, 300], Kind::SlowBodies),
    held("a transaction of 1 MiB, not read", [4_000, 50], Kind::Unread("/chains/load/transactions/1", "identity")),
    held("a chain, not read", [4_000, 50], Kind::Unread("/chains/load/chain", "identity")),
    held("a chain in br, not read", [1_000, 50], Kind::Unread("/chains/load/chain", "br")),
    held("listeners in zstd that read nothing", [1_000, 100], Kind::Unread("/chains/good/events?from=0", "zstd")),
    flood("connections", [64, 16], Kind::Connects),
    by_tls(held("handshakes that stall", [4_000, 100], Kind::HandshakesStall)),
    by_tls(flood("handshakes of garbage", [64, 16], Kind::HandshakesGarbage)),
    by_tls(flood("handshakes, each closed", [64, 16], Kind::Handshakes)),
    flood("wrong tokens", [64, 16], Kind::WrongTokens),
    held("listeners that read nothing", [10_000, 100], Kind::Listeners),
    held("listeners that read slowly", [4_000, 100], Kind::SlowListeners),
    flood("imports, valid", [64, 8], Kind::ImportsValid),
    flood("imports, broken", [64, 8], Kind::ImportsBroken),
    flood("imports, huge", [64, 8], Kind::ImportsHuge),
    flood("8 MiB: an array", [32, 2], Kind::Body(Body::Array)),
    flood("8 MiB: one string", [32, 2], Kind::Body(Body::Text)),
    flood("8 MiB: nested", [32, 2], Kind::Body(Body::Nested)),
    flood("8 MiB: objects", [32, 2], Kind::Body(Body::Objects)),
    flood("8 MiB of gzip", [32, 2], Kind::Body(Body::Gzip)),
    flood("8 MiB of zstd", [32, 2], Kind::Body(Body::Zstd)),
    flood("injects", [256, 16], Kind::Injects),
    flood("forks", [16, 4], Kind::Forks),
    flood("bangs", [16, 4], Kind::Bangs),
    flood("reads of proofs and chains", [64, 8], Kind::Reads),
    by_tls(flood("HTTP/2: rapid reset", [64, 8], Kind::Http2(http2::Abuse::RapidReset))),
    by_tls(flood("HTTP/2: CONTINUATION", [64, 8], Kind::Http2(http2::Abuse::Continuation))),
    by_tls(flood("HTTP/2: SETTINGS", [64, 8], Kind::Http2(http2::Abuse::Settings))),
    by_tls(flood("HTTP/2: PING", [64, 8], Kind::Http2(http2::Abuse::Ping))),
    by_tls(held("HTTP/2: bodies that nobody reads", [1_000, 20], Kind::Http2(http2::Abuse::UnreadBodies))),
    by_tls(held("HTTP/2: answers without a window", [1_000, 20], Kind::Http2(http2::Abuse::NoWindow))),
];

impl Load {
    /// Applies it until the attack is over.
    pub async fn apply(&self, attacker: &Arc<Attacker>) {
        let kind = self.kind;
        attacker
            .each(self.connections[attacker.scale as usize], move |attacker, number| one(kind, attacker, number))
            .await;
    }
}

async fn one(kind: Kind, attacker: Arc<Attacker>, number: usize) -> io::Result<()> {
    match kind {
        Kind::SlowHeads => {
            let mut stream = attacker.connect(number).await?;
            let _held = attacker.hold();
            stream.write_all(b"GET /stats HTTP/1.1\r\nHost: localhost\r\nX: ").await?;
            drip(&mut stream).await
        }
        Kind::LargeHeads => {
            let mut stream = attacker.connect(number).await?;
            let _held = attacker.hold();
            // As large as may be.
            let head: String = (0..90).map(|at| format!("X-{at}: {}\r\n", "x".repeat(1_000))).collect();
            stream.write_all(format!("GET /stats HTTP/1.1\r\nHost: localhost\r\n{head}X: ").as_bytes()).await?;
            drip(&mut stream).await
        }
        Kind::SlowBodies => {
            let mut stream = attacker.connect(number).await?;
            let _held = attacker.hold();
            let whole = request(
                "POST",
                &format!("/chains/{LOAD}/inject"),
                "Content-Type: application/json\r\n",
                &[b'1'; 1 << 10],
            );
            stream.write_all(&whole[..whole.len() - 1_000]).await?;
            drip(&mut stream).await
        }
        Kind::Unread(path, coding) => {
            let mut stream = attacker.connect(number).await?;
            let _held = attacker.hold();
            stream.write_all(&request("GET", path, &format!("Accept-Encoding: {coding}\r\n"), b"")).await?;
            attacker.did(1);
            // The node closes what takes nothing.
            sleep(Duration::from_secs(25)).await;
            Ok(())
        }
        Kind::Connects => {
            drop(attacker.tcp(number).await?);
            attacker.did(1);
            Ok(())
        }
        Kind::HandshakesStall => {
            let mut stream = attacker.tcp(number).await?;
            let _held = attacker.hold();
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await?;
            stream.read(&mut [0; 64]).await.map(|_| ())
        }
        Kind::HandshakesGarbage => {
            let mut stream = attacker.tcp(number).await?;
            stream.write_all(&[&[22, 3, 1, 1, 0][..], &[0xa5; 256]].concat()).await?;
            attacker.did(1);
            stream.read(&mut [0; 64]).await.map(|_| ())
        }
        Kind::Handshakes => {
            drop(attacker.connect(number).await?);
            attacker.did(1);
            Ok(())
        }
        Kind::WrongTokens => {
            let mut stream = attacker.connect(number).await?;
            let wrong = |at: u64| {
                let token = format!("qbc_{number}_{at}");
                format!(
                    "GET /chains/{CHAIN}/stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
                )
            };
            requests(&attacker, &mut stream, |at| wrong(at).into_bytes()).await
        }
        Kind::Listeners => {
            let mut stream = attacker.connect(number).await?;
            let _held = attacker.hold();
            let from = if number.is_multiple_of(2) { "?from=0" } else { "" };
            stream.write_all(&request("GET", &format!("/chains/{CHAIN}/events{from}"), "", b"")).await?;
            sleep(Duration::from_secs(600)).await;
            Ok(())
        }
        Kind::SlowListeners => {
            let mut stream = attacker.connect(number).await?;
            let _held = attacker.hold();
            stream.write_all(&request("GET", &format!("/chains/{LOAD}/events?from=0"), "", b"")).await?;
            sip(&mut stream, Duration::from_millis(500)).await
        }
        Kind::ImportsValid => import(&attacker, number, &attacker.export, &attacker.export_id).await,
        Kind::ImportsBroken => {
            let mut broken = attacker.export.clone();
            let at = broken.len() / 2;
            broken[at] ^= 1;
            // Each of another chain, so that none waits for the other.
            import(&attacker, number, &broken, &format!("{:064x}", rand::random::<u64>())).await
        }
        Kind::ImportsHuge => {
            let line = [&[b'"'][..], &vec![b'x'; 8 << 20]].concat();
            import(&attacker, number, &line, &format!("{:064x}", rand::random::<u64>())).await
        }
        Kind::Body(body) => {
            let mut stream = attacker.connect(number).await?;
            let _held = attacker.hold();
            let (headers, bytes) = large(body).await;
            let headers = format!("Content-Type: application/json\r\nConnection: close\r\n{headers}");
            let whole = request("POST", &format!("/chains/{LOAD}/inject"), &headers, bytes);
            exchange(&mut stream, &whole).await?;
            attacker.did(1);
            Ok(())
        }
        Kind::Injects => {
            let mut stream = attacker.connect(number).await?;
            let (path, body) = (format!("/chains/{LOAD}/inject"), format!("{{\"data\":\"{}\"}}", "x".repeat(200)));
            let one = request("POST", &path, "Content-Type: application/json\r\n", body.as_bytes());
            requests(&attacker, &mut stream, |_| one.clone()).await
        }
        Kind::Forks | Kind::Bangs => {
            let mut stream = attacker.connect(number).await?;
            let (path, kind) = match kind {
                Kind::Forks => (format!("/chains/{LOAD}/fork"), "f"),
                _ => ("/bang".into(), "b"),
            };
            let once: u64 = rand::random();
            requests(&attacker, &mut stream, |at| {
                let body = format!("{{\"name\":\"{kind}-{once:x}-{at}\",\"difficulty\":0}}");
                request("POST", &path, "Content-Type: application/json\r\n", body.as_bytes())
            })
            .await
        }
        Kind::Reads => {
            let mut stream = attacker.connect(number).await?;
            let number = rand::random::<u64>() % 900;
            let path = match rand::random::<u8>() % 4 {
                0 => format!("/chains/{CHAIN}/transactions/{number}/receipt"),
                1 => format!("/chains/{CHAIN}/consistency?from={}&to=1000", number + 1),
                2 => format!("/chains/{LOAD}/chain"),
                _ => format!("/chains/{CHAIN}/transactions?limit=10000"),
            };
            let one = request("GET", &path, "Connection: close\r\nAccept-Encoding: gzip\r\n", b"");
            exchange(&mut stream, &one).await?;
            attacker.did(1);
            Ok(())
        }
        Kind::Http2(abuse) => http2::abuse(abuse, &attacker, number).await,
    }
}

/// Sends a byte now and then, for ever.
async fn drip(stream: &mut super::attacker::Stream) -> io::Result<()> {
    loop {
        // Not all at one moment.
        sleep(Duration::from_millis(2_000 + rand::random::<u64>() % 4_000)).await;
        stream.write_all(b"x").await?;
        stream.flush().await?;
    }
}

/// Sends one request after the other, and reads what comes.
async fn requests(
    attacker: &Arc<Attacker>,
    stream: &mut super::attacker::Stream,
    request: impl Fn(u64) -> Vec<u8>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let _held = attacker.hold();
    for at in 0.. {
        stream.write_all(&request(at)).await?;
        stream.flush().await?;
        // These answers are small, and come in one piece.
        if stream.read(&mut buffer).await? == 0 {
            break;
        }
        attacker.did(1);
    }
    Ok(())
}

async fn import(attacker: &Arc<Attacker>, number: usize, export: &[u8], id: &str) -> io::Result<()> {
    let mut stream = attacker.connect(number).await?;
    let _held = attacker.hold();
    let headers = "Content-Type: application/x-ndjson\r\nConnection: close\r\n";
    exchange(&mut stream, &request("POST", &format!("/import?chain={id}"), headers, export)).await?;
    attacker.did(1);
    Ok(())
}

/// A large body, made once, with headers of its own.
async fn large(body: Body) -> (&'static str, &'static [u8]) {
    static BODIES: [OnceLock<Vec<u8>>; 6] = [const { OnceLock::new() }; 6];
    const SIZE: usize = (8 << 20) - 64;
    let fill = |start: &str, part: &str, end: &str| {
        let parts = (SIZE - start.len() - end.len()) / part.len();
        [start, &part.repeat(parts), end].concat().into_bytes()
    };
    let (headers, bomb) = match body {
        Body::Gzip => ("Content-Encoding: gzip\r\n", true),
        Body::Zstd => ("Content-Encoding: zstd\r\n", true),
        _ => ("", false),
    };
    let made = &BODIES[body as usize];
    if made.get().is_none() {
        let plain = match body {
            // As many as an array may have.
            Body::Array => {
                format!("[{}]", vec![format!("{{\"data\":\"{}\"}}", "x".repeat(780)); 10_000].join(",")).into()
            }
            Body::Text => fill("{\"data\":\"", "x", "\"}"),
            Body::Nested => fill("{\"data\":[", &format!("{}{},", "[".repeat(90), "]".repeat(90)), "0]}"),
            Body::Objects => fill("{\"data\":[", "{\"\":0},", "0]}"),
            Body::Gzip | Body::Zstd => fill("{\"data\":\"", "x", "\"}").repeat(16),
        };
        let _ = made.set(match bomb {
            true => compressed(body, &plain).await.expect("memory takes it"),
            false => plain,
        });
    }
    (headers, made.get().expect("it is made"))
}

async fn compressed(body: Body, plain: &[u8]) -> io::Result<Vec<u8>> {
    if body == Body::Gzip {
        let mut encoder = GzipEncoder::new(Vec::new());
        encoder.write_all(plain).await?;
        encoder.shutdown().await?;
        return Ok(encoder.into_inner());
    }
    let mut encoder = ZstdEncoder::new(Vec::new());
    encoder.write_all(plain).await?;
    encoder.shutdown().await?;
    Ok(encoder.into_inner())
}

/// Whether as many connections as it wants are held, but for some that are just made anew.
pub fn is_ready(load: &Load, attacker: &Attacker) -> bool {
    let wanted = load.connections[attacker.scale as usize];
    !load.holds || attacker.held.load(Ordering::Relaxed) * 100 >= wanted * 98
}
