//! What the generator makes, on a real API server: it takes all of it, and refuses what `rules.rs` would.

use crate::generate::{Generator, difference, schema_of};
use crate::{real_server, rules};
use defib_world::chance::Dice;
use defib_world::declared::json_merge;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

/// Changes of each kind that are tried.
const CHANGES: usize = 150;

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("defib.dev", "v1alpha1", kind), plural)
}

fn object(api: &ApiResource, name: &str, spec: &Value) -> DynamicObject {
    let mut object = DynamicObject::new(name, api);
    object.data = json!({ "spec": spec });
    object
}

/// A client of the real server. Worlds are lived through in the same process, and the order of their maps must be chosen first.
async fn client() -> Client {
    hash_order::apart(0, || ());
    real_server::client(real_server::plane()).await
}

/// A spec to begin with.
fn least(plural: &str) -> Value {
    match plural {
        "managedvms" => json!({"proxmox": {"clusterRef": {"name": "pve"}, "vmid": 101}}),
        _ => json!({}),
    }
}

#[tokio::test]
async fn a_real_server_takes_what_is_made_and_keeps_it_as_it_is() {
    let client = client().await;
    real_server::create_namespace(&client, "specs").await;
    for (kind, plural) in [("ManagedVM", "managedvms"), ("HealthPolicy", "healthpolicies")] {
        let schema = schema_of(plural);
        let resource = resource(kind, plural);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "specs", &resource);
        let mut dice = Dice::new(7);
        let mut spec = least(plural);
        api.create(&PostParams::default(), &object(&resource, "changed", &spec))
            .await
            .unwrap();
        for n in 0..CHANGES {
            let mut generator = Generator { dice: &mut dice, now: 0 };
            // By turns a change, and something else as a whole.
            let patch = if n % 2 == 0 {
                generator.change(schema, &spec)
            } else {
                let mut whole = generator.value(schema);
                if plural == "managedvms" {
                    whole["proxmox"] = spec["proxmox"].clone();
                }
                difference(&spec, &whole)
            };
            json_merge(&mut spec, &patch);
            let patched = api
                .patch("changed", &PatchParams::default(), &Patch::Merge(json!({ "spec": patch })))
                .await
                .unwrap_or_else(|error| panic!("{patch} is refused: {error}"));
            assert_eq!(patched.data["spec"], spec, "after {patch}");
        }
    }
}

/// Each rule with values at its edge, as they stand in a whole spec: taken by a real server where `rules.rs` says that it holds, and nowhere else.
#[tokio::test]
async fn the_rules_of_this_test_are_those_of_a_real_server() {
    let client = client().await;
    real_server::create_namespace(&client, "rules").await;
    let beats = |report: u32, timeout: u32| json!({"heartbeat": {"reportSeconds": report, "timeoutSeconds": timeout}});
    let threshold =
        |metric: &str, action: &str| json!({"thresholds": [{"metric": metric, "action": action, "percent": 50, "durationSeconds": 5}]});
    let share = |most: Value| json!({"budget": {"maxUnhealthy": most}});
    let rows = [
        beats(1, 4),
        beats(2, 7),
        beats(2, 8),
        beats(3600, 14_399),
        beats(3600, 14_400),
        json!({"heartbeat": {"timeoutSeconds": 4}}),
        json!({"heartbeat": {"reportSeconds": 3600}}),
        threshold("Disk", "Reset"),
        threshold("Disk", "Alert"),
        threshold("CPU", "Reset"),
        share(json!(0)),
        share(json!(-1)),
        share(json!(1)),
        share(json!(100_000)),
        share(json!(100_001)),
        share(json!("0%")),
        share(json!("1%")),
        share(json!("01%")),
        share(json!("+1%")),
        share(json!("99%")),
        share(json!("100%")),
        share(json!("101%")),
        share(json!("1000%")),
        share(json!("5")),
        share(json!("")),
        share(json!("%")),
        share(json!(" 5%")),
        share(json!("5%\n")),
        share(json!("default")),
    ];
    let schema = schema_of("healthpolicies");
    let resource = resource("HealthPolicy", "healthpolicies");
    let api: Api<DynamicObject> = Api::namespaced_with(client, "rules", &resource);
    let mut refused = 0;
    for (n, spec) in rows.iter().enumerate() {
        let made = api
            .create(&PostParams::default(), &object(&resource, &format!("row-{n}"), spec))
            .await;
        assert_eq!(made.is_ok(), rules::hold(schema, spec), "{spec}: {made:?}");
        refused += usize::from(made.is_err());
    }
    assert!(refused > 10, "{refused}");
}
