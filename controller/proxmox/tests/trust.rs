//! Who is trusted, and what a configuration must be.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows test functions, not their helpers")]

mod support;

use defib_proxmox::{ApiToken, Client, Config, ConfigError, Endpoint, Error, Fingerprint, Trust};
use support::{Authority, SECRET, Server, client, json, token};

fn server() -> Server {
    Server::always(json(r#"{"version":"9.2.11"}"#))
}

async fn is_trusted(server: &Server, endpoint: Endpoint, trust: Trust) -> bool {
    let client = client(vec![endpoint], trust);
    let (read, opened) = (client.version().await, client.open(None).await);
    for error in [read.as_ref().err(), opened.as_ref().err()].into_iter().flatten() {
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    }
    assert_eq!(read.is_ok(), opened.is_ok(), "reads and power actions trust alike");
    assert_eq!(server.requests().len(), usize::from(read.is_ok()), "nothing is sent to a stranger");
    read.is_ok()
}

#[tokio::test]
async fn an_authority_is_trusted_for_the_names_it_signed() {
    let server = server();
    assert!(is_trusted(&server, server.endpoint(), server.ca()).await);

    let server = self::server();
    let stranger = Trust::Ca(Authority::new().pem());
    assert!(!is_trusted(&server, server.endpoint(), stranger).await);

    let authority = Authority::new();
    let server = Server::with(&authority, &["pve1.lab"], support::PATIENCE, |_| json("{}"));
    assert!(!is_trusted(&server, server.endpoint(), server.ca()).await);
}

#[tokio::test]
async fn a_fingerprint_is_trusted_whatever_the_name() {
    let authority = Authority::new();
    let server = Server::with(&authority, &["pve1.lab"], support::PATIENCE, |_| json("{}"));
    let other: Fingerprint = ["AB"; 32].join(":").parse().unwrap();
    let both = Trust::Fingerprints(vec![other, server.fingerprint()]);
    assert!(is_trusted(&server, server.endpoint(), both).await);

    let server = self::server();
    assert!(!is_trusted(&server, server.endpoint(), Trust::Fingerprints(vec![other])).await);
}

#[tokio::test]
async fn everybody_is_trusted_only_when_asked_for() {
    let server = server();
    assert!(is_trusted(&server, server.endpoint(), Trust::None).await);
    let server = self::server();
    let config = Config::new(vec![server.endpoint()], token(), Trust::System);
    match Client::new(config) {
        Ok(_) => assert!(!is_trusted(&server, server.endpoint(), Trust::System).await),
        // A system without authorities trusts nobody, and says so at once.
        Err(error) => assert!(matches!(error, ConfigError::NoSystemCertificates(_)), "{error:?}"),
    }
}

#[test]
fn endpoints_are_checked() {
    let parse = |text: &str| text.parse::<Endpoint>();
    for (text, authority) in [
        ("https://pve1.example.com:8006", "pve1.example.com:8006"),
        ("https://pve1:8006/", "pve1:8006"),
        (" https://10.0.0.1:8006\n", "10.0.0.1:8006"),
        ("https://[fd00::1]:8006", "[fd00::1]:8006"),
        ("https://pve1", "pve1:443"),
    ] {
        assert_eq!(parse(text).unwrap().authority(), authority, "{text}");
    }
    for text in [
        "",
        "pve1",
        "pve1:8006",
        "https://",
        "https://pve1:80060",
        "https://pv e1:8006",
        "ftp:pve1",
    ] {
        let error = parse(text).unwrap_err();
        assert!(
            matches!(error, ConfigError::BadUrl { .. } | ConfigError::NotHttps { .. }),
            "{text}: {error:?}"
        );
    }
    assert!(matches!(parse("http://pve1:8006"), Err(ConfigError::NotHttps { .. })));
    for text in ["https://pve1:8006/api2/json", "https://pve1:8006?x=1", "https://pve1:8006/#x"] {
        assert!(matches!(parse(text), Err(ConfigError::UrlWithPath { .. })), "{text}");
    }
    let error = parse("https://root:hunter2@pve1:8006").unwrap_err();
    assert_eq!(error, ConfigError::UrlWithCredentials);
    assert!(!error.to_string().contains("hunter2"));
}

#[test]
fn tokens_are_checked() {
    assert_eq!(ApiToken::new(" svc@pve!ctl\n", &format!("{SECRET}\n")).unwrap().id(), "svc@pve!ctl");
    for id in [
        "",
        "svc@pve",
        "svc!ctl",
        "@pve!ctl",
        "svc@!ctl",
        "svc@pve!",
        "svc @pve!ctl",
        "svc@pve!c\u{e4}",
        "a/b@pve!c",
        "a:b@pve!c",
    ] {
        assert!(matches!(ApiToken::new(id, SECRET), Err(ConfigError::BadTokenId { .. })), "{id}");
    }
    let pasted = ApiToken::new(&format!("svc@pve!ctl={SECRET}"), SECRET).unwrap_err();
    assert_eq!(pasted, ConfigError::TokenIdWithSecret);
    for secret in ["", " ", "a b", "a\r\nX-Evil: 1", "\u{e4}"] {
        let error = ApiToken::new("svc@pve!ctl", secret).unwrap_err();
        assert!(matches!(error, ConfigError::BadTokenSecret(_)), "{secret:?}");
    }
    assert!(!format!("{:?}", token()).contains(SECRET));
}

#[test]
fn fingerprints_are_read_as_proxmox_and_openssl_write_them() {
    let colons = ["AB"; 32].join(":");
    for text in [
        colons.clone(),
        colons.to_lowercase(),
        "ab".repeat(32),
        format!(" sha256:{colons}\n"),
    ] {
        assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), colons, "{text}");
    }
    for text in [
        "",
        "AB",
        &"AB:".repeat(32),
        &["AB"; 31].join(":"),
        &["GG"; 32].join(":"),
        &"é".repeat(32),
        &"+1".repeat(32),
    ] {
        assert!(
            matches!(text.parse::<Fingerprint>(), Err(ConfigError::BadFingerprint { .. })),
            "{text}"
        );
    }
}

#[test]
fn clients_are_not_made_from_what_cannot_work() {
    let endpoint: Endpoint = "https://pve1:8006".parse().unwrap();
    let config = |count: usize, trust: Trust| Config::new(vec![endpoint.clone(); count], token(), trust);
    let error = |config: Config| Client::new(config).unwrap_err();
    assert_eq!(error(config(0, Trust::None)), ConfigError::NoEndpoints);
    assert_eq!(error(config(17, Trust::None)), ConfigError::TooManyEndpoints(17));
    for requests in [0, 9] {
        let config = Config {
            max_requests_per_node: requests,
            ..config(1, Trust::None)
        };
        assert_eq!(error(config), ConfigError::RequestsPerNode(requests));
    }
    assert_eq!(error(config(1, Trust::Fingerprints(Vec::new()))), ConfigError::NoFingerprints);
    let private_key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for pem in ["", "no PEM", private_key.as_str()] {
        assert_eq!(error(config(1, Trust::Ca(pem.into()))), ConfigError::NoCaCertificate);
    }
    for pem in [
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n",
    ] {
        let error = error(config(1, Trust::Ca(pem.into())));
        assert!(matches!(error, ConfigError::BadCaCertificate(_)), "{pem}: {error:?}");
    }
}
