//! A server on a real socket, and clients that write what they like.

use crate::support::{Shed, good};
use axum::Router;
use defib::heartbeat::receiver::{Limits, PATH};
use defib::heartbeat::server::{CertificateFiles, ServeOptions, listen, serve};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// No wait of these tests may take longer than this.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Server {
    pub async fn start(router: Router, options: ServeOptions) -> Self {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, options, stop.clone()));
        Self { address, stop, task }
    }

    pub async fn connect(&self) -> TcpStream {
        timeout(PATIENCE, TcpStream::connect(self.address)).await.unwrap().unwrap()
    }

    /// A client that cannot leave much to its kernel: it notices when nobody reads.
    pub async fn connect_with_small_buffer(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(16 * 1024).unwrap();
        timeout(PATIENCE, socket.connect(self.address)).await.unwrap().unwrap()
    }

    pub async fn end(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("the server did not stop").unwrap();
    }
}

pub fn options() -> ServeOptions {
    ServeOptions {
        head_deadline: Duration::from_millis(200),
        idle_deadline: Duration::from_millis(600),
        drain_deadline: Duration::from_millis(300),
        ..ServeOptions::new(Arc::new(Shed::default()))
    }
}

pub fn quick_bodies() -> Limits {
    Limits {
        body_deadline: Duration::from_millis(200),
        ..Limits::default()
    }
}

pub fn head(key: &str, more: &str) -> String {
    format!("POST {PATH} HTTP/1.1\r\nHost: defib\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n{more}\r\n")
}

pub fn whole(key: &str, uptime: f64) -> String {
    let body = good(uptime).to_string();
    format!("{}{body}", head(key, &format!("Content-Length: {}\r\n", body.len())))
}

/// What comes until the other side closes.
pub async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection stayed open");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer with a body of known length, from a connection that stays open.
pub async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let read = async {
        let mut text = String::new();
        loop {
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "closed after {text:?}");
            text += &String::from_utf8_lossy(&buffer[..n]);
            if let Some((head, body)) = text.split_once("\r\n\r\n")
                && let Some((_, rest)) = head.split_once("content-length: ")
                && let Ok(length) = rest.lines().next().unwrap().parse::<usize>()
                && body.len() >= length
            {
                return text;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("no answer")
}

/// Writes a byte at a time until the other side has had enough.
pub async fn drip(mut stream: impl AsyncWrite + Unpin, text: String) {
    for byte in text.bytes().chain(std::iter::repeat(b'x')) {
        if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A certificate of its own for a server, and clients that trust it.
pub struct Tls {
    pub files: CertificateFiles,
    connector: tokio_rustls::TlsConnector,
    _dir: tempfile::TempDir,
}

impl Tls {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["defib.test".to_owned()]).unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let files = CertificateFiles::load(&cert, &key).await.unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&cert).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            files,
            connector: tokio_rustls::TlsConnector::from(Arc::new(config)),
            _dir: dir,
        }
    }

    pub fn options(&self, options: ServeOptions) -> ServeOptions {
        ServeOptions {
            tls: Some(self.files.acceptor().unwrap()),
            ..options
        }
    }

    pub async fn shake_hands(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(ServerName::try_from("defib.test").unwrap(), stream).await
    }
}

/// Takes as many open files as are allowed, as `defib run` does.
pub fn many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
