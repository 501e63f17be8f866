//! The certificates of a Proxmox VE cluster: its own CA, and one certificate a node.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use ring::digest::{SHA256, digest};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// File with the CA's certificate, named as in `/etc/pve`.
pub(crate) const CA_FILE: &str = "pve-root-ca.pem";
/// File with the CA's key. Kept, so that what trusts the CA survives a restart of the simulator.
const CA_KEY_FILE: &str = "pve-root-ca.key";

/// Validity of the CA and of a node's certificate, as `pvecm updatecerts` makes them.
const CA_YEARS: i16 = 10;
const NODE_YEARS: i16 = 2;

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the state directory cannot be read or written.
    #[error("cannot use the cluster CA in {0}: {1}")]
    File(String, std::io::Error),
    /// A certificate cannot be made.
    #[error("cannot make the certificate of {0}: {1}")]
    Certificate(String, rcgen::Error),
    /// The TLS configuration is refused.
    #[error("cannot configure TLS for {0}: {1}")]
    Configuration(String, rustls::Error),
}

/// The cluster's certificate authority.
pub(crate) struct ClusterCa {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a node serves TLS with.
pub(crate) struct NodeTls {
    pub(crate) acceptor: TlsAcceptor,
    /// SHA-256 of the certificate, `AA:BB:...`.
    pub(crate) fingerprint: String,
}

impl ClusterCa {
    /// Takes the key from the state directory, or makes one, and writes the certificate.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, TlsError> {
        let key_path = state_dir.join(CA_KEY_FILE);
        let failed = |error| TlsError::Certificate("the cluster CA".to_owned(), error);
        let file_failed = |path: &Path, error| TlsError::File(path.display().to_string(), error);
        let key = match fs::read_to_string(&key_path) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(failed)?;
                write_private(&key_path, &key.serialize_pem()).map_err(|error| file_failed(&key_path, error))?;
                key
            }
            Err(error) => return Err(file_failed(&key_path, error)),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Proxmox Virtual Environment");
        // Proxmox VE puts a random UUID here. Derived from the key it stays the same with it.
        let unit = hex(digest(&SHA256, key.public_key_raw()).as_ref(), "");
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, unit.get(..32).unwrap_or(&unit));
        params.distinguished_name.push(DnType::OrganizationName, "PVE Cluster Manager CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, CA_YEARS);
        let pem = params.self_signed(&key).map_err(failed)?.pem();
        let path = state_dir.join(CA_FILE);
        fs::write(&path, &pem).map_err(|error| file_failed(&path, error))?;
        Ok(Self {
            pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The CA's certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues the certificate of a node and makes it ready to serve.
    pub(crate) fn node(&self, name: &str, address: IpAddr) -> Result<NodeTls, TlsError> {
        let failed = |error| TlsError::Certificate(name.to_owned(), error);
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        let mut names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        names.extend(["localhost".to_owned(), name.to_owned()]);
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationalUnitName, "PVE Cluster Node");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Proxmox Virtual Environment");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, NODE_YEARS);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let fingerprint = hex(digest(&SHA256, certificate.der()).as_ref(), ":").to_uppercase();

        let refused = |error| TlsError::Configuration(name.to_owned(), error);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // No ALPN: like pveproxy, the node offers HTTP/1.1 only by offering nothing.
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .map_err(refused)?;
        Ok(NodeTls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            fingerprint,
        })
    }
}

fn set_validity(params: &mut CertificateParams, years: i16) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    // The first of the month: never in the future, and never a day another year lacks.
    let month = u8::try_from(today.month()).unwrap_or(1);
    params.not_before = date_time_ymd(i32::from(today.year()), month, 1);
    params.not_after = date_time_ymd(i32::from(today.year() + years), month, 1);
}

fn hex(bytes: &[u8], separator: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(separator)
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}
