use super::*;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Mutex;

/// As much of an API server as one Secret needs.
#[derive(Default)]
struct ApiServer {
    secret: Mutex<Option<Value>>,
    /// Created by somebody else in the moment in which we find none.
    rival: Mutex<Option<Value>>,
    broken: Mutex<bool>,
    writes: Mutex<Vec<Method>>,
}

impl ApiServer {
    fn client(self: &Arc<Self>) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "defib-system")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let (status, answer) = match (*self.broken.lock().unwrap(), head.method) {
            (true, _) => (500, failure(500, "InternalError")),
            (_, Method::GET) => {
                assert_eq!(head.uri.path(), "/api/v1/namespaces/defib-system/secrets/defib-keys");
                let found = self.secret.lock().unwrap().clone();
                if let Some(rival) = self.rival.lock().unwrap().take() {
                    *self.secret.lock().unwrap() = Some(rival);
                }
                found.map_or_else(|| (404, failure(404, "NotFound")), |secret| (200, secret))
            }
            (_, Method::POST) => {
                self.writes.lock().unwrap().push(Method::POST);
                let mut secret = self.secret.lock().unwrap();
                if secret.is_some() {
                    (409, failure(409, "AlreadyExists"))
                } else {
                    let created: Value = serde_json::from_slice(&body).unwrap();
                    *secret = Some(created.clone());
                    (201, created)
                }
            }
            (_, other) => {
                self.writes.lock().unwrap().push(other);
                (405, failure(405, "MethodNotAllowed"))
            }
        };
        let status = StatusCode::from_u16(status).unwrap();
        let bytes = serde_json::to_vec(&answer).unwrap();
        Response::builder().status(status).body(Body::from(bytes)).unwrap()
    }
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code})
}

fn secret(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "defib-keys"}, "data": data})
}

/// 32 bytes of `letter` in base64.
fn master_of(letter: u8) -> Value {
    serde_json::to_value(ByteString(vec![letter; Master::LEN])).unwrap()
}

fn ring(current: u8, previous: Option<u8>) -> KeyRing {
    let master = |letter| Master::from_bytes(&[letter; Master::LEN]).unwrap();
    KeyRing::new(master(current), previous.map(master))
}

#[tokio::test]
async fn the_first_start_makes_a_random_master_and_the_next_one_reads_it() {
    let (one, other) = (Arc::new(ApiServer::default()), Arc::new(ApiServer::default()));
    let made = load(&one.client(), "defib-system").await.unwrap();
    assert!(load(&one.client(), "defib-system").await.unwrap() == made);
    assert_eq!(*one.writes.lock().unwrap(), [Method::POST]);
    assert!(
        load(&other.client(), "defib-system").await.unwrap() != made,
        "the masters of two installations are equal"
    );
}

#[tokio::test]
async fn of_two_that_start_together_both_have_the_master_that_was_stored() {
    let server = Arc::new(ApiServer::default());
    *server.rival.lock().unwrap() = Some(secret(json!({"current": master_of(b'r')})));
    assert!(load(&server.client(), "defib-system").await.unwrap() == ring(b'r', None));
    assert_eq!(*server.writes.lock().unwrap(), [Method::POST], "it tried to create, and lost");
}

#[tokio::test]
async fn a_secret_that_is_not_ours_is_left_alone_and_named() {
    let long = serde_json::to_value(ByteString(vec![1; 33])).unwrap();
    for (data, field) in [
        (json!({}), "current"),
        (json!({"previous": master_of(1)}), "current"),
        (json!({"current": "c2hvcnQ="}), "current"),
        (json!({"current": master_of(1), "previous": long}), "previous"),
    ] {
        let server = Arc::new(ApiServer::default());
        *server.secret.lock().unwrap() = Some(secret(data));
        let error = load(&server.client(), "defib-system").await.unwrap_err();
        assert!(matches!(error, KeysError::Unusable { field: f, .. } if f == field), "{error}");
        assert!(server.writes.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_api_server_that_fails_is_an_error_and_not_an_absent_secret() {
    let server = Arc::new(ApiServer::default());
    *server.broken.lock().unwrap() = true;
    let error = load(&server.client(), "defib-system").await.unwrap_err();
    assert!(matches!(error, KeysError::Api { doing: "read", .. }), "{error}");
    assert!(server.writes.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rotation_reaches_a_running_process_and_trouble_takes_no_key_away() {
    let server = Arc::new(ApiServer::default());
    let start = secret(json!({"current": master_of(b'a')}));
    *server.secret.lock().unwrap() = Some(start.clone());
    let (tx, mut rx) = watch::channel(Arc::new(ring(b'a', None)));
    let token = CancellationToken::new();
    let task = tokio::spawn(refresh(server.client(), "defib-system".into(), tx, token.clone()));
    let minutes = |n: u64| tokio::time::sleep(Duration::from_secs(66 * n));

    minutes(2).await;
    assert!(!rx.has_changed().unwrap(), "the same master is no change");

    *server.secret.lock().unwrap() = Some(secret(json!({"current": master_of(b'b'), "previous": master_of(b'a')})));
    minutes(1).await;
    assert!(**rx.borrow_and_update() == ring(b'b', Some(b'a')));

    *server.broken.lock().unwrap() = true;
    minutes(1).await;
    *server.broken.lock().unwrap() = false;
    *server.secret.lock().unwrap() = Some(secret(json!({"current": "c2hvcnQ="})));
    minutes(1).await;
    *server.secret.lock().unwrap() = None;
    minutes(1).await;
    assert!(
        !rx.has_changed().unwrap(),
        "an outage, a broken or a deleted Secret changed the keys in force"
    );
    assert!(server.writes.lock().unwrap().is_empty());

    token.cancel();
    task.await.unwrap();
}
