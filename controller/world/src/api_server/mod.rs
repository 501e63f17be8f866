//! A Kubernetes API server in memory, for clients in the same process and in tokio's paused time.
//!
//! It serves the kinds of Defib as their definitions say, and those of Kubernetes that Defib uses: Leases, Secrets, Events (`events.k8s.io`) and Nodes. It
//! behaves as a real one as far as Defib and its tests can tell, which a test against a real one holds it to. All it does follows from the requests and from
//! the clock it is given: nothing is random, and uids and generated names are counted.
//!
//! ```no_run
//! use defib_world::api_server::ApiServer;
//! # async fn example() -> Result<(), kube::Error> {
//! let server = ApiServer::new(jiff::Timestamp::now);
//! let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(server.client("defib-0"));
//! nodes.get("node-1").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it differs from a real one
//!
//! - CEL rules are not evaluated.
//! - Namespaces are not objects: every one is there.
//! - There are no `managedFields`, and no server-side apply; of patches only merge patches.
//! - There is no authentication, no authorization and no admission.
//! - Garbage is collected when [`ApiServer::collect_garbage`] is called, and only in the background way.
//! - The collection of a kind cannot be deleted as a whole.

mod audit;
mod built_in;
mod fault;
mod garbage;
mod history;
mod kinds;
mod meta;
mod patch;
mod read;
mod request;
mod schema;
mod selector;
mod service;
mod status;
mod store;
mod watch;
mod write;

pub use audit::Entry;
pub use fault::{Call, EventFault, EventInfo, Fault, Faults, Flow, Loss, NoFaults, Outcome, Verb};
pub use history::Committed;
pub use service::ApiService;

use audit::Audit;
use jiff::Timestamp;
use kinds::Kind;
use kube::Client;
use request::Place;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};
use store::{Key, Store};
use tokio::sync::Notify;

/// Changes that watches can go back to. A real server keeps those of some minutes.
const HISTORY: usize = 10_000;
/// The kinds are read once: their definitions and patterns take as long as some seconds of a world.
static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(Kind::all);
/// Requests that the audit log keeps.
const AUDIT: usize = 100_000;

/// The server. Copies are the same server.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

type Now = Box<dyn Fn() -> Timestamp + Send + Sync>;

struct Inner {
    kinds: &'static [Kind],
    store: Mutex<Store>,
    audit: Mutex<Audit>,
    counts: Mutex<Counts>,
    faults: RwLock<Arc<dyn Faults>>,
    /// Has watches look again, in the order in which they came to wait: tokio's watch channel wakes in an order that it draws.
    wake: Notify,
    now: Now,
}

#[derive(Default)]
struct Counts {
    requests: u64,
    writes: u64,
    writes_of: BTreeMap<String, u64>,
}

impl ApiServer {
    /// An empty server. `now` gives the time for creation and deletion timestamps.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self::with_limits(now, HISTORY, AUDIT)
    }

    /// The same with other bounds: how many changes watches can go back to, and how many requests the audit log keeps.
    pub fn with_limits(now: impl Fn() -> Timestamp + Send + Sync + 'static, history: usize, audit: usize) -> Self {
        let inner = Inner {
            kinds: &KINDS,
            store: Mutex::new(Store::new(history)),
            audit: Mutex::new(Audit::new(audit)),
            counts: Mutex::default(),
            faults: RwLock::new(Arc::new(NoFaults)),
            wake: Notify::new(),
            now: Box::new(now),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A client with a name. The faults and the audit log know it by that. It has to be made inside of the runtime.
    pub fn client(&self, name: &str) -> Client {
        Client::new(self.service(name), "default")
    }

    /// What such a client sends its requests to.
    pub fn service(&self, client: &str) -> ApiService {
        ApiService::new(self.inner.clone(), client)
    }

    /// From now on this decides what goes wrong.
    pub fn set_faults(&self, faults: Arc<dyn Faults>) {
        *self.inner.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
        self.nudge();
    }

    /// Has all watches ask the [`Faults`] again.
    pub fn nudge(&self) {
        self.inner.nudge();
    }

    /// Forgets the past, as a compaction of etcd does: a watch or a list that would begin there is answered 410. Watches that are open go on.
    pub fn compact(&self) {
        self.inner.store().compact();
    }

    /// The requests so far, in the order in which they were carried out; of very many the last.
    pub fn audit(&self) -> Vec<Entry> {
        self.inner.audit().entries()
    }

    /// How many entries the audit log has dropped to stay bounded. An oracle that has to see everything asks for zero.
    pub fn audit_dropped(&self) -> u64 {
        self.inner.audit().dropped()
    }

    /// The resourceVersion of the newest change.
    pub fn version(&self) -> u64 {
        self.inner.store().version()
    }

    /// An object as it is, past all faults and without a trace in the audit log.
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let kind = self.inner.place_of(resource)?;
        self.inner.store().get(&Key::new(kind, namespace, name)).cloned()
    }

    /// All objects of a kind, the same way, sorted by namespace and name.
    pub fn objects(&self, resource: &str) -> Vec<Arc<Value>> {
        let Some(kind) = self.inner.place_of(resource) else {
            return Vec::new();
        };
        self.inner.store().of_kind(kind).map(|(_, object)| object.clone()).collect()
    }

    /// Deletes, or begins to, what had owners and has none any more, as the garbage collector does in the background. Says what: kind in the plural, and
    /// `namespace/name`. What owned something in its turn is found by the next call.
    pub fn collect_garbage(&self) -> Vec<(String, String)> {
        let collected = garbage::collect(&mut self.inner.store(), self.inner.kinds, (self.inner.now)());
        if !collected.is_empty() {
            self.nudge();
        }
        collected
    }
}

impl Inner {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> Arc<dyn Faults> {
        self.faults.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn now(&self) -> Timestamp {
        (self.now)()
    }

    fn nudge(&self) {
        self.wake.notify_waiters();
    }

    fn kind(&self, place: &Place) -> &Kind {
        &self.kinds[place.kind]
    }

    fn place_of(&self, resource: &str) -> Option<usize> {
        self.kinds.iter().position(|kind| kind.plural == resource)
    }

    /// Gives a request its numbers.
    fn number(&self, client: &str, verb: Verb, place: &Place) -> Call {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.requests += 1;
        let (mut write, mut write_of_all) = (None, None);
        if verb.is_write() {
            counts.writes += 1;
            write_of_all = Some(counts.writes);
            let of_client = counts.writes_of.entry(client.to_owned()).or_default();
            *of_client += 1;
            write = Some(*of_client);
        }
        Call {
            client: client.to_owned(),
            verb,
            resource: self.kind(place).plural.clone(),
            namespace: place.namespace.clone(),
            name: place.name.clone(),
            status: place.status,
            write,
            write_of_all,
            number: counts.requests,
        }
    }
}
