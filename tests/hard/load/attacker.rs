//! Who attacks: connections from addresses of its own, each doing the same again and again until it is over.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{BAD, Scale};

/// A connection of an attacker.
pub trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}
pub type Stream = Box<dyn Both>;

/// What all connections of an attack share.
pub struct Attacker {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
    /// Addresses from which it comes, `127.0.0.2` and so on.
    pub sources: usize,
    pub scale: Scale,
    /// Connections that are held now.
    pub held: AtomicUsize,
    /// Requests, handshakes or whatever it floods with.
    pub done: AtomicU64,
    /// An export of a chain, in whole.
    pub export: Vec<u8>,
    /// The id of that chain.
    pub export_id: String,
    over: watch::Receiver<bool>,
}

/// Counts a connection as held.
pub struct Holds(Arc<Attacker>);

impl Drop for Holds {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Attacker {
    pub fn new(
        address: SocketAddr,
        tls: Option<Arc<ClientConfig>>,
        sources: usize,
        scale: Scale,
        (export, export_id): (Vec<u8>, String),
        over: watch::Receiver<bool>,
    ) -> Arc<Attacker> {
        let (held, done) = (0.into(), 0.into());
        Arc::new(Attacker { address, tls, sources, scale, held, done, export, export_id, over })
    }

    pub fn hold(self: &Arc<Attacker>) -> Holds {
        self.held.fetch_add(1, Ordering::Relaxed);
        Holds(self.clone())
    }

    pub fn did(&self, what: u64) {
        self.done.fetch_add(what, Ordering::Relaxed);
    }

    /// Runs `connection` on so many tasks, each again when it ends, until the attack is over.
    pub async fn each<F: Future<Output = io::Result<()>> + Send + 'static>(
        self: &Arc<Attacker>,
        connections: usize,
        connection: impl Fn(Arc<Attacker>, usize) -> F + Clone + Send + Sync + 'static,
    ) {
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (attacker, connection) = (self.clone(), connection.clone());
            tasks.spawn(async move {
                let mut over = attacker.over.clone();
                let goes_on = async {
                    loop {
                        // Whatever the node does to it is its right.
                        if connection(attacker.clone(), number).await.is_err() {
                            sleep(Duration::from_millis(20)).await;
                        }
                    }
                };
                tokio::select! {
                    () = goes_on => {}
                    _ = over.wait_for(|over| *over) => {}
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    pub async fn tcp(&self, number: usize) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // What it leaves would keep the port for a minute.
        socket.set_zero_linger()?;
        let source = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number % self.sources).expect("they are few"));
        socket.bind((source, 0).into())?;
        let stream = timeout(Duration::from_secs(20), socket.connect(self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A connection as the node wants it, by TLS where it has that.
    pub async fn connect(&self, number: usize) -> io::Result<Stream> {
        let stream = self.tcp(number).await?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(config) => self.handshake(stream, config.clone()).await,
        }
    }

    pub async fn handshake(&self, stream: TcpStream, config: Arc<ClientConfig>) -> io::Result<Stream> {
        let name = "localhost".try_into().expect("it is a name");
        let stream = timeout(Duration::from_secs(20), TlsConnector::from(config).connect(name, stream)).await??;
        Ok(Box::new(stream))
    }
}

/// A request with the attackers' token.
pub fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = match method {
        "GET" => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {BAD}\r\n{length}{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// Sends requests, and reads and throws away their answers, of which the last closes the connection.
pub async fn exchange(stream: &mut Stream, requests: &[u8]) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent = async {
        writer.write_all(requests).await?;
        writer.flush().await
    };
    let read = async { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.map(|_| ()) };
    // A node that refuses answers before it has read all.
    let (_sent, read) = tokio::join!(sent, read);
    read
}

/// Reads one byte now and then, for ever.
pub async fn sip(stream: &mut Stream, pause: Duration) -> io::Result<()> {
    loop {
        sleep(pause).await;
        if stream.read(&mut [0; 64]).await? == 0 {
            return Ok(());
        }
    }
}
