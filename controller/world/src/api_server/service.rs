//! The server as a tower service, which is what a client of kube sends its requests to.

use super::Inner;
use super::audit::Entry;
use super::fault::{Call, Fault, Loss, Outcome, Verb};
use super::read;
use super::request::{self, Place, Query};
use super::status::Refusal;
use super::store::{Key, version_of};
use super::watch::Watch;
use super::write::{Target, Written};
use bytes::Bytes;
use futures::future::{BoxFuture, pending};
use futures::stream;
use http::{Request, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{BoxError, Service};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server as one client sees it.
#[derive(Clone)]
pub struct ApiService {
    inner: Arc<Inner>,
    client: Arc<str>,
}

impl ApiService {
    pub(super) fn new(inner: Arc<Inner>, client: &str) -> Self {
        Self {
            inner,
            client: client.into(),
        }
    }
}

impl Service<Request<Body>> for ApiService {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, client) = (self.inner.clone(), self.client.clone());
        // A task of its own: what was sent takes effect, whatever becomes of who sent it.
        let carried_out = tokio::spawn(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await?;
            Ok::<_, BoxError>(handle(&inner, &client, &parts, &bytes).await)
        });
        Box::pin(async move {
            match carried_out.await?? {
                Reply::Answer(answer) => Ok(answer),
                Reply::Lost(Loss::Silence) => pending().await,
                Reply::Lost(Loss::Reset) => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
            }
        })
    }
}

enum Reply {
    Answer(Answer),
    Lost(Loss),
}

/// What the entry of the audit log says besides.
#[derive(Default)]
struct Effect {
    before: Option<u64>,
    after: Option<u64>,
    body: Option<Value>,
}

async fn handle(inner: &Arc<Inner>, client: &str, parts: &Parts, bytes: &[u8]) -> Reply {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let Some(place) = Place::parse(inner.kinds, parts.uri.path()) else {
        return Reply::Answer(refused(&Refusal::no_such_path()));
    };
    let Some(verb) = request::verb(&parts.method, &place, &query) else {
        return Reply::Answer(refused(&Refusal::method_not_allowed()));
    };
    let mut call = inner.number(client, verb, &place);
    let body = if verb.is_write() {
        request::body(verb, parts, bytes)
    } else {
        Ok(Value::Null)
    };
    if verb == Verb::Create
        && let Some(name) = body.as_ref().ok().and_then(|body| body["metadata"]["name"].as_str())
    {
        name.clone_into(&mut call.name);
    }
    let Fault { before, outcome, after } = inner.faults().request(&call);
    pause(before).await;
    let mut effect = Effect {
        body: body.as_ref().ok().filter(|_| verb.is_write()).cloned(),
        ..Effect::default()
    };
    let answer = match outcome {
        Outcome::LoseRequest(_) => None,
        Outcome::Fail(code) => Some(Err(Refusal::of_code(code))),
        Outcome::Proceed | Outcome::LoseReply(_) => Some(body.and_then(|body| {
            let metadata_only = request::metadata_only(parts);
            carry_out(inner, &call, &place, &query, body, metadata_only, &mut effect)
        })),
    };
    let lost = match outcome {
        Outcome::LoseRequest(loss) | Outcome::LoseReply(loss) => Some(loss),
        Outcome::Proceed | Outcome::Fail(_) => None,
    };
    let (code, reason) = match &answer {
        None => (0, String::new()),
        Some(Ok(answer)) => (answer.status().as_u16(), String::new()),
        Some(Err(refusal)) => (refusal.code, refusal.reason.to_owned()),
    };
    inner.audit().add(Entry {
        time: inner.now(),
        call,
        code,
        reason,
        lost,
        outcome,
        before: effect.before,
        after: effect.after,
        version: inner.store().version(),
        body: effect.body,
    });
    pause(after).await;
    match (answer, lost) {
        (_, Some(loss)) => Reply::Lost(loss),
        (Some(Ok(answer)), None) => Reply::Answer(answer),
        (Some(Err(refusal)), None) => Reply::Answer(refused(&refusal)),
        (None, None) => Reply::Lost(Loss::Silence),
    }
}

/// Even a pause of no time would let other tasks run first.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn carry_out(
    inner: &Arc<Inner>,
    call: &Call,
    place: &Place,
    query: &Query,
    body: Value,
    metadata_only: bool,
    effect: &mut Effect,
) -> Result<Answer, Box<Refusal>> {
    let kind = inner.kind(place);
    match call.verb {
        Verb::Get => {
            let object = read::get(&inner.store(), kind, place, query)?;
            Ok(json_answer(StatusCode::OK, &read::shown(&object, metadata_only)))
        }
        Verb::List => {
            let list = read::list(&inner.store(), kind, place, query, metadata_only)?;
            Ok(json_answer(StatusCode::OK, &list))
        }
        Verb::Watch => {
            let watch = Watch::open(inner, &inner.store(), call.clone(), place, query, metadata_only)?;
            Ok(watch_answer(watch))
        }
        Verb::Create | Verb::Update | Verb::Patch | Verb::Delete => {
            let mut store = inner.store();
            let version = |store: &super::store::Store, name: &str| {
                let key = Key::new(place.kind, &place.namespace, name);
                store.get(&key).and_then(|object| version_of(object))
            };
            let was = store.version();
            effect.before = version(&store, &call.name);
            effect.after = effect.before;
            let dry_run = query.text("dryRun") == "All" || body["dryRun"].is_array() && call.verb == Verb::Delete;
            let target = Target {
                place: place.kind,
                kind,
                namespace: &place.namespace,
                name: &place.name,
                status: place.status,
                dry_run,
                now: inner.now(),
            };
            if kind.namespaced && place.namespace.is_empty() {
                return Err(Refusal::method_not_allowed());
            }
            let written = match call.verb {
                Verb::Create => target.create(&mut store, body),
                Verb::Update => target.replace(&mut store, body),
                Verb::Patch => target.patch(&mut store, body),
                _ => target.delete(&mut store, &body),
            }?;
            let (Written::Created(object) | Written::Updated(object) | Written::Deleted(object)) = &written;
            effect.after = version(&store, object["metadata"]["name"].as_str().unwrap_or_default());
            let changed = store.version() != was;
            drop(store);
            if changed {
                inner.nudge();
            }
            Ok(match written {
                Written::Created(object) => json_answer(StatusCode::CREATED, &read::shown(&object, metadata_only)),
                Written::Updated(object) => json_answer(StatusCode::OK, &read::shown(&object, metadata_only)),
                Written::Deleted(object) => {
                    let mut details = kind.details(&place.name);
                    details["uid"] = object["metadata"]["uid"].clone();
                    let success = json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
                    });
                    json_answer(StatusCode::OK, &success)
                }
            })
        }
    }
}

fn refused(refusal: &Refusal) -> Answer {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(code, &refusal.to_json())
}

fn json_answer(code: StatusCode, body: &Value) -> Answer {
    answer(code, Full::new(Bytes::from(body.to_string())).boxed_unsync())
}

fn watch_answer(watch: Watch) -> Answer {
    let lines = stream::unfold(watch, |mut watch| async {
        let line = watch.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), watch))
    });
    answer(StatusCode::OK, BodyExt::boxed_unsync(StreamBody::new(lines)))
}

fn answer(code: StatusCode, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}
