//! The Secret that holds the masters, in Defib's own namespace.

use super::{KeyRing, Master};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Name of the Secret. Its data: `current`, 32 bytes, and while rotating `previous`, 32 bytes.
pub const SECRET_NAME: &str = "defib-keys";

const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";

/// How often the Secret is read again. A rotation is seen by all replicas within it, so whoever rotates waits this long before handing out new keys.
const REFRESH: Duration = Duration::from_secs(60);
/// Time-out of one call to the Kubernetes API.
const CALL: Duration = Duration::from_secs(10);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The Kubernetes API refused or could not be reached.
    #[error("cannot {doing} the Secret {namespace}/{SECRET_NAME}: {source}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// Defib's namespace.
        namespace: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The Kubernetes API did not answer in time.
    #[error("cannot {doing} the Secret {namespace}/{SECRET_NAME}: no answer within {CALL:?}")]
    TimedOut {
        /// What was tried.
        doing: &'static str,
        /// Defib's namespace.
        namespace: String,
    },
    /// The Secret is there but not as Defib made it. It is left alone: to overwrite it would lock out every agent.
    #[error(
        "the Secret {namespace}/{SECRET_NAME} has no usable `{field}`: it must be {} bytes; restore it from a backup, or delete the Secret and fetch new agent keys",
        Master::LEN
    )]
    Unusable {
        /// Defib's namespace.
        namespace: String,
        /// The entry of its data.
        field: &'static str,
    },
    /// The Secret was deleted while Defib runs.
    #[error(
        "the Secret {namespace}/{SECRET_NAME} is gone; the keys in memory stay valid until Defib restarts, then all agents need new keys"
    )]
    Gone {
        /// Defib's namespace.
        namespace: String,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes for a new master key")]
    NoRandomness,
}

/// Reads the masters, and makes the first one when there is none. Several replicas may do so at the same time: the API server lets one of them create, the others read.
///
/// # Errors
/// [`KeysError`], when the Secret cannot be read, created, or used.
pub async fn load(client: &Client, namespace: &str) -> Result<KeyRing, KeysError> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    if let Some(secret) = read(&api, namespace).await? {
        return ring_of(&secret, namespace);
    }
    let doing = "create";
    let fresh = new_secret(namespace)?;
    let created = timeout(CALL, api.create(&PostParams::default(), &fresh))
        .await
        .map_err(|_| KeysError::TimedOut {
            doing,
            namespace: namespace.into(),
        })?;
    match created {
        Ok(secret) => {
            tracing::info!(namespace, secret = SECRET_NAME, "made the master of the agents' keys");
            ring_of(&secret, namespace)
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => match read(&api, namespace).await? {
            Some(secret) => ring_of(&secret, namespace),
            None => Err(KeysError::Gone {
                namespace: namespace.into(),
            }),
        },
        Err(source) => Err(api_error(doing, namespace, source)),
    }
}

/// Reads the masters again each minute and passes on what changed, until `token` is cancelled. When they cannot be read, those in memory stay in force:
/// an outage of the Kubernetes API must not turn agents away.
pub async fn refresh(client: Client, namespace: String, keys: watch::Sender<Arc<KeyRing>>, token: CancellationToken) {
    let api = Api::<Secret>::namespaced(client, &namespace);
    loop {
        // Replicas that started together need not ask together.
        let pause = crate::jitter::around(REFRESH);
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let read = tokio::select! {
            () = token.cancelled() => return,
            read = read(&api, &namespace) => read,
        };
        match read.and_then(|secret| match secret {
            Some(secret) => ring_of(&secret, &namespace),
            None => Err(KeysError::Gone {
                namespace: namespace.clone(),
            }),
        }) {
            Ok(ring) => {
                let changed = keys.send_if_modified(|held| {
                    let changed = **held != ring;
                    if changed {
                        *held = Arc::new(ring);
                    }
                    changed
                });
                if changed {
                    tracing::info!(namespace, secret = SECRET_NAME, "the master of the agents' keys was rotated");
                }
            }
            Err(error) => tracing::warn!(%error, "the masters of the agents' keys were not read again"),
        }
    }
}

async fn read(api: &Api<Secret>, namespace: &str) -> Result<Option<Secret>, KeysError> {
    let doing = "read";
    match timeout(CALL, api.get_opt(SECRET_NAME)).await {
        Ok(answer) => answer.map_err(|source| api_error(doing, namespace, source)),
        Err(_) => Err(KeysError::TimedOut {
            doing,
            namespace: namespace.into(),
        }),
    }
}

fn api_error(doing: &'static str, namespace: &str, source: kube::Error) -> KeysError {
    KeysError::Api {
        doing,
        namespace: namespace.into(),
        source: Box::new(source),
    }
}

fn new_secret(namespace: &str) -> Result<Secret, KeysError> {
    let mut bytes = vec![0; Master::LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeysError::NoRandomness)?;
    let labels = [("app.kubernetes.io/name", "defib"), ("app.kubernetes.io/managed-by", "defib")];
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET_NAME.into()),
            namespace: Some(namespace.into()),
            labels: Some(labels.map(|(k, v)| (k.into(), v.into())).into()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(CURRENT.into(), ByteString(bytes))])),
        ..Secret::default()
    })
}

fn ring_of(secret: &Secret, namespace: &str) -> Result<KeyRing, KeysError> {
    let entry = |field: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(field));
        let unusable = || KeysError::Unusable {
            namespace: namespace.into(),
            field,
        };
        bytes.map(|bytes| Master::from_bytes(&bytes.0).ok_or_else(unusable)).transpose()
    };
    let current = entry(CURRENT)?.ok_or_else(|| KeysError::Unusable {
        namespace: namespace.into(),
        field: CURRENT,
    })?;
    Ok(KeyRing::new(current, entry(PREVIOUS)?))
}

#[cfg(test)]
mod tests;
