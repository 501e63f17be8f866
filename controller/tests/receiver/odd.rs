//! Clients that speak something else than they should, or the right thing in an odd way.

use crate::support::{World, good};
use crate::wire::{PATIENCE, Server, Tls, answer, drip, head, options, quick_bodies, rest, whole};
use defib::heartbeat::receiver::PATH;
use defib::heartbeat::server::ServeOptions;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// The server is well: a good report on a new connection is taken.
async fn serves(server: &Server, w: &World, uptime: f64) {
    let mut stream = server.connect().await;
    stream.write_all(whole(&w.key("web"), uptime).as_bytes()).await.unwrap();
    let got = answer(&mut stream).await;
    assert!(got.contains("\"accepted\":1"), "{got}");
}

#[tokio::test]
async fn pipelined_reports_are_answered_in_turn_and_by_the_rate() {
    let w = World::new();
    let server = Server::start(w.router.clone(), options()).await;
    let (mut read, mut write) = server.connect().await.into_split();
    let burst: String = (0..50).map(|n| whole(&w.key("db"), f64::from(n))).collect();
    write.write_all(burst.as_bytes()).await.unwrap();
    let got = rest(&mut read).await;
    // Answers follow each other without an end of line.
    let statuses: Vec<&str> = got.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.lines().next()).collect();
    assert_eq!(statuses.len(), 50);
    let (taken, limited) = statuses.split_at(20);
    assert!(taken.iter().all(|s| *s == "200 OK"), "{taken:?}");
    assert!(limited.iter().all(|s| *s == "429 Too Many Requests"), "{limited:?}");
    assert!(w.shed.take().is_empty());
    server.end().await;
}

#[tokio::test]
async fn whoever_pipelines_and_reads_nothing_is_cut_off() {
    let w = World::new();
    let one = ServeOptions {
        max_connections: 1,
        ..options()
    };
    let server = Server::start(w.router.clone(), one).await;
    let (greedy, write) = server.connect_with_small_buffer().await.into_split();
    let mut write = write;
    let flood = tokio::spawn(async move {
        let requests = format!("GET {PATH} HTTP/1.1\r\nHost: defib\r\n\r\n").repeat(1_000);
        while write.write_all(requests.as_bytes()).await.is_ok() {}
    });
    // It holds the only place.
    serves(&server, &w, 1.0).await;
    timeout(PATIENCE, flood).await.expect("the flood was read for ever").unwrap();
    drop(greedy);
    server.end().await;
}

#[tokio::test]
async fn a_chunked_body_that_never_comes_to_an_end_does() {
    let w = World::with_limits(quick_bodies());
    let server = Server::start(w.router.clone(), options()).await;
    let start = head(&w.key("db"), "Transfer-Encoding: chunked\r\n");
    let extension = format!("1;{}", "x".repeat(200));
    for (name, begin, more) in [
        ("tiny chunks", String::new(), "1\r\n[\r\n".to_owned()),
        ("an endless extension", "1;".into(), extension),
        ("an endless size", String::new(), "0".into()),
        ("endless trailers", "0\r\n".into(), "X-Trailer: yes\r\n".into()),
        ("no chunk at all", "zz\r\n".into(), "\r\n".into()),
    ] {
        let (mut read, mut write) = server.connect().await.into_split();
        write.write_all(format!("{start}{begin}").as_bytes()).await.unwrap();
        let flood = tokio::spawn(async move {
            while write.write_all(more.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let got = rest(&mut read).await;
        let fair = ["", "HTTP/1.1 400", "HTTP/1.1 408", "HTTP/1.1 413"];
        assert!(
            fair.iter().any(|f| if f.is_empty() { got.is_empty() } else { got.starts_with(f) }),
            "{name}: {got}"
        );
        timeout(PATIENCE, flood)
            .await
            .unwrap_or_else(|_| panic!("{name} was read for ever"))
            .unwrap();
    }
    serves(&server, &w, 1.0).await;
    server.end().await;
}

#[tokio::test]
async fn who_asks_before_sending_is_told_to_go_on_and_must_then_send() {
    let w = World::with_limits(quick_bodies());
    let server = Server::start(w.router.clone(), options()).await;
    let body = good(1.0).to_string();
    let expects = head(&w.key("db"), &format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len()));
    let mut asks = server.connect().await;
    asks.write_all(expects.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    timeout(PATIENCE, asks.read_exact(&mut go_on)).await.unwrap().unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    asks.write_all(body.as_bytes()).await.unwrap();
    let got = answer(&mut asks).await;
    assert!(got.contains("\"accepted\":1"), "{got}");

    let mut never_sends = server.connect().await;
    never_sends.write_all(expects.as_bytes()).await.unwrap();
    let got = rest(&mut never_sends).await;
    assert!(got.contains("HTTP/1.1 408"), "{got}");
    // Whose key is wrong is not even told to go on.
    let mut stranger = server.connect().await;
    stranger.write_all(expects.replace("_db_", "_web_").as_bytes()).await.unwrap();
    let got = answer(&mut stranger).await;
    assert!(got.starts_with("HTTP/1.1 401"), "{got}");
    server.end().await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_or_resets_leaves_nothing_behind() {
    let w = World::new();
    let server = Server::start(w.router.clone(), options()).await;
    let (mut read, mut write) = server.connect().await.into_split();
    write.write_all(whole(&w.key("db"), 1.0).as_bytes()).await.unwrap();
    write.shutdown().await.unwrap();
    let got = rest(&mut read).await;
    assert!(got.is_empty() || got.contains("\"accepted\":1"), "{got}");
    for half in [head(&w.key("db"), "Content-Length: 100\r\n") + "{", "POST /api".into()] {
        let mut stream = server.connect().await;
        stream.write_all(half.as_bytes()).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
    }
    serves(&server, &w, 1.0).await;
    timeout(PATIENCE, async {
        while w.metric("defib_report_requests_in_flight", None) > 0.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a request whose client is gone is still counted");
    server.end().await;
}

/// A ClientHello as OpenSSL begins one; what follows is left out.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[tokio::test]
async fn on_the_wrong_port_or_in_another_protocol_nobody_is_served_and_nobody_waits() {
    let tls = Tls::new().await;
    let (w, secure) = (World::new(), World::new());
    let plain = Server::start(w.router.clone(), options()).await;
    let encrypted = Server::start(secure.router.clone(), tls.options(options())).await;
    let garbage: Vec<u8> = (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let texts: [(&str, Vec<u8>); 7] = [
        ("a report", whole(&w.key("db"), 1.0).into_bytes()),
        ("a TLS hello", CLIENT_HELLO.to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("HTTP/0.9", b"GET /\r\n".to_vec()),
        ("garbage", garbage),
        ("zeros", vec![0; 100_000]),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ];
    for (name, text) in texts {
        for (server, port) in [(&plain, "plain"), (&encrypted, "TLS")] {
            if (name, port) == ("a report", "plain") {
                continue;
            }
            let (mut read, mut write) = server.connect().await.into_split();
            let text = text.clone();
            let sender = tokio::spawn(async move {
                let _ = write.write_all(&text).await;
                write
            });
            let got = rest(&mut read).await;
            assert!(!got.contains("200 OK"), "{name} on the {port} port: {got}");
            sender.await.unwrap();
        }
    }
    // The other way round: a client that wants TLS, on the plain port.
    let refused = timeout(PATIENCE, tls.shake_hands(plain.connect().await)).await.expect("it waits");
    assert!(refused.is_err());
    serves(&plain, &w, 1.0).await;
    let mut stream = tls.shake_hands(encrypted.connect().await).await.unwrap();
    stream.write_all(whole(&secure.key("web"), 1.0).as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.contains("\"accepted\":1"));
    assert!(w.shed.take().is_empty() && secure.shed.take().is_empty());
    plain.end().await;
    encrypted.end().await;
}

#[tokio::test]
async fn a_handshake_that_drips_is_cut_off_although_it_moves() {
    let tls = Tls::new().await;
    let w = World::new();
    let server = Server::start(w.router.clone(), tls.options(options())).await;
    let (mut read, mut write) = server.connect().await.into_split();
    write.write_all(CLIENT_HELLO).await.unwrap();
    let dripping = tokio::spawn(drip(write, "\0".repeat(10_000)));
    rest(&mut read).await;
    timeout(PATIENCE, dripping).await.unwrap().unwrap();
    server.end().await;
}
