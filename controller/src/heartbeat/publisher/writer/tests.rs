use super::*;
use defib_api::{AgentState, DiskUsage};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

type Seen = Arc<Mutex<Vec<(http::request::Parts, Value)>>>;

/// A writer whose API server always gives this answer.
fn writer(status: u16, answer: Value) -> (KubeStatusWriter, Seen) {
    let seen = Seen::default();
    let requests = seen.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (requests, answer) = (requests.clone(), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            requests.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            let status = StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(Response::builder().status(status).body(answer).unwrap())
        }
    });
    (KubeStatusWriter::new(Client::new(service, "default")), seen)
}

fn patch() -> StatusPatch {
    StatusPatch {
        heartbeat: HeartbeatStatus {
            last_received_time: Some("2026-01-02T03:04:05.678Z".parse().unwrap()),
            boot_id: Some("b-1".into()),
            state: Some(AgentState::Running),
            supervised: Some(true),
            ..HeartbeatStatus::default()
        },
        usage: UsageStatus {
            cpu_percent: Some(7),
            disks: vec![DiskUsage {
                mount: "/".into(),
                used_bytes: 1,
                total_bytes: 2,
            }],
            ..UsageStatus::default()
        },
    }
}

fn failure(code: u16, details: Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "why", "reason": reason(code), "code": code, "details": details})
}

fn reason(code: u16) -> &'static str {
    match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Other",
    }
}

#[tokio::test]
async fn it_writes_heartbeat_and_usage_and_nothing_else() {
    let answer = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "db"}});
    let (writer, seen) = writer(200, answer);
    writer.write(&VmKey::new("prod", "db"), &patch()).await.unwrap();
    let (head, body) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(head.method, Method::PATCH);
    assert_eq!(head.uri.path(), "/apis/defib.dev/v1alpha1/namespaces/prod/managedvms/db/status");
    assert!(head.uri.query().unwrap().contains("fieldManager=defib-publisher"));
    assert_eq!(head.headers[header::CONTENT_TYPE], "application/merge-patch+json");
    assert_eq!(
        body,
        json!({"status": {
            "heartbeat": {
                "lastReceivedTime": "2026-01-02T03:04:05.678Z",
                "bootID": "b-1",
                "bootTime": null,
                "machineUUID": null,
                "state": "Running",
                "supervised": true,
                "agentVersion": null,
                "reportSeconds": null,
            },
            "usage": {
                "cpuPercent": 7,
                "memoryPercent": null,
                "memoryTotalBytes": null,
                "diskPercent": null,
                "disks": [{"mount": "/", "usedBytes": 1, "totalBytes": 2}],
            },
        }}),
        "what is absent must be removed from the stored object"
    );
}

/// Every field of the kinds must be in the patch: one that is added to the types and forgotten here would never be published.
#[test]
fn no_field_of_the_types_is_forgotten() {
    let schema = serde_json::to_value(defib_api::crds().remove(0)).unwrap();
    let status = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    let empty = status::merge_patch(&HeartbeatStatus::default(), &UsageStatus::default());
    for part in ["heartbeat", "usage"] {
        let names = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&status[part]["properties"]), names(&empty["status"][part]));
    }
}

#[tokio::test]
async fn failures_are_told_apart() {
    let overloaded = |retry_after: Option<u64>| WriteError::Overloaded {
        detail: "why".into(),
        retry_after: retry_after.map(Duration::from_secs),
    };
    for (code, details, error) in [
        (404, json!({}), WriteError::Gone),
        (409, json!({}), WriteError::Refused("why".into())),
        (422, json!({}), WriteError::Refused("why".into())),
        (429, json!({"retryAfterSeconds": 7}), overloaded(Some(7))),
        (500, json!({}), overloaded(None)),
        (503, json!({}), overloaded(None)),
    ] {
        let (writer, _) = writer(code, failure(code, details));
        assert_eq!(writer.write(&VmKey::new("prod", "db"), &patch()).await, Err(error), "{code}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_nobodys_fault_in_particular() {
    let broken = tower::service_fn(|_: http::Request<Body>| async { Err::<Response<Body>, _>(std::io::Error::other("no route")) });
    let writer = KubeStatusWriter::new(Client::new(broken, "default"));
    let error = writer.write(&VmKey::new("prod", "db"), &patch()).await.unwrap_err();
    assert!(matches!(error, WriteError::Overloaded { retry_after: None, .. }), "{error}");
}
