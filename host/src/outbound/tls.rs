//! TLS to other servers, with the certificates that the system trusts.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Origin;
use crate::error::{Error, ErrorKind};

/// The system's authorities, read when they are first needed.
fn system() -> &'static Result<Arc<ClientConfig>, String> {
    static SYSTEM: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    SYSTEM.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!("the system's certificates: {error}");
        }
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(
                "the system has no certificates of authorities (set SSL_CERT_FILE or SSL_CERT_DIR)".into()
            );
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    })
}

/// Speaks TLS over a connection to `target`.
///
/// # Errors
/// `Unavailable`, with what is wrong with the server's certificate.
pub async fn wrap(target: &Origin, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
    let failed =
        |cause: String| Error::new(ErrorKind::Unavailable, format!("TLS with {target} failed: {cause}"));
    let config = tokio::task::spawn_blocking(system).await.map_err(|e| failed(e.to_string()))?;
    let config = config.as_ref().map_err(|e| failed(e.clone()))?.clone();
    let name = match target.address() {
        Some(address) => ServerName::from(address),
        None => ServerName::try_from(target.host.clone()).map_err(|e| failed(e.to_string()))?,
    };
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        let certificate = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        failed(match certificate {
            Some(rustls::Error::InvalidCertificate(cause)) => format!(
                "its certificate is not trusted ({cause:?}); accepted are certificates for '{}' by an authority of the \
                 system's store",
                target.host
            ),
            _ => error.to_string(),
        })
    })
}
