//! One HTTPS GET to the API server, to know whether it is ready. Small on purpose: an HTTP client would bring a runtime along.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};

use crate::Error;
use crate::pki::ClientCertificate;

/// A request that takes longer has met a server that is not ready.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of an answer, only the beginning is of use.
const LONGEST_ANSWER: u64 = 64 * 1024;

pub(crate) struct Probe {
    tls: Arc<ClientConfig>,
    server: SocketAddr,
}

impl Probe {
    pub(crate) fn new(port: u16, ca_pem: &str, client: &ClientCertificate) -> Result<Self, Error> {
        let tls = || -> Result<ClientConfig, Box<dyn std::error::Error>> {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
            let certificate = CertificateDer::from_pem_slice(client.certificate.as_bytes())?;
            let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes())?;
            Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![certificate], key)?)
        };
        let tls = tls().map_err(|error| Error::Certificate(error.to_string()))?;
        Ok(Self {
            tls: Arc::new(tls),
            server: (Ipv4Addr::LOCALHOST, port).into(),
        })
    }

    /// `Ok` on 200, else the answer (or why there is none) as words.
    pub(crate) fn get(&self, path: &str) -> Result<(), String> {
        let answer = self
            .answer(path)
            .map_err(|error| format!("no answer from {}: {error}", self.server))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status_line = head.lines().next().unwrap_or_default();
        if status_line.split(' ').nth(1) == Some("200") {
            Ok(())
        } else {
            Err(format!("GET {path}: {status_line}\n{}", body.trim()))
        }
    }

    fn answer(&self, path: &str) -> Result<String, Box<dyn std::error::Error>> {
        let socket = TcpStream::connect_timeout(&self.server, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::IpAddress(IpAddr::from(self.server.ip()));
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(&self.tls), name)?, socket);
        // HTTP/1.0: the answer ends with the connection, and is never chunked.
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\nUser-Agent: control-plane\r\n\r\n",
            self.server
        )?;
        let mut answer = Vec::new();
        match stream.take(LONGEST_ANSWER).read_to_end(&mut answer) {
            // A server may close without TLS's goodbye; what it said counts.
            Err(error) if error.kind() != ErrorKind::UnexpectedEof || answer.is_empty() => Err(error.into()),
            _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    }
}
