//! Clients over real sockets that are slow, endless, many, or gone.

use crate::support::{MACHINE, World};
use crate::wire::{PATIENCE, Server, Tls, answer, drip, head, options, quick_bodies, rest, whole};
use axum::Router;
use axum::routing::get;
use defib::heartbeat::receiver::MAX_BODY;
use defib::heartbeat::server::ServeOptions;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn a_first_head_that_never_ends_costs_a_connection_for_its_deadline_only() {
    let w = World::new();
    let idle_for_ever = ServeOptions {
        idle_deadline: 10 * PATIENCE,
        ..options()
    };
    let server = Server::start(w.router.clone(), idle_for_ever).await;
    let mut silent = server.connect().await;
    assert_eq!(rest(&mut silent).await, "", "a client that says nothing");
    let (mut read, write) = server.connect().await.into_split();
    let dripping = tokio::spawn(drip(write, head(&w.key("db"), &"X-Slow: yes\r\n".repeat(1000))));
    assert_eq!(rest(&mut read).await, "");
    timeout(PATIENCE, dripping).await.unwrap().unwrap();
    server.end().await;
}

#[tokio::test]
async fn a_later_head_that_never_ends_is_cut_off_although_it_moves() {
    let w = World::new();
    let server = Server::start(w.router.clone(), options()).await;
    let mut stream = server.connect().await;
    stream.write_all(whole(&w.key("db"), 1.0).as_bytes()).await.unwrap();
    answer(&mut stream).await;
    let (mut read, write) = stream.into_split();
    let dripping = tokio::spawn(drip(write, head(&w.key("db"), &"X-Slow: yes\r\n".repeat(1000))));
    assert!(!rest(&mut read).await.contains("200 OK"));
    timeout(PATIENCE, dripping).await.unwrap().unwrap();
    server.end().await;
}

#[tokio::test]
async fn a_slow_body_and_an_endless_one_end_in_408_and_413() {
    let w = World::with_limits(quick_bodies());
    let server = Server::start(w.router.clone(), options()).await;
    let key = w.key("db");

    let mut stalled = server.connect().await;
    stalled.write_all(head(&key, "Content-Length: 100\r\n").as_bytes()).await.unwrap();
    let got = rest(&mut stalled).await;
    assert!(got.starts_with("HTTP/1.1 408") && got.contains("slow-body"), "{got}");
    assert!(w.seen("db").last_life.is_some(), "its key was right, so it lives");

    let (mut read, mut write) = server.connect().await.into_split();
    write.write_all(head(&key, "Content-Length: 100000\r\n").as_bytes()).await.unwrap();
    let dripping = tokio::spawn(drip(write, String::new()));
    // Who never stops to send is cut off, and may then not see the answer.
    let got = rest(&mut read).await;
    assert!(got.is_empty() || got.starts_with("HTTP/1.1 408"), "{got}");
    timeout(PATIENCE, dripping).await.unwrap().unwrap();
    assert_eq!(w.rejections("slow-body"), 2.0);
    server.end().await;

    let patient = World::new();
    let server = Server::start(patient.router.clone(), options()).await;
    let (mut read, mut write) = server.connect().await.into_split();
    write
        .write_all(head(&key, "Transfer-Encoding: chunked\r\n").as_bytes())
        .await
        .unwrap();
    let flood = tokio::spawn(async move {
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while write.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    let got = rest(&mut read).await;
    assert!(got.is_empty() || got.starts_with("HTTP/1.1 413"), "{got}");
    timeout(PATIENCE, flood).await.unwrap().unwrap();
    assert_eq!(patient.rejections("large-body"), 1.0);
    server.end().await;
}

#[tokio::test]
async fn the_sender_of_a_large_body_reads_why_it_was_refused() {
    let w = World::new();
    let server = Server::start(w.router.clone(), options()).await;
    let size = 3 * MAX_BODY;
    let announced = head(&w.key("db"), &format!("Content-Length: {size}\r\n")) + &" ".repeat(size);
    let chunked = head(&w.key("db"), "Transfer-Encoding: chunked\r\n") + &format!("{size:x}\r\n{}\r\n0\r\n\r\n", " ".repeat(size));
    for text in [announced, chunked] {
        let mut stream = server.connect_with_small_buffer().await;
        stream.write_all(text.as_bytes()).await.expect("the body was not read to its end");
        let got = answer(&mut stream).await;
        assert!(got.starts_with("HTTP/1.1 413") && got.contains("large-body"), "{got}");
    }
    // Who asks first, as curl does, is spared the sending.
    let mut asks = server.connect().await;
    let expects = format!("Content-Length: {size}\r\nExpect: 100-continue\r\n");
    asks.write_all(head(&w.key("db"), &expects).as_bytes()).await.unwrap();
    let got = answer(&mut asks).await;
    assert!(got.starts_with("HTTP/1.1 413"), "{got}");
    server.end().await;
}

#[tokio::test]
async fn heads_that_are_too_large_or_no_http_are_no_error_of_ours() {
    let w = World::new();
    let server = Server::start(w.router.clone(), options()).await;
    let large = head(&w.key("db"), &format!("X-Large: {}\r\n", "x".repeat(100_000)));
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    for text in [
        large,
        head(&w.key("db"), &many),
        "\x16\x03\x01 hello\r\n\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
    ] {
        let (mut read, mut write) = server.connect().await.into_split();
        let sender = tokio::spawn(async move {
            let _ = write.write_all(text.as_bytes()).await;
            write
        });
        let got = rest(&mut read).await;
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 4"), "{got}");
        sender.await.unwrap();
    }
    let mut good_one = server.connect().await;
    good_one.write_all(whole(&w.key("db"), 1.0).as_bytes()).await.unwrap();
    assert!(answer(&mut good_one).await.contains("\"accepted\":1"));
    server.end().await;
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_report_but_not_for_ever() {
    let w = World::new();
    let server = Server::start(w.router.clone(), options()).await;
    let mut stream = server.connect().await;
    for n in 0..3 {
        stream.write_all(whole(&w.key("db"), f64::from(n)).as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.contains("\"accepted\":1"));
        // Over the deadline of a first head, under that of an idle connection.
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(rest(&mut stream).await, "", "an idle connection stayed open");
    server.end().await;
}

#[tokio::test]
async fn an_answer_that_is_never_fetched_does_not_hold_its_connection() {
    let endless = get(|| async {
        let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 65_536]));
        axum::body::Body::from_stream(chunks)
    });
    let one = ServeOptions {
        max_connections: 1,
        ..options()
    };
    let server = Server::start(Router::new().route("/", endless), one).await;
    let mut greedy = server.connect().await;
    greedy.write_all(b"GET / HTTP/1.1\r\nHost: defib\r\n\r\n").await.unwrap();
    // It holds the only place, and fetches nothing. Whoever comes next is served when its connection was ended.
    let mut next = server.connect().await;
    next.write_all(b"GET / HTTP/1.1\r\nHost: defib\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    timeout(PATIENCE, next.read_exact(&mut first))
        .await
        .expect("the place was never free again")
        .unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    drop((greedy, next));
    server.end().await;
}

#[tokio::test]
async fn over_the_limit_of_connections_the_next_one_waits_and_is_served() {
    let w = World::new();
    let patient = ServeOptions {
        max_connections: 1,
        idle_deadline: PATIENCE,
        head_deadline: PATIENCE,
        ..options()
    };
    let server = Server::start(w.router.clone(), patient).await;
    let mut first = server.connect().await;
    first.write_all(whole(&w.key("db"), 1.0).as_bytes()).await.unwrap();
    answer(&mut first).await;
    let mut second = server.connect().await;
    second.write_all(whole(&w.key("web"), 1.0).as_bytes()).await.unwrap();
    // The first one holds its place: a further report on it is answered while the second waits.
    first.write_all(whole(&w.key("db"), 2.0).as_bytes()).await.unwrap();
    answer(&mut first).await;
    assert!(w.seen("web").report.is_none());
    drop(first);
    assert!(answer(&mut second).await.contains("\"accepted\":1"));
    drop(second);
    server.end().await;
}

#[tokio::test]
async fn the_shutdown_answers_what_is_under_way_and_cuts_off_the_rest() {
    let w = World::new();
    let (entered, mut enters) = tokio::sync::mpsc::channel::<()>(1);
    let release = Arc::new(tokio::sync::Notify::new());
    let held = release.clone();
    let came = entered.clone();
    let wait = get(move || async move {
        came.send(()).await.unwrap();
        held.notified().await;
        "done"
    });
    let never = get(move || async move {
        entered.send(()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let router = w.router.clone().route("/wait", wait).route("/never", never);
    let server = Server::start(
        router,
        ServeOptions {
            drain_deadline: Duration::from_secs(2),
            idle_deadline: 10 * PATIENCE,
            ..options()
        },
    )
    .await;
    let mut idle = server.connect().await;
    idle.write_all(whole(&w.key("db"), 1.0).as_bytes()).await.unwrap();
    answer(&mut idle).await;
    let mut waiting = server.connect().await;
    waiting.write_all(b"GET /wait HTTP/1.1\r\nHost: defib\r\n\r\n").await.unwrap();
    timeout(PATIENCE, enters.recv()).await.unwrap();
    let mut stuck = server.connect().await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nHost: defib\r\n\r\n").await.unwrap();
    timeout(PATIENCE, enters.recv()).await.unwrap();

    server.stop.cancel();
    assert_eq!(rest(&mut idle).await, "", "an idle connection is closed at once");
    release.notify_one();
    assert!(rest(&mut waiting).await.ends_with("done"));
    assert_eq!(rest(&mut stuck).await, "");
    timeout(PATIENCE, server.task).await.expect("the server did not stop").unwrap();
}

#[tokio::test]
async fn reports_come_over_tls_too_and_a_client_that_never_shakes_hands_is_dropped() {
    let tls = Tls::new().await;
    let w = World::new();
    let server = Server::start(w.router.clone(), tls.options(options())).await;
    let mut stream = tls.shake_hands(server.connect().await).await.unwrap();
    stream.write_all(whole(&w.key("db"), 1.0).as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.contains("\"accepted\":1"));
    assert_eq!(w.seen("db").report.unwrap().1.machine_uuid, Some(MACHINE.parse().unwrap()));
    assert_eq!(rest(&mut server.connect().await).await, "");
    server.end().await;
}
