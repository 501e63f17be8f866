//! One request on its way to the server and back, and the watch that may be held or cut.

use crate::faults::{Faults, Watches};
use crate::request::{Request, Service};
use crate::rule::{Act, Moment};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

/// Longest body of a request that is taken. etcd refuses objects half as large.
const LONGEST: usize = 4 * 1024 * 1024;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<BoxBody<Bytes, Error>>;

/// The way of one connection's requests.
#[derive(Clone)]
pub(crate) struct Forward {
    pub(crate) service: Service,
    pub(crate) faults: Faults,
    pub(crate) sender: Arc<Mutex<SendRequest<Full<Bytes>>>>,
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("dropped on purpose")]
struct Dropped;

pub(crate) async fn forward(way: Forward, request: http::Request<Incoming>) -> Result<Answer, Error> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, LONGEST).collect().await?.to_bytes();
    let seen = Request {
        service: way.service,
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: body.clone(),
    };
    let number = way.faults.arrived(&seen);
    if let Some(answer) = meet(&way, Moment::Before, &seen, number).await? {
        return Ok(answer);
    }

    let mut onward = http::Request::from_parts(parts, Full::new(body));
    // The length is known now, however the client sent it.
    onward.headers_mut().remove(header::TRANSFER_ENCODING);
    way.faults.note(number, |exchange| exchange.forwarded = true);
    let mut sender = way.sender.lock().await;
    sender.ready().await?;
    let answer = sender.send_request(onward).await?;
    drop(sender);
    way.faults.note(number, |exchange| exchange.status = Some(answer.status().as_u16()));
    if let Some(answer) = meet(&way, Moment::After, &seen, number).await? {
        return Ok(answer);
    }
    // Header, status and reason phrase (in the extensions) stay as they are.
    Ok(if seen.is_watch() {
        let watches = way.faults.watches();
        answer.map(|body| Watch::new(body, watches).boxed())
    } else {
        answer.map(|body| body.map_err(Error::from).boxed())
    })
}

/// Does what a rule wants. `Some` answers in the server's place.
async fn meet(way: &Forward, moment: Moment, seen: &Request, number: u64) -> Result<Option<Answer>, Error> {
    let Some(act) = way.faults.decide(moment, seen) else {
        return Ok(None);
    };
    way.faults.note(number, |exchange| exchange.fault = Some(act.name()));
    match act {
        Act::Kill | Act::Drop => return Err(Dropped.into()),
        Act::Stop => {}
        Act::StopAndHold | Act::Hold => way.faults.released().await,
        Act::Delay(delay) => sleep(delay).await,
        Act::Answer(status) => return Ok(Some(answer(way.service, status))),
    }
    Ok(None)
}

/// An answer in the words of the server.
fn answer(service: Service, status: StatusCode) -> Answer {
    let reason = status.canonical_reason().unwrap_or("a fault");
    let text = match service {
        Service::Kubernetes => serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status.as_u16(),
            "message": "a fault of a test", "reason": reason.replace(' ', ""),
        })
        .to_string(),
        Service::Proxmox => r#"{"data":null}"#.to_owned(),
    };
    let body = Full::new(Bytes::from(text)).map_err(Error::from).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A watch's answer, which may be held back or cut.
struct Watch {
    body: Incoming,
    state: watch::Receiver<Watches>,
    cuts: u64,
    changed: Option<Changed>,
}

type Changed = Pin<Box<dyn Future<Output = watch::Receiver<Watches>> + Send + Sync>>;

impl Watch {
    fn new(body: Incoming, state: watch::Receiver<Watches>) -> Self {
        let cuts = state.borrow().cuts;
        Self {
            body,
            state,
            cuts,
            changed: None,
        }
    }
}

impl Body for Watch {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            // A watch must hear of a cut while it waits for the server.
            let mut receiver = self.state.clone();
            let changed = self.changed.get_or_insert_with(|| {
                receiver.mark_unchanged();
                Box::pin(async move {
                    let _ = receiver.changed().await;
                    receiver
                })
            });
            if changed.as_mut().poll(cx).is_ready() {
                self.changed = None;
                continue;
            }
            let now = *self.state.borrow();
            if now.cuts != self.cuts {
                return Poll::Ready(Some(Err(Dropped.into())));
            }
            if now.held {
                return Poll::Pending;
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            return Poll::Ready(frame.map(|result| result.map_err(Error::from)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
