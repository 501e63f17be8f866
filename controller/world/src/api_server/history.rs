//! Every change that was committed, for oracles.

use super::ApiServer;
use serde_json::Value;
use std::sync::Arc;
use tokio::time::Instant;

/// One change of an object.
#[derive(Clone, Debug)]
pub struct Committed {
    /// resourceVersion of the change.
    pub version: u64,
    /// When.
    pub at: Instant,
    /// The kind in the plural, such as `managedvms`.
    pub resource: String,
    /// Namespace, empty where it has none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The object before; none when it was made.
    pub before: Option<Arc<Value>>,
    /// And after; none when it is gone.
    pub after: Option<Arc<Value>>,
}

impl ApiServer {
    /// The changes of these kinds, in order; of very many the last.
    pub fn history(&self, resources: &[&str]) -> Vec<Committed> {
        let kinds = self.inner.kinds;
        let store = self.inner.store();
        let committed = store.history().filter_map(|change| {
            let kind = kinds
                .get(change.key.kind)
                .filter(|kind| resources.contains(&kind.plural.as_str()))?;
            let (namespace, name) = change.key.path.split_once('/').unwrap_or(("", &change.key.path));
            Some(Committed {
                version: change.version,
                at: change.at,
                resource: kind.plural.clone(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                before: change.before.clone(),
                after: change.after.clone(),
            })
        });
        committed.collect()
    }
}
