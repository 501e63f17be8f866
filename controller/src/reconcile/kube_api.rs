//! Calls of the Kubernetes API: each with a deadline and none repeated by itself.

use super::Error;
use kube::Client;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for one call. The journal's compare-and-swap and all that follows it must fit into the 10 s that an intent lives.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Field manager of all that the decider writes.
pub const DECIDER: &str = "defib-decider";

/// A client that repeats nothing by itself: kube's own retries would send a write again long after it was decided.
///
/// # Errors
/// When neither a kubeconfig nor a service account is found, or TLS cannot be set up.
pub async fn client() -> Result<Client, kube::Error> {
    let mut config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    config.default_retry = false;
    Client::try_from(config)
}

/// Awaits one call.
///
/// # Errors
/// With the step's name, sorted by what follows from it.
pub async fn call<T>(step: &'static str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match timeout(DEADLINE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(Error::Conflict { step }),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Error::Gone { step }),
        Ok(Err(source)) => Err(Error::Kubernetes {
            step,
            source: Box::new(source),
        }),
        Err(_) => Err(Error::Timeout { step, after: DEADLINE }),
    }
}

/// A merge patch that makes a stored status equal to `new`: fields of `old` that `new` leaves out are removed.
pub fn status_patch<T: Serialize>(old: &T, new: &T) -> Value {
    let fields = |status: &T| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let mut patch = fields(new);
    for (field, _) in fields(old) {
        patch.entry(field).or_insert(Value::Null);
    }
    json!({ "status": patch })
}
