use super::*;
use crate::clock::Clock;
use crate::heartbeat::keys::{KeyRing, Master};
use crate::heartbeat::ledger::Ledger;
use crate::heartbeat::receiver::{self, Limits, PATH};
use crate::heartbeat::server::{CertificateFiles, ServeOptions, listen, serve};
use crate::metrics::Metrics;
use axum::Router;
use axum::response::Redirect;
use axum::routing::post;
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A Defib, as far as its own reports see it.
struct Defib {
    keys: watch::Sender<Arc<KeyRing>>,
    serving: Serving,
    witness: Witness,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Defib {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        let serving = Serving::default();
        serving.set(true);
        Self {
            keys: watch::channel(Arc::new(KeyRing::new(Master::from_bytes(&[1; 32]).unwrap(), None))).0,
            serving,
            witness: Witness::new(Clock::new(), metrics.clone()),
            metrics,
            stop: CancellationToken::new(),
        }
    }

    fn router(&self) -> Router {
        let parts = receiver::Parts {
            ledger: Arc::new(Ledger::default()),
            keys: self.keys.subscribe(),
            serving: self.serving.clone(),
            sink: Arc::new(self.witness.clone()),
            metrics: self.metrics.reports.clone(),
            clock: Clock::new(),
        };
        receiver::router(parts, Limits::default())
    }

    /// What listens there, and its port.
    fn listen(&self, router: Router, tls: Option<CertificateFiles>) -> u16 {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut options = ServeOptions::new(Arc::new(self.witness.clone()));
        options.tls = tls.map(|files| files.acceptor().unwrap());
        tokio::spawn(serve(listener, router, options, self.stop.clone()));
        port
    }

    fn canary(&self, base: &str, ca_file: Option<PathBuf>) -> Canary {
        let url = format!("{base}{PATH}");
        Canary::through(url, ca_file, self.keys.subscribe(), self.serving.clone(), self.witness.clone()).unwrap()
    }

    async fn report(&self, port: u16) -> Result<bool, String> {
        self.canary(&format!("http://127.0.0.1:{port}"), None).report().await
    }
}

#[tokio::test]
async fn only_what_comes_to_this_process_counts() {
    let defib = Defib::new();
    let port = defib.listen(defib.router(), None);
    assert_eq!(defib.report(port).await, Ok(true));

    let other = Defib::new();
    let elsewhere = other.listen(other.router(), None);
    let said = defib.report(elsewhere).await.unwrap_err();
    assert!(said.contains("somebody else answers"), "another Defib with the same keys: {said}");

    let page = defib.listen(Router::new().fallback(|| async { "<form>sign in</form>" }), None);
    let said = defib.report(page).await.unwrap_err();
    assert!(said.contains("somebody else answers"), "a page: {said}");

    let away = Router::new().route(
        PATH,
        post(move || async move { Redirect::temporary(&format!("http://127.0.0.1:{port}{PATH}")) }),
    );
    let said = defib.report(defib.listen(away, None)).await.unwrap_err();
    assert!(said.contains("307"), "it goes elsewhere: {said}");

    let gone = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let port_of_nobody = gone.local_addr().unwrap().port();
    drop(gone);
    let said = defib.report(port_of_nobody).await.unwrap_err();
    assert!(said.contains("onnection refused"), "nobody: {said}");
    assert!(!said.contains("http://"), "the address is told by whoever knows it: {said}");
}

#[tokio::test]
async fn there_is_nothing_to_prove_while_no_report_would_be_taken() {
    let defib = Defib::new();
    let port = defib.listen(defib.router(), None);
    defib.serving.set(false);
    assert_eq!(defib.report(port).await, Ok(false));
}

#[tokio::test]
async fn a_private_authority_is_believed_when_it_is_named_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(path("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(path("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let defib = Defib::new();
    let files = CertificateFiles::load(path("tls.crt"), path("tls.key")).await.unwrap();
    let base = format!("https://localhost:{}", defib.listen(defib.router(), Some(files)));

    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(path("ca.crt"), stranger.cert.pem()).unwrap();
    let canary = defib.canary(&base, Some(path("ca.crt")));
    let said = canary.clone().report().await.unwrap_err();
    assert!(said.contains("certificate"), "of another authority: {said}");
    std::fs::write(path("ca.crt"), made.cert.pem()).unwrap();
    assert_eq!(canary.clone().report().await, Ok(true), "the file was renewed");
    std::fs::write(path("ca.crt"), "nothing").unwrap();
    let said = canary.report().await.unwrap_err();
    assert!(said.contains("no usable certificate"), "{said}");

    let refused = Canary::through(
        base,
        Some(path("absent")),
        defib.keys.subscribe(),
        defib.serving.clone(),
        defib.witness.clone(),
    );
    let said = refused.err().unwrap().to_string();
    assert!(said.contains("--public-url") && said.contains("absent"), "{said}");
}
