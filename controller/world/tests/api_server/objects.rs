//! Create, read, write and delete.

use crate::support::{refusal, server, spec, vm, vms};
use defib_api::ManagedVM;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

fn merge(patch: Value) -> Patch<Value> {
    Patch::Merge(patch)
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_through_status_only() {
    let server = server();
    let vms = vms(&server, "test");
    let mut made = vm("web-1");
    made.status = serde_json::from_value(json!({"node": "pve1"})).unwrap();
    let made = vms.create(&PostParams::default(), &made).await.unwrap();
    assert!(made.status.is_none());
    assert_eq!((made.metadata.generation, made.namespace().as_deref()), (Some(1), Some("vms")));
    let params = PatchParams::default();
    let status = json!({"status": {"node": "pve1"}, "spec": {"identity": "Trust"}});
    let written = vms.patch_status("web-1", &params, &merge(status)).await.unwrap();
    assert_eq!(written.status.as_ref().unwrap().node.as_deref(), Some("pve1"));
    assert!(written.spec.identity.is_none());
    assert_eq!(written.metadata.generation, Some(1));
    assert_ne!(written.resource_version(), made.resource_version());
    let both = json!({"status": {"node": "pve2"}, "spec": {"identity": "Trust"}});
    let patched = vms.patch("web-1", &params, &merge(both)).await.unwrap();
    assert_eq!(patched.status.as_ref().unwrap().node.as_deref(), Some("pve1"));
    assert!(patched.spec.identity.is_some());
    assert_eq!(patched.metadata.generation, Some(2));
    // What changes nothing makes no new version.
    let again = vms
        .patch("web-1", &params, &merge(json!({"spec": {"identity": "Trust"}})))
        .await
        .unwrap();
    assert_eq!(again.resource_version(), patched.resource_version());
}

#[tokio::test(start_paused = true)]
async fn of_two_writes_on_one_version_one_wins() {
    let server = server();
    let vms = vms(&server, "test");
    let made = vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    let swap = |node: &str| merge(json!({"metadata": {"resourceVersion": made.resource_version()}, "status": {"node": node}}));
    let params = PatchParams::default();
    vms.patch_status("web-1", &params, &swap("pve1")).await.unwrap();
    let second = vms.patch_status("web-1", &params, &swap("pve2")).await;
    assert_eq!(refusal(second), (409, "Conflict".into()));
    assert_eq!(vms.get("web-1").await.unwrap().status.unwrap().node.as_deref(), Some("pve1"));
    let twice = vms.create(&PostParams::default(), &vm("web-1")).await;
    assert_eq!(refusal(twice), (409, "AlreadyExists".into()));
    assert_eq!(refusal(vms.get("web-2").await), (404, "NotFound".into()));
}

#[tokio::test(start_paused = true)]
async fn what_the_schema_forbids_is_invalid_and_what_it_does_not_know_is_dropped() {
    let server = server();
    let client = server.client("test");
    let vms = vms(&server, "test");
    let params = PatchParams::default();
    vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    let wrong = vms
        .patch("web-1", &params, &merge(json!({"spec": {"identity": "Sometimes"}})))
        .await;
    assert_eq!(refusal(wrong), (422, "Invalid".into()));
    let unknown = vms
        .patch("web-1", &params, &merge(json!({"spec": {"colour": "red"}})))
        .await
        .unwrap();
    assert_eq!(unknown.metadata.generation, Some(1));
    let stored = server.object("managedvms", "vms", "web-1").unwrap();
    assert_eq!(stored["spec"], spec(101));
    let mut request = kube::core::Request::new("/apis/defib.dev/v1alpha1/namespaces/vms/managedvms")
        .get("web-1", &kube::api::GetParams::default())
        .unwrap();
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    request.headers_mut().insert("accept", metadata.parse().unwrap());
    let partial: PartialObjectMeta<ManagedVM> = client.request(request).await.unwrap();
    assert_eq!(partial.name_any(), "web-1");
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = server();
    let vms = vms(&server, "test");
    let mut held = vm("web-1");
    held.metadata.finalizers = Some(vec!["defib.dev/a".into(), "defib.dev/b".into()]);
    vms.create(&PostParams::default(), &held).await.unwrap();
    let deleting = vms.delete("web-1", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(deleting.metadata.deletion_timestamp.is_some());
    assert_eq!(deleting.metadata.generation, Some(2));
    let params = PatchParams::default();
    let finalizers = |names: Value| merge(json!({"metadata": {"finalizers": names}}));
    let more = vms
        .patch("web-1", &params, &finalizers(json!(["defib.dev/a", "defib.dev/c"])))
        .await;
    assert_eq!(refusal(more), (422, "Invalid".into()));
    vms.patch("web-1", &params, &finalizers(json!(["defib.dev/b"]))).await.unwrap();
    assert!(vms.get_opt("web-1").await.unwrap().is_some());
    vms.patch("web-1", &params, &finalizers(json!(null))).await.unwrap();
    assert!(vms.get_opt("web-1").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_can_be_meant_for_one_object_only() {
    let server = server();
    let vms = vms(&server, "test");
    let first = vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    vms.delete("web-1", &DeleteParams::default()).await.unwrap();
    let second = vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    assert_ne!(first.uid(), second.uid());
    let of_first = DeleteParams::default().preconditions(Preconditions {
        uid: first.uid(),
        resource_version: None,
    });
    assert_eq!(refusal(vms.delete("web-1", &of_first).await), (409, "Conflict".into()));
    assert!(vms.get_opt("web-1").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn lists_are_selected_and_paged_at_one_version() {
    let server = server();
    let vms = vms(&server, "test");
    for n in 0..5 {
        vms.create(&PostParams::default(), &vm(&format!("web-{n}"))).await.unwrap();
    }
    let reset = json!({"status": {"currentReset": {
        "name": "web-3-1", "holder": "defib-0", "step": 1, "action": "Reset", "attempt": 1, "trigger": "Automatic",
        "intentTime": "2026-01-01T00:00:00Z", "node": "pve1", "recoveryDeadlineSeconds": 600, "stabilizationSeconds": 60,
    }}});
    let patched = vms.patch_status("web-3", &PatchParams::default(), &merge(reset)).await;
    assert!(patched.is_ok(), "{patched:?}");
    let names = |list: &kube::core::ObjectList<ManagedVM>| -> Vec<String> { list.items.iter().map(ResourceExt::name_any).collect() };
    let all: Api<ManagedVM> = Api::all(server.client("test"));
    let intents = all.list(&ListParams::default().fields("status.currentReset.name!=")).await.unwrap();
    assert_eq!(names(&intents), ["web-3"]);
    let unknown = all.list(&ListParams::default().fields("spec.identity=Trust")).await;
    assert_eq!(refusal(unknown), (400, "BadRequest".into()));

    let page = ListParams::default().limit(2);
    let first = all.list(&page).await.unwrap();
    assert_eq!(names(&first), ["web-0", "web-1"]);
    vms.delete("web-2", &DeleteParams::default()).await.unwrap();
    let next = ListParams::default()
        .limit(9)
        .continue_token(first.metadata.continue_.as_deref().unwrap());
    let rest = all.list(&next).await.unwrap();
    assert_eq!(names(&rest), ["web-2", "web-3", "web-4"]);
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    server.compact();
    assert_eq!(refusal(all.list(&next).await), (410, "Expired".into()));
}

#[tokio::test(start_paused = true)]
async fn kinds_of_kubernetes_have_their_own_ways() {
    let server = server();
    let leases: Api<Lease> = Api::namespaced(server.client("test"), "defib");
    let lease: Lease = serde_json::from_value(json!({"metadata": {"name": "defib"}, "spec": {"holderIdentity": "a"}})).unwrap();
    let made = leases.create(&PostParams::default(), &lease).await.unwrap();
    assert_eq!(made.metadata.generation, None);
    let mut next = made.clone();
    next.spec.as_mut().unwrap().holder_identity = Some("b".into());
    leases.replace("defib", &PostParams::default(), &next).await.unwrap();
    assert_eq!(
        refusal(leases.replace("defib", &PostParams::default(), &made).await),
        (409, "Conflict".into())
    );
    let secrets: Api<Secret> = Api::namespaced(server.client("test"), "defib");
    let secret: Secret = serde_json::from_value(json!({"metadata": {"generateName": "key-"}, "stringData": {"a": "b"}})).unwrap();
    let made = secrets.create(&PostParams::default(), &secret).await.unwrap();
    assert!(made.name_any().starts_with("key-") && made.name_any().len() == 9);
    assert_eq!(made.data.unwrap()["a"].0, b"b");
    assert_eq!(made.type_.as_deref(), Some("Opaque"));
}

#[tokio::test(start_paused = true)]
async fn what_belonged_to_a_deleted_object_is_garbage() {
    let server = server();
    let vms = vms(&server, "test");
    let owner = vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    let mut owned = vm("web-2");
    owned.metadata.owner_references = Some(vec![kube::Resource::controller_owner_ref(&owner, &()).unwrap()]);
    vms.create(&PostParams::default(), &owned).await.unwrap();
    assert!(server.collect_garbage().is_empty());
    vms.delete("web-1", &DeleteParams::default()).await.unwrap();
    // A new object of the name is not the owner.
    vms.create(&PostParams::default(), &vm("web-1")).await.unwrap();
    assert_eq!(server.collect_garbage(), [("managedvms".to_owned(), "vms/web-2".to_owned())]);
    assert!(vms.get_opt("web-2").await.unwrap().is_none());
}
