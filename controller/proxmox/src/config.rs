//! What a client must be told, checked where it is said so that the message can name the fault.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;
use reqwest::Url;
use rustls::pki_types::ServerName;

use crate::trust::Trust;

/// How many requests may be under way at one node unless said otherwise. A node has three
/// synchronous `pvedaemon` workers; two leave one for the people who use its web page.
pub const DEFAULT_REQUESTS_PER_NODE: usize = 2;

/// How many requests may be under way at all nodes together, and the most that may be asked for one.
pub const MAX_REQUESTS: usize = 8;

/// The most endpoints of one cluster: more would only lengthen the wait until all have failed.
pub const MAX_ENDPOINTS: usize = 16;

/// What a [`Client`](crate::Client) must know of its cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// API endpoints of the cluster, tried in this order. At least one, at most [`MAX_ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// The API token all requests are made with.
    pub token: ApiToken,
    /// How the endpoints prove who they are.
    pub trust: Trust,
    /// Requests under way at one node, 1 to [`MAX_REQUESTS`]; see [`DEFAULT_REQUESTS_PER_NODE`].
    pub max_requests_per_node: usize,
}

impl Config {
    /// A configuration with the default number of requests for each node.
    pub fn new(endpoints: Vec<Endpoint>, token: ApiToken, trust: Trust) -> Self {
        Self {
            endpoints,
            token,
            trust,
            max_requests_per_node: DEFAULT_REQUESTS_PER_NODE,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::NoEndpoints);
        }
        if self.endpoints.len() > MAX_ENDPOINTS {
            return Err(ConfigError::TooManyEndpoints(self.endpoints.len()));
        }
        if !(1..=MAX_REQUESTS).contains(&self.max_requests_per_node) {
            return Err(ConfigError::RequestsPerNode(self.max_requests_per_node));
        }
        Ok(())
    }
}

/// One address of the Proxmox API, such as `https://pve1.example.com:8006`.
///
/// Without a port it is 443, as in any https URL: Proxmox itself listens on 8006.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    base: Url,
    authority: String,
    server_name: ServerName<'static>,
}

impl Endpoint {
    /// `host:port`, as it goes into the `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// The URL of an API path. Segments are percent-encoded, so that none can become two.
    pub(crate) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(["api2", "json"]).extend(segments);
        }
        url
    }

    /// Whether this endpoint's name says that it is the API of that node: the host's first label is
    /// the node's name, as Proxmox's own certificates have it.
    pub(crate) fn is_named_after(&self, node: &str) -> bool {
        matches!(self.server_name, ServerName::DnsName(_))
            && self
                .base
                .host_str()
                .and_then(|host| host.split('.').next())
                .is_some_and(|label| label.eq_ignore_ascii_case(node))
    }

    /// The host is this IP address.
    pub(crate) fn has_address(&self, ip: &str) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']').eq_ignore_ascii_case(ip)
    }
}

impl FromStr for Endpoint {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let shown = || crate::text::clean(text);
        let base = Url::parse(text.trim()).map_err(|error| ConfigError::BadUrl {
            url: shown(),
            detail: error.to_string(),
        })?;
        if !base.username().is_empty() || base.password().is_some() {
            // Not shown: whoever wrote this may have put a password there.
            return Err(ConfigError::UrlWithCredentials);
        }
        if base.scheme() != "https" {
            return Err(ConfigError::NotHttps { url: shown() });
        }
        if !matches!(base.path(), "" | "/") || base.query().is_some() || base.fragment().is_some() {
            return Err(ConfigError::UrlWithPath { url: shown() });
        }
        let bad_host = || ConfigError::BadUrl {
            url: shown(),
            detail: "it names no host".into(),
        };
        let host = base.host_str().filter(|host| !host.is_empty()).ok_or_else(bad_host)?;
        let port = base.port_or_known_default().ok_or_else(bad_host)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = ServerName::try_from(bare).map_err(|error| ConfigError::BadUrl {
            url: shown(),
            detail: error.to_string(),
        })?;
        Ok(Self {
            authority: format!("{host}:{port}"),
            server_name,
            base,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A Proxmox API token: its id `user@realm!name`, and the secret that was shown once when it was made.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken {
    id: String,
    secret: String,
}

impl ApiToken {
    /// Checks both parts. White space around them is dropped: Secrets are often made from files that
    /// end in a newline.
    ///
    /// # Errors
    /// [`ConfigError::BadTokenId`] or [`ConfigError::BadTokenSecret`]; neither shows the secret.
    pub fn new(id: &str, secret: &str) -> Result<Self, ConfigError> {
        let (id, secret) = (id.trim(), secret.trim());
        let bad = |detail| ConfigError::BadTokenId {
            id: crate::text::clean(id),
            detail,
        };
        if id.len() > 256 {
            return Err(bad("it is longer than 256 bytes"));
        }
        if !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("it has a space or a character that is not ASCII"));
        }
        // A whole token pasted into the id's place must not be shown.
        if id.contains('=') {
            return Err(ConfigError::TokenIdWithSecret);
        }
        let (user, name) = id.rsplit_once('!').ok_or_else(|| bad("there is no '!'"))?;
        let (account, realm) = user.rsplit_once('@').ok_or_else(|| bad("there is no '@realm'"))?;
        if account.is_empty() || realm.is_empty() || name.is_empty() {
            return Err(bad("user, realm and name must not be empty"));
        }
        if id.contains(['/', ':']) {
            return Err(bad("'/' and ':' are not allowed"));
        }
        if secret.is_empty() {
            return Err(ConfigError::BadTokenSecret("it is empty"));
        }
        if secret.len() > 256 || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError::BadTokenSecret("it is not one word of ASCII characters"));
        }
        Ok(Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// `user@realm!name`, as it stands in a UPID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The value of the `Authorization` header, marked so that nothing prints it.
    pub(crate) fn authorization(&self) -> Result<HeaderValue, ConfigError> {
        // Proxmox undoes percent-encoding in this header, so a '%' must be encoded to survive.
        let value = format!("PVEAPIToken={}={}", self.id, self.secret).replace('%', "%25");
        let mut value = HeaderValue::try_from(value).map_err(|_| ConfigError::BadTokenSecret("it cannot stand in an HTTP header"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Takes the secret out of text that came back from a server.
    pub(crate) fn redact(&self, text: String) -> String {
        if text.contains(&self.secret) {
            text.replace(&self.secret, "[redacted]")
        } else {
            text
        }
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiToken")
            .field("id", &self.id)
            .field("secret", &"[redacted]")
            .finish()
    }
}

/// Why a [`Config`] cannot be used. Nothing was sent anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ConfigError {
    #[error("no endpoint is given: name at least one, such as https://pve1.example.com:8006")]
    NoEndpoints,
    #[error("{0} endpoints are given, at most {MAX_ENDPOINTS} can be used")]
    TooManyEndpoints(usize),
    #[error("endpoint {url:?} is not a URL: {detail}; write it as https://pve1.example.com:8006")]
    BadUrl { url: String, detail: String },
    #[error("endpoint {url:?} is not https: the API token would travel unencrypted")]
    NotHttps { url: String },
    #[error("endpoint {url:?} has a path, query or fragment: give only https://host:port")]
    UrlWithPath { url: String },
    #[error("an endpoint has a user name or a password in it: give only https://host:port")]
    UrlWithCredentials,
    #[error("token id {id:?} is not of the form user@realm!name: {detail}")]
    BadTokenId { id: String, detail: &'static str },
    #[error("the token id has a '=' in it: give user@realm!name here and the secret separately")]
    TokenIdWithSecret,
    #[error("the token's secret cannot be used: {0}")]
    BadTokenSecret(&'static str),
    #[error("{0} requests for each node are asked for, 1 to {MAX_REQUESTS} are possible")]
    RequestsPerNode(usize),
    #[error("the CA file holds no certificate: it must have a PEM block BEGIN CERTIFICATE, as /etc/pve/pve-root-ca.pem has")]
    NoCaCertificate,
    #[error("the CA file cannot be used: {0}")]
    BadCaCertificate(String),
    #[error("fingerprint {text:?} is not a SHA-256: write 32 bytes in hexadecimal, as AA:BB:…")]
    BadFingerprint { text: String },
    #[error("no fingerprint is given")]
    NoFingerprints,
    #[error("this system has no certificate authorities to trust: {0}")]
    NoSystemCertificates(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}
