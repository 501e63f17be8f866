//! The server's certificate, read from files and read again when they change, so that its renewal needs no restart.

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at. They are read rather than watched: a mounted Secret changes by a swap of symbolic links that watches miss.
const LOOK: Duration = Duration::from_secs(10);

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} holds no usable {what} in PEM: {detail}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Certificate or private key.
        what: &'static str,
        /// What is wrong, without any of its content.
        detail: String,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("{cert} and {key} cannot be served: {source}")]
    Unfit {
        /// File of the certificate.
        cert: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library refuses the settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
}

/// A certificate chain and its private key in two PEM files.
pub struct CertificateFiles {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    served: Arc<Served>,
}

/// What is served now, and the bytes that it was made from.
struct Served(RwLock<Loaded>);

#[derive(Clone)]
struct Loaded {
    certified: Arc<CertifiedKey>,
    cert_pem: Vec<u8>,
    key_pem: Vec<u8>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Served")
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).certified.clone())
    }
}

impl CertificateFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// When they cannot be read, or hold no certificate and key that fit together.
    pub async fn load(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let (cert, key) = (cert.into(), key.into());
        let provider = Arc::new(default_provider());
        let loaded = read(&cert, &key, &provider).await?;
        let served = Arc::new(Served(RwLock::new(loaded)));
        Ok(Self {
            cert,
            key,
            provider,
            served,
        })
    }

    /// What accepts TLS connections, always with the newest certificate that was read.
    ///
    /// # Errors
    /// When the TLS library refuses its settings.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(self.served.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Looks at the files until `token` is cancelled, and serves what changed. Files that cannot be served are reported, and the old certificate stays.
    pub async fn follow(self, token: CancellationToken) {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = sleep(LOOK) => {}
            }
            match self.look().await {
                Ok(true) => tracing::info!(cert = %self.cert.display(), "serving the renewed certificate"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the certificate on disk cannot be served; the old one stays"),
            }
        }
    }

    /// Reads the files again. Returns whether they changed.
    async fn look(&self) -> Result<bool, TlsError> {
        let loaded = read(&self.cert, &self.key, &self.provider).await?;
        let mut served = self.served.0.write().unwrap_or_else(PoisonError::into_inner);
        if (&served.cert_pem, &served.key_pem) == (&loaded.cert_pem, &loaded.key_pem) {
            return Ok(false);
        }
        *served = loaded;
        Ok(true)
    }
}

async fn read(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<Loaded, TlsError> {
    let (cert_pem, key_pem) = (read_file(cert).await?, read_file(key).await?);
    let pem = |path: &Path, what, detail: String| TlsError::Pem {
        path: path.into(),
        what,
        detail,
    };
    let chain = CertificateDer::pem_slice_iter(&cert_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| pem(cert, "certificate", e.to_string()))?;
    if chain.is_empty() {
        return Err(pem(cert, "certificate", "there is none in it".into()));
    }
    // The reason is left out: it might quote the key.
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| pem(key, "private key", "there is none in it".into()))?;
    let certified = CertifiedKey::from_der(chain, private, provider).map_err(|source| TlsError::Unfit {
        cert: cert.into(),
        key: key.into(),
        source,
    })?;
    Ok(Loaded {
        certified: Arc::new(certified),
        cert_pem,
        key_pem,
    })
}

async fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path)
        .await
        .map_err(|source| TlsError::Read { path: path.into(), source })
}

#[cfg(test)]
mod tests;
