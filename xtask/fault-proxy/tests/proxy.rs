//! What a client and a server see of each other through the proxy, and what a rule makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail their test")]

use bytes::Bytes;
use fault_proxy::{Act, Faults, Moment, Proxy, Rule, Service, Upstream};
use http::{Method, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::convert::Infallible;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// No step takes as long when all is well.
const PATIENCE: Duration = Duration::from_secs(20);
/// After this long without a request the server closes.
const IDLE: Duration = Duration::from_millis(300);

/// A server that tells what it heard, and answers a watch with what the test sends.
struct Server {
    upstream: Upstream,
    heard: Arc<Mutex<Vec<String>>>,
    events: mpsc::UnboundedSender<&'static str>,
}

async fn server(service: Service) -> Server {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (events, told) = mpsc::unbounded_channel();
    let told = Arc::new(Mutex::new(Some(told)));
    let list = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, list, told) = (acceptor.clone(), list.clone(), told.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| answer(request, list.clone(), told.clone()));
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(IDLE)
                    .serve_connection(TokioIo::new(stream), service);
                let _ = served.await;
            });
        }
    });
    let upstream = Upstream {
        service,
        address,
        ca_pem: certificate.pem(),
    };
    Server { upstream, heard, events }
}

type Told = Arc<Mutex<Option<mpsc::UnboundedReceiver<&'static str>>>>;

async fn answer(
    request: http::Request<Incoming>,
    heard: Arc<Mutex<Vec<String>>>,
    told: Told,
) -> Result<http::Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    heard
        .lock()
        .unwrap()
        .push(format!("{method} {uri} {}", String::from_utf8_lossy(&body)));
    if uri.query().is_some_and(|q| q.contains("watch=true")) {
        let told = told.lock().unwrap().take().expect("one watch a test");
        let frames = futures::stream::unfold(told, |mut told| async {
            let text = told.recv().await?;
            Some((Ok(Frame::data(Bytes::from(text))), told))
        });
        return Ok(http::Response::new(BodyExt::boxed(StreamBody::new(frames))));
    }
    let mut answer = http::Response::new(Full::new(Bytes::from("the answer")).boxed());
    if uri.path() == "/odd" {
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer.extensions_mut().insert(ReasonPhrase::from_static(b"VM 101 not running"));
    }
    Ok(answer)
}

async fn proxied(service: Service) -> (Server, Proxy, Faults, reqwest::Client) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = server(service).await;
    let faults = Faults::default();
    let proxy = Proxy::start(server.upstream.clone(), faults.clone()).await.unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .tls_certs_only([reqwest::Certificate::from_pem(proxy.ca_pem().as_bytes()).unwrap()])
        .build()
        .unwrap();
    (server, proxy, faults, client)
}

fn heard(server: &Server) -> Vec<String> {
    server.heard.lock().unwrap().clone()
}

#[tokio::test]
async fn what_no_rule_meets_passes_unchanged_and_is_recorded() {
    let (server, proxy, faults, client) = proxied(Service::Proxmox).await;
    let answer = client
        .post(format!("{}/odd?a=b", proxy.url()))
        .body("the body")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let extensions: &http::Extensions = answer.extensions();
    let reason = extensions.get::<ReasonPhrase>().map(|r| r.as_bytes().to_vec());
    assert_eq!(
        reason.as_deref(),
        Some(&b"VM 101 not running"[..]),
        "Proxmox VE says in the reason phrase what went wrong"
    );
    assert_eq!(answer.text().await.unwrap(), "the answer");
    assert_eq!(heard(&server), ["POST /odd?a=b the body"]);
    let record = faults.record();
    assert_eq!(record.len(), 1);
    assert_eq!((record[0].number, record[0].forwarded, record[0].status), (1, true, Some(500)));
    assert!(record[0].request.is_write() && record[0].request.method == Method::POST);
}

#[tokio::test]
async fn the_process_is_killed_before_the_server_hears_or_after_it_has_answered() {
    for (moment, heard_of) in [(Moment::Before, 1), (Moment::After, 2)] {
        let (server, proxy, faults, client) = proxied(Service::Kubernetes).await;
        let mut process = Command::new("sleep").arg("60").spawn().unwrap();
        faults.target(process.id());
        let rule = faults.add(Rule::new(moment, Act::Kill).skip(1).matching(fault_proxy::Request::is_write));
        let write = || client.post(proxy.url()).body("x").send();
        client.get(proxy.url()).send().await.unwrap();
        write().await.unwrap();
        assert_eq!(faults.fired(rule), 0, "a reading is no write, and one write passes");
        assert!(write().await.is_err(), "who is dead gets no answer");
        assert_eq!(faults.fired(rule), 1);
        assert_eq!(process.wait().unwrap().signal(), Some(9));
        assert_eq!(heard(&server).iter().filter(|line| line.starts_with("POST")).count(), heard_of);
        write().await.unwrap();
    }
}

#[tokio::test]
async fn answers_are_lost_replaced_held_and_late() {
    let (server, proxy, faults, client) = proxied(Service::Kubernetes).await;
    let write = || client.post(proxy.url()).send();
    faults.add(Rule::new(Moment::After, Act::Drop));
    assert!(write().await.is_err());
    assert_eq!(heard(&server).len(), 1, "the server did it, and the answer was lost");

    faults.add(Rule::new(Moment::Before, Act::Answer(StatusCode::CONFLICT)));
    let refused = write().await.unwrap();
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    assert!(refused.text().await.unwrap().contains(r#""reason":"Conflict""#));
    assert_eq!(heard(&server).len(), 1, "the server did not hear of it");

    let held = faults.add(Rule::new(Moment::Before, Act::Hold));
    let waiting = tokio::spawn(write());
    timeout(PATIENCE, async {
        while faults.fired(held) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(heard(&server).len(), 1);
    faults.clear();
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(heard(&server).len(), 2);
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_closed() {
    use tokio::io::AsyncReadExt;
    let (_server, proxy, _faults, _) = proxied(Service::Proxmox).await;
    let address = proxy.url().replace("https://", "");
    let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let ca = <rustls_pki_types::CertificateDer as rustls_pki_types::pem::PemObject>::from_pem_slice(proxy.ca_pem().as_bytes());
    roots.add(ca.unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, tcp).await.unwrap();
    // Nothing was asked: the server gives up, and so the client sees the end.
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the connection stays open though the server has closed it");
}

#[tokio::test]
async fn a_watch_is_held_and_cut() {
    let (server, proxy, faults, client) = proxied(Service::Kubernetes).await;
    let mut watch = client.get(format!("{}/api?watch=true", proxy.url())).send().await.unwrap();
    server.events.send("first").unwrap();
    assert_eq!(timeout(PATIENCE, watch.chunk()).await.unwrap().unwrap().unwrap(), "first");
    faults.hold_watches(true);
    server.events.send("second").unwrap();
    assert!(
        timeout(Duration::from_millis(300), watch.chunk()).await.is_err(),
        "what is held does not come"
    );
    faults.hold_watches(false);
    assert_eq!(timeout(PATIENCE, watch.chunk()).await.unwrap().unwrap().unwrap(), "second");
    faults.cut_watches();
    assert!(timeout(PATIENCE, watch.chunk()).await.unwrap().is_err(), "a cut ends it");
}
