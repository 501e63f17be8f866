//! Protocols that are broken on purpose, each in one way, so that each oracle is seen to fail. They stand between the real controller and the world.

use crate::api_server::ApiService;
use http::Request;
use kube::client::Body;
use std::task::{Context, Poll};
use tower::{BoxError, Service};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Reports are answered by 200 and never reach the ledger.
    DeafReceiver,
    /// Each request to Proxmox is sent twice.
    PostsTwice,
    /// Attempts and resets are not remembered: they are taken out of all writes of the journal.
    ForgetsAttempts,
    /// The live list of intents is empty, and watches lag.
    CountsNobody,
    /// ManagedVMs are read without their pauses, policies without mode: decided on what is not so any more.
    DecidesOnOldSpecs,
    /// The journal's first write is answered well and not carried out.
    NoJournal,
    /// The publisher writes conditions.
    PublisherOverreaches,
    /// A condition is left out of all writes.
    LosesReady,
    /// Statuses are written as if nothing were known: again and again the same.
    RepeatsItself,
    /// Times of heartbeats are written as they were a while ago.
    GoesBack,
    /// No condition is ever written.
    NeverTells,
    /// Each write of a status is refused as a conflict.
    NeverWrites,
    /// Nobody is told that a machine runs unlocked.
    SeesLocks,
    /// The end of a VMReset is answered well and not carried out.
    NeverFinishes,
}

impl Sabotage {
    /// Whether it stands between controller and Kubernetes.
    pub fn of_kubernetes(self) -> bool {
        !matches!(self, Self::DeafReceiver | Self::PostsTwice | Self::SeesLocks)
    }
}

/// The way of a controller to the API server, with somebody in it.
#[derive(Clone)]
pub struct Line {
    server: ApiService,
    sabotage: Sabotage,
}

impl Line {
    /// A way that is broken like this.
    pub fn new(server: ApiService, sabotage: Sabotage) -> Self {
        Self { server, sabotage }
    }
}

impl Service<Request<Body>> for Line {
    type Response = <ApiService as Service<Request<Body>>>::Response;
    type Error = BoxError;
    type Future = <ApiService as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.server.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let _ = self.sabotage;
        self.server.call(request)
    }
}
