//! `POST /api/health/report`: takes reports of agents into the ledger.
//!
//! The body is one report, or an array of at most 1,000. The key of its VM comes as `Authorization: Bearer <key>`, or as field `key` next to the fields of the
//! report; in an array the Bearer key is for the items without one. The answer to a request that could be read is 200 with
//! `{"accepted": n, "nextReportSeconds": s}`: `accepted` counts the reports that were news (a stale one is not, and is no error either), and the agent reports
//! again after `s` seconds. For an array there is also `errors`, with `index`, `status`, `title`, `detail` and `field` of each refused item; the
//! others are taken, so an array of nothing but bad items is answered by 200 with `accepted` 0 too. Everything else is an RFC 9457 problem.

mod body;
mod rejection;

pub use body::MAX_BODY;
pub use rejection::Rejection;

use super::keys::{KeyError, KeyRing};
use super::ledger::Admission;
use super::report::{self, Body, Item, MAX_ITEMS};
use super::server::Stranger;
use super::{Ledger, Serving, ServingSink, VmKey};
use crate::clock::Clock;
use crate::metrics::ReportMetrics;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use body::{Anonymous, Stay};
use defib_core::heartbeat::Taken;
use defib_core::policy::built_in;
use http::{HeaderMap, header};
use prometheus::IntGauge;
use rejection::Rejected;
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// Path of the endpoint.
pub const PATH: &str = "/api/health/report";

/// Body of the controller's own report: a whole one, so that it goes the way of an agent's. It has an id by which it is known when it arrives.
pub fn canary_report(id: &str) -> String {
    let report = json!({
        "hostname": "defib-canary", "cpuPercent": 0, "memoryUsedBytes": 1, "memoryTotalBytes": 2, "disks": [], "uptimeSeconds": 1, "bootID": id,
        "state": "Running",
    });
    report.to_string()
}

/// What the receiver works with.
#[derive(Clone)]
pub struct Parts {
    /// Where reports go.
    pub ledger: Arc<Ledger>,
    /// The masters of the keys.
    pub keys: watch::Receiver<Arc<KeyRing>>,
    /// Whether this process takes reports.
    pub serving: Serving,
    /// Learns of shed reports.
    pub sink: Arc<dyn ServingSink>,
    /// Metrics.
    pub metrics: ReportMetrics,
    /// The process's clock.
    pub clock: Clock,
}

/// Limits of the receiver.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests at the same time that came with a right key. Each may hold a body of 1 MiB.
    pub authenticated: usize,
    /// Requests at the same time whose keys are still to be read from the body. They have a share of their own, so that a stranger who sends slow bodies
    /// takes no place from agents. When all are taken, the oldest makes room.
    pub anonymous: usize,
    /// Bytes that the bodies of all these may take up together.
    pub anonymous_bytes: usize,
    /// How long such a request is left alone at least.
    pub anonymous_time: Duration,
    /// How long a body may take.
    pub body_deadline: Duration,
}

impl Default for Limits {
    /// 512 with a key, 10 s. At 1 ms a report, 512 places are far more than one machine can fill; 10 s carry 1 MiB over a bad line. Without a key 1,024, of
    /// 64 MiB in all, for 2 s each: to have honest ones turned away, a stranger must send 512 requests or 32 MiB a second.
    fn default() -> Self {
        Self {
            authenticated: 512,
            anonymous: 1024,
            anonymous_bytes: 64 << 20,
            anonymous_time: Duration::from_secs(2),
            body_deadline: Duration::from_secs(10),
        }
    }
}

/// How long a client that was shed should wait: long enough for another replica to become the decider, and short against the built-in time-out.
const COME_BACK: Duration = Duration::from_secs(5);
/// Longest detail that is kept in the ledger, in characters.
const MAX_DETAIL: usize = 256;

/// The route of the receiver, for the router of port 8080.
pub fn router(parts: Parts, limits: Limits) -> Router {
    let receiver = Arc::new(Receiver {
        authenticated: Semaphore::new(limits.authenticated),
        anonymous: Anonymous::new(limits.anonymous, limits.anonymous_bytes, limits.anonymous_time),
        body_deadline: limits.body_deadline,
        parts,
    });
    let methods = post(receive).fallback(other_method);
    Router::new().route(PATH, methods).with_state(receiver)
}

struct Receiver {
    parts: Parts,
    authenticated: Semaphore,
    anonymous: Anonymous,
    body_deadline: Duration,
}

/// The place of a request, held until its body was taken.
enum RequestPlace<'a> {
    Agent(#[expect(dead_code, reason = "held until it is dropped")] SemaphorePermit<'a>),
    Anonymous(Stay<'a>),
}

impl<'a> RequestPlace<'a> {
    fn stay(&mut self) -> Option<&mut Stay<'a>> {
        match self {
            Self::Agent(_) => None,
            Self::Anonymous(stay) => Some(stay),
        }
    }
}

/// Whose key came with it.
#[derive(Clone, Debug)]
enum Caller {
    /// Of the agent of this VM, admitted.
    Agent(VmKey),
    /// Of the controller's own report.
    Canary,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    accepted: usize,
    next_report_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<ItemError>>,
}

#[derive(Serialize)]
struct ItemError {
    index: usize,
    status: u16,
    title: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

/// A report that was taken.
struct Received {
    accepted: bool,
    next_report_seconds: u32,
}

/// Counts a request for as long as it lives, also when its client goes away.
struct InFlight<'a>(&'a IntGauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let metrics = &receiver.parts.metrics;
    let timer = metrics.duration.start_timer();
    metrics.in_flight.inc();
    let _in_flight = InFlight(&metrics.in_flight);
    let response = match receiver.answer(request).await {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(rejected) => {
            receiver.note(&rejected);
            rejected.into_response()
        }
    };
    timer.observe_duration();
    response
}

async fn other_method(State(receiver): State<Arc<Receiver>>) -> Response {
    let rejected = Rejected::new(Rejection::Method, "reports are sent by POST");
    receiver.note(&rejected);
    rejected.into_response()
}

impl Receiver {
    async fn answer(&self, request: Request) -> Result<Answer, Rejected> {
        self.check_serving()?;
        let (head, body) = request.into_parts();
        let stranger = head.extensions.get::<Stranger>();
        // The key comes first: whose key is wrong is not listened to any further.
        let caller = bearer(&head.headers)?.map(|key| self.authenticate(key)).transpose()?;
        if let (Some(stranger), Some(_)) = (stranger, &caller) {
            stranger.is_known();
        }
        let read = async {
            let mut place = self.place(caller.as_ref())?;
            body::check_headers(&head.headers)?;
            let bytes = body::read(body, &head.headers, self.body_deadline, place.stay()).await?;
            // The body may have taken seconds.
            self.check_serving()?;
            self.take(&bytes, caller.as_ref())
        };
        let answer = read.await.map_err(|rejected| self.refuse(caller.as_ref(), rejected))?;
        if let (Some(stranger), true) = (stranger, answer.accepted > 0) {
            stranger.is_known();
        }
        Ok(answer)
    }

    fn check_serving(&self) -> Result<(), Rejected> {
        if self.parts.serving.is_serving() {
            return Ok(());
        }
        let detail = "this Defib is not the one that takes reports now; another one is, or will be";
        Err(Rejected::new(Rejection::NotServing, detail).retry_after(COME_BACK))
    }

    fn place(&self, caller: Option<&Caller>) -> Result<RequestPlace<'_>, Rejected> {
        let place = match caller {
            Some(_) => self.authenticated.try_acquire().ok().map(RequestPlace::Agent),
            None => self.anonymous.enter().map(RequestPlace::Anonymous),
        };
        place.ok_or_else(|| Rejected::new(Rejection::Overloaded, "too many requests at the same time").retry_after(COME_BACK))
    }

    /// Whose key it is. Uses up one report of the VM's rate.
    fn authenticate(&self, key: &str) -> Result<Caller, Rejected> {
        let keys = self.parts.keys.borrow().clone();
        if keys.verify_canary(key) {
            return Ok(Caller::Canary);
        }
        let now = self.parts.clock.now().mono;
        let claim = keys.verify(key).map_err(|error| {
            if let KeyError::WrongSecret(vm) = &error {
                self.parts.ledger.contact(vm, now);
            }
            Rejected::new(Rejection::WrongKey, error)
        })?;
        match self.parts.ledger.admit(&claim.vm, claim.generation, now) {
            Admission::Admitted => Ok(Caller::Agent(claim.vm)),
            Admission::Unknown => Err(unknown(&claim.vm)),
            Admission::Retired => Err(Rejected::new(
                Rejection::WrongKey,
                format!(
                    "generation {} of the key of {} is not valid; fetch the present key of the VM",
                    claim.generation, claim.vm
                ),
            )),
            Admission::Limited(wait) => Err(Rejected::new(
                Rejection::TooOften,
                format!("{} reports too often; is its key in use twice?", claim.vm),
            )
            .retry_after(wait)),
        }
    }

    fn take(&self, bytes: &[u8], caller: Option<&Caller>) -> Result<Answer, Rejected> {
        match report::read(bytes).map_err(|e| Rejected::new(Rejection::NotJson, e))? {
            Body::TooMany => Err(Rejected::new(
                Rejection::TooManyReports,
                format!("an array must have at most {MAX_ITEMS} reports"),
            )),
            Body::One(item) => {
                let received = self.take_one(&item, caller)?;
                Ok(Answer {
                    accepted: usize::from(received.accepted),
                    next_report_seconds: received.next_report_seconds,
                    errors: None,
                })
            }
            Body::Many(items) => Ok(self.take_all(&items, caller)),
        }
    }

    fn take_all(&self, items: &[Item<'_>], caller: Option<&Caller>) -> Answer {
        let (mut accepted, mut next, mut errors) = (0, None, Vec::new());
        for (index, item) in items.iter().enumerate() {
            match self.take_one(item, caller) {
                Ok(received) => {
                    accepted += usize::from(received.accepted);
                    // One sender for many VMs: the most impatient one sets its pace.
                    let seconds = received.next_report_seconds;
                    next = Some(next.map_or(seconds, |next: u32| next.min(seconds)));
                }
                Err(rejected) => {
                    self.note(&rejected);
                    errors.push(ItemError {
                        index,
                        status: rejected.rejection.status().as_u16(),
                        title: rejected.rejection.title(),
                        detail: rejected.detail,
                        field: rejected.field,
                    });
                }
            }
        }
        Answer {
            accepted,
            next_report_seconds: next.unwrap_or(built_in::REPORT_SECONDS),
            errors: Some(errors),
        }
    }

    /// Takes one report into the ledger.
    fn take_one(&self, item: &Item<'_>, default: Option<&Caller>) -> Result<Received, Rejected> {
        let own = match item.key() {
            Ok(own) => own.map(|key| self.authenticate(key)).transpose()?,
            Err(problem) => return Err(invalid(Rejection::WrongKey, problem)),
        };
        let Some(caller) = own.as_ref().or(default) else {
            return Err(no_key());
        };
        let ledger = &self.parts.ledger;
        let now = self.parts.clock.now();
        let checked = item.check();
        let Caller::Agent(vm) = caller else {
            let report = checked.map_err(|problem| invalid(Rejection::Invalid, problem))?;
            self.parts.sink.arrived(&report.boot_id);
            self.count("canary");
            return Ok(Received {
                accepted: false,
                next_report_seconds: built_in::REPORT_SECONDS,
            });
        };
        let report = match checked {
            Ok(report) => report,
            Err(problem) => {
                return Err(
                    match ledger.refuse(vm, bounded(&problem.to_string()), item.machine_uuid(), now.mono) {
                        None => unknown(vm),
                        Some(true) => wrong_machine(vm),
                        Some(false) => invalid(Rejection::Invalid, problem),
                    },
                );
            }
        };
        let accepted = match ledger.on_report(vm, report, now) {
            None => return Err(unknown(vm)),
            Some(Taken::WrongMachine) => return Err(wrong_machine(vm)),
            Some(Taken::Accepted { .. }) => true,
            Some(Taken::Stale) => false,
        };
        self.count(if accepted { "accepted" } else { "stale" });
        Ok(Received {
            accepted,
            next_report_seconds: ledger.report_seconds(vm),
        })
    }

    /// A request with a right key is life, even if nothing of it can be read (rule 3). What was wrong with a single report is taken down with it.
    fn refuse(&self, caller: Option<&Caller>, rejected: Rejected) -> Rejected {
        let unread = matches!(
            rejected.rejection,
            Rejection::NotJson | Rejection::SlowBody | Rejection::LargeBody | Rejection::TooManyReports | Rejection::MediaType
        );
        if let (Some(Caller::Agent(vm)), true) = (caller, unread) {
            let now = self.parts.clock.now().mono;
            self.parts.ledger.refuse(vm, bounded(&rejected.detail), None, now);
        }
        rejected
    }

    /// Tells everybody concerned of a refusal.
    fn note(&self, rejected: &Rejected) {
        let reason = rejected.rejection.reason();
        self.count("rejected");
        self.parts.metrics.rejections.with_label_values(&[reason]).inc();
        if rejected.rejection.is_shed() {
            self.parts.sink.shed(reason);
        }
        tracing::debug!(reason, detail = rejected.detail, "a report was refused");
    }

    fn count(&self, result: &str) {
        self.parts.metrics.total.with_label_values(&[result]).inc();
    }
}

/// The key of the Authorization header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Rejected> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("Bearer") => Ok(Some(key.trim())),
        _ => Err(no_key()),
    }
}

fn no_key() -> Rejected {
    let detail = "send the agent's key as `Authorization: Bearer <key>`, or in an array as `key` of each report";
    Rejected::new(Rejection::NoKey, detail)
}

fn unknown(vm: &VmKey) -> Rejected {
    Rejected::new(Rejection::UnknownVm, format!("there is no ManagedVM {vm} (any more)"))
}

fn wrong_machine(vm: &VmKey) -> Rejected {
    Rejected {
        field: Some("machineUUID".into()),
        ..Rejected::new(
            Rejection::WrongMachine,
            format!("this machine is not the one that Proxmox has for {vm}; was it cloned together with its key?"),
        )
    }
}

fn invalid(rejection: Rejection, problem: report::Problem) -> Rejected {
    Rejected {
        field: problem.field.clone(),
        ..Rejected::new(rejection, problem)
    }
}

/// A detail as it may be kept for each VM.
fn bounded(detail: &str) -> Arc<str> {
    match detail.char_indices().nth(MAX_DETAIL) {
        Some((end, _)) => detail[..end].into(),
        None => detail.into(),
    }
}
