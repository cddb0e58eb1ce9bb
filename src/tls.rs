//! TLS: what a node shows to those who call it, whom it trusts where it calls others, and connections with and without it. The only
//! file that names rustls.
//!
//! Only TLS 1.2 and 1.3 are spoken, with the cipher suites that rustls has: all of them with forward secrecy and authenticated
//! encryption. Early data (RFC 8446 section 2.3) is not taken, since it can be sent again by others.
//!
//! Between the nodes of a cluster the certificate of the called one is not checked, whatever name or authority it has: nodes
//! authenticate each other by their keys and their secret, with signatures that are [bound](Stream::binding) to the connection
//! ([`link`](crate::cluster::link)).

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, RwLock},
    task::{Context, Poll},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use rustls_platform_verifier::Verifier;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{core::transaction::Timestamp, limits};

/// The first byte of each connection by TLS: the content type of a handshake (RFC 8446 section 5.1).
pub const FIRST_BYTE: u8 = 22;

/// Names in ALPN (RFC 7301): HTTP as registered there, and the connections of nodes to each other.
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";
const LINK: &[u8] = b"qbc-link";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A certificate with those that sign it, and its key.
pub struct Pair {
    config: Arc<ServerConfig>,
    without_http2: Arc<ServerConfig>,
    /// When its time begins and ends, in seconds since 1970.
    valid: [i64; 2],
}

/// What is wrong with a certificate and a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// It is in the file of the certificate.
    #[error("{0}")]
    Certificate(String),
    /// It is in the file of the key.
    #[error("{0}")]
    Key(String),
    /// Each is well by itself.
    #[error("the key is not that of the certificate, which has to be the first in its file")]
    Mismatch,
}

impl Pair {
    /// Of a certificate, followed by those that sign it, and its key, both in PEM (RFC 7468).
    ///
    /// # Errors
    /// They are something else, or do not belong together.
    pub fn parse(certificates: &[u8], key: &[u8]) -> Result<Pair, PairError> {
        let chain = parse_certificates(certificates).map_err(PairError::Certificate)?;
        let end = chain.first().expect("there is one");
        let (_, parsed) = x509_parser::parse_x509_certificate(end)
            .map_err(|error| PairError::Certificate(format!("its first certificate cannot be read: {error}")))?;
        let validity = parsed.validity();
        let valid = [validity.not_before.timestamp(), validity.not_after.timestamp()];
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PairError::Key(no_key(key)))?;
        let provider = provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => PairError::Mismatch,
            Error::InvalidCertificate(_) => {
                PairError::Certificate(format!("its first certificate is not usable: {error}"))
            }
            error => PairError::Key(format!(
                "its key is not usable ({error}): RSA from 2048 bits, ECDSA P-256, P-384, P-521 and Ed25519 are"
            )),
        })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has cipher suites of both")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = [HTTP_1, LINK].map(Vec::from).into();
        let without_http2 = Arc::new(config.clone());
        config.alpn_protocols = [HTTP_2, HTTP_1, LINK].map(Vec::from).into();
        Ok(Pair { config: Arc::new(config), without_http2, valid })
    }

    /// What an operator should do about its time, if anything.
    fn warning(&self, now: Timestamp) -> Option<String> {
        let [begins, ends] = self.valid;
        let (now, left) = (now.seconds() as i64, ends.saturating_sub(now.seconds() as i64));
        let moment = |seconds: i64| {
            Timestamp::from_micros(seconds.saturating_mul(1_000_000)).unwrap_or(Timestamp::LAST).to_string()
        };
        let cure = "put a new one in its place, and send the node SIGHUP";
        if left < 0 {
            Some(format!("the TLS certificate has expired at {}: {cure}", moment(ends)))
        } else if now < begins {
            Some(format!("the TLS certificate is valid only from {} on: look at the clock, or {cure}", moment(begins)))
        } else if left < limits::CERTIFICATE_END.as_secs() as i64 {
            Some(format!("the TLS certificate expires at {}: {cure}", moment(ends)))
        } else {
            None
        }
    }
}

/// At least one certificate.
fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| format!("it is not PEM: {error}"))?;
    match certificates.is_empty() {
        false => Ok(certificates),
        true => Err("it has no certificate: it is to have lines -----BEGIN CERTIFICATE-----, as PEM has them".into()),
    }
}

fn no_key(pem: &[u8]) -> String {
    let text = String::from_utf8_lossy(pem);
    if text.contains("ENCRYPTED") {
        return "its key is encrypted, and a node that starts by itself has nobody to ask for the passphrase: store it as \
                `openssl pkey -in KEY -out PLAIN` writes it, and have its owner alone read it"
            .into();
    }
    "it has no private key: it is to have lines -----BEGIN PRIVATE KEY-----, as PEM has them".into()
}

/// What a node shows who calls it by TLS. A clone is another handle to the same.
#[derive(Clone)]
pub struct Server(Arc<RwLock<Pair>>);

/// What is spoken on a connection by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, also where the client names nothing.
    Http1,
    /// HTTP/2.
    Http2,
    /// What nodes of a cluster say to each other.
    Link,
}

impl Server {
    /// Shows this certificate.
    pub fn new(pair: Pair) -> Server {
        Server(Arc::new(RwLock::new(pair)))
    }

    /// Shows another one to all who connect from now on. Connections that are there go on.
    pub fn replace(&self, pair: Pair) {
        *self.0.write().expect("no holder of this lock panics") = pair;
    }

    /// What an operator should do about the certificate, if anything.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        self.0.read().expect("no holder of this lock panics").warning(now)
    }

    /// Does the handshake on a connection that a client has opened. HTTP/2 is spoken only where that is offered.
    ///
    /// # Errors
    /// The client speaks something else, does not trust the certificate, or is gone.
    pub async fn accept(&self, stream: TcpStream, offers_http2: bool) -> io::Result<(Stream, Protocol)> {
        let config = {
            let pair = self.0.read().expect("no holder of this lock panics");
            if offers_http2 { pair.config.clone() } else { pair.without_http2.clone() }
        };
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(HTTP_2) => Protocol::Http2,
            Some(LINK) => Protocol::Link,
            _ => Protocol::Http1,
        };
        Ok((Stream::Tls(Box::new(stream.into())), protocol))
    }
}

/// Certificates that are trusted beside those of the system's authorities: of authorities, or of servers themselves.
#[derive(Clone, Default)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Of a file in PEM.
    ///
    /// # Errors
    /// It has no certificate.
    pub fn parse(pem: &[u8]) -> Result<Authorities, String> {
        let certificates = parse_certificates(pem)?;
        for certificate in &certificates {
            x509_parser::parse_x509_certificate(certificate)
                .map_err(|error| format!("one of its certificates cannot be read: {error}"))?;
        }
        Ok(Authorities(certificates))
    }

    /// Each in DER.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }
}

/// Opens connections by TLS to servers of HTTP/1.1, whose certificate is checked.
#[derive(Clone)]
pub struct Connector(TlsConnector);

impl Connector {
    /// Trusts these beside the system's authorities.
    ///
    /// # Errors
    /// There are none at all.
    pub fn new(authorities: &Authorities) -> Result<Connector, String> {
        let verifier = Verifier::new_with_extra_roots(authorities.0.iter().cloned(), provider());
        let verifier = verifier.map_err(|error| format!("no certificate authority is trusted here: {error}"))?;
        Ok(Connector(connector(Arc::new(verifier), HTTP_1)))
    }

    /// Does the handshake with a server of this name or address.
    ///
    /// # Errors
    /// The server is none of TLS, or not trusted.
    pub async fn connect(&self, name: &str, stream: TcpStream) -> io::Result<Stream> {
        Ok(Stream::Tls(Box::new(self.0.connect(server_name(name)?, stream).await?.into())))
    }
}

fn connector(verifier: Arc<dyn ServerCertVerifier>, protocol: &[u8]) -> TlsConnector {
    let versions: &[_] = if protocol == LINK { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("the provider has cipher suites of both")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![protocol.into()];
    TlsConnector::from(Arc::new(config))
}

/// The name, or the address without its brackets.
fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    let name = name.trim_matches(['[', ']']).to_owned();
    ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Does the handshake with another node of the cluster at this name. Who it is is not known thereafter: the caller has to
/// authenticate it, with the [binding](Stream::binding) of the connection.
///
/// # Errors
/// It does not speak TLS, or not as a node does.
pub async fn connect_link(name: &str, stream: TcpStream) -> io::Result<Stream> {
    let connector = connector(Arc::new(Unchecked(provider())), LINK);
    let stream = connector.connect(server_name(name)?, stream).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => io::Error::other("it does not speak TLS"),
        _ => error,
    })?;
    // A server that knows nothing of ALPN goes on without.
    if stream.get_ref().1.alpn_protocol() != Some(LINK) {
        return Err(io::Error::other("it speaks TLS, and is no node of QBC"));
    }
    Ok(Stream::Tls(Box::new(stream.into())))
}

/// Takes any certificate, whose key has to sign the handshake.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("nodes speak TLS 1.3 to each other".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A log filter that leaves out what is told where it matters: that a certificate is not trusted.
pub const QUIET: &str = "rustls_platform_verifier=off";

/// Why the certificate of a server is not trusted, where a connection failed for that.
pub fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, Other,
        UnknownIssuer,
    };
    let Some(Error::InvalidCertificate(reason)) = error.downcast_ref() else {
        // The source of an I/O error is that of what it wraps, not what it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let next = wrapped.map_or_else(|| error.source(), |wrapped| Some(wrapped));
        return next.and_then(distrust);
    };
    Some(match reason {
        UnknownIssuer => {
            "its certificate is of nobody who is trusted here: the option --ca names a file with the certificate of who \
             signs it, or with its own"
        }
        Expired | ExpiredContext { .. } => "its certificate has expired, as the clock is here",
        NotValidYet | NotValidYetContext { .. } => "its certificate is not valid yet, as the clock is here",
        NotValidForName | NotValidForNameContext { .. } => {
            "its certificate is for other names: call it by one of those, or have one made for this name"
        }
        Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is marked as one of an authority: it has to be made with basicConstraints=CA:FALSE"
        }
        _ => "its certificate is not valid",
    })
}

/// A connection, with TLS or without.
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// What both ends of this connection know, and no other connection has (`tls-exporter`, RFC 9266): who signs it shows that it is
    /// at the other end, with nobody between. Nothing without TLS.
    ///
    /// # Errors
    /// The connection is older than TLS 1.3, where it may not be the only one.
    pub fn binding(&self) -> io::Result<Option<[u8; 32]>> {
        let Stream::Tls(stream) = self else { return Ok(None) };
        let (version, exported) = match &**stream {
            TlsStream::Client(stream) => {
                let session = stream.get_ref().1;
                (session.protocol_version(), session.export_keying_material([0; 32], EXPORTER, Some(&[])))
            }
            TlsStream::Server(stream) => {
                let session = stream.get_ref().1;
                (session.protocol_version(), session.export_keying_material([0; 32], EXPORTER, Some(&[])))
            }
        };
        match version {
            Some(ProtocolVersion::TLSv1_3) => exported.map(Some).map_err(io::Error::other),
            _ => Err(io::Error::other("nodes speak TLS 1.3 to each other")),
        }
    }
}

/// RFC 9266 section 4.2.
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tcp().fmt(f)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            // What is said on it shows by itself where it ends, so an end without a word of TLS is one as any other.
            Stream::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => read,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;
    use tokio::net::TcpListener;

    use super::*;

    fn certified() -> (Pair, Authorities) {
        // Each with a name of its own, so that none is taken for the signer of another.
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, hex::encode(&key.public_key_raw()[..8]));
        let (certificate, key) = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let pair = Pair::parse(certificate.as_bytes(), key.as_bytes()).unwrap();
        (pair, Authorities::parse(certificate.as_bytes()).unwrap())
    }

    /// What a client that trusts these and one server make of each other.
    async fn meet(pair: Pair, trusted: &Authorities, name: &str) -> io::Result<(Stream, Protocol)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let server = tokio::spawn(async move { Server::new(pair).accept(served, true).await });
        let _client = Connector::new(trusted).unwrap().connect(name, client).await?;
        server.await.unwrap()
    }

    #[tokio::test]
    async fn a_handshake_is_of_the_newest_kind() {
        let (pair, trusted) = certified();
        let (stream, protocol) = meet(pair, &trusted, "localhost").await.unwrap();
        assert_eq!(protocol, Protocol::Http1);
        let Stream::Tls(stream) = stream else { panic!("it is encrypted") };
        let session = stream.get_ref().1;
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = session.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
    }

    /// Where there are enough connections of it, clients fall back.
    #[tokio::test]
    async fn http_2_is_spoken_where_it_is_offered() {
        for (offers_http2, expected) in [(true, Protocol::Http2), (false, Protocol::Http1)] {
            let (pair, trusted) = certified();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (served, _) = listener.accept().await.unwrap();
            let server = tokio::spawn(async move { Server::new(pair).accept(served, offers_http2).await });
            let mut config = (**Connector::new(&trusted).unwrap().0.config()).clone();
            config.alpn_protocols = [HTTP_2, HTTP_1].map(Vec::from).into();
            let connector = TlsConnector::from(Arc::new(config));
            let _client = connector.connect(server_name("localhost").unwrap(), client).await.unwrap();
            assert_eq!(server.await.unwrap().unwrap().1, expected);
        }
    }

    #[tokio::test]
    async fn what_is_not_trusted_is_told_with_its_reason() {
        let ((pair, trusted), (other, others)) = (certified(), certified());
        let refused = meet(pair, &trusted, "ledger.example").await.unwrap_err();
        assert!(distrust(&refused).unwrap().contains("other names"), "{refused}");
        // As the client of HTTP wraps it.
        let refused = io::Error::other(meet(other, &trusted, "localhost").await.unwrap_err());
        assert!(distrust(&refused).unwrap().contains("--ca"), "{refused}");
        assert_eq!(distrust(&io::Error::from(io::ErrorKind::TimedOut)), None);
        assert_eq!(others.certificates().count(), 1);
    }

    #[test]
    fn the_time_of_a_certificate_is_told_when_it_is_over_soon() {
        let (mut pair, _) = certified();
        let day = 86_400;
        pair.valid = [100 * day, 200 * day];
        let told = |days: i64| pair.warning(Timestamp::from_micros(days * day * 1_000_000).unwrap());
        for (days, part) in [(99, "valid only from"), (187, "expires at"), (200, "expires at"), (201, "has expired")] {
            assert!(told(days).unwrap().contains(part), "{days}: {:?}", told(days));
        }
        assert_eq!((told(100), told(185)), (None, None));
    }
}
