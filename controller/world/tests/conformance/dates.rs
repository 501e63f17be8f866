//! What is a date-time: neither server keeps to RFC 3339 alone.

use crate::real;
use defib_world::api_server::ApiServer;
use kube::api::{Api, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

const ROWS: [&str; 34] = [
    "2026-01-01T00:00:00Z",
    "2026-01-01t00:00:00z",
    "2026-01-01T00:00:00-00:00",
    "2026-01-01T00:00:00.5Z",
    "2026-01-01T00:00:00,5Z",
    "2026-01-01T00:00:00x5Z",
    "2026-01-01T00:00:00.Z",
    "2026-01-01T00:00:00.1234567891234Z",
    "2026-01-01T00:00:00+25:59",
    "2026-01-01T00:00:00-99:99",
    "2026-01-01T00:00:00+0100",
    "2026-01-01T00:00:00+01",
    "2026-01-01T00:00:00",
    "2026-01-01T00:00Z",
    "2026-01-01 00:00:00Z",
    "2026-01-01T00:00:00Z[UTC]",
    "2026-01-01T00:00:00Z ",
    "2026-01-01Tx00:00:00Z",
    "x2026-01-01T00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T23:59:60Z",
    "2026-01-01T23:60:59Z",
    "2026-01-01",
    "2026-02-29T00:00:00Z",
    "2028-02-29T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-1-1T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "-0001-01-01T00:00:00Z",
    "12026-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.9999999Z",
    "T",
    "",
];

#[tokio::test]
async fn both_take_the_same_texts_for_date_times() {
    let theirs = real::client(real::plane()).await;
    real::create_namespace(&theirs, "dates").await;
    let ours = ApiServer::new(jiff::Timestamp::now).client("test");
    let kind = GroupVersionKind::gvk("defib.dev", "v1alpha1", "HealthPolicy");
    let kind = ApiResource::from_gvk_with_plural(&kind, "healthpolicies");
    let mut differing = Vec::new();
    for (n, text) in ROWS.iter().enumerate() {
        let mut object = DynamicObject::new(&format!("row-{n}"), &kind);
        object.data = json!({"spec": {"pauses": [{"owner": "a", "reason": "b", "expiresAt": text}]}});
        let mut taken = Vec::new();
        for client in [&ours, &theirs] {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "dates", &kind);
            taken.push(api.create(&PostParams::default(), &object).await.is_ok());
        }
        if taken[0] != taken[1] {
            differing.push(format!("{text:?}: in memory {}, real {}", taken[0], taken[1]));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
