//! How an endpoint proves who it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::ConfigError;

/// How an endpoint proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Certificates signed by one of these authorities (PEM), for the name or address in the URL.
    /// A Proxmox cluster's own is `/etc/pve/pve-root-ca.pem`; it lives for ten years.
    Ca(Vec<u8>),
    /// Exactly these certificates, whatever their name and age. Proxmox renews a node's certificate
    /// every two years: list the old and the new one while that happens.
    Fingerprints(Vec<Fingerprint>),
    /// The authorities this system trusts, for certificates from ACME.
    System,
    /// Any certificate. Whoever is between us and Proxmox can then take the token.
    None,
}

impl Trust {
    /// The one TLS configuration of a client, for reads and for the single POST. No ALPN: Proxmox
    /// speaks HTTP/1 only. No early data: it can be replayed.
    pub(crate) fn tls_config(&self) -> Result<ClientConfig, ConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Ca(pem) => webpki(ca_roots(pem)?, &provider)?,
            Self::System => webpki(system_roots()?, &provider)?,
            Self::Fingerprints(list) if list.is_empty() => return Err(ConfigError::NoFingerprints),
            Self::Fingerprints(list) => Arc::new(Pinned {
                accepted: Some(list.clone()),
                provider: provider.clone(),
            }),
            Self::None => Arc::new(Pinned {
                accepted: None,
                provider: provider.clone(),
            }),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::Tls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(config)
    }
}

fn webpki(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, ConfigError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| ConfigError::Tls(error.to_string()))
}

fn ca_roots(pem: &[u8]) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| ConfigError::BadCaCertificate(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| ConfigError::BadCaCertificate(error.to_string()))?;
    }
    if roots.is_empty() {
        Err(ConfigError::NoCaCertificate)
    } else {
        Ok(roots)
    }
}

fn system_roots() -> Result<RootCertStore, ConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that webpki cannot read; the others still serve.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let detail = found.errors.first().map_or_else(|| "none found".into(), ToString::to_string);
        return Err(ConfigError::NoSystemCertificates(crate::text::clean(&detail)));
    }
    Ok(roots)
}

/// The SHA-256 of a certificate, as Proxmox shows it: `AA:BB:…`, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
    pub fn of(certificate: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl FromStr for Fingerprint {
    type Err = ConfigError;

    /// 64 hexadecimal digits in either case, with or without colons between the bytes.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::BadFingerprint {
            text: crate::text::clean(text),
        };
        let text = text.trim();
        let text = text.strip_prefix("sha256:").or(text.strip_prefix("SHA256:")).unwrap_or(text);
        let digits: Vec<u8> = if text.contains(':') {
            let pairs: Vec<&str> = text.split(':').collect();
            if pairs.iter().any(|pair| pair.len() != 2) {
                return Err(bad());
            }
            pairs.concat().into_bytes()
        } else {
            text.as_bytes().to_vec()
        };
        if digits.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let mut value = 0;
            for digit in pair {
                let digit = char::from(*digit).to_digit(16).ok_or_else(bad)?;
                value = value * 16 + digit;
            }
            *byte = u8::try_from(value).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Accepts listed certificates, or with no list every one. In both cases the peer must prove that it
/// holds the certificate's key: otherwise a pin, which is public, would prove nothing.
#[derive(Debug)]
struct Pinned {
    accepted: Option<Vec<Fingerprint>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.accepted {
            Some(list) if !list.contains(&Fingerprint::of(end_entity)) => Err(CertificateError::ApplicationVerificationFailure.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
