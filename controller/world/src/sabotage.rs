//! Protocols that are broken on purpose, each in one way, so that each oracle is seen to fail. They stand between the real controller and the world.

use crate::api_server::ApiService;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tower::{BoxError, Service};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Reports are, after a while, answered by 200 and never reach the ledger.
    DeafReceiver,
    /// All boots of a guest are reported as one.
    KnowsOneBoot,
    /// Each request to Proxmox is sent twice.
    PostsTwice,
    /// Attempts and resets are not remembered: they are taken out of all writes of the journal.
    ForgetsAttempts,
    /// The live list of intents is empty, and watches lag.
    CountsNobody,
    /// Policies are read live as they were before they were paused, and their watch says nothing.
    DecidesOnOldPolicies,
    /// The journal's first write is answered well and not carried out.
    NoJournal,
    /// The publisher writes conditions.
    PublisherOverreaches,
    /// A condition is left out of all writes.
    LosesReady,
    /// Each status is written twice.
    RepeatsItself,
    /// Times of heartbeats are written as they were a while ago.
    GoesBack,
    /// No condition is ever written.
    NeverTells,
    /// A condition is taken out again after each write.
    NeverSettles,
    /// Proxmox shows each machine as locked.
    SeesLocks,
    /// Starts are answered well and not carried out.
    NeverStarts,
    /// Each request to Proxmox is followed by a start.
    StartsAlso,
    /// The end of a VMReset, and its deletion, are answered well and not carried out.
    NeverFinishes,
}

impl Sabotage {
    /// Whether it stands between controller and Kubernetes.
    pub fn of_kubernetes(self) -> bool {
        !matches!(
            self,
            Self::DeafReceiver | Self::KnowsOneBoot | Self::PostsTwice | Self::SeesLocks | Self::NeverStarts | Self::StartsAlso
        )
    }
}

/// The way of a controller to the API server, with somebody in it.
#[derive(Clone)]
pub struct Line {
    server: ApiService,
    sabotage: Sabotage,
    beats: Arc<AtomicU64>,
}

impl Line {
    /// A way that is broken like this.
    pub fn new(server: ApiService, sabotage: Sabotage) -> Self {
        Self {
            server,
            sabotage,
            beats: Arc::default(),
        }
    }
}

type Answer = <ApiService as Service<Request<Body>>>::Response;

impl Service<Request<Body>> for Line {
    type Response = Answer;
    type Error = BoxError;
    type Future = <ApiService as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.server.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut line = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await?;
            line.pass(parts, bytes).await
        })
    }
}

impl Line {
    async fn send(&mut self, parts: &Parts, body: Bytes) -> Result<Answer, BoxError> {
        self.server.call(Request::from_parts(parts.clone(), Body::from(body))).await
    }

    async fn pass(&mut self, parts: Parts, bytes: Bytes) -> Result<Answer, BoxError> {
        let path = parts.uri.path();
        let is_patch = parts.method == Method::PATCH;
        let of_vm = is_patch && path.contains("/managedvms/");
        let mut body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let status = &mut body["status"];
        match self.sabotage {
            Sabotage::ForgetsAttempts if of_vm && status["currentReset"].is_object() => {
                status["recentResets"] = json!([]);
                status["episode"] = Value::Null;
            }
            Sabotage::ForgetsAttempts if of_vm && status.get("recentResets").is_some() => {
                status["recentResets"] = json!([]);
                status["episode"] = Value::Null;
            }
            Sabotage::CountsNobody if parts.uri.query().is_some_and(|q| q.contains("currentReset.name")) => {
                return Ok(answer(
                    &json!({"kind": "ManagedVMList", "apiVersion": "defib.dev/v1alpha1", "metadata": {}, "items": []}),
                ));
            }
            Sabotage::DecidesOnOldPolicies if parts.method == Method::GET && path.contains("/healthpolicies/") => {
                let answered = self.send(&parts, bytes).await?;
                let mut object: Value = serde_json::from_slice(&answered.into_body().collect().await?.to_bytes())?;
                object["spec"]["pauses"] = json!([]);
                return Ok(answer(&object));
            }
            Sabotage::NoJournal if of_vm && status["currentReset"].is_object() => return self.pretend(&parts, &body).await,
            Sabotage::NeverFinishes if parts.method == Method::DELETE && path.contains("/vmresets/") => {
                return Ok(answer(
                    &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                ));
            }
            Sabotage::NeverFinishes if is_patch && path.contains("/vmresets/") && status["state"] == "Finished" => {
                return self.pretend(&parts, &body).await;
            }
            Sabotage::PublisherOverreaches if of_vm && status["heartbeat"].is_object() => {
                status["node"] = json!(if self.beats.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                    "here"
                } else {
                    "there"
                });
            }
            Sabotage::GoesBack if of_vm && status["heartbeat"].is_object() => {
                if self.beats.fetch_add(1, Ordering::Relaxed) % 10 == 9 {
                    status["heartbeat"]["lastReceivedTime"] = json!("2027-01-15T07:59:00Z");
                }
            }
            Sabotage::LosesReady if of_vm => {
                if let Some(conditions) = status["conditions"].as_array_mut() {
                    conditions.retain(|c| c["type"] != "Ready");
                }
            }
            Sabotage::NeverTells if of_vm => {
                if let Some(status) = status.as_object_mut() {
                    status.remove("conditions");
                }
            }
            Sabotage::NeverSettles if of_vm && status.get("conditions").is_some() => {
                let answered = self.send(&parts, bytes).await?;
                // For a minute or two: a whole world of it takes minutes.
                if answered.status().is_success() && self.beats.fetch_add(1, Ordering::Relaxed) < 2_000 {
                    status["conditions"].as_array_mut().map(Vec::pop);
                    let lost = json!({"status": {"conditions": status["conditions"]}});
                    self.send(&parts, Bytes::from(lost.to_string())).await?;
                }
                return Ok(answered);
            }
            Sabotage::RepeatsItself if of_vm && status.get("conditions").is_some() => {
                let answered = self.send(&parts, bytes.clone()).await?;
                if let Some(metadata) = body["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                }
                if answered.status().is_success() {
                    self.send(&parts, Bytes::from(body.to_string())).await?;
                }
                return Ok(answered);
            }
            _ => return self.send(&parts, bytes).await,
        }
        self.send(&parts, Bytes::from(body.to_string())).await
    }

    /// Answers as if a patch of a status had been carried out.
    async fn pretend(&mut self, parts: &Parts, body: &Value) -> Result<Answer, BoxError> {
        let path = parts.uri.path().trim_end_matches("/status");
        let read = Request::get(path).body(Body::empty())?;
        let answered = self.server.call(read).await?;
        let mut object: Value = serde_json::from_slice(&answered.into_body().collect().await?.to_bytes())?;
        if let Some(fields) = body["status"].as_object() {
            for (field, value) in fields {
                object["status"][field] = value.clone();
            }
        }
        Ok(answer(&object))
    }
}

fn answer(object: &Value) -> Answer {
    Response::new(Full::new(Bytes::from(object.to_string())).boxed_unsync())
}
