//! TLS on both sides: a certificate of our own for clients, the server's authority for the way on.

use crate::proxy::ProxyError;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What clients are served with, and the certificate that they must trust (PEM). It signs itself: there is one server.
pub(crate) fn acceptor() -> Result<(TlsAcceptor, String), ProxyError> {
    let failed = |error: rcgen::Error| ProxyError::Tls(error.to_string());
    let key = KeyPair::generate().map_err(failed)?;
    let names = ["127.0.0.1", "localhost"].map(str::to_owned);
    let certificate = CertificateParams::new(names)
        .and_then(|params| params.self_signed(&key))
        .map_err(failed)?;
    let pem = certificate.pem();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key))
        .map_err(|error| ProxyError::Tls(error.to_string()))?;
    Ok((TlsAcceptor::from(Arc::new(config)), pem))
}

/// What the server is reached with.
pub(crate) fn connector(ca_pem: &str) -> Result<TlsConnector, ProxyError> {
    let tls = |error: String| ProxyError::Tls(error);
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| tls(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|error| tls(error.to_string()))?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
