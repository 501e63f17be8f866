//! A server that answers with exactly the bytes a test gives it, over TLS.
//!
//! It runs on plain threads: a test may stop tokio's clock without stopping the server.

// Each test file uses its part of this.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use defib_proxmox::{ApiToken, Client, Config, Endpoint, Fingerprint, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub const TOKEN_ID: &str = "svc@pve!ctl";
pub const SECRET: &str = "5f4dcc3b-5aa7-65d6-1d83-27deb882cf99";

/// How long a test waits for something that is bound to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the server does with a request it has read.
#[derive(Clone)]
pub enum Reply {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Sends these bytes and waits for the next request.
    KeepOpen(Vec<u8>),
    /// Sends these bytes, and then nothing more, keeping the connection.
    Stall(Vec<u8>),
    /// Waits until [`Server::release`], then sends these bytes and waits for the next request.
    Held(Vec<u8>),
    /// Closes without a word.
    Close,
}

/// A complete answer with a JSON body.
pub fn json(data: &str) -> Reply {
    Reply::KeepOpen(response("200 OK", &format!("{{\"data\":{data}}}")))
}

/// What Proxmox sends for failures: the text in the status line.
pub fn status(line: &str) -> Reply {
    Reply::Bytes(response(line, ""))
}

pub fn response(line: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {line}\r\nServer: pve-api-daemon/3.0\r\nContent-Type: application/json;charset=UTF-8\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A certificate authority made like a Proxmox cluster's.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    pub fn pem(&self) -> Vec<u8> {
        self.issuer.pem().into_bytes()
    }

    fn leaf(&self, names: &[&str]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        (leaf.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

struct Shared {
    handler: Box<dyn Fn(&str) -> Reply + Send + Sync>,
    idle: Duration,
    requests: Mutex<Vec<String>>,
    accepted: AtomicUsize,
    closed: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    released: AtomicBool,
    down: AtomicBool,
}

pub struct Server {
    address: SocketAddr,
    authority_pem: Vec<u8>,
    fingerprint: Fingerprint,
    shared: Arc<Shared>,
}

impl Server {
    /// Answers each request with what `handler` makes of its head, such as `GET /api2/json/version`.
    pub fn start(handler: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(&Authority::new(), &["127.0.0.1", "localhost"], PATIENCE, handler)
    }

    /// The same for every request.
    pub fn always(reply: Reply) -> Self {
        Self::start(move |_| reply.clone())
    }

    /// Closes connections that are idle for so long, as Proxmox does after 5 s.
    pub fn closing_after(idle: Duration, reply: Reply) -> Self {
        Self::with(&Authority::new(), &["127.0.0.1"], idle, move |_| reply.clone())
    }

    pub fn with(authority: &Authority, names: &[&str], idle: Duration, handler: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let (certificate, key) = authority.leaf(names);
        let fingerprint = Fingerprint::of(&certificate);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            idle,
            requests: Mutex::default(),
            accepted: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            released: AtomicBool::new(false),
            down: AtomicBool::new(false),
        });
        let (tls, for_thread) = (Arc::new(tls), shared.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if for_thread.down.load(Ordering::SeqCst) {
                    return;
                }
                let (tls, shared) = (tls.clone(), for_thread.clone());
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    serve(stream.unwrap(), tls, &shared);
                    shared.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            authority_pem: authority.pem(),
            fingerprint,
            shared,
        }
    }

    pub fn endpoint(&self) -> Endpoint {
        self.url().parse().unwrap()
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn ca(&self) -> Trust {
        Trust::Ca(self.authority_pem.clone())
    }

    pub fn client(&self) -> Client {
        client(vec![self.endpoint()], self.ca())
    }

    /// The heads of all requests read, in order, as they came.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    pub fn closed(&self) -> usize {
        self.shared.closed.load(Ordering::SeqCst)
    }

    /// The most requests that were being answered at one time.
    pub fn most_under_way(&self) -> usize {
        self.shared.most_under_way.load(Ordering::SeqCst)
    }

    pub fn under_way(&self) -> usize {
        self.shared.under_way.load(Ordering::SeqCst)
    }

    /// Lets [`Reply::Held`] go on.
    pub fn release(&self) {
        self.shared.released.store(true, Ordering::SeqCst);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.down.store(true, Ordering::SeqCst);
        self.release();
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(socket: TcpStream, tls: Arc<ServerConfig>, shared: &Shared) {
    socket.set_read_timeout(Some(shared.idle)).unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(tls).unwrap(), socket);
    while let Some(head) = read_head(&mut stream) {
        shared.requests.lock().unwrap().push(head.clone());
        let now = shared.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_under_way.fetch_max(now, Ordering::SeqCst);
        let reply = (shared.handler)(&head);
        let goes_on = carry_out(&mut stream, reply, shared);
        shared.under_way.fetch_sub(1, Ordering::SeqCst);
        if !goes_on {
            break;
        }
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.sock.shutdown(Shutdown::Both);
}

fn carry_out(stream: &mut impl Write, reply: Reply, shared: &Shared) -> bool {
    let wait = |flag: &AtomicBool| {
        while !flag.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut send = |bytes: Vec<u8>| stream.write_all(&bytes).and_then(|()| stream.flush()).is_ok();
    match reply {
        Reply::Bytes(bytes) => {
            send(bytes);
            false
        }
        Reply::KeepOpen(bytes) => send(bytes),
        Reply::Stall(bytes) => {
            send(bytes);
            wait(&shared.down);
            false
        }
        Reply::Held(bytes) => {
            wait(&shared.released);
            send(bytes)
        }
        Reply::Close => false,
    }
}

/// Reads up to the blank line; `None` when the peer is gone, or idle for too long.
fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => head.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
        if head.ends_with(b"\r\n\r\n") {
            return Some(String::from_utf8(head).unwrap());
        }
    }
}

pub fn token() -> ApiToken {
    ApiToken::new(TOKEN_ID, SECRET).unwrap()
}

pub fn client(endpoints: Vec<Endpoint>, trust: Trust) -> Client {
    Client::new(Config::new(endpoints, token(), trust)).unwrap()
}

/// An address nobody listens on.
pub fn closed_port() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://{}", listener.local_addr().unwrap()).parse().unwrap()
}

/// Waits for something that is bound to happen.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
