//! Whether this process takes reports, and who must know when it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process is the decider, knows all ManagedVMs, and so takes reports. Shared by cloning; at first it is not.
#[derive(Clone, Debug, Default)]
pub struct Serving(Arc<AtomicBool>);

impl Serving {
    /// Sets it. It must not be set before [`crate::heartbeat::Ledger::known`] was called for every ManagedVM: agents of the others would be told that theirs is gone.
    pub fn set(&self, serving: bool) {
        self.0.store(serving, Ordering::SeqCst);
    }

    /// Whether reports are taken.
    pub fn is_serving(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Learns of every report that was turned away unheard, through no fault of its own (rule 1): from then on silence proves nothing for a while. And of our own
/// reports, which prove that others get through.
pub trait ServingSink: Send + Sync {
    /// A report was shed, or could not even be accepted. `reason` is a constant of few values: a reason of
    /// [`crate::heartbeat::receiver::Rejection`], or [`crate::heartbeat::server::ACCEPT_ERROR`].
    ///
    /// A VM that is over its own rate does not count: its key was right, so it was heard, and that says nothing of how well the others are.
    fn shed(&self, reason: &'static str);

    /// A report of a Defib to itself has arrived here, with this id.
    fn arrived(&self, _id: &str) {}
}
