//! Options of `defib run`: flags, each also an environment variable.

use clap::Args;
use defib_api::IntOrPercent;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Options of `defib run`.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// Where agents (and later people) reach this process.
    #[arg(long, env = "DEFIB_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where /metrics, /livez and /readyz are served.
    #[arg(long, env = "DEFIB_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    pub metrics_listen: SocketAddr,
    /// Certificate chain (PEM) for --listen. Read again when it changes.
    #[arg(long, env = "DEFIB_TLS_CERT_FILE", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key (PEM) of the certificate.
    #[arg(long, env = "DEFIB_TLS_KEY_FILE", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
    /// Serves --listen without TLS, for a proxy before it that ends TLS, or for a try on one machine: agents send their keys in the clear.
    #[arg(long, env = "DEFIB_PLAIN_HTTP", conflicts_with = "tls_cert_file")]
    pub plain_http: bool,
    /// Address at which agents reach Defib, such as <https://defib.example.com>. Defib then reports to itself through it, and while that fails after it has worked,
    /// no VM counts as silent: what lies between Defib and the agents is broken.
    #[arg(long, env = "DEFIB_PUBLIC_URL", value_parser = public_url)]
    pub public_url: Option<PublicUrl>,
    /// Certificates (PEM) of the authority that signs the certificate at --public-url, where this system does not trust it. Read again when it changes.
    #[arg(long, env = "DEFIB_PUBLIC_CA_FILE", requires = "public_url")]
    pub public_ca_file: Option<PathBuf>,
    /// Namespace of Defib itself: of its Secret `defib-keys` and its Lease.
    #[arg(long, env = "DEFIB_NAMESPACE", default_value = "defib-system")]
    pub namespace: String,
    /// Name of this process in lease and journal. It must stay the same over restarts and be used by no other process that watches the same VMs; without this
    /// option, --namespace and the name of the pod, which a StatefulSet keeps.
    #[arg(long, env = "DEFIB_IDENTITY")]
    pub identity: Option<String>,
    /// Kubernetes node on which this process runs: if that is itself a VM of Proxmox, it is never reset automatically.
    #[arg(long, env = "DEFIB_NODE_NAME")]
    pub node_name: Option<String>,
    /// Most resets under way at once in each ProxmoxCluster and in all.
    #[arg(long, env = "DEFIB_MAX_IN_FLIGHT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_in_flight: u32,
    /// With more unhealthy VMs than this in a ProxmoxCluster or in all (a count or a percentage), none is reset.
    #[arg(long, env = "DEFIB_MAX_UNHEALTHY", default_value = "20%", value_parser = int_or_percent)]
    pub max_unhealthy: IntOrPercent,
    /// Resets nothing automatically, whatever policies say: VMs are watched, and what would have been reset is recorded. Requests of people run.
    #[arg(long, env = "DEFIB_OBSERVE_ONLY")]
    pub observe_only: bool,
    /// Seconds between two readings of a ProxmoxCluster's VMs.
    #[arg(long, env = "DEFIB_POLL_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub poll_seconds: u64,
    /// Namespaces in which the HealthPolicy named `default` (mode Enforce) is created where it is absent.
    #[arg(long, env = "DEFIB_DEFAULT_POLICY_NAMESPACES", value_delimiter = ',')]
    pub default_policy_namespaces: Vec<String>,
    /// Publishes heartbeats as fast as the API server takes them. It exists to measure the publisher (`cargo xtask bench publisher`) and for nothing else:
    /// without the budget of rule 9 heartbeats crowd out the journal, in the API server that all share.
    #[arg(long, hide = true)]
    pub lift_publisher_budget: bool,
    /// Log lines as JSON.
    #[arg(long, env = "DEFIB_LOG_JSON")]
    pub log_json: bool,
}

impl RunOptions {
    /// Period of the readings of Proxmox.
    pub fn poll(&self) -> Duration {
        Duration::from_secs(self.poll_seconds)
    }
}

/// Address before the paths of Defib, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(pub String);

/// As the agent takes its DEFIB_URL. It is shown, so there is nothing secret in it.
fn public_url(text: &str) -> Result<PublicUrl, String> {
    let url = reqwest::Url::parse(text).map_err(|e| e.to_string())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !plain {
        return Err("give Defib's address as agents are given it, such as https://defib.example.com".into());
    }
    Ok(PublicUrl(url.as_str().trim_end_matches('/').to_owned()))
}

fn int_or_percent(text: &str) -> Result<IntOrPercent, String> {
    let value = match text.parse::<u32>() {
        Ok(0) => return Err("0 would forbid every reset; to reset nothing, set the mode of the policies to Observe".into()),
        Ok(n) => IntOrPercent::Count(n),
        Err(_) => IntOrPercent::Percent(text.into()),
    };
    value
        .of(1)
        .map(|_| value)
        .ok_or_else(|| "neither a count nor a percentage from 1% to 100%".into())
}

#[cfg(test)]
mod tests {
    use super::public_url;

    #[test]
    fn a_public_url_is_an_address_and_nothing_more() {
        for (text, taken) in [
            ("https://defib.example.com", Some("https://defib.example.com")),
            ("https://defib.example.com/", Some("https://defib.example.com")),
            ("https://example.com:8443/defib/", Some("https://example.com:8443/defib")),
            ("http://[2001:db8::1]:8080", Some("http://[2001:db8::1]:8080")),
            ("defib.example.com", None),
            ("ftp://defib.example.com", None),
            ("https://", None),
            ("https://user:secret@defib.example.com", None),
            ("https://defib.example.com/?key=secret", None),
            ("https://defib.example.com/#top", None),
        ] {
            assert_eq!(public_url(text).ok().map(|url| url.0).as_deref(), taken, "{text}");
        }
    }
}
