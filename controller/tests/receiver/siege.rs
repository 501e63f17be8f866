//! Very many clients at once that hold on to whatever they get. Honest agents get through all the same, and nothing counts as shed.

use crate::support::{World, good, vm, with};
use crate::wire::{PATIENCE, Server, Tls, answer, head, many_files, rest, whole};
use defib::heartbeat::receiver::Limits;
use defib::heartbeat::server::ServeOptions;
use defib_core::heartbeat::Expectation;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How a client keeps its connection without saying anything of worth.
#[derive(Clone, Copy, Debug)]
enum Hold {
    /// Says nothing.
    Silent,
    /// Begins a head and never ends it.
    SlowHead,
    /// Begins a body without a key, and never ends it.
    SlowBody,
    /// Has asked for something that is not there, and waits.
    Idle,
    /// Asks and asks, and reads no answer.
    Unread,
}

const HOLDS: [Hold; 5] = [Hold::Silent, Hold::SlowHead, Hold::SlowBody, Hold::Idle, Hold::Unread];

impl Hold {
    /// Goes on until the other side has had enough.
    async fn on(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (first, again) = match self {
            Self::Silent => ("", ""),
            Self::SlowHead => ("POST /api/health/report HTTP/1.1\r\n", "X-Slow: yes\r\n"),
            Self::SlowBody => (
                "POST /api/health/report HTTP/1.1\r\nHost: defib\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
                "1\r\n[\r\n",
            ),
            Self::Idle => ("GET / HTTP/1.1\r\nHost: defib\r\n\r\n", ""),
            Self::Unread => ("", "GET / HTTP/1.1\r\nHost: defib\r\n\r\n"),
        };
        let mut sink = [0; 4096];
        if stream.write_all(first.as_bytes()).await.is_err() {
            return;
        }
        loop {
            let pause = sleep(Duration::from_millis(500));
            if matches!(self, Self::Unread) {
                pause.await;
            } else {
                tokio::select! {
                    read = stream.read(&mut sink) => match read {
                        Ok(n) if n > 0 => continue,
                        _ => return,
                    },
                    () = pause => {}
                }
            }
            if stream.write_all(again.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}

/// So many clients of each kind, each back at once when it was cut off.
struct Siege {
    cuts: Arc<[AtomicUsize; HOLDS.len()]>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

impl Siege {
    fn begin(of_each: usize, address: SocketAddr, tls: Option<Arc<Tls>>) -> Self {
        let cuts = Arc::new(std::array::from_fn(|_| AtomicUsize::new(0)));
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for (kind, hold) in HOLDS.into_iter().enumerate() {
            for n in 0..of_each {
                let (cuts, tls) = (Arc::clone(&cuts), tls.clone());
                // Several addresses, as one has ports for some ten thousand connections only.
                let from = Ipv4Addr::new(127, 0, 1, u8::try_from(1 + n % 200).unwrap());
                let attack = async move {
                    loop {
                        let Ok(stream) = connect_from(from, address).await else {
                            sleep(Duration::from_millis(100)).await;
                            continue;
                        };
                        match &tls {
                            None => hold.on(stream).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.shake_hands(stream).await {
                                    hold.on(stream).await;
                                }
                            }
                        }
                        cuts[kind].fetch_add(1, Ordering::Relaxed);
                    }
                };
                let stop = stop.clone();
                clients.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = attack => {}
                    }
                });
            }
        }
        Self { cuts, stop, clients }
    }

    /// Waits until clients of each kind were cut off.
    async fn bites(&self) {
        let all = async {
            while self.cuts.iter().any(|n| n.load(Ordering::Relaxed) == 0) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(2 * PATIENCE, all)
            .await
            .unwrap_or_else(|_| panic!("{:?} were cut off {:?} times", HOLDS, self.cuts));
    }

    async fn end(mut self) {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
    }
}

async fn connect_from(from: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(address).await
}

/// A fleet that reports in time.
fn fleet(w: &World, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("vm-{n}")).collect();
    for name in &names {
        w.know(name, 1);
        let expectation = Expectation {
            report_seconds: 30,
            ..Expectation::default()
        };
        w.ledger.expect(&vm(name), expectation);
    }
    names
}

async fn report_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    answer(&mut stream).await
}

/// 2,000 clients, over twice as many as there are places for strangers.
async fn honest_reports_get_through(tls: Option<Arc<Tls>>, of_each: usize) {
    many_files();
    let w = World::new();
    let names = fleet(&w, 40);
    let options = ServeOptions::new(w.shed.clone()).at_most(of_each * HOLDS.len());
    let options = match &tls {
        Some(tls) => tls.options(options),
        None => options,
    };
    let server = Server::start(w.router.clone(), options).await;

    // An agent that was there before keeps its connection through all of it.
    let kept = server.connect().await;
    let siege = match &tls {
        None => {
            let mut kept = kept;
            let first = report_on(&mut kept, &whole(&w.key("web"), 1.0)).await;
            assert!(first.contains("\"accepted\":1"), "{first}");
            let siege = Siege::begin(of_each, server.address, None);
            siege.bites().await;
            let later = report_on(&mut kept, &whole(&w.key("web"), 2.0)).await;
            assert!(later.contains("\"accepted\":1"), "{later}");
            siege
        }
        Some(tls) => {
            let mut kept = tls.shake_hands(kept).await.unwrap();
            let first = report_on(&mut kept, &whole(&w.key("web"), 1.0)).await;
            assert!(first.contains("\"accepted\":1"), "{first}");
            let siege = Siege::begin(of_each, server.address, Some(tls.clone()));
            siege.bites().await;
            let later = report_on(&mut kept, &whole(&w.key("web"), 2.0)).await;
            assert!(later.contains("\"accepted\":1"), "{later}");
            siege
        }
    };
    // Agents that come with a new connection each, and our own canary, at the height of it.
    let canary = w.keys.borrow().canary();
    for round in names.chunks(10) {
        let keys = round
            .iter()
            .map(|name| (w.key(name), "\"accepted\":1"))
            .chain([(canary.clone(), "\"accepted\":0")]);
        let reports = keys.map(|(key, expected)| {
            let (server, tls) = (&server, &tls);
            async move {
                let stream = server.connect().await;
                let got = match tls {
                    None => report_on(stream, &whole(&key, 1.0)).await,
                    Some(tls) => {
                        let stream = timeout(PATIENCE, tls.shake_hands(stream)).await.expect("no handshake").unwrap();
                        report_on(stream, &whole(&key, 1.0)).await
                    }
                };
                assert!(got.contains(expected), "{got}");
            }
        });
        futures::future::join_all(reports).await;
    }
    assert!(w.shed.take().is_empty(), "the attack counts as reports that were shed");
    siege.end().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_slow_clients_keep_no_honest_one_out() {
    honest_reports_get_through(None, 400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_over_tls() {
    honest_reports_get_through(Some(Arc::new(Tls::new().await)), 60).await;
}

/// Whoever sends reports of many VMs with their keys in the body has no key to show first. Slow strangers have none either, and make room for it.
#[tokio::test]
async fn slow_bodies_without_a_key_keep_no_array_of_reports_out() {
    let limits = Limits {
        anonymous: 40,
        anonymous_bytes: 3 << 20,
        anonymous_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let w = World::with_limits(limits);
    let names = fleet(&w, 30);
    let server = Server::start(w.router.clone(), ServeOptions::new(w.shed.clone())).await;
    // 100 of them hold three times the memory and over twice the places that there are.
    let half = " ".repeat(100 << 10);
    let mut strangers = JoinSet::new();
    let cut = Arc::new(AtomicUsize::new(0));
    for _ in 0..100 {
        let (address, cut, half) = (server.address, cut.clone(), half.clone());
        strangers.spawn(async move {
            loop {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head =
                    "POST /api/health/report HTTP/1.1\r\nHost: defib\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
                let _ = stream.write_all(format!("{head}{half}").as_bytes()).await;
                let got = rest(&mut stream).await;
                assert!(
                    got.is_empty() || got.starts_with("HTTP/1.1 408") || got.starts_with("HTTP/1.1 503"),
                    "{got}"
                );
                cut.fetch_add(usize::from(got.contains("slow-body")), Ordering::Relaxed);
                sleep(Duration::from_millis(300)).await;
            }
        });
    }
    timeout(PATIENCE, async {
        while cut.load(Ordering::Relaxed) < 100 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the strangers were not cut off");
    let items: Vec<_> = names.iter().map(|name| with(good(1.0), "key", json!(w.key(name)))).collect();
    let array = json!(items).to_string();
    let text = format!(
        "POST /api/health/report HTTP/1.1\r\nHost: defib\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{array}",
        array.len()
    );
    // As any sender does that is told 503: once more, a little later.
    let taken = async {
        loop {
            let got = report_on(server.connect().await, &text).await;
            if got.contains("\"accepted\":30") {
                return;
            }
            assert!(got.starts_with("HTTP/1.1 503"), "{got}");
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, taken).await.expect("the array was never taken");
    strangers.abort_all();
    while strangers.join_next().await.is_some() {}
    server.end().await;
}

/// One VM whose agent is broken, or whose root is hostile, has a right key. It takes up what its rate gives it.
#[tokio::test]
async fn slow_bodies_with_one_key_leave_room_for_the_others() {
    let w = World::new();
    let names = fleet(&w, 20);
    let server = Server::start(w.router.clone(), ServeOptions::new(w.shed.clone())).await;
    let mut held = Vec::new();
    for _ in 0..600 {
        let mut stream = server.connect().await;
        stream
            .write_all(head(&w.key("db"), "Content-Length: 1000\r\n").as_bytes())
            .await
            .unwrap();
        held.push(stream);
    }
    timeout(PATIENCE, async {
        while w.rejections("too-often") < 500.0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("one key opened more than its rate");
    for name in &names {
        let got = report_on(server.connect().await, &whole(&w.key(name), 1.0)).await;
        assert!(got.contains("\"accepted\":1"), "{got}");
    }
    assert!(w.shed.take().is_empty());
    drop(held);
    server.end().await;
}
