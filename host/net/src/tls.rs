//! TLS with a certificate from files, which may be replaced while it is in use.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How often the files are looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);

/// A certificate with its key, in use for every handshake from the moment it is loaded on.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its key, both PEM. From then on it looks for changes of the
    /// files: a pair that does not fit together, or can't be read, is told in the log, and the one before stays in use.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// What is wrong, with the file's name.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, String> {
        Self::watched(certificate, key, LOOKED_AT_EVERY)
    }

    fn watched(certificate: &Path, key: &Path, every: Duration) -> Result<Self, String> {
        let files = Files { certificate: certificate.into(), key: key.into() };
        let seen = files.stamps();
        let current = Arc::new(Current(RwLock::new(files.load()?)));
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        tokio::spawn(reload(files, seen, Arc::downgrade(&current), every));
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(crate) async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: IO,
    ) -> std::io::Result<TlsStream<IO>> {
        self.acceptor.accept(stream).await
    }
}

/// Checks what [`Tls::open`] would say of the files.
///
/// # Errors
/// What is wrong, with the file's name.
pub fn check(certificate: &Path, key: &Path) -> Result<(), String> {
    Files { certificate: certificate.into(), key: key.into() }.load().map(drop)
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

async fn reload(files: Files, mut seen: [Stamp; 2], current: Weak<Current>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(current) = current.upgrade() else { return };
        let found = files.stamps();
        if found == seen {
            continue;
        }
        seen = found;
        match files.load() {
            Ok(loaded) => {
                *current.0.write() = loaded;
                tracing::info!("the TLS certificate was loaded again: {}", files.certificate.display());
            }
            Err(error) => {
                tracing::error!("the TLS certificate in use stays, as the new one can't be: {error}")
            }
        }
    }
}

/// When a file was last changed, and its length.
type Stamp = Option<(SystemTime, u64)>;

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn stamps(&self) -> [Stamp; 2] {
        [&self.certificate, &self.key].map(|file| {
            let metadata = fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }

    fn load(&self) -> Result<Arc<CertifiedKey>, String> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let read = |file: &Path| fs::read(file).map_err(|error| format!("'{}': {error}", file.display()));
        let chain = CertificateDer::pem_slice_iter(&read(&self.certificate)?).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("'{certificate}': not PEM: {error}"))?;
        if chain.is_empty() {
            return Err(format!("'{certificate}': there is no certificate in it (PEM)"));
        }
        let found = PrivateKeyDer::from_pem_slice(&read(&self.key)?);
        let found =
            found.map_err(|error| format!("'{key}': there is no private key in it (PEM): {error}"))?;
        let found = ring::sign::any_supported_type(&found);
        let found = found.map_err(|error| format!("'{key}': the private key can't be used: {error}"))?;
        let pair = CertifiedKey::new(chain, found);
        pair.keys_match()
            .map_err(|error| format!("'{key}' is not the key of the certificate '{certificate}': {error}"))?;
        Ok(Arc::new(pair))
    }
}
