//! Files of certificates and keys. That of a node is read again on SIGHUP.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::Clock,
    limits,
    tls::{Authorities, Pair, PairError, Server},
};

/// Options of a node with TLS.
#[derive(Clone, Debug, clap::Args)]
pub struct TlsArgs {
    /// Speak HTTPS with the certificate in this file: PEM, the node's own first, then those that sign it. SIGHUP has it read again.
    #[arg(long, env = "QBC_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The key of that certificate: PEM, and only its owner may read the file.
    #[arg(long, env = "QBC_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Whether the node speaks HTTPS.
    pub fn is_on(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Reads the files, and leaves it at that.
    ///
    /// # Errors
    /// As of [`TlsArgs::start`].
    pub fn check(&self) -> anyhow::Result<()> {
        let (Some(certificate), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else { return Ok(()) };
        Files { certificate, key }.read().map(|_| ())
    }

    /// What the node shows to those who call it by TLS, if it has that; until `stopping` it is read again on SIGHUP.
    ///
    /// # Errors
    /// The files cannot be read, or do not belong together.
    pub fn start(self, stopping: watch::Receiver<bool>) -> anyhow::Result<Option<Server>> {
        let (Some(certificate), Some(key)) = (self.tls_cert, self.tls_key) else { return Ok(None) };
        let files = Files { certificate, key };
        let server = Server::new(files.read()?);
        // Caught from now on, and not from when the task first runs.
        let hangup = signal(SignalKind::hangup()).context("cannot catch signals")?;
        tokio::spawn(keep(files, server.clone(), hangup, stopping));
        Ok(Some(server))
    }
}

/// Where a certificate and its key are.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn read(&self) -> anyhow::Result<Pair> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let certificates = read(&self.certificate)?;
        let pair = Pair::parse(&certificates, &read_key(&self.key)?);
        pair.map_err(|error| match &error {
            PairError::Certificate(_) => anyhow!("the file {certificate} of --tls-cert: {error}"),
            PairError::Key(_) => anyhow!("the file {key} of --tls-key: {error}"),
            PairError::Mismatch => anyhow!("the files {certificate} and {key} of --tls-cert and --tls-key: {error}"),
        })
    }
}

/// Reads the certificate again on each SIGHUP, and tells when it comes to its end.
async fn keep(files: Files, server: Server, mut hangup: Signal, mut stopping: watch::Receiver<bool>) {
    let mut looks = interval(limits::CERTIFICATE_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = hangup.recv() => match files.read() {
                Ok(pair) => {
                    server.replace(pair);
                    tracing::info!("the TLS certificate of {} is in force", files.certificate.display());
                }
                Err(error) => tracing::error!("the TLS certificate is not replaced, and the old one stays in force: {error:#}"),
            },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        if let Some(warning) = server.warning(Clock::default().now()) {
            tracing::warn!("{warning}");
        }
    }
}

/// The certificates in a file that are trusted beside the system's authorities; none where no file is named.
///
/// # Errors
/// It cannot be read, or has none.
pub fn read_authorities(path: Option<&Path>) -> anyhow::Result<Authorities> {
    let Some(path) = path else { return Ok(Authorities::default()) };
    let read = Authorities::parse(&read(path)?);
    read.map_err(|error| anyhow!("the file {} of --ca: {error}", path.display()))
}

/// A key that only its owner can read, or whom the system's administrator lets read it.
fn read_key(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
    let others = metadata.permissions().mode() & 0o077;
    // A file of root may be there for a group of services, as PostgreSQL takes it too.
    let is_secret = others == 0 || (metadata.uid() == 0 && others == 0o040);
    ensure!(
        is_secret,
        "others than its owner can read the key in {shown}, and speak in this node's name: run chmod 600 {shown}"
    );
    read(path)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    file.take(limits::PEM_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    ensure!(bytes.len() as u64 <= limits::PEM_BYTES, "{shown} is larger than {} bytes", limits::PEM_BYTES);
    Ok(bytes)
}
