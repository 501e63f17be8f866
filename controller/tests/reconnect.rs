//! After an outage all agents come back at once. Each has a report accepted within one of its periods, and none is turned away: a report that is shed starts
//! the clock of every VM's silence anew.
//!
//! Server and agents would need more open files than a process may have on many a machine, so this is a program of its own: it starts itself once more as
//! the agents. These do as `agents/linux-agent.sh` does: a new connection for each report, deadlines of 5 and 10 s, and 1, 2, 4, ... s between attempts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows test functions, not their helpers")]

use defib::clock::Clock;
use defib::heartbeat::keys::{KeyRing, Master};
use defib::heartbeat::receiver::{self, Limits, PATH, Parts};
use defib::heartbeat::server::{ServeOptions, listen, serve};
use defib::heartbeat::{Facts, Ledger, Serving, ServingSink, VmKey};
use defib::metrics::Metrics;
use defib_core::heartbeat::Expectation;
use prometheus::Registry;
use rand::Rng;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const AGENTS: usize = 10_000;
/// The built-in period.
const PERIOD: Duration = Duration::from_secs(30);
/// How long nobody listens, counted from when each agent has met that once. So short an outage is the hardest: the agents have not drifted apart yet.
const OUTAGE: Duration = Duration::from_secs(3);
/// Deadlines of an agent.
const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(10);

/// Tells the program that it is the agents, and where their server is.
const SERVER: &str = "DEFIB_TEST_SERVER";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    many_files();
    if let Ok(address) = std::env::var(SERVER) {
        runtime.block_on(agents(address.parse().unwrap()));
        return ExitCode::SUCCESS;
    }
    // `cargo test` passes a filter on to every test program.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    runtime.block_on(server());
    ExitCode::SUCCESS
}

fn many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
}

// ---- the server ----

#[derive(Default)]
struct Shed(Mutex<Vec<&'static str>>);

impl ServingSink for Shed {
    fn shed(&self, reason: &'static str) {
        self.0.lock().unwrap().push(reason);
    }
}

fn vm(n: usize) -> VmKey {
    VmKey::new("default", format!("vm-{n}"))
}

async fn server() {
    let ledger = Arc::new(Ledger::default());
    let ring = KeyRing::new(Master::from_bytes(&[7; Master::LEN]).unwrap(), None);
    let mut keys = String::new();
    for n in 0..AGENTS {
        let facts = Facts {
            uid: "u".into(),
            key_generation: 1,
            published: None,
        };
        ledger.known(&vm(n), facts);
        let expectation = Expectation {
            report_seconds: u32::try_from(PERIOD.as_secs()).unwrap(),
            timeout_seconds: 300,
            ..Expectation::default()
        };
        ledger.expect(&vm(n), expectation);
        keys += &format!("{}\n", ring.derive("default", vm(n).name(), 1));
    }
    let serving = Serving::default();
    serving.set(true);
    let shed = Arc::new(Shed::default());
    let parts = Parts {
        ledger: ledger.clone(),
        keys: watch::channel(Arc::new(ring)).1,
        serving,
        sink: shed.clone(),
        metrics: Metrics::register(&Registry::new()).unwrap().reports,
        clock: Clock::new(),
    };
    let router = receiver::router(parts, Limits::default());
    // A port that is ours, and on which nobody listens during the outage.
    let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = first.local_addr().unwrap();
    drop(first);

    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(SERVER, address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    stdin.write_all(keys.as_bytes()).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "all were refused");
    sleep(OUTAGE).await;

    let listener = listen(address).unwrap();
    let stop = CancellationToken::new();
    let options = ServeOptions::new(shed.clone());
    let serving = tokio::spawn(serve(listener, router, options, stop.clone()));
    drop(stdin);
    let result = tokio::task::spawn_blocking(move || lines.next().unwrap().unwrap()).await.unwrap();
    assert!(child.wait().unwrap().success());
    println!("{AGENTS} agents came back: {result}");

    let shed = shed.0.lock().unwrap().clone();
    assert!(shed.is_empty(), "{} reports were shed, the first: {:?}", shed.len(), shed.first());
    let heard = (0..AGENTS).filter(|n| ledger.view(&vm(*n)).report.is_some()).count();
    assert_eq!(heard, AGENTS, "an agent was told `accepted`, and its VM is not in the ledger");
    let slowest: f64 = result.split(' ').next().unwrap().parse().unwrap();
    assert!(slowest <= PERIOD.as_secs_f64(), "an agent was kept out for longer than its period");
    stop.cancel();
    serving.await.unwrap();
}

// ---- the agents ----

enum Answer {
    Accepted,
    /// With what it says of when to come back.
    Busy(Option<u64>),
    Failed,
}

async fn agents(address: SocketAddr) {
    let mut stdin = BufReader::new(std::io::stdin());
    let mut keys = Vec::new();
    for _ in 0..AGENTS {
        let mut line = String::new();
        stdin.read_line(&mut line).unwrap();
        keys.push(line.trim().to_owned());
    }
    let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    let back = Arc::new(Mutex::new(None));
    let mut all = JoinSet::new();
    for (n, key) in keys.into_iter().enumerate() {
        all.spawn(agent(n, key, address, refused.clone(), back.clone()));
    }
    for _ in 0..AGENTS {
        refusals.recv().await.unwrap();
    }
    println!("all were refused");
    // The end of the input says that somebody listens again.
    tokio::task::spawn_blocking(move || stdin.read_to_end(&mut Vec::new()).unwrap())
        .await
        .unwrap();
    let returned = Instant::now();
    *back.lock().unwrap() = Some(returned);
    let (mut slowest, mut failures) = (Duration::ZERO, 0);
    while let Some(done) = all.join_next().await {
        let (accepted, failed) = done.unwrap();
        slowest = slowest.max(accepted.saturating_duration_since(returned));
        failures += failed;
    }
    println!(
        "{:.1} s until the last report was accepted, {failures} attempts failed on the way",
        slowest.as_secs_f64()
    );
}

/// One agent: when its report was accepted, and how many attempts failed although somebody listened.
async fn agent(
    n: usize,
    key: String,
    address: SocketAddr,
    refused: tokio::sync::mpsc::UnboundedSender<()>,
    back: Arc<Mutex<Option<Instant>>>,
) -> (Instant, usize) {
    let (mut failures, mut while_listening) = (0, 0);
    loop {
        let began = Instant::now();
        let answer = timeout(REQUEST, report(n, &key, address)).await.unwrap_or(Answer::Failed);
        let wait = match answer {
            Answer::Accepted => return (Instant::now(), while_listening),
            Answer::Busy(Some(seconds)) => between(Duration::from_secs(seconds.max(1)), 1.0, 1.1),
            Answer::Busy(None) | Answer::Failed => match Duration::from_secs(1 << failures.min(12)) {
                wait if wait < PERIOD => between(wait, 0.75, 1.0),
                _ => between(PERIOD, 0.9, 1.1),
            },
        };
        failures += 1;
        if failures == 1 {
            refused.send(()).unwrap();
        }
        while_listening += usize::from(back.lock().unwrap().is_some_and(|at| at <= began));
        sleep(wait).await;
    }
}

fn between(wait: Duration, low: f64, high: f64) -> Duration {
    wait.mul_f64(rand::rng().random_range(low..=high))
}

async fn report(n: usize, key: &str, address: SocketAddr) -> Answer {
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        // Ports of one address are fewer than the connections of some runs in a row.
        let from = Ipv4Addr::new(127, 0, 2, u8::try_from(1 + n % 16).unwrap());
        socket.bind((from, 0).into())?;
        socket.connect(address).await
    };
    let Ok(Ok(mut stream)) = timeout(CONNECT, connect).await else {
        return Answer::Failed;
    };
    let body = format!(
        r#"{{"hostname":"vm-{n}","cpuPercent":12.5,"memoryUsedBytes":3000,"memoryTotalBytes":8000,"disks":[{{"mount":"/","usedBytes":5,"totalBytes":10}}],"uptimeSeconds":100,"bootID":"boot-{n}","state":"Running","supervised":true}}"#
    );
    let text = format!(
        "POST {PATH} HTTP/1.1\r\nHost: defib\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    if stream.write_all(text.as_bytes()).await.is_err() {
        return Answer::Failed;
    }
    let (mut got, mut buffer) = (String::new(), [0; 2048]);
    // All answers end with the brace of their JSON.
    while !got.ends_with('}') {
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => got += &String::from_utf8_lossy(&buffer[..n]),
            _ => return Answer::Failed,
        }
    }
    let status = got.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" if got.contains("\"accepted\":1") => Answer::Accepted,
        "429" | "503" => Answer::Busy(got.split("retry-after: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok())),
        _ => Answer::Failed,
    }
}
