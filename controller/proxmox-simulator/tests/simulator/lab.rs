//! A small cluster to test with, and a client that hides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pve_sim::config::{Secret, Timing, TokenConfig, VmConfig};
use pve_sim::{Config, Simulator};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Anything awaited in a test happens within this, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const SECRET: &str = "11111111-2222-3333-4444-555555555555";

/// A guest that does nothing, in a process group of two.
pub fn idle_command() -> Vec<String> {
    ["/bin/sh", "-c", "while :; do sleep 30; done"].map(str::to_owned).to_vec()
}

/// A VM whose guest is a real process.
pub fn guest(vmid: u32, node: &str) -> VmConfig {
    VmConfig {
        command: idle_command(),
        ..VmConfig::new(vmid, node)
    }
}

pub fn token(id: &str, privs: &[(&str, &[&str])]) -> TokenConfig {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    TokenConfig {
        id: id.to_owned(),
        secret: Secret::new(SECRET),
        privs: privs.iter().map(|(path, names)| ((*path).to_owned(), set(names))).collect(),
        expire: 0,
    }
}

/// May do everything the simulator knows.
pub const ADMIN: &str = "admin@pve!test";

pub fn config(vms: Vec<VmConfig>) -> Config {
    let all: &[&str] = &[
        "Sys.Audit",
        "Sys.Modify",
        "VM.Audit",
        "VM.PowerMgmt",
        "VM.GuestAgent.Audit",
        "VM.Config.Disk",
        "Pool.Audit",
    ];
    Config {
        vms,
        tokens: vec![token(ADMIN, &[("/", all)])],
        timing: Timing::fast(),
        ..Config::default()
    }
}

pub struct Lab {
    pub simulator: Simulator,
    tls: TlsConnector,
    _directory: tempfile::TempDir,
}

/// An answer as it came off the socket.
#[derive(Debug)]
pub struct Answer {
    /// `HTTP/1.1 500 VM 100 not running`.
    pub status_line: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.status_line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub fn data(&self) -> Value {
        assert_eq!(self.status(), 200, "{self:?}");
        self.json()["data"].clone()
    }

    pub fn upid(&self) -> String {
        self.data().as_str().unwrap_or_else(|| panic!("no UPID in {self:?}")).to_owned()
    }
}

pub struct Client(BufReader<TlsStream<TcpStream>>);

impl Client {
    pub async fn send(&mut self, request: &str) {
        self.0.write_all(request.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next answer; `None` when the connection ends instead.
    pub async fn receive(&mut self) -> Option<Answer> {
        tokio::time::timeout(DEADLINE, self.receive_in_time())
            .await
            .expect("no answer in time")
    }

    async fn receive_in_time(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let mut lines = head.into_iter();
        let status_line = lines.next().unwrap();
        let headers: BTreeMap<String, String> = lines
            .map(|line| {
                let (name, value) = line.split_once(": ").unwrap();
                (name.to_owned(), value.to_owned())
            })
            .collect();
        let length = headers.get("Content-Length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        Some(Answer {
            status_line,
            headers,
            body: String::from_utf8(body).unwrap(),
        })
    }

    /// Whether the server ends the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(DEADLINE, self.0.read(&mut byte)).await.expect("still open");
        !matches!(read, Ok(1))
    }
}

impl Lab {
    pub async fn start(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let simulator = Simulator::start(config, directory.path()).await.unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(simulator.ca_pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            simulator,
            tls: TlsConnector::from(Arc::new(tls)),
            _directory: directory,
        }
    }

    pub async fn with(vms: Vec<VmConfig>) -> Self {
        Self::start(config(vms)).await
    }

    pub fn address(&self, node: &str) -> String {
        let endpoints = self.simulator.endpoints();
        let endpoint = endpoints.iter().find(|endpoint| endpoint.node == node).unwrap();
        endpoint.url.strip_prefix("https://").unwrap().to_owned()
    }

    /// A connection to a node, verified against its own name.
    pub async fn connect(&self, node: &str) -> std::io::Result<Client> {
        let stream = TcpStream::connect(self.address(node)).await?;
        let name = ServerName::try_from(node.to_owned()).unwrap();
        Ok(Client(BufReader::new(self.tls.connect(name, stream).await?)))
    }

    pub fn request(method: &str, path: &str, token: &str) -> String {
        format!("{method} /api2/json{path} HTTP/1.1\r\nHost: pve\r\nAuthorization: PVEAPIToken={token}={SECRET}\r\n")
    }

    pub async fn call_as(&self, token: &str, node: &str, method: &str, path: &str) -> Answer {
        let mut client = self.connect(node).await.unwrap();
        client.send(&(Self::request(method, path, token) + "\r\n")).await;
        client.receive().await.unwrap()
    }

    pub async fn get(&self, node: &str, path: &str) -> Answer {
        self.call_as(ADMIN, node, "GET", path).await
    }

    pub async fn post(&self, node: &str, path: &str) -> Answer {
        self.call_as(ADMIN, node, "POST", path).await
    }

    /// POST with a body.
    pub async fn post_body(&self, node: &str, path: &str, content_type: &str, body: &str) -> Answer {
        let mut client = self.connect(node).await.unwrap();
        let head = Self::request("POST", path, ADMIN);
        let length = body.len();
        client
            .send(&format!(
                "{head}Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        client.receive().await.unwrap()
    }

    /// Does a power action and waits for the end of its task: the exit status.
    pub async fn act(&self, node: &str, vmid: u32, action: &str) -> String {
        let upid = self.post(node, &format!("/nodes/{node}/qemu/{vmid}/status/{action}")).await.upid();
        self.outcome(&upid).await
    }

    /// Waits for the end of a task: its exit status.
    pub async fn outcome(&self, upid: &str) -> String {
        let node = upid.split(':').nth(1).unwrap();
        let start = Instant::now();
        loop {
            let status = self.get(node, &format!("/nodes/{node}/tasks/{upid}/status")).await.data();
            if status["status"] == "stopped" {
                return status["exitstatus"].as_str().unwrap().to_owned();
            }
            assert!(start.elapsed() < DEADLINE, "{upid} does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn status(&self, node: &str, vmid: u32) -> Value {
        self.get(node, &format!("/nodes/{node}/qemu/{vmid}/status/current")).await.data()
    }

    pub fn vm(&self, vmid: u32) -> pve_sim::VmSnapshot {
        self.simulator.vm(vmid).unwrap()
    }

    /// Waits until the guest's command runs: its process id.
    pub async fn guest_pid(&self, vmid: u32) -> u32 {
        eventually(|| self.vm(vmid).guest_pid.is_some()).await;
        self.vm(vmid).guest_pid.unwrap()
    }

    pub fn file(&self, path: &str) -> PathBuf {
        self.simulator.state_dir().join(path)
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.file(path)).unwrap()
    }
}

/// Waits for a condition.
pub async fn eventually(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "the condition never held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// State letter of a process (`T` stopped); `None` when it is gone or only waits to be reaped.
pub fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    (state != 'Z' && state != 'X').then_some(state)
}

/// Process ids of a process group that are alive.
pub fn group_members(group: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let group_field = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(2)?.parse().ok());
        group_field == Some(group) && process_state(*pid).is_some()
    })
    .collect()
}
